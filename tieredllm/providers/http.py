"""Send requests and read responses: the one place that touches the HTTP client.

Connections are shared and kept open, redirects are never followed, nothing is retried, and proxies
come from the environment as httpx reads it (`HTTPS_PROXY`, `NO_PROXY`, ...). Every exception
leaves as a `FallbackTriggerError`.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Literal

import msgspec

from tieredllm.clock import Clock, SystemClock
from tieredllm.errors import FallbackTriggerError
from tieredllm.kinds import ErrorKind
from tieredllm.providers.request_info import RequestInfo
from tieredllm.providers.sse import Decoder, Event, EventTooLongError
from tieredllm.version import __version__

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

    import httpx

__all__ = [
    "MAX_BODY_BYTES",
    "MAX_ERROR_BODY_BYTES",
    "HttpClients",
    "Reply",
    "Request",
    "spare_httpx_its_command_line",
]

MAX_ERROR_BODY_BYTES = 64 * 1024
"""More of an error body is never read."""

MAX_BODY_BYTES = 64 * 1024 * 1024
"""The longest answer in one body: a million tokens have some 4 MB."""

ERROR_BODY_S = 2.0
"""How long an error body may take; what has come by then is enough to classify it."""

MAX_IDLE = 20
"""Idle connections that are kept, httpx's own default; its pool looks at each for each request."""

KEEP_ALIVE_S = 30.0
"""How long an idle connection is kept for the next turn of a chat."""

_BLANK = b" \t\r\n\xef\xbb\xbf"
_FIELD_STARTS = (b"d", b"e", b":", b"i", b"r")
_SNIFFED_BYTES = 64 * 1024


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One request."""

    method: Literal["GET", "POST"]
    url: str
    headers: Mapping[str, str] = {}
    body: bytes | None = None
    connect_timeout_s: float
    stream: bool = False
    on_sent: Callable[[], None] | None = None
    """Called when the body has been written."""


async def _telling(body: bytes, on_sent: Callable[[], None] | None) -> AsyncIterator[bytes]:
    """Yield a body to be written; what asks for more of it has written it."""
    yield body
    if on_sent is not None:
        on_sent()


class HttpClients:
    """The connections that the backends of one manager share.

    Two clients at most, made when they are first needed: one for `https://`, and one for `http://`
    that spares loading the certificates (some 30 ms). They belong to the running event loop; those
    of a loop that is gone are forgotten.

    Args:
        clock: what an HTTP date in `Retry-After` is held against.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._clients: dict[bool, httpx.AsyncClient] = {}
        self._loop: AbstractEventLoop | None = None

    async def aclose(self) -> None:
        """Close all connections; a later request opens new ones."""
        import asyncio

        clients, self._clients = self._clients, {}
        if self._loop is asyncio.get_running_loop():
            for client in clients.values():
                await client.aclose()

    @asynccontextmanager
    async def send(self, request: Request, info: RequestInfo) -> AsyncIterator[Reply]:
        """Send a request and give the successful response; leaving closes it at once.

        The response's time is the caller's to bound, but for connecting and for error bodies.

        Args:
            request: what to send.
            info: what its errors may refer to.

        Raises:
            FallbackTriggerError: there is no response, or one with a status other than 2xx, or a
                web page.
        """
        response = await self._respond(request, info)
        try:
            reply = Reply(response, info)
            if not 200 <= response.status_code < 300:
                from tieredllm.providers.errors.http import classify_response

                raise classify_response(
                    info,
                    status=response.status_code,
                    headers=response.headers,
                    body=await reply.error_body(),
                    now=self._clock.wall(),
                )
            if "html" in reply.content_type:
                raise reply.page(await reply.error_body())
            yield reply
        finally:
            await response.aclose()

    async def _respond(self, request: Request, info: RequestInfo) -> httpx.Response:
        try:
            client = self._client(request.url)
            import httpx

            return await client.send(
                client.build_request(
                    request.method,
                    request.url,
                    headers={
                        **request.headers,
                        # Small chunks gain nothing from compression, and it holds tokens back.
                        "Accept-Encoding": "identity" if request.stream else "gzip, deflate",
                        **({"Content-Length": str(len(request.body))} if request.body else {}),
                    },
                    content=_telling(request.body, request.on_sent) if request.body else None,
                    timeout=httpx.Timeout(None, connect=request.connect_timeout_s),
                ),
                stream=True,
            )
        except Exception as exc:
            raise _classified(info, exc) from exc

    def _client(self, url: str) -> httpx.AsyncClient:
        import asyncio
        import ssl

        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._loop = loop
            self._clients = {}
        secure = url[:6].lower() == "https:"
        client = self._clients.get(secure)
        if client is None:
            spare_httpx_its_command_line()
            import httpx

            client = self._clients[secure] = httpx.AsyncClient(
                headers={"User-Agent": f"tieredllm/{__version__}", "Accept": "*/*"},
                # A context without certificates verifies nothing successfully: it is safe, and
                # never used for http://.
                verify=(
                    httpx.create_ssl_context()
                    if secure
                    else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
                ),
                follow_redirects=False,
                limits=httpx.Limits(
                    max_keepalive_connections=MAX_IDLE, keepalive_expiry=KEEP_ALIVE_S
                ),
                http2=False,
            )
        return client


