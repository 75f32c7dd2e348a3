"""Every message arrives once in the end, and no answer waits for it."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import subprocess
import sys
import time

import pytest
from notify_support import (
    HttpServer,
    World,
    at_most,
    first_tier,
    free_port,
    rules_answer,
    secondary_answer,
    settings,
    silent_server,
)

WEBHOOK = {"url_env": "HOOK"}

SLACK_S = 0.4
"""How much longer a bound may take on a busy machine, modules that are loaded for the first time
included."""


@pytest.fixture
def world(tmp_path):
    world = World(tmp_path)
    yield world
    world.close()


def run(world, *answers, within_s=2.0, channels=None):
    """Be one run of the program: note its answers, deliver, end."""
    notifier = world.notifier(channels or settings(webhook=WEBHOOK))
    for each in answers:
        notifier.note(each)
    asyncio.run(notifier.deliver(within_s))


def counts(server) -> list[int]:
    return [got.json["count"] for got in server.received]


def test_a_server_that_fails_twice_gets_it_in_the_same_run(world):
    """Two answers of 500 cost less than the two seconds there are."""
    with HttpServer(500, 500) as server:
        world.env["HOOK"] = server.url
        with at_most(1.5):
            run(world, rules_answer())
    ids = [got.json["id"] for got in server.received]

    assert (len(ids), len(set(ids)), world.waiting()) == (3, 1, 0)


def test_a_server_that_goes_on_failing_gets_it_in_a_later_run(world):
    """Each try has the same id; when one is accepted, none follows."""
    with HttpServer(*[503] * 12) as server:
        world.env["HOOK"] = server.url
        run(world, rules_answer())
        runs = 1
        while world.waiting():
            world.clock.now += 30
            run(world, first_tier())
            runs += 1
        world.clock.now += 1000
        run(world, first_tier())
        run(world, first_tier())
    events = [(got.json["event"], got.json["id"]) for got in server.received]

    assert runs > 2
    assert len({name for event, name in events if event == "fallback"}) == 1
    assert [event for event, _ in events[12:]] == ["fallback", "recovery"]


def test_a_server_that_is_down_gets_it_when_it_is_up_again(world):
    """What could not be delivered is sent by a later run, once."""
    port = free_port()
    world.env["HOOK"] = f"http://127.0.0.1:{port}/"
    with at_most(1.0):
        run(world, rules_answer())
    assert world.waiting() == 1
    world.clock.now += 5
    with HttpServer(port=port) as server:
        for _ in range(3):
            run(world, rules_answer())
            world.clock.now += 5

    assert counts(server) == [2]
    assert world.waiting() == 2


def test_a_server_that_hangs_costs_two_seconds_and_is_asked_less_and_less(world):
    """Each run ends in time, and most runs do not even try."""
    with silent_server() as port:
        world.env["HOOK"] = f"http://127.0.0.1:{port}/"
        with at_most(0.5 + SLACK_S):
            run(world, rules_answer(), within_s=0.5)
        with at_most(SLACK_S):
            run(world, first_tier(), within_s=0.5)
        entry = world.outbox().entries()[0]

    assert (entry.tries, entry.waiting) == (1, 1)
    assert entry.last_error.startswith("not accepted within 0.")


def test_channels_do_not_wait_for_each_other(world):
    """One that hangs leaves the others their time."""
    with silent_server() as port, HttpServer() as server:
        world.env |= {"HOOK": server.url, "SLACK": f"http://127.0.0.1:{port}/"}
        mail = {"host": "127.0.0.1", "port": port, "from": "a@b.c", "recipients": ["d@e.f"]}
        channels = settings(webhook=WEBHOOK, slack={"webhook_env": "SLACK"}, email=mail)
        with at_most(0.6 + SLACK_S):
            run(world, rules_answer(), within_s=0.6, channels=channels)

    assert counts(server) == [1]
    assert world.waiting() == 2


def test_a_body_that_drips_does_not_hold_the_run_up(world):
    """A refusal whose body never ends is broken off."""
    import socketserver
    import threading

    class Drip(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.wfile.write(b"HTTP/1.1 500 Oh\r\nContent-Length: 100000\r\n\r\n")
            try:
                for _ in range(40):
                    self.wfile.write(b"x")
                    time.sleep(0.05)
            except OSError:
                pass

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Drip) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            world.env["HOOK"] = f"http://127.0.0.1:{server.server_address[1]}/"
            with at_most(0.5 + SLACK_S):
                run(world, rules_answer(), within_s=0.5)
        finally:
            server.shutdown()
            thread.join()

    assert world.waiting() == 1


def test_a_receiver_that_asks_to_wait_is_not_asked_before(world):
    """`Retry-After` counts when it is longer than the usual wait."""
    with HttpServer(429, headers={"Retry-After": "120"}) as server:
        world.env["HOOK"] = server.url
        run(world, rules_answer())
        for _ in range(11):
            world.clock.now += 10
            run(world)
        assert len(server.received) == 1
        world.clock.now += 11
        run(world)

    assert (len(server.received), world.waiting()) == (2, 0)


def test_a_locked_database_does_not_keep_a_message_from_going_out(world):
    """While another process keeps the outbox locked, messages are sent without it, in time."""
    with HttpServer() as server:
        world.env["HOOK"] = server.url
        run(world, first_tier())
        world.outbox().put("other", [])
        lock = sqlite3.connect(world.path, isolation_level=None)
        lock.execute("BEGIN EXCLUSIVE")
        with at_most(1.0 + SLACK_S):
            run(world, rules_answer(), rules_answer(), within_s=1.0)
        lock.execute("ROLLBACK")
        lock.close()

    assert counts(server) == [2]
    assert world.waiting() == 0


@pytest.mark.parametrize("told", [True, False])
def test_past_a_locked_outbox_nobody_is_told_what_another_process_tells(world, told):
    """What was told within the interval, or is on its way, is only counted."""
    with HttpServer() as server:
        world.env["HOOK"] = server.url
        other = world.notifier(settings(webhook=WEBHOOK))
        other.note(rules_answer())
        if told:
            asyncio.run(other.deliver())
        else:
            assert other.save()
        lock = sqlite3.connect(world.path, isolation_level=None, check_same_thread=False)
        lock.execute("BEGIN IMMEDIATE")

        async def both() -> None:
            notifier = world.notifier(settings(webhook=WEBHOOK))
            notifier.note(rules_answer())
            asyncio.get_running_loop().call_later(1.3, lock.execute, "ROLLBACK")
            await notifier.deliver(2.0)

        asyncio.run(both())
        lock.close()

    assert len(server.received) == int(told)
    assert world.waiting() == (1 if told else 2)


def test_a_short_lock_is_waited_for(world):
    """A lock that is gone within the second leaves everything as usual."""
    with HttpServer() as server:
        world.env["HOOK"] = server.url
        world.outbox().put("other", [])
        lock = sqlite3.connect(world.path, isolation_level=None, check_same_thread=False)
        lock.execute("BEGIN EXCLUSIVE")

        async def both() -> None:
            notifier = world.notifier(settings(webhook=WEBHOOK))
            notifier.note(rules_answer())
            asyncio.get_running_loop().call_later(0.3, lock.execute, "ROLLBACK")
            await notifier.deliver(2.0)

        asyncio.run(both())
        lock.close()
        run(world, rules_answer())

    assert counts(server) == [1]
    assert world.waiting() == 1


def test_what_could_not_be_sent_past_a_locked_outbox_is_kept_for_the_next_time(world):
    """A program that goes on running tries again later."""
    port = free_port()
    world.env["HOOK"] = f"http://127.0.0.1:{port}/"
    world.outbox().put("other", [])
    lock = sqlite3.connect(world.path, isolation_level=None)
    lock.execute("BEGIN EXCLUSIVE")
    notifier = world.notifier(settings(webhook=WEBHOOK))
    notifier.note(rules_answer())
    asyncio.run(notifier.deliver(0.4))
    lock.execute("ROLLBACK")
    lock.close()
    with HttpServer(port=port) as server:
        asyncio.run(notifier.deliver(2.0))

    assert counts(server) == [1]


def test_a_directory_that_cannot_be_made_does_not_matter(world):
    """Without any file, messages go out all the same."""
    (world.folder / "closed").write_text("a file")
    world.path = world.folder / "closed" / "state.db"
    with HttpServer() as server:
        world.env["HOOK"] = server.url
        run(world, rules_answer())

    assert counts(server) == [1]


def test_a_place_that_is_no_file_does_not_matter(world):
    """A directory in the file's place stops neither the run nor the message."""
    world.path.mkdir()
    with HttpServer() as server:
        world.env["HOOK"] = server.url
        run(world, rules_answer())

    assert counts(server) == [1]


