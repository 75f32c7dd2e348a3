"""Give the rendering tests a terminal whose screen can be read."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterable

import pyte
from rich.cells import cell_len
from rich.console import Console


class Screen(pyte.HistoryScreen):
    """Take a wide character that no longer fits to the next row, as terminals do and pyte does not.

    pyte 0.8.2 puts it half into the last column.
    """

    def draw(self, data: str) -> None:
        for character in data:
            is_last = self.cursor.x == self.columns - 1
            if is_last and cell_len(character) == 2 and pyte.modes.DECAWM in self.mode:
                self.cursor.x = self.columns
            super().draw(character)


class Terminal(io.StringIO):
    """Be a terminal: what is written to it is kept, and shown on a screen with a scrollback."""

    def __init__(self, width: int = 80, height: int = 24) -> None:
        super().__init__()
        self.screen = Screen(width, height, history=20_000, ratio=0.5)
        self.stream = pyte.Stream(self.screen)

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.stream.feed(text.replace("\n", "\r\n"))  # what the terminal driver does (ONLCR)
        return super().write(text)

    def resize(self, width: int, height: int) -> None:
        self.screen.resize(height, width)

    @property
    def cursor(self) -> tuple[int, int]:
        """The cursor's row (counted with the scrollback) and column."""
        return len(self.screen.history.top) + self.screen.cursor.y, self.screen.cursor.x

    def cells(self) -> list[list[tuple[object, ...]]]:
        """Give every cell up to the last row that was written, scrollback first."""
        buffer = self.screen.buffer
        rows = [*self.screen.history.top, *(buffer[y] for y in range(self.screen.lines))]
        columns = range(self.screen.columns)
        cells = [
            [(row[x].data, row[x].fg, row[x].bg, row[x].bold, row[x].underscore) for x in columns]
            for row in rows
        ]
        while cells and all(cell[0] == " " and cell[2] == "default" for cell in cells[-1]):
            cells.pop()
        return cells

    def lines(self) -> list[str]:
        """Give the text of every row up to the last one that was written, scrollback first."""
        return ["".join(str(cell[0]) for cell in row).rstrip() for row in self.cells()]

    def text(self) -> str:
        return "\n".join(self.lines())


def console_on(terminal: Terminal, *, color: bool = True, dumb: bool = False) -> Console:
    """Make a console for a terminal, whatever the environment of the tests says."""

    class Sized(Console):
        """Ask the test's terminal for its size."""

        @property
        def size(self) -> object:  # type: ignore[override]
            from rich.console import ConsoleDimensions

            return ConsoleDimensions(terminal.screen.columns, terminal.screen.lines)

    return Sized(
        file=terminal,
        force_terminal=True,
        color_system="truecolor" if not dumb else None,
        no_color=not color,
        highlight=False,
        legacy_windows=False,
        _environ={"TERM": "dumb" if dumb else "xterm-256color"},
    )


def pieces(text: str, cuts: Iterable[int]) -> list[str]:
    """Cut a text at some places."""
    edges = [0, *sorted({cut for cut in cuts if 0 < cut < len(text)}), len(text)]
    return [text[a:b] for a, b in itertools.pairwise(edges)]


class FakeClock:
    """Tell a time that only moves when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return self.now
