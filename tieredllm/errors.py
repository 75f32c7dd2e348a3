"""Define the exceptions raised on purpose, as one tree.

The tree::

    TieredLLMError
    ├── UsageError              a command line or call that cannot be carried out (exit 2)
    │   └── ProfileError        a profile, rule file or catalog with mistakes, each with its place
    ├── ModelFileError          a local model that cannot be pulled, verified or removed
    │   └── UnknownModelError   a name that the catalog lacks; a UsageError too (exit 2)
    ├── FallbackTriggerError    one attempt failed: makes its tier give way to the next
    └── NoAnswerError           every tier gave way; carries the failed `Answer`

Why an attempt failed is one of the kinds of `kinds.py`.
"""

from __future__ import annotations

import copyreg
from typing import Any

import msgspec

from tieredllm.kinds import ErrorInfo, ErrorKind
from tieredllm.types import Answer

__all__ = [
    "FallbackTriggerError",
    "Mistake",
    "ModelFileError",
    "NoAnswerError",
    "ProfileError",
    "TieredLLMError",
    "UnknownModelError",
    "UsageError",
]


class TieredLLMError(Exception):
    """Base of every error this package raises on purpose.

    All of them can be copied and pickled: pools of processes and task queues send them so.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        """Return how a copy is made: not by `__init__`, which takes other arguments than `args`."""
        return copyreg.__newobj__, (type(self), *self.args), vars(self)  # type: ignore[attr-defined]


class UsageError(TieredLLMError):
    """A request that cannot be carried out as asked; the message says what to do."""


class Mistake(msgspec.Struct, frozen=True, kw_only=True):
    """One mistake in a file the user wrote."""

    file: str
    line: int
    """1-based."""
    column: int
    """1-based."""
    message: str
    """What is wrong, and what would be right."""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}: {self.message}"


class ProfileError(UsageError):
    """Every mistake of a profile, rule file or catalog at once.

    Attributes:
        mistakes: each with file, line and column; never empty.
    """

    def __init__(self, mistakes: list[Mistake]) -> None:
        self.mistakes = mistakes
        super().__init__("\n".join(str(mistake) for mistake in mistakes))


class ModelFileError(TieredLLMError):
    """A local model file that cannot be pulled, verified or removed, and what to do."""


class UnknownModelError(ModelFileError, UsageError):
    """A name that is not in the catalog of local models; the message lists those there."""


class FallbackTriggerError(TieredLLMError):
    """One attempt on one backend has failed: makes its tier give way.

    Args:
        kind: a member of the closed set, or its value.
        message: one line for people; shown up to 300 characters.
        status: the HTTP status, where there was one.
        retry_after_s: seconds the server asked to wait.
        again: overrides the kind's policy where the cause is known better: False for a refused
            connection (nothing listens there), True for one that was reset before the first byte.
        parameter: the request parameter the server named as unsupported (wire name).
        tool: the tool whose declaration the server rejects; `parameter` is what leaves it out.
        lasting: whether the parameter is worth remembering for later requests.
        counts: overrides the kind's policy where the cause is known better: False for a request
            that was never sent.
        truncated: whether the limit of tokens was used up before an answer began.
    """

    def __init__(
        self,
        kind: ErrorKind | str,
        message: str = "",
        *,
        status: int | None = None,
        retry_after_s: float | None = None,
        again: bool | None = None,
        parameter: str | None = None,
        tool: str | None = None,
        lasting: bool = True,
        counts: bool | None = None,
        truncated: bool = False,
    ) -> None:
        self.kind = ErrorKind(kind)
        self.message = message
        self.status = status
        self.retry_after_s = retry_after_s
        self.again = again
        self.parameter = parameter
        self.tool = tool
        self.lasting = lasting
        self.counts = counts
        self.truncated = truncated
        super().__init__(str(self.info))

    @property
    def info(self) -> ErrorInfo:
        """The failure as data."""
        return ErrorInfo(
            kind=self.kind,
            message=self.message,
            status=self.status,
            retry_after_s=self.retry_after_s,
            truncated=self.truncated,
        )


class NoAnswerError(TieredLLMError):
    """No tier answered.

    Attributes:
        answer: the failed answer: its text is None, its `error` and `attempts` say what happened.
    """

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        super().__init__(answer.original_error or str(answer.error or "no tier answered"))
