"""How grave an answer is, and what it is called."""

from __future__ import annotations

import msgspec
import pytest
from notify_support import failure, first_tier, no_answer, rules_answer, secondary_answer
from store_support import answer, attempt

from tieredllm.kinds import ErrorKind
from tieredllm.notify.severity import finding, is_first_tier
from tieredllm.types import Skip

K = ErrorKind


def local(level: int):
    above = [failure(f"t{number}", number) for number in range(level)]
    return answer(tier="minimal", level=level, provider="llama_cpp", attempts=above)


def third_cloud():
    attempts = [failure("a", 0), failure("b", 1), attempt("c", 2)]
    return answer(tier="c", level=2, attempts=attempts)


def cached():
    attempts = [failure("a", 0), attempt("cache", 1)]
    return answer(tier="cache", level=1, provider="cache", attempts=attempts)


def aside(skip: Skip):
    skipped = attempt("primary", 0, "skipped", skip=skip)
    return answer(tier="secondary", level=1, attempts=[skipped, attempt("secondary", 1)])


@pytest.mark.parametrize(
    ("given", "severity", "cause"),
    [
        (secondary_answer(), "low", "secondary answered"),
        (local(1), "medium", "minimal answered"),
        (local(2), "medium", "minimal answered"),
        (third_cloud(), "medium", "c answered"),
        (cached(), "high", "cache answered"),
        (rules_answer(), "high", "rules answered"),
        (no_answer(), "high", "nothing answered"),
        (no_answer(K.CONTENT_FILTER), "high", "refused"),
        (secondary_answer(kind=K.QUOTA_EXHAUSTED), "high",
         "primary: quota_exhausted; secondary answered"),
        (rules_answer(kind=K.AUTHENTICATION), "high", "primary: authentication; rules answered"),
        (no_answer(K.AUTHENTICATION), "high", "primary: authentication; nothing answered"),
    ],
)  # fmt: skip
def test_the_level_and_the_failures_decide(given, severity, cause):
    """Severity goes by the level that answered; a quota or a rejected key is always high."""
    found = finding(given)

    assert (found.severity, found.cause) == (severity, cause)


def test_the_first_tier_is_nothing_to_tell():
    """An answer of the first tier gives no cause to tell, also when a retry was needed."""
    retried = answer(attempts=[failure("primary", 0), attempt()])

    assert (finding(first_tier()), finding(retried)) == (None, None)
    assert is_first_tier(first_tier())


def test_a_rejected_key_of_the_first_tier_is_told_although_its_alternate_answered():
    """A quota or key failure anywhere is told, whoever answers."""
    given = answer(attempts=[failure("primary", 0, K.AUTHENTICATION), attempt()])

    assert finding(given).severity == "high"


def test_a_tier_that_was_asked_for_is_no_fallback():
    """Of a request that starts at a lower tier, nothing is told."""
    started_there = answer(tier="rules", level=3, provider="rules", attempts=[attempt("rules", 3)])

    assert finding(started_there) is None
    assert not is_first_tier(started_there)


@pytest.mark.parametrize("why", ["circuit_open", "half_open", "degraded"])
def test_a_circuit_that_a_rejected_key_opened_is_the_same_incident(why):
    """Requests that meet the open circuit have the cause of the one that met the failure."""
    first = secondary_answer(kind=K.AUTHENTICATION)

    assert finding(aside(Skip(why=why, cause=K.AUTHENTICATION))) == finding(first)


@pytest.mark.parametrize(
    "skip",
    [
        Skip(why="circuit_open", cause=K.TIMEOUT),
        Skip(why="degraded"),
        Skip(why="no_time"),
    ],
)
def test_another_reason_to_skip_is_not_grave(skip):
    """A skip counts as a key failure only where the circuit says so."""
    found = finding(aside(skip))

    assert (found.severity, found.cause) == ("low", "secondary answered")


def test_a_tier_that_is_not_configured_is_no_fallback():
    """Whoever has a key for the second tier alone is told nothing; but of rules that answer."""
    lacking = Skip(why="not_configured", fix="set the key")
    skipped = attempt("primary", 0, "skipped", skip=lacking)
    by_rules = answer(
        tier="rules", level=1, provider="rules", attempts=[skipped, attempt("rules", 1)]
    )

    assert finding(aside(lacking)) is None
    assert finding(by_rules).severity == "high"
    assert is_first_tier(aside(lacking))
    assert not is_first_tier(by_rules)
    assert not is_first_tier(aside(Skip(why="circuit_open")))


def test_the_cause_does_not_depend_on_which_passing_failure_it_was():
    """Of many requests in one outage some time out and some are refused: one cause."""
    causes = {
        finding(secondary_answer(kind=kind)).cause
        for kind in (K.TIMEOUT, K.CONNECTION, K.RATE_LIMIT, K.SERVICE_UNAVAILABLE)
    }

    assert causes == {"secondary answered"}


def test_a_lost_hedge_counts_as_giving_way():
    """A first tier that was overtaken is told like one that failed."""
    given = msgspec.structs.replace(
        secondary_answer(),
        attempts=(attempt("primary", 0, "cancelled"), attempt("secondary", 1)),
    )

    assert finding(given).severity == "low"
