"""What a command must not load: start-up time is decided by imports."""

from __future__ import annotations

import subprocess
import sys

import pytest
from cli_support import REFUSED, answering, environment, served, two_clouds

ALWAYS_TOO_HEAVY = {"pydantic", "numpy", "huggingface_hub", "prompt_toolkit", "mcp", "pip"}
TERMINAL_ONLY = {"rich", "markdown_it", "pygments"}
LOCAL_ONLY = {"llama_cpp", "jinja2", "tieredllm.local.worker"}
TOLD_ONLY = {"smtplib", "tieredllm.notify", "tieredllm.tools", "jsonschema"}
NETWORK = {"httpx", "httpcore", "ssl", "anyio"}
ENGINE = {"asyncio", "yaml", "msgspec", "sqlite3", "tieredllm.client", "tieredllm.errors"}


def loaded(home, *args: str) -> set[str]:
    """Run a command and give the modules its process loaded."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "tieredllm", *args],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env=environment(home),
        timeout=60,
        check=False,
    )
    assert done.returncode in (0, 3)
    return {
        line.rpartition("|")[2].strip()
        for line in done.stderr.splitlines()
        if line.startswith("import time:")
    }


@pytest.mark.parametrize("args", [["--help"], ["--version"]])
def test_help_and_version_load_nothing_heavy(tmp_path, args):
    """`--help` and `--version` load the command-line library and little else."""
    heavy = ALWAYS_TOO_HEAVY | TERMINAL_ONLY | LOCAL_ONLY | TOLD_ONLY | NETWORK | ENGINE | {"regex"}

    assert loaded(tmp_path, *args) & heavy == set()


def test_a_cloud_answer(tmp_path):
    """A cloud's answer into a pipe loads no terminal rendering, no local model and no rules."""
    with served(answering("ok")) as server:
        modules = loaded(tmp_path, "-p", two_clouds(tmp_path, server.url + "/v1"), "ask", "why?")

    heavy = ALWAYS_TOO_HEAVY | TERMINAL_ONLY | LOCAL_ONLY | TOLD_ONLY
    assert modules & (heavy | {"regex", "tieredllm.providers.anthropic"}) == set()
    assert "httpx" in modules


def test_a_rule_answer(tmp_path):
    """A rule answer loads no terminal rendering and no local model."""
    modules = loaded(tmp_path, "-p", two_clouds(tmp_path, REFUSED), "ask", "-q", "hello")

    assert modules & (ALWAYS_TOO_HEAVY | TERMINAL_ONLY | LOCAL_ONLY | TOLD_ONLY) == set()


def test_rules_alone_load_no_network(tmp_path):
    """A request that starts at the rules loads no HTTP library."""
    path = two_clouds(tmp_path, REFUSED)
    modules = loaded(tmp_path, "-p", path, "ask", "-q", "-t", "rules", "hello")

    assert modules & {"httpx", "httpcore", "anyio"} == set()


def test_importing_the_package_is_cheap():
    """`import tieredllm` loads nothing but itself."""
    code = "import sys, tieredllm; print(*sorted(m for m in sys.modules if '.' not in m))"
    modules = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True
    ).stdout.split()

    assert set(modules) & (ENGINE | NETWORK | ALWAYS_TOO_HEAVY | TERMINAL_ONLY | {"typer"}) == set()


def test_everything_exported_is_there():
    """Each exported name can be had, and `__all__` names all of them."""
    import tieredllm

    for name in tieredllm.__all__:
        assert getattr(tieredllm, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = tieredllm.nonsense


def test_a_short_command_looks_for_no_garbage(tmp_path):
    """Start-up makes objects that stay: hardly a collection runs, and none over all at the end."""
    code = """
import atexit, gc, sys
seen = []
gc.callbacks.append(lambda phase, info: phase == "start" and seen.append(phase))
atexit.register(lambda: print(len(seen), gc.get_freeze_count() > 0, file=sys.stderr))
sys.argv = ["tieredllm", "--help"]
from tieredllm.__main__ import main
main()
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=environment(tmp_path),
        timeout=60,
        check=True,
    )

    collections, frozen = done.stderr.split()
    assert (int(collections) < 10, frozen) == (True, "True")
