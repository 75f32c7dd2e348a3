"""One answer put together from its parts, and the judgement on how it ended.

The rules are those of the contract (sections 5 and 12). A stream ends with its protocol's end:
`[DONE]`, `message_stop`, or a connection that is closed after a finish reason. The reason itself is
not the end: text that comes after it belongs to the answer. What may have held words and cannot be
read fails the attempt: nothing lost is ever called whole.
"""

from __future__ import annotations

import math
import re
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
from contextlib import aclosing
from typing import Any, Literal

import msgspec

from tieredllm.aio import LoopTimeout, give_way
from tieredllm.errors import FallbackTriggerError
from tieredllm.kinds import ErrorKind
from tieredllm.lenient_json import DONE, NotJsonError, decode_all, join_halves
from tieredllm.providers.base import (
    CallPiece,
    Delta,
    Finish,
    Retraction,
    ThoughtDelta,
    ToolRequest,
)
from tieredllm.providers.json_path import get_path, is_well, words_in
from tieredllm.providers.sse import Event
from tieredllm.providers.text_calls import TextCalls
from tieredllm.providers.tool_calls import ToolCallCollector
from tieredllm.thoughts import HeldStart, Split, ThoughtSplitter
from tieredllm.types import Seal, ToolCall, Usage

__all__ = [
    "APART",
    "DRAIN_S",
    "ENDINGS",
    "Ending",
    "Part",
    "ResponseAccumulator",
    "Said",
    "ending_of",
    "stream_chunks",
]

Ending = Literal[
    "stop", "length", "repetition", "content_filter", "tool", "broken_call", "denied", "failed"
]
"""What a finish reason means here."""

ENDINGS: dict[str, Ending] = {
    "stop": "stop",  # OpenAI, Gemini, and most
    "end_turn": "stop",  # Anthropic
    "stop_sequence": "stop",
    "eos": "stop",  # Together
    "eos_token": "stop",  # TGI up to 2.0 (huggingface/text-generation-inference#2344), watsonx
    "complete": "stop",  # Cohere (mozilla-ai/any-llm#1301)
    "length": "length",
    "max_tokens": "length",  # Anthropic, Gemini
    "model_length": "length",  # Mistral
    "max_output_tokens": "length",  # OpenAI's Responses; openai 3.57.0, IncompleteDetails
    "max_messages": "length",
    "incomplete": "length",
    "model_context_window_exceeded": "length",  # Anthropic, z.ai
    "continuation": "length",  # Gemini: the limit of one request; google-genai 3.6.1, FinishReason
    "repetition": "repetition",  # vLLM, v1/engine/__init__.py, FINISH_REASON_STRINGS
    "content_filter": "content_filter",
    "content_filtered": "content_filter",  # Bedrock
    "guardrail_intervened": "content_filter",
    "refusal": "content_filter",  # Anthropic
    "sensitive": "content_filter",  # z.ai
    "safety": "content_filter",  # Gemini, and its names over other wires (BerriAI/litellm#6104)
    "recitation": "content_filter",
    "blocklist": "content_filter",
    "prohibited_content": "content_filter",
    "spii": "content_filter",
    "image_safety": "content_filter",
    "image_prohibited_content": "content_filter",
    "image_recitation": "content_filter",
    "model_armor": "content_filter",
    "escalation": "content_filter",
    "language": "content_filter",
    "tool_calls": "tool",
    "function_call": "tool",
    "tool_use": "tool",  # Anthropic
    "malformed_function_call": "broken_call",  # Gemini
    "unexpected_tool_call": "broken_call",
    "too_many_tool_calls": "broken_call",
    "error": "failed",  # OpenRouter, LiteLLM
    "insufficient_system_resource": "failed",  # DeepSeek
    "abort": "failed",  # vLLM, before a `[DONE]` as ever (vllm-project/vllm#57082); SGLang
    "canceled": "failed",  # mistral.rs
    "cancelled": "failed",  # OpenAI's Responses; openai 3.57.0, ResponseStatus
    "failed": "failed",
    "in_progress": "failed",
    "queued": "failed",
    "steered": "failed",
    "pause_turn": "failed",  # Anthropic: a turn of its own tools that goes on later
    "compaction": "failed",
    "other": "failed",  # Gemini
    "image_other": "failed",
    "no_image": "failed",
    "malformed_response": "failed",
    "missing_thought_signature": "failed",
    "pup_limited_disabled": "denied",  # the account is limited
}
"""The finish reasons of all houses, in lower case: gateways pass them on over any wire."""

