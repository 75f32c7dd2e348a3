"""Send several messages at the same time, all within one bound."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial

import msgspec

from tieredllm.notify.line import Line, SendError, on_daemon_thread
from tieredllm.notify.message import Message
from tieredllm.notify.sinks import Sink

__all__ = ["Delivery", "Job", "send_all"]

FIRST_PAUSE_S = 0.1
"""The wait before a second try within the same run, doubled before each further one. It is for a
server that trips over one request; one that is down is for a later run."""


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """Hold one message and how to come by the channel it goes to."""

    channel: str
    sink: Callable[[], Sink]
    """Called on the sender's thread, so that loading the channel's modules delays no other."""
    message: Message


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """Hold what came of one message."""

    channel: str
    cause: str
    error: str | None = None
    """Why it has not arrived; None when it has."""
    retry_after_s: float | None = None
    """Seconds the receiver asked to wait."""
    remark: str | None = None
    """For people, where there is something to say."""


async def send_all(jobs: Sequence[Job], *, within_s: float) -> list[Delivery]:
    """Send messages, each on a thread; those that have not arrived in time are broken off.

    Args:
        jobs: what to send.
        within_s: seconds for all of them together.

    Returns:
        One for each, in their order. Nothing is raised for any of them.
    """
    if not jobs:
        return []
    lines = [Line(within_s) for _ in jobs]
    tasks = [asyncio.create_task(_send(job, line)) for job, line in zip(jobs, lines, strict=True)]
    try:
        await asyncio.wait(tasks, timeout=within_s)
    finally:
        for task, line in zip(tasks, lines, strict=True):
            if not task.done():
                line.cut()
                task.cancel()
    await asyncio.wait(tasks)  # the cancelled ones end at once
    return [
        _ended(job, Line(within_s).too_late()) if task.cancelled() else task.result()
        for job, task in zip(jobs, tasks, strict=True)
    ]


async def _send(job: Job, line: Line) -> Delivery:
    pause_s = FIRST_PAUSE_S
    while True:
        try:
            remark = await on_daemon_thread(partial(_attempt, job, line))
            return _ended(job, remark=remark)
        except SendError as exc:
            wait_s = max(pause_s, exc.retry_after_s or 0.0)
            if not exc.again or not line.has(2 * wait_s):
                return _ended(job, exc)
        except Exception as exc:  # noqa: BLE001 - nothing of a channel may reach the answer
            return _ended(job, SendError(f"unexpected {type(exc).__name__}"))
        await asyncio.sleep(wait_s)
        pause_s *= 2


def _attempt(job: Job, line: Line) -> str | None:
    return job.sink().send(job.message, line)


def _ended(job: Job, error: SendError | None = None, remark: str | None = None) -> Delivery:
    return Delivery(
        channel=job.channel,
        cause=job.message.cause,
        error=None if error is None else str(error),
        retry_after_s=None if error is None else error.retry_after_s,
        remark=remark,
    )
