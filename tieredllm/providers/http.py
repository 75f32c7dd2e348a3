"""Send requests and read responses: the one place that touches the HTTP client.

Connections are kept open, redirects are never followed, nothing is retried, no cookie is kept, and
proxies come from the environment (see `tieredllm.proxies`). Every body is
asked for as it is, and counted as it comes. Every exception leaves as a `FallbackTriggerError`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Literal

import msgspec

from tieredllm.aio import LoopTimeout, PerLoop, give_way
from tieredllm.clock import Clock, SystemClock
from tieredllm.errors import FallbackTriggerError
from tieredllm.kinds import ErrorKind
from tieredllm.providers.request_info import RequestInfo
from tieredllm.providers.sse import Decoder, Event, EventTooLongError
from tieredllm.proxies import proxy_for
from tieredllm.version import __version__

if TYPE_CHECKING:
    from ssl import SSLContext

    import httpx

    from tieredllm.providers.connections import Connection, ConnectionPool

__all__ = [
    "MAX_BODY_BYTES",
    "MAX_ERROR_BODY_BYTES",
    "MAX_STREAM_BYTES",
    "HttpClients",
    "Reply",
    "Request",
    "spare_httpx_its_command_line",
]

MAX_ERROR_BODY_BYTES = 64 * 1024
"""More of an error body is never read."""

MAX_BODY_BYTES = 8 * 1024 * 1024
"""The longest answer in one body: a million tokens have some 4 MB."""

MAX_STREAM_BYTES = 64 * 1024 * 1024
"""The longest stream: a token's chunk has some 300 bytes, so this is 200,000 tokens."""

MAX_BODY_PARTS = 200_000
"""The most objects and lists in a body or event: an empty one has 3 bytes of JSON, 64 of memory."""

ERROR_BODY_S = 2.0
"""How long an error body may take; what has come by then is enough to classify it."""

_PACKINGS = frozenset(
    [
        "aes128gcm",
        "br",
        "compress",
        "dcb",
        "dcz",
        "deflate",
        "exi",
        "gzip",
        "pack200-gzip",
        "x-compress",
        "x-gzip",
        "zstd",
    ]
)
"""The codings that change a body: IANA's HTTP Content Coding Registry. A server that names another
(`none`, `utf-8`) means the body as it is, and every other client reads it so."""

