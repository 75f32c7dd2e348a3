"""Tests of the memory of health: what processes learn from each other, and what that costs."""

from __future__ import annotations

import contextlib
import signal
import sqlite3

import pytest
from store_support import NOW, Child, FakeClock, crowd, failure, success

from tieredllm.engine.ports import HealthMemory, Standing
from tieredllm.health.memory import SLICES, SqliteHealth, WindowReport
from tieredllm.health.window import Window
from tieredllm.kinds import ErrorKind
from tieredllm.profile.schema import HealthSettings
from tieredllm.store.database import Database

DEFAULTS = HealthSettings()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state" / "state.db"


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def database(path):
    with Database(path) as opened:
        yield opened
        assert opened.problem is None


@pytest.fixture
def health(database, clock):
    return SqliteHealth(database, DEFAULTS, clock)


def state(health, identity="b"):
    return health.standings([identity])[identity].state


def count(database, table):
    return database.read(lambda c: c.execute(f"SELECT count(*) FROM {table}").fetchone()[0], 0)


def test_it_is_what_the_engine_asks_for(health):
    """The store fits the engine's port."""
    memory: HealthMemory = health

    assert memory.standings([]) == {}


def test_the_unknown_is_closed_and_asking_makes_no_file(health, path):
    """A backend nobody has asked is closed, and finding that out leaves no trace."""
    assert health.standings(["a", "b"]) == {"a": Standing(), "b": Standing()}
    assert not path.parent.exists()


def test_another_process_knows_at_once(health, path, clock):
    """What one process records, another one with the same file goes by."""
    for _ in range(3):
        health.record(failure(kind=ErrorKind.CONNECTION))
    with Database(path) as other:
        [standing] = SqliteHealth(other, DEFAULTS, clock).standings(["b"]).values()

    assert standing == Standing(
        state="open",
        reason="3 requests in a row failed, the last with connection",
        cause=ErrorKind.CONNECTION,
        retry_at=NOW + 10,
    )


def test_backends_are_told_apart(health):
    """A new key has a new identity and starts fresh."""
    for _ in range(3):
        health.record(failure("old key", ErrorKind.AUTHENTICATION, bench_s=300.0))

    assert (state(health, "old key"), state(health, "new key")) == ("open", "closed")


def test_the_whole_cycle(health, clock):
    """Closed, open, half-open with one probe, longer open, half-open, closed."""
    seen = [state(health)]
    for _ in range(3):
        health.record(failure())
    seen.append(state(health))
    clock.now += 10
    seen.append((state(health), health.acquire_probe("b"), health.acquire_probe("b")))
    health.record(failure(probe=True))
    seen.append((state(health), health.standings(["b"])["b"].retry_at - clock.now))
    clock.now += 20
    seen.append((state(health), health.acquire_probe("b")))
    health.record(success(probe=True))
    seen.append((state(health), health.acquire_probe("b")))

    assert seen == [
        "closed",
        "open",
        ("half_open", True, False),
        ("open", 20),
        ("half_open", True),
        ("closed", True),
    ]


def test_a_prober_whose_lease_ran_out_does_not_end_the_next_ones(database, health, clock):
    """The result of an expired lease counts like anybody's: it neither doubles nor frees."""
    for _ in range(3):
        health.record(failure())
    clock.now += 10
    slow, quick = SqliteHealth(database, DEFAULTS, clock), health
    taken = [slow.acquire_probe("b")]
    clock.now += 30
    taken.append(quick.acquire_probe("b"))
    slow.record(failure(probe=True))
    taken.append(slow.acquire_probe("b"))

    assert taken == [True, True, False]
    assert state(health) == "half_open"


def test_a_called_off_probe_gives_its_lease_back(health, clock):
    """A probe that says nothing about health lets another one follow after the same cooldown."""
    for _ in range(3):
        health.record(failure())
    clock.now += 10
    assert health.acquire_probe("b")
    health.record(failure(kind=ErrorKind.DEADLINE, counts=False, probe=True))
    clock.now += 10

    assert health.acquire_probe("b")


def test_what_does_not_count_leaves_no_trace_in_the_window(health):
    """A refused prompt or one that is too long says nothing about the backend."""
    for _ in range(5):
        health.record(failure(kind=ErrorKind.CONTEXT_LENGTH, counts=False))

    assert health.window("b").requests == 0
    assert state(health) == "closed"


def test_the_window_is_reported_as_the_contract_has_it(health):
    """Requests, success rate, average and 95th percentile of successes, and counts by kind."""
    for latency_s in (1.0, 2.0, 3.0):
        health.record(success(latency_s=latency_s))
    health.record(failure(kind=ErrorKind.RATE_LIMIT))

    assert health.window("b") == WindowReport(
        requests=4,
        success_rate=0.75,
        avg_latency_s=2.0,
        p95_latency_s=3.0,
        error_counts={"rate_limit": 1},
    )
    assert health.window("unknown") == WindowReport(
        requests=0, success_rate=None, avg_latency_s=None, p95_latency_s=None, error_counts={}
    )


