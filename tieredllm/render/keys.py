"""Set what a terminal's keys do, and take the key that moves a request on."""

from __future__ import annotations

import contextlib
import os
import select
from collections.abc import Callable, Iterator
from typing import Any, TextIO

__all__ = ["MoveOnKey", "line_keys", "quiet_keys"]

MOVE_ON = b"\t"


class MoveOnKey:
    """Tab, pressed while an answer is waited for.

    Only a terminal whose keys are this process's own is listened to, and only between `listen` and
    `rest`.

    In a chat the other keys are kept: `take_typed` gives them to who reads next. Elsewhere they are
    the shell's, and nothing of them is read: the terminal goes on taking whole lines, of which a
    Tab ends one, and a line of anything else ends the listening.

    Args:
        stdin: the terminal.
        move_on: what to do when it is pressed.
        keeps_typed: whether somebody reads next, as in a chat.
    """

    name = "Tab"

    def __init__(self, stdin: TextIO, move_on: Callable[[], None], *, keeps_typed: bool) -> None:
        self._stdin = stdin
        self._move_on = move_on
        self._keeps_typed = keeps_typed
        self._typed = b""
        self._mode = contextlib.ExitStack()
        self._is_listening = False
        self._is_over = False
        """Whether what is typed is for the shell, or the terminal is gone."""

    def listen(self) -> bool:
        """Act on the key if it was pressed; to be called often. Return whether it would be seen."""
        if self._is_over or not _is_ours(self._stdin):
            return False
        if self._is_listening and not self._is_set():
            self.rest()  # a shell had stopped this process, and has set its terminal back
        if not self._is_listening:
            listening = quiet_keys if self._keeps_typed else tab_ends_lines
            self._mode.enter_context(listening(self._stdin))
            self._is_listening = True
        if select.select([self._stdin], [], [], 0)[0]:
            self._take(_waiting_bytes(self._stdin))
        return self._is_listening

    def rest(self) -> None:
        """Leave the terminal as it was, until `listen` is called again."""
        self._is_listening = False
        self._mode.close()

    def take_typed(self) -> bytes:
        """Return the other keys that were pressed, once."""
        typed, self._typed = self._typed, b""
        return typed

    def _take(self, count: int) -> None:
        """Read what is waiting, if it is for us.

        Args:
            count: its bytes; 0 at the end of the input.
        """
        if not count or (count > 1 and not self._keeps_typed):
            self._is_over = True
            self.rest()
            return
        data = os.read(self._stdin.fileno(), count)
        if not data.strip(MOVE_ON):
            self._move_on()
        elif self._keeps_typed:
            self._typed += data

    def _is_set(self) -> bool:
        import termios

        mode = termios.tcgetattr(self._stdin.fileno())
        if self._keeps_typed:
            return not mode[3] & termios.ICANON
        return bool(mode[6][termios.VEOL] == MOVE_ON)


def _is_ours(stdin: TextIO) -> bool:
    """Whether a terminal's keys come to this process: reading in the background would stop it."""
    try:
        return os.tcgetpgrp(stdin.fileno()) == os.getpgrp()
    except (AttributeError, OSError, ValueError):  # no POSIX system, or no terminal
        return False


def _waiting_bytes(stdin: TextIO) -> int:
    """Return how many bytes can be read now; of whole lines, where a terminal takes those."""
    import array
    import fcntl
    import termios

    count = array.array("i", [0])
    fcntl.ioctl(stdin.fileno(), termios.FIONREAD, count)
    return count[0]


@contextlib.contextmanager
def quiet_keys(stdin: TextIO | None) -> Iterator[None]:
    """Turn a terminal's echo off, but leave Ctrl-C and Ctrl-Z working.

    Keys typed meanwhile wait in the terminal's input, one by one (not line by line), as the next
    prompt wants them. Does nothing where there is no terminal, or no POSIX one.

    Args:
        stdin: the terminal.
    """

    def change(mode: list[Any]) -> None:
        import termios

        mode[0] &= ~termios.ICRNL  # Enter stays Enter: line feed is another key
        mode[3] &= ~(termios.ECHO | termios.ICANON)

    with _changed(stdin, change):
        yield


@contextlib.contextmanager
def line_keys(stdin: TextIO | None) -> Iterator[None]:
    """Let a terminal take a line with echo for a while: a question, or an editor, needs it.

    Args:
        stdin: the terminal.
    """

    def change(mode: list[Any]) -> None:
        import termios

        mode[0] |= termios.ICRNL
        mode[3] |= termios.ECHO | termios.ICANON

    with _changed(stdin, change):
        yield


@contextlib.contextmanager
def tab_ends_lines(stdin: TextIO | None) -> Iterator[None]:
    """Let a Tab end a line of a terminal, as Enter does.

    Args:
        stdin: the terminal.
    """

    def change(mode: list[Any]) -> None:
        import termios

        mode[6][termios.VEOL] = MOVE_ON

    with _changed(stdin, change):
        yield


@contextlib.contextmanager
def _changed(stdin: TextIO | None, change: Callable[[list[Any]], None]) -> Iterator[None]:
    """Change what `termios.tcgetattr` gives of a terminal, for a while."""
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
    change(wanted)
    with contextlib.suppress(termios.error):
        termios.tcsetattr(descriptor, termios.TCSANOW, wanted)
    try:
        yield
    finally:
        with contextlib.suppress(termios.error):
            termios.tcsetattr(descriptor, termios.TCSANOW, former)
