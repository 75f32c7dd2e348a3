"""What a chat says of the tier that answers."""

from __future__ import annotations

import pytest

from tieredllm.chat.tier_status import WORDS, TierStatus, in_words
from tieredllm.kinds import ErrorInfo, ErrorKind
from tieredllm.types import Attempt, AttemptFailed, AttemptStarted, Skip, TierSkipped


def attempt(tier, kind=None, *, skip=None, outcome="failed", level=0) -> Attempt:
    return Attempt(
        tier=tier,
        level=level,
        provider="openai",
        model="m",
        outcome=outcome,
        error=ErrorInfo(kind=kind, message="x") if kind else None,
        skip=skip,
        started_ms=0,
        duration_ms=1,
    )


def started(tier, provider="openai", model="big") -> AttemptStarted:
    return AttemptStarted(tier=tier, level=0, provider=provider, model=model, number=1)


TIERS = ["primary", "secondary", "minimal", "rules"]


def heading(watch, tier, *events, provider="openai"):
    watch.begin()
    for event in [*events, started(tier, provider)]:
        watch.take(event)
    return watch.heading(tier)


def failed(tier, kind, *, streamed=False):
    return AttemptFailed(attempt=attempt(tier, kind), streamed=streamed)


def skipped(tier, why, cause=None):
    return TierSkipped(attempt=attempt(tier, skip=Skip(why=why, cause=cause), outcome="skipped"))


def test_a_change_of_tier_and_its_return_in_words():
    """The change, its staying so, a further one and the return are each said once."""
    watch = TierStatus(TIERS, "primary")
    limited = failed("primary", ErrorKind.RATE_LIMIT)
    shut = skipped("primary", "circuit_open", ErrorKind.RATE_LIMIT)
    said = [
        heading(watch, "primary"),
        heading(watch, "secondary", limited),
        heading(watch, "secondary", shut),
        heading(watch, "minimal", shut, failed("secondary", ErrorKind.TIMEOUT)),
        heading(watch, "rules", limited, provider="rules"),
        heading(watch, "primary"),
        heading(watch, "primary"),
    ]

    assert said == [
        "primary · big",
        "primary is rate limited, secondary is answering",
        "secondary · big",
        "secondary does not respond, minimal is answering",
        "minimal is slow, the rules are answering",
        "primary is answering again",
        "primary · big",
    ]


def test_several_tiers_down_at_once():
    """Tiers with the same trouble share a verb; one that is not configured is no news."""
    watch = TierStatus(TIERS, "primary")
    down = [failed(tier, ErrorKind.CONNECTION) for tier in ("primary", "secondary")]

    assert (
        heading(watch, "minimal", *down)
        == "primary and secondary cannot be reached, minimal is answering"
    )
    watch.expect("primary")
    no_key = skipped("secondary", "not_configured")
    limited = failed("primary", ErrorKind.QUOTA_EXHAUSTED)
    assert (
        heading(watch, "minimal", limited, no_key)
        == "primary has no quota left, minimal is answering"
    )


def test_a_broken_answer_has_been_told_already():
    """After a line about an answer that broke off, nothing more is said of the change."""
    watch = TierStatus(TIERS, "primary")
    broke = failed("primary", ErrorKind.STREAM_INTERRUPTED, streamed=True)

    assert heading(watch, "secondary", broke) is None
    assert heading(watch, "secondary", broke.__class__(attempt=broke.attempt, streamed=False)) == (
        "secondary · big"
    )


def test_a_tier_that_was_chosen_is_no_change():
    """Who starts at a tier expects it."""
    watch = TierStatus(TIERS, "primary")
    watch.expect("secondary")

    assert heading(watch, "secondary") == "secondary · big"


def test_a_hedged_tier_is_slow():
    """A tier that lost a race, without an error, is said to be slow."""
    watch = TierStatus(TIERS, "primary")

    assert heading(watch, "secondary") == "primary is slow, secondary is answering"


@pytest.mark.parametrize("kind", ErrorKind)
def test_every_error_has_words(kind):
    """Each kind of error is worded, also as the cause of an open circuit."""
    assert in_words(attempt("a", kind)) == WORDS[kind]
    assert in_words(skipped("a", "circuit_open", kind).attempt) == WORDS[kind]
    assert "_" not in WORDS[kind]


@pytest.mark.parametrize(
    ("why", "words"),
    [
        ("no_time", "had no time left"),
        ("degraded", "did badly lately"),
        ("half_open", "is being tried by another request"),
        ("capability", "cannot do what this needs"),
    ],
)
def test_a_tier_that_was_not_asked_is_said_to_be_what_it_is(why, words):
    """A tier without time, or without an ability, is not said to have done badly."""
    assert in_words(skipped("a", why).attempt) == words


def test_names_cannot_carry_escape_sequences():
    """A model's name comes from a file; it is cleaned."""
    watch = TierStatus(TIERS, "primary")
    watch.take(started("primary", model="big\x1b]0;title\x07\nname"))

    assert watch.heading("primary") == "primary · big name"
