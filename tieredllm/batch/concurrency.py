"""Find out how many requests at once a backend bears: more bit by bit, half after trouble.

Additive increase and multiplicative decrease, as TCP avoids congestion: D. Chiu and R. Jain,
"Analysis of the Increase and Decrease Algorithms for Congestion Avoidance" (1989); the slow start
before the first trouble is that of RFC 5681, section 3.1.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable

from tieredllm.engine.plan import TierPlan
from tieredllm.kinds import ErrorInfo, ErrorKind

__all__ = ["MAX_AT_ONCE", "AdaptiveGate", "Limit"]

MAX_AT_ONCE = 64
"""The most requests at once to one backend when nothing else is asked for."""
START = 8
"""How many go out before anything is known of a backend."""
SLOWER = 2.0
"""By what factor the first token has to come later than at the best of times to mean trouble."""
LEAST_LATER_S = 0.5
"""What it has to come later at least: below that it is noise of the network."""
FORGET = 1.05
"""By what factor the best of times is raised with each look, so that it is forgotten in time."""
MAX_PAUSE_S = 10.0
"""The longest `Retry-After` that holds requests back here. After a longer one the engine sets the
backend aside (`engine.retry.MAX_RETRY_AFTER_S`), and who waits is to learn that."""

CONGESTION = frozenset({ErrorKind.RATE_LIMIT, ErrorKind.SERVICE_UNAVAILABLE, ErrorKind.TIMEOUT})
"""The kinds of errors that less load may cure."""


class Limit:
    """How many requests at once one backend bears, as far as is known. Pure: nothing waits here.

    Args:
        most: the most there may ever be, at least 1.
        is_known: whether the backend bears so many and no more, whatever happens.
    """

    def __init__(self, most: int, *, is_known: bool = False) -> None:
        self._most = most
        self._is_known = is_known
        self._limit = float(most if is_known else min(START, most))
        self._doubling = True
        self._old = 0
        """How many of the requests that were under way at the last trouble are not done yet."""
        self._first_tokens: list[float] = []
        self._best_s: float | None = None

    @property
    def at_once(self) -> int:
        """How many there may be now, at least 1."""
        return int(self._limit)

    def done(self, first_token_s: float | None, *, inside: int) -> None:
        """Take note of a request that has ended.

        Args:
            first_token_s: seconds to its first token; None when it was not answered.
            inside: how many were under way, with this one.
        """
        if self._is_known:
            return
        if self._old:
            self._old -= 1
            return
        if first_token_s is None:
            return
        if inside >= self.at_once:  # what was not made use of says nothing
            self._limit += 1 if self._doubling else 1 / self._limit
            self._limit = min(self._limit, float(self._most))
        self._first_tokens.append(first_token_s)
        if len(self._first_tokens) < max(self.at_once, START):
            return
        mean_s = sum(self._first_tokens) / len(self._first_tokens)
        self._first_tokens.clear()
        best_s = self._best_s
        if best_s is not None and mean_s > max(SLOWER * best_s, best_s + LEAST_LATER_S):
            self.halve(inside=inside - 1)
        self._best_s = mean_s if best_s is None else min(mean_s, best_s * FORGET)

    def halve(self, *, inside: int) -> None:
        """Halve it, once for all requests that are under way.

        Args:
            inside: how many are.
        """
        if self._old or self._is_known:
            return
        self._doubling = False
        self._old = inside
        self._limit = max(1.0, self._limit / 2)
        self._first_tokens.clear()


class _Door:
    """One backend's: who is in, who waits, and until when nobody else may enter."""

    def __init__(self, limit: Limit) -> None:
        self.limit = limit
        self.inside = 0
        self.waiting: deque[asyncio.Future[None]] = deque()
        self.shut_until = float("-inf")
        """On the event loop's clock."""
        self.opens: asyncio.TimerHandle | None = None


class AdaptiveGate:
    """The engine's `Gate`: each backend gets as many requests at once as it bears.

    Args:
        most: the most requests at once to one backend.
    """

    def __init__(self, most: int = MAX_AT_ONCE) -> None:
        self._most = most
        self._doors: dict[str, _Door] = {}

    def bound_all(self, plans: Iterable[TierPlan]) -> None:
        """Take note of the backends that say how many requests they answer at once."""
        for plan in plans:
            for backend in plan.backends:
                at_once = backend.capabilities.at_once
                if at_once is not None:
                    limit = Limit(min(at_once, self._most), is_known=True)
                    self._doors[backend.identity] = _Door(limit)

    async def enter(self, identity: str) -> None:
        """Wait until one more request may ask a backend; first come, first served."""
        door, loop = self._door(identity), asyncio.get_running_loop()
        turn: asyncio.Future[None] = loop.create_future()
        door.waiting.append(turn)
        self._let_in(door)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # let in and called off at the same moment
                self._let_out(door)
            raise

    def failed(self, identity: str, error: ErrorInfo) -> None:
        """Halve the number of requests after trouble, and hold back as long as is asked for."""
        door = self._door(identity)
        if error.kind in CONGESTION:
            door.limit.halve(inside=door.inside)
        if error.retry_after_s is not None and 0 < error.retry_after_s <= MAX_PAUSE_S:
            until = asyncio.get_running_loop().time() + error.retry_after_s
            door.shut_until = max(door.shut_until, until)

    def leave(self, identity: str, first_token_s: float | None) -> None:
        """Let the next request in."""
        door = self._door(identity)
        door.limit.done(first_token_s, inside=door.inside)
        self._let_out(door)

    def _door(self, identity: str) -> _Door:
        if identity not in self._doors:
            self._doors[identity] = _Door(Limit(self._most))
        return self._doors[identity]

    def _let_out(self, door: _Door) -> None:
        door.inside -= 1
        self._let_in(door)

    def _let_in(self, door: _Door) -> None:
        """Let in those who wait, as far as there is room."""
        loop = asyncio.get_running_loop()
        if door.waiting and (left_s := door.shut_until - loop.time()) > 0:
            if door.opens is not None:
                door.opens.cancel()
            door.opens = loop.call_later(left_s, self._let_in, door)
            return
        while door.waiting and door.inside < door.limit.at_once:
            turn = door.waiting.popleft()
            if not turn.done():
                door.inside += 1
                turn.set_result(None)
