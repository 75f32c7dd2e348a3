"""Bound a connection from outside: a deadline, and the means to break it off.

Sinks block, each on a thread of its own: the standard library's SMTP client has no other way, and a
name look-up that hangs can be left behind on a daemon thread, while asyncio's own executor would
keep the program from ending until it is over.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar, cast

if TYPE_CHECKING:
    import asyncio
    from socket import socket

__all__ = ["Line", "SendError", "on_daemon_thread"]

T = TypeVar("T")


class SendError(Exception):
    """Report that a message could not be delivered; the text names no URL and no secret.

    Args:
        reason: one line for people.
        again: whether another try within the second may help.
        retry_after_s: how long the receiver asked to wait.
    """

    def __init__(
        self, reason: str, *, again: bool = False, retry_after_s: float | None = None
    ) -> None:
        self.again = again
        self.retry_after_s = retry_after_s
        super().__init__(reason)


class Line:
    """Be the time one message has, and a hold on its connection.

    Args:
        within_s: seconds from now until its end.
    """

    def __init__(self, within_s: float) -> None:
        self._within_s = within_s
        self._until = time.monotonic() + within_s
        self._socket: Callable[[], socket | None] = lambda: None

    def left_s(self) -> float:
        """Give the seconds left, for the next operation's timeout.

        Raises:
            SendError: none are.
        """
        left = self._until - time.monotonic()
        if left <= 0:
            raise self.too_late()
        return left

    def has(self, seconds: float) -> bool:
        """Whether so much time is left."""
        return self._until - time.monotonic() > seconds

    def too_late(self) -> SendError:
        """Make the error for a message that was not accepted in time."""
        return SendError(f"not accepted within {self._within_s:.1f} s")

    def holds(self, socket: Callable[[], socket | None]) -> None:
        """Say how to come by the connection in use; None while there is none."""
        self._socket = socket

    def cut(self) -> None:
        """Break the connection off, from any thread; who waits for it gets an error."""
        import socket

        self._until = 0.0
        found = self._socket()
        if found is not None:
            with contextlib.suppress(OSError):
                # Not its own method: that of an encrypted one takes its cipher away from the
                # thread that is reading.
                socket.socket.shutdown(found, socket.SHUT_RDWR)


async def on_daemon_thread(work: Callable[[], T]) -> T:
    """Do blocking work on a thread that nothing waits for when the program ends.

    Raises:
        Exception: what the work raised.
    """
    import asyncio

    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, exc: BaseException | None) -> None:
        if future.done():  # nobody waits any more
            return
        if exc is not None:
            future.set_exception(exc)
        else:
            future.set_result(cast("T", result))

    def run() -> None:
        result, failure = None, None
        try:
            result = work()
        except BaseException as exc:  # noqa: BLE001 - handed over to whoever waits
            failure = exc
        with contextlib.suppress(RuntimeError):  # the loop is closed: the program ends
            loop.call_soon_threadsafe(settle, result, failure)

    threading.Thread(target=run, name="tieredllm-notify", daemon=True).start()
    return await future
