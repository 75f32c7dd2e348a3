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
from tieredllm.roles import attached_text, turn_text, turns_of
from tieredllm.types import LeftOut, Message, Prompt

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

TURNS_SHARE = 4
"""Where attached text has to be cut anyway, the latest turns have one part in so many of the room:
a conversation about a long text is still one."""

SAMPLE_CHARACTERS = 2000
"""How much of a text tells how many characters a token of it has."""

TEMPLATES = {
    "full": "{question}",
    "simplified": (
        "Please answer the following concisely and helpfully.\n\n"
        "{question}\n\n"
        "Be clear and direct, and keep to what matters most."
    ),
    "minimal": "{question}\nAnswer briefly.",
}
"""How each policy words a question.

`minimal` is the shortest wording that was seen to help. Of 160 short questions SmolLM2 answered 114
right as they were, 119 worded so, in a third of the tokens, 118 with two sentences of instruction,
and 109 with `Be brief.` (greedy; `python -m benchmarks.quality` measures a hundred of them).
"""


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

    A text that was attached to an earlier turn stays with the conversation: when its turn is left
    out, it opens the first that is not.

    Args:
        prompt: the request.
        policy: `full`, `simplified` or `minimal`.
        budget_tokens: the tier's context, less what is kept for the answer.
        count: the tier's own token count or estimate.

    Raises:
        ContextTooSmallError: the parts that are never cut do not fit: the system prompt, the
            question, and where there is none the last turn, which the model goes on from.
    """
    question = Message("user", prompt.question, attachments=prompt.attachments, parts=prompt.parts)
    has_text = any(attachment.text for attachment in prompt.attachments)
    goes_on = not (prompt.question.strip() or has_text or prompt.parts)
    fixed = "" if goes_on else TEMPLATES[policy].format(question=prompt.question)
    left = budget_tokens - _bounded_count(fixed, budget_tokens, count) - 2 * MESSAGE_TOKENS
    left -= PART_TOKENS * len(prompt.parts)
    if prompt.system:
        left -= _bounded_count(prompt.system, budget_tokens, count) + MESSAGE_TOKENS

    conversation = (*prompt.history, question)
    attachments = [it for message in conversation for it in message.attachments if it.text]
    texts = [attached_text(attachment) for attachment in attachments]
    sizes = [_bounded_count(text, left, count) for text in texts]
    whole = sum(sizes) + len(texts)
    room = left - whole if whole <= left else left // TURNS_SHARE
    kept, used = _newest(prompt.history, room, count)
    if left < 0 or (goes_on and not kept):
        reason = f"the question does not fit a context that leaves {max(budget_tokens, 0)} tokens"
        raise ContextTooSmallError(reason)

    shares = fair_shares(sizes, left - used - len(texts))
    parts = [cut(text, max(share, 0), count) for text, share in zip(texts, shares, strict=True)]
    dropped = len(prompt.history) - len(kept)
    *turns, (_, own) = _with_texts(conversation, parts, skip=dropped)
    messages = [Message("system", prompt.system)] if prompt.system else []
    messages += [
        msgspec.structs.replace(turn, content=turn_text(said, turn.content), attachments=())
        for turn, said in turns
    ]
    if not goes_on:
        messages.append(Message("user", _worded(own, prompt.question, policy), parts=prompt.parts))

    notices = [f"the oldest {dropped} messages are left out"] if dropped else []
    lost = 0
    for attachment, text, part in zip(attachments, texts, parts, strict=True):
        if part != text:
            notices.append(f"{attachment.name or 'the piped text'} is cut to fit")
            lost += _tokens_cut(text, part, count)
    left_out = LeftOut(history_messages=dropped, attached_tokens=lost)
    return Composed(
        messages=tuple(messages),
        notices=tuple(notices),
        left_out=left_out if dropped or lost else None,
    )


def _with_texts(
    messages: Sequence[Message], texts: Sequence[str], *, skip: int
) -> list[tuple[Message, list[str]]]:
    """Return messages with their attached texts; those of the first `skip` go to the next."""
    found: list[tuple[Message, list[str]]] = []
    rest = iter(texts)
    waiting: list[str] = []
    for number, message in enumerate(messages):
        waiting += [next(rest) for attachment in message.attachments if attachment.text]
        if number >= skip:
            found.append((message, waiting))
            waiting = []
    return found


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


def _tokens_cut(text: str, part: str, count: Callable[[str], int]) -> int:
    """Return about how many tokens of a text are not in its part: a sample of its middle counts.

    The part itself is no sample: it may be little else than the line that says what is left out.
    """
    middle = max(0, (len(text) - SAMPLE_CHARACTERS) // 2)
    sample = text[middle : middle + SAMPLE_CHARACTERS]
    return round((len(text) - len(part)) * count(sample) / len(sample))


def _bounded_count(text: str, budget: int, count: Callable[[str], int]) -> int:
    """Count a text's tokens, or give a number above the budget when it is far too long to count."""
    if len(text) > 64 * max(budget, 1):
        return len(text)
    return count(text)


def _worded(texts: list[str], question: str, policy: str) -> str:
    """Put the attached texts before the question, a blank line between them."""
    template = TEMPLATES[policy]
    if not question.strip():
        return template.format(question=turn_text(texts, ""))
    return turn_text(texts, template.format(question=question))
