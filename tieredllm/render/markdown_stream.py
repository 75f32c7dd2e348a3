"""Show Markdown on a terminal while it comes.

It is our own for a contract that no library we know of keeps: what stays on the screen is, cell by
cell, what rendering the whole text at once would give; a settled row never changes, so that the
scrollback is whole and nothing flickers; and the work is linear in the answer's length. Rendering
the whole text anew for each piece (aider's `mdstream.py`, rich's `Live(Markdown(...))`) is some 120
lines, quadratic, and draws ever more seldom to hide it; Textual wants the screen for itself.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from rich.console import Console

from tieredllm.clock import Clock, SystemClock
from tieredllm.render.live_region import LiveRegion, rewraps_on_resize
from tieredllm.render.markdown_blocks import BlockParser, Unit, final_units
from tieredllm.render.markdown_style import Row, Rows
from tieredllm.render.plain import write
from tieredllm.text import TextFilter

__all__ = ["MarkdownStream"]

_FRAME_S = 0.05
"""Seconds between two redraws at least: twenty a second look smooth."""

_REST = 4.0
"""How many times as long as a redraw took nothing is drawn: at most a fifth of the time is spent on
drawing, however long the unfinished block is, so the work stays linear in the answer's length."""


class MarkdownStream:
    """Show one answer.

    Blocks and list items that are complete are written for good and scroll away; the last,
    unfinished one is redrawn in place. It never takes more rows than the screen has: code that is
    longer scrolls line by line, anything else shows its end until it is complete and is then
    written in full. What stays is what rendering the whole text at once would give.

    Args:
        console: a terminal that takes colours.
        clock: tells when to redraw.
        frame_s: seconds between two redraws; 0 redraws with each piece.
        rewraps: whether the terminal wraps rows anew when it is resized; None asks the environment.
    """

    def __init__(
        self,
        console: Console,
        *,
        clock: Clock | None = None,
        frame_s: float = _FRAME_S,
        rewraps: bool | None = None,
    ) -> None:
        self._console = console
        self._clock = clock or SystemClock()
        self._frame_s = frame_s
        self._next_draw = float("-inf")
        self._drawn_size: tuple[int, int] | None = None
        self._filter = TextFilter()
        self._parser = BlockParser()
        self._rows = Rows(console)
        rewraps = rewraps_on_resize(os.environ) if rewraps is None else rewraps
        self._region = LiveRegion(lambda text: write(console.file, text), rewraps=rewraps)
        self._source = ""
        """What is not written for good yet, from the start of a unit."""
        self._pieces: list[str] = []
        """What came after it and was not drawn yet."""
        self._has_new_line = False
        self._goes_on_from: Unit | None = None
        """The list item before the source, when the source goes on with its list."""
        self._anything_written = False
        self._code_lines = 0
        """How many lines of the code block that the source begins with are written for good."""

    def feed(self, text: str) -> None:
        """Take the next piece of the answer, and draw if it is time to.

        Raises:
            BrokenPipeError: nobody reads the terminal any more.
        """
        text = self._filter.feed(text)
        if not text:
            return
        self._pieces.append(text)
        self._has_new_line = self._has_new_line or "\n" in text
        self.tick()

    def tick(self) -> None:
        """Draw what has come since the last time, if it is time to; also after a resize."""
        size = self._size()
        if self._pieces or (self._drawn_size not in (None, size)):
            now = self._clock.monotonic()
            if now >= self._next_draw:
                self._draw(size)
                done = self._clock.monotonic()
                self._next_draw = done + max(self._frame_s, _REST * (done - now))

    def finish(self) -> None:
        """Write the rest for good and put the cursor on a fresh line."""
        self._take_pieces()
        units = self._parser.units(self._source, self._goes_on_from)
        self._close([self._parser.finish(unit) for unit in units])

    def abandon(self) -> None:
        """Leave what came of an answer that broke off, and put the cursor on a fresh line."""
        self._take_pieces()
        self._close(self._parser.preview(self._source, self._goes_on_from))

    def _close(self, units: Sequence[Unit]) -> None:
        width, _ = self._size()
        rows: list[Row] = []
        for unit in units:
            rows += self._settle(unit, width)
        self._source = ""
        self._drawn_size = None
        self._region.update(rows, [], width=width)
        self._region.close()

    def _size(self) -> tuple[int, int]:
        size = self._console.size
        return max(size.width, 1), max(size.height, 1)

    def _take_pieces(self) -> None:
        self._source = "".join([self._source, *self._pieces])
        self._pieces.clear()

    def _draw(self, size: tuple[int, int]) -> None:
        width, height = size
        self._take_pieces()
        settled = self._settle_complete(width) if self._has_new_line else []
        self._has_new_line = False
        scrolled, live = self._live_rows(width, max(height - 1, 1))
        self._drawn_size = size
        self._region.update([*settled, *scrolled], live, width=width)

    def _settle_complete(self, width: int) -> list[Row]:
        """Return the rows of the units that are complete now, and take them from the source."""
        complete = self._source[: self._source.rfind("\n") + 1]
        units = self._parser.units(complete, self._goes_on_from)
        lines = complete.split("\n")
        final = final_units(units, lines)
        if not final:
            return []
        rows: list[Row] = []
        for unit in final:
            rows += self._settle(self._parser.finish(unit), width)
        following = units[len(final)]
        self._goes_on_from = final[-1] if following.in_list else None
        self._source = self._source[sum(len(line) + 1 for line in lines[: following.start]) :]
        return rows

    def _settle(self, unit: Unit, width: int) -> list[Row]:
        rows = self._unit_rows(unit, width, skip=self._code_lines, first=not self._anything_written)
        self._code_lines = 0
        self._anything_written = self._anything_written or bool(rows)
        return rows

    def _unit_rows(self, unit: Unit, width: int, *, skip: int, first: bool) -> list[Row]:
        """Render a unit, with a blank row above it unless it is the first or goes on with a list.

        Args:
            unit: parsed all the way.
            width: the terminal's columns.
            skip: how many of its first lines of code to leave out.
            first: whether nothing is above it.
        """
        if unit.is_code:
            lines = self._rows.code(unit.tokens[0], width)[skip:]
            rows = [row for line in lines for row in line]
        else:
            rows = self._rows.block(unit.tokens, width)
        if rows and unit.set_off and not (first or skip):
            return [Row("", 0), *rows]
        return rows

    def _live_rows(self, width: int, limit: int) -> tuple[list[Row], list[Row]]:
        """Render what is unfinished.

        Args:
            width: the terminal's columns.
            limit: the most rows that may be live.

        Returns:
            Rows of code that are complete and scroll away; and the live rows.
        """
        units = self._parser.preview(self._source, self._goes_on_from)
        if units and units[-1].may_become_a_table:
            units.pop()
        rows: list[Row] = []
        for index, unit in enumerate(units):
            first = not (self._anything_written or rows)
            skip = 0 if index else self._code_lines
            rows += self._unit_rows(unit, width, skip=skip, first=first)
        if len(rows) <= limit:
            return [], rows
        count = self._scroll_code(units[0], width, len(rows) - limit) if units[0].is_code else 0
        return rows[:count], rows[count:][-limit:]

    def _scroll_code(self, unit: Unit, width: int, wanted: int) -> int:
        """Settle lines of code until at least so many rows are settled; give how many are.

        The last line stays: it may be incomplete.
        """
        lines = self._rows.code(unit.tokens[0], width)[self._code_lines :]
        count = 1 if self._anything_written and not self._code_lines else 0
        for line in lines[:-1]:
            if count >= wanted:
                break
            count += len(line)
            self._code_lines += 1
        if not self._code_lines:
            return 0
        self._anything_written = True
        return count
