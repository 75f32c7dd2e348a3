"""Test that a server's words are fit to show."""

from __future__ import annotations

import base64
import time
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tieredllm.redaction import MASK, SHOWN_CHARACTERS, Redactor, presentable, redact

KEY = "kx/Zz9+abcdEFGH1234_secret=="


@pytest.mark.parametrize(
    "text",
    [
        f"your key {KEY} is bad",
        f"https://x.example/?a=1&key={quote(KEY, safe='')}&b=2",
        f"https://x.example/?a=1&key={KEY}",
        f"{{'x-api-key': '{KEY}'}}",
        f"Authorization: Bearer {KEY}",
        f"you sent {KEY[:10]}…{KEY[-4:]}",
        f"you sent {KEY[:8]}*************{KEY[-4:]}",
        f"x{KEY}y",
    ],
)
def test_the_key_that_was_sent_is_masked_in_any_form(text):
    """Bare, quoted for a URL, in headers, starred out or shortened."""
    masked = redact(text, (KEY,))

    assert MASK in masked
    for piece in (KEY, KEY[:8], KEY[-8:], quote(KEY, safe="")):
        assert piece not in masked


@pytest.mark.parametrize(
    "secret",
    [
        "sk-proj-abcdef123456",
        "sk-ant-api03-AbCdEf_123456-xyz",
        "sk-abc***********wxyz",
        "gsk_abcdef123456",
        "xai-abcdef123456",
        "xoxb-123456789012-abcdef",
        "fw_abcdef123456",
        "AIzaSyA1234567890abcdefghijklmnopqrstuv",
        "AQ.Ab8RN6K1234567890",
        "hf_abcdefghijklmnop",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abc-def_123",
        base64.b64encode(bytes(range(60))).decode(),
        "0123456789abcdef" * 4,
    ],
)
def test_what_looks_like_a_key_is_masked(secret):
    """Other keys than one's own too: those of a gateway, or of somebody else."""
    assert redact(f"the key {secret} and more") == f"the key {MASK} and more"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Authorization: Bearer abc.def-1", f"Authorization: Bearer {MASK}"),
        ("GET /v1?api_key=hunter22&x=1", f"GET /v1?api_key={MASK}&x=1"),
        ('{"token"="hunter22"}', f'{{"token"="{MASK}"}}'),
        ("password=hunter22;", f"password={MASK};"),
    ],
)
def test_named_secrets_are_masked(text, expected):
    """Headers and query parameters whose name says what they hold."""
    assert expected == redact(text)


@pytest.mark.parametrize(
    "text",
    [
        "The model `gpt-6.2-sol` does not exist or you do not have access to it.",
        "request (5031 tokens) exceeds the available context size (2048 tokens)",
        "Rate limit reached for gpt-4o in organization org-abc123 on tokens per min",
        "/v1/chat/completions is not a known path of this server at all, please check",
        "sk-ip this risk-free step",
        "request id req_011CTLkAbCdEf",
        "https://platform.openai.com/account/api-keys",
    ],
)
def test_what_is_no_key_stays(text):
    """Model names, numbers, ids and paths are what a message is read for."""
    assert text == redact(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("one\r\n two\tthree\u2028four", "one two three four"),
        ("<b>bold</b> and &lt;i&gt;quoted&lt;/i&gt; &amp; more", "bold and quoted & more"),
        ("a < b and c > d", "a < b and c > d"),
        ("\x1b[31mred\x1b[0m \x1b]0;title\x07end\x9b", "red end"),
        ("a\u202eb\u200bc\x00d\ue000e", "abcde"),
        ("lone \ud800 surrogate", "lone surrogate"),
        (
            "<!DOCTYPE html>\n<html><head><title>504 Gateway\nTime-out</title></head><p>nginx</p>",
            "504 Gateway Time-out",
        ),
        (
            "<html><head><script>steal()</script></head><body>Only <i>words</i></body>",
            "Only words",
        ),
        ("cut <a href='x", "cut"),
        ("", ""),
    ],
)
def test_markup_and_control_characters_go(text, expected):
    """What is left is one plain line."""
    assert expected == presentable(text)


def test_a_key_hidden_in_markup_or_control_characters_is_masked():
    """Cleaning comes first, so that nothing splits a key."""
    split = "sk-te<b></b>st" + "\x00" + "-0123456789"

    assert "0123456789" not in presentable(f"bad key {split}", ("sk-test-0123456789",))


def test_a_long_message_is_cut_and_a_key_at_the_cut_is_not():
    """Three hundred characters, the last of them saying that there was more."""
    text = "x " * 145 + "sk-test-0123456789abcdef " + "y" * 100
    shown = presentable(text)

    assert len(shown) <= SHOWN_CHARACTERS
    assert shown.endswith("…")
    assert "sk-te" not in shown


@given(st.text(max_size=400))
def test_any_text_becomes_one_short_printable_line(text):
    """No input breaks the rules."""
    shown = presentable(text, (KEY,))

    assert len(shown) <= SHOWN_CHARACTERS
    assert shown.isprintable() or shown == ""
    assert shown == shown.strip()


@pytest.mark.parametrize(
    "unit", ["<", "<a", "<script>", "<html><title>", "sk-", "a1", "=", "\x1b["]
)
def test_no_text_takes_long(unit):
    """A body made to be slow to clean is not."""
    start = time.perf_counter()
    presentable("<html>" + unit * 40_000, (KEY,))
    presentable(unit * 40_000, (KEY,))

    assert time.perf_counter() - start < 1


PRIVATE = "zQ8-vR2mXk7pLw9TnB4cYd6F_hJ3sGaE"


@pytest.mark.parametrize(
    "form",
    [
        PRIVATE[:24],
        PRIVATE[8:],
        PRIVATE[5:27],
        PRIVATE.upper(),
        " ".join(PRIVATE),
        '"'.join(PRIVATE),
        PRIVATE[:16] + "\n" + PRIVATE[16:],
        "".join(f"%{ord(each):02X}" for each in PRIVATE),
    ],
)
def test_most_of_a_key_is_a_key(form):
    """A server that echoes a key in part, spaced, quoted or in capitals has it struck out."""
    kept = Redactor([PRIVATE], limit=1000)(f"the key {form} is wrong")

    assert kept == f"the key {MASK} is wrong"


def test_an_ordinary_text_stays():
    """What shares a few letters with a key is none of it."""
    text = "the keys zQ8-vR2mXk7 and z Q 8 v R, %20 and all"

    assert Redactor([PRIVATE], limit=1000)(text) == text
