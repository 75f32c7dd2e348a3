"""Put an answer together from its parts, and judge how it ended. Pure: no I/O, no clock.

The rules are those of the contract (section 5): only an answer with content and a finish reason is
complete; whatever goes wrong after output began makes a stream interrupted; what comes after the
finish reason cannot spoil the answer any more.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import Any, Literal

import msgspec

from tieredllm.errors import FallbackTriggerError
from tieredllm.kinds import ErrorKind
from tieredllm.providers.base import Finish, ToolRequest
from tieredllm.providers.json_path import NotJsonError, decode
from tieredllm.providers.sse import Event
from tieredllm.providers.tool_calls import ToolCallCollector
from tieredllm.types import Usage

__all__ = ["DRAIN_S", "Ending", "Part", "ResponseAccumulator", "stream_texts"]

Ending = Literal["stop", "length", "content_filter", "tool"]
"""What a vendor's finish reason means here; one that is not listed means a broken answer."""


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """What one event of a stream, or a whole body, says."""

    text: str = ""
    """Answer text; reasoning is none."""
    reason: str | None = None
    """The vendor's finish reason."""
    refusal: str = ""
    """The model's or the vendor's words, where it declines to answer."""
    blocked: bool = False
    """Whether the vendor refused, with or without words."""
    error: Any = None
    """A decoded error body."""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    model: str | None = None
    done: bool = False
    """Whether the vendor's own end marker came."""
    calls: bool = False
    """Whether it carries a piece of a tool call."""
    candidates: bool = True
    """Whether there was any answer in it, be it an empty one."""


class ResponseAccumulator:
    """Assemble one answer.

    Args:
        finish_reasons: what each of the vendor's finish reasons means.
        classify: decides what an error inside the answer is.
        presentable: makes text from outside fit to show.
        calls: the tool calls in it; None where the model may make none.
        status: the HTTP status it all came with.
        whole: whether the answer came as one document and not as a stream.
    """

    def __init__(
        self,
        *,
        finish_reasons: Mapping[str, Ending],
        classify: Callable[[Any], FallbackTriggerError],
        presentable: Callable[[str], str],
        calls: ToolCallCollector | None = None,
        status: int = 200,
        whole: bool = False,
    ) -> None:
        self._finish_reasons = finish_reasons
        self._classify = classify
        self._presentable = presentable
        self._status = status
        self._whole = whole
        self._calls = calls
        self._refusal = ""
        self._blocked = False
        self._reason: str | None = None
        self._skipped = 0
        self._candidates = False
        self._prompt_tokens: int | None = None
        self._completion_tokens: int | None = None
        self._model: str | None = None
        self.began = False
        """Whether output has begun: text was given out, or a call came."""
        self._spoke = False

    @property
    def complete(self) -> bool:
        """Whether a finish reason has come; only usage and an end marker can follow it."""
        return self._reason is not None

    def skip(self) -> None:
        """Take note of an event that could not be decoded."""
        self._skipped += 1

    def take(self, part: Part) -> str:
        """Take a part and return the text in it.

        Blanks alone are no beginning: an answer of nothing else is an empty one. That they are
        not shown before something follows is for the engine to see to, for every backend alike.

        Raises:
            FallbackTriggerError: the part carries an error, before any finish reason.
        """
        if part.error is not None and not self.complete:
            raise self.broken(self._classify(part.error))
        self._note(part)
        if part.calls and self._calls is not None:
            self.began = True
        if part.text and not part.text.isspace():
            self.began = self._spoke = True
        return part.text

    def broken(self, error: FallbackTriggerError) -> FallbackTriggerError:
        """Return the error that a failure in the middle of the answer amounts to."""
        if self.began and not self._whole and error.kind is not ErrorKind.CONTENT_FILTER:
            return FallbackTriggerError(
                ErrorKind.STREAM_INTERRUPTED,
                self._presentable(f"the answer broke off: {error.message}"),
                status=error.status,
                retry_after_s=error.retry_after_s,
            )
        return error

    def finish(self) -> Finish | ToolRequest:
        """Return the end of the answer, or the tool calls it ends with, once nothing more comes.

        Raises:
            FallbackTriggerError: the answer is not complete, is empty, or was refused.
        """
        ending = self._ending()
        if self._refusal or self._blocked or ending == "content_filter":
            words = self._refusal or f"the vendor's filter stopped the answer ({self._reason})"
            raise self._error(ErrorKind.CONTENT_FILTER, words)
        if ending is None:
            raise self._incomplete()
        usage = Usage(prompt_tokens=self._prompt_tokens, completion_tokens=self._completion_tokens)
        calls = self._calls.complete() if self._calls is not None else ()
        if calls and ending == "length":
            raise self._error(
                ErrorKind.MALFORMED_RESPONSE, "max_tokens was used up in the middle of a tool call"
            )
        if self._calls is not None and calls:
            return ToolRequest(calls=calls, raw=self._calls.raw(), usage=usage, model=self._model)
        if ending == "tool":
            raise self._error(ErrorKind.MALFORMED_RESPONSE, self._no_call())
        if not self._spoke:
            raise self._empty(ending)
        return Finish(reason=ending, usage=usage, model=self._model)

    def _no_call(self) -> str:
        if self._calls is None:
            return "the model called a tool that it was not given"
        return f"the model's call of a tool is broken ({self._reason})"

    def _note(self, part: Part) -> None:
        self._refusal += part.refusal
        self._blocked = self._blocked or part.blocked
        self._reason = part.reason or self._reason
        self._model = part.model or self._model
        self._candidates = self._candidates or part.candidates
        # Counts are totals, sent once or again and again, and now and then as 0 at first.
        if part.prompt_tokens is not None:
            self._prompt_tokens = max(self._prompt_tokens or 0, part.prompt_tokens)
        if part.completion_tokens is not None:
            self._completion_tokens = max(self._completion_tokens or 0, part.completion_tokens)

    def _ending(self) -> Ending | None:
        if self._reason is not None:
            return self._finish_reasons.get(self._reason.lower())
        # A document that is complete as JSON is complete; some servers give it no finish reason.
        return "stop" if self._whole and self._candidates else None

    def _incomplete(self) -> FallbackTriggerError:
        if self._reason is not None:
            message = f"the answer ended for an unknown reason ({self._reason})"
        elif self._whole:
            message = "there is no answer in the response"
        else:
            message = "the stream ended without a finish reason"
        if self.began and not self._whole:
            return self._error(ErrorKind.STREAM_INTERRUPTED, message)
        if self._whole or self._reason is not None or self._skipped:
            return self._error(ErrorKind.MALFORMED_RESPONSE, message)
        return self._error(ErrorKind.EMPTY_RESPONSE, "the stream ended without any content")

    def _empty(self, ending: Ending) -> FallbackTriggerError:
        message = "the answer is empty"
        cut = ending == "length"
        if cut:
            message += ": max_tokens was used up before it began; allow more of them"
        return self._error(ErrorKind.EMPTY_RESPONSE, message, truncated=cut)

    def _error(
        self, kind: ErrorKind, message: str, *, truncated: bool = False
    ) -> FallbackTriggerError:
        return FallbackTriggerError(
            kind, self._presentable(message), status=self._status, truncated=truncated
        )


