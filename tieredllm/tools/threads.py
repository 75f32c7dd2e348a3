"""Run blocking work beside the event loop, in a thread that nothing ever waits for in vain.

asyncio's own threads are joined when the loop ends: a call that hangs would keep the program from
ending. A daemon thread that is no longer waited for is left behind.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

__all__ = ["in_thread"]

T = TypeVar("T")


async def in_thread(work: Callable[[], T]) -> T:
    """Run a function in a thread of its own and give its result.

    Cancelling the wait leaves the thread to itself: what it does goes on, its result is dropped.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()
    context = contextvars.copy_context()

    def deliver(value: T | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(value)  # type: ignore[arg-type] # None only beside an error

    def run() -> None:
        value: T | None = None
        error: BaseException | None = None
        try:
            value = context.run(work)
        except StopIteration as exc:  # a future does not take it
            error = RuntimeError(f"StopIteration: {exc}")
        except BaseException as exc:  # noqa: BLE001 - raised where the result is waited for
            error = exc
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(deliver, value, error)

    threading.Thread(target=run, name="tieredllm-tool", daemon=True).start()
    return await future
