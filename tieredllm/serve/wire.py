"""Define what the three wires have in common: a request read, a failure, and a stream written.

A wire is the inverse of a provider's adapter: it reads what a vendor's client sends and writes what
that vendor's server would. `chat`, `messages` and `responses` are OpenAI's Chat Completions,
Anthropic's Messages and OpenAI's Responses.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any, Protocol

import msgspec

from tieredllm.kinds import ErrorKind
from tieredllm.prompts.fit import estimate_tokens
from tieredllm.prompts.policies import tokens_of
from tieredllm.roles import attached_text
from tieredllm.text import escape_json
from tieredllm.types import (
    Answer,
    Attachment,
    Document,
    Message,
    MessagePart,
    Options,
    OutputSchema,
    ParamOverrides,
    Prompt,
    Seal,
    Thought,
    Token,
    ToolDeclaration,
    last_failures,
    media_type,
)

__all__ = [
    "Failure",
    "GatewayRequest",
    "RefusedError",
    "StreamWriter",
    "Wire",
    "estimate_asked",
    "estimate_sent",
    "failure_of",
    "overrides",
    "prompt_of",
    "source_of",
    "sse",
    "usage_of",
]

MAX_TOKENS = 1_000_000
"""The most tokens an answer can be allowed; clients ask for more where they mean no limit."""

PDF = "application/pdf"

INSTRUCTING = ("system", "developer")
"""OpenAI's roles for instructions: `developer` for models that think."""

TEXTS = ("text", "input_text", "output_text", "refusal")
"""The types of text parts, in what is sent and in what comes back, of all three protocols."""

_encode = msgspec.json.Encoder().encode


def encode(value: Any) -> bytes:
    """Return JSON that is one line for every client.

    Some read a stream of events with httpx's `iter_lines`, which splits as `str.splitlines` does,
    and lose the words of an event that is split (findings/litellm-line-separators.sh).
    """
    return escape_json(_encode(value).decode()).encode()


class RefusedError(Exception):
    """A request is refused; becomes the protocol's own error object.

    Args:
        status: the HTTP status.
        message: what is wrong, where, and what to do.
        code: the protocol's word for it, where it has one.
        headers: more of the response's headers.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        headers: Iterable[tuple[str, str]] = (),
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.headers = tuple(headers)


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """Why there is no answer."""

    status: int
    """The HTTP status that says it."""
    message: str
    code: str | None = None
    """`context_length_exceeded`, `content_filter` or None."""


class GatewayRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What a client asks for, whatever its protocol."""

    model: str
    """The model's name, as the client wrote it."""
    prompt: Prompt
    options: Options
    stream: bool = False
    include_usage: bool = False
    """Whether a stream of chat completions is to end with a count of tokens."""
    takes_thoughts: bool = False
    """Whether the client shows, or at least expects, what a model thinks."""
    echo: dict[str, Any] = {}
    """What the Responses API tells the client of its own request."""
    call_forms: dict[str, dict[str, Any]] = {}
    """How a call of a tool is written to the client where it is not a plain function's, by the name
    that tiers know the tool by."""
    left_out: tuple[str, ...] = ()
    """The types of the declared tools that no tier could call."""


MARK = "|tieredllm|"
"""Stands between a backend's identity and what it signs thoughts with: nothing is kept here, and
no other backend may be sent it."""


MOST_DIGITS = 4
"""How many digits no number of calls has."""


def sealed(seal: Seal) -> str:
    """Return what signs a thought together with whose it is and where: the client brings it back.

    Calls are told last, whatever came after them.
    """
    place = f"{seal.calls_before}{MARK}" if seal.calls_before else ""
    return f"{seal.made_by}{MARK}{place}{seal.data}"


def unsealed(text: Any) -> tuple[str, int, str] | None:
    """Return whose a seal is, how many calls came before it, and what signs the thought.

    None for one not sealed here.
    """
    made_by, marked, data = text.partition(MARK) if isinstance(text, str) else ("", "", "")
    if not marked:
        return None
    place, _, rest = data.partition(MARK)
    if place.isdecimal() and len(place) < MOST_DIGITS:
        return made_by, int(place), rest
    return made_by, 0, data


