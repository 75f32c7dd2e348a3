"""Decide what Ctrl-C means where nothing is running."""

from __future__ import annotations

from enum import Enum

from tieredllm.clock import Clock, SystemClock

__all__ = ["Interrupts", "Meaning"]

STILL_STOPPING_S = 0.7
"""Who has just stopped an answer may press the key once more than needed: that is no new wish."""

TWICE_S = 3.0
"""Two presses within this many seconds are meant together."""


class Meaning(Enum):
    """Say what to do."""

    NOTHING = "nothing"
    HINT = "hint"
    LEAVE = "leave"


class Interrupts:
    """Remember when Ctrl-C was pressed.

    At an empty prompt the first press gets a hint, the second one leaves.

    Args:
        clock: the time.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._stopped_at = float("-inf")
        self._hinted_at = float("-inf")

    def stopped(self) -> None:
        """Note that it stopped something."""
        self._stopped_at = self._clock.monotonic()

    def pressed(self) -> Meaning:
        """Say what one more press at an empty prompt means."""
        now = self._clock.monotonic()
        if now - self._stopped_at < STILL_STOPPING_S:
            return Meaning.NOTHING
        if now - self._hinted_at < TWICE_S:
            return Meaning.LEAVE
        self._hinted_at = now
        return Meaning.HINT
