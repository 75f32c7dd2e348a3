"""Speak OpenAI's Chat Completions as a server: what every compatible client understands.

The inverse of `providers.openai`. Reference: https://platform.openai.com/docs/api-reference/chat
and the types of openai-python 3.57.0, `types/chat/`. What clients cannot do without: `choices` in
every chunk, `index`, `id` and `arguments` as text in every call, an `error` object in a stream that
dies.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Literal

from tieredllm.serve.wire import (
    INSTRUCTING,
    Failure,
    GatewayRequest,
    RefusedError,
    as_dict,
    asked_last,
    content_of,
    declaration,
    document_of,
    encode,
    entries,
    named_results,
    overrides,
    prompt_of,
    schema_of,
    source_of,
    string,
    text_in,
    usage_of,
    user_turn,
)
from tieredllm.types import (
    Answer,
    Image,
    Message,
    MessagePart,
    Options,
    OutputSchema,
    Seal,
    Thought,
    Token,
    ToolCall,
    ToolChoice,
    ToolDeclaration,
)

__all__ = ["ChatWire", "choice_of", "error_object", "part_of"]

FINISHES = {"stop": "stop", "length": "length", "repetition": "length", "tool_calls": "tool_calls"}
"""Our finish reasons in OpenAI's words; an answer that ran in circles was cut, too."""

ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    503: "server_error",
}


def error_object(status: int, message: str, code: str | None) -> dict[str, Any]:
    """Return an error as OpenAI's clients read it (openai-python 3.57.0, `_exceptions.py`)."""
    kind = ERROR_TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


class ChatWire:
    """`POST /v1/chat/completions`."""

    error = staticmethod(error_object)
    fails_in_stream = False

    def read(self, body: dict[str, Any]) -> GatewayRequest:
        """Read a request; fields that are not known are ignored.

        Raises:
            RefusedError: see `Wire`.
        """
        if body.get("n") not in (None, 1):
            raise RefusedError(400, "n has to be 1: a request gets one answer")
        if body.get("functions"):
            raise RefusedError(400, "functions is not supported: declare them as `tools`")
        system, turns = _conversation(body.get("messages"))
        tools, left_out = _tools(body.get("tools"))
        choice, tools = choice_of(body.get("tool_choice"), body.get("parallel_tool_calls"), tools)
        limit = body.get("max_completion_tokens")
        params = overrides(
            {name: body.get(name) for name in _SAME_NAMES}
            | {"max_tokens": body.get("max_tokens") if limit is None else limit}
        )
        reasoning = body.get("reasoning")
        effort = params.reasoning_effort
        stream_options = body.get("stream_options")
        return GatewayRequest(
            model=string(body.get("model"), "model"),
            prompt=prompt_of(system, turns),
            options=Options(
                params=params,
                schema=_schema(body.get("response_format")),
                caller_tools=tools,
                tool_choice=choice,
            ),
            stream=body.get("stream") is True,
            include_usage=isinstance(stream_options, dict)
            and stream_options.get("include_usage") is True,
            takes_thoughts=body.get("include_reasoning") is True
            or isinstance(reasoning, dict)
            or effort not in (None, "none"),
            left_out=left_out,
        )

    def whole(
        self,
        request: GatewayRequest,
        answer: Answer,
        said: Sequence[Thought | Token] = (),  # noqa: ARG002
    ) -> dict[str, Any]:
        """Return a `chat.completion`."""
        message: dict[str, Any] = {
            "role": "assistant",
            "content": answer.text or (None if answer.calls else ""),
            "refusal": None,
        }
        if answer.reasoning and request.takes_thoughts:
            message["reasoning_content"] = answer.reasoning
        if answer.calls:
            message["tool_calls"] = [_call(call) for call in answer.calls]
        return {
            "id": _id(answer.request_id),
            "object": "chat.completion",
            "created": int(time.time()),
            "model": answer.model_used,
            "choices": [
                {
                    "index": 0,
                    "message": message,
                    "logprobs": None,
                    "finish_reason": FINISHES.get(answer.finish_reason or "", "stop"),
                }
            ],
            "usage": _usage(request, answer),
        }

    def writer(self, request: GatewayRequest, request_id: str) -> ChatWriter:
        """Return what writes `chat.completion.chunk`s."""
        return ChatWriter(request, request_id)


