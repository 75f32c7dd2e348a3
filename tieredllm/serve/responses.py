"""Speak OpenAI's Responses API as a server, without state.

Reference: https://platform.openai.com/docs/api-reference/responses and the types of openai-python
3.57.0, `types/responses/`. What its clients cannot do without: `response.created` first (the SDK's
helper), whole items by `output_item.done`, `response.completed` with `usage.total_tokens` (Codex
0.171.0), and a failure as `response.failed`: Codex takes an `error` event alone for a broken
connection and asks again, and a 503 for a reason to ask 30 times.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import msgspec

from tieredllm.providers.accumulator import APART
from tieredllm.providers.openai_responses import CALL, assistant_item
from tieredllm.providers.tool_calls import decode_arguments
from tieredllm.serve.chat import choice_of, error_object, part_of
from tieredllm.serve.wire import (
    INSTRUCTING,
    Failure,
    GatewayRequest,
    RefusedError,
    as_dict,
    as_list,
    asked_last,
    content_of,
    declaration,
    encode,
    entries,
    named_results,
    overrides,
    prompt_of,
    schema_of,
    sealed,
    sse,
    string,
    text_in,
    unsealed,
    usage_of,
    user_turn,
)
from tieredllm.types import (
    Answer,
    Message,
    Options,
    OutputSchema,
    Seal,
    Thought,
    Token,
    ToolCall,
    ToolDeclaration,
)

__all__ = ["ResponsesWire"]

ECHOED = (
    "instructions",
    "max_output_tokens",
    "metadata",
    "parallel_tool_calls",
    "reasoning",
    "temperature",
    "text",
    "tool_choice",
    "tools",
    "top_p",
)
"""What a response repeats of its request (openai-python 3.57.0, `types/responses/response.py`)."""

ENCRYPTED = "reasoning.encrypted_content"
"""What a client includes that will bring a model's thoughts back."""

FUNCTION = "response.function_call_arguments"
CUSTOM = "response.custom_tool_call_input"
"""What the events of a call's text begin with."""

STATELESS = "nothing is kept between requests: send the whole conversation as `input`"

DEFAULTS: dict[str, Any] = {"parallel_tool_calls": True, "tool_choice": "auto", "tools": []}
"""What it has of them even when they were not sent."""


class ResponsesWire:
    """`POST /v1/responses`."""

    error = staticmethod(error_object)
    fails_in_stream = True

    def read(self, body: dict[str, Any]) -> GatewayRequest:
        """Read a request; fields and tools that are not known are ignored.

        Raises:
            RefusedError: see `Wire`; or it builds on something that a server would have to keep.
        """
        for name in ("previous_response_id", "conversation", "background", "prompt"):
            if body.get(name):
                raise RefusedError(400, f"{name} is not supported: {STATELESS}")
        system, turns = _conversation(body.get("input"))
        if body.get("instructions"):
            system.insert(0, string(body["instructions"], "instructions"))
        reasoning = body.get("reasoning")
        reasoning = reasoning if isinstance(reasoning, dict) else {}
        text = body.get("text")
        tools = _tools(body.get("tools"))
        choice, declared = choice_of(
            body.get("tool_choice"), body.get("parallel_tool_calls"), tuple(tools.declared)
        )
        return GatewayRequest(
            model=string(body.get("model"), "model"),
            prompt=prompt_of(system, turns),
            options=Options(
                params=overrides(
                    {
                        "max_tokens": body.get("max_output_tokens"),
                        "temperature": body.get("temperature"),
                        "top_p": body.get("top_p"),
                        "reasoning_effort": reasoning.get("effort"),
                    }
                ),
                schema=_schema(text.get("format")) if isinstance(text, dict) else None,
                caller_tools=declared,
                tool_choice=choice,
            ),
            stream=body.get("stream") is True,
            takes_thoughts=reasoning.get("summary") is not None
            or reasoning.get("effort") not in (None, "none")
            or ENCRYPTED in as_list(body.get("include") or [], "include"),
            echo={name: body[name] for name in ECHOED if body.get(name) is not None},
            call_forms=tools.call_forms,
            left_out=tuple(tools.left_out),
        )

    def whole(
        self,
        request: GatewayRequest,
        answer: Answer,
        said: Sequence[Thought | Token],
    ) -> dict[str, Any]:
        """Return a response."""
        writer, model = self.writer(request, answer.request_id), answer.model_used or ""
        for one in said:
            if isinstance(one, Token):
                writer.word(one.text, model, one.phase)
            else:
                writer.thought(one.text, model, one.seal)
        writer.end(answer)
        return writer.response

    def writer(self, request: GatewayRequest, request_id: str) -> ResponsesWriter:
        """Return what writes a response's events."""
        return ResponsesWriter(request, request_id)


