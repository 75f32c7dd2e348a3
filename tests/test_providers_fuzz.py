"""Test that no shape of JSON, and no bytes, make a backend raise anything but its own error."""

from __future__ import annotations

import asyncio
import contextlib

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from wire_support import BACKENDS, attempt, call, source

from tieredllm.clock import SystemClock
from tieredllm.providers.sse import Decoder, Event

WORDS = [
    "choices",
    "delta",
    "message",
    "content",
    "refusal",
    "finish_reason",
    "stop",
    "error",
    "usage",
    "prompt_tokens",
    "model",
    "type",
    "text",
    "message_start",
    "message_delta",
    "content_block_delta",
    "content_block_start",
    "content_block",
    "text_delta",
    "stop_reason",
    "end_turn",
    "stop_details",
    "explanation",
    "candidates",
    "parts",
    "finishReason",
    "STOP",
    "promptFeedback",
    "blockReason",
    "usageMetadata",
    "thought",
    "code",
    "details",
    "object",
]
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=6),
    st.sampled_from(WORDS),
)
JSON = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=4)
    ),
    max_leaves=15,
)
# Shapes that come near the real ones, so that the fuzz reaches what lies deeper.
NEAR = st.one_of(
    st.builds(
        lambda x, y: {"choices": [{"delta": {"content": x}, "finish_reason": y}]}, JSON, LEAVES
    ),
    st.builds(lambda x: {"choices": [{"message": x, "finish_reason": "stop"}]}, JSON),
    st.builds(lambda x: {"type": "content_block_delta", "delta": x}, JSON),
    st.builds(lambda x: {"type": "message_start", "message": x}, JSON),
    st.builds(lambda x, y: {"type": "message_delta", "delta": x, "usage": y}, JSON, JSON),
    st.builds(lambda x: {"type": "message", "content": x, "stop_reason": "end_turn"}, JSON),
    st.builds(lambda x: {"candidates": [{"content": {"parts": [x]}, "finishReason": x}]}, JSON),
    st.builds(lambda x: {"candidates": [{"content": x}], "usageMetadata": x}, JSON),
    st.builds(lambda x: {"error": x}, JSON),
    st.builds(lambda x: {"promptFeedback": x}, JSON),
    JSON,
)


class FakeReply:
    """Answer with given events, or one given document."""

    def __init__(self, events, document):
        self._events = events
        self._document = document
        self.headers = {}
        self.status = 200

    async def form(self):
        return "events" if self._document is None else "body"

    async def events(self):
        for event in self._events:
            yield event

    async def body(self):
        return self._document


class FakeClients:
    """Stand in for the HTTP connections."""

    def __init__(self, reply):
        self._reply = reply

    @contextlib.asynccontextmanager
    async def send(self, request, sent):
        yield self._reply


def outcome_of(vendor, *, events=(), document=None):
    backend = BACKENDS[vendor](
        source(vendor),
        api_key_env=None,
        keys={},
        http=FakeClients(FakeReply(events, document)),
        clock=SystemClock(),
    )
    return asyncio.run(attempt(backend, call()))


MANY = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
vendors = pytest.mark.parametrize("vendor", list(BACKENDS))


@vendors
@MANY
@given(
    values=st.lists(NEAR, max_size=5),
    names=st.lists(st.sampled_from(["message", "error", "ping"]), min_size=5, max_size=5),
)
def test_any_events_end_in_an_answer_or_an_error(vendor, values, names):
    """Random JSON in each event: a proper end or an error of the closed set, and no other."""
    events = [
        Event(msgspec.json.encode(value).decode(), name)
        for value, name in zip(values, names, strict=False)
    ]
    outcome = outcome_of(vendor, events=events)

    assert outcome.finish is None or outcome.text.strip()


@vendors
@MANY
@given(value=NEAR)
def test_any_document_ends_in_an_answer_or_an_error(vendor, value):
    """Random JSON as the whole answer."""
    outcome = outcome_of(vendor, document=msgspec.json.encode(value))

    assert outcome.finish is None or outcome.text.strip()


@vendors
@MANY
@given(data=st.binary(max_size=200) | st.text(max_size=60).map(str.encode))
def test_any_bytes_end_in_an_error(vendor, data):
    """Bytes that are no answer are never taken for one."""
    stream = b"data: " + data + b"\n\n"

    assert outcome_of(vendor, document=data).error is not None
    assert outcome_of(vendor, events=list(Decoder().feed(stream))).error is not None
