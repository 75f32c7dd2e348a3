"""Tests of the circuit breaker's pure decisions."""

from __future__ import annotations

import math

import pytest
from error_table import ROWS
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from store_support import NOW, failure, success

from tieredllm.engine.ports import TurnResult
from tieredllm.health import breaker
from tieredllm.health.breaker import MAX_BENCH_S, Circuit
from tieredllm.health.window import ACCURACY, NOTHING, Window
from tieredllm.kinds import ErrorKind
from tieredllm.profile.schema import HealthSettings

DEFAULTS = HealthSettings()
LEASE_S = 30.0


class Backend:
    """Keep one circuit and its requests, as a store does, without one."""

    def __init__(self, health: HealthSettings = DEFAULTS) -> None:
        self.settings = health
        self.now = NOW
        self.circuit = Circuit()
        self.requests: list[tuple[int, Window]] = []

    @property
    def window(self) -> Window:
        since = self.now - self.settings.window_minutes * 60
        until = self.now + self.settings.window_minutes * 60
        return Window.total(
            request
            for era, request in self.requests
            if era == self.circuit.era and since < request.last_at <= until
        )

    @property
    def standing(self):
        return breaker.standing(self.circuit, self.window, now=self.now, settings=self.settings)

    @property
    def state(self) -> str:
        return self.standing.state

    def record(self, result: TurnResult, *, probed: bool = False) -> None:
        before = self.window
        if result.ok:
            request = Window.of(result, at=self.now)
            self.circuit = breaker.after_success(
                self.circuit, before, request, now=self.now, settings=self.settings
            )
        else:
            request = Window.of(result, at=self.now) if result.counts else NOTHING
            self.circuit = breaker.after_failure(
                self.circuit,
                before,
                request,
                now=self.now,
                settings=self.settings,
                kind=result.kind,
                bench_s=result.bench_s,
                probed=probed,
            )
        if request.requests:
            self.requests.append((self.circuit.era, request))

    def lease(self, owner: str = "me") -> bool:
        leased = breaker.lease(
            self.circuit,
            self.window,
            now=self.now,
            settings=self.settings,
            owner=owner,
            lease_s=LEASE_S,
        )
        if leased is not None:
            self.circuit = leased
        return leased is not None


def opened(health: HealthSettings = DEFAULTS) -> Backend:
    backend = Backend(health)
    for _ in range(health.failure_threshold):
        backend.record(failure())
    return backend


def test_three_failed_requests_in_a_row_open_it():
    """It opens at the third failed request in a row, and says why and until when."""
    backend = Backend()
    states = []
    for _ in range(3):
        backend.record(failure())
        states.append(backend.state)

    assert states == ["closed", "closed", "open"]
    assert backend.standing.reason == "3 requests in a row failed, the last with timeout"
    assert backend.standing.retry_at == NOW + 10


def test_a_success_in_between_starts_the_count_again():
    """Failures are counted in a row: a success in between makes it one again."""
    backend = Backend(HealthSettings(min_requests=100))
    for result in (failure(), failure(), success(), failure(), failure()):
        backend.record(result)

    assert backend.state == "closed"
    assert backend.circuit.failures == 2


def test_failures_that_left_the_window_are_not_in_a_row():
    """Two failures of an hour ago and one of now are not three in a row."""
    backend = Backend()
    backend.record(failure())
    backend.record(failure())
    backend.now += 3600
    backend.record(failure())

    assert backend.state == "closed"
    assert backend.circuit.failures == 1


def test_it_is_half_open_after_the_cooldown_and_for_one_request_only():
    """After the cooldown one request gets the lease, the others don't."""
    backend = opened()
    backend.now += 9.99
    before = (backend.state, backend.lease())
    backend.now += 0.01

    assert before == ("open", False)
    assert (backend.state, backend.lease(), backend.lease()) == ("half_open", True, False)


def test_a_lease_ends_by_itself():
    """A prober that never comes back holds nobody up longer than its lease."""
    backend = opened()
    backend.now += 10
    backend.lease("killed")
    backend.now += LEASE_S - 0.01
    during = backend.lease()
    backend.now += 0.01

    assert (during, backend.lease()) == (False, True)


def test_a_probe_that_succeeds_closes_it_and_the_past_is_forgotten():
    """After a recovery the failures before it are not judged again."""
    backend = opened()
    backend.now += 10
    backend.lease()
    backend.record(success(), probed=True)
    backend.record(failure())

    assert backend.state == "closed"
    assert backend.window.requests == 2


def test_a_failed_probe_doubles_the_cooldown_up_to_the_maximum():
    """The cooldown goes 10, 20, 25, 25 seconds."""
    backend = opened()
    cooldowns = [backend.circuit.cooldown_s]
    for _ in range(3):
        backend.now = backend.standing.retry_at
        assert backend.lease()
        backend.record(failure(), probed=True)
        cooldowns.append(backend.circuit.cooldown_s)

    assert cooldowns == [10, 20, 25, 25]