_BLANK = b" \t\r\n\xef\xbb\xbf"
_FIELDS = (b"data:", b"event:", b":")
_FIELD = re.compile(rb"(?:data|event|id|retry|error)?:")
_LONGEST_FIELD = 6
_SNIFFED_BYTES = 64 * 1024


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One request."""

    method: Literal["GET", "POST"]
    url: str
    headers: Mapping[str, str] = {}
    body: bytes | None = None
    connect_timeout_s: float
    on_sent: Callable[[], None] | None = None
    """Called when the body has been written."""


async def _telling(body: bytes, on_sent: Callable[[], None] | None) -> AsyncIterator[bytes]:
    """Yield a body to be written; what asks for more of it has written it."""
    yield body
    if on_sent is not None:
        on_sent()


async def _sent(transport: httpx.AsyncHTTPTransport, request: Request) -> httpx.Response:
    import httpx

    made = httpx.Request(
        request.method,
        request.url,
        headers={
            "user-agent": f"tieredllm/{__version__}",
            "accept": "*/*",
            "connection": "keep-alive",
            **{name.lower(): value for name, value in request.headers.items()},
            # Packed, a few hundred bytes may be gigabytes; and it holds tokens back.
            "accept-encoding": "identity",
            **({"content-length": str(len(request.body))} if request.body else {}),
        },
        content=_telling(request.body, request.on_sent) if request.body else None,
        extensions={"timeout": {"connect": request.connect_timeout_s}},
    )
    if not made.url.host:  # httpx's client says so, its transport looks the empty name up
        raise httpx.UnsupportedProtocol("it names no host")
    if made.url.userinfo:
        next(httpx.BasicAuth(made.url.username, made.url.password).auth_flow(made))
    return await transport.handle_async_request(made)


class HttpClients:
    """The connections that the backends of one manager share.

    They belong to an event loop each, and are closed before it ends. The certificates are loaded
    (some 30 ms) for the first `https://`.

    Args:
        clock: what an HTTP date in `Retry-After` is held against.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._pools = PerLoop(self._pool, lambda pool: pool.aclose())
        self._contexts: dict[bool, SSLContext] = {}
        self._has_system_authorities = False

    async def aclose(self) -> None:
        """Close the running loop's connections; a later request opens new ones."""
        async with AsyncExitStack() as closing:
            self.release(closing)

    def release(self, closing: AsyncExitStack) -> None:
        """Let a stack close them; from now on a request opens new ones."""
        self._pools.release(closing)

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
        try:
            pool = await self._pools.get()
            proxy = proxy_for(request.url)
            via = None
            if proxy is not None:
                info, via = msgspec.structs.replace(info, proxy=proxy), proxy.url
            connection, response = await self._respond(pool, request, via)
        except Exception as exc:
            raise _classified(info, exc) from exc
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
            reply.refuse_packed()
            yield reply
        finally:
            try:
                await response.aclose()
            finally:
                pool.release(connection)

    async def _respond(
        self, pool: ConnectionPool, request: Request, proxy: str | None
    ) -> tuple[Connection, httpx.Response]:
        """Return the response, and the connection that it comes on, which is the caller's then.

        A kept connection may be closed by its server just as it is used again; and a certificate
        may need authorities that are not loaded yet. A new connection is tried once, then.
        """
        fresh = False
        while True:
            connection = pool.take(request.url, proxy, fresh=fresh)
            try:
                return connection, await _sent(connection.transport, request)
            except Exception as exc:
                is_stale = connection.was_closed_unheard(exc)
                pool.release(connection)
                if fresh or not (is_stale or self._knows_more_authorities(exc)):
                    raise
                fresh = True
            except BaseException:
                pool.release(connection)
                raise

    def _knows_more_authorities(self, exc: Exception) -> bool:
        """Trust the system's authorities as well, once a certificate needs them.

        They cost some 20 ms to load, and hold what certifi does not: an authority of one's own.
        """
        import os
        import ssl

        from tieredllm.providers.errors.transport import system_causes

        unknown = any(
            isinstance(cause, ssl.SSLCertVerificationError) for cause in system_causes(exc)
        )
        named = os.environ.get("SSL_CERT_FILE") or os.environ.get("SSL_CERT_DIR")
        context = self._contexts.get(True)
        if not unknown or named or context is None or self._has_system_authorities:
            return False
        self._has_system_authorities = True
        context.load_default_certs()
        return True

    def _pool(self) -> ConnectionPool:
        spare_httpx_its_command_line()
        from tieredllm.providers.connections import ConnectionPool

        return ConnectionPool(self._transport)

    def _transport(self, url: str, proxy: str | None) -> httpx.AsyncHTTPTransport:
        import httpx

        from tieredllm.providers.connections import KEEP_ALIVE_S

        return httpx.AsyncHTTPTransport(
            verify=self._ssl_context(
                secure="https:" in (url[:6].lower(), (proxy or "")[:6].lower())
            ),
            proxy=proxy,
            trust_env=False,
            limits=httpx.Limits(max_connections=1, keepalive_expiry=KEEP_ALIVE_S),
        )

    def _ssl_context(self, *, secure: bool) -> SSLContext:
        if secure not in self._contexts:
            import ssl

            import httpx

            # A context without certificates verifies nothing successfully: it is safe, and never
            # used for http://.
            self._contexts[secure] = (
                httpx.create_ssl_context() if secure else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            )
        return self._contexts[secure]


