"""Processor cores and free memory are found, with the limits of containers."""

from __future__ import annotations

import os
import resource
import subprocess
import sys

import pytest

from tieredllm.local import machine


def tree(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def siblings(root, groups):
    return tree(
        root,
        {
            f"cpu{number}/topology/thread_siblings_list": group + "\n"
            for number, group in enumerate(groups)
        },
    )


@pytest.fixture
def four_processors(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})


def test_threads_of_one_core_count_once(tmp_path, four_processors):
    """Four logical processors on two cores are two cores."""
    topology = siblings(tmp_path / "cpu", ["0,2", "1,3", "0,2", "1,3"])

    assert machine.physical_cores(topology=topology, cgroup=tmp_path) == 2


def test_affinity_limits_the_cores(tmp_path, monkeypatch):
    """Cores that the process may not run on do not count."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    topology = siblings(tmp_path / "cpu", ["0", "1", "2", "3"])

    assert machine.physical_cores(topology=topology, cgroup=tmp_path) == 1


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "max 100000\n"}, 4),
        ({"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4),
        ({"cpu.max": "nonsense"}, 4),
    ],
)
def test_a_quota_limits_the_cores(tmp_path, four_processors, files, expected):
    """A container's share of the processors is respected, in both versions of cgroups."""
    topology = siblings(tmp_path / "cpus", ["0", "1", "2", "3"])

    assert expected == machine.physical_cores(
        topology=topology, cgroup=tree(tmp_path / "cg", files)
    )


def test_without_topology_the_processors_count(tmp_path, four_processors):
    """Where the kernel tells nothing of siblings, each processor is a core."""
    assert machine.physical_cores(topology=tmp_path, cgroup=tmp_path) == 4


def test_this_machine_has_cores_and_memory():
    """On the machine at hand both are found and plausible."""
    assert 1 <= machine.physical_cores() <= (os.cpu_count() or 1)
    assert machine.available_bytes() > 0


MEMINFO = "MemTotal: 16000000 kB\nMemFree: 1000 kB\nMemAvailable: 8000000 kB\n"


@pytest.mark.parametrize(
    ("proc", "cgroup", "expected"),
    [
        ({"self/cgroup": "0::/\n"}, {}, 8_192_000_000),
        (
            {"self/cgroup": "0::/a/b\n"},
            {
                "a/b/memory.max": "max\n",
                "a/b/memory.current": "5\n",
                "a/memory.max": "1000000\n",
                "a/memory.current": "900000\n",
                "a/memory.stat": "anon 1\ninactive_file 50000\n",
            },
            150_000,
        ),
        (  # a scope of a user's session: the controller is not handed down to it
            {"self/cgroup": "0::/user.slice/user-1000.slice/session-3.scope\n"},
            {
                "user.slice/user-1000.slice/session-3.scope/cgroup.procs": "1\n",
                "user.slice/user-1000.slice/memory.max": "1000000\n",
                "user.slice/user-1000.slice/memory.current": "300000\n",
            },
            700_000,
        ),
        (
            {"self/cgroup": "4:memory:/x\n0::/\n"},
            {
                "memory/x/memory.limit_in_bytes": "2000000\n",
                "memory/x/memory.usage_in_bytes": "1500000\n",
            },
            500_000,
        ),
        (
            {"self/cgroup": "4:cpu,memory:/on/the/host\n"},
            {
                "memory/memory.limit_in_bytes": "2000000\n",
                "memory/memory.usage_in_bytes": "2500000\n",
            },
            0,
        ),
        (  # a parent that is seen
            {"self/cgroup": "4:memory:/pod/x\n"},
            {
                "memory/pod/x/memory.limit_in_bytes": "9223372036854771712\n",
                "memory/pod/x/memory.usage_in_bytes": "100000\n",
                "memory/pod/memory.limit_in_bytes": "2000000\n",
                "memory/pod/memory.usage_in_bytes": "1700000\n",
            },
            300_000,
        ),
        (  # a parent that is not: only its limit is told
            {"self/cgroup": "4:memory:/on/the/host\n"},
            {
                "memory/memory.limit_in_bytes": "9223372036854771712\n",
                "memory/memory.usage_in_bytes": "100000\n",
                "memory/memory.stat": "hierarchical_memory_limit 600000\ntotal_inactive_file 7\n",
            },
            500_007,
        ),
        (  # a path from another namespace's root leads out of the mount
            {"self/cgroup": "4:memory:/..\n"},
            {
                "memory/memory.limit_in_bytes": "9223372036854771712\n",
                "memory/memory.usage_in_bytes": "100000\n",
                "memory/memory.stat": "hierarchical_memory_limit 600000\n",
            },
            500_000,
        ),
    ],
)
def test_the_least_limit_decides_the_memory(tmp_path, proc, cgroup, expected):
    """What the machine has and what each level of the cgroups leaves: the least of them."""
    found = machine.available_bytes(
        proc=tree(tmp_path / "proc", {"meminfo": MEMINFO, **proc}),
        cgroup=tree(tmp_path / "cgroup", {"x": "", **cgroup}),
    )

    assert expected == found


def test_a_limited_address_space_counts():
    """`ulimit -v` limits what is available."""
    code = "from tieredllm.local.machine import available_bytes; print(available_bytes())"
    limit = 600 * 1024 * 1024
    found = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
    )

    assert 0 < int(found.stdout) < limit
