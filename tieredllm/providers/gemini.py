"""Speak Google's Gemini API, `generateContent`.

Reference: https://ai.google.dev/api/generate-content.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar
from urllib.parse import quote

from tieredllm.lenient_json import cleaned, encode
from tieredllm.providers.accumulator import Part, ending_of
from tieredllm.providers.base import Call, Capabilities
from tieredllm.providers.cloud import CloudBackend, Vendor, WireRequest, base64_of, given
from tieredllm.providers.json_path import content_text, find_error, get_count, get_path, get_str
from tieredllm.providers.request_info import RequestInfo
from tieredllm.providers.tool_calls import (
    ToolCallCollector,
    decode_arguments,
    safe_name,
    with_unique_ids,
)
from tieredllm.roles import alternating, split_system
from tieredllm.types import Document, Message, MessagePart, ToolCall, ToolChoice, ToolDeclaration

__all__ = ["GeminiBackend", "GeminiToolCalls", "contents_of", "declared"]

_VERSION = re.compile(r"gemini-([0-9]{1,2})(?:\.([0-9]{1,2}))?")


class GeminiBackend(CloudBackend):
    """A model at Google or at a server that speaks its protocol."""

    provider: ClassVar[Vendor] = "gemini"
    own_host = "generativelanguage.googleapis.com"
    models_path = "/models?pageSize=1000"
    listed_as = ("models", "name", "nextPageToken")
    name_prefix = "models/"
    several = "candidates"

    @property
    def capabilities(self) -> Capabilities:
        """What the model can do, as far as its name and the profile tell.

        Gemini sees pictures and reads PDF documents, Gemma from 3 on sees pictures (LiteLLM's table
        of models, `supports_vision`, `supports_pdf_input`); both take schemas.
        """
        gemini = "gemini" in self.model
        gemma = re.search(r"gemma-(?:3n|3(?!-1b)|[4-9])", self.model) is not None
        images = gemini or gemma if self.vision is None else self.vision
        documents = gemini if self.vision is None else self.vision
        return Capabilities(tools=True, images=images, documents=documents, schema=True)

    def _build_request(self, call: Call) -> WireRequest:
        stream = call.is_streamed
        system, turns = split_system(call.messages)
        if system and "systemInstruction" in call.omit:
            # Gemma models have no system role; its text opens the conversation instead.
            turns.insert(0, Message("user", system))
            system = ""
        options = given(self._options(call), call.omit)
        body: dict[str, Any] = {
            "contents": contents_of(alternating(turns), identity=self.identity),
            "generationConfig": options,
        }
        if system:
            body["systemInstruction"] = {"parts": [{"text": system}]}
        if call.tools:
            body["tools"] = declared(call.tools)
        if call.tools and (choice := _choice(call.tool_choice)):
            body["toolConfig"] = {"functionCallingConfig": choice}
        method = "streamGenerateContent?alt=sse" if stream else "generateContent"
        name = self.model if "/" in self.model else f"models/{self.model}"
        return WireRequest(
            path=f"/{quote(name)}:{method}",
            body=body,
            parameters=_parameters(options, system=bool(system), call=call),
        )

    def _options(self, call: Call) -> dict[str, Any]:
        """Return what the model takes of the parameters.

        No current model takes penalties ("Penalty is not enabled for models/…"). From 3.6 on
        `temperature` and `topP` are deprecated and without effect (changelog of July 2026), and
        from 3 on thinking has levels, before it a number of tokens.
        """
        params = call.params
        version = _version(self.model) if self._at_home else (0, 0)
        sampled = version < (3, 6)
        effort = params.reasoning_effort
        little = version >= (2, 5) and self._thinks_little(params) and "lite" not in self.model
        if effort is None and little:
            effort = "low"
        thinking = None if effort is None else _thinking(effort, _version(self.model))
        # Thoughts count against the limit; where their number is known, the limit is the text's.
        thoughts = max(0, (thinking or {}).get("thinkingBudget", 0))
        schema = None if call.schema is None else call.schema.schema
        return {
            "maxOutputTokens": params.max_tokens and params.max_tokens + thoughts,
            "temperature": params.temperature if sampled else None,
            "topP": params.top_p if sampled else None,
            "stopSequences": list(params.stop) or None,
            "seed": params.seed,
            "thinkingConfig": thinking,
            "responseMimeType": None if schema is None else "application/json",
            "responseJsonSchema": schema,
        }

    def _headers(self, info: RequestInfo) -> dict[str, str]:
        return {"x-goog-api-key": info.key} if info.key else {}

    def _collect_calls(self, tools: tuple[ToolDeclaration, ...]) -> ToolCallCollector:
        del tools
        return GeminiToolCalls()

    def _parse_chunk(self, value: dict[str, Any]) -> Part:
        candidates, candidate = value.get("candidates"), get_path(value, "candidates", 0)
        content = get_path(candidate, "content")
        parts = content.get("parts") if isinstance(content, dict) else content
        parts = [parts] if isinstance(parts, dict | str) else parts
        blocked = get_str(value, "promptFeedback", "blockReason")
        if blocked in ("BLOCK_REASON_UNSPECIFIED", "BLOCKED_REASON_UNSPECIFIED"):
            blocked = None
        reason = get_str(candidate, "finishReason")
        if reason == "FINISH_REASON_UNSPECIFIED":
            reason = None
        usage = get_path(value, "usageMetadata")
        answered = get_count(usage, "candidatesTokenCount")
        thought = get_count(usage, "thoughtsTokenCount")
        return Part(
            text=_text(parts) if isinstance(candidate, dict) or not candidates else None,
            thought=_thought(parts),
            choice=get_count(candidate, "index") or 0,
            reason=reason or (blocked and f"blockReason {blocked}"),
            refusal=_refusal(reason, candidate),
            blocked=blocked is not None,
            error=find_error(value),
            prompt_tokens=get_count(usage, "promptTokenCount"),
            completion_tokens=(
                None if answered is None and thought is None else (answered or 0) + (thought or 0)
            ),
            model=get_str(value, "modelVersion"),
            calls=isinstance(parts, list) and any(map(_is_call, parts)),
            candidates=isinstance(candidate, dict),
        )


def _text(parts: Any) -> str | None:
    """Return the text of parts that are no thoughts; None where something stands in its place."""
    if not isinstance(parts, list):
        return content_text(parts)
    return content_text([part for part in parts if get_path(part, "thought") is not True])


def _thought(parts: Any) -> str | None:
    found = [
        part
        for part in (parts if isinstance(parts, list) else [])
        if get_path(part, "thought") is True
    ]
    return "".join(get_str(part, "text") or "" for part in found) if found else None


def _is_call(part: Any) -> bool:
    return isinstance(get_path(part, "functionCall"), dict)


def _refusal(reason: str | None, candidate: Any) -> str:
    if reason is None or ending_of(reason) != "content_filter":
        return ""
    return get_str(candidate, "finishMessage") or ""


_BUDGETS = {"none": 0, "minimal": 1024, "low": 1024, "medium": 8192, "high": 24576}
"""The thoughts of 2.5 for OpenAI's words (Google's guide to OpenAI compatibility)."""


def _thinking(effort: str, version: tuple[int, int]) -> dict[str, Any]:
    """Return how much to think: in levels from 3 on, in tokens before."""
    if (0, 0) < version < (3, 0):
        return {"thinkingBudget": _BUDGETS.get(effort, -1)}
    # There is no level of none (google-genai 3.6.1, ThinkingLevel).
    return {"thinkingLevel": "minimal" if effort == "none" else effort}


def _choice(choice: ToolChoice) -> dict[str, Any] | None:
    """Return the mode of calling (google-genai 3.6.1, FunctionCallingConfig); it has no limit."""
    if choice.mode == "auto":
        return None
    if choice.mode == "none":
        return {"mode": "NONE"}
    return {"mode": "ANY"} | ({"allowedFunctionNames": [choice.name]} if choice.name else {})


def _parameters(options: dict[str, Any], *, system: bool, call: Call) -> dict[str, str]:
    """Return the words Google uses for what was sent, besides its names."""
    words = {name: name for name in options}
    if call.schema is not None:
        words |= dict.fromkeys(("responseMimeType", "responseJsonSchema", "JSON mode"), "schema")
    if "thinkingConfig" in options:
        words |= {"thinking level": "thinkingConfig", "thinkingLevel": "thinkingConfig"}
    if system:
        # "Developer instruction is not enabled for models/gemma-3-27b-it"
        for word in ("developer instruction", "systemInstruction"):
            words[word] = "systemInstruction"
    if call.tools:
        # "Function calling is not enabled for models/gemma-3-27b-it"
        words |= dict.fromkeys(("function calling", "tool use", "tools"), "tools")
    return words


def _version(model: str) -> tuple[int, int]:
    """Return a Gemini model's version; the `-latest` names are never behind 3."""
    found = _VERSION.search(model)
    if found:
        return int(found[1]), int(found[2] or 0)
    return (3, 0) if model.endswith("-latest") else (0, 0)


