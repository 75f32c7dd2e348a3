"""Sum up a backend's recent requests in a few numbers, however many they were.

Latencies are kept as a histogram whose buckets grow by a constant factor, so that a percentile is
off by at most `ACCURACY`: the DDSketch of C. Masson, J. Rim and H. Lee (VLDB 2019, section 2.1).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import msgspec

from tieredllm.engine.ports import TurnResult

__all__ = ["ACCURACY", "NOTHING", "Window"]

ACCURACY = 0.05
"""The largest relative error of a percentile."""

GAMMA = (1 + ACCURACY) / (1 - ACCURACY)
"""By what a bucket's upper bound exceeds its lower one."""

LEAST_S = 1e-6
"""Latencies below this share one bucket; no answer comes in a microsecond."""


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """What some requests of one backend came to. Latencies are those of successes."""

    requests: int = 0
    """Requests that say something about health."""
    successes: int = 0
    latency_s: float = 0.0
    """The successful requests' seconds, summed."""
    slowest_s: float = 0.0
    last_at: float = -math.inf
    """When the last of them ended; seconds since the epoch."""
    errors: Mapping[str, int] = {}
    """How many failed with each kind of error."""
    latencies: Mapping[int, int] = {}
    """How many successes are in each bucket of the histogram."""

    @classmethod
    def of(cls, result: TurnResult, *, at: float) -> Window:
        """Make a window of a single request."""
        if not result.ok:
            errors = {} if result.kind is None else {str(result.kind): 1}
            return cls(requests=1, last_at=at, errors=errors)
        latency_s = result.latency_s if math.isfinite(result.latency_s) else 0.0
        latency_s = max(latency_s, 0.0)
        return cls(
            requests=1,
            successes=1,
            latency_s=latency_s,
            slowest_s=latency_s,
            last_at=at,
            latencies={_bucket(latency_s): 1},
        )

    @classmethod
    def total(cls, windows: Iterable[Window]) -> Window:
        """Return all the windows' requests together."""
        requests = successes = 0
        latency_s = slowest_s = 0.0
        last_at = -math.inf
        errors: dict[str, int] = {}
        latencies: dict[int, int] = {}
        for window in windows:
            requests += window.requests
            successes += window.successes
            latency_s += window.latency_s
            slowest_s = max(slowest_s, window.slowest_s)
            last_at = max(last_at, window.last_at)
            for kind, count in window.errors.items():
                errors[kind] = errors.get(kind, 0) + count
            for bucket, count in window.latencies.items():
                latencies[bucket] = latencies.get(bucket, 0) + count
        return cls(
            requests=requests,
            successes=successes,
            latency_s=latency_s,
            slowest_s=slowest_s,
            last_at=last_at,
            errors=errors,
            latencies=latencies,
        )

    def plus(self, other: Window) -> Window:
        """Return both windows' requests together."""
        return Window.total((self, other))

    @property
    def failures(self) -> int:
        """How many failed."""
        return self.requests - self.successes

    @property
    def success_rate(self) -> float | None:
        """The share that succeeded, 0 to 1; None when there was no request."""
        return self.successes / self.requests if self.requests else None

    @property
    def avg_latency_s(self) -> float | None:
        """The average latency of successes; None when there was none."""
        return self.latency_s / self.successes if self.successes else None

    @property
    def p95_latency_s(self) -> float | None:
        """What 95 % of the successes stayed within (nearest rank); None when there was none."""
        return self.percentile_s(0.95)

    def percentile_s(self, share: float) -> float | None:
        """Return the latency that a share of the successes stayed within.

        Args:
            share: above 0, up to 1.

        Returns:
            Seconds, off by at most `ACCURACY`; the exact maximum where that is meant.
        """
        total = sum(self.latencies.values())
        rank = math.ceil(share * total)
        if not total or rank >= total:
            return self.slowest_s if total else None
        seen = 0
        for bucket in sorted(self.latencies):
            seen += self.latencies[bucket]
            if seen >= rank:
                return min(_middle_s(bucket), self.slowest_s)
        return self.slowest_s


NOTHING = Window()
"""No request at all."""


def _bucket(latency_s: float) -> int:
    return math.ceil(math.log(max(latency_s, LEAST_S)) / math.log(GAMMA))


def _middle_s(bucket: int) -> float:
    """Return the value that is within `ACCURACY` of everything in a bucket."""
    return float(2 * GAMMA**bucket / (GAMMA + 1))
