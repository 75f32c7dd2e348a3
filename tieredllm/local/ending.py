"""Stop native code before the interpreter goes down: the library's data goes with it."""

from __future__ import annotations

import atexit
import contextlib
import time
from typing import Protocol

__all__ = ["EXIT_S", "no_stop_at_exit", "stop_at_exit"]

EXIT_S = 0.8
"""The longest the interpreter waits at its end for threads that compute."""


class Stoppable(Protocol):
    """Be something with a thread that can be stopped."""

    def close(self) -> None:
        """Ask it to stop."""
        ...

    def join(self, timeout_s: float) -> bool:
        """Wait for it to have stopped."""
        ...


_running: set[Stoppable] = set()
"""Those with a live thread."""


def stop_at_exit(runner: Stoppable) -> None:
    """See to it that a runner is stopped before the interpreter goes down."""
    if not _running:
        atexit.unregister(_stop_all)
        atexit.register(_stop_all)
    _running.add(runner)


def no_stop_at_exit(runner: Stoppable) -> None:
    """Forget a runner whose thread has ended."""
    _running.discard(runner)


def _stop_all() -> None:
    """Stop every thread that computes, and wait for them, but not for long."""
    runners = list(_running)
    for runner in runners:
        runner.close()
    deadline = time.monotonic() + EXIT_S
    with contextlib.suppress(KeyboardInterrupt):
        for runner in runners:
            runner.join(max(0.0, deadline - time.monotonic()))
