"""Answers are honest, deterministic, complete, and carry a reference code."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rules_support import REQUEST_ID, matcher, said, say

from tieredllm.rules.answer import answer
from tieredllm.rules.load import load_rules
from tieredllm.rules.match import Matcher
from tieredllm.rules.ref_code import last_words, ref_code

BUILTIN = Matcher(load_rules())
INTENTS = ("greeting", "help", "information", "troubleshooting", "contact", "general")
EXAMPLES = {
    "greeting": "hello",
    "help": "help",
    "information": "what is love",
    "troubleshooting": "error",
    "contact": "speak to a human",
    "general": "they say so",
}
EVERYTHING = {
    "support_contact": "help@example.org",
    "help_url": "https://example.org/help",
    "hours": "9 to 17",
}


@pytest.mark.parametrize(
    ("request_id", "code"),
    [
        (REQUEST_ID, "REF-1A2B3C4D"),
        ("ABCDEF01" * 4, "REF-ABCDEF01"),
        ("12345678", "REF-12345678"),
        ("1234567", "REF-8BB0CF6E"),
        ("01J9-not-hex", "REF-5F4A957C"),
        ("", "REF-E3B0C442"),
    ],
)
def test_reference_code(request_id, code):
    """The id's first eight hex digits, or those of its SHA-256 when it is no hex number."""
    assert ref_code(request_id) == code


@given(st.text())
def test_reference_code_has_its_form(request_id):
    """Whatever the id, the code is one that people can read out."""
    assert re.fullmatch(r"REF-[0-9A-F]{8}", ref_code(request_id))


@pytest.mark.parametrize("intent", INTENTS)
@pytest.mark.parametrize("variables", [{}, EVERYTHING], ids=["bare", "full"])
def test_every_answer_says_that_it_is_limited(intent, variables):
    """Each says that no language model answered, and carries the code."""
    given_answer = said(BUILTIN, EXAMPLES[intent], **variables)

    assert given_answer.intent == intent
    assert "no language model answered" in given_answer.text
    assert "REF-1A2B3C4D" in given_answer.text
    assert given_answer.ref_code == "REF-1A2B3C4D"


@pytest.mark.parametrize("intent", INTENTS)
def test_no_answer_refers_to_what_was_left_out(intent):
    """Without any variable each response is still whole sentences, and makes sense by itself."""
    language = BUILTIN.rules.languages[0]
    chosen = {say(BUILTIN, f"{EXAMPLES[intent]} {number}") for number in range(40)}

    for text in chosen:
        assert text[0].isupper()
        assert text.endswith((".", ")"))
        assert not re.search(r"[{}\[\]]|^(They|It|Their)\b", text)
    # Both responses of `contact` need a contact.
    assert len(chosen) == (1 if intent == "contact" else len(language.intent(intent).responses))


def test_variables_are_used_where_they_are_set():
    """What the profile sets shows in the answers that name it."""
    text = say(BUILTIN, "speak to a human", **EVERYTHING)

    assert "help@example.org" in text
    assert "9 to 17" in text
    assert "reference code REF-1A2B3C4D" in text


def test_a_blank_variable_is_not_set():
    """Spaces are nothing to print."""
    assert say(BUILTIN, "contact support", support_contact="  ") == say(BUILTIN, "contact support")


def test_otherwise_is_said_when_nothing_is_left():
    """Without a support contact the contact intent says so instead of falling silent."""
    text = say(BUILTIN, "speak to a human")

    assert text.startswith("I can't put you through to a person, and no support contact is set up")


def test_the_default_answers_when_an_intent_has_nothing_left(tmp_path):
    """Neither responses nor otherwise: the default's words, and the intent stays what it was."""
    rules = matcher(
        tmp_path,
        """
        extends: builtin
        intents: [{name: pizza, patterns: [pizza], responses: ["Order at {pizza_url}."]}]
        """,
    )
    given_answer = said(rules, "pizza")

    assert given_answer.intent == "pizza"
    assert "fallback mode" in given_answer.text
    assert say(rules, "pizza", pizza_url="x.org") == "Order at x.org."


def test_the_next_response_is_taken_when_one_has_nothing_left(tmp_path):
    """Whichever is chosen, the one that can be said is said."""
    rules = matcher(
        tmp_path,
        """
        default: a
        intents: [{name: a, responses: ["{x}.", "{y}.", "Said.", "{z}."]}]
        """,
    )

    assert {say(rules, str(number)) for number in range(30)} == {"Said."}


def test_last_words_need_no_rules(tmp_path):
    """When nothing at all can be said, one fixed sentence is, with the code."""
    rules = matcher(tmp_path, "default: a\nintents: [{name: a, responses: ['{x}.']}]\n")

    assert said(rules, "hello").text == last_words("REF-1A2B3C4D")
    assert "no language model answered" in last_words("REF-1A2B3C4D")


