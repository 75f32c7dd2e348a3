"""Arrange a conversation as the vendors want it."""

from __future__ import annotations

from collections.abc import Iterable

from tieredllm.text import replace_surrogates
from tieredllm.types import Message

__all__ = ["OPENING", "alternating", "split_system"]

OPENING = "(The beginning of this conversation is left out.)"
"""What stands for the user's turn before an answer, where a vendor wants the user to go first."""


def split_system(messages: Iterable[Message]) -> tuple[str, list[Message]]:
    """Take the system texts out; what is blank is dropped, as no vendor accepts it."""
    system: list[str] = []
    turns: list[Message] = []
    for message in messages:
        content = replace_surrogates(message.content)
        if not content.strip():
            continue
        if message.role == "system":
            system.append(content)
        else:
            turns.append(Message(message.role, content))
    return "\n\n".join(system), turns


def alternating(turns: Iterable[Message]) -> list[Message]:
    """Join neighbours of the same role and let the user go first.

    Anthropic's Messages API and Google's generateContent are built on turns that alternate, the
    user's first; older models and compatible servers reject anything else.
    """
    joined: list[Message] = []
    for turn in turns:
        if not joined and turn.role == "assistant":
            joined.append(Message("user", OPENING))
        if joined and joined[-1].role == turn.role:
            joined[-1] = Message(turn.role, f"{joined[-1].content}\n\n{turn.content}")
        else:
            joined.append(turn)
    return joined