def test_a_request_leaves_the_window_when_its_time_is_over(health, database, clock):
    """A request counts for the length of the window, and its row is dropped after it."""
    health.record(success())
    clock.now += 15 * 60 - 0.01
    before = health.window("b").requests
    clock.now += 0.01
    after = health.window("b").requests
    health.record(success("another"))

    assert (before, after) == (1, 0)
    assert count(database, "window_slices") == 1


def test_a_recovery_is_judged_afresh_but_shown_whole(health, clock):
    """After a recovery the report still has the failures, while the decision has not."""
    for _ in range(3):
        health.record(failure())
    clock.now += 10
    health.acquire_probe("b")
    health.record(success(probe=True))
    health.record(failure())

    assert state(health) == "closed"
    assert health.window("b").requests == 5


def test_reset_forgets_one_or_all(health, path, clock):
    """A reset closes a circuit and empties its window; a missing file stays missing."""
    for identity in ("a", "b", "c"):
        for _ in range(3):
            health.record(failure(identity))
    health.reset("a")
    one = [state(health, identity) for identity in "abc"]
    health.reset()

    assert one == ["closed", "open", "open"]
    assert [state(health, identity) for identity in "abc"] == ["closed"] * 3
    assert health.window("b").requests == 0


def test_a_reset_makes_no_file(health, path):
    """There is nothing to forget where nothing was remembered."""
    health.reset()

    assert not path.parent.exists()


def test_records_in_one_go_are_records_one_by_one(clock):
    """Several turns in one transaction come to the same as each in its own."""
    turns = [success(), failure(), failure(), success(latency_s=9.0), failure(), failure("c")]
    one, all_ = (SqliteHealth(Database(None), DEFAULTS, clock) for _ in range(2))
    for turn in turns:
        one.record(turn)
    all_.record_all(turns)

    for identity in "bc":
        assert one.window(identity) == all_.window(identity)
        assert one.standings([identity]) == all_.standings([identity])


def test_profiles_with_other_windows_share_a_backend(database, clock):
    """A longer window sees further back than a shorter one in the same file."""
    short = SqliteHealth(database, HealthSettings(window_minutes=1), clock)
    long = SqliteHealth(database, HealthSettings(window_minutes=60), clock)
    long.record(success())
    clock.now += 300
    short.record(success())

    assert (short.window("b").requests, long.window("b").requests) == (1, 2)


def test_a_clock_that_was_wrong_is_forgotten(health, clock):
    """Requests of a time to come neither count nor stay once the clock is right again."""
    clock.now += 365 * 86_400
    for _ in range(3):
        health.record(failure())
    clock.now -= 365 * 86_400
    probe = health.acquire_probe("b")
    health.record(success(probe=True))

    assert probe
    assert health.window("b").requests == 1
    assert state(health) == "closed"


def test_a_damaged_row_stops_nothing(health, database):
    """A row that makes no sense is as good as none."""
    for _ in range(3):
        health.record(failure())
    database.write(lambda c: c.execute("UPDATE window_slices SET errors = 'rubbish'"), None)

    assert state(health) == "closed"
    assert "rubbish" in database.problem or "JSON" in database.problem
    database.problem = None


def test_an_unusable_file_means_closed_and_learns_for_the_process(tmp_path, clock):
    """Where the file cannot be, every backend is closed, and a process still learns for itself."""
    database = Database(tmp_path)  # a directory
    health = SqliteHealth(database, DEFAULTS, clock)
    before = (state(health), health.acquire_probe("b"))
    for _ in range(3):
        health.record(failure())

    assert before == ("closed", True)
    assert state(health) == "open"
    assert database.problem.startswith(f"cannot use {tmp_path}: ")


def test_a_locked_file_grants_no_probe_until_a_lease_has_passed(path, clock):
    """While nobody can write a lease down nobody probes, but not for ever."""
    with Database(path) as database:
        health = SqliteHealth(database, DEFAULTS, clock)
        for _ in range(3):
            health.record(failure())
        clock.now += 10
        locker = sqlite3.connect(path, isolation_level=None)
        locker.execute("BEGIN IMMEDIATE")
        at_once = health.acquire_probe("b")
        clock.now += 29.9
        later = health.acquire_probe("b")
        clock.now += 0.2
        at_last = health.acquire_probe("b")
        locker.close()

    assert (at_once, later, at_last) == (False, False, True)


