"""Decide what follows from a failure: whether and when the same backend is asked again. Pure."""

from __future__ import annotations

import random

from tieredllm.errors import FallbackTriggerError
from tieredllm.kinds import POLICIES, ErrorKind
from tieredllm.profile.schema import Backoff

__all__ = ["MAX_RETRY_AFTER_S", "backoff_s", "bench_s", "counts", "retry_wait_s"]

MAX_RETRY_AFTER_S = 10.0
"""The longest `Retry-After` that is waited out; a longer one sends the request to the next tier."""


def backoff_s(backoff: Backoff, number: int, rng: random.Random) -> float:
    """Return the wait before a retry: `min(base * factor**number + jitter, max)`, in seconds.

    The exponent counts from 1, as in the source document's `(2 ** retry_count) * 0.1 + jitter`.

    Args:
        backoff: how the wait grows.
        number: 1 for the first retry.
        rng: where the jitter comes from, uniform in `[0, jitter_s]`.
    """
    wait = backoff.base_s * backoff.factor**number + rng.uniform(0.0, backoff.jitter_s)
    return min(wait, backoff.max_s)


def retry_wait_s(
    error: FallbackTriggerError,
    *,
    number: int,
    retries: int,
    backoff: Backoff,
    budget_s: float,
    rng: random.Random,
) -> float | None:
    """Return how long to wait before the same backend is asked again, or None not to.

    Args:
        error: how the last attempt failed.
        number: how many attempts there were on this backend, from 1.
        retries: how many there may be after the first.
        backoff: how waits grow when the server names none.
        budget_s: what is left of the time this tier may take; a wait must end before it does.
        rng: where jitter comes from.
    """
    allowed = POLICIES[error.kind].again if error.again is None else error.again
    if not allowed or number > retries:
        return None
    wait = backoff_s(backoff, number, rng)
    if error.retry_after_s is not None:
        if error.retry_after_s > MAX_RETRY_AFTER_S:
            return None
        wait = max(error.retry_after_s, 0.0)
    return wait if wait < budget_s else None


def counts(error: FallbackTriggerError) -> bool:
    """Return whether a failure counts against the backend's health."""
    return POLICIES[error.kind].counts if error.counts is None else error.counts


def bench_s(error: FallbackTriggerError) -> float | None:
    """Return for how many seconds a failure sets the backend aside at once; None for not at all.

    A rate-limited backend is set aside until the moment it named.
    """
    if error.kind is ErrorKind.RATE_LIMIT and error.retry_after_s:
        return error.retry_after_s
    return POLICIES[error.kind].bench_s
