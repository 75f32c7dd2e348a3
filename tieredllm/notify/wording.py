"""Word a message for people: one headline, and a few labelled facts."""

from __future__ import annotations

import time

from tieredllm.notify.message import Message
from tieredllm.text import pluralize

__all__ = ["clock_time", "error_of", "facts", "headline"]


def headline(message: Message) -> str:
    """Give one line that says it all, at most 140 characters."""
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
    """Give label and value of what else there is to know, without the error's text."""
    details = message.details
    found: list[tuple[str, str | None]] = [("Severity", message.severity)]
    if message.event == "test":
        return [("Severity", message.severity), ("Sent", clock_time(message.last_at))]
    if message.event == "recovery":
        found += [
            (
                f"Over: {over.cause}",
                f"{pluralize(over.count, 'request')} since {clock_time(over.since)}",
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
    found += [("Profile", message.profile), (when, clock_time(message.last_at))]
    return [(label, value) for label, value in found if value]


def error_of(message: Message) -> str | None:
    """Give what every tier said before one answered, where that is to be told."""
    return message.details.original_error if message.event == "fallback" else None


def clock_time(at: float) -> str:
    """Give a time for people, in UTC.

    Args:
        at: seconds since the epoch.
    """
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(at))


def _counted(message: Message) -> str:
    if message.count == 1:
        return "1"
    return f"{message.count} since {clock_time(message.first_at)} ({message.held_back} held back)"
