"""Speak OpenAI's Responses API, as OpenAI's own host is asked.

Its chat completions refuse function tools for models that think (400 since gpt-5.6:
BerriAI/litellm#34569, danny-avila/LibreChat#14355). Nothing is kept at the server (`store: false`);
a model's thoughts go back to it, encrypted, with the calls they led to.

Reference: https://platform.openai.com/docs/api-reference/responses; shapes and events are those of
openai-python 3.57.0, `types/responses/`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from functools import cached_property
from itertools import islice
from typing import Any, ClassVar

import msgspec

from tieredllm.lenient_json import cleaned, encode
from tieredllm.providers.accumulator import Part, ending_of
from tieredllm.providers.base import Call, Chunk
from tieredllm.providers.cloud import WireRequest, base64_of, given
from tieredllm.providers.json_path import content_text, find_error, get_count, get_path, get_str
from tieredllm.providers.openai import THINKING, OpenAIBackend
from tieredllm.providers.tool_calls import (
    ToolCallCollector,
    decode_arguments,
    safe_name,
    with_unique_ids,
    with_valid_ids,
)
from tieredllm.roles import split_system
from tieredllm.types import (
    Image,
    Message,
    MessagePart,
    OutputSchema,
    Seal,
    ToolCall,
    ToolChoice,
    ToolDeclaration,
)

__all__ = ["CALL", "ResponsesBackend", "ResponsesToolCalls", "assistant_item"]

MIN_OUTPUT_TOKENS = 16
"""OpenAI's own host refuses a lower limit: `integer_below_min_value` (earendil-works/pi#6265)."""

_ENDS = ("response.completed", "response.incomplete", "response.failed")
_ITEM_DONE = "response.output_item.done"
_CALL_PIECES = ("response.function_call_arguments.delta", "response.function_call_arguments.done")

_SCHEMA_WORDS = ("json_schema", "format", "text")
_THOUGHT_PIECES = ("response.reasoning_summary_text.delta", "response.reasoning_text.delta")
_THOUGHT_KEYS = ("type", "id", "summary", "encrypted_content")
"""What of a reasoning item goes back (`response_reasoning_item_param`)."""

CALL: dict[str, Any] = {"type": "function_call"}
"""Stands in a turn's own form for the next of its calls; those that none stands for come last."""


