"""Write text to a stream that may not be able to take every character."""

from __future__ import annotations

from typing import IO

__all__ = ["write"]


def write(stream: IO[str], text: str) -> None:
    """Write and flush; what the stream's encoding lacks becomes a question mark.

    Raises:
        BrokenPipeError: nobody reads the stream any more.
    """
    if not text:
        return
    try:
        stream.write(text)
    except UnicodeEncodeError:
        encoding = getattr(stream, "encoding", None) or "ascii"
        stream.write(text.encode(encoding, "replace").decode(encoding))
    stream.flush()
