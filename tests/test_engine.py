"""The engine: who is asked, how often, for how long, and what the answer says about it."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from datetime import datetime

import pytest
from engine_support import END, RULES_TEXT, Scripted, fault, make_run, rules, run_engine
from error_table import ROWS

from tieredllm.engine.ports import Controls, NoMemory, Standing
from tieredllm.engine.runner import QUEUED_EVENTS, Events
from tieredllm.kinds import ErrorKind
from tieredllm.providers.base import Delta, Finish
from tieredllm.types import (
    Answered,
    Attachment,
    AttemptFailed,
    AttemptStarted,
    FellBack,
    Message,
    Notice,
    Options,
    Prompt,
    RetryScheduled,
    Skip,
    Token,
)


class Memory(NoMemory):
    """Health that a test sets up and reads."""

    def __init__(self, standings=None, lease=True) -> None:
        self.given = standings or {}
        self.lease = lease
        self.results = []
        self.known = set()

    def standings(self, identities):
        return {identity: self.given.get(identity, Standing()) for identity in identities}

    def acquire_probe(self, identity):
        return self.lease

    def record(self, result):
        self.results.append(result)

    def rejected(self, identity):
        return frozenset(self.known)

    def reject(self, identity, parameter):
        self.known.add(parameter)


def test_first_tier_answers():
    """A healthy first tier answers alone."""
    primary, secondary = Scripted(["Be", "cause", END]), Scripted(["x", END])
    answer, _ = run_engine(primary, secondary, rules())

    assert answer.text == "Because"
    assert (answer.tier, answer.fallback_level, answer.fallback_used) == ("primary", 0, False)
    assert answer.error is None
    assert answer.original_error is None
    assert answer.usage.completion_tokens == 2
    assert [a.outcome for a in answer.attempts] == ["ok"]
    assert secondary.seen == []


NEVER_AGAIN = [kind for kind, row in ROWS.items() if not row.again]


@pytest.mark.parametrize("kind", NEVER_AGAIN)
def test_kinds_that_are_not_asked_again(kind):
    """A failure that asking again cannot mend goes to the next tier at once."""
    primary = Scripted([fault(kind)])
    answer, _ = run_engine(primary, Scripted(["ok", END]), on_content_filter="fallback")

    assert len(primary.seen) == 1
    assert answer.text == "ok"
    assert answer.original_error == f"primary: {kind}: played"
    assert [a.outcome for a in answer.attempts] == ["failed", "ok"]


AGAIN = [kind for kind, row in ROWS.items() if row.again]


@pytest.mark.parametrize("kind", AGAIN)
def test_kinds_that_are_asked_again(kind):
    """A passing failure is retried on the same backend, as often as the tier says."""
    primary = Scripted([fault(kind)])
    answer, events = run_engine(primary, Scripted(["ok", END]), tiers={0: {"retries": 2}})

    assert len(primary.seen) == 3
    assert sum(isinstance(event, RetryScheduled) for event in events) == 2
    assert answer.tier == "secondary"


def test_a_retry_can_answer():
    """A retry that works is the answer, and the tier has not given way."""
    primary = Scripted([fault("service_unavailable", status=503)], ["yes", END])
    answer, _ = run_engine(primary, rules())

    assert answer.text == "yes"
    assert answer.fallback_used is False
    assert answer.original_error == "primary: service_unavailable (503) played"


def test_a_cut_stream_is_never_part_of_the_answer():
    """A stream that dies is void, and the next tier starts afresh."""
    primary = Scripted(["half an ans", fault("stream_interrupted")])
    answer, events = run_engine(primary, Scripted(["whole", END]))

    assert answer.text == "whole"
    failed = next(event for event in events if isinstance(event, AttemptFailed))
    assert failed.streamed is True
    assert [e.text for e in events if isinstance(e, Token)] == ["half an ans", "whole"]


def test_a_stream_without_an_end_is_interrupted():
    """A backend that stops without a finish has not answered."""
    answer, _ = run_engine(Scripted(["half"]), Scripted(["whole", END]))

    assert answer.text == "whole"
    assert answer.attempts[0].error.kind == "stream_interrupted"


@pytest.mark.parametrize("steps", [[END], [" \n", "\t", END], []])
def test_blank_answers_are_empty(steps):
    """Nothing, or nothing but blanks, is no answer, and none of it is shown."""
    answer, events = run_engine(Scripted(steps), Scripted(["text", END]), tiers={0: {"retries": 0}})

    assert answer.text == "text"
    assert answer.attempts[0].error.kind == "empty_response"
    assert [e.text for e in events if isinstance(e, Token)] == ["text"]


def test_leading_blanks_are_kept_with_the_text():
    """Blanks before the text belong to it."""
    answer, _ = run_engine(Scripted(["  ", "\n", "code", " x", END]))

    assert answer.text == "  \ncode x"


def test_a_silent_backend_is_not_asked_twice():
    """Silence ends at the first-token timeout, and the route is not asked again."""
    primary = Scripted([5.0, "late", END])
    started = time.monotonic()
    answer, _ = run_engine(
        primary, rules(), tiers={0: {"first_token_timeout_s": 0.1, "timeout_s": 0.1}}
    )

    assert time.monotonic() - started < 1.0
    assert answer.attempts[0].error.kind == "timeout"
    assert len(primary.seen) == 1
    assert answer.text == RULES_TEXT


@pytest.mark.parametrize("steps", [[0.3, "late", END], ["a", 0.3, "late", END]])
def test_the_last_model_is_waited_for(steps):
    """Where no other language model is left, silence is waited out up to `timeout_s`."""
    limits = {"first_token_timeout_s": 0.05, "idle_timeout_s": 0.05, "timeout_s": 2.0}
    alone, _ = run_engine(Scripted(steps), rules(), tier=limits)
    last, _ = run_engine(Scripted([fault("timeout")]), Scripted(steps), rules(), tier=limits)
    beside, _ = run_engine(Scripted(steps), Scripted(["other", END]), rules(), tier=limits)
    unable = Scripted(["other", END], missing="X is not set")
    unset, _ = run_engine(Scripted(steps), unable, rules(), tier=limits)

    assert {alone.tier, unset.tier} == {"primary"}
    assert (last.tier, beside.text) == ("secondary", "other")


def test_the_last_model_is_not_waited_for_longer_than_its_attempt_may_take():
    """After `timeout_s` the silence of the last model is one, and the deadline bounds it too."""
    started = time.monotonic()
    limits = {"first_token_timeout_s": 0.05, "idle_timeout_s": 0.05, "timeout_s": 0.2}
    silent, _ = run_engine(Scripted([30.0]), rules(), tier=limits)
    late, _ = run_engine(
        Scripted([30.0]), rules(), tier=limits | {"timeout_s": 9}, options=Options(deadline_s=0.2)
    )

    assert [it.attempts[0].error.kind for it in (silent, late)] == ["timeout", "deadline"]
    assert time.monotonic() - started < 8


def test_silence_between_tokens():
    """A stream that stalls after output began is interrupted at the idle timeout."""
    answer, _ = run_engine(
        Scripted(["a", 5.0, "b", END]),
        rules(),
        tiers={0: {"idle_timeout_s": 0.1, "timeout_s": 0.1}},
    )

    assert answer.attempts[0].error.kind == "stream_interrupted"
    assert answer.attempts[0].error.message == "no token for 0.1 s"


def test_deadline_with_every_tier_silent():
    """The deadline bounds all models together, and rules still answer."""
    silent = [30.0]
    started = time.monotonic()
    answer, _ = run_engine(
        Scripted(silent),
        Scripted(silent),
        Scripted(silent),
        rules(),
        options=Options(deadline_s=0.8),
    )
    took = time.monotonic() - started

    assert took < 0.8 + 0.3
    assert answer.text == RULES_TEXT
    kinds = [a.error.kind for a in answer.attempts if a.error]
    assert kinds == ["deadline"] * 3


def test_a_short_deadline_says_nothing_about_a_backend():
    """A wait that the request's own time cut short does not count against the backend's health."""
    memory = Memory()
    run_engine(
        Scripted([5.0], name="a"),
        Scripted(["y", END], name="b"),
        health=memory,
        options=Options(deadline_s=0.4),
    )

    assert [(r.kind, r.counts) for r in memory.results if not r.ok] == [("deadline", False)]


def test_a_slow_stream_ends_at_the_deadline():
    """A backend that drips forever is stopped by the deadline."""
    drip = ["x", 0.05] * 100
    answer, _ = run_engine(Scripted(drip), rules(), options=Options(deadline_s=0.4))

    assert answer.attempts[0].error.kind == "deadline"
    assert answer.text == RULES_TEXT


def test_not_streaming_uses_the_attempt_timeout():
    """Without streaming the whole attempt has the tier's `timeout_s`."""
    answer, _ = run_engine(
        Scripted([1.0, "text", END]),
        rules(),
        tier={"first_token_timeout_s": 0.05},
        tiers={0: {"timeout_s": 3.0}},
        options=Options(stream=False),
    )

    assert answer.text == "text"


