"""A randomised soak: whatever the servers do, every request is answered, in time and whole."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from chat_support import talking
from cli_support import environment, served, tieredllm, two_clouds
from wire_support import (
    KEY,
    KEY_ENVS,
    STREAM_HEAD,
    answers,
    chunk,
    ends,
    event,
    opens,
    raw_server,
    response,
    says,
)

from tieredllm.client import FallbackManager
from tieredllm.files import Places
from tieredllm.profile.schema import Backoff, HealthSettings, Profile, Tier
from tieredllm.render.plain import PlainAnswer
from tieredllm.types import Answered, Options

DEADLINE_S = 1.5
REQUESTS = 400
AT_ONCE = 20


class Moody:
    """A server whose every answer follows a die; it remembers what it said completely."""

    def __init__(self, vendor: str, rng: random.Random) -> None:
        self.vendor = vendor
        self.complete: set[str] = set()
        self.faults: set[str] = set()
        self._rng = rng
        self._number = 0

    async def play(self, connection) -> None:
        """Answer one request, well or badly."""
        self._number += 1
        name = self._rng.choice(["fine"] * 8 + sorted(FAULTS))
        self.faults.add(name)
        if name == "fine":
            text = f"{self.vendor} says {self._number}"
            self.complete.add(text)
            await connection.send(answers(self.vendor, text[:5], text[5:]))
        else:
            await FAULTS[name](self.vendor, connection)


def begun(vendor: str) -> bytes:
    """Make the beginning of an answer that will not be whole."""
    return STREAM_HEAD + b"".join(chunk(e) for e in [*opens(vendor), says(vendor, "half of an ")])


def sends(make):
    """Make a fault that sends some bytes and closes."""

    async def play(vendor, connection):
        await connection.send(make(vendor))

    return play


async def reset_at_once(_vendor, connection):
    await connection.reset()


async def reset_midway(vendor, connection):
    await connection.send(begun(vendor))
    await connection.reset()


async def silence(_vendor, connection):
    await connection.gone()


async def stall(vendor, connection):
    await connection.send(begun(vendor))
    await connection.gone()


async def drip(_vendor, connection):
    await connection.send(STREAM_HEAD)
    for _ in range(40):
        await connection.send(chunk(b": keep-alive\n\n"))
        await asyncio.sleep(0.05)


def error(status, headers=None, **fields):
    """Make an error answer whose body also quotes the key, as careless servers do."""
    body = {"error": {"message": f"no, {KEY}, no", "type": "x", **fields}}
    return sends(lambda _vendor: response(status, body, headers))


FAULTS = {
    "reset": reset_at_once,
    "reset midway": reset_midway,
    "silence": silence,
    "stall": stall,
    "drip": drip,
    "401": error(401),
    "403": error(403),
    "404": error(404),
    "400": error(400, param="temperature", code="unsupported_parameter"),
    "429 short": error(429, {"Retry-After": "0"}),
    "429 long": error(429, {"Retry-After": "120"}),
    "quota": error(429, code="insufficient_quota"),
    "500": error(500),
    "529": error(529),
    "redirect": sends(lambda _v: response(307, b"", {"Location": "http://127.0.0.1:9/"})),
    "html": sends(lambda _v: response(200, "<html>Sign in</html>", {"Content-Type": "text/html"})),
    "half json": sends(
        lambda _v: response(200, '{"choices": [{"mess', {"Content-Type": "application/json"})
    ),
    "nothing": sends(lambda _v: STREAM_HEAD + b"0\r\n\r\n"),
    "no content": sends(answers),
    "no end": sends(lambda v: begun(v) + b"0\r\n\r\n"),
    "cut event": sends(lambda v: begun(v) + chunk(b'data: {"cho')),
    "error event": sends(
        lambda v: begun(v) + chunk(event({"error": {"message": "overloaded"}})) + b"0\r\n\r\n"
    ),
    "refusal after output": sends(
        lambda v: begun(v) + b"".join(chunk(e) for e in ends(v, "filter")) + b"0\r\n\r\n"
    ),
    "short body": sends(
        lambda _v: (
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{}"
        )
    ),
    "wrong gzip": sends(
        lambda _v: response(
            200,
            b"nothing of gzip",
            {"Content-Encoding": "gzip", "Content-Type": "text/event-stream"},
        )
    ),
    "garbage": sends(lambda _v: b"\x00\x01\x02 this is no HTTP\r\n\r\n"),
}


def tier(name: str, vendor: str, url: str) -> Tier:
    paths = {"openai": "/v1", "anthropic": "", "gemini": "/v1beta"}
    return Tier(
        name=name,
        provider=vendor,
        model="m-1",
        base_url=url + paths[vendor],
        first_token_timeout_s=0.3,
        idle_timeout_s=0.3,
        timeout_s=0.3,
        retries=1,
        backoff=Backoff(base_s=0.01, jitter_s=0.01),
        hedge_after_s=0.15 if name == "primary" else None,
    )


def without_processor_s() -> float:
    """Return how long this thread was ready to run but did not; 0 where nobody counts it."""
    try:
        return int(Path("/proc/thread-self/schedstat").read_text().split()[1]) / 1e9
    except OSError:
        return 0.0


@pytest.mark.parametrize("seed", [1, 2])
def test_soak(tmp_path, seed):
    """Hundreds of requests against random faults on all tiers are answered in time and whole."""
    rng = random.Random(seed)
    vendors = ["openai", "anthropic", "gemini"]
    servers = [Moody(vendor, random.Random(rng.random())) for vendor in vendors]
    env = dict.fromkeys(KEY_ENVS.values(), KEY)
    outputs: list[str] = []

    async def ask(manager: FallbackManager) -> None:
        loop = asyncio.get_running_loop()
        out, err = io.StringIO(), io.StringIO()
        view = PlainAnswer(stdout=out, stderr=err, allow_rules=True, verbose=True)
        started = loop.time() - without_processor_s()
        async for happened in manager.stream("hello?", options=Options(deadline_s=DEADLINE_S)):
            view.handle(happened)
            if isinstance(happened, Answered):
                answer = happened.answer
        took = loop.time() - without_processor_s() - started
        outputs.append(out.getvalue() + err.getvalue())

        assert took < DEADLINE_S + 0.3, (took, answer)
        assert answer.text is not None, answer
        assert out.getvalue() == answer.text.rstrip("\n") + "\n"
        if answer.provider != "rules":
            server = servers[vendors.index(answer.provider)]
            assert answer.text in server.complete, answer
        else:
            assert answer.ref_code in answer.text

    async def soak() -> None:
        before = asyncio.all_tasks()
        async with (
            raw_server(servers[0].play) as one,
            raw_server(servers[1].play) as two,
            raw_server(servers[2].play) as three,
        ):
            profile = Profile(
                name="soak",
                tiers=(
                    tier("primary", "openai", one.url),
                    tier("secondary", "anthropic", two.url),
                    tier("minimal", "gemini", three.url),
                    Tier(name="rules", provider="rules"),
                ),
                on_content_filter="fallback",
                # Half the window may fail and cooldowns are short, so that every state is visited.
                health=HealthSettings(cooldown_s=0.2, max_cooldown_s=0.5),
            )
            places = Places.from_environment({"TIEREDLLM_HOME": str(tmp_path)})
            async with FallbackManager(profile, env=env, places=places) as manager:
                for _ in range(REQUESTS // AT_ONCE):
                    async with asyncio.TaskGroup() as group:
                        for _ in range(AT_ONCE):
                            group.create_task(ask(manager))
                    manager.forget()  # benches of minutes would leave nothing to be played
        await asyncio.sleep(0.5)
        leaked = {
            task for task in asyncio.all_tasks() - before if "raw_server" not in str(task)
        } - {asyncio.current_task()}
        assert leaked == set()

    asyncio.run(soak())

    assert len(outputs) == REQUESTS
    assert KEY not in "".join(outputs)
    for file in tmp_path.rglob("*"):
        if file.is_file():
            assert KEY.encode() not in file.read_bytes(), file
    assert set().union(*(server.faults for server in servers)) >= set(FAULTS)


def asking(home: Path, path: str, question: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        tieredllm("-p", path, "ask", "--json", question),
        env=environment(home),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )


def ask_while_stopped(home: Path, whole: bytes, cut: int, *, for_s: float) -> dict[str, Any]:
    """Ask, and stop the process while the server sends the rest of its response."""
    asked, goes_on = threading.Event(), threading.Event()

    async def play(connection):
        await connection.send(whole[:cut])
        asked.set()
        await asyncio.to_thread(goes_on.wait, 20)
        await connection.send(whole[cut:])

    with served(play) as server:
        limits = ", first_token_timeout_s: 0.5, idle_timeout_s: 0.5, timeout_s: 0.5"
        path = two_clouds(home, server.url + "/v1", extra=limits)
        process = asking(home, path, "why?")
        assert asked.wait(30)
        time.sleep(0.2)  # it has begun to wait
        process.send_signal(signal.SIGSTOP)
        goes_on.set()
        time.sleep(for_s)
        process.send_signal(signal.SIGCONT)
        return json.loads(process.communicate(timeout=30)[0])


@pytest.mark.skipif(os.name == "nt", reason="Windows cannot stop a process")
@pytest.mark.parametrize("part", [0, 1], ids=["before the first byte", "in the middle"])
def test_a_process_that_does_not_run_blames_nobody(tmp_path, part):
    """What arrived while a process was stopped is read, though its limits are over by the clock."""
    whole = answers("openai", "in ", "time")
    answer = ask_while_stopped(tmp_path, whole, part and whole.index(b"time") - 100, for_s=1.5)

    assert (answer["tier"], answer["text"]) == ("primary", "in time")


@pytest.mark.skipif(os.name == "nt", reason="Windows cannot stop a process")
def test_a_process_that_does_not_run_reads_why_it_was_refused(tmp_path):
    """The rest of an error's body is not given up either: it says that the quota is used up."""
    whole = response(429, {"error": {"message": "no", "code": "insufficient_quota"}})
    answer = ask_while_stopped(tmp_path, whole, whole.index(b"{"), for_s=3)

    assert answer["attempts"][0]["error"]["kind"] == "quota_exhausted"


