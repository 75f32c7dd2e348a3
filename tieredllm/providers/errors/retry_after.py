"""Read how long a server asks to wait."""

from __future__ import annotations

import re
from collections.abc import Mapping

__all__ = ["MAX_RETRY_AFTER_S", "duration_s", "retry_after_s"]

MAX_RETRY_AFTER_S = 86_400.0
"""The longest wait that is believed: a day. More would set a backend aside for good by a typo."""

_NUMBER = re.compile(r"[0-9]{1,15}(?:\.[0-9]{1,15})?")


def retry_after_s(headers: Mapping[str, str], *, now: float) -> float | None:
    """Return the seconds to wait, from `retry-after-ms` or `Retry-After`.

    `Retry-After` (RFC 9110, section 10.2.3) is a number of seconds, sent by some with a fraction,
    or an HTTP date; `retry-after-ms` is what OpenAI and Azure add, and the more exact one.

    Args:
        headers: the response's headers, looked up without regard to case by the mapping, or with
            lower-case names.
        now: seconds since the epoch, against which a date is held.

    Returns:
        Seconds from 0 to `MAX_RETRY_AFTER_S`; 0 for a date that is past; None when nothing usable
        was sent, a negative number included.
    """
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return min(milliseconds / 1000, MAX_RETRY_AFTER_S)
    value = headers.get("retry-after")
    seconds = _number(value)
    if seconds is None and value is not None:
        seconds = _seconds_until(value, now=now)
    return None if seconds is None else min(seconds, MAX_RETRY_AFTER_S)


def duration_s(value: object) -> float | None:
    """Read a duration of Google's JSON: `38.2s` (google.protobuf.Duration)."""
    if not isinstance(value, str) or not value.endswith("s"):
        return None
    seconds = _number(value[:-1])
    return None if seconds is None else min(seconds, MAX_RETRY_AFTER_S)


def _number(value: str | None) -> float | None:
    text = (value or "").strip()
    return float(text) if _NUMBER.fullmatch(text) else None


def _seconds_until(date: str, *, now: float) -> float | None:
    from email.utils import mktime_tz, parsedate_tz

    try:
        parts = parsedate_tz(date)
        # A date without a zone is in GMT: that is the only zone HTTP dates have.
        return None if parts is None else max(0.0, mktime_tz(parts) - now)
    except (ValueError, OverflowError, TypeError, IndexError):
        return None
