"""Say tools, calls and results in the words of OpenAI's Chat Completions API.

Reference: https://platform.openai.com/docs/guides/function-calling (streaming: fragments by
`index`, the first of a call with its id and name).
"""

from __future__ import annotations

from typing import Any

import msgspec

from tieredllm.providers.base import Call, ToolDeclaration, ToolTurn
from tieredllm.providers.calls import arguments_of, call_ids, safe_name, unique
from tieredllm.providers.shape import dig, text_at
from tieredllm.types import ToolCall

__all__ = ["OpenAICalls", "declared", "messages_of"]

REASONING = "reasoning_content"
"""DeepSeek's thoughts, which it wants back with the calls they led to (its thinking guide)."""


class _Fragments(msgspec.Struct):
    """Hold what has come of one call so far."""

    index: int | None
    id: str = ""
    name: str = ""
    arguments: str = ""
    extra: Any = None
    """`extra_content`: Google's compatible server keeps a signature in it."""


class OpenAICalls:
    """Collect the `tool_calls` of one answer.

    Some servers send no index: a new id, or a name after arguments, then begins a new call. Some
    repeat the id and the name in every fragment.
    """

    def __init__(self) -> None:
        self._calls: list[_Fragments] = []
        self._reasoning: list[str] | None = None

    def take(self, value: dict[str, Any]) -> None:
        """Take a chunk or a whole completion."""
        choice = dig(value, "choices", 0)
        said = dig(choice, "delta") or dig(choice, "message")
        thought = dig(said, REASONING)
        if isinstance(thought, str):
            self._reasoning = [*(self._reasoning or []), thought]
        fragments = dig(said, "tool_calls")
        for fragment in fragments if isinstance(fragments, list) else []:
            if isinstance(fragment, dict):
                self._add(fragment)

    def complete(self) -> tuple[ToolCall, ...]:
        """Give the calls; what never got a name is none."""
        named = [call for call in self._calls if call.name]
        return unique(
            [ToolCall(id=call.id, name=call.name, arguments=call.arguments) for call in named]
        )

    def raw(self) -> Any:
        """Give what only this server understands: its thoughts, and an extra for each call."""
        extras = [call.extra for call in self._calls if call.name]
        thoughts = None if self._reasoning is None else "".join(self._reasoning)
        return {REASONING: thoughts, "extras": extras}

    def _add(self, fragment: dict[str, Any]) -> None:
        index = fragment.get("index")
        index = index if isinstance(index, int) and not isinstance(index, bool) else None
        name, arguments = dig(fragment, "function", "name"), dig(fragment, "function", "arguments")
        call = self._at(index, text_at(fragment, "id"), bool(name))
        call.id = call.id or text_at(fragment, "id") or ""
        call.name = call.name or (name if isinstance(name, str) else "")
        if isinstance(arguments, dict):  # some servers decode what the reference has as text
            arguments = msgspec.json.encode(arguments).decode()
        call.arguments += arguments if isinstance(arguments, str) else ""
        call.extra = fragment.get("extra_content") or call.extra

    def _at(self, index: int | None, name: str | None, is_named: bool) -> _Fragments:
        """Find the call a fragment belongs to, or begin a new one."""
        for call in reversed(self._calls):
            if index is not None and call.index == index:
                # Gemini's compatible server has numbered parallel calls all 0.
                if name and call.id and name != call.id and is_named:
                    break
                return call
        last = self._calls[-1] if self._calls else None
        if index is None and last is not None:
            goes_on = name == last.id if name else not (is_named and last.name)
            if goes_on:
                return last
        self._calls.append(_Fragments(index=index))
        return self._calls[-1]


def declared(tools: tuple[ToolDeclaration, ...]) -> list[dict[str, Any]]:
    """Declare tools."""
    return [
        {
            "type": "function",
            "function": {
                "name": tool.name,
                "description": tool.description,
                "parameters": tool.parameters,
            },
        }
        for tool in tools
    ]


def messages_of(call: Call, *, identity: str, wants_reasoning: bool) -> list[dict[str, Any]]:
    """Tell of the rounds so far.

    Args:
        call: the attempt's input.
        identity: whose own calls go back with what came with them.
        wants_reasoning: whether the server takes no call without its thoughts, be they empty.
    """
    messages: list[dict[str, Any]] = []
    for place, turn in enumerate(call.turns):
        own = turn.made_by == identity
        ids = call_ids(turn, place=place, own=own)
        messages.append(_assistant(turn, ids, own=own, wants_reasoning=wants_reasoning))
        messages += [
            {"role": "tool", "tool_call_id": name, "content": result.for_model}
            for name, result in zip(ids, turn.results, strict=True)
        ]
    return messages


def _assistant(
    turn: ToolTurn, ids: list[str], *, own: bool, wants_reasoning: bool
) -> dict[str, Any]:
    extras = dig(turn.raw, "extras") if own else None
    calls: list[dict[str, Any]] = []
    for number, (name, call) in enumerate(zip(ids, turn.calls, strict=True)):
        arguments = msgspec.json.encode(arguments_of(call)).decode()
        function = {"name": safe_name(call.name), "arguments": arguments}
        entry: dict[str, Any] = {"id": name, "type": "function", "function": function}
        if extra := dig(extras, number):
            entry["extra_content"] = extra
        calls.append(entry)
    said = {"role": "assistant", "content": turn.text or None, "tool_calls": calls}
    thoughts = dig(turn.raw, REASONING) if own else None
    if thoughts is not None or wants_reasoning:
        said[REASONING] = thoughts or ""
    return said
