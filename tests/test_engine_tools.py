"""Rounds of tool calls: what runs, what runs once, and what the next tier is told."""

from __future__ import annotations

import asyncio
import sys

import msgspec
import pytest
from engine_support import END, RULES_TEXT, Scripted, fault, make_run, rules, run_engine
from tools_support import MCP_SERVER, RAW_SERVER, session, stub

from tieredllm.engine.ports import NoMemory
from tieredllm.engine.runner import Events
from tieredllm.engine.tool_loop import ToolLoop
from tieredllm.kinds import ErrorKind
from tieredllm.profile.schema import McpSettings, Tools
from tieredllm.providers.base import CallPiece, ToolRequest
from tieredllm.render.event_messages import remark
from tieredllm.tools.approval import Approval
from tieredllm.tools.base import Output
from tieredllm.tools.execute import ToolSession
from tieredllm.tools.registry import Toolbox
from tieredllm.types import (
    Answered,
    AttemptStarted,
    Image,
    Notice,
    Options,
    Prompt,
    ToolCall,
    ToolDeclaration,
    ToolEnded,
    ToolStarted,
    ToolsWanted,
    Usage,
)

ALL = {"tools": "all"}
FAULTS = [kind for kind in ErrorKind if kind not in {"content_filter", "deadline"}]


def wants(*names: str, arguments: str = '{"by": 1}', raw=None) -> ToolRequest:
    return ToolRequest(
        usage=Usage(prompt_tokens=10, completion_tokens=5),
        calls=tuple(
            ToolCall(id=f"id{number}", name=name, arguments=arguments)
            for number, name in enumerate(names)
        ),
        raw=raw,
    )


class Counter:
    """A tool that counts how often it runs."""

    def __init__(self, *, takes_s: float = 0.0) -> None:
        self.runs = 0

        async def run(arguments):
            self.runs += 1
            await asyncio.sleep(takes_s)
            return f"counted to {self.runs}"

        self.tool = stub("count", run, read_only=False)

    def tooling(self, **options) -> ToolLoop:
        return ToolLoop(session(self.tool, **options))


def results(call):
    """What an attempt is told that tools gave."""
    return [message for message in call.messages if message.role == "tool"]


def test_a_round_of_calls_ends_in_an_answer():
    """The model is told of its tools, then of its call's result; its answer is the last text."""
    counter = Counter()
    model = Scripted(["Let me see.", wants("count", raw="raw")], ["It is 1.", END])
    answer, events = run_engine(model, rules(), tier=ALL, tools=counter.tooling())

    assert answer.text == "It is 1."
    assert counter.runs == 1
    assert [tool.name for tool in model.seen[0].tools] == ["count"]
    said, result = model.seen[1].messages[-2:]
    assert (said.content, said.raw, said.made_by) == ("Let me see.", "raw", model.identity)
    assert (result.role, result.call_id) == ("tool", said.calls[0].id)
    assert result.content == "counted to 1"
    (use,) = answer.tool_calls
    assert (use.tier, use.name, use.arguments) == ("primary", "count", {"by": 1})
    assert (use.outcome, use.result) == ("ok", "counted to 1")
    assert [attempt.outcome for attempt in answer.attempts] == ["ok", "ok"]
    assert answer.attempts[0].reason == "called count"
    assert answer.usage == Usage(prompt_tokens=13, completion_tokens=7)
    assert answer.original_error is None
    kinds = [type(event) for event in events if "Tool" in type(event).__name__]
    assert kinds == [ToolsWanted, ToolStarted, ToolEnded]
    assert next(event for event in events if isinstance(event, ToolsWanted)).streamed


def test_images_go_to_models_that_see():
    """The next tier sees the image that a tool gave, or is told that there is one."""
    png = Image(media_type="image/png", data=b"png")

    async def look(_):
        return Output(text="[image of type image/png]", parts=(png,))

    first = Scripted([wants("look")], [fault("authentication")], name="first")
    blind = Scripted([fault("authentication")], name="blind")
    blind.capabilities = msgspec.structs.replace(blind.capabilities, images=False)
    last = Scripted(["A cat.", END], name="last")
    tooling = ToolLoop(session(stub("look", look)))
    run_engine(first, blind, last, tier=ALL, tools=tooling)
    told = [results(model.seen[-1])[0] for model in (first, blind, last)]

    assert [it.parts for it in told] == [(png,), (), (png,)]
    assert told[1].content == "[image of type image/png]\n(Images are not shown to you.)"


