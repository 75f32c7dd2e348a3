"""Speak Anthropic's Messages API as a server.

The inverse of `providers.anthropic`. Reference: https://platform.claude.com/docs/en/api/messages
and the types of anthropic-sdk-python 2.14.0. What its clients cannot do without: an `event:` line
for each frame, `message_start` first, blocks numbered from 0 without a gap, and a
`content_block_stop` for each.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

import msgspec

from tieredllm.providers.accumulator import APART
from tieredllm.providers.tool_calls import decode_arguments
from tieredllm.serve.wire import (
    Failure,
    GatewayRequest,
    RefusedError,
    as_dict,
    declaration,
    document_of,
    encode,
    entries,
    estimate_asked,
    estimate_sent,
    from_base64,
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
    Image,
    Message,
    MessagePart,
    Options,
    Seal,
    Thought,
    Token,
    ToolCall,
    ToolChoice,
    ToolDeclaration,
)

__all__ = ["MessagesWire", "error_object"]

STOPS = {"stop": "end_turn", "length": "max_tokens", "repetition": "max_tokens"}
"""Our finish reasons in Anthropic's words; an answer that ran in circles was cut, too."""

ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
}
"""https://platform.claude.com/docs/en/api/errors; a 503 is no `overloaded_error`: Claude Code
2.1.197 takes that for a 529, which it repeats whatever `x-should-retry` says."""


TOO_LONG = "prompt is too long"
"""What Claude Code (2.1.197) knows a full context by, and then offers to compact the conversation;
Anthropic's errors have no code for it."""


THREADLESS = "thread_unsupported_request"
"""What a client knows by that no conversation is kept here: it sends the whole of it, then and from
then on (anthropic 2.14.0, `lib/threads/_thread_state.py`)."""


def error_object(status: int, message: str, code: str | None) -> dict[str, Any]:
    """Return an error as Anthropic's clients read it."""
    if code == "context_length_exceeded":
        message = f"{TOO_LONG}: {message}"
    kind = ERROR_TYPES.get(status, "api_error" if status >= 500 else "invalid_request_error")
    details = {"details": {"error_code": code}} if code == THREADLESS else {}
    return {"type": "error", "error": {"type": kind, "message": message} | details}


class MessagesWire:
    """`POST /v1/messages`."""

    error = staticmethod(error_object)
    fails_in_stream = False

    def read(self, body: dict[str, Any]) -> GatewayRequest:
        """Read a request; betas, fields and tools that are not known are ignored.

        Raises:
            RefusedError: see `Wire`; or it goes on from what a server would have to keep.
        """
        thread = body.get("thread")
        if isinstance(thread, dict) and thread.get("type") != "create":
            message = "thread: nothing is kept between requests: send the whole conversation"
            raise RefusedError(400, message, code=THREADLESS)
        system, turns = _conversation(body)
        output = body.get("output_config")
        output = output if isinstance(output, dict) else {}
        thinking = body.get("thinking")
        thinks = isinstance(thinking, dict) and thinking.get("type") in ("enabled", "adaptive")
        tools, left_out = _tools(body.get("tools"))
        form = output.get("format") or body.get("output_format")
        return GatewayRequest(
            model=string(body.get("model"), "model"),
            prompt=prompt_of(system, turns),
            options=Options(
                params=overrides(
                    {
                        "max_tokens": body.get("max_tokens"),
                        "temperature": body.get("temperature"),
                        "top_p": body.get("top_p"),
                        "stop": body.get("stop_sequences"),
                        "reasoning_effort": output.get("effort"),
                    }
                ),
                schema=None if form is None else schema_of(as_dict(form, "output_config.format")),
                caller_tools=tools,
                tool_choice=_choice(body.get("tool_choice")),
            ),
            stream=body.get("stream") is True,
            takes_thoughts=thinks,
            left_out=left_out,
        )

    def count(self, body: dict[str, Any]) -> int:
        """Estimate a request's tokens; unlike one to be answered it may end with any turn.

        Raises:
            RefusedError: see `Wire`.
        """
        system, turns = _conversation(body)
        told = [Message("system", text) for text in system]
        return estimate_sent([*told, *turns], _tools(body.get("tools"))[0])

    def whole(
        self, request: GatewayRequest, answer: Answer, said: Sequence[Thought | Token]
    ) -> dict[str, Any]:
        """Return a message."""
        content = _blocks(said)
        if not content and not answer.calls:
            content.append({"type": "text", "text": ""})
        content += [_tool_use(call) | {"input": decode_arguments(call)} for call in answer.calls]
        prompt, completion = usage_of(request, answer)
        message = _message(answer.request_id, answer.model_used or "", content)
        return message | {
            "stop_reason": _stop(answer),
            "usage": {"input_tokens": prompt, "output_tokens": completion},
        }

    def writer(self, request: GatewayRequest, request_id: str) -> MessagesWriter:
        """Return what writes a message's events."""
        return MessagesWriter(request, request_id)


