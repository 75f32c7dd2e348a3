r"""Define a rule file, every key, its type and default; and the rules that are made of files.

A rule file is YAML. A short one::

    extends: builtin          # keep the built-in intents; leave it out to replace them
    intents:
      - name: order           # a new intent
        priority: 60
        patterns: ['(?:where is|track) my order #?(?P<order_id>\d+)']
        responses: ["I can't look up order {match.order_id} now. Ask {support_contact}."]
      - name: contact         # a built-in one: what is given here replaces what it had
        extra_patterns: ["ring you"]
    tests:
      - {query: "Where is my order #4711?", intent: order}

The texts of responses are described in `rules.template`, the matching in `rules.match`.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from tieredllm.profile.nodes import Place

__all__ = [
    "Expectation",
    "Intent",
    "IntentEntry",
    "Language",
    "OwnTest",
    "ResponseText",
    "Rule",
    "RuleFile",
    "Rules",
]

IntentName = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$",
        extra={"means": "a name of at most 64 letters, digits, `_`, `.` and `-`"},
    ),
]
LanguageTag = Annotated[
    str,
    Meta(
        pattern=r"^[a-z]{2,3}(-[A-Za-z0-9]{2,8})*$",
        extra={"means": "a language tag such as `en` or `pt-BR`"},
    ),
]
PatternSource = Annotated[str, Meta(min_length=1)]
Sentence = Annotated[str, Meta(min_length=1)]
ResponseText = Sentence | Annotated[tuple[Sentence, ...], Meta(min_length=1)]
"""A text, taken apart into sentences; or its parts, each kept or left out as a whole."""
Responses = Annotated[tuple[ResponseText, ...], Meta(min_length=1)]


class IntentEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a file says about one intent.

    When the intent is inherited too, each key given here replaces what was inherited, and
    `extra_patterns` and `extra_responses` add to it.
    """

    name: IntentName
    """What `rules test`, logs and tests call it; unique in the file."""
    priority: Annotated[int, Meta(ge=-1000, le=1000)] | None = None
    """The highest wins; 0 when nobody says."""
    patterns: tuple[PatternSource, ...] | None = None
    """Regular expressions of the `regex` package; any of them is enough."""
    extra_patterns: tuple[PatternSource, ...] = ()
    """Patterns besides the inherited ones."""
    responses: Responses | None = None
    """One of them is chosen by a stable hash of the query."""
    extra_responses: tuple[ResponseText, ...] = ()
    """Responses besides the inherited ones."""
    otherwise: Responses | None = None
    """Said instead when nothing is left of any response, for want of variables."""


class OwnTest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One of a file's own tests."""

    query: Annotated[str, Meta(min_length=1)]
    """What a user might ask."""
    intent: IntentName
    """The intent it must have."""
    lang: LanguageTag | None = None
    """The language that must be guessed; any when absent."""


class RuleFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A whole rule file."""

    lang: LanguageTag = "en"
    """The language of its patterns and responses."""
    extends: str | tuple[str, ...] = ()
    """`builtin` or paths of other rule files, relative to this one. A file of the same language is
    built upon; one of another language stands beside this one."""
    default: IntentName | None = None
    """The intent that answers when no pattern matches; inherited when absent."""
    notice: Sentence | None = None
    """Added to every answer: says that it is a limited one, and names `{ref_code}`."""
    spellings: dict[str, tuple[str, ...]] = {}
    """Words of which small slips are put right before matching, and other spellings of them."""
    remove: tuple[IntentName, ...] = ()
    """Inherited intents to do without."""
    intents: tuple[IntentEntry, ...] = ()
    """What somebody may want, and what is said to it."""
    tests: tuple[OwnTest, ...] = ()
    """Queries with the intents they must have; `rules check` runs them."""


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """One pattern and where it is from."""

    pattern: str
    origin: str
    """`builtin`, or the file's path."""


class Intent(msgspec.Struct, frozen=True, kw_only=True):
    """What somebody may want, how that is told, and what is said to it."""

    name: str
    priority: int = 0
    rules: tuple[Rule, ...] = ()
    responses: tuple[ResponseText, ...] = ()
    otherwise: tuple[ResponseText, ...] = ()
    origin: str
    """The file that spoke of it last."""


class Language(msgspec.Struct, frozen=True, kw_only=True):
    """The rules of one language."""

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
    """One of a file's own tests."""

    place: Place
    query: str
    intent: str
    lang: str | None
    """The language that must be guessed; None for any."""


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """All rules in use."""

    origin: str
    """`builtin`, or the path of the file that was asked for."""
    languages: tuple[Language, ...]
    """The file's own language first: its default answers when nothing matches; never empty."""
    tests: tuple[Expectation, ...] = ()
    """The file's own tests, without those of files it extends."""
