"""Define the exit codes."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tieredllm.types import Answer

__all__ = ["ExitCode", "code_of"]


class ExitCode(IntEnum):
    """What a command ends with."""

    OK = 0
    """What was asked for was done; for `ask`, a whole answer of a language model."""
    FAILURE = 1
    """It could not be done; for `ask`, no answer."""
    USAGE = 2
    """The command line, the profile or the input is wrong."""
    LESS = 3
    """For `ask` and `chat`, an answer that is less: cut at a limit, or by rules."""
    INTERRUPTED = 130
    """Ctrl-C: 128 + SIGINT, as shells have it."""


def code_of(answer: Answer) -> ExitCode:
    """Return what an answer is worth."""
    if answer.error is not None:
        return ExitCode.FAILURE
    return ExitCode.LESS if answer.is_less else ExitCode.OK
