"""Tell the time, in a way that tests can replace, and write it down."""

from __future__ import annotations

import time
from typing import Protocol

__all__ = ["Clock", "SystemClock", "iso"]


class Clock(Protocol):
    """Tell the time two ways."""

    def monotonic(self) -> float:
        """Give seconds that never go back; only differences mean something."""
        ...

    def wall(self) -> float:
        """Give seconds since the epoch (UTC): what other processes can compare with."""
        ...


class SystemClock:
    """Tell the machine's time."""

    def monotonic(self) -> float:
        """Give `time.monotonic()`, the clock of asyncio's own timers."""
        return time.monotonic()

    def wall(self) -> float:
        """Give `time.time()`."""
        return time.time()


def iso(at: float) -> str:
    """Return a wall-clock time in ISO 8601, in UTC and to the millisecond.

    Args:
        at: seconds since the epoch.
    """
    from datetime import UTC, datetime

    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")
