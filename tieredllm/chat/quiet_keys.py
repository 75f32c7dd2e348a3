"""Keep what is typed between two prompts off the screen, for the next one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TextIO

__all__ = ["line_keys", "quiet_keys"]


@contextlib.contextmanager
def quiet_keys(stdin: TextIO | None) -> Iterator[None]:
    """Turn a terminal's echo off, but leave Ctrl-C and Ctrl-Z working.

    Keys typed meanwhile wait in the terminal's input, one by one (not line by line), as the next
    prompt wants them. Does nothing where there is no terminal, or no POSIX one.

    Args:
        stdin: the terminal.
    """
    with _keys(stdin, quiet=True):
        yield


@contextlib.contextmanager
def line_keys(stdin: TextIO | None) -> Iterator[None]:
    """Let a terminal take a line with echo for a while: a question, or an editor, needs it.

    Args:
        stdin: the terminal.
    """
    with _keys(stdin, quiet=False):
        yield


@contextlib.contextmanager
def _keys(stdin: TextIO | None, *, quiet: bool) -> Iterator[None]:
    try:
        import termios

        if stdin is None or not stdin.isatty():
            yield
            return
        descriptor = stdin.fileno()
        former = termios.tcgetattr(descriptor)
    except (ImportError, OSError, ValueError):
        yield
        return
    wanted = termios.tcgetattr(descriptor)
    if quiet:
        wanted[0] &= ~termios.ICRNL  # Enter stays Enter: line feed is another key
        wanted[3] &= ~(termios.ECHO | termios.ICANON)
    else:
        wanted[0] |= termios.ICRNL
        wanted[3] |= termios.ECHO | termios.ICANON
    with contextlib.suppress(termios.error):
        termios.tcsetattr(descriptor, termios.TCSANOW, wanted)
    try:
        yield
    finally:
        with contextlib.suppress(termios.error):
            termios.tcsetattr(descriptor, termios.TCSANOW, former)