_STEMS: tuple[tuple[re.Pattern[str], Ending], ...] = (
    (re.compile(r"filter|safety|toxic|moderat|prohibit|guardrail"), "content_filter"),
    (re.compile(r"error|fail|abort|cancel|time_?out|interrupt|rate_?limit"), "failed"),
    (re.compile(r"max|length|limit"), "length"),
)
"""What a reason that is not listed is about: z.ai's `network_error` (its reference of chat
completion; earendil-works/pi#2313), Cohere's `ERROR_TOXIC`, `ERROR_LIMIT` and `TIMEOUT`, watsonx'
`time_limit`. One that says none of it means a good end where the protocol has ended properly."""

APART = "\n\n"
"""Stands between the messages of one answer: they are paragraphs of its text."""

TAIL_S = 0.5
"""How long usage and the end marker are waited for after the finish reason of an answer.

A server that keeps the connection open must not turn a complete answer into a silent one.
"""

Said = Delta | ThoughtDelta | CallPiece | Retraction
"""What comes of a part, to be passed on at once."""

_ERROR_START = re.compile(r'(?i)\{\s*"error"\s*:|error:')
_LOOKS_LIKE_JSON = re.compile(r"[{}\"]")

_FAILURE = re.compile(
    r"(?i)error|fail|abort|cancel|crash|died|exception|interrupt|timed[ _]?out"
    r"|time_?out(?!\s*[=:]\s*\d)|overload|(?:at|over|no|out of|insufficient) capacity"
    r"|unavailable|too many|went wrong"
)
"""What servers' own words for a failure have in them."""

LONG_TAIL_S = 5.0
"""The same where the reason came with text or a piece of a call, or before any: some servers put it
on every event (su-kaka/gcli2api#403, songquanpeng/one-api#1408)."""


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """What one event of a stream, or a whole body, says."""

    text: str | None = ""
    """Answer text; reasoning is none. None where there is some that cannot be read."""
    thought: str | None = None
    """Reasoning; empty where only the fact of it is told."""
    seal: Seal | None = None
    """What signs it."""
    phase: str | None = None
    """What the text from here on, a message of its own, is called; empty where it is nothing. See
    `Token.phase`."""
    choice: int = 0
    """Which of several answers this is a part of."""
    is_whole: bool = False
    """Whether text and refusal are all of the answer: after pieces of it, they add nothing."""
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
    is_last: bool = False
    """Whether nothing follows, as gateways say by OpenAI's marker on every wire."""
    calls: bool = False
    """Whether it carries a piece of a tool call."""
    has_call: bool = False
    """Whether a call stands here, which thoughts may follow."""
    candidates: bool = True
    """Whether there was any answer in it, be it an empty one."""
    stray: Any = None
    """An event, or its text, that is none of the protocol's."""
    begins: str | None = None
    """The id of the answer, where it begins."""


