"""Ask tier after tier until one answers completely: the one loop, as a stream of events.

A request goes down the profile's tiers. In each, the backends (the tier's own, then alternates)
get a *turn*: one attempt and its retries. What happens leaves as events; the last is `Answered`,
whose answer is complete or has its `error` set.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from functools import partial

import msgspec

from tieredllm.clock import Clock, iso
from tieredllm.engine.attempt import ContextSkipError, Heard, Job, chunks
from tieredllm.engine.budget import models_deadline_s
from tieredllm.engine.kit import Kit
from tieredllm.engine.ledger import Ledger, Won
from tieredllm.engine.plan import Options, TierPlan, leading_models, selected
from tieredllm.engine.ports import HealthMemory, ParameterMemory, Standing, TurnResult
from tieredllm.engine.race import race
from tieredllm.engine.retry import bench_s, retry_wait_s
from tieredllm.engine.tooling import Tooling
from tieredllm.errors import FallbackTriggerError
from tieredllm.kinds import POLICIES, ErrorKind
from tieredllm.profile.schema import Profile
from tieredllm.providers.base import Backend, Delta
from tieredllm.types import (
    Answered,
    AttemptFailed,
    AttemptStarted,
    Event,
    FellBack,
    Notice,
    Prompt,
    RetryScheduled,
    Skip,
    TierSkipped,
    Token,
    ToolEnded,
    ToolsWanted,
)

__all__ = ["Run"]

MAX_REPAIRS = 8
"""How many unsupported parameters one turn leaves out; no vendor has more optional ones we send."""


class Run:
    """Be one request on its way down the tiers. Use it once.

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
        tools: Tooling | None = None,
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
        self._ledger = Ledger(request_id=request_id, clock=clock)
        self._deadline = float("inf")
        self._standings: dict[str, Standing] = {}
        self._set_aside: list[TierPlan] = []
        """Backends passed over for their health, each as a tier of its own."""
        self._warmed = False
        self._refused = False
        self._won: Won | None = None
        self._results: list[TurnResult] = []

    async def events(self) -> AsyncGenerator[Event, None]:
        """Yield what happens; the last event is `Answered`."""
        deadline_s = self._options.deadline_s or self._profile.deadline_s
        self._deadline = asyncio.get_running_loop().time() + models_deadline_s(deadline_s)
        self._standings = self._health.standings(
            [backend.identity for plan in self._plans for backend in plan.backends]
        )
        try:
            asked: str | None = None
            async with aclosing(self._descend(list(self._plans))) as events:
                async for event in events:
                    if isinstance(event, AttemptStarted) and event.tier != asked:
                        fell_back = self._fell_back(event.tier)
                        if fell_back is not None:
                            yield fell_back
                        asked = event.tier
                    yield event
            uses = self._tools.uses if self._tools is not None else ()
            yield Answered(answer=self._ledger.answer(self._won, tool_calls=uses))
        finally:
            for result in self._results:
                self._health.record(result)

    async def _descend(
        self, plans: list[TierPlan], *, beside: bool = False
    ) -> AsyncGenerator[Event, None]:
        """Go down the tiers until one has answered or none is left.

        Models that were set aside as unhealthy are asked all the same before the rules are.

        Args:
            plans: the tiers, in order.
            beside: whether this is a race's other side, which leaves those set aside alone.
        """
        while plans:
            if not plans[0].is_language_model:
                async for event in self._ask_those_set_aside():
                    yield event
                if self._is_over():
                    return
            plan = plans.pop(0)
            partners = leading_models(plans)
            if plan.tier.hedge_after_s is None or not plan.is_language_model or not partners:
                events = self._tier(plan)
            else:
                events = race(
                    self._tier(plan),
                    partial(self._beside, plan, partners),
                    after_s=plan.tier.hedge_after_s,
                )
            async with aclosing(events):
                async for event in events:
                    yield event
            # Partners of a race may have given way already; one that was cancelled has not.
            plans = [later for later in plans if not self._ledger.gave_way(later)]
            if self._is_over():
                return
        if not beside:
            async for event in self._ask_those_set_aside():
                yield event

    async def _beside(
        self, slow: TierPlan, partners: list[TierPlan]
    ) -> AsyncGenerator[Event, None]:
        """Go down the tiers that race a slow one."""
        yield Notice(
            tier=slow.tier.name,
            message=f"no token after {slow.tier.hedge_after_s:g} s, so the next tier is asked too",
        )
        async with aclosing(self._descend(partners, beside=True)) as events:
            async for event in events:
                yield event

    async def _ask_those_set_aside(self) -> AsyncGenerator[Event, None]:
        plans, self._set_aside = self._set_aside, []
        for plan in plans:
            async for event in self._tier(plan, whatever_health=True):
                yield event
            if self._is_over():
                return

    def _is_over(self) -> bool:
        return self._won is not None or self._refused

    async def _tier(
        self, plan: TierPlan, *, whatever_health: bool = False
    ) -> AsyncGenerator[Event, None]:
        """Give each backend of a tier its turn."""
        for backend in plan.backends:
            skipped, probe = self._admission(plan, backend, whatever_health=whatever_health)
            if skipped is not None:
                yield TierSkipped(attempt=self._ledger.skip(plan, backend, *skipped))
                self._warm_up(plan.level)
                continue
            async with aclosing(self._turn(plan, backend, probe=probe)) as turn:
                async for event in turn:
                    yield event
            if self._is_over():
                return

    def _admission(
        self, plan: TierPlan, backend: Backend, *, whatever_health: bool
    ) -> tuple[tuple[Skip, str] | None, bool]:
        """Say why a backend is passed over, None when it is asked; and if asking is a probe."""
        missing = backend.missing()
        if missing is not None:
            return (Skip(why="not_configured", fix=missing.fix), missing.what), False
        if not plan.is_language_model:
            return None, False
        if self._left_s() <= 0:
            return (Skip(why="no_time"), "no time is left"), False
        standing = self._standings.get(backend.identity, Standing())
        probe = standing.state == "half_open" and self._health.acquire_probe(backend.identity)
        if whatever_health or probe:
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

    async def _turn(
        self, plan: TierPlan, backend: Backend, *, probe: bool
    ) -> AsyncGenerator[Event, None]:
        """Ask one backend, and again as long as its failures allow."""
        tier = plan.tier
        omit: frozenset[str] = frozenset()
        if plan.is_language_model:
            omit = self._parameters.rejected(backend.identity)
        started = self._ledger.now()
        error: FallbackTriggerError | None = None
        finished = False
        number, repairs = 1, 0
        try:
            while True:
                error = None
                async with aclosing(self._rounds(plan, backend, omit, number)) as events:
                    async for event in events:
                        if isinstance(event, FallbackTriggerError):
                            error = event
                            continue
                        if isinstance(event, ToolEnded):
                            # The backend's latency is that of its answer alone.
                            started = self._ledger.now()
                        yield event
                if error is None or isinstance(error, ContextSkipError):
                    break
                self._warm_up(plan.level)
                if error.parameter and error.parameter not in omit and repairs < MAX_REPAIRS:
                    self._parameters.reject(backend.identity, error.parameter)
                    omit |= {error.parameter}
                    repairs += 1
                    number += 1
                    continue
                wait_s = retry_wait_s(
                    error,
                    number=number - repairs,
                    retries=tier.retries,
                    backoff=tier.backoff,
                    budget_s=self._left_s(),
                    rng=self._rng,
                )
                if wait_s is None:
                    break
                yield RetryScheduled(tier=tier.name, wait_s=wait_s, error=error.info)
                await asyncio.sleep(wait_s)
                number += 1
            finished = True
        finally:
            self._note(
                TurnResult(
                    identity=backend.identity,
                    request_id=self._request_id,
                    ok=finished and error is None,
                    kind=error.kind if error else None,
                    counts=bool(finished and error and POLICIES[error.kind].counts),
                    bench_s=bench_s(error) if error and finished else None,
                    latency_s=self._ledger.now() - started,
                    probe=probe,
                ),
                plan,
            )
        if error is not None and error.kind is ErrorKind.CONTENT_FILTER:
            self._refused = self._profile.on_content_filter == "stop"

    def _note(self, result: TurnResult, plan: TierPlan) -> None:
        """Remember a turn: a failure at once, so that others learn of it; success afterwards."""
        if not plan.is_language_model:
            return
        if result.ok:
            self._results.append(result)
        else:
            self._health.record(result)

    def _rounds(
        self, plan: TierPlan, backend: Backend, omit: frozenset[str], number: int
    ) -> AsyncGenerator[Event | FallbackTriggerError, None]:
        """Make one attempt, and one more after each round of tools that it asks for."""
        attempt = partial(self._attempt, plan, backend, omit, number)
        if self._tools is None or not plan.is_language_model:
            return attempt(Kit())
        return self._tools.rounds(
            attempt, tier=plan.tier, backend=backend, omit=omit, deadline=self._deadline
        )

    async def _attempt(
        self, plan: TierPlan, backend: Backend, omit: frozenset[str], number: int, kit: Kit
    ) -> AsyncGenerator[Event | FallbackTriggerError, None]:
        """Make one attempt: yield its events, and its error last when it failed."""
        tier = plan.tier
        yield AttemptStarted(
            tier=tier.name,
            level=plan.level,
            provider=backend.provider,
            model=backend.model,
            number=number,
        )
        started = self._ledger.now()
        heard = Heard()
        error: FallbackTriggerError | None = None
        ended = False
        job = Job(
            tier=tier,
            backend=backend,
            prompt=self._prompt,
            request_id=self._request_id,
            stream=tier.stream if self._options.stream is None else self._options.stream,
            omit=omit,
            deadline=self._deadline if plan.is_language_model else float("inf"),
            others_follow=self._models_follow(plan, backend),
            kit=kit,
            notices=[],
        )
        try:
            async with aclosing(chunks(job)) as stream:
                async for chunk in stream:
                    heard.take(chunk, at=self._ledger.now())
                    for notice in job.told():
                        yield Notice(tier=tier.name, message=notice)
                    if isinstance(chunk, Delta):
                        yield Token(tier=tier.name, text=chunk.text)
            if heard.request is not None:
                # In a race this waits until the other has lost; who has lost runs no tools.
                yield ToolsWanted(tier=tier.name, names=heard.names, streamed=bool(heard.pieces))
                kit.take(heard.request, said="".join(heard.pieces))
            ended = True
        except FallbackTriggerError as exc:
            error = exc
        except Exception as exc:  # noqa: BLE001 - no bug of a backend may take the answer away
            error = FallbackTriggerError(ErrorKind.UNEXPECTED, f"{type(exc).__name__}: {exc}"[:300])
            error.__cause__ = exc
        finally:
            attempt = self._ledger.attempt(
                plan,
                backend,
                started=started,
                first=heard.first,
                error=error,
                cancelled=not ended and error is None,
                called=heard.names,
            )
        if error is not None:
            if isinstance(error, ContextSkipError):
                yield TierSkipped(attempt=attempt)
            else:
                yield AttemptFailed(attempt=attempt, streamed=bool(heard.pieces))
            yield error
        elif heard.finish is not None:
            self._won = Won(
                plan=plan,
                backend=backend,
                finish=kit.total(heard.finish),
                text="".join(heard.pieces),
                first_token_at=heard.first,
            )

    def _models_follow(self, plan: TierPlan, backend: Backend) -> bool:
        """Whether another configured language model comes after this one."""
        here = plan.backends.index(backend)
        rest = [*plan.backends[here + 1 :]]
        for later in self._plans:
            if later.level > plan.level and later.is_language_model:
                rest.extend(later.backends)
        return any(other.missing() is None for other in rest)

    def _warm_up(self, level: int) -> None:
        """Let the next backend that needs it get ready, once, because one above looks bad."""
        if self._warmed:
            return
        self._warmed = True
        below = (plan.backends for plan in self._plans if plan.level > level)
        any(backend.warm_up() for backends in below for backend in backends)

    def _left_s(self) -> float:
        return self._deadline - asyncio.get_running_loop().time()

    def _fell_back(self, to_tier: str) -> FellBack | None:
        """Say that a tier gave way to this one; None while the other is still being waited for."""
        last = self._ledger.last_other(to_tier)
        if last is None:
            return None
        return FellBack(from_tier=last.tier, to_tier=to_tier, reason=last.why)
