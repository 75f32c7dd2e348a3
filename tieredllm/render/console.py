"""A console that passes no control character on, whoever wrote the text."""

from __future__ import annotations

import os
from collections.abc import Iterable

from rich.console import Console, ConsoleDimensions, ConsoleOptions, RenderableType
from rich.segment import Segment

from tieredllm.text import clean

__all__ = ["SafeConsole"]


class SafeConsole(Console):
    """Rich's console, which cleans the text of whatever it draws.

    Names of files, profiles and models, descriptions and questions are shown in many places; all of
    them come by here. Rich itself takes only BEL, BS, VT, FF and CR away. What is a control to rich
    (moving the cursor) and a style (colour, a link) is no text, and stays.
    """

    @property  # type: ignore[misc] # nobody sets it
    def size(self) -> ConsoleDimensions:
        """How much there is room for: what `COLUMNS` and `LINES` say, up to what there is.

        They are what a shell knew when it exported them. In a window that is narrower now, rows
        that the terminal is told not to wrap would lose what is beyond its edge.
        """
        width, height = super().size
        try:
            real = os.get_terminal_size(self.file.fileno())
        except (AttributeError, OSError, ValueError):
            return ConsoleDimensions(width, height)
        return ConsoleDimensions(
            min(width, real.columns or width), min(height, real.lines or height)
        )

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Yield the segments of something to draw."""
        for segment in super().render(renderable, options):
            text, style, control = segment
            if control or text.isprintable() or text == "\n":
                yield segment
            else:
                yield Segment(clean(text), style)