class ResponseAccumulator:
    """Assemble one answer.

    Args:
        classify: decides what an error inside the answer is.
        presentable: makes text from outside fit to show.
        calls: the tool calls in it; None where the model may make none.
        text_calls: finds those that a model has written as text; None where it has no tools.
        held: holds a text back that probably begins with thoughts; None where it does not.
        status: the HTTP status it all came with.
        whole: whether the answer came as one document and not as a stream.
        ends_with_done: whether `[DONE]` is the protocol's end, and so one without a reason.
        idle_s: how long a silence in the middle of the answer may last.
        cut_at: the number of tokens at which an answer is cut, where its end does not say so. One
            with more was not cut there: the server goes by another limit, or by none.
    """

    def __init__(
        self,
        *,
        classify: Callable[[Any], FallbackTriggerError],
        presentable: Callable[[str], str],
        calls: ToolCallCollector | None = None,
        text_calls: TextCalls | None = None,
        held: HeldStart | None = None,
        status: int = 200,
        whole: bool = False,
        ends_with_done: bool = True,
        idle_s: float = math.inf,
        cut_at: int | None = None,
    ) -> None:
        self._ended = False
        self._text_halves = _Halves()
        self._thought_halves = _Halves()
        self._repeats = _Repeats(is_settled=whole)
        self._splitter = ThoughtSplitter()
        self._text_calls = text_calls
        self._held = held
        self._choice: int | None = None
        """The answer whose text came first, of several."""
        self._other_ended = False
        """Whether a finish reason came for another one."""
        self._is_late = False
        """Whether text came after a finish reason, so that none is an end here."""
        self._is_stale = False
        """Whether the last text came after the last finish reason."""
        self._classify = classify
        self._presentable = presentable
        self._status = status
        self._whole = whole
        self.ends_with_done = ends_with_done
        self._idle_s = idle_s
        self._cut_at = cut_at
        self._calls = calls
        self._refusal = ""
        self._blocked = False
        self._called = False
        self._reason: str | None = None
        self._candidates = False
        self._done = False
        self._prompt_tokens: int | None = None
        self._completion_tokens: int | None = None
        self._model: str | None = None
        self._name: str | None = None
        self._is_other = False
        """Whether another answer has begun behind this one."""
        self._thinks = False
        """Whether a thought came as one."""
        self._stray: Any = None
        """What came last and is no part of the answer."""
        self.began = False
        """Whether output has begun: text was given out, or a call came."""
        self._spoke = False
        self._at_rest = False
        self._phase: str | None = None
        self._is_apart = False
        """Whether the next text is of another message than the one before."""
        self._calls_before = 0

    @property
    def tail_s(self) -> float | None:
        """How long what may follow is waited for, in seconds; None while an answer is under way.

        Where text has come after a finish reason before, only the protocol's end is one.
        """
        if self._reason is None or self._is_late:
            return None
        return TAIL_S if self._at_rest else min(LONG_TAIL_S, self._idle_s / 2)

    @property
    def complete(self) -> bool:
        """Whether a finish reason has come that was an end so far."""
        return self._reason is not None and not self._is_late

    def end(self) -> None:
        """Take note that the protocol's end, or that of the body, has come."""
        self._ended = True

    def lose(self, data: str) -> None:
        """Take note of an event that cannot be read.

        Raises:
            FallbackTriggerError: it may have held words, and the answer was not complete.
        """
        if self.complete:
            return
        if not _LOOKS_LIKE_JSON.search(data):
            self._stray = data if " " in data else self._stray  # a heartbeat is one word
            return
        raise self._lost()

    def _lost(self) -> FallbackTriggerError:
        message = "a part of the answer cannot be read"
        return self.broken(self._error(ErrorKind.MALFORMED_RESPONSE, message))

    def take(self, part: Part) -> Sequence[Said]:
        """Take a part and return what is in it.

        Blanks alone are no beginning: an answer of nothing else is an empty one. That they are
        not shown before something follows is for the engine to see to, for every backend alike.

        Raises:
            FallbackTriggerError: the part carries an error, before any finish reason.
        """
        if part.text and self._is_next_word(part, part.text):
            return (Delta(part.text, self._phase),)
        if part.error is not None and not self.complete:
            raise self.broken(self._classify(part.error))
        if self._choice is None:
            self._choice = part.choice if part.text else None
        elif part.choice != self._choice:
            self._other_ended = self._other_ended or part.reason is not None
            part = msgspec.structs.replace(part, text="", thought=None, reason=None, refusal="")
        if part.text is None and not (self.complete or (part.is_whole and self._spoke)):
            raise self._lost()
        text = part.text and self._repeats.strip(
            part.text, is_whole=part.is_whole, is_last=part.reason is not None
        )
        if text or part.thought is not None or part.stray is not None:
            self._stray = part.stray
        if (text or part.thought) and self._reason is not None:
            self._is_late = True
        if text or part.thought or part.reason:
            self._is_stale = part.reason is None
        self._note_beginning(part)
        self._note(part)
        said: list[Said] = []
        if part.thought is not None:
            self._take_thought(part.thought, part.seal, said)
        if text:
            self._take_text(text, said)
        if part.calls and self._calls is not None:
            self.began = True
            said.append(CallPiece())
        if part.reason is not None:
            self._at_rest = self.began and not (text or part.calls)
        return said

    def _note_beginning(self, part: Part) -> None:
        """Take note which answer begins, if any does.

        Gateways that ask again begin another one in the midst of the stream (vercel/ai#18331), and
        some tell of the same one twice (BerriAI/litellm#32478, maximhq/bifrost#4556). One that
        begins behind a complete answer, and has nothing in it, takes nothing from that.

        Raises:
            FallbackTriggerError: something of another answer came before.
        """
        if part.begins is not None and part.begins != self._name:
            self._is_other = self.began or self._thinks
            self._name = part.begins
        if self._is_other and (part.calls or not self.complete):
            message = "another answer began in the middle of this one"
            raise self.broken(self._error(ErrorKind.MALFORMED_RESPONSE, message))

    def _take_thought(self, thought: str, seal: Seal | None, said: list[Said]) -> None:
        """Take a thought that came as one: none is to be looked for in the text."""
        self._splitter.skip_block()
        self._thinks = True
        if self._held is not None:
            held, self._held = self._held.end(), None
            self._say(self._splitter.feed(held), said)
        if seal is not None:
            seal = msgspec.structs.replace(seal, calls_before=self._calls_before)
        said.append(ThoughtDelta(self._thought_halves.join(thought), seal))

    def _take_text(self, text: str, said: list[Said]) -> None:
        text = self._text_halves.join(text)
        if text and self._held is not None:
            text = self._held.feed(text)
            if self._held.is_open:
                said.append(ThoughtDelta(""))
            else:
                self._held = None
        if text:
            self._say(self._splitter.feed(text), said)

    def _is_next_word(self, part: Part, text: str) -> bool:
        """Take a part that is nothing but the next word of a text, as nearly all are."""
        if (
            not self._spoke
            or self._reason is not None
            or self._stray is not None
            or self._is_apart
            or self._text_calls is not None
            or part.reason is not None
            or part.thought is not None
            or part.error is not None
            or part.is_whole
            or part.calls
            or part.refusal
            or part.done
            or part.completion_tokens is not None
            or part.choice != self._choice
            or not text.isascii()
            or self._text_halves.half
            or not self._repeats.is_settled
            or not self._splitter.passes(text)
        ):
            return False
        self._repeats.add(text)
        return True

    def flush(self) -> Sequence[Said]:
        """Return what was held back, once nothing more comes."""
        said: list[Said] = []
        text = self._text_halves.join(self._repeats.end()) + self._text_halves.end()
        if self._held is not None:
            text = self._held.end() + text
        if text:
            self._say(self._splitter.feed(text), said)
        self._say(self._splitter.end(), said)
        if self._text_calls is not None and (text := self._text_calls.end()):
            self._pass_on(text, said)
        return said

    def _say(self, split: Split, said: list[Said]) -> None:
        """Pass on what a piece of text turned out to be."""
        if split.unsaid and self._spoke:
            self._spoke = False
            said.append(Retraction())
        if split.thought:
            said.append(ThoughtDelta(split.thought))
        text = split.text
        if text and self._text_calls is not None:
            text, is_call = self._text_calls.feed(text)
            if is_call:
                self.began = True
                said.append(CallPiece())
        if text:
            self._pass_on(text, said)

    def _pass_on(self, text: str, said: list[Said]) -> None:
        if not text.isspace():
            self.began = self._spoke = True
        if self._is_apart:
            text, self._is_apart = APART + text, False
        said.append(Delta(text, self._phase))

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
        self._check_stray()
        if ending is None:
            raise self._incomplete()
        usage = Usage(prompt_tokens=self._prompt_tokens, completion_tokens=self._completion_tokens)
        if ending == "denied":
            raise self._error(ErrorKind.PERMISSION, f"the answer ended with {self._reason!r}")
        calls = self._calls.complete() if self._calls is not None else ()
        if self._calls is not None and self._calls.is_broken and ending != "length":
            raise self._error(ErrorKind.MALFORMED_RESPONSE, self._no_call())
        written: tuple[ToolCall, ...] = ()
        if not calls and self._text_calls is not None:
            written = self._text_calls.complete()
            if self._text_calls.is_broken or (written and self._calls is None):
                raise self._error(ErrorKind.MALFORMED_RESPONSE, self._no_call())
        if (calls or written) and ending == "length":
            raise self._error(
                ErrorKind.MALFORMED_RESPONSE, "max_tokens was used up in the middle of a tool call"
            )
        if written:
            return ToolRequest(calls=written, usage=usage, model=self._model)
        if self._calls is not None and calls:
            return ToolRequest(calls=calls, raw=self._calls.raw(), usage=usage, model=self._model)
        if ending == "broken_call" or (ending == "tool" and (not self._spoke or self._called)):
            raise self._error(ErrorKind.MALFORMED_RESPONSE, self._no_call())
        if not self._spoke:
            raise self._empty(ending)
        # "tool_calls" after a text and no call (mudler/LocalAI#6218) is a text that has ended.
        reason = ending if ending in ("length", "repetition") else "stop"
        return Finish(reason=reason, usage=usage, model=self._model)

    def _check_stray(self) -> None:
        if self._reason is not None or self._stray is None:
            return
        error = self._classify(self._stray)
        if not self.began or _tells_of_failure(self._stray, error.kind):
            raise self.broken(error)

    def _no_call(self) -> str:
        if self._calls is None:
            return "the model called a tool that it was not given"
        if self._text_calls is not None and self._text_calls.is_broken:
            return "the model's call of a tool, which it wrote as text, is broken"
        return f"the model's call of a tool is broken ({self._reason})"

    def _note(self, part: Part) -> None:
        if not (part.is_whole and self._refusal):
            self._refusal += part.refusal
        self._blocked = self._blocked or part.blocked
        self._called = self._called or part.calls
        self._calls_before += part.has_call
        if part.phase is not None:
            self._phase = part.phase or None
            self._is_apart = self._spoke
        # A gateway's own "stop" takes nothing back of what the server behind it has said.
        if self._is_late or _says_no_more(self._reason) or not _says_no_more(part.reason):
            self._reason = part.reason or self._reason
        self._done = self._done or part.done
        self._model = join_halves(part.model) if part.model else self._model
        self._candidates = self._candidates or part.candidates
        # Counts are totals, sent once or again and again, and now and then as 0 at first.
        if part.prompt_tokens is not None:
            self._prompt_tokens = max(self._prompt_tokens or 0, part.prompt_tokens)
        if part.completion_tokens is not None:
            self._completion_tokens = max(self._completion_tokens or 0, part.completion_tokens)

    def _ending(self) -> Ending | None:
        """Return how the answer ended; None when it did not."""
        if self._reason is None:
            # `[DONE]` is an end, and so is a document that is complete as JSON; some servers give
            # neither a reason (jakobdylanc/llmcord#84, openai/openai-node#1292).
            is_end = self._done and not self._other_ended
            return "stop" if is_end or (self._whole and self._candidates) else None
        ending = ending_of(self._reason)
        if ending == "stop" and self._cut_at and self._completion_tokens == self._cut_at:
            ending = "length"
        if ending == "failed":
            return None
        if self._is_late and not (self._done or self._whole):
            # Only the body's end is left, and only after a reason that nothing followed.
            return None if self._is_stale or not self._ended else ending
        return ending

    def _incomplete(self) -> FallbackTriggerError:
        if self._reason is not None:
            message = f"the answer ended with {self._reason!r}"
        elif self._whole and not self._spoke:
            message = "there is no answer in the response"
        else:
            message = "the answer ended without a finish reason"
        if self.began and not self._whole:
            return self._error(ErrorKind.STREAM_INTERRUPTED, message)
        if self._whole or self._reason is not None:
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


