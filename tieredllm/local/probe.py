"""Try a model file in a child process, so that a crash in native code does not take this one."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from tieredllm.errors import FallbackTriggerError
from tieredllm.kinds import ErrorKind
from tieredllm.local.llama_bindings import StoppedError

__all__ = ["TRIAL_S", "GoOn", "TryOut", "try_in_child", "unusable"]

GoOn = Callable[[], bool]
TryOut = Callable[[Path, GoOn], str | None]

TRIAL_S = 120.0
"""The longest a trial may take: a 2 GB file from a slow disk, read once."""
POLL_S = 0.05
CRASHES = frozenset(
    getattr(signal, name).value
    for name in ("SIGSEGV", "SIGABRT", "SIGBUS", "SIGILL", "SIGFPE", "SIGSYS", "SIGTRAP")
    if hasattr(signal, name)
)
"""Signals that mean the file is at fault; SIGKILL may be the kernel out of memory."""


def unusable(message: str) -> FallbackTriggerError:
    """Say that a model cannot be used, and why."""
    return FallbackTriggerError(ErrorKind.MODEL_UNAVAILABLE, message)


def try_in_child(
    path: Path,
    go_on: GoOn = lambda: True,
    *,
    command: Sequence[str] | None = None,
    limit_s: float = TRIAL_S,
) -> str | None:
    """Load a file in a child process, which decodes one token.

    Args:
        path: the file.
        go_on: asked every 50 ms; False kills the child.
        command: what to run instead of `tieredllm.local.probe_child`; the path is appended.
        limit_s: seconds the child may take.

    Returns:
        None when it went well; else what is wrong, in words that follow the file's name.

    Raises:
        StoppedError: `go_on` said so.
        FallbackTriggerError: it went wrong, but not (certainly) for a reason that lies in the file.
    """
    import subprocess
    import time

    if command is None:
        if not sys.executable:  # embedded: there is no interpreter to start
            return None
        command = (sys.executable, "-P", "-m", "tieredllm.local.probe_child")
    # The package may have been found in a way the child does not know of, such as the current
    # directory, which `-P` keeps out: whatever lies there must not replace a module.
    root = str(Path(__file__).resolve().parents[2])
    search_path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    deadline = time.monotonic() + limit_s
    with subprocess.Popen(  # noqa: S603 - our own interpreter and module
        [*command, str(path)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": search_path},
    ) as child:
        try:
            while True:
                try:
                    out, err = child.communicate(timeout=POLL_S)
                    break
                except subprocess.TimeoutExpired:
                    if not go_on():
                        raise StoppedError from None
                    if time.monotonic() > deadline:
                        raise unusable(
                            f"{path.name} took more than {limit_s:g} s to load"
                        ) from None
        finally:
            child.kill()
    return _judge(path, child.returncode, out, err)


class _TrialResult(msgspec.Struct, frozen=True):
    reason: str | None
    bad_file: bool


def _judge(path: Path, code: int, out: bytes, err: bytes) -> str | None:
    """Say what a child's end means."""
    if code == 0:
        try:
            result = msgspec.json.decode(out, type=_TrialResult)
        except msgspec.MsgspecError:
            raise unusable(f"{path.name} gave no result when it was tried") from None
        if result.reason is None:
            return None
        reason = result.reason.removeprefix(f"{path.name} ")
        if result.bad_file:
            return reason
        raise unusable(f"{path.name} {reason}")
    last = err.decode("utf-8", "replace").strip().splitlines()[-1:] or ["no message"]
    # Windows gives exceptions as exit codes from 0xC0000000 on.
    if -code in CRASHES or code >= 0xC0000000:
        return f"makes llama.cpp crash ({_signal_name(code)}: {last[0][:200]})"
    if code == -9:
        raise unusable(f"loading {path.name} was killed, probably for want of memory")
    raise unusable(f"{path.name} could not be tried (exit code {code}: {last[0][:200]})")


def _signal_name(code: int) -> str:
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"{code:#x}"
