"""Sum up the log per tier and per model over a stretch of time: what `stats` shows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from tieredllm.clock import iso
from tieredllm.store.database import Database

if TYPE_CHECKING:
    from sqlite3 import Connection

__all__ = ["ModelStatistics", "Statistics", "TierStatistics", "percentile", "statistics"]

MOMENTS = 24
"""Into how many equal parts the time is divided for the small charts."""


class TierStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """How one tier did. Rates are 0 to 1; what cannot be said is None."""

    name: str
    level: int
    requests: int
    """Requests in which the tier was asked and ended its turn."""
    answered: int
    success_rate: float | None
    """The share of `requests` it answered."""
    latency_p50_ms: float | None
    """Of the attempts that answered, from the attempt's start."""
    latency_p95_ms: float | None
    first_token_p50_ms: float | None
    prompt_tokens: int
    """Summed over its answers, as far as the backends told."""
    completion_tokens: int
    fallback_rate: float | None
    """Of the requests that came to the tier, asked or passed over, the share that went on."""
    latency_series_ms: tuple[float | None, ...]
    """The median per part of the time, the oldest first."""
    fallback_series: tuple[float | None, ...]
    """The fallback rate per part of the time."""


class ModelStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """What one model of a tier has answered."""

    tier: str
    model: str
    answers: int
    latency_p50_ms: float | None
    """From the attempt's start to the whole answer."""
    first_token_p50_ms: float | None
    prompt_tokens: int
    completion_tokens: int
    cost: float | None
    """Of all its answers, where the profile named prices; in their currency."""


class Statistics(msgspec.Struct, frozen=True, kw_only=True):
    """How all tiers did from one time to another."""

    since: str
    """ISO 8601, in UTC."""
    until: str
    requests: int
    fallback_rate: float | None
    """The share of the requests that the first tier didn't answer."""
    unanswered: int
    tiers: tuple[TierStatistics, ...]
    """The first tier first."""
    models: tuple[ModelStatistics, ...]
    """Those that have answered: in the order of the tiers, who answered most first."""


def statistics(database: Database, *, since: float, until: float) -> Statistics:
    """Sum up the requests that were asked in `[since, until)`, in seconds since the epoch.

    Raises:
        DatabaseError: the log cannot be read.
    """
    nothing = Statistics(
        since=iso(since),
        until=iso(until),
        requests=0,
        fallback_rate=None,
        unanswered=0,
        tiers=(),
        models=(),
    )
    return database.require(lambda connection: _sum_up(connection, since, until), nothing)


def percentile(values: Sequence[float], share: float) -> float | None:
    """Return the value that a share of the values stays within (nearest rank); None of none.

    Args:
        values: in any order.
        share: above 0, up to 1.
    """
    if not values:
        return None
    return sorted(values)[max(math.ceil(share * len(values)), 1) - 1]


class _Tier:
    """What is summed up of one tier; one number for each part of the time where it is charted."""

    def __init__(self) -> None:
        self.level = 0
        self.asked = 0
        self.answered = 0
        self.reached = [0] * MOMENTS
        self.went_on = [0] * MOMENTS
        self.prompt_tokens = 0
        self.completion_tokens = 0
        self.latencies: list[list[float]] = [[] for _ in range(MOMENTS)]
        self.first_tokens: list[float] = []

    def result(self, name: str) -> TierStatistics:
        latencies = [latency for moment in self.latencies for latency in moment]
        return TierStatistics(
            name=name,
            level=self.level,
            requests=self.asked,
            answered=self.answered,
            success_rate=_share(self.answered, self.asked),
            latency_p50_ms=percentile(latencies, 0.5),
            latency_p95_ms=percentile(latencies, 0.95),
            first_token_p50_ms=percentile(self.first_tokens, 0.5),
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.completion_tokens,
            fallback_rate=_share(sum(self.went_on), sum(self.reached)),
            latency_series_ms=tuple(percentile(moment, 0.5) for moment in self.latencies),
            fallback_series=tuple(map(_share, self.went_on, self.reached)),
        )


class _Model:
    """What is summed up of one model of a tier."""

    def __init__(self) -> None:
        self.latencies: list[float] = []
        self.first_tokens: list[float] = []
        self.prompt_tokens = 0
        self.completion_tokens = 0
        self.costs: list[float] = []

    def result(self, tier: str, model: str) -> ModelStatistics:
        return ModelStatistics(
            tier=tier,
            model=model,
            answers=len(self.latencies),
            latency_p50_ms=percentile(self.latencies, 0.5),
            first_token_p50_ms=percentile(self.first_tokens, 0.5),
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.completion_tokens,
            cost=math.fsum(self.costs) if self.costs else None,
        )


def _sum_up(connection: Connection, since: float, until: float) -> Statistics:
    """Let SQLite count, and sort what percentiles are of: a million requests take seconds."""
    span = {
        "since": since,
        "until": until,
        "moments": MOMENTS,
        "last": MOMENTS - 1,
    }
    requests, unanswered, fell_back = connection.execute(
        "SELECT count(*), sum(level IS NULL), sum(level IS NOT 0) FROM log"
        " WHERE asked_at >= :since AND asked_at < :until",
        span,
    ).fetchone()
    moment = "min(CAST((asked_at - :since) / (:until - :since) * :moments AS INTEGER), :last)"
    tiers: dict[str, _Tier] = {}
    counts = connection.execute(
        f"SELECT tier, {moment} AS moment, max(level), sum(asked), sum(answered), sum(reached),"  # noqa: S608
        " sum(went_on), sum(prompt_tokens), sum(completion_tokens) FROM tier_turns"
        " WHERE asked_at >= :since AND asked_at < :until GROUP BY tier, moment",
        span,
    )
    for name, at, level, asked, answered, reached, went_on, prompt, completion in counts:
        tier = tiers.setdefault(name, _Tier())
        tier.level = level
        tier.asked += asked
        tier.answered += answered
        tier.reached[at] += reached
        tier.went_on[at] += went_on
        tier.prompt_tokens += prompt
        tier.completion_tokens += completion
    models: dict[tuple[int, str, str], _Model] = {}
    for name, at, latency_ms, first_token_ms, used, cost, prompt, completion in connection.execute(
        f"SELECT tier, {moment}, latency_ms, first_token_ms, model, cost,"  # noqa: S608
        " prompt_tokens, completion_tokens FROM tier_turns"
        " WHERE asked_at >= :since AND asked_at < :until AND latency_ms IS NOT NULL",
        span,
    ):
        tier = tiers[name]
        tier.latencies[at].append(latency_ms)
        if first_token_ms is not None:
            tier.first_tokens.append(first_token_ms)
        if used is None:
            continue
        model = models.setdefault((tier.level, name, used), _Model())
        model.latencies.append(latency_ms)
        if first_token_ms is not None:
            model.first_tokens.append(first_token_ms)
        if cost is not None:
            model.costs.append(cost)
        model.prompt_tokens += prompt
        model.completion_tokens += completion
    found = (tier.result(name) for name, tier in tiers.items())
    return Statistics(
        since=iso(since),
        until=iso(until),
        requests=requests,
        fallback_rate=_share(fell_back or 0, requests),
        unanswered=unanswered or 0,
        tiers=tuple(sorted(found, key=lambda tier: (tier.level, tier.name))),
        models=tuple(
            model.result(name, used)
            for (_, name, used), model in sorted(
                models.items(), key=lambda it: (it[0][:2], -len(it[1].latencies), it[0])
            )
        ),
    )


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
