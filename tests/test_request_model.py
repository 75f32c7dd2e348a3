"""What a request may bring besides its question, and what the engine makes of it."""

from __future__ import annotations

import msgspec
import pytest
from engine_support import END, Scripted, fault, rules, run_engine

from tieredllm.engine.plan import merged, prompt_room
from tieredllm.profile.schema import Params, Tier
from tieredllm.providers.base import Capabilities, Finish, Retraction, ThoughtDelta, ToolRequest
from tieredllm.types import (
    CallsMade,
    Document,
    Image,
    Message,
    Options,
    OutputSchema,
    ParamOverrides,
    Prompt,
    Thought,
    ToolCall,
    ToolChoice,
    ToolDeclaration,
    ToolsWanted,
    Usage,
)

COUNT = ToolDeclaration(name="count", parameters={"type": "object"})
CALLS = (ToolCall(id="c1", name="count", arguments='{"by": 1}'),)
WANTS = ToolRequest(calls=CALLS, usage=Usage(prompt_tokens=5, completion_tokens=2), model="m-1")
TOOLS = Options(caller_tools=(COUNT,))
PICTURE = Prompt(question="What is it?", parts=(Image(media_type="image/png", data=b"png"),))


def test_a_request_sets_parameters_itself():
    """What a request sets holds in place of the tier's own; the rest is the tier's."""
    own = Tier(
        name="primary",
        provider="openai",
        params=Params(temperature=0.3, max_tokens=256, stop=("END",)),
    )
    given = ParamOverrides(temperature=0.0, seed=7, stop=("###",), reasoning_effort="low")
    params = merged(own, given, is_first=False)

    assert (params.temperature, params.seed, params.stop) == (0.0, 7, ("###",))
    assert (params.reasoning_effort, params.max_tokens, params.top_p) == ("low", 256, 0.95)
    assert merged(own, ParamOverrides(), is_first=True) == own.params
    uncapped = msgspec.structs.replace(own, params=Params(max_tokens=None))
    assert merged(uncapped, ParamOverrides(max_tokens=5000), is_first=False).max_tokens == 5000


def test_room_for_an_answer_without_a_limit():
    """A quarter of the context, bounded, is kept for an answer that has no limit of its own."""

    def kept(max_tokens, context_tokens):
        tier = Tier(name="primary", provider="openai", context_tokens=context_tokens)
        return context_tokens - prompt_room(tier, Params(max_tokens=max_tokens))

    assert kept(None, 4096) == 1024
    assert kept(None, 1_000_000) == 32_768
    assert kept(500, 4096) == 500


@pytest.mark.parametrize(("start", "expected"), [(None, [4000, 256]), ("secondary", [4000])])
def test_max_tokens_is_at_most_the_tiers_own_below_the_first(start, expected):
    """A caller's limit holds on the tier it is meant for; a lower one has room for its own."""
    one, two = Scripted([fault("timeout")]), Scripted(["Yes.", END])
    options = Options(params=ParamOverrides(max_tokens=4000), start=start)
    run_engine(one, two, tiers={1: {"params": {"max_tokens": 256}}}, options=options)

    assert [call.params.max_tokens for call in (*one.seen, *two.seen)] == expected


@pytest.mark.parametrize(("own", "expected"), [(1024, 4096), (6000, 6000)])
def test_an_agents_limit_leaves_room_for_what_it_sends(own, expected):
    """64,000 tokens asked of a context of 8,192 are half of it, or what the tier itself allows."""
    model = Scripted(["Yes.", END])
    options = Options(params=ParamOverrides(max_tokens=64_000))
    tier = {"context_tokens": 8192, "params": {"max_tokens": own}}
    answer, _ = run_engine(model, tier=tier, options=options)

    assert answer.text == "Yes."
    assert model.seen[0].params.max_tokens == expected


@pytest.mark.parametrize("said", [[], ["Let me ", "see."]])
def test_calls_of_the_callers_tools_are_the_answer(said):
    """The engine runs none of the caller's tools: the calls end the answer, with what was said."""
    model = Scripted([*said, WANTS])
    answer, events = run_engine(model, rules(), options=TOOLS)

    assert (answer.text, answer.calls) == ("".join(said), CALLS)
    assert (answer.finish_reason, answer.error, answer.truncated) == ("tool_calls", None, False)
    assert (answer.model_used, answer.usage) == ("m-1", WANTS.usage)
    assert answer.tool_calls == ()
    assert model.seen[0].tools == (COUNT,)
    assert [event.calls for event in events if isinstance(event, CallsMade)] == [CALLS]
    assert not any(isinstance(event, ToolsWanted) for event in events)


def test_the_callers_choice_reaches_the_backend():
    """Which tool is to be called, and whether several may be, is the caller's to say."""
    choice = ToolChoice(mode="required", name="count", parallel=False)
    model = Scripted([WANTS])
    run_engine(model, options=Options(caller_tools=(COUNT,), tool_choice=choice))

    assert model.seen[0].tool_choice == choice


def test_results_of_the_callers_tools_reach_a_tier_with_tools_and_one_without():
    """Calls and results of a history go as they are beside declarations, and as text without."""
    history = (
        Message("user", "Count."),
        Message("assistant", "", calls=CALLS),
        Message("tool", "7\n8", call_id="c1", name="count"),
    )
    model, local = Scripted(["7.", END]), Scripted(["7.", END], provider="llama_cpp")
    run_engine(model, prompt=Prompt(question="", history=history), options=TOOLS)
    run_engine(local, prompt=Prompt(question="", history=history))

    assert model.seen[0].messages == history
    (asked, told) = local.seen[0].messages
    assert (asked.content, told.role) == ("Count.", "user")
    assert told.content == "[What came of the tool count]\n> 7\n> 8"


