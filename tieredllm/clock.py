"""Tell the time, in a way that tests can replace, and write it down."""

from __future__ import annotations

import time
from typing import Protocol

__all__ = ["Clock", "SystemClock", "iso"]


class Clock(Protocol):
    """The time, two ways."""

    def monotonic(self) -> float:
        """Return seconds that never go back; only differences mean something."""
        ...

    def wall(self) -> float:
        """Return seconds since the epoch (UTC): what other processes can compare with."""
        ...


class SystemClock:
    """The machine's time."""

    def monotonic(self) -> float:
        """Return `time.monotonic()`, the clock of asyncio's own timers."""
        return time.monotonic()

    def wall(self) -> float:
        """Return `time.time()`."""
        return time.time()


def iso(at: float, *, ms: bool = False) -> str:
    """Return a wall-clock time as ISO 8601 in UTC.

    Args:
        at: seconds since the epoch.
        ms: to the millisecond, for what a program waits for; else to the second.
    """
    seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at))
    return f"{seconds}.{int(at % 1 * 1000):03}Z" if ms else f"{seconds}Z"