def test_who_can_read_nothing_for_a_lock_does_not_probe(path, clock):
    """While others keep the file even from readers, nobody takes the backend for a healthy one."""
    with Database(path) as database:
        health = SqliteHealth(database, DEFAULTS, clock)
        for _ in range(3):
            health.record(failure())
    clock.now += 10
    locker = sqlite3.connect(path, isolation_level=None)
    locker.execute("PRAGMA locking_mode=EXCLUSIVE")
    locker.execute("BEGIN IMMEDIATE")
    with Database(path) as database:
        locked = SqliteHealth(database, DEFAULTS, clock).acquire_probe("b")
    locker.close()
    with Database(path) as database:
        unlocked = SqliteHealth(database, DEFAULTS, clock).acquire_probe("b")

    assert (locked, unlocked) == (False, True)


OPENED = """
    def opened(wait_s=0.1, lease_s=30.0):
        database = Database(path, wait_s=wait_s)
        settings = HealthSettings(cooldown_s=0.2)
        return database, SqliteHealth(database, settings, lease_s=lease_s)

    def result(ok):
        kind = None if ok else ErrorKind.TIMEOUT
        return TurnResult(identity="b", request_id="r", ok=ok, kind=kind, latency_s=1.0)
"""


def test_ten_processes_make_one_probe(path):
    """Of ten processes that ask at the same moment after the cooldown one gets the lease."""
    code = """
        database, health = opened()
        say(health.standings(["b"])["b"].state, health.acquire_probe("b"))
        database.close()
    """
    with Database(path) as database:
        health = SqliteHealth(database, HealthSettings(cooldown_s=0.2))
        for _ in range(3):
            health.record(failure())

    assert crowd(10, path, OPENED, code) == ["half_open False"] * 9 + ["half_open True"]


def test_a_killed_prober_wedges_nothing(path):
    """SIGKILL of the process that holds the lease: another gets it when it has run out."""
    code = """
        database, health = opened(lease_s=0.5)
        for _ in range(3):
            health.record(result(ok=False))
        time.sleep(0.2)
        say(health.acquire_probe("b"), health.acquire_probe("b"))
        wait()
    """
    with Child(path, OPENED, code) as child:
        said = child.line()
        child.kill()
        killed = child.process.wait(timeout=30)
    clock = FakeClock()
    with Database(path) as database:
        health = SqliteHealth(database, DEFAULTS, clock)
        leased_at = database.read(
            lambda c: c.execute("SELECT leased_at FROM circuits").fetchone()[0], None
        )
        clock.now = leased_at + 0.49
        before = health.acquire_probe("b")
        clock.now = leased_at + 0.5
        after = health.acquire_probe("b")

    assert (said, killed) == ("True False", -signal.SIGKILL)
    assert (before, after) == (False, True)


