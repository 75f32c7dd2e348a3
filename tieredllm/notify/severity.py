"""Judge how grave an answer is, and what caused it: pure.

How the contract's four levels map onto profiles of any shape:

- high: the rules or the cache answered, or nothing did, whatever their level: no model could.
- medium: a local model answered, or any other below level 1.
- low: level 1 answered.
- Always high: a quota or a rejected key in any tier, for neither passes by itself. A tier that is
  set aside because of one counts like one that has just met it.
- Nothing: the first tier answered, or the one the request was told to start at, or a model before
  which no other is configured.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from tieredllm.kinds import ErrorKind
from tieredllm.types import NO_MODEL, Answer, Attempt

__all__ = ["RANKS", "Finding", "Severity", "finding", "is_first_tier", "severity_of"]

Severity = Literal["low", "medium", "high"]

RANKS: dict[Severity, int] = {"low": 1, "medium": 2, "high": 3}
"""Severities as numbers that can be compared and stored."""

_GRAVE = frozenset({ErrorKind.QUOTA_EXHAUSTED, ErrorKind.AUTHENTICATION})


class Finding(msgspec.Struct, frozen=True):
    """What there is to tell about one answer."""

    severity: Severity
    cause: str
    """What kind of incident this is. Requests that fail alike have the same, also when the first
    ones met the failure and the later ones a circuit that it had opened."""


def finding(answer: Answer) -> Finding | None:
    """Judge one answer; None when there is nothing to tell.

    Args:
        answer: what came of a request, complete or failed.
    """
    grave = _grave_failures(answer)
    outcome = _outcome(answer)
    if grave:
        return Finding("high", f"{', '.join(grave)}; {outcome}")
    severity = _by_level(answer)
    return None if severity is None else Finding(severity, outcome)


def is_first_tier(answer: Answer) -> bool:
    """Whether the first tier that is configured gave a complete answer."""
    level = answer.fallback_level
    if answer.error is not None or level is None:
        return False
    before = _before(answer, level)
    # Where nothing was before it, the request was told to start there: that says nothing.
    is_led_to = bool(before) and answer.provider not in NO_MODEL
    return level == 0 or (is_led_to and all(attempt.is_unconfigured for attempt in before))


def severity_of(rank: int) -> Severity:
    """Return the severity of a rank; the nearest one when the rank is none."""
    severities: tuple[Severity, ...] = ("low", "medium", "high")
    return severities[min(max(rank, 1), 3) - 1]


def _before(answer: Answer, level: int) -> list[Attempt]:
    """Return what gave way to a level: nothing where a request was told to start there."""
    return [attempt for attempt in answer.attempts if attempt.level < level]


def _by_level(answer: Answer) -> Severity | None:
    level = answer.fallback_level
    if answer.error is not None or level is None:
        return "high"
    before = _before(answer, level)
    if answer.provider in NO_MODEL:
        return "high" if before else None
    if all(attempt.is_unconfigured for attempt in before):
        return None
    return "medium" if answer.provider == "llama_cpp" or level > 1 else "low"


def _outcome(answer: Answer) -> str:
    if answer.error is not None or answer.tier is None:
        refused = answer.error is not None and answer.error.kind is ErrorKind.CONTENT_FILTER
        return "refused" if refused else "nothing answered"
    return f"{answer.tier} answered"


def _grave_failures(answer: Answer) -> list[str]:
    """Return `tier: kind` for each tier with a failure that doesn't pass, the first tier first."""
    found = {
        (attempt.level, attempt.tier, kind)
        for attempt in answer.attempts
        if (kind := _grave_kind(attempt)) is not None
    }
    return [f"{tier}: {kind}" for _, tier, kind in sorted(found)]


def _grave_kind(attempt: Attempt) -> str | None:
    kind = attempt.error.kind if attempt.error is not None else None
    if attempt.skip is not None:
        kind = attempt.skip.cause
    return str(kind) if kind in _GRAVE else None
