"""Run a second stream of events beside a slow first one; the first to bring a token wins.

Calls of tools are a token, too, and only the winner's may run: a stream that wants tools waits
until the other has been stopped.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable

from tieredllm.types import Event, Token, ToolsWanted

__all__ = ["race"]

_Item = Event | BaseException | None


async def race(
    first: AsyncGenerator[Event, None],
    make_second: Callable[[], AsyncGenerator[Event, None]],
    *,
    after_s: float,
) -> AsyncGenerator[Event, None]:
    """Yield the events of whichever stream brings a token first; cancel the other at once.

    Until a token comes, the events of both are yielded as they happen. A stream that ends without a
    token has lost, and the other goes on alone.

    Args:
        first: the stream that has a head start.
        make_second: makes the other stream; called at most once.
        after_s: seconds without a token after which the second stream starts.
    """
    queue: asyncio.Queue[tuple[int, _Item]] = asyncio.Queue()
    gates = [asyncio.Event(), asyncio.Event()]
    tasks = [asyncio.create_task(_pump(0, first, queue, gates[0]))]
    running = {0}
    winner: int | None = None
    starts_at = asyncio.get_running_loop().time() + after_s
    try:
        while running:
            waits = winner is None and len(tasks) == 1
            try:
                async with asyncio.timeout_at(starts_at if waits else None):
                    source, item = await queue.get()
            except TimeoutError:
                tasks.append(asyncio.create_task(_pump(1, make_second(), queue, gates[1])))
                running.add(1)
                continue
            if isinstance(item, BaseException):
                raise item
            if item is None:
                running.discard(source)
                if len(tasks) == 1:
                    return
                continue
            if winner is None and isinstance(item, Token | ToolsWanted):
                winner = source
                await _stop([task for index, task in enumerate(tasks) if index != source])
                running = {source} & running
            if winner is None or source == winner:
                yield item
                if isinstance(item, ToolsWanted):
                    gates[source].set()
    finally:
        await _stop(tasks)


async def _pump(
    source: int,
    events: AsyncGenerator[Event, None],
    queue: asyncio.Queue[tuple[int, _Item]],
    gate: asyncio.Event,
) -> None:
    try:
        async for event in events:
            queue.put_nowait((source, event))
            if isinstance(event, ToolsWanted):
                await gate.wait()
                gate.clear()
        queue.put_nowait((source, None))
    except Exception as exc:  # noqa: BLE001 - handed to the reader, who raises it
        queue.put_nowait((source, exc))
    finally:
        await events.aclose()


async def _stop(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