@pytest.mark.skipif(os.name == "nt", reason="Windows starts processes too slowly")
def test_processes_that_share_too_few_processors_blame_nobody(tmp_path):
    """Thirty at once beside busy loops, all with 1 s for the first token, open no circuit."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]
    try:
        with talking() as server:
            limits = ", first_token_timeout_s: 1, timeout_s: 1, connect_timeout_s: 1"
            path = two_clouds(tmp_path, server.url + "/v1", extra=limits)
            running = [asking(tmp_path, path, f"number {at}") for at in range(30)]
            found = [json.loads(process.communicate(timeout=100)[0]) for process in running]
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()

    assert {(answer["tier"], answer["original_error"]) for answer in found} == {("primary", None)}


def pouring(before: bytes, data: bytes):
    """Make a server that says something once, and then something else for ever."""

    async def play(connection):
        with contextlib.suppress(ConnectionError):
            await connection.send(before)
            while True:
                await connection.send(data)

    return play


def body(text: bytes) -> bytes:
    """Make a whole JSON document."""
    return response(200, text, {"Content-Type": "application/json"})


SAYS = b'data: {"choices": [{"delta": {"content": "%s"}%s}]}\n\n'
EVENTS = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"

HOSTILE = {
    "comments": pouring(EVENTS + b"\r\n", b": x\n\n" * 10_000),
    "empty events": pouring(EVENTS + b"\r\n", b"data: {}\n\n" * 6000),
    "blank words": pouring(EVENTS + b"\r\n", SAYS % (b" ", b"") * 1000),
    "words after the end": pouring(
        EVENTS + b"\r\n", SAYS % (b"x", b', "finish_reason": "stop"') * 1000
    ),
    "events of many parts": pouring(EVENTS + b"\r\n", b"data: [%s{}]\n\n" % (b"{}," * 20_000)),
    "chunks of a byte": pouring(
        EVENTS + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n:\r\n" * 9000
    ),
    "early hints": pouring(b"", b"HTTP/1.1 103 Early Hints\r\nA: b\r\n\r\n" * 2000),
    "headers": pouring(EVENTS, b"X-A: b\r\n" * 10_000),
    "a document of many parts": body(b"[%s{}]" % (b"{}," * 190_000)),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_nothing_that_never_ends_keeps_the_deadline_from_being_heard(tmp_path, name):
    """However much comes at once, whatever else wants to run is let run every few milliseconds.

    The measure is this thread's own work, so that a busy machine is not taken for a busy program.
    """
    longest = 0.0

    async def watch():
        nonlocal longest
        while True:
            began = time.thread_time()
            await asyncio.sleep(0.01)
            longest = max(longest, time.thread_time() - began)

    async def ask(url):
        path = two_clouds(tmp_path, url + "/v1", extra=", first_token_timeout_s: 30")
        places = Places.from_environment({"TIEREDLLM_HOME": str(tmp_path)})
        async with FallbackManager(path, places=places) as manager:
            await manager.process_with_fallbacks("hi", options=Options(deadline_s=0.05))
            manager.forget()  # by now everything is imported
            watching = asyncio.create_task(watch())
            answer = await manager.process_with_fallbacks("hi", options=Options(deadline_s=0.7))
            watching.cancel()
            return answer

    with served(HOSTILE[name]) as server:
        answer = asyncio.run(ask(server.url))

    assert answer.tier == "rules"
    assert answer.latency_ms < 1300
    assert longest < 0.15


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
def test_ctrl_c_is_heard_while_events_pour_in(tmp_path):
    """An endless stream of nothing does not keep the program from ending."""
    asked = threading.Event()

    async def play(connection):
        asked.set()
        await HOSTILE["comments"](connection)

    with served(play) as server:
        process = asking(tmp_path, two_clouds(tmp_path, server.url + "/v1"), "hi")
        assert asked.wait(30)
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        began = time.monotonic()
        process.communicate(timeout=20)

    assert process.returncode == 130
    assert time.monotonic() - began < 3
