"""Real processes share what they learn, and no state of the database stops an answer."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import time

import pytest
from cli_support import REFUSED, answering, cli, environment, profile, served, tieredllm
from wire_support import response

DOWN = response(503, {"error": {"message": "down"}})


@pytest.fixture
def home(tmp_path):
    """Give the user's directories."""
    return tmp_path / "user"


def guarded(home, first: str, second: str, **health: float) -> str:
    """Write a profile of two tiers whose breaker has settings of its own."""
    settings = ", ".join(f"{name}: {value}" for name, value in health.items())
    tiers = "".join(
        f"  - {{name: {name}, provider: openai, model: {name}, base_url: '{url}/v1', "
        "api_key_env: null, retries: 0}\n"
        for name, url in (("primary", first), ("secondary", second))
    )
    rules = "  - {name: rules, provider: rules}\n"
    return profile(home, f"name: test\nhealth: {{{settings}}}\ntiers:\n{tiers}{rules}")


def test_an_outage_is_probed_once_per_cooldown(home):
    """Twenty invocations during an outage ask the broken server a few times, not twenty."""
    cooldown_s = 2.0
    with served(DOWN) as down, served(answering("ok")) as ok:
        path = guarded(
            home, down.url, ok.url, failure_threshold=3, cooldown_s=cooldown_s, max_cooldown_s=4
        )
        started = time.monotonic()
        for _ in range(20):
            assert cli(home, "-p", path, "ask", "-q", "hello").stdout == b"ok\n"
        lasted = time.monotonic() - started

    assert 3 <= down.connections <= 3 + lasted / cooldown_s


def test_many_at_once_make_one_probe(home):
    """Of ten processes that start together after the cooldown, one probes."""
    with served(DOWN) as down, served(answering("ok")) as ok:
        path = guarded(
            home, down.url, ok.url, failure_threshold=1, cooldown_s=0.5, max_cooldown_s=60
        )
        cli(home, "-p", path, "ask", "hello")
        assert down.connections == 1
        time.sleep(0.6)
        processes = [
            subprocess.Popen(
                tieredllm("-p", path, "ask", "-q", "hello"),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                env=environment(home),
            )
            for _ in range(10)
        ]
        outputs = [process.communicate(timeout=60)[0] for process in processes]

    assert outputs == [b"ok\n"] * 10
    # The cooldown doubles to one second; whoever starts after it may probe again.
    assert 2 <= down.connections <= 4


def test_recovery_is_noticed(home):
    """A server that is back is used again after a cooldown, and its circuit closes."""
    state = {"body": DOWN}

    async def play(connection):
        await connection.send(state["body"])

    with served(play) as first, served(answering("second")) as second:
        path = guarded(
            home, first.url, second.url, failure_threshold=1, cooldown_s=0.3, max_cooldown_s=1
        )
        assert cli(home, "-p", path, "ask", "-q", "hi").stdout == b"second\n"
        state["body"] = answering("first")
        time.sleep(0.5)
        assert cli(home, "-p", path, "ask", "hi").stdout == b"first\n"
        answer = json.loads(cli(home, "-p", path, "ask", "--json", "hi").stdout)

    assert answer["tier"] == "primary"


def test_a_rejected_parameter_is_remembered_by_the_next_process(home):
    """A parameter that a server rejects is left out from then on."""
    rejects = response(
        400,
        {
            "error": {
                "message": "Unsupported parameter: 'top_p'",
                "param": "top_p",
                "code": "unsupported_parameter",
            }
        },
    )
    requests = []

    async def play(connection):
        body = server.requests[-1].json
        requests.append(body)
        await connection.send(rejects if "top_p" in body else answering("ok"))

    with served(play) as server:
        path = guarded(home, server.url, server.url, failure_threshold=3)
        for _ in range(2):
            assert cli(home, "-p", path, "ask", "-q", "hi").stdout == b"ok\n"

    assert ["top_p" in body for body in requests] == [True, False, False]


def break_corrupt(database) -> None:
    database.write_bytes(b"this is no database" * 1000)


def break_directory(database) -> None:
    database.unlink()
    database.mkdir()


def break_empty(database) -> None:
    database.write_bytes(b"")


def break_newer(database) -> None:
    with sqlite3.connect(database) as connection:
        connection.execute("PRAGMA user_version = 999")


