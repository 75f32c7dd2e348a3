"""End by a signal as by Ctrl-C: what runs is cancelled, and ends in its own way.

SIGTERM (a service is stopped), SIGHUP (a terminal was closed) and SIGQUIT would end the process
where it stands: with a raw terminal, a hidden cursor, children that go on, and half a file.
"""

from __future__ import annotations

import signal
from collections.abc import Coroutine
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from asyncio import Task

__all__ = ["cancelled_by_signals", "end_on_signals"]

T = TypeVar("T")


class _Ending:
    """The end of this program, and what it has to cancel."""

    task: Task[Any] | None = None
    number: int | None = None

    def signalled(self, number: int, _: FrameType | None) -> None:
        """End the program; a second signal of the kind does so at once.

        Raises:
            SystemExit: no event loop runs that would end in its own way.
        """
        signal.signal(number, signal.SIG_DFL)
        self.number = number
        if self.task is None:
            raise SystemExit(128 + number)
        self.task.cancel()
        self.task.get_loop().call_soon_threadsafe(lambda: None)  # it may be asleep


_ending: _Ending | None = None
"""None in a program that uses this as a library: its signals are its own."""


def end_on_signals() -> None:
    """Let this process end well by SIGTERM, SIGHUP and SIGQUIT, with 128 + N as its exit code.

    One that is ignored (`nohup`) or handled already stays so.
    """
    global _ending  # noqa: PLW0603 - the signals of a process are global, too
    _ending = _Ending()
    for name in ("SIGTERM", "SIGHUP", "SIGQUIT"):  # Windows has the first
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _ending.signalled)


async def cancelled_by_signals(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that the signals of `end_on_signals` cancel.

    Raises:
        SystemExit: one has.
    """
    import asyncio
    import threading

    ending = _ending
    if ending is None or threading.current_thread() is not threading.main_thread():
        return await main
    ending.task = asyncio.current_task()
    try:
        result = await main
    except asyncio.CancelledError:
        if ending.number is None:
            raise
    finally:
        ending.task = None
    if ending.number is not None:
        raise SystemExit(128 + ending.number)
    return result
