"""Collect the tool calls of one answer, and put rounds of calls into words a vendor takes.

Streams bring calls in fragments, which each vendor numbers its own way. Nothing here decides
whether a call is right: a model's mistake goes back to it as an error result.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
from typing import Any, Protocol

import msgspec

from tieredllm.lenient_json import NotJsonError, cleaned, decode, join_halves
from tieredllm.types import Message, ToolCall

__all__ = [
    "ToolCallCollector",
    "decode_arguments",
    "new_id",
    "safe_name",
    "told_name",
    "with_unique_ids",
    "with_valid_ids",
]

_UNSAFE = re.compile(r"[^A-Za-z0-9_-]")

MAX_NAME = 64
"""The longest name all vendors accept; Anthropic's API takes 128, and its clients use them
(packit/ai-workflows#619, cline/cline#11885)."""


class ToolCallCollector(Protocol):
    """Collect the calls of one answer out of its events."""

    def take(self, value: dict[str, Any]) -> None:
        """Take an event of a stream, or a whole answer; never fails, whatever its shape."""
        ...

    def complete(self) -> tuple[ToolCall, ...]:
        """Return the calls, once the answer has ended properly."""
        ...

    @property
    def is_broken(self) -> bool:
        """Whether pieces came that have come to no call."""
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


def with_valid_ids(messages: Iterable[Message], *, identity: str) -> list[Message]:
    """Return a conversation whose calls have the server's own ids, or such as every server takes.

    Args:
        messages: the conversation; a call's result comes before the next calls.
        identity: the backend that is asked: the calls it has made itself keep their ids.
    """
    found: list[Message] = []
    ids: dict[str, str] = {}
    place = 0
    for message in messages:
        told = message
        if message.calls:
            if message.made_by != identity:
                calls = tuple(
                    msgspec.structs.replace(call, id=_hashed(f"{place}.{number}.{call.id}"))
                    for number, call in enumerate(message.calls)
                )
                told = msgspec.structs.replace(message, calls=calls)
            ids |= {old.id: new.id for old, new in zip(message.calls, told.calls, strict=True)}
            place += 1
        elif message.role == "tool":
            known = ids.get(message.call_id or "", message.call_id or _hashed(f"{place}"))
            told = msgspec.structs.replace(message, call_id=known)
        found.append(told)
    return found


def _hashed(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:9]


def decode_arguments(call: ToolCall) -> dict[str, Any]:
    """Return a call's arguments; none when they are no JSON object, which no vendor takes back."""
    try:
        value = decode(call.arguments)
        if isinstance(value, str):
            value = decode(value)
    except NotJsonError:
        return {}
    return cleaned(value) if isinstance(value, dict) else {}


def safe_name(name: str) -> str:
    """Return a tool's name as every vendor takes it back, whatever a model has made up."""
    return _UNSAFE.sub("_", told_name(name)) or "unknown"


def told_name(name: str) -> str:
    """Return the name by which a vendor is told of a tool: its own, or a shorter one as unique."""
    if len(name) <= MAX_NAME:
        return name
    end = "_" + _hashed(name)
    return name[: MAX_NAME - len(end)] + end
