"""A batch over a real Dask cluster: two workers as processes, one of them killed midway."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time

import pytest
from batch_support import Vendor, lines, records, serving, text_of, tiers
from cli_support import cli, environment, tieredllm


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.fixture
def cluster(tmp_path):
    """A scheduler and two workers on the loopback interface, without TLS; their processes."""
    address = f"tcp://127.0.0.1:{free_port()}"
    port = address.rpartition(":")[2]
    common = ["--host", "127.0.0.1", "--no-dashboard"]
    commands = [["distributed.cli.dask_scheduler", "--port", port, *common]]
    commands += [
        ["distributed.cli.dask_worker", address, "--nthreads", "1", "--no-nanny", *common]
        for _ in range(2)
    ]
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", *command],
            env=environment(tmp_path / f"machine{number}"),
            cwd=tmp_path,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for number, command in enumerate(commands)
    ]
    yield address, processes
    for process in processes:
        process.kill()
        process.wait()


def wait_for_workers(address: str) -> None:
    from distributed import Client

    with contextlib.closing(Client(address, timeout=40, set_as_default=False)) as client:
        client.wait_for_workers(2, timeout=40)


def test_a_worker_that_is_killed_costs_its_chunk_once_more(tmp_path, cluster):
    """With one of two workers killed midway, every id is answered once, and the pairs are right."""
    address, processes = cluster
    count = 400
    vendor = Vendor()
    source = lines(tmp_path / "in.jsonl", count)
    out = tmp_path / "out.jsonl"
    wait_for_workers(address)

    with serving(vendor) as server:
        batch = subprocess.Popen(
            tieredllm(
                "-p", tiers(tmp_path, server.url), "batch", str(source), "-o", str(out),
                "--dask", address, "--concurrency", "4",
            ),
            env=environment(tmp_path),
            stderr=subprocess.PIPE,
        )  # fmt: skip
        give_up = time.monotonic() + 60
        while len(vendor.asked) < 60 and time.monotonic() < give_up:
            time.sleep(0.01)
        os.kill(processes[1].pid, signal.SIGKILL)
        _, said = batch.communicate(timeout=100)

    found = records(out)
    assert batch.returncode == 0, said
    assert [record["custom_id"] for record in found] == [f"q{n}" for n in range(1, count + 1)]
    for number, record in enumerate(found, 1):
        assert text_of(record) == f"you said: question {number}"
    assert count <= len(vendor.asked) <= count + 2 * 50  # two chunks were on the lost worker


class Slow(Vendor):
    """One whose answers take a while."""

    async def play(self, connection):
        await asyncio.sleep(0.2)
        await super().play(connection)


@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGKILL])
def test_the_workers_stop_with_the_batch(sig, tmp_path, cluster):
    """After Ctrl-C or SIGKILL no worker goes on asking the lines of its chunk."""
    address, _ = cluster
    vendor = Slow()
    source = lines(tmp_path / "in.jsonl", 400)
    wait_for_workers(address)

    with serving(vendor) as server:
        batch = subprocess.Popen(
            tieredllm(
                "-p", tiers(tmp_path, server.url), "batch", str(source),
                "-o", str(tmp_path / "out.jsonl"), "--dask", address, "--concurrency", "4",
            ),
            env=environment(tmp_path),
            stderr=subprocess.PIPE,
        )  # fmt: skip
        give_up = time.monotonic() + 60
        while len(vendor.asked) < 8 and time.monotonic() < give_up:
            time.sleep(0.01)
        batch.send_signal(sig)
        batch.communicate(timeout=60)
        time.sleep(1.5)
        asked = len(vendor.asked)
        time.sleep(1.5)

        assert 8 <= len(vendor.asked) == asked < 100


def test_no_scheduler_is_told_at_once(tmp_path):
    """An address where nobody listens is exit 2, with nothing asked."""
    source = lines(tmp_path / "in.jsonl", 2)
    used = tiers(tmp_path, "http://127.0.0.1:9")

    result = cli(
        tmp_path, "-p", used, "batch", str(source), "-o", str(tmp_path / "o"),
        "--dask", f"tcp://127.0.0.1:{free_port()}",
    )  # fmt: skip

    assert result.returncode == 2
    assert b"--dask: no scheduler answers at tcp://127.0.0.1:" in result.stderr
    assert b"Traceback" not in result.stderr
