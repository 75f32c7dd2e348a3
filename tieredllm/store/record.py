"""What the log holds of one request, and how it becomes a row and back.

A row holds the whole record as JSON, made from the structs themselves: a new field of `Answer` is
kept and read without a line here. Beside it stand only the columns that queries need. Texts are
kept up to `MAX_TEXT`; of a longer one, head and tail stay; of an image or a document, what it is.
No key is ever kept: none is in a
prompt's or an answer's own fields, and what a caller names as a secret is struck out of every text.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

import msgspec

from tieredllm.clock import iso
from tieredllm.redaction import Redactor
from tieredllm.roles import attached_text, turn_text
from tieredllm.types import NO_MODEL, Answer, Attempt, Message, Prompt

__all__ = [
    "MAX_TEXT",
    "SHORT_ID",
    "LoggedRequest",
    "TierTurn",
    "decode",
    "encode",
    "fingerprint",
    "is_reusable",
    "is_turn",
    "tier_turns",
    "turn_messages",
    "user_turn",
]

MAX_TEXT = 1_048_576
"""The most characters kept of one text, and of all attachments together."""

SHORT_ID = 8
"""Characters of an id where people read it: 32 bits of chance, and what a reference code shows."""

MAX_COUNT = 10**12
"""The largest number kept: what a server makes up must not overflow SQLite's integers or sums."""


class LoggedRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One request as the log has it."""

    asked_at: float
    """Seconds since the epoch."""
    profile: str
    conversation_id: str
    prompt: Prompt
    """Without the history, which the conversation has, and the data of images and documents."""
    answer: Answer

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values: the fields of `ask --json`, and what was asked."""
        return {
            "asked_at": iso(self.asked_at),
            "profile": self.profile,
            "conversation_id": self.conversation_id,
            "question": self.prompt.question,
            "system": self.prompt.system,
            "attachments": msgspec.to_builtins(self.prompt.attachments),
            **self.answer.to_dict(),
        }


class TierTurn(msgspec.Struct, frozen=True, kw_only=True):
    """What one request had to do with one tier: a row of the statistics."""

    tier: str
    level: int
    asked: bool
    """Whether it was asked and ended its turn."""
    answered: bool
    reached: bool
    """Whether the request came to it, be it passed over; not if it lost a race to a higher tier."""
    went_on: bool
    latency_ms: float | None
    """Of the attempt that answered."""
    first_token_ms: float | None
    prompt_tokens: int
    completion_tokens: int
    model: str | None
    """The one that answered."""
    cost: float | None
    """Of its answer, where the profile names prices."""


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(LoggedRequest)


def encode(record: LoggedRequest, secrets: Collection[str] = ()) -> tuple[str, LoggedRequest]:
    """Return a record's JSON, and the record as that JSON has it.

    Args:
        record: as it came about.
        secrets: texts to strike out wherever they occur, such as the keys in use.
    """
    parts = tuple(msgspec.structs.replace(part, data=b"") for part in record.prompt.parts)
    prompt = msgspec.structs.replace(record.prompt, history=(), parts=parts)
    fields = msgspec.to_builtins(msgspec.structs.replace(record, prompt=prompt))
    attachments = fields["prompt"].pop("attachments")
    share = MAX_TEXT // max(len(attachments), 1)
    kept = _fit(fields, Redactor(secrets, limit=MAX_TEXT))
    kept["prompt"]["attachments"] = _fit(attachments, Redactor(secrets, limit=share))
    encoded = _encoder.encode(kept)
    return encoded.decode(), _decoder.decode(encoded)


def decode(text: bytes) -> LoggedRequest:
    """Read a record's JSON.

    Raises:
        msgspec.DecodeError: it is none, or not one that was written.
    """
    return _decoder.decode(text)


