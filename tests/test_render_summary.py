"""What is said after an answer, or when there is none, is short, clear and clean."""

from __future__ import annotations

import msgspec
import pytest

from tieredllm.kinds import ErrorInfo, ErrorKind
from tieredllm.render.summary import failure_lines, fix_for, summary_line, usage_line
from tieredllm.types import Answer, Attempt, Skip, Usage

BUSY = ErrorInfo(kind=ErrorKind.RATE_LIMIT, message="Too many requests", status=429)
SILENT = ErrorInfo(kind=ErrorKind.TIMEOUT, message="no token within 10 s")


def attempt(tier, level, error=None, reason=None, model="gpt-5", outcome=None, skip=None):
    return Attempt(
        tier=tier,
        level=level,
        provider="openai",
        model=model,
        outcome=outcome or ("failed" if error else "skipped"),
        error=error,
        reason=reason,
        skip=skip,
        started_ms=0,
        duration_ms=100,
    )


def lacks(tier, level, key, **fields):
    skip = Skip(why="not_configured", fix=f"export {key}=…")
    return attempt(tier, level, reason=f"{key} is not set", skip=skip, **fields)


def answer(text="x", tier="secondary", level=1, attempts=(), error=None, **fields):
    values = {
        "provider": "anthropic",
        "model_used": "claude",
        "first_token_ms": 300.0,
        "latency_ms": 1300.0,
        "truncated": False,
        "finish_reason": "stop",
        "usage": Usage(),
        **fields,
    }
    return Answer(
        request_id="r",
        text=text,
        tier=tier,
        fallback_level=level,
        fallback_used=bool(level),
        original_error=None,
        error=error,
        attempts=tuple(attempts),
        **values,
    )


def test_first_tier_needs_no_words():
    """When the first tier answered completely there is nothing to say."""
    assert summary_line(answer(tier="primary", level=0)) is None


def test_summary_says_who_was_overtaken():
    """A tier that lost a race is a reason too, unless its own failure says more."""
    overtaken = attempt("primary", 0, reason="stopped before its end", outcome="cancelled")
    won = attempt("secondary", 1, outcome="ok")

    assert summary_line(answer(attempts=[overtaken, won])) == (
        "tieredllm: answered by secondary (claude) after primary: no token in 0.1 s"
    )
    assert summary_line(answer(attempts=[attempt("primary", 0, SILENT), overtaken, won])) == (
        "tieredllm: answered by secondary (claude) after primary: timeout: no token within 10 s"
    )


def test_summary_names_the_tier_and_why():
    """The line says who answered and why the tiers before did not, the first one first."""
    attempts = [
        attempt("primary", 0, BUSY),
        attempt("secondary", 1, SILENT),
        attempt("minimal", 2, outcome="ok"),
    ]

    assert summary_line(answer(tier="minimal", level=2, model_used="gemma", attempts=attempts)) == (
        "tieredllm: answered by minimal (gemma) after primary: rate_limit (429) Too many "
        "requests; secondary: timeout: no token within 10 s"
    )


def test_tiers_that_are_not_configured_are_named_briefly():
    """Of a tier without a key only the key is named; of one with two backends the real failure."""
    attempts = [
        lacks("primary", 0, "OPENAI_API_KEY"),
        attempt("secondary", 1, BUSY),
        lacks("secondary", 1, "X_API_KEY", model="other"),
    ]

    by_rules = answer(
        tier="rules", level=2, model_used="rules", provider="rules", attempts=attempts
    )

    assert summary_line(by_rules) == (
        "tieredllm: answered by rules after primary: OPENAI_API_KEY is not set; "
        "secondary: rate_limit (429) Too many requests"
    )


def test_tiers_below_the_answering_one_are_no_reason():
    """A lower tier that lost a race is not why the answer came from where it came."""
    attempts = [attempt("primary", 0, BUSY), attempt("minimal", 2, SILENT)]

    assert summary_line(answer(attempts=attempts)) == (
        "tieredllm: answered by secondary (claude) after primary: rate_limit (429) "
        "Too many requests"
    )


def test_cut_answer_is_named_also_on_the_first_tier():
    """An answer that ended at max_tokens is never taken for a complete one in silence."""
    cut = answer(tier="primary", level=0, truncated=True, usage=Usage(completion_tokens=256))

    assert summary_line(cut) == (
        "tieredllm: the answer was cut at max_tokens (256): `-o max_tokens 512`, or `max_tokens` "
        "in the params of tier primary, allows more"
    )


def test_what_allows_more_works_below_the_first_tier():
    """There a tier's own limit holds, whatever `-o` says, unless one starts at that tier."""
    cut = answer(
        attempts=[attempt("primary", 0, BUSY)],
        truncated=True,
        max_tokens=300,
        usage=Usage(completion_tokens=298),
    )

    assert (summary_line(cut) or "").endswith(
        "cut at max_tokens (300): `-t secondary -o max_tokens 600`, or `max_tokens` in the params "
        "of tier secondary, allows more"
    )


def test_a_servers_own_limit_is_told_from_max_tokens():
    """Of an answer that ended long before max_tokens, that is doubled, and a doubt is told."""
    cut = answer(
        tier="primary",
        level=0,
        truncated=True,
        max_tokens=1024,
        usage=Usage(completion_tokens=96),
    )

    assert summary_line(cut) == (
        "tieredllm: the answer was cut at max_tokens (1024): `-o max_tokens 2048`, or `max_tokens` "
        "in the params of tier primary, allows more; unless its server has a limit of its own: it "
        "has 96 tokens"
    )


