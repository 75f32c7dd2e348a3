"""Queries are prepared for matching, and foreign words for printing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tieredllm.rules.text import (
    END_CHARACTERS,
    correct_spelling,
    normalize,
    spelling_table,
)


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("  Hello,\n\n  world!!  ", "Hello world"),
        ("don\u2019t", "don't"),
        ("\u00abBonjour\u00bb", "Bonjour"),
        ("he\u200bllo", "hello"),
        ("cafe\u0301", "caf\u00e9"),
        ("order AB-12, at x.org.", "order AB-12 at x.org"),
        ("one - two \u2014 three", "one two three"),
        ("'quoted' and users'", "quoted and users"),
        ("?!", ""),
        ("", ""),
    ],
)
def test_normalized(query, text):
    """Spaces, punctuation around words, invisible characters and apostrophes are evened out."""
    assert normalize(query) == text


def test_long_query_keeps_both_ends():
    """The first and last 2000 characters stay, with an ellipsis between them."""
    text = normalize("start " + "word " * 5000 + "end")

    assert text.startswith("start word")
    assert text.endswith("word end")
    assert "\u2026" in text
    assert len(text) <= 2 * END_CHARACTERS + 3


@pytest.mark.parametrize("shift", range(6))
def test_no_half_word_is_left_at_a_cut(shift):
    """Wherever the cut falls, `they` never becomes `hey`, nor `terror` `error`."""
    words = set(normalize(" " * shift + "they terror " * 2000).split())

    assert words == {"they", "terror", "\u2026"}


def test_text_without_spaces_is_cut_where_it_must():
    """A long run of letters is no word, so it stays."""
    assert normalize("\u6f22" * 10_000).count("\u6f22") == 2 * END_CHARACTERS


@given(st.text(max_size=300))
def test_normalized_twice_is_normalized_once(text):
    """What is normalized stays as it is, is single-spaced and can be encoded."""
    once = normalize(text)

    assert normalize(once) == once
    assert once == " ".join(once.split())
    once.encode()


def test_slips_are_put_right():
    """Swapped, missing and doubled letters and wrong vowels, in long words only."""
    table = spelling_table({"trouble": (), "fix": ("fxi",)})
    slips = ["truoble", "troble", "troubble", "traubla", "trauble", "fxi", "fi", "rouble"]

    assert correct_spelling(" ".join(slips), table) == (
        "trouble trouble trouble traubla trouble fix fi rouble"
    )


def test_a_right_word_is_never_a_slip():
    """`errors` without its s is `error`, and both are words."""
    table = spelling_table({"errors": (), "error": ()})

    assert "error" not in table
    assert "errors" not in table


def test_a_listed_spelling_wins_over_a_slip():
    """What the file says comes before what is derived."""
    table = spelling_table({"hallo": (), "hello": ("hllo",)})

    assert table["hllo"] == "hello"