def test_models_with_tools_are_told_what_servers_say(tmp_path):
    """A server's instructions end the system prompt of tiers with its tools, quoted."""
    server = McpSettings(command=(sys.executable, str(RAW_SERVER), str(tmp_path), "tells"))
    toolbox = Toolbox(
        Tools(builtin=("now",), mcp={"raw": server}),
        cwd=tmp_path,
        env={},
        cache=tmp_path,
    )
    asyncio.run(_list_once(toolbox))
    without = Scripted([fault("authentication")], name="without")
    with_tools = Scripted(["Yes.", END], name="with")
    run_engine(
        without,
        with_tools,
        tiers={0: {"tools": ("now",)}, 1: ALL},
        tools=ToolLoop(ToolSession(toolbox, approval=Approval("always"), max_rounds=2)),
        prompt=Prompt(question="Hi", system="Be brief."),
    )
    systems = [model.seen[0].messages[0].content for model in (without, with_tools)]

    assert systems[0] == "Be brief."
    assert systems[1].startswith(
        "Be brief.\n\nWhat the server of the tools `raw` says about them:\n> Call state first.\n> x"
    )


async def _list_once(toolbox):
    try:
        await toolbox.granted("all")
    finally:
        await toolbox.aclose()


def test_parallel_calls_and_wrong_ones():
    """Each call gets its result in its place; mistakes are results the model may learn from."""
    counter = Counter()
    request = ToolRequest(
        calls=(
            ToolCall(id="a", name="none_such", arguments="{}"),
            ToolCall(id="b", name="count", arguments='{"by": 1'),
            ToolCall(id="c", name="count", arguments='{"by": 1}'),
        )
    )
    model = Scripted([request], ["Done.", END])
    answer, _ = run_engine(model, tier=ALL, tools=counter.tooling())

    told = [(it.call_id, it.is_error) for it in results(model.seen[1])]
    assert told == [("a", True), ("b", True), ("c", False)]
    assert [use.outcome for use in answer.tool_calls] == ["unknown", "invalid", "ok"]
    assert answer.tool_calls[1].arguments == '{"by": 1'
    assert counter.runs == 1


@pytest.mark.parametrize("kind", FAULTS)
@pytest.mark.parametrize("text", [[], ["The count "]])
def test_nothing_runs_twice_under_any_fault_between_call_and_answer(kind, text):
    """When the calling tier fails after its call, the next one gets the result as a tool turn."""
    counter = Counter()
    first = Scripted([wants("count")], [*text, fault(kind)], name="one")
    second = Scripted([wants("count")], ["It is 1.", END], name="two")
    answer, _ = run_engine(
        first, second, rules(), tier=ALL | {"retries": 1}, tools=counter.tooling()
    )

    assert answer.text == "It is 1."
    assert counter.runs == 1
    assert results(second.seen[0])[0].content == "counted to 1"
    assert "not run again" in results(second.seen[1])[1].content
    assert [use.repeated for use in answer.tool_calls] == [False, True]
    assert all(len(results(call)) == 1 for call in first.seen[1:])


def test_a_refusal_after_a_call_goes_the_profiles_way():
    """A refused answer ends the request, or the next tier gets the result; nothing runs twice."""
    for policy, text in (("stop", None), ("fallback", "It is 1.")):
        counter = Counter()
        first = Scripted([wants("count")], [fault("content_filter")], name="one")
        second = Scripted([wants("count")], ["It is 1.", END], name="two")
        answer, _ = run_engine(
            first, second, tier=ALL, on_content_filter=policy, tools=counter.tooling()
        )

        assert answer.text == text
        assert counter.runs == 1
        assert answer.tool_calls[0].outcome == "ok"


def test_the_deadline_between_call_and_answer_leaves_the_result():
    """When time is up after a call, the rules answer, and the call is still told."""
    counter = Counter()
    model = Scripted([wants("count")], [5.0], name="one")
    answer, _ = run_engine(
        model, rules(), tier=ALL, options=Options(deadline_s=0.3), tools=counter.tooling()
    )

    assert answer.text == RULES_TEXT
    assert answer.attempts[1].error.kind in {"deadline", "timeout"}
    assert (counter.runs, len(answer.tool_calls)) == (1, 1)