class MessagesWriter:
    """One streamed message: blocks that are opened, grow and are closed one after the other."""

    def __init__(self, request: GatewayRequest, request_id: str) -> None:
        self._request = request
        self._request_id = request_id
        self._begun = False
        self._index = -1
        self._open: str | None = None
        """The type of the block that is open."""

    def keep_alive(self) -> bytes:
        """Return a comment; a `ping` before `message_start` would be a frame out of order."""
        return b": keep-alive\n\n"

    def word(self, text: str, model: str, phase: str | None = None) -> bytes:  # noqa: ARG002
        """Return a text delta, what must come before it first."""
        begin = self._begin(model)
        if self._open != "text":  # what begins a block is apart as it is
            text = text.removeprefix(APART)
        if not text:
            return begin
        begin += self._block("text", {"type": "text", "text": ""})
        return begin + self._delta(b'{"type":"text_delta","text":%s}' % encode(text))

    def thought(self, text: str, model: str, seal: Seal | None = None) -> bytes:
        """Return a thinking delta, and what closes the block that it signs.

        The signature of a block that nobody has signed is empty.
        """
        frames = self._begin(model)
        if seal is not None and seal.kind == "encrypted":  # another wire's
            seal = None
        if text or (seal is not None and seal.kind == "signature"):
            block = {"type": "thinking", "thinking": "", "signature": ""}
            frames += self._block("thinking", block)
        if text:
            frames += self._delta(b'{"type":"thinking_delta","thinking":%s}' % encode(text))
        if seal is None:
            return frames
        if seal.kind == "redacted":
            frames += self._close()
            frames += self._block("redacted", {"type": "redacted_thinking", "data": sealed(seal)})
        else:
            signature = encode(sealed(seal))
            frames += self._delta(b'{"type":"signature_delta","signature":%s}' % signature)
        return frames + self._close()

    def end(self, answer: Answer) -> bytes:
        """Return the calls, each a block of its own, the stop reason and the usage."""
        frames = [self._begin(answer.model_used or "")]
        for call in answer.calls:
            frames.append(self._close())
            frames.append(self._block("tool_use", _tool_use(call) | {"input": {}}))
            arguments = encode(encode(decode_arguments(call)).decode())
            frames.append(self._delta(b'{"type":"input_json_delta","partial_json":%s}' % arguments))
        if self._index < 0:
            frames.append(self._block("text", {"type": "text", "text": ""}))
        frames.append(self._close())
        prompt, completion = usage_of(self._request, answer)
        ended = {
            "type": "message_delta",
            "delta": {"stop_reason": _stop(answer), "stop_sequence": None},
            "usage": {"input_tokens": prompt, "output_tokens": completion},
        }
        frames.append(sse("message_delta", ended))
        frames.append(sse("message_stop", {"type": "message_stop"}))
        return b"".join(frames)

    def failed(self, failure: Failure) -> bytes:
        """Return an `error` event; what is open stays open, so that nothing looks whole."""
        return sse("error", error_object(failure.status, failure.message, failure.code))

    def _begin(self, model: str) -> bytes:
        if self._begun:
            return b""
        self._begun = True
        message = _message(self._request_id, model, [])
        # LangChain's (JavaScript, 1.5.11) and older SDKs look for it here alone; the count that the
        # end brings is the better one.
        message["usage"]["input_tokens"] = estimate_asked(self._request)
        return sse("message_start", {"type": "message_start", "message": message})

    def _block(self, kind: str, block: dict[str, Any]) -> bytes:
        """Return what opens a block of a type, when none of it is open."""
        if self._open == kind:
            return b""
        closing = self._close()
        self._open = kind
        self._index += 1
        opened = {"type": "content_block_start", "index": self._index, "content_block": block}
        return closing + sse("content_block_start", opened)

    def _close(self) -> bytes:
        if self._open is None:
            return b""
        self._open = None
        closed = {"type": "content_block_stop", "index": self._index}
        return sse("content_block_stop", closed)

    def _delta(self, delta: bytes) -> bytes:
        head = b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,'
        return (head + b'"delta":%s}\n\n') % (self._index, delta)


