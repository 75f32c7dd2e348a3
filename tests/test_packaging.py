"""What is installed: locked, hashed, declared, and asked for in one command."""

from __future__ import annotations

import ast
import importlib.util
import io
import json
import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
LOCKS = ("runtime", "dev", "lowest", "build")
PIN = re.compile(
    r"(?m)^([a-z0-9-]+)==(\S+)(?: ; (.*?))?(?: \\)?$"
    r"((?:\n {4}--hash=sha256:[0-9a-f]{64}(?: \\)?$)*)"
)
EXTRAS = PROJECT["optional-dependencies"]


def locked(name: str) -> dict[str, set[str]]:
    """Return a lock file's versions, by package: one, or one per marker."""
    versions: dict[str, set[str]] = {}
    for pin in PIN.finditer((ROOT / "requirements" / f"{name}.txt").read_text("utf-8")):
        versions.setdefault(pin[1], set()).add(pin[2])
    return versions


def requirements(*extras: str) -> list[Requirement]:
    """Return what pyproject.toml asks for, with the extras that other extras name."""
    found = [Requirement(text) for text in PROJECT["dependencies"]]
    for extra in extras:
        for requirement in map(Requirement, EXTRAS[extra]):
            if requirement.name == PROJECT["name"]:
                found += requirements(*requirement.extras)
            else:
                found.append(requirement)
    return found


@pytest.mark.parametrize(
    ("lock", "extras"), [("runtime", ()), ("dev", ("dev",)), ("lowest", ("dev",))]
)
def test_the_locks_fit_the_project(lock, extras):
    """Each requirement of pyproject.toml is locked at a version it allows; else: `make lock`."""
    versions = locked(lock)

    unmet = [
        str(requirement)
        for requirement in requirements(*extras)
        if not all(
            requirement.specifier.contains(version)
            for version in versions.get(canonicalize_name(requirement.name), {"0"})
        )
    ]
    assert unmet == []


def test_the_tests_run_on_what_is_shipped():
    """What both locks hold, they hold at the same version."""
    runtime, dev = locked("runtime"), locked("dev")

    assert {name: dev.get(name) for name in runtime} == runtime


@pytest.mark.parametrize("lock", LOCKS)
def test_every_locked_package_has_hashes_and_no_address(lock):
    """Each pin names the hashes of its files, and nothing says where they come from."""
    text = (ROOT / "requirements" / f"{lock}.txt").read_text("utf-8")

    assert re.findall(r"(?m)^[^\s#]+", text) == [
        f"{pin[1]}=={pin[2]}" for pin in PIN.finditer(text)
    ]
    assert all(pin[4] for pin in PIN.finditer(text))
    assert "//" not in text


def imported() -> dict[str, list[str]]:
    """Return each foreign package that tieredllm imports anywhere, with the files that do."""
    found: dict[str, list[str]] = {}
    for path in sorted((ROOT / "tieredllm").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module or ""]
            else:
                continue
            for name in {name.partition(".")[0] for name in names}:
                if name not in sys.stdlib_module_names and name != "tieredllm":
                    found.setdefault(name, []).append(str(path.relative_to(ROOT)))
    return found


def test_every_imported_package_is_declared():
    """Nothing is imported that only comes along with something else."""
    users = [extra for extra in EXTRAS if extra != "dev"]
    declared = {canonicalize_name(requirement.name) for requirement in requirements(*users)}
    distributions = packages_distributions()

    undeclared = {
        name: files
        for name, files in imported().items()
        if declared.isdisjoint(map(canonicalize_name, distributions.get(name, [name])))
    }
    assert undeclared == {}


def test_every_declared_package_is_used():
    """What is asked of a user's machine is imported somewhere, or started (pip)."""
    distributions = packages_distributions()
    used = {
        canonicalize_name(distribution)
        for name in imported()
        for distribution in distributions.get(name, [])
    }

    declared = {canonicalize_name(requirement.name) for requirement in requirements()}
    assert declared - used - {"pip", "llama-cpp-python"} == set()


def test_types_are_published():
    """A type checker may read tieredllm's annotations (PEP 561)."""
    assert (ROOT / "tieredllm" / "py.typed").is_file()