def test_missing_key_is_skipped_without_noise():
    """A tier that is not configured is skipped, and the reason says what is missing."""
    primary = Scripted(["x", END], missing="OPENAI_API_KEY is not set")
    answer, _ = run_engine(primary, Scripted(["y", END]))

    assert primary.seen == []
    assert answer.attempts[0].outcome == "skipped"
    assert answer.attempts[0].skip == Skip(why="not_configured", fix="set it")
    assert answer.attempts[0].reason == "OPENAI_API_KEY is not set"
    assert answer.original_error == "primary: OPENAI_API_KEY is not set"
    assert answer.fallback_used is True


def test_alternates_are_tried_in_order():
    """A tier's alternates are asked before the next tier."""
    own, alternate = Scripted([fault("not_found")], name="a"), Scripted(["alt", END], name="b")
    answer, _ = run_engine((own, alternate), Scripted(["next", END], name="c"))

    assert answer.text == "alt"
    assert (answer.tier, answer.model_used) == ("primary", "b")


def test_everything_fails():
    """When nothing answers, the error is set and every tier's last error is named in order."""
    answer, _ = run_engine(
        Scripted([fault("authentication", status=401)]), Scripted([fault("model_unavailable")])
    )

    assert answer.text is None
    assert answer.error.kind == "model_unavailable"
    assert answer.original_error == (
        "primary: authentication (401) played → secondary: model_unavailable: played"
    )


