"""Draw a row of numbers as a chart one line high."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["sparkline"]

BARS = "▁▂▃▄▅▆▇█"
ASCII_BARS = "_.-=+*%#"
"""For terminals that cannot show the others."""


def sparkline(
    values: Sequence[float | None], *, top: float | None = None, ascii_only: bool = False
) -> str:
    """Draw one character per number: its height is the number's share of the largest.

    Args:
        values: numbers from 0; None, where there is none, leaves a space.
        top: what the full height stands for; the largest number when None.
        ascii_only: whether to keep to ASCII.
    """
    bars = ASCII_BARS if ascii_only else BARS
    known = [value for value in values if value is not None]
    if top is None:
        top = max(known, default=0.0)
    return "".join(" " if value is None else bars[_height(value, top)] for value in values)


def _height(value: float, top: float) -> int:
    if top <= 0 or value <= 0:
        return 0
    return min(int(value / top * len(BARS)), len(BARS) - 1)
