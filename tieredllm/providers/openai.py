"""Speak OpenAI's Chat Completions API, the protocol of most other servers too.

Reference: https://platform.openai.com/docs/api-reference/chat and, for streams, the types of
openai-python, `types/chat/chat_completion_chunk.py`.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar

from tieredllm.providers.assembly import Ending, Part
from tieredllm.providers.base import Call
from tieredllm.providers.calls import Calls
from tieredllm.providers.cloud import Ask, CloudBackend, Vendor
from tieredllm.providers.openai_tools import OpenAICalls, declared, messages_of
from tieredllm.providers.sent import Sent
from tieredllm.providers.shape import count_at, dig, error_in, text_at, text_of
from tieredllm.providers.turns import split_system

__all__ = ["OpenAIBackend"]

# Models that reject `temperature` and `top_p` and think by default: the o series, gpt-5 and, after
# gpt-5.1 to 5.5 whose default is not to think, gpt-5.6 and gpt-6 (reference of `reasoning_effort`;
# answers of the API to gpt-5.6 and gpt-6.2 in 2026). The chat variants do neither.
_THINKING = re.compile(r"(?:o[0-9]|gpt-5(?!\.[1-5](?![0-9]))|gpt-[6-9]|gpt-[1-9][0-9])(?!.*chat)")
_TOOL_WORDS = ("tool calling", "tool use", "function calling")
_SAMPLING = ("temperature", "top_p", "frequency_penalty", "presence_penalty")


class OpenAIBackend(CloudBackend):
    """Be a model at OpenAI or at any compatible server."""

    provider: ClassVar[Vendor] = "openai"
    own_host = "api.openai.com"
    models_path = "/models"
    endings: ClassVar[dict[str, Ending]] = {
        "stop": "stop",
        "eos": "stop",  # Together
        "end_turn": "stop",
        "stop_sequence": "stop",
        "length": "length",
        "max_tokens": "length",
        "model_length": "length",  # Mistral
        "content_filter": "content_filter",
        "tool_calls": "tool",
        "function_call": "tool",
    }

    def _ask(self, call: Call) -> Ask:
        stream = call.stream and "stream" not in call.omit
        system, turns = split_system(call.messages)
        params = call.params
        options: dict[str, Any] = {
            "temperature": params.temperature,
            "top_p": params.top_p,
            "frequency_penalty": params.frequency_penalty or None,
            "presence_penalty": params.presence_penalty or None,
            self._cap(call): params.max_tokens,
            "stream_options": {"include_usage": True} if stream else None,
            "tools": declared(call.tools) or None,
            "tool_choice": "none" if call.tools and not call.may_call else None,
        }
        if self._at_home and _THINKING.match(self.model):
            options |= dict.fromkeys(_SAMPLING)
            options["reasoning_effort"] = "low" if self._thinks_little(params) else None
        options = {
            name: value
            for name, value in options.items()
            if value is not None and name not in call.omit
        }
        messages: list[dict[str, Any]] = []
        if system:
            messages.append({"role": "system", "content": system})
        messages += [{"role": turn.role, "content": turn.content} for turn in turns]
        if call.turns:
            messages += messages_of(
                call, identity=self.identity, wants_reasoning="deepseek.com" in self._base_url
            )
        body = {"model": self.model, "messages": messages, "stream": stream, **options}
        return Ask(
            path="/chat/completions",
            body=body,
            parameters={
                **{name: name for name in options},
                **({"stream": "stream"} if stream else {}),
                # "`tool calling` is not supported with this model" (Groq)
                **(dict.fromkeys(_TOOL_WORDS, "tools") if "tools" in options else {}),
            },
            stream=stream,
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

    def _headers(self, sent: Sent) -> dict[str, str]:
        return {"Authorization": f"Bearer {sent.key}"} if sent.key else {}

    def _calls(self) -> Calls:
        return OpenAICalls()

    def _read(self, value: dict[str, Any]) -> Part:
        choice = dig(value, "choices", 0)
        said = dig(choice, "delta") or dig(choice, "message")
        usage = dig(value, "usage") or dig(value, "x_groq", "usage")
        return Part(
            text=text_of(dig(said, "content")),
            refusal=text_at(said, "refusal") or "",
            reason=text_at(choice, "finish_reason"),
            calls=bool(dig(said, "tool_calls")),
            error=error_in(value),
            prompt_tokens=count_at(usage, "prompt_tokens"),
            completion_tokens=count_at(usage, "completion_tokens"),
            model=text_at(value, "model"),
            candidates=isinstance(said, dict),
        )

    def _names(self, value: Any) -> list[str] | None:
        listed = dig(value, "data")
        if not isinstance(listed, list) or dig(value, "has_more"):
            return None
        return [name for item in listed if (name := text_at(item, "id"))]