def test_a_request_without_any_time_failed_by_its_deadline():
    """Where no tier was asked for want of time, that is the kind of error."""
    answer, _ = run_engine(Scripted(["Yes.", END]), options=Options(deadline_s=1e-9))

    assert answer.attempts[0].skip is not None
    assert answer.attempts[0].skip.why == "no_time"
    assert answer.error is not None
    assert answer.error.kind is ErrorKind.DEADLINE


def test_require_llm_leaves_the_rules_out():
    """With `require_llm` a rule answer is no answer."""
    answer, _ = run_engine(
        Scripted([fault("connection", again=False)]), rules(), options=Options(require_llm=True)
    )

    assert answer.text is None
    assert answer.error.kind == "connection"


def test_no_fallback_asks_only_the_first_tier():
    """Without fallback only the first tier is asked."""
    secondary = Scripted(["x", END])
    answer, _ = run_engine(Scripted([fault("timeout")]), secondary, options=Options(fallback=False))

    assert answer.error.kind == "timeout"
    assert secondary.seen == []


def test_start_at_a_tier():
    """A request may start at a lower tier, which is then a fallback level all the same."""
    primary = Scripted(["x", END])
    answer, _ = run_engine(primary, Scripted(["y", END]), options=Options(start="secondary"))

    assert (answer.text, answer.fallback_level) == ("y", 1)
    assert primary.seen == []


def test_a_refusal_stops_unless_told_otherwise():
    """A refusal is not routed around unless the profile says so."""
    answer, _ = run_engine(Scripted([fault("content_filter")]), Scripted(["x", END]), rules())
    assert answer.text is None
    assert answer.error.kind == "content_filter"

    answer, _ = run_engine(
        Scripted([fault("content_filter")]), Scripted(["x", END]), on_content_filter="fallback"
    )
    assert answer.text == "x"


def test_retry_after_is_waited_out_when_short():
    """A short `Retry-After` is waited out and the same backend answers."""
    primary = Scripted([fault("rate_limit", retry_after_s=0.1)], ["ok", END])
    started = time.monotonic()
    answer, _ = run_engine(primary, rules())

    assert answer.text == "ok"
    assert time.monotonic() - started >= 0.1


