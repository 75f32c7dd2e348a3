"""Wait on an event loop for what a thread does."""

from __future__ import annotations

import asyncio
import contextlib
from concurrent.futures import Future
from typing import TypeVar

__all__ = ["outcome"]

_T = TypeVar("_T")


async def outcome(future: Future[_T]) -> _T:
    """Wait for a thread's future; whoever stops waiting leaves it as it is.

    `asyncio.wrap_future` would log an error when the loop is closed before the future is done.
    """
    loop = asyncio.get_running_loop()
    waiter: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not waiter.done():
            waiter.set_result(None)

    def done(_: Future[_T]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(wake)

    future.add_done_callback(done)
    await waiter
    return future.result()
