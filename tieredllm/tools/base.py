"""What a tool is, and how long its results may be; calls and results are among the types."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Literal

import msgspec

from tieredllm.types import MessagePart

__all__ = [
    "MAX_RESULT_BYTES",
    "ArgumentsError",
    "CallTime",
    "Check",
    "Grant",
    "Output",
    "Policy",
    "Run",
    "Tool",
    "ToolFailureError",
    "shorten",
]

Arguments = dict[str, Any]
Check = Callable[[Arguments], Arguments]
"""Return arguments in the form that equal calls share; raise `ArgumentsError` for mistakes."""
Grant = Literal["all", "none"] | tuple[str, ...]
"""Which tools a tier may use: its `tools` in the profile."""
Policy = Literal["ask", "always", "never"]
"""The profile's `tools.approve`."""

TIMEOUT_S = 30.0
"""How long one call may take unless its tool says otherwise."""

MAX_RESULT_BYTES = 32 * 1024
"""The longest result of one call, in bytes of UTF-8: some 8,000 tokens of English."""

HEAD_SHARE = 0.75
"""How much of what is kept of a text that is too long is its beginning; the rest is its end."""


class ToolFailureError(Exception):
    """Tell the model why a tool gave no result; the message is the result it gets."""


class ArgumentsError(Exception):
    """Tell the model what is wrong with the arguments of its call."""


class Output(msgspec.Struct, frozen=True, kw_only=True):
    """What a tool gave."""

    text: str
    parts: tuple[MessagePart, ...] = ()
    """What it gave besides; the text names it in its place."""
    links: tuple[str, ...] = ()
    """The addresses of what it could be asked for next."""


class CallTime:
    """The time of one call: what its tool may take, which signs of life begin anew.

    Args:
        timer: ends the call.
        timeout_s: how long the tool may be silent, in seconds.
        last: when the call ends whatever the tool says, on the event loop's clock.
    """

    def __init__(self, timer: asyncio.Timeout, timeout_s: float, last: float) -> None:
        self._timer = timer
        self._timeout_s = timeout_s
        self._last = last
        self.deadline = min(asyncio.get_running_loop().time() + timeout_s, last)
        """When the call ends, as far as is known, on the event loop's clock."""

    @property
    def is_last(self) -> bool:
        """Whether it is the request's end that the call would end at, not the tool's own."""
        return self.deadline >= self._last

    def renew(self) -> None:
        """Begin the tool's time anew: it is at work."""
        self.deadline = min(asyncio.get_running_loop().time() + self._timeout_s, self._last)
        if not self._timer.expired():
            self._timer.reschedule(self.deadline)


Run = Callable[[Arguments, CallTime], Awaitable[str | Output]]
"""Run with checked arguments, within a time; give the result."""


class Tool(msgspec.Struct, frozen=True, kw_only=True):
    """One tool."""

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
    """How long one call may take, or be without a sign of life, in seconds."""
    approve: Policy | None = None
    """Whether it may run when it is not read-only; the profile's `tools.approve` when None."""
    private: bool = False
    """Whether what it gives may be private."""
    destination: Callable[[Arguments], str] | None = None
    """Where a call carries data to, a host or a server; None when it carries none away."""
    server: str | None = None
    """The MCP server it is of."""
    spelled: str = ""
    """The name as the profile and the server spell it: `docs__pages/get` of `docs__pages_get_1f…`;
    empty for tools of no server."""
    identity: str = ""
    """What a remembered approval holds for besides its name: whatever makes its server that one."""
    check: Check
    """Finds mistakes in arguments."""
    run: Run
    """Does the work; raises `ToolFailureError`, and whatever else goes wrong."""


def shorten(text: str, max_bytes: int = MAX_RESULT_BYTES) -> str:
    """Cut the middle out of a text that is too long, and say so where it was.

    Args:
        text: clean text.
        max_bytes: the most it may have in UTF-8, the note about the cut included; at least 200.
    """
    raw = text.encode("utf-8", "replace")
    if len(raw) <= max_bytes:
        return text
    kept = max_bytes - 100  # room for the note
    head_bytes = int(kept * HEAD_SHARE)
    head = raw[:head_bytes].decode("utf-8", "ignore")
    tail = raw[len(raw) - (kept - head_bytes) :].decode("utf-8", "ignore")
    left_out = len(text) - len(head) - len(tail)
    return f"{head}\n[… {left_out} characters of this result are left out here …]\n{tail}"
