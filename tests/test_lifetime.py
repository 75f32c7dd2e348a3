"""One manager in a program that runs for long: many event loops, threads, and its end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import time
import warnings
from pathlib import Path

import pytest
from cli_support import REFUSED, environment, profile, served
from wire_support import STREAM_HEAD, answers, chunk, document, opens, response, says

from tieredllm import Answered, FallbackManager, Token, UsageError
from tieredllm.notify.notifier import Notifier

RULES = "name: rules, provider: rules"

needs_proc = pytest.mark.skipif(
    not Path("/proc/self/fd").exists(), reason="descriptors are counted in /proc"
)


@pytest.fixture
def made(tmp_path):
    """Make managers whose first tier is at a URL."""

    def make(url, *more, rest="", **settings):
        first = f"name: a, provider: openai, model: m, base_url: '{url}/v1', api_key_env: null"
        tiers = "".join(f"  - {{{tier}}}\n" for tier in (f"{first}, retries: 0", *more))
        path = profile(tmp_path, f"{rest}tiers:\n{tiers}")
        return FallbackManager(path, env=environment(tmp_path, **settings))

    return make


def sockets() -> int:
    """Count this process's open sockets."""
    count = 0
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            count += str(entry.readlink()).startswith("socket:")
    return count


async def hang(connection):
    """Begin an answer, and never end it."""
    await connection.send(STREAM_HEAD + b"".join(map(chunk, opens("openai"))))
    await connection.send(chunk(says("openai", "Hi")))
    await connection.gone()


@needs_proc
def test_an_event_loop_for_each_request_leaves_nothing_open(made):
    """A worker that calls `asyncio.run` for each of its tasks never closes the manager."""
    with served(response(200, document("openai", "Hi"))) as server:
        manager = made(server.url)
        before = sockets()
        texts = [asyncio.run(manager.process_with_fallbacks("hello")).text for _ in range(5)]
        gc.collect()  # what is still open would be told by a ResourceWarning
        until = time.monotonic() + 5
        while sockets() > before and time.monotonic() < until:
            time.sleep(0.01)  # the server closes its ends, too
        after = sockets()

    assert texts == ["Hi"] * 5
    assert after <= before


@pytest.mark.parametrize("pause_s", [0.0, 0.2], ids=["not yet begun", "on its way"])
def test_an_event_loop_that_ends_takes_no_notification_along(made, pause_s):
    """What a loop that ends breaks off is delivered all the same."""
    came = []

    async def take(connection):
        if pause_s and len(hook.requests) == 1:
            await connection.gone()
            return
        await connection.send(response(200, "ok"))
        came.append(connection.received)

    async def once(manager):
        await manager.process_with_fallbacks("hello")
        await asyncio.sleep(pause_s)

    with served(take) as hook:
        channel = "notifications: {webhook: {url_env: HOOK}}\n"
        asyncio.run(once(made(REFUSED, RULES, rest=channel, HOOK=hook.url)))
        until = time.monotonic() + 10
        while not came and time.monotonic() < until:
            time.sleep(0.01)

    assert [message.json["severity"] for message in came] == ["high"]


@pytest.mark.parametrize("way", ["dropped", "kept", "closed by the loop"])
def test_who_stops_reading_at_the_answer_has_it_notified(made, caplog, way):
    """The notification is under way by then: closing waits for it, and no task is left behind."""
    came = []

    async def take(connection):
        await connection.send(response(200, "ok"))
        came.append(connection.received.json["severity"])

    async def ask(manager):
        events = manager.stream("hello")
        async for event in events:
            if isinstance(event, Answered):
                break
        return events if way == "kept" else None

    async def once(manager):
        if way == "closed by the loop":
            return await ask(manager), [*came]
        async with manager:
            kept = await ask(manager)
        return kept, [*came]

    channel = "notifications: {webhook: {url_env: HOOK}}\n"
    with caplog.at_level(logging.DEBUG, "asyncio"), served(take) as hook:
        _, by_the_end = asyncio.run(once(made(REFUSED, RULES, rest=channel, HOOK=hook.url)))
        until = time.monotonic() + 10
        while not came and time.monotonic() < until:
            time.sleep(0.01)
        gc.collect()

    assert came == ["high"]
    assert by_the_end == ([] if way == "closed by the loop" else ["high"])
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


