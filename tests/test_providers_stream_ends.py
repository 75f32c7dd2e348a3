"""Tests of how streams end, with what real servers were publicly reported to send."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import yaml
from wire_support import ask, backend

from tieredllm.providers import openai
from tieredllm.providers.http import HttpClients

CASES = yaml.safe_load((Path(__file__).parent / "data" / "stream_ends.yaml").read_text("utf-8"))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_a_stream_ends_as_it_was_meant(case):
    """Nothing half is called whole, and nothing whole is thrown away."""
    head = (
        f"HTTP/1.1 200 OK\r\nContent-Type: {case.get('content_type', 'text/event-stream')}\r\n"
        "Connection: close\r\n\r\n"
    )

    async def play(connection):
        await connection.send(head.encode())
        for step in case["steps"]:
            if isinstance(step, str):
                await connection.send((step + case.get("separator", "\n\n")).encode())
            else:
                await asyncio.sleep(step)
        connection.writer.close()

    outcome, _ = ask(case["vendor"], play)

    assert case["source"]
    assert outcome.kind == case.get("kind")
    if "text" in case:
        assert outcome.text == case["text"]
        assert outcome.finish.reason == case.get("reason", "stop")
    if "message" in case:
        assert case["message"] in outcome.error.message
    if "tokens" in case:
        usage = outcome.finish.usage
        assert [usage.prompt_tokens, usage.completion_tokens] == case["tokens"]


WORD = {"index": 0, "delta": {"role": "assistant", "content": "word"}, "finish_reason": None}
DELTAS = [
    None,
    {},
    "word",
    {"content": None},
    {"content": ""},
    {"content": [{"type": "text", "text": "word"}]},
    {"content": "word", "reasoning_content": "hm"},
    {"content": "word", "tool_calls": [{"index": 0}]},
    {"content": "word", "refusal": "no"},
]
CHUNKS = [
    {"id": "1", "object": "chat.completion.chunk", "model": "m", "choices": [WORD]}
    | {"created": 1, "usage": None, "obfuscation": "x", **more}
    for more in (
        {},
        {"model": None},
        {"model": 7},
        {"usage": {"prompt_tokens": 3}},
        {"object": "error"},
        {"error": {"message": "no"}},
        {"type": "error"},
        {"x_groq": {"usage": {"prompt_tokens": 3}}},
        {"choices": []},
        {"choices": [WORD, WORD]},
        {"choices": [7]},
        {"choices": [WORD | {"finish_reason": "stop"}]},
        {"choices": [WORD | {"index": 2}]},
        {"choices": [WORD | {"index": "x"}]},
        {"choices": [WORD | {"message": {"content": "whole"}}]},
        {"choices": [WORD | {"error": {"message": "no"}}]},
        *({"choices": [WORD | {"delta": delta}]} for delta in DELTAS),
    )
]


@pytest.mark.parametrize("chunk", CHUNKS, ids=range(len(CHUNKS)))
def test_the_short_way_of_a_word_is_the_long_way(chunk, monkeypatch):
    """What is told at a glance of a chunk is what all there is to look for in it tells."""
    model = backend("openai", "http://127.0.0.1:9", HttpClients())
    short = model._parse_chunk(chunk)
    monkeypatch.setattr(openai, "_next_word", lambda _: None)

    assert short == model._parse_chunk(chunk)
