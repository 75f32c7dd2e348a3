"""Write an answer's text as it comes, as it is."""

from __future__ import annotations

from typing import IO

from tieredllm.render.output import write
from tieredllm.text import TextFilter

__all__ = ["PlainStream"]


class PlainStream:
    """Write one answer; line ends at its end are held back, so that it ends in exactly one.

    Args:
        stream: where it goes.
        to_terminal: whether to clean the text for a terminal. For anything else the text stays as
            it is, but for NUL characters, which cut a text short for most programs that read it.
    """

    def __init__(self, stream: IO[str], *, to_terminal: bool) -> None:
        self._stream = stream
        self._filter = TextFilter() if to_terminal else None
        self._line_ends = ""
        self._has_written = False

    def feed(self, text: str) -> None:
        """Write the next piece.

        Raises:
            BrokenPipeError: nobody reads any more.
        """
        text = text.replace("\0", "") if self._filter is None else self._filter.feed(text)
        text = self._line_ends + text
        body = text.rstrip("\r\n")
        self._line_ends = text[len(body) :]
        if body:
            self._has_written = True
            write(self._stream, body)

    def tick(self) -> None:
        """Do nothing: all there is has been written."""

    def finish(self) -> None:
        """End the last line."""
        self._line_ends = ""
        if self._has_written:
            self._has_written = False
            write(self._stream, "\n")

    def abandon(self) -> None:
        """End the last line of an answer that broke off."""
        self.finish()