def test_a_damaged_database_does_not_matter(world):
    """It is moved aside, and the message goes out."""
    world.path.write_bytes(random.Random(1).randbytes(20_000))
    with HttpServer() as server:
        world.env["HOOK"] = server.url
        run(world, rules_answer())

    assert counts(server) == [1]


def test_deliver_never_raises(world, monkeypatch):
    """Whatever breaks inside, the run goes on."""
    from tieredllm.notify import notifier as module

    monkeypatch.setattr(module, "message_of", lambda _: 1 / 0)
    with HttpServer() as server:
        world.env["HOOK"] = server.url
        run(world, rules_answer())
        assert server.received == []
        monkeypatch.undo()
        world.clock.now += 60
        run(world)

    assert counts(server) == [1]


def test_breaking_off_leaves_the_message_to_the_next_run(world):
    """Ctrl-C while a channel hangs: the lease is given back."""

    async def interrupted(port: int) -> None:
        world.env["HOOK"] = f"http://127.0.0.1:{port}/"
        notifier = world.notifier(settings(webhook=WEBHOOK))
        notifier.note(rules_answer())
        task = asyncio.create_task(notifier.deliver(5.0))
        await asyncio.sleep(0.3)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with silent_server() as port:
        asyncio.run(interrupted(port))
    world.clock.now += 1
    with HttpServer() as server:
        world.env["HOOK"] = server.url
        run(world)

    assert counts(server) == [1]


