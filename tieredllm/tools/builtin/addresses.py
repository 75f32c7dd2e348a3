"""Tell public addresses from those of one's own machine, network and cloud.

The standard library's `is_global` alone does not do: Python 3.11 calls NAT64, 6to4, multicast and
site-local addresses global, and so what they lead to.
"""

from __future__ import annotations

import ipaddress
from ipaddress import IPv4Address, IPv6Address

__all__ = ["Address", "Network", "is_public"]

Address = IPv4Address | IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

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
