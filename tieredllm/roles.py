"""Arrange a conversation as the vendors want it."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from tieredllm.text import replace_surrogates
from tieredllm.types import Attachment, Message

__all__ = [
    "OPENING",
    "alternating",
    "attached_text",
    "split_system",
    "turn_text",
    "turns_of",
    "without_tools",
]

OPENING = "(The beginning of this conversation is left out.)"
"""What stands for the user's turn before an answer, where a vendor wants the user to go first."""


def attached_text(attachment: Attachment) -> str:
    """Return an attached text as a model is told it: a file's with its name above."""
    text = attachment.text.rstrip("\n")
    return f"[file: {attachment.name}]\n{text}" if attachment.name else text


def turn_text(texts: Iterable[str], said: str) -> str:
    """Return a user's turn: the attached texts, a blank line, and what the user said."""
    parts = [text for text in texts if text]
    if said.strip() or not parts:
        parts.append(said)
    return "\n\n".join(parts)


def split_system(messages: Iterable[Message]) -> tuple[str, list[Message]]:
    """Take the system texts out; what is blank is dropped, as no vendor accepts it."""
    system: list[str] = []
    turns: list[Message] = []
    for message in messages:
        content = replace_surrogates(message.content)
        if _is_text(message) and not content.strip():
            continue
        if message.role == "system":
            system.append(content)
        else:
            turns.append(msgspec.structs.replace(message, content=content))
    return "\n\n".join(system), turns


def alternating(turns: Iterable[Message]) -> list[Message]:
    """Join neighbours of the same role and let the user go first.

    Anthropic's Messages API and Google's generateContent are built on turns that alternate, the
    user's first; older models and compatible servers reject anything else. What is not text alone
    is left as it is: it becomes blocks, which those wires join.
    """
    joined: list[Message] = []
    for turn in turns:
        if not joined and turn.role == "assistant":
            joined.append(Message("user", OPENING))
        last = joined[-1] if joined else None
        if last is not None and last.role == turn.role and _is_text(last) and _is_text(turn):
            joined[-1] = Message(turn.role, f"{last.content}\n\n{turn.content}")
        else:
            joined.append(turn)
    return joined


def without_tools(messages: Iterable[Message]) -> list[Message]:
    """Tell what tools gave as the user's words, quoted: for a model that is told of no tools."""
    told: list[Message] = []
    for message in messages:
        if message.role == "tool":
            head = "What went wrong with" if message.is_error else "What came of"
            lines = "\n".join(f"> {line}" for line in message.content.split("\n"))
            text = f"[{head} the tool {message.name or 'that was called'}]\n{lines}"
            told.append(Message("user", text, parts=message.parts))
        elif not message.calls:
            told.append(message)
        elif message.content.strip():
            told.append(Message("assistant", message.content))
    return told


def turns_of(messages: Iterable[Message]) -> list[list[Message]]:
    """Part a conversation where the user speaks; each part but the first begins with a user's turn.

    A call of a tool and its result are never parted.
    """
    parts: list[list[Message]] = []
    for message in messages:
        if message.role == "user" or not parts:
            parts.append([])
        parts[-1].append(message)
    return parts


def _is_text(message: Message) -> bool:
    return not (message.parts or message.calls or message.role == "tool")
