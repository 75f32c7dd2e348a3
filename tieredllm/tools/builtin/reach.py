"""Connect to public addresses only.

A name is resolved once; each of its addresses must be public; and the connection goes to one of
those very addresses. Nobody can answer the check with one address and the connection with another
(DNS rebinding), and it does not matter how an address is spelled (decimal, octal, hexadecimal,
IPv4 in IPv6): what counts is what the system's resolver makes of it.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from tieredllm.aio import in_thread
from tieredllm.tools.base import ToolFailureError
from tieredllm.tools.builtin.addresses import Address, Network, is_public

if TYPE_CHECKING:
    import httpcore

__all__ = ["PUBLIC", "Reach", "Resolver", "make_network"]

Resolver = Callable[[str, int], Awaitable[Sequence[str]]]
"""Give the addresses of a host."""

PORTS = frozenset({80, 443, 8080, 8443})
"""Where web servers are. Other ports speak other protocols, and some obey what looks like HTTP."""

CONNECT_S = 5.0


async def _resolve(host: str, port: int) -> Sequence[str]:
    """Ask the system, in a thread that nothing waits for when it hangs."""
    found = await in_thread(lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
    return [str(entry[4][0]) for entry in found]


class Reach(msgspec.Struct, frozen=True, kw_only=True):
    """Hold what may be connected to.

    The defaults are the only ones a profile can have; the rest is for tests, whose servers are on
    this machine.
    """

    resolve: Resolver = _resolve
    ports: frozenset[int] | None = PORTS
    """None: any."""
    allowed: tuple[Network, ...] = ()
    """Networks that count as public."""

    async def addresses(self, host: str, port: int) -> list[str]:
        """Resolve a host.

        Raises:
            ToolFailureError: it has no address, one that is not public, or the port is none of
                the web's.
        """
        if self.ports is not None and port not in self.ports:
            raise ToolFailureError(f"port {port} is out of reach: {_joined(self.ports)} are not")
        try:
            texts = await self.resolve(host, port)
        except (OSError, UnicodeError) as exc:
            raise ToolFailureError(f"{host} is not a known name, or there is no network") from exc
        addresses = list(dict.fromkeys(texts))
        if not addresses:
            raise ToolFailureError(f"{host} has no address")
        for text in addresses:
            if not self._within(_parsed(text)):
                raise ToolFailureError(f"{host} is not a public address: it is out of reach")
        return addresses

    def allows_itself(self, address: str) -> bool:
        """Whether a connection may end at the machine it comes from."""
        found = _parsed(address)
        return found is not None and any(found in network for network in self.allowed)

    def _within(self, address: Address | None) -> bool:
        if address is None:
            return False
        return is_public(address) or any(address in network for network in self.allowed)


PUBLIC = Reach()


def _parsed(text: str) -> Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _joined(ports: Iterable[int]) -> str:
    return ", ".join(str(port) for port in sorted(ports))


def make_network(reach: Reach) -> httpcore.AsyncNetworkBackend:
    """Make the part of an HTTP client that opens connections, within a reach."""
    import httpcore

    class Network(httpcore.AsyncNetworkBackend):
        """Open connections to checked addresses."""

        def __init__(self) -> None:
            self._inner = httpcore.AnyIOBackend()

        async def connect_tcp(
            self,
            host: str,
            port: int,
            timeout: float | None = None,  # noqa: ASYNC109 - the interface's own
            local_address: str | None = None,
            socket_options: Iterable[Any] | None = None,
        ) -> httpcore.AsyncNetworkStream:
            error: httpcore.ConnectError | httpcore.ConnectTimeout | None = None
            for address in await reach.addresses(host, port):
                try:
                    stream = await self._inner.connect_tcp(
                        address,
                        port,
                        timeout=timeout,
                        local_address=local_address,
                        socket_options=socket_options,
                    )
                except (httpcore.ConnectError, httpcore.ConnectTimeout) as exc:
                    error = exc
                    continue
                await _check_ends(reach, stream, host)
                return stream
            raise error or httpcore.ConnectError(f"{host} has no address")

        async def sleep(self, seconds: float) -> None:
            await asyncio.sleep(seconds)

    return Network()


async def _check_ends(reach: Reach, stream: httpcore.AsyncNetworkStream, host: str) -> None:
    """Refuse a connection that ends at this machine: its own public address leads inside, too."""
    here, there = stream.get_extra_info("client_addr"), stream.get_extra_info("server_addr")
    if here and there and here[0] == there[0] and not reach.allows_itself(str(there[0])):
        await stream.aclose()
        raise ToolFailureError(f"{host} is this machine: it is out of reach")