class ResponsesBackend(OpenAIBackend):
    """A model at OpenAI, or at a server that speaks its Responses API."""

    wire: ClassVar[str] = "responses"
    ends_with_done = False

    def answer(self, call: Call) -> AsyncGenerator[Chunk, None]:
        """Make one attempt; over chat completions where only they can do what is asked for.

        The Responses API has no `stop`, `seed` or penalties. Models that think take none anywhere.
        """
        params = call.params
        wants_chat = (
            bool(params.stop or params.frequency_penalty or params.presence_penalty)
            or params.seed is not None
        )
        if wants_chat and self._at_home and not THINKING.match(self.model):
            return self._chat.answer(call)
        return super().answer(call)

    @cached_property
    def _chat(self) -> OpenAIBackend:
        """The same model over the other wire."""
        return OpenAIBackend(
            self._source,
            api_key_env=self._key_env,
            keys=self._keys,
            http=self._http,
            clock=self._clock,
        )

    def _build_request(self, call: Call) -> WireRequest:
        stream = call.is_streamed
        system, turns = split_system(call.messages)
        params = call.params
        thinks = bool(THINKING.match(self.model))
        effort = params.reasoning_effort
        if effort is None and thinks and self._thinks_little(params):
            effort = "low"
        options: dict[str, Any] = {
            "max_output_tokens": self._cap_tokens(params.max_tokens),
            "temperature": None if thinks else params.temperature,
            "top_p": None if thinks else params.top_p,
            "reasoning": self._reasoning(effort, call, thinks=thinks),
            "text": _format(call.schema),
            "tools": _declared(call.tools) or None,
            "tool_choice": _choice(call.tool_choice) if call.tools else None,
            "parallel_tool_calls": call.tool_choice.parallel if call.tools else None,
            "include": ["reasoning.encrypted_content"] if thinks and call.tools else None,
        }
        options = given(options, call.omit)
        if "phase" in call.omit:
            turns = [msgspec.structs.replace(turn, phase=None) for turn in turns]
        body: dict[str, Any] = {
            "model": self.model,
            **({"instructions": system} if system else {}),
            "input": _items(turns, identity=self.identity),
            "stream": stream,
            "store": False,
            **options,
        }
        return WireRequest(
            path="/responses",
            body=body,
            parameters={
                **{name: name for name in options},
                **({"stream": "stream"} if stream else {}),
                **({"phase": "phase"} if any(turn.phase for turn in turns) else {}),
                **(dict.fromkeys(_SCHEMA_WORDS, "schema") if call.schema else {}),
                # "Encrypted content is not supported with this model."
                **({"encrypted content": "include"} if "include" in options else {}),
                # "Your organization must be verified to generate reasoning summaries."
                **dict.fromkeys(options.get("reasoning", ()), "reasoning"),
                **({"summary": "summary"} if "summary" in options.get("reasoning", ()) else {}),
            },
        )

    def _cap_tokens(self, tokens: int | None) -> int | None:
        return max(tokens, MIN_OUTPUT_TOKENS) if tokens and self._at_home else tokens

    def _reasoning(self, effort: str | None, call: Call, *, thinks: bool) -> dict[str, str] | None:
        """Ask for summaries of thoughts: they show that a model that thinks long is at work."""
        asked = {"effort": effort} if effort is not None else {}
        if thinks and self._at_home and "summary" not in call.omit:
            asked["summary"] = "auto"
        return asked or None

    def _untold_limit(self, call: Call) -> int | None:
        """Return `max_output_tokens`: llama.cpp's server (xllamacpp 2026.10) says `completed`."""
        if "max_output_tokens" in call.omit or self._at_home:
            return None
        sent = self._with_own({"max_output_tokens": call.params.max_tokens})
        return get_count(sent, "max_output_tokens")

    def _collect_calls(self, tools: tuple[ToolDeclaration, ...]) -> ToolCallCollector:
        del tools
        return ResponsesToolCalls()

    def _split(self, value: dict[str, Any]) -> Iterable[dict[str, Any]]:
        """Return a whole response as its items, each as it would be streamed, and the rest."""
        output = value.get("output")
        if "type" in value or not isinstance(output, list):
            return (value,)
        found: list[dict[str, Any]] = []
        thoughts = 0
        for item in output:
            found.append({"type": "response.output_item.added", "item": item})
            if get_path(item, "type") == "reasoning":
                between = "\n\n" if thoughts else ""
                thoughts += 1
                found.append({"type": _THOUGHT_PIECES[0], "delta": between + _thought(item)})
            elif get_path(item, "type") == "message":
                found.append({"type": "response.output_text.delta", "delta": item.get("content")})
                found.append({"type": "response.refusal.delta", "delta": _refusal(item)})
            found.append({"type": _ITEM_DONE, "item": item})
        return [*found, {**value, "output": []}]

    def _parse_chunk(self, value: dict[str, Any]) -> Part:
        kind = get_str(value, "type") or ""
        if kind not in _ENDS and (kind or "delta" in value):
            return self._piece(kind, value)
        response = get_path(value, "response") if kind else value
        output = get_path(response, "output")
        items = output if isinstance(output, list) else []
        texts = [_text(item) for item in items]
        usage = get_path(response, "usage")
        return Part(
            text=None if None in texts else "".join(text for text in texts if text),
            # The events before it have had it all.
            is_whole=bool(kind),
            refusal="".join(map(_refusal, items)),
            reason=_reason(response),
            error=find_error(response),
            prompt_tokens=get_count(usage, "input_tokens"),
            completion_tokens=get_count(usage, "output_tokens"),
            model=get_str(response, "model"),
            done=bool(kind),
            calls=any(get_path(item, "type") == "function_call" for item in items),
            candidates=isinstance(output, list),
        )

    def _piece(self, kind: str, value: dict[str, Any]) -> Part:
        """Read an event in the middle of an answer; those of a server's own tools say nothing."""
        item_type = get_str(value, "item", "type")
        delta, item = get_str(value, "delta") or "", get_path(value, "item")
        begins_message = kind == "response.output_item.added" and item_type == "message"
        return Part(
            text=_words(kind, value),
            # Codex needs no deltas, and so some servers send none.
            is_whole=kind == _ITEM_DONE,
            phase=(get_str(item, "phase") or "") if begins_message else None,
            thought=delta if kind in _THOUGHT_PIECES else _begun_thought(kind, value),
            seal=_seal(item) if kind == _ITEM_DONE else None,
            refusal=delta if kind == "response.refusal.delta" else "",
            error=find_error(value),
            model=get_str(value, "response", "model"),
            calls=kind in _CALL_PIECES or item_type == "function_call",
            has_call=kind == _ITEM_DONE and item_type == "function_call",
            candidates=False,
            begins=get_str(value, "response", "id") if kind == "response.created" else None,
        )


