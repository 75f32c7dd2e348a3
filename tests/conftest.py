"""Fixtures that every test may use."""

from __future__ import annotations

import contextlib
import os
import subprocess

import pytest
from wire_support import smollm2_path


def pytest_sessionstart(session):
    """Fetch the small real model before any test's time runs; tests that need it may fail."""
    if not session.config.option.collectonly:
        with contextlib.suppress(subprocess.SubprocessError, OSError):
            smollm2_path()


@pytest.fixture(autouse=True)
def _own_surroundings(tmp_path, monkeypatch):
    """Give each test directories of its own and no key, so that none sees the user's."""
    monkeypatch.setenv("TIEREDLLM_HOME", str(tmp_path / "home"))
    for name in list(os.environ):
        if name.endswith(("_API_KEY", "_PROXY", "_proxy")) or name in {
            "TIEREDLLM_PROFILE",
            "TIEREDLLM_DEBUG",
            "NO_COLOR",
        }:
            monkeypatch.delenv(name)
