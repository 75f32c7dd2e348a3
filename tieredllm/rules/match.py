"""Find the intent of a query, and say why it is that one.

With rules in one language the highest priority wins, then the longest match, then the order of the
file. With several languages the query's own is guessed first: it is the one whose patterns cover
most of the query, then the one whose rules come first.

All patterns together have `BUDGET_S`. They are tried from the highest priority down, and the rest
is left out once a priority has a match, unless every candidate is wanted; so a slow pattern of low
priority cannot take the answer away from a good one. When the time is up before a winner is known,
the default intent answers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import cached_property
from itertools import groupby
from typing import TYPE_CHECKING

import msgspec

from tieredllm.errors import Mistake
from tieredllm.rules.patterns import compile_pattern
from tieredllm.rules.schema import Intent, Language, Rule, Rules
from tieredllm.rules.text import correct_spelling, normalize, spelling_table
from tieredllm.text import printable_line

if TYPE_CHECKING:
    from regex import Match, Pattern

__all__ = ["BUDGET_S", "Candidate", "Coverage", "Finding", "Matcher", "failed_tests"]

BUDGET_S = 0.04
"""Seconds for all patterns of one query. The contract allows 50 ms; `regex` looks at its clock only
now and then, and the rest is for preparing the query.

It is processor time, which is what `regex` counts too: where a model keeps all processors busy, a
pattern that does nothing wrong is not stopped for the time it had to wait."""

OWN_SHARE_S = 3e-6
"""Seconds of our own for each search; measured at 1 to 2 microseconds with CPython 3.11."""

MAX_CAPTURE = 100
"""The most characters of a captured word that an answer repeats."""

SHOWN_CHARACTERS = 80


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """One pattern's longest match."""

    lang: str
    intent: str
    priority: int
    pattern: str
    origin: str
    """The file the pattern is from."""
    start: int
    """Where the match begins in the query as the language's rules read it; `end` is past it."""
    end: int
    text: str
    captures: dict[str, str]
    """What the pattern's named groups caught, fit to be printed."""


class Coverage(msgspec.Struct, frozen=True, kw_only=True):
    """How well one language's patterns fit a query."""

    lang: str
    read_as: str
    """The normalized query, its spelling put right."""
    characters: int
    """How many characters of it any match covers."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """What was found, and why."""

    query: str
    """The query, normalized."""
    lang: str
    intent: str
    """The winner's, or the default."""
    winner: Candidate | None
    candidates: tuple[Candidate, ...]
    """Those that were looked for, the best first; each pattern at most once."""
    why: str
    timed_out: bool
    """Whether the time was up before every pattern wanted had been tried."""
    tried: int
    """How many patterns were tried, of how many there are."""
    patterns: int
    elapsed_ms: float
    """By the wall clock, and with the compiling of patterns that were new."""
    languages: tuple[Coverage, ...]


