"""Count the processor cores llama.cpp should use: the physical ones this process may run on.

Two threads of one core share its vector units, so more threads than cores only get in each other's
way (`token_generation_performance_tips.md` in llama.cpp's docs/development).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

__all__ = ["physical_cores"]

CPU_TOPOLOGY = Path("/sys/devices/system/cpu")
CGROUP = Path("/sys/fs/cgroup")


def physical_cores(*, topology: Path = CPU_TOPOLOGY, cgroup: Path = CGROUP) -> int:
    """Count the physical cores this process may use; at least 1.

    Respects the CPU affinity and, rounded up, the cgroup's quota.
    """
    cores = _by_topology(topology) or _by_sysctl() or len(_allowed())
    quota = _cgroup_quota(cgroup)
    if quota is not None:
        cores = min(cores, quota)
    return max(1, cores)


def _allowed() -> set[int]:
    """Give the numbers of the logical processors this process may run on."""
    if sys.platform == "linux":
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def _by_topology(topology: Path) -> int | None:
    """Count distinct groups of sibling threads (Linux, `admin-guide/cputopology`)."""
    siblings: set[str] = set()
    for number in _allowed():
        try:
            text = (topology / f"cpu{number}" / "topology" / "thread_siblings_list").read_text(
                "ascii"
            )
        except (OSError, ValueError):
            return None
        siblings.add(text.strip())
    return len(siblings)


def _by_sysctl() -> int | None:
    """Ask macOS: the performance cores where there are two kinds, else all physical cores."""
    if sys.platform != "darwin":
        return None
    import ctypes

    libc = ctypes.CDLL(None)
    for name in (b"hw.perflevel0.physicalcpu", b"hw.physicalcpu"):
        value = ctypes.c_int32(0)
        size = ctypes.c_size_t(ctypes.sizeof(value))
        if (
            libc.sysctlbyname(name, ctypes.byref(value), ctypes.byref(size), None, 0) == 0
            and value.value
        ):
            return int(value.value)
    return None


def _cgroup_quota(cgroup: Path) -> int | None:
    """Give the cores a container may use, rounded up; None when there is no limit.

    cgroup v2 has `cpu.max` ("quota period" or "max period"), v1 two files in microseconds.
    """
    try:
        quota, period = (cgroup / "cpu.max").read_text("ascii").split()
    except (OSError, ValueError):
        try:
            quota = (cgroup / "cpu" / "cpu.cfs_quota_us").read_text("ascii")
            period = (cgroup / "cpu" / "cpu.cfs_period_us").read_text("ascii")
        except (OSError, ValueError):
            return None
    try:
        limit, per = int(quota), int(period)
    except ValueError:
        return None
    return -(-limit // per) if limit > 0 and per > 0 else None
