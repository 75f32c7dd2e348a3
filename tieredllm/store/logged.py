"""Define what the log holds of one request, and how it becomes rows and back.

Texts are kept up to `MAX_TEXT`; of a longer one, head and tail stay. No key is ever kept: none is
in a prompt's or an answer's own fields, and what a caller names as a secret is struck out of every
text.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from tieredllm.clock import iso
from tieredllm.kinds import ErrorInfo
from tieredllm.redaction import Redactor
from tieredllm.types import Answer, Attachment, Attempt, Message, Prompt, Usage

__all__ = [
    "ATTEMPT_COLUMNS",
    "REQUEST_COLUMNS",
    "Logged",
    "attempt_row",
    "fingerprint",
    "is_turn",
    "logged",
    "request_row",
    "turns",
    "user_turn",
]

MAX_TEXT = 1_048_576
"""The most characters kept of one text."""

MAX_COUNT = 10**12
"""The largest count kept: what a server makes up must not overflow SQLite's integers or sums."""

NO_MODEL = frozenset({"rules", "cache"})
"""Providers whose answers no model has just written."""

REQUEST_COLUMNS = (
    "id", "asked_at", "profile", "conversation_id", "is_turn", "reusable_as", "question", "system",
    "attachments", "text", "tier", "level", "provider", "model", "latency_ms", "first_token_ms",
    "finish_reason", "truncated", "prompt_tokens", "completion_tokens", "original_error",
    "ref_code", "intent", "cached_at", "error",
)  # fmt: skip

ATTEMPT_COLUMNS = (
    "tier", "level", "provider", "model", "outcome", "kind", "message", "status", "retry_after_s",
    "reason", "started_ms", "duration_ms", "first_token_ms", "skip",
)  # fmt: skip


class Logged(msgspec.Struct, frozen=True, kw_only=True):
    """Hold one request as the log has it."""

    asked_at: float
    """Seconds since the epoch."""
    profile: str
    conversation_id: str
    prompt: Prompt
    """Without the history: the conversation has it."""
    answer: Answer

    def to_dict(self) -> dict[str, Any]:
        """Give it as plain values: the fields of `ask --json`, and what was asked."""
        return {
            "asked_at": iso(self.asked_at),
            "profile": self.profile,
            "conversation_id": self.conversation_id,
            "question": self.prompt.question,
            "system": self.prompt.system,
            "attachments": msgspec.to_builtins(self.prompt.attachments),
            **self.answer.to_dict(),
        }


def turns(rows: Iterable[tuple[str, str, str]]) -> Iterator[Message]:
    """Read turns of a conversation: questions, attachments and answers as they were kept."""
    for question, attachments, text in rows:
        asked = Prompt(
            question=question,
            attachments=msgspec.json.decode(attachments, type=tuple[Attachment, ...]),
        )
        yield Message("user", user_turn(asked))
        yield Message("assistant", text)


def is_turn(answer: Answer) -> bool:
    """Tell whether a conversation goes on from an answer: one that is complete, and no rule's."""
    return answer.error is None and answer.text is not None and answer.provider != "rules"


def user_turn(prompt: Prompt) -> str:
    """Give what the user said in one turn: the attached texts, a blank line, the question."""
    parts = [
        f"[file: {part.name}]\n{part.text}" if part.name else part.text
        for part in prompt.attachments
        if part.text
    ]
    if prompt.question.strip() or not parts:
        parts.append(prompt.question)
    return "\n\n".join(part.rstrip("\n") for part in parts)