def test_retry_after_is_not_waited_out_when_long():
    """A long `Retry-After` sends the request on and benches the backend until then."""
    memory = Memory()
    primary = Scripted([fault("rate_limit", retry_after_s=120.0)])
    answer, _ = run_engine(primary, Scripted(["ok", END], name="b"), health=memory)

    assert answer.text == "ok"
    assert len(primary.seen) == 1
    assert memory.results[0].bench_s == 120.0


def test_a_rejected_parameter_is_left_out_and_remembered():
    """Each named parameter is left out once, without using up a retry."""
    memory = Memory()
    primary = Scripted(
        [fault("bad_request", status=400, parameter="temperature")],
        [fault("bad_request", status=400, parameter="top_p")],
        ["ok", END],
    )
    answer, _ = run_engine(primary, rules(), health=memory, tiers={0: {"retries": 0}})

    assert answer.text == "ok"
    assert [sorted(call.omit) for call in primary.seen] == [
        [],
        ["temperature"],
        ["temperature", "top_p"],
    ]
    assert memory.known == {"temperature", "top_p"}


def test_a_parameter_is_named_only_once():
    """A server that names the same parameter again is not obeyed forever."""
    primary = Scripted([fault("bad_request", parameter="temperature")])
    answer, _ = run_engine(primary, rules())

    assert len(primary.seen) == 2
    assert answer.text == RULES_TEXT


def test_open_circuit_is_skipped():
    """A backend whose circuit is open is not asked while another can be."""
    retry_at = time.time() + 9
    memory = Memory(
        {
            "a": Standing(
                state="open", reason="3 failures", cause=ErrorKind.TIMEOUT, retry_at=retry_at
            )
        }
    )
    primary = Scripted(["x", END], name="a")
    answer, _ = run_engine(primary, Scripted(["y", END], name="b"), health=memory)

    assert primary.seen == []
    assert answer.text == "y"
    assert "circuit open" in answer.attempts[0].reason
    skip = answer.attempts[0].skip
    assert (skip.why, skip.cause) == ("circuit_open", "timeout")
    assert datetime.fromisoformat(skip.retry_at).timestamp() == pytest.approx(retry_at, abs=0.001)


def test_all_open_are_tried_all_the_same():
    """When every model's circuit is open they are asked before the rules are."""
    memory = Memory({n: Standing(state="open") for n in ("a", "b")})
    first = Scripted([fault("service_unavailable")], name="a")
    second = Scripted(["y", END], name="b")
    answer, _ = run_engine(first, second, rules(), health=memory, tier={"retries": 0})

    assert answer.text == "y"
    assert len(first.seen) == 1


def test_half_open_is_probed_by_the_lease_holder_only():
    """After the cooldown only the request that got the lease asks the backend."""
    half_open = {"a": Standing(state="half_open")}
    primary = Scripted(["x", END], name="a")
    memory = Memory(half_open, lease=True)
    answer, _ = run_engine(primary, Scripted(["y", END], name="b"), health=memory)
    assert answer.text == "x"
    assert memory.results[0].probe is True

    answer, _ = run_engine(
        primary, Scripted(["y", END], name="b"), health=Memory(half_open, lease=False)
    )
    assert answer.text == "y"


def test_degraded_is_skipped_only_if_told():
    """A degraded backend is passed over unless the profile says not to."""
    from tieredllm.profile.schema import HealthSettings

    degraded = {"a": Standing(degraded=True, reason="success rate 20 %")}
    for skip, expected in ((True, "y"), (False, "x")):
        answer, _ = run_engine(
            Scripted(["x", END], name="a"),
            Scripted(["y", END], name="b"),
            health=Memory(degraded),
            health_settings=HealthSettings(auto_skip_degraded=skip),
        )
        assert answer.text == expected


def test_one_turn_is_one_result():
    """All tries on a backend in one request count as one request for its health."""
    memory = Memory()
    run_engine(
        Scripted([fault("service_unavailable")], name="a"),
        Scripted(["y", END], name="b"),
        health=memory,
        tiers={0: {"retries": 3}},
    )

    assert [(r.identity, r.ok, r.counts) for r in memory.results] == [
        ("a", False, True),
        ("b", True, False),
    ]