@pytest.mark.parametrize("damage", [break_corrupt, break_directory, break_empty, break_newer])
def test_a_broken_database_stops_no_answer(home, damage):
    """Whatever is wrong with the database, the answer comes, and nothing is said of it."""
    with served(answering("ok")) as server:
        path = guarded(home, server.url, server.url)
        cli(home, "-p", path, "ask", "hi")
        for file in (home / "state").glob("state.db-*"):
            file.unlink()
        damage(home / "state" / "state.db")
        done = cli(home, "-p", path, "ask", "hi")

    assert (done.returncode, done.stdout, done.stderr) == (0, b"ok\n", b"")


def test_a_locked_database_stops_no_answer(home):
    """Another process that holds the database costs a moment, not the answer."""
    with served(answering("ok")) as server:
        path = guarded(home, server.url, server.url)
        cli(home, "-p", path, "ask", "hi")
        lock = sqlite3.connect(home / "state" / "state.db", isolation_level=None)
        lock.execute("BEGIN EXCLUSIVE")
        started = time.monotonic()
        done = cli(home, "-p", path, "ask", "hi")
        took = time.monotonic() - started
        lock.close()

    assert (done.returncode, done.stdout) == (0, b"ok\n")
    assert took < 5


def test_a_state_directory_that_cannot_be_made(home):
    """A file where the state directory should be is no obstacle."""
    home.mkdir()
    (home / "state").write_text("in the way")
    with served(answering("ok")) as server:
        done = cli(home, "-p", guarded(home, server.url, server.url), "ask", "hi")

    assert (done.returncode, done.stdout) == (0, b"ok\n")


def test_health_command(home):
    """`health --json` has the documented fields, `--strict` judges, `--reset` forgets."""
    with served(response(200, {"data": [{"id": "primary"}]})) as up:
        path = guarded(home, up.url, "http://127.0.0.1:9")
        done = cli(home, "-p", path, "health", "--json")
        strict = cli(home, "-p", path, "health", "--strict")
        plain = cli(home, "-p", path, "health")
    report = json.loads(done.stdout)
    primary, secondary, rules = report["tiers"]

    assert done.returncode == 0
    assert strict.returncode == 1
    assert report["status"] == "degraded"
    assert (primary["status"], secondary["status"], rules["status"]) == (
        "healthy",
        "down",
        "healthy",
    )
    assert set(primary) == {
        *("name", "level", "provider", "model", "status", "reason", "fix"),
        *("breaker", "window", "probe", "rejected"),
    }
    assert primary["breaker"] == {"state": "closed", "retry_at": None}
    assert primary["probe"]["ok"] is True
    assert set(primary["window"]) == {
        *("requests", "success_rate", "avg_latency_s", "p95_latency_s", "error_counts"),
    }
    assert plain.stdout.decode().splitlines()[0].split("\t")[:2] == ["primary", "healthy"]


def test_health_sees_an_open_circuit(home):
    """After failures in a row the circuit is open, with its time; `--reset` closes it."""
    simulate = ("ask", "--simulate", "primary=service_unavailable", "hi")
    with served(response(200, {"data": [{"id": "primary"}]})) as up:
        path = guarded(home, up.url, up.url, failure_threshold=2, cooldown_s=60, max_cooldown_s=60)
        for _ in range(2):
            cli(home, "-p", path, *simulate)
        opened = json.loads(cli(home, "-p", path, "health", "--json").stdout)["tiers"][0]
        closed = json.loads(cli(home, "-p", path, "health", "--reset", "--json").stdout)["tiers"][0]

    assert opened["status"] == "open"
    assert opened["breaker"]["retry_at"] is not None
    assert opened["window"]["error_counts"] == {"service_unavailable": 2}
    assert closed["status"] == "healthy"


def test_health_of_a_server_without_a_list_is_what_requests_say(home):
    """Unknown at first, healthy once it has answered; never down for a missing list."""

    async def play(connection):
        missing = connection.received.method == "GET"
        await connection.send(response(404, b"not here") if missing else answering("ok"))

    with served(play) as server:
        path = guarded(home, server.url, server.url)
        before = json.loads(cli(home, "-p", path, "health", "--json").stdout)["tiers"][0]
        cli(home, "-p", path, "ask", "hi")
        after = json.loads(cli(home, "-p", path, "health", "--json").stdout)["tiers"][0]

    assert before["status"] == "unknown"
    assert before["reason"].startswith("it gives no list of models: not_found (404)")
    assert "--deep" in before["fix"]
    assert (after["status"], after["reason"]) == ("healthy", None)


