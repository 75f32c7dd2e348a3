"""Let connections go to public addresses only.

A name is resolved once; each of its addresses must be public; and whoever connects uses one of
those very addresses. Nobody can answer the check with one address and the connection with another
(DNS rebinding), and it does not matter how an address is spelled (decimal, octal, hexadecimal,
IPv4 in IPv6): what counts is what the system's resolver makes of it.

The standard library's `is_global` alone does not tell public addresses: Python 3.11 calls NAT64,
6to4, multicast and site-local addresses global, and so what they lead to.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from ipaddress import IPv4Address, IPv6Address

import msgspec

from tieredllm.aio import in_thread
from tieredllm.tools.base import ToolFailureError

__all__ = ["PUBLIC", "EgressPolicy", "Network", "Resolver", "is_public"]

Address = IPv4Address | IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

Resolver = Callable[[str, int], Awaitable[Sequence[str]]]
"""Returns the addresses of a host."""

PORTS = frozenset({80, 443, 8080, 8443})
"""Where web servers are. Other ports speak other protocols, and some obey what looks like HTTP."""


async def _resolve(host: str, port: int) -> Sequence[str]:
    """Ask the system, in a thread that nothing waits for when it hangs."""
    found = await in_thread(lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
    return [str(entry[4][0]) for entry in found]


class EgressPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """What may be connected to.

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

    def check_ends(self, here: str, there: str, host: str) -> None:
        """Refuse a connection that ends at this machine: its own public address leads inside, too.

        Args:
            here: the address it comes from.
            there: the address it goes to.
            host: the name, for the error.

        Raises:
            ToolFailureError: both are the same, and not among what is allowed.
        """
        address = _parsed(there)
        if here == there and not (address and any(address in net for net in self.allowed)):
            raise ToolFailureError(f"{host} is this machine: it is out of reach")

    def _within(self, address: Address | None) -> bool:
        if address is None:
            return False
        return is_public(address) or any(address in network for network in self.allowed)


PUBLIC = EgressPolicy()


def _parsed(text: str) -> Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _joined(ports: Iterable[int]) -> str:
    return ", ".join(str(port) for port in sorted(ports))


_NEVER = tuple(
    ipaddress.ip_network(text)
    for text in (
        # IANA IPv4 and IPv6 Special-Purpose Address Registries: not globally reachable, or tunnels
        # whose inner address is somebody else's to choose.
        "0.0.0.0/8",  # this network
        "10.0.0.0/8",
        "100.64.0.0/10",  # carriers' own; clouds' metadata services, too
        "127.0.0.0/8",
        "169.254.0.0/16",  # link-local; clouds' metadata services
        "172.16.0.0/12",
        "192.0.0.0/24",  # protocol assignments; a cloud's metadata service
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and broadcast
        "168.63.129.16/32",  # Azure's host (learn.microsoft.com: what is IP address 168.63.129.16)
        "::/96",  # unspecified, loopback, IPv4-compatible
        "::ffff:0:0:0/96",  # IPv4-translated
        "64:ff9b:1::/48",  # one's own NAT64
        "100::/64",  # discard
        "2001::/23",  # protocol assignments; Teredo
        "2001:db8::/32",
        "2002::/16",  # 6to4
        "3fff::/20",
        "5f00::/16",  # segment routing
        "fc00::/7",
        "fe80::/10",
        "fec0::/10",  # site-local
        "ff00::/8",
    )
)
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
"""An IPv4 address in an IPv6 one (RFC 6052): networks without IPv4 resolve all names to these."""


def is_public(address: Address) -> bool:
    """Whether an address is one that anybody on the Internet could reach."""
    if isinstance(address, IPv6Address):
        if address.scope_id is not None:
            return False
        inner = address.ipv4_mapped
        if inner is None and address in _NAT64:
            inner = IPv4Address(int(address) & 0xFFFF_FFFF)
        if inner is not None:
            return is_public(inner)
    return not any(address in network for network in _NEVER) and (
        address.is_global or address in _NAT64
    )
