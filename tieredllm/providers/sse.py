"""Turn bytes into server-sent events, piece by piece.

The format is that of the WHATWG HTML standard, section 9.2.6 "Interpreting an event stream": lines
end with LF, CR or CRLF, a byte order mark may come first, a line that starts with a colon is a
comment, `data` lines add up, and a blank line ends an event. `id` and `retry` mean nothing here: a
stream that breaks is never resumed.

Some things go beyond the standard, as servers do: what no blank line ended counts at a proper end
of the body (openai/openai-node#2725); a `data` line after one that is a whole JSON object is an
event of its own (ggml-org/llama.cpp#14268); an `error:` line is an event, and so is bare JSON, on
one line or printed over several, as llama.cpp's server, Ollama's and Google's put errors into a
stream (ggml-org/llama.cpp#16109, googleapis/python-genai#1162); and a `data:` with JSON behind
blanks, or behind something whose line was not ended, is a field all the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec

__all__ = ["MAX_EVENT_BYTES", "Decoder", "Event", "EventTooLongError"]

MAX_EVENT_BYTES = 8 * 1024 * 1024
"""The longest line, and the most data in one event.

A token's chunk has a few hundred bytes, but the last one of OpenAI's Responses has the whole answer
and its encrypted thoughts, and others whole arguments or pictures: some had more than 1 MiB
(SamSaffron/term-llm#298 and #347). It is what OpenAI's own client takes (openai/openai-node#2411).
"""

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
CR, LF = 0x0D, 0x0A
_FIELDS = frozenset([b"", b"data", b"event", b"id", b"retry", b"error"])
_HIDDEN = re.compile(rb"data:[ ]?[{\[]")


class EventTooLongError(ValueError):
    """Report a line or an event that passes the limit, so memory stays bounded."""


class Event(msgspec.Struct, frozen=True):
    """One event."""

    data: str
    """The `data` lines, joined with LF; bytes that are not UTF-8 became U+FFFD."""
    name: str = "message"
    """The `event` field."""


class Decoder:
    """Decode one stream; the events are the same however its bytes are split.

    Every byte is looked at once: only the unfinished last line is kept.
    """

    def __init__(self, *, limit: int = MAX_EVENT_BYTES) -> None:
        self._limit = limit
        self._line = bytearray()
        self._data: list[bytes] = []
        self._bare: list[bytes] = []
        self._data_bytes = 0
        self._name = b""
        self._after_cr = False
        self._at_start = True

    def feed(self, chunk: bytes) -> Iterator[Event]:
        """Take the next bytes and yield the events they complete.

        Args:
            chunk: any number of bytes, from any place in the stream.

        Raises:
            EventTooLongError: a line or an event has more than `limit` bytes; the events before
                it have been yielded.
        """
        if self._after_cr and chunk:
            # The LF of a CRLF that was split; its CR has ended the line already.
            self._after_cr = False
            if chunk[0] == LF:
                chunk = chunk[1:]
        # `bytes.splitlines` knows CR, LF and CRLF and nothing else, as the standard wants.
        for piece in chunk.splitlines(keepends=True):
            last = piece[-1]
            if last not in (CR, LF):
                self._line += piece
                self._check(len(self._line))
                return
            self._after_cr = last == CR
            line = piece.rstrip(b"\r\n")
            if self._line:
                self._line += line
                line = bytes(self._line)
                self._line.clear()
            self._check(len(line))
            event = self._take(line)
            if event is not None:
                yield event
        # A CR inside the chunk is followed by bytes that are not LF; only one at its end is open.
        self._after_cr = self._after_cr and chunk.endswith(b"\r")

    def flush(self) -> Iterator[Event]:
        """Yield what was not ended by a blank line, once the body has ended properly."""
        if self._line:
            line = bytes(self._line)
            self._line.clear()
            event = self._take(line)
            if event is not None:
                yield event
        event = self._take_bare(b"") if self._bare else self._dispatch()
        if event is not None:
            yield event

    def _check(self, size: int) -> None:
        if size > self._limit:
            raise EventTooLongError(f"an event of the stream is longer than {self._limit} bytes")

    def _take(self, line: bytes) -> Event | None:
        if self._at_start:
            self._at_start = False
            line = line.removeprefix(BYTE_ORDER_MARK)
        if self._bare or line.startswith((b"{", b"[")):
            return self._take_bare(line)
        if not line:
            return self._dispatch()
        field, _, value = line.partition(b":")
        if field not in _FIELDS and (found := _HIDDEN.search(line)):
            field, value = b"data", line[found.end() - 1 :]
        value = value.removeprefix(b" ")
        if field == b"error" and value.strip():
            return Event(value.decode("utf-8", "replace"), "error")
        if field == b"data":
            event = None
            if len(self._data) == 1 and _is_object(self._data[0]):
                event = self._dispatch()
            self._data_bytes += len(value) + 1
            self._check(self._data_bytes - 1)
            self._data.append(value)
            return event
        if field == b"event":
            self._name = value
        return None

    def _take_bare(self, line: bytes) -> Event | None:
        """Take a line of JSON that is no field: all of it, or of what is printed over several."""
        is_first = not self._bare
        self._bare.append(line)
        self._data_bytes += len(line) + 1
        self._check(self._data_bytes - 1)
        close = b"]" if self._bare[0].startswith(b"[") else b"}"
        if line and not (line.rstrip().endswith(close) if is_first else line.startswith(close)):
            return None
        event = Event(b"\n".join(self._bare).decode("utf-8", "replace"))
        self._bare.clear()
        self._data_bytes = 0
        return event

    def _dispatch(self) -> Event | None:
        event = None
        if self._data:
            # Neither LF nor CR nor the colon is ever part of a longer UTF-8 sequence, so decoding
            # field by field gives what decoding the whole stream would.
            event = Event(
                b"\n".join(self._data).decode("utf-8", "replace"),
                self._name.decode("utf-8", "replace") or "message",
            )
            self._data.clear()
            self._data_bytes = 0
        self._name = b""
        return event


def _is_object(line: bytes) -> bool:
    """Whether a line is a whole JSON object."""
    if not (line.startswith(b"{") and line.rstrip().endswith(b"}")):
        return False
    try:
        msgspec.json.decode(line)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return False
    return True