@pytest.mark.parametrize("kind", ["context_length", "bad_request", "content_filter"])
def test_the_callers_own_errors_do_not_count(kind):
    """What the request itself caused does not count against the backend."""
    memory = Memory()
    run_engine(
        Scripted([fault(kind)]), Scripted(["y", END]), health=memory, on_content_filter="fallback"
    )

    assert memory.results[0].counts is False


def test_a_bug_in_a_backend_is_an_unexpected_error():
    """Whatever a backend raises, the next tier answers."""
    answer, _ = run_engine(Scripted([ZeroDivisionError("oops")]), Scripted(["y", END]))

    assert answer.text == "y"
    assert answer.attempts[0].error.kind == "unexpected"
    assert "oops" in answer.attempts[0].error.message


def test_question_too_large_for_the_context():
    """A tier whose context cannot hold the question is skipped, not failed."""
    memory = Memory()
    big = Prompt(question="word " * 3000)
    small = Scripted(["x", END], name="a")
    answer, _ = run_engine(
        small,
        Scripted(["y", END], name="b"),
        prompt=big,
        health=memory,
        tiers={0: {"context_tokens": 2048}},
    )

    assert answer.text == "y"
    assert answer.attempts[0].outcome == "skipped"
    assert answer.attempts[0].error.kind == "context_length"
    assert small.seen == []


def test_cut_text_is_noticed():
    """Text that is cut to fit is said to be."""
    prompt = Prompt(question="What?", attachments=(Attachment(text="line\n" * 50_000),))
    primary = Scripted(["x", END])
    _, events = run_engine(primary, prompt=prompt, tiers={0: {"context_tokens": 4096}})

    notice = next(event for event in events if isinstance(event, Notice))
    assert "the piped text" in notice.message
    assert "left out" in primary.seen[0].messages[-1].content


def test_warm_up_starts_with_the_first_failure():
    """The tiers below get ready as soon as one above looks bad, and only once."""
    local = Scripted(["z", END], name="local")
    run_engine(Scripted([fault("service_unavailable")], ["ok", END]), local)
    assert local.warmed == 1

    local = Scripted(["z", END], name="local")
    run_engine(Scripted(["x", END], missing="key"), Scripted(["y", END]), local)
    assert local.warmed == 1

    local = Scripted(["z", END], name="local")
    run_engine(Scripted(["fine", END]), local)
    assert local.warmed == 0


def test_warm_up_stops_at_the_first_that_needs_it():
    """Only the first backend that has something to get ready is warmed up."""
    cloud, local, other = (Scripted(["z", END], name=name) for name in ("cloud", "local", "other"))
    local.needs_warmth = other.needs_warmth = True
    run_engine(Scripted([fault("timeout")]), cloud, (local, other))

    assert (cloud.warmed, local.warmed, other.warmed) == (1, 1, 0)


def test_those_set_aside_are_asked_before_the_rules():
    """When every model that was asked has failed, the open ones are asked before the rules are."""
    memory = Memory({"a": Standing(state="open")})
    primary = Scripted(["back again", END], name="a")
    failing = Scripted([fault("model_unavailable")], name="b")
    answer, _ = run_engine(primary, failing, rules(), health=memory)

    assert answer.text == "back again"
    assert [a.outcome for a in answer.attempts] == ["skipped", "failed", "ok"]


def test_only_those_set_aside_are_asked_again():
    """An alternate that has failed is not asked again with the backend that was set aside."""
    memory = Memory({"a": Standing(state="open")})
    own = Scripted([fault("timeout")], name="a")
    alternate = Scripted([fault("timeout")], name="b")
    answer, _ = run_engine((own, alternate), rules(), health=memory)

    assert answer.text == RULES_TEXT
    assert (len(own.seen), len(alternate.seen)) == (1, 1)


def test_falling_back_is_said():
    """Each step down is an event with its reason."""
    _, events = run_engine(Scripted([fault("timeout")]), rules())

    step = next(event for event in events if isinstance(event, FellBack))
    assert (step.from_tier, step.to_tier, step.reason) == ("primary", "rules", "timeout: played")


def test_truncated_answers_say_so():
    """An answer that ended at `max_tokens` is marked."""
    answer, _ = run_engine(Scripted(["text", Finish(reason="length")]))

    assert (answer.finish_reason, answer.truncated) == ("length", True)


