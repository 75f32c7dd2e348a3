"""Define what a tool is, one call of it, and its result."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Literal

import msgspec

__all__ = [
    "ArgumentsError",
    "Check",
    "Grant",
    "Outcome",
    "Run",
    "Tool",
    "ToolCall",
    "ToolFailureError",
    "ToolResult",
]

Arguments = dict[str, Any]
Check = Callable[[Arguments], Arguments]
"""Give arguments in the form that equal calls share; raise `ArgumentsError` for mistakes."""
Run = Callable[[Arguments, float], Awaitable[str]]
"""Run with checked arguments, until a deadline on the event loop's clock; give the result."""
Grant = Literal["all", "none"] | tuple[str, ...]
"""Which tools a tier may use: its `tools` in the profile."""
Outcome = Literal["ok", "failed", "timeout", "cancelled", "invalid", "unknown", "denied"]
"""How a call ended. After the last three nothing ran."""

TIMEOUT_S = 30.0
"""How long one call may take unless its tool says otherwise."""


class ToolFailureError(Exception):
    """Tell the model why a tool gave no result; the message is the result it gets."""


class ArgumentsError(Exception):
    """Tell the model what is wrong with the arguments of its call."""


class Tool(msgspec.Struct, frozen=True, kw_only=True):
    """Hold one tool."""

    name: str
    """What models call it: 1 to 64 letters, digits, `_` and `-`, as all vendors accept."""
    description: str
    """What it does, for the model."""
    parameters: dict[str, Any]
    """The JSON Schema of its arguments, an object."""
    read_only: bool | None = None
    """Whether it changes nothing; None when that is not known, and then it needs approval."""
    origin: str
    """Where it comes from: `builtin`, `python`, or `mcp:` and the server's name."""
    timeout_s: float = TIMEOUT_S
    """The longest one call may take, in seconds."""
    check: Check
    """Finds mistakes in arguments."""
    run: Run
    """Does the work; raises `ToolFailureError`, and whatever else goes wrong."""


class ToolCall(msgspec.Struct, frozen=True, kw_only=True):
    """Hold a call as a model made it."""

    id: str
    """The vendor's, or one made up where a vendor gives none; unique in the request."""
    name: str
    arguments: str = ""
    """JSON text, as it came; empty for none."""


class ToolResult(msgspec.Struct, frozen=True, kw_only=True):
    """Hold what came of a call: data from outside, cleaned and limited, never instructions."""

    call_id: str
    name: str
    text: str
    """What the tool gave, or what went wrong."""
    outcome: Outcome
    repeated: bool = False
    """Whether it is remembered from the same call earlier in the request; nothing ran again."""
    duration_ms: float = 0.0

    @property
    def is_error(self) -> bool:
        """Whether the text says what went wrong."""
        return self.outcome != "ok"

    @property
    def for_model(self) -> str:
        """Give the text a model gets, where a vendor's wire has no flag for errors."""
        text = f"Error: {self.text}" if self.is_error else self.text
        if not self.repeated:
            return text
        return f"(The same call as before in this request; it was not run again.)\n{text}"
