"""Reach servers over streamable HTTP, and say what their errors mean.

The SDK keeps neither the status nor the body of an error ("Server returned an error response", mcp
2.3.0, `client/streamable_http.py`), which is all there is to go by. It also validates each message
as it is read, so what a server sends is mended before, on its way through the response's stream.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, suppress
from contextvars import ContextVar
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec

from tieredllm.lenient_json import NotJsonError, decode, encode
from tieredllm.text import one_line
from tieredllm.tools.mcp.connection import UnavailableError
from tieredllm.tools.mcp.transport import MAX_LINE_BYTES, Exchange

if TYPE_CHECKING:
    import httpx2
    from httpx2 import AsyncByteStream

__all__ = ["HttpLife", "HttpProblem"]

_OTHER_WAY = "name the variable that holds a token: `headers_env: {Authorization: NAME}`"

Mend = Callable[[AsyncIterable[bytes], Exchange], AsyncIterator[bytes]]

BODY_CHARACTERS = 300
"""How much of an error's body is shown."""


class HttpProblem(msgspec.Struct, frozen=True, kw_only=True):
    """An HTTP response that was no answer."""

    status: int
    url: str
    body: str = ""
    retry_after: str | None = None

    def explain(self, server: str, authorized_by: str | None) -> str:
        """Say what it means, and what to do.

        Args:
            server: the server's name in the profile.
            authorized_by: where the token came from that was sent; None when there was none.
        """
        try:
            phrase = HTTPStatus(self.status).phrase
        except ValueError:
            phrase = ""
        said = f"HTTP {self.status} {phrase}".rstrip() + f" from {self.url}"
        if self.body:
            said += f": {self.body}"
        return f"{said}; {self._fix(server, authorized_by)}"

    def _fix(self, server: str, authorized_by: str | None) -> str:
        if self.status == 401 and authorized_by is None:
            return f"log in with `tieredllm tools login {server}`, or {_OTHER_WAY}"
        if self.status == 401:
            return f"the token of {authorized_by} was rejected"
        if self.status == 403:
            return f"the token of {authorized_by or 'nobody'} may not use it"
        if self.status in (404, 405, 406) or self.status < 400:
            what = "no answer that can be read" if self.status < 400 else "no MCP server"
            return (
                f"there is {what} over streamable HTTP at this address (a server's path is often "
                "`/mcp`; servers of the old kind, at `/sse`, are not supported)"
            )
        if self.status == 429:
            wait = self.retry_after or "a while"  # seconds, or a date (RFC 9110, 10.2.3)
            seconds = " s" if wait.isdecimal() else ""
            return f"it has had too many requests: try again after {wait}{seconds}"
        at_fault = "the server is at fault, or what stands before it"
        return at_fault if self.status >= 500 else "it refuses what it was asked"


_NOTED: ContextVar[list[HttpProblem]] = ContextVar("tieredllm_mcp_noted")
"""The last response to one call: several may be under way."""


