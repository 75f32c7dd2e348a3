"""One HTTP request and its response: the body read with limits, the client watched, frames sent.

uvicorn tells of a client that has gone by `receive()` alone, so somebody has to wait there from the
moment the body has come, also before the first byte of the answer.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NoReturn

from tieredllm.serve.wire import RefusedError, encode
from tieredllm.types import Answer, Attempt

__all__ = ["BrokenOffError", "Exchange", "LostError", "Receive", "Send", "StoppedError"]

Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

STALLED_S = 60.0
"""How long a client may leave what was sent to it unread before it counts as gone, in seconds."""
LINGER_S, LULL_S = 10.0, 1.0
"""How long a refused body is read on, in all and without a byte, before its connection closes."""
MOST_WAITING_BYTES = 65_536
"""How much waits for a client that reads slowly before the backend has to, in bytes."""


class LostError(Exception):
    """The client has gone: nothing is left to send."""


class BrokenOffError(LostError):
    """A stream ends in an error: it is not closed, so that no reader takes it for whole."""


class StoppedError(Exception):
    """The gateway ends this request before anything of its answer was sent."""


class Exchange:
    """A request, and what was sent of its response.

    Args:
        version: the request's version of HTTP, such as `1.1`.
        method: its method.
        path: its path, without the query.
        headers: its headers, names in lower case.
        request_id: 32 hexadecimal digits, for the response's headers.
        receive: ASGI's.
        send: ASGI's.
    """

    def __init__(
        self,
        *,
        version: str,
        method: str,
        path: str,
        headers: Mapping[str, str],
        request_id: str,
        receive: Receive,
        send: Send,
    ) -> None:
        self.version = version
        self.method = method
        self.path = path
        self.headers = headers
        self.request_id = request_id
        self.extra_headers: list[tuple[str, str]] = []
        self.is_open = False
        """Whether a stream has begun: its status and headers are sent."""
        self.ended = asyncio.Event()
        self.protocol = ""
        """Which one it is in, once it is let in."""
        self.status: int | None = None
        """The response's, once it is sent."""
        self.lingered_s = 0.0
        """How long the request was read on after its response."""
        self.outcome: str | None = None
        """How it ended, in the words of the figures."""
        self.attempts: Sequence[Attempt] = ()
        """What was tried for it."""
        self.answer: Answer | None = None
        self._receive = receive
        self._send = send
        self._has_body = False
        self._messages: list[dict[str, Any]] = []
        self._frames: list[bytes] = []
        """What waits to be sent, after the messages."""
        self._waiting_bytes = 0
        self._flushing: asyncio.Task[None] | None = None
        self.is_closed = False
        """Whether the whole response was handed over."""
        self._is_lost = False
        self._stopping: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def body(self, *, max_bytes: int, within_s: float) -> bytes:
        """Read the whole body.

        Args:
            max_bytes: how much is read.
            within_s: how long it may take, in seconds.

        Raises:
            RefusedError: it is larger, or comes more slowly.
            LostError: the client has gone.
        """
        too_large = RefusedError(413, f"the body is larger than {max_bytes // 2**20} MB")
        announced = self.headers.get("content-length", "")
        if announced.isdecimal() and int(announced) > max_bytes:
            raise too_large
        pieces: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(within_s):
                while not self._has_body:
                    message = await self._receive()
                    if message["type"] == "http.disconnect":
                        raise LostError
                    piece = message.get("body", b"")
                    size += len(piece)
                    if size > max_bytes:
                        raise too_large
                    pieces.append(piece)
                    self._has_body = not message.get("more_body", False)
        except TimeoutError:
            reason = f"the body did not come within {within_s:g} s"
            raise RefusedError(408, reason) from None
        return b"".join(pieces)

    def stop(self, message: str) -> None:
        """Let `attended` end the work; `message` says why."""
        if not self._stopping.done():
            self._stopping.set_result(message)

    async def attended(
        self,
        work: Callable[[], Coroutine[Any, Any, str]],
        stopped: Callable[[str], Coroutine[Any, Any, NoReturn]],
    ) -> str:
        """Do some work for as long as the client is there and nobody has called `stop`.

        Args:
            work: what is done; cancelled at once when the client goes.
            stopped: says so on a stream that is open, when it is stopped.

        Returns:
            What the work returned.

        Raises:
            LostError: the client has gone.
            BrokenOffError: it was stopped in mid-stream.
            StoppedError: it was stopped, and nothing was sent yet.
        """
        working = asyncio.ensure_future(work())
        gone = asyncio.ensure_future(self._until_gone())
        try:
            ends: list[asyncio.Future[Any]] = [working, gone, self._stopping]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                return await working
        finally:
            gone.cancel()
            working.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await working
        if gone.done() and not gone.cancelled():
            raise LostError
        message = self._stopping.result()
        if not self.is_open:
            raise StoppedError(message)
        return await stopped(message)

    async def respond(
        self,
        status: int,
        content: bytes | dict[str, Any],
        media_type: str = "application/json",
        *,
        headers: Iterable[tuple[str, str]] = (),
    ) -> None:
        """Send a whole response.

        Args:
            status: its status.
            content: its body; an object is written as JSON.
            media_type: the body's type.
            headers: more headers.
        """
        body = content if isinstance(content, bytes) else encode(content)
        own = [("content-type", media_type), ("content-length", str(len(body)))]
        is_unread = not self._has_body and self.method == "POST"
        if is_unread:
            own.append(("connection", "close"))
        self.is_closed = True
        await self._send(self._head(status, [*own, *headers]))
        await self._send({"type": "http.response.body", "body": body, "more_body": is_unread})
        if is_unread:
            began = time.monotonic()
            await self._linger()
            self.lingered_s = time.monotonic() - began
            await self._send({"type": "http.response.body"})

    async def _linger(self) -> None:
        """Read on for a while, for nobody: one who is still sending would meet a reset, no answer.

        RFC 9112, section 9.6. Who waits to be told to send (`Expect: 100-continue`) is not told to.
        """
        if "expect" in self.headers:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER_S):
                comes = True
                while comes:
                    async with asyncio.timeout(LULL_S):
                        comes = (await self._receive()).get("more_body", False)

    def open(self, headers: Iterable[tuple[str, str]]) -> None:
        """Begin a stream of server-sent events, unless it has begun."""
        if not self.is_open:
            self.is_open = True
            self._messages.append(self._head(200, [*_STREAM, *headers]))

    async def write(self, frames: bytes) -> None:
        """Send frames of the stream, soon: what comes in one go leaves in one go.

        Raises:
            LostError: the client has not read for too long.
        """
        self._frames.append(frames)
        self._waiting_bytes += len(frames)
        if self._flushing is None:
            self._flushing = asyncio.ensure_future(self._flush())
        elif self._waiting_bytes > MOST_WAITING_BYTES:
            await self.drain()

    async def drain(self) -> None:
        """Wait until everything is sent.

        Raises:
            LostError: the client has not read for too long.
        """
        if self._flushing is not None:
            await asyncio.wait([self._flushing])
        if self._is_lost:
            raise LostError

    async def close(self) -> None:
        """End the stream properly. One that is not closed is broken off: an error to its reader.

        Raises:
            LostError: the client has not read for too long.
        """
        self.is_closed = True
        await self.write(b"")
        await self.drain()

    async def _flush(self) -> None:
        """Send what waits, the client's pace being the pace."""
        try:
            while self._frames and not self._is_lost:
                body, self._waiting_bytes = b"".join(self._frames), 0
                self._frames.clear()
                messages, self._messages = self._messages, []
                more = not self.is_closed
                messages.append({"type": "http.response.body", "body": body, "more_body": more})
                async with asyncio.timeout(STALLED_S):
                    for message in messages:
                        await self._send(message)
        except TimeoutError:
            self._is_lost = True
        finally:
            self._flushing = None

    def _head(self, status: int, headers: Iterable[tuple[str, str]]) -> dict[str, Any]:
        self.status = status
        named = [*headers, *self.extra_headers]
        named += [("x-request-id", self.request_id), ("request-id", self.request_id)]
        raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in named]
        return {"type": "http.response.start", "status": status, "headers": raw}

    async def _until_gone(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        if self.is_closed:  # uvicorn says the same when the response is complete
            await asyncio.get_running_loop().create_future()


_STREAM = (
    ("content-type", "text/event-stream; charset=utf-8"),
    ("cache-control", "no-cache"),
    ("x-accel-buffering", "no"),  # nginx would collect the words
)
