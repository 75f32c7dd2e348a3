"""Tell models' tool calls in each vendor's words."""

from __future__ import annotations

from typing import Any

import msgspec
from wire_support import closes, document, ends, event, opens, says

from tieredllm.types import ToolDeclaration

COUNT = ToolDeclaration(
    name="count",
    description="Count up.",
    parameters={
        "type": "object",
        "properties": {"by": {"type": "integer"}, "why": {"type": "string"}},
    },
)
NOW = ToolDeclaration(
    name="now", description="Tell the time.", parameters={"type": "object", "properties": {}}
)
SIGNATURE = "c2lnbmF0dXJl"
Made = tuple[str, str, dict[str, Any]]
"""A call: its id, its name and its arguments."""

ENDINGS = {
    "openai": "tool_calls",
    "anthropic": "tool_use",
    "gemini": "STOP",
    "responses": "completed",
}


def fragments(text: str, size: int = 3) -> list[str]:
    return [text[at : at + size] for at in range(0, len(text), size)]


def called(vendor: str, *calls: Made) -> list[bytes]:
    """Make the events of calls; where a vendor streams arguments, in fragments."""
    events: list[bytes] = []
    for index, (name_id, name, arguments) in enumerate(calls):
        text = msgspec.json.encode(arguments).decode()
        if vendor == "openai":
            first = {
                "index": index,
                "id": name_id,
                "type": "function",
                "function": {"name": name, "arguments": ""},
            }
            events.append(openai_fragment(first))
            events += [
                openai_fragment({"index": index, "function": {"arguments": piece}})
                for piece in fragments(text)
            ]
        elif vendor == "anthropic":
            at = index + 1
            block = {"type": "tool_use", "id": name_id, "name": name, "input": {}}
            events.append(
                event(
                    {"type": "content_block_start", "index": at, "content_block": block},
                    "content_block_start",
                )
            )
            for piece in ["", *fragments(text)]:
                delta = {"type": "input_json_delta", "partial_json": piece}
                events.append(
                    event({"type": "content_block_delta", "index": at, "delta": delta}, "x")
                )
            events.append(event({"type": "content_block_stop", "index": at}, "content_block_stop"))
        elif vendor == "responses":
            events += responses_call(index + 1, name_id, name, text)
        else:
            part: dict[str, Any] = {
                "functionCall": {"id": name_id, "name": name, "args": arguments}
            }
            if index == 0:
                part["thoughtSignature"] = SIGNATURE
            events.append(event({"candidates": [{"content": {"role": "model", "parts": [part]}}]}))
    return events


def call_item(name_id: str, name: str, arguments: str) -> dict[str, Any]:
    """Make the item that a call is in OpenAI's Responses API."""
    names = {"id": f"fc_{name_id}", "call_id": name_id, "name": name}
    return {"type": "function_call", "arguments": arguments, "status": "completed", **names}


def responses_call(at: int, name_id: str, name: str, text: str) -> list[bytes]:
    kind = "response.function_call_arguments"
    item = call_item(name_id, name, text)
    values: list[dict[str, Any]] = [
        {"type": "response.output_item.added", "item": item | {"arguments": ""}},
        *({"type": f"{kind}.delta", "delta": piece} for piece in fragments(text)),
        {"type": f"{kind}.done", "arguments": text},
        {"type": "response.output_item.done", "item": item},
    ]
    return [event(value | {"output_index": at}, value["type"]) for value in values]


def openai_fragment(*calls: dict[str, Any]) -> bytes:
    return event({"choices": [{"index": 0, "delta": {"tool_calls": list(calls)}}]})


def calling(vendor: str, *calls: Made, text: str = "", reason: str | None = None) -> list[bytes]:
    """Make all events of a turn that ends with calls."""
    return [
        *opens(vendor),
        *([says(vendor, text)] if text else []),
        *called(vendor, *calls),
        *ends(vendor, reason or ENDINGS[vendor]),
        *closes(vendor),
    ]


def call_document(vendor: str, *calls: Made, text: str | None = None) -> dict[str, Any]:
    """Make a turn that ends with calls and is not streamed."""
    whole = document(vendor, text, ENDINGS[vendor])
    if vendor == "openai":
        whole["choices"][0]["message"]["tool_calls"] = [
            {
                "id": name_id,
                "type": "function",
                "function": {"name": name, "arguments": msgspec.json.encode(given).decode()},
            }
            for name_id, name, given in calls
        ]
    elif vendor == "anthropic":
        whole["content"] += [
            {"type": "tool_use", "id": name_id, "name": name, "input": given}
            for name_id, name, given in calls
        ]
    elif vendor == "responses":
        whole["output"] += [
            call_item(name_id, name, msgspec.json.encode(given).decode())
            for name_id, name, given in calls
        ]
    else:
        whole["candidates"][0]["content"]["parts"] += [
            {"functionCall": {"id": name_id, "name": name, "args": given}}
            for name_id, name, given in calls
        ]
    return whole
