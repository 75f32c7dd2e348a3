"""Measure gateways in front of a server that answers twenty words at once: ours and others.

The figures of a gateway are those of its process and of whatever that has started, as the operating
system tells them (`/proc`): where there is none, as on macOS, there is no row. Other gateways have
rows where these variables point to them; each is bound to the loopback interface:

- `TIEREDLLM_BENCH_LITELLM`: the program, as in `/somewhere/bin/litellm`
  (`python -m venv /somewhere && /somewhere/bin/pip install 'litellm[proxy]'`).
- `TIEREDLLM_BENCH_PORTKEY`: the package's folder, as in
  `/somewhere/node_modules/@portkey-ai/gateway`, for the `node` of `PATH`
  (`npm install @portkey-ai/gateway @hono/node-server@1.3.3`: with 1.13.8 and later 1.15.2 answers
  every request with a 500, `TypeError: immutable`).
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

__all__ = [
    "Gateway",
    "Launch",
    "answer_ms",
    "litellm",
    "load",
    "ours",
    "portkey",
    "running_gateway",
]

BODY = json.dumps(
    {"model": "m", "stream": True, "messages": [{"role": "user", "content": "hello"}]}
)
FLOORS = Path(__file__).parent / "floors"
START_S = 180.0


class Launch(msgspec.Struct, frozen=True, kw_only=True):
    """How a gateway is started, and asked."""

    command: Sequence[str]
    """`{port}` stands for the port."""
    env: Mapping[str, str] = {}
    headers: Mapping[str, str] = {}
    """What each request has to have besides."""


class Gateway(msgspec.Struct, frozen=True, kw_only=True):
    """A gateway that runs."""

    url: str
    """Its base URL for OpenAI's clients."""
    headers: Mapping[str, str]
    pid: int
    first_answer_s: float
    """From the start of the process to the end of its first answer."""

    def cpu_s(self) -> float:
        """Return the CPU time that its processes have taken (proc(5), `stat`, fields 14 and 15)."""
        ticks_per_s = os.sysconf("SC_CLK_TCK")
        return sum((int(stat[11]) + int(stat[12])) / ticks_per_s for stat in self._stats())

    def resident_mib(self) -> float:
        """Return what its processes have in memory now (proc(5), `stat`, field 24)."""
        return sum(int(stat[21]) * os.sysconf("SC_PAGE_SIZE") / 2**20 for stat in self._stats())

    def _stats(self) -> list[list[str]]:
        """Return what the system tells of the process and its descendants, from field 3 on."""
        found: dict[int, list[str]] = {}
        for entry in Path("/proc").glob("[0-9]*/stat"):
            try:
                text = entry.read_text("utf-8", "replace")
            except OSError:  # it has ended meanwhile
                continue
            found[int(entry.parent.name)] = text.rpartition(") ")[2].split()
        family = {self.pid}
        while more := {pid for pid, stat in found.items() if int(stat[1]) in family} - family:
            family |= more
        return [found[pid] for pid in family]


def ours(command: Sequence[str], env: Mapping[str, str]) -> Launch:
    """Return how ours is started.

    Args:
        command: the program and its profile.
        env: a user's environment.
    """
    return Launch(command=[*command, "serve", "--port", "{port}"], env=env)


def litellm(url: str, home: Path) -> Launch | None:
    """Return how LiteLLM's proxy is started; None where it is not installed.

    Args:
        url: the server behind it.
        home: where its configuration is written.
    """
    program = os.environ.get("TIEREDLLM_BENCH_LITELLM")
    if not program:
        return None
    config = home / "litellm.yaml"
    model = {"model": "openai/m", "api_base": url, "api_key": "none"}
    config.write_text(json.dumps({"model_list": [{"model_name": "m", "litellm_params": model}]}))
    return Launch(
        command=[program, "--config", str(config), "--host", "127.0.0.1", "--port", "{port}"],
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
            "LITELLM_LOCAL_MODEL_COST_MAP": "true",  # not fetched
        },
    )


def portkey(url: str, home: Path) -> Launch | None:
    """Return how Portkey's gateway is started; None where it is not installed."""
    package = os.environ.get("TIEREDLLM_BENCH_PORTKEY")
    if not package:
        return None
    script = Path(package) / "build" / "start-server.js"
    loopback = FLOORS / "loopback.cjs"  # by itself it listens on every interface
    return Launch(
        command=["node", "--require", str(loopback), str(script), "--port={port}", "--headless"],
        env={"PATH": os.environ["PATH"], "HOME": str(home)},
        headers={"x-portkey-provider": "openai", "x-portkey-custom-host": url},
    )


@contextmanager
def running_gateway(launch: Launch) -> Iterator[Gateway]:
    """Run a gateway, and end it."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [part.replace("{port}", str(port)) for part in launch.command]
    url = f"http://127.0.0.1:{port}/v1"
    started = time.perf_counter()
    with subprocess.Popen(
        command,
        env=dict(launch.env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            _wait_for(process, port)
            answer_ms(url, 1, launch.headers)
            took_s = time.perf_counter() - started
            yield Gateway(url=url, headers=launch.headers, pid=process.pid, first_answer_s=took_s)
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


def _wait_for(process: subprocess.Popen[bytes], port: int) -> None:
    end = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < end:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.005)
        else:
            return
    raise RuntimeError(f"{process.args!r} does not listen")


def answer_ms(url: str, count: int, headers: Mapping[str, str] = {}) -> float:
    """Return the median time of one streamed answer after the other on one connection."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=60)
    times = []
    for _ in range(count):
        started = time.perf_counter()
        connection.request(
            "POST",
            f"{parts.path}/chat/completions",
            BODY,
            {"content-type": "application/json", "authorization": "Bearer none", **headers},
        )
        assert b"[DONE]" in connection.getresponse().read()
        times.append((time.perf_counter() - started) * 1000)
    connection.close()
    return statistics.median(times)


def load(gateway: Gateway, count: int, at_once: int) -> float:
    """Return the seconds that many answers take, so many at once."""
    headers = json.dumps(dict(gateway.headers))
    asked = [gateway.url, str(count), str(at_once), headers]
    started = time.perf_counter()
    subprocess.run([sys.executable, str(FLOORS / "httpx_load.py"), *asked], check=True)
    return time.perf_counter() - started
