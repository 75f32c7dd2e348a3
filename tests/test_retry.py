"""Waits before a retry, and shares of the time: arithmetic that holds for all numbers."""

from __future__ import annotations

import random

import pytest
from error_table import ROWS
from hypothesis import given
from hypothesis import strategies as st

from tieredllm.engine.budget import models_deadline_s, silence_limit_s
from tieredllm.engine.retry import MAX_RETRY_AFTER_S, backoff_s, bench_s, retry_wait_s
from tieredllm.errors import FallbackTriggerError
from tieredllm.kinds import ErrorKind
from tieredllm.profile.schema import Backoff

SETTINGS = st.builds(
    Backoff,
    base_s=st.floats(0, 60),
    factor=st.floats(1, 10),
    jitter_s=st.floats(0, 60),
    max_s=st.floats(0, 600),
)
SEEDS = st.integers().map(random.Random)


@given(backoff=SETTINGS, number=st.integers(1, 20), rng=SEEDS)
def test_backoff_is_bounded(backoff, number, rng):
    """A wait is never negative, never above `max_s`, and at least the bare backoff."""
    wait = backoff_s(backoff, number, rng)

    assert 0 <= wait <= backoff.max_s
    assert wait >= min(backoff.base_s * backoff.factor**number, backoff.max_s)


@given(backoff=SETTINGS, number=st.integers(1, 19), seed=st.integers())
def test_backoff_grows(backoff, number, seed):
    """With the same jitter a later wait is not shorter."""
    earlier = backoff_s(backoff, number, random.Random(seed))
    later = backoff_s(backoff, number + 1, random.Random(seed))

    assert later >= earlier


def test_backoff_of_the_source_document():
    """The default waits are the document's: 0.1 s times two to the retry's number, plus jitter."""
    rng = random.Random(1)

    for number, bare in ((1, 0.2), (2, 0.4), (3, 0.8)):
        assert bare <= backoff_s(Backoff(), number, rng) <= bare + 0.1
    assert backoff_s(Backoff(), 9, rng) == 2.0


@given(
    kind=st.sampled_from(ErrorKind),
    again=st.none() | st.booleans(),
    retry_after_s=st.none() | st.floats(-10, 1e6),
    number=st.integers(1, 25),
    retries=st.integers(0, 20),
    budget_s=st.floats(-5, 200),
    backoff=SETTINGS,
    rng=SEEDS,
)
def test_a_wait_fits_its_budget(
    kind, again, retry_after_s, number, retries, budget_s, backoff, rng
):
    """Whatever the error says, a wait ends within the budget, and there are not too many."""
    error = FallbackTriggerError(kind, again=again, retry_after_s=retry_after_s)
    wait = retry_wait_s(
        error, number=number, retries=retries, backoff=backoff, budget_s=budget_s, rng=rng
    )

    if wait is None:
        return
    assert 0 <= wait < budget_s
    assert number <= retries
    assert again is not False
    assert again or ROWS[kind].again
    if retry_after_s is not None:
        assert wait == max(retry_after_s, 0) <= MAX_RETRY_AFTER_S


@pytest.mark.parametrize(
    ("kind", "retry_after_s", "expected"),
    [
        ("rate_limit", 120.0, 120.0),
        ("rate_limit", None, None),
        ("quota_exhausted", None, 3600.0),
        ("quota_exhausted", 5.0, 3600.0),
        ("authentication", None, 300.0),
        ("timeout", None, None),
    ],
)
def test_benches(kind, retry_after_s, expected):
    """Some failures set a backend aside at once, for a time that is known."""
    assert bench_s(FallbackTriggerError(kind, retry_after_s=retry_after_s)) == expected


@given(timeout_s=st.floats(0.01, 1000), left_s=st.floats(0, 1000), others=st.booleans())
def test_silence_leaves_time_for_others(timeout_s, left_s, others):
    """A silent tier never takes more than is left, nor more than half while others follow."""
    limit = silence_limit_s(timeout_s=timeout_s, left_s=left_s, others_follow=others)

    assert 0 <= limit <= timeout_s
    assert limit <= (left_s / 2 if others else left_s)


@given(st.floats(0.001, 86_400))
def test_something_of_the_deadline_is_kept(deadline_s):
    """Models have nearly all of the time, and the last tier a little of it."""
    models = models_deadline_s(deadline_s)

    assert 0.9 * deadline_s < models < deadline_s
    assert deadline_s - models <= 0.2 + 1e-9
