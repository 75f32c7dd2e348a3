"""Hold what matching found, and word the reasons."""

from __future__ import annotations

import msgspec

__all__ = ["Candidate", "Coverage", "Finding", "covered", "reason"]


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """Hold one pattern's longest match."""

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
    """Hold how well one language's patterns fit a query."""

    lang: str
    read_as: str
    """The normalized query, its spelling put right."""
    characters: int
    """How many characters of it any match covers."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """Hold what was found, and why."""

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


def covered(candidates: list[Candidate]) -> int:
    """Count the characters that any of the matches covers."""
    covered = reach = 0
    for candidate in sorted(candidates, key=lambda one: one.start):
        covered += max(0, candidate.end - max(candidate.start, reach))
        reach = max(reach, candidate.end)
    return covered


def reason(candidates: list[Candidate]) -> str:
    """Say why the first of the candidates comes before those of other intents."""
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