HEDGED = {0: {"hedge_after_s": 0.05}}


def test_hedge_the_faster_wins():
    """A slow tier is raced by the next one; the first token wins and the other is closed."""
    slow = Scripted([5.0, "slow", END], name="a")
    answer, events = run_engine(slow, Scripted(["fast", END], name="b"), rules(), tiers=HEDGED)

    assert answer.text == "fast"
    assert {a.tier: a.outcome for a in answer.attempts} == {
        "primary": "cancelled",
        "secondary": "ok",
    }
    assert answer.latency_ms < 1000
    assert any(isinstance(event, Notice) for event in events)


def test_hedge_the_slow_one_may_still_win():
    """The slow tier wins when its token comes first."""
    answer, _ = run_engine(
        Scripted([0.15, "slow", END], name="a"),
        Scripted([5.0, "later", END], name="b"),
        tiers=HEDGED,
    )

    assert answer.text == "slow"
    assert {a.tier: a.outcome for a in answer.attempts} == {
        "primary": "ok",
        "secondary": "cancelled",
    }


def test_hedge_is_not_used_when_the_first_is_quick():
    """A tier that answers in time is not raced."""
    other = Scripted(["x", END], name="b")
    answer, _ = run_engine(Scripted(["quick", END], name="a"), other, tiers=HEDGED)

    assert answer.text == "quick"
    assert other.seen == []


def test_hedge_winner_that_dies_gives_the_loser_another_chance():
    """When the race's winner breaks off, the tier it beat is asked again."""
    beaten = Scripted([5.0, "x", END], ["saved", END], name="b")
    answer, _ = run_engine(
        Scripted([0.15, "half", 0.05, fault("stream_interrupted")], name="a"), beaten, tiers=HEDGED
    )

    assert answer.text == "saved"


def test_hedge_failures_on_both_sides_end_in_rules():
    """When both racers fail, the rules answer, and neither is asked again."""
    first = Scripted([0.2, fault("timeout")], name="a")
    second = Scripted([fault("timeout")], name="b")
    answer, _ = run_engine(first, second, rules(), tiers=HEDGED)

    assert answer.text == RULES_TEXT
    assert (len(first.seen), len(second.seen)) == (1, 1)


def test_a_refusal_of_the_slow_one_ends_the_race():
    """The other's answer would route around it: none of its words are shown."""
    answer, events = run_engine(
        Scripted([0.15, fault("content_filter")], name="a"),
        Scripted([0.4, "around", END], name="b"),
        tiers=HEDGED,
    )

    assert answer.error is not None
    assert answer.error.kind == "content_filter"
    assert [attempt.outcome for attempt in answer.attempts] == ["failed", "cancelled"]
    assert not any(isinstance(event, Token) for event in events)


def test_hedge_never_races_with_rules():
    """A rule answer does not beat a slow model."""
    answer, _ = run_engine(Scripted([0.2, "model", END], name="a"), rules(), tiers=HEDGED)

    assert answer.text == "model"


def test_history_reaches_every_policy():
    """The simplified policy sends the system prompt and the turns before."""
    history = tuple(Message("user" if i % 2 == 0 else "assistant", f"turn {i}") for i in range(6))
    primary = Scripted(["x", END])
    run_engine(
        primary,
        prompt=Prompt(question="Now?", system="Be kind.", history=history),
        tiers={0: {"prompt": "simplified"}},
    )
    sent = primary.seen[0].messages

    assert [m.content for m in sent[:-1]] == ["Be kind.", *(f"turn {i}" for i in range(6))]
    assert "Now?" in sent[-1].content
    assert "concise" in sent[-1].content


def test_alternates_of_one_model_are_told_apart():
    """Of a race's losers, the alternate with the same model at another URL is still asked."""
    slow = Scripted([0.15, "half", fault("stream_interrupted")], name="a")
    own = Scripted([fault("not_found")], name="twin")
    alternate = Scripted([5.0, "x", END], ["saved", END], name="twin")
    answer, _ = run_engine(slow, (own, alternate), rules(), tiers=HEDGED)

    assert answer.text == "saved"