class HttpLife:
    """One session with a server over HTTP.

    Args:
        server: its name in the profile.
        url: where it is.
        headers: those of each request.
        connect_timeout_s: how long reaching it may take.
        auth: signs requests, where there was a login.
        authorized_by: where the token came from that is sent; None when there is none.
    """

    def __init__(
        self,
        server: str,
        url: str,
        *,
        headers: Mapping[str, str],
        connect_timeout_s: float,
        auth: httpx2.Auth | None = None,
        authorized_by: str | None = None,
    ) -> None:
        self._server = server
        self._url = url
        self._headers = headers
        self._connect_timeout_s = connect_timeout_s
        self._auth = auth
        self._authorized_by = authorized_by
        self._exchange = Exchange()
        self._noted: list[HttpProblem] = []
        self.has_ended = asyncio.Event()
        self._has_lost_session = False

    async def start(self, stack: AsyncExitStack) -> None:
        """Do nothing: its first request starts it."""

    async def streams(self, stack: AsyncExitStack) -> tuple[Any, Any]:
        """Return what is read from and written to."""
        import httpx2
        from mcp.client.streamable_http import streamable_http_client

        self.begin()  # who starts it may have asked another server, and start others beside it
        timeout = httpx2.Timeout(self._connect_timeout_s, read=None)
        client = httpx2.AsyncClient(
            headers={**self._headers, "accept-encoding": "identity"},
            timeout=timeout,
            auth=self._auth,
            follow_redirects=True,
            event_hooks={"response": [self._note]},
        )
        await stack.enter_async_context(client)
        # What is too long was replaced by then; the SDK's own limit is 1 MiB.
        transport = streamable_http_client(self._url, http_client=client, max_sse_event_size=None)
        return await stack.enter_async_context(transport)

    def begin(self) -> None:
        """Keep apart what is noted of the responses to what is asked next, in this context.

        The SDK sends a request in the context of who asked (mcp 2.3.0, `_context_streams.py`).
        """
        _NOTED.set([])

    def is_over(self, exc: BaseException) -> bool:
        """Whether a failure means that the session is gone."""
        return self.has_ended.is_set() or _is_closed(exc)

    def is_unknown(self, exc: BaseException) -> bool:
        """Whether a failure means that the server does not know the session.

        What was under way beside the call that was told so ends with the connection, and may have
        run.
        """
        return self._has_lost_session and not _is_closed(exc)

    @property
    def has_heard(self) -> bool:
        """Whether it may have read something: it ran before."""
        return True

    def explain(self, exc: BaseException) -> str | None:
        """Say which HTTP error is behind a failure, if one is."""
        import httpx2
        from mcp.client.auth import OAuthRegistrationError

        while isinstance(exc, BaseExceptionGroup):
            exc = exc.exceptions[0]
        if isinstance(exc, UnavailableError):
            return str(exc)
        if isinstance(exc, OAuthRegistrationError):
            return f"it takes no login of a program that it does not know; {_OTHER_WAY}"
        if isinstance(exc, httpx2.TransportError):
            return f"{without_query(self._url)} cannot be reached: {one_line(str(exc), 200)}"
        code, said = getattr(exc, "code", None), str(exc)
        noted = _NOTED.get(self._noted)
        if not noted:
            return None
        problem = noted.pop()
        made_up = code is None or said in _OF_THE_SDK or problem.status in (401, 403)
        if not (said.startswith(_NO_ANSWER) if problem.status < 400 else made_up):
            return None
        return problem.explain(self._server, self._authorized_by)

    async def _note(self, response: httpx2.Response) -> None:
        """Keep what a response says; `GET` is a stream that many servers do not offer."""
        if response.status_code < 400 and "content-encoding" not in response.headers:
            # The request that follows a redirect has not been read (httpx2 2.16.2, `_client.py`).
            _mend_answers(response, await response.request.aread(), self._exchange)
        if response.request.method != "POST":
            return
        body, raw = "", b""
        kind = response.headers.get("content-type", "")
        if response.status_code >= 400 and ("json" in kind or "text/plain" in kind):
            raw = await response.aread()
            body = one_line(raw[:4096].decode("utf-8", "replace"), BODY_CHARACTERS)
        elif response.status_code < 400:
            body = one_line(kind, BODY_CHARACTERS) or "an empty answer"
        problem = HttpProblem(
            status=response.status_code,
            url=without_query(str(response.request.url)),
            body=body,
            retry_after=response.headers.get("retry-after"),
        )
        _NOTED.get(self._noted)[:] = [problem]
        # "When a client receives HTTP 404 in response to a request containing an Mcp-Session-Id, it
        # MUST start a new session" (specification 2025-11-25, basic/transports). Servers made after
        # the TypeScript SDK's examples say 400 "No valid session ID provided".
        of_session = "mcp-session-id" in response.request.headers
        if of_session and (
            response.status_code == 404
            or (
                response.status_code == 400
                and "session" in body.lower()
                and not _is_answer(raw, await response.request.aread())
            )
        ):
            self._has_lost_session = True
            self.has_ended.set()


