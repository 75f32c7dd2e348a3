"""Define the exit codes."""

from __future__ import annotations

from enum import IntEnum

__all__ = ["ExitCode"]


class ExitCode(IntEnum):
    """Say with what a command ends."""

    OK = 0
    """What was asked for was done; for `ask`, a complete answer (a rule answer too)."""
    FAILURE = 1
    """It could not be done; for `ask`, no complete answer."""
    USAGE = 2
    """The command line, the profile or the input is wrong."""
    INTERRUPTED = 130
    """Ctrl-C: 128 + SIGINT, as shells have it."""