def _tells_of_failure(stray: Any, kind: ErrorKind) -> bool:
    """Whether what no protocol has is an error, and not news or a heartbeat.

    FastChat's is `{"text": "…", "error_code": 50002}`, with `[DONE]` behind it as ever.

    Args:
        stray: the event, or its text.
        kind: what it is as an error; `service_unavailable` where nothing is known of it.
    """
    codes = (get_path(stray, "error_code"), get_path(stray, "code"))
    known = kind is not ErrorKind.SERVICE_UNAVAILABLE or not all(map(is_well, codes))
    return known or bool(_FAILURE.search(words_in(stray)))


def _says_no_more(reason: str | None) -> bool:
    """Whether a reason says no more than that the answer has ended, if that."""
    return reason is None or ending_of(reason) in ("stop", "tool")


def ending_of(reason: str) -> Ending:
    """Return what a finish reason means; a good end where nothing else is said."""
    reason = reason.strip().lower()
    if reason.startswith("content_filter"):  # "content_filter: RECITATION", Google's
        return "content_filter"
    if (known := ENDINGS.get(reason)) is not None:
        return known
    return next((ending for stem, ending in _STEMS if stem.search(reason)), "stop")


class _Halves:
    """Join halves of a UTF-16 pair that came in two parts; a lone one becomes U+FFFD."""

    def __init__(self) -> None:
        self.half = ""

    def join(self, text: str) -> str:
        if not self.half and text.isascii():
            return text
        text, self.half = self.half + text, ""
        if text and "\ud800" <= text[-1] <= "\udbff":
            text, self.half = text[:-1], text[-1]
        return join_halves(text)

    def end(self) -> str:
        half, self.half = self.half, ""
        return join_halves(half)


