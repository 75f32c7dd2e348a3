"""Set what a terminal's keys do, and take the key that moves a request on."""

from __future__ import annotations

import contextlib
import os
import select
from collections.abc import Callable, Iterator
from typing import TextIO

from tieredllm.clock import Clock, SystemClock

__all__ = ["MoveOnKey", "line_keys", "quiet_keys"]

MOVE_ON = b"\t"

SHELL_GRACE_S = 2.0
"""Seconds that keys are left to the shell before the key is listened for: who types its next
command meanwhile loses nothing."""


class MoveOnKey:
    """Tab, pressed while an answer is waited for.

    Only a terminal whose keys are this process's own is listened to, and only between `listen` and
    `rest`. Other keys are kept: `take_typed` gives them to who reads next.

    Args:
        stdin: the terminal.
        move_on: what to do when it is pressed.
        keeps_typed: whether somebody reads next, as in a chat. Else keys belong to the shell: it is
            listened for after a while only, and not at all where something has been typed by then.
        clock: the time.
    """

    name = "Tab"

    def __init__(
        self,
        stdin: TextIO,
        move_on: Callable[[], None],
        *,
        keeps_typed: bool,
        clock: Clock | None = None,
    ) -> None:
        self._stdin = stdin
        self._move_on = move_on
        self._keeps_typed = keeps_typed
        self._clock = clock or SystemClock()
        self._typed = b""
        self._since: float | None = None
        self._mode = contextlib.ExitStack()
        self._is_listening = False
        self._is_shells = False
        """Whether what is typed was found to be for the shell."""

    def listen(self) -> bool:
        """Act on the key if it was pressed; to be called often. Return whether it would be seen."""
        if self._is_shells or not _is_ours(self._stdin):
            return False
        if self._is_listening and _takes_lines(self._stdin):
            self.rest()  # a shell had stopped this process, and has set its terminal back
        if not self._is_listening:
            now = self._clock.monotonic()
            self._since = now if self._since is None else self._since
            if not self._keeps_typed and now - self._since < SHELL_GRACE_S:
                return False
            self._mode.enter_context(quiet_keys(self._stdin))
            self._is_listening = True
            if not self._keeps_typed and _has_input(self._stdin):
                self._is_shells = True
                self.rest()
                return False
        if _has_input(self._stdin):
            data = os.read(self._stdin.fileno(), 1024)
            if data.strip(MOVE_ON):
                self._typed += data
            elif data:
                self._move_on()
            else:
                self._is_shells = True  # it has hung up
                self.rest()
        return self._is_listening

    def rest(self) -> None:
        """Leave the terminal as it was, until `listen` is called again."""
        self._is_listening = False
        self._mode.close()

    def take_typed(self) -> bytes:
        """Return the other keys that were pressed, once."""
        typed, self._typed = self._typed, b""
        return typed


def _is_ours(stdin: TextIO) -> bool:
    """Whether a terminal's keys come to this process: reading in the background would stop it."""
    try:
        return os.tcgetpgrp(stdin.fileno()) == os.getpgrp()
    except (AttributeError, OSError, ValueError):  # no POSIX system, or no terminal
        return False


def _takes_lines(stdin: TextIO) -> bool:
    import termios

    return bool(termios.tcgetattr(stdin.fileno())[3] & termios.ICANON)


def _has_input(stdin: TextIO) -> bool:
    return bool(select.select([stdin], [], [], 0)[0])


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
