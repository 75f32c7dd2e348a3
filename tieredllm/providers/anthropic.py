"""Speak Anthropic's Messages API.

Reference: https://platform.claude.com/docs/en/api/messages, and for streams
https://platform.claude.com/docs/en/build-with-claude/streaming.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, ClassVar

from tieredllm.lenient_json import cleaned, encode
from tieredllm.providers.accumulator import Part
from tieredllm.providers.base import Call, Capabilities
from tieredllm.providers.cloud import CloudBackend, Vendor, WireRequest, base64_of, given
from tieredllm.providers.json_path import content_text, find_error, get_count, get_path, get_str
from tieredllm.providers.request_info import RequestInfo
from tieredllm.providers.tool_calls import (
    ToolCallCollector,
    decode_arguments,
    safe_name,
    with_unique_ids,
    with_valid_ids,
)
from tieredllm.roles import alternating, split_system
from tieredllm.types import Image, Message, MessagePart, Seal, ToolCall, ToolChoice, ToolDeclaration

__all__ = ["AnthropicBackend", "AnthropicToolCalls", "declared", "messages_of"]

UNSAMPLED_SINCE = "2026-10-21"
"""From this version of the API on `temperature` and `top_p` are a 400 for every model, whatever
their value (anthropic-python 2.14.0, whose default it is)."""

# `claude-opus-4-7`, `claude-haiku-4-5-20251001`, `anthropic/claude-opus-4.7`, `…claude-opus-5-v1`
_FAMILY = re.compile(r"claude-[a-z]+-([0-9]{1,2})(?:[-.]([0-9]{1,2}))?(?![0-9])")


class AnthropicBackend(CloudBackend):
    """A model at Anthropic or at a server that speaks its protocol."""

    provider: ClassVar[Vendor] = "anthropic"
    own_host = "api.anthropic.com"
    models_path = "/v1/models?limit=1000"

    added_path = "/v1"

    @property
    def capabilities(self) -> Capabilities:
        """What the model can do, as far as its name and the profile tell.

        Claude sees pictures from 3 on and reads PDF documents from 3.5 on; older names are no more
        (LiteLLM's table of models, `supports_vision`, `supports_pdf_input`). Answers can be held
        to a schema from 4.5 on (the same, `supports_response_schema`). Other models on this wire
        get no documents: llama.cpp's server (xllamacpp 2026.10) drops them without a word.
        """
        sees = "claude" in self.model if self.vision is None else self.vision
        old = self._at_home and (0, 0) < _version(self.model) < (4, 1)
        return Capabilities(
            tools=True,
            images=sees,
            documents=sees and "claude" in self.model,
            schema=not old,
        )

    def _build_request(self, call: Call) -> WireRequest:
        stream = call.is_streamed
        system, turns = split_system(call.messages)
        options = given(self._options(call), call.omit)
        body: dict[str, Any] = {
            "model": self.model,
            "max_tokens": call.params.max_tokens or _most_tokens(self.model),
            "messages": messages_of(alternating(turns), identity=self.identity),
            "stream": stream,
            **({"system": system} if system else {}),
            **options,
        }
        return WireRequest(
            path="/v1/messages",
            body=body,
            parameters={
                **{name: name for name in options},
                **_output_words(options.get("output_config", {})),
                **({"stream": "stream"} if stream else {}),
            },
        )

    def _options(self, call: Call) -> dict[str, Any]:
        """Return what this model takes of the parameters; it has no penalties at all.

        From 4.1 on a model takes `temperature` or `top_p`, not both, and from 4.7 on neither
        (migration guides of Haiku 4.5, Opus 4.7 and Haiku 5.5); from 5 on it thinks by default
        and takes `effort` (what is new in Opus 5).
        """
        params = call.params
        version = _version(self.model)
        temperature = None if params.temperature is None else min(params.temperature, 1.0)
        top_p = params.top_p
        if version >= (4, 7) or self._source.api_version >= UNSAMPLED_SINCE:
            temperature = top_p = None
        elif version >= (4, 1) and temperature is not None:
            top_p = None
        effort = params.reasoning_effort
        if effort is None and version >= (5, 0) and self._thinks_little(params):
            effort = "low"
        output: dict[str, Any] = {}
        if effort is not None and "effort" not in call.omit:
            output["effort"] = effort
        if call.schema is not None:
            output["format"] = {"type": "json_schema", "schema": _enforceable(call.schema.schema)}
        return {
            "temperature": temperature,
            "top_p": top_p,
            "stop_sequences": [text for text in params.stop if text.strip()] or None,
            "output_config": output or None,
            "tools": declared(call.tools) or None,
            "tool_choice": _choice(call.tool_choice) if call.tools else None,
        }

    def _headers(self, info: RequestInfo) -> dict[str, str]:
        headers = {"anthropic-version": self._source.api_version}
        if info.key is None:
            return headers
        headers["x-api-key"] = info.key
        # Other servers and gateways want it here (cline/cline#1062, BerriAI/litellm#33055).
        return headers if self._at_home else headers | {"Authorization": f"Bearer {info.key}"}

    def _collect_calls(self, tools: tuple[ToolDeclaration, ...]) -> ToolCallCollector:
        del tools
        return AnthropicToolCalls()

    def _split(self, value: dict[str, Any]) -> Iterable[dict[str, Any]]:
        """Return a whole message as its blocks, each as it would be streamed, and the rest."""
        content = value.get("content")
        if get_str(value, "type") not in ("message", None) or not isinstance(content, list):
            return (value,)
        blocks = ({"type": "content_block_start", "content_block": block} for block in content)
        return [*blocks, {**value, "content": []}]

    def _parse_chunk(self, value: dict[str, Any]) -> Part:
        kind = get_str(value, "type")
        # `message_start` holds a message that is still empty; a whole answer is one itself.
        message = get_path(value, "message") if kind == "message_start" else value
        delta = get_path(value, "delta")
        usage = get_path(message, "usage")
        # A proxy may put a reason into `message_start`, before anything was said.
        reason = get_str(delta if kind != "message" and delta else value, "stop_reason")
        explanation = get_str(message, "stop_details", "explanation") or get_str(
            delta, "stop_details", "explanation"
        )
        is_call = get_str(value, "content_block", "type") == "tool_use"
        return Part(
            text=_text(kind, value, delta),
            thought=_thought(kind, value, delta),
            seal=_seal(kind, value, delta),
            reason=reason,
            refusal=(explanation or "") if reason == "refusal" else "",
            error=find_error(value),
            prompt_tokens=_prompt_tokens(usage),
            completion_tokens=get_count(usage, "output_tokens"),
            model=get_str(message, "model"),
            calls=is_call or _kind_of(delta) == "input_json_delta",
            has_call=is_call,
            done=kind == "message_stop",
            candidates=kind == "message" or isinstance(get_path(value, "content"), list),
            begins=get_str(message, "id") if kind == "message_start" else None,
        )


def _output_words(output: dict[str, Any]) -> dict[str, str]:
    """Return the words for what `output_config` holds (anthropic 2.14.0, output_config_param)."""
    words: dict[str, str] = {}
    if "effort" in output:
        words |= {"effort": "effort", "output_config": "effort"}
    if "format" in output:
        words |= dict.fromkeys(("output_config.format", "output_format", "json_schema"), "schema")
        words["output_config"] = "schema"
    return words


_UNENFORCED = frozenset(
    {
        *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
        *("minLength", "maxLength", "maxItems", "uniqueItems", "minProperties", "maxProperties"),
    }
)
"""Keywords that a schema is refused for (its guide to structured outputs, laravel/ai#715)."""
_COMBINING = frozenset({"$ref", "allOf", "anyOf", "oneOf", "if", "not", "patternProperties"})
"""Keywords that may have more to say of an object's properties."""


def _enforceable(schema: Any) -> Any:
    """Return a schema as Claude can be held to it; the answer is held to the whole one later.

    "For 'object' type, 'additionalProperties' must be explicitly set to false"
    (veryfront/veryfront-code#3918): an object whose properties are all named is closed. One that
    may have others stays as it is, for the server to refuse: closed, a map could hold nothing.
    """
    if not isinstance(schema, dict):
        return schema
    held = {key: it for key, it in schema.items() if key not in _UNENFORCED}
    if "oneOf" in held and "anyOf" not in held:
        held["anyOf"] = held.pop("oneOf")
    properties, required = held.get("properties"), held.get("required")
    named = properties if isinstance(properties, dict) else {}
    needed = required if isinstance(required, list) else []
    for key, it in held.items():
        if key in ("properties", "$defs", "definitions") and isinstance(it, dict):
            held[key] = {name: _enforceable(inner) for name, inner in it.items()}
        elif key == "items":
            held[key] = _enforceable(it)
        elif key == "anyOf" and isinstance(it, list) and not named:
            held[key] = [_enforceable(inner) for inner in it]
    if (get_count(held, "minItems") or 0) > 1:
        held["minItems"] = 1
    if named and not _COMBINING & held.keys() and all(name in [*named] for name in needed):
        held.setdefault("additionalProperties", False)
    return held


def _choice(choice: ToolChoice) -> dict[str, Any] | None:
    one = {"disable_parallel_tool_use": True} if choice.parallel is False else {}
    if choice.mode == "none":
        return {"type": "none"}
    if choice.mode == "auto":
        return {"type": "auto"} | one if one else None
    if choice.name:
        return {"type": "tool", "name": choice.name} | one
    return {"type": "any"} | one


def _text(kind: str | None, value: dict[str, Any], delta: Any) -> str | None:
    if kind == "content_block_delta" or (kind is None and delta is not None):
        if not isinstance(delta, dict):
            return None
        return content_text(delta.get("text")) if _kind_of(delta) == "text_delta" else ""
    if kind == "content_block_start":
        return content_text([get_path(value, "content_block")])
    return content_text(get_path(value, "content")) if kind in ("message", None) else ""


def _kind_of(delta: Any) -> str | None:
    """Return a delta's type; one that does not say it has what its text is called by."""
    names = (*_GROWS.items(), ("input_json_delta", "partial_json"))
    return get_str(delta, "type") or next((it for it, key in names if get_str(delta, key)), None)


def _thought(kind: str | None, value: dict[str, Any], delta: Any) -> str | None:
    """Return thoughts; those that are redacted, or only signed, are empty."""
    if kind == "content_block_delta":
        if _kind_of(delta) not in ("thinking_delta", "signature_delta"):
            return None
        return get_str(delta, "thinking") or ""
    block = get_path(value, "content_block")
    is_thought = kind == "content_block_start" and get_path(block, "type") in _THOUGHT_BLOCKS
    return (get_str(block, "thinking") or "") if is_thought else None


def _seal(kind: str | None, value: dict[str, Any], delta: Any) -> Seal | None:
    """Return what signs a thought, at the end of a stream's block or with a whole one."""
    if kind == "content_block_delta" and get_path(delta, "type") == "signature_delta":
        signature = get_str(delta, "signature")
        return Seal(kind="signature", data=signature) if signature else None
    if kind != "content_block_start":
        return None
    block = get_path(value, "content_block")
    if get_path(block, "type") == "redacted_thinking":
        hidden = get_str(block, "data")
        return Seal(kind="redacted", data=hidden) if hidden else None
    signature = get_str(block, "signature") if get_path(block, "type") == "thinking" else None
    return Seal(kind="signature", data=signature) if signature else None


def _prompt_tokens(usage: Any) -> int | None:
    """Add up what was sent: `input_tokens` leaves out what the cache held or took."""
    counts = [
        get_count(usage, name)
        for name in ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
    ]
    known = [count for count in counts if count is not None]
    return sum(known) if known else None


MOST_TOKENS = {(4, 6): 128_000, (4, 2): 64_000, (4, 0): 32_000}
"""The longest answer by the version it begins with (LiteLLM's table of models, `max_output_tokens`:
64,000 for 4.5, 128,000 for 4.6 and later); a limit has to be sent."""

OLD_MOST_TOKENS = 4096
"""The same for Claude 3, and other houses' models, which take as much at least."""


def _most_tokens(model: str) -> int:
    """Return the longest answer that a model can give."""
    version = _version(model)
    return next((most for least, most in MOST_TOKENS.items() if version >= least), OLD_MOST_TOKENS)


def _version(model: str) -> tuple[int, int]:
    """Return a Claude model's version; (0, 0) for names from before 4, and others' models."""
    found = _FAMILY.search(model)
    return (int(found[1]), int(found[2] or 0)) if found else (0, 0)


_THOUGHT_BLOCKS = ("thinking", "redacted_thinking")

_GROWS = {
    "text_delta": "text",
    "thinking_delta": "thinking",
    "signature_delta": "signature",
}
"""Which text of a block each kind of delta goes on with."""


class AnthropicToolCalls:
    """Collect the content blocks of one answer, `tool_use` among them."""

    def __init__(self) -> None:
        self._blocks: list[dict[str, Any]] = []
        self._inputs: list[str] = []
        self._places: dict[int, int] = {}
        """Where the latest block of each index is: some servers begin every block with 0."""
        self._complete: tuple[ToolCall, ...] | None = None

    def take(self, value: dict[str, Any]) -> None:
        """Take an event, or a whole message."""
        kind, index = get_str(value, "type"), get_path(value, "index")
        index = index if isinstance(index, int) else 0
        if kind == "content_block_start":
            self._places[index] = self._begin(get_path(value, "content_block"))
        elif kind == "content_block_delta":
            self._grow(index, get_path(value, "delta"))
        elif kind in ("message", None) and isinstance(get_path(value, "content"), list):
            for block in value["content"]:
                self._begin(block)

    def complete(self) -> tuple[ToolCall, ...]:
        """Return the `tool_use` blocks as calls."""
        if self._complete is None:
            calls = [
                ToolCall(
                    id=get_str(block, "id") or "",
                    name=get_str(block, "name") or "",
                    arguments=self._arguments(index),
                )
                for index, block in enumerate(self._blocks)
                if _is_call(block)
            ]
            self._complete = with_unique_ids(calls)
        return self._complete

    @property
    def is_broken(self) -> bool:
        """Whether a call has no name, or arguments came to what is no call.

        Those of the server's own tools (`server_tool_use`, `mcp_tool_use`) come the same way.
        """
        for block, text in zip(self._blocks, self._inputs, strict=True):
            kind = get_str(block, "type") or ""
            if kind == "tool_use" and not _is_call(block):
                return True
            if text.strip() and not kind.endswith("tool_use"):
                return True
        return False

    def raw(self) -> Any:
        """Return the blocks as they came: thoughts carry signatures that hold for them as they are.

        The ids are those of the calls; text that is empty is left out, as the API takes none.
        """
        ids = iter(self.complete())
        blocks = []
        for index, block in enumerate(self._blocks):
            kind = get_str(block, "type")
            if kind is None or (kind == "tool_use" and not _is_call(block)):
                continue
            if kind == "tool_use":
                call = next(ids)
                block = block | {"id": call.id, "input": decode_arguments(call)}  # noqa: PLW2901
            if block.get("type") != "text" or str(self._blocks[index].get("text") or "").strip():
                blocks.append(block)
        return cleaned(blocks)

    def _begin(self, block: Any) -> int:
        self._blocks.append(dict(block) if isinstance(block, dict) else {})
        self._inputs.append("")
        return len(self._blocks) - 1

    def _grow(self, index: int, delta: Any) -> None:
        kind = _kind_of(delta)
        if index not in self._places:
            begun = "text" if kind == "text_delta" else "thinking"
            self._places[index] = self._begin({"type": begun, begun: ""})
        place = self._places[index]
        block = self._blocks[place]
        if kind == "input_json_delta":
            self._inputs[place] += get_str(delta, "partial_json") or ""
        elif kind in _GROWS:
            name = _GROWS[kind]
            block[name] = (get_str(block, name) or "") + (get_str(delta, name) or "")

    def _arguments(self, index: int) -> str:
        """Return a call's arguments: from the deltas, else what the block began with."""
        if text := self._inputs[index]:
            return text
        given = self._blocks[index].get("input")
        return encode(given) if given else ""


def _is_call(block: dict[str, Any]) -> bool:
    return block.get("type") == "tool_use" and get_str(block, "name") is not None


def declared(tools: tuple[ToolDeclaration, ...]) -> list[dict[str, Any]]:
    """Declare tools."""
    return [
        {
            "name": tool.name,
            "description": tool.description,
            "input_schema": tool.parameters,
            **({"strict": True} if tool.strict else {}),
        }
        for tool in tools
    ]


def messages_of(turns: list[Message], *, identity: str) -> list[dict[str, Any]]:
    """Return a conversation in Anthropic's form: all results of one turn in one user's turn.

    Args:
        turns: the conversation, the user first.
        identity: whose own turns go back as they came.
    """
    messages: list[dict[str, Any]] = []
    for turn in with_valid_ids(turns, identity=identity):
        role = "assistant" if turn.role == "assistant" else "user"
        content = _content(turn, own=turn.made_by == identity)
        if messages and messages[-1]["role"] == role:
            messages[-1]["content"] = [*_blocks(messages[-1]["content"]), *_blocks(content)]
        else:
            messages.append({"role": role, "content": content})
    return messages


def _content(turn: Message, *, own: bool) -> str | list[dict[str, Any]]:
    parts = [_part(part) for part in turn.parts]
    if turn.role == "tool":
        text = f"Error: {turn.content}" if turn.is_error else turn.content
        result = {
            "type": "tool_result",
            "tool_use_id": turn.call_id,
            "content": [*_blocks(text), *parts] if parts else text,
        }
        return [result | ({"is_error": True} if turn.is_error else {})]
    if turn.calls:
        return [*map(_told, turn.raw)] if own and turn.raw else _rebuilt(turn)
    return [*parts, *_blocks(turn.content)] if parts else turn.content


def _blocks(content: str | list[dict[str, Any]]) -> list[dict[str, Any]]:
    if not isinstance(content, str):
        return content
    return [{"type": "text", "text": content}] if content.strip() else []


def _part(part: MessagePart) -> dict[str, Any]:
    """Return an image or a document; anthropic 2.14.0, types/{image,document}_block_param."""
    source: dict[str, str] = (
        {"type": "url", "url": part.url}
        if part.url
        else {
            "type": "base64",
            "media_type": part.media_type or "application/pdf",
            "data": base64_of(part.data),
        }
    )
    if isinstance(part, Image):
        return {"type": "image", "source": source}
    title = {"title": part.name} if part.name else {}
    return {"type": "document", "source": source} | title


def _told(block: dict[str, Any]) -> dict[str, Any]:
    is_call = block.get("type") == "tool_use"
    return block | {"name": safe_name(get_str(block, "name") or "")} if is_call else block


def _rebuilt(turn: Message) -> list[dict[str, Any]]:
    """Return what another model said; its thoughts are left out, as no signature holds for them."""
    said: list[dict[str, Any]] = []
    if turn.content.strip():
        said.append({"type": "text", "text": turn.content.rstrip()})
    return said + [
        {
            "type": "tool_use",
            "id": call.id,
            "name": safe_name(call.name),
            "input": decode_arguments(call),
        }
        for call in turn.calls
    ]
