"""Let the tiers answer one request, and hold its response back until there is real output.

Until a tier's first word nothing is sent, so any failure moves on, unseen. A stream that dies after
words were sent ends in the protocol's error and a broken connection: never in a clean end, which
clients take for success.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing, suppress
from math import ceil
from typing import NoReturn

from tieredllm.client import FallbackManager
from tieredllm.errors import UsageError
from tieredllm.kinds import ErrorKind
from tieredllm.providers.accumulator import APART
from tieredllm.serve.exchange import BrokenOffError, Exchange, LostError
from tieredllm.serve.wire import Failure, GatewayRequest, RefusedError, Wire, failure_of
from tieredllm.types import (
    Answer,
    Answered,
    Attempt,
    AttemptFailed,
    AttemptStarted,
    Event,
    Retracted,
    Thought,
    TierSkipped,
    Token,
    ToolsWanted,
)

__all__ = ["Answering"]

KEEP_ALIVE_S = 10.0
"""Seconds between two signs of life on a stream that waits: well below the 30 to 60 s after which
proxies close a silent connection."""
MAX_RETRY_AFTER_S = 60
"""The longest wait that is asked of a client: Anthropic's SDK obeys any (2.14.0)."""


class Answering:
    """One request on its way through the tiers.

    Args:
        manager: whose tiers answer.
        wire: the client's protocol.
        request: what is asked.
        http: the request and its response.
        hold_s: how long a stream is held back for its first word, in seconds.
        live: whether words are passed on as they come; otherwise a stream has one tier's whole
            answer at its end.
    """

    def __init__(
        self,
        manager: FallbackManager,
        wire: Wire,
        request: GatewayRequest,
        http: Exchange,
        *,
        hold_s: float,
        live: bool,
    ) -> None:
        self._manager = manager
        self._wire = wire
        self._request = request
        self._http = http
        self._hold_s = hold_s
        self._live = live
        self.answer: Answer | None = None
        """The answer, complete or failed; None as long as there is none."""
        self._writer = wire.writer(request, http.request_id)
        self._asked: dict[str, AttemptStarted] = {}
        """Who was asked last in each tier."""
        self._attempts = 0
        self._ended: list[Attempt] = []
        self._said: list[Thought | Token] = []
        """What the attempt that was made last has thought and said, where it is not passed on."""
        self._speaker: str | None = None
        """The tier whose words were sent."""
        self._is_apart = False
        """Whether the next word begins a paragraph."""

    @property
    def attempts(self) -> Sequence[Attempt]:
        """The attempts so far, as far as they have ended."""
        return self._ended if self.answer is None else self.answer.attempts

    async def run(self) -> str:
        """Answer, and return `ok`.

        Raises:
            RefusedError: there is no answer, and nothing was sent yet.
            BrokenOffError: a stream ended in an error.
        """
        waiting = asyncio.ensure_future(self._keep_alive()) if self._request.stream else None
        try:
            return await self._run()
        finally:
            if waiting is not None:
                waiting.cancel()

    async def stopped(self, message: str) -> NoReturn:
        """Say on a stream that the gateway ends it; raises `BrokenOffError`."""
        await self._break_off(Failure(status=503, message=message))

    async def _run(self) -> str:
        request = self._request
        options = request.options
        try:
            events = self._manager.stream(
                request.prompt, {"request_id": self._http.request_id}, options=options
            )
            async with aclosing(events):
                async for event in events:
                    if isinstance(event, Answered):
                        self.answer = event.answer
                        return await self._end(event.answer)
                    if isinstance(event, AttemptStarted):
                        self._attempts += 1
                        self._said.clear()
                        self._asked[event.tier] = event
                    elif isinstance(event, (AttemptFailed, TierSkipped)):
                        self._ended.append(event.attempt)
                    if request.stream and self._live:
                        await self._pass_on(event)
                    elif isinstance(event, (Thought, Token)):
                        self._said.append(event)
        except UsageError as exc:
            raise RefusedError(400, str(exc)) from exc
        raise AssertionError  # the last event is Answered

    async def _pass_on(self, event: Event) -> None:
        """Send what one event means to the client.

        Raises:
            BrokenOffError: the words that were sent are void.
        """
        if isinstance(event, Token):
            if self._speaker not in (None, event.tier):
                await self._break_off(Failure(status=503, message=f"{self._speaker} broke off"))
            model = self._asked[event.tier].model
            self._open(event.tier)
            self._speaker = event.tier
            text = APART + event.text if self._is_apart else event.text
            self._is_apart = False
            await self._http.write(self._writer.word(text, model, event.phase))
        elif isinstance(event, Thought) and self._request.takes_thoughts:
            if self._speaker in (None, event.tier):
                model = self._asked[event.tier].model
                self._open(event.tier)
                await self._http.write(self._writer.thought(event.text, model, event.seal))
        elif isinstance(event, ToolsWanted) and event.tier == self._speaker:
            # What a model says before it uses the profile's tools stays said.
            self._is_apart = True
        elif isinstance(event, Retracted) and event.tier == self._speaker:
            # Once for each model: from then on its thoughts are known before they are sent.
            await self._break_off(Failure(status=503, message=f"{event.tier} was only thinking"))
        elif isinstance(event, AttemptFailed) and event.attempt.tier == self._speaker:
            why = f"{event.attempt.tier} broke off: {event.attempt.why}"
            error = event.attempt.error
            refused = error is not None and error.kind is ErrorKind.CONTENT_FILTER
            failure = Failure(status=503, message=why)
            if refused:  # another try would meet it again
                failure = Failure(status=400, message=why, code="content_filter")
            await self._break_off(failure)

    async def _end(self, answer: Answer) -> str:
        """Send the answer, or why there is none."""
        request = self._request
        if answer.error is not None:
            await self._fail(answer)
        if not request.stream:
            headers = self._headers(answer.tier)
            whole = self._wire.whole(request, answer, self._said_by(answer))
            await self._http.respond(200, whole, headers=headers)
            return "ok"
        self._open(answer.tier)
        model = answer.model_used or ""
        frames = [
            self._writer.word(one.text, model, one.phase)
            if isinstance(one, Token)
            else self._writer.thought(one.text, model, one.seal)
            for one in ([] if self._live else self._said_by(answer))
        ]
        frames.append(self._writer.end(answer))
        await self._http.write(b"".join(frames))
        await self._http.close()
        return "ok"

    def _said_by(self, answer: Answer) -> list[Thought | Token]:
        """Return the thoughts, where the client takes them, and the words, as they came if known.

        Sealed thoughts are known as they came. Words may have been changed since, to fit a schema.
        """
        tier = answer.tier or ""
        thoughts = [one for one in self._said if isinstance(one, Thought)]
        words = [one for one in self._said if isinstance(one, Token)]
        text = answer.text or ""
        are_known = "".join(one.text for one in words) == text
        if not are_known:
            words = [Token(tier=tier, text=text)] if text else []
        if not self._request.takes_thoughts:
            return [*words]
        if are_known and any(one.seal for one in thoughts):
            return self._said
        if not any(one.seal for one in thoughts):
            reasoning = answer.reasoning
            thoughts = [Thought(tier=tier, text=reasoning)] if reasoning else []
        return [*thoughts, *words]

    async def _fail(self, answer: Answer) -> NoReturn:
        """Say that no tier has answered.

        Raises:
            RefusedError: as a response of its own, where nothing was sent yet.
            BrokenOffError: within the stream.
        """
        failure = failure_of(answer)
        if self._request.stream and (self._http.is_open or self._wire.fails_in_stream):
            self._open(None)
            await self._break_off(failure)
        headers = [("x-should-retry", "false"), ("x-tieredllm-attempts", str(self._attempts))]
        if failure.status == 503:
            headers.append(("retry-after", str(self._retry_after_s(answer))))
        raise RefusedError(failure.status, failure.message, code=failure.code, headers=headers)

    def _retry_after_s(self, answer: Answer) -> int:
        """Return after how many seconds the first of the tiers may be well again."""
        waits = list(self._manager.cooldowns_s().values())
        waits += [
            attempt.error.retry_after_s
            for attempt in answer.attempts
            if attempt.error is not None and attempt.error.retry_after_s is not None
        ]
        return max(1, min(MAX_RETRY_AFTER_S, ceil(min(waits, default=1))))

    @property
    def _reads_to_the_end(self) -> bool:
        """Whether the client looks at a failure only when the connection has ended properly.

        Codex (0.171.0) does: it asks five times more when a connection breaks after
        `response.failed`. No other client is known to be, and all of them take a proper end for
        success.
        """
        return self._http.headers.get("originator", "").startswith("codex")

    async def _break_off(self, failure: Failure) -> NoReturn:
        await self._http.write(self._writer.failed(failure))
        if self._reads_to_the_end:
            await self._http.close()
        await self._http.drain()
        raise BrokenOffError

    def _open(self, tier: str | None) -> None:
        if not self._http.is_open:
            self._http.open(self._headers(tier))

    def _headers(self, tier: str | None) -> list[tuple[str, str]]:
        headers = [("x-tieredllm-attempts", str(self._attempts))]
        if tier is not None:
            headers.append(("x-tieredllm-tier", tier))
            headers.append(("x-tieredllm-level", str(self._asked[tier].level)))
        return headers

    async def _keep_alive(self) -> None:
        """Open a stream that has waited long enough, and give signs of life from then on."""
        await asyncio.sleep(self._hold_s)
        with suppress(LostError):
            while True:
                self._open(None)
                await self._http.write(self._writer.keep_alive())
                await asyncio.sleep(KEEP_ALIVE_S)
