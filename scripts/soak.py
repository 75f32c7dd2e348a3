"""Overload and attack the program for as long as one likes, with real processes, and count.

`make soak` runs every part once (some minutes), `make soak MINUTES=600` the gateway for that long,
`make soak PARTS="memory keys"` some of them. The table at the end is that of docs/soak.md. Servers
listen on the loopback interface only; nothing is kept.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import os
import random
import resource
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import httpx

from tieredllm import FallbackManager

PROGRAM = [sys.executable, "-m", "tieredllm"]
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
PIECES = 5
DEADLINE_S = 8.0

Row = tuple[str, str, str, bool]
"""What was done, what came of it, what was asked for, and whether that holds."""


# The servers.


def chunk(data: str) -> bytes:
    """Frame an event's data as a chunk of a chunked body."""
    body = f"data: {data}\n\n".encode()
    return f"{len(body):x}\r\n".encode() + body + b"\r\n"


def delta(text: str, reason: str | None = None) -> bytes:
    """Make the event of a piece of text."""
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": reason}
    return chunk(json.dumps({"choices": [choice]}))


class Upstream:
    """A server that repeats the last word of a question, and fails as often as it is told.

    Args:
        faults: the share of requests that fail, in any of the ways there are.
        pause_s: the longest wait before each piece.
    """

    def __init__(self, faults: float, pause_s: float) -> None:
        self._faults = faults
        self._pause_s = pause_s
        self._rng = random.Random(1)  # noqa: S311 - no secret

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one connection's requests."""
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = int(head.partition(b"content-length: ")[2].split(b"\r")[0] or b"0")
                given = await reader.readexactly(length)
                if not given:  # the probe of `health`
                    break
                body = json.loads(given)
                word = str(body["messages"][-1]["content"]).split()[-1]
                fault = self._rng.random() < self._faults and self._rng.choice(sorted(FAULTS))
                if fault:
                    await FAULTS[fault](writer, word)
                    break
                writer.write(HEAD)
                for at in range(PIECES):
                    await asyncio.sleep(self._rng.random() * self._pause_s)
                    writer.write(delta(f"{word} ", "stop" if at == PIECES - 1 else None))
                    await writer.drain()
                writer.write(chunk("[DONE]") + b"0\r\n\r\n")
                await writer.drain()
        writer.close()


async def _hang(_: asyncio.StreamWriter, __: str) -> None:
    await asyncio.sleep(20)


