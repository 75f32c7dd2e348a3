"""Keep connections that have one owner each: used again whole, or closed whole.

httpx's own pool hands connections from request to request, and a cancellation at the wrong moment
(a limit of the engine's, a lost hedge, a client that went away) leaves one there for good. In
httpcore 1.0.9 that is `AsyncHTTP11Connection.handle_async_request` before its `try`, and
`_response_closed` while it waits for its lock (encode/httpcore#1093, encode/httpx#3782); a TLS
handshake that is cancelled, and a cancellation as `anyio.connect_tcp` returns (anyio 4.16), leave a
socket that no pool ever knew. So each request owns its connection here, together with whatever it
opened; see decision 11.

Only `http.py` imports this module: importing it loads httpx.
"""

from __future__ import annotations

import asyncio
import math
import ssl
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import Any, TypeVar

import httpcore
import httpx

from tieredllm.aio import LoopTimeout

__all__ = ["MAX_IDLE", "Connection", "ConnectionPool"]

T = TypeVar("T")

MAX_IDLE = 20
"""Idle connections that are kept, httpx's own default."""

KEEP_ALIVE_S = 30.0
"""How long an idle connection is kept for the next turn of a chat."""

STALE_WITHIN_S = 1.0
"""How soon after a request a kept connection has to break to have been closed while it was idle.

What the server closed before it saw the request shows within a round trip; a server that goes down
later may have worked on the request.
"""


