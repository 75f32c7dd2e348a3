"""Say tools, calls and results in the words of Anthropic's Messages API.

Reference: https://platform.claude.com/docs/en/agents-and-tools/tool-use/implement-tool-use and,
for streams (`input_json_delta`), https://platform.claude.com/docs/en/build-with-claude/streaming.
"""

from __future__ import annotations

from typing import Any

import msgspec

from tieredllm.providers.base import Call, ToolDeclaration, ToolTurn
from tieredllm.providers.calls import arguments_of, call_ids, safe_name, unique
from tieredllm.providers.shape import dig, text_at
from tieredllm.types import ToolCall

__all__ = ["AnthropicCalls", "declared", "messages_of"]

_GROWS = {
    "text_delta": "text",
    "thinking_delta": "thinking",
    "signature_delta": "signature",
}
"""Which text of a block each kind of delta goes on with."""


class AnthropicCalls:
    """Collect the content blocks of one answer, `tool_use` among them."""

    def __init__(self) -> None:
        self._blocks: dict[int, dict[str, Any]] = {}
        self._inputs: dict[int, str] = {}
        self._complete: tuple[ToolCall, ...] | None = None

    def take(self, value: dict[str, Any]) -> None:
        """Take an event, or a whole message."""
        kind, index = text_at(value, "type"), dig(value, "index")
        if kind == "content_block_start" and isinstance(index, int):
            block = dig(value, "content_block")
            if isinstance(block, dict):
                self._blocks[index] = dict(block)
        elif kind == "content_block_delta" and isinstance(index, int):
            self._grow(index, dig(value, "delta"))
        elif kind in ("message", None) and isinstance(dig(value, "content"), list):
            for block in value["content"]:
                if isinstance(block, dict):
                    self._blocks[len(self._blocks)] = dict(block)

    def complete(self) -> tuple[ToolCall, ...]:
        """Give the `tool_use` blocks as calls."""
        if self._complete is None:
            calls = [
                ToolCall(
                    id=text_at(block, "id") or "",
                    name=text_at(block, "name") or "",
                    arguments=self._arguments(index),
                )
                for index, block in sorted(self._blocks.items())
                if block.get("type") == "tool_use"
            ]
            self._complete = unique(calls)
        return self._complete

    def raw(self) -> Any:
        """Give the blocks as they came: thoughts carry signatures that hold for them as they are.

        The ids are those of the calls; text that is empty is left out, as the API takes none.
        """
        ids = iter(self.complete())
        blocks = []
        for index, block in sorted(self._blocks.items()):
            if text_at(block, "type") is None:
                continue
            if block.get("type") == "tool_use":
                call = next(ids)
                block = block | {"id": call.id, "input": arguments_of(call)}  # noqa: PLW2901
            if block.get("type") != "text" or str(self._blocks[index].get("text") or "").strip():
                blocks.append(block)
        return blocks

    def _grow(self, index: int, delta: Any) -> None:
        kind = text_at(delta, "type")
        block = self._blocks.setdefault(index, {"type": "text", "text": ""})
        if kind == "input_json_delta":
            self._inputs[index] = self._inputs.get(index, "") + (
                text_at(delta, "partial_json") or ""
            )
        elif kind in _GROWS:
            name = _GROWS[kind]
            block[name] = (text_at(block, name) or "") + (text_at(delta, name) or "")

    def _arguments(self, index: int) -> str:
        """Give a call's arguments: from the deltas, else what the block began with."""
        if text := self._inputs.get(index):
            return text
        given = self._blocks[index].get("input")
        return msgspec.json.encode(given).decode() if given else ""


def declared(tools: tuple[ToolDeclaration, ...]) -> list[dict[str, Any]]:
    """Declare tools."""
    return [
        {"name": tool.name, "description": tool.description, "input_schema": tool.parameters}
        for tool in tools
    ]


def messages_of(call: Call, *, identity: str) -> list[dict[str, Any]]:
    """Tell of the rounds so far: the model's turn, then one user's turn with all results.

    Args:
        call: the attempt's input.
        identity: whose own turns go back as they came.
    """
    messages: list[dict[str, Any]] = []
    for place, turn in enumerate(call.turns):
        own = turn.made_by == identity
        ids = call_ids(turn, place=place, own=own)
        said = turn.raw if own and turn.raw else _rebuilt(turn, ids)
        messages.append({"role": "assistant", "content": said})
        results = [
            {
                "type": "tool_result",
                "tool_use_id": name,
                "content": result.for_model,
                **({"is_error": True} if result.is_error else {}),
            }
            for name, result in zip(ids, turn.results, strict=True)
        ]
        messages.append({"role": "user", "content": results})
    return messages


def _rebuilt(turn: ToolTurn, ids: list[str]) -> list[dict[str, Any]]:
    """Say what another model said; its thoughts are left out, as no signature holds for them."""
    said: list[dict[str, Any]] = []
    if turn.text.strip():
        said.append({"type": "text", "text": turn.text.rstrip()})
    return said + [
        {"type": "tool_use", "id": name, "name": safe_name(call.name), "input": arguments_of(call)}
        for name, call in zip(ids, turn.calls, strict=True)
    ]