UNSIGNED = "skip_thought_signature_validator"
"""Stands for the signature of a call that this model has not made (guide to thought signatures)."""


class GeminiToolCalls:
    """Collect the parts of one answer, `functionCall` among them, each of which comes whole."""

    def __init__(self) -> None:
        self._parts: list[dict[str, Any]] = []

    def take(self, value: dict[str, Any]) -> None:
        """Take an event, or a whole answer."""
        parts = get_path(value, "candidates", 0, "content", "parts")
        self._parts += [
            part for part in (parts if isinstance(parts, list) else []) if isinstance(part, dict)
        ]

    def complete(self) -> tuple[ToolCall, ...]:
        """Return the function calls."""
        return with_unique_ids(
            [
                ToolCall(
                    id=get_str(called, "id") or "",
                    name=get_str(called, "name") or "",
                    arguments=_encoded(get_path(called, "args")),
                )
                for part in self._parts
                if isinstance(called := part.get("functionCall"), dict)
            ]
        )

    is_broken = False
    """Each piece belongs to a call that has begun."""

    def raw(self) -> Any:
        """Return the parts as they came: their signatures hold for them in this order."""
        return cleaned(self._parts)


def declared(tools: tuple[ToolDeclaration, ...]) -> list[dict[str, Any]]:
    """Declare tools."""
    return [
        {
            "functionDeclarations": [
                {
                    "name": tool.name,
                    "description": tool.description,
                    "parametersJsonSchema": tool.parameters,
                }
                for tool in tools
            ]
        }
    ]


