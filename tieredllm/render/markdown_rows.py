"""Render parsed Markdown into rows of a terminal's screen."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import msgspec
from markdown_it.token import Token
from rich.color import ColorSystem
from rich.console import Console, ConsoleOptions
from rich.segment import Segment
from rich.style import Style

from tieredllm.render.markdown_elements import Document, code_lines, trimmed
from tieredllm.text import clean

__all__ = ["Row", "Rows"]

_COLOR_SYSTEMS = {
    "standard": ColorSystem.STANDARD,
    "256": ColorSystem.EIGHT_BIT,
    "truecolor": ColorSystem.TRUECOLOR,
    "windows": ColorSystem.STANDARD,
}
"""What rich calls the colour systems: `Console.color_system` against `Style.render`."""

_SAFE_URL = re.compile(r"(?:https?|mailto):[\x21-\x7e]{1,2000}", re.IGNORECASE)
"""A destination that may be made clickable: nothing local, no code, only printable ASCII."""


class Row(msgspec.Struct, frozen=True):
    """Hold one row of the screen."""

    text: str
    """What is written: clean text and this program's own escape sequences, no line end."""
    cells: int
    """The columns it takes."""


class Rows:
    """Render blocks for one console.

    Every text that gets into a row is cleaned here, whatever the parser made of it: an entity such
    as `&#x202e;` is only now a character.

    Args:
        console: whose colours and theme are used; nothing is written to it.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._document = Document()  # once: it comes with a parser of its own
        system = console.color_system
        self._colors = _COLOR_SYSTEMS.get(system) if system is not None else None

    def block(self, tokens: Sequence[Token], width: int) -> list[Row]:
        """Render the tokens of one block, without blank rows above and below it."""
        options = self._options(width)
        self._document.parsed = list(tokens)
        lines = self._console.render_lines(self._document, options, pad=False)
        return [self._row(line) for line in trimmed(lines)]

    def code(self, token: Token, width: int) -> list[list[Row]]:
        """Render a fenced block: the rows of each line of code, without blank ones at its end."""
        lines = code_lines(self._console, self._options(width), token.content, token.info)
        return [[self._row(row) for row in line] for line in lines]

    def _options(self, width: int) -> ConsoleOptions:
        return self._console.options.update(width=width, height=None)

    def _row(self, line: Iterable[Segment]) -> Row:
        parts: list[str] = []
        cells = 0
        for segment in self._unpadded(line):
            text = clean(segment.text).replace("\n", " ")
            cells += Segment(text).cell_length
            parts.append(self._styled(text, segment.style))
        return Row("".join(parts), cells)

    def _unpadded(self, line: Iterable[Segment]) -> list[Segment]:
        """Leave out spaces at the end that nobody sees: they would wrap, and be copied."""
        segments = list(Segment.remove_color(line) if self._console.no_color else line)
        while segments:
            text, style, _ = segments[-1]
            if style is not None and (style.bgcolor or style.underline or style.reverse):
                break
            segments.pop()
            if kept := text.rstrip():
                segments.append(Segment(kept, style))
                break
        return segments

    def _styled(self, text: str, style: Style | None) -> str:
        if style is None or self._colors is None:
            return text
        link = style.link
        if link is None:
            return style.render(text, color_system=self._colors)
        # Rich gives each link a random id, which would make equal rows differ.
        styled = style.update_link(None).render(text, color_system=self._colors)
        if not _SAFE_URL.fullmatch(link):
            return styled
        return f"\x1b]8;;{link}\x1b\\{styled}\x1b]8;;\x1b\\"