class _Repeats:
    """Take out of an answer's pieces what they say again.

    Some servers send all of the text so far in every piece (DashScope without
    `incremental_output`), some all of it once more at the end (A3S-Lab/Code#1). A second piece
    that goes on with the first is held back until a third, or the end, tells which it is.
    """

    LEAST = 4
    """The fewest characters of a first piece that tell when nothing else does."""
    LEAST_REPEATED = 20
    """The fewest characters that are not said twice by chance."""

    def __init__(self, *, is_settled: bool) -> None:
        self._pieces: list[str] = []
        self._held = ""
        self._has_parts = False
        """Whether a piece came that was not all of the answer."""
        self._is_cumulative: bool | None = False if is_settled else None

    @property
    def is_settled(self) -> bool:
        """Whether the pieces are known not to be cumulative."""
        return self._is_cumulative is False

    def add(self, text: str) -> None:
        """Take a piece that is new."""
        self._pieces.append(text)

    def strip(self, text: str, *, is_whole: bool, is_last: bool) -> str:
        """Return what is new in a piece.

        Args:
            text: the piece.
            is_whole: whether it is all of the answer.
            is_last: whether a finish reason came with it.
        """
        self._has_parts = self._has_parts or not is_whole
        if not self._pieces:
            if is_whole:
                self._is_cumulative = False
            self._pieces.append(text)
            return text
        if self.is_settled and not is_last and not is_whole:
            self._pieces.append(text)
            return text
        if self._held:
            held, self._held = self._held, ""
            self._is_cumulative = text.startswith(held)
            if not self._is_cumulative:
                self._pieces.append(held)
                return held + self.strip(text, is_whole=is_whole, is_last=is_last)
        said = "".join(self._pieces)
        if is_whole or self._is_cumulative:
            adds = text.startswith(said) or not (is_whole and self._has_parts)
            is_known = said.startswith(text) if self._has_parts else text == said
            text = "" if is_known or not adds else text.removeprefix(said)
            if is_whole:  # what comes now is another message, whatever it begins with
                self._is_cumulative = False
        elif self._is_cumulative is None:
            if said.strip() and len(text) > len(said) and text.startswith(said):
                self._held = text
                return ""
            self._is_cumulative = False
        if is_last and len(text) >= self.LEAST_REPEATED and text == said:
            return ""
        self._pieces.append(text)
        return text

    def end(self) -> str:
        """Return what was held back."""
        held, self._held = self._held, ""
        said = "".join(self._pieces)
        return held[len(said) :] if len(said.strip()) >= self.LEAST else held


