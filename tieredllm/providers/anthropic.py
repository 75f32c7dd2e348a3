"""Speak Anthropic's Messages API.

Reference: https://platform.claude.com/docs/en/api/messages, and for streams
https://platform.claude.com/docs/en/build-with-claude/streaming.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar

from tieredllm.clock import Clock
from tieredllm.providers.anthropic_tools import AnthropicCalls, declared, messages_of
from tieredllm.providers.assembly import Ending, Part
from tieredllm.providers.base import Call
from tieredllm.providers.calls import Calls
from tieredllm.providers.cloud import Ask, CloudBackend, KeyRing, Vendor
from tieredllm.providers.http import HttpClients
from tieredllm.providers.sent import Sent
from tieredllm.providers.shape import count_at, dig, error_in, text_at, text_of
from tieredllm.providers.turns import alternating, split_system

__all__ = ["API_VERSION", "AnthropicBackend"]

API_VERSION = "2023-06-01"
"""The `anthropic-version` header's only current value."""

# `claude-opus-4-7`, `claude-haiku-4-5-20251001`, `anthropic/claude-opus-4.7`, `…claude-opus-5-v1`
_FAMILY = re.compile(r"claude-[a-z]+-([0-9]{1,2})(?:[-.]([0-9]{1,2}))?(?![0-9])")


class AnthropicBackend(CloudBackend):
    """Be a model at Anthropic or at a server that speaks its protocol."""

    provider: ClassVar[Vendor] = "anthropic"
    own_host = "api.anthropic.com"
    models_path = "/v1/models?limit=1000"
    endings: ClassVar[dict[str, Ending]] = {
        "end_turn": "stop",
        "stop_sequence": "stop",
        "max_tokens": "length",
        "model_context_window_exceeded": "length",
        "refusal": "content_filter",
        "tool_use": "tool",
    }

    def __init__(
        self,
        *,
        model: str,
        base_url: str | None,
        api_key_env: str | None,
        keys: KeyRing,
        http: HttpClients,
        clock: Clock,
    ) -> None:
        # The base URL goes without /v1; who copied it with it is understood all the same.
        if base_url is not None:
            base_url = base_url.strip().rstrip("/").removesuffix("/v1")
        super().__init__(
            model=model,
            base_url=base_url,
            api_key_env=api_key_env,
            keys=keys,
            http=http,
            clock=clock,
        )

    def _ask(self, call: Call) -> Ask:
        stream = call.stream and "stream" not in call.omit
        system, turns = split_system(call.messages)
        options = {
            name: value
            for name, value in self._options(call).items()
            if value is not None and name not in call.omit
        }
        body: dict[str, Any] = {
            "model": self.model,
            "max_tokens": call.params.max_tokens,
            "messages": [
                *({"role": turn.role, "content": turn.content} for turn in alternating(turns)),
                *(messages_of(call, identity=self.identity) if call.turns else ()),
            ],
            "stream": stream,
            **({"system": system} if system else {}),
            **options,
        }
        return Ask(
            path="/v1/messages",
            body=body,
            parameters={
                **{name: name for name in options},
                **({"effort": "output_config"} if "output_config" in options else {}),
                **({"stream": "stream"} if stream else {}),
            },
            stream=stream,
        )

    def _options(self, call: Call) -> dict[str, Any]:
        """Give what this model takes of the parameters; it has no penalties at all.

        From 4.1 on a model takes `temperature` or `top_p`, not both, and from 4.7 on neither
        (migration guides of Haiku 4.5, Opus 4.7 and Haiku 5.5); from 5 on it thinks by default
        and takes `effort` (what is new in Opus 5).
        """
        params = call.params
        version = _version(self.model)
        temperature = None if params.temperature is None else min(params.temperature, 1.0)
        top_p = params.top_p
        if version >= (4, 7):
            temperature = top_p = None
        elif version >= (4, 1) and temperature is not None:
            top_p = None
        effort = version >= (5, 0) and self._thinks_little(params)
        return {
            "temperature": temperature,
            "top_p": top_p,
            "output_config": {"effort": "low"} if effort else None,
            "tools": declared(call.tools) or None,
            "tool_choice": {"type": "none"} if call.tools and not call.may_call else None,
        }

    def _headers(self, sent: Sent) -> dict[str, str]:
        headers = {"anthropic-version": API_VERSION}
        return headers | {"x-api-key": sent.key} if sent.key else headers

    def _calls(self) -> Calls:
        return AnthropicCalls()

    def _read(self, value: dict[str, Any]) -> Part:
        kind = text_at(value, "type")
        # `message_start` holds a message that is still empty; a whole answer is one itself.
        message = dig(value, "message") if kind == "message_start" else value
        delta = dig(value, "delta")
        usage = dig(message, "usage")
        reason = text_at(message, "stop_reason") or text_at(delta, "stop_reason")
        explanation = text_at(message, "stop_details", "explanation") or text_at(
            delta, "stop_details", "explanation"
        )
        return Part(
            text=_text(kind, value, delta),
            reason=reason,
            refusal=(explanation or "") if reason == "refusal" else "",
            error=error_in(value),
            prompt_tokens=_prompt_tokens(usage),
            completion_tokens=count_at(usage, "output_tokens"),
            model=text_at(message, "model"),
            calls=_has_call(kind, value, delta),
            done=kind == "message_stop",
            candidates=kind == "message" or isinstance(dig(value, "content"), list),
        )

    def _names(self, value: Any) -> list[str] | None:
        listed = dig(value, "data")
        if not isinstance(listed, list) or dig(value, "has_more"):
            return None
        return [name for item in listed if (name := text_at(item, "id"))]


def _text(kind: str | None, value: dict[str, Any], delta: Any) -> str:
    if kind == "content_block_delta":
        return (text_at(delta, "text") or "") if dig(delta, "type") == "text_delta" else ""
    if kind == "content_block_start":
        return text_of([dig(value, "content_block")])
    return text_of(dig(value, "content")) if kind in ("message", None) else ""


def _has_call(kind: str | None, value: dict[str, Any], delta: Any) -> bool:
    if kind == "content_block_delta":
        return text_at(delta, "type") == "input_json_delta"
    if kind == "content_block_start":
        return text_at(value, "content_block", "type") == "tool_use"
    content = dig(value, "content")
    return isinstance(content, list) and any(dig(it, "type") == "tool_use" for it in content)


def _prompt_tokens(usage: Any) -> int | None:
    """Add up what was sent: `input_tokens` leaves out what the cache held or took."""
    counts = [
        count_at(usage, name)
        for name in ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
    ]
    known = [count for count in counts if count is not None]
    return sum(known) if known else None


def _version(model: str) -> tuple[int, int]:
    """Give a Claude model's version; (0, 0) for names from before 4, and others' models."""
    found = _FAMILY.search(model)
    return (int(found[1]), int(found[2] or 0)) if found else (0, 0)
