"""Ask tier after tier until one answers completely: one request's way down.

In each tier the backends (the tier's own, then alternates) are tried: one attempt and its retries.
What happens is emitted as events; what came of it is returned.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from tieredllm.clock import Clock, iso
from tieredllm.engine.attempt import (
    AttemptRequest,
    Completed,
    ContextSkipError,
    Failed,
    Outcome,
    StreamState,
    ToolCalls,
    ToolContext,
    patience_s,
    stream_attempt,
)
from tieredllm.engine.attempt_log import AttemptLog, Winner
from tieredllm.engine.budget import models_deadline_s, silence_limit_s
from tieredllm.engine.hedge import hedge
from tieredllm.engine.plan import TierPlan, lacking, leading_models, merged, selected
from tieredllm.engine.ports import (
    Controls,
    Emit,
    Gate,
    HealthMemory,
    OpenGate,
    ParameterMemory,
    Standing,
    TurnResult,
)
from tieredllm.engine.retry import bench_s, counts, retry_wait_s
from tieredllm.errors import FallbackTriggerError
from tieredllm.kinds import ErrorKind
from tieredllm.profile.schema import Profile, Tier
from tieredllm.providers.base import Backend, Finish, ToolRequest
from tieredllm.types import (
    Answer,
    Answered,
    AttemptFailed,
    AttemptStarted,
    CallsMade,
    Event,
    FellBack,
    Notice,
    Options,
    Prompt,
    RetryScheduled,
    Skip,
    TierSkipped,
    ToolCall,
    ToolsWanted,
    rejected_tool,
)

if TYPE_CHECKING:
    from tieredllm.engine.tool_loop import ToolLoop

__all__ = ["Events", "FallbackRun"]

MAX_TOOL_REPAIRS = 4
"""After how many repairs all tools are left out instead of one more."""

MAX_REPAIRS = 8
"""How many unsupported parameters one try leaves out; no vendor has more optional ones we send."""

STALE_S = 0.05
"""After how long a wait at the gate the backend's health is looked up again, in seconds."""

QUEUED_EVENTS = 64
"""How many events wait for a slow reader before the backend has to."""

CAPABILITY_FIX = "leave it out of the request, or add a tier that can"

Result = Winner | Failed | None
"""What a part of the way down comes to: an answer, a failure that ends the request, or neither."""


