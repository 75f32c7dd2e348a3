"""The bytes of tokens are joined to text."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tieredllm.local.tokenizer import StopFilter, detokenizer


@given(st.text(), st.lists(st.integers(0, 40)))
def test_text_comes_out_whole_however_it_is_cut(text, cuts):
    """Cutting the bytes anywhere, also within characters, changes nothing."""
    data = text.encode("utf-8", "replace")
    places = sorted({0, len(data), *(min(cut, len(data)) for cut in cuts)})
    text_of = detokenizer()

    assert data.decode() == "".join(text_of(data[a:b]) for a, b in itertools.pairwise(places))


def test_an_incomplete_character_is_dropped():
    """A character whose last byte never comes does not come out."""
    assert detokenizer()("aé".encode()[:2]) == "a"


def test_bytes_that_are_no_text_are_marked():
    """Bytes that are not UTF-8 become the replacement character."""
    assert detokenizer()(b"\xffx") == "\ufffdx"


@pytest.mark.parametrize(
    ("pieces", "expected", "stopped"),
    [
        (["a\nUser:", "b"], "a", True),
        (["a\n", "Us", "er: b"], "a", True),
        (["a\nUs", "A"], "a\nUsA", False),
        (["a\n", "\nUser:"], "a\n", True),
        (["a\nUse"], "a\nUse", False),
    ],
)
def test_the_stop_text_ends_the_answer(pieces, expected, stopped):
    """The stop text is found across tokens, and nothing of it or after it comes out."""
    stop = StopFilter(("\nUser:", "\nNobody says this"))
    out = "".join(map(stop.feed, pieces)) + stop.end()

    assert (expected, stopped) == (out, stop.is_met)
