"""Read how long a server asks to wait, wherever it says so."""

from __future__ import annotations

import re
from collections.abc import Mapping

__all__ = ["MAX_RETRY_AFTER_S", "duration_s", "retry_after_s", "wait_in_words_s"]

MAX_RETRY_AFTER_S = 86_400.0
"""The longest wait that is believed: a day. More would set a backend aside for good by a typo."""

_PREFIXES = ("", "llm_provider-")
"""LiteLLM 1.108.7 gives the headers of the server behind it another name."""

_LIMITS = ("", "-requests", "-tokens")
"""`x-ratelimit-reset-requests` and `-tokens` are OpenAI's and Groq's; the bare one is OpenRouter's
and many gateways', `ratelimit-reset` that of the IETF's draft."""

_NUMBER = re.compile(r"[0-9]{1,15}(?:\.[0-9]{1,15})?")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_STEP = re.compile(
    r"([0-9]{1,15}(?:\.[0-9]{1,15})?) ?(ms|milliseconds?|d(?:ays?)?|h(?:ours?)?|m(?:in(?:ute)?s?)?"
    r"|s(?:ec(?:ond)?s?)?)(?![a-z]),? ?"
)
# "Please try again in 6m0s." (OpenAI, Groq), "Please retry in 38.2s." (Google), "Please retry after
# 7 seconds." (Azure), "Please wait 20 seconds" (firecrawl/firecrawl#819)
_ASKED = re.compile(
    r"(?i)\b(?:again|retry|retrying|wait|reset(?:s)?)(?: (?:in|after|for))? (?=[0-9])"
)


def retry_after_s(headers: Mapping[str, str], *, now: float) -> float | None:
    """Return the seconds to wait that headers name.

    `Retry-After` (RFC 9110, section 10.2.3) is a number of seconds, sent by some with a fraction, a
    unit, twice, or as a time since the epoch; or it is an HTTP date. `retry-after-ms` is what
    OpenAI and Azure add, and the more exact one. Where neither was sent, a limit that is used up
    counts until its reset.

    Args:
        headers: the response's headers, looked up without regard to case by the mapping, or with
            lower-case names.
        now: seconds since the epoch, against which a date is held.

    Returns:
        Seconds from 0 to `MAX_RETRY_AFTER_S`; 0 for a date that is past; None when nothing usable
        was sent, a negative number included.
    """
    for prefix in _PREFIXES:
        milliseconds = _number(headers.get(f"{prefix}retry-after-ms"))
        if milliseconds is not None:
            return min(milliseconds / 1000, MAX_RETRY_AFTER_S)
        value = headers.get(f"{prefix}retry-after")
        # What a server and a proxy each have added comes as one.
        numbers = [_number(number) for number in (value or "").split(",")]
        waits = [_from_now(number, now=now) for number in numbers if number is not None]
        seconds = max(waits) if waits and len(waits) == len(numbers) else None
        if seconds is None and value is not None:
            seconds = duration_s(value)
        if seconds is None and value is not None:
            seconds = _seconds_until(value, now=now)
        if seconds is not None:
            return min(seconds, MAX_RETRY_AFTER_S)
    return _reset_s(headers, now=now)


def duration_s(value: object) -> float | None:
    """Read a duration: `38.2s` (google.protobuf.Duration), `6m0s`, `373.8ms`, `20 seconds`."""
    if not isinstance(value, str):
        return None
    return _steps_s(value.strip().lower(), whole=True)


def wait_in_words_s(message: str) -> float | None:
    """Return the wait that a sentence names; None when it names none with a unit."""
    found = _ASKED.search(message)
    return _steps_s(message[found.end() :].lower(), whole=False) if found else None


def _steps_s(text: str, *, whole: bool) -> float | None:
    seconds, at = 0.0, 0
    while step := _STEP.match(text, at):
        unit = "ms" if step[2].startswith(("ms", "milli")) else step[2][0]
        seconds += float(step[1]) * _UNITS[unit]
        at = step.end()
    if not at or (whole and at < len(text)):
        return None
    return min(seconds, MAX_RETRY_AFTER_S)


def _reset_s(headers: Mapping[str, str], *, now: float) -> float | None:
    waits = []
    for stem in ("x-ratelimit-", "ratelimit-"):
        for limit in _LIMITS:
            # These come with every response; what is left says which limit it was.
            if _number(headers.get(f"{stem}remaining{limit}")) != 0:
                continue
            value = headers.get(f"{stem}reset{limit}")
            number = _number(value)
            if number is None:
                waits.append(duration_s(value))
            else:
                waits.append(_from_now(number, now=now))
    known = [wait for wait in waits if wait is not None]
    return min(max(known), MAX_RETRY_AFTER_S) if known else None


def _from_now(number: float, *, now: float) -> float:
    """Return the wait that a number is: of seconds, or until a time."""
    if number > 1e11:  # milliseconds since the epoch: OpenRouter
        return max(0.0, number / 1000 - now)
    return max(0.0, number - now) if number > 1e9 else number


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
