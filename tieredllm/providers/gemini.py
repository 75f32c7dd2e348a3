"""Speak Google's Gemini API, `generateContent`.

Reference: https://ai.google.dev/api/generate-content.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar
from urllib.parse import quote

from tieredllm.providers.assembly import Ending, Part
from tieredllm.providers.base import Call
from tieredllm.providers.calls import Calls
from tieredllm.providers.cloud import Ask, CloudBackend, Vendor
from tieredllm.providers.gemini_tools import GeminiCalls, contents_of, declared
from tieredllm.providers.sent import Sent
from tieredllm.providers.shape import count_at, dig, error_in, text_at
from tieredllm.providers.turns import alternating, split_system
from tieredllm.types import Message

__all__ = ["GeminiBackend"]

_VERSION = re.compile(r"gemini-([0-9]{1,2})(?:\.([0-9]{1,2}))?")


class GeminiBackend(CloudBackend):
    """Be a model at Google or at a server that speaks its protocol."""

    provider: ClassVar[Vendor] = "gemini"
    own_host = "generativelanguage.googleapis.com"
    models_path = "/models?pageSize=1000"
    # A stream has no end marker, and older models name a finish reason in every chunk.
    tail_s = None
    endings: ClassVar[dict[str, Ending]] = {
        "stop": "stop",
        "max_tokens": "length",
        "safety": "content_filter",
        "recitation": "content_filter",
        "blocklist": "content_filter",
        "prohibited_content": "content_filter",
        "spii": "content_filter",
        "image_safety": "content_filter",
        "image_prohibited_content": "content_filter",
        "image_recitation": "content_filter",
        "model_armor": "content_filter",
        "malformed_function_call": "tool",
        "unexpected_tool_call": "tool",
        "too_many_tool_calls": "tool",
    }

    def _ask(self, call: Call) -> Ask:
        stream = call.stream and "stream" not in call.omit
        system, turns = split_system(call.messages)
        if system and "systemInstruction" in call.omit:
            # Gemma models have no system role; its text opens the conversation instead.
            turns.insert(0, Message("user", system))
            system = ""
        options = {
            name: value
            for name, value in self._options(call).items()
            if value is not None and name not in call.omit
        }
        body: dict[str, Any] = {
            "contents": [
                *(
                    {
                        "role": "model" if turn.role == "assistant" else "user",
                        "parts": [{"text": turn.content}],
                    }
                    for turn in alternating(turns)
                ),
                *(contents_of(call, identity=self.identity) if call.turns else ()),
            ],
            "generationConfig": options,
        }
        if system:
            body["systemInstruction"] = {"parts": [{"text": system}]}
        if call.tools:
            body["tools"] = declared(call.tools)
        if call.tools and not call.may_call:
            body["toolConfig"] = {"functionCallingConfig": {"mode": "NONE"}}
        method = "streamGenerateContent?alt=sse" if stream else "generateContent"
        name = self.model if "/" in self.model else f"models/{self.model}"
        return Ask(
            path=f"/{quote(name)}:{method}",
            body=body,
            parameters=_parameters(options, system=bool(system), tools=bool(call.tools)),
            stream=stream,
        )

    def _options(self, call: Call) -> dict[str, Any]:
        """Give what the model takes of the parameters.

        No current model takes penalties ("Penalty is not enabled for models/…"). From 3.6 on
        `temperature` and `topP` are deprecated and without effect (changelog of July 2026), and
        from 3 on thinking has levels.
        """
        params = call.params
        version = _version(self.model) if self._at_home else (0, 0)
        sampled = version < (3, 6)
        little = version >= (3, 0) and self._thinks_little(params) and "lite" not in self.model
        return {
            "maxOutputTokens": params.max_tokens,
            "temperature": params.temperature if sampled else None,
            "topP": params.top_p if sampled else None,
            "thinkingConfig": {"thinkingLevel": "low"} if little else None,
        }

    def _headers(self, sent: Sent) -> dict[str, str]:
        return {"x-goog-api-key": sent.key} if sent.key else {}

    def _calls(self) -> Calls:
        return GeminiCalls()

    def _read(self, value: dict[str, Any]) -> Part:
        candidate = dig(value, "candidates", 0)
        parts = dig(candidate, "content", "parts")
        blocked = text_at(value, "promptFeedback", "blockReason")
        if blocked == "BLOCK_REASON_UNSPECIFIED":
            blocked = None
        reason = text_at(candidate, "finishReason")
        if reason == "FINISH_REASON_UNSPECIFIED":
            reason = None
        usage = dig(value, "usageMetadata")
        answered = count_at(usage, "candidatesTokenCount")
        thought = count_at(usage, "thoughtsTokenCount")
        return Part(
            text="".join(
                text_at(part, "text") or ""
                for part in (parts if isinstance(parts, list) else [])
                if dig(part, "thought") is not True
            ),
            reason=reason or (blocked and f"blockReason {blocked}"),
            refusal=_refusal(reason, candidate),
            blocked=blocked is not None,
            error=error_in(value),
            prompt_tokens=count_at(usage, "promptTokenCount"),
            completion_tokens=(
                None if answered is None and thought is None else (answered or 0) + (thought or 0)
            ),
            model=text_at(value, "modelVersion"),
            calls=isinstance(parts, list) and any(map(_is_call, parts)),
            candidates=isinstance(candidate, dict),
        )

    def _names(self, value: Any) -> list[str] | None:
        listed = dig(value, "models")
        if not isinstance(listed, list) or dig(value, "nextPageToken"):
            return None
        return [name.removeprefix("models/") for item in listed if (name := text_at(item, "name"))]


def _is_call(part: Any) -> bool:
    return isinstance(dig(part, "functionCall"), dict)


def _refusal(reason: str | None, candidate: Any) -> str:
    if reason is None or GeminiBackend.endings.get(reason.lower()) != "content_filter":
        return ""
    return text_at(candidate, "finishMessage") or ""


def _parameters(options: dict[str, Any], *, system: bool, tools: bool) -> dict[str, str]:
    """Give the words Google uses for what was sent, besides its names."""
    words = {name: name for name in options}
    if "thinkingConfig" in options:
        words |= {"thinking level": "thinkingConfig", "thinkingLevel": "thinkingConfig"}
    if system:
        # "Developer instruction is not enabled for models/gemma-3-27b-it"
        for word in ("developer instruction", "systemInstruction"):
            words[word] = "systemInstruction"
    if tools:
        # "Function calling is not enabled for models/gemma-3-27b-it"
        words |= dict.fromkeys(("function calling", "tool use", "tools"), "tools")
    return words


def _version(model: str) -> tuple[int, int]:
    """Give a Gemini model's version; the `-latest` names are never behind 3."""
    found = _VERSION.search(model)
    if found:
        return int(found[1]), int(found[2] or 0)
    return (3, 0) if model.endswith("-latest") else (0, 0)
