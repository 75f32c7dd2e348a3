"""Run asynchronous code to its end, and blocking code beside it, and end when they have ended.

asyncio looks names up, and runs blocking work, on threads of its default executor, and waits for
them when a loop closes and again when the interpreter ends. A lookup can hang for half a minute
where there is no network, long after the request has given up on it; so can a tool or a mail
server. Here all of them run on daemon threads, which nobody waits for.
"""

from __future__ import annotations

import asyncio
import contextvars
import socket
import sys
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from tieredllm.signals import cancelled_by_signals

if TYPE_CHECKING:
    from asyncio import SelectorEventLoop as _Base
elif sys.platform == "win32":
    from asyncio import ProactorEventLoop as _Base
else:
    from asyncio import SelectorEventLoop as _Base

__all__ = ["await_result", "in_thread", "run"]

T = TypeVar("T")


class _DaemonLookupLoop(_Base):
    """The platform's event loop, but with name lookups on daemon threads."""

    async def getaddrinfo(
        self,
        host: Any,
        port: Any,
        *,
        family: int = 0,
        type: int = 0,  # noqa: A002 - the name of asyncio's own
        proto: int = 0,
        flags: int = 0,
    ) -> Any:
        """Look a name up, as `socket.getaddrinfo` does."""
        return await in_thread(
            lambda: socket.getaddrinfo(host, port, family, type, proto, flags),
            name=f"look up {host}",
        )


def run(
    main: Coroutine[Any, Any, T],
    *,
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
) -> T:
    """Run a coroutine on a loop of its own, as `asyncio.run` does.

    Args:
        main: what to run.
        loop_factory: makes another kind of event loop.
    """
    with asyncio.Runner(loop_factory=loop_factory or _DaemonLookupLoop) as runner:
        return runner.run(cancelled_by_signals(main))


async def in_thread(work: Callable[[], T], *, name: str = "tieredllm-work") -> T:
    """Run a function on a daemon thread of its own and return its result.

    Cancelling the wait leaves the thread to itself: what it does goes on, its result is dropped.

    Args:
        work: the function; it sees the caller's context variables.
        name: the thread's, for who looks at a hanging program.

    Raises:
        BaseException: what the function raised; a StopIteration as RuntimeError.
    """
    future: Future[T] = Future()
    context = contextvars.copy_context()

    def settle() -> None:
        try:
            result = context.run(work)
        except BaseException as exc:  # noqa: BLE001 - raised where the result is waited for
            future.set_exception(exc)
        else:
            future.set_result(result)

    threading.Thread(target=settle, name=name, daemon=True).start()
    return await await_result(future)


async def await_result(future: Future[T]) -> T:
    """Wait for a thread's future; whoever stops waiting leaves it as it is.

    `asyncio.wrap_future` would cancel it, and log an error when the loop is closed before the
    future is done.
    """
    loop = asyncio.get_running_loop()
    waiter: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not waiter.done():
            waiter.set_result(None)

    def done(_: Future[T]) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(wake)

    future.add_done_callback(done)
    await waiter
    return future.result()