def test_nothing_runs_twice_with_a_real_server_that_counts(tmp_path):
    """The count of an MCP server goes up by one per request, whatever fails after the call."""
    counted = tmp_path / "counter"
    server = McpSettings(command=(sys.executable, str(MCP_SERVER), str(counted)))
    declared = Tools(mcp={"c": server})

    async def ask_all():
        toolbox = Toolbox(declared, cwd=tmp_path, env={})
        totals = []
        try:
            for kind in FAULTS:
                tools = ToolSession(toolbox, approval=Approval("always"), max_rounds=8)
                first = Scripted([wants("c__count")], ["It ", fault(kind)], name="one")
                second = Scripted([wants("c__count")], [fault(kind)], name="two")
                run = make_run(
                    first,
                    second,
                    Scripted(["It is so.", END], name="three"),
                    tier=ALL,
                    tiers={2: {"tools": "none"}},
                    tools=ToolLoop(tools),
                )
                answer = None
                async for event in Events(run):
                    if isinstance(event, Answered):
                        answer = event.answer
                assert answer.text == "It is so."
                assert [use.outcome for use in answer.tool_calls] == ["ok", "ok"], kind
                totals.append(int(counted.read_text()))
        finally:
            await toolbox.aclose()
        return totals

    assert asyncio.run(asyncio.wait_for(ask_all(), 60)) == list(range(1, len(FAULTS) + 1))


def test_a_call_that_is_cut_short_runs_nothing():
    """A stream that dies while a call is written has interrupted its answer; nothing ran."""
    counter = Counter()
    first = Scripted([CallPiece(), fault("stream_interrupted")], name="one")
    second = Scripted(["Text.", END], name="two")
    answer, events = run_engine(first, second, tier=ALL, tools=counter.tooling())

    assert answer.text == "Text."
    assert counter.runs == 0
    assert not answer.tool_calls
    assert not any(isinstance(event, ToolsWanted) for event in events)


def test_a_call_that_is_written_slowly_is_no_silence():
    """Pieces of a call keep the attempt alive as tokens do; when they stop, it is interrupted."""
    counter = Counter()
    timers = {"first_token_timeout_s": 0.2, "idle_timeout_s": 0.2, "timeout_s": 0.2}
    slow = Scripted([*[0.1, CallPiece()] * 4, wants("count")], ["Done.", END])
    answer, _ = run_engine(slow, rules(), tier=ALL | timers, tools=counter.tooling())
    assert answer.text == "Done."

    stuck = Scripted([CallPiece(), 5.0, wants("count")])
    answer, _ = run_engine(stuck, rules(), tier=ALL | timers, tools=counter.tooling())
    assert answer.attempts[0].error.kind == "stream_interrupted"


def test_time_for_tools_is_not_the_backends():
    """A tool that takes longer than the tier's timers fails nobody and is no latency."""
    counter = Counter(takes_s=0.3)
    timers = {"first_token_timeout_s": 0.1, "idle_timeout_s": 0.1, "timeout_s": 0.1}
    model = Scripted([wants("count")], ["Done.", END])

    class Memory:
        def __init__(self):
            self.results = []

        def standings(self, identities):
            return {}

        def acquire_probe(self, identity):
            return True

        def record(self, result):
            self.results.append(result)

    memory = Memory()
    answer, _ = run_engine(
        model, rules(), tier=ALL | timers, tools=counter.tooling(), health=memory
    )

    assert answer.text == "Done."
    (result,) = memory.results
    assert result.ok
    assert result.latency_s < 0.2


@pytest.mark.parametrize("policy", ["full", "simplified", "minimal"])
def test_a_tier_without_tools_gets_the_results_as_quoted_text(policy):
    """A model without tools reads what was found out before the question."""
    counter = Counter()
    first = Scripted([wants("count")], [fault("service_unavailable")], name="one")
    second = Scripted(["It is 1.", END], name="two")
    answer, _ = run_engine(
        first,
        second,
        tiers={0: ALL | {"retries": 0}, 1: {"tools": "none", "prompt": policy}},
        tools=counter.tooling(),
    )

    (asked,) = second.seen
    assert answer.text == "It is 1."
    assert not asked.tools
    assert not results(asked)
    assert "> counted to 1" in asked.messages[-1].content
    assert "Why?" in asked.messages[-1].content
    assert asked.prompt == Prompt(question="Why?")