async def _write(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(data)
    await writer.drain()


def _status(line: str, body: str) -> bytes:
    return f"HTTP/1.1 {line}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()


async def _endless(writer: asyncio.StreamWriter, _: str) -> None:
    writer.write(HEAD.replace(b"Transfer-Encoding: chunked\r\n", b""))
    while True:
        await _write(writer, b": nothing\n\n" * 5000)


Fault = Callable[[asyncio.StreamWriter, str], Awaitable[None]]

FAULTS: dict[str, Fault] = {
    "500": lambda w, _: _write(w, _status("500 X", "oops")),
    "529": lambda w, _: _write(w, _status("529 X", '{"error": {"type": "overloaded_error"}}')),
    "429": lambda w, _: _write(w, _status("429 X", '{"error": {"message": "slow down"}}')),
    "html": lambda w, _: _write(w, _status("200 OK", "<html><title>Sign in</title></html>")),
    "noise": lambda w, _: _write(w, b"\x00\xff\r\n\r\n"),
    "closed": lambda w, _: _write(w, b""),
    "cut": lambda w, word: _write(w, HEAD + delta(word)),
    "broken event": lambda w, word: _write(w, HEAD + delta(word) + chunk('{"choices": [')),
    "error event": lambda w, word: _write(
        w, HEAD + delta(word) + chunk('{"error": {"code": 500}}')
    ),
    "half a body": lambda w, _: _write(w, b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"),
    "silence": _hang,
    "endless": _endless,
}


def _run_upstream(
    faults: float, pause_s: float, ready: multiprocessing.connection.Connection
) -> None:
    with contextlib.suppress(OSError):
        os.nice(-15)  # another machine's processor would not be busy with our clients

    async def main() -> None:
        upstream = Upstream(faults, pause_s)
        server = await asyncio.start_server(upstream.serve, "127.0.0.1", 0, backlog=1024)
        ready.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main())


@contextlib.contextmanager
def upstream(faults: float = 0.0, pause_s: float = 0.005) -> Iterator[str]:
    """Run a server in a process of its own, and give its URL."""
    here, there = multiprocessing.Pipe()
    process = multiprocessing.Process(
        target=_run_upstream, args=(faults, pause_s, there), daemon=True
    )
    process.start()
    try:
        yield f"http://127.0.0.1:{here.recv()}/v1"
    finally:
        process.kill()
        process.join()


@contextlib.contextmanager
def busy_loops(count: int) -> Iterator[None]:
    """Keep processors busy."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


# The user.


def profile(home: Path, *urls: str, extra: str = "") -> Path:
    """Write a profile of servers, then rules."""
    path = home / "soak.yaml"
    tiers = "".join(
        f"  - {{name: t{at}, provider: openai, model: m, base_url: '{url}', api_key_env: null,"
        f" retries: 0, first_token_timeout_s: 3, idle_timeout_s: 3{extra}}}\n"
        for at, url in enumerate(urls)
    )
    start = f"name: soak\ndeadline_s: {DEADLINE_S}\ntiers:\n"
    path.write_text(f"{start}{tiers}  - {{name: rules, provider: rules}}\n", encoding="utf-8")
    return path


def environment(home: Path) -> dict[str, str]:
    """Return a user's environment, without keys."""
    env = {name: value for name, value in os.environ.items() if not name.endswith("_KEY")}
    return env | {"TIEREDLLM_HOME": str(home)}


class Run:
    """One process: its exit code, how long it took, and its largest memory."""

    def __init__(self, home: Path, *args: str, stdin: Path | str = os.devnull) -> None:
        started = time.monotonic()
        with Path(stdin).open("rb") as given:
            process = subprocess.Popen(
                [*PROGRAM, *args],
                env=environment(home),
                stdin=given,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = self.code = os.waitstatus_to_exitcode(status)
        self.took_s = time.monotonic() - started
        self.peak_mib = used.ru_maxrss / 1024


def sockets() -> int:
    """Count this process's open sockets."""
    count = 0
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            count += str(entry.readlink()).startswith("socket:")
    return count


# The parts.


async def settled(base: int, within_s: float = 2.0) -> int:
    """Return how many sockets are open beyond a number, when they are few or time is up."""
    end = time.monotonic() + within_s
    while sockets() > base and time.monotonic() < end:  # noqa: ASYNC110 - it is the system's to say
        await asyncio.sleep(0.05)
    return sockets() - base


def cancelled(home: Path) -> list[Row]:
    """Cancel 3,000 questions at any moment; then ask without a free descriptor."""

    async def main(url: str) -> tuple[int, int, str | None]:
        rng = random.Random(2)  # noqa: S311 - no secret
        base = sockets()
        manager = FallbackManager(str(profile(home, url)))
        places = asyncio.Semaphore(50)

        async def once(at: int) -> None:
            async with places:
                asking = asyncio.create_task(manager.process_with_fallbacks(f"word w{at}"))
                await asyncio.sleep(rng.random() * 0.05)
                asking.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await asking

        await asyncio.gather(*(once(at) for at in range(3000)))
        kept = await settled(base + 20)
        with no_descriptors():
            answer = await manager.process_with_fallbacks("hello w")
        await manager.aclose()
        return kept + 20, await settled(base), answer.tier

    with upstream() as url:
        open_, left, tier = asyncio.run(main(url))
    return [
        ("3,000 cancelled calls: sockets open", f"{open_}, {left} when closed", "≤ 20, 0",
         open_ <= 20 and left <= 0),
        ("64 descriptors, none free", f"answered by {tier}", "an answer", tier is not None),
    ]  # fmt: skip


@contextlib.contextmanager
def no_descriptors() -> Iterator[None]:
    """Allow 64 descriptors, and take all."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, before[1]))
    held = []
    with contextlib.suppress(OSError):
        while True:
            held.append(os.open(os.devnull, os.O_RDONLY))
    try:
        yield
    finally:
        for descriptor in held:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def hedged(home: Path) -> list[Row]:
    """Ask 5,000 questions with hedging, beside two busy loops; then without a free descriptor."""

    async def main(manager: FallbackManager) -> tuple[Counter[str], int, int]:
        base = sockets()
        places = asyncio.Semaphore(50)
        found: Counter[str] = Counter()

        async def once(at: int) -> None:
            async with places:
                answer = await manager.process_with_fallbacks(f"word w{at}")
                whole = answer.text is not None and answer.text.split() == [f"w{at}"] * PIECES
                found["whole" if whole else "rules" if answer.tier == "rules" else "wrong"] += 1

        await asyncio.gather(*(once(at) for at in range(5000)))
        kept = await settled(base + 20)
        await manager.aclose()
        return found, kept + 20, await settled(base)

    with upstream(pause_s=0.02) as first, upstream(pause_s=0.02) as second, busy_loops(2):
        path = profile(home, first, second, extra=", hedge_after_s: 0.01")
        manager = FallbackManager(str(path))
        found, open_, left = asyncio.run(main(manager))
        with no_descriptors():
            tiers = {manager.ask("hello w").tier for _ in range(10)}
    said = ", ".join(f"{count} {what}" for what, count in found.most_common())
    return [
        ("5,000 hedged beside two busy loops", said, "none wrong", found["wrong"] == 0),
        ("sockets open after them", f"{open_}, {left} when closed", "≤ 20, 0",
         open_ <= 20 and left <= 0),
        ("`ask()` with 64 descriptors, none free", f"answered by {' '.join(map(str, tiers))}",
         "answers", None not in tiers),
    ]  # fmt: skip


@contextlib.asynccontextmanager
async def pouring(data: bytes, before: bytes) -> AsyncIterator[str]:
    """Run a server that says something, and then the same again and again."""

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            writer.write(before)
            while True:
                await _write(writer, data)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"


def memory(home: Path) -> list[Row]:
    """Measure `ask` against servers, a stdin and a file that never end."""
    import gzip

    plain = b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\n"
    events, document = plain % b"text/event-stream", plain % b"application/json"
    long_event = b'data: {"choices": [{"delta": {"content": "%s"}}]}\n\n' % (b"word " * 5000)
    bomb = gzip.compress(bytes(1 << 30), 1)
    hostile: dict[str, tuple[bytes, bytes]] = {
        "a body that unpacks to 1 GB": (bomb, document + b"Content-Encoding: gzip\r\n\r\n"),
        "an endless answer": (long_event, events + b"\r\n"),
        "endless events": (b": x\n\n" * 10_000, events + b"\r\n"),
        "endless events of many parts": (b"data: [%s{}]\n\n" % (b"{}," * 20_000), events + b"\r\n"),
        "endless chunks of a byte": (
            b"1\r\n:\r\n" * 9000,
            events + b"Transfer-Encoding: chunked\r\n\r\n",
        ),
        "endless headers": (b"X-A: b\r\n" * 10_000, events),
        "an endless document": (b"{}," * 20_000, document + b'\r\n{"choices": ['),
        "an endless line": (b"x" * 65_536, events + b"\r\ndata: "),
    }
    with upstream() as url:
        ordinary = Run(home, "-p", str(profile(home, url)), "ask", "word w")

    async def against(data: bytes, before: bytes) -> Run:
        async with pouring(data, before) as url:
            path = str(profile(home, url))
            return await asyncio.to_thread(
                Run, home, "-p", path, "ask", "--deadline", "4", "--allow-rules", "hi"
            )

    rows = []
    for name, (data, before) in hostile.items():
        run = asyncio.run(against(data, before))
        rows.append(_weighed(name, run, ordinary, 4.3))
    large = home / "large.txt"
    with large.open("wb") as file:
        for _ in range(1024):
            file.write(b"words of text \n" * 69_906)
    for name, run in (
        ("stdin of 1 GB", Run(home, "ask", "hi", stdin=large)),
        ("stdin is /dev/zero", Run(home, "ask", "hi", stdin="/dev/zero")),
        ("-f of 1 GB", Run(home, "ask", "-f", str(large), "hi")),
        ("-f /dev/zero", Run(home, "ask", "-f", "/dev/zero", "hi")),
    ):
        rows.append(_weighed(name, run, ordinary, 4.3))
    large.unlink()
    return rows


def _weighed(name: str, run: Run, ordinary: Run, limit_s: float) -> Row:
    more, longer = run.peak_mib - ordinary.peak_mib, run.took_s - ordinary.took_s
    fine = more <= 150 and longer <= limit_s
    return name, f"{more:+.0f} MiB, {longer:+.1f} s", f"≤ +150 MiB, +{limit_s} s", fine


def processes(home: Path) -> list[Row]:
    """Start 150 processes at once, with a first-token limit of 3 s and a healthy server."""
    with upstream() as url:
        path = str(profile(home, url))
        running = [
            subprocess.Popen(
                [*PROGRAM, "-p", path, "ask", "--json", "--deadline", "120", f"word w{at}"],
                env=environment(home),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
            for at in range(150)
        ]
        answers = [json.loads(process.communicate()[0]) for process in running]
        health = subprocess.run(
            [*PROGRAM, "-p", path, "health", "--json"],
            env=environment(home), capture_output=True, check=False,
        )  # fmt: skip
    first = sum(answer["tier"] == "t0" for answer in answers)
    others = Counter(answer["original_error"] for answer in answers if answer["tier"] != "t0")
    for error, count in others.most_common(5):
        print(f"{count} times: {error}", file=sys.stderr)
    state = json.loads(health.stdout)["tiers"][0]["breaker"]["state"]
    return [("150 processes at once", f"{first} by the first tier, circuit {state}",
             "≥ 149, closed", first >= 149 and state == "closed")]  # fmt: skip


def keys(home: Path) -> list[Row]:
    """Set keys at the same time, fifty times two and fifty times eight."""
    rows = []
    for at_once in (2, 8):
        lost = 0
        for round_ in range(50):
            names = [f"K{round_}_{at_once}_{at}_API_KEY" for at in range(at_once)]
            running = [
                subprocess.Popen(
                    [*PROGRAM, "keys", "set", name], env=environment(home),
                    stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                )
                for name in names
            ]  # fmt: skip
            for process in running:
                process.communicate(b"sk-0123456789abcdef\n")
            kept = (home / "config" / "keys.yaml").read_text(encoding="utf-8")
            lost += sum(name not in kept for name in names)
        rows.append((f"`keys set`, {at_once} at once, 50 rounds", f"{lost} lost", "0", lost == 0))
    return rows


def prune(home: Path) -> list[Row]:
    """Ask 20 questions while a million requests are pruned, and go on from each second one.

    The first request of all is the oldest, which the log drops by itself.
    """
    asked = 20
    with upstream() as url:
        path = str(profile(home, url))
        Run(home, "-p", path, "ask", "word w")
        database = home / "state" / "state.db"
        with contextlib.closing(sqlite3.connect(database)) as connection, connection:
            columns = [row[1] for row in connection.execute("PRAGMA table_info(log)")]
            rest = ", ".join(name for name in columns if name not in ("number", "id", "asked_at"))
            connection.execute(
                f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000000)"
                f" INSERT INTO log (id, asked_at, {rest})"
                f" SELECT lower(hex(randomblob(16))), asked_at - 1e7 - i, {rest}"
                " FROM n, (SELECT * FROM log LIMIT 1)"
            )
        pruning = subprocess.Popen(
            [*PROGRAM, "log", "prune", "--older-than", "30", "--yes"], env=environment(home),
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        codes, beside = set(), 0
        for at in range(asked):
            beside += pruning.poll() is None
            codes.add(Run(home, "-p", path, "ask", *["-c"] * (at % 2), f"word w{at}").code)
        pruning.wait()
        with contextlib.closing(sqlite3.connect(database)) as connection:
            logged = dict(
                connection.execute(
                    "SELECT json_extract(record, '$.prompt.question'), conversation_id FROM log"
                )
            )
            left = connection.execute("SELECT count(*) FROM log").fetchone()[0]
    kept = sum(f"word w{at}" in logged for at in range(asked))
    right = sum(
        logged.get(f"word w{at}") == logged.get(f"word w{at + 1}") for at in range(0, asked, 2)
    )
    different = len({logged.get(f"word w{at}") for at in range(0, asked, 2)})
    found = f"{kept} logged ({beside} beside the pruning), {right} went on right, {left} left"
    wanted = f"{asked}, {asked // 2}, {asked} left"
    fine = (kept, right, different, left) == (asked, asked // 2, asked // 2, asked)
    fine &= codes == {0} and pruning.returncode == 0
    return [("20 asks while a million requests are pruned", found, wanted, fine)]


def million(home: Path) -> list[Row]:
    """Let rules answer a thousand lines, then a million, and compare the memory."""
    path = str(profile(home))
    peaks = []
    for count in (1000, 1_000_000):
        source, out = home / f"{count}.txt", home / f"{count}.jsonl"
        with source.open("w", encoding="utf-8") as file:
            file.writelines(f"hello {number}\n" for number in range(count))
        batch = Run(home, "-q", "-p", path, "batch", str(source), "-o", str(out))
        peaks.append(batch.peak_mib)
    with out.open("rb") as file:
        ids = [json.loads(line)["custom_id"] for line in file]
    in_order = ids == [str(number) for number in range(1, count + 1)]
    ratio = peaks[1] / peaks[0]
    what = f"a batch of {count:,} lines, {batch.took_s / 60:.1f} min"
    found = f"{len(ids):,} answers, {'' if in_order else 'not '}in order, exit code {batch.code}"
    return [
        (what, found, "all, in order, 0", in_order and batch.code == 0),
        (
            "its memory beside that of 1,000 lines",
            f"{peaks[1]:.0f} MiB, {ratio:.2f} times",
            "≤ 1.20 times",
            ratio <= 1.2,
        ),
    ]


def gateway(home: Path, minutes: float) -> list[Row]:
    """Ask the gateway at twenty at once while its servers fail in every way they can."""
    with upstream(faults=0.3) as first, upstream(faults=0.3) as second:
        path = str(profile(home, first, second))
        server = subprocess.Popen(
            [*PROGRAM, "-p", path, "serve", "--port", "0"], env=environment(home),
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            assert server.stderr is not None  # noqa: S101 - a pipe was asked for
            url = ""
            while not url:
                words = server.stderr.readline().split()
                url = next((word.rstrip(",.") for word in words if word.startswith("http://")), "")
            found, sizes, open_ = asyncio.run(_asked(url, server.pid, minutes * 60))
            server.send_signal(signal.SIGTERM)
            code = server.wait(40)
        finally:
            server.kill()
    said = ", ".join(f"{count} {what}" for what, count in found.most_common())
    grown = sizes[-1] - sizes[len(sizes) // 4]
    return [
        (f"the gateway, {minutes:g} min, 12 faults at 30 %", said, "none wrong, late or lost",
         not found["wrong"] + found["late"] + found["lost"]),
        ("its memory from the first quarter on", f"{sizes[-1]:.0f} MiB, {grown:+.0f}", "≤ +20 MiB",
         grown <= 20),
        ("its sockets a second after the last answer", str(open_), "≤ 50", open_ <= 50),
        ("SIGTERM", f"exit code {code}", "0 or 143", code in {0, 143}),
    ]  # fmt: skip


def _size_mib(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() / 1024 / 1024


async def _asked(url: str, pid: int, for_s: float) -> tuple[Counter[str], list[float], int]:
    end = time.monotonic() + for_s
    found: Counter[str] = Counter()
    sizes: list[float] = []
    base = url.split("/v1", maxsplit=1)[0]

    async def client(at: int, http: httpx.AsyncClient) -> None:
        rng = random.Random(at)  # noqa: S311 - no secret
        number = 0
        while time.monotonic() < end:
            number += 1
            found[await _answer(http, f"w{at}x{number}", stream=rng.random() < 0.5)] += 1

    async def weigh() -> None:
        while time.monotonic() < end:
            sizes.append(_size_mib(pid))
            await asyncio.sleep(min(5.0, for_s / 20))

    async with httpx.AsyncClient(base_url=base, timeout=DEADLINE_S + 5, trust_env=False) as http:
        await asyncio.gather(weigh(), *(client(at, http) for at in range(20)))
    await asyncio.sleep(1)
    links = [os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir()]  # noqa: ASYNC240, PTH115
    return found, sizes, sum(link.startswith("socket:") for link in links)


async def _answer(http: httpx.AsyncClient, word: str, *, stream: bool) -> str:  # noqa: PLR0911
    body = {"model": "auto", "stream": stream, "messages": [{"role": "user", "content": word}]}
    started = time.monotonic()
    text = ""
    try:
        response = await http.post("/v1/chat/completions", json=body)
        if response.status_code != 200:
            return f"HTTP {response.status_code}"
        if stream:
            for line in response.text.splitlines():
                if line.startswith("data: {"):
                    event = json.loads(line[6:])
                    if "error" in event:
                        return "told to have broken"
                    text += "".join(
                        choice["delta"].get("content") or "" for choice in event["choices"]
                    )
        else:
            text = response.json()["choices"][0]["message"]["content"]
    except httpx.RemoteProtocolError:
        return "told to have broken" if stream else "lost"
    except httpx.HTTPError:
        return "lost"
    if time.monotonic() - started > DEADLINE_S + 1:
        return "late"
    if text.split() == [word] * PIECES:
        return "whole"
    return "by rules" if "REF-" in text else "wrong"


PARTS: dict[str, Callable[[Path], list[Row]]] = {
    "cancelled": cancelled,
    "hedged": hedged,
    "memory": memory,
    "processes": processes,
    "keys": keys,
    "prune": prune,
    "million": million,
}


def main() -> int:
    """Run the parts that are asked for; return 1 when something does not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, "gateway", []])
    parser.add_argument("--minutes", type=float, default=2.0, help="how long the gateway is asked")
    given = parser.parse_args()
    print("| what | found | wanted | |\n|---|---|---|---|", flush=True)
    holds = True
    for name in given.parts or [*PARTS, "gateway"]:
        with tempfile.TemporaryDirectory(prefix="soak-") as folder:
            home = Path(folder)
            os.environ["TIEREDLLM_HOME"] = folder
            rows = gateway(home, given.minutes) if name == "gateway" else PARTS[name](home)
        for what, found, wanted, fine in rows:
            holds &= fine
            print(f"| {what} | {found} | {wanted} | {'✓' if fine else '**no**'} |", flush=True)
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