DRAIN_S = 0.1
"""How long the body's end is waited for after the vendor's end marker.

A connection that was read to its end can serve the next request.
"""


async def stream_chunks(
    events: AsyncGenerator[Event, None],
    answer: ResponseAccumulator,
    parse: Callable[[dict[str, Any]], Iterable[Part]],
) -> AsyncGenerator[Said, None]:
    """Yield the answer as it comes; `answer.finish` judges it afterwards.

    Args:
        events: the response's events; closed at the end.
        answer: where the answer is put together.
        parse: what an event says; of several answers, of each.

    Raises:
        FallbackTriggerError: an error event, or the connection broke, before the answer's end; or
            an event that may have held words cannot be read.
    """
    async with aclosing(events):
        is_done = False
        left_s: float | None = None
        while not is_done:
            tail_s = answer.tail_s
            # What goes on after the reason, be it heartbeats, does not put the end off.
            left_s = tail_s if tail_s is None or left_s is None else min(tail_s, left_s)
            event, left_s = await _next(events, answer, left_s)
            if event is None:
                break
            for number, part in enumerate(_parts(event, answer, parse), 1):
                await give_way(number)
                for chunk in answer.take(part):
                    yield chunk
                if part.calls:  # a reason on every event: the call is still under way
                    left_s = None
                if part.done or part.is_last:
                    is_done = True
                    break
        for chunk in answer.flush():
            yield chunk
        if is_done:
            answer.end()
            await _drain(events)


