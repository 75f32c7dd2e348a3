"""Sum up the log per tier over a stretch of time: what `stats` shows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from tieredllm.store.database import Database

if TYPE_CHECKING:
    from sqlite3 import Connection

__all__ = ["Statistics", "TierStatistics", "percentile", "statistics"]

MOMENTS = 24
"""Into how many equal parts the time is divided for the small charts."""


class TierStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """Hold how one tier did. Rates are 0 to 1; what cannot be said is None."""

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


class Statistics(msgspec.Struct, frozen=True, kw_only=True):
    """Hold how all tiers did from one time to another (seconds since the epoch)."""

    since: float
    until: float
    requests: int
    fallback_rate: float | None
    """The share of the requests that the first tier didn't answer."""
    unanswered: int
    tiers: tuple[TierStatistics, ...]
    """The first tier first."""


def statistics(database: Database, *, since: float, until: float) -> Statistics:
    """Sum up the requests that were asked in `[since, until)`, in seconds since the epoch."""
    tally = _Tally(since, until)
    database.read(tally.load, None)
    return tally.result()


def percentile(values: Sequence[float], share: float) -> float | None:
    """Give the value that a share of the values stays within (nearest rank); None of none.

    Args:
        values: in any order.
        share: above 0, up to 1.
    """
    if not values:
        return None
    return sorted(values)[max(math.ceil(share * len(values)), 1) - 1]


class _Tier:
    """Collect what concerns one tier."""

    def __init__(self) -> None:
        self.level = 0
        self.asked = 0
        self.answered = 0
        self.reached = 0
        self.latencies: list[list[float]] = [[] for _ in range(MOMENTS)]
        self.first_tokens: list[float] = []
        self.reached_at = [0] * MOMENTS
        self.went_on_at = [0] * MOMENTS
        self.prompt_tokens = 0
        self.completion_tokens = 0

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
            fallback_rate=_share(sum(self.went_on_at), self.reached),
            latency_series_ms=tuple(percentile(moment, 0.5) for moment in self.latencies),
            fallback_series=tuple(map(_share, self.went_on_at, self.reached_at)),
        )


class _Tally:
    """Collect what concerns all tiers."""

    def __init__(self, since: float, until: float) -> None:
        self._since = since
        self._until = until
        self._start()

    def _start(self) -> None:
        self._requests = 0
        self._unanswered = 0
        self._fell_back = 0
        self._tiers: dict[str, _Tier] = {}

    def load(self, connection: Connection) -> None:
        """Read the log; what an interrupted call before has read is dropped."""
        self._start()
        span = (self._since, self._until)
        for tier, level, prompt_tokens, completion_tokens, count in connection.execute(
            "SELECT tier, level, sum(prompt_tokens), sum(completion_tokens), count(*)"
            " FROM requests WHERE asked_at >= ? AND asked_at < ? GROUP BY tier, level",
            span,
        ):
            self._requests += count
            if tier is None:
                self._unanswered += count
            else:
                answering = self._tiers.setdefault(tier, _Tier())
                answering.level = level
                answering.prompt_tokens += prompt_tokens or 0
                answering.completion_tokens += completion_tokens or 0
            if level != 0:
                self._fell_back += count
        rows = connection.execute(
            "SELECT r.number, r.asked_at, r.tier, r.level,"
            " a.tier, a.level, a.outcome, a.duration_ms, a.first_token_ms"
            " FROM requests AS r JOIN attempts AS a ON a.request = r.number"
            " WHERE r.asked_at >= ? AND r.asked_at < ? ORDER BY r.number, a.tier",
            span,
        )
        turn: list[Any] = []
        for row in rows:
            if turn and (turn[0][0], turn[0][4]) != (row[0], row[4]):
                self._add(turn)
                turn = []
            turn.append(row)
        if turn:
            self._add(turn)

    def _add(self, turn: Sequence[Any]) -> None:
        """Add all that one request had to do with one tier."""
        _, asked_at, winner, winning, name, level, *_ = turn[0]
        tier = self._tiers.setdefault(name, _Tier())
        tier.level = level
        moment = self._moment(asked_at)
        outcomes = {outcome for *_, outcome, _, _ in turn}
        for *_, outcome, duration_ms, first_token_ms in turn:
            if outcome == "ok":
                tier.latencies[moment].append(duration_ms)
                if first_token_ms is not None:
                    tier.first_tokens.append(first_token_ms)
        if outcomes & {"ok", "failed"}:
            tier.asked += 1
            tier.answered += winner == name
        # A tier that was called off has given way only if a lower one was quicker.
        if outcomes != {"cancelled"} or winning is None or winning > level:
            tier.reached += 1
            tier.reached_at[moment] += 1
            tier.went_on_at[moment] += winner != name

    def _moment(self, at: float) -> int:
        part = (at - self._since) / (self._until - self._since)
        return min(max(int(part * MOMENTS), 0), MOMENTS - 1)

    def result(self) -> Statistics:
        tiers = (tier.result(name) for name, tier in self._tiers.items())
        return Statistics(
            since=self._since,
            until=self._until,
            requests=self._requests,
            fallback_rate=_share(self._fell_back, self._requests),
            unanswered=self._unanswered,
            tiers=tuple(sorted(tiers, key=lambda tier: (tier.level, tier.name))),
        )


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
