"""Read messages line by line, where lines cannot be edited."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TextIO

from tieredllm.chat.input import is_unfinished
from tieredllm.errors import UsageError

__all__ = ["LineReader"]

CHUNK_BYTES = 65_536

MAX_LINE_BYTES = 64 * 1024 * 1024
"""The longest line that is read: far more than any model takes."""


class LineReader:
    """Input line by line; a message in three double quotes has all its lines.

    Args:
        stdin: where they come from; None when it is closed.
        prompt: shows that a line is awaited; gets whether it goes on with a message.
        warn: is told when bytes are not UTF-8.
    """

    def __init__(
        self,
        stdin: TextIO | None,
        *,
        prompt: Callable[[bool], None] = lambda _: None,
        warn: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._stdin = stdin
        self._prompt = prompt
        self._warn = warn
        self._pending = bytearray()
        self._at_end = stdin is None or stdin.closed
        self._is_first = True
        self._has_warned = False
        self._waiting: asyncio.Future[None] | None = None

    async def read(self, prefill: str = "") -> str:
        """Return the next message; what was to be edited is given as it is.

        Raises:
            EOFError: there is no more.
            UsageError: a line is longer than any model takes.
            KeyboardInterrupt: `interrupt` was called.
        """
        if prefill:
            return prefill
        self._prompt(False)
        text = await self._line()
        if text is None:
            raise EOFError
        while is_unfinished(text):
            self._prompt(True)
            more = await self._line()
            if more is None:
                break
            text = f"{text}\n{more}"
        return text

    def interrupt(self) -> None:
        """Make the waiting `read` raise KeyboardInterrupt."""
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(KeyboardInterrupt())

    def between_messages(self) -> AbstractContextManager[None]:
        """Do nothing: what is typed is the terminal driver's own business."""
        return contextlib.nullcontext()

    async def _line(self) -> str | None:
        """Return the next line without its end; None when there is none."""
        seen = 0
        while (end := self._pending.find(b"\n", seen)) < 0 and not self._at_end:
            seen = len(self._pending)
            if seen > MAX_LINE_BYTES:
                raise UsageError(f"a line of stdin is over {MAX_LINE_BYTES // 1024 // 1024} MB")
            data = await self._chunk()
            self._at_end = not data
            self._pending += data
        if end < 0:
            end = len(self._pending)
            if not end:
                return None
        line = bytes(self._pending[:end])
        del self._pending[: end + 1]
        return self._decoded(line.removesuffix(b"\r"))

    async def _chunk(self) -> bytes:
        """Wait for bytes."""
        assert self._stdin is not None  # noqa: S101 - or we would be at the end
        try:
            descriptor = self._stdin.fileno()
        except (OSError, ValueError):
            return self._stdin.readline().encode("utf-8", "surrogatepass")
        loop = asyncio.get_running_loop()
        self._waiting = ready = loop.create_future()

        def wake() -> None:
            if not ready.done():
                ready.set_result(None)

        try:
            loop.add_reader(descriptor, wake)
        except (OSError, NotImplementedError):  # a file, which never makes anyone wait
            return os.read(descriptor, CHUNK_BYTES)
        try:
            await ready
        finally:
            loop.remove_reader(descriptor)
            self._waiting = None
        return os.read(descriptor, CHUNK_BYTES)

    def _decoded(self, line: bytes) -> str:
        encoding = "utf-8-sig" if self._is_first else "utf-8"
        self._is_first = False
        try:
            return line.decode(encoding)
        except UnicodeDecodeError:
            if not self._has_warned:
                self._has_warned = True
                self._warn("stdin is not UTF-8: characters were replaced")
            return line.decode(encoding, "replace")
