"""Draw with characters: one request's attempts on a time axis, and a row of numbers as a chart."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from tieredllm.render.event_messages import describe_failure
from tieredllm.text import one_line
from tieredllm.types import Attempt

__all__ = ["Lane", "duration", "ending", "sparkline", "time_line"]

WAIT, SILENT, FLOWING, MARK = "·", "─", "━", "✗"
ASCII = {WAIT: ".", SILENT: "-", FLOWING: "=", MARK: "x"}
"""For terminals that cannot show the others."""

NARROWEST = 8
"""Columns the axis has at least, however narrow the terminal."""

LABEL_MOST = 16
"""Columns a tier's name has at most."""

WHY_MOST = 300
"""Characters of an error's message: as many as are ever kept."""


class Lane(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt's line: name, bar and length side by side, and what to say below it."""

    label: str
    """The tier's name, filled up to the width of all labels."""
    before: str
    """From the axis's start: blank, and dots for the wait since the attempt before."""
    bar: str
    """Thin until the first token, thick from then on; a cross when it was passed over."""
    after: str
    """Blank up to the axis's end."""
    length: str
    """How long it took, filled up on the left."""
    outcome: str
    why: str
    """The backend, and why it gave way."""


def time_line(
    attempts: Sequence[Attempt], *, latency_ms: float, width: int, ascii_only: bool = False
) -> list[Lane]:
    """Draw attempts to scale.

    Args:
        attempts: in the order they began.
        latency_ms: how long the whole request took.
        width: how many columns a lane may take, not counting what is said below.
        ascii_only: whether to keep to ASCII.
    """
    from rich.cells import cell_len, set_cell_size

    names = [one_line(attempt.tier) for attempt in attempts]
    label_width = min(max(map(cell_len, names), default=0), LABEL_MOST, max(width // 3, 1))
    lengths = [
        duration(attempt.duration_ms) if attempt.outcome != "skipped" else ""
        for attempt in attempts
    ]
    length_width = max(map(len, lengths), default=0)
    axis = max(width - label_width - length_width - 2, NARROWEST)
    total_ms = max(latency_ms, *(a.started_ms + a.duration_ms for a in attempts), 1e-3)
    lanes: list[Lane] = []
    ended = 0
    for attempt, name, length in zip(attempts, names, lengths, strict=True):
        start, bar = _bar(attempt, total_ms, axis)
        waited = max(start - ended, 0) if attempt.outcome != "skipped" else 0
        before = " " * (start - waited) + WAIT * waited
        after = " " * (axis - start - len(bar))
        if ascii_only:
            before, bar = _in_ascii(before), _in_ascii(bar)
        lanes.append(
            Lane(
                label=set_cell_size(name, label_width),
                before=before,
                bar=bar,
                after=after,
                length=length.rjust(length_width),
                outcome=attempt.outcome,
                why=ending(attempt),
            )
        )
        if attempt.outcome != "skipped":
            ended = max(ended, start + len(bar))
    return lanes


def ending(attempt: Attempt) -> str:
    """Word which backend an attempt asked and how it ended: `openai gpt: failed: timeout`."""
    backend = one_line(" ".join(dict.fromkeys((attempt.provider, attempt.model))))
    if attempt.outcome == "ok":
        return f"{backend}: {one_line(attempt.reason) if attempt.reason else 'answered'}"
    return f"{backend}: {attempt.outcome}: {describe_failure(attempt, WHY_MOST)}"


def duration(ms: float) -> str:
    """Word a length of time: `0.4 ms`, `120 ms`, `1.93 s`, `12.3 s`, `2 min 5 s`."""
    if ms < 9.95:
        return f"{ms:.1f} ms"
    if ms < 999.5:
        return f"{ms:.0f} ms"
    seconds = ms / 1000
    if seconds < 9.995:
        return f"{seconds:.2f} s"
    if seconds < 99.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s"


def _bar(attempt: Attempt, total_ms: float, axis: int) -> tuple[int, str]:
    """Return the column an attempt begins in, and its bar: at least one column, within the axis."""
    start = min(round(attempt.started_ms / total_ms * axis), axis - 1)
    if attempt.outcome == "skipped":
        return start, MARK
    end = round((attempt.started_ms + attempt.duration_ms) / total_ms * axis)
    columns = min(max(end - start, 1), axis - start)
    if attempt.first_token_ms is None:
        flowing = columns if attempt.outcome == "ok" else 0
    else:
        silent = min(attempt.first_token_ms / max(attempt.duration_ms, 1e-3), 1.0)
        flowing = max(columns - int(silent * columns), 1)
    return start, SILENT * (columns - flowing) + FLOWING * flowing


def _in_ascii(text: str) -> str:
    return "".join(ASCII.get(char, char) for char in text)


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
