"""Remember what ran in one request, so that nothing runs twice.

A request may go through several tiers, and each model may ask for the same thing again: the one
whose stream was cut between a call and its answer, and that of the next tier, which knows nothing
of it. A call with the same name and arguments as an earlier one gets the earlier one's result,
whatever came of it. The results themselves outlive the tier that asked for them: `records` has
them all, for the tool messages of a tier that has tools and, through `quoting`, as text for one
that has none.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from tieredllm.clock import Clock, SystemClock
from tieredllm.tools import call as calling
from tieredllm.tools.approval import Approval
from tieredllm.tools.base import Grant, Outcome, Tool, ToolCall, ToolResult

if TYPE_CHECKING:
    from tieredllm.tools.registry import Toolbox

__all__ = ["MAX_CALLS", "Record", "ToolSession"]

MAX_CALLS = 32
"""The most calls of one round that are looked at; a model that wants more at once is lost."""


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """Hold one call that ran, or was refused, and what came of it."""

    tier: str
    """The tier whose model made it."""
    call: ToolCall
    arguments: str
    """Its arguments as JSON, in the one form that equal calls share."""
    result: ToolResult


class ToolSession:
    """Be one request's tools.

    Args:
        toolbox: what there is; outlives the request.
        approval: decides about what is not read-only.
        max_rounds: how often in the request models may call tools, all tiers together.
        clock: the time.
    """

    def __init__(
        self,
        toolbox: Toolbox,
        *,
        approval: Approval,
        max_rounds: int,
        clock: Clock | None = None,
    ) -> None:
        self._toolbox = toolbox
        self._approval = approval
        self._rounds_left = max_rounds
        self._clock = clock or SystemClock()
        self._running: dict[tuple[str, str], asyncio.Future[ToolResult]] = {}
        self._records: list[Record] = []

    @property
    def records(self) -> tuple[Record, ...]:
        """What ran or was refused, in the order it ended; wrong calls are not among it."""
        return tuple(self._records)

    @property
    def troubles(self) -> tuple[str, ...]:
        """Why some tools are missing."""
        return self._toolbox.troubles

    @property
    def rounds_left(self) -> int:
        """How often models may still call tools; at 0 they must answer without."""
        return self._rounds_left

    async def tools(self, grant: Grant, *, deadline: float) -> tuple[Tool, ...]:
        """Give the tools of a tier, for its request; none once the rounds are used up.

        Args:
            grant: the tier's `tools`.
            deadline: when to stop waiting for servers, on the event loop's clock.
        """
        if self._rounds_left <= 0:
            return ()
        return await self._toolbox.granted(grant, deadline=deadline)

    async def carry_out(
        self, calls: Sequence[ToolCall], grant: Grant, *, tier: str, deadline: float
    ) -> list[ToolResult]:
        """Carry out one round of calls; give their results in the calls' order.

        Tools that only read run at the same time; the others one after the other, after them and
        in the calls' order. Whoever cancels the wait cancels what runs, and it is remembered as
        cut off: it is not run again.

        Args:
            calls: what one answer of a model asked for.
            grant: the `tools` of the tier that asked; nothing else runs for it.
            tier: its name.
            deadline: the request's, on the event loop's clock.
        """
        if self._rounds_left <= 0:
            reason = "no more tools may be called for this question: answer with what is known"
            return [_result(call, "denied", reason) for call in calls]
        self._rounds_left -= 1
        tools = {tool.name: tool for tool in await self._toolbox.granted(grant, deadline=deadline)}
        results: dict[int, ToolResult] = {}
        checked: dict[int, calling.Checked] = {}
        for index, call in enumerate(calls):
            if index >= MAX_CALLS:
                reason = f"only {MAX_CALLS} tools may be called at once"
                results[index] = _result(call, "denied", reason)
                continue
            try:
                checked[index] = calling.check(call, tools)
            except calling.RejectedError as exc:
                results[index] = _result(call, exc.outcome, str(exc))
        readers = [index for index, it in checked.items() if it.tool.read_only is True]
        async with asyncio.TaskGroup() as group:
            tasks = {
                index: group.create_task(
                    self._once(calls[index], checked[index], tier=tier, deadline=deadline)
                )
                for index in readers
            }
        results |= {index: task.result() for index, task in tasks.items()}
        for index, it in checked.items():
            if index not in tasks:
                results[index] = await self._once(calls[index], it, tier=tier, deadline=deadline)
        return [results[index] for index in range(len(calls))]

    async def _once(
        self, call: ToolCall, checked: calling.Checked, *, tier: str, deadline: float
    ) -> ToolResult:
        """Give the remembered result of a call, or run it."""
        known = self._running.get(checked.key)
        if known is not None:
            # Shielded: who waits for another's call does not end it by giving up.
            earlier = await asyncio.shield(known)
            return msgspec.structs.replace(earlier, call_id=call.id, repeated=True, duration_ms=0.0)
        future: asyncio.Future[ToolResult] = asyncio.get_running_loop().create_future()
        self._running[checked.key] = future
        started = self._clock.monotonic()
        outcome: Outcome = "denied"
        text = "the call was cut off before it was approved"
        try:
            refusal = await self._approval.refusal(
                checked.tool, checked.canonical, deadline=deadline
            )
            if refusal is None:
                outcome = "cancelled"
                text = "the call was cut off before its result came; it may have taken effect"
                outcome, text = await calling.run(checked, deadline=deadline)
            else:
                text = refusal
        finally:
            duration_ms = (self._clock.monotonic() - started) * 1000
            result = _result(call, outcome, text, duration_ms=duration_ms)
            future.set_result(result)
            self._records.append(
                Record(tier=tier, call=call, arguments=checked.canonical, result=result)
            )
        return result


def _result(call: ToolCall, outcome: Outcome, text: str, *, duration_ms: float = 0.0) -> ToolResult:
    return ToolResult(
        call_id=call.id, name=call.name, text=text, outcome=outcome, duration_ms=duration_ms
    )
