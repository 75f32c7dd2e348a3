"""Be the tier that gives an answer again: the last complete one to the same question.

It stands between the models and the rules, like HTTP's `stale-if-error` (RFC 5861, section 4): only
an outage leads here, and the answer says how old it is. What may be given again is for the log to
say: complete answers that a model wrote, never a rule's, a cut one or one that was cached itself.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Protocol

from tieredllm.clock import Clock
from tieredllm.errors import ErrorKind, FallbackTriggerError
from tieredllm.providers.base import Call, Chunk, Delta, Finish, ProbeResult
from tieredllm.providers.modelless import Modelless
from tieredllm.text import iso_utc
from tieredllm.types import Prompt

__all__ = ["CacheBackend", "Earlier", "LookUp"]

HOUR_S = 3600.0


class Earlier(Protocol):
    """Be an answer that was given before."""

    @property
    def text(self) -> str:
        """The whole answer."""
        ...

    @property
    def answered_at(self) -> float:
        """When it was given; seconds since the epoch."""
        ...


class LookUp(Protocol):
    """Find the latest answer that may be given again."""

    def __call__(self, prompt: Prompt, *, newer_than: float) -> Earlier | None:
        """Give the latest complete answer to the same request.

        Args:
            prompt: what is asked.
            newer_than: when it must have been asked after; seconds since the epoch.
        """
        ...


class CacheBackend(Modelless):
    """Answer with what was answered before.

    Args:
        max_age_h: the oldest answer that may be given, in hours.
        look_up: finds one in the log of the same profile.
        clock: the time.
    """

    name = "cache"

    def __init__(self, *, max_age_h: float, look_up: LookUp, clock: Clock) -> None:
        self._max_age_h = max_age_h
        self._look_up = look_up
        self._clock = clock

    @property
    def identity(self) -> str:
        """Name the cache and the age it allows."""
        return f"cache|{self._max_age_h:g}"

    async def answer(self, call: Call) -> AsyncGenerator[Chunk, None]:
        """Yield the earlier answer at once, and its end with the time it was given.

        Raises:
            FallbackTriggerError: `empty_response`, there is none; it is not tried again.
        """
        newer_than = self._clock.wall() - self._max_age_h * HOUR_S
        earlier = self._look_up(call.prompt, newer_than=newer_than)
        if earlier is None or not earlier.text.strip():
            raise FallbackTriggerError(
                ErrorKind.EMPTY_RESPONSE,
                f"no answer to the same question from the last {self._max_age_h:g} h",
                again=False,
            )
        yield Delta(earlier.text)
        yield Finish(reason="stop", cached_at=iso_utc(earlier.answered_at))

    async def probe(self, *, deep: bool = False) -> ProbeResult:  # noqa: ARG002
        """Say that it can be asked; whether it knows an answer depends on the question."""
        return ProbeResult(ok=True, latency_ms=0.0)