class FallbackRun:
    """One request on its way down the tiers. Use it once.

    Args:
        plans: the tiers with their backends.
        profile: whose deadline, thresholds and refusal policy hold.
        prompt: the request.
        options: what the caller wants besides.
        request_id: 32 hexadecimal digits.
        health: the memory of what works.
        parameters: the memory of rejected parameters.
        clock: the time.
        rng: where jitter comes from.
        tools: what models may call; None for nothing.
        gate: who decides when a backend may be asked; nobody when None.
        controls: what the caller may do meanwhile.
    """

    def __init__(
        self,
        *,
        plans: Sequence[TierPlan],
        profile: Profile,
        prompt: Prompt,
        options: Options,
        request_id: str,
        health: HealthMemory,
        parameters: ParameterMemory,
        clock: Clock,
        rng: random.Random,
        tools: ToolLoop | None = None,
        gate: Gate | None = None,
        controls: Controls | None = None,
    ) -> None:
        self._plans = selected(plans, options)
        self._profile = profile
        self._prompt = prompt
        self._options = options
        self._request_id = request_id
        self._health = health
        self._parameters = parameters
        self._clock = clock
        self._rng = rng
        self._tools = tools
        self._gate = gate or OpenGate()
        self._controls = controls or Controls()
        self._needed = frozenset(
            name
            for name, is_needed in (
                ("tools", bool(options.caller_tools)),
                ("schema", options.schema is not None),
            )
            if is_needed
        )
        """The parameters that a request is not sent without."""
        self._log = AttemptLog(request_id=request_id, clock=clock, plans=plans)
        self._deadline = float("inf")
        self._standings: dict[str, Standing] = {}
        self._set_aside: list[TierPlan] = []
        """Backends passed over for their health, each as a tier of its own."""
        self._asked: str | None = None
        """The tier that was asked last."""
        self._warmed = False
        self._told: set[Notice] = set()
        self._successes: list[TurnResult] = []

    def unanswered(self) -> Answer:
        """Return what is known of a request that ended before its answer."""
        return self._log.answer(None)

    async def run(self, emit: Emit) -> Answer:
        """Return the answer, complete or failed.

        Args:
            emit: takes what happens; the last event is `Answered`.
        """
        deadline_s = self._options.deadline_s or self._profile.deadline_s
        self._deadline = asyncio.get_running_loop().time() + models_deadline_s(deadline_s)
        self._standings = self._health.standings(
            [backend.identity for plan in self._plans for backend in plan.backends]
        )
        try:
            result = await self._try_tiers(list(self._plans), emit)
            answer = self._log.answer(
                result if isinstance(result, Winner) else None,
                tool_calls=self._tools.uses if self._tools is not None else (),
            )
            await emit(Answered(answer=answer))
            # Whoever waits for the answer has it before the database is written.
            await asyncio.sleep(0)
            return answer
        finally:
            for success in self._successes:
                self._health.record(success)

    async def _try_tiers(
        self, plans: list[TierPlan], emit: Emit, *, hedging: bool = False
    ) -> Result:
        """Go down the tiers until one has answered or none is left.

        Models that were set aside as unhealthy are asked all the same before the rules are, but not
        by a race's other side.
        """
        while plans:
            if not plans[0].is_language_model:
                result = await self._try_those_set_aside(emit)
                if result is not None:
                    return result
            plan = plans.pop(0)
            partners = leading_models(plans)
            if plan.tier.hedge_after_s is None or not plan.is_language_model or not partners:
                result = await self._try_tier(plan, emit)
            else:
                result = await hedge(
                    partial(self._try_tier, plan),
                    partial(self._try_beside, plan, partners),
                    after_s=plan.tier.hedge_after_s,
                    emit=emit,
                )
            if result is not None:
                return result
            # Partners of a race may have given way already; one that was cancelled has not.
            plans = [later for later in plans if not self._log.is_exhausted(later)]
        return None if hedging else await self._try_those_set_aside(emit)

    async def _try_beside(self, slow: TierPlan, partners: list[TierPlan], emit: Emit) -> Result:
        """Go down the tiers that race a slow one."""
        message = f"no token after {slow.tier.hedge_after_s:g} s, so the next tier is asked too"
        await emit(Notice(tier=slow.tier.name, message=message))
        return await self._try_tiers(partners, emit, hedging=True)

    async def _try_those_set_aside(self, emit: Emit) -> Result:
        plans, self._set_aside = self._set_aside, []
        if self._options.patient:
            return None
        for plan in plans:
            result = await self._try_tier(plan, emit, ignore_health=True)
            if result is not None:
                return result
        return None

    async def _try_tier(self, plan: TierPlan, emit: Emit, *, ignore_health: bool = False) -> Result:
        """Try each backend of a tier."""
        for backend in plan.backends:
            outcome = await self._take_turn(plan, backend, emit, ignore_health=ignore_health)
            if outcome is None:
                continue
            if isinstance(outcome, Completed):
                return Winner(plan=plan, backend=backend, completed=outcome)
            refused = outcome.error.kind is ErrorKind.CONTENT_FILTER
            if refused and self._profile.on_content_filter == "stop":
                return outcome
        return None

    async def _take_turn(
        self, plan: TierPlan, backend: Backend, emit: Emit, *, ignore_health: bool
    ) -> Completed | Failed | None:
        """Ask a backend when its gate lets the request in; None when it is passed over."""
        if not plan.is_language_model or backend.missing() is not None:
            return await self._ask_or_skip(plan, backend, emit, ignore_health=ignore_health)
        loop, identity = asyncio.get_running_loop(), backend.identity
        came_at = loop.time()
        await self._gate.enter(identity)
        outcome: Completed | Failed | None = None
        try:
            if (waited_s := loop.time() - came_at) > STALE_S:
                # Waiting in a queue is no part of the request, and the backend may have failed.
                self._deadline += waited_s
                self._standings |= self._health.standings([identity])
            asked_at = self._log.now()
            outcome = await self._ask_or_skip(plan, backend, emit, ignore_health=ignore_health)
            return outcome
        finally:
            first_token_s = None
            if isinstance(outcome, Completed) and outcome.first_token_at is not None:
                first_token_s = max(0.0, outcome.first_token_at - asked_at)
            self._gate.leave(identity, first_token_s)

    async def _ask_or_skip(
        self, plan: TierPlan, backend: Backend, emit: Emit, *, ignore_health: bool
    ) -> Completed | Failed | None:
        skipped, probe = self._admit(plan, backend, ignore_health=ignore_health)
        if skipped is None:
            if self._following(plan, backend) is None:
                return await self._try_backend(plan, backend, emit, probe=probe)
            try:
                async with self._controls.turn():
                    return await self._try_backend(plan, backend, emit, probe=probe)
            except TimeoutError:
                attempt = self._log.move_on(plan, backend)
                streamed = attempt.first_token_ms is not None
                await emit(AttemptFailed(attempt=attempt, streamed=streamed))
                return None
        await emit(TierSkipped(attempt=self._log.skip(plan, backend, *skipped)))
        self._warm_up(plan.level)
        return None

    def _admit(
        self, plan: TierPlan, backend: Backend, *, ignore_health: bool
    ) -> tuple[tuple[Skip, str] | None, bool]:
        """Return why a backend is passed over, None when it is asked; and if asking is a probe."""
        missing = backend.missing()
        if missing is not None:
            return (Skip(why="not_configured", fix=missing.fix), missing.what), False
        lacks = lacking(backend.capabilities, self._prompt, self._options)
        if lacks is None and not self._needed.isdisjoint(
            self._parameters.rejected(backend.identity)
        ):
            lacks = f"it has rejected {' and '.join(sorted(self._needed))}"
        if lacks is not None:
            return (Skip(why="capability", fix=CAPABILITY_FIX), lacks), False
        if not plan.is_language_model:
            return None, False
        if self._left_s() <= 0:
            return (Skip(why="no_time"), "no time is left"), False
        standing = self._standings.get(backend.identity, Standing())
        probe = standing.state == "half_open" and self._health.acquire_probe(backend.identity)
        if ignore_health or probe:
            return None, probe
        skipped = self._unhealthy(standing)
        if skipped is not None:
            self._set_aside.append(msgspec.structs.replace(plan, backends=(backend,)))
        return skipped, False

    def _unhealthy(self, standing: Standing) -> tuple[Skip, str] | None:
        if standing.state == "half_open":
            skip = Skip(why="half_open", cause=standing.cause)
            return skip, "circuit half-open: another request is probing it"
        if standing.state == "open":
            wait, retry_at = "", None
            if standing.retry_at is not None:
                retry_at = iso(standing.retry_at, ms=True)
                wait = f", next probe in {max(0.0, standing.retry_at - self._clock.wall()):.0f} s"
            skip = Skip(why="circuit_open", cause=standing.cause, retry_at=retry_at)
            return skip, f"circuit open{wait}: {standing.reason or 'it failed repeatedly'}"
        if standing.degraded and self._profile.health.auto_skip_degraded:
            skip = Skip(why="degraded", cause=standing.cause)
            return skip, f"degraded: {standing.reason or 'its recent requests did badly'}"
        return None

    async def _try_backend(
        self, plan: TierPlan, backend: Backend, emit: Emit, *, probe: bool
    ) -> Completed | Failed:
        """Ask one backend, and again as long as its failures allow.

        A probe of a half-open circuit is one attempt: it is to find out, not to insist.
        """
        tier = plan.tier
        omit: frozenset[str] = frozenset()
        if plan.is_language_model:
            omit = self._parameters.rejected(backend.identity)
        number, repairs = 1, 0
        started = self._log.now()
        outcome: Completed | Failed | None = None

        async def attempt(tools: ToolContext) -> Outcome:
            nonlocal started
            if tools.round:
                # The backend's latency is that of its answer alone, not its tools'.
                started = self._log.now()
            return await self._attempt(plan, backend, tools, emit, omit=omit, number=number)

        try:
            while True:
                asked = await self._ask(plan, backend, attempt, omit, emit)
                if isinstance(asked, Completed) or isinstance(asked.error, ContextSkipError):
                    outcome = asked
                    return outcome
                error = asked.error
                self._gate.failed(backend.identity, error.info)
                self._warm_up(plan.level)
                parameter = self._dispensable(backend, error, omit, repairs)
                if parameter is not None:
                    if error.tool or parameter == "tools":
                        what = "tools" if parameter == "tools" else f"the tool {error.tool}"
                        notice = f"asked again without {what}: {error.message}"
                        await emit(Notice(tier=tier.name, message=notice))
                    omit |= {parameter}
                    repairs += 1
                    number += 1
                    continue
                wait_s = retry_wait_s(
                    error,
                    number=number - repairs,
                    retries=0 if probe else tier.retries,
                    backoff=tier.backoff,
                    budget_s=self._left_s(),
                    rng=self._rng,
                )
                if wait_s is None:
                    outcome = asked
                    return outcome
                await emit(RetryScheduled(tier=tier.name, wait_s=wait_s, error=error.info))
                await asyncio.sleep(wait_s)
                number += 1
        finally:
            if plan.is_language_model:
                self._record(backend, outcome, probe=probe, latency_s=self._log.now() - started)

    def _dispensable(
        self, backend: Backend, error: FallbackTriggerError, omit: frozenset[str], repairs: int
    ) -> str | None:
        """Return what the server will not have and the request can be sent without; remember it."""
        parameter, lasting = error.parameter, error.lasting
        if error.tool is not None and "tools" in self._needed:
            return None
        if error.tool is not None and repairs >= MAX_TOOL_REPAIRS:
            # Each tool has something that this server will not have: none of them, then.
            parameter, lasting = "tools", False
        if parameter is None or parameter in omit or repairs >= MAX_REPAIRS:
            return None
        if lasting:
            self._parameters.reject(backend.identity, parameter)
        return None if parameter in self._needed else parameter

    def _record(
        self, backend: Backend, outcome: Completed | Failed | None, *, probe: bool, latency_s: float
    ) -> None:
        """Remember how a backend did: a failure at once, so that others learn of it; success later.

        The outcome is None where the request was called off.
        """
        error = outcome.error if isinstance(outcome, Failed) else None
        result = TurnResult(
            identity=backend.identity,
            request_id=self._request_id,
            ok=isinstance(outcome, Completed),
            kind=error.kind if error else None,
            counts=error is not None and counts(error),
            bench_s=bench_s(error) if error else None,
            latency_s=latency_s,
            probe=probe,
        )
        if result.ok:
            self._successes.append(result)
        else:
            self._health.record(result)

    async def _ask(
        self,
        plan: TierPlan,
        backend: Backend,
        attempt: Callable[[ToolContext], Awaitable[Outcome]],
        omit: frozenset[str],
        emit: Emit,
    ) -> Completed | Failed:
        """Make one attempt, and one more after each round of tools that it asks for."""
        if self._tools is not None and plan.is_language_model and not self._options.caller_tools:
            return await self._tools.run_rounds(
                attempt,
                tier=plan.tier,
                backend=backend,
                omit=omit,
                deadline=self._deadline,
                emit=emit,
            )
        outcome = await attempt(
            ToolContext(declared=self._options.caller_tools, choice=self._options.tool_choice)
        )
        if isinstance(outcome, ToolCalls):
            message = "the model called a tool that it was not given"
            return Failed(error=FallbackTriggerError(ErrorKind.MALFORMED_RESPONSE, message))
        return outcome

    async def _attempt(
        self,
        plan: TierPlan,
        backend: Backend,
        tools: ToolContext,
        emit: Emit,
        *,
        omit: frozenset[str],
        number: int,
    ) -> Outcome:
        """Make one attempt, the first of which has the number 1, and log it."""
        tier = plan.tier
        without = (
            *sorted(name for name in omit if rejected_tool(name) is None),
            *tools.rejected,
        )
        await self._say_who_is_asked(plan, backend, number, emit, without=without)
        started = self._log.now()
        state = StreamState()
        called: tuple[str, ...] = ()
        error: FallbackTriggerError | None = None
        ended = False
        request = AttemptRequest(
            tier=tier,
            backend=backend,
            prompt=self._prompt,
            params=merged(tier, self._options.params, is_first=plan.level == self._plans[0].level),
            schema=self._options.schema,
            request_id=self._request_id,
            stream=self._is_streamed(tier),
            omit=omit,
            deadline=self._deadline if plan.is_language_model else float("inf"),
            others_follow=self._models_follow(plan, backend),
            tools=tools,
            told=self._told,
            clock=self._clock,
        )
        try:
            end = await stream_attempt(request, state, emit)
            if isinstance(end, ToolRequest):
                called = tuple(call.name for call in end.calls)
                # In a race this waits until the other has ended; who has lost runs no tools.
                if self._options.caller_tools:
                    await emit(CallsMade(tier=tier.name, calls=end.calls))
                else:
                    streamed = bool(state.pieces)
                    await emit(ToolsWanted(tier=tier.name, names=called, streamed=streamed))
            ended = True
        except FallbackTriggerError as exc:
            error = exc
        except Exception as exc:  # noqa: BLE001 - no bug of a backend may take the answer away
            error = FallbackTriggerError(ErrorKind.UNEXPECTED, f"{type(exc).__name__}: {exc}"[:300])
            error.__cause__ = exc
        finally:
            attempt = self._log.attempt(
                plan,
                backend,
                started=started,
                first=state.first_token_at,
                error=error,
                cancelled=not ended and error is None,
                called=called,
            )
        if error is not None:
            if isinstance(error, ContextSkipError):
                await emit(TierSkipped(attempt=attempt))
            else:
                await emit(AttemptFailed(attempt=attempt, streamed=bool(state.pieces)))
            return Failed(error=error)
        calls: tuple[ToolCall, ...] = ()
        if isinstance(end, ToolRequest):
            if not self._options.caller_tools:
                return ToolCalls(request=end, said=state.text)
            calls, end = end.calls, Finish(reason="tool_calls", usage=end.usage, model=end.model)
        return Completed(
            text=state.text,
            finish=end,
            first_token_at=state.first_token_at,
            calls=calls,
            reasoning="".join(state.thoughts) or None,
            left_out=state.left_out,
            max_tokens=None if "max_tokens" in omit else request.params.max_tokens,
        )

    async def _say_who_is_asked(
        self,
        plan: TierPlan,
        backend: Backend,
        number: int,
        emit: Emit,
        *,
        without: tuple[str, ...],
    ) -> None:
        tier = plan.tier.name
        if tier != self._asked:
            self._asked = tier
            # None while the other tier is still being waited for.
            last = self._log.last_other(tier)
            if last is not None:
                await emit(FellBack(from_tier=last.tier, to_tier=tier, reason=last.why))
        following = self._following(plan, backend)
        until_s = None
        if following is not None and plan.is_language_model:
            others_follow = self._models_follow(plan, backend)
            until_s = silence_limit_s(
                timeout_s=patience_s(
                    plan.tier, stream=self._is_streamed(plan.tier), others_follow=others_follow
                ),
                left_s=max(0.0, self._left_s()),
                others_follow=others_follow,
            )
        await emit(
            AttemptStarted(
                tier=tier,
                level=plan.level,
                provider=backend.provider,
                model=backend.model,
                next_tier=following[0].tier.name if following is not None else None,
                next_model=following[1].model if following is not None else None,
                until_s=until_s,
                number=number,
                without=without,
            )
        )

    def _is_streamed(self, tier: Tier) -> bool:
        return tier.stream if self._options.stream is None else self._options.stream

    def _following(self, plan: TierPlan, backend: Backend) -> tuple[TierPlan, Backend] | None:
        """Return who is asked next if a backend does not answer, as far as can be told now.

        Those whose health is bad come after those whose health is good, as when they are asked.
        """
        able = [
            each
            for each in self._configured_after(plan, backend)
            if lacking(each[1].capabilities, self._prompt, self._options) is None
            and not self._log.has_ended(each[1])
        ]
        models = [each for each in able if each[0].is_language_model]
        set_aside = [(it, other) for it in self._set_aside for other in it.backends]
        well = [each for each in models if self._is_well(each[1])]
        return next(iter([*well, *set_aside, *models, *able]), None)

    def _is_well(self, backend: Backend) -> bool:
        standing = self._standings.get(backend.identity, Standing())
        return self._unhealthy(standing) is None

    def _models_follow(self, plan: TierPlan, backend: Backend) -> bool:
        """Whether another configured language model comes after this one."""
        return any(it.is_language_model for it, _ in self._configured_after(plan, backend))

    def _configured_after(
        self, plan: TierPlan, backend: Backend
    ) -> Iterator[tuple[TierPlan, Backend]]:
        here = plan.backends.index(backend)
        rest = [msgspec.structs.replace(plan, backends=plan.backends[here + 1 :])]
        rest += [later for later in self._plans if later.level > plan.level]
        for later in rest:
            yield from ((later, other) for other in later.backends if other.missing() is None)

    def _warm_up(self, level: int) -> None:
        """Let the next backend that needs it get ready, once, because one above looks bad."""
        if self._warmed:
            return
        self._warmed = True
        below = (plan.backends for plan in self._plans if plan.level > level)
        any(backend.warm_up() for backends in below for backend in backends)

    def _left_s(self) -> float:
        return self._deadline - asyncio.get_running_loop().time()


