"""Name the end of work that was stopped on purpose."""

from __future__ import annotations

__all__ = ["StoppedError"]


class StoppedError(Exception):
    """Say that work was stopped because nobody waits for it any more."""
