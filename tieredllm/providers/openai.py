"""Speak OpenAI's Chat Completions API, the protocol of most other servers too.

Reference: https://platform.openai.com/docs/api-reference/chat and, for streams, the types of
openai-python, `types/chat/chat_completion_chunk.py`.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar

import msgspec

from tieredllm.providers.accumulator import Part
from tieredllm.providers.base import Call, ToolDeclaration, ToolTurn
from tieredllm.providers.cloud import CloudBackend, Vendor, WireRequest
from tieredllm.providers.json_path import content_text, find_error, get_count, get_path, get_str
from tieredllm.providers.request_info import RequestInfo
from tieredllm.providers.tool_calls import (
    ToolCallCollector,
    call_ids,
    decode_arguments,
    safe_name,
    with_unique_ids,
)
from tieredllm.roles import split_system
from tieredllm.types import ToolCall

__all__ = ["OpenAIBackend", "OpenAIToolCalls", "declared", "messages_of"]

# Models that reject `temperature` and `top_p` and think by default: the o series, gpt-5 and, after
# gpt-5.1 to 5.5 whose default is not to think, gpt-5.6 and gpt-6 (reference of `reasoning_effort`;
# answers of the API to gpt-5.6 and gpt-6.2 in 2026). The chat variants do neither.
_THINKING = re.compile(r"(?:o[0-9]|gpt-5(?!\.[1-5](?![0-9]))|gpt-[6-9]|gpt-[1-9][0-9])(?!.*chat)")
_TOOL_WORDS = ("tool calling", "tool use", "function calling")
_SAMPLING = ("temperature", "top_p", "frequency_penalty", "presence_penalty")


class OpenAIBackend(CloudBackend):
    """A model at OpenAI or at any compatible server."""

    provider: ClassVar[Vendor] = "openai"
    own_host = "api.openai.com"
    models_path = "/models"

    def _build_request(self, call: Call) -> WireRequest:
        stream = call.stream and "stream" not in call.omit
        system, turns = split_system(call.messages)
        params = call.params
        options: dict[str, Any] = {
            "temperature": params.temperature,
            "top_p": params.top_p,
            "frequency_penalty": params.frequency_penalty or None,
            "presence_penalty": params.presence_penalty or None,
            self._cap(call): params.max_tokens,
            "stream_options": {"include_usage": True} if stream else None,
            "tools": declared(call.tools) or None,
            "tool_choice": "none" if call.tools and not call.may_call else None,
        }
        if self._at_home and _THINKING.match(self.model):
            options |= dict.fromkeys(_SAMPLING)
            options["reasoning_effort"] = "low" if self._thinks_little(params) else None
        options = {
            name: value
            for name, value in options.items()
            if value is not None and name not in call.omit
        }
        messages: list[dict[str, Any]] = []
        if system:
            messages.append({"role": "system", "content": system})
        messages += [{"role": turn.role, "content": turn.content} for turn in turns]
        if call.turns:
            messages += messages_of(
                call, identity=self.identity, wants_reasoning="deepseek.com" in self._base_url
            )
        body = {"model": self.model, "messages": messages, "stream": stream, **options}
        return WireRequest(
            path="/chat/completions",
            body=body,
            parameters={
                **{name: name for name in options},
                **({"stream": "stream"} if stream else {}),
                # "`tool calling` is not supported with this model" (Groq)
                **(dict.fromkeys(_TOOL_WORDS, "tools") if "tools" in options else {}),
            },
            stream=stream,
        )

    def _cap(self, call: Call) -> str:
        """Name the parameter that limits the answer.

        OpenAI's newer models reject `max_tokens`, which is deprecated there; most other servers
        know nothing else. Whichever a server rejects is replaced by the other.
        """
        first, second = "max_completion_tokens", "max_tokens"
        if not self._at_home:
            first, second = second, first
        return second if first in call.omit else first

    def _headers(self, info: RequestInfo) -> dict[str, str]:
        return {"Authorization": f"Bearer {info.key}"} if info.key else {}

    def _collect_calls(self) -> ToolCallCollector:
        return OpenAIToolCalls()

    def _parse_chunk(self, value: dict[str, Any]) -> Part:
        choice = get_path(value, "choices", 0)
        delta = get_path(choice, "delta")
        said = delta or get_path(choice, "message")
        reason = get_str(choice, "finish_reason")
        usage = get_path(value, "usage") or get_path(value, "x_groq", "usage")
        return Part(
            text=content_text(get_path(said, "content")),
            # MiniMax's last chunk has the whole message (A3S-Lab/Code#1).
            is_whole=said is not delta,
            refusal=get_str(said, "refusal") or "",
            # "null" as a text (seen on every chunk) is no reason.
            reason=None if reason == "null" else reason,
            calls=bool(get_path(said, "tool_calls")),
            error=find_error(value),
            prompt_tokens=get_count(usage, "prompt_tokens"),
            completion_tokens=get_count(usage, "completion_tokens"),
            model=get_str(value, "model"),
            candidates=isinstance(said, dict),
        )

    def _names(self, value: Any) -> list[str] | None:
        listed = get_path(value, "data")
        if not isinstance(listed, list) or get_path(value, "has_more"):
            return None
        return [name for item in listed if (name := get_str(item, "id"))]


REASONING = "reasoning_content"
"""DeepSeek's thoughts, which it wants back with the calls they led to (its thinking guide)."""