def _message(request_id: str, model: str, content: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "id": f"msg_{request_id}",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": content,
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": 0, "output_tokens": 0},
    }


def _blocks(said: Sequence[Thought | Token]) -> list[dict[str, Any]]:
    """Return what was said and thought as blocks, one for all that comes without a break."""
    blocks: list[dict[str, Any]] = []
    open_kind = ""
    for one in said:
        seal = one.seal if isinstance(one, Thought) else None
        kind = "text" if isinstance(one, Token) else "thinking"
        text = one.text
        if kind == "text" != open_kind:
            text = text.removeprefix(APART)
        if text or (seal is not None and seal.kind == "signature"):
            if kind != open_kind:
                signed = {"signature": ""} if kind == "thinking" else {}
                blocks.append({"type": kind, kind: ""} | signed)
            blocks[-1][kind] += text
            open_kind = kind
        if seal is not None and seal.kind == "signature":
            blocks[-1]["signature"] = sealed(seal)
            open_kind = ""
        elif seal is not None and seal.kind == "redacted":
            blocks.append({"type": "redacted_thinking", "data": sealed(seal)})
            open_kind = ""
    return blocks


def _stop(answer: Answer) -> str:
    return "tool_use" if answer.calls else STOPS.get(answer.finish_reason or "", "end_turn")


def _tool_use(call: ToolCall) -> dict[str, Any]:
    return {"type": "tool_use", "id": call.id, "name": call.name}


def _conversation(body: dict[str, Any]) -> tuple[list[str], list[Message]]:
    """Return the system texts and the turns.

    A `system` message may stand in the middle (the beta `mid-conversation-system-2026-04-07`, which
    Claude Code uses for models whose names it does not know).
    """
    system: list[str] = []
    turns: list[Message] = []
    if body.get("system") is not None:
        system.append(text_in(body["system"], "system"))
    for message, where in entries(body.get("messages"), "messages"):
        role, content = message.get("role"), message.get("content")
        place = f"{where}.content"
        if role == "system":
            system.append(text_in(content, place))
        elif role == "user":
            turns += _user_turns(content, place)
        elif role == "assistant":
            turns.append(_assistant_turn(content, place))
        else:
            raise RefusedError(400, f"{where}.role has to be user, assistant or system")
    return system, named_results(turns)


def _user_turns(content: Any, where: str) -> list[Message]:
    """Return one user's message as the results it carries, then what it says besides."""
    if isinstance(content, str):
        return [Message("user", content)]
    results: list[Message] = []
    others = []
    for block, place in entries(content, where):
        if block.get("type") == "tool_result":
            results.append(_result(block, place))
        else:
            others.append((block, place))
    if others or not results:
        results.append(user_turn(others, _part))
    return results


def _result(block: dict[str, Any], where: str) -> Message:
    content = block.get("content")
    texts: list[str] = []
    parts: list[MessagePart] = []
    blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
    for inner, place in entries(blocks or [], f"{where}.content"):
        if inner.get("type") == "text":
            texts.append(string(inner.get("text"), f"{place}.text"))
        elif inner.get("type") in ("image", "document"):
            made = _part(inner, place)
            if isinstance(made, str):
                texts.append(made)
            else:
                parts.append(made)
        else:  # such as `search_result`: what it says is better than nothing
            texts.append(encode(inner).decode())
    return Message(
        "tool",
        "\n\n".join(texts),
        parts=tuple(parts),
        call_id=string(block.get("tool_use_id"), f"{where}.tool_use_id"),
        is_error=block.get("is_error") is True,
    )


