"""A winner is found by priority, then length, then order, and it is said why."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rules_support import from_patterns, matched, matcher

from tieredllm.rules.load import load_rules
from tieredllm.rules.match import Matcher

BUILTIN = Matcher(load_rules())


def test_the_highest_priority_wins():
    """A short match of high priority beats a long one of low priority."""
    finding = Matcher(from_patterns(low=(1, "a very long match"), high=(2, "a"))).match(
        "a very long match"
    )

    assert finding.intent == "high"
    assert finding.why == "only high matches"


def test_explain_gives_every_candidate_and_the_reason():
    """All matching patterns come with intent, priority, place and text, the winner first."""
    rules = from_patterns(low=(1, "very long"), high=(2, "a"), none=(3, "zebra"))
    finding = Matcher(rules).explain("Such a very long match")
    shown = [(one.intent, one.priority, one.start, one.end, one.text) for one in finding.candidates]

    assert shown == [("high", 2, 5, 6, "a"), ("low", 1, 7, 16, "very long")]
    assert finding.why == "high has the highest priority, 2; next is low with 1"
    assert (finding.tried, finding.patterns) == (3, 3)


def test_the_longest_match_wins_among_equals():
    """With the same priority the number of matched characters decides."""
    finding = Matcher(from_patterns(short=(1, "red"), long=(1, "blue car"))).match(
        "red and blue car"
    )

    assert finding.intent == "long"
    assert finding.why == (
        "long and short both have priority 1, and long has the longer match: 8 characters against 3"
    )


def test_the_order_of_the_file_decides_last():
    """Same priority and length: the first in the file."""
    finding = Matcher(from_patterns(second=(1, "blue"), first=(1, "pink"))).match("pink blue")

    assert finding.intent == "second"
    assert finding.why == (
        "second and first both have priority 1 and match 4 characters, and second comes first in "
        "the rules"
    )


def test_nothing_matches():
    """The default intent answers, and that is said."""
    finding = Matcher(from_patterns(one=(1, "red"))).match("green")

    assert (finding.intent, finding.winner, finding.candidates) == ("general", None, ())
    assert finding.why == "no pattern matches: the default intent general answers"


def test_a_pattern_s_longest_match_counts():
    """Not its first one: `a+` in `a aaa` is three characters long."""
    assert matched("a+", "a aaa aa") == "aaa"


@pytest.mark.parametrize(
    ("pattern", "query", "text"),
    [
        ("hey", "they", None),
        ("hey", "hey!", "hey"),
        ("hey", "HEY", "HEY"),
        ("issue", "tissue", None),
        ("issue", "reissue", None),
        ("issue", "is-sue issue-free", "issue"),
        ("error", "error_log", None),
        ("error", "error2", None),
        ("error", "the error's cause", "error"),
        ("how do i", "how  do,\n I", "how do I"),
        ("isn't", "isn\u2019t", "isn't"),
        ("isn\u2019t", "isn't", "isn't"),
        ("stra\u00dfe", "STRASSE", "STRASSE"),
        ("\u00fcber", "\u00dcBER", "\u00dcBER"),
        ("caf\u00e9", "cafe\u0301", "caf\u00e9"),
        ("erreur", "l'erreur", "erreur"),
        ("\u9519\u8bef", "\u600e\u4e48\u4fee\u590d\u9519\u8bef\u5440", "\u9519\u8bef"),
        (
            "\u0442\u0435\u043a\u0441\u0442",
            "\u043a\u043e\u043d\u0442\u0435\u043a\u0441\u0442",
            None,
        ),
        ("red|reddish", "reddish", "reddish"),
        ("(?=.*late).*order", "my order is late", "my order"),
        ("^help$", "help", "help"),
        ("^help$", "please help", None),
    ],
)
def test_patterns_match_words(pattern, query, text):
    """Whole words in any case; scripts without spaces match anywhere."""
    assert matched(pattern, query) == text


def test_lower_priorities_are_not_tried_without_need():
    """A match of high priority ends the search, unless every candidate is wanted."""
    rules = Matcher(from_patterns(high=(2, "red"), low=(1, "red")))

    assert rules.match("red").tried == 1
    assert rules.explain("red").tried == 2


@given(st.text(max_size=200))
def test_any_text_has_an_intent(text):
    """No text raises; `match` and `explain` find the same; the span is where the text is."""
    finding = BUILTIN.explain(text)

    assert finding.intent in {intent.name for intent in BUILTIN.rules.languages[0].intents}
    assert finding.intent == BUILTIN.match(text).intent
    read_as = finding.languages[0].read_as
    assert all(read_as[one.start : one.end] == one.text for one in finding.candidates)


WORDS = (
    "help fix what is error hello contact support speak to a human explain they tissue you do can "
    "how i isn't working problem with tell me about"
)
words = st.sampled_from(WORDS.split())


@given(st.lists(words, max_size=15).map(" ".join))
def test_the_winner_is_the_best_candidate(query):
    """Among all candidates none has a higher priority, or the same and a longer match."""
    finding = BUILTIN.explain(query)
    ranks = [(one.priority, one.end - one.start) for one in finding.candidates]

    assert ranks == sorted(ranks, reverse=True)
    assert finding.winner == (finding.candidates[0] if ranks else None)
    assert finding.intent == BUILTIN.match(query).intent


TWO_LANGUAGES = """
    lang: en
    default: general
    extends: de.yaml
    intents:
      - {name: trouble, priority: 9, patterns: [problem], responses: [English trouble.]}
      - {name: info, priority: 1, patterns: [what is], responses: [English info.]}
      - {name: general, responses: [English general.]}
"""
GERMAN = """
    lang: de
    default: general
    notice: "Nur eine feste Antwort. {ref_code}"
    intents:
      - {name: info, priority: 1, patterns: [was ist], responses: [Deutsche Auskunft.]}
      - {name: problem, patterns: [problem, das], responses: [Deutsches Problem.]}
      - {name: general, responses: [Deutsches Allgemeines.]}
"""


@pytest.fixture
def both(tmp_path):
    (tmp_path / "de.yaml").write_text(GERMAN)
    return matcher(tmp_path, TWO_LANGUAGES)


@pytest.mark.parametrize(
    ("query", "lang", "intent"),
    [
        ("Was ist das Problem?", "de", "info"),
        ("What is the problem?", "en", "trouble"),
        ("problem", "en", "trouble"),
        ("nichts davon", "en", "general"),
        ("was ist los", "de", "info"),
    ],
)
def test_language_is_guessed_from_the_patterns(both, query, lang, intent):
    """The language whose patterns cover most of the query; the file's own when it is a draw."""
    finding = both.match(query)

    assert (finding.lang, finding.intent) == (lang, intent)


def test_language_is_explained(both):
    """How much each language covers is part of the reason."""
    finding = both.explain("Was ist das Problem?")

    assert finding.why == (
        "the language is de: its patterns cover 17 characters of the query, those of en 7; "
        "info has the highest priority, 1; next is problem with 0"
    )
    assert [(one.lang, one.characters) for one in finding.languages] == [("de", 17), ("en", 7)]
