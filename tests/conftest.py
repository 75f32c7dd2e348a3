"""Fixtures that every test may use."""

from __future__ import annotations

import os

import pytest


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