def test_health_shows_each_row_as_it_comes(home):
    """A pipe has the first tier's line while the second is still waited for."""

    async def silent(connection):
        await connection.gone()

    with served(response(200, {"data": [{"id": "primary"}]})) as up, served(silent) as slow:
        path = guarded(home, up.url, slow.url)
        command = tieredllm("-p", path, "health")
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment(home)) as process:
            first = process.stdout.readline()
            came = time.monotonic()
            rest = process.stdout.read()
            took = time.monotonic() - came

    assert first.startswith(b"primary\thealthy")
    assert b"secondary\tdown" in rest
    assert took > 2


def test_health_tells_of_a_first_choice_that_an_alternate_stands_in_for(home):
    """The tier is as good as its best backend, and says what is wrong with the one before it."""
    listing = response(200, {"object": "list", "data": [{"id": "live"}]})
    with served(listing) as server:
        path = profile(
            home,
            "name: test\ntiers:\n  - name: a\n    provider: openai\n    model: dead\n"
            f"    base_url: '{REFUSED}'\n    api_key_env: null\n    alternates:\n"
            f"      - {{provider: openai, model: live, base_url: '{server.url}/v1',"
            " api_key_env: null}\n",
        )
        told = cli(home, "-p", path, "health")
        [tier] = json.loads(cli(home, "-p", path, "health", "--json").stdout)["tiers"]

    assert told.returncode == 0
    assert (tier["status"], tier["model"]) == ("healthy", "live")
    assert tier["reason"].startswith("dead is down: connection: nothing listens")
    assert told.stderr.decode() == "a: check the network and the tier's base_url\n"


def test_health_of_a_fresh_install_says_how_to_begin(home):
    """With nothing set up it says that any one key will do, instead of asking for each."""
    done = cli(home, "health")

    assert done.returncode == 1
    first, *rest = done.stderr.decode().splitlines()
    assert first == "any one of these is enough; `tieredllm profile init` asks which:"
    assert [line.split("`")[1] for line in rest] == [
        "tieredllm keys set OPENAI_API_KEY",
        "tieredllm keys set ANTHROPIC_API_KEY",
        "tieredllm keys set GEMINI_API_KEY",
        "tieredllm models pull gemma-2-2b-it",
        "tieredllm models pull smollm2-135m",
    ]


def test_health_with_nothing_that_can_answer(home):
    """`health` is exit 1 when no language model can answer, and says what to do."""
    path = profile(
        home,
        "name: t\ntiers:\n  - {name: a, provider: openai, model: m}\n"
        "  - {name: rules, provider: rules}\n",
    )
    done = cli(home, "-p", path, "health")

    assert done.returncode == 1
    assert b"not_configured" in done.stdout
    assert b"OPENAI_API_KEY" in done.stderr


def test_health_names_every_way_to_configure_a_tier(home):
    """Tiers that lack the same keys are named together, with each key that would do."""
    with served(answering("x")) as server:
        path = profile(
            home,
            "extends: default\nremove_tiers: [minimal]\ntiers:\n  - {name: primary}\n"
            f"  - {{name: own, provider: openai, model: m, base_url: '{server.url}/v1',"
            " api_key_env: null}\n",
        )
        done = cli(home, "-p", path, "health")
    lines = done.stderr.decode().splitlines()

    assert lines[0] == "primary, secondary: any one of these is enough:"
    assert [line.split("`")[1] for line in lines[1:4]] == [
        f"tieredllm keys set {vendor}_API_KEY" for vendor in ("OPENAI", "ANTHROPIC", "GEMINI")
    ]


def test_drill(home):
    """`drill` plays every fault on every tier, and finds a profile that can leave users alone."""
    path = guarded(home, "http://127.0.0.1:9", "http://127.0.0.1:9")
    started = time.monotonic()
    done = cli(home, "-p", path, "drill", "--json")
    took = time.monotonic() - started
    cases = json.loads(done.stdout)

    assert done.returncode == 0
    assert len(cases) == 2 * 18 + 1
    assert took < 30
    by_fault = {(case["tier"], case["fault"]): case for case in cases}
    assert by_fault["primary", "timeout"]["answered_by"] == "secondary"
    assert by_fault["primary", "timeout"]["after_s"] == pytest.approx(10, abs=0.1)
    assert by_fault["primary", "content_filter"]["refused"] is True
    assert by_fault["every model", "connection"]["answered_by"] == "rules"

    alone = profile(
        home,
        "name: alone\ntiers:\n  - {name: a, provider: openai, model: m, api_key_env: null}\n",
        "alone",
    )
    assert cli(home, "-p", alone, "drill").returncode == 1