@pytest.mark.parametrize(
    ("prompt", "options", "reason"),
    [
        (PICTURE, Options(), "it cannot see images"),
        (
            Prompt(question="So?", history=(Message("user", "See", parts=PICTURE.parts),)),
            Options(),
            "it cannot see images",
        ),
        (
            Prompt(question="Sum up.", parts=(Document(data=b"%PDF"),)),
            Options(),
            "it cannot read PDF documents",
        ),
        (Prompt(question="Why?"), TOOLS, "it cannot call the caller's tools"),
        (
            Prompt(question="Why?"),
            Options(schema=OutputSchema(schema={"type": "object"})),
            "its answers cannot be held to a schema",
        ),
    ],
)
def test_a_tier_that_lacks_what_a_request_needs_is_passed_over(prompt, options, reason):
    """What a backend cannot do is said as data, and it is never sent a part of the request."""
    unable, able = Scripted(["Guess.", END]), Scripted(["{}", END])
    unable.capabilities = Capabilities()
    answer, _ = run_engine(unable, able, prompt=prompt, options=options)

    assert (answer.text, unable.seen) == ("{}", [])
    skipped = answer.attempts[0]
    assert (skipped.outcome, skipped.reason, skipped.error) == ("skipped", reason, None)
    assert (skipped.skip.why, skipped.skip.cause) == ("capability", None)
    assert skipped.skip.fix


def test_where_no_tier_can_do_it_the_request_is_at_fault():
    """Without a tier that can, the request fails as a bad one, and says what each lacks."""
    unable = Scripted(["Guess.", END])
    unable.capabilities = Capabilities()
    answer, _ = run_engine(unable, prompt=PICTURE)

    assert answer.error.kind == "bad_request"
    assert "primary: it cannot see images" in answer.error.message


def test_a_choice_of_none_needs_no_tools():
    """A caller that lets nothing be called is answered by a tier without tools, too."""
    plain = Scripted(["Yes.", END])
    plain.capabilities = Capabilities()
    options = Options(caller_tools=(COUNT,), tool_choice=ToolChoice(mode="none"))

    assert run_engine(plain, options=options)[0].text == "Yes."


@pytest.mark.parametrize(
    ("parameter", "options"),
    [("tools", TOOLS), ("schema", Options(schema=OutputSchema(schema={"type": "object"})))],
)
def test_what_the_request_needs_is_not_left_out_to_repair_it(parameter, options):
    """A server that rejects what the caller needs gives way, instead of answering without it."""
    first = Scripted([fault("bad_request", parameter=parameter)], ["Without.", END])
    answer, _ = run_engine(first, Scripted(["{}", END]), options=options)

    assert answer.text == "{}"
    assert len(first.seen) == 1


def test_thoughts_are_progress_and_no_answer():
    """Thoughts keep the clocks going, and stand apart in the answer and in the events."""
    model = Scripted(
        [ThoughtDelta("Hm"), 0.06, ThoughtDelta(", so"), 0.06, "Yes.", END], ["late", END]
    )
    limits = {"first_token_timeout_s": 0.1, "idle_timeout_s": 0.1, "timeout_s": 0.1}
    answer, events = run_engine(model, tier=limits)

    assert (answer.text, answer.reasoning) == ("Yes.", "Hm, so")
    assert [event.text for event in events if isinstance(event, Thought)] == ["Hm", ", so"]
    assert answer.first_token_ms > 100


def test_text_that_turns_out_to_be_thoughts_is_no_answer():
    """Where only the end of the thoughts is marked, what was said until then is taken back."""
    model = Scripted(["Hm,", " hm.", Retraction(), "Yes.", END])
    answer, events = run_engine(model)

    assert (answer.text, answer.reasoning) == ("Yes.", "Hm, hm.")
    assert [type(event).__name__ for event in events if hasattr(event, "tier")][1:] == [
        "Token",
        "Token",
        "Retracted",
        "Token",
    ]


def test_silence_after_thoughts_is_a_timeout():
    """A model that thinks and then says nothing gave no token, so nothing was interrupted."""
    model = Scripted([ThoughtDelta("Hm"), 5.0])
    answer, _ = run_engine(model, tier={"idle_timeout_s": 0.05, "timeout_s": 0.05, "retries": 0})

    assert answer.error.kind == "timeout"
    assert answer.reasoning is None


def test_nothing_but_thoughts_is_empty():
    """An answer that ends after thoughts has no content."""
    model = Scripted([ThoughtDelta("Hm"), Finish(reason="stop")])
    answer, _ = run_engine(model, tier={"retries": 0})

    assert answer.error.kind == "empty_response"


def test_a_call_wins_a_race():
    """A call of the caller's tools wins against a slower model as a token does."""
    slow, fast = Scripted([5.0, "late", END], name="one"), Scripted([WANTS], name="two")
    answer, _ = run_engine(slow, fast, tiers={0: {"hedge_after_s": 0.02}}, options=TOOLS)

    assert answer.calls == CALLS
    assert {it.tier: it.outcome for it in answer.attempts} == {
        "primary": "cancelled",
        "secondary": "ok",
    }