@pytest.mark.parametrize("silence_s", [0.0, 10.0])
@pytest.mark.parametrize("outage_s", [5, 12, 31, 56, 61, 86.5, 300])
def test_recovery_takes_no_longer_than_the_longest_cooldown(silence_s, outage_s):
    """With the defaults a backend that is back is asked within 27 s, however probes failed."""
    backend = opened()
    back_at = backend.now + outage_s
    while True:
        backend.now = max(backend.now, backend.standing.retry_at)
        assert backend.lease()
        if backend.now >= back_at:
            break
        backend.now += silence_s
        backend.record(failure(), probed=True)

    assert backend.now - back_at <= 27


def test_a_probe_that_says_nothing_starts_the_same_cooldown_again():
    """A probe that was called off neither closes the circuit nor makes it worse."""
    backend = opened()
    backend.now += 10
    backend.lease()
    backend.record(failure(kind=ErrorKind.DEADLINE, counts=False), probed=True)

    assert backend.state == "open"
    assert backend.standing.retry_at == backend.now + 10
    assert backend.circuit.lease_owner is None


def test_late_failures_do_not_keep_an_open_circuit_open():
    """Failures of requests that began before it opened do not put the probe off."""
    backend = opened()
    retry_at = backend.standing.retry_at
    for _ in range(9):
        backend.now += 1
        backend.record(failure())

    assert backend.standing.retry_at == retry_at


def test_a_bench_lasts_until_its_time_then_one_request_probes():
    """A rate-limited backend is open until the moment it named, then half-open."""
    backend = Backend()
    backend.record(failure(kind=ErrorKind.RATE_LIMIT, bench_s=42.0))
    opening = backend.standing
    backend.now += 42

    assert (opening.state, opening.retry_at) == ("open", NOW + 42)
    assert (opening.reason, opening.cause) == ("set aside after rate_limit", "rate_limit")
    assert (backend.state, backend.lease(), backend.lease()) == ("half_open", True, False)


def test_a_success_clears_a_bench():
    """A request that gets through proves the bench wrong."""
    backend = Backend()
    backend.record(failure(kind=ErrorKind.QUOTA_EXHAUSTED, bench_s=3600.0))
    backend.record(success())

    assert backend.state == "closed"


def test_a_shorter_bench_does_not_cut_a_longer_one():
    """A rate limit of five seconds does not end the hour of an exhausted quota."""
    backend = Backend()
    backend.record(failure(kind=ErrorKind.QUOTA_EXHAUSTED, bench_s=3600.0))
    backend.record(failure(kind=ErrorKind.RATE_LIMIT, bench_s=5.0))

    assert backend.standing.retry_at == NOW + 3600


@pytest.mark.parametrize("bench_s", [1e300, math.inf])
def test_a_bench_is_at_most_a_day(bench_s):
    """A server that asks for a wait of years is asked again tomorrow."""
    backend = Backend()
    backend.record(failure(kind=ErrorKind.RATE_LIMIT, bench_s=bench_s))

    assert backend.standing.retry_at == NOW + MAX_BENCH_S


@pytest.mark.parametrize("bench_s", [math.nan, 0.0, -5.0])
def test_a_bench_of_no_length_is_none(bench_s):
    """A wait that is no number, or none, sets nothing aside."""
    backend = Backend()
    backend.record(failure(kind=ErrorKind.RATE_LIMIT, bench_s=bench_s))

    assert backend.state == "closed"


def test_every_kind_that_counts_opens_it_and_no_other_does():
    """Three failures in a row open the circuit exactly when their kind counts."""
    for kind, policy in ROWS.items():
        backend = Backend()
        for _ in range(3):
            backend.record(failure(kind=kind, counts=policy.counts))

        assert backend.state == ("open" if policy.counts else "closed"), kind


@pytest.mark.parametrize(
    ("window", "weakness"),
    [
        (Window(requests=2, errors={"tls": 2}), None),
        (Window(requests=4, successes=2, latency_s=40.0, errors={"tls": 1, "timeout": 1}), None),
        (
            Window(requests=10, successes=4, latency_s=4.0, errors={"tls": 3, "timeout": 3}),
            "only 40% of the last 10 requests succeeded (at least 50% is expected)",
        ),
        (
            Window(requests=5, successes=2, latency_s=4.0, errors={"timeout": 3}),
            "60% of the last 5 requests ended with timeout (at most 50% is tolerated)",
        ),
        (
            Window(requests=3, successes=3, latency_s=75.3),
            "answers took 25.1 s on average (at most 20 s is tolerated)",
        ),
    ],
)
def test_a_window_is_weak_past_a_threshold_with_enough_requests(window, weakness):
    """A threshold that is met exactly is not broken, and too few requests break none."""
    found = breaker.find_violation(window, DEFAULTS)

    assert (found and found.message) == weakness