class StreamWriter(Protocol):
    """Writes one streamed answer, frame by frame; what must come first comes with the first."""

    def keep_alive(self) -> bytes:
        """Return what keeps a waiting client waiting; no answer has begun with it."""
        ...

    def word(self, text: str, model: str, phase: str | None = None) -> bytes:
        """Return the frames for a piece of the answer."""
        ...

    def thought(self, text: str, model: str, seal: Seal | None = None) -> bytes:
        """Return the frames for a piece of what the model thinks, and for what signs it."""
        ...

    def end(self, answer: Answer) -> bytes:
        """Return the frames for all that is left of a complete answer: its calls and its end."""
        ...

    def failed(self, failure: Failure) -> bytes:
        """Return the frames that say that this answer stays half."""
        ...


class Wire(Protocol):
    """A protocol: how requests are read and answers are written."""

    fails_in_stream: bool
    """Whether a streamed request fails inside a stream even when nothing was sent yet."""

    def read(self, body: dict[str, Any]) -> GatewayRequest:
        """Read a request.

        Raises:
            RefusedError: it asks for what cannot be done, or has no known shape.
        """
        ...

    def error(self, status: int, message: str, code: str | None) -> dict[str, Any]:
        """Return the protocol's error object."""
        ...

    def whole(
        self, request: GatewayRequest, answer: Answer, said: Sequence[Thought | Token]
    ) -> dict[str, Any]:
        """Return a complete answer as one object: its thoughts and words in order, and its calls.

        There are no thoughts where the client takes none.
        """
        ...

    def writer(self, request: GatewayRequest, request_id: str) -> StreamWriter:
        """Return what writes one streamed answer."""
        ...


def sse(event: str, value: dict[str, Any]) -> bytes:
    """Return one server-sent event with its name (WHATWG HTML, section 9.2)."""
    return b"event: %s\ndata: %s\n\n" % (event.encode(), encode(value))


def overrides(values: dict[str, Any]) -> ParamOverrides:
    """Return a request's own sampling parameters.

    Args:
        values: by the names of `ParamOverrides`; None for what is not given.

    Raises:
        RefusedError: a value is of a wrong type or out of its range.
    """
    given = {name: value for name, value in values.items() if value is not None}
    if isinstance(stop := given.get("stop"), str):
        given["stop"] = [stop]
    if isinstance(given.get("stop"), list):
        given["stop"] = [text for text in given["stop"] if text != ""]
    if isinstance(seed := given.get("seed"), int):
        given["seed"] = seed % 2**31  # vendors take 64 bits, and negative ones
    if isinstance(tokens := given.get("max_tokens"), int):
        given["max_tokens"] = min(tokens, MAX_TOKENS)
    try:
        return msgspec.convert(given, ParamOverrides)
    except msgspec.ValidationError as exc:
        raise RefusedError(400, f"a parameter is wrong: {exc}") from exc


def prompt_of(system: Sequence[str], turns: Sequence[Message]) -> Prompt:
    """Return a conversation as a prompt: the last user's turn is the question.

    Args:
        system: the texts of its system messages.
        turns: the others, oldest first.

    Raises:
        RefusedError: it does not end with a user's turn or a tool's result.
    """
    joined = "\n\n".join(text for text in system if text.strip()) or None
    if not turns or turns[-1].role == "assistant":
        message = "the conversation has to end with a user's message or a tool's result"
        raise RefusedError(400, message)
    last = turns[-1]
    if last.role == "tool":
        return Prompt(question="", system=joined, history=tuple(turns))
    prompt = Prompt(
        question=last.content, system=joined, history=tuple(turns[:-1]), parts=last.parts
    )
    if prompt.is_empty:
        raise RefusedError(400, "the last message is empty")
    return prompt


def source_of(url: str, where: str) -> dict[str, Any]:
    """Return where an image or a document is, as the fields of `Image` and `Document`.

    Args:
        url: a `data:` URL (RFC 2397) with base64, or one of the web.
        where: the place in the request, for a refusal.

    Raises:
        RefusedError: it is another URL.
    """
    if url.startswith(("https://", "http://")):
        return {"url": url}
    head, comma, data = url.partition(",")
    if not head.startswith("data:") or not comma or not head.endswith(";base64"):
        raise RefusedError(400, f"{where}: neither an https URL nor `data:…;base64,…`")
    return {"media_type": head[5:].split(";")[0] or None, "data": from_base64(data, where)}


