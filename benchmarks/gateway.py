"""Measure `tieredllm serve` in front of a server that answers twenty words at once.

The figures of the process are those of the operating system (`/proc`): where there is none, as on
macOS, there is no row.
"""

from __future__ import annotations

import http.client
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from benchmarks.measure import cpu_seconds

__all__ = ["Gateway", "answer_ms", "load", "running_gateway"]

BODY = json.dumps(
    {"model": "m", "stream": True, "messages": [{"role": "user", "content": "hello"}]}
)
LOAD = Path(__file__).parent / "floors" / "httpx_load.py"


class Gateway(msgspec.Struct, frozen=True, kw_only=True):
    """A gateway's process."""

    url: str
    """Its base URL for OpenAI's clients."""
    pid: int
    first_answer_s: float
    """From the start of the process to the end of its first answer."""

    def cpu_s(self) -> float:
        """Return the CPU time that the process has taken."""
        return cpu_seconds(self.pid)

    def resident_mib(self) -> float:
        """Return what the process has in memory now (proc(5), `VmRSS`)."""
        status = Path(f"/proc/{self.pid}/status").read_text("ascii")
        return int(status.partition("VmRSS:")[2].split()[0]) / 1024


@contextmanager
def running_gateway(command: Sequence[str], env: Mapping[str, str]) -> Iterator[Gateway]:
    """Run a gateway, and end it."""
    started = time.perf_counter()
    with subprocess.Popen(
        [*command, "serve", "--port", "0"], env=dict(env), stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        url = line.rpartition("OpenAI clients: ")[2].strip(" )\n")
        answer_ms(url, 1)
        took_s = time.perf_counter() - started
        try:
            yield Gateway(url=url, pid=process.pid, first_answer_s=took_s)
        finally:
            process.terminate()


def answer_ms(url: str, count: int) -> float:
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
            {"content-type": "application/json", "authorization": "Bearer none"},
        )
        assert b"[DONE]" in connection.getresponse().read()
        times.append((time.perf_counter() - started) * 1000)
    connection.close()
    return statistics.median(times)


def load(url: str, count: int, at_once: int) -> float:
    """Return the seconds that many answers take, so many at once."""
    started = time.perf_counter()
    subprocess.run([sys.executable, str(LOAD), url, str(count), str(at_once)], check=True)
    return time.perf_counter() - started