class ChatWriter:
    """One streamed chat completion."""

    def __init__(self, request: GatewayRequest, request_id: str) -> None:
        self._request = request
        self._begun = False
        self._id = _id(request_id)
        self._created = int(time.time())
        self._model = ""
        self._head = b""

    def keep_alive(self) -> bytes:
        """Return a comment."""
        return b": keep-alive\n\n"

    def word(self, text: str, model: str, phase: str | None = None) -> bytes:  # noqa: ARG002
        """Return a chunk with text, the role before the first."""
        return self._begin(model) + self._delta(b'{"content":%s}' % encode(text))

    def thought(self, text: str, model: str, seal: Seal | None = None) -> bytes:  # noqa: ARG002
        """Return a chunk with a thought, in the field that DeepSeek, vLLM and llama.cpp use."""
        if not text:
            return b""
        return self._begin(model) + self._delta(b'{"reasoning_content":%s}' % encode(text))

    def end(self, answer: Answer) -> bytes:
        """Return the calls, the finish reason, the usage where it was asked for, and `[DONE]`."""
        frames = [self._begin(self._model or answer.model_used or "")]
        for index, call in enumerate(answer.calls):
            frames.append(self._delta(encode({"tool_calls": [{"index": index} | _call(call)]})))
        reason = FINISHES.get(answer.finish_reason or "", "stop")
        frames.append(b'%s{},"finish_reason":"%s"}]}\n\n' % (self._head, reason.encode()))
        if self._request.include_usage:
            chunk = self._chunk() | {"choices": [], "usage": _usage(self._request, answer)}
            frames.append(b"data: %s\n\n" % encode(chunk))
        frames.append(b"data: [DONE]\n\n")
        return b"".join(frames)

    def failed(self, failure: Failure) -> bytes:
        """Return an `error` object, which the SDK raises; no `[DONE]` comes after it."""
        value = error_object(failure.status, failure.message, failure.code)
        return b"data: %s\n\n" % encode(value)

    def _chunk(self) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": "chat.completion.chunk",
            "created": self._created,
            "model": self._model,
        }

    def _begin(self, model: str) -> bytes:
        """Return the first chunk, when it was not sent yet; from then on name this model."""
        if model != self._model:
            self._model = model
            self._head = b'data: %s,"choices":[{"index":0,"delta":' % encode(self._chunk())[:-1]
        if self._begun:
            return b""
        self._begun = True
        return self._delta(b'{"role":"assistant","content":""}')

    def _delta(self, delta: bytes) -> bytes:
        return b'%s%s,"finish_reason":null}]}\n\n' % (self._head, delta)


_SAME_NAMES = (
    "temperature",
    "top_p",
    "frequency_penalty",
    "presence_penalty",
    "stop",
    "seed",
    "reasoning_effort",
)
"""The parameters that OpenAI and we call the same."""


def _conversation(messages: Any) -> tuple[list[str], list[Message]]:
    system: list[str] = []
    turns: list[Message] = []
    role = None
    for message, where in entries(messages, "messages"):
        role, content, place = message.get("role"), message.get("content"), f"{where}.content"
        if role in INSTRUCTING:
            system.append(text_in(content, place))
        elif role == "user":
            turns.append(user_turn(content_of(content, place), part_of))
        elif role == "assistant":
            calls = _calls(message.get("tool_calls"), where)
            turns.append(Message("assistant", text_in(content, place), calls=calls))
        elif role == "tool":
            called = string(message.get("tool_call_id"), f"{where}.tool_call_id")
            turns.append(Message("tool", text_in(content, place), call_id=called))
        else:
            known = "system, developer, user, assistant or tool"
            raise RefusedError(400, f"{where}.role has to be {known}")
    asked_last(role, system, turns)
    return system, named_results(turns)