def _fit(value: Any, redact: Redactor, name: str = "", *, free: bool = False) -> Any:
    """Make plain values fit to be kept: no secrets, nothing that JSON or SQLite cannot hold."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        free = free or name == "arguments"  # a tool's: their names come from outside, too
        return {
            redact(key) if free else key: _fit(item, redact, key, free=free)
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [_fit(item, redact, name, free=free) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else 0.0
    if isinstance(value, int) and not isinstance(value, bool):
        least = 0 if name.endswith("_tokens") else -MAX_COUNT
        return max(least, min(value, MAX_COUNT))
    return value


def turn_messages(record: LoggedRequest) -> tuple[Message, Message]:
    """Return a turn of a conversation: what was asked, and what was answered."""
    prompt = record.prompt
    # The log has no pictures; that there was one is better told than passed over.
    gone = [f"[{type(part).__name__.lower()}, no longer here]" for part in prompt.parts]
    said = "\n".join([*gone, prompt.question])
    asked = Message("user", said, attachments=prompt.attachments)
    return asked, Message("assistant", record.answer.text or "")


def is_turn(answer: Answer) -> bool:
    """Tell whether a conversation goes on from an answer: one that is complete, and no rule's."""
    return answer.error is None and answer.text is not None and answer.provider != "rules"


def is_reusable(answer: Answer, kept: Answer) -> bool:
    """Tell whether an answer may be given again: a model's, whole, and kept whole."""
    by_model = is_turn(answer) and answer.provider not in NO_MODEL
    whole = by_model and not answer.truncated and not answer.calls
    return whole and bool(answer.text) and answer.text == kept.text


def user_turn(prompt: Prompt) -> str:
    """Return what the user said in one turn: the attached texts, a blank line, the question."""
    return turn_text(map(attached_text, prompt.attachments), prompt.question.rstrip("\n"))


def fingerprint(profile: str, prompt: Prompt) -> str:
    """Return the same hash for requests that ask the same: an answer to one answers the other.

    Questions may differ in white space and in how their characters are composed (Unicode NFC); the
    profile, the system prompt, the turns before and the attached texts may not differ at all.
    """
    import hashlib
    import unicodedata

    question = " ".join(unicodedata.normalize("NFC", prompt.question).split())
    asked = (
        profile,
        prompt.system,
        question,
        [(part.name, part.text) for part in prompt.attachments],
        [
            (turn.role, turn_text(map(attached_text, turn.attachments), turn.content))
            for turn in prompt.history
        ],
        # What a turn has besides text, where any has: the answers of before are still found.
        [repr(turn) for turn in prompt.history if turn.parts or turn.calls or turn.call_id],
        repr(prompt.parts),
    )
    # repr, unlike JSON, takes lone surrogates, and it is one to one.
    return hashlib.sha256(repr(asked).encode()).hexdigest()


def tier_turns(answer: Answer) -> list[TierTurn]:
    """Return what a request had to do with each tier that it came to, in no order."""
    by_tier: dict[str, list[Attempt]] = {}
    for attempt in answer.attempts:
        by_tier.setdefault(attempt.tier, []).append(attempt)
    return [_tier_turn(answer, attempts) for attempts in by_tier.values()]


def _tier_turn(answer: Answer, attempts: list[Attempt]) -> TierTurn:
    tier, level = attempts[-1].tier, attempts[-1].level
    won = answer.tier == tier
    outcomes = {attempt.outcome for attempt in attempts}
    asked = not outcomes.isdisjoint({"ok", "failed"})
    # A tier that was called off has given way only if a lower one was quicker.
    winning = answer.fallback_level
    reached = outcomes != {"cancelled"} or winning is None or winning > level
    # A tool round ends well too; it is the last one that answers.
    ended = next((attempt for attempt in reversed(attempts) if attempt.outcome == "ok"), None)
    return TierTurn(
        tier=tier,
        level=level,
        asked=asked,
        answered=asked and won,
        reached=reached,
        went_on=reached and not won,
        latency_ms=ended.duration_ms if ended else None,
        first_token_ms=ended.first_token_ms if ended else None,
        prompt_tokens=(answer.usage.prompt_tokens or 0) if won else 0,
        completion_tokens=(answer.usage.completion_tokens or 0) if won else 0,
        model=answer.model_used if won else None,
        cost=answer.cost if won else None,
    )
