"""Run asynchronous code to its end, and blocking code beside it, and end when they have ended.

asyncio looks names up, and runs blocking work, on threads of its default executor, and waits for
them when a loop closes and again when the interpreter ends. A lookup can hang for half a minute
where there is no network, long after the request has given up on it; so can a tool or a mail
server. Here all of them run on daemon threads, which nobody waits for.
"""

from __future__ import annotations

import asyncio
import contextvars
import errno
import math
import os
import queue
import selectors
import socket
import sys
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from concurrent.futures import Future
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from tieredllm.signals import cancelled_by_signals

if TYPE_CHECKING:
    from asyncio import SelectorEventLoop as _Base
    from types import TracebackType
elif sys.platform == "win32":
    from asyncio import ProactorEventLoop as _Base
else:
    from asyncio import SelectorEventLoop as _Base

__all__ = ["LoopTimeout", "PerLoop", "await_result", "give_way", "in_thread", "run"]

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


class _BareLoop(asyncio.BaseEventLoop):
    """An event loop without descriptors, for a process that has none left.

    It has time, threads and no network: enough for the tier that cannot fail. asyncio's own needs
    three. What a subclass has to have is written down above `BaseEventLoop` in asyncio's source.
    """

    def __init__(self) -> None:
        super().__init__()
        self._selector = self
        self._woken: queue.SimpleQueue[None] = queue.SimpleQueue()  # a signal may come in between

    def select(self, timeout: float | None) -> list[Any]:
        """Sleep until somebody wakes the loop."""
        with suppress(queue.Empty):
            self._woken.get(timeout=timeout)
        return []

    def _process_events(self, event_list: list[Any]) -> None: ...

    def _write_to_self(self) -> None:
        self._woken.put(None)

    async def create_connection(self, *_: Any, **__: Any) -> Any:
        """Raise what a new socket would.

        Raises:
            OSError: always.
        """
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        # A loop that gets some of its descriptors fails untidily: CPython 3.11 prints a traceback.
        with selectors.DefaultSelector():
            for end in socket.socketpair():
                end.close()
        return _DaemonLookupLoop()
    except OSError:
        return _BareLoop()


def run(
    main: Coroutine[Any, Any, T],
    *,
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
) -> T:
    """Run a coroutine on a loop of its own, as `asyncio.run` does; also without a descriptor.

    Args:
        main: what to run.
        loop_factory: makes another kind of event loop.
    """
    with asyncio.Runner(loop_factory=loop_factory or _new_loop) as runner:
        return runner.run(cancelled_by_signals(main))


class PerLoop(Generic[T]):
    """Something that each event loop has for itself, and that is closed before its loop ends.

    A program may call `asyncio.run` for each task, or have a loop in each thread. A loop that ends
    closes the generators that were begun in it (`loop.shutdown_asyncgens`): one here waits for it.

    Args:
        make: makes what the running loop has.
        close: closes it; called once.
    """

    def __init__(self, make: Callable[[], T], close: Callable[[T], Awaitable[None]]) -> None:
        self._make = make
        self._close = close
        self._open: dict[asyncio.AbstractEventLoop, tuple[T, AsyncGenerator[None, None]]] = {}

    async def get(self) -> T:
        """Return the running loop's."""
        loop = asyncio.get_running_loop()
        if loop not in self._open:
            for ended in [known for known in list(self._open) if known.is_closed()]:
                self._open.pop(ended, None)
            value = self._make()
            closing = self._closing(value)
            self._open[loop] = value, closing
            await anext(closing)
        return self._open[loop][0]

    def release(self, closing: AsyncExitStack) -> None:
        """Let a stack close the running loop's, if it has one; from now on `get` makes another."""
        found = self._open.pop(asyncio.get_running_loop(), None)
        if found is not None:
            closing.push_async_callback(found[1].aclose)

    async def _closing(self, value: T) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            await self._close(value)


BEAT_S = 0.1
"""How finely a `LoopTimeout` counts, in seconds."""


class LoopTimeout:
    """A limit on how long something is waited for, in time in which the event loop ran.

    `asyncio.timeout` goes by the clock. On a machine that gives this process no processor for
    seconds, or while its own code computes, what arrived long ago is not seen in time, and whoever
    sent it would be blamed. Here a beat is counted as one, however late it comes.

    Args:
        limit_s: how long the wait may last, in seconds; None for as long as it takes.
        until: when it ends by the clock all the same, on the event loop's.

    Raises:
        TimeoutError: leaving the block, when the wait was cut off.
    """

    def __init__(self, limit_s: float | None, *, until: float = math.inf) -> None:
        self._limit_s = limit_s
        self._until = until
        self._timeout = asyncio.timeout(None)
        self._left_s = math.inf
        self._began_at = self._beat_s = 0.0
        self._is_paused = False
        self._beat: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> LoopTimeout:
        self._loop = asyncio.get_running_loop()
        await self._timeout.__aenter__()
        self.restart(self._limit_s)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._beat is not None:
            self._beat.cancel()
        await self._timeout.__aexit__(kind, exc, traceback)

    def restart(self, limit_s: float | None) -> None:
        """Wait for that long from now on, unless the wait has been cut off."""
        self._is_paused = False
        self._left_s = math.inf if limit_s is None else limit_s
        if self._left_s <= 0 or self._loop.time() >= self._until:
            # At once: a source that never lets the wait begin would be asked for ever.
            self._cut_off()
            return
        if self._beat is not None:
            elapsed_s = self._elapsed_s
            if elapsed_s + self._left_s >= self._beat_s:  # the beat that has begun is part of it
                self._left_s += elapsed_s
                return
            self._beat.cancel()
        self._begin()

    @property
    def left_s(self) -> float:
        """What is left of the wait, in seconds."""
        return self._left_s - self._elapsed_s

    def pause(self) -> None:
        """Count nothing until `resume` or `restart`; the clock does not end the wait either."""
        self._left_s = self.left_s
        self._is_paused = True

    def resume(self) -> None:
        """Go on as before `pause`."""
        self.restart(self._left_s)

    @property
    def _elapsed_s(self) -> float:
        if self._beat is None:
            return 0.0
        return min(self._loop.time() - self._began_at, self._beat_s)

    def _begin(self) -> None:
        self._began_at = self._loop.time()
        self._beat_s = max(0.0, min(BEAT_S, self._left_s, self._until - self._began_at))
        self._beat = self._loop.call_at(self._began_at + self._beat_s, self._end)

    def _end(self) -> None:
        self._beat = None
        if self._is_paused:
            return
        self._left_s -= self._beat_s
        if self._left_s <= 0 or self._loop.time() >= self._until:
            self._cut_off()
        else:
            self._begin()

    def _cut_off(self) -> None:
        if not self._timeout.expired():
            self._timeout.reschedule(self._began_at)


async def give_way(step: int) -> None:
    """Let others run after each hundredth step of work that does not wait.

    What was received at once may hold thousands of events, and one event as many parts: the
    deadline and Ctrl-C are to be heard in between.

    Args:
        step: its number.
    """
    if step % 100 == 0:
        await asyncio.sleep(0)


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
