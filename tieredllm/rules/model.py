"""Define loaded rules: files merged, ready to be matched."""

from __future__ import annotations

import msgspec

from tieredllm.profile.tree import Place
from tieredllm.rules.schema import ResponseText

__all__ = ["Expectation", "Intent", "Language", "Rule", "Rules"]


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """Hold one pattern and where it is from."""

    pattern: str
    origin: str
    """`builtin`, or the file's path."""


class Intent(msgspec.Struct, frozen=True, kw_only=True):
    """Hold what somebody may want, how that is told, and what is said to it."""

    name: str
    priority: int = 0
    rules: tuple[Rule, ...] = ()
    responses: tuple[ResponseText, ...] = ()
    otherwise: tuple[ResponseText, ...] = ()
    origin: str
    """The file that spoke of it last."""


class Language(msgspec.Struct, frozen=True, kw_only=True):
    """Hold the rules of one language."""

    lang: str
    intents: tuple[Intent, ...]
    """In the order of the file, what is inherited first."""
    default: str | None
    """The intent that answers when nothing matches."""
    notice: str | None
    """Added to every answer; None takes that of another language."""
    spellings: dict[str, tuple[str, ...]]

    def intent(self, name: str) -> Intent | None:
        """Find an intent by its name."""
        return next((intent for intent in self.intents if intent.name == name), None)


class Expectation(msgspec.Struct, frozen=True, kw_only=True):
    """Hold one of a file's own tests."""

    place: Place
    query: str
    intent: str
    lang: str | None
    """The language that must be guessed; None for any."""


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """Hold all rules in use."""

    origin: str
    """`builtin`, or the path of the file that was asked for."""
    languages: tuple[Language, ...]
    """The file's own language first: its default answers when nothing matches; never empty."""
    tests: tuple[Expectation, ...] = ()
    """The file's own tests, without those of files it extends."""