def part_of(part: dict[str, Any], where: str) -> MessagePart | str:
    """Return an image or a document, of Chat Completions or of the Responses API; see `user_turn`.

    Raises:
        RefusedError: it is another part, or has no data.
    """
    kind, inner = part.get("type"), _inner(part)
    if kind in ("image_url", "input_image"):
        url = string(inner.get("url") or inner.get("image_url"), f"{where}.image_url")
        detail = inner.get("detail")
        closely = detail if detail in ("low", "high", "auto") else None
        return Image(**source_of(url, where), detail=closely)
    if kind in ("file", "input_file"):
        url = string(inner.get("file_data") or inner.get("file_url"), f"{where}.file_data")
        return document_of(source_of(url, where), inner.get("filename"), where)
    raise RefusedError(400, f"{where}: no tier takes a part of type {kind!r}")


def _calls(given: Any, where: str) -> tuple[ToolCall, ...]:
    calls = []
    for call, place in entries(given or [], f"{where}.tool_calls"):
        function = as_dict(call.get("function"), f"{place}.function")
        name = string(function.get("name"), f"{place}.function.name")
        arguments = function.get("arguments") or ""
        if not isinstance(arguments, str):
            arguments = encode(arguments).decode()
        calls.append(
            ToolCall(id=string(call.get("id"), f"{place}.id"), name=name, arguments=arguments)
        )
    return tuple(calls)


def _tools(given: Any) -> tuple[tuple[ToolDeclaration, ...], tuple[str, ...]]:
    """Return the function tools, and the types of the others, which no tier could make use of."""
    tools: list[ToolDeclaration] = []
    left_out: list[str] = []
    for tool, where in entries(given or [], "tools"):
        if tool.get("type") == "function":
            function = as_dict(tool.get("function"), f"{where}.function")
            schema = function.get("parameters")
            tools.append(declaration(function.get("name"), function, schema, where))
        else:
            left_out.append(str(tool.get("type")))
    return tuple(tools), tuple(left_out)


def choice_of(
    given: Any, parallel: Any, tools: tuple[ToolDeclaration, ...]
) -> tuple[ToolChoice, tuple[ToolDeclaration, ...]]:
    """Return whether and what a model is to call, and those of the tools that it may.

    Args:
        given: the request's `tool_choice`, of Chat Completions or of the Responses API.
        parallel: its `parallel_tool_calls`.
        tools: those that are declared.

    Raises:
        RefusedError: it names no tool where it has to, or requires one of none.
    """
    several = parallel if isinstance(parallel, bool) else None
    if given in ("none", "required"):
        return ToolChoice(mode=given, parallel=several), tools
    kind = given.get("type") if isinstance(given, dict) else None
    if kind in ("function", "custom"):
        name = string(_inner(given).get("name"), "tool_choice.name")
        if kind == "function" or any(tool.name == name for tool in tools):
            return ToolChoice(mode="required", name=name, parallel=several), tools
    if kind == "allowed_tools":
        allowed = entries(_inner(given).get("tools"), "tool_choice.tools")
        names = [_inner(tool).get("name") for tool, _ in allowed]
        mode: Literal["auto", "required"] = (
            "required" if _inner(given).get("mode") == "required" else "auto"
        )
        kept = tuple(tool for tool in tools if tool.name in names)
        if mode == "required" and not kept:
            raise RefusedError(400, "tool_choice.tools names no declared tool")
        return ToolChoice(mode=mode, parallel=several), kept
    return ToolChoice(parallel=several), tools


def _inner(given: dict[str, Any]) -> dict[str, Any]:
    """Return what stands below the name of its type (Chat Completions) or beside it (Responses)."""
    inner = given.get(str(given.get("type")))
    return inner if isinstance(inner, dict) else given


def _schema(given: Any) -> OutputSchema | None:
    if given is None:
        return None
    wanted = as_dict(given, "response_format")
    if wanted.get("type") == "json_schema":
        return schema_of(
            as_dict(wanted.get("json_schema"), "response_format.json_schema"),
            "response_format.json_schema",
        )
    return schema_of(wanted, "response_format")


def _call(call: ToolCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments or "{}"}
    return {"id": call.id, "type": "function", "function": function}


def _usage(request: GatewayRequest, answer: Answer) -> dict[str, int]:
    prompt, completion = usage_of(request, answer)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }


def _id(request_id: str) -> str:
    return f"chatcmpl-{request_id}"
