"""What a model writes cannot drive the terminal."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from render_support import pieces

from tieredllm.clock import iso
from tieredllm.text import (
    TextFilter,
    clean,
    format_bytes,
    one_line,
    pluralize,
    printable_line,
    replace_surrogates,
)

NASTY = st.lists(
    st.one_of(
        st.sampled_from(
            [
                "\x1b",
                "[",
                "]",
                "31m",
                "\x07",
                "\x9b",
                "\x9c",
                "\x9d",
                "\x90",
                "\r",
                "\n",
                "\r\n",
                "\\",
                "P",
                "c",
                "(",
                "B",
                "52;c;",
                "\x18",
                "\x85",
                "\u202e",
                "\ud800",
                "é",
                "\x00",
                "?25l",
            ]
        ),
        st.text(st.characters(exclude_categories=[]), max_size=4),
    ),
    max_size=30,
).map("".join)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b[0m", "red"),
        ("a\x1b]52;c;ZXZpbA==\x07b", "ab"),
        ("a\x1b]52;c;ZXZpbA==\x1b\\b", "ab"),
        ("\x1b]0;title\x07x", "x"),
        ("\x1b]8;;http://evil\x1b\\bank\x1b]8;;\x1b\\", "bank"),
        ("\x9b31mred", "red"),
        ("\x9d0;title\x9cx", "x"),
        ("\x1bPq#0\x1b\\x", "x"),
        ("\x1b_app\x1b\\x\x1b^pm\x1b\\y\x1bXsos\x1b\\z", "xyz"),
        ("\x1bcreset", "reset"),
        ("\x1b(0lqk", "lqk"),
        ("\x1b[?1049h\x1b[2Jx", "x"),
        ("a\x1b", "a"),
        ("a\x1b[12;", "a"),
        ("a\x1béb", "aéb"),
        ("a\x1b[3\nb", "a\nb"),
        ("a\x1b\x1b[31mb", "ab"),
        ("\x1b]0;a\x1b[31mb\nc", "b\nc"),
        ("bell\x07 back\x08space\x7f nul\x00", "bell backspace nul"),
        ("tab\tstays\n", "tab\tstays\n"),
        ("a\r\nb\rc\n\rd", "a\nb\nc\n\nd"),
        ("a\x0bb\x0cc\x85d\u2028e\u2029f", "a\nb\nc\nd\ne\nf"),
        ("\u202eabc\u202c \u2066x\u2069", "abc x"),
        ("hid\U000e0041\U000e0042den\ufeff", "hidden"),
        ("\ud83d!", "\ufffd!"),
        ("fam 👩\u200d👧 \u200f\u05e9\u05dc", "fam 👩\u200d👧 \u200f\u05e9\u05dc"),
    ],
)
def test_terminal_sequences_are_dropped_whole(text, shown):
    """A sequence leaves nothing behind, and what is between sequences stays."""
    assert shown == clean(text)


def test_unended_string_sequence_swallows_one_line_at_most():
    """An OSC that never ends cannot hide the rest of the answer."""
    assert clean("start \x1b]0;no end\nthe rest") == "start \nthe rest"


@given(NASTY)
@settings(max_examples=400, deadline=None)
def test_no_control_is_left(text):
    """Of all controls only newline and tab get through, and all of it can be encoded."""
    shown = clean(text)

    assert not [c for c in shown if unicodedata.category(c) == "Cc" and c not in "\n\t"]
    shown.encode()


@given(NASTY, st.lists(st.integers(0, 120)))
@settings(max_examples=400, deadline=None)
def test_cutting_a_text_into_pieces_changes_nothing(text, cuts):
    """A sequence that is split between two pieces is dropped like any other."""
    text_filter = TextFilter()

    assert clean(text) == "".join(text_filter.feed(piece) for piece in pieces(text, cuts))


@given(NASTY)
@settings(max_examples=200, deadline=None)
def test_clean_text_stays_as_it_is(text):
    """Cleaning a clean text changes nothing."""
    assert clean(clean(text)) == clean(text)


def test_one_line_is_one_line_and_short():
    """A message from a server becomes one clean line of bounded length."""
    assert one_line(" a\n\tb\x1b[2J \r\n c ") == "a b c"
    assert one_line("abcdefghij", 5) == "abcd…"
    assert one_line("abcde", 5) == "abcde"


@given(st.text(), st.integers(min_value=1, max_value=50))
def test_a_printable_line_is_short_and_printable(text, limit):
    """Nothing that moves a cursor or breaks a line gets through, and no more than asked."""
    line = printable_line(text, limit)

    assert len(line) <= limit
    assert line.isprintable()
    line.encode()


def test_a_printable_line_has_no_characters_that_a_terminal_obeys():
    """What makes a terminal obey is gone, and so is what joins, reorders or is no text."""
    assert printable_line("a\x1b[31m\x9b0m\u202eb\u200d\ue000\ud800\n\tc", 50) == "a[31m0mb c"


@given(st.text(st.characters()))
def test_a_text_without_surrogates_can_be_encoded(text):
    """Lone surrogates become question marks, and nothing else changes."""
    shown = replace_surrogates(text)

    assert shown.encode().decode() == shown
    assert len(shown) == len(text)
    assert all(a == b or "\ud800" <= b <= "\udfff" for a, b in zip(shown, text, strict=True))


def test_counts_sizes_and_times_read_the_same_everywhere():
    """One of a thing is singular; sizes are decimal; times are UTC to the second."""
    assert [pluralize(count, "turn") for count in (0, 1, 2)] == ["0 turns", "1 turn", "2 turns"]
    assert format_bytes(93_400_000) == "93 MB"
    assert format_bytes(1_710_000_000) == "1.71 GB"
    assert iso(1_700_000_000.9) == "2023-11-14T22:13:20Z"
    assert iso(1_700_000_000.25, ms=True) == "2023-11-14T22:13:20.250Z"