def document_of(source: dict[str, Any], name: Any, where: str) -> Document | str:
    """Return a PDF document, or the text of one that is text, as a model is told it.

    Args:
        source: where it is; see `source_of`.
        name: the file's name.
        where: the place in the request, for a refusal.

    Raises:
        RefusedError: it is neither.
    """
    name = name if isinstance(name, str) and name else None
    data, kind = source.get("data", b""), (source.get("media_type") or "").lower()
    if "data" not in source or PDF in (kind, media_type(data)):
        return Document(**source | ({"media_type": PDF} if data else {}), name=name)
    with suppress(UnicodeDecodeError):
        # Clients name text by any type (`application/octet-stream`, `application/xml`).
        text = data.decode("utf-8-sig")
        if "\0" not in text and (data or kind.startswith("text/")):
            return attached_text(Attachment(text=text, name=name))
    raise RefusedError(400, f"{where}: a document has to be a PDF or text in UTF-8, not {kind!r}")


def from_base64(data: Any, where: str) -> bytes:
    """Return the bytes behind base64 text.

    Raises:
        RefusedError: it is none.
    """
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError, TypeError) as exc:
        raise RefusedError(400, f"{where}: the data is not base64") from exc


def declaration(name: Any, described: dict[str, Any], schema: Any, where: str) -> ToolDeclaration:
    """Return a client's tool.

    Args:
        name: its name.
        described: the object that has its `description` and `strict`.
        schema: the JSON Schema of its arguments; an empty object when None.
        where: the place in the request, for a refusal.

    Raises:
        RefusedError: it has no name, or the schema is no object.
    """
    if not isinstance(name, str) or not name:
        raise RefusedError(400, f"{where}: the tool has no name")
    if schema is None:
        schema = {"type": "object", "properties": {}}
    if not isinstance(schema, dict):
        raise RefusedError(400, f"{where}: the schema of {name} is no JSON object")
    description, strict = described.get("description"), described.get("strict")
    return ToolDeclaration(
        name=name,
        description=description if isinstance(description, str) else "",
        parameters=schema,
        strict=strict if isinstance(strict, bool) else None,
    )


def text_in(content: Any, where: str) -> str:
    """Return the text of a string or of a list of text parts.

    Args:
        content: what the client sent; None is no text.
        where: its place in the request, for a refusal.

    Raises:
        RefusedError: something else is in it.
    """
    if content is None or isinstance(content, str):
        return content or ""
    texts = []
    for number, part in enumerate(as_list(content, where)):
        place = f"{where}[{number}]"
        if isinstance(part, str):
            texts.append(part)
        elif isinstance(part, dict) and part.get("type") in TEXTS:
            texts.append(text_of(part, place))
        else:
            raise RefusedError(400, f"{place}: only text is understood here")
    return "\n\n".join(texts)


def text_of(part: dict[str, Any], where: str) -> str:
    """Return the text of a text part; that of a refusal has a field of its own."""
    field = "refusal" if part["type"] == "refusal" else "text"
    return string(part.get(field), f"{where}.{field}")


def user_turn(
    given: str | Iterable[tuple[dict[str, Any], str]],
    part_of: Callable[[dict[str, Any], str], MessagePart | str],
) -> Message:
    """Return a user's message: its texts in one, its images and documents beside them.

    Args:
        given: its text, or its parts with their places in the request.
        part_of: reads a part of another type; what is text all the same stands among the texts.
    """
    if isinstance(given, str):
        return Message("user", given)
    texts: list[str] = []
    parts: list[MessagePart] = []
    for part, where in given:
        if part.get("type") in TEXTS:
            texts.append(text_of(part, where))
        elif isinstance(made := part_of(part, where), str):
            texts.append(made)
        else:
            parts.append(made)
    return Message("user", "\n\n".join(texts), parts=tuple(parts))


def content_of(value: Any, where: str) -> str | Iterator[tuple[dict[str, Any], str]]:
    """Return a text as it is, or the parts of a message; see `entries`."""
    return value if isinstance(value, str) else entries(value, where)