def test_a_local_model_gets_quoted_results_even_if_tools_are_granted():
    """llama.cpp in-process declares no tools, whatever the profile grants."""
    first = Scripted([wants("count")], [fault("timeout")], name="one")
    local = Scripted(["It is 1.", END], name="two", provider="llama_cpp")
    run_engine(first, local, tier=ALL, tools=Counter().tooling())

    assert not local.seen[0].tools
    assert "> counted to 1" in local.seen[0].messages[-1].content


def test_rules_answer_the_question_alone():
    """The rule engine never sees what tools gave."""
    first = Scripted([wants("count")], [fault("timeout")], name="one")
    last = rules()
    answer, _ = run_engine(first, last, tier=ALL, tools=Counter().tooling())

    assert answer.text == RULES_TEXT
    assert last.seen[0].prompt == Prompt(question="Why?")
    assert len(answer.tool_calls) == 1


def test_a_backend_that_rejects_tools_is_asked_again_without():
    """`tools` is a parameter to repair: the retry has none, and earlier results as text."""
    first = Scripted([wants("count")], [fault("timeout")], name="one")
    second = Scripted([fault("bad_request", parameter="tools")], ["It is 1.", END], name="two")
    answer, _ = run_engine(first, second, tier=ALL, tools=Counter().tooling())

    assert answer.text == "It is 1."
    assert second.seen[0].tools
    assert not second.seen[1].tools
    assert "> counted to 1" in second.seen[1].messages[-1].content


class Learned(NoMemory):
    """A memory that keeps what is rejected."""

    def __init__(self):
        self.kept = set()

    def rejected(self, identity):
        return frozenset(self.kept)

    def reject(self, identity, parameter):
        self.kept.add(parameter)


def test_a_tool_that_is_rejected_is_left_out_and_named():
    """The others stay, the user is told, and the next request leaves it out from the start."""
    counter, memory = Counter(), Learned()
    tools = [counter.tool, stub("odd")]
    odd = ToolDeclaration(name="odd", description="", parameters={"type": "object"})
    rejected = fault("bad_request", tool="odd", parameter=odd.rejected_as)
    model = Scripted([rejected], ["It is 1.", END])
    answer, events = run_engine(model, tier=ALL, tools=ToolLoop(session(*tools)), health=memory)
    again = Scripted(["It is 1.", END])
    _, later = run_engine(again, tier=ALL, tools=ToolLoop(session(*tools)), health=memory)

    assert answer.text == "It is 1."
    assert [[tool.name for tool in call.tools] for call in model.seen] == [
        ["count", "odd"],
        ["count"],
    ]
    notices = [event.message for event in events if isinstance(event, Notice)]
    assert notices == ["asked again without the tool odd: played"]
    assert [tool.name for tool in again.seen[0].tools] == ["count"]
    [started] = [event for event in later if isinstance(event, AttemptStarted)]
    assert started.without == ("odd",)
    assert remark(started) == ("asking primary (openai model), without what it has rejected: odd")


def test_a_callers_tool_is_never_left_out():
    """A tier that rejects one of the caller's tools gives way, and nothing is remembered."""
    memory = Learned()
    tool = ToolDeclaration(name="odd", parameters={"type": "object"})
    first = Scripted([fault("bad_request", tool="odd", parameter=tool.rejected_as)], name="one")
    second = Scripted(["Well.", END], name="two")
    answer, _ = run_engine(first, second, options=Options(caller_tools=(tool,)), health=memory)

    assert (answer.text, len(first.seen)) == ("Well.", 1)
    assert memory.kept == set()


def test_a_server_that_rejects_tool_after_tool_is_asked_without_any():
    """Four are left out one by one, then all; that there are to be none is not remembered."""
    memory = Learned()
    tools = [stub(f"t{number}") for number in range(9)]
    faults = [
        [
            fault(
                "bad_request",
                tool=tool.name,
                parameter=ToolDeclaration(
                    name=tool.name, description="", parameters=tool.parameters
                ).rejected_as,
            )
        ]
        for tool in tools[:5]
    ]
    model = Scripted(*faults, ["Well.", END])
    answer, events = run_engine(model, tier=ALL, tools=ToolLoop(session(*tools)), health=memory)

    assert answer.text == "Well."
    assert [len(call.tools) for call in model.seen] == [9, 8, 7, 6, 5, 0]
    assert len(memory.kept) == 4
    assert "tools" not in memory.kept
    assert [event.message for event in events if isinstance(event, Notice)][-1] == (
        "asked again without tools: played"
    )


