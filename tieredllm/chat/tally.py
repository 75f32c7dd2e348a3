"""Count what a session's answers took."""

from __future__ import annotations

from collections import Counter

from tieredllm.text import pluralize
from tieredllm.types import Answer

__all__ = ["Tally"]


class Tally:
    """Add up tokens and time."""

    def __init__(self) -> None:
        self._answers: Counter[str] = Counter()
        self._failures = 0
        self._prompt_tokens = 0
        self._completion_tokens = 0
        self._unreported = 0
        self._seconds = 0.0

    def add(self, answer: Answer) -> None:
        """Count an answer, complete or failed."""
        self._seconds += answer.latency_ms / 1000
        if answer.error is not None or answer.tier is None:
            self._failures += 1
            return
        self._answers[answer.tier] += 1
        usage = answer.usage
        if usage.prompt_tokens is None and usage.completion_tokens is None:
            self._unreported += answer.provider != "rules"
        self._prompt_tokens += usage.prompt_tokens or 0
        self._completion_tokens += usage.completion_tokens or 0

    def lines(self) -> list[str]:
        """Word it."""
        total = self._answers.total()
        if not total and not self._failures:
            return ["nothing was asked yet"]
        by_tier = ", ".join(f"{name} {count}" for name, count in self._answers.items())
        counted = pluralize(total, "answer") + (f" ({by_tier})" if by_tier else "")
        if self._failures:
            counted += f", {pluralize(self._failures, 'failure')}"
        tokens = f"{self._prompt_tokens:,} prompt + {self._completion_tokens:,} completion tokens"
        if self._unreported:
            tokens += f"; not reported for {pluralize(self._unreported, 'answer')}"
        return [f"{counted}, {self._seconds:.1f} s", tokens]
