"""Answers are filled in, and what cannot be filled in is left out."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tieredllm.rules.template import capture_mistakes, fill, names, template_mistakes

VALUES = {"a": "one", "match.id": "77", "ref_code": "REF-00000000"}


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("Ask {a}.", "Ask one."),
        ("Order {match.id}.", "Order 77."),
        ("Ask {b}.", ""),
        ("Hello. Ask {b}. Bye.", "Hello. Bye."),
        ("Hello. Ask {b} or {a}.", "Hello."),
        ("First! Ask {b}? Last\u2026 Done", "First! Last\u2026 Done"),
        ("Write e.g. to {b}. Bye.", "Bye."),
        ("1. Restart. 2. Ask {b}. 3. Wait.", "1. Restart. 3. Wait."),
        ('He said "Ask {b}." Bye.', "Bye."),
        ("One line\nAsk {b}\nlast line", "One line\nlast line"),
        ("One. Ask {b}.\n\nTwo.", "One.\n\nTwo."),
        ("\u597d\u3002{b}\u3002\u518d\u89c1\u3002", "\u597d\u3002\u518d\u89c1\u3002"),
        ("{{a}} is {a}", "{a} is one"),
        (("Two sentences. Of {b}.", "Kept {a}."), "Kept one."),
    ],
)
def test_fill(text, filled):
    """A sentence goes when one of its names has no value; the others stay as they are."""
    assert fill(text, VALUES) == filled


def test_a_value_is_not_looked_into():
    """A name within a value is no placeholder."""
    assert fill("Ask {a}.", {"a": "{b} {a}"}) == "Ask {b} {a}."


names_of_variables = st.from_regex(r"[a-z_]{1,6}", fullmatch=True)
pieces = st.lists(
    st.one_of(
        st.text(alphabet="ab .!?\n\u3002,1'\"", max_size=12),
        names_of_variables.map(lambda name: f"{{{name}}}"),
        names_of_variables.map(lambda name: f"{{match.{name}}}"),
        st.just("{{"),
        st.just("}}"),
    ),
    max_size=12,
)


@given(
    pieces.map("".join), st.dictionaries(names_of_variables, st.text(alphabet="xyz ", min_size=1))
)
def test_no_placeholder_is_ever_left(text, values):
    """Whatever the text and the variables, no name in braces remains."""
    filled = fill(text.replace("{{", "").replace("}}", ""), values)

    assert re.search(r"\{[a-z_.]+\}", filled) is None


@given(pieces.map("".join).map(lambda text: text.replace("{{", "").replace("}}", "")))
def test_nothing_is_lost_when_everything_has_a_value(text):
    """With every name filled in a text comes out whole."""
    whole = re.sub(r"\{[a-z_.]+\}", "V", text)

    assert fill(text, dict.fromkeys(names(text), "V")) == whole.strip()


@given(st.text(alphabet="{}ab. _", max_size=20).filter(lambda t: "{{" not in t and "}}" not in t))
def test_a_text_passes_only_without_stray_braces(text):
    """A text is right exactly when every brace in it belongs to a placeholder."""
    stray = re.sub(r"\{[ab_]+\}", "", text)

    assert bool(template_mistakes(text)) == bool(set("{}") & set(stray))


@pytest.mark.parametrize(
    "text", ["Ask {b c}.", "a { b", "a } b", '{"a": 1}', "{}", "{a.b}", "{match.}", "{1}"]
)
def test_a_brace_that_is_no_placeholder_is_a_mistake(text):
    """It would be printed as it stands."""
    assert template_mistakes(text)


def test_placeholders_of_the_document_are_mistakes():
    """`[support contact]` and its like would be printed unfilled."""
    (mistake,) = template_mistakes("Call [Support Contact] [or not](x).")

    assert mistake.startswith("[Support Contact] would be printed as it stands")


def test_unknown_capture_is_a_mistake():
    """A response can only repeat what a pattern captures."""
    assert capture_mistakes("{match.id} {match.x} {a}", {"id"}) == [
        "{match.x}: no pattern of this intent has a group (?P<x>\u2026)"
    ]
