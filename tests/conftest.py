"""Fixtures that every test may use."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess

import pytest
from wire_support import gemma3_path, smollm2_path


def pytest_sessionstart(session):
    """Fetch the real models before any test's time runs; tests that need one tell what failed.

    Once, also when the tests are run by several processes (`workerinput` is pytest-xdist's).

    A shell's background job has Ctrl-C ignored, one under nohup SIGHUP as well, and its children
    inherit that: they are set back, so that the tests that send them hold there, too.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in ("SIGQUIT", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_DFL)
    if not (session.config.option.collectonly or hasattr(session.config, "workerinput")):
        for fetch in (smollm2_path, gemma3_path):
            with contextlib.suppress(RuntimeError, subprocess.SubprocessError, OSError):
                fetch()


@pytest.fixture(autouse=True)
def _own_surroundings(tmp_path, monkeypatch):
    """Give each test directories of its own and no key, so that none sees the user's."""
    monkeypatch.setenv("TIEREDLLM_HOME", str(tmp_path / "home"))
    for name in ("OLLAMA_MODELS", "HF_HUB_CACHE", "LLAMA_CACHE"):  # other programs' models
        monkeypatch.setenv(name, str(tmp_path / "nothing"))
    for name in list(os.environ):
        if name.endswith(("_API_KEY", "_PROXY", "_proxy")) or name in {
            "TIEREDLLM_PROFILE",
            "TIEREDLLM_DEBUG",
            "NO_COLOR",
        }:
            monkeypatch.delenv(name)
