"""Measure what a health decision costs, with a million recorded requests and with none."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from benchmarks.measure import Pair, alternate
from tieredllm.engine.ports import TurnResult
from tieredllm.health.memory import SqliteHealth
from tieredllm.profile.schema import HealthSettings
from tieredllm.store.database import Database

__all__ = ["decision"]

REQUESTS = 1_000_000
BATCH = 50_000
BACKENDS = ("one", "two", "three")


def decision(runs: int) -> Pair:
    """Measure `standings()` on a fresh connection, in milliseconds."""
    with tempfile.TemporaryDirectory() as folder:
        full, empty = Path(folder) / "full.db", Path(folder) / "empty.db"
        _record(full, REQUESTS)
        _record(empty, 1)
        return alternate(lambda: _ask(full), lambda: _ask(empty), runs * 5)


def _record(path: Path, count: int) -> None:
    with Database(path) as database:
        health = SqliteHealth(database, HealthSettings())
        for start in range(0, count, BATCH):
            health.record_all(
                TurnResult(
                    identity=BACKENDS[number % len(BACKENDS)],
                    request_id=str(number),
                    ok=True,
                    latency_s=0.1 + number % 100 / 100,
                )
                for number in range(start, min(count, start + BATCH))
            )


def _ask(path: Path) -> float:
    with Database(path) as database:
        health = SqliteHealth(database, HealthSettings())
        started = time.perf_counter()
        health.standings(BACKENDS)
        return (time.perf_counter() - started) * 1000