def test_what_is_said_of_an_unnamed_tool_is_not_remembered():
    """The request goes on without tools; the next one has them."""
    memory = Learned()
    model = Scripted([fault("bad_request", parameter="tools", lasting=False)], ["Well.", END])
    answer, _ = run_engine(model, tier=ALL, tools=Counter().tooling(), health=memory)

    assert (answer.text, memory.kept) == ("Well.", set())


def test_a_tool_that_a_call_adds_is_offered_in_the_next_round():
    """The model is told of the tools there are after each round."""
    tools = session(stub("adds"))

    async def adds(arguments):
        tools._toolbox.tools = (stub("adds"), stub("added"))
        return "added"

    tools._toolbox.tools = (stub("adds", adds),)
    model = Scripted([wants("adds")], ["Well.", END])
    run_engine(model, tier=ALL, tools=ToolLoop(tools))

    offered = [[tool.name for tool in call.tools] for call in model.seen]
    assert offered == [["adds"], ["adds", "added"]]


def test_more_tools_than_a_server_takes_are_cut_and_told():
    """OpenAI is offered 128 of 130, and the user is told once."""
    tools = [stub(f"t{number}") for number in range(130)]
    model = Scripted([wants("t3")], ["Well.", END])
    _, events = run_engine(model, tier=ALL, tools=ToolLoop(session(*tools)))

    assert [len(call.tools) for call in model.seen] == [128, 128]
    assert [event.message for event in events if isinstance(event, Notice)] == [
        (
            "openai takes 128 tools, and 130 are granted: t128 and 1 others after it are left out; "
            "grant those it needs"
        )
    ]


def test_rounds_are_limited():
    """After the last round the model may call nothing, and one that does gives way."""
    counter = Counter()
    eager = Scripted(
        [wants("count", arguments='{"by": 1}')],
        [wants("count", arguments='{"by": 2}')],
        ["Two.", END],
    )
    answer, _ = run_engine(eager, tier=ALL, tools=counter.tooling(max_rounds=2))

    assert answer.text == "Two."
    assert [call.tool_choice.mode for call in eager.seen] == ["auto", "auto", "none"]
    assert eager.seen[2].tools
    assert len(results(eager.seen[2])) == 2
    assert counter.runs == 2


def test_the_same_round_has_the_same_number_in_the_next_attempt():
    """Rounds are no retries: a model may use up all its rounds and then all its retries."""
    counter = Counter()
    model = Scripted(
        [wants("count")], [fault("service_unavailable")], [fault("service_unavailable")], ["1", END]
    )
    answer, _ = run_engine(model, tier=ALL | {"retries": 2}, tools=counter.tooling())

    assert answer.text == "1"
    assert counter.runs == 1
    assert [len(results(call)) for call in model.seen] == [0, 1, 1, 1]


def test_results_that_do_not_fit_are_told_as_text_and_cut():
    """A small context gets the results as text that is cut, instead of a tier passed over."""

    async def long(arguments):
        return "word " * 4000

    tools = ToolLoop(session(stub("count", long)))
    first = Scripted([wants("count")], [fault("timeout")], name="one")
    small = Scripted(["Short.", END], name="two")
    answer, _ = run_engine(
        first,
        small,
        tiers={0: ALL, 1: ALL | {"context_tokens": 1200, "params": {"max_tokens": 200}}},
        tools=tools,
    )

    assert answer.text == "Short."
    assert not results(small.seen[0])
    assert "> word" in small.seen[0].messages[-1].content
    assert len(small.seen[0].messages[-1].content) < 8000