@pytest.mark.parametrize("url", [REFUSED, None], ids=["rules", "model"])
def test_an_answer_waits_for_no_notification(made, monkeypatch, url):
    """The outbox may be locked by another process: whoever asked goes on before that is tried."""
    happened = []
    deliver = Notifier.deliver

    async def noted(self):
        happened.append("delivers")
        await deliver(self)

    async def once(manager):
        async with manager:
            await manager.process_with_fallbacks("hello")
            happened.append("answered")

    monkeypatch.setattr(Notifier, "deliver", noted)
    channel = "notifications: {webhook: {url_env: HOOK}}\n"
    with served(response(200, document("openai", "Hi"))) as server:
        asyncio.run(once(made(url or server.url, RULES, rest=channel, HOOK=server.url)))

    assert happened == ["answered", "delivers"]


def test_a_stream_that_is_kept_ends_with_its_event_loop(made, caplog):
    """Who keeps an iterator and forgets to close it gets no message from asyncio."""

    async def look(events):
        async for event in events:
            if isinstance(event, Token):
                return

    with caplog.at_level(logging.DEBUG, "asyncio"), served(hang) as server:
        events = made(server.url).stream("hello")
        asyncio.run(look(events))

    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_closing_a_manager_ends_its_requests_and_blames_nobody(made):
    """Who waits is told; what was being asked does not count as failed, nor is anybody else."""

    async def close(manager):
        requests = [
            asyncio.ensure_future(manager.process_with_fallbacks("hello")) for _ in range(4)
        ]
        while len(server.requests) < len(requests):
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        await manager.aclose()
        await manager.aclose()
        ends = await asyncio.gather(*requests, return_exceptions=True)
        report = await manager.check(probe=False)
        await manager.aclose()
        return ends, report

    with served(hang) as server:
        ends, report = asyncio.run(close(made(server.url, RULES)))

    assert [type(end) for end in ends] == [UsageError] * 4
    assert "closed" in str(ends[0])
    assert report.tiers[0].window.requests == 0
    assert report.tiers[0].breaker.state == "closed"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this platform")
def test_forked_workers_do_not_wait_alike(made):
    """The jitter of a manager that was made before the fork is another in each process."""
    manager = made(REFUSED)
    reads, writes = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # this process has threads
        child = os.fork()
    if child == 0:
        os.write(writes, repr(manager._rng.random()).encode())
        os._exit(0)
    os.waitpid(child, 0)
    its_own = os.read(reads, 64)
    os.close(reads)
    os.close(writes)

    assert float(its_own) != manager._rng.random()


def test_a_request_that_comes_while_the_manager_is_closed_is_not_harmed(made):
    """Closing waits for a notification, say; what begins meanwhile has connections of its own."""

    async def late(connection):
        if len(server.requests) == 1:
            await connection.send(response(503, "later"))
            return
        await asyncio.sleep(0.6)
        await connection.send(answers("openai", "Hi"))

    async def take(connection):
        await asyncio.sleep(0.3)
        await connection.send(response(200, "ok"))

    async def ask(manager):
        await manager.process_with_fallbacks("hello")
        closing = asyncio.ensure_future(manager.aclose())
        await asyncio.sleep(0.05)
        answer = await manager.process_with_fallbacks("hello")
        await closing
        await manager.aclose()
        return answer

    channel = "notifications: {webhook: {url_env: HOOK}}\n"
    with served(late) as server, served(take) as hook:
        answer = asyncio.run(ask(made(server.url, RULES, rest=channel, HOOK=hook.url)))

    assert [attempt.why for attempt in answer.attempts] == ["ok"]
