"""Put text on the clipboard: with a program of the desktop, or through the terminal (OSC 52)."""

from __future__ import annotations

import base64
import shutil
import subprocess
from collections.abc import Callable, Mapping
from typing import IO

from tieredllm.render.output import write
from tieredllm.text import clean

__all__ = ["copy", "osc52", "programs"]

OSC52_LIMIT = 74_994
"""Bytes that get through everywhere: many terminals take 100,000 of base64, the sequence included
(the limit of hterm's and of vim-oscyank)."""

PROGRAM_S = 3.0
"""How long a program may take; one that waits for a display that is not there would hang."""


def copy(text: str, env: Mapping[str, str], terminal: IO[str] | None) -> str:
    """Copy a text, and say in words what happened.

    Args:
        text: control characters are left out, for it may be pasted into a shell.
        env: tells which desktop there is.
        terminal: where to write an escape sequence; None when there is no terminal.
    """
    text = clean(text).rstrip("\n")
    size = f"{len(text):,} characters" if len(text) != 1 else "1 character"
    for command in programs(env, shutil.which):
        if _runs(command, text, env):
            return f"copied {size} with {command[0]}"
    if terminal is None:
        return "not copied: there is no clipboard program and no terminal"
    count = len(text.encode())
    write(terminal, osc52(text))
    said = f"sent {size} to the terminal's clipboard (OSC 52; some terminals do not take it)"
    if count > OSC52_LIMIT:
        said += f"; {count:,} bytes are more than most take"
    return said


def osc52(text: str) -> str:
    """Give the control sequence that asks a terminal to set the clipboard.

    See "Operating System Commands", Ps = 5 2, in xterm's ctlseqs.
    """
    return f"\x1b]52;c;{base64.b64encode(text.encode()).decode()}\x07"


def programs(env: Mapping[str, str], which: Callable[[str], str | None]) -> list[tuple[str, ...]]:
    """Give the programs to try, the best first.

    Over SSH the desktop of the machine at the other end is not the user's: only tmux, which knows
    the user's terminal, and the terminal itself count.

    Args:
        env: the environment.
        which: finds a program.
    """
    found: list[tuple[str, ...]] = []
    is_remote = bool(env.get("SSH_TTY") or env.get("SSH_CONNECTION"))
    if not is_remote:
        if env.get("WAYLAND_DISPLAY"):
            found.append(("wl-copy",))
        if env.get("DISPLAY"):
            found += [("xclip", "-selection", "clipboard"), ("xsel", "--clipboard", "--input")]
        found += [("pbcopy",), ("clip.exe",)]
    if env.get("TMUX"):
        found.append(("tmux", "load-buffer", "-w", "-"))
    return [command for command in found if which(command[0])]


def _runs(command: tuple[str, ...], text: str, env: Mapping[str, str]) -> bool:
    try:
        done = subprocess.run(  # noqa: S603 - one of a few fixed commands
            command,
            input=text.encode("utf-16le" if command[0] == "clip.exe" else "utf-8"),
            env=dict(env),
            stdout=subprocess.DEVNULL,  # xclip stays and would hold a pipe open
            stderr=subprocess.DEVNULL,
            timeout=PROGRAM_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0
