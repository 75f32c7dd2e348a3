"""The proxy that the environment names for an address.

curl's variables, as they are written in the wild: `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and
`NO_PROXY`, in capitals or not. `NO_PROXY` takes names with all that is below them, addresses,
networks (`10.0.0.0/8`, `fd00::/8`), IPv6 in brackets or without, each with a port or for all, and
`*`; what is none of these is passed over. An address of this machine itself never goes through a
proxy, as in Go's net/http, unless `TIEREDLLM_PROXY_LOOPBACK` says so.

References: https://curl.se/libcurl/c/CURLOPT_NOPROXY.html,
https://pkg.go.dev/golang.org/x/net/http/httpproxy.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, urlsplit

import msgspec

from tieredllm.errors import TieredLLMError

if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv6Address

__all__ = ["Proxy", "UnusableProxyError", "proxy_for"]

_PORTS = {"http": 80, "https": 443}
_SCHEMES = frozenset({"http", "https", "socks5", "socks5h"})


class UnusableProxyError(TieredLLMError):
    """A variable that holds no usable proxy; the message names it."""


class Proxy(msgspec.Struct, frozen=True, kw_only=True):
    """A proxy, and where it comes from."""

    url: str
    """Its address, with the password there may be in it."""
    variable: str
    """The variable that names it."""

    def __str__(self) -> str:
        """Return what may be shown of it."""
        return f"the proxy {self.url.rpartition('://')[2].rpartition('@')[2]} ({self.variable})"

    @property
    def password(self) -> str | None:
        """The password in its address."""
        return urlsplit(self.url).password


def proxy_for(url: str, env: Mapping[str, str] | None = None) -> Proxy | None:
    """Return the proxy that an address is reached through; None for the direct way.

    Args:
        url: the address, http or https.
        env: the environment; the process's own when None.

    Raises:
        UnusableProxyError: a variable names one that cannot be used.
    """
    env = os.environ if env is None else env
    parts = urlsplit(url)
    host = (parts.hostname or "").rstrip(".")
    found = _named(parts.scheme.lower(), env)
    if found is None or not host:
        return None
    if _is_own_machine(host) and not env.get("TIEREDLLM_PROXY_LOOPBACK"):
        return None
    exceptions = _value("no_proxy", env)
    if exceptions is not None and _is_excepted(parts, host, exceptions[1]):
        return None
    variable, value = found
    return Proxy(url=_usable(variable, value), variable=variable)


def _named(scheme: str, env: Mapping[str, str]) -> tuple[str, str] | None:
    if scheme == "http" and "REQUEST_METHOD" in env:
        # In a CGI script HTTP_PROXY is a header of the request (CVE-2016-1000110).
        env = {name: value for name, value in env.items() if name != "HTTP_PROXY"}
    return _value(f"{scheme}_proxy", env) or _value("all_proxy", env) or _of_the_system(scheme, env)


def _value(name: str, env: Mapping[str, str]) -> tuple[str, str] | None:
    """Return a variable's name as it is written, and its value; small letters win."""
    for written in (name, name.upper()):
        # A file of variables with Windows' line ends leaves one in each value.
        if value := env.get(written, "").strip():
            return written, value
    return None


def _of_the_system(scheme: str, env: Mapping[str, str]) -> tuple[str, str] | None:
    """Return what Windows or macOS are set to, where the environment is the process's own."""
    if os.name == "posix" and os.uname().sysname != "Darwin":
        return None
    if env is not os.environ:
        return None
    from urllib.request import getproxies

    value = getproxies().get(scheme)
    return ("the system's settings", value) if value else None


def _usable(variable: str, value: str) -> str:
    """Return a proxy's address as httpx takes it.

    Raises:
        UnusableProxyError: it is none.
    """
    address = value if "://" in value else f"http://{value}"
    # What GNOME and Clash write (Aider-AI/aider#4038).
    address = re.sub(r"(?i)^socks://", "socks5://", address)
    shown = re.sub(r"//.*@", "//", address)
    try:
        parts = urlsplit(address)
        good = parts.hostname and parts.port != 0 and address.isprintable() and " " not in address
    except ValueError:
        good = False
    if not good:
        raise UnusableProxyError(f"{variable} holds no address of a proxy: {shown}")
    if parts.scheme.lower() not in _SCHEMES:
        raise UnusableProxyError(
            f"{variable} names a proxy that cannot be used ({shown}): http://, https:// and"
            " socks5:// can"
        )
    return address


def _is_own_machine(host: str) -> bool:
    if host.lower() == "localhost" or host.lower().endswith(".localhost"):  # RFC 6761, 6.3
        return True
    address = _address(host)
    return address is not None and (address.is_loopback or address.is_unspecified)


def _is_excepted(parts: SplitResult, host: str, exceptions: str) -> bool:
    try:
        port = parts.port or _PORTS.get(parts.scheme.lower())
    except ValueError:
        port = None
    return any(
        _matches(entry, host.lower(), port) for entry in re.split(r"[,\s]+", exceptions) if entry
    )


def _matches(entry: str, host: str, port: int | None) -> bool:
    """Return whether one entry of `NO_PROXY` means a host."""
    import ipaddress

    if entry == "*":
        return True
    entry = entry.rpartition("://")[2].lower()
    name, wanted = entry, None
    if found := re.fullmatch(r"\[(.*)\](?::([0-9]+))?", entry):
        name, wanted = found[1], found[2]
    elif entry.count(":") == 1:
        name, wanted = entry.split(":")
    if wanted is not None and wanted != str(port):
        return False
    address = _address(host)
    if address is not None:
        try:
            return address in ipaddress.ip_network(name, strict=False)
        except ValueError:
            return False
    name = name.removeprefix("*").strip(".")
    return bool(name) and (host == name or host.endswith(f".{name}"))


def _address(host: str) -> IPv4Address | IPv6Address | None:
    """Return an address; None for a name. An IPv4 address within IPv6 is that one."""
    import ipaddress

    try:
        found = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    return getattr(found, "ipv4_mapped", None) or found
