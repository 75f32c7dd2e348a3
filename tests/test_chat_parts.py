"""The small parts of a chat: counting, Ctrl-C, the clipboard, the history of what was typed."""

from __future__ import annotations

import base64
import io
import os
import stat

import pytest
from chat_support import FAILURE, answer
from render_support import FakeClock

from tieredllm.chat.commands import clipboard_programs, copy_to_clipboard, osc52
from tieredllm.chat.conversation import UsageTotals
from tieredllm.chat.prompt_reader import open_history
from tieredllm.chat.repl import Interrupts, Meaning
from tieredllm.types import Usage


def test_usage_totals():
    """Answers, failures, tokens and time add up."""
    totals = UsageTotals()
    assert totals.lines() == ["nothing was asked yet"]
    totals.add(answer())
    totals.add(answer(tier="secondary", usage=Usage()))
    totals.add(answer(text=None, tier=None, error=FAILURE))

    assert totals.lines() == [
        "2 answers (primary 1, secondary 1), 1 failure, 4.5 s",
        "10 prompt + 1,000 completion tokens; not reported for 1 answer",
    ]


def test_ctrl_c_at_the_prompt():
    """One press hints, a second one soon after leaves; one too many while stopping is nothing."""
    clock = FakeClock()
    interrupts = Interrupts(clock)
    said = [interrupts.pressed()]
    clock.now += 10
    said.append(interrupts.pressed())
    clock.now += 1
    said.append(interrupts.pressed())
    clock.now += 10
    interrupts.stopped()
    clock.now += 0.2
    said.append(interrupts.pressed())
    clock.now += 1
    said.append(interrupts.pressed())

    assert said == [
        Meaning.HINT,
        Meaning.HINT,
        Meaning.LEAVE,
        Meaning.NOTHING,
        Meaning.HINT,
    ]


def test_osc52_is_what_terminals_take():
    """The sequence is OSC 52 with base64, and the text in it is clean."""
    terminal = io.StringIO()
    said = copy_to_clipboard("a\x1b[31mb\x07ü\n", {"PATH": "/nowhere"}, terminal)

    assert terminal.getvalue() == osc52("abü") == f"\x1b]52;c;{_base64('abü')}\x07"
    assert "3 characters" in said
    assert "OSC 52" in said


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def test_a_long_text_is_said_to_be_too_long_for_some():
    """What may be cut is told; without a terminal, that nothing was copied."""
    env = {"PATH": "/nowhere"}

    assert "more than most take" in copy_to_clipboard("x" * 80_000, env, io.StringIO())
    assert copy_to_clipboard("x", env, None).startswith("not copied")


def test_a_clipboard_program_gets_the_text(tmp_path, monkeypatch):
    """A program of the desktop is used where there is one; when it fails, the terminal is."""
    program = tmp_path / "wl-copy"
    program.write_text(f"#!/bin/sh\ncat > {tmp_path}/copied\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    env = {"PATH": os.environ["PATH"], "WAYLAND_DISPLAY": "wayland-0"}

    assert copy_to_clipboard("some text\n", env, None) == "copied 9 characters with wl-copy"
    assert (tmp_path / "copied").read_text() == "some text"
    program.write_text("#!/bin/sh\nexit 1\n")
    assert "OSC 52" in copy_to_clipboard("some text", env, io.StringIO())


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({}, ["pbcopy"]),
        ({"DISPLAY": ":0"}, ["xclip", "pbcopy"]),
        ({"WAYLAND_DISPLAY": "w", "TMUX": "x"}, ["wl-copy", "pbcopy", "tmux"]),
        ({"DISPLAY": ":10", "SSH_TTY": "/dev/pts/1"}, []),
        ({"DISPLAY": ":10", "SSH_CONNECTION": "a b", "TMUX": "x"}, ["tmux"]),
    ],
)
def test_which_clipboard_programs_are_tried(env, expected):
    """Over SSH the clipboard at the other end is not the user's."""
    assert [command[0] for command in clipboard_programs(env)] == expected


def test_the_history_file_is_private(tmp_path):
    """What was typed comes back, the newest first, from a file only its owner can read."""
    file = tmp_path / "state" / "chat_history"
    history = open_history(file)
    for entry in ("one", "two\n# not a date\n\nlines", "ünï\udcff"):
        history.store_string(entry)

    assert list(open_history(file).load_history_strings()) == [
        "ünï?",
        "two\n# not a date\n\nlines",
        "one",
    ]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_history_file_of_an_earlier_version_becomes_private(tmp_path):
    """A file that others could read no longer can be, and keeps its entries."""
    file = tmp_path / "chat_history"
    file.write_text("\n# 2026-01-01\n+hello\n")
    file.chmod(0o644)

    assert list(open_history(file).load_history_strings()) == ["hello"]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_history_file_that_cannot_be_used_is_done_without(tmp_path):
    """No file and no folder is no error, the session remembers; nor is one that goes away."""
    (tmp_path / "file").touch()
    history = open_history(tmp_path / "file" / "chat_history")
    history.store_string("one")
    later = open_history(tmp_path / "state" / "chat_history")
    (tmp_path / "state" / "chat_history").unlink()
    (tmp_path / "state").rmdir()
    later.store_string("one")

    assert list(history.load_history_strings()) == ["one"]
    assert list(later.load_history_strings()) == []