def test_a_probe_is_one_attempt():
    """A half-open backend is asked once, also where its failure could be retried."""
    probed = Scripted([fault("service_unavailable")], name="a")
    memory = Memory({"a": Standing(state="half_open")}, lease=True)
    answer, _ = run_engine(
        probed, Scripted(["y", END], name="b"), health=memory, tiers={0: {"retries": 3}}
    )

    assert answer.text == "y"
    assert len(probed.seen) == 1
    assert memory.results[0].probe is True


class Endless(Scripted):
    """A backend that goes on until it is closed."""

    def __init__(self) -> None:
        super().__init__([])
        self.sent = 0

    async def answer(self, call):
        self.open_calls += 1
        try:
            while True:
                self.sent += 1
                yield Delta("x")
        finally:
            await asyncio.sleep(0)
            self.open_calls -= 1


def test_a_slow_reader_holds_the_backend_up():
    """What is not read waits, bounded; closing the iterator ends the backend's call first."""
    backend = Endless()
    memory = Memory()

    async def read_a_little():
        run = make_run(backend, health=memory)
        events = Events(run)
        while not isinstance(await anext(events), Token):
            pass
        await asyncio.sleep(0.05)
        sent = backend.sent
        await events.aclose()
        return sent, asyncio.all_tasks() - {asyncio.current_task()}

    sent, left = asyncio.run(read_a_little())

    assert sent < 2 * QUEUED_EVENTS
    assert (backend.open_calls, left) == (0, set())
    assert [(result.ok, result.counts) for result in memory.results] == [(False, False)]


def test_who_has_the_answer_is_not_broken_off():
    """Who asks whether there is more after the answer gets the end of the events, whatever ends."""

    async def read():
        kinds = []
        events = Events(make_run(Scripted(["Hi", END])))
        async for event in events:
            kinds.append(type(event))
            if isinstance(event, Answered):
                await events.break_off(OSError("closed"))
        return kinds

    kinds = asyncio.run(read())

    assert kinds[-1] is Answered


def test_a_slow_reader_is_not_the_backend_s_silence():
    """The time that a reader takes does not count as a wait for a token."""
    words = ["w"] * (3 * QUEUED_EVENTS)

    async def read_slowly():
        run = make_run(Scripted([*words, END]), tier={"idle_timeout_s": 0.05, "timeout_s": 0.05})
        async for event in Events(run):
            if len(read) == 1:
                await asyncio.sleep(0.2)
            read.append(event)

    read = []
    asyncio.run(read_slowly())

    assert read[-1].answer.text == "".join(words)


def test_who_reads_can_be_cancelled():
    """Cancelling whoever waits for an event ends the backend's call at once."""
    silent = Scripted([30.0])

    async def give_up():
        async def read():
            async with aclosing(Events(make_run(silent))) as events:
                async for _ in events:
                    pass

        waiting = asyncio.ensure_future(read())
        await asyncio.sleep(0.01)
        was_open = silent.open_calls
        waiting.cancel()
        await asyncio.wait([waiting])
        return was_open, waiting.cancelled(), asyncio.all_tasks() - {asyncio.current_task()}

    was_open, cancelled, left = asyncio.run(give_up())

    assert (was_open, silent.open_calls) == (1, 0)
    assert cancelled
    assert left == set()


def test_a_bug_of_the_engine_reaches_whoever_reads():
    """An exception that is nobody's failure is raised, not swallowed."""

    class Broken(Memory):
        def standings(self, identities):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_engine(Scripted(["x", END]), health=Broken())


def test_an_unsent_request_says_nothing_about_the_backend():
    """What is never written fails the attempt after `timeout_s`, and counts against nobody."""
    memory = Memory()
    stuck = Scripted([5.0], name="a")
    stuck.never_sends = True
    limits = {"first_token_timeout_s": 0.05, "timeout_s": 0.2}
    answer, _ = run_engine(stuck, Scripted(["y", END], name="b"), health=memory, tiers={0: limits})

    assert answer.text == "y"
    assert answer.attempts[0].error.message == "the request could not be sent within 0.2 s"
    assert [(r.kind, r.counts) for r in memory.results if not r.ok] == [("timeout", False)]


class SlowToSend(Scripted):
    """A backend whose request takes a while to be written."""

    async def answer(self, call):
        await asyncio.sleep(0.2)
        async for chunk in super().answer(call):
            yield chunk


