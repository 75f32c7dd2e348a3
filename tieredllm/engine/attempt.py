"""Make one attempt on one backend: compose, call, time every wait, and judge how it ended."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import msgspec

from tieredllm.engine.budget import silence_limit_s
from tieredllm.engine.kit import Fitted, Kit, fitted
from tieredllm.errors import FallbackTriggerError
from tieredllm.kinds import ErrorKind
from tieredllm.profile.schema import Tier
from tieredllm.prompts.policies import Composed, ContextTooSmallError
from tieredllm.providers.base import (
    Backend,
    Call,
    CallPiece,
    Chunk,
    Delta,
    Finish,
    ToolRequest,
)
from tieredllm.types import Prompt, Skip

__all__ = ["ContextSkipError", "Heard", "Job", "chunks"]


class ContextSkipError(FallbackTriggerError):
    """A tier is passed over unasked: the question does not fit."""

    skip = Skip(
        why="context",
        cause=ErrorKind.CONTEXT_LENGTH,
        fix="shorten the question or what is piped in",
    )


class Job(msgspec.Struct, kw_only=True):
    """Hold what one attempt is to do; `notices` is filled on the way."""

    tier: Tier
    backend: Backend
    prompt: Prompt
    request_id: str
    stream: bool
    omit: frozenset[str]
    deadline: float
    """On the event loop's clock; infinite for a tier that cannot fail."""
    others_follow: bool
    """Whether another language model could still be asked afterwards."""
    kit: Kit
    notices: list[str] = []

    def told(self) -> list[str]:
        """Give the notices that have not been given yet."""
        notices, self.notices = self.notices, []
        return notices


class Heard(msgspec.Struct, kw_only=True):
    """Hold what an attempt has brought so far."""

    pieces: list[str] = []
    first: float | None = None
    """When the first token came, on the clock of whoever listens."""
    finish: Finish | None = None
    request: ToolRequest | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The tools it ended with calls of."""
        return tuple(call.name for call in self.request.calls) if self.request else ()

    def take(self, chunk: Chunk, *, at: float) -> None:
        """Take the next chunk."""
        if isinstance(chunk, Delta):
            self.pieces.append(chunk.text)
        elif isinstance(chunk, Finish):
            self.finish = chunk
        elif isinstance(chunk, ToolRequest):
            self.request = chunk
        if self.first is None and not isinstance(chunk, Finish):
            self.first = at


async def chunks(job: Job) -> AsyncGenerator[Chunk, None]:
    """Yield an attempt's deltas and then its finish or its calls of tools, each wait bounded.

    What is waited for first (loading a local model, connecting, the first token) ends at the tier's
    first-token timeout; later waits at its idle timeout; all at the deadline. An attempt that is
    not streaming has the tier's `timeout_s` as a whole. Blanks are no token: those at the start are
    held back until something else follows, and an answer of nothing else is an empty one. A piece
    of a call is a token, too, but no text.

    Raises:
        FallbackTriggerError: whatever went wrong, of a kind of the closed set.
        ContextSkipError: the question does not fit, and nothing was asked.
    """
    loop = asyncio.get_running_loop()
    tier = job.tier
    now = loop.time()
    first_limit_s = tier.first_token_timeout_s if job.stream else tier.timeout_s
    limit = now + silence_limit_s(
        timeout_s=first_limit_s,
        left_s=max(0.0, job.deadline - now),
        others_follow=job.others_follow,
    )
    blanks = ""
    is_shortened = limit < now + first_limit_s
    began = spoke = False
    try:
        async with asyncio.timeout_at(limit):
            call = await _call(job)
        async with aclosing(job.backend.answer(call)) as answer:
            while True:
                async with asyncio.timeout_at(limit):
                    chunk = await anext(answer, None)
                if chunk is None:
                    break
                if isinstance(chunk, Finish | ToolRequest):
                    if isinstance(chunk, Finish) and not spoke:
                        break
                    if isinstance(chunk, Finish):
                        job.notices.extend(chunk.notices)
                    yield chunk
                    return
                if isinstance(chunk, Delta) and not spoke:
                    blanks += chunk.text
                    if blanks.isspace():
                        continue
                    chunk = Delta(blanks)
                    spoke = True
                began = True
                if job.stream:
                    limit = min(loop.time() + tier.idle_timeout_s, job.deadline)
                if not isinstance(chunk, CallPiece):
                    yield chunk
    except TimeoutError:
        out_of_time = loop.time() >= job.deadline - 0.001 or (is_shortened and not began)
        raise _timeout(
            job, began=began, out_of_time=out_of_time, after_s=loop.time() - now
        ) from None
    if began:
        raise FallbackTriggerError(ErrorKind.STREAM_INTERRUPTED, "the answer ended without an end")
    raise FallbackTriggerError(ErrorKind.EMPTY_RESPONSE, "the answer has no content")


async def _call(job: Job) -> Call:
    tier = job.tier
    fit = Fitted(composed=Composed(messages=()))
    if job.backend.is_language_model:
        count = await job.backend.token_counter()
        try:
            fit = fitted(
                job.prompt,
                job.kit,
                policy=tier.prompt,
                budget_tokens=tier.context_tokens - tier.params.max_tokens,
                count=count,
            )
        except ContextTooSmallError as exc:
            raise ContextSkipError(ErrorKind.CONTEXT_LENGTH, str(exc)) from exc
        job.notices.extend(fit.composed.notices)
    return Call(
        prompt=job.prompt,
        messages=fit.composed.messages,
        params=tier.params,
        stream=job.stream,
        connect_timeout_s=tier.connect_timeout_s,
        omit=job.omit,
        request_id=job.request_id,
        tools=fit.declared,
        turns=fit.turns,
        may_call=job.kit.may_call,
    )


def _timeout(job: Job, *, began: bool, out_of_time: bool, after_s: float) -> FallbackTriggerError:
    """Judge a wait that was cut off.

    One that the request's own time cut short says nothing about the backend: it is a `deadline`.
    """
    if out_of_time:
        return FallbackTriggerError(
            ErrorKind.DEADLINE, f"its share of the request's time was up after {after_s:.1f} s"
        )
    if began:
        return FallbackTriggerError(
            ErrorKind.STREAM_INTERRUPTED, f"no token for {job.tier.idle_timeout_s:g} s"
        )
    what = "no token" if job.stream else "no answer"
    return FallbackTriggerError(ErrorKind.TIMEOUT, f"{what} within {after_s:.1f} s")
