"""Define why an attempt can fail: a closed set of kinds, and what follows from each."""

from __future__ import annotations

from enum import StrEnum

import msgspec

__all__ = ["FIXES", "POLICIES", "ErrorInfo", "ErrorKind", "KindPolicy"]


class ErrorKind(StrEnum):
    """Why an attempt failed."""

    RATE_LIMIT = "rate_limit"
    """429: too many requests, or tokens, at a time."""
    QUOTA_EXHAUSTED = "quota_exhausted"
    """402, or a code or sentence that says so, whatever the status: money or the month's share
    is used up."""
    SERVICE_UNAVAILABLE = "service_unavailable"
    """408, 409, 425, 5xx, 529, or an error inside a 200."""
    CONNECTION = "connection"
    """Refused, no such name, reset."""
    TLS = "tls"
    """A certificate, or the handshake."""
    TIMEOUT = "timeout"
    """No first token, no answer, or nothing after the thoughts, in time."""
    AUTHENTICATION = "authentication"
    """401, or the vendor's word for a wrong key."""
    PERMISSION = "permission"
    """403."""
    NOT_FOUND = "not_found"
    """404: the model or the address."""
    CONTEXT_LENGTH = "context_length"
    """The question does not fit, whatever the status; a 429 for more than the limit itself."""
    CONTENT_FILTER = "content_filter"
    """The vendor or the model refuses."""
    BAD_REQUEST = "bad_request"
    """Other 4xx; a redirect, which is never followed."""
    MALFORMED_RESPONSE = "malformed_response"
    """HTML, half JSON, no answer in it."""
    EMPTY_RESPONSE = "empty_response"
    """Blank text, or nothing but thoughts."""
    STREAM_INTERRUPTED = "stream_interrupted"
    """Cut, silent or failed after the answer began."""
    MODEL_UNAVAILABLE = "model_unavailable"
    """A model file that is missing, damaged or too large for the memory; llama.cpp fails."""
    DEADLINE = "deadline"
    """The request's own time was up."""
    UNEXPECTED = "unexpected"
    """Anything else."""


class KindPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """What follows from one kind of error."""

    again: bool = False
    """Whether the same backend is asked again, after the wait the server asks for or a backoff."""
    counts: bool = True
    """Whether the failure counts against the backend's health."""
    bench_s: float | None = None
    """Seconds the backend is set aside at once, or None when the circuit breaker alone decides."""


POLICIES: dict[ErrorKind, KindPolicy] = {
    ErrorKind.RATE_LIMIT: KindPolicy(again=True),
    ErrorKind.QUOTA_EXHAUSTED: KindPolicy(bench_s=3600.0),
    ErrorKind.SERVICE_UNAVAILABLE: KindPolicy(again=True),
    ErrorKind.CONNECTION: KindPolicy(again=True),
    ErrorKind.TLS: KindPolicy(),
    ErrorKind.TIMEOUT: KindPolicy(),
    ErrorKind.AUTHENTICATION: KindPolicy(bench_s=300.0),
    ErrorKind.PERMISSION: KindPolicy(bench_s=300.0),
    ErrorKind.NOT_FOUND: KindPolicy(bench_s=300.0),
    ErrorKind.CONTEXT_LENGTH: KindPolicy(counts=False),
    ErrorKind.CONTENT_FILTER: KindPolicy(counts=False),
    ErrorKind.BAD_REQUEST: KindPolicy(counts=False),
    ErrorKind.MALFORMED_RESPONSE: KindPolicy(again=True),
    ErrorKind.EMPTY_RESPONSE: KindPolicy(again=True),
    ErrorKind.STREAM_INTERRUPTED: KindPolicy(),
    ErrorKind.MODEL_UNAVAILABLE: KindPolicy(),
    ErrorKind.DEADLINE: KindPolicy(counts=False),
    ErrorKind.UNEXPECTED: KindPolicy(),
}
"""The table of the contract, one row per kind."""


FIXES: dict[ErrorKind, str] = {
    ErrorKind.QUOTA_EXHAUSTED: "add credit or raise the spending limit at the vendor",
    ErrorKind.SERVICE_UNAVAILABLE: "ask again later; the server has a problem",
    ErrorKind.CONNECTION: "check the network and the tier's base_url",
    ErrorKind.TLS: "check the certificate, the clock and the proxy of this machine",
    ErrorKind.TIMEOUT: "raise first_token_timeout_s, idle_timeout_s or timeout_s of the tier",
    ErrorKind.AUTHENTICATION: (
        "check the key that the tier's api_key_env names; `tieredllm keys set` sets one"
    ),
    ErrorKind.PERMISSION: "let the key use this model, or choose another with `-m`",
    ErrorKind.NOT_FOUND: "check the tier's model and base_url",
    ErrorKind.CONTEXT_LENGTH: "shorten the question or what is piped in",
    ErrorKind.CONTENT_FILTER: "reword the question, or set `on_content_filter: fallback`",
    ErrorKind.BAD_REQUEST: "check the tier's model and params",
    ErrorKind.MALFORMED_RESPONSE: "check that base_url is the API's address, not a web page's",
    ErrorKind.DEADLINE: "allow more time with `--deadline`",
}
"""What a person can do about each kind of error, where there is something."""


class ErrorInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One failure as data: what JSON, the log and the notifications show."""

    kind: ErrorKind
    """One of the closed set."""
    message: str
    """One line, at most 300 characters, without keys or markup."""
    status: int | None = None
    """The HTTP status, where there was one."""
    retry_after_s: float | None = None
    """Seconds the server asked to wait, where it did."""
    truncated: bool = False
    """Whether the limit of tokens was used up before an answer began."""

    def __str__(self) -> str:
        if self.status is not None:
            return f"{self.kind} ({self.status}) {self.message}".rstrip()
        return f"{self.kind}: {self.message}" if self.message else str(self.kind)
