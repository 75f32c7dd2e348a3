"""Speak OpenAI's Chat Completions API, the protocol of most other servers too.

Reference: https://platform.openai.com/docs/api-reference/chat and, for streams, the types of
openai-python, `types/chat/chat_completion_chunk.py`.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar

import msgspec

from tieredllm.providers.accumulator import Part
from tieredllm.providers.base import Call, Capabilities
from tieredllm.providers.cloud import CloudBackend, Vendor, WireRequest, base64_of
from tieredllm.providers.json_path import content_text, find_error, get_count, get_path, get_str
from tieredllm.providers.request_info import RequestInfo
from tieredllm.providers.tool_calls import (
    ToolCallCollector,
    decode_arguments,
    safe_name,
    with_unique_ids,
    with_valid_ids,
)
from tieredllm.roles import split_system
from tieredllm.types import (
    Document,
    Image,
    Message,
    MessagePart,
    OutputSchema,
    ToolCall,
    ToolChoice,
    ToolDeclaration,
)

__all__ = ["THINKING", "OpenAIBackend", "OpenAIToolCalls", "declared", "messages_of"]

# Models that reject `temperature` and `top_p` and think by default: the o series, gpt-5 and, after
# gpt-5.1 to 5.5 whose default is not to think, gpt-5.6 and gpt-6 (reference of `reasoning_effort`;
# answers of the API to gpt-5.6 and gpt-6.2 in 2026). The chat variants do neither.
THINKING = re.compile(r"(?:o[0-9]|gpt-5(?!\.[1-5](?![0-9]))|gpt-[6-9]|gpt-[1-9][0-9])(?!.*chat)")
# Models that see, by what their names have in common, at any server: OpenAI's, Anthropic's and
# Google's own as in LiteLLM's table of models (1.90, `supports_vision`), and the open ones.
_SEES = re.compile(
    r"gpt-4o(?!.*audio)|gpt-4\.1|gpt-4-turbo|gpt-[5-9]|(?:^|/)o(?:1|3|4)(?!-mini|-preview)|o4-mini"
    r"|chat-latest|claude-|gemini-|gemma-?(?:3n|3(?!.*[:-](?:1b|270m))|4)|llama-?(?:4|3\.2.*vision)"
    r"|[.-]vl|vision|llava|pixtral|moondream|minicpm-v|internvl|mistral-(?:small-3|medium-3|large-3)"
    r"|grok-[4-9]|-omni",
    re.IGNORECASE,
)
_TOOL_WORDS = ("tool calling", "tool use", "function calling")
_SCHEMA_WORDS = ("response_format", "json_schema")
_SAMPLING = ("temperature", "top_p", "frequency_penalty", "presence_penalty")


class OpenAIBackend(CloudBackend):
    """A model at OpenAI or at any compatible server."""

    provider: ClassVar[Vendor] = "openai"
    own_host = "api.openai.com"
    models_path = "/models"

    @property
    def capabilities(self) -> Capabilities:
        """What the model can do, as far as its name and the profile tell."""
        sees = bool(_SEES.search(self.model)) if self.vision is None else self.vision
        # Few other servers take files.
        return Capabilities(
            tools=True,
            images=sees,
            documents=sees and bool(self._at_home or self.vision),
            schema=True,
        )

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
            "stop": list(params.stop) or None,
            "seed": params.seed,
            "reasoning_effort": params.reasoning_effort,
            "response_format": _format(call.schema),
            "tools": declared(call.tools) or None,
            "tool_choice": _choice(call.tool_choice) if call.tools else None,
            "parallel_tool_calls": call.tool_choice.parallel if call.tools else None,
        }
        if self._at_home and THINKING.match(self.model):
            options |= dict.fromkeys(_SAMPLING)
            if params.reasoning_effort is None and self._thinks_little(params):
                options["reasoning_effort"] = "low"
        options = {
            name: value
            for name, value in options.items()
            if value is not None and name not in call.omit
        }
        messages: list[dict[str, Any]] = []
        if system:
            messages.append({"role": "system", "content": system})
        messages += messages_of(
            turns, identity=self.identity, wants_reasoning="deepseek.com" in self._base_url
        )
        body = {"model": self.model, "messages": messages, "stream": stream, **options}
        return WireRequest(
            path="/chat/completions",
            body=body,
            parameters={
                **{name: name for name in options},
                **({"stream": "stream"} if stream else {}),
                **(dict.fromkeys(_SCHEMA_WORDS, "schema") if call.schema else {}),
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
                **({} if tool.strict is None else {"strict": tool.strict}),
            },
        }
        for tool in tools
    ]


def messages_of(
    turns: list[Message], *, identity: str, wants_reasoning: bool
) -> list[dict[str, Any]]:
    """Return a conversation without its system texts in OpenAI's form.

    Args:
        turns: the conversation.
        identity: whose own calls go back with what came with them.
        wants_reasoning: whether the server takes no call without its thoughts, be they empty.
    """
    messages: list[dict[str, Any]] = []
    shown: list[MessagePart] = []
    for turn in with_valid_ids(turns, identity=identity):
        if turn.role == "tool":
            content = f"Error: {turn.content}" if turn.is_error else turn.content
            messages.append({"role": "tool", "tool_call_id": turn.call_id, "content": content})
            shown += turn.parts
            continue
        if shown:  # a tool's message has text alone; its pictures follow as the user's
            messages.append({"role": "user", "content": [_part(part) for part in shown]})
            shown = []
        if turn.calls:
            own = turn.made_by == identity
            messages.append(_assistant(turn, own=own, wants_reasoning=wants_reasoning))
        else:
            messages.append({"role": turn.role, "content": _content(turn)})
    if shown:
        messages.append({"role": "user", "content": [_part(part) for part in shown]})
    return messages


def _content(turn: Message) -> str | list[dict[str, Any]]:
    if not turn.parts:
        return turn.content
    text = [{"type": "text", "text": turn.content}] if turn.content.strip() else []
    return [*(_part(part) for part in turn.parts), *text]


def _part(part: MessagePart) -> dict[str, Any]:
    """Return a part of a message; openai 3.57.0, types/chat/chat_completion_content_part_param."""
    if isinstance(part, Image):
        url = part.url or f"data:{part.media_type};base64,{base64_of(part.data)}"
        detail = {"detail": part.detail} if part.detail else {}
        return {"type": "image_url", "image_url": {"url": url} | detail}
    return {"type": "file", "file": _file(part)}


def _file(document: Document) -> dict[str, str]:
    # A URL is none of the type's keys; the server says what it makes of it.
    data = document.url or f"data:application/pdf;base64,{base64_of(document.data)}"
    return {"filename": document.name or "document.pdf", "file_data": data}


def _format(schema: OutputSchema | None) -> dict[str, Any] | None:
    if schema is None:
        return None
    strict = {} if schema.strict is None else {"strict": schema.strict}
    described = {"name": schema.name, "schema": schema.schema} | strict
    return {"type": "json_schema", "json_schema": described}


def _choice(choice: ToolChoice) -> Any:
    if choice.mode == "required" and choice.name:
        return {"type": "function", "function": {"name": choice.name}}
    return None if choice.mode == "auto" else choice.mode


def _assistant(turn: Message, *, own: bool, wants_reasoning: bool) -> dict[str, Any]:
    extras = get_path(turn.raw, "extras") if own else None
    calls: list[dict[str, Any]] = []
    for number, call in enumerate(turn.calls):
        arguments = msgspec.json.encode(decode_arguments(call)).decode()
        function = {"name": safe_name(call.name), "arguments": arguments}
        entry: dict[str, Any] = {"id": call.id, "type": "function", "function": function}
        if extra := get_path(extras, number):
            entry["extra_content"] = extra
        calls.append(entry)
    said = {"role": "assistant", "content": turn.content or None, "tool_calls": calls}
    thoughts = get_path(turn.raw, REASONING) if own else None
    if thoughts is not None or wants_reasoning:
        said[REASONING] = thoughts or ""
    return said
