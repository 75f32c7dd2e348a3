"""Try patterns on a text, the highest priority first, until the time is up."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import groupby
from typing import TYPE_CHECKING

from tieredllm.rules.finding import Candidate
from tieredllm.rules.model import Intent, Language, Rule
from tieredllm.rules.patterns import compiled
from tieredllm.text import printable_line

if TYPE_CHECKING:
    from regex import Match, Pattern

__all__ = ["Search"]

OWN_SHARE_S = 3e-6
"""Seconds of our own for each search; measured at 1 to 2 microseconds with CPython 3.11."""

MAX_CAPTURE = 100
"""The most characters of a captured word that an answer repeats."""


class Search:
    """Try the patterns of all languages for one query.

    Args:
        clock: the processor time this thread has taken, in seconds.
        budget_s: the time all searches together may take. What happens between them is allowed for
            with `OWN_SHARE_S` each and not measured: the garbage collector or the compiling of a
            pattern may fall there, and no pattern is to blame for that.
    """

    def __init__(self, clock: Callable[[], float], budget_s: float) -> None:
        self._clock = clock
        self._left_s = budget_s
        self.tried = 0
        self.timed_out_at: str | None = None
        """The pattern at which the time was up."""
        self.settled = False
        """Whether a priority was tried to its end and had a match: lower ones change nothing."""

    def language(self, language: Language, text: str, *, everything: bool) -> list[Candidate]:
        """Give a language's candidates, the best first."""
        found: list[Candidate] = []
        ranked = sorted(language.intents, key=lambda intent: -intent.priority)
        for _, equals in groupby(ranked, key=lambda intent: intent.priority):
            level: list[Candidate] = []
            complete = all(self._intent(language, intent, text, level) for intent in equals)
            found += sorted(level, key=lambda candidate: candidate.start - candidate.end)
            if not complete:
                break
            if found:
                self.settled = True
                if not everything:
                    break
        return found

    def _intent(
        self, language: Language, intent: Intent, text: str, found: list[Candidate]
    ) -> bool:
        """Add an intent's candidates; False when the time was up."""
        for rule in intent.rules:
            longest = None
            try:
                for match in self._matches(rule.pattern, text):
                    if longest is None or _length(match) > _length(longest):
                        longest = match
            except TimeoutError:
                self.timed_out_at = (
                    self.timed_out_at or f"pattern {rule.pattern!r} of {intent.name}"
                )
                return False
            self.tried += 1
            if longest is not None:
                found.append(_candidate(language, intent, rule, longest))
        return True

    def _matches(self, source: str, text: str) -> Iterator[Match[str]]:
        """Give a pattern's matches from the left.

        Raises:
            TimeoutError: the time is up.
        """
        if self.timed_out_at is not None:
            raise TimeoutError
        pattern = compiled(source)
        at = 0
        while at <= len(text):
            match = self._search(pattern, text, at)
            if match is None:
                return
            yield match
            at = max(match.end(), match.start() + 1)

    def _search(self, pattern: Pattern[str], text: str, at: int) -> Match[str] | None:
        while self._left_s > 0:
            began = self._clock()
            try:
                return pattern.search(text, at, timeout=self._left_s)
            except TimeoutError:
                # `regex` counts the processor time of all threads together, which runs ahead while
                # a model is being loaded beside us: there may be time left.
                continue
            finally:
                self._left_s -= self._clock() - began + OWN_SHARE_S
        raise TimeoutError


def _length(match: Match[str]) -> int:
    return match.end() - match.start()


def _candidate(language: Language, intent: Intent, rule: Rule, match: Match[str]) -> Candidate:
    captures = {}
    for name, caught in match.groupdict().items():
        value = printable_line(caught or "", MAX_CAPTURE)
        if value:
            captures[name] = value
    return Candidate(
        lang=language.lang,
        intent=intent.name,
        priority=intent.priority,
        pattern=rule.pattern,
        origin=rule.origin,
        start=match.start(),
        end=match.end(),
        text=match[0],
        captures=captures,
    )