def _reason(response: Any) -> str | None:
    """Return why a response ended; one that is incomplete for unknown reasons is cut, not whole."""
    status, why = get_str(response, "status"), get_str(response, "incomplete_details", "reason")
    return why if status == "incomplete" and why and ending_of(why) != "stop" else status


class ResponsesToolCalls:
    """Collect the items of one answer, `function_call` among them."""

    def __init__(self) -> None:
        self._items: dict[int, dict[str, Any]] = {}
        self._arguments: dict[int, str] = {}

    def take(self, value: dict[str, Any]) -> None:
        """Take an event, or a whole response."""
        kind, index = get_str(value, "type"), self._index(value)
        output = get_path(value, "response", "output") if kind else get_path(value, "output")
        if (kind is None or kind in _ENDS) and isinstance(output, list) and output:
            self._items = {at: item for at, item in enumerate(output) if isinstance(item, dict)}
        elif isinstance(get_path(value, "item"), dict):
            self._items[index] = value["item"]
        elif kind == "response.function_call_arguments.delta":
            self._arguments[index] = self._arguments.get(index, "") + (
                get_str(value, "delta") or ""
            )
        elif kind == "response.function_call_arguments.done":
            self._arguments[index] = get_str(value, "arguments") or self._arguments.get(index, "")

    def _index(self, value: dict[str, Any]) -> int:
        """Return which item an event is about; where it is not numbered, its ids tell."""
        index = get_count(value, "output_index")
        if index is not None:
            return index
        paths = (("item_id",), ("item", "id"), ("item", "call_id"))
        names = {name for path in paths if (name := get_str(value, *path))}
        known = [
            at
            for at, item in self._items.items()
            if names & {get_str(item, "id"), get_str(item, "call_id")}
        ]
        last = max(self._items, default=-1)
        return known[0] if known else last + 1 if "item" in value else last

    def complete(self) -> tuple[ToolCall, ...]:
        """Return the `function_call` items as calls."""
        return with_unique_ids(
            [
                ToolCall(
                    id=get_str(item, "call_id") or get_str(item, "id") or "",
                    name=name,
                    arguments=get_str(item, "arguments") or self._arguments.get(index, ""),
                )
                for index, item in sorted(self._items.items())
                if item.get("type") == "function_call" and (name := get_str(item, "name"))
            ]
        )

    @property
    def is_broken(self) -> bool:
        """Whether a call has no name, or arguments came of more calls than there are."""
        calls = [item for item in self._items.values() if item.get("type") == "function_call"]
        return len(calls) < sum(map(bool, self._arguments.values())) or not all(
            get_str(item, "name") for item in calls
        )

    def raw(self) -> Any:
        """Return the turn's own form: thoughts as they came, what was said, and `CALL` for a call.

        Calls behind the last of those need no place.

        Thoughts that are not encrypted would have to be kept at the server, and are not; and so
        messages go without the ids by which they would be looked for there.
        """
        items: list[dict[str, Any]] = []
        calls = 0
        for _, item in sorted(self._items.items()):
            calls += item.get("type") == "function_call"
            if (thought := _kept(item)) is not None:
                items += calls * [CALL]
                items.append(thought)
                calls = 0
            elif item.get("type") == "message" and (text := _text(item)):
                items += calls * [CALL]
                items.append(assistant_item(text, get_str(item, "phase")))
                calls = 0
        return cleaned(items)


def _kept(item: Any) -> dict[str, Any] | None:
    """Return what of an encrypted thought goes back; None for what is none."""
    if get_path(item, "type") != "reasoning" or not get_str(item, "encrypted_content"):
        return None
    return {key: item[key] for key in _THOUGHT_KEYS if item.get(key) is not None}


def _seal(item: Any) -> Seal | None:
    kept = _kept(item)
    return None if kept is None else Seal(kind="encrypted", data=encode(kept))


def _words(kind: str, value: dict[str, Any]) -> str | None:
    """Return an event's text: the next piece, or all of a message that is done."""
    if kind == "response.output_text.delta":
        return content_text(value.get("delta"))
    if kind == _ITEM_DONE:
        return _text(value.get("item"))
    return "" if kind else None  # one without a type may be text as well


