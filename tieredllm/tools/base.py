"""Define what a tool is; its calls and results are among the types."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Literal

import msgspec

from tieredllm.types import ToolCall, ToolOutcome, ToolResult

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
Outcome = ToolOutcome

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
