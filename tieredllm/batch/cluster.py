"""Let the workers of a Dask cluster answer a batch, chunk by chunk.

Each worker has one `FallbackManager`, with its own machine's keys, health and models. A chunk is
one asynchronous task on the worker's event loop; what it answers comes back to the one process that
writes. When a worker is lost, Dask gives its chunks to another, and no more is asked again.
API: https://distributed.dask.org/en/stable/api.html (2026.8), "Asynchronous Operation".
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import msgspec

from tieredllm.batch.concurrency import AdaptiveGate
from tieredllm.batch.lines import BatchLine
from tieredllm.batch.run import Batch, HopelessError, Tally
from tieredllm.client import FallbackManager
from tieredllm.errors import TieredLLMError, UsageError
from tieredllm.profile.schema import Profile
from tieredllm.types import Answer, Options
from tieredllm.version import __version__

__all__ = ["ClusterBatch", "WorkerSettings", "answer_chunk"]

MIN_CHUNK, MAX_CHUNK = 50, 200
"""How many lines a chunk has: less is mostly sending, more is much to ask again."""
CHUNKS_PER_WORKER = 2
"""One is being answered while the next is on its way."""
SHARES = 4
"""Into how many chunks a worker's share of a short batch is cut, so that all end about together."""
CONNECT_S = 10
LOOK_S = 0.2
"""How often a worker looks whether anybody still waits for the chunk that it answers."""
INSTALL = "run `pip install 'tieredllm[dask]'`"


class WorkerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker needs to know besides the lines."""

    profile: Profile
    options: Options
    at_once: int
    """The most lines at once on one worker."""
    sequences: int
    """How many answers a local model makes at once."""


class ChunkResult(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a chunk."""

    answers: dict[int, Answer]
    """By the lines' numbers."""
    hopeless: str | None = None
    """Why no line can be answered any more."""


class ClusterBatch:
    """The lines of one batch on their way over a cluster; see `Batch`.

    Args:
        address: the scheduler's, such as `tcp://10.0.0.1:8786`.
        lines: those that are to be asked.
        settings: what the workers need to know.
        write: takes each line with its answer, once.
        tally: counts them.
    """

    def __init__(
        self,
        address: str,
        lines: Iterator[BatchLine],
        settings: WorkerSettings,
        write: Callable[[BatchLine, Answer], None],
        *,
        tally: Tally,
    ) -> None:
        self._address = address
        self._lines = lines
        self._settings = msgspec.json.encode(settings)
        self._write = write
        self._tally = tally

    async def run(self) -> None:
        """Ask every line.

        Raises:
            UsageError: there is no cluster, it has no workers, or they have other versions.
            HopelessError: no tier can answer any more.
            TieredLLMError: a chunk was lost with each worker it was given to.
            OSError: the output cannot be written, or the input read.
        """
        try:
            import distributed
        except ImportError:
            raise UsageError(f"--dask: {INSTALL}") from None
        logging.getLogger("distributed").setLevel(logging.CRITICAL)
        try:
            client = await distributed.Client(
                self._address, asynchronous=True, timeout=CONNECT_S, set_as_default=False
            )
        except (OSError, ValueError, TimeoutError) as exc:
            why = str(exc).partition("\n")[0] or type(exc).__name__
            raise UsageError(f"--dask: no scheduler answers at {self._address}: {why}") from exc
        try:
            workers = await self._count_workers(client)
            await self._ask_all(client, workers)
        finally:
            await client.close()

    async def _count_workers(self, client: Any) -> int:
        """Return how many workers there are, all of which run what we run.

        Raises:
            UsageError: there are none, or one runs something else.
        """
        found = await client.run(_version)
        if not found:
            raise UsageError(f"--dask: the scheduler at {self._address} has no workers")
        for worker, version in found.items():
            if version != __version__:
                raise UsageError(
                    f"--dask: the worker {worker} has tieredllm {version}, not {__version__}"
                )
        try:
            await client.get_versions(check=True)
        except ValueError as exc:
            raise UsageError(f"--dask: the workers' packages differ: {exc}") from exc
        return len(found)

    async def _ask_all(self, client: Any, workers: int) -> None:
        left = self._tally.total - self._tally.done
        size = min(max(math.ceil(left / (workers * SHARES)), MIN_CHUNK), MAX_CHUNK)
        senders = [
            asyncio.create_task(self._send(client, size))
            for _ in range(workers * CHUNKS_PER_WORKER)
        ]
        try:
            done, _ = await asyncio.wait(senders, return_when=asyncio.FIRST_EXCEPTION)
            for sender in done:
                sender.result()
        finally:
            for sender in senders:
                sender.cancel()
            await asyncio.gather(*senders, return_exceptions=True)

    async def _send(self, client: Any, size: int) -> None:
        """Send one chunk after the other, and write what comes back."""
        from distributed import KilledWorker

        while chunk := list(islice(self._lines, size)):
            data, key = msgspec.json.encode(chunk), f"tieredllm-{os.urandom(16).hex()}"
            future = client.submit(answer_chunk, self._settings, data, key, key=key)
            try:
                found = msgspec.json.decode(await future, type=ChunkResult)
            except KilledWorker as exc:
                message = f"the lines from {chunk[0].number} on were lost with several workers"
                raise TieredLLMError(message) from exc
            for line in chunk:
                answer = found.answers.get(line.number)
                if answer is not None:
                    self._write(line, answer)
                    self._tally.add(answer)
            if found.hopeless is not None:
                raise HopelessError(found.hopeless)


# On the workers.


def _version() -> str:
    return __version__


async def answer_chunk(settings: bytes, data: bytes, key: str) -> bytes:
    """Answer some lines on a worker, for as long as somebody waits for them.

    Args:
        settings: a `WorkerSettings`.
        data: the lines.
        key: this task's, in Dask.

    Returns:
        A `ChunkResult`.
    """
    chosen = msgspec.json.decode(settings, type=WorkerSettings)
    lines = msgspec.json.decode(data, type=list[BatchLine])
    manager = _manager(settings, chosen)
    answers: dict[int, Answer] = {}

    def keep(line: BatchLine, answer: Answer) -> None:
        answers[line.number] = answer

    batch = Batch(
        iter(lines),
        manager,
        chosen.options,
        keep,
        at_once=chosen.at_once,
        tally=Tally(total=len(lines)),
    )
    hopeless = None
    running = asyncio.create_task(batch.run())
    while not running.done() and _is_wanted(key):
        await asyncio.wait([running], timeout=LOOK_S)
    running.cancel()
    try:
        await running
    except asyncio.CancelledError:
        pass  # nobody reads what is returned
    except HopelessError as exc:
        hopeless = exc.why
    return msgspec.json.encode(ChunkResult(answers=answers, hopeless=hopeless))


def _is_wanted(key: str) -> bool:
    """Whether a task of this worker's is waited for; Dask lets a cancelled one go on.

    https://distributed.dask.org/en/stable/worker-state.html (2026.8), "Task cancellation".
    """
    from distributed import get_worker

    task = get_worker().state.tasks.get(key)
    return task is not None and task.state != "cancelled"


_managers: dict[bytes, FallbackManager] = {}
"""One per worker's process and batch: the connections, the loaded model and the health of each."""


def _manager(settings: bytes, chosen: WorkerSettings) -> FallbackManager:
    if settings not in _managers:
        gate = AdaptiveGate(chosen.at_once)
        manager = FallbackManager(chosen.profile, sequences=chosen.sequences, batch=True, gate=gate)
        gate.bound_all(manager.plans)
        _managers[settings] = manager
    return _managers[settings]
