"""Ask two sides when the first is slow; the one that brings a token first goes on alone."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from tieredllm.engine.ports import Emit
from tieredllm.types import CallsMade, Event, Token, ToolsWanted

__all__ = ["hedge"]

T = TypeVar("T")


async def hedge(
    first: Callable[[Emit], Awaitable[T | None]],
    second: Callable[[Emit], Awaitable[T | None]],
    *,
    after_s: float,
    emit: Emit,
) -> T | None:
    """Return what the side that wins comes to, or else the first result that is not None.

    Until a token comes, the events of both are emitted as they happen. With its first token, or its
    first call of tools, a side has won: the other is cancelled and has ended before that event goes
    out, so that who has lost runs no tools. A side that ends without a token has lost, and the
    other goes on alone; unless what the first came to ends the request: then it is what both do.

    Args:
        first: the side that has a head start.
        second: the other side; asked at most once.
        after_s: seconds without a token after which the second is asked.
        emit: takes the events.
    """
    winner: int | None = None
    tasks: list[asyncio.Task[T | None]] = []

    def emitting(side: int) -> Emit:
        async def emit_of_side(event: Event) -> None:
            nonlocal winner
            if winner is None and isinstance(event, Token | ToolsWanted | CallsMade):
                winner = side
                losers = [task for number, task in enumerate(tasks) if number != side]
                for loser in losers:
                    loser.cancel()
                if losers:
                    await asyncio.wait(losers)
            await emit(event)

        return emit_of_side

    async def run(side: int, ask: Callable[[Emit], Awaitable[T | None]]) -> T | None:
        result = await ask(emitting(side))
        if side == 0 and winner is None and result is not None:
            for other in tasks[1:]:
                other.cancel()
        return result

    try:
        async with asyncio.TaskGroup() as group:
            tasks.append(group.create_task(run(0, first)))
            ended, _ = await asyncio.wait(tasks, timeout=after_s)
            if winner is None and not ended:
                tasks.append(group.create_task(run(1, second)))
    except ExceptionGroup as bugs:
        raise bugs.exceptions[0] from None
    results = (task.result() for task in tasks if not task.cancelled())
    return next((result for result in results if result is not None), None)
