"""Let models call tools on the way down the tiers: what each is told, and what its calls come to.

One request has one set of rounds, whichever tier's model made them. Each is kept as soon as its
results are there, so that whatever fails afterwards (a retry, a fallback) goes on from them; and
the session behind it remembers them for the next tier. A model that has no tools gets them as text.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import msgspec

from tieredllm.engine.attempt import Completed, Failed, Outcome, ToolCalls, ToolContext
from tieredllm.engine.ports import Emit
from tieredllm.errors import UsageError
from tieredllm.providers.base import Backend
from tieredllm.providers.tool_schema import rules_of, select_tools
from tieredllm.types import (
    Message,
    Notice,
    ToolCall,
    ToolChoice,
    ToolDeclaration,
    ToolEnded,
    ToolResult,
    ToolStarted,
    ToolUse,
    Usage,
)

if TYPE_CHECKING:
    from tieredllm.profile.schema import Tier
    from tieredllm.tools.execute import ToolSession

__all__ = ["START_S", "ToolLoop"]

START_S = 15.0
"""How long a request waits for tool servers to start before it goes on without them."""

SHARE_OF_REST = 0.25
"""The most of the request's time that this may take."""


class ToolLoop:
    """One request's tools.

    Args:
        session: runs them.
    """

    def __init__(self, session: ToolSession) -> None:
        self._session = session
        self._rounds: list[Message] = []
        self._uses: list[ToolUse] = []
        self._declared: dict[str, tuple[int, tuple[ToolDeclaration, ...]]] = {}
        """For each tier its tools, and how many rounds there were when they were looked up."""
        self._instructions: dict[str, str] = {}
        self._spent: dict[str, Usage] = {}
        self._problems: list[str] = []
        self._told: set[str] = set()

    @property
    def uses(self) -> tuple[ToolUse, ...]:
        """All calls so far, in the order of their rounds."""
        return tuple(self._uses)

    async def run_rounds(
        self,
        attempt: Callable[[ToolContext], Awaitable[Outcome]],
        *,
        tier: Tier,
        backend: Backend,
        omit: frozenset[str],
        deadline: float,
        emit: Emit,
    ) -> Completed | Failed:
        """Make attempts, and run what they call in between, until one calls nothing.

        Args:
            attempt: makes one.
            tier: whose attempts they are.
            backend: who is asked.
            omit: the parameters it is known to reject.
            deadline: the request's, on the event loop's clock.
            emit: takes what happens.

        Returns:
            How the last attempt ended, with the tokens of all rounds.
        """
        number = 0
        while True:
            context = await self._context(tier, backend, omit, number, deadline=deadline)
            for notice in self._new_notices(tier.name):
                await emit(notice)
            outcome = await attempt(context)
            if isinstance(outcome, Completed):
                usage = add_usage(context.spent, outcome.finish.usage)
                finish = msgspec.structs.replace(outcome.finish, usage=usage)
                return msgspec.structs.replace(outcome, finish=finish)
            if isinstance(outcome, Failed):
                return outcome
            await self._execute(outcome, tier=tier, backend=backend, deadline=deadline, emit=emit)
            number += 1

    async def _context(
        self, tier: Tier, backend: Backend, omit: frozenset[str], number: int, *, deadline: float
    ) -> ToolContext:
        """Return what an attempt is told; servers that its tools need are started."""
        declared: tuple[ToolDeclaration, ...] = ()
        rejected: tuple[str, ...] = ()
        if backend.capabilities.tools and "tools" not in omit:
            offered = await self._offered(tier, deadline)
            rejected = tuple(tool.name for tool in offered if tool.rejected_as in omit)
            declared = self._selected(
                tuple(tool for tool in offered if tool.rejected_as not in omit), backend
            )
        shown = self._rounds if backend.capabilities.images else map(_in_words, self._rounds)
        return ToolContext(
            declared=declared,
            instructions=self._instructions.get(tier.name, ""),
            rejected=rejected,
            rounds=tuple(shown) if declared else (),
            choice=ToolChoice(mode="auto" if self._session.rounds_left > 0 else "none"),
            results=self._quoted(),
            spent=self._spent.get(backend.identity, Usage()),
            round=number,
        )

    def _selected(
        self, tools: tuple[ToolDeclaration, ...], backend: Backend
    ) -> tuple[ToolDeclaration, ...]:
        """Return as many tools as a backend takes, and note which are left out."""
        rules = rules_of(backend.provider)
        called = [call.name for said in self._rounds for call in said.calls]
        selected = select_tools(tools, rules, called=called)
        if len(selected) < len(tools):
            names = {tool.name for tool in selected}
            missing = [tool.name for tool in tools if tool.name not in names]
            self._problems.append(
                f"{backend.provider} takes {len(selected)} tools, and {len(tools)} are granted: "
                f"{missing[0]} and {len(missing) - 1} others after it are left out; "
                "grant those it needs"
            )
        return selected

    def _new_notices(self, tier: str) -> list[Notice]:
        """Return what is missing and was not said yet."""
        troubles = (*self._problems, *self._session.troubles)
        new = [trouble for trouble in troubles if trouble not in self._told]
        self._told.update(new)
        return [Notice(tier=tier, message=trouble) for trouble in new]

    async def _execute(
        self, wanted: ToolCalls, *, tier: Tier, backend: Backend, deadline: float, emit: Emit
    ) -> None:
        """Run one round of calls, and keep what came of it for whoever is asked next."""
        request, calls = wanted.request, wanted.request.calls
        for call in calls:
            await emit(
                ToolStarted(
                    tier=tier.name, call_id=call.id, name=call.name, arguments=call.arguments
                )
            )
        spent = self._spent.get(backend.identity, Usage())
        self._spent[backend.identity] = add_usage(spent, request.usage)
        results = await self._results(calls, tier, backend, deadline)
        said = Message(
            "assistant", wanted.said, calls=calls, made_by=backend.identity, raw=request.raw
        )
        self._rounds += [said, *(result.as_message() for result in results)]
        for call, result in zip(calls, results, strict=True):
            self._uses.append(_use(tier.name, call, result))
        for result in results:
            await emit(ToolEnded(tier=tier.name, result=result))

    async def _results(
        self, calls: tuple[ToolCall, ...], tier: Tier, backend: Backend, deadline: float
    ) -> list[ToolResult]:
        before = len(self._session.records)
        try:
            return await self._session.execute_round(
                calls,
                tier.tools,
                tier=tier.name,
                deadline=deadline,
                conversation=f"{tier.name} {backend.identity}",
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
        """Return a tier's tools; also once the rounds are used up, as the history names them."""
        known = self._declared.get(tier.name)
        if known is not None:
            rounds, declared = known
            # A call may have changed what a server offers.
            if rounds == len(self._rounds) or self._session.rounds_left <= 0:
                return declared
        now = asyncio.get_running_loop().time()
        until = now + min(START_S, max(0.0, deadline - now) * SHARE_OF_REST)
        try:
            tools = await self._session.tools(tier.tools, deadline=until)
        except UsageError as exc:
            # An answer without tools is better than none.
            self._problems.append(f"no tools: {exc}")
            tools = ()
        declared = tuple(
            ToolDeclaration(
                name=tool.name, description=tool.description, parameters=tool.parameters
            )
            for tool in tools
        )
        told = self._session.instructions(tools).items()
        self._instructions[tier.name] = "\n\n".join(_introduced(*each) for each in told)
        self._declared[tier.name] = (len(self._rounds), declared)
        return declared

    def _quoted(self) -> str | None:
        if not self._session.records:
            return None
        from tieredllm.tools.execute import quote_results

        return quote_results(self._session.records)


def add_usage(one: Usage, other: Usage) -> Usage:
    """Return the tokens of two rounds; what neither tells stays unknown."""

    def both(a: int | None, b: int | None) -> int | None:
        return None if a is None and b is None else (a or 0) + (b or 0)

    return Usage(
        prompt_tokens=both(one.prompt_tokens, other.prompt_tokens),
        completion_tokens=both(one.completion_tokens, other.completion_tokens),
    )


def _introduced(server: str, instructions: str) -> str:
    """Return what a server says of itself, such that it cannot pass for somebody else's words."""
    lines = "\n".join(f"> {line}" for line in instructions.split("\n"))
    return f"What the server of the tools `{server}` says about them:\n{lines}"


def _in_words(message: Message) -> Message:
    """Return a message for a model that sees no images; its text names them."""
    if not message.parts:
        return message
    content = f"{message.content}\n(Images are not shown to you.)"
    return msgspec.structs.replace(message, content=content, parts=())


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
