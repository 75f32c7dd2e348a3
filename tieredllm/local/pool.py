"""Share runners: backends of one file and context have the model in memory once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable

from tieredllm.local.llama import LlamaRunner

__all__ = ["SHARED", "RunnerPool"]


class RunnerPool:
    """Keep the runners in use, and how many use each."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._runners: dict[Hashable, tuple[LlamaRunner, int]] = {}

    def take(self, key: Hashable, make: Callable[[], LlamaRunner]) -> LlamaRunner:
        """Give the runner of a key, made if there is none; to be given back once."""
        with self._lock:
            runner, users = self._runners.get(key) or (make(), 0)
            self._runners[key] = (runner, users + 1)
            return runner

    def give_back(self, key: Hashable) -> LlamaRunner | None:
        """Stop using a runner; gives it when it was the last use and it is to be closed."""
        with self._lock:
            runner, users = self._runners[key]
            if users > 1:
                self._runners[key] = (runner, users - 1)
                return None
            del self._runners[key]
            return runner


SHARED = RunnerPool()
"""The pool of this process: the memory a model takes is the process's, whoever asks for it."""
