"""Measure whole processes, in turn, so that a drifting machine does not tell them apart."""

from __future__ import annotations

import os
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

__all__ = ["Figures", "Pair", "alternate", "compare", "cpu_seconds", "first_byte_s", "run"]


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """Hold what one process took, as the operating system counts it."""

    wall_s: float
    cpu_s: float
    peak_mib: float
    """The largest resident set of the process."""


class Pair(msgspec.Struct, frozen=True, kw_only=True):
    """Hold two series of one figure that were measured in turn."""

    ours: tuple[float, ...]
    floor: tuple[float, ...]

    @property
    def ratio(self) -> float:
        """The median of the ratios, pair by pair."""
        return statistics.median(self._ratios())

    @property
    def spread(self) -> tuple[float, float]:
        """The smallest and the largest ratio."""
        ratios = self._ratios()
        return min(ratios), max(ratios)

    def _ratios(self) -> list[float]:
        return [ours / floor for ours, floor in zip(self.ours, self.floor, strict=True)]


def run(command: Sequence[str], env: Mapping[str, str]) -> Figures:
    """Run a process to its end, its output thrown away.

    Raises:
        RuntimeError: it ended with another code than 0, or 3: an answer cut at its limit.
    """
    quiet = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
        (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
    ]
    started = time.perf_counter()
    pid = os.posix_spawn(command[0], list(command), dict(env), file_actions=quiet)
    _, status, usage = os.wait4(pid, 0)
    wall_s = time.perf_counter() - started
    if os.waitstatus_to_exitcode(status) not in (0, 3):
        message = f"{' '.join(command)} ended with {os.waitstatus_to_exitcode(status)}"
        raise RuntimeError(message)
    return Figures(
        wall_s=wall_s,
        cpu_s=usage.ru_utime + usage.ru_stime,
        peak_mib=usage.ru_maxrss / 1024,
    )


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that a running process has taken (proc(5), fields 14 and 15).

    Raises:
        OSError: there is no such process, or no /proc.
    """
    fields = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def first_byte_s(command: Sequence[str], env: Mapping[str, str]) -> float:
    """Return the seconds from a process's start to the first byte of its output."""
    started = time.perf_counter()
    with subprocess.Popen(
        command,
        env=dict(env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        assert process.stdout is not None
        os.read(process.stdout.fileno(), 1)
        took_s = time.perf_counter() - started
        process.stdout.read()
    return took_s


def alternate(
    ours: Callable[[], float], floor: Callable[[], float], runs: int, *, warm_ups: int = 1
) -> Pair:
    """Measure two things in turn; the first rounds are not counted."""
    rounds = [(ours(), floor()) for _ in range(runs + warm_ups)][warm_ups:]
    return Pair(ours=tuple(a for a, _ in rounds), floor=tuple(b for _, b in rounds))


def compare(
    ours: Sequence[str], floor: Sequence[str], env: Mapping[str, str], runs: int
) -> dict[str, Pair]:
    """Measure two commands in turn: wall-clock seconds, CPU seconds and peak memory."""
    rounds = [(run(ours, env), run(floor, env)) for _ in range(runs + 1)][1:]
    return {
        figure: Pair(
            ours=tuple(getattr(a, figure) for a, _ in rounds),
            floor=tuple(getattr(b, figure) for _, b in rounds),
        )
        for figure in Figures.__struct_fields__
    }
