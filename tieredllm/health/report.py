"""Report how every tier is: what health remembers, and what a probe sees now."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

import msgspec

from tieredllm.aio import LoopTimeout
from tieredllm.clock import iso
from tieredllm.engine.plan import TierPlan
from tieredllm.engine.ports import NoMemory, ParameterMemory, Standing
from tieredllm.providers.base import DEEP_PROBE_S, PROBE_S, Backend, ProbeResult
from tieredllm.types import rejected_tool

if TYPE_CHECKING:
    from tieredllm.health.fleet import FleetHealth
    from tieredllm.health.memory import SqliteHealth, WindowReport

__all__ = ["HealthReport", "Status", "TierReport", "check"]

Status = Literal[
    "healthy", "degraded", "half_open", "unknown", "open", "down", "not_ready", "not_configured"
]
"""A backend's status, the best first:

healthy         its probe worked and its recent requests did well
degraded        it works, but its recent requests break a threshold
half_open       its circuit's cooldown is over: the next request probes it
unknown         the probe could not tell, and no recent request did
open            its circuit is open: it failed repeatedly, or was told to wait
down            its probe failed
not_ready       a local model whose file is not there, or cannot be used
not_configured  a key is missing
"""

RANKS = {status: rank for rank, status in enumerate(Status.__args__)}  # type: ignore[attr-defined]

CAN_ANSWER = frozenset({"healthy", "degraded", "half_open", "unknown"})


class BreakerReport(msgspec.Struct, frozen=True, kw_only=True):
    """A circuit's state."""

    state: Literal["closed", "open", "half_open"] = "closed"
    retry_at: str | None = None
    """When it may be probed, ISO 8601 in UTC; None while it is closed."""


class TierReport(msgspec.Struct, frozen=True, kw_only=True):
    """How one tier is: the best of its backends."""

    name: str
    level: int
    provider: str
    model: str
    status: Status
    reason: str | None
    fix: str | None
    """One thing to do about it."""
    breaker: BreakerReport
    window: WindowReport
    probe: ProbeResult | None
    """None when there was nothing to probe."""
    rejected: tuple[str, ...] = ()
    """Parameters and tools it has rejected, and is asked without for a while."""

    @property
    def can_answer(self) -> bool:
        """Whether a request to this tier could succeed now."""
        return self.status in CAN_ANSWER


class HealthReport(msgspec.Struct, frozen=True, kw_only=True):
    """How everything is."""

    status: Literal["healthy", "degraded", "down"]
    """`down`: no language model can answer; `healthy`: every configured one is."""
    tiers: tuple[TierReport, ...]


async def check(
    plans: Sequence[TierPlan],
    health: SqliteHealth | FleetHealth,
    parameters: ParameterMemory | None = None,
    *,
    probe: bool = True,
    deep: bool = False,
    on_tier: Callable[[TierReport], None] = lambda _: None,
) -> HealthReport:
    """Tell how every backend of every tier is, all of them probed at the same time.

    Args:
        plans: the tiers.
        health: what is remembered of them.
        parameters: what they have rejected.
        probe: whether to look now; otherwise what is remembered is told.
        deep: whether to ask for one real token, which a vendor bills; otherwise nothing is billed.
        on_tier: told of each tier as soon as it is known.
    """
    standings = health.standings([backend.identity for plan in plans for backend in plan.backends])

    async def of_tier(plan: TierPlan) -> TierReport:
        probes: Sequence[ProbeResult | None] = [None] * len(plan.backends)
        if probe:
            probes = await asyncio.gather(
                *(_probe(backend, deep=deep) for backend in plan.backends)
            )
        reports = [
            _report(
                plan,
                backend,
                standings[backend.identity],
                seen,
                health,
                parameters=parameters or NoMemory(),
            )
            for backend, seen in zip(plan.backends, probes, strict=True)
        ]
        best = _summed_up(reports)
        on_tier(best)
        return best

    tiers = tuple(await asyncio.gather(*map(of_tier, plans)))
    models = [tier for tier, plan in zip(tiers, plans, strict=True) if plan.is_language_model]
    configured = [tier for tier in models if tier.status != "not_configured"]
    status: Literal["healthy", "degraded", "down"] = "degraded"
    if not any(tier.can_answer for tier in models):
        status = "down"
    elif all(tier.status == "healthy" for tier in configured):
        status = "healthy"
    return HealthReport(status=status, tiers=tiers)


def _summed_up(reports: Sequence[TierReport]) -> TierReport:
    """Return the best of a tier's backends, with why the first one is not, where it is another."""
    best = min(reports, key=lambda report: RANKS[report.status])
    choices = [report for report in reports if report.status != "not_configured"]
    if best.reason is not None or not choices or choices[0] is best:
        return best
    first = choices[0]
    reason = f"{first.model} is {first.status.replace('_', ' ')}: {first.reason}"
    return msgspec.structs.replace(best, reason=reason, fix=first.fix)


async def _probe(backend: Backend, *, deep: bool) -> ProbeResult | None:
    if backend.missing() is not None:
        return None
    limit_s = DEEP_PROBE_S if deep else PROBE_S
    loop = asyncio.get_running_loop()
    started = loop.time()
    try:
        async with LoopTimeout(limit_s):
            return await backend.probe(deep=deep)
    except TimeoutError:
        error = f"no answer within {limit_s:g} s"
    except Exception as exc:  # noqa: BLE001 - one broken probe must not hide the others
        error = f"{type(exc).__name__}: {exc}"
    return ProbeResult(ok=False, latency_ms=round((loop.time() - started) * 1000, 1), error=error)


def _report(
    plan: TierPlan,
    backend: Backend,
    standing: Standing,
    probe: ProbeResult | None,
    health: SqliteHealth | FleetHealth,
    *,
    parameters: ParameterMemory,
) -> TierReport:
    rejected = sorted(parameters.rejected(backend.identity))
    window = health.window(backend.identity)
    status, reason, fix = _judged(backend, standing, probe, window)
    return TierReport(
        name=plan.tier.name,
        level=plan.level,
        provider=backend.provider,
        model=backend.model,
        status=status,
        reason=reason,
        fix=fix,
        breaker=BreakerReport(
            state=standing.state,
            retry_at=None if standing.retry_at is None else iso(standing.retry_at, ms=True),
        ),
        window=window,
        probe=probe,
        rejected=tuple(rejected_tool(name) or name for name in rejected),
    )


def _judged(
    backend: Backend, standing: Standing, probe: ProbeResult | None, window: WindowReport
) -> tuple[Status, str | None, str | None]:
    missing = backend.missing()
    if missing is not None:
        return "not_configured", missing.what, missing.fix
    if probe is not None and not probe.ok:
        is_local = backend.provider == "llama_cpp"
        return "not_ready" if is_local else "down", probe.error, probe.fix
    if standing.state != "closed":
        return standing.state, standing.reason, "tieredllm health --reset forgets the failures"
    if standing.degraded:
        return "degraded", standing.reason, "tieredllm health --reset forgets the window"
    if probe is not None and not probe.sure and not window.success_rate:
        return "unknown", probe.note, probe.fix
    return "healthy", None, None