def test_the_first_token_clock_starts_when_the_request_is_written():
    """A busy machine that is slow to send takes nothing from the time a server has."""
    slow = SlowToSend([0.1, "in time", END])
    other = Scripted(["other", END])
    answer, _ = run_engine(slow, other, tiers={0: {"first_token_timeout_s": 0.15}})

    assert answer.text == "in time"


def test_silence_after_the_request_was_written_is_the_backend_s():
    """From then on the first-token timeout holds, and counts."""
    memory = Memory()
    limits = {"first_token_timeout_s": 0.05, "timeout_s": 30}
    run_engine(
        SlowToSend([5.0], name="a"),
        Scripted(["x", END], name="b"),
        health=memory,
        tiers={0: limits},
    )

    assert [(r.kind, r.counts) for r in memory.results if not r.ok] == [("timeout", True)]


@pytest.mark.parametrize("steps", [[60.0, "late", END], ["half ", 60.0, END]])
def test_a_caller_moves_on(steps):
    """Moving on gives up who is being asked, also in mid-answer, and the next one answers."""
    controls = Controls()
    slow, quick = Scripted(steps, name="slow"), Scripted(["quick", END], name="quick")
    run = make_run(slow, quick, rules(), controls=controls, tier={"idle_timeout_s": 60})

    async def collect():
        events = []
        asyncio.get_running_loop().call_later(0.05, controls.move_on)
        async for event in Events(run):
            events.append(event)
        controls.move_on()  # too late, and nothing happens
        return events

    events = asyncio.run(collect())
    answer = events[-1].answer
    failed = next(event for event in events if isinstance(event, AttemptFailed))

    assert answer.text == "quick"
    assert [(it.model, it.outcome) for it in answer.attempts] == [
        ("slow", "cancelled"),
        ("quick", "ok"),
    ]
    assert failed.attempt.reason == "you moved on"
    assert failed.streamed == (steps[0] == "half ")


def test_who_is_next_is_said():
    """An attempt tells who is next: an alternate, who is well, then who is set aside, the rules."""
    absent = Scripted([], name="absent", missing="no key")
    _, events = run_engine(
        (Scripted([fault("timeout")], name="own"), Scripted([fault("timeout")], name="other")),
        absent,
        Scripted([fault("timeout")], name="ill"),
        Scripted([fault("timeout")], name="well"),
        rules(),
        health=Memory({"ill": Standing(state="open", retry_at=1e12)}),
        tiers={0: {"first_token_timeout_s": 7}, 3: {"timeout_s": 25}},
    )
    started = [event for event in events if isinstance(event, AttemptStarted)]

    assert [(it.model, it.next_tier, it.next_model, it.until_s) for it in started] == [
        ("own", "primary", "other", 7),
        ("other", "fourth", "well", 7),
        ("well", "minimal", "ill", 25),
        ("ill", "rules", "rules", 10),
        ("rules", None, None, None),
    ]


@pytest.mark.parametrize("after_s", [0.01, 30.0])
def test_a_caller_moves_on_from_a_race(after_s):
    """In a race the slow first side is given up, be the other one running already or not."""
    controls = Controls()
    slow, quick = Scripted([60.0, "x", END], name="slow"), Scripted([0.1, "y", END], name="quick")
    run = make_run(slow, quick, rules(), controls=controls, tiers={0: {"hedge_after_s": after_s}})

    async def collect():
        asyncio.get_running_loop().call_later(0.05, controls.move_on)
        return [event async for event in Events(run)][-1].answer

    started = time.monotonic()
    answer = asyncio.run(collect())

    assert answer.text == "y"
    assert time.monotonic() - started < 5
    assert [(it.model, it.reason) for it in answer.attempts if it.outcome == "cancelled"] == [
        ("slow", "you moved on")
    ]


def test_who_moves_on_from_the_last_model_gets_the_rules():
    """The backend that is given up is not asked again, and counts against nobody."""
    controls, health = Controls(), Memory()
    run = make_run(Scripted([60.0, "x", END]), rules(), controls=controls, health=health)

    async def collect():
        asyncio.get_running_loop().call_later(0.05, controls.move_on)
        return [event async for event in Events(run)][-1].answer

    answer = asyncio.run(collect())

    assert answer.text == RULES_TEXT
    assert [(result.ok, result.counts) for result in health.results] == [(False, False)]