@pytest.mark.parametrize(
    "question",
    [
        'what does "yield" do? $HOME',
        "$(shell touch made) `touch made` $(touch made) ${PATH} $$ %d \\ # ; & | *",
        "it's\ntwo lines",
        "-n",
        "--help",
    ],
)
def test_make_ask_passes_any_question_unharmed(tmp_path, question):
    """`make ask` asks exactly what was typed, and ends with what puts `tieredllm` on the PATH."""
    binaries = tmp_path / "bin"
    binaries.mkdir()
    asked = tmp_path / "asked.json"
    fake = binaries / "tieredllm"
    fake.write_text(
        f"#!{sys.executable}\nimport json, sys\n"
        f"sys.argv[1] == 'models' or open({str(asked)!r}, 'w').write(json.dumps(sys.argv[1:]))\n"
    )
    fake.chmod(0o755)
    for name in ("bin/python", ".installed"):  # as new as can be: nothing is to be installed
        (tmp_path / name).touch()

    made = subprocess.run(
        ["make", "--no-print-directory", "ask", f"VENV={tmp_path}", f"Q={question}"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=True,
    )

    assert json.loads(asked.read_text()) == ["ask", "--", question]
    assert made.stdout.splitlines()[-1].endswith(f'export PATH="{binaries}:$PATH"')
    assert not (ROOT / "made").exists()


PIP_SAYS = """\
Collecting llama-cpp-python==0.3.36 (from -r requirements/runtime.txt (line 367))
Building wheels for collected packages: llama-cpp-python
  Building wheel for llama-cpp-python (pyproject.toml): started
  [1/84] /usr/bin/cc -DGGML_BACKEND_SHARED …
  [42/84] /usr/bin/c++ -DGGML_BACKEND_SHARED …
  Building wheel for llama-cpp-python (pyproject.toml): finished with status 'done'
Installing collected packages: llama-cpp-python
"""
"""What pip 26.3 prints with `--verbose`, shortened."""


@pytest.fixture
def install():
    """The script that installs, as a module."""
    spec = importlib.util.spec_from_file_location("install", ROOT / "scripts" / "install.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("features", "version", "before", "flags"),
    [
        ("avx2 amx_tile", "12.2.0", None, "-fno-dse"),
        ("avx2 amx_tile", "13.2.0", "-O2", "-O2 -fno-dse"),
        ("avx2 amx_tile", "13.3.0", "-O2", "-O2"),
        ("avx2 amx_tile", "", None, None),
        ("avx2", "12.2.0", None, None),
    ],
)
def test_kernels_for_amx_are_compiled_whole(install, tmp_path, features, version, before, flags):
    """A GCC that drops stores is told not to, where the processor has AMX; no other compiler is."""
    compiler = tmp_path / "c++"
    compiler.write_text(f"#!/bin/sh\n[ $1 = -dumpfullversion ] && echo {version}\n")
    compiler.chmod(0o755)
    (tmp_path / "cpuinfo").write_text(f"processor : 0\nflags : {features}\n")
    env = {"CXX": str(compiler)} | ({"CXXFLAGS": before} if before else {})

    assert install.compiling(env, tmp_path / "cpuinfo").get("CXXFLAGS") == flags


def test_compiling_goes_on_without_a_compiler(install, tmp_path):
    """What is missing is told by pip, not by the look for it."""
    env = {"CXX": str(tmp_path / "none")}

    assert install.compiling(env) == env


def test_compiling_is_no_silence(install, monkeypatch):
    """While llama.cpp compiles, a line says so, for about how long, and how far it is."""
    stderr = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stderr)
    monkeypatch.setattr(install, "PLAIN_EVERY_S", 0)
    progress = install.Progress()

    for line in PIP_SAYS.splitlines():
        progress.read(line)
    assert stderr.getvalue().splitlines() == [
        "fetching llama-cpp-python==0.3.36",
        "fetching llama-cpp-python==0.3.36",
        install.COMPILING,
        f"{install.COMPILING}: 1 of 84 files",
        f"{install.COMPILING}: 42 of 84 files",
        install.COMPILING,
        "installing the packages",
    ]
    assert "about 5 minutes" in install.COMPILING