def test_what_a_locked_file_did_not_take_is_written_later(path, clock):
    """A turn that nobody could write down comes with the next, or at the end."""
    health = SqliteHealth(Database(path), DEFAULTS, clock)
    health.record(success())
    with sqlite3.connect(path, isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        health.record(failure())
        health.record(failure())
        locked = health.window("b").requests
        other.execute("ROLLBACK")
    health.record(failure())
    later = health.window("b").requests
    with sqlite3.connect(path, isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        health.record(success())
        other.execute("ROLLBACK")
    health.close()

    assert (locked, later, health.window("b").requests) == (1, 4, 5)


def unwritten(path, clock, *turns):
    """Return a memory of turns that end now, and are written down when it is closed."""
    health = SqliteHealth(Database(path, wait_s=0.01), DEFAULTS, clock)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        health.record_all(turns)
        other.execute("ROLLBACK")
    return health


@pytest.mark.parametrize(("by_s", "expected"), [(3500, "open"), (3600, "half_open")])
def test_a_bench_that_is_written_late_ends_in_time(health, path, clock, by_s, expected):
    """It runs from the failure, however long the file was locked."""
    health.record(success("c"))
    late = unwritten(path, clock, failure(kind=ErrorKind.QUOTA_EXHAUSTED, bench_s=3600))
    clock.now += by_s
    late.close()
    standing = health.standings(["b"])["b"]

    assert (standing.state, standing.retry_at) == (expected, NOW + 3600)


def test_a_turn_that_is_written_late_leaves_the_window_in_time(health, path, clock):
    """It counts from when it ended."""
    health.record(success("c"))
    late = unwritten(path, clock, failure())
    clock.now += 600
    late.close()
    clock.now = NOW + 899
    counted = health.window("b").requests
    clock.now = NOW + 900

    assert (counted, health.window("b").requests) == (1, 0)


def test_a_turn_that_is_written_too_late_counts_no_more(health, path, clock):
    """Failures of an hour ago are not in a row with today's."""
    health.record(success("c"))
    late = unwritten(path, clock, failure(), failure(), failure())
    clock.now += 3600
    late.close()
    health.record(failure())

    assert health.window("b").requests == 1
    assert state(health) == "closed"


@pytest.mark.parametrize("turn", [success(), failure(bench_s=1)], ids=["success", "failure"])
@pytest.mark.parametrize("by_s", [60, 3600])
def test_a_turn_that_is_written_late_leaves_what_came_since(health, path, clock, turn, by_s):
    """A circuit that opened after it stays open, and what others wrote stays counted."""
    health.record(success("c"))
    late = unwritten(path, clock, turn)
    clock.now += by_s
    health.record_all([failure(), failure(), failure()])
    before = health.standings(["b"])
    clock.now += 1
    late.close()

    assert before["b"].state == "open"
    assert health.standings(["b"]) == before
    assert health.window("b").requests == (4 if by_s == 60 else 3)


@pytest.mark.parametrize("wait_s", [10.0, 0.1])
def test_twenty_processes_lose_no_record(path, wait_s):
    """Every request of twenty processes that write at the same time is in the window."""
    code = f"""
        database, health = opened(wait_s={wait_s})
        for _ in range(5):
            health.record(result(ok=True))
        health.close()
        database.close()
        say(database.problem)
    """
    troubles = crowd(20, path, OPENED, code)
    with Database(path) as database:
        requests = SqliteHealth(database, DEFAULTS).window("b").requests

    assert requests == 100
    if wait_s > 1:
        assert set(troubles) == {"None"}


def steps_of(database, work):
    """Count SQLite's virtual machine steps during some work."""
    steps = 0

    def step():
        nonlocal steps
        steps += 1
        return 0

    database.read(lambda c: c.set_progress_handler(step, 1), None)
    work()
    database.read(lambda c: c.set_progress_handler(None, 1), None)
    return steps


def fill(health, database, clock, *, per_slice):
    """Put requests into every slice of three backends' windows, as recording them would have."""
    request = Window(
        requests=per_slice,
        successes=per_slice,
        latency_s=float(per_slice),
        slowest_s=1.0,
        last_at=clock.now,
        latencies=dict.fromkeys(range(50), per_slice // 50),
    )
    for identity in "abc":
        health.record(success(identity))
    for _ in range(SLICES):
        clock.now += DEFAULTS.window_minutes * 60 / SLICES
        request = request.__class__(
            **{field: getattr(request, field) for field in request.__struct_fields__}
            | {"last_at": clock.now}
        )
        for identity in "abc":
            database.write(
                lambda c, i=identity, r=request: health._add(c, i, 0, r, clock.now), None
            )


def test_a_million_requests_cost_what_a_hundred_cost(tmp_path):
    """What a decision and a record read does not grow with the requests in the window."""

    def cost(per_slice):
        clock = FakeClock()
        with Database(tmp_path / str(per_slice) / "state.db") as database:
            health = SqliteHealth(database, DEFAULTS, clock)
            fill(health, database, clock, per_slice=per_slice)
            requests = sum(health.window(identity).requests for identity in "abc")
            return requests, (
                steps_of(database, lambda: health.standings(list("abc"))),
                steps_of(database, lambda: health.record(success("a"))),
                count(database, "window_slices"),
            )

    costs = dict(map(cost, (50, 11_200)))
    [few, many] = sorted(costs)

    assert (few, many) == (4500, 1_008_000)
    assert costs[few] == costs[many]
    assert costs[many][2] <= 3 * (SLICES + 1)


def test_recording_keeps_the_rows_few(health, database, clock):
    """However often and for however long requests come, a backend has about one row per slice."""
    for _ in range(300):
        clock.now += 7
        health.record_all([success("a"), success("b")] * 5)

    assert count(database, "window_slices") <= 2 * (SLICES + 2)
    assert count(database, "circuits") == 2
    assert health.window("a").requests == pytest.approx(5 * 900 / 7, rel=0.05)


def test_a_decision_is_one_query_by_key(health, database):
    """All backends' standings take one statement, which searches by primary key, never scans."""
    health.record_all([success("a"), success("b"), failure("c")])
    statements = []
    database.read(lambda c: c.set_trace_callback(statements.append), None)
    health.standings(["a", "b", "c"])
    database.read(lambda c: c.set_trace_callback(None), None)
    plan = database.read(
        lambda c: [row[3] for row in c.execute(f"EXPLAIN QUERY PLAN {statements[0]}")], []
    )

    assert len(statements) == 1
    assert len(plan) == 2
    assert all(step.startswith("SEARCH") and "PRIMARY KEY" in step for step in plan)


def test_dead_backends_are_dropped(health, database, clock):
    """The circuit of a key that was replaced a month ago is not kept for ever."""
    health.record(failure("old key"))
    clock.now += 31 * 86_400
    health.record(success("new key"))

    assert database.read(lambda c: c.execute("SELECT identity FROM circuits").fetchall(), []) == [
        ("new key",)
    ]
