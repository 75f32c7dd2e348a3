"""Define what can go wrong, as one tree and one closed table.

The tree::

    TieredLLMError
    ├── UsageError              a command line or call that cannot be carried out (exit 2)
    │   └── ProfileError        a profile, rule file or catalog with mistakes, each with its place
    ├── ModelFileError          a local model that cannot be pulled, verified or removed
    │   └── UnknownModelError   a name that the catalog lacks; a UsageError too (exit 2)
    ├── FallbackTriggerError    one attempt failed: makes its tier give way to the next
    └── NoAnswerError           every tier gave way; carries the failed `Answer`

The closed set of error kinds, and what follows from each, is `POLICIES`.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Literal

import msgspec

if TYPE_CHECKING:
    from tieredllm.types import Answer

__all__ = [
    "POLICIES",
    "ErrorInfo",
    "ErrorKind",
    "FallbackTriggerError",
    "KindPolicy",
    "Mistake",
    "ModelFileError",
    "NoAnswerError",
    "ProfileError",
    "TieredLLMError",
    "UnknownModelError",
    "UsageError",
]


class ErrorKind(StrEnum):
    """Name why an attempt failed."""

    RATE_LIMIT = "rate_limit"
    QUOTA_EXHAUSTED = "quota_exhausted"
    SERVICE_UNAVAILABLE = "service_unavailable"
    CONNECTION = "connection"
    TLS = "tls"
    TIMEOUT = "timeout"
    AUTHENTICATION = "authentication"
    PERMISSION = "permission"
    NOT_FOUND = "not_found"
    CONTEXT_LENGTH = "context_length"
    CONTENT_FILTER = "content_filter"
    BAD_REQUEST = "bad_request"
    MALFORMED_RESPONSE = "malformed_response"
    EMPTY_RESPONSE = "empty_response"
    STREAM_INTERRUPTED = "stream_interrupted"
    MODEL_UNAVAILABLE = "model_unavailable"
    DEADLINE = "deadline"
    UNEXPECTED = "unexpected"


class KindPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """Say what follows from one kind of error."""

    again: Literal["never", "backoff", "retry_after"] = "never"
    """Whether the same backend is asked again: never, after a backoff, or when the server says."""
    counts: bool = True
    """Whether the failure counts against the backend's health."""
    bench_s: float | None = None
    """Seconds the backend is set aside at once, or None when the circuit breaker alone decides."""


POLICIES: dict[ErrorKind, KindPolicy] = {
    ErrorKind.RATE_LIMIT: KindPolicy(again="retry_after"),
    ErrorKind.QUOTA_EXHAUSTED: KindPolicy(bench_s=3600.0),
    ErrorKind.SERVICE_UNAVAILABLE: KindPolicy(again="backoff"),
    ErrorKind.CONNECTION: KindPolicy(again="backoff"),
    ErrorKind.TLS: KindPolicy(),
    ErrorKind.TIMEOUT: KindPolicy(),
    ErrorKind.AUTHENTICATION: KindPolicy(bench_s=300.0),
    ErrorKind.PERMISSION: KindPolicy(bench_s=300.0),
    ErrorKind.NOT_FOUND: KindPolicy(bench_s=300.0),
    ErrorKind.CONTEXT_LENGTH: KindPolicy(counts=False),
    ErrorKind.CONTENT_FILTER: KindPolicy(counts=False),
    ErrorKind.BAD_REQUEST: KindPolicy(counts=False),
    ErrorKind.MALFORMED_RESPONSE: KindPolicy(again="backoff"),
    ErrorKind.EMPTY_RESPONSE: KindPolicy(again="backoff"),
    ErrorKind.STREAM_INTERRUPTED: KindPolicy(),
    ErrorKind.MODEL_UNAVAILABLE: KindPolicy(),
    ErrorKind.DEADLINE: KindPolicy(counts=False),
    ErrorKind.UNEXPECTED: KindPolicy(),
}
"""The table of the contract, one row per kind."""


class ErrorInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Hold one failure as data: what JSON, the log and the notifications show."""

    kind: ErrorKind
    message: str
    """One line, at most 300 characters, without keys or markup."""
    status: int | None = None
    """The HTTP status, where there was one."""
    retry_after_s: float | None = None
    """Seconds the server asked to wait, where it did."""

    def __str__(self) -> str:
        if self.status is not None:
            return f"{self.kind} ({self.status}) {self.message}".rstrip()
        return f"{self.kind}: {self.message}" if self.message else str(self.kind)


class TieredLLMError(Exception):
    """Be the base of every error this package raises on purpose."""


class UsageError(TieredLLMError):
    """Report a request that cannot be carried out as asked; the message says what to do."""


class Mistake(msgspec.Struct, frozen=True, kw_only=True):
    """Hold one mistake in a file the user wrote."""

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
    """Report every mistake of a profile, rule file or catalog at once.

    Attributes:
        mistakes: each with file, line and column; never empty.
    """

    def __init__(self, mistakes: list[Mistake]) -> None:
        self.mistakes = mistakes
        super().__init__("\n".join(str(mistake) for mistake in mistakes))


class ModelFileError(TieredLLMError):
    """Report a local model file that cannot be pulled, verified or removed, and what to do."""


class UnknownModelError(ModelFileError, UsageError):
    """Report a name that is not in the catalog of local models; the message lists those there."""


class FallbackTriggerError(TieredLLMError):
    """Make a tier give way: one attempt on one backend has failed.

    Args:
        kind: a member of the closed set, or its value.
        message: one line for people; shown up to 300 characters.
        status: the HTTP status, where there was one.
        retry_after_s: seconds the server asked to wait.
        again: overrides the kind's policy where the cause is known better: False for a refused
            connection (nothing listens there), True for one that was reset before the first byte.
        parameter: the request parameter the server named as unsupported (wire name).
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
    ) -> None:
        self.kind = ErrorKind(kind)
        self.message = message
        self.status = status
        self.retry_after_s = retry_after_s
        self.again = again
        self.parameter = parameter
        super().__init__(str(self.info))

    @property
    def info(self) -> ErrorInfo:
        """Give the failure as data."""
        return ErrorInfo(
            kind=self.kind,
            message=self.message,
            status=self.status,
            retry_after_s=self.retry_after_s,
        )


class NoAnswerError(TieredLLMError):
    """Report that no tier answered.

    Attributes:
        answer: the failed answer: its text is None, its `error` and `attempts` say what happened.
    """

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        super().__init__(answer.original_error or "no tier answered")
