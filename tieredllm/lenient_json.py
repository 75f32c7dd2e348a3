"""Read and write JSON of which nothing is known for sure, as its writers mean it."""

from __future__ import annotations

import math
import re
from typing import Any

import msgspec

__all__ = [
    "DONE",
    "NotJsonError",
    "cleaned",
    "decode",
    "decode_all",
    "decode_sent",
    "encode",
    "join_halves",
    "refuse_constant",
]

DONE = object()
"""Stands for `[DONE]`, which ends a stream of OpenAI's and is no JSON."""

_BETWEEN = re.compile(r"(?:\s|data:)*")
"""What may stand between glued documents."""


_ESCAPED = re.compile(r"\\u[dD][89a-fA-F]")
_SURROGATE = re.compile("[\ud800-\udfff]")


class NotJsonError(ValueError):
    """Report text that is no JSON."""


def decode(text: bytes | str) -> Any:
    """Decode a JSON document, as leniently as the vendors' own clients.

    Halves of a UTF-16 pair (legal alone by RFC 8259, section 8.2; see `join_halves`), raw control
    characters and NaN are taken as they are.

    Raises:
        NotJsonError: it is not JSON, or nested too deeply to read.
    """
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, ValueError, RecursionError) as exc:
        values = _decode_leniently(text)
        if len(values) != 1:
            raise NotJsonError(str(exc)) from exc
        return values[0]


def decode_sent(text: bytes | str) -> Any:
    """Decode a JSON document that a user or a client sent; strictly, but for one thing.

    Half of a UTF-16 pair, left of a text that was cut, becomes U+FFFD: JSON allows it (RFC 8259,
    section 8.2), and msgspec (0.22) does not.

    Raises:
        NotJsonError: it is not JSON, or nested too deeply to read.
    """
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, ValueError, RecursionError) as exc:  # bytes of no UTF-8, too
        if not _ESCAPED.search(text if isinstance(text, str) else text.decode("latin-1")):
            raise NotJsonError(str(exc)) from exc
    import json

    try:
        read = text if isinstance(text, str) else text.decode()
        value = json.loads(read, parse_constant=refuse_constant, parse_float=_finite)
        return cleaned(value)
    except (ValueError, RecursionError) as exc:
        raise NotJsonError(str(exc)) from exc


def refuse_constant(name: str) -> None:
    """Refuse NaN and Infinity, which Python's `json` reads and JSON lacks.

    Raises:
        ValueError: always.
    """
    raise ValueError(f"{name} is no JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{text} is out of range")
    return value


def decode_all(text: bytes | str) -> list[Any]:
    """Decode the JSON documents of one event or body, mostly a single one.

    Several may be glued together, with a `data:` between them or a line end; `[DONE]`, which ends
    a stream, is `DONE`.

    Raises:
        NotJsonError: some of it is no JSON.
    """
    try:
        return [msgspec.json.decode(text)]
    except (msgspec.DecodeError, ValueError, RecursionError):
        return _decode_leniently(text)


def _decode_leniently(text: bytes | str) -> list[Any]:
    import json

    decoder = json.JSONDecoder(strict=False)
    values: list[Any] = []
    try:
        rest = text.decode("utf-8-sig") if isinstance(text, bytes) else text
        at = 0
        while at < len(rest):
            if skipped := _BETWEEN.match(rest, at):
                at = skipped.end()
            if at == len(rest):
                break
            if rest.startswith("[DONE]", at):
                value, at = DONE, at + len("[DONE]")
            else:
                value, at = decoder.raw_decode(rest, at)
            values.append(value)
    except (ValueError, RecursionError) as exc:
        raise NotJsonError(str(exc)) from exc
    if not values:
        reason = "there is nothing"
        raise NotJsonError(reason)
    return values


def encode(value: Any) -> str:
    """Encode what was decoded leniently: halves of UTF-16 pairs are joined."""
    try:
        return msgspec.json.encode(value).decode()
    except UnicodeEncodeError:
        import json

        return join_halves(json.dumps(value, ensure_ascii=False))


def cleaned(value: Any) -> Any:
    """Return what was decoded leniently as it can be sent back."""
    try:
        msgspec.json.encode(value)
    except UnicodeEncodeError:
        return decode(encode(value))
    return value


def join_halves(text: str) -> str:
    """Join halves of UTF-16 pairs that stand side by side; one that is alone becomes U+FFFD."""
    if text.isascii() or not _SURROGATE.search(text):
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
