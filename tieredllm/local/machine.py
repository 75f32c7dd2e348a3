"""What this machine has for llama.cpp: its processor, cores, and memory that is still free."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

__all__ = ["available_bytes", "has_amx", "physical_cores", "processor_stamp"]

PROC = Path("/proc")
CPU_TOPOLOGY = Path("/sys/devices/system/cpu")
CGROUP = Path("/sys/fs/cgroup")


def available_bytes(*, proc: Path = PROC, cgroup: Path = CGROUP) -> int | None:
    """Return the bytes that can be allocated without swapping; None when that is not known.

    The least of what the machine has (`MemAvailable`, which counts cached files as free), what the
    cgroup leaves, and what the address-space limit of the process leaves.
    """
    limits = [_machine(proc), _address_space(proc)]
    known = [limit for limit in limits if limit is not None]
    for version in VERSIONS:
        known += _cgroup(version, proc, cgroup)
    return max(0, min(known)) if known else None


def _machine(proc: Path) -> int | None:
    """Read `MemAvailable` (proc_meminfo(5)); elsewhere, take half of the installed memory."""
    for line in _lines(proc / "meminfo"):
        if found := re.match(r"MemAvailable:\s*([0-9]+)", line):
            return int(found[1]) * 1024
    if sys.platform == "win32":
        return None
    try:
        # What is in use is not told here; half is what a desktop commonly leaves.
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (OSError, ValueError):
        return None


class _Version(NamedTuple):
    """Where a version of cgroups has what it says of memory."""

    controller: str
    folder: str
    limit: str
    usage: str
    droppable: str
    """The entry of `memory.stat` for file pages that count as free."""


VERSIONS = (
    _Version("", "", "memory.max", "memory.current", "inactive_file"),
    _Version(
        "memory", "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
    ),
)
"""Version 2 and version 1."""


def _cgroup(version: _Version, proc: Path, cgroup: Path) -> Iterator[int]:
    """Return what each level of the cgroup tree leaves."""
    own = _own_cgroup(proc, version.controller)
    if own is None:
        return
    root = cgroup / version.folder
    # Inside a container the path names a place on the host; then the mount itself is ours.
    # Where it is ours, it need not have a limit of its own: it may be only its parent that has one.
    seen = ".." not in Path(own).parts and (root / own).is_dir()
    here = root / own if seen else root
    for level in (here, *(parent for parent in here.parents if parent.is_relative_to(root))):
        yield from _left(version, level, _number(level / version.limit))
    # Parents that a container does not see: the least of their limits (cgroup-v1/memory.rst, 5.2).
    yield from _left(version, here, _statistic(here, "hierarchical_memory_limit"))


def _own_cgroup(proc: Path, controller: str) -> str | None:
    """Return the path of this process's cgroup; an empty controller means version 2."""
    for line in _lines(proc / "self" / "cgroup"):
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controller in controllers.split(","):
            return path.lstrip("/")
    return None


def _left(version: _Version, level: Path, limit: int | None) -> Iterator[int]:
    usage = _number(level / version.usage)
    if limit is not None and usage is not None:
        yield limit - usage + (_statistic(level, version.droppable) or 0)


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text("utf-8").splitlines()
    except (OSError, ValueError):
        return []


def _number(file: Path) -> int | None:
    """Read a file's only number; "max", which is no limit, is none."""
    text = "".join(_lines(file)).strip()
    return int(text) if re.fullmatch(r"-?[0-9]+", text) else None


def _statistic(level: Path, key: str) -> int | None:
    """Read one number of a level's `memory.stat`."""
    for line in _lines(level / "memory.stat"):
        name, _, value = line.partition(" ")
        if name == key and value.isdecimal():
            return int(value)
    return None


def _address_space(proc: Path) -> int | None:
    """Return what `ulimit -v` leaves; a mapped model file counts against it."""
    if sys.platform == "win32":
        return None
    import resource

    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY:
        return None
    try:
        pages = int("".join(_lines(proc / "self" / "statm")).split()[0])
    except (ValueError, IndexError):
        return limit
    return limit - pages * resource.getpagesize()


def physical_cores(*, topology: Path = CPU_TOPOLOGY, cgroup: Path = CGROUP) -> int:
    """Count the physical cores this process may use; at least 1.

    Two threads of one core share its vector units, so more threads than cores only get in each
    other's way (`token_generation_performance_tips.md` in llama.cpp's docs/development). Respects
    the CPU affinity and, rounded up, the cgroup's quota.
    """
    cores = _by_topology(topology) or _by_sysctl() or len(_allowed())
    quota = _cgroup_quota(cgroup)
    if quota is not None:
        cores = min(cores, quota)
    return max(1, cores)


def _allowed() -> set[int]:
    """Return the numbers of the logical processors this process may run on."""
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
    """Return the cores a container may use, rounded up; None when there is no limit.

    cgroup v2 has `cpu.max` ("quota period" or "max period"), v1 two files in microseconds.
    """
    try:
        quota, period = "".join(_lines(cgroup / "cpu.max")).split()
    except ValueError:
        quota, period = (
            "".join(_lines(cgroup / "cpu" / f"cpu.cfs_{name}_us")) for name in ("quota", "period")
        )
    try:
        limit, per = int(quota), int(period)
    except ValueError:
        return None
    return -(-limit // per) if limit > 0 and per > 0 else None


def processor_stamp(*, proc: Path = PROC) -> str:
    """Tell one kind of processor from another: a model and what llama.cpp's kernels ask of it.

    A virtual machine or a container may wake up on another host, and a home directory is shared by
    machines of several kinds.
    """
    import platform

    # Not `platform.processor()`: it starts `uname -p`. Windows says more in its environment.
    parts = [platform.machine(), os.environ.get("PROCESSOR_IDENTIFIER", "")]
    try:
        # One block per logical processor, all alike where it matters; the first will do.
        text = (proc / "cpuinfo").read_text("utf-8", "replace").partition("\n\n")[0]
    except OSError:
        text = ""
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "CPU part"):
            parts.append(value.strip())
        elif key.strip() in ("flags", "Features"):
            parts += sorted(flag for flag in value.split() if flag.startswith(KERNEL_FLAGS))
    return " ".join(filter(None, parts))


def has_amx() -> bool:
    """Whether the processor has matrix units of Intel's."""
    return "amx_tile" in processor_stamp()


KERNEL_FLAGS = (
    "amx", "avx", "bmi2", "f16c", "fma", "sse4", "ssse3", "asimd", "bf16", "i8mm", "sme", "sve"
)  # fmt: skip
"""Starts of the features that ggml's processor back end is compiled for (`ggml/src/ggml-cpu`)."""
