"""The small parts of a chat: counting, Ctrl-C, the clipboard, the history of what was typed."""

from __future__ import annotations

import base64
import io
import os
import stat

import pytest
from chat_support import FAILURE, answer
from render_support import FakeClock

from tieredllm.chat.clipboard import copy, osc52, programs
from tieredllm.chat.history_file import MOST_BYTES, PrivateHistory
from tieredllm.chat.interrupts import Interrupts, Meaning
from tieredllm.chat.tally import Tally
from tieredllm.types import Usage


def test_tally():
    """Answers, failures, tokens and time add up."""
    tally = Tally()
    assert tally.lines() == ["nothing was asked yet"]
    tally.add(answer())
    tally.add(answer(tier="secondary", usage=Usage()))
    tally.add(answer(text=None, tier=None, error=FAILURE))

    assert tally.lines() == [
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
    said = copy("a\x1b[31mb\x07ü\n", {"PATH": "/nowhere"}, terminal)

    assert terminal.getvalue() == osc52("abü") == f"\x1b]52;c;{_base64('abü')}\x07"
    assert "3 characters" in said
    assert "OSC 52" in said


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def test_a_long_text_is_said_to_be_too_long_for_some():
    """What may be cut is told; without a terminal, that nothing was copied."""
    env = {"PATH": "/nowhere"}

    assert "more than most take" in copy("x" * 80_000, env, io.StringIO())
    assert copy("x", env, None).startswith("not copied")


def test_a_clipboard_program_gets_the_text(tmp_path, monkeypatch):
    """A program of the desktop is used where there is one; when it fails, the terminal is."""
    program = tmp_path / "wl-copy"
    program.write_text(f"#!/bin/sh\ncat > {tmp_path}/copied\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    env = {"PATH": os.environ["PATH"], "WAYLAND_DISPLAY": "wayland-0"}

    assert copy("some text\n", env, None) == "copied 9 characters with wl-copy"
    assert (tmp_path / "copied").read_text() == "some text"
    program.write_text("#!/bin/sh\nexit 1\n")
    assert "OSC 52" in copy("some text", env, io.StringIO())


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({}, ["pbcopy", "clip.exe"]),
        ({"DISPLAY": ":0"}, ["xclip", "xsel", "pbcopy", "clip.exe"]),
        ({"WAYLAND_DISPLAY": "w", "TMUX": "x"}, ["wl-copy", "pbcopy", "clip.exe", "tmux"]),
        ({"DISPLAY": ":10", "SSH_TTY": "/dev/pts/1"}, []),
        ({"DISPLAY": ":10", "SSH_CONNECTION": "a b", "TMUX": "x"}, ["tmux"]),
    ],
)
def test_which_clipboard_programs_are_tried(env, expected):
    """Over SSH the clipboard at the other end is not the user's."""
    assert [command[0] for command in programs(env, lambda name: name)] == expected


def test_the_history_file_is_private(tmp_path):
    """What was typed comes back, the newest first, from a file only its owner can read."""
    file = tmp_path / "state" / "chat_history"
    history = PrivateHistory(file)
    for entry in ("one", "two\n# not a date\n\nlines", "ünï\udcff"):
        history.store_string(entry)

    assert list(PrivateHistory(file).load_history_strings()) == [
        "ünï?",
        "two\n# not a date\n\nlines",
        "one",
    ]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_long_history_file_is_shortened(tmp_path):
    """A file that has grown too long keeps its newer half, whole entries only."""
    file = tmp_path / "chat_history"
    history = PrivateHistory(file)
    for number in range(12):
        history.store_string(f"{number} " + "x" * (MOST_BYTES // 10))
    entries = list(PrivateHistory(file).load_history_strings())

    assert [entry.split()[0] for entry in entries] == ["11", "10", "9", "8"]
    assert file.stat().st_size <= MOST_BYTES // 2
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_history_file_that_cannot_be_used_is_done_without(tmp_path):
    """No file and no folder is no error."""
    (tmp_path / "file").touch()
    history = PrivateHistory(tmp_path / "file" / "chat_history")
    history.store_string("one")

    assert list(history.load_history_strings()) == []
