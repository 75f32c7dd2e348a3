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

from tieredllm.aio import LoopTimeout, in_thread, run

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


def is_cut_off(wait) -> bool:
    """Tell whether a wait, bound to a running loop, is cut off."""
    try:
        asyncio.run(wait())
    except TimeoutError:
        return True
    return False


def test_time_in_which_the_loop_did_not_run_is_not_counted():
    """A limit of 0.6 s outlasts twice as long in which nothing could be looked at."""

    async def busy():
        async with LoopTimeout(0.6):
            for _ in range(4):
                time.sleep(0.3)
                await asyncio.sleep(0.01)

    async def idle():
        async with LoopTimeout(0.3):
            await asyncio.sleep(30)

    assert not is_cut_off(busy)
    assert is_cut_off(idle)


def test_the_clock_ends_a_wait_all_the_same():
    """However little of it was counted, it is over at the time that was named."""

    async def busy():
        async with LoopTimeout(30, until=asyncio.get_running_loop().time() + 0.1):
            time.sleep(0.2)
            await asyncio.sleep(30)

    assert is_cut_off(busy)


def test_the_clock_ends_a_wait_that_never_seems_to_begin():
    """Where every moment in which the loop runs is a pause, the time that was named holds too."""

    async def between_pauses():
        async with LoopTimeout(30, until=asyncio.get_running_loop().time() + 0.1) as timer:
            for _ in range(2000):
                timer.pause()
                await asyncio.sleep(0.001)
                timer.resume()

    assert is_cut_off(between_pauses)


def test_a_pause_counts_nothing():
    """Neither the limit nor the clock ends a pause; what was left before is left after it."""

    async def paused():
        async with LoopTimeout(0.2, until=asyncio.get_running_loop().time() + 0.2) as timer:
            await asyncio.sleep(0.05)
            timer.pause()
            await asyncio.sleep(0.5)

    async def resumed():
        async with LoopTimeout(0.2) as timer:
            timer.pause()
            await asyncio.sleep(0.5)
            timer.resume()
            await asyncio.sleep(30)

    assert not is_cut_off(paused)
    assert is_cut_off(resumed)


def test_a_restart_counts_anew():
    """A longer limit takes the place of what was left, and so does a shorter one."""

    async def often():
        async with LoopTimeout(0.25) as timer:
            for _ in range(4):
                await asyncio.sleep(0.15)
                timer.restart(0.25)

    async def shortened():
        async with LoopTimeout(30) as timer:
            timer.restart(0.02)
            await asyncio.sleep(30)

    assert not is_cut_off(often)
    assert is_cut_off(shortened)
