"""Show a request while it goes on, whichever view it is shown in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator
from contextlib import aclosing

from tieredllm.types import Answer, Answered, Event

__all__ = ["View", "show"]

TICK_S = 0.1
"""How often what is shown while waiting is brought up to date, in seconds."""


class View(ABC):
    """Show a request while it goes on; where nothing moves, only its events matter."""

    @abstractmethod
    def handle(self, event: Event) -> None:
        """Take the next event."""

    def tick(self) -> None:  # noqa: B027 - nothing moves
        """Bring up to date what is shown while waiting; called some ten times a second."""

    def pause(self) -> None:  # noqa: B027
        """Take what moves off the screen while something else is asked there."""

    def resume(self) -> None:  # noqa: B027
        """Go on after a pause."""

    @abstractmethod
    def close(self) -> None:
        """Leave the terminal as it should be; may be called again."""


async def show(events: AsyncGenerator[Event, None], view: View, *, animated: bool) -> Answer:
    """Hand a request's events to a view, and give what the request came to.

    Args:
        events: the request, not yet begun; it is closed, whatever happens.
        view: shows it; to be closed by the caller.
        animated: whether the view needs ticks.
    """
    import asyncio

    answer: Answer | None = None
    ticker = asyncio.create_task(_tick(view)) if animated else None
    try:
        async with aclosing(events):
            async for event in events:
                view.handle(event)
                if isinstance(event, Answered):
                    answer = event.answer
    finally:
        if ticker is not None:
            ticker.cancel()
    assert answer is not None  # noqa: S101 - the stream's last event is Answered
    return answer


async def _tick(view: View) -> None:
    import asyncio

    while True:
        await asyncio.sleep(TICK_S)
        view.tick()
