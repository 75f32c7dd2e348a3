"""Decide when a backend is left alone: the circuit breaker, as pure functions.

Numbers in, numbers out: the time is an argument, and whoever calls keeps the state. A circuit is::

    closed ──(failures in a row, or a bad window)──> open ──(cooldown over)──> half_open
      ^                                               ^                            │
      │                                               └──(the probe failed:        │
      │                                                   twice the cooldown)──────┤
      └──(any success)─────────────────────────────────────────────────────────────┘

A *bench* opens it too, for a time that is known beforehand (`Retry-After`, an exhausted quota, a
rejected key). In `half_open` one request holds a lease and probes; the lease ends by itself, so a
prober that was killed holds nothing up.

Every span of time is kept as its start and its length, and runs only from the one to the other. One
that begins in the future, because the wall clock was set back, doesn't run, and the next event ends
it for good: a clock that was wrong can't leave a backend shut out for years.

The three states are those of M. Nygard, "Release It!" (2007); the window's thresholds are those of
"Tiered Fallback Mechanisms for LLM Applications" (`monitor_primary_model_health`).
"""

from __future__ import annotations

import msgspec

from tieredllm.engine.ports import Standing
from tieredllm.health.window import Window
from tieredllm.kinds import ErrorKind
from tieredllm.profile.schema import HealthSettings

__all__ = [
    "MAX_BENCH_S",
    "Circuit",
    "after_failure",
    "after_success",
    "find_violation",
    "known_kind",
    "lease",
    "standing",
]

MAX_BENCH_S = 86_400.0
"""The longest bench, one day in seconds: a server that says "in ten years" is asked tomorrow."""


class Circuit(msgspec.Struct, frozen=True, kw_only=True):
    """One backend's circuit. Times are seconds since the epoch."""

    failures: int = 0
    """Failed requests in a row."""
    opened_at: float | None = None
    """When it opened, or last opened again; None while it is closed or only benched."""
    cooldown_s: float = 0.0
    """How long it stays open from then."""
    benched_at: float | None = None
    bench_s: float = 0.0
    cause: str | None = None
    """Why it is open, for people."""
    kind: ErrorKind | None = None
    """The kind of error that opened it, where one kind did."""
    lease_owner: str | None = None
    """Who probes, or probed last and never came back."""
    leased_at: float = 0.0
    lease_s: float = 0.0
    era: int = 0
    """Counts recoveries. Only requests of the current era are judged, so that a backend which has
    just recovered isn't opened again for what it did before."""

    @property
    def is_set_aside(self) -> bool:
        """Whether it was opened or benched and has not succeeded since."""
        return self.opened_at is not None or self.benched_at is not None


class Violation(msgspec.Struct, frozen=True):
    """A threshold that a window breaks."""

    message: str
    """For people."""
    kind: ErrorKind | None = None
    """The kind of error that did it, where one kind did."""


def find_violation(window: Window, settings: HealthSettings) -> Violation | None:
    """Return the threshold that a window breaks; None when it breaks none.

    Fewer than `min_requests` requests break none.
    """
    if window.requests < settings.min_requests:
        return None
    for kind, count in sorted(window.errors.items(), key=lambda item: (-item[1], item[0])):
        if count / window.requests > settings.max_error_rate:
            return Violation(
                f"{_percent(count / window.requests)} of the last {window.requests} requests ended"
                f" with {kind} (at most {_percent(settings.max_error_rate)} is tolerated)",
                known_kind(kind),
            )
    success_rate = window.successes / window.requests
    if success_rate < settings.min_success_rate:
        return Violation(
            f"only {_percent(success_rate)} of the last {window.requests} requests succeeded"
            f" (at least {_percent(settings.min_success_rate)} is expected)"
        )
    average_s = window.avg_latency_s
    if average_s is not None and average_s > settings.max_avg_latency_s:
        return Violation(
            f"answers took {average_s:.1f} s on average"
            f" (at most {settings.max_avg_latency_s:g} s is tolerated)"
        )
    return None