class Events:
    """What happens to a request, from a task that runs it; the last event is `Answered`.

    The task waits while more than `QUEUED_EVENTS` events are unread. This is no generator: an event
    loop that ends closes all of those at once, and one inside another would be closed twice.

    Args:
        request: what to run.
    """

    def __init__(self, request: FallbackRun) -> None:
        self._request = request
        self._queue: asyncio.Queue[Event | Exception] = asyncio.Queue(QUEUED_EVENTS)
        self._is_answered = False
        self._has_ended = False
        self._task = asyncio.create_task(self._run())

    def __aiter__(self) -> Events:
        """Return itself."""
        return self

    async def __anext__(self) -> Event:
        """Wait for the next event."""
        if self._has_ended:
            await self.ended()
            raise StopAsyncIteration
        event = await self._queue.get()
        if isinstance(event, Exception):
            raise event
        self._has_ended = isinstance(event, Answered)
        return event

    async def ended(self) -> None:
        """Wait for the end of the task, which comes after the last event."""
        if not self._task.done():
            await asyncio.wait([self._task])

    async def aclose(self) -> None:
        """Cancel the task and wait for its end."""
        self._task.cancel()
        await self.ended()

    async def break_off(self, reason: Exception) -> None:
        """End a request that has no answer yet; whoever reads gets the reason."""
        await self.aclose()
        if self._is_answered:
            return
        while not self._queue.empty():
            self._queue.get_nowait()
        self._queue.put_nowait(reason)

    async def _run(self) -> None:
        try:
            await self._request.run(self._emit)
        except Exception as exc:  # noqa: BLE001 - raised to whoever reads
            await self._queue.put(exc)

    async def _emit(self, event: Event) -> None:
        await self._queue.put(event)
        self._is_answered = isinstance(event, Answered)
