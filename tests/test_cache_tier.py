"""The last known good answer, between the models and the rules."""

from __future__ import annotations

import asyncio
import random
from functools import partial

import msgspec
import pytest
from cli_support import answering, cli, profile, served
from engine_support import END, Scripted, fault, rules
from store_support import NOW, FakeClock
from store_support import answer as answer_of

from tieredllm.clock import SystemClock
from tieredllm.engine.plan import TierPlan
from tieredllm.engine.ports import NoMemory
from tieredllm.engine.runner import Events, FallbackRun
from tieredllm.errors import FallbackTriggerError
from tieredllm.kinds import ErrorKind
from tieredllm.profile.schema import Params, Profile, Tier
from tieredllm.providers.base import Call, Delta, Finish
from tieredllm.providers.static import CacheBackend
from tieredllm.store.database import Database
from tieredllm.store.history import History
from tieredllm.types import Answer, Answered, Attachment, Image, Message, Options, Prompt, ToolCall

QUESTION = Prompt(question="Why is the sky blue?", system="Be brief.")
HOUR_S = 3600.0


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def history(clock):
    return History(Database(None), clock)


def cache(history, clock, *, profile: str = "p", max_age_h: float = 24.0) -> CacheBackend:
    look_up = partial(history.cached_answer, profile)
    return CacheBackend(max_age_h=max_age_h, look_up=look_up, clock=clock)


def call(prompt: Prompt) -> Call:
    return Call(prompt=prompt, params=Params(), connect_timeout_s=1.0, request_id="r")


def ask(backend: CacheBackend, prompt: Prompt = QUESTION) -> list:
    async def collect() -> list:
        return [chunk async for chunk in backend.answer(call(prompt))]

    return asyncio.run(collect())


def misses(backend: CacheBackend, prompt: Prompt = QUESTION) -> bool:
    with pytest.raises(FallbackTriggerError) as caught:
        ask(backend, prompt)
    assert (caught.value.kind, caught.value.again) == (ErrorKind.EMPTY_RESPONSE, False)
    return True


def test_the_last_complete_answer_is_given_again(history, clock):
    """The latest answer to the same question, with the time it was given."""
    history.save(QUESTION, answer_of("a1", "Older."), "p")
    clock.now += HOUR_S
    history.save(QUESTION, answer_of("a2", "Because of Rayleigh."), "p")
    clock.now += HOUR_S

    assert ask(cache(history, clock)) == [
        Delta("Because of Rayleigh."),
        Finish(reason="stop", cached_at="2027-01-15T09:00:00Z"),
    ]


def test_white_space_does_not_make_another_question(history, clock):
    """The text is normalised before it is compared."""
    history.save(QUESTION, answer_of(text="Blue."), "p")
    same = Prompt(question="  Why is\nthe sky   blue? ", system="Be brief.")

    assert ask(cache(history, clock), same)[0] == Delta("Blue.")


@pytest.mark.parametrize(
    "other",
    [
        Prompt(question="Why is the sea blue?", system="Be brief."),
        Prompt(question="Why is the sky blue?", system="Be thorough."),
        Prompt(question="Why is the sky blue?"),
        Prompt(
            question="Why is the sky blue?",
            system="Be brief.",
            attachments=(Attachment(text="notes"),),
        ),
        Prompt(
            question="Why is the sky blue?",
            system="Be brief.",
            history=(Message("user", "Hi"), Message("assistant", "Hello")),
        ),
    ],
)
def test_another_question_is_not_answered(history, clock, other):
    """Question, system prompt, attachments and the turns before must all be the same."""
    history.save(QUESTION, answer_of(), "p")

    assert misses(cache(history, clock), other)


def test_another_profile_is_not_answered(history, clock):
    """Each profile has its own answers."""
    history.save(QUESTION, answer_of(), "other")

    assert misses(cache(history, clock))


@pytest.mark.parametrize(
    "unfit",
    [
        answer_of(tier="rules", level=2, provider="rules", ref_code="REF-00000000"),
        answer_of(truncated=True),
        answer_of(tier="cache", level=1, provider="cache"),
        answer_of(error=FallbackTriggerError("timeout", "no token").info),
    ],
    ids=["rule", "truncated", "cached", "failed"],
)
def test_only_what_a_model_wrote_completely_is_given_again(history, clock, unfit):
    """Never a rule answer, a cut one, a cached one or a failure."""
    history.save(QUESTION, unfit, "p")

    assert misses(cache(history, clock))


def test_an_answer_that_is_too_old_is_not_given(history, clock):
    """`max_age_h` is the limit, and the message names it."""
    history.save(QUESTION, answer_of(latency_ms=0.0), "p")
    clock.now = NOW + 24 * HOUR_S - 1
    assert ask(cache(history, clock))
    clock.now = NOW + 24 * HOUR_S + 1

    with pytest.raises(FallbackTriggerError, match="from the last 24 h"):
        ask(cache(history, clock))


def test_without_a_log_there_is_no_answer(clock):
    """An empty log is a miss, not an error."""
    assert misses(cache(History(Database(None), clock), clock))


