"""What the tiers without a language model have in common: nothing to set up, count or close."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import ClassVar, Protocol

from tieredllm.clock import Clock, iso
from tieredllm.errors import FallbackTriggerError
from tieredllm.kinds import ErrorKind
from tieredllm.providers.base import (
    Call,
    Capabilities,
    Chunk,
    Delta,
    Finish,
    Missing,
    ProbeResult,
    TokenCounter,
)
from tieredllm.types import Prompt

__all__ = ["CacheBackend", "Earlier", "LookUp", "StaticBackend"]


class StaticBackend:
    """A backend that needs no model; a subclass adds `identity`, `answer` and `probe`."""

    provider: ClassVar[str]
    model: ClassVar[str]
    """The provider's name once more."""
    is_language_model = False
    capabilities = Capabilities()
    """Text alone: an answer to one question is none to another picture."""

    def missing(self) -> Missing | None:
        """Return None: there is nothing to configure."""
        return None

    async def token_counter(self) -> TokenCounter:
        """Count nothing: a text of any length is taken."""
        return lambda _: 0

    def warm_up(self) -> bool:
        """Return False: there is nothing to do that takes long."""
        return False

    async def aclose(self) -> None:
        """Do nothing: nothing is held."""


HOUR_S = 3600.0


class Earlier(Protocol):
    """An answer that was given before."""

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
        """Return the latest complete answer to the same request.

        Args:
            prompt: what is asked.
            newer_than: when it must have been asked after; seconds since the epoch.
        """
        ...


class CacheBackend(StaticBackend):
    """Answer with what was answered before.

    Args:
        max_age_h: the oldest answer that may be given, in hours.
        look_up: finds one in the log of the same profile.
        clock: the time.
    """

    provider = model = "cache"

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
        yield Finish(reason="stop", cached_at=iso(earlier.answered_at))

    async def probe(self, *, deep: bool = False) -> ProbeResult:  # noqa: ARG002
        """Say that it can be asked; whether it knows an answer depends on the question."""
        return ProbeResult(ok=True, latency_ms=0.0)