class Matcher:
    """Match queries against rules; compiles each pattern when it is first needed.

    Args:
        rules: what to match against.
        clock: the processor time this thread has taken, in seconds.
        budget_s: the time all patterns together may take for one query.
    """

    def __init__(
        self,
        rules: Rules,
        *,
        clock: Callable[[], float] = time.thread_time,
        budget_s: float = BUDGET_S,
    ) -> None:
        self.rules = rules
        self._clock = clock
        self._budget_s = budget_s

    @cached_property
    def _spellings(self) -> dict[str, dict[str, str]]:
        return {one.lang: spelling_table(one.spellings) for one in self.rules.languages}

    def match(self, query: str) -> Finding:
        """Find the intent, looking no further than needed.

        Raises:
            regex.error: a pattern was never checked and is bad.
        """
        return self._find(query, everything=len(self.rules.languages) > 1)

    def explain(self, query: str) -> Finding:
        """Find the intent and every other candidate; the winner is the same as `match()`'s."""
        return self._find(query, everything=True)

    def _find(self, query: str, *, everything: bool) -> Finding:
        began = time.perf_counter()
        text = normalize(query)
        search = _Search(self._clock, self._budget_s)
        found: list[tuple[Coverage, list[Candidate]]] = []
        for language in self.rules.languages:
            read_as = correct_spelling(text, self._spellings[language.lang])
            candidates = search.language(language, read_as, everything=everything)
            characters = count_covered(candidates)
            found.append(
                (Coverage(lang=language.lang, read_as=read_as, characters=characters), candidates)
            )
        # A stable sort: of languages that fit alike the first in the rules stays first.
        found.sort(key=lambda one: -one[0].characters)
        candidates = [candidate for _, those in found for candidate in those]
        winner, why = self._decided(found, search)
        return Finding(
            query=text,
            lang=winner.lang if winner else self.rules.languages[0].lang,
            intent=winner.intent if winner else self.default,
            winner=winner,
            candidates=tuple(candidates),
            why=why,
            timed_out=search.timed_out_at is not None,
            tried=search.tried,
            patterns=sum(len(i.rules) for one in self.rules.languages for i in one.intents),
            elapsed_ms=(time.perf_counter() - began) * 1000,
            languages=tuple(coverage for coverage, _ in found),
        )

    @property
    def default(self) -> str:
        """The intent that answers when nothing matches."""
        return next(one.default for one in self.rules.languages if one.default is not None)

    def _decided(
        self, found: list[tuple[Coverage, list[Candidate]]], search: _Search
    ) -> tuple[Candidate | None, str]:
        late = search.timed_out_at
        several = len(found) > 1
        if late is not None and (several or not search.settled):
            return None, (
                f"the {self._budget_s * 1000:.0f} ms for matching were up at {late}: the default "
                f"intent {self.default} answers"
            )
        coverage, candidates = found[0]
        if not candidates:
            return None, f"no pattern matches: the default intent {self.default} answers"
        why = explain_order(candidates)
        if several:
            second = found[1][0]
            why = (
                f"the language is {coverage.lang}: its patterns cover {coverage.characters} "
                f"characters of the query, those of {second.lang} {second.characters}; {why}"
            )
        if late is not None:
            why += f" (the time was up at {late}, which could not have changed that)"
        return candidates[0], why


class _Search:
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
        """Return a language's candidates, the best first."""
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
        """Return a pattern's matches from the left.

        Raises:
            TimeoutError: the time is up.
        """
        if self.timed_out_at is not None:
            raise TimeoutError
        pattern = compile_pattern(source)
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


def count_covered(candidates: list[Candidate]) -> int:
    """Count the characters that any of the matches covers."""
    covered = reach = 0
    for candidate in sorted(candidates, key=lambda one: one.start):
        covered += max(0, candidate.end - max(candidate.start, reach))
        reach = max(reach, candidate.end)
    return covered


def explain_order(candidates: list[Candidate]) -> str:
    """Return why the first of the candidates comes before those of other intents."""
    winner = candidates[0]
    rival = next((one for one in candidates if one.intent != winner.intent), None)
    if rival is None:
        return f"only {winner.intent} matches"
    if rival.priority < winner.priority:
        return (
            f"{winner.intent} has the highest priority, {winner.priority}; next is {rival.intent} "
            f"with {rival.priority}"
        )
    both = f"{winner.intent} and {rival.intent} both have priority {winner.priority}"
    length, other = winner.end - winner.start, rival.end - rival.start
    if other < length:
        return (
            f"{both}, and {winner.intent} has the longer match: {length} characters against {other}"
        )
    return f"{both} and match {length} characters, and {winner.intent} comes first in the rules"


def failed_tests(matcher: Matcher) -> list[Mistake]:
    """Match the queries of a file's own tests.

    Returns:
        What failed, each at the place of its query, with the reason for the intent it got.
    """
    failed = []
    for test in matcher.rules.tests:
        finding = matcher.match(test.query)
        query = printable_line(test.query, SHOWN_CHARACTERS)
        if finding.intent != test.intent:
            message = f"`{query}` is {finding.intent}, not {test.intent}: {finding.why}"
        elif test.lang is not None and finding.lang != test.lang:
            message = f"`{query}` is taken for {finding.lang}, not {test.lang}: {finding.why}"
        else:
            continue
        failed.append(test.place.mistake(message))
    return failed