DRAIN_S = 0.1
"""How long the body's end is waited for after the vendor's end marker.

A connection that was read to its end can serve the next request.
"""


async def stream_texts(
    events: AsyncGenerator[Event, None],
    assembly: ResponseAccumulator,
    read: Callable[[dict[str, Any]], Part],
    *,
    tail_s: float | None,
) -> AsyncGenerator[str, None]:
    """Yield the answer's text as it comes; `assembly.finish` judges it afterwards.

    A piece of a tool call is yielded as an empty text.

    Args:
        events: the response's events; closed at the end.
        assembly: where the answer is put together.
        read: what an event says, in the vendor's terms.
        tail_s: how long usage and the end marker are waited for after the finish reason; a server
            that keeps the connection open must not turn a complete answer into a silent one. None
            waits for the end of the body.

    Raises:
        FallbackTriggerError: an error event, or the connection broke, before the finish reason.
    """
    async with aclosing(events):
        while True:
            event = await _next(events, assembly, tail_s)
            if event is None:
                return
            part = _part(event, read)
            if part is None:
                assembly.skip()
                continue
            text = assembly.take(part)
            if text or (part.calls and assembly.began):
                yield text
            if part.done:
                await _drain(events)
                return


async def _next(
    events: AsyncGenerator[Event, None], assembly: ResponseAccumulator, tail_s: float | None
) -> Event | None:
    """Wait for the next event; once the answer is complete, no failure counts any more."""
    try:
        if not assembly.complete or tail_s is None:
            return await anext(events, None)
        async with asyncio.timeout(tail_s):
            return await anext(events, None)
    except TimeoutError:
        return None
    except FallbackTriggerError as exc:
        if assembly.complete:
            return None
        error = assembly.broken(exc)
        if error is exc:
            raise
        raise error from exc


def _part(event: Event, read: Callable[[dict[str, Any]], Part]) -> Part | None:
    """Read an event; None when it cannot be decoded."""
    data = event.data.strip()
    if data in ("", "[DONE]"):
        return Part(done=bool(data), candidates=False)
    try:
        value = decode(data)
    except NotJsonError:
        return Part(error=data) if event.name == "error" else None
    if event.name == "error":
        return Part(error=value or data)
    return read(value) if isinstance(value, dict) else None


async def _drain(events: AsyncGenerator[Event, None]) -> None:
    try:
        async with asyncio.timeout(DRAIN_S):
            while await anext(events, None) is not None:
                pass
    except (TimeoutError, FallbackTriggerError):
        pass