def entries(value: Any, where: str) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield each object of a list, and its place in the request.

    Raises:
        RefusedError: it is no list of objects.
    """
    for number, entry in enumerate(as_list(value, where)):
        place = f"{where}[{number}]"
        yield as_dict(entry, place), place


def string(value: Any, where: str) -> str:
    """Return a value that has to be a string, or refuse it."""
    if not isinstance(value, str):
        raise RefusedError(400, f"{where} has to be a string")
    return value


def as_list(value: Any, where: str) -> list[Any]:
    """Return a value that has to be a list, or refuse it."""
    if not isinstance(value, list):
        raise RefusedError(400, f"{where} has to be a list")
    return value


def as_dict(value: Any, where: str) -> dict[str, Any]:
    """Return a value that has to be an object, or refuse it."""
    if not isinstance(value, dict):
        raise RefusedError(400, f"{where} has to be an object")
    return value


def schema_of(
    described: dict[str, Any], where: str = "output_config.format"
) -> OutputSchema | None:
    """Return the shape that an answer is to have; None for plain text.

    Args:
        described: an object with a JSON Schema as `schema`, and perhaps `name` and `strict`; or one
            whose `type` is `json_object`, any object at all.
        where: the place in the request, for a refusal.

    Raises:
        RefusedError: there is no schema.
    """
    if described.get("type") == "text":
        return None
    if described.get("type") == "json_object":
        return OutputSchema(schema={"type": "object"}, strict=False)
    schema = as_dict(described.get("schema"), f"{where}.schema")
    name, strict = described.get("name"), described.get("strict")
    return OutputSchema(
        name=name if isinstance(name, str) and name else "answer",
        schema=schema,
        strict=strict if isinstance(strict, bool) else None,
    )


def asked_last(role: str | None, system: list[str], turns: list[Message]) -> None:
    """Take a system message for the question where a conversation ends with it, unanswered.

    OpenAI's models answer one, be it all there is.

    Args:
        role: the role of the last message.
        system: the texts of the system messages; the last is taken from it.
        turns: the others; the question is added.
    """
    if role in INSTRUCTING and (not turns or turns[-1].role == "assistant"):
        turns.append(Message("user", system.pop()))


def named_results(turns: Iterable[Message]) -> list[Message]:
    """Return a conversation in which each tool's result has the name of the tool that was called.

    Only some protocols repeat it, and only some vendors want it.
    """
    names: dict[str, str] = {}
    told = []
    for turn in turns:
        names |= {call.id: call.name for call in turn.calls}
        if turn.role == "tool" and turn.name is None:
            told.append(msgspec.structs.replace(turn, name=names.get(turn.call_id or "")))
        else:
            told.append(turn)
    return told


def estimate_sent(turns: Iterable[Message], tools: Sequence[ToolDeclaration]) -> int:
    """Return about how many tokens turns and tools have, without any model's own count."""
    declared = estimate_tokens(encode(tools).decode()) if tools else 0
    return declared + sum(tokens_of(turn, estimate_tokens) for turn in turns)


def estimate_asked(request: GatewayRequest) -> int:
    """Return about how many tokens a request's prompt has, without any model's own count."""
    asked = request.prompt
    turns = [*asked.history]
    if asked.system:
        turns.append(Message("system", asked.system))
    if asked.question or asked.parts:
        turns.append(Message("user", asked.question, parts=asked.parts))
    return estimate_sent(turns, request.options.caller_tools)


def usage_of(request: GatewayRequest, answer: Answer) -> tuple[int, int]:
    """Return the tokens of the prompt and of the answer; estimates where no server has counted.

    Clients cannot do without the numbers: both SDKs have them as integers.
    """
    prompt, completion = answer.usage.prompt_tokens, answer.usage.completion_tokens
    if prompt is None:
        prompt = estimate_asked(request)
    if completion is None:
        completion = estimate_tokens(answer.text or "")
    return prompt, completion


OWN_FAULTS = frozenset({ErrorKind.CONTEXT_LENGTH, ErrorKind.CONTENT_FILTER, ErrorKind.BAD_REQUEST})
"""The kinds of errors that another try of the same request would meet again."""


def failure_of(answer: Answer) -> Failure:
    """Return what a failed answer is to a client: its own fault (400), or the tiers' (503)."""
    assert answer.error is not None  # noqa: S101 - the caller has looked
    causes = {
        attempt.error.kind if attempt.error is not None else attempt.skip and attempt.skip.why
        for attempt in last_failures(answer.attempts)
        if attempt.skip is None or attempt.skip.why != "not_configured"
    }
    own = bool(causes) and causes <= {*OWN_FAULTS, "context", "capability"}
    code = None
    if answer.error.kind is ErrorKind.CONTENT_FILTER:
        own, code = True, "content_filter"
    elif causes and causes <= {ErrorKind.CONTEXT_LENGTH, "context"}:
        code = "context_length_exceeded"
    message = answer.original_error or str(answer.error)
    return Failure(status=400 if own else 503, message=f"no tier answered: {message}", code=code)
