"""The event loop ends when its work has ended, whatever a name lookup does."""

from __future__ import annotations

import asyncio
import contextvars
import socket
import subprocess
import sys
import threading
import time

import pytest

from tieredllm.aio import in_thread, run

HANGING = """
import socket, sys, time
socket.getaddrinfo = lambda *args, **kwargs: time.sleep(30)
from tieredllm.cli.main import run
sys.exit(run(["-p", sys.argv[1], "ask", "-q", "--allow-rules", "hello"]))
"""


def test_a_hanging_lookup_is_not_waited_for(tmp_path):
    """With names that never resolve, the answer comes and the process ends."""
    profile = tmp_path / "p.yaml"
    profile.write_text(
        "name: p\ntiers:\n  - {name: a, provider: openai, model: m, api_key_env: null,"
        " base_url: 'http://nowhere.invalid/v1', connect_timeout_s: 0.3}\n"
        "  - {name: rules, provider: rules}\n"
    )
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", HANGING, str(profile)],
        capture_output=True,
        stdin=subprocess.DEVNULL,
        timeout=25,
        check=False,
    )

    assert done.returncode == 3
    assert b"REF-" in done.stdout
    assert time.monotonic() - started < 10


def test_lookups_work():
    """A name is looked up as the socket module does, and its errors arrive."""

    async def look_up(host):
        loop = asyncio.get_running_loop()
        return await loop.getaddrinfo(host, 80, type=socket.SOCK_STREAM)

    found = run(look_up("127.0.0.1"))
    assert found[0][4] == ("127.0.0.1", 80)
    with pytest.raises(socket.gaierror):
        run(look_up("256.256.256.256.invalid."))


def test_work_runs_on_a_daemon_thread_and_its_result_arrives():
    """It sees the caller's context, and nothing waits for its thread when the program ends."""
    seen = contextvars.ContextVar("seen")

    async def main():
        seen.set("by the caller")
        return await in_thread(lambda: (seen.get(), threading.current_thread().daemon))

    assert run(main()) == ("by the caller", True)


@pytest.mark.parametrize(
    ("raised", "arrives"),
    [(KeyError, KeyError), (SystemExit, SystemExit), (StopIteration, RuntimeError)],
)
def test_what_work_raises_arrives(raised, arrives):
    """An error on the thread is raised where the result is waited for."""

    def work():
        raise raised("x")

    async def main():
        with pytest.raises(arrives, match=r"x|StopIteration"):
            await in_thread(work)

    run(main())


def test_work_nobody_waits_for_any_more_is_left_alone():
    """A wait that is cancelled ends at once; the work goes on, and its result is dropped."""
    release, ended = threading.Event(), threading.Event()

    def work():
        release.wait(20)
        ended.set()
        raise ValueError

    async def main():
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(in_thread(work), 0.01)

    run(main())
    release.set()

    assert ended.wait(20)
