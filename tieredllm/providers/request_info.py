"""Keep what was sent, as far as an error may refer to it."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from tieredllm.proxies import Proxy

__all__ = ["RequestInfo", "host_of"]


class RequestInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What a request carried, as far as an error may refer to it."""

    url: str
    model: str
    key: str | None = None
    key_env: str | None = None
    """The variable the key came from."""
    proxy: Proxy | None = None
    """What the server is reached through."""
    secrets: tuple[str, ...] = ()
    """What else was sent that is not to be shown."""
    parameters: Mapping[str, str] = {}
    """What could be left out: words a server may use for a parameter, and its wire name."""
    tools: Mapping[str, str] = {}
    """The tools by name, in their order, and what each is left out as."""

    def __repr__(self) -> str:
        """Leave the key out, wherever this is printed."""
        return f"RequestInfo(host={self.host!r}, model={self.model!r})"

    @property
    def host(self) -> str:
        """The server's name, without the credentials a URL may hold."""
        return host_of(self.url) or "the server"

    def presentable(self, text: str) -> str:
        """Make text from outside fit to show, with this request's key masked."""
        from tieredllm.redaction import presentable

        password = None if self.proxy is None else self.proxy.password
        return presentable(text, (self.key, _credentials(self.url), password, *self.secrets))

    @property
    def way(self) -> str:
        """What is said of the way to the server where it is not the direct one."""
        return f" (through {self.proxy})" if self.proxy is not None else ""


def host_of(url: str) -> str | None:
    """Return a URL's host and port; None when it has none, or is no URL."""
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return None
    if host is None:
        return None
    host = f"[{host}]" if ":" in host else host
    return f"{host}:{port}" if port is not None else host


def _credentials(url: str) -> str | None:
    from urllib.parse import urlsplit

    try:
        return urlsplit(url).password
    except ValueError:
        return None