def _begun_thought(kind: str, value: dict[str, Any]) -> str | None:
    """Return an empty thought where one begins or ends: it may come without a word of it.

    The parts of a summary are paragraphs.
    """
    if kind == "response.reasoning_summary_part.added":
        return "\n\n" if get_count(value, "summary_index") else ""
    is_item = kind in ("response.output_item.added", _ITEM_DONE)
    return "" if is_item and get_str(value, "item", "type") == "reasoning" else None


def _thought(item: Any) -> str:
    """Return the text of a thought: its summary, or where it is open, itself."""
    parts = get_path(item, "summary") or get_path(item, "content")
    return "\n\n".join(
        get_str(part, "text") or "" for part in (parts if isinstance(parts, list) else ())
    )


def _refusal(item: Any) -> str:
    content = get_path(item, "content") if get_path(item, "type") == "message" else None
    parts = content if isinstance(content, list) else ()
    return "".join(get_str(part, "refusal") or "" for part in parts)


def _text(item: Any) -> str | None:
    return content_text(item.get("content")) if get_path(item, "type") == "message" else ""


def _items(turns: list[Message], *, identity: str) -> list[dict[str, Any]]:
    """Return a conversation as items; a call and its result are items of their own."""
    items: list[dict[str, Any]] = []
    for turn in with_valid_ids(turns, identity=identity):
        if turn.role == "tool":
            told = f"Error: {turn.content}" if turn.is_error else turn.content
            output = _content(msgspec.structs.replace(turn, content=told))
            items.append(
                {"type": "function_call_output", "call_id": turn.call_id or "", "output": output}
            )
            continue
        own = turn.raw if turn.made_by == identity and isinstance(turn.raw, list) else None
        calls = iter(
            [
                {
                    "type": "function_call",
                    "call_id": call.id,
                    "name": safe_name(call.name),
                    "arguments": msgspec.json.encode(decode_arguments(call)).decode(),
                }
                for call in turn.calls
            ]
        )
        if own:
            for item in own:
                items += islice(calls, 1) if item == CALL else [item]
        elif turn.parts or turn.content.strip():
            items.append(
                assistant_item(turn.content, turn.phase)
                if turn.role == "assistant"
                else {"role": turn.role, "content": _content(turn)}
            )
        items += calls
    return items


def assistant_item(text: str, phase: str | None) -> dict[str, Any]:
    """Return an assistant's turn in the form that llama.cpp's server knows as well."""
    content = [{"type": "output_text", "text": text}]
    named = {"phase": phase} if phase else {}
    return {"type": "message", "role": "assistant", "content": content} | named


def _content(turn: Message) -> str | list[dict[str, Any]]:
    if not turn.parts:
        return turn.content
    text = [{"type": "input_text", "text": turn.content}] if turn.content.strip() else []
    return [*(_part(part) for part in turn.parts), *text]


def _part(part: MessagePart) -> dict[str, Any]:
    """Return a part of a message (`response_input_image_param`, `response_input_file_param`)."""
    if isinstance(part, Image):
        url = part.url or f"data:{part.media_type};base64,{base64_of(part.data)}"
        return {"type": "input_image", "image_url": url, "detail": part.detail or "auto"}
    if part.url:
        return {"type": "input_file", "file_url": part.url}
    data = f"data:application/pdf;base64,{base64_of(part.data)}"
    return {"type": "input_file", "filename": part.name or "document.pdf", "file_data": data}


def _declared(tools: tuple[ToolDeclaration, ...]) -> list[dict[str, Any]]:
    return [
        {
            "type": "function",
            "name": tool.name,
            "description": tool.description,
            "parameters": tool.parameters,
            # Where nothing is said, a schema is made strict (its guide to function calling).
            "strict": bool(tool.strict),
        }
        for tool in tools
    ]


def _format(schema: OutputSchema | None) -> dict[str, Any] | None:
    if schema is None:
        return None
    strict = {} if schema.strict is None else {"strict": schema.strict}
    described = {"type": "json_schema", "name": schema.name, "schema": schema.schema}
    return {"format": described | strict}


def _choice(choice: ToolChoice) -> Any:
    if choice.mode == "required" and choice.name:
        return {"type": "function", "name": choice.name}
    return None if choice.mode == "auto" else choice.mode
