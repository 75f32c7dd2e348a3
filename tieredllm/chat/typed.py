"""Make out what was typed: a message, a command, or nothing.

A command starts with `/`; `//` sends a message that starts with `/`. Three double quotes begin a
message that may have several lines and ends with three more; nothing in it is a command.
"""

from __future__ import annotations

import re

import msgspec

from tieredllm.text import replace_surrogates

__all__ = ["Ordered", "Said", "is_unfinished", "understood"]

QUOTES = '"""'

_COMMAND = re.compile(r"/(\S*)\s*(.*)", re.DOTALL)


class Said(msgspec.Struct, frozen=True):
    """Hold a message for the tiers."""

    text: str


class Ordered(msgspec.Struct, frozen=True):
    """Hold a command, which may not exist."""

    name: str
    """Without the slash, in lower case."""
    argument: str
    """What follows it, without the white space around it."""


def is_unfinished(text: str) -> bool:
    """Tell whether a quoted message was begun and not ended."""
    body = text.strip()
    return body.startswith(QUOTES) and not _is_quoted(body)


def understood(text: str) -> Said | Ordered | None:
    """Tell messages from commands; None when there is nothing in it.

    A quoted message that was never ended counts as ended.
    """
    body = text.strip()
    if body.startswith(QUOTES):
        body = body[len(QUOTES) :]
        return _said(body.removesuffix(QUOTES))
    if body.startswith("//"):
        return _said(body[1:])
    ordered = _COMMAND.fullmatch(body)
    return Ordered(ordered[1].lower(), ordered[2]) if ordered else _said(text)


def _is_quoted(body: str) -> bool:
    return len(body) >= 2 * len(QUOTES) and body.endswith(QUOTES)


def _said(text: str) -> Said | None:
    """Give a message without blank lines around it; what is no character becomes `?`."""
    if not text.strip():
        return None
    first = text.find(text.strip()[0])
    start = text.rfind("\n", 0, first) + 1
    return Said(replace_surrogates(text[start:].rstrip()))
