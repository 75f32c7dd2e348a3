"""Keep the last rows on a terminal replaceable, until they are settled."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from tieredllm.render.markdown_style import Row

__all__ = ["LiveRegion", "rewraps_on_resize"]

_BEGIN, _END = "\x1b[?2026h", "\x1b[?2026l"
"""Synchronized output (https://gist.github.com/christianparpart/d8a62cc1ab659194337d73e399004036):
a terminal that knows it shows the whole change at once, any other ignores it."""

_NO_WRAP, _WRAP = "\x1b[?7l", "\x1b[?7h"
"""DECAWM: a row whose characters the terminal finds wider than we do must not become two rows."""

_ERASE_ROW, _UP = "\x1b[2K", "\x1b[A"
"""EL and CUU. Never ED: what it erases from the top of the screen, tmux takes for scrollback."""


class LiveRegion:
    """Rows below what is on the screen, of which only what has changed is redrawn.

    Rich's `Live` (15.0) does not serve: it redraws all its rows each time, which flickers, cuts off
    what is higher than the screen instead of letting it scroll away, and hides the cursor.

    Between two updates the cursor stands behind the last row. Settled rows are written once and
    scroll away like any output; live rows are replaced by the next update.

    Args:
        write: writes to the terminal, and flushes.
        rewraps: whether the terminal wraps its rows anew when it becomes narrower.
    """

    def __init__(self, write: Callable[[str], None], *, rewraps: bool) -> None:
        self._write = write
        self._rewraps = rewraps
        self._live: list[Row] = []
        self._at_line_start = True

    def update(self, settled: Sequence[Row], live: Sequence[Row], *, width: int) -> None:
        """Replace the live rows.

        Args:
            settled: rows to be written for good, in the place of the live ones.
            live: rows below them that the next update replaces; fewer than the terminal has.
            width: the terminal's columns, at least 1; no row is wider.
        """
        # A live row is one row of the screen; settled ones are of lines that the terminal breaks.
        live = [Row(row.text, row.cells) for row in live]
        old, new = self._live, [*settled, *live]
        kept = _common(old, new)
        if kept == len(old) == len(new):
            self._live = list(live)
            return
        if kept == len(new) and kept:
            kept -= 1  # the cursor must come to stand behind a row
        out = [_BEGIN]
        if kept < len(old):
            out.append(self._way_up(kept, width))
        elif not self._at_line_start:
            out.append("\n")
        first_live = max(len(settled), kept)
        for row in new[kept:first_live]:
            out.append(row.text)
            out.append("" if row.goes_on else "\n")
        if first_live < len(new):
            rows = "\n".join(row.text for row in new[first_live:])
            out.append(_NO_WRAP + rows + _WRAP)
        elif kept < first_live:
            out[-1] = ""  # the cursor stays behind the last row
        out.append(_END)
        self._live = list(live)
        self._at_line_start = not new
        self._write("".join(out))

    def close(self) -> None:
        """Leave the rows as they are and put the cursor on a fresh line."""
        self._live = []
        if not self._at_line_start:
            self._at_line_start = True
            self._write("\n")

    def _way_up(self, kept: int, width: int) -> str:
        """Go from the end of the live rows to the start of one, erasing them all.

        What has left the screen since, because it became smaller, cannot be reached: there the
        terminal stops the cursor at the top.

        Args:
            kept: the row to go to; the rows above it fit the width.
            width: the terminal's columns now.
        """
        count = len(self._live) - kept
        if self._rewraps:
            count = sum(max(1, -(-row.cells // width)) for row in self._live[kept:])
        return "\r" + _UP.join([_ERASE_ROW] * count)


def _common(old: Sequence[Row], new: Sequence[Row]) -> int:
    """Count the rows at the start that are the same."""
    count = 0
    for before, after in zip(old, new, strict=False):
        if before != after:
            break
        count += 1
    return count


def rewraps_on_resize(env: Mapping[str, str]) -> bool:
    """Tell whether the terminal wraps its rows anew when it becomes narrower.

    Nearly all do; xterm, rxvt, GNU screen and the Linux console cut them off.
    """
    term = env.get("TERM", "")
    if "TMUX" in env:
        return True
    return "XTERM_VERSION" not in env and not term.startswith(("linux", "rxvt", "screen", "vt"))
