"""Let models call tools on the way down the tiers: what each is told, and what its calls come to.

One request has one set of rounds, whichever tier's model made them. Each is kept as soon as its
results are there, so that whatever fails afterwards (a retry, a fallback) goes on from them; and
the session behind it runs nothing twice. A model that has no tools gets the results as text.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING

import msgspec

from tieredllm.engine.kit import Kit, summed
from tieredllm.errors import FallbackTriggerError, UsageError
from tieredllm.providers.base import (
    WITH_TOOLS,
    Backend,
    ToolDeclaration,
    ToolRequest,
    ToolTurn,
)
from tieredllm.types import (
    Event,
    Notice,
    ToolCall,
    ToolEnded,
    ToolResult,
    ToolStarted,
    ToolUse,
    Usage,
)

if TYPE_CHECKING:
    from tieredllm.profile.schema import Tier
    from tieredllm.tools.session import ToolSession

__all__ = ["START_S", "Tooling"]

_Happened = Event | FallbackTriggerError

START_S = 15.0
"""How long a request waits for tool servers to start before it goes on without them."""

SHARE_OF_REST = 0.25
"""The most of the request's time that this may take."""


class Tooling:
    """Be one request's tools.

    Args:
        session: runs them.
    """

    def __init__(self, session: ToolSession) -> None:
        self._session = session
        self._turns: list[ToolTurn] = []
        self._uses: list[ToolUse] = []
        self._declared: dict[str, tuple[ToolDeclaration, ...]] = {}
        self._spent: dict[str, Usage] = {}
        self._problems: list[str] = []
        self._told: set[str] = set()

    @property
    def uses(self) -> tuple[ToolUse, ...]:
        """All calls so far, in the order of their rounds."""
        return tuple(self._uses)

    async def rounds(
        self,
        attempt: Callable[[Kit], AsyncGenerator[_Happened, None]],
        *,
        tier: Tier,
        backend: Backend,
        omit: frozenset[str],
        deadline: float,
    ) -> AsyncGenerator[_Happened, None]:
        """Make attempts, and run what they call in between, until one calls nothing.

        Args:
            attempt: makes one, and leaves in the kit what it ends with.
            tier: whose attempts they are.
            backend: who is asked.
            omit: the parameters it is known to reject.
            deadline: the request's, on the event loop's clock.
        """
        while True:
            kit = await self._kit(tier, backend, omit, deadline=deadline)
            for notice in self._troubles(tier.name):
                yield notice
            async with aclosing(attempt(kit)) as events:
                async for event in events:
                    yield event
            if kit.request is None:
                return
            calls = self._carry_out(
                kit.request, said=kit.said, tier=tier, backend=backend, deadline=deadline
            )
            async with aclosing(calls):
                async for happened in calls:
                    yield happened

    async def _kit(
        self, tier: Tier, backend: Backend, omit: frozenset[str], *, deadline: float
    ) -> Kit:
        """Put together what an attempt is told; servers that its tools need are started.

        Args:
            tier: whose tools they are.
            backend: who is asked.
            omit: the parameters it is known to reject, `tools` perhaps among them.
            deadline: the request's, on the event loop's clock.
        """
        declared: tuple[ToolDeclaration, ...] = ()
        if backend.provider in WITH_TOOLS and "tools" not in omit:
            declared = await self._offered(tier, deadline)
        return Kit(
            declared=declared,
            turns=tuple(self._turns) if declared else (),
            may_call=self._session.rounds_left > 0,
            results=self._quoted(),
            spent=self._spent.get(backend.identity, Usage()),
        )

    def _troubles(self, tier: str) -> list[Notice]:
        """Give what is missing and was not said yet."""
        troubles = (*self._problems, *self._session.troubles)
        new = [trouble for trouble in troubles if trouble not in self._told]
        self._told.update(new)
        return [Notice(tier=tier, message=trouble) for trouble in new]

    async def _carry_out(
        self, request: ToolRequest, *, said: str, tier: Tier, backend: Backend, deadline: float
    ) -> AsyncGenerator[Event, None]:
        """Run one round of calls, and keep what came of it for whoever is asked next.

        Args:
            request: the calls.
            said: what the model said before them.
            tier: whose model it was.
            backend: which backend.
            deadline: the request's, on the event loop's clock.
        """
        calls = request.calls
        for call in calls:
            yield ToolStarted(
                tier=tier.name, call_id=call.id, name=call.name, arguments=call.arguments
            )
        spent = self._spent.get(backend.identity, Usage())
        self._spent[backend.identity] = summed(spent, request.usage)
        results = await self._results(calls, tier, deadline)
        self._turns.append(
            ToolTurn(
                text=said,
                calls=calls,
                results=tuple(results),
                made_by=backend.identity,
                raw=request.raw,
            )
        )
        for call, result in zip(calls, results, strict=True):
            self._uses.append(_use(tier.name, call, result))
        for result in results:
            yield ToolEnded(tier=tier.name, result=result)

    async def _results(
        self, calls: tuple[ToolCall, ...], tier: Tier, deadline: float
    ) -> list[ToolResult]:
        before = len(self._session.records)
        try:
            return await self._session.carry_out(
                calls, tier.tools, tier=tier.name, deadline=deadline
            )
        except Exception as exc:  # noqa: BLE001 - no bug of a tool may take the answer away
            # What did run is remembered; what did not is told as it is.
            ran = {id(record.call): record.result for record in self._session.records[before:]}
            reason = f"the call could not be carried out: {type(exc).__name__}: {exc}"[:300]
            return [
                ran.get(id(call))
                or ToolResult(call_id=call.id, name=call.name, text=reason, outcome="failed")
                for call in calls
            ]

    async def _offered(self, tier: Tier, deadline: float) -> tuple[ToolDeclaration, ...]:
        """Give a tier's tools; also once the rounds are used up, as the history names them."""
        if tier.name in self._declared:
            return self._declared[tier.name]
        now = asyncio.get_running_loop().time()
        until = now + min(START_S, max(0.0, deadline - now) * SHARE_OF_REST)
        try:
            tools = await self._session.tools(tier.tools, deadline=until)
        except UsageError as exc:
            # An answer without tools is better than none.
            self._problems.append(f"no tools: {exc}")
            tools = ()
        self._declared[tier.name] = tuple(
            ToolDeclaration(
                name=tool.name, description=tool.description, parameters=tool.parameters
            )
            for tool in tools
        )
        return self._declared[tier.name]

    def _quoted(self) -> str | None:
        if not self._session.records:
            return None
        from tieredllm.tools.quoting import quoted

        return quoted(self._session.records)


def _use(tier: str, call: ToolCall, result: ToolResult) -> ToolUse:
    try:
        arguments = msgspec.json.decode(call.arguments) if call.arguments.strip() else {}
    except (msgspec.DecodeError, ValueError, RecursionError):
        arguments = call.arguments
    return ToolUse(
        tier=tier,
        name=call.name,
        arguments=arguments,
        outcome=result.outcome,
        result=result.text,
        repeated=result.repeated,
        duration_ms=round(result.duration_ms, 1),
    )
