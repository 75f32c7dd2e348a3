"""What waits, what is sent, and what is held back."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
import time
from pathlib import Path

import pytest
from notify_support import World
from store_support import NOW

from tieredllm.store.outbox import MOST_ENTRIES, Sent
from tieredllm.store.outbox_entry import RECOVERED, Note, retry_wait_s

INTERVAL_S = 300.0
LEASE_S = 12.0


def note(
    cause: str = "rules answered", channel: str = "webhook", severity: int = 3, **more
) -> Note:
    return Note(channel=channel, cause=cause, severity=severity, body="{}", **more)


@pytest.fixture
def world(tmp_path):
    world = World(tmp_path)
    yield world
    world.close()


@pytest.fixture
def box(world):
    return world.outbox()


def put(box, *notes: Note) -> None:
    assert box.put("p", notes)


def claim(box, channels=("webhook",), **more):
    return box.claim("p", channels, lease_s=LEASE_S, **more)


def settle(box, claims, error=None, **more) -> None:
    results = [Sent(claimed=each, error=error, **more) for each in claims]
    box.settle(results, min_interval_s=INTERVAL_S)


def deliver(box, **more):
    claims = claim(box, **more)
    settle(box, claims)
    return [(each.entry.cause, each.entry.waiting) for each in claims]


def test_what_is_put_is_claimed_once(box):
    """Of two senders, one gets the message."""
    put(box, note())
    first, second = claim(box), claim(box)

    assert [len(first), len(second)] == [1, 0]


def test_what_happens_before_it_is_sent_is_one_message(box):
    """Notes of one cause add up until one of them is on its way."""
    put(box, note(), note())
    put(box, note(count=3))

    assert deliver(box) == [("rules answered", 5)]


def test_within_the_interval_nothing_is_sent_again(world, box):
    """What happens after a message is held back, counted, and told when the interval is over."""
    put(box, note())
    deliver(box)
    for _ in range(4):
        world.clock.now += 10
        put(box, note())

    assert deliver(box) == []
    world.clock.now = NOW + INTERVAL_S
    assert deliver(box) == [("rules answered", 4)]


def test_what_happens_while_it_is_on_its_way_is_the_next_message(world, box):
    """A count that was sent does not change; the rest has an id of its own."""
    put(box, note())
    claims = claim(box)
    put(box, note(count=49))
    settle(box, claims)

    assert deliver(box) == []
    world.clock.now += INTERVAL_S
    later = claim(box)
    assert [each.entry.waiting for each in later] == [49]
    assert later[0].entry.id != claims[0].entry.id


def test_a_graver_one_is_not_held_back(box):
    """The interval holds back repetitions, not escalations."""
    put(box, note(severity=1))
    deliver(box)
    put(box, note(severity=1))
    assert deliver(box) == []
    put(box, note(severity=3))

    assert deliver(box) == [("rules answered", 2)]


def test_causes_and_channels_do_not_hold_each_other_back(box):
    """The interval is one per cause and channel."""
    put(box, note())
    deliver(box)
    put(box, note("secondary answered"), note(channel="slack"))

    assert deliver(box, channels=("webhook", "slack")) == [
        ("rules answered", 1),
        ("secondary answered", 1),
    ]


def test_a_failed_try_waits_longer_each_time_and_keeps_the_id(world, box):
    """The wait doubles from one second on; the message stays the same one."""
    put(box, note())
    ids, waits = set(), []
    for _ in range(5):
        claims = claim(box)
        ids.add(claims[0].entry.id)
        settle(box, claims, error="down")
        began = world.clock.now
        while not box.has_work("p", ["webhook"]):
            world.clock.now += 0.5
        waits.append(world.clock.now - began)

    assert len(ids) == 1
    assert waits == [1, 2, 4, 8, 16]


def test_the_wait_is_bounded_and_the_receiver_may_ask_for_more():
    """No wait is over a quarter of an hour, unless the receiver names one; then an hour."""
    assert retry_wait_s(1000) == 900
    assert retry_wait_s(1, 60.0) == 60
    assert retry_wait_s(1, 1e9) == 3600


def test_flushing_does_not_wait_for_the_next_try_but_for_the_interval(box):
    """Impatience concerns failures only."""
    put(box, note(), note("secondary answered"))
    claims = {each.entry.cause: each for each in claim(box)}
    settle(box, [claims["rules answered"]])
    settle(box, [claims["secondary answered"]], error="down")
    put(box, note())

    assert deliver(box) == []
    assert deliver(box, patient=False) == [("secondary answered", 1)]


def test_a_lease_ends_by_itself(world, box):
    """What a killed sender held is taken by another, as the same message."""
    put(box, note())
    first = claim(box)
    world.clock.now += LEASE_S - 0.1
    assert claim(box) == []
    world.clock.now += 0.2

    assert [each.entry.id for each in claim(box)] == [first[0].entry.id]


def test_a_sender_whose_lease_is_over_changes_nothing(world, box):
    """Only who holds the lease may say what came of it."""
    put(box, note())
    late = claim(box)
    world.clock.now += LEASE_S
    taken = claim(box)
    before = box.entries("p")
    settle(box, late, error="too late")
    settle(box, late)

    assert before[0].lease_owner == taken[0].entry.lease_owner
    assert box.entries("p") == before


def test_it_is_given_up_after_a_day(world, box):
    """A message that could not be delivered for 24 hours is dropped."""
    put(box, note())
    settle(box, claim(box), error="down")
    world.clock.now += 86_399
    assert box.has_work("p", ["webhook"])
    world.clock.now += 2

    assert claim(box) == []
    assert box.entries() == []


@pytest.mark.parametrize("back_s", [10.0, 1000.0, 40 * 86_400.0])
def test_a_clock_that_is_set_back_holds_nothing_up_for_long(world, box, back_s):
    """After the clock was set back, a new message goes out within little more than an interval."""
    put(box, note())
    deliver(box)
    world.clock.now -= back_s
    put(box, note())
    world.clock.now += INTERVAL_S + 10

    assert deliver(box) != []


def test_a_recovery_ends_what_was_told(world, box):
    """It goes where an alert was delivered, says what is over, and takes in what was held back."""
    put(box, note(), note(channel="slack"))
    deliver(box)
    world.clock.now += 5
    put(box, note(count=6))
    assert box.recover("p", ["webhook", "slack"], "{}")
    claims = claim(box, channels=("webhook", "slack"))
    told = {each.entry.channel: each for each in claims if each.entry.cause == RECOVERED}

    assert list(told) == ["webhook"]
    assert [(over.cause, over.told, over.opened_at) for over in told["webhook"].ended] == [
        ("rules answered", 7, NOW)
    ]
    assert told["webhook"].entry.severity == 3
    settle(box, claims)
    # The alert of the other channel has only just arrived: its end is told next time.
    assert box.recover("p", ["webhook", "slack"], "{}")
    assert [each.entry.channel for each in claim(box, channels=("webhook", "slack"))] == ["slack"]


def test_without_an_alert_there_is_no_recovery(box):
    """What was never delivered is not ended."""
    put(box, note())
    box.recover("p", ["webhook"], "{}")

    assert deliver(box) == [("rules answered", 1)]


def test_a_recovery_that_is_not_true_any_more_is_called_off(box):
    """A failure before it is delivered takes it back, and the alert stays open."""
    put(box, note())
    deliver(box)
    box.recover("p", ["webhook"], "{}")
    put(box, note())
    assert deliver(box) == []
    box.recover("p", ["webhook"], "{}")

    assert deliver(box) == [(RECOVERED, 1)]


def test_recoveries_keep_to_the_interval_too(world, box):
    """A tier that comes and goes makes two messages per interval, not two per request."""
    sent = []
    for _ in range(60):
        put(box, note())
        sent += deliver(box)
        box.recover("p", ["webhook"], "{}")
        sent += deliver(box)
        world.clock.now += 10

    assert [cause for cause, _ in sent] == ["rules answered", RECOVERED] * 2


def test_the_outbox_is_bounded(world, box):
    """However many causes there are, the oldest go."""
    for number in range(MOST_ENTRIES + 50):
        world.clock.now += 0.001
        put(box, note(f"cause {number}"))
    entries = box.entries()

    assert len(entries) == MOST_ENTRIES
    assert entries[-1].cause == f"cause {MOST_ENTRIES + 49}"


def test_looking_into_a_missing_outbox_makes_no_file(world, box):
    """Reading writes nothing."""
    assert box.entries() == []
    assert not box.has_work("p", ["webhook"], is_back=True)
    assert claim(box) is None
    assert not Path(world.path).exists()


def test_an_older_database_gets_the_outbox(tmp_path):
    """A file made before there was an outbox is brought up to date."""
    from tieredllm.store.database import Database
    from tieredllm.store.outbox import Outbox
    from tieredllm.store.schema import STEPS

    path = tmp_path / "state.db"
    with Database(path, steps=STEPS[:1]) as database:
        assert database.write(lambda _: True, default=False)
    with Database(path) as database:
        assert Outbox(database).put("p", [note()])


def _claim_and_count(path: str, go, results) -> None:
    from tieredllm.store.database import Database
    from tieredllm.store.outbox import Outbox

    with Database(Path(path)) as database:
        box = Outbox(database)
        go.wait()
        got = 0
        for _ in range(10):
            claims = None
            while claims is None:
                claims = box.claim("p", ["webhook"], lease_s=30.0)
            got += len(claims)
        results.put(got)


def test_processes_that_claim_at_the_same_time_get_each_message_once(world):
    """A lease is taken by one process, whatever the timing."""
    from tieredllm.clock import SystemClock
    from tieredllm.store.outbox import Outbox

    Outbox(world.database(), SystemClock()).put("p", [note(f"cause {n}") for n in range(15)])
    context = multiprocessing.get_context("spawn")
    go, results = context.Event(), context.Queue()
    workers = [
        context.Process(target=_claim_and_count, args=(str(world.path), go, results))
        for _ in range(4)
    ]
    for worker in workers:
        worker.start()
    go.set()
    counts = [results.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join(60)

    assert sum(counts) == 15


def test_a_process_killed_in_the_middle_loses_nothing(world, box):
    """A sender that is killed after it has claimed leaves the message to the next one."""
    code = """
import sys
from pathlib import Path
from tieredllm.store.database import Database
from tieredllm.store.outbox import Outbox
from tieredllm.store.outbox_entry import Note
box = Outbox(Database(Path(sys.argv[1])))
box.put("p", [Note(channel="webhook", cause="c", severity=3, body="{}")])
print(box.claim("p", ["webhook"], lease_s=5.0)[0].entry.id, flush=True)
sys.stdin.readline()
"""
    command = [sys.executable, "-c", code, str(world.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        claimed = child.stdout.readline().decode().strip()
        child.kill()
    world.clock.now = time.time()
    assert claim(box) == []
    world.clock.now += 5.0

    assert [each.entry.id for each in claim(box)] == [claimed]