def test_a_failure_before_and_a_success_after_in_one_run(world):
    """In a session, the alert goes out first and the next success tells its end."""
    with HttpServer() as server:
        world.env["HOOK"] = server.url
        notifier = world.notifier(settings(webhook=WEBHOOK))
        for each in (rules_answer(), first_tier(), first_tier()):
            notifier.note(each)
            asyncio.run(notifier.deliver())

    assert [got.json["event"] for got in server.received] == ["fallback", "recovery"]


def test_what_is_over_before_it_is_told_is_told_with_its_end(world):
    """A failure and a success noted before the delivery are an alert and a recovery."""
    with HttpServer() as server:
        world.env["HOOK"] = server.url
        run(world, rules_answer(), first_tier())

    assert [got.json["event"] for got in server.received] == ["fallback", "recovery"]


def test_profiles_do_not_send_each_others_messages(world):
    """What one profile could not deliver waits for a run of that profile."""
    world.env["HOOK"] = f"http://127.0.0.1:{free_port()}/"
    run(world, rules_answer())
    world.clock.now += 60
    with HttpServer() as server:
        world.env["HOOK"] = server.url
        asyncio.run(world.notifier(settings(webhook=WEBHOOK), profile="other").deliver())
        assert server.received == []
        run(world)

    assert counts(server) == [1]


def test_saving_leaves_delivery_to_a_later_run(world):
    """A run that has no time left puts what it noted into the outbox."""
    notifier = world.notifier(settings(webhook=WEBHOOK))
    notifier.note(rules_answer())
    assert notifier.save()
    with HttpServer() as server:
        world.env["HOOK"] = server.url
        run(world)

    assert counts(server) == [1]


