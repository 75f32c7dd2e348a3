"""Speak OpenAI's Chat Completions API, the protocol of most other servers too.

Reference: https://platform.openai.com/docs/api-reference/chat and, for streams, the types of
openai-python, `types/chat/chat_completion_chunk.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, ClassVar

import msgspec

from tieredllm.lenient_json import NotJsonError, cleaned, decode, encode
from tieredllm.providers.accumulator import Part, ending_of
from tieredllm.providers.base import Call, Capabilities
from tieredllm.providers.cloud import CloudBackend, Vendor, WireRequest, base64_of, given
from tieredllm.providers.json_path import (
    content_text,
    find_error,
    get_count,
    get_path,
    get_str,
    words_in,
)
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
_WANT_REASONING = ("deepseek.com", "moonshot")
"""Hosts that take no call without its thoughts (n8n-io/n8n#29142); others say so in a 400, after
which they get them as well."""
_TOOL_WORDS = ("tool calling", "tool use", "function calling")
_SCHEMA_WORDS = ("response_format", "json_schema")
_SAMPLING = ("temperature", "top_p", "frequency_penalty", "presence_penalty")


class OpenAIBackend(CloudBackend):
    """A model at OpenAI or at any compatible server."""

    provider: ClassVar[Vendor] = "openai"
    own_host = "api.openai.com"
    models_path = "/models"
    several = "choices"
    ends_with_done = True

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
        stream = call.is_streamed
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
            "response_format": _format(call.schema, call.omit),
            "tools": declared(call.tools) or None,
            "tool_choice": _choice(call.tool_choice) if call.tools else None,
            "parallel_tool_calls": call.tool_choice.parallel if call.tools else None,
        }
        if self._at_home and THINKING.match(self.model):
            options |= dict.fromkeys(_SAMPLING)
            if params.reasoning_effort is None and self._thinks_little(params):
                options["reasoning_effort"] = "low"
        options = given(options, call.omit)
        messages: list[dict[str, Any]] = []
        if system:
            messages.append({"role": "system", "content": system})
        wants_reasoning = REASONING in call.omit or any(
            host in self._base_url for host in _WANT_REASONING
        )
        messages += messages_of(turns, identity=self.identity, wants_reasoning=wants_reasoning)
        body = {"model": self.model, "messages": messages, "stream": stream, **options}
        return WireRequest(
            path="/chat/completions",
            body=body,
            parameters={
                **{name: name for name in options},
                **({"stream": "stream"} if stream else {}),
                **({} if wants_reasoning else {REASONING: REASONING}),
                **(_schema_words(call.schema, call.omit) if call.schema else {}),
                # "`tool calling` is not supported with this model" (Groq)
                **(dict.fromkeys(_TOOL_WORDS, "tools") if "tools" in options else {}),
            },
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

    def _collect_calls(self, tools: tuple[ToolDeclaration, ...]) -> ToolCallCollector:
        return OpenAIToolCalls({tool.name for tool in tools})

    def _parse_chunk(self, value: dict[str, Any]) -> Part:
        word = _next_word(value)
        if word is not None:
            return word
        choices, choice = value.get("choices"), get_path(value, "choices", 0)
        of_choice: dict[str, Any] = choice if isinstance(choice, dict) else {}
        delta, message = of_choice.get("delta"), of_choice.get("message")
        said = delta or message
        usage = (
            value.get("usage")
            or get_path(value, "x_groq", "usage")
            or of_choice.get("usage")  # Moonshot's (earendil-works/pi#2017)
        )
        words: dict[str, Any] = said if isinstance(said, dict) else {}
        content = words.get("content")
        # MiniMax's last chunk has the whole message (A3S-Lab/Code#1), Perplexity's each.
        is_whole = said is not delta
        if not content and (whole := get_path(message, "content")):
            content, is_whole = whole, True
        number = of_choice.get("index")
        is_word = isinstance(content, str) and words.keys() <= _WORD
        return Part(
            text=_text(choices, of_choice, said, content),
            thought=None if is_word else _thought(said, content),
            choice=number if isinstance(number, int) else 0,
            is_whole=is_whole,
            refusal=get_str(said, "refusal") or "",
            reason=_reason(of_choice),
            calls=not is_word and _has_call(value),
            error=find_error(value),
            prompt_tokens=get_count(usage, "prompt_tokens") if usage else None,
            completion_tokens=get_count(usage, "completion_tokens") if usage else None,
            model=get_str(value, "model"),
            # A piece that stands alone, without an end, is no whole answer.
            candidates=isinstance(choice, dict) and not delta,
            stray=value if not usage and "choices" not in value and words_in(value) else None,
        )


def _next_word(value: dict[str, Any]) -> Part | None:
    """Return the part of a chunk that is the next word of a text and nothing more.

    Nearly all are, and looking for everything else in each takes longer than all the rest of it.
    """
    choices = value.get("choices")
    if not (isinstance(choices, list) and len(choices) == 1 and value.keys() <= _CHUNK):
        return None
    if value.get("usage") or value.get("object") not in ("chat.completion.chunk", None):
        return None
    choice = choices[0]
    if not (isinstance(choice, dict) and choice.keys() <= _CHOICE) or choice.get("finish_reason"):
        return None
    delta, number = choice.get("delta"), choice.get("index")
    if not (isinstance(delta, dict) and delta.keys() <= _TEXT):
        return None
    text, model = delta.get("content"), value.get("model")
    if not (isinstance(text, str) and text):
        return None
    return Part(
        text=text,
        choice=number if isinstance(number, int) else 0,
        model=model if isinstance(model, str) and model else None,
        candidates=False,
    )


_CHUNK = frozenset(
    {
        "id",
        "object",
        "created",
        "model",
        "choices",
        "system_fingerprint",
        "service_tier",
        "usage",
        "obfuscation",
    }
)
_CHOICE = frozenset({"index", "delta", "finish_reason", "logprobs"})
_TEXT = frozenset({"role", "content"})
"""What a chunk, its choice and its delta have that brings a word and nothing else."""

_WORD = frozenset({"role", "content", "refusal"})
"""What a delta has that is the next word of a text and nothing more."""

THOUGHT_FIELDS = ("reasoning_content", "reasoning", "thinking")
"""Where thoughts are: DeepSeek's and most others', vLLM's and Groq's and OpenRouter's, Ollama's."""


def _thought(said: Any, content: Any) -> str | None:
    """Return the thoughts of a delta or message, of which gateways send several versions."""
    for field in THOUGHT_FIELDS:
        found = get_path(said, field)
        if isinstance(found, dict):
            found = get_str(found, "content") or get_str(found, "text")
        if isinstance(found, str) and found:
            return found
    details = get_path(said, DETAILS)
    if isinstance(details, list) and details:
        return "".join(map(_detail_text, details))
    if not isinstance(content, list):
        return None
    # Mistral's: {"type": "thinking", "thinking": [{"type": "text", "text": "…"}]}
    found = [
        content_text(get_path(part, "thinking") or get_path(part, "text")) or ""
        for part in content
        if get_path(part, "type") in ("thinking", "reasoning")
    ]
    return "".join(found) if found else None


def _text(choices: Any, choice: dict[str, Any], said: Any, content: Any) -> str | None:
    """Return a chunk's text; None where something stands in its place."""
    if choices and not (isinstance(choices, list) and isinstance(choices[0], dict | None)):
        return None
    if said is None:
        return content_text(choice.get("text"))
    return content_text(content if isinstance(said, dict) else [said])


def _detail_text(detail: Any) -> str:
    return get_str(detail, "text") or get_str(detail, "summary") or ""


def _reason(choice: Any) -> str | None:
    """Return a finish reason; gateways keep the upstream's own beside one that they made up."""
    # Google's compatible server has had both, the first of them null (jakobdylanc/llmcord#84).
    reason = get_path(choice, "finish_reason") or get_path(choice, "finishReason")
    if isinstance(reason, dict):
        reason = get_str(reason, "type")
    if not isinstance(reason, str) or reason in ("", "null"):  # seen as a text on every chunk
        return None
    native = get_str(choice, "native_finish_reason") or get_str(
        choice, "provider_specific_fields", "native_finish_reason"
    )
    if native is not None and ending_of(reason) == "stop":
        return native if ending_of(native) not in ("stop", "tool") else reason
    return reason


def _has_call(value: Any) -> bool:
    choices = get_path(value, "choices")
    return isinstance(choices, list) and any(
        get_path(choice, said, field)
        for choice in choices
        for said in ("delta", "message")
        for field in ("tool_calls", "function_call")
    )


REASONING = "reasoning_content"
"""DeepSeek's thoughts, which it wants back with the calls they led to (its thinking guide)."""

DETAILS = "reasoning_details"
"""OpenRouter's, whose signatures the models behind it want back (its guide to reasoning)."""


class _Fragments(msgspec.Struct):
    """What has come of one call so far."""

    choice: int
    index: int | None
    id: str = ""
    name: str = ""
    arguments: list[str] = []
    extra: Any = None
    """`extra_content`: Google's compatible server keeps a signature in it."""

    @property
    def text(self) -> str:
        """The arguments: all pieces together, or what is left without those that repeat others."""
        pieces = [piece for piece in self.arguments if piece.strip()]
        joined = "".join(self.arguments)
        if len(pieces) < 2 or _is_object(joined):
            return joined
        if _is_object(pieces[-1]):  # all of them again: mudler/cogito#66
            return pieces[-1]
        # An empty object first: openai/openai-agents-js#712 (Bedrock)
        rest = "".join(pieces[1:]) if _is_empty(pieces[0]) else ""
        return rest if _is_object(rest) else joined

    @property
    def is_whole(self) -> bool:
        """Whether the arguments are complete."""
        return _is_object(self.text)

    @property
    def is_empty(self) -> bool:
        """Whether no argument has come yet."""
        return all(_is_empty(piece) or not piece.strip() for piece in self.arguments)


def _is_object(text: str) -> bool:
    if not text.rstrip().endswith("}"):
        return False
    try:
        return isinstance(decode(text), dict)
    except NotJsonError:
        return False


def _is_empty(text: str) -> bool:
    return "".join(text.split()) == "{}"


class OpenAIToolCalls:
    """Collect the `tool_calls` of one answer.

    Servers differ in what tells one call from the next. A fragment without a name goes on with the
    call of its index, or the last. One with a name begins a call unless the one before has just
    begun or has arguments that are not complete: indices that are always 0 (su-kaka/gcli2api#406),
    ids that are missing, empty, repeated or new in every fragment, and names and arguments that
    come again are all seen.

    Args:
        names: the tools that were given, which tells a whole name from a piece of one.
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._names = frozenset(names)
        self._calls: list[_Fragments] = []
        self._has_pieces = False
        """Whether fragments of calls came in deltas, so that a message says them again."""
        self._thoughts: list[str] | None = None
        self._details: list[dict[str, Any]] = []

    def take(self, value: dict[str, Any]) -> None:
        """Take a chunk or a whole completion."""
        choices = get_path(value, "choices")
        for place, choice in enumerate(choices if isinstance(choices, list) else []):
            if not isinstance(choice, dict):
                continue
            said = choice.get("delta") or choice.get("message")
            thought = get_path(said, REASONING)
            if isinstance(thought, str):
                self._thoughts = [*(self._thoughts or []), thought]
            self._take_details(get_path(said, DETAILS), is_piece="delta" in choice)
            number = get_count(choice, "index")
            number = place if number is None else number
            fragments = get_path(said, "tool_calls")
            if said is choice.get("delta"):
                self._has_pieces = self._has_pieces or bool(fragments)
            elif self._has_pieces:  # a last chunk with the whole message
                continue
            for fragment in fragments if isinstance(fragments, list) else []:
                if isinstance(fragment, dict):
                    self._add(number, fragment)
            # The form before `tool_calls`, of a single call; beside them it says the same again.
            if not fragments and isinstance(legacy := get_path(said, "function_call"), dict):
                self._add(number, {"function": legacy})

    def complete(self) -> tuple[ToolCall, ...]:
        """Return the calls; what never got a name is none."""
        return with_unique_ids(
            [ToolCall(id=call.id, name=call.name, arguments=call.text) for call in self._named()]
        )

    @property
    def is_broken(self) -> bool:
        """Whether a call came to arguments and never to a name (QwenLM/qwen-code#6754)."""
        return any(call.arguments and not call.name for call in self._calls)

    def raw(self) -> Any:
        """Return what only this server understands: its thoughts, and an extra for each call."""
        raw = {
            REASONING: None if self._thoughts is None else "".join(self._thoughts),
            DETAILS: self._details,
            "extras": [call.extra for call in self._named()],
        }
        return cleaned(raw)

    def _named(self) -> list[_Fragments]:
        """Return the calls of the first of several answers that has any."""
        named = [call for call in self._calls if call.name]
        first = min((call.choice for call in named), default=0)
        return [call for call in named if call.choice == first]

    def _take_details(self, details: Any, *, is_piece: bool) -> None:
        """Take thoughts; pieces of one block are joined, as blocks go back whole."""
        for detail in details if isinstance(details, list) else []:
            if not isinstance(detail, dict):
                continue
            last = self._details[-1] if self._details else {}
            same = all(last.get(key) == detail.get(key) for key in ("type", "index"))
            grows = next((key for key in ("text", "summary") if key in detail), None)
            if is_piece and last and same and grows is not None and not last.get("signature"):
                more = {key: value for key, value in detail.items() if value is not None}
                more[grows] = (get_str(last, grows) or "") + (get_str(detail, grows) or "")
                last.update(more)
            else:
                self._details.append(dict(detail))

    def _add(self, choice: int, fragment: dict[str, Any]) -> None:
        index = get_count(fragment, "index")
        name = get_str(fragment, "function", "name") or ""
        arguments = get_path(fragment, "function", "arguments")
        if isinstance(arguments, dict):  # some servers decode what the reference has as text
            arguments = encode(arguments)
        arguments = arguments if isinstance(arguments, str) else ""
        name_id = get_str(fragment, "id") or ""
        call = self._at(choice, index, name_id)
        if call is None or (name and self._begins(call, index, name_id, name, arguments)):
            call = _Fragments(choice=choice, index=index)
            self._calls.append(call)
        call.id = call.id or name_id
        call.name = self._joined_name(call.name, name)
        call.arguments = [*call.arguments, arguments] if arguments else call.arguments
        call.extra = fragment.get("extra_content") or call.extra

    def _at(self, choice: int, index: int | None, name_id: str) -> _Fragments | None:
        """Return the call that a fragment goes on with, unless it begins one."""
        calls = [call for call in self._calls if call.choice == choice]
        if index is None:
            same = [call for call in calls if name_id and call.id == name_id] or calls
            return same[-1] if same else None
        return next((call for call in reversed(calls) if call.index == index), None)

    def _begins(
        self, call: _Fragments, index: int | None, name_id: str, name: str, arguments: str
    ) -> bool:
        """Whether a fragment with a name begins a call, and does not go on with this one."""
        if not call.name:
            return False
        same_id = bool(name_id) and name_id == call.id
        other_id = bool(name_id and call.id) and not same_id
        if call.arguments and not call.is_empty:
            repeats = name == call.name and not other_id and call.text == arguments
            is_other = other_id and name != call.name and name in self._names
            return is_other or (call.is_whole and not same_id and not repeats)
        if same_id:
            return False
        if name == call.name:
            return other_id and (index is None or bool(call.arguments))
        return self._joined_name(call.name, name) == call.name

    def _joined_name(self, name: str, piece: str) -> str:
        """Return a name with another piece, which may be all of it again."""
        if not piece or name == piece:
            return name
        if not name or piece.startswith(name):
            return piece if not name or name not in self._names else name
        joined = name + piece
        if piece not in self._names and any(known.startswith(joined) for known in self._names):
            return joined
        return name


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


def _schema_words(schema: OutputSchema, omit: frozenset[str]) -> dict[str, str]:
    """Return the words for a schema; JSON mode has another form, which is tried then.

    DeepSeek's server knows `json_object` alone (UKGovernmentBEIS/inspect_ai#4916), LM Studio's
    `json_schema` alone (lmstudio-ai/lmstudio-bug-tracker#189).
    """
    has_other = schema.is_json_mode and "json_schema" not in omit
    return dict.fromkeys(_SCHEMA_WORDS, "json_schema" if has_other else "schema")


def _format(schema: OutputSchema | None, omit: frozenset[str]) -> dict[str, Any] | None:
    if schema is None:
        return None
    if schema.is_json_mode and "json_schema" in omit:
        return {"type": "json_object"}
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
    # LM Studio and Mistral's servers refuse null here (lmstudio-ai/lmstudio-bug-tracker#261).
    said: dict[str, Any] = {"role": "assistant", "content": turn.content, "tool_calls": calls}
    thoughts = get_path(turn.raw, REASONING) if own else None
    if thoughts is not None or wants_reasoning:
        said[REASONING] = thoughts or ""
    if own and (details := get_path(turn.raw, DETAILS)):
        said[DETAILS] = details
    return said
