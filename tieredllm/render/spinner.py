"""Say on the error stream what is being waited for, in one line that is gone when it is over."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING

from tieredllm.clock import Clock, SystemClock
from tieredllm.render.event_messages import called_tools, describe_error
from tieredllm.render.plain import write
from tieredllm.text import one_line
from tieredllm.types import (
    Answered,
    AttemptFailed,
    AttemptStarted,
    Event,
    RetryScheduled,
    Thought,
    Token,
    ToolsWanted,
)

if TYPE_CHECKING:
    from rich.console import Console

    from tieredllm.render.keys import MoveOnKey

__all__ = ["Spinner"]

_SHOWN_AFTER_S = 0.2
"""Seconds of waiting before anything is shown: a fast answer needs no spinner."""

_FRAMES = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_ASCII_FRAMES = "|/-\\"


class Spinner:
    """Draw a line while no token has come.

    It says who is asked, for how long it has been, who is next and when, and the key that moves on:
    `⠹ primary (gpt-5.5) · 3 s → secondary at 10 s (Tab: now)`.

    There is no thread: the caller calls `tick` some ten times a second. The line is drawn with
    carriage returns and spaces alone, and the cursor is left in its first column, so there is
    nothing to restore, whatever becomes of the program. That is why it isn't rich's `Status`
    (15.0): it draws at once instead of after 0.2 s, on a thread of its own, and hides the cursor,
    which stays hidden after SIGKILL.

    Args:
        console: for the error stream; nothing is shown unless it is a terminal that can do this.
        enabled: False to show nothing at all.
        key: moves the request on; None where nobody could press it.
        clock: tells how long it has been.
    """

    def __init__(
        self,
        console: Console,
        *,
        enabled: bool = True,
        key: MoveOnKey | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._console = console
        self._clock = clock or SystemClock()
        self._enabled = enabled and console.file.isatty() and not console.is_dumb_terminal
        self._key = key
        self._waits: dict[str, Callable[[float], tuple[str, str]]] = {}
        self._asked: AttemptStarted | None = None
        """The attempt that is waited for alone."""
        self._until: float | None = None
        """When its wait for a token is over, at the latest, on the clock."""
        self._since: float | None = None
        self._drawn_cells = 0
        self._paused = False
        encoding = (getattr(console.file, "encoding", None) or "utf-8").lower()
        self._fancy = encoding.replace("-", "").startswith("utf")
        self._frames = itertools.cycle(_FRAMES if self._fancy else _ASCII_FRAMES)

    def take(self, event: Event) -> None:
        """Follow the request: what is waited for, and when the waiting is over."""
        match event:
            case AttemptStarted():
                self._wait_for(event.tier, _asked(event))
                self._asked, self._until = event, None
                if event.until_s is not None:
                    self._until = self._clock.monotonic() + event.until_s
            case RetryScheduled():
                now = self._clock.monotonic()
                self._until = None
                self._wait_for(event.tier, _again(event, at=now + event.wait_s))
            case ToolsWanted():
                line = called_tools(event.tier, event.names)
                self._until = None
                self._wait_for(event.tier, lambda _now: (line, ""))
            case Thought() if self._waits:
                self._until = None  # who thinks is not silent
                self._wait_for(event.tier, _thinking(event))
            case AttemptFailed():
                self._waits.pop(event.attempt.tier, None)
            case Token() | Answered():
                self.stop()

    def tick(self) -> None:
        """Draw the line anew, once there has been something to wait for long enough."""
        if not self._enabled or self._paused or not self._waits or self._since is None:
            return
        now = self._clock.monotonic()
        waited_s = now - self._since
        if waited_s < _SHOWN_AFTER_S:
            return
        parts = [describe(now) for describe in self._waits.values()]
        if len(parts) == 1:
            head, detail = parts[0]
        else:
            head, detail = " and ".join(self._waits), ""
        key = self._key if self._key is not None and self._has_next and self._key.listen() else None
        line = self._fitted(head, detail, int(waited_s), self._next(key))
        self._draw(f"{next(self._frames)} {line}")

    def pause(self) -> None:
        """Take the line off the screen and draw none, until `resume`."""
        self.clear()
        self._rest()
        self._paused = True

    def resume(self) -> None:
        """Draw again from the next `tick` on."""
        self._paused = False

    def clear(self) -> None:
        """Take the line off the screen; the next `tick` brings it back."""
        if self._drawn_cells:
            blank = " " * self._drawn_cells
            self._drawn_cells = 0
            write(self._console.file, f"\r{blank}\r")

    def _rest(self) -> None:
        if self._key is not None:
            self._key.rest()

    def stop(self) -> None:
        """Take the line off the screen and wait for nothing more."""
        self.clear()
        self._rest()
        self._waits.clear()
        self._asked = self._until = self._since = None

    def _wait_for(self, tier: str, describe: Callable[[float], tuple[str, str]]) -> None:
        if self._since is None:
            self._since = self._clock.monotonic()
        self._waits[tier] = describe

    @property
    def _has_next(self) -> bool:
        return self._asked is not None and self._asked.next_tier is not None

    def _next(self, key: MoveOnKey | None) -> str:
        """Say who is next and when, and which key asks it now."""
        asked = self._asked
        if asked is None or asked.next_tier is None:
            return ""
        following = asked.next_tier if asked.next_tier != asked.tier else asked.next_model
        at = ""
        if self._until is not None and self._since is not None and len(self._waits) == 1:
            at = f" at {self._until - self._since:.0f} s"
        now = f" ({key.name}: now)" if key is not None else ""
        arrow = "→" if self._fancy else "->"
        return f" {arrow} {one_line(following or '', 40)}{at}{now}" if at or now else ""

    def _fitted(self, head: str, detail: str, waited_s: int, following: str) -> str:
        """Shorten the line so that it leaves the last column free.

        First the detail goes, then who is next, then the head is cut.
        """
        tail = f" {'·' if self._fancy else '-'} {waited_s} s"
        if len(head) + len(tail) + len(following) < self._console.width - 3:
            tail += following
        room = max(self._console.width - 3 - len(tail), 0)
        head = self._cut(head, room)
        detail = self._cut(detail, room - len(head))
        return head + detail + tail

    def _cut(self, text: str, limit: int) -> str:
        if len(text) <= limit:
            return text
        mark = "…" if self._fancy else "..."
        return text[: limit - len(mark)].rstrip() + mark if limit > len(mark) + 3 else ""

    def _draw(self, line: str) -> None:
        from rich.cells import cell_len, set_cell_size

        room = max(self._console.width - 1, 1)
        if cell_len(line) > room:
            line = set_cell_size(line, room)
        cells = cell_len(line)
        padding = " " * min(max(self._drawn_cells - cells, 0), room - cells)
        self._drawn_cells = cells
        write(self._console.file, f"\r{line}{padding}\r")


def _asked(event: AttemptStarted) -> Callable[[float], tuple[str, str]]:
    again = f", try {event.number}" if event.number > 1 else ""
    model = f" ({one_line(event.model)})" if event.model else ""
    return lambda _now: (f"{one_line(event.tier)}{again}", model)


def _thinking(event: Thought) -> Callable[[float], tuple[str, str]]:
    line = f"{one_line(event.tier)} is thinking"
    return lambda _now: (line, "")


def _again(event: RetryScheduled, *, at: float) -> Callable[[float], tuple[str, str]]:
    why = describe_error(event.error)
    return lambda now: (
        f"{one_line(event.tier)} again in {max(at - now, 0.0):.0f} s",
        f": {why}",
    )