def fingerprint(profile: str, prompt: Prompt) -> str:
    """Give the same hash for requests that ask the same: an answer to one answers the other.

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
        [(turn.role, turn.content) for turn in prompt.history],
    )
    # repr, unlike JSON, takes lone surrogates, and it is one to one.
    return hashlib.sha256(repr(asked).encode()).hexdigest()


def request_row(
    prompt: Prompt,
    answer: Answer,
    *,
    profile: str,
    conversation_id: str,
    asked_at: float,
    redact: Redactor,
) -> list[Any]:
    """Give the values of `REQUEST_COLUMNS`."""
    is_complete = answer.error is None and answer.text is not None
    by_model = is_complete and answer.provider not in NO_MODEL
    text = redact.maybe(answer.text)
    reusable = by_model and not answer.truncated and bool(text) and text == answer.text
    share = MAX_TEXT // max(len(prompt.attachments), 1)
    attachments = [
        Attachment(text=redact(part.text, share), name=redact.maybe(part.name))
        for part in prompt.attachments
    ]
    return [
        answer.request_id,
        asked_at,
        profile,
        conversation_id,
        int(is_turn(answer)),
        fingerprint(profile, prompt) if reusable else None,
        redact(prompt.question),
        redact.maybe(prompt.system),
        msgspec.json.encode(attachments).decode(),
        text,
        answer.tier,
        answer.fallback_level,
        answer.provider,
        redact.maybe(answer.model_used),
        answer.latency_ms,
        answer.first_token_ms,
        redact.maybe(answer.finish_reason),
        int(answer.truncated),
        _integer(answer.usage.prompt_tokens),
        _integer(answer.usage.completion_tokens),
        redact.maybe(answer.original_error),
        answer.ref_code,
        answer.intent,
        answer.cached_at,
        None if answer.error is None else _error(answer.error, redact),
    ]


def attempt_row(attempt: Attempt, redact: Redactor) -> list[Any]:
    """Give the values of `ATTEMPT_COLUMNS`."""
    error = attempt.error
    return [
        attempt.tier,
        attempt.level,
        attempt.provider,
        redact(attempt.model),
        attempt.outcome,
        None if error is None else str(error.kind),
        None if error is None else redact(error.message),
        None if error is None else _integer(error.status),
        None if error is None else error.retry_after_s,
        redact.maybe(attempt.reason),
        attempt.started_ms,
        attempt.duration_ms,
        attempt.first_token_ms,
        None if attempt.skip is None else redact(msgspec.json.encode(attempt.skip).decode()),
    ]


def logged(row: Sequence[Any], attempts: Sequence[Sequence[Any]]) -> Logged:
    """Read the values of `REQUEST_COLUMNS` and of its attempts' `ATTEMPT_COLUMNS`.

    Raises:
        msgspec.ValidationError: they are not what was written.
    """
    fields = dict(zip(REQUEST_COLUMNS, row, strict=True))
    attachments = msgspec.json.decode(fields["attachments"], type=tuple[Attachment, ...])
    error = fields["error"]
    answer = {
        "request_id": fields["id"],
        "text": fields["text"],
        "tier": fields["tier"],
        "fallback_level": fields["level"],
        "fallback_used": bool(fields["level"]),
        "provider": fields["provider"],
        "model_used": fields["model"],
        "latency_ms": fields["latency_ms"],
        "first_token_ms": fields["first_token_ms"],
        "finish_reason": fields["finish_reason"],
        "truncated": bool(fields["truncated"]),
        "usage": Usage(
            prompt_tokens=fields["prompt_tokens"], completion_tokens=fields["completion_tokens"]
        ),
        "original_error": fields["original_error"],
        "ref_code": fields["ref_code"],
        "intent": fields["intent"],
        "cached_at": fields["cached_at"],
        "error": None if error is None else msgspec.json.decode(error, type=ErrorInfo),
        "attempts": tuple(
            _attempt(dict(zip(ATTEMPT_COLUMNS, attempt, strict=True))) for attempt in attempts
        ),
    }
    return Logged(
        asked_at=fields["asked_at"],
        profile=fields["profile"],
        conversation_id=fields["conversation_id"],
        prompt=Prompt(
            question=fields["question"], system=fields["system"], attachments=attachments
        ),
        answer=msgspec.convert(answer, Answer),
    )


def _attempt(fields: Mapping[str, Any]) -> Attempt:
    kept = dict(fields)
    if kept["skip"] is not None:
        kept["skip"] = msgspec.json.decode(kept["skip"])
    kind, message = kept.pop("kind"), kept.pop("message")
    status, retry_after_s = kept.pop("status"), kept.pop("retry_after_s")
    if kind is not None:
        kept["error"] = {
            "kind": kind,
            "message": message,
            "status": status,
            "retry_after_s": retry_after_s,
        }
    return msgspec.convert(kept, Attempt)


def _error(error: ErrorInfo, redact: Redactor) -> str:
    struck = msgspec.structs.replace(error, message=redact(error.message))
    return msgspec.json.encode(struck).decode()


def _integer(value: int | None) -> int | None:
    """Keep a number a server made up within what SQLite holds."""
    return None if value is None else max(0, min(value, MAX_COUNT))
