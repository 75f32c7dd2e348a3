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
from collections.abc import Callable
from functools import cached_property

from tieredllm.rules.finding import Candidate, Coverage, Finding, covered, reason
from tieredllm.rules.model import Rules
from tieredllm.rules.searching import Search
from tieredllm.rules.text import normalized, spelling_table, with_right_spelling

__all__ = ["BUDGET_S", "Matcher"]

BUDGET_S = 0.04
"""Seconds for all patterns of one query. The contract allows 50 ms; `regex` looks at its clock only
now and then, and the rest is for preparing the query.

It is processor time, which is what `regex` counts too: where a model keeps all processors busy, a
pattern that does nothing wrong is not stopped for the time it had to wait."""


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
        text = normalized(query)
        search = Search(self._clock, self._budget_s)
        found: list[tuple[Coverage, list[Candidate]]] = []
        for language in self.rules.languages:
            read_as = with_right_spelling(text, self._spellings[language.lang])
            candidates = search.language(language, read_as, everything=everything)
            characters = covered(candidates)
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
        self, found: list[tuple[Coverage, list[Candidate]]], search: Search
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
        why = reason(candidates)
        if several:
            second = found[1][0]
            why = (
                f"the language is {coverage.lang}: its patterns cover {coverage.characters} "
                f"characters of the query, those of {second.lang} {second.characters}; {why}"
            )
        if late is not None:
            why += f" (the time was up at {late}, which could not have changed that)"
        return candidates[0], why
