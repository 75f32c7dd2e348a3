"""Try again while another process keeps the outbox locked."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

__all__ = ["tried_until"]

T = TypeVar("T")

SHORTEST_S = 0.01
LONGEST_S = 0.06
"""Between which the wait is chosen by chance: never two processes for the same time, and not so
often that they keep each other from the work."""


async def tried_until(attempt: Callable[[], T | None], until: float) -> T | None:
    """Try at least once, and then until there is a result; None when the time is up.

    Args:
        attempt: gives None while it cannot be done.
        until: on the event loop's clock.
    """
    import asyncio
    import random

    loop = asyncio.get_running_loop()
    while True:
        result = attempt()
        if result is not None or loop.time() >= until:
            return result
        await asyncio.sleep(random.uniform(SHORTEST_S, LONGEST_S))  # noqa: S311 - nothing secret
