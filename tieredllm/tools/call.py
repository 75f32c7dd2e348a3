"""Carry out one call: find the tool, check the arguments, run it within its time.

Nothing here raises for what a model or a tool does wrong: mistakes and failures are results, which
the model gets and may learn from.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import msgspec

from tieredllm.text import clean, one_line
from tieredllm.tools.base import ArgumentsError, Outcome, Tool, ToolCall, ToolFailureError
from tieredllm.tools.text import shortened

__all__ = ["MAX_ARGUMENT_BYTES", "SHARE_OF_REST", "Checked", "RejectedError", "check", "run"]

MAX_ARGUMENT_BYTES = 256 * 1024
"""The longest arguments of one call; no model writes more on purpose."""

SHARE_OF_REST = 0.5
"""A tool may use up to this share of the request's time: the model has yet to answer."""

SHOWN_CHARACTERS = 500
"""How much of an exception's message a model is told."""


class RejectedError(Exception):
    """Report a call that cannot run as it is.

    Attributes:
        outcome: `unknown` or `invalid`.
    """

    def __init__(self, outcome: Outcome, message: str) -> None:
        self.outcome: Outcome = outcome
        super().__init__(message)


class Checked(msgspec.Struct, frozen=True, kw_only=True):
    """Hold a call that can run."""

    tool: Tool
    arguments: dict[str, Any]
    canonical: str
    """The arguments as JSON in one form: the same for calls that mean the same."""

    @property
    def key(self) -> tuple[str, str]:
        """What equal calls share."""
        return self.tool.name, self.canonical


def check(call: ToolCall, tools: Mapping[str, Tool]) -> Checked:
    """Find a call's tool and check its arguments.

    Args:
        call: as the model made it.
        tools: what it may call, by name.

    Raises:
        RejectedError: there is no such tool, or the arguments are wrong.
    """
    tool = tools.get(call.name)
    if tool is None:
        known = f"there are: {', '.join(tools)}" if tools else "there are none"
        raise RejectedError("unknown", f"there is no tool {one_line(call.name, 80)!r}; {known}")
    try:
        arguments = tool.check(_decoded(call.arguments))
        canonical = msgspec.json.encode(_canonical(arguments), order="deterministic").decode()
    except ArgumentsError as exc:
        reason = shortened(clean(f"the arguments are wrong: {exc}"), 2000)
        raise RejectedError("invalid", reason) from exc
    except (RecursionError, UnicodeEncodeError) as exc:
        raise RejectedError("invalid", "the arguments are nested too deeply, or no text") from exc
    return Checked(tool=tool, arguments=arguments, canonical=canonical)


async def run(checked: Checked, *, deadline: float) -> tuple[Outcome, str]:
    """Run a tool; give how it ended and its result, cleaned and limited in size.

    Args:
        checked: a call that was checked and approved.
        deadline: the request's, on the event loop's clock.

    Raises:
        asyncio.CancelledError: whoever waits for it was cancelled; nothing else.
    """
    tool = checked.tool
    now = asyncio.get_running_loop().time()
    limit_s = max(0.0, min(tool.timeout_s, (deadline - now) * SHARE_OF_REST))
    until = now + limit_s
    outcome: Outcome = "failed"
    timer = asyncio.timeout_at(until)
    try:
        async with timer:
            text = await tool.run(checked.arguments, until)
        outcome = "ok"
    except ToolFailureError as exc:
        text = str(exc)
    except TimeoutError as exc:
        if timer.expired():
            outcome = "timeout"
            text = f"the tool did not finish within {limit_s:.3g} s"
            if not tool.read_only:
                text += "; what it did until then may have taken effect"
        else:
            text = _broken(exc)
    except Exception as exc:  # noqa: BLE001 - whatever a tool does wrong is a result
        text = _broken(exc)
    return outcome, shortened(clean(text)) or "(The result is empty.)"


def _broken(exc: BaseException) -> str:
    while isinstance(exc, BaseExceptionGroup):
        exc = exc.exceptions[0]
    said = one_line(str(exc), SHOWN_CHARACTERS)
    return f"the tool failed: {type(exc).__name__}{': ' if said else ''}{said}"


def _decoded(text: str) -> dict[str, Any]:
    """Read a call's arguments; some models write nothing, `null`, or JSON inside a JSON string."""
    if len(text) > MAX_ARGUMENT_BYTES:
        raise ArgumentsError(f"they are longer than {MAX_ARGUMENT_BYTES // 1024} KiB")
    if not text.strip():
        return {}
    try:
        value = msgspec.json.decode(text)
        if isinstance(value, str):
            value = msgspec.json.decode(value)
    except (msgspec.DecodeError, ValueError) as exc:
        raise ArgumentsError(f"they are not JSON: {exc}") from exc
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ArgumentsError("they are not a JSON object")
    return value


def _canonical(value: Any) -> Any:
    """Make numbers that are equal look equal: in JSON, 1.0 is 1."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    if isinstance(value, dict):
        return {key: _canonical(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(item) for item in value]
    return value
