"""Compose what a tier is sent: the three prompt policies, cut to the tier's context.

=============  ==================================================================================
full           the system prompt, the turns before, the attached text and the question
simplified     the same, the question with a request to be concise and direct
minimal        the same, the question worded for a small model
=============  ==================================================================================

The question is whole in all three. What does not fit the context is left out in this order: the
oldest turns, then the middle of the attached text. The system prompt and the question are never
cut: when they do not fit, the tier is passed over.

The policies follow "Tiered Fallback Mechanisms for LLM Applications" (prompt simplification); what
simplification drops is a matter of room, never of principle.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec

from tieredllm.prompts.fit import cut, fair_shares
from tieredllm.roles import turns_of
from tieredllm.types import Attachment, LeftOut, Message, Prompt

__all__ = [
    "Composed",
    "ContextTooSmallError",
    "compose",
    "prompt_from_messages",
    "tokens_of",
]

MESSAGE_TOKENS = 8
"""Tokens a chat template adds to one message: 3 to 5 in ChatML and Gemma's template, with room."""

PART_TOKENS = 1600
"""About what a picture or a page takes at every vendor: 1,568 at most for a picture that Claude
scales down (Anthropic's guide to vision), 258 per tile at Google, 1,105 and less at OpenAI."""

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
    left_out: LeftOut | None = None


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
        ContextTooSmallError: the parts that are never cut do not fit: the system prompt, the
            question, and where there is none the last turn, which the model goes on from.
    """
    system, history, question = prompt.system, prompt.history, prompt.question
    has_text = any(attachment.text for attachment in prompt.attachments)
    goes_on = not (question.strip() or has_text or prompt.parts)

    fixed = "" if goes_on else TEMPLATES[policy].format(question=question)
    left = budget_tokens - _bounded_count(fixed, budget_tokens, count) - 2 * MESSAGE_TOKENS
    left -= PART_TOKENS * len(prompt.parts)
    if system:
        left -= _bounded_count(system, budget_tokens, count) + MESSAGE_TOKENS
    kept, used = _newest(history, left - (left // ATTACHED_SHARE if has_text else 0), count)
    if left < 0 or (goes_on and not kept):
        reason = f"the question does not fit a context that leaves {max(budget_tokens, 0)} tokens"
        raise ContextTooSmallError(reason)

    notices: list[str] = []
    dropped = len(history) - len(kept)
    if dropped:
        notices.append(f"the oldest {dropped} messages are left out")
    attached = _attached(prompt.attachments, left - used, count)
    notices.extend(f"{name} is cut to fit" for name in attached.cut_names)

    messages = [Message("system", system)] if system else []
    messages.extend(kept)
    text = _user_turn(attached.text, question, policy)
    if text or prompt.parts:
        messages.append(Message("user", text, parts=prompt.parts))
    left_out = None
    if dropped or attached.cut_tokens:
        left_out = LeftOut(history_messages=dropped, attached_tokens=attached.cut_tokens)
    return Composed(messages=tuple(messages), notices=tuple(notices), left_out=left_out)


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


def _newest(
    history: tuple[Message, ...], budget: int, count: Callable[[str], int]
) -> tuple[tuple[Message, ...], int]:
    """Return the newest turns that fit, from a user's turn on, and the tokens they take."""
    kept: list[Message] = []
    used = 0
    for turn in reversed(turns_of(history)):
        tokens = sum(tokens_of(message, count) for message in turn)
        if used + tokens > budget:
            break
        kept[:0] = turn
        used += tokens
    return tuple(kept), used


def tokens_of(message: Message, count: Callable[[str], int]) -> int:
    """Return the tokens that a message takes, about, with its calls and its parts."""
    texts = [message.content, *(call.name + call.arguments for call in message.calls)]
    written = sum(count(text) + MESSAGE_TOKENS for text in texts)
    return written + PART_TOKENS * len(message.parts)


class _Attached(msgspec.Struct, frozen=True, kw_only=True):
    text: str
    cut_names: tuple[str, ...]
    cut_tokens: int


def _attached(
    attachments: tuple[Attachment, ...], budget: int, count: Callable[[str], int]
) -> _Attached:
    """Return the attached texts as one, each cut to its share, and what was cut."""
    attachments = tuple(attachment for attachment in attachments if attachment.text)
    texts = [_titled(attachment) for attachment in attachments]
    sizes = [_bounded_count(text, budget, count) for text in texts]
    shares = fair_shares(sizes, budget - len(texts))
    parts: list[str] = []
    names: list[str] = []
    cut_tokens = 0
    for attachment, text, share in zip(attachments, texts, shares, strict=True):
        part = cut(text, max(share, 0), count)
        parts.append(part)
        if part != text:
            names.append(attachment.name or "the piped text")
            cut_tokens += _tokens_cut(text, part, count)
    return _Attached(
        text="\n\n".join(part for part in parts if part),
        cut_names=tuple(names),
        cut_tokens=cut_tokens,
    )


def _tokens_cut(text: str, part: str, count: Callable[[str], int]) -> int:
    """Return about how many tokens of a text are not in its part: a long text is not counted."""
    left_out = len(text) - len(part)
    return round(left_out * count(part) / len(part)) if part else left_out // 4


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
        return template.format(question=attached) if attached else ""
    turn = template.format(question=question)
    return f"{attached}\n\n{turn}" if attached else turn
