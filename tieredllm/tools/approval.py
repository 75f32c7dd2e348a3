"""Decide whether a tool may run. What the user said counts; nothing a tool or model says does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Literal

from tieredllm.tools.base import Tool

__all__ = ["Approval", "Approver", "Policy"]

Policy = Literal["ask", "always", "never"]
"""The profile's `tools.approve`."""
Approver = Callable[[Tool, str], Awaitable[bool]]
"""Ask a person about one call; gets the tool and its arguments as JSON."""


class Approval:
    """Say yes or no to calls of tools that are not known to be read-only.

    Args:
        policy: what the profile says.
        ask: asks a person; None where there is nobody to ask, and then `ask` means no.
        approved: whether the user has said yes beforehand (`--approve-tools`). It answers what
            would be asked; `never` stays never.
    """

    def __init__(
        self, policy: Policy, *, ask: Approver | None = None, approved: bool = False
    ) -> None:
        self._policy: Policy = "always" if approved and policy == "ask" else policy
        self._ask = ask
        self._one_at_a_time = asyncio.Lock()
        self._refused: set[tuple[str, str]] = set()

    async def refusal(self, tool: Tool, arguments: str, *, deadline: float) -> str | None:
        """Say why a call may not run; None when it may.

        Args:
            tool: what would run.
            arguments: with what, as JSON.
            deadline: when nobody's answer counts as no, on the event loop's clock.
        """
        if tool.read_only is True or self._policy == "always":
            return None
        if self._policy == "never":
            return "this tool may change something, and the profile allows no such tool to run"
        if self._ask is None:
            return "this tool may change something, and there is nobody at a terminal to approve it"
        try:
            async with asyncio.timeout_at(deadline), self._one_at_a_time:
                approved = await self._approved(self._ask, tool, arguments)
        except TimeoutError:
            return "nobody approved this call in time"
        except Exception:  # noqa: BLE001 - a question that cannot be put is not answered with yes
            return "this tool may change something, and the user could not be asked"
        return None if approved else "the user did not approve this call"

    async def _approved(self, ask: Approver, tool: Tool, arguments: str) -> bool:
        """Ask; whoever said no to a call is not asked again by a model that insists."""
        key = (tool.name, arguments)
        if key in self._refused:
            return False
        approved = await ask(tool, arguments)
        if not approved:
            self._refused.add(key)
        return approved
