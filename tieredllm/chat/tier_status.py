"""Tell which tier is answering, and in plain words when that has changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from tieredllm.kinds import ErrorKind
from tieredllm.text import one_line
from tieredllm.types import (
    Attempt,
    AttemptFailed,
    AttemptStarted,
    Event,
    SkipReason,
    TierSkipped,
)

__all__ = ["TierStatus", "in_words"]

WORDS: dict[ErrorKind, str] = {
    ErrorKind.RATE_LIMIT: "is rate limited",
    ErrorKind.QUOTA_EXHAUSTED: "has no quota left",
    ErrorKind.SERVICE_UNAVAILABLE: "is unavailable",
    ErrorKind.CONNECTION: "cannot be reached",
    ErrorKind.TLS: "cannot be reached securely",
    ErrorKind.TIMEOUT: "does not respond",
    ErrorKind.AUTHENTICATION: "does not accept its key",
    ErrorKind.PERMISSION: "does not permit this",
    ErrorKind.NOT_FOUND: "does not know its model",
    ErrorKind.CONTEXT_LENGTH: "has no room for so much text",
    ErrorKind.CONTENT_FILTER: "declines to answer",
    ErrorKind.BAD_REQUEST: "does not take the request",
    ErrorKind.MALFORMED_RESPONSE: "sends nothing readable",
    ErrorKind.EMPTY_RESPONSE: "sends empty answers",
    ErrorKind.STREAM_INTERRUPTED: "broke off",
    ErrorKind.MODEL_UNAVAILABLE: "has no usable model",
    ErrorKind.DEADLINE: "ran out of time",
    ErrorKind.UNEXPECTED: "failed",
}
"""What a tier is or does, for each kind of error."""

PLURALS = {"is": "are", "has": "have", "does": "do", "sends": "send", "declines": "decline"}
"""The verbs above that change when several tiers have the same trouble."""

SKIPPED: dict[SkipReason, str] = {
    "not_configured": "is not configured",
    "circuit_open": "did badly lately",
    "half_open": "is being tried by another request",
    "degraded": "did badly lately",
    "no_time": "had no time left",
    "context": WORDS[ErrorKind.CONTEXT_LENGTH],
    "capability": "cannot do what this needs",
}
"""What a tier is or does that was not asked, where no one kind of error is behind it."""


class TierStatus:
    """Follow a session's requests.

    Args:
        levels: the tiers' names, the first one first.
        usual: the tier that is expected to answer.
        cooldowns_s: gives, by tier, in how many seconds it may be asked, where it may not now.
    """

    def __init__(
        self,
        levels: list[str],
        usual: str,
        cooldowns_s: Callable[[], Mapping[str, float]] = dict,
    ) -> None:
        self._levels = {name: level for level, name in enumerate(levels)}
        self._cooldowns_s = cooldowns_s
        self._last = usual
        """The tier that answered last, or is expected to."""
        self._reasons: dict[str, str] = {}
        self._backends: dict[str, AttemptStarted] = {}
        self._has_broken_off = False

    def expect(self, tier: str) -> None:
        """Expect another tier to answer: the user chose it."""
        self._last = tier

    def begin(self) -> None:
        """Begin a request."""
        self._reasons.clear()
        self._backends.clear()
        self._has_broken_off = False

    def take(self, event: Event) -> None:
        """Follow the request."""
        match event:
            case AttemptStarted():
                self._backends[event.tier] = event
            case AttemptFailed():
                self._has_broken_off = self._has_broken_off or event.streamed
                if event.attempt.outcome != "cancelled":
                    self._reasons[event.attempt.tier] = in_words(event.attempt)
            case TierSkipped(attempt=attempt):
                # That a key is not set is no news.
                if attempt.skip is None or attempt.skip.why != "not_configured":
                    self._reasons.setdefault(attempt.tier, in_words(attempt))

    def heading(self, tier: str) -> str | None:
        """Say who is answering now; None when a line about a broken answer has just said it.

        Args:
            tier: the tier whose text begins.
        """
        change = self.change(tier)
        if self._has_broken_off:
            return None
        return change or self._named(tier)

    def change(self, tier: str) -> str | None:
        """Say in words that another tier answers than last time; None when it is the same.

        Args:
            tier: the tier that answers; it is expected from now on.
        """
        before, self._last = self._last, tier
        was, now = self._levels.get(before, 0), self._levels.get(tier, 0)
        if was == now:
            return None
        if now < was:
            return f"{self._subject(tier)} answering again"
        between = [name for name, level in self._levels.items() if was <= level < now]
        tiers: dict[str, list[str]] = {}
        for name in between:
            if name in self._reasons or name == before:
                tiers.setdefault(self._reasons.get(name, "is slow"), []).append(name)
        reasons = [
            f"{' and '.join(map(one_line, names))} {words if len(names) == 1 else _plural(words)}"
            f"{self._until(names)}"
            for words, names in tiers.items()
        ]
        return f"{', '.join(reasons)}, {self._subject(tier)} answering"

    def _until(self, tiers: Sequence[str]) -> str:
        """Say when the first of some tiers may be asked again, if that takes a while."""
        cooldowns_s = self._cooldowns_s()
        waits = [cooldowns_s[tier] for tier in tiers if cooldowns_s.get(tier, 0) >= 1]
        if not waits or len(waits) < len(tiers):
            return ""
        wait_s = min(waits)
        shown = f"{wait_s:.0f} s" if wait_s < 120 else f"{wait_s / 60:.0f} min"
        return f" (back in {shown} at the earliest)"

    def _subject(self, tier: str) -> str:
        backend = self._backends.get(tier)
        if backend is not None and backend.provider == "rules":
            return "the rules are"
        return f"{one_line(tier)} is"

    def _named(self, tier: str) -> str:
        backend = self._backends.get(tier)
        model = one_line(backend.model) if backend is not None else ""
        return one_line(tier) if model in {"", tier} else f"{one_line(tier)} · {model}"


def _plural(words: str) -> str:
    verb, _, rest = words.partition(" ")
    return f"{PLURALS.get(verb, verb)} {rest}".rstrip()


def in_words(attempt: Attempt) -> str:
    """Say why an attempt gave no answer, to follow its tier's name: `is rate limited`."""
    if attempt.error is not None:
        return WORDS[attempt.error.kind]
    if attempt.skip is None:
        return WORDS[ErrorKind.UNEXPECTED]
    if attempt.skip.cause is not None:
        return WORDS[attempt.skip.cause]
    return SKIPPED[attempt.skip.why]
