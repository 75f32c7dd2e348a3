"""Collect the tool calls of one answer, and put rounds of calls into words a vendor takes.

Streams bring calls in fragments, which each vendor numbers its own way. Nothing here decides
whether a call is right: a model's mistake goes back to it as an error result.
"""

from __future__ import annotations

import hashlib
import os
import re
from typing import Any, Protocol

from tieredllm.providers.base import ToolTurn
from tieredllm.providers.json_path import NotJsonError, decode, join_halves
from tieredllm.types import ToolCall

__all__ = [
    "ToolCallCollector",
    "call_ids",
    "decode_arguments",
    "new_id",
    "safe_name",
    "with_unique_ids",
]

_UNSAFE = re.compile(r"[^A-Za-z0-9_-]")

MAX_NAME = 64
"""The longest name all vendors accept."""


class ToolCallCollector(Protocol):
    """Collect the calls of one answer out of its events."""

    def take(self, value: dict[str, Any]) -> None:
        """Take an event of a stream, or a whole answer; never fails, whatever its shape."""
        ...

    def complete(self) -> tuple[ToolCall, ...]:
        """Return the calls, once the answer has ended properly."""
        ...

    def raw(self) -> Any:
        """Return the model's turn in the vendor's own form, to be sent back to it."""
        ...


def new_id() -> str:
    """Make up an id: nine letters and digits, which is all that Mistral's server takes."""
    return os.urandom(5).hex()[:9]


def with_unique_ids(calls: list[ToolCall]) -> tuple[ToolCall, ...]:
    """Return calls with an id where they have none, or one that another has."""
    seen: set[str] = set()
    found = []
    for call in calls:
        name = join_halves(call.id)
        name = name if name and name not in seen else new_id()
        seen.add(name)
        arguments = join_halves(call.arguments)
        found.append(ToolCall(id=name, name=join_halves(call.name), arguments=arguments))
    return tuple(found)


def call_ids(turn: ToolTurn, *, place: int, own: bool) -> list[str]:
    """Return the ids of a turn's calls: the server's own, or such as every server takes.

    Args:
        turn: the round.
        place: which round of the request it is; ids are unique in a request.
        own: whether the server that is asked has made the calls itself.
    """
    if own:
        return [call.id for call in turn.calls]
    return [
        hashlib.sha256(f"{place}.{number}.{call.id}".encode("utf-8", "replace")).hexdigest()[:9]
        for number, call in enumerate(turn.calls)
    ]


def decode_arguments(call: ToolCall) -> dict[str, Any]:
    """Return a call's arguments; none when they are no JSON object, which no vendor takes back."""
    try:
        value = decode(call.arguments)
        if isinstance(value, str):
            value = decode(value)
    except NotJsonError:
        return {}
    return value if isinstance(value, dict) else {}


def safe_name(name: str) -> str:
    """Return a tool's name as every vendor takes it back, whatever a model has made up."""
    return _UNSAFE.sub("_", name)[:MAX_NAME] or "unknown"
