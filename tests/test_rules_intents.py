"""The built-in rules tell apart what people want, in the words people use."""

from __future__ import annotations

import codecs
from collections import Counter
from pathlib import Path

import pytest

from tieredllm.rules.load import BUILTIN_FILE, check_rules_file, load_rules
from tieredllm.rules.match import Matcher

TABLE = Path(__file__).parent / "data" / "intents.tsv"
BUILTIN = Matcher(load_rules())


def table() -> list[tuple[str, str]]:
    lines = TABLE.read_text(encoding="ascii").splitlines()
    rows = [line.split("\t") for line in lines if not line.startswith("#")]
    return [(row[0], codecs.decode(row[1], "unicode_escape")) for row in rows]


@pytest.mark.parametrize(("intent", "query"), table())
def test_query_has_the_intent_expected(intent, query):
    """Each of the queries written by hand has its intent, and `match` and `explain` agree."""
    finding = BUILTIN.explain(query)

    assert finding.intent == intent, finding.why
    assert BUILTIN.match(query).intent == intent


def test_table_is_large_and_even():
    """At least 200 different queries, and at least 25 for each intent."""
    rows = table()
    counts = Counter(intent for intent, _ in rows)

    assert len(set(rows)) == len(rows) >= 200
    assert set(counts) == {intent.name for intent in BUILTIN.rules.languages[0].intents}
    assert min(counts.values()) >= 25


def test_table_has_traps_for_parts_of_words():
    """Without word limits at least twenty of the queries would get another intent."""
    import regex

    intents = BUILTIN.rules.languages[0].intents
    parts = [regex.compile(rule.pattern, regex.I) for one in intents for rule in one.rules]
    traps = [
        query
        for intent, query in table()
        if intent == "general" and any(part.search(query) for part in parts)
    ]

    assert len(traps) >= 20


def test_builtin_file_has_no_mistakes():
    """What ships passes the checks that users' files go through."""
    assert check_rules_file(BUILTIN_FILE) == []


def test_builtin_intents_are_those_of_the_contract():
    """Six intents, and `general` is the default."""
    (language,) = BUILTIN.rules.languages

    assert {intent.name for intent in language.intents} == {
        "greeting",
        "help",
        "information",
        "troubleshooting",
        "contact",
        "general",
    }
    assert language.default == "general"


@pytest.mark.parametrize("apostrophe", ["'", "\u2019", "\u2018", "\u02bc", "`", "\u00b4", "\uff07"])
def test_apostrophes_are_all_alike(apostrophe):
    """Whatever a keyboard makes of an apostrophe, and none at all, is read the same."""
    assert BUILTIN.match(f"it isn{apostrophe}t working").intent == "troubleshooting"
    assert BUILTIN.match("it isnt working").intent == "troubleshooting"


@pytest.mark.parametrize("trap", ["terror", "issueless", "hellish", "therapist", "contract"])
def test_spelling_help_invents_no_words(trap):
    """A word one or two letters away from a listed one stays itself."""
    assert BUILTIN.explain(trap).candidates == ()
