"""Test the Gemini backend against exchanges in the form of Google's reference, byte by byte.

The files under `data/gemini` are responses as the API sends them: its reference's shapes, headers
and line ends, with invented content.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from wire_support import ask, backend, call, chunk, raw_server, response

from tieredllm.providers.http import HttpClients

FOLDER = Path(__file__).parent / "data" / "gemini"
END = b"0\r\n\r\n"


def replay(name, size=1):
    """Make a script that sends a recorded response in chunks of `size` bytes."""
    head, _, body = (FOLDER / f"{name}.http").read_bytes().partition(b"\n\n")
    head = head.replace(b"\n", b"\r\n") + b"\r\nTransfer-Encoding: chunked\r\n\r\n"
    if b"event-stream" in head:
        body = body.replace(b"\n", b"\r\n")

    async def play(connection):
        await connection.send(head)
        pieces = [body[place : place + size] for place in range(0, len(body), size)]
        await connection.send(b"".join(map(chunk, pieces)) + END)

    return play


@pytest.mark.parametrize("size", [1, 5, 4096])
def test_a_streamed_answer(size):
    """Text comes in three pieces, and thoughts count as completion."""
    outcome, _ = ask("gemini", replay("stream", size))

    assert outcome.texts == [
        "Tides rise",
        " because the Moon pulls — „ganz sanft“ 🌊 — at",
        " the water.",
    ]
    assert outcome.finish is not None
    assert outcome.finish.reason == "stop"
    assert outcome.finish.model == "gemini-3.8-flash"
    assert (outcome.finish.usage.prompt_tokens, outcome.finish.usage.completion_tokens) == (9, 73)


def test_a_whole_answer():
    """Thoughts are no part of it."""
    outcome, _ = ask("gemini", replay("generate"), call(stream=False))

    assert outcome.text == "Because the Moon pulls at the water."
    assert outcome.finish is not None
    assert outcome.finish.usage.completion_tokens == 58


FAILURES = {
    "thoughts_only": ("empty_response", "max_tokens"),
    "safety_stream": ("content_filter", "SAFETY"),
    "recitation": ("content_filter", "RECITATION"),
    "blocked_prompt": ("content_filter", "PROHIBITED_CONTENT"),
    "malformed_call": ("malformed_response", "tool"),
    "bad_key": ("authentication", "the key in GEMINI_API_KEY was rejected"),
    "quota_day": ("quota_exhausted", "You exceeded your current quota"),
    "quota_minute": ("rate_limit", "You exceeded your current quota"),
    "overloaded": ("service_unavailable", "The model is overloaded."),
    "too_long": ("context_length", "exceeds the maximum number of tokens"),
    "unknown_name": ("bad_request", "Unknown name"),
    "unknown_model": ("not_found", "is not found for API version"),
    "billing_off": ("quota_exhausted", "requires billing"),
    "error_in_stream": ("stream_interrupted", "overloaded"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_failure(name):
    """Each of Google's failures is its kind, in Google's words."""
    kind, words = FAILURES[name]
    outcome, _ = ask("gemini", replay(name, 7))

    assert kind == outcome.kind
    assert words in outcome.error.message


def test_a_wait_is_taken_from_the_body_where_it_means_something():
    """A minute's quota names its wait; a day's names a few seconds that would be in vain."""
    minute, _ = ask("gemini", replay("quota_minute", 64))
    day, _ = ask("gemini", replay("quota_day", 64))

    assert (minute.error.retry_after_s, day.error.retry_after_s) == (12.5, None)


def test_a_rejected_parameter_is_named_by_its_wire_name():
    """It can be left out of the next request."""
    outcome, _ = ask("gemini", replay("unknown_name", 64))

    assert outcome.error.parameter == "topP"


def test_every_recorded_exchange_is_played():
    """No file lies there unread."""
    played = {*FAILURES, "stream", "generate", "models"}

    assert played == {path.stem for path in FOLDER.glob("*.http")}


def test_a_probe():
    """The list of models is read."""

    async def run():
        http = HttpClients()
        async with raw_server(replay("models", 16)) as server:
            found = await backend("gemini", server.url, http).probe()
            await http.aclose()
            return found

    assert asyncio.run(run()).ok


def test_a_stream_that_comes_as_a_list_is_one_answer():
    """Without `alt=sse` Google streams a JSON list: all of it is the answer, or none."""
    first = {"candidates": [{"content": {"parts": [{"text": "Hel"}]}}]}
    last = {"candidates": [{"content": {"parts": [{"text": "lo"}]}, "finishReason": "MAX_TOKENS"}]}
    whole, _ = ask("gemini", response(200, [first, last]))
    refused, _ = ask("gemini", response(200, [first, {"candidates": [{"finishReason": "SAFETY"}]}]))

    assert (whole.text, whole.finish.reason) == ("Hello", "length")
    assert (refused.kind, refused.texts) == ("content_filter", [])


@pytest.mark.parametrize(
    ("model", "path"),
    [
        ("gemini-x", "/v1beta/models/gemini-x:generateContent"),
        ("tunedModels/mine-1", "/v1beta/tunedModels/mine-1:generateContent"),
        ("a b?c#d", "/v1beta/models/a%20b%3Fc%23d:generateContent"),
    ],
)
def test_a_model_is_named_in_the_path(model, path):
    """Tuned models have a place of their own, and odd names are quoted."""
    _, server = ask("gemini", replay("generate", 64), call(stream=False), model=model)

    assert path == server.requests[0].path
