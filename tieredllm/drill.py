"""Rehearse outages: play every fault on every tier through the real engine, in virtual time.

Nothing is called and nothing is waited for: models are played, and the event loop's clock leaps
from one timer to the next. What is found is what a user would have got, and after how long.
"""

from __future__ import annotations

import asyncio
import random
import selectors
from collections.abc import AsyncGenerator, Sequence

import msgspec

from tieredllm.aio import run
from tieredllm.engine.plan import TierPlan
from tieredllm.engine.ports import NoMemory
from tieredllm.engine.runner import FallbackRun
from tieredllm.kinds import ErrorKind
from tieredllm.profile.schema import Profile
from tieredllm.prompts.fit import estimate_tokens
from tieredllm.providers.base import (
    Backend,
    Call,
    Chunk,
    Delta,
    Finish,
    Missing,
    ProbeResult,
    TokenCounter,
)
from tieredllm.providers.faults import SimulatedBackend
from tieredllm.types import Event, Options, Prompt

__all__ = ["Rehearsal", "rehearse"]

QUESTION = "What is wrong with my order?"
"""What is asked; only the rule engine looks at it."""

REQUEST_ID = "0" * 32


class Rehearsal(msgspec.Struct, frozen=True, kw_only=True):
    """What a user would have got with one fault on one tier."""

    tier: str
    """The tier at fault; `every model` for the outage of all."""
    fault: ErrorKind
    answered_by: str | None
    """The tier that answers; None when none does."""
    model: str | None
    after_s: float
    """Seconds from the question to the answer, in virtual time."""
    attempts: int
    """How many calls were made, retries included."""
    refused: bool
    """Whether the request ends with the refusal, as `on_content_filter: stop` wants it."""

    @property
    def leaves_nothing(self) -> bool:
        """Whether the user is left without an answer against the profile's will."""
        return self.answered_by is None and not self.refused


class _Case(msgspec.Struct, frozen=True):
    """Which tiers are at fault, and how."""

    name: str
    faulty: set[str]
    fault: ErrorKind

    def fault_of(self, tier: str) -> ErrorKind | None:
        return self.fault if tier in self.faulty else None


def rehearse(profile: Profile, plans: Sequence[TierPlan]) -> list[Rehearsal]:
    """Play each fault on each language-model tier, then on all of them at once.

    The tiers without a fault answer if they could now: a tier that is not configured, or whose
    local model is not there, stays what it is.
    """
    ready = run(_ready(plans))
    models = [plan.tier.name for plan in plans if plan.is_language_model]
    cases = [_Case(name, {name}, kind) for name in models for kind in ErrorKind]
    cases.append(_Case("every model", set(models), ErrorKind.CONNECTION))
    return [_one(profile, plans, ready, case) for case in cases]


async def _ready(plans: Sequence[TierPlan]) -> dict[int, str | None]:
    """Return for each backend what keeps it from answering now; a cloud is taken to be up."""
    found: dict[int, str | None] = {}
    for plan in plans:
        for backend in plan.backends:
            missing = backend.missing()
            if missing is not None:
                found[id(backend)] = missing.what
            elif backend.provider == "llama_cpp":
                probe = await backend.probe()
                found[id(backend)] = None if probe.ok else (probe.error or "it is not ready")
            else:
                found[id(backend)] = None
    return found


def _one(
    profile: Profile, plans: Sequence[TierPlan], ready: dict[int, str | None], case: _Case
) -> Rehearsal:
    played = [
        TierPlan(
            tier=plan.tier,
            level=plan.level,
            backends=tuple(
                _played(backend, ready[id(backend)], case.fault_of(plan.tier.name))
                for backend in plan.backends
            ),
        )
        for plan in plans
    ]
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        loop = runner.get_loop()
        clock = LoopClock(loop)
        request = FallbackRun(
            plans=played,
            profile=profile,
            prompt=Prompt(question=QUESTION),
            options=Options(),
            request_id=REQUEST_ID,
            health=NoMemory(),
            parameters=NoMemory(),
            clock=clock,
            rng=random.Random(0),  # noqa: S311 - jitter is no secret, and a rehearsal repeats
        )
        answer = runner.run(request.run(_ignore))
    last = answer.error.kind if answer.error else None
    return Rehearsal(
        tier=case.name,
        fault=case.fault,
        answered_by=answer.tier,
        model=answer.model_used,
        after_s=round(answer.latency_ms / 1000, 2),
        attempts=sum(attempt.outcome != "skipped" for attempt in answer.attempts),
        refused=last is ErrorKind.CONTENT_FILTER and profile.on_content_filter == "stop",
    )


async def _ignore(_: Event) -> None:
    """Let an event pass."""


def _played(backend: Backend, lack: str | None, fault: ErrorKind | None) -> Backend:
    if not backend.is_language_model:
        return backend
    if lack is not None:
        return _Lacking(backend, lack)
    return _Healthy(backend) if fault is None else SimulatedBackend(backend, fault)


class _Healthy(SimulatedBackend):
    """Play a model that answers."""

    def __init__(self, backend: Backend) -> None:
        super().__init__(backend, ErrorKind.UNEXPECTED)

    async def answer(self, call: Call) -> AsyncGenerator[Chunk, None]:
        """Answer."""
        call.on_sent()
        yield Delta("a played answer")
        yield Finish(reason="stop")

    async def token_counter(self) -> TokenCounter:
        """Estimate."""
        return estimate_tokens

    async def probe(self, *, deep: bool = False) -> ProbeResult:  # noqa: ARG002
        """Return that it is well."""
        return ProbeResult(ok=True, latency_ms=0.0)


class _Lacking(SimulatedBackend):
    """Play a backend that cannot be asked as things are."""

    def __init__(self, backend: Backend, lack: str) -> None:
        super().__init__(backend, ErrorKind.UNEXPECTED)
        self._lack = lack

    def missing(self) -> Missing | None:
        """Return what is lacking."""
        return Missing(what=self._lack, fix="")


class _Leaping(selectors.DefaultSelector):
    """Wait for nothing: a wait moves the clock instead."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Leap to the end of the wait."""
        if timeout is not None and timeout > 0:
            self.now += timeout
        return super().select(0)


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """Run timers in virtual time, without waiting. For code without I/O only."""

    def __init__(self) -> None:
        self._leaping = _Leaping()
        super().__init__(self._leaping)

    def time(self) -> float:
        """Return the virtual time, in seconds from the loop's start."""
        return self._leaping.now


class LoopClock:
    """An event loop's time."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def monotonic(self) -> float:
        """Return the loop's time."""
        return self._loop.time()

    def wall(self) -> float:
        """Return the loop's time; a rehearsal has no date."""
        return self._loop.time()