def contents_of(turns: list[Message], *, identity: str) -> list[dict[str, Any]]:
    """Return a conversation in Google's form: all results of one turn in one user's turn.

    Args:
        turns: the conversation, the user first.
        identity: whose own turns go back as they came.
    """
    contents: list[dict[str, Any]] = []
    called: dict[str, dict[str, Any]] = {}
    for turn in turns:
        role = "model" if turn.role == "assistant" else "user"
        if turn.calls:
            parts = turn.raw if turn.made_by == identity and turn.raw else _rebuilt(turn)
            made = [it for part in parts if isinstance(it := part.get("functionCall"), dict)]
            called = dict(zip((call.id for call in turn.calls), made, strict=True))
        elif turn.role == "tool":
            parts = [_response(turn, called.get(turn.call_id or "", {"name": turn.name}))]
        else:
            parts = [{"text": turn.content}] if turn.content.strip() else []
        parts = [*(_part(part) for part in turn.parts), *parts]
        if contents and contents[-1]["role"] == role:
            contents[-1]["parts"] = [*contents[-1]["parts"], *parts]
        else:
            contents.append({"role": role, "parts": parts})
    return contents


def _rebuilt(turn: Message) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = [{"text": turn.content}] if turn.content.strip() else []
    for number, call in enumerate(turn.calls):
        made = {"name": safe_name(call.name), "args": decode_arguments(call)}
        signature = {"thoughtSignature": UNSIGNED} if number == 0 else {}
        parts.append({"functionCall": made} | signature)
    return parts


def _response(turn: Message, called: dict[str, Any]) -> dict[str, Any]:
    return {
        "functionResponse": {
            **({"id": name} if (name := get_str(called, "id")) else {}),
            "name": get_str(called, "name") or "unknown",
            "response": {"error" if turn.is_error else "result": turn.content},
        }
    }


def _part(part: MessagePart) -> dict[str, Any]:
    """Return an image or a document; google-genai 3.6.1, Blob and FileData."""
    kind = part.media_type or ("application/pdf" if isinstance(part, Document) else "image/png")
    if part.url:
        return {"fileData": {"fileUri": part.url, "mimeType": kind}}
    return {"inlineData": {"mimeType": kind, "data": base64_of(part.data)}}


def _encoded(arguments: Any) -> str:
    if isinstance(arguments, str):  # some servers encode what the reference has as an object
        return arguments
    return encode(arguments) if arguments is not None else ""
