"""Define what a notification says, and nothing else gets into one: no prompt, no answer, no key."""

from __future__ import annotations

from typing import Literal

import msgspec

from tieredllm.notify.severity import Severity, severity_of
from tieredllm.store.outbox_entry import RECOVERED, Claimed
from tieredllm.types import Answer, Attempt

__all__ = ["Details", "Event", "Message", "Step", "details_of", "message_of", "redacted"]

Event = Literal["fallback", "recovery", "test"]

MAX_ERROR_CHARACTERS = 2000
"""The longest `original_error` in a message: some six tiers at 300 characters each."""

MAX_STEPS = 20
"""The most attempts that a message lists."""


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """Hold one attempt, as far as a message tells of it."""

    tier: str
    provider: str
    model: str
    outcome: str
    kind: str | None = None
    status: int | None = None


class Details(msgspec.Struct, frozen=True, kw_only=True):
    """Hold the latest request that a message is about."""

    tier: str | None = None
    """The tier that answered; None when nothing did."""
    fallback_level: int | None = None
    provider: str | None = None
    model_used: str | None = None
    request_id: str | None = None
    ref_code: str | None = None
    """Of a rule answer: the code the user was given."""
    intent: str | None = None
    original_error: str | None = None
    attempts: tuple[Step, ...] = ()


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """Hold an incident that is over."""

    cause: str
    severity: Severity
    count: int
    """Requests it affected."""
    since: float
    """When the first of them was; seconds since the epoch."""


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """Hold one message to one channel."""

    id: str
    """The same on every try, so that a receiver can tell a message it has already had."""
    event: Event
    severity: Severity
    cause: str
    profile: str
    count: int
    """How many requests it stands for."""
    first_at: float
    """When the first of them was; seconds since the epoch."""
    last_at: float
    details: Details
    """Of the latest of them."""
    ended: tuple[Ended, ...] = ()
    """Of a recovery: what is over."""

    @property
    def held_back(self) -> int:
        """How many of the requests got no message of their own."""
        return max(self.count - 1, 0)


def details_of(answer: Answer) -> Details:
    """Take from an answer what a message may tell; cheap, and its text stays behind."""
    return Details(
        tier=answer.tier,
        fallback_level=answer.fallback_level,
        provider=answer.provider,
        model_used=answer.model_used,
        request_id=answer.request_id,
        ref_code=answer.ref_code,
        intent=answer.intent,
        original_error=answer.original_error,
        attempts=tuple(_step(attempt) for attempt in answer.attempts[:MAX_STEPS]),
    )


def redacted(details: Details) -> Details:
    """Mask once more what looks like a key in an error's text, and bound its length."""
    from tieredllm.redaction import redact

    error = details.original_error
    if error is None:
        return details
    error = redact(error)
    if len(error) > MAX_ERROR_CHARACTERS:
        error = error[: MAX_ERROR_CHARACTERS - 1] + "…"
    return msgspec.structs.replace(details, original_error=error)


def message_of(claimed: Claimed) -> Message:
    """Make the message that an entry of the outbox stands for."""
    entry = claimed.entry
    try:
        details = msgspec.json.decode(entry.body, type=Details)
    except msgspec.MsgspecError:  # written by another version
        details = Details()
    return Message(
        id=entry.id,
        event="recovery" if entry.cause == RECOVERED else "fallback",
        severity=severity_of(entry.severity),
        cause=entry.cause,
        profile=entry.profile,
        count=entry.waiting,
        first_at=entry.first_at,
        last_at=entry.last_at,
        details=details,
        ended=tuple(
            Ended(
                cause=over.cause,
                severity=severity_of(over.sent_severity),
                count=over.told,
                since=over.sent_at if over.opened_at is None else over.opened_at,
            )
            for over in claimed.ended
            if over.sent_at is not None
        ),
    )


def _step(attempt: Attempt) -> Step:
    error = attempt.error
    return Step(
        tier=attempt.tier,
        provider=attempt.provider,
        model=attempt.model,
        outcome=attempt.outcome,
        kind=None if error is None else str(error.kind),
        status=None if error is None else error.status,
    )