def test_hedging_runs_the_winners_tools_only():
    """Of two models that race, the one whose call comes first runs it; the other runs nothing."""
    counter = Counter(takes_s=0.05)
    slow = Scripted([0.08, wants("count", arguments='{"by": 1}')], ["slow", END], name="one")
    fast = Scripted([wants("count", arguments='{"by": 2}')], ["fast", END], name="two")
    answer, _ = run_engine(
        slow, fast, rules(), tier=ALL, tiers={0: {"hedge_after_s": 0.02}}, tools=counter.tooling()
    )

    assert answer.text == "fast"
    assert counter.runs == 1
    assert answer.tool_calls[0].arguments == {"by": 2}
    outcomes = {attempt.tier: attempt.outcome for attempt in answer.attempts}
    assert outcomes == {"primary": "cancelled", "secondary": "ok"}


@pytest.mark.parametrize("delay_s", [0.0, 0.02, 0.021, 0.04])
def test_hedging_with_calls_at_the_same_moment(delay_s):
    """However close the calls of both are, one tool runs, and its caller answers."""
    counter = Counter(takes_s=0.03)
    first = Scripted([0.04, wants("count", arguments='{"by": 1}')], ["one", END], name="one")
    second = Scripted([delay_s, wants("count", arguments='{"by": 2}')], ["two", END], name="two")
    answer, _ = run_engine(
        first,
        second,
        rules(),
        tier=ALL,
        tiers={0: {"hedge_after_s": 0.02}},
        tools=counter.tooling(),
    )

    assert counter.runs == 1
    assert {"primary": "one", "secondary": "two"}[answer.tool_calls[0].tier] == answer.text


class Meeting(Scripted):
    """A backend whose first call begins at the same moment as that of others."""

    def __init__(self, moment, *calls, name):
        super().__init__(*calls, name=name)
        self._moment = moment

    async def answer(self, call):
        if not self.seen:
            asyncio.get_running_loop().call_later(0.06, self._moment.set)
            await self._moment.wait()
        async for chunk in super().answer(call):
            yield chunk


def test_hedging_with_calls_in_the_same_turn_of_the_loop():
    """Both models want tools before anybody could say who has won: still one tool runs."""
    counter = Counter(takes_s=0.02)
    moment = asyncio.Event()
    backends = [
        Meeting(moment, [wants("count", arguments=f'{{"by": {by}}}')], [name, END], name=name)
        for by, name in enumerate(("primary", "secondary"), start=1)
    ]
    answer, _ = run_engine(
        *backends, rules(), tier=ALL, tiers={0: {"hedge_after_s": 0.02}}, tools=counter.tooling()
    )

    assert counter.runs == 1
    assert answer.text == answer.tier == answer.tool_calls[0].tier


def test_a_hedge_winner_that_dies_after_its_call_leaves_its_result():
    """The loser, asked again, is told of the result, and runs nothing twice."""
    counter = Counter()
    slow = Scripted([5.0], name="one")
    fast = Scripted([wants("count")], [fault("stream_interrupted")], name="two")
    third = Scripted([wants("count")], ["It is 1.", END], name="three")
    answer, _ = run_engine(
        slow, fast, third, tier=ALL, tiers={0: {"hedge_after_s": 0.02}}, tools=counter.tooling()
    )

    assert answer.text == "It is 1."
    assert counter.runs == 1
    assert len(results(third.seen[0])) == 1


def test_what_is_not_approved_does_not_run():
    """Without anybody to ask, a tool that may change something is refused, and the model told."""
    counter = Counter()
    model = Scripted([wants("count")], ["I may not.", END])
    answer, _ = run_engine(model, tier=ALL, tools=counter.tooling(approval=Approval("ask")))

    assert counter.runs == 0
    assert answer.tool_calls[0].outcome == "denied"
    assert "approve" in results(model.seen[1])[0].content


def test_a_grant_is_a_list_of_names():
    """A tier is told of the tools it was granted, and can call no other."""
    counter = Counter()
    tools = ToolLoop(session(counter.tool, stub("now")))
    model = Scripted([wants("count")], ["Fine.", END])
    answer, _ = run_engine(model, tier={"tools": ["now"]}, tools=tools)

    assert [tool.name for tool in model.seen[0].tools] == ["now"]
    assert counter.runs == 0
    assert answer.tool_calls[0].outcome == "unknown"


def test_a_request_without_tools_has_no_tool_calls():
    """Without tools the list is empty."""
    answer, _ = run_engine(Scripted(["Hi", END]))

    assert msgspec.to_builtins(answer)["tool_calls"] == ()