def run(*backends, prompt: Prompt = QUESTION) -> Answer:
    """Run the real engine over these tiers."""
    plans = [
        TierPlan(
            tier=Tier(name=f"{backend.provider}{level}", provider=backend.provider, model="m"),
            level=level,
            backends=(backend,),
        )
        for level, backend in enumerate(backends)
    ]
    engine = FallbackRun(
        plans=plans,
        profile=Profile(tiers=tuple(plan.tier for plan in plans)),
        prompt=prompt,
        options=Options(),
        request_id="0" * 32,
        health=NoMemory(),
        parameters=NoMemory(),
        clock=SystemClock(),
        rng=random.Random(1),
    )

    async def last() -> Answer:
        events = [event async for event in Events(engine)]
        assert isinstance(events[-1], Answered)
        return events[-1].answer

    return asyncio.run(last())


def test_in_an_outage_the_cache_answers_before_the_rules(history, clock):
    """The answer is marked with its age, and is a cached one in every field."""
    good = run(Scripted(["Blue.", END]), cache(history, clock), rules())
    history.save(QUESTION, good, "p")
    outage = run(Scripted([fault("tls")]), cache(history, clock), rules())

    assert good.cached_at is None
    assert (outage.text, outage.provider, outage.model_used) == ("Blue.", "cache", "cache")
    assert (outage.fallback_level, outage.cached_at is not None) == (1, True)


def test_a_miss_goes_to_the_rules_at_once(history, clock):
    """It is tried once, and the next tier answers."""
    answer = run(Scripted([fault("tls")]), cache(history, clock), rules())
    of_the_cache = [attempt for attempt in answer.attempts if attempt.provider == "cache"]

    assert answer.provider == "rules"
    assert [attempt.outcome for attempt in of_the_cache] == ["failed"]


def test_an_answer_from_the_cache_does_not_renew_itself(history, clock):
    """What was cached is not cached again: it ages from when the model wrote it."""
    history.save(QUESTION, run(Scripted(["Blue.", END])), "p")
    for _ in range(3):
        clock.now += 10 * HOUR_S
        answer = run(Scripted([fault("tls")]), cache(history, clock), rules())
        history.save(QUESTION, answer, "p")

    assert answer.provider == "rules"


def test_it_is_no_language_model_and_lacks_nothing(history, clock):
    """A cache keeps no health and can always be asked."""
    backend = cache(history, clock)

    assert (backend.provider, backend.model, backend.is_language_model) == ("cache", "cache", False)
    assert backend.missing() is None
    assert asyncio.run(backend.probe()).ok


def test_calls_are_no_answer_to_give_again(history, clock):
    """What a model said before it called its caller's tools answers no later request."""
    calls = (ToolCall(id="c1", name="count"),)
    said = msgspec.structs.replace(answer_of("a1", "Let me see."), calls=calls)
    history.save(QUESTION, said, "p")

    assert misses(cache(history, clock))


def test_another_picture_is_another_question(history, clock):
    """The same words about another picture are not answered with the first one's answer."""
    one, other = (
        Prompt(question="What is it?", parts=(Image(media_type="image/png", data=data),))
        for data in (b"one", b"other")
    )
    history.save(one, answer_of("a1", "A cat."), "p")

    assert misses(cache(history, clock), other)
    assert ask(cache(history, clock), one)[0] == Delta("A cat.")


CACHED = """name: test
system: Be kind.
tiers:
  - {{name: a, provider: openai, model: m-1, base_url: '{url}/v1', api_key_env: null, retries: 0}}
  - {{name: again, provider: cache}}
"""


def test_an_ask_is_found_again_by_what_its_tiers_were_sent(tmp_path):
    """The profile's system prompt is a part of the question, and no reason not to find it."""
    with served(answering("Blue.")) as server:
        asked = cli(tmp_path, "-p", profile(tmp_path, CACHED.format(url=server.url)), "Why?")
    used = profile(tmp_path, CACHED.format(url=server.url))
    again = cli(tmp_path, "-p", used, "Why?")
    other = cli(tmp_path, "-p", used, "ask", "-s", "Be rude.", "Why?")

    assert (asked.stdout, again.stdout) == (b"Blue.\n", b"Blue.\n")
    assert (again.returncode, other.returncode) == (0, 1)


def test_a_conversation_goes_on_under_the_profile_that_there_is(tmp_path):
    """What the profile says is its own to say; what was given once (-s) stays until it is again."""
    with served(answering("Blue.")) as server:
        used = profile(tmp_path, CACHED.format(url=server.url))
        other = profile(tmp_path, CACHED.format(url=server.url).replace("kind", "brief"), "other")
        cli(tmp_path, "-p", used, "Why?")
        cli(tmp_path, "-p", other, "ask", "-c", "And then?")
        cli(tmp_path, "-p", used, "ask", "-c", "-s", "Be rude.", "And then?")
        cli(tmp_path, "-p", other, "ask", "-c", "And then?")
    again = cli(tmp_path, "-p", used, "Why?")

    systems = [request.json["messages"][0]["content"] for request in server.requests]
    told = ("kind", "brief", "rude", "rude")
    assert [f"Be {word}." in system for word, system in zip(told, systems, strict=True)] == [
        True
    ] * 4
    assert again.stdout == b"Blue.\n"


def test_what_a_schema_has_shaped_answers_no_plain_question(tmp_path):
    """JSON that a schema asked for is not what the same words without it are answered with."""
    with served(answering('{"name": "Rex"}')) as server:
        used = profile(tmp_path, CACHED.format(url=server.url))
        shaped = cli(tmp_path, "-p", used, "ask", "--schema", "name", "A dog?")
    plain = cli(tmp_path, "-p", used, "A dog?")

    assert shaped.returncode == 0
    assert (plain.returncode, plain.stdout) == (1, b"")
