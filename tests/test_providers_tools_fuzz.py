"""No shape of JSON makes the reading of tool calls, or their way back, raise anything."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tool_wire_support import COUNT
from wire_support import BACKENDS, call, source

from tieredllm.clock import SystemClock
from tieredllm.types import Message

WORDS = [
    "id", "name", "type", "index", "text", "function", "arguments", "tool_calls", "functionCall",
    "args", "input", "partial_json", "tool_use", "input_json_delta", "thinking", "signature",
    "extra_content", "reasoning_content",
]  # fmt: skip
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 3),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=4),
    st.sampled_from(['{"a": 1}', "[1]", '"{}"', "{", *WORDS]),
)
JSON = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=5)
    ),
    max_leaves=12,
)
CALL = st.fixed_dictionaries(
    {"function": st.fixed_dictionaries({"name": JSON, "arguments": JSON})},
    optional={"index": LEAVES, "id": LEAVES, "extra_content": JSON},
)
EVENTS = {
    "openai": st.builds(
        lambda calls, thought: {
            "choices": [{"delta": {"tool_calls": calls, "reasoning_content": thought}}]
        },
        st.lists(CALL | JSON, max_size=3) | JSON,
        JSON,
    ),
    "anthropic": st.one_of(
        st.builds(
            lambda index, block: {
                "type": "content_block_start",
                "index": index,
                "content_block": block,
            },
            LEAVES,
            st.fixed_dictionaries({"type": st.just("tool_use"), "name": JSON, "id": JSON}) | JSON,
        ),
        st.builds(
            lambda index, kind, text: {
                "type": "content_block_delta",
                "index": index,
                "delta": {"type": kind, "partial_json": text, "text": text, "thinking": text},
            },
            LEAVES,
            st.sampled_from(["input_json_delta", "text_delta", "thinking_delta", "odd"]) | JSON,
            LEAVES,
        ),
        st.builds(lambda content: {"type": "message", "content": content}, JSON),
    ),
    "responses": st.one_of(
        st.builds(
            lambda kind, index, item: {
                "type": f"response.output_item.{kind}",
                "output_index": index,
                "item": item,
            },
            st.sampled_from(["added", "done"]),
            LEAVES,
            st.fixed_dictionaries(
                {"type": st.just("function_call"), "name": JSON, "call_id": JSON, "arguments": JSON}
            )
            | st.fixed_dictionaries(
                {"type": st.just("message"), "content": JSON, "phase": JSON},
            )
            | st.fixed_dictionaries(
                {"type": st.just("reasoning"), "encrypted_content": JSON, "summary": JSON},
            )
            | JSON,
        ),
        st.builds(
            lambda index, text: {
                "type": "response.function_call_arguments.delta",
                "output_index": index,
                "delta": text,
            },
            LEAVES,
            LEAVES,
        ),
        st.builds(lambda output: {"output": output, "status": "completed"}, st.lists(JSON) | JSON),
    ),
    "gemini": st.builds(
        lambda parts: {"candidates": [{"content": {"parts": parts}}]},
        st.lists(st.fixed_dictionaries({"functionCall": JSON}) | JSON, max_size=3) | JSON,
    ),
}


@pytest.mark.parametrize("vendor", list(BACKENDS))
@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_whatever_is_called_can_be_told(vendor, data):
    """Any events come to calls with ids of their own, and the round goes back as JSON."""
    model = BACKENDS[vendor](
        source(vendor), api_key_env=None, keys={}, http=None, clock=SystemClock()
    )
    collected = model._collect_calls((COUNT,))
    for value in data.draw(st.lists(EVENTS[vendor], max_size=5)):
        model._parse_chunk(value)
        collected.take(value)
    calls = collected.complete()
    assert len({made.id for made in calls}) == len(calls)
    if not calls:
        return
    for made_by in (model.identity, "another"):
        said = Message("assistant", "", calls=calls, made_by=made_by, raw=collected.raw())
        results = [Message("tool", "x", call_id=made.id, name=made.name) for made in calls]
        body = msgspec.json.decode(
            msgspec.json.encode(model._build_request(call(rounds=(said, *results))).body)
        )
        if vendor == "anthropic":
            said, results = (turn["content"] for turn in body["messages"][1:])
            made = [block["id"] for block in said if block["type"] == "tool_use"]
            assert [result["tool_use_id"] for result in results] == made
        if vendor == "gemini":
            said, results = (turn["parts"] for turn in body["contents"][1:])
            assert len(results) == len(calls)
            assert all(result["functionResponse"]["name"] for result in results)
        if vendor == "responses":
            made = [it["call_id"] for it in body["input"] if it.get("type") == "function_call"]
            given = [it for it in body["input"] if it.get("type") == "function_call_output"]
            assert [result["call_id"] for result in given] == made
        if vendor == "openai":
            said, *results = body["messages"][1:]
            made = [entry["id"] for entry in said["tool_calls"]]
            assert [result["tool_call_id"] for result in results] == made
