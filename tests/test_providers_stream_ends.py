"""Tests of how streams end, with what real servers were publicly reported to send."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import yaml
from wire_support import ask

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
