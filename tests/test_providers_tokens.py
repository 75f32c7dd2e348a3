"""Test the estimate of token counts."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wire_support import smollm2_path

from tieredllm.prompts.fit import estimate_tokens


@pytest.mark.parametrize(
    ("text", "tokens"),
    [("", 0), (" ", 1), ("a", 1), ("the three of them", 5), ("1234567", 7), ("日本語", 4)],
)
def test_letters_digits_and_other_scripts_weigh_differently(text, tokens):
    """A digit is a token, three letters are one, and so are two bytes of other scripts."""
    assert tokens == estimate_tokens(text)


@given(st.text(), st.text())
def test_more_text_is_never_fewer_tokens(first, second):
    """It grows with the text, and works for any string, lone surrogates included."""
    assert estimate_tokens(first + second) >= max(estimate_tokens(first), estimate_tokens(second))


def test_a_lone_surrogate_is_counted():
    """An argument that was no UTF-8 is no reason to fail."""
    assert estimate_tokens("\udce9") == 2


def test_a_megabyte_takes_no_time():
    """Cutting a long text asks for many counts."""
    start = time.perf_counter()
    estimate_tokens("some words, 1 number\n" * 50_000)

    assert time.perf_counter() - start < 0.5


def test_prose_and_code_are_not_underestimated():
    """A real tokenizer of a small vocabulary counts no more than the estimate, nor half of it."""
    import llama_cpp

    model = llama_cpp.Llama(str(smollm2_path()), vocab_only=True, verbose=False)
    code = Path(__file__).read_text(encoding="utf-8")
    prose = (
        "One question goes down four tiers, tried in order until one of them answers "
        "completely. Each process of a command-line tool is new, so health is kept on disk. "
    )
    try:
        for text in (prose * 20, code):
            counted = len(model.tokenize(text.encode(), add_bos=False))

            assert counted <= estimate_tokens(text) <= 2 * counted
    finally:
        model.close()