class ResponsesWriter:
    """One streamed response: items that are added, grow and are done one after the other."""

    def __init__(self, request: GatewayRequest, request_id: str) -> None:
        self._request = request
        self._request_id = request_id
        self._created = int(time.time())
        self._model = request.model
        self._begun = False
        self._number = 0
        self._items: list[dict[str, Any]] = []
        self._open: str | None = None
        """The type of the item that is open."""
        self._pieces: list[str] = []
        self._phase: str | None = None
        self.response: dict[str, Any] = {}
        """The whole of it, when it has ended."""

    def keep_alive(self) -> bytes:
        """Return an event of no known type: Codex's idle clock is not reset by a comment."""
        return self._begin(self._model) + b'event: ping\ndata: {"type":"ping"}\n\n'

    def word(self, text: str, model: str, phase: str | None = None) -> bytes:
        """Return a text delta, what must come before it first."""
        begin = self._begin(model)
        if phase != self._phase:
            begin += self._close()
            self._phase = phase
        if self._open != "message":  # what begins an item is apart as it is
            text = text.removeprefix(APART)
        if not text:
            return begin
        begin += self._add("message")
        self._pieces.append(text)
        where = {"item_id": self._id("msg"), "content_index": 0, "logprobs": []}
        return begin + self._event("response.output_text.delta", {"delta": text} | where)

    def thought(self, text: str, model: str, seal: Seal | None = None) -> bytes:
        """Return a delta of a reasoning item's summary, and what ends the item that is sealed."""
        if seal is not None and seal.kind != "encrypted":  # another wire's
            seal = None
        if not text and seal is None:
            return b""
        frames = self._begin(model) + self._add("reasoning")
        if text:
            where = {"item_id": self._id("rs"), "summary_index": 0}
            if not self._pieces:
                part = {"part": {"type": "summary_text", "text": ""}}
                frames += self._event("response.reasoning_summary_part.added", part | where)
            self._pieces.append(text)
            frames += self._event("response.reasoning_summary_text.delta", {"delta": text} | where)
        if seal is not None:
            frames += self._close(seal)
        return frames

    def end(self, answer: Answer) -> bytes:
        """Return what closes the open item, the calls, and the whole response."""
        frames = [
            self._begin(self._model if self._items or self._open else answer.model_used or "")
        ]
        if not answer.calls and not self._has_message:
            frames.append(self._add("message"))
        frames.append(self._close())
        for call in answer.calls:
            item = _called(call, self._request)
            is_custom = item["type"] == "custom_tool_call"
            field, event = ("input", CUSTOM) if is_custom else ("arguments", FUNCTION)
            begun = {"item": item | {field: "", "status": "in_progress"}}
            frames.append(self._event("response.output_item.added", begun))
            where = {"item_id": item["id"]}
            frames.append(self._event(f"{event}.delta", where | {"delta": item[field]}))
            done = where | {field: item[field]}
            frames.append(
                self._event(f"{event}.done", done if is_custom else done | {"name": item["name"]})
            )
            frames.append(self._done(item))
        made = _response(self._request, self._request_id, self._model, self._created)
        self.response = made | _ended(self._request, answer, self._items)
        kind = f"response.{self.response['status']}"
        frames.append(self._frame(kind, {"response": self.response}))
        return b"".join(frames)

    def failed(self, failure: Failure) -> bytes:
        """Return `response.failed` with a code that keeps Codex from asking again."""
        code = failure.code if failure.code == "context_length_exceeded" else None
        error = {"code": code or "server_is_overloaded", "message": failure.message}
        begin = self._begin(self._model)
        made = _response(self._request, self._request_id, self._model, self._created)
        made |= {"status": "failed", "error": error, "output": self._items}
        failed = self._frame("response.failed", {"response": made})
        # Codex leaves this out; the SDK raises it, where `response.failed` is one event of many.
        return begin + failed + self._frame("error", {"error": error})

    def _begin(self, model: str) -> bytes:
        if self._begun:
            self._model = model
            return b""
        self._begun, self._model = True, model
        made = {"response": _response(self._request, self._request_id, model, self._created)}
        created = self._frame("response.created", made)
        return created + self._frame("response.in_progress", made)

    def _add(self, kind: str) -> bytes:
        """Return what opens an item of a type, when none of it is open."""
        if self._open == kind:
            return b""
        closing = self._close()
        self._open = kind
        if kind == "reasoning":
            item = _reasoning(self._id("rs"), "")
            return closing + self._event("response.output_item.added", {"item": item})
        item = self._message("") | {"content": [], "status": "in_progress"}
        added = self._event("response.output_item.added", {"item": item})
        part = {"part": _text(""), "content_index": 0, "item_id": item["id"]}
        return closing + added + self._event("response.content_part.added", part)

    @property
    def _has_message(self) -> bool:
        return self._open == "message" or any(one["type"] == "message" for one in self._items)

    def _id(self, prefix: str) -> str:
        """Return the id of the item that is being written."""
        place = len(self._items)
        return f"{prefix}_{self._request_id}_{place}" if place else f"{prefix}_{self._request_id}"

    def _close(self, seal: Seal | None = None) -> bytes:
        if self._open is None:
            return b""
        kind, self._open = self._open, None
        text, self._pieces = "".join(self._pieces), []
        if kind == "reasoning":
            item = _reasoning(self._id("rs"), text, seal)
            where = {"item_id": item["id"], "summary_index": 0}
            done = b""
            if text:
                done += self._event("response.reasoning_summary_text.done", {"text": text} | where)
                part = {"part": {"type": "summary_text", "text": text}} | where
                done += self._event("response.reasoning_summary_part.done", part)
        else:
            item = self._message(text)
            where = {"item_id": item["id"], "content_index": 0}
            said = {"text": text, "logprobs": []} | where
            done = self._event("response.output_text.done", said)
            done += self._event("response.content_part.done", {"part": _text(text)} | where)
        return done + self._done(item)

    def _message(self, text: str) -> dict[str, Any]:
        phase = {} if self._phase is None else {"phase": self._phase}
        return {
            "id": self._id("msg"),
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [_text(text)],
        } | phase

    def _done(self, item: dict[str, Any]) -> bytes:
        done = self._event("response.output_item.done", {"item": item})
        self._items.append(item)
        return done

    def _event(self, kind: str, value: dict[str, Any]) -> bytes:
        """Return an event about the item that is being written."""
        return self._frame(kind, value | {"output_index": len(self._items)})

    def _frame(self, kind: str, value: dict[str, Any]) -> bytes:
        frame = sse(kind, {"type": kind, "sequence_number": self._number} | value)
        self._number += 1
        return frame