def test_an_answer_in_circles_is_told():
    """An answer that repeated itself and was cut says so, and not that a limit was reached."""
    cut = answer(tier="primary", level=0, truncated=True, finish_reason="repetition")

    assert summary_line(cut) == (
        "tieredllm: the answer ran in circles and was cut after the first round"
    )


def test_cached_answer_tells_its_age():
    """An answer from the cache says when it was given."""
    cached = answer(tier="cache", level=2, model_used="cache", cached_at="2026-01-02T03:04:05Z")

    assert summary_line(cached) == (
        "tieredllm: answered by cache; this answer is from 2026-01-02T03:04:05Z"
    )


def test_summary_is_one_clean_short_line():
    """A server's message cannot add lines, drive the terminal, or fill the screen."""
    evil = ErrorInfo(kind=ErrorKind.UNEXPECTED, message="a\x1b]0;t\x07\nb\x9b2J " + "x" * 900)
    line = summary_line(answer(attempts=[attempt("primary", 0, evil)]))

    assert line is not None
    assert "\n" not in line
    assert line.isprintable()
    assert len(line) < 200


def test_a_failed_request_has_no_summary():
    """Who failed is told by `failure_lines`."""
    assert summary_line(answer(None, None, None, error=BUSY)) is None


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        (
            {"usage": Usage(prompt_tokens=12, completion_tokens=60)},
            (
                "tieredllm: secondary (claude): 12 prompt + 60 completion tokens, 1.30 s, "
                "first token after 0.30 s, 60 tokens/s"
            ),
        ),
        (
            {"usage": Usage(completion_tokens=60), "first_token_ms": None},
            "tieredllm: secondary (claude): 60 completion tokens, 1.30 s",
        ),
        (
            {"first_token_ms": 1290.0},
            "tieredllm: secondary (claude): tokens not reported, 1.30 s, first token after 1.29 s",
        ),
    ],
)
def test_usage_line(fields, line):
    """Tokens and time are told as far as they are known."""
    assert usage_line(answer(**fields)) == line


def test_failure_lists_every_tier_and_what_to_do():
    """All tiers' errors are listed, the first tier first, each with its fix."""
    attempts = [
        lacks("primary", 0, "OPENAI_API_KEY"),
        attempt("secondary", 1, BUSY),
        attempt(
            "minimal",
            2,
            ErrorInfo(kind=ErrorKind.MODEL_UNAVAILABLE, message="gemma-2-2b-it is not there"),
            model="gemma-2-2b-it",
        ),
    ]

    assert failure_lines(answer(None, None, None, attempts, error=BUSY)) == [
        "tieredllm: no complete answer:",
        "  primary (openai gpt-5): OPENAI_API_KEY is not set",
        "    export OPENAI_API_KEY=…",
        "  secondary (openai gpt-5): rate_limit (429) Too many requests",
        "    ask again in a while",
        "  minimal (openai gemma-2-2b-it): model_unavailable: gemma-2-2b-it is not there",
        "    `tieredllm models pull gemma-2-2b-it`, or `tieredllm models verify gemma-2-2b-it`",
    ]


def test_failure_tells_the_request_s_own_error():
    """An error that is no attempt's, such as the deadline's, is told too."""
    late = ErrorInfo(kind=ErrorKind.DEADLINE, message="120 s are over")

    assert failure_lines(answer(None, None, None, error=late)) == [
        "tieredllm: no complete answer",
        "  deadline: 120 s are over",
    ]
    assert failure_lines(answer(None, None, None, [attempt("primary", 0, BUSY)], error=late))[
        -1
    ] == ("  deadline: 120 s are over")


def test_a_failure_is_told_once():
    """Where every tier was passed over, why stands at each, and is not summed up once more."""
    none = ErrorInfo(kind=ErrorKind.UNEXPECTED, message="no tier could be asked: primary: X")
    failed = answer(None, None, None, [lacks("primary", 0, "X")], error=none)

    assert failure_lines(failed) == [
        "tieredllm: no complete answer:",
        "  primary (openai gpt-5): X is not set",
        "    export X=…",
    ]


@pytest.mark.parametrize("kind", list(ErrorKind))
def test_every_kind_has_a_fix_or_none_on_purpose(kind):
    """For each kind of error there is one thing to do, where anybody can do anything."""
    error = ErrorInfo(kind=kind, message="m")
    helpless = {
        ErrorKind.EMPTY_RESPONSE,
        ErrorKind.STREAM_INTERRUPTED,
        ErrorKind.UNEXPECTED,
    }

    assert (fix_for(attempt("primary", 0, error)) is None) == (kind in helpless)


def test_fixes_fit_the_case():
    """A rate limit names the wait, a model file is no catalog name, a rejected key its variable."""
    wait = ErrorInfo(kind=ErrorKind.RATE_LIMIT, message="m", status=429, retry_after_s=12.4)
    gone = ErrorInfo(kind=ErrorKind.MODEL_UNAVAILABLE, message="missing")

    assert fix_for(attempt("a", 0, wait)) == "ask again in 12 s"
    assert "pull" not in str(fix_for(attempt("a", 0, gone, model="/x/y.gguf")))


def test_an_address_that_gave_words_is_not_doubted():
    """An answer that is not of the wanted form came from the right place."""
    misfit = ErrorInfo(kind=ErrorKind.MALFORMED_RESPONSE, message="the answer is no JSON")
    made = attempt("a", 0, misfit)

    assert "base_url" in str(fix_for(made))
    assert fix_for(msgspec.structs.replace(made, first_token_ms=4.3)) is None
