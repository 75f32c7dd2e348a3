"""Compose what a tier is sent: the three prompt policies, cut to the tier's context.

=============  ==================================================================================
full           the system prompt and all messages
simplified     the system prompt, the last four messages, a request to be concise and direct
minimal        `Question: ...` alone, its first paragraph when it is long, a request to be brief
=============  ==================================================================================

Attached text is kept in all three. What does not fit the context is left out in this order: the
oldest turns, then the middle of the attached text. The system prompt and the question are never
cut: when they do not fit, the tier is passed over.

The policies follow "Tiered Fallback Mechanisms for LLM Applications" (prompt simplification).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

import msgspec

from tieredllm.prompts.fit import cut, fair_shares
from tieredllm.types import Attachment, Message, Prompt

__all__ = ["Composed", "ContextTooSmallError", "compose", "prompt_from_messages"]

MESSAGE_TOKENS = 8
"""Tokens a chat template adds to one message: 3 to 5 in ChatML and Gemma's template, with room."""

SIMPLIFIED_MESSAGES = 4
"""How many messages the simplified policy keeps, the question's own among them."""

LONG_QUESTION_TOKENS = 200
"""A question above this is reduced to its first paragraph by the minimal policy."""

PARAGRAPH_END = re.compile(r"\n[ \t\r]*\n")
"""A blank line; text from Windows and lines of blanks have them too."""

ATTACHED_SHARE = 4
"""Attached text is worth more than old turns up to one part in so many of the context."""

TEMPLATES = {
    "full": "{question}",
    "simplified": (
        "Please answer the following concisely and helpfully.\n\n"
        "{question}\n\n"
        "Be clear and direct, and keep to what matters most."
    ),
    "minimal": (
        "Question: {question}\n\n"
        "Give a brief, direct answer in simple language, with only the most essential information."
    ),
}


class ContextTooSmallError(Exception):
    """The system prompt and the question alone do not fit a tier's context."""


class Composed(msgspec.Struct, frozen=True, kw_only=True):
    """The messages a tier is sent, and what was left out of them."""

    messages: tuple[Message, ...]
    notices: tuple[str, ...] = ()
    """What was left out, for people."""


def compose(
    prompt: Prompt, *, policy: str, budget_tokens: int, count: Callable[[str], int]
) -> Composed:
    """Apply a policy and cut the outcome to a budget.

    Args:
        prompt: the request.
        policy: `full`, `simplified` or `minimal`.
        budget_tokens: the tier's context, less what is kept for the answer.
        count: the tier's own token count or estimate.

    Raises:
        ContextTooSmallError: the parts that are never cut do not fit.
    """
    system = prompt.system if policy != "minimal" else None
    history = _history(prompt.history, policy)
    question = _question(prompt.question, policy, count)
    has_text = any(attachment.text for attachment in prompt.attachments)

    fixed = TEMPLATES[policy].format(question=question)
    left = budget_tokens - _bounded_count(fixed, budget_tokens, count) - 2 * MESSAGE_TOKENS
    if system:
        left -= _bounded_count(system, budget_tokens, count) + MESSAGE_TOKENS
    if left < 0:
        reason = f"the question does not fit a context that leaves {max(budget_tokens, 0)} tokens"
        raise ContextTooSmallError(reason)

    notices: list[str] = []
    reserved = left // ATTACHED_SHARE if has_text else 0
    kept, used = _newest(history, left - reserved, count)
    if len(kept) < len(history):
        notices.append(f"the oldest {len(history) - len(kept)} messages are left out")
    attached, cut_names = _attached(prompt.attachments, left - used, count)
    notices.extend(f"{name} is cut to fit" for name in cut_names)

    messages = [Message("system", system)] if system else []
    messages.extend(kept)
    messages.append(Message("user", _user_turn(attached, question, policy)))
    return Composed(messages=tuple(messages), notices=tuple(notices))


def prompt_from_messages(messages: Sequence[Mapping[str, str]]) -> Prompt:
    """Read a prompt given as chat messages: the last user message is the question.

    Args:
        messages: `{"role": "system"|"user"|"assistant", "content": "..."}`, oldest first.

    Raises:
        ValueError: a message of another shape, or none from the user at the end.
    """
    turns: list[Message] = []
    system: list[str] = []
    for message in messages:
        role, content = message.get("role"), message.get("content")
        if not isinstance(content, str):
            reason = "a message's content must be a string"
            raise ValueError(reason)  # noqa: TRY004 - one error type for one kind of bad input
        if role == "system":
            system.append(content)
        elif role in {"user", "assistant"}:
            turns.append(Message("user" if role == "user" else "assistant", content))
        else:
            reason = f"a message's role must be system, user or assistant, not {role!r}"
            raise ValueError(reason)
    if not turns or turns[-1].role != "user":
        reason = "the last message must be the user's"
        raise ValueError(reason)
    return Prompt(
        question=turns[-1].content,
        system="\n\n".join(system) or None,
        history=tuple(turns[:-1]),
    )


def _history(history: tuple[Message, ...], policy: str) -> tuple[Message, ...]:
    if policy == "minimal":
        return ()
    if policy == "simplified":
        return history[-(SIMPLIFIED_MESSAGES - 1) :]
    return history


def _question(question: str, policy: str, count: Callable[[str], int]) -> str:
    if policy != "minimal":
        return question
    if _bounded_count(question, LONG_QUESTION_TOKENS, count) <= LONG_QUESTION_TOKENS:
        return question
    paragraphs = (paragraph.strip() for paragraph in PARAGRAPH_END.split(question))
    return next((paragraph for paragraph in paragraphs if paragraph), question)


def _newest(
    history: tuple[Message, ...], budget: int, count: Callable[[str], int]
) -> tuple[tuple[Message, ...], int]:
    used = 0
    for index in range(len(history) - 1, -1, -1):
        tokens = count(history[index].content) + MESSAGE_TOKENS
        if used + tokens > budget:
            return history[index + 1 :], used
        used += tokens
    return history, used


def _attached(
    attachments: tuple[Attachment, ...], budget: int, count: Callable[[str], int]
) -> tuple[str, list[str]]:
    """Return the attached texts as one, each cut to its share, and the names of those cut."""
    texts = [_titled(attachment) for attachment in attachments if attachment.text]
    sizes = [_bounded_count(text, budget, count) for text in texts]
    shares = fair_shares(sizes, budget - len(texts))
    parts: list[str] = []
    names: list[str] = []
    for attachment, text, share in zip(
        (attachment for attachment in attachments if attachment.text), texts, shares, strict=True
    ):
        part = cut(text, max(share, 0), count)
        parts.append(part)
        if part != text:
            names.append(attachment.name or "the piped text")
    return "\n\n".join(part for part in parts if part), names


def _bounded_count(text: str, budget: int, count: Callable[[str], int]) -> int:
    """Count a text's tokens, or give a number above the budget when it is far too long to count."""
    if len(text) > 64 * max(budget, 1):
        return len(text)
    return count(text)


def _titled(attachment: Attachment) -> str:
    text = attachment.text.rstrip("\n")
    return f"[file: {attachment.name}]\n{text}" if attachment.name else text


def _user_turn(attached: str, question: str, policy: str) -> str:
    """Put the attached text before the question, a blank line between them."""
    template = TEMPLATES[policy]
    if not question.strip():
        return template.format(question=attached)
    turn = template.format(question=question)
    return f"{attached}\n\n{turn}" if attached else turn