class Reply:
    """One response whose status is 2xx, its body unread."""

    def __init__(self, response: httpx.Response, info: RequestInfo) -> None:
        self._response = response
        self._info = info
        self._chunks = response.aiter_bytes()
        self._head = b""
        self.headers: Mapping[str, str] = response.headers
        self.status: int = response.status_code
        self.content_type: str = response.headers.get("content-type", "").lower()

    async def form(self) -> Literal["events", "body"]:
        """Look at the first bytes and tell a stream of events from one JSON document.

        The bytes are surer than the Content-Type, which some servers leave out or get wrong, and
        than what was asked for: an error inside a 200 is a document also when a stream was asked
        for, and some servers always stream. No event starts with a brace or a bracket.

        Raises:
            FallbackTriggerError: a web page, an empty body, or the connection broke.
        """
        while (chunk := await self._next()) is not None:
            self._head += chunk
            if self._head.lstrip(_BLANK) or len(self._head) > _SNIFFED_BYTES:
                break
        start = self._head.lstrip(_BLANK)[:1]
        if start == b"<":
            raise self.page(self._head)
        if not self._head:
            raise FallbackTriggerError(
                ErrorKind.EMPTY_RESPONSE, f"{self._info.host} sent nothing", status=self.status
            )
        if start in (b"{", b"["):
            return "body"
        # `data:`, `event:`, `:`, `id:`, `retry:`, `error:`: no JSON document starts so.
        return "events" if start in _FIELD_STARTS or "json" not in self.content_type else "body"

    async def events(self) -> AsyncGenerator[Event, None]:
        """Yield the stream's events.

        Raises:
            FallbackTriggerError: the connection broke, or an event is too long.
        """
        decoder = Decoder()
        try:
            for event in decoder.feed(self._head):
                yield event
            while (chunk := await self._next()) is not None:
                for event in decoder.feed(chunk):
                    yield event
            for event in decoder.flush():
                yield event
        except EventTooLongError as exc:
            raise FallbackTriggerError(
                ErrorKind.MALFORMED_RESPONSE, str(exc), status=self.status
            ) from exc

    async def body(self) -> bytes:
        """Read the whole body.

        Raises:
            FallbackTriggerError: it broke off, or is longer than `MAX_BODY_BYTES`.
        """
        parts = [self._head]
        size = len(self._head)
        try:
            while (chunk := await self._next()) is not None:
                parts.append(chunk)
                size += len(chunk)
                if size > MAX_BODY_BYTES:
                    raise FallbackTriggerError(
                        ErrorKind.MALFORMED_RESPONSE,
                        f"the answer is longer than {MAX_BODY_BYTES} bytes",
                        status=self.status,
                    )
        except FallbackTriggerError as exc:
            if exc.kind is ErrorKind.CONNECTION and size:
                raise FallbackTriggerError(
                    ErrorKind.MALFORMED_RESPONSE,
                    f"{self._info.host} broke off in the middle of the answer",
                    status=self.status,
                ) from exc
            raise
        return b"".join(parts)

    async def error_body(self) -> bytes:
        """Read what there is of an error body, bounded in size and time; never fails."""
        import asyncio

        body = b""
        try:
            async with asyncio.timeout(ERROR_BODY_S):
                while len(body) < MAX_ERROR_BODY_BYTES:
                    chunk = await self._next()
                    if chunk is None:
                        break
                    body += chunk
        except (TimeoutError, FallbackTriggerError):
            pass
        return body[:MAX_ERROR_BODY_BYTES]

    def page(self, body: bytes) -> FallbackTriggerError:
        """Make the error for a web page where an answer should be."""
        title = self._info.presentable(body.decode("utf-8", "replace"))
        return FallbackTriggerError(
            ErrorKind.MALFORMED_RESPONSE,
            self._info.presentable(f"{self._info.host} sent a web page, not an answer: {title}"),
            status=self.status,
        )

    async def _next(self) -> bytes | None:
        try:
            return await anext(self._chunks, None)
        except Exception as exc:
            raise _classified(self._info, exc) from exc


def _classified(info: RequestInfo, exc: Exception) -> FallbackTriggerError:
    from tieredllm.providers.errors.transport import classify_exception

    return classify_exception(info, exc)


def spare_httpx_its_command_line() -> None:
    """Import httpx without `httpx._main`, which would load rich and pygments (some 60 ms).

    httpx itself treats that module as optional: it goes without when click is not installed.
    """
    if "httpx" in sys.modules:
        return
    sys.modules["httpx._main"] = None  # type: ignore[assignment] # makes importing it fail
    try:
        import httpx  # noqa: F401
    finally:
        sys.modules.pop("httpx._main", None)
