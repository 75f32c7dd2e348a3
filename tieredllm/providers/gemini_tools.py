"""Say tools, calls and results in the words of Google's Gemini API.

Reference: https://ai.google.dev/gemini-api/docs/function-calling and, for what has to go back as
it came, https://ai.google.dev/gemini-api/docs/thought-signatures.
"""

from __future__ import annotations

from typing import Any

import msgspec

from tieredllm.providers.base import Call, ToolDeclaration, ToolTurn
from tieredllm.providers.calls import arguments_of, safe_name, unique
from tieredllm.providers.shape import dig, text_at
from tieredllm.types import ToolCall, ToolResult

__all__ = ["GeminiCalls", "contents_of", "declared"]

UNSIGNED = "skip_thought_signature_validator"
"""Stands for the signature of a call that this model has not made (guide to thought signatures)."""


class GeminiCalls:
    """Collect the parts of one answer, `functionCall` among them, each of which comes whole."""

    def __init__(self) -> None:
        self._parts: list[dict[str, Any]] = []

    def take(self, value: dict[str, Any]) -> None:
        """Take an event, or a whole answer."""
        parts = dig(value, "candidates", 0, "content", "parts")
        self._parts += [
            part for part in (parts if isinstance(parts, list) else []) if isinstance(part, dict)
        ]

    def complete(self) -> tuple[ToolCall, ...]:
        """Give the function calls."""
        return unique(
            [
                ToolCall(
                    id=text_at(called, "id") or "",
                    name=text_at(called, "name") or "",
                    arguments=_encoded(dig(called, "args")),
                )
                for part in self._parts
                if isinstance(called := part.get("functionCall"), dict)
            ]
        )

    def raw(self) -> Any:
        """Give the parts as they came: their signatures hold for them in this order."""
        return list(self._parts)


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


def contents_of(call: Call, *, identity: str) -> list[dict[str, Any]]:
    """Tell of the rounds so far.

    Args:
        call: the attempt's input.
        identity: whose own turns go back as they came.
    """
    contents: list[dict[str, Any]] = []
    for turn in call.turns:
        parts = turn.raw if turn.made_by == identity and turn.raw else _rebuilt(turn)
        contents.append({"role": "model", "parts": parts})
        called = [made for part in parts if isinstance(made := part.get("functionCall"), dict)]
        responses = [
            {
                "functionResponse": {
                    **({"id": name} if (name := text_at(made, "id")) else {}),
                    "name": text_at(made, "name") or "unknown",
                    "response": _response(result),
                }
            }
            for made, result in zip(called, turn.results, strict=True)
        ]
        contents.append({"role": "user", "parts": responses})
    return contents


def _rebuilt(turn: ToolTurn) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = [{"text": turn.text}] if turn.text.strip() else []
    for number, call in enumerate(turn.calls):
        made = {"name": safe_name(call.name), "args": arguments_of(call)}
        signature = {"thoughtSignature": UNSIGNED} if number == 0 else {}
        parts.append({"functionCall": made} | signature)
    return parts


def _response(result: ToolResult) -> dict[str, str]:
    if result.is_error:
        return {"error": result.content}
    return {"result": result.content}


def _encoded(arguments: Any) -> str:
    return msgspec.json.encode(arguments).decode() if arguments is not None else ""
