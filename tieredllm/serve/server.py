"""Run the gateway under uvicorn, and end it without losing an answer.

uvicorn (0.54) closes its listener on SIGTERM and then waits for open streams up to its own limit,
so the gateway has a drain of its own: the listener stays, `/readyz` says no, running requests
finish within the grace, and what is left is told so in its protocol.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import Callable
from types import FrameType
from typing import Any

import uvicorn

from tieredllm.errors import TieredLLMError
from tieredllm.serve.app import Gateway

__all__ = ["GatewayServer", "listen"]

KEEP_ALIVE_S = 75
"""How long an idle connection stays open, in seconds: longer than clients keep theirs (5 s in
httpx), so that it is never closed while a request is on its way."""
HEAD_S = 30
"""How long a request's head may take to come, in seconds; its body has a limit of its own."""
LEAVING_S = 2
"""How long connections that have nothing to say may take to close, in seconds."""


_WATCH = {
    "TCP_KEEPIDLE": 30,
    "TCP_KEEPINTVL": 10,
    "TCP_KEEPCNT": 3,
    "TCP_USER_TIMEOUT": 120_000,
}
"""A client whose machine or network is gone says no goodbye: the system asks after it (seconds),
and gives up what it does not read (milliseconds). Connections inherit it from their listener on
Linux (tcp(7))."""


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens.

    Args:
        host: an address or a name of this machine.
        port: 0 for any that is free.

    Raises:
        TieredLLMError: nobody can listen there.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        made = socket.create_server((str(address[0]), port), family=family, backlog=2048)
    except OSError as exc:
        why = exc.strerror or str(exc)
        raise TieredLLMError(f"cannot listen on {host}, port {port}: {why}") from exc
    # asyncio sets TCP_NODELAY only where the protocol is named, which create_server's is not
    # (3.11, base_events._set_nodelay): without it each lone answer waits 40 ms for an ACK.
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP, fileno=made.detach())
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _WATCH.items():
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return sock


class HeadLimit(asyncio.Protocol):
    """A connection whose request has to come in time: uvicorn would wait for its head for ever.

    Laid over uvicorn's protocol, which names the request `cycle` (0.54).
    """

    cycle: Any
    transport: asyncio.Transport
    _ends: asyncio.TimerHandle | None = None
    _has_begun = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for the first request."""
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Take a piece, which may complete a head or begin the next."""
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop()
        elif self._ends is None:
            self._wait()
        self._has_begun = True

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._stop()
        super().connection_lost(exc)

    def _wait(self) -> None:
        self._ends = asyncio.get_running_loop().call_later(HEAD_S, self._give_up)

    def _stop(self) -> None:
        if self._ends is not None:
            self._ends.cancel()
            self._ends = None

    def _give_up(self) -> None:
        if self._has_begun:
            self.transport.write(_TOO_SLOW)
        self.transport.close()


_TOO_SLOW = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class GatewayServer(uvicorn.Server):
    """uvicorn with the gateway's own way to end.

    Args:
        gateway: the application.
        grace_s: how long running requests may take to finish after SIGTERM, in seconds.
        on_start: called when requests are taken.
    """

    def __init__(self, gateway: Gateway, *, grace_s: float, on_start: Callable[[], None]) -> None:
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # broken streams are no news
        config = uvicorn.Config(
            gateway,
            http="h11",  # httptools loses the body beside an `Upgrade: h2c`, Java's every request
            lifespan="off",
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=LEAVING_S,
        )
        config.load()
        kind = type("Protocol", (HeadLimit, config.http_protocol_class), {})
        config.http_protocol_class = kind
        super().__init__(config)
        self._gateway = gateway
        self._grace_s = grace_s
        self._on_start = on_start
        self._ending: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self.interrupted = False
        """Whether Ctrl-C ended it."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Take requests from now on."""
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        self._on_start()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """End: on the first SIGTERM when all is answered, on a second one or Ctrl-C at once."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self.end, sig)

    def end(self, sig: int) -> None:
        """Begin to end.

        Args:
            sig: the signal that asks for it.
        """
        self.interrupted = self.interrupted or sig == signal.SIGINT
        at_once = self.interrupted or self._gateway.draining
        self._gateway.draining = True
        if self._ending is not None:
            self._ending.cancel()
        self._ending = asyncio.ensure_future(self._end(0.0 if at_once else self._grace_s))

    async def _end(self, grace_s: float) -> None:
        running = [http.ended.wait() for http in self._gateway.running]
        try:
            async with asyncio.timeout(grace_s):
                await asyncio.gather(*running)
        except TimeoutError:
            await self._gateway.stop("the gateway is shutting down")
        self.should_exit = True