def _assistant_turn(content: Any, where: str) -> Message:
    """Return what was said and called, and the blocks as they were for who has signed thoughts.

    Thoughts that nobody here has signed are left out.
    """
    if isinstance(content, str):
        return Message("assistant", content)
    texts: list[str] = []
    calls: list[ToolCall] = []
    raw: list[dict[str, Any] | None] = []
    """The blocks as they were; None for the next call, where a thought came after it."""
    made: list[dict[str, Any]] = []
    makers: set[str] = set()
    for block, place in entries(content, where):
        field = {"thinking": "signature", "redacted_thinking": "data"}.get(str(block.get("type")))
        if field is not None:
            if (mark := unsealed(block.get(field))) is not None:
                made_by, calls_before, data = mark
                makers.add(made_by)
                raw += [None] * (calls_before - raw.count(None))
                raw.append(block | {field: data})
            continue
        if block.get("type") == "tool_use":
            made.append(block)
        elif block.get("type") != "text" or str(block.get("text") or "").strip():
            raw.append(block)
        if block.get("type") == "text":
            texts.append(string(block.get("text"), f"{place}.text"))
        elif block.get("type") == "tool_use":
            calls.append(
                ToolCall(
                    id=string(block.get("id"), f"{place}.id"),
                    name=string(block.get("name"), f"{place}.name"),
                    arguments=encode(block.get("input") or {}).decode(),
                )
            )
    turn = Message("assistant", "\n\n".join(texts), calls=tuple(calls))
    if len(makers) != 1:
        return turn
    rest = iter(made)
    blocks = [block for one in raw for block in (islice(rest, 1) if one is None else (one,))]
    return msgspec.structs.replace(turn, made_by=makers.pop(), raw=[*blocks, *rest])


def _part(block: dict[str, Any], where: str) -> MessagePart | str:
    """Return an image or a document; see `user_turn`."""
    kind = block.get("type")
    if kind not in ("image", "document"):
        raise RefusedError(400, f"{where}: no tier takes a block of type {kind!r}")
    source = as_dict(block.get("source"), f"{where}.source")
    form, name = source.get("type"), block.get("title")
    media_type = source.get("media_type")
    found: dict[str, Any] = {"media_type": media_type if isinstance(media_type, str) else None}
    if form == "url":
        found = {"url": string(source.get("url"), f"{where}.source.url")}
    elif form == "base64":
        found["data"] = from_base64(source.get("data"), f"{where}.source.data")
    elif kind == "document" and form in ("text", "content"):
        field = "data" if form == "text" else form
        text = text_in(source.get(field), f"{where}.source.{field}")
        found = {"media_type": "text/plain", "data": text.encode()}
    else:
        raise RefusedError(400, f"{where}.source.type has to be base64 or url")
    return Image(**found) if kind == "image" else document_of(found, name, where)


def _tools(given: Any) -> tuple[tuple[ToolDeclaration, ...], tuple[str, ...]]:
    """Return the client's own tools, and the types of those that only Anthropic's models know.

    Those have no schema: its server runs them, or its models know how to call them.
    """
    tools: list[ToolDeclaration] = []
    left_out: list[str] = []
    for tool, where in entries(given or [], "tools"):
        if tool.get("type") in (None, "custom") and "input_schema" in tool:
            tools.append(declaration(tool.get("name"), tool, tool["input_schema"], where))
        else:
            left_out.append(str(tool.get("type")))
    return tuple(tools), tuple(left_out)


def _choice(given: Any) -> ToolChoice:
    if not isinstance(given, dict):
        return ToolChoice()
    parallel = False if given.get("disable_parallel_tool_use") is True else None
    match given.get("type"):
        case "none":
            return ToolChoice(mode="none")
        case "any":
            return ToolChoice(mode="required", parallel=parallel)
        case "tool":
            name = string(given.get("name"), "tool_choice.name")
            return ToolChoice(mode="required", name=name, parallel=parallel)
    return ToolChoice(parallel=parallel)
