"""Show how far a batch is: a bar on a terminal, else one line per second."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from tieredllm.text import pluralize

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import Console
    from rich.progress import Progress

__all__ = ["BatchCounts", "ProgressBar", "ProgressLines", "counts_line", "duration"]

LINE_EVERY_S = 1.0


class BatchCounts(Protocol):
    """What is shown of a batch."""

    total: int
    failed: int
    tokens: int
    waits_until: float | None

    @property
    def tiers(self) -> Mapping[str, int]:
        """How many lines each tier has answered."""
        ...

    @property
    def done(self) -> int:
        """How many lines need not be asked any more."""
        ...

    @property
    def rate(self) -> float:
        """Lines per second."""
        ...

    @property
    def left_s(self) -> float | None:
        """Seconds until the end, as far as can be said."""
        ...


def duration(seconds: float) -> str:
    """Return a duration as `0:07`, `12:05` or `3:00:00`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def tiers_line(tiers: Mapping[str, int]) -> str:
    """Return how many lines each tier has answered, the busiest first."""
    busiest = sorted(tiers.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{name} {count:,}" for name, count in busiest)


def counts_line(counts: BatchCounts, *, with_done: bool = True) -> str:
    """Return where a batch stands, in one line.

    Args:
        counts: the batch's.
        with_done: whether to begin with how many of how many lines are done.
    """
    parts = [f"{counts.done:,} of {pluralize(counts.total, 'line')}"] if with_done else []
    if counts.waits_until is not None:
        wait_s = max(0.0, counts.waits_until - time.monotonic())
        parts.append(f"no tier can answer: waiting {duration(wait_s)}")
    elif counts.left_s is not None:
        parts += [f"{counts.rate:.3g}/s", f"{duration(counts.left_s)} left"]
    if counts.tiers:
        parts.append(tiers_line(counts.tiers))
    if counts.failed:
        parts.append(f"{counts.failed:,} failed")
    if counts.tokens:
        parts.append(f"{counts.tokens:,} tokens")
    return " · ".join(parts)


class ProgressLines:
    """One line per second, for a stderr that is no terminal.

    Args:
        stream: where they go.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._last_at = time.monotonic()

    def show(self, counts: BatchCounts) -> None:
        """Print where it stands, when a second has gone by."""
        now = time.monotonic()
        if now - self._last_at >= LINE_EVERY_S:
            self._last_at = now
            print(counts_line(counts), file=self._stream, flush=True)

    def close(self) -> None:
        """Leave the lines there."""


class ProgressBar:
    """A bar on a terminal's stderr.

    Args:
        console: the terminal.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar: Progress | None = None
        self._task: Any = None

    def show(self, counts: BatchCounts) -> None:
        """Draw it anew."""
        if self._bar is None:
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

            self._bar = Progress(
                BarColumn(bar_width=20),
                MofNCompleteColumn(),
                TextColumn("{task.description}", markup=False),
                console=self._console,
                auto_refresh=False,
                transient=True,
            )
            self._bar.start()
            self._task = self._bar.add_task("", total=counts.total)
        words = counts_line(counts, with_done=False)
        self._bar.update(self._task, completed=counts.done, description=words, refresh=True)

    def close(self) -> None:
        """Take it away."""
        if self._bar is not None:
            self._bar.stop()