def standing(circuit: Circuit, window: Window, *, now: float, settings: HealthSettings) -> Standing:
    """Return how a backend stands.

    A closed circuit whose window breaks a threshold counts as open from the window's last request
    when degraded backends are skipped (`auto_skip_degraded`), so that it is probed again after a
    cooldown; otherwise it is only called degraded.

    Args:
        circuit: the backend's circuit.
        window: its requests of the current era.
        now: the time.
        settings: the thresholds.
    """
    if not circuit.is_set_aside and not settings.auto_skip_degraded:
        violation = find_violation(window, settings)
        if violation is None:
            return Standing()
        return Standing(degraded=True, reason=violation.message, cause=violation.kind)
    circuit = _evaluate(circuit, window, settings)
    if not circuit.is_set_aside:
        return Standing()
    return Standing(
        state="open" if _is_shut(circuit, now) else "half_open",
        reason=circuit.cause,
        cause=circuit.kind,
        retry_at=_retry_at(circuit, now),
    )


def lease(
    circuit: Circuit,
    window: Window,
    *,
    now: float,
    settings: HealthSettings,
    owner: str,
    lease_s: float,
) -> Circuit | None:
    """Lease to one request the right to ask a backend whose cooldown is over.

    Returns:
        The circuit with the lease in it; the very same circuit when it is closed meanwhile and
        needs no probe; None when it is still open or another request is probing.
    """
    judged = _evaluate(_without_future(circuit, now), window, settings)
    if not judged.is_set_aside:
        return circuit
    is_leased = circuit.lease_owner is not None and _runs(circuit.leased_at, circuit.lease_s, now)
    if is_leased or _is_shut(judged, now):
        return None
    return msgspec.structs.replace(judged, lease_owner=owner, leased_at=now, lease_s=lease_s)


def after_success(
    circuit: Circuit, before: Window, request: Window, *, now: float, settings: HealthSettings
) -> Circuit:
    """Move a circuit after a request that succeeded: close it, whatever had opened it.

    One that was closed may open all the same, when this answer makes the window break a threshold:
    it came too slowly, or it is the one that makes `min_requests` of mostly failed ones.

    Args:
        circuit: the circuit before.
        before: the requests of the current era before this one.
        request: this one.
        now: the time.
        settings: the thresholds.
    """
    if _evaluate(circuit, before, settings).is_set_aside:
        return Circuit(era=circuit.era + 1)
    cleared = msgspec.structs.replace(circuit, failures=0)
    return _evaluate(cleared, before.plus(request), settings, at=now)


def after_failure(
    circuit: Circuit,
    before: Window,
    request: Window,
    *,
    now: float,
    settings: HealthSettings,
    kind: ErrorKind | None,
    bench_s: float | None = None,
    probed: bool = False,
) -> Circuit:
    """Move a circuit after a request that failed or was called off.

    Args:
        circuit: the circuit before.
        before: the requests of the current era before this one.
        request: this one; empty if its failure doesn't count against health.
        now: the time.
        settings: the thresholds.
        kind: why it failed; None when it was called off.
        bench_s: seconds to set the backend aside at once, at most `MAX_BENCH_S` of them.
        probed: whether this request held the lease. Its failure doubles the cooldown; one that
            doesn't count starts the same cooldown again. Failures of other requests leave an open
            circuit as it is: they may have begun before it opened.
    """
    moved = _without_future(circuit, now)
    if request.requests:
        # What left the window is forgotten: a failure of last week isn't "in a row" with today's.
        failures = min(circuit.failures, before.failures) + 1
        moved = msgspec.structs.replace(moved, failures=failures)
    if probed:
        moved = _after_probe(moved, now, settings, kind=kind, counts=bool(request.requests))
    elif request.requests and moved.opened_at is None:
        if moved.failures >= settings.failure_threshold:
            cause = f"{_in_a_row(moved.failures)} failed, the last with {kind or 'no reason'}"
            moved = _opened(moved, at=now, cause=cause, kind=kind, settings=settings)
        else:
            moved = _evaluate(moved, before.plus(request), settings, at=now)
    if bench_s is not None and bench_s > 0:
        moved = _benched(moved, now, min(bench_s, MAX_BENCH_S), kind)
    return moved


