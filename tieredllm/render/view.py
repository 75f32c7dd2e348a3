"""Show a request while it goes on, whichever view it is shown in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator
from contextlib import aclosing

from tieredllm.types import Answer, Answered, Event

__all__ = ["View", "show"]

TICK_S = 0.1
"""How often what is shown while waiting is brought up to date, in seconds."""

MAX_WITHHELD = 1000
"""How many remarks wait; a question may stand for a night, and a server talk all the while."""


class View(ABC):
    """Show a request while it goes on; where nothing moves, only its events matter.

    A server can have something to say at any time. While a question is asked on the terminal, and
    once the view is closed, such remarks wait: for `resume`, or for who made the view.
    """

    def __init__(self) -> None:
        self.withheld: list[str] = []
        """Remarks that wait until nothing else has the screen."""
        self._is_still = False

    @abstractmethod
    def handle(self, event: Event) -> None:
        """Take the next event."""

    def tick(self) -> None:  # noqa: B027 - nothing moves
        """Bring up to date what is shown while waiting; called some ten times a second."""

    def remark(self, line: str) -> None:
        """Show a remark, now or once nothing else has the screen."""
        if self._has_screen:
            self._print_remark(line)
        elif len(self.withheld) < MAX_WITHHELD:
            self.withheld.append(line)
        elif len(self.withheld) == MAX_WITHHELD:
            self.withheld.append("what was said after that, until now, is left out")

    def pause(self) -> None:
        """Take what moves off the screen while something else is asked there."""
        self._is_still = True

    def resume(self) -> None:
        """Go on after a pause."""
        self._is_still = False
        self._release()

    def close(self) -> None:
        """Leave the terminal as it should be; may be called again."""
        self._is_still = True

    @property
    def _has_screen(self) -> bool:
        return not self._is_still

    @abstractmethod
    def _print_remark(self, line: str) -> None:
        """Print a remark on stderr."""

    def _release(self) -> None:
        lines = [*self.withheld]
        self.withheld.clear()
        for line in lines:
            self.remark(line)


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