def _is_closed(exc: BaseException) -> bool:
    return (getattr(exc, "code", None), str(exc)) == _CLOSED


def _is_answer(raw: bytes, request: bytes) -> bool:
    """Whether a body is the answer to a request: the server knows of it."""
    try:
        answer, asked = decode(raw), decode(request)
    except NotJsonError:
        return False
    both = isinstance(answer, dict) and isinstance(asked, dict)
    return both and answer.get("id") is not None and answer.get("id") == asked.get("id")


def _mend_answers(response: httpx2.Response, request: bytes, exchange: Exchange) -> None:
    """Have what a response will bring mended before the SDK reads it.

    Args:
        response: one whose body was not read.
        request: the body of what it answers.
        exchange: knows what was asked.
    """
    with suppress(NotJsonError):
        asked = decode(request)
        if isinstance(asked, dict):
            exchange.sent(asked.get("id"), asked.get("method"))
    kind = response.headers.get("content-type", "").lower()
    if kind.startswith("application/json"):
        response.stream = _mended(response.stream, _mended_body, exchange)
    elif kind.startswith("text/event-stream"):
        response.stream = _mended(response.stream, _mended_events, exchange)


def _mended(given: Any, mend: Mend, exchange: Exchange) -> AsyncByteStream:
    """Return a stream of a response that is mended on its way."""
    from httpx2 import AsyncByteStream

    class Mended(AsyncByteStream):
        def __aiter__(self) -> AsyncIterator[bytes]:
            return mend(given, exchange)

        async def aclose(self) -> None:
            await given.aclose()

    return Mended()


async def _mended_body(chunks: AsyncIterable[bytes], exchange: Exchange) -> AsyncIterator[bytes]:
    parts: list[bytes] = []
    size = 0
    async for chunk in chunks:
        parts.append(chunk)
        size += len(chunk)
        if size > MAX_LINE_BYTES:
            break
    body = b"".join(parts)
    messages = exchange.read(body) if size <= MAX_LINE_BYTES else exchange.too_long(body)
    yield encode(messages[0]).encode() if len(messages) == 1 else body


async def _mended_events(chunks: AsyncIterable[bytes], exchange: Exchange) -> AsyncIterator[bytes]:
    parts: list[bytes] = []
    size = 0
    event: list[bytes] = []
    async for chunk in chunks:
        parts.append(chunk)
        size += len(chunk)
        if size > MAX_LINE_BYTES:
            for message in exchange.too_long(b"".join(parts)):
                yield b"data: " + encode(message).encode() + b"\n\n"
            return
        if b"\n" not in chunk:
            continue
        *lines, rest = b"".join(parts).split(b"\n")
        parts, size = [rest], len(rest)
        for line in lines:
            if line.strip():
                event.append(line)
            else:
                yield _mended_event(event, exchange)
                event = []
    yield b"\n".join([*event, b"".join(parts)])


def _mended_event(lines: list[bytes], exchange: Exchange) -> bytes:
    data = [line[5:].strip() for line in lines if line.startswith(b"data:")]
    messages = exchange.read(b"\n".join(data)) if data else []
    if not messages:
        return b"\n".join([*lines, b"", b""])
    others = [line for line in lines if not line.startswith(b"data:")]
    events = [[*others, b"data: " + encode(it).encode(), b"", b""] for it in messages]
    return b"".join(b"\n".join(event) for event in events)


_CLOSED = (-32000, "Connection closed")
"""What the SDK says of a connection that is gone (mcp 2.3.0, `shared/jsonrpc_dispatcher.py`)."""
_NO_ANSWER = (
    *("Unexpected content type", "Failed to parse JSON response", "Failed to parse SSE message"),
)
"""How the SDK calls a success that holds no answer."""


def without_query(url: str) -> str:
    """Return an address without what may be secret in it."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname}{f':{parts.port}' if parts.port else ''}{parts.path}"


_OF_THE_SDK = frozenset(
    {"Server returned an error response", "Session terminated", "Not Found", "Connection closed"}
)
"""What the SDK makes up for an HTTP error; "Session terminated" is a 404 within a session."""