class Reply:
    """One response whose status is 2xx, its body unread."""

    def __init__(self, response: httpx.Response, info: RequestInfo) -> None:
        self._response = response
        self._info = info
        # Without httpx's own way to read it, which counts and cuts to a size besides.
        assert isinstance(response.stream, AsyncIterable)  # noqa: S101 - of an async transport
        self._chunks = aiter(response.stream)
        self._head = b""
        self._taken = 0
        """How many pieces and events have been."""
        self.headers: Mapping[str, str] = response.headers
        self.status: int = response.status_code
        self.content_type: str = response.headers.get("content-type", "").lower()

    def refuse_packed(self) -> None:
        """Raise for a body that is packed although it was asked for as it is.

        Raises:
            FallbackTriggerError: it is.
        """
        if self._packing:
            raise FallbackTriggerError(
                ErrorKind.MALFORMED_RESPONSE,
                self._info.presentable(
                    f"{self._info.host} sent a body packed as {self._packing}, unasked"
                ),
                status=self.status,
            )

    @property
    def _packing(self) -> str:
        codings = self.headers.get("content-encoding", "").lower()
        named = (coding.strip() for coding in codings.split(","))
        return codings.strip() if any(coding in _PACKINGS for coding in named) else ""

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
            head = self._head.lstrip(_BLANK)
            if head[:1] in (b"{", b"[", b"<") or len(head) >= _LONGEST_FIELD or b":" in head:
                break
            if len(self._head) > _SNIFFED_BYTES:
                break
        head = self._head.lstrip(_BLANK)
        start = head[:1]
        if not self._head:
            raise FallbackTriggerError(
                ErrorKind.EMPTY_RESPONSE, f"{self._info.host} sent nothing", status=self.status
            )
        if start in (b"{", b"["):
            return "body"
        # PHP calls whatever it sends HTML unless it is told otherwise.
        if start == b"<" or ("html" in self.content_type and not head.startswith(_FIELDS)):
            raise self.page(self._head)
        is_stream = _FIELD.match(head) or "event-stream" in self.content_type
        return "events" if is_stream else "body"

    async def events(self) -> AsyncGenerator[Event, None]:
        """Yield the stream's events.

        Raises:
            FallbackTriggerError: the connection broke, or an event, or all of them, are too long.
        """
        decoder = Decoder()
        size = len(self._head)
        try:
            chunk: bytes | None = self._head
            while chunk is not None:
                for event in decoder.feed(chunk):
                    self._taken += 1
                    await give_way(self._taken)
                    self._check_parts(event.data)
                    yield event
                chunk = await self._next()
                size += len(chunk or b"")
                if size > MAX_STREAM_BYTES:
                    raise self._too_much(f"is longer than {MAX_STREAM_BYTES} bytes")
            for event in decoder.flush():
                self._check_parts(event.data)
                yield event
        except EventTooLongError as exc:
            raise FallbackTriggerError(
                ErrorKind.MALFORMED_RESPONSE, str(exc), status=self.status
            ) from exc

    async def body(self) -> bytes:
        """Read the whole body.

        Raises:
            FallbackTriggerError: it broke off, or is more than any answer.
        """
        parts = [self._head]
        size = len(self._head)
        try:
            while (chunk := await self._next()) is not None:
                parts.append(chunk)
                size += len(chunk)
                if size > MAX_BODY_BYTES:
                    raise self._too_much(f"is longer than {MAX_BODY_BYTES} bytes")
        except FallbackTriggerError as exc:
            if exc.kind is ErrorKind.CONNECTION and size:
                raise FallbackTriggerError(
                    ErrorKind.MALFORMED_RESPONSE,
                    f"{self._info.host} broke off in the middle of the answer",
                    status=self.status,
                ) from exc
            raise
        body = b"".join(parts)
        self._check_parts(body)
        return body

    async def error_body(self) -> bytes:
        """Read what there is of an error body, bounded in size and time; never fails.

        There is nothing in a packed one.
        """
        body = b""
        if self._packing:
            return body
        try:
            async with LoopTimeout(ERROR_BODY_S):
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
            self._info.presentable(
                f"{self._info.host} sent a web page, not an answer{self._info.way}: {title}"
            ),
            status=self.status,
        )

    def _check_parts(self, said: str | bytes) -> None:
        if len(said) <= MAX_BODY_PARTS:
            return
        if isinstance(said, str):
            begun = said.count("{") + said.count("[")
        else:
            begun = said.count(b"{") + said.count(b"[")
        if begun > MAX_BODY_PARTS:
            raise self._too_much(f"has more than {MAX_BODY_PARTS} parts")

    def _too_much(self, what: str) -> FallbackTriggerError:
        message = f"what {self._info.host} sends {what}, which no answer has"
        return FallbackTriggerError(ErrorKind.MALFORMED_RESPONSE, message, status=self.status)

    async def _next(self) -> bytes | None:
        self._taken += 1
        await give_way(self._taken)
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
