"""Test that a user without a home (in a container, as a service) is served all the same."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tieredllm.files import Places

pytestmark = pytest.mark.skipif(os.name == "nt", reason="there a user always has a home")

UNKNOWN = """
import pwd
def unknown(uid):
    raise KeyError(f"getpwuid(): uid not found: {uid}")
pwd.getpwuid = unknown
"""
"""What the system says of a user that its list does not know."""

NOTICE = b"this user has no home directory, so nothing is kept: set HOME, or TIEREDLLM_HOME"


@pytest.fixture
def homeless(tmp_path):
    """Give what runs a command as an unknown user without HOME, in an empty directory."""
    (tmp_path / "unknown").mkdir()
    (tmp_path / "unknown" / "sitecustomize.py").write_text(UNKNOWN)
    (tmp_path / "here").mkdir()

    def run(*args, **extra):
        env = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.pathsep.join([str(tmp_path / "unknown"), *sys.path]),
            **extra,
        }
        done = subprocess.run(
            [sys.executable, "-P", "-m", "tieredllm", *args],
            env=env,
            cwd=tmp_path / "here",
            input=b"",
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert b"unexpected" not in done.stderr
        assert list((tmp_path / "here").iterdir()) == []
        return done

    return run


def test_a_question_is_answered(homeless):
    """By the shipped profile, with one line about what is not kept."""
    done = homeless("ask", "--allow-rules", "hello")

    assert done.returncode == 3
    assert b"fallback mode" in done.stdout
    assert done.stderr.count(NOTICE) == 1
    assert b"cannot" not in done.stderr


def test_quiet_means_quiet(homeless):
    """`-q` hides that line as well."""
    assert NOTICE not in homeless("-q", "ask", "--allow-rules", "hello").stderr


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("health", 1),
        ("profile list", 0),
        ("profile show", 0),
        ("profile validate", 0),
        ("keys list", 0),
        ("models list", 0),
        ("models path", 0),
        ("tools list", 0),
        ("rules test hello", 0),
        ("drill", 0),
        ("ask -c again", 2),
        ("keys set X_KEY", 2),
    ],
)
def test_every_command_has_its_own_say(homeless, command, code):
    """None ends in an error about directories where it needs none of them."""
    done = homeless(*command.split())

    assert done.returncode == code, done.stderr
    assert NOTICE in done.stderr or b"tieredllm:" in done.stderr


def test_a_home_can_be_named(homeless, tmp_path):
    """TIEREDLLM_HOME is enough."""
    done = homeless("ask", "--allow-rules", "hello", TIEREDLLM_HOME=str(tmp_path / "named"))

    assert NOTICE not in done.stderr
    assert (tmp_path / "named" / "state" / "state.db").exists()


def test_a_home_that_is_not_absolute_is_not_followed(monkeypatch):
    """A relative HOME would make the current directory one's configuration."""
    for name in list(os.environ):
        if name.startswith("XDG_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", "here")

    assert Places.from_environment({}).config.is_absolute()