def _response(request: GatewayRequest, request_id: str, model: str, created: int) -> dict[str, Any]:
    return (
        DEFAULTS
        | request.echo
        | {
            "id": f"resp_{request_id}",
            "object": "response",
            "created_at": created,
            "status": "in_progress",
            "model": model,
            "output": [],
            "error": None,
            "incomplete_details": None,
            "usage": None,
            "store": False,
        }
    )


def _ended(request: GatewayRequest, answer: Answer, output: list[dict[str, Any]]) -> dict[str, Any]:
    prompt, completion = usage_of(request, answer)
    cut = answer.truncated
    return {
        "status": "incomplete" if cut else "completed",
        "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
        "output": output,
        "usage": {
            "input_tokens": prompt,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": completion,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": prompt + completion,
        },
    }


def _text(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _reasoning(item_id: str, text: str, seal: Seal | None = None) -> dict[str, Any]:
    summary = [{"type": "summary_text", "text": text}] if text else []
    encrypted = {} if seal is None else {"encrypted_content": sealed(seal)}
    return {"id": item_id, "type": "reasoning", "summary": summary} | encrypted


def _called(call: ToolCall, request: GatewayRequest) -> dict[str, Any]:
    form = request.call_forms.get(call.name, {})
    made = {"status": "completed", "call_id": call.id, "name": call.name}
    if form.get("type") == "custom_tool_call":
        text = decode_arguments(call).get("input")
        said = text if isinstance(text, str) else call.arguments
        return {"id": f"ctc_{call.id}", "input": said} | made | form
    said = call.arguments or "{}"
    return {"id": f"fc_{call.id}", "type": "function_call", "arguments": said} | made | form


def _conversation(given: Any) -> tuple[list[str], list[Message]]:
    """Return the system texts and the turns.

    Calls that one turn made come as items of their own: they are joined, with what was said before
    them, into one assistant's turn. So is reasoning that was sealed here, as it was for who has
    encrypted it; it keeps its place among the words and the calls. Items of other types (other
    reasoning, calls of a vendor's own tools) say nothing to another model and are left out.
    """
    if isinstance(given, str):
        return [], [Message("user", given)]
    system: list[str] = []
    turns: list[Message] = []
    role = None
    for item, where in entries(given, "input"):
        kind = item.get("type", "message")
        role = item.get("role") if kind == "message" else None
        if kind == "message":
            content, place = item.get("content"), f"{where}.content"
            if role in INSTRUCTING:
                system.append(text_in(content, place))
            elif role == "assistant":
                _add_words(turns, text_in(content, place), item.get("phase"))
            elif role == "user":
                turns.append(user_turn(content_of(content, place), part_of))
            else:
                known = "system, developer, user or assistant"
                raise RefusedError(400, f"{where}.role has to be {known}")
        elif kind == "reasoning":
            _add_thought(turns, item.get("encrypted_content"))
        elif kind in ("function_call", "custom_tool_call"):
            _add_call(turns, item, where)
        elif kind in ("function_call_output", "custom_tool_call_output"):
            turns.append(_result(item, where))
        elif kind == "item_reference":  # what the AI SDK sends unless `store` is false
            reason = f"an item_reference is not supported: {STATELESS}, and `store: false`"
            raise RefusedError(400, f"{where}: {reason}")
    asked_last(role, system, turns)
    thoughts_alone = (turn.raw and not turn.content and not turn.calls for turn in turns)
    kept = [turn for turn, alone in zip(turns, thoughts_alone, strict=True) if not alone]
    return system, named_results(kept)


def _add_thought(turns: list[Message], encrypted: Any) -> None:
    """Take reasoning, where it was sealed here, as a part of the turn that it has led to."""
    mark = unsealed(encrypted)
    if mark is None:
        return
    made_by, calls_before, data = mark
    try:
        thought = msgspec.json.decode(data, type=dict[str, Any])
    except msgspec.DecodeError:
        return
    if thought.get("type") == "reasoning":
        last = _own_turn(turns)
        raw = last.raw or ([assistant_item(last.content, last.phase)] if last.content else [])
        calls = [CALL] * (calls_before - raw.count(CALL))
        turns.append(msgspec.structs.replace(last, made_by=made_by, raw=[*raw, *calls, thought]))


def _add_words(turns: list[Message], text: str, phase: Any) -> None:
    phase = phase if isinstance(phase, str) else None
    last = turns[-1] if turns else None
    if last is None or not last.raw or last.raw[-1]["type"] != "reasoning":
        turns.append(Message("assistant", text, phase=phase))
        return
    content = "\n\n".join(filter(None, (last.content, text)))
    turns[-1] = msgspec.structs.replace(
        last, content=content, phase=phase, raw=[*last.raw, assistant_item(text, phase)]
    )


def _add_call(turns: list[Message], item: dict[str, Any], where: str) -> None:
    arguments = item.get("arguments")
    if item["type"] == "custom_tool_call":
        arguments = encode({"input": item.get("input")}).decode()
    call = ToolCall(
        id=string(item.get("call_id"), f"{where}.call_id"),
        name=_full_name(item.get("namespace"), string(item.get("name"), f"{where}.name")),
        arguments=string(arguments or "", f"{where}.arguments"),
    )
    last = _own_turn(turns)
    turns.append(msgspec.structs.replace(last, calls=(*last.calls, call)))


def _own_turn(turns: list[Message]) -> Message:
    """Take the assistant's turn that goes on, or begin one."""
    is_open = bool(turns) and turns[-1].role == "assistant"
    return turns.pop() if is_open else Message("assistant", "")


def _result(item: dict[str, Any], where: str) -> Message:
    called = string(item.get("call_id"), f"{where}.call_id")
    turn = user_turn(content_of(item.get("output"), f"{where}.output"), part_of)
    return Message("tool", turn.content, parts=turn.parts, call_id=called)


class _Tools:
    """The tools of a request, as tiers can be told of them."""

    def __init__(self) -> None:
        self.declared: list[ToolDeclaration] = []
        self.call_forms: dict[str, dict[str, Any]] = {}
        self.left_out: list[str] = []

    def add(self, tool: dict[str, Any], where: str, space: str | None = None) -> None:
        """Take one; its name is that of its namespace as well, where it has one."""
        kind = tool.get("type")
        if kind not in ("function", "custom"):
            self.left_out.append(str(kind))
            return
        own = string(tool.get("name"), f"{where}.name")
        name = _full_name(space, own)
        spaced = {"name": own, "namespace": space} if space is not None else {}
        if kind == "function":
            self.declared.append(declaration(name, tool, tool.get("parameters"), where))
        else:
            self.declared.append(declaration(name, _described(tool), INPUT, where))
            spaced |= {"type": "custom_tool_call"}
        if spaced:
            self.call_forms[name] = spaced


INPUT = {
    "type": "object",
    "properties": {"input": {"type": "string", "description": "The whole input, as plain text."}},
    "required": ["input"],
    "additionalProperties": False,
}
"""What a `custom` tool takes, as a function's parameters."""


def _full_name(space: Any, name: str) -> str:
    return f"{space}__{name}" if isinstance(space, str) else name


def _described(tool: dict[str, Any]) -> dict[str, Any]:
    """Return a custom tool's description with the grammar of its input, which no tier enforces."""
    text = tool.get("description") or ""
    form = tool.get("format")
    if isinstance(form, dict) and form.get("type") == "grammar":
        rule = f"The input has to match this grammar ({form.get('syntax')}):"
        text = f"{text}\n\n{rule}\n{form.get('definition')}".strip()
    return {"description": text}


def _tools(given: Any) -> _Tools:
    """Return the tools that a model can call: functions, `custom` ones, and those of a `namespace`.

    Codex (0.171.0) declares all of these. What only a vendor's own server does (`web_search`,
    `tool_search`, …) is left out.
    """
    tools = _Tools()
    for tool, where in entries(given or [], "tools"):
        if tool.get("type") == "namespace":
            space = string(tool.get("name"), f"{where}.name")
            for own, place in entries(tool.get("tools"), f"{where}.tools"):
                tools.add(own, place, space)
        else:
            tools.add(tool, where)
    return tools


def _schema(given: Any) -> OutputSchema | None:
    return None if given is None else schema_of(as_dict(given, "text.format"), "text.format")
