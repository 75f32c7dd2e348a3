"""Define what the engine needs from outside: memories, a gate, and what a caller may do meanwhile.

The engine works without any memory (`NoMemory`). An implementation never raises and never blocks
for longer than a tenth of a second: what cannot be read is unknown, what cannot be written is lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Literal, Protocol

import msgspec

from tieredllm.kinds import ErrorInfo, ErrorKind
from tieredllm.types import Event

__all__ = [
    "Controls",
    "Emit",
    "Gate",
    "HealthMemory",
    "NoMemory",
    "OpenGate",
    "ParameterMemory",
    "Standing",
    "TurnResult",
]


Emit = Callable[[Event], Awaitable[None]]
"""Takes what happens; waits while whoever reads is behind."""


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one backend's health at one moment."""

    state: Literal["closed", "open", "half_open"] = "closed"
    """`half_open`: the cooldown is over and one request may probe, or is probing."""
    degraded: bool = False
    """Whether the window breaks a threshold while the circuit is closed. Where degraded backends
    are skipped (`auto_skip_degraded`) it opens instead, so that it is probed after a cooldown."""
    reason: str | None = None
    """Why it is open or degraded, for people."""
    cause: ErrorKind | None = None
    """The kind of error behind that, where one kind is."""
    retry_at: float | None = None
    """When an open circuit may be probed, or since when a half-open one may; seconds since the
    epoch."""


class TurnResult(msgspec.Struct, frozen=True, kw_only=True):
    """How one backend did in one request, all its retries together."""

    identity: str
    request_id: str
    ok: bool
    kind: ErrorKind | None = None
    """The last error's kind, when it failed."""
    counts: bool = True
    """Whether a failure counts against health."""
    bench_s: float | None = None
    """Seconds to set the backend aside at once (`Retry-After`, exhausted quota, a rejected key)."""
    latency_s: float
    probe: bool = False
    """Whether this request held the half-open lease."""


class HealthMemory(Protocol):
    """A memory, across processes, of which backends work."""

    def standings(self, identities: Sequence[str]) -> dict[str, Standing]:
        """Return how the backends stand now; one that is unknown is closed."""
        ...

    def acquire_probe(self, identity: str) -> bool:
        """Take the one lease to probe a half-open backend; False when another request holds it."""
        ...

    def record(self, result: TurnResult) -> None:
        """Take note of one backend's turn, move its circuit, and give its lease back."""
        ...


class ParameterMemory(Protocol):
    """A memory of the request parameters that a backend rejects."""

    def rejected(self, identity: str) -> frozenset[str]:
        """Return the wire names this backend has named as unsupported."""
        ...

    def reject(self, identity: str, parameter: str) -> None:
        """Remember one."""
        ...


class Gate(Protocol):
    """Decides when a request may ask a backend, where many requests ask it at the same time."""

    async def enter(self, identity: str) -> None:
        """Wait until one more request may ask a backend."""
        ...

    def failed(self, identity: str, error: ErrorInfo) -> None:
        """Take note of an attempt that failed."""
        ...

    def leave(self, identity: str, first_token_s: float | None) -> None:
        """Take note that a request is done with a backend.

        Args:
            identity: the backend's.
            first_token_s: seconds from the attempt's start to its first token; None when it did
                not answer.
        """
        ...


class OpenGate:
    """No gate: every request may ask at once."""

    async def enter(self, identity: str) -> None:
        """Wait for nothing."""

    def failed(self, identity: str, error: ErrorInfo) -> None:
        """Take no note."""

    def leave(self, identity: str, first_token_s: float | None) -> None:
        """Take no note."""


class Controls:
    """What a caller may do while its request runs; of one request at a time."""

    def __init__(self) -> None:
        self._turns: list[asyncio.Timeout] = []

    def move_on(self) -> None:
        """Give up the backend that is being asked, so that the next one is; of two, the first.

        Nothing happens where nobody is asked, or where nobody is left to be.
        """
        if self._turns:
            self._turns.pop(0).reschedule(asyncio.get_running_loop().time())

    @asynccontextmanager
    async def turn(self) -> AsyncGenerator[None]:
        """Let a backend have its turn.

        Raises:
            TimeoutError: the caller has moved on; what was going on is cancelled.
        """
        async with asyncio.timeout(None) as turn:
            self._turns.append(turn)
            try:
                yield
            finally:
                if turn in self._turns:
                    self._turns.remove(turn)


class NoMemory:
    """No memory: every backend is closed, no parameter is known to be rejected."""

    def standings(self, identities: Sequence[str]) -> dict[str, Standing]:
        """Call every backend closed."""
        return {identity: Standing() for identity in identities}

    def acquire_probe(self, identity: str) -> bool:  # noqa: ARG002
        """Let every request through."""
        return True

    def record(self, result: TurnResult) -> None:
        """Forget it."""

    def rejected(self, identity: str) -> frozenset[str]:  # noqa: ARG002
        """Know of none."""
        return frozenset()

    def reject(self, identity: str, parameter: str) -> None:
        """Forget it."""
