"""Word what happens during a request: one line for each event."""

from __future__ import annotations

from tieredllm.kinds import ErrorInfo
from tieredllm.text import one_line
from tieredllm.types import (
    Answered,
    Attempt,
    AttemptFailed,
    AttemptStarted,
    Event,
    FellBack,
    Notice,
    RetryScheduled,
    TierSkipped,
    ToolEnded,
    ToolStarted,
)

__all__ = [
    "broke_off",
    "called_tools",
    "describe_backend",
    "describe_error",
    "describe_failure",
    "only_thought",
    "remark",
]

_LIMIT = 160
"""Characters of what a remark says of a failure: two lines of a terminal."""


def describe_error(error: ErrorInfo, limit: int = _LIMIT) -> str:
    """Word an error: `rate_limit (429) Too many requests`, `timeout: no token within 10 s`.

    Args:
        error: the failure.
        limit: the most characters to give.
    """
    return one_line(str(error), limit)


def describe_failure(attempt: Attempt, limit: int = _LIMIT) -> str:
    """Word why an attempt gave no answer; of one that was skipped, its reason."""
    return one_line(attempt.why, limit)


def describe_backend(attempt: Attempt | AttemptStarted) -> str:
    """Name a tier and what it asks: `primary (openai gpt-5)`."""
    backend = " ".join(filter(None, (one_line(attempt.provider), one_line(attempt.model))))
    tier = one_line(attempt.tier)
    return f"{tier} ({backend})" if backend and backend != tier else tier


def broke_off(tier: str, kind: str, following: str | None = None) -> str:
    """Word that a stream has died after it was shown.

    Args:
        tier: whose stream it was.
        kind: the error's kind.
        following: the tier or model that starts afresh, or None when there is none.
    """
    again = f"; starting again with {one_line(following)}" if following else ""
    return f"{one_line(tier)} broke off ({kind}){again}"


def remark(event: Event) -> str | None:
    """Word an event for the verbose view, or give None for one that speaks for itself."""
    line: str | None = None
    match event:
        case AttemptStarted():
            line = f"asking {describe_backend(event)}{_try(event.number)}{_without(event)}"
        case RetryScheduled():
            why = describe_error(event.error)
            line = f"{one_line(event.tier)}: {why}; again in {event.wait_s:.1f} s"
        case AttemptFailed():
            attempt = event.attempt
            what = "was cancelled" if attempt.outcome == "cancelled" else "failed"
            after = f"{attempt.duration_ms / 1000:.1f} s: {describe_failure(attempt)}"
            line = f"{describe_backend(attempt)} {what} after {after}"
        case TierSkipped():
            line = f"skipping {describe_backend(event.attempt)}: {describe_failure(event.attempt)}"
        case ToolStarted():
            called = f"{event.name} {event.arguments}".strip()
            line = f"{one_line(event.tier)} calls {one_line(called, _LIMIT)}"
        case ToolEnded():
            line = f"{one_line(event.tier)}: {_result(event)}"
        case FellBack():
            line = f"falling back from {one_line(event.from_tier)} to {one_line(event.to_tier)}"
        case Notice():
            line = f"{one_line(event.tier)}: {one_line(event.message)}"
        case Answered() if event.answer.error is None and event.answer.tier is not None:
            after = f"{event.answer.latency_ms / 1000:.1f} s"
            line = f"{one_line(event.answer.tier)} answered after {after}"
    return line


def _result(event: ToolEnded) -> str:
    result = event.result
    name = one_line(result.name, _LIMIT)
    if result.repeated:
        return f"{name} has run before, and is not run again"
    after = f"after {result.duration_ms / 1000:.1f} s"
    if result.is_error:
        return f"{name}: {result.outcome} {after}: {one_line(result.text, _LIMIT)}"
    return f"{name} gave {len(result.text)} characters {after}"


def called_tools(tier: str, names: tuple[str, ...]) -> str:
    """Word that a model calls tools: `primary calls now and count`."""
    told = " and ".join(dict.fromkeys(names))
    return f"{one_line(tier)} calls {one_line(told, _LIMIT)}"


def only_thought(tier: str) -> str:
    """Word that what a tier has said were its thoughts."""
    return f"{one_line(tier)} was only thinking"


def _try(number: int) -> str:
    return f", try {number}" if number > 1 else ""


def _without(event: AttemptStarted) -> str:
    if not event.without:
        return ""
    return f", without what it has rejected: {one_line(', '.join(event.without), _LIMIT)}"
