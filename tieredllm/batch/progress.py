"""Show how far a batch is: a bar on a terminal, else one line per second."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, TextIO

from tieredllm.text import pluralize

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import Console
    from rich.progress import Progress

    from tieredllm.batch.run import Tally

__all__ = ["ProgressBar", "ProgressLines", "tiers_line"]

LINE_EVERY_S = 1.0


def duration(seconds: float) -> str:
    """Return a duration as `0:07`, `12:05` or `3:00:00`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def tiers_line(tiers: Mapping[str, int]) -> str:
    """Return how many lines each tier has answered, the busiest first."""
    busiest = sorted(tiers.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{name} {count:,}" for name, count in busiest)


def counts_line(tally: Tally, *, with_done: bool = True) -> str:
    """Return where a batch stands, in one line.

    Args:
        tally: the batch's.
        with_done: whether to begin with how many of how many lines are done.
    """
    parts = [f"{tally.done:,} of {pluralize(tally.total, 'line')}"] if with_done else []
    if tally.waits_until is not None:
        wait_s = max(0.0, tally.waits_until - time.monotonic())
        parts.append(f"no tier can answer: waiting {duration(wait_s)}")
    elif tally.left_s is not None:
        parts += [f"{tally.rate:.3g}/s", f"{duration(tally.left_s)} left"]
    if tally.tiers:
        parts.append(tiers_line(tally.tiers))
    if tally.failed:
        parts.append(f"{tally.failed:,} failed")
    if tally.tokens:
        parts.append(f"{tally.tokens:,} tokens")
    return " · ".join(parts)


class ProgressLines:
    """One line per second, for a stderr that is no terminal.

    Args:
        stream: where they go.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._last_at = time.monotonic()

    def show(self, tally: Tally) -> None:
        """Print where it stands, when a second has gone by."""
        now = time.monotonic()
        if now - self._last_at >= LINE_EVERY_S:
            self._last_at = now
            print(counts_line(tally), file=self._stream, flush=True)

    def remark(self, line: str) -> None:
        """Print a line of another kind."""
        print(line, file=self._stream, flush=True)

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

    def show(self, tally: Tally) -> None:
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
            self._task = self._bar.add_task("", total=tally.total)
        words = counts_line(tally, with_done=False)
        self._bar.update(self._task, completed=tally.done, description=words, refresh=True)

    def remark(self, line: str) -> None:
        """Print a line above the bar."""
        self._console.print(line, markup=False)

    def close(self) -> None:
        """Take it away."""
        if self._bar is not None:
            self._bar.stop()
