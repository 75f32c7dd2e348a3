"""Run asynchronous code to its end, and end when it has ended.

asyncio looks names up on threads of its default executor, and waits for them when a loop closes and
again when the interpreter ends. A lookup can hang for half a minute where there is no network,
long after the request has given up on it. Here lookups run on daemon threads, which nobody waits
for.
"""

from __future__ import annotations

import asyncio
import socket
import sys
import threading
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from asyncio import SelectorEventLoop as _Base
elif sys.platform == "win32":
    from asyncio import ProactorEventLoop as _Base
else:
    from asyncio import SelectorEventLoop as _Base

__all__ = ["run"]

T = TypeVar("T")


class _PromptLoop(_Base):
    """Be the platform's event loop, but look names up on daemon threads."""

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
        found: asyncio.Future[Any] = self.create_future()

        def look_up() -> None:
            try:
                outcome: Any = socket.getaddrinfo(host, port, family, type, proto, flags)
            except Exception as exc:  # noqa: BLE001 - raised again where it is waited for
                outcome = exc
            try:
                self.call_soon_threadsafe(_settle, found, outcome)
            except RuntimeError:  # the loop is closed: nobody waits any more
                return

        threading.Thread(target=look_up, daemon=True, name=f"look up {host}").start()
        return await found


def _settle(found: asyncio.Future[Any], outcome: Any) -> None:
    if found.cancelled():
        return
    if isinstance(outcome, Exception):
        found.set_exception(outcome)
    else:
        found.set_result(outcome)


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on a loop of its own, as `asyncio.run` does."""
    with asyncio.Runner(loop_factory=_PromptLoop) as runner:
        return runner.run(main)