def test_noting_is_cheap(world):
    """A note takes well under a millisecond."""
    notifier = world.notifier(settings(webhook=WEBHOOK, slack={}))
    given = rules_answer()
    began = time.perf_counter()
    for _ in range(200):
        notifier.note(given)
    each_ms = (time.perf_counter() - began) * 1000 / 200

    assert each_ms < 1.0


def test_nothing_happens_without_a_cause(world):
    """Without channels, or for a plain answer of the first tier, no module is even imported."""
    code = f"""
import asyncio, sys
from pathlib import Path
from tieredllm.clock import SystemClock
from tieredllm.keys import Keys
from tieredllm.notify.notifier import Notifier
from tieredllm.profile.schema import Notifications, Webhook
from tieredllm.store.database import Database
from tieredllm.store.outbox import Outbox
from tieredllm.types import Answer, Attempt, Usage
path = Path({str(world.folder / "none" / "state.db")!r})
good = Answer(request_id="a", text="x", tier="primary", fallback_level=0, fallback_used=False,
    provider="openai", model_used="m", latency_ms=1.0, first_token_ms=None, finish_reason="stop",
    truncated=False, usage=Usage(), original_error=None)
bad = Answer(request_id="b", text=None, tier=None, fallback_level=None, fallback_used=False,
    provider=None, model_used=None, latency_ms=1.0, first_token_ms=None, finish_reason=None,
    truncated=False, usage=Usage(), original_error="all: down")
both = (Notifications(), [good, bad]), (Notifications(webhook=Webhook()), [good])
for settings, answers in both:
    box = Outbox(Database(path), SystemClock())
    notifier = Notifier(settings, Keys({{}}, path), box, SystemClock(), "p")
    for answer in answers:
        notifier.note(answer)
    asyncio.run(notifier.deliver())
    assert notifier.save()
loaded = [name for name in ("sqlite3", "httpx", "http.client", "smtplib", "urllib.request", "yaml")
          if name in sys.modules]
print(loaded, path.parent.exists())
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )

    assert (done.stdout.strip(), done.stderr) == ("[] False", "")


def test_many_requests_in_one_program_are_one_alert_with_a_count(world):
    """Fifty failures noted before the delivery are one message that says fifty."""
    with HttpServer() as server:
        world.env["HOOK"] = server.url
        run(world, *[rules_answer() for _ in range(50)])

    assert counts(server) == [50]
    assert server.received[0].json["held_back"] == 49


WORKER = """
import asyncio, sys
from pathlib import Path
from tieredllm.clock import SystemClock
from tieredllm.kinds import ErrorInfo
from tieredllm.keys import Keys
from tieredllm.notify.notifier import Notifier
from tieredllm.profile.schema import Notifications, Webhook
from tieredllm.store.database import Database
from tieredllm.store.outbox import Outbox
from tieredllm.types import Answer, Usage

folder, url, rounds = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
failed = Answer(request_id="b", text=None, tier=None, fallback_level=None, fallback_used=False,
    provider=None, model_used=None, latency_ms=1.0, first_token_ms=None, finish_reason=None,
    truncated=False, usage=Usage(), original_error="all: down",
    error=ErrorInfo(kind="timeout", message="down"))
database = Database(folder / "state.db")
channels = Notifications(webhook=Webhook(url_env="HOOK"))
print("ready", flush=True)
sys.stdin.readline()
for _ in range(rounds):
    clock = SystemClock()
    keys = Keys({"HOOK": url}, folder / "keys.yaml")
    notifier = Notifier(channels, keys, Outbox(database, clock), clock, "default")
    notifier.note(failed)
    asyncio.run(notifier.deliver())