class _Fragments(msgspec.Struct):
    """What has come of one call so far."""

    index: int | None
    id: str = ""
    name: str = ""
    arguments: str = ""
    extra: Any = None
    """`extra_content`: Google's compatible server keeps a signature in it."""


class OpenAIToolCalls:
    """Collect the `tool_calls` of one answer.

    Some servers send no index: a new id, or a name after arguments, then begins a new call. Some
    repeat the id and the name in every fragment.
    """

    def __init__(self) -> None:
        self._calls: list[_Fragments] = []
        self._reasoning: list[str] | None = None

    def take(self, value: dict[str, Any]) -> None:
        """Take a chunk or a whole completion."""
        choice = get_path(value, "choices", 0)
        said = get_path(choice, "delta") or get_path(choice, "message")
        thought = get_path(said, REASONING)
        if isinstance(thought, str):
            self._reasoning = [*(self._reasoning or []), thought]
        fragments = get_path(said, "tool_calls")
        for fragment in fragments if isinstance(fragments, list) else []:
            if isinstance(fragment, dict):
                self._add(fragment)

    def complete(self) -> tuple[ToolCall, ...]:
        """Return the calls; what never got a name is none."""
        named = [call for call in self._calls if call.name]
        return with_unique_ids(
            [ToolCall(id=call.id, name=call.name, arguments=call.arguments) for call in named]
        )

    def raw(self) -> Any:
        """Return what only this server understands: its thoughts, and an extra for each call."""
        extras = [call.extra for call in self._calls if call.name]
        thoughts = None if self._reasoning is None else "".join(self._reasoning)
        return {REASONING: thoughts, "extras": extras}

    def _add(self, fragment: dict[str, Any]) -> None:
        index = fragment.get("index")
        index = index if isinstance(index, int) and not isinstance(index, bool) else None
        name, arguments = (
            get_path(fragment, "function", "name"),
            get_path(fragment, "function", "arguments"),
        )
        call = self._at(index, get_str(fragment, "id"), bool(name))
        call.id = call.id or get_str(fragment, "id") or ""
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
    extras = get_path(turn.raw, "extras") if own else None
    calls: list[dict[str, Any]] = []
    for number, (name, call) in enumerate(zip(ids, turn.calls, strict=True)):
        arguments = msgspec.json.encode(decode_arguments(call)).decode()
        function = {"name": safe_name(call.name), "arguments": arguments}
        entry: dict[str, Any] = {"id": name, "type": "function", "function": function}
        if extra := get_path(extras, number):
            entry["extra_content"] = extra
        calls.append(entry)
    said = {"role": "assistant", "content": turn.text or None, "tool_calls": calls}
    thoughts = get_path(turn.raw, REASONING) if own else None
    if thoughts is not None or wants_reasoning:
        said[REASONING] = thoughts or ""
    return said
