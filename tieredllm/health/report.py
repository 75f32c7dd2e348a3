"""Report how every tier is: what health remembers, and what a probe sees now."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import msgspec

from tieredllm.clock import iso
from tieredllm.engine.plan import TierPlan
from tieredllm.engine.ports import NoMemory, ParameterMemory, Standing
from tieredllm.providers.base import DEEP_PROBE_S, PROBE_S, Backend, ProbeResult
from tieredllm.types import rejected_tool

if TYPE_CHECKING:
    from tieredllm.health.memory import SqliteHealth, WindowReport

__all__ = ["HealthReport", "Status", "TierReport", "check"]

Status = Literal[
    "healthy", "degraded", "half_open", "unknown", "open", "down", "not_ready", "not_configured"
]
"""A backend's status, the best first:

healthy         its probe worked and its recent requests did well
degraded        it works, but its recent requests break a threshold
half_open       its circuit's cooldown is over: the next request probes it
unknown         the probe could not tell
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
    health: SqliteHealth,
    parameters: ParameterMemory | None = None,
    *,
    probe: bool = True,
    deep: bool = False,
) -> HealthReport:
    """Tell how every backend of every tier is, all of them probed at the same time.

    Args:
        plans: the tiers.
        health: what is remembered of them.
        parameters: what they have rejected.
        probe: whether to look now; otherwise what is remembered is told.
        deep: whether to ask for one real token, which a vendor bills; otherwise nothing is billed.
    """
    backends = [backend for plan in plans for backend in plan.backends]
    probes: list[ProbeResult | None] = [None] * len(backends)
    if probe:
        probes = await asyncio.gather(*(_probe(backend, deep=deep) for backend in backends))
    found = dict(zip(map(id, backends), probes, strict=True))
    standings = health.standings([backend.identity for backend in backends])
    tiers = tuple(
        min(
            (
                _report(
                    plan,
                    backend,
                    standings[backend.identity],
                    found[id(backend)],
                    health,
                    parameters=parameters or NoMemory(),
                )
                for backend in plan.backends
            ),
            key=lambda report: RANKS[report.status],
        )
        for plan in plans
    )
    models = [tier for tier, plan in zip(tiers, plans, strict=True) if plan.is_language_model]
    configured = [tier for tier in models if tier.status != "not_configured"]
    status: Literal["healthy", "degraded", "down"] = "degraded"
    if not any(tier.can_answer for tier in models):
        status = "down"
    elif all(tier.status == "healthy" for tier in configured):
        status = "healthy"
    return HealthReport(status=status, tiers=tiers)


async def _probe(backend: Backend, *, deep: bool) -> ProbeResult | None:
    if backend.missing() is not None:
        return None
    limit_s = DEEP_PROBE_S if deep else PROBE_S
    loop = asyncio.get_running_loop()
    started = loop.time()
    try:
        async with asyncio.timeout(limit_s):
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
    health: SqliteHealth,
    *,
    parameters: ParameterMemory,
) -> TierReport:
    rejected = sorted(parameters.rejected(backend.identity))
    status, reason, fix = _judged(backend, standing, probe)
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
        window=health.window(backend.identity),
        probe=probe,
        rejected=tuple(rejected_tool(name) or name for name in rejected),
    )


def _judged(
    backend: Backend, standing: Standing, probe: ProbeResult | None
) -> tuple[Status, str | None, str | None]:
    missing = backend.missing()
    if missing is not None:
        return "not_configured", missing.what, missing.fix
    if probe is not None and not probe.ok:
        if backend.provider == "llama_cpp":
            return "not_ready", probe.error, probe.fix
        return "down", probe.error, "see the reason; `tieredllm health` probes again"
    if standing.state != "closed":
        return standing.state, standing.reason, "tieredllm health --reset forgets the failures"
    if standing.degraded:
        return "degraded", standing.reason, "tieredllm health --reset forgets the window"
    return "healthy", None, None