database.close()
"""


def test_many_processes_failing_at_once_send_one_alert_with_a_count(world):
    """Ten processes with five failures each: one message now, and one with the rest later."""
    with HttpServer() as server:
        world.env["HOOK"] = server.url
        command = [sys.executable, "-c", WORKER, str(world.folder), server.url, "5"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        workers = [subprocess.Popen(command, text=True, **pipes) for _ in range(10)]
        for worker in workers:
            assert worker.stdout.readline() == "ready\n"
        for worker in workers:
            worker.stdin.write("go\n")
            worker.stdin.flush()
        for worker in workers:
            assert worker.communicate(timeout=60) == ("", "")
        assert len(server.received) == 1
        world.clock.now = time.time() + 300
        run(world)

    assert len(server.received) == 2
    assert sum(counts(server)) == 50


def test_a_sender_killed_on_the_way_does_not_lose_the_message(world):
    """Another run delivers it when the lease is over, under the same id."""
    with silent_server() as port:
        command = [
            sys.executable,
            "-c",
            WORKER,
            str(world.folder),
            f"http://127.0.0.1:{port}/",
            "1",
        ]
        with subprocess.Popen(
            command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as worker:
            worker.stdout.readline()
            worker.stdin.write("go\n")
            worker.stdin.flush()
            until = time.monotonic() + 20
            while not any(e.lease_owner for e in world.outbox().entries()):
                assert time.monotonic() < until
                time.sleep(0.02)
            worker.kill()
    (claimed,) = world.outbox().entries()
    world.clock.now = time.time() + 20
    with HttpServer() as server:
        world.env["HOOK"] = server.url
        run(world)

    assert [got.json["id"] for got in server.received] == [claimed.id]


def test_a_program_ends_at_once_although_a_channel_hangs(world):
    """Nothing waits for a thread that is left behind."""
    with silent_server() as port:
        url = f"http://127.0.0.1:{port}/"
        code = WORKER.replace("notifier.deliver()", "notifier.deliver(0.3)") + (
            "import time; print(time.time(), flush=True)\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, str(world.folder), url, "1"],
            input="go\n", capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    over = time.time() - float(done.stdout.split()[-1])

    assert (done.returncode, done.stderr) == (0, "")
    assert over < 1.0


def test_a_program_ends_at_once_although_a_name_is_looked_up_for_ever(world):
    """A look-up cannot be broken off, so on the program's own loop its thread is left behind."""
    code = """
import socket, time
def looked_up(*_, **__):
    print("looked up", flush=True)
    time.sleep(20)
socket.getaddrinfo = looked_up
from tieredllm import aio
""" + WORKER.replace("asyncio.run(notifier.deliver())", "aio.run(notifier.deliver(1.0))")
    with at_most(8.0):
        done = subprocess.run(
            [sys.executable, "-c", code, str(world.folder), "http://example.org/", "1"],
            input="go\n", capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip

    assert (done.returncode, done.stderr) == (0, "")
    assert "looked up" in done.stdout


def test_the_bound_is_kept_to_a_fifth_of_a_second(world):
    """What hangs is broken off in time, and so is what fails again and again."""
    took = []
    with silent_server() as port, HttpServer(*[500] * 100) as failing:
        mail = {"host": "127.0.0.1", "port": port, "from": "a@b.c", "recipients": ["d@e.f"]}
        world.env |= {"HOOK": failing.url, "SLACK": f"http://127.0.0.1:{port}/"}
        channels = settings(webhook=WEBHOOK, slack={"webhook_env": "SLACK"}, email=mail)
        for _ in range(3):
            began = time.monotonic()
            run(world, rules_answer(), within_s=0.5, channels=channels)
            took.append(time.monotonic() - began)
            world.clock.now += 60

    assert world.waiting() == 9
    assert min(took) <= 0.5 + 0.2


def test_secondary_answers_are_counted_apart_from_rule_answers(world):
    """Different outcomes are different causes."""
    with HttpServer() as server:
        world.env["HOOK"] = server.url
        run(world, secondary_answer(), rules_answer(), secondary_answer())

    assert sorted((got.json["cause"], got.json["count"]) for got in server.received) == [
        ("rules answered", 1),
        ("secondary answered", 2),
    ]
