"""Try a model file in child processes, so that a crash in native code does not take this one."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from tieredllm.errors import FallbackTriggerError
from tieredllm.kinds import ErrorKind
from tieredllm.local.ladder import Trial
from tieredllm.local.llama_bindings import REINSTALL, StoppedError
from tieredllm.local.probe_child import ProbeLine, ProbeRequest

__all__ = ["PROBE_S", "GoOn", "Probe", "RejectedError", "probe_in_child", "unusable"]

GoOn = Callable[[], bool]

PROBE_S = 120.0
"""The longest a probe may take: a 2 GB file from a slow disk, read once."""
POLL_S = 0.05
CRASHES = frozenset(
    getattr(signal, name).value
    for name in ("SIGSEGV", "SIGABRT", "SIGBUS", "SIGILL", "SIGFPE", "SIGSYS", "SIGTRAP")
    if hasattr(signal, name)
)
"""Signals of a fault in native code; SIGKILL may be the kernel out of memory."""


class RejectedError(FallbackTriggerError):
    """Report that llama.cpp cannot use a file for what is in it, in words that follow its name."""


Probe = Callable[[ProbeRequest, GoOn], list[Trial]]
"""Try rungs in their order until one of them crashes, and return how they went.

Raises what `probe_in_child` raises.
"""


def unusable(message: str) -> FallbackTriggerError:
    """Return the error that says why a model cannot be used."""
    return FallbackTriggerError(ErrorKind.MODEL_UNAVAILABLE, message)


def probe_in_child(
    request: ProbeRequest,
    go_on: GoOn = lambda: True,
    *,
    command: Sequence[str] | None = None,
    limit_s: float = PROBE_S,
) -> list[Trial]:
    """Load a file in a child process in each way that is asked for, and compute with it.

    Args:
        request: what to try.
        go_on: asked every 50 ms; False kills the child.
        command: what to run instead of `tieredllm.local.probe_child`; the request is appended.
        limit_s: seconds the child may take.

    Returns:
        How the rungs went; those after one that crashed were not tried.

    Raises:
        StoppedError: `go_on` said so.
        RejectedError: llama.cpp cannot use the file for what is in it.
        FallbackTriggerError: it went wrong for a reason that does not lie in the file.
    """
    import subprocess
    import time

    from tieredllm.child import start_child

    deadline = time.monotonic() + limit_s
    in_time = True
    with start_child(
        "tieredllm.local.probe_child",
        [msgspec.json.encode(request).decode()],
        # Without it ggml starts a debugger, whose last line would hide that of the failed assertion
        # (`ggml_print_backtrace` in ggml.c).
        env={"GGML_NO_BACKTRACE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        command=command,
    ) as child:
        try:
            while True:
                try:
                    out, err = child.communicate(timeout=POLL_S)
                    break
                except subprocess.TimeoutExpired:
                    if not go_on():
                        raise StoppedError from None
                    if in_time and time.monotonic() > deadline:
                        in_time = False
                        child.kill()
        finally:
            child.kill()
    reason = None if in_time else f"took more than {limit_s:g} s to load"
    return _judge(request, child.returncode, out, err, reason)


def _judge(
    request: ProbeRequest, code: int, out: bytes, err: bytes, killed: str | None
) -> list[Trial]:
    """Return what a child's lines and its end mean; `killed` is why we ended it, if we did."""
    name = Path(os.fsdecode(request.path)).name
    try:
        lines = [msgspec.json.decode(line, type=ProbeLine) for line in out.splitlines()]
    except msgspec.MsgspecError:
        raise unusable(f"{name} gave no result when it was tried") from None
    trials = [
        Trial(rung=line.rung, rates=line.rates, fault=line.fault)
        for line in lines
        if line.rung is not None and line.rejected is None
    ]
    if len(trials) == len(request.rungs):
        return trials
    last = (err.decode("utf-8", "replace").strip().splitlines()[-1:] or ["no message"])[0][:200]
    # Windows gives exceptions as exit codes from 0xC0000000 on.
    crashed = killed is None and (-code in CRASHES or code >= 0xC0000000)
    rejected = next((line for line in lines if line.rejected is not None), ProbeLine())
    if rejected.rejected is not None:
        fault = rejected.rejected.removeprefix(f"{name} ")
    elif crashed:
        fault = f"{_signal_name(code)}: {last}"
    elif killed is None and code == -9:
        fault = "was killed, probably for want of memory"
    elif killed is None and code == 0:
        fault = "gave no result when it was tried"
    else:
        fault = killed or f"could not be tried (exit code {code}: {last})"
    if trials or (crashed and lines):  # it lies in this way to load the file, not in the file
        return [*trials, Trial(rung=request.rungs[len(trials)], fault=fault)]
    if rejected.bad_file:
        raise RejectedError(ErrorKind.MODEL_UNAVAILABLE, fault)
    if crashed:
        raise unusable(f"llama.cpp cannot start on this processor ({fault}): {REINSTALL}")
    raise unusable(rejected.rejected or f"{name} {fault}")


def _signal_name(code: int) -> str:
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"{code:#x}"