def _after_probe(
    circuit: Circuit,
    now: float,
    settings: HealthSettings,
    *,
    kind: ErrorKind | None,
    counts: bool,
) -> Circuit:
    base = min(settings.cooldown_s, settings.max_cooldown_s)
    cooldown_s = circuit.cooldown_s if circuit.opened_at is not None else 0.0
    if counts:
        cooldown_s *= 2
    cooldown_s = min(max(cooldown_s, base), settings.max_cooldown_s)
    # A probe that waited in silence has waited for the backend already: the cooldown runs from its
    # beginning, unless it would be over by now.
    begun = circuit.leased_at
    cause = f"its last probe failed with {kind}" if counts and kind else circuit.cause
    caused_by = kind if counts and kind else circuit.kind
    return msgspec.structs.replace(
        circuit,
        opened_at=begun if _runs(begun, cooldown_s, now) else now,
        cooldown_s=cooldown_s,
        cause=cause,
        kind=caused_by,
        lease_owner=None,
        leased_at=0.0,
        lease_s=0.0,
    )


def _opened(
    circuit: Circuit,
    *,
    at: float,
    cause: str,
    kind: ErrorKind | None,
    settings: HealthSettings,
) -> Circuit:
    return msgspec.structs.replace(
        circuit,
        opened_at=at,
        cooldown_s=min(settings.cooldown_s, settings.max_cooldown_s),
        cause=cause,
        kind=kind,
    )


def _evaluate(
    circuit: Circuit, window: Window, settings: HealthSettings, *, at: float | None = None
) -> Circuit:
    """Open a closed circuit whose window breaks a threshold, unless degraded ones may be asked.

    Args:
        circuit: any circuit.
        window: its requests.
        settings: the thresholds.
        at: since when it is open; by default since the window's last request.
    """
    if circuit.is_set_aside or not settings.auto_skip_degraded:
        return circuit
    violation = find_violation(window, settings)
    if violation is None:
        return circuit
    return _opened(
        circuit,
        at=window.last_at if at is None else at,
        cause=violation.message,
        kind=violation.kind,
        settings=settings,
    )


def _benched(circuit: Circuit, now: float, bench_s: float, kind: ErrorKind | None) -> Circuit:
    """Set a circuit aside; a longer bench that runs already stays."""
    if (
        circuit.benched_at is not None
        and _runs(circuit.benched_at, circuit.bench_s, now)
        and circuit.benched_at + circuit.bench_s >= now + bench_s
    ):
        return circuit
    return msgspec.structs.replace(
        circuit,
        benched_at=now,
        bench_s=bench_s,
        cause=f"set aside after {kind or 'a failure'}",
        kind=kind,
    )


def _is_shut(circuit: Circuit, now: float) -> bool:
    return _runs(circuit.opened_at, circuit.cooldown_s, now) or _runs(
        circuit.benched_at, circuit.bench_s, now
    )


def _retry_at(circuit: Circuit, now: float) -> float:
    """Return when the last span that runs is over, or when the last of all was over."""
    ends = [
        start + length
        for start, length in (
            (circuit.opened_at, circuit.cooldown_s),
            (circuit.benched_at, circuit.bench_s),
        )
        if start is not None and start <= now
    ]
    return max(ends, default=now)


def _without_future(circuit: Circuit, now: float) -> Circuit:
    """Return a circuit whose spans that begin in the future are over."""
    opened_at, benched_at = circuit.opened_at, circuit.benched_at
    if opened_at is not None and opened_at > now:
        opened_at = now - circuit.cooldown_s
    if benched_at is not None and benched_at > now:
        benched_at = now - circuit.bench_s
    if (opened_at, benched_at) == (circuit.opened_at, circuit.benched_at):
        return circuit
    return msgspec.structs.replace(circuit, opened_at=opened_at, benched_at=benched_at)


def _runs(start: float | None, length: float, now: float) -> bool:
    """Whether a span of time is running."""
    return start is not None and start <= now < start + length


def known_kind(value: str | None) -> ErrorKind | None:
    """Return the kind of that value; None for one that only another version knows."""
    return next((kind for kind in ErrorKind if kind == value), None)


def _percent(share: float) -> str:
    return f"{share:.0%}"


def _in_a_row(count: int) -> str:
    return "a request" if count == 1 else f"{count} requests in a row"