async def _next(
    events: AsyncGenerator[Event, None], answer: ResponseAccumulator, tail_s: float | None
) -> tuple[Event | None, float | None]:
    """Return the next event, and what is left then of the time for what may follow an answer.

    Once the answer is complete, no failure counts any more.
    """
    try:
        if tail_s is None:  # the way of every token
            event = await anext(events, None)
        else:
            async with LoopTimeout(tail_s) as timer:
                event = await anext(events, None)
            tail_s = timer.left_s
    except TimeoutError:
        return None, None
    except FallbackTriggerError as exc:
        if answer.complete:
            return None, None
        error = answer.broken(exc)
        if error is exc:
            raise
        raise error from exc
    if event is None:
        answer.end()
    return event, tail_s


def _parts(
    event: Event, answer: ResponseAccumulator, parse: Callable[[dict[str, Any]], Iterable[Part]]
) -> Iterator[Part]:
    """Read an event, mostly a single part."""
    data = event.data.strip()
    if not data:
        return
    is_error = event.name == "error"
    try:
        values = decode_all(data)
    except NotJsonError:
        # transformers' server puts a message into its error unescaped, which may have quotes.
        if is_error or _ERROR_START.match(data):
            yield Part(error=data)
        else:
            answer.lose(data)
        return
    if len(values) == 1 and isinstance(values[0], list):  # Google's endpoints send lists, too
        values = values[0]
    for value in values:
        if value is DONE:
            yield Part(done=answer.ends_with_done, is_last=True, candidates=False)
        elif is_error:
            yield Part(error=value or data)
        elif isinstance(value, dict):
            yield from parse(value)


async def _drain(events: AsyncGenerator[Event, None]) -> None:
    try:
        async with LoopTimeout(DRAIN_S):
            while await anext(events, None) is not None:
                pass
    except (TimeoutError, FallbackTriggerError):
        pass