class _Network(httpcore.AsyncNetworkBackend):
    """What one transport connects with: it remembers every socket."""

    def __init__(self) -> None:
        self.heard = False
        """Whether a byte has come since this was last set to False."""
        self._network = httpcore.AnyIOBackend()
        self._opened: list[asyncio.Task[httpcore.AsyncNetworkStream]] = []

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's signature
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect in a task that no cancellation of the request reaches, and remember it."""
        connecting = self._network.connect_tcp(host, port, None, local_address, socket_options)
        opening = asyncio.create_task(_within(timeout, connecting))
        self._opened.append(opening)
        return _Stream(await asyncio.shield(opening), self)

    async def aclose(self) -> None:
        """Close every socket, whatever httpcore takes them for; never fails."""
        for opening in self._opened:
            with suppress(Exception):
                await (await opening).aclose()


class _Stream(httpcore.AsyncNetworkStream):
    """A connection whose TLS handshake has its time as connecting has."""

    def __init__(self, stream: httpcore.AsyncNetworkStream, network: _Network) -> None:
        self._stream = stream
        self._network = network

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109
        received = await self._stream.read(max_bytes, timeout)
        if received:
            self._network.heard = True
        return received

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109
        await self._stream.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's signature
    ) -> httpcore.AsyncNetworkStream:
        handshake = self._stream.start_tls(ssl_context, server_hostname)
        return _Stream(await _within(timeout, handshake), self._network)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


async def _within(limit_s: float | None, connecting: Awaitable[T]) -> T:
    """Wait for a part of connecting, in time in which the event loop ran."""
    try:
        async with LoopTimeout(limit_s):
            return await connecting
    except TimeoutError as exc:
        raise httpcore.ConnectTimeout from exc


class Connection:
    """A transport that carries one request at a time, and every socket it opened.

    No client is around it: httpx's binds each response to its own stream and back, and such rings
    of a request are memory until the garbage collector comes by.

    Args:
        transport: a transport of its own, fresh.
    """

    def __init__(self, transport: httpx.AsyncHTTPTransport) -> None:
        self.transport = transport
        self._reused_at: float | None = None
        self._network = _Network()
        # httpx has no public way to give its transport a network; a test counts the sockets.
        self._pool: httpcore.AsyncConnectionPool = transport._pool  # noqa: SLF001
        self._pool._network_backend = self._network  # noqa: SLF001

    @property
    def is_clean(self) -> bool:
        """Whether the last exchange ended as it should, with nothing after it.

        What follows a complete response would be read as the next request's.
        """
        kept = self._pool.connections
        return len(kept) == 1 and not _has_rest(kept[0])

    @property
    def is_alive(self) -> bool:
        """Whether an idle connection is still good: not too old, not closed, silent since."""
        kept = self._pool.connections
        return len(kept) == 1 and not kept[0].has_expired() and not kept[0].is_closed()

    def reuse(self) -> None:
        """Take note that it goes on to another request now."""
        self._reused_at, self._network.heard = asyncio.get_running_loop().time(), False

    def was_closed_unheard(self, exc: Exception) -> bool:
        """Whether an exception says that the server closed a kept connection while it was idle.

        To send such a request again is a guess, and RFC 9110, section 9.2.2, calls it riskier: POST
        is not idempotent. It is as good as a guess can be where the connection breaks at once and
        without a byte of a response, and curl (`Curl_retry_request`) makes it, too. Later it is the
        engine that decides, by the profile's `retries`.
        """
        closed = (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError)
        if self._reused_at is None or self._network.heard or not isinstance(exc, closed):
            return False
        return asyncio.get_running_loop().time() - self._reused_at < STALE_WITHIN_S

    async def aclose(self) -> None:
        """Close every socket; never fails."""
        await self._network.aclose()


class ConnectionPool:
    """One event loop's connections: at most one request on each.

    Args:
        make_transport: makes that of a new connection to a URL, through a proxy or none.
    """

    def __init__(
        self, make_transport: Callable[[str, str | None], httpx.AsyncHTTPTransport]
    ) -> None:
        self._make_transport = make_transport
        self._idle: dict[str, list[Connection]] = {}
        self._busy: dict[Connection, str] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._looked_at = -math.inf

    def take(self, url: str, proxy: str | None = None, *, fresh: bool = False) -> Connection:
        """Return a connection to a URL's host, a kept one where there is one, for one request.

        Args:
            url: where the request goes.
            proxy: the proxy's address on the way there; None for the direct way.
            fresh: whether it has to be a new one.
        """
        origin = " ".join(filter(None, ("/".join(url.split("/", 3)[:3]).lower(), proxy)))
        self._drop_dead()
        connection: Connection | None = None
        waiting = [] if fresh else self._idle.get(origin, [])
        while waiting and connection is None:
            kept = waiting.pop()
            if kept.is_alive:
                connection = kept
            else:
                self._close(kept)
        if connection is None:
            connection = Connection(self._make_transport(url, proxy))
        else:
            connection.reuse()
        self._busy[connection] = origin
        return connection

    def release(self, connection: Connection) -> None:
        """Take a connection back from its request, however that ended; nothing here waits."""
        origin = self._busy.pop(connection, None)
        if origin is not None and connection.is_clean and self._count_idle() < MAX_IDLE:
            self._idle.setdefault(origin, []).append(connection)
        else:
            self._close(connection)

    async def aclose(self) -> None:
        """Close all connections, those in use as well."""
        for connection in [*self._busy, *(kept for idle in self._idle.values() for kept in idle)]:
            self._close(connection)
        self._busy.clear()
        self._idle.clear()
        while self._closing:
            await asyncio.wait(self._closing)

    def _count_idle(self) -> int:
        return sum(len(idle) for idle in self._idle.values())

    def _drop_dead(self) -> None:
        """Close what nobody could use any more: one look at all of them in a second."""
        now = asyncio.get_running_loop().time()
        if now < self._looked_at + 1:
            return
        self._looked_at = now
        for origin, idle in list(self._idle.items()):
            for connection in [kept for kept in idle if not kept.is_alive]:
                idle.remove(connection)
                self._close(connection)
            if not idle:
                del self._idle[origin]

    def _close(self, connection: Connection) -> None:
        # In a task of its own: who cancels the request does not cancel this.
        closing = asyncio.get_running_loop().create_task(connection.aclose())
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)


def _has_rest(connection: Any) -> bool:
    """Whether bytes, or half a request, are left on a connection of httpcore's.

    A proxy's connection wraps that of the host. What is built otherwise than known is not kept.
    """
    while (inner := getattr(connection, "_connection", None)) is not None:
        connection = inner
    state = getattr(connection, "_h11_state", None)
    stream = getattr(connection, "_network_stream", None)
    if state is None or stream is None or not connection.is_idle():
        return True
    if state.trailing_data[0]:
        return True
    unpacked = stream.get_extra_info("ssl_object")
    if unpacked is None:
        return False
    try:
        unpacked.read(1)  # from what came from the network already: it does not wait
    except ssl.SSLWantReadError:
        return False
    except (ssl.SSLError, OSError):
        pass
    return True