def test_slow_answers_open_it():
    """Success after success opens the circuit when the answers come too slowly."""
    backend = Backend()
    for _ in range(3):
        backend.record(success(latency_s=25.0))

    assert backend.state == "open"
    assert backend.standing.reason.startswith("answers took 25.0 s")
    assert backend.standing.cause is None


def test_a_weak_backend_is_only_degraded_where_it_may_be_asked():
    """With `auto_skip_degraded` off a bad window degrades, and opens nothing."""
    backend = Backend(HealthSettings(auto_skip_degraded=False, failure_threshold=100))
    for _ in range(5):
        backend.record(failure())

    assert (backend.state, backend.standing.degraded) == ("closed", True)
    assert backend.standing.reason.startswith("100% of the last 5 requests ended with timeout")
    assert backend.standing.cause is ErrorKind.TIMEOUT


def test_a_window_that_grows_weak_by_ageing_counts_as_open_and_is_probed():
    """Successes that leave the window can make it weak: then one request probes, none is stuck."""
    backend = Backend(HealthSettings(failure_threshold=5))
    for _ in range(4):
        backend.record(success())
    backend.now += 600
    for _ in range(4):
        backend.record(failure())
    before = backend.state
    backend.now += 301
    after = (backend.state, backend.lease(), backend.lease())
    backend.record(success(), probed=True)

    assert before == "closed"
    assert after == ("half_open", True, False)
    assert backend.state == "closed"


def test_a_clock_that_was_set_back_shuts_nothing_out():
    """After the wall clock was set back a year, an open circuit can be probed at once."""
    backend = opened()
    backend.record(failure(kind=ErrorKind.QUOTA_EXHAUSTED, bench_s=3600.0))
    backend.now += 3600
    backend.lease("killed")
    backend.now -= 365 * 86_400

    assert (backend.state, backend.lease()) == ("half_open", True)


def test_a_cooldown_above_the_maximum_is_cut_to_it():
    """`cooldown_s` never exceeds `max_cooldown_s`."""
    backend = opened(HealthSettings(cooldown_s=100, max_cooldown_s=5))

    assert backend.standing.retry_at == NOW + 5


HEALTH = st.builds(
    HealthSettings,
    window_minutes=st.floats(0.1, 60),
    min_requests=st.integers(1, 6),
    min_success_rate=st.floats(0, 1),
    max_avg_latency_s=st.floats(0.5, 60),
    max_error_rate=st.floats(0, 1),
    auto_skip_degraded=st.booleans(),
    failure_threshold=st.integers(1, 6),
    cooldown_s=st.floats(0.1, 60),
    max_cooldown_s=st.floats(0.1, 120),
)