def test_captures_are_repeated(tmp_path):
    """A named group of the pattern that matched can be named in the response."""
    rules = matcher(
        tmp_path,
        r"""
        extends: builtin
        intents:
          - name: order
            priority: 60
            patterns: ['my order(?: #?(?P<order_id>[\w\x1b-]+))?', 'call me (?P<who>.+)']
            responses: ["Order {match.order_id} waits. Hello {match.who}. One moment."]
        """,
    )

    assert say(rules, "Where is my order #AB-12?") == "Order AB-12 waits. One moment."
    assert say(rules, "where is MY ORDER") == "One moment."
    assert say(rules, "call me Zo\u0308e\u202e \x1b[31m") == "Hello Z\u00f6e [31m. One moment."
    assert say(rules, "call me " + "x" * 500) == f"Hello {'x' * 99}\u2026. One moment."
    assert say(rules, "call me {support_contact}", support_contact="no") == (
        "Hello {support_contact}. One moment."
    )


def test_a_variable_cannot_pose_as_a_capture_or_the_code(tmp_path):
    """`match.` and `ref_code` belong to the rules."""
    rules = matcher(
        tmp_path,
        """
        default: a
        intents:
          - {name: a, patterns: ['x(?P<id>\\d)?'], responses: ["{match.id}", "{ref_code}"]}
        """,
    )
    text = answer(
        rules,
        "x",
        variables={"match.id": "fake", "ref_code": "REF-FAKE"},
        request_id=REQUEST_ID,
    ).text

    assert "fake" not in text.lower()


def test_the_response_depends_on_the_query_alone():
    """Case, spaces and punctuation around words make no difference; other words do."""
    same = {say(BUILTIN, query) for query in ("Hello there", " hello   THERE!", "hello, there")}
    different = {say(BUILTIN, f"hello {number}") for number in range(30)}

    assert len(same) == 1
    assert len(different) == 2


PROGRAM = """
import sys
sys.path.insert(0, sys.argv[1])
from rules_support import said
from tieredllm.rules.load import load_rules
from tieredllm.rules.match import Matcher
rules = Matcher(load_rules())
for number in range(60):
    answer = said(rules, f"truoble with hello {number}, what is an eror", support_contact="x")
    print(answer.text, answer.finding.why)
"""


def test_answers_are_the_same_in_every_process():
    """Neither the hash seed nor the process changes an answer."""
    texts = {
        subprocess.run(
            [sys.executable, "-c", PROGRAM, str(Path(__file__).parent)],
            env={"PYTHONHASHSEED": seed, "PATH": ""},
            capture_output=True,
            check=True,
            timeout=60,
        ).stdout
        for seed in ("0", "1", "4242", "random")
    }

    assert len(texts) == 1


harmless = st.characters(exclude_characters="{}[]")
variables = st.dictionaries(
    st.sampled_from([*EVERYTHING, "ref_code", "match.x", "other"]),
    st.text(alphabet=harmless, max_size=40),
)
queries = st.one_of(
    st.text(max_size=80),
    st.lists(st.sampled_from([*EXAMPLES.values(), "x"]), max_size=4).map(" ".join),
)


@given(queries, variables, st.text(max_size=40))
def test_any_query_and_variables_make_a_whole_answer(query, variables, request_id):
    """Nothing raises, nothing is left unfilled, and the code and the notice are always there."""
    text = answer(BUILTIN, query, variables=variables, request_id=request_id).text

    assert not set("{}[]") & set(text)
    assert text.endswith(
        "(A limited answer from fixed rules: no language model answered. "
        f"Reference code: {ref_code(request_id)}.)"
    )
    assert all(char.isprintable() for char in text.replace("\n", ""))
    text.encode()


def test_a_language_without_a_notice_takes_another_s(tmp_path):
    """Every answer has a notice, in the query's language where there is one."""
    (tmp_path / "de.yaml").write_text(
        "lang: de\ndefault: a\nnotice: 'Begrenzt. {ref_code}'\n"
        "intents: [{name: a, patterns: [hallo du], responses: [Hallo.]}]\n"
    )
    (tmp_path / "fr.yaml").write_text(
        "lang: fr\nintents: [{name: a, patterns: [salut toi], responses: [Salut.]}]\n"
    )
    rules = matcher(tmp_path, "extends: [builtin, de.yaml, fr.yaml]\n")

    assert said(rules, "hallo du").text == "Hallo.\n\nBegrenzt. REF-1A2B3C4D"
    assert said(rules, "salut toi").text.startswith("Salut.\n\n(A limited answer")
