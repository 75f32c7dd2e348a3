"""What a notification says, as data and in words; no prompt, no answer and no key get into one."""

from __future__ import annotations

import time
from typing import Literal

import msgspec

from tieredllm.notify.severity import Severity, severity_of
from tieredllm.store.outbox_entry import RECOVERED, Claimed
from tieredllm.text import pluralize
from tieredllm.types import Answer, Attempt

__all__ = [
    "AttemptSummary",
    "Details",
    "Event",
    "Message",
    "details_of",
    "error_of",
    "facts",
    "headline",
    "message_of",
    "redact_details",
]

Event = Literal["fallback", "recovery", "test"]

MAX_ERROR_CHARACTERS = 2000
"""The longest `original_error` in a message: some six tiers at 300 characters each."""

MAX_ATTEMPTS = 20
"""The most attempts that a message lists."""


class AttemptSummary(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt, as far as a message tells of it."""

    tier: str
    provider: str
    model: str
    outcome: str
    kind: str | None = None
    status: int | None = None


class Details(msgspec.Struct, frozen=True, kw_only=True):
    """The latest request that a message is about; the fields are those of `Answer`."""

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
    attempts: tuple[AttemptSummary, ...] = ()


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """An incident that is over."""

    cause: str
    severity: Severity
    count: int
    """Requests it affected."""
    since: float
    """When the first of them was; seconds since the epoch."""


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """One message to one channel."""

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
    copied = {
        name: getattr(answer, name) for name in Details.__struct_fields__ if name != "attempts"
    }
    attempts = tuple(_summary(attempt) for attempt in answer.attempts[:MAX_ATTEMPTS])
    return Details(**copied, attempts=attempts)


def redact_details(details: Details) -> Details:
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


def _summary(attempt: Attempt) -> AttemptSummary:
    error = attempt.error
    return AttemptSummary(
        tier=attempt.tier,
        provider=attempt.provider,
        model=attempt.model,
        outcome=attempt.outcome,
        kind=None if error is None else str(error.kind),
        status=None if error is None else error.status,
    )


def headline(message: Message) -> str:
    """Return one line that says it all, at most 140 characters."""
    if message.event == "test":
        text = f"Test message of profile {message.profile}"
    elif message.event == "recovery":
        who = message.details.tier or "the first tier"
        text = f"{who} answers again ({message.profile})"
    else:
        requests = "" if message.count == 1 else f", {message.count} requests"
        text = f"{message.cause} ({message.profile}{requests})"
    return text if len(text) <= 140 else text[:139] + "…"


def facts(message: Message) -> list[tuple[str, str]]:
    """Return label and value of what else there is to know, without the error's text."""
    details = message.details
    found: list[tuple[str, str | None]] = [("Severity", message.severity)]
    if message.event == "test":
        return [("Severity", message.severity), ("Sent", _clock_time(message.last_at))]
    if message.event == "recovery":
        found += [
            (
                f"Over: {over.cause}",
                f"{pluralize(over.count, 'request')} since {_clock_time(over.since)}",
            )
            for over in message.ended
        ]
    else:
        level = "" if details.fallback_level is None else f" (level {details.fallback_level})"
        found += [
            ("Answered by", f"{details.tier}{level}" if details.tier else "nothing"),
            ("Cause", message.cause),
            ("Model", details.model_used),
            ("Reference", details.ref_code or details.request_id),
            ("Intent", details.intent),
            ("Requests", _counted(message)),
        ]
    when = "Last seen" if message.event == "fallback" else "At"
    found += [("Profile", message.profile), (when, _clock_time(message.last_at))]
    return [(label, value) for label, value in found if value]


def error_of(message: Message) -> str | None:
    """Return what every tier said before one answered, where that is to be told."""
    return message.details.original_error if message.event == "fallback" else None


def _clock_time(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(at))


def _counted(message: Message) -> str:
    if message.count == 1:
        return "1"
    return f"{message.count} since {_clock_time(message.first_at)} ({message.held_back} held back)"