class Life(RuleBasedStateMachine):
    """Let a backend live through any order of events; what must hold always is checked always."""

    def __init__(self) -> None:
        super().__init__()
        self.backend = Backend()
        self.probers: list[tuple[str, float]] = []
        self.serial = 0
        self.went_back = False

    @rule(health=HEALTH)
    def another_profile(self, health):
        """Processes with different profiles share a backend."""
        self.backend.settings = health

    @rule(seconds=st.floats(0, 200))
    def time_passes(self, seconds):
        self.backend.now += seconds

    @rule(seconds=st.floats(0, 1e7))
    def clock_is_set_back(self, seconds):
        self.backend.now -= seconds
        self.probers.clear()

    @rule(latency_s=st.floats(0, 100))
    def a_request_succeeds(self, latency_s):
        was_set_aside = self.backend.state != "closed"
        self.backend.record(success(latency_s=latency_s))
        if was_set_aside:
            assert self.backend.circuit == Circuit(era=self.backend.circuit.era)

    @rule(kind=st.sampled_from(ErrorKind), bench_s=st.none() | st.floats(allow_nan=True))
    def a_request_fails(self, kind, bench_s):
        lease = (self.backend.circuit.lease_owner, self.backend.circuit.leased_at)
        self.backend.record(failure(kind=kind, counts=ROWS[kind].counts, bench_s=bench_s))

        assert (self.backend.circuit.lease_owner, self.backend.circuit.leased_at) == lease

    @rule()
    def somebody_wants_to_probe(self):
        backend, now = self.backend, self.backend.now
        state = backend.state
        alive = [owner for owner, until in self.probers if now < until]
        self.serial += 1
        owner = str(self.serial)
        granted = backend.lease(owner)
        if state == "closed":
            assert granted
        elif state == "open":
            assert not granted
        elif granted:
            assert backend.circuit.lease_owner == owner
            held = [o for o in alive if o == backend.circuit.lease_owner]
            assert not held
            self.probers.append((owner, now + LEASE_S))

    def holder(self):
        owner = self.backend.circuit.lease_owner
        return owner if owner in {name for name, _ in self.probers} else None

    @precondition(lambda self: self.holder() is not None)
    @rule(kind=st.sampled_from(ErrorKind), bench_s=st.none() | st.floats(0, 1e9))
    def the_probe_fails(self, kind, bench_s):
        counts = ROWS[kind].counts
        before = self.backend.circuit.cooldown_s
        health = self.backend.settings
        self.backend.record(failure(kind=kind, counts=counts, bench_s=bench_s), probed=True)
        after = self.backend.circuit

        assert after.lease_owner is None
        assert self.backend.state == "open"
        assert after.cooldown_s <= health.max_cooldown_s
        if counts:
            assert after.cooldown_s >= min(before, health.max_cooldown_s)

    @precondition(lambda self: self.holder() is not None)
    @rule()
    def the_probe_succeeds(self):
        era = self.backend.circuit.era
        self.backend.record(success(latency_s=0.1), probed=True)

        assert self.backend.circuit == Circuit(era=era + 1)

    @invariant()
    def the_wait_is_bounded(self):
        backend, standing = self.backend, self.backend.standing
        if standing.state == "open":
            assert backend.now < standing.retry_at <= backend.now + MAX_BENCH_S + 1e-3

    @invariant()
    def nobody_is_shut_out_for_ever(self):
        """However it got here: once every span is over, some request may ask."""
        backend, circuit = self.backend, self.backend.circuit
        spans = (circuit.opened_at, circuit.benched_at, circuit.leased_at, backend.now)
        later = max(filter(None, spans)) + MAX_BENCH_S + LEASE_S + 1
        state = breaker.standing(
            backend.circuit, backend.window, now=later, settings=backend.settings
        ).state
        leased = breaker.lease(
            backend.circuit,
            backend.window,
            now=later,
            settings=backend.settings,
            owner="later",
            lease_s=LEASE_S,
        )

        assert state in {"closed", "half_open"}
        assert leased is not None

    @invariant()
    def what_is_open_says_why(self):
        standing = self.backend.standing
        assert (standing.state == "closed" and not standing.degraded) or standing.reason


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=200, stateful_step_count=30, deadline=None)


@given(health=HEALTH, waits=st.lists(st.floats(0, 1000), max_size=30))
@settings(deadline=None)
def test_cooldowns_only_grow_while_probes_fail(health, waits):
    """As long as nothing succeeds, each cooldown is at least the one before and at most the cap."""
    backend = opened(health)
    cooldowns = [backend.circuit.cooldown_s]
    for wait in waits:
        backend.now += wait
        if backend.state == "half_open" and backend.lease():
            backend.record(failure(), probed=True)
            cooldowns.append(backend.circuit.cooldown_s)

    assert cooldowns == sorted(cooldowns)
    assert cooldowns[-1] <= health.max_cooldown_s


@given(latencies=st.lists(st.floats(1e-6, 1e5), min_size=1, max_size=200), share=st.floats(0.01, 1))
@settings(deadline=None)
def test_percentiles_are_off_by_at_most_the_accuracy(latencies, share):
    """The histogram's percentile is within 5 % of the exact one (nearest rank)."""
    window = Window.total(Window.of(success(latency_s=latency), at=NOW) for latency in latencies)
    exact = sorted(latencies)[math.ceil(share * len(latencies)) - 1]

    assert window.percentile_s(share) == pytest.approx(exact, rel=ACCURACY + 1e-9)
    assert window.percentile_s(1.0) == max(latencies)


@given(parts=st.lists(st.lists(st.booleans(), max_size=20), max_size=8))
@settings(deadline=None)
def test_how_requests_are_grouped_changes_nothing(parts):
    """Summing requests slice by slice gives what summing them one by one gives."""

    def of(ok):
        return Window.of(success(latency_s=2.0) if ok else failure(), at=NOW)

    grouped = Window.total(Window.total(map(of, part)) for part in parts)
    flat = Window.total(of(ok) for part in parts for ok in part)

    assert grouped == flat
    assert grouped.requests == grouped.successes + sum(grouped.errors.values())


@pytest.mark.parametrize("latency_s", [math.nan, math.inf, -1.0, 0.0])
def test_a_senseless_latency_does_no_harm(latency_s):
    """A latency that is no length of time counts as none."""
    window = Window.of(success(latency_s=latency_s), at=NOW)

    assert (window.avg_latency_s, window.p95_latency_s) == (0.0, 0.0)
