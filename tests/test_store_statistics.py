"""Tests of the figures per tier."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from store_support import NOW, FakeClock, answer, attempt

from tieredllm.kinds import ErrorInfo, ErrorKind
from tieredllm.store.database import Database
from tieredllm.store.history import History
from tieredllm.store.statistics import MOMENTS, percentile, statistics
from tieredllm.types import Prompt, Usage

FAILED = ErrorInfo(kind=ErrorKind.TIMEOUT, message="no token within 10 s")


@pytest.fixture
def database(tmp_path):
    with Database(tmp_path / "state.db") as opened:
        yield opened
        assert opened.problem is None


def save(database, *answers, at=NOW):
    history = History(database, FakeClock(at))
    for one in answers:
        history.save(Prompt(question="Q?"), one, "default")


def over_all(database, since=NOW - 100, until=NOW + 100):
    found = statistics(database, since=since, until=until)
    return found, {tier.name: tier for tier in found.tiers}


def test_nothing_gives_nothing(database):
    """Without a request there are no tiers and no rates."""
    found, tiers = over_all(database)

    assert (found.requests, found.fallback_rate, tiers) == (0, None, {})


def test_each_tier_is_judged_by_the_requests_that_reached_it(database):
    """Retries are one request; a tier that wasn't asked has no success rate."""
    lost = attempt(outcome="failed", kind=ErrorKind.TIMEOUT)
    save(
        database,
        answer("a1", attempts=[attempt(duration_ms=100, first_token_ms=40)]),
        answer("a2", attempts=[lost, attempt(duration_ms=300, first_token_ms=60)]),
        answer(
            "a3",
            tier="secondary",
            level=1,
            attempts=[lost, lost, attempt("secondary", 1, duration_ms=500)],
        ),
        answer(
            "a4",
            tier="rules",
            level=2,
            provider="rules",
            usage=Usage(),
            attempts=[
                attempt(outcome="skipped", reason="circuit open"),
                attempt("secondary", 1, "skipped", reason="circuit open"),
                attempt("rules", 2, duration_ms=1),
            ],
        ),
    )
    found, _ = over_all(database)
    primary, secondary, rules = found.tiers

    assert (found.requests, found.fallback_rate, found.unanswered) == (4, 0.5, 0)
    assert [tier.name for tier in found.tiers] == ["primary", "secondary", "rules"]
    assert (primary.requests, primary.answered, primary.success_rate) == (3, 2, 2 / 3)
    assert (primary.latency_p50_ms, primary.latency_p95_ms) == (100, 300)
    assert primary.first_token_p50_ms == 40
    assert (primary.prompt_tokens, primary.completion_tokens) == (20, 40)
    assert primary.fallback_rate == 0.5
    assert (secondary.requests, secondary.success_rate, secondary.fallback_rate) == (1, 1.0, 0.5)
    assert (rules.requests, rules.fallback_rate, rules.prompt_tokens) == (1, 0.0, 0)


def test_a_request_that_nothing_answered_went_on_from_every_tier(database):
    """A failed request counts as fallen back everywhere, and as unanswered."""
    failed = [
        attempt(outcome="failed", kind=FAILED.kind),
        attempt("b", 1, "failed", kind=FAILED.kind),
    ]
    save(database, answer("a1", error=FAILED, attempts=failed))
    found, _ = over_all(database)

    assert (found.unanswered, found.fallback_rate) == (1, 1.0)
    assert [tier.fallback_rate for tier in found.tiers] == [1.0, 1.0]
    assert [tier.success_rate for tier in found.tiers] == [0.0, 0.0]


def test_a_lost_race_is_no_failure(database):
    """A hedge that was called off counts neither way; a slow first tier gave way to it."""
    save(
        database,
        answer("a1", attempts=[attempt(), attempt("secondary", 1, "cancelled")]),
        answer(
            "a2",
            tier="secondary",
            level=1,
            attempts=[attempt(outcome="cancelled"), attempt("secondary", 1)],
        ),
    )
    _, tiers = over_all(database)

    assert (tiers["primary"].requests, tiers["primary"].success_rate) == (1, 1.0)
    assert tiers["primary"].fallback_rate == 0.5
    assert (tiers["secondary"].requests, tiers["secondary"].fallback_rate) == (1, 0.0)


def test_only_the_time_asked_for_counts(database):
    """Requests before and after the stretch of time are left out."""
    for request_id, at in (("a1", NOW - 1000), ("a2", NOW), ("a3", NOW + 1000)):
        save(database, answer(request_id, attempts=[attempt()], latency_ms=0.0), at=at)
    found, _ = over_all(database)

    assert found.requests == 1


def test_the_charts_put_each_request_in_its_part_of_the_time(database):
    """The oldest part comes first; where nothing was asked there is nothing."""
    save(database, answer("a1", attempts=[attempt(duration_ms=10)], latency_ms=0.0), at=NOW)
    save(database, answer("a2", attempts=[attempt(duration_ms=20)], latency_ms=0.0), at=NOW + 99)
    _, tiers = over_all(database, since=NOW, until=NOW + 100)
    series = tiers["primary"].latency_series_ms

    assert (len(series), series[0], series[-1]) == (MOMENTS, 10, 20)
    assert set(series[1:-1]) == {None}
    assert tiers["primary"].fallback_series[0] == 0.0


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [([], 0.5, None), ([3], 0.95, 3), ([4, 1, 3, 2], 0.5, 2), (range(1, 101), 0.95, 95)],
)
def test_percentiles_are_nearest_ranks(values, share, expected):
    """The percentile is a value that occurred."""
    assert percentile(list(values), share) == expected


def test_models_are_summed_up_with_what_they_cost(database):
    """A row for each model that answered: answers, tokens, and the sum of the costs it was told."""
    one = [attempt(duration_ms=100, first_token_ms=40)]
    save(
        database,
        replace(answer("a1", attempts=one), model_used="big", cost=0.25),
        replace(answer("a2", attempts=one), model_used="big", cost=0.5),
        replace(answer("a3", attempts=one), model_used="other"),
        answer("a4", error=FAILED, attempts=[attempt(outcome="failed", kind=FAILED.kind)]),
    )
    found, _ = over_all(database)

    assert [(it.tier, it.model, it.answers, it.cost) for it in found.models] == [
        ("primary", "big", 2, 0.75),
        ("primary", "other", 1, None),
    ]
    assert (found.models[0].prompt_tokens, found.models[0].completion_tokens) == (20, 40)
