"""Read the answer out of a stream of events, and know when it is over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

from tieredllm.errors import FallbackTriggerError
from tieredllm.providers.assembly import Assembly, Part
from tieredllm.providers.shape import NotJsonError, decode
from tieredllm.providers.sse import Event

__all__ = ["DRAIN_S", "stream_texts"]

DRAIN_S = 0.1
"""How long the body's end is waited for after the vendor's end marker.

A connection that was read to its end can serve the next request.
"""


async def stream_texts(
    events: AsyncGenerator[Event, None],
    assembly: Assembly,
    read: Callable[[dict[str, Any]], Part],
    *,
    tail_s: float | None,
) -> AsyncGenerator[str, None]:
    """Yield the answer's text as it comes; `assembly.finish` judges it afterwards.

    A piece of a tool call is yielded as an empty text.

    Args:
        events: the response's events; closed at the end.
        assembly: where the answer is put together.
        read: what an event says, in the vendor's terms.
        tail_s: how long usage and the end marker are waited for after the finish reason; a server
            that keeps the connection open must not turn a complete answer into a silent one. None
            waits for the end of the body.

    Raises:
        FallbackTriggerError: an error event, or the connection broke, before the finish reason.
    """
    async with aclosing(events):
        while True:
            event = await _next(events, assembly, tail_s)
            if event is None:
                return
            part = _part(event, read)
            if part is None:
                assembly.skip()
                continue
            text = assembly.take(part)
            if text or (part.calls and assembly.began):
                yield text
            if part.done:
                await _drain(events)
                return


async def _next(
    events: AsyncGenerator[Event, None], assembly: Assembly, tail_s: float | None
) -> Event | None:
    """Wait for the next event; once the answer is complete, no failure counts any more."""
    try:
        if not assembly.complete or tail_s is None:
            return await anext(events, None)
        async with asyncio.timeout(tail_s):
            return await anext(events, None)
    except TimeoutError:
        return None
    except FallbackTriggerError as exc:
        if assembly.complete:
            return None
        error = assembly.broken(exc)
        if error is exc:
            raise
        raise error from exc


def _part(event: Event, read: Callable[[dict[str, Any]], Part]) -> Part | None:
    """Read an event; None when it cannot be decoded."""
    data = event.data.strip()
    if data in ("", "[DONE]"):
        return Part(done=bool(data), candidates=False)
    try:
        value = decode(data)
    except NotJsonError:
        return Part(error=data) if event.name == "error" else None
    if event.name == "error":
        return Part(error=value or data)
    return read(value) if isinstance(value, dict) else None


async def _drain(events: AsyncGenerator[Event, None]) -> None:
    try:
        async with asyncio.timeout(DRAIN_S):
            while await anext(events, None) is not None:
                pass
    except (TimeoutError, FallbackTriggerError):
        pass
