"""Fetch one page of the web, within bounds of reach, size and redirects."""

from __future__ import annotations

import re
import zlib
from typing import TYPE_CHECKING
from urllib.parse import quote, urljoin, urlsplit

import msgspec

from tieredllm.text import one_line
from tieredllm.tools.base import ToolFailureError
from tieredllm.tools.builtin.reach import CONNECT_S, Reach, make_network

if TYPE_CHECKING:
    import ssl

    import httpcore

__all__ = ["MAX_BYTES", "MAX_REDIRECTS", "Page", "fetch"]

MAX_BYTES = 1024 * 1024
"""How much of a page is read, and of what it unpacks to."""

MAX_REDIRECTS = 5
READ_S = 10.0
"""The longest silence of a server; the tool's own time bounds the whole."""

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_DEFAULT_PORTS = {"http": 80, "https": 443}
_HEADERS = (
    # Some servers turn away who gives no name.
    ("User-Agent", "Mozilla/5.0 (compatible; tieredllm; fetch_url)"),
    ("Accept", "text/html, text/plain, application/json, application/xml;q=0.9, text/*;q=0.8"),
    ("Accept-Encoding", "gzip, deflate"),
    ("Connection", "close"),
)


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """Hold what a server sent."""

    url: str
    """Where it was found in the end."""
    status: int
    content_type: str
    """In lower case, parameters included; empty when the server names none."""
    body: bytes
    whole: bool
    """Whether all of it is there."""


class _Target(msgspec.Struct, frozen=True, kw_only=True):
    url: str
    scheme: str
    host: str
    port: int
    path: str


async def fetch(url: str, reach: Reach) -> Page:
    """Get a page; each redirect is a new request with checks of its own.

    Nothing goes along but the request: no proxy of the environment's, no cookies, no credentials.

    Raises:
        ToolFailureError: the address is unusable or out of reach, or the server failed.
    """
    for _ in range(MAX_REDIRECTS + 1):
        target = _target(url)
        found = await _request(target, reach)
        if isinstance(found, Page):
            return found
        url = urljoin(target.url, found)
    raise ToolFailureError(f"there are more than {MAX_REDIRECTS} redirects")


def _target(url: str) -> _Target:
    url = url.strip()
    if re.search(r"[\x00-\x20\x7f\\]", url):
        raise ToolFailureError("the URL has blanks, control characters or backslashes in it")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError as exc:
        raise ToolFailureError(f"the URL cannot be read: {exc}") from exc
    scheme = parts.scheme.lower()
    if scheme not in _DEFAULT_PORTS:
        raise ToolFailureError("only http:// and https:// URLs can be fetched")
    if not host:
        raise ToolFailureError("the URL names no host")
    if parts.username is not None or parts.password is not None:
        raise ToolFailureError("the URL has a user or password in it: leave them out")
    if not host.isascii():
        try:
            host = host.encode("idna").decode("ascii")
        except UnicodeError as exc:
            raise ToolFailureError(f"{host} is no host's name") from exc
    path = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._")
    if parts.query:
        path += "?" + quote(parts.query, safe="/%:@!$&'()*+,;=~-._?")
    if port is None:
        port = _DEFAULT_PORTS[scheme]
    return _Target(url=url, scheme=scheme, host=host, port=port, path=path)


async def _request(target: _Target, reach: Reach) -> Page | str:
    """Ask one server; give its page, or where it redirects to."""
    import httpcore

    pool = httpcore.AsyncConnectionPool(
        ssl_context=_certificates(target.scheme),
        network_backend=make_network(reach),
        max_connections=1,
        http1=True,
        http2=False,
    )
    host = f"[{target.host}]" if ":" in target.host else target.host
    if target.port != _DEFAULT_PORTS[target.scheme]:
        host = f"{host}:{target.port}"
    try:
        async with (
            pool,
            pool.stream(
                "GET",
                httpcore.URL(
                    scheme=target.scheme, host=target.host, port=target.port, target=target.path
                ),
                headers=[("Host", host), *_HEADERS],
                extensions={"timeout": {"connect": CONNECT_S, "read": READ_S, "write": READ_S}},
            ) as response,
        ):
            return await _answer(target, response)
    except (httpcore.ConnectError, httpcore.NetworkError) as exc:
        words = one_line(str(exc), 200)
        raise ToolFailureError(f"{target.host} could not be reached: {words}") from exc
    except httpcore.TimeoutException as exc:
        raise ToolFailureError(f"{target.host} did not answer in time") from exc
    except (httpcore.ProtocolError, httpcore.UnsupportedProtocol) as exc:
        raise ToolFailureError(f"what {target.host} sent is no valid HTTP") from exc


async def _answer(target: _Target, response: httpcore.Response) -> Page | str:
    headers: dict[str, str] = {}
    for name, value in response.headers:
        headers.setdefault(name.decode("latin-1").lower(), value.decode("latin-1"))
    location = headers.get("location")
    if response.status in _REDIRECTS and location:
        return location
    body, whole = await _body(response, headers.get("content-encoding", "").strip().lower())
    return Page(
        url=target.url,
        status=response.status,
        content_type=headers.get("content-type", "").strip().lower(),
        body=body,
        whole=whole,
    )


async def _body(response: httpcore.Response, encoding: str) -> tuple[bytes, bool]:
    """Read a body up to `MAX_BYTES`, packed and unpacked; say whether that was all."""
    unpack = _Unpacker(encoding)
    parts: list[bytes] = []
    packed = size = 0
    async for chunk in response.aiter_stream():
        packed += len(chunk)
        part = unpack(chunk, MAX_BYTES - size)
        parts.append(part)
        size += len(part)
        if size >= MAX_BYTES or packed > MAX_BYTES:
            return b"".join(parts), False
    return b"".join(parts), True


class _Unpacker:
    """Undo a Content-Encoding, never to more than is asked for."""

    def __init__(self, encoding: str) -> None:
        if encoding in {"", "identity"}:
            self._zlib = None
        elif encoding in {"gzip", "x-gzip", "deflate"}:
            self._zlib = zlib.decompressobj(zlib.MAX_WBITS | 32)  # gzip or zlib, by its header
        else:
            raise ToolFailureError(f"the page is encoded as {one_line(encoding, 40)}")

    def __call__(self, chunk: bytes, most: int) -> bytes:
        if self._zlib is None:
            return chunk[:most]
        try:
            return self._zlib.decompress(chunk, most)
        except zlib.error as exc:
            raise ToolFailureError("the page is not encoded as its server says") from exc


def _certificates(scheme: str) -> ssl.SSLContext | None:
    """Load the same certificates as for the vendors' servers; plain HTTP needs none."""
    if scheme == "http":
        return None
    import httpx

    return httpx.create_ssl_context()
