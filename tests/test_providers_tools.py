"""The three vendors' tool calls, at the level of bytes."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

import msgspec
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from tool_wire_support import (
    COUNT,
    ENDINGS,
    NOW,
    SIGNATURE,
    call_document,
    called,
    calling,
    fragments,
    openai_fragment,
)
from wire_support import (
    CHUNKED_END,
    STREAM_HEAD,
    answers,
    ask,
    attempt,
    backend,
    call,
    chunk,
    closes,
    document,
    ends,
    event,
    llama_server,
    opens,
    raw_server,
    response,
    says,
    smollm2_path,
    stream,
)

from tieredllm.providers.http import HttpClients
from tieredllm.providers.openai import OpenAIToolCalls
from tieredllm.providers.text_calls import CALL_MARKS, TextCalls
from tieredllm.types import Image, Message, ToolCall

DATA = Path(__file__).parent / "data"
VENDORS = ["openai", "responses", "anthropic", "gemini"]
TOOLS = (COUNT, NOW)
CALLS = [
    ("call_1", "count", {"by": 3, "why": 'ünï "quoted" \\ 🙂 \n'}),
    ("call_2", "now", {}),
]


def decoded(calls):
    return [(it.name, msgspec.json.decode(it.arguments or "{}")) for it in calls]


def turn(text="Let me see."):
    """A round that another backend has made: its calls and their results."""
    calls = (
        ToolCall(id="functions.count:0", name="count", arguments='{"by": 3}'),
        ToolCall(id="functions.x:1", name="no such/tool", arguments='{"by": '),
    )
    return (
        Message("assistant", text, calls=calls, made_by="elsewhere"),
        Message("tool", "counted", call_id="functions.count:0", name="count"),
        Message("tool", "none", call_id="functions.x:1", name="no such/tool", is_error=True),
    )


@pytest.mark.parametrize("vendor", VENDORS)
@pytest.mark.parametrize("size", [1, 2, 13, 61, 100_000])
def test_calls_come_whole_however_the_bytes_are_split(vendor, size):
    """Two parallel calls and the text before them are the same wherever the stream is cut."""
    payload = b"".join(calling(vendor, *CALLS, text="Let me see."))
    pieces = [chunk(payload[at : at + size]) for at in range(0, len(payload), size)]
    outcome, _ = ask(vendor, STREAM_HEAD + b"".join(pieces) + CHUNKED_END, call(tools=TOOLS))

    assert outcome.text == "Let me see."
    assert [it.id for it in outcome.request.calls] == ["call_1", "call_2"]
    assert decoded(outcome.request.calls) == [("count", CALLS[0][2]), ("now", {})]
    assert outcome.request.usage.prompt_tokens == 12
    assert outcome.pieces >= 2


@pytest.mark.parametrize(
    ("vendor", "left_out"),
    [
        ("responses", r',"output_index":\d+'),
        ("responses", r',"output_index":\d+|"id":"fc_[^"]*",'),
        ("anthropic", r'"type":"input_json_delta",'),
    ],
)
def test_calls_come_whole_without_what_others_tell_as_well(vendor, left_out):
    """Events without a number belong to the item before; a delta is what its text is called."""
    payload = b"".join(calling(vendor, *CALLS, text="Let me see."))
    bare = re.sub(left_out.encode(), b"", payload)
    outcome, _ = ask(vendor, stream(bare), call(tools=TOOLS))

    assert bare != payload
    assert outcome.text == "Let me see."
    assert decoded(outcome.request.calls) == [("count", CALLS[0][2]), ("now", {})]


def test_the_whole_message_at_the_end_makes_no_call_twice():
    """After calls in pieces, a last chunk with all of them adds none (A3S-Lab/Code#1)."""
    choice = call_document("openai", *CALLS)["choices"][0]
    end = event({"choices": [{**choice, "delta": {}}]})
    events = [*opens("openai"), *called("openai", *CALLS), end]
    outcome, _ = ask("openai", stream(*events), call(tools=TOOLS))

    assert decoded(outcome.request.calls) == [("count", CALLS[0][2]), ("now", {})]


@pytest.mark.parametrize("reason", ["stop", "tool_calls"])
@pytest.mark.parametrize("text", ["", "Let me see."])
def test_a_call_that_never_got_a_name_is_not_passed_over(text, reason):
    """What was said beside it is not the whole answer (QwenLM/qwen-code#6754)."""
    nameless = openai_fragment({"index": 0, "id": "a", "function": {"arguments": '{"by":1}'}})
    said = [says("openai", text)] if text else []
    events = [*opens("openai"), *said, nameless, *ends("openai", reason)]
    outcome, _ = ask("openai", stream(*events), call(tools=TOOLS))

    assert outcome.kind == "malformed_response"


@pytest.mark.parametrize("text", ["", "Let me see."])
@pytest.mark.parametrize(
    ("vendor", "lost"),
    [
        ("responses", {"type": "response.function_call_arguments.delta", "delta": '{"by":1}'}),
        (
            "responses",
            {
                "type": "response.output_item.done",
                "item": {"type": "function_call", "call_id": "a", "arguments": '{"by":1}'},
            },
        ),
        (
            "anthropic",
            {
                "type": "content_block_delta",
                "index": 1,
                "delta": {"type": "input_json_delta", "partial_json": '{"by":1}'},
            },
        ),
        (
            "anthropic",
            {"type": "content_block_start", "index": 1, "content_block": {"type": "tool_use"}},
        ),
    ],
)
def test_a_call_whose_beginning_was_lost_is_not_passed_over(vendor, lost, text):
    """Arguments of no call, and a call of no tool, fail the answer."""
    said = [says(vendor, text)] if text else []
    events = [*opens(vendor), *said, event(lost), *ends(vendor), *closes(vendor)]
    outcome, _ = ask(vendor, stream(*events), call(tools=TOOLS))

    assert outcome.kind == "malformed_response"


def test_arguments_of_anthropic_s_own_tools_are_none_of_ours():
    """Its server's search, which comes in the same pieces, is no call that was lost."""
    block = {"type": "server_tool_use", "id": "srv_1", "name": "web_search", "input": {}}
    delta = {"type": "input_json_delta", "partial_json": '{"query":"x"}'}
    search = [
        event({"type": "content_block_start", "index": 1, "content_block": block}),
        event({"type": "content_block_delta", "index": 1, "delta": delta}),
    ]
    said = [says("anthropic", "Hello."), *ends("anthropic"), *closes("anthropic")]
    outcome, _ = ask("anthropic", stream(*opens("anthropic"), *search, *said), call(tools=TOOLS))

    assert outcome.text == "Hello."


@pytest.mark.parametrize(("pieces", "pause_s"), [(7, 0.12), (1, 0.7)])
def test_a_call_is_not_cut_where_its_reason_comes_with_every_piece(pieces, pause_s):
    """Each piece is waited for anew, as a piece of text is."""
    text = '{"by": 3, "why": "hello world"}'
    size = -(-len(text) // pieces)
    first = {"index": 0, "id": "a", "function": {"name": "count", "arguments": ""}}
    more = [{"index": 0, "function": {"arguments": it}} for it in fragments(text, size)]

    async def play(connection):
        await connection.send(STREAM_HEAD)
        for piece in [first, *more]:
            choice = {"delta": {"tool_calls": [piece]}, "finish_reason": "tool_calls"}
            await connection.send(chunk(event({"choices": [choice]})))
            await asyncio.sleep(pause_s)
        await connection.send(chunk(event("[DONE]")) + CHUNKED_END)

    outcome, _ = ask("openai", play, call(tools=TOOLS))

    assert outcome.request.calls[0].arguments == text


def test_empty_pieces_of_calls_beside_a_text_are_nothing():
    """Some servers send the keys of a call with every word."""
    empty = {"index": 0, "id": "", "function": {"name": "", "arguments": ""}}
    events = [openai_fragment(empty), says("openai", "Hello."), openai_fragment(empty)]
    outcome, _ = ask("openai", stream(*events, *ends("openai")), call(tools=TOOLS))

    assert outcome.text == "Hello."


@pytest.mark.parametrize("vendor", VENDORS)
@pytest.mark.parametrize("text", [None, "Let me see."])
def test_calls_in_a_document(vendor, text):
    """An answer that is not streamed may hold calls, with text or without."""
    body = response(body=call_document(vendor, *CALLS, text=text))
    outcome, _ = ask(vendor, body, call(tools=TOOLS, stream=False))

    assert outcome.texts == ([text] if text else [])
    assert decoded(outcome.request.calls) == [("count", CALLS[0][2]), ("now", {})]


@pytest.mark.parametrize("vendor", VENDORS)
@pytest.mark.parametrize("text", ["", "Let me see."])
def test_a_stream_that_is_cut_after_its_calls_asks_for_nothing(vendor, text):
    """Calls count only when the stream has ended properly; until then it is interrupted."""
    before = [says(vendor, text)] if text else []
    events = [*opens(vendor), *before, *called(vendor, *CALLS)]
    for end in (CHUNKED_END, b""):
        outcome, _ = ask(vendor, stream(*events, end=end), call(tools=TOOLS))

        assert outcome.request is None
        assert outcome.kind == "stream_interrupted"


@pytest.mark.parametrize("vendor", VENDORS)
def test_calls_that_are_cut_at_max_tokens_ask_for_nothing(vendor):
    """Arguments that end at max_tokens may be cut, so the answer is malformed."""
    outcome, _ = ask(vendor, stream(*calling(vendor, *CALLS, reason="length")), call(tools=TOOLS))

    assert outcome.kind == "malformed_response"
    assert "max_tokens" in outcome.error.message


@pytest.mark.parametrize("vendor", VENDORS)
def test_calls_are_malformed_where_no_tool_was_given(vendor):
    """A model that calls tools where it has none, or may call none any more, has not answered."""
    events = stream(*calling(vendor, *CALLS))
    for asked in (call(), call(tools=TOOLS, may_call=False)):
        outcome, _ = ask(vendor, events, asked)

        assert outcome.kind in {"malformed_response", "empty_response"}


@pytest.mark.parametrize("vendor", VENDORS)
def test_a_refusal_beside_calls_is_a_refusal(vendor):
    """A vendor's filter that stops an answer stops its calls, too."""
    outcome, _ = ask(vendor, stream(*calling(vendor, *CALLS, reason="filter")), call(tools=TOOLS))

    assert outcome.kind == "content_filter"


def test_gemini_says_when_a_call_is_malformed():
    """`MALFORMED_FUNCTION_CALL` is a broken answer, not a call that was not allowed."""
    events = stream(*opens("gemini"), *ends("gemini", "MALFORMED_FUNCTION_CALL"))
    outcome, _ = ask("gemini", events, call(tools=TOOLS))

    assert outcome.kind == "malformed_response"
    assert "MALFORMED_FUNCTION_CALL" in outcome.error.message


@pytest.mark.parametrize("reason", ["stop", "tool_calls", "function_call"])
def test_openai_calls_count_whatever_the_reason_says(reason):
    """Compatible servers end a turn with calls by `stop` as well."""
    outcome, _ = ask("openai", stream(*calling("openai", *CALLS, reason=reason)), call(tools=TOOLS))

    assert len(outcome.request.calls) == 2


ODD_FRAGMENTS = {
    "no index, ids once": [
        {"id": "a", "function": {"name": "count", "arguments": '{"by"'}},
        {"function": {"arguments": ": 1}"}},
        {"id": "b", "function": {"name": "now", "arguments": "{}"}},
    ],
    "no index, ids repeated": [
        {"id": "a", "function": {"name": "count", "arguments": '{"by"'}},
        {"id": "a", "function": {"arguments": ": 1}"}},
        {"id": "b", "function": {"name": "now", "arguments": "{}"}},
    ],
    "no index, no ids": [
        {"function": {"name": "count", "arguments": '{"by": 1}'}},
        {"function": {"name": "now", "arguments": "{}"}},
    ],
    "all of index 0": [
        {"index": 0, "id": "a", "function": {"name": "count", "arguments": '{"by": 1}'}},
        {"index": 0, "id": "b", "function": {"name": "now", "arguments": "{}"}},
    ],
    "id and name repeated": [
        {"index": 0, "id": "a", "function": {"name": "count", "arguments": '{"by"'}},
        {"index": 0, "id": "a", "function": {"name": "count", "arguments": ": 1}"}},
        {"index": 1, "id": "b", "function": {"name": "now", "arguments": None}},
    ],
    "the same id twice, arguments decoded": [
        {"index": 0, "id": "a", "function": {"name": "count", "arguments": {"by": 1}}},
        {"index": 1, "id": "a", "function": {"name": "now", "arguments": {}}},
    ],
}


@pytest.mark.parametrize("shape", ODD_FRAGMENTS)
def test_openai_fragments_of_other_servers(shape):
    """Fragments without index or id, or with repeated ones, come to the same two calls."""
    events = stream(
        *opens("openai"),
        *(openai_fragment(fragment) for fragment in ODD_FRAGMENTS[shape]),
        *ends("openai", "tool_calls"),
    )
    outcome, _ = ask("openai", events, call(tools=TOOLS))

    assert decoded(outcome.request.calls) == [("count", {"by": 1}), ("now", {})]
    assert len({it.id for it in outcome.request.calls}) == 2
    assert all(it.id for it in outcome.request.calls)


FRAGMENTS = yaml.safe_load((DATA / "tool_calls.yaml").read_text("utf-8"))
WRITTEN = yaml.safe_load((DATA / "text_calls.yaml").read_text("utf-8"))


@pytest.mark.parametrize("case", FRAGMENTS, ids=lambda case: case["name"])
def test_openai_calls_as_people_reported_them(case):
    """However a server tells its calls apart, they come to what the model meant."""
    events = [
        event({"choices": [{"index": delta.get("choice", 0), "delta": delta}]})
        for delta in case["deltas"]
    ]
    end = ends("openai", case.get("reason", "tool_calls"))
    outcome, _ = ask("openai", stream(*opens("openai"), *events, *end), call(tools=TOOLS))

    assert case["source"]
    assert outcome.kind is None
    assert decoded(outcome.request.calls) == [tuple(it) for it in case["calls"]]
    assert len({it.id for it in outcome.request.calls}) == len(case["calls"])
    assert outcome.text == case.get("text", "")


@pytest.mark.parametrize("pieces", [["get_", "time", "_in"], ["get_time", "_in"]])
def test_a_name_in_pieces_may_begin_with_the_whole_of_another(pieces):
    """What goes on with it is no tool of its own, and so a piece (continuedev/continue#5849)."""
    calls = OpenAIToolCalls(["get_time", "get_time_in"])
    for piece in pieces:
        made = {"index": 0, "function": {"name": piece}}
        calls.take({"choices": [{"index": 0, "delta": {"tool_calls": [made]}}]})

    assert [it.name for it in calls.complete()] == ["get_time_in"]


@pytest.mark.parametrize("case", FRAGMENTS, ids=lambda case: case["name"])
def test_openai_calls_as_people_reported_them_in_one_event(case):
    """The same where all deltas come in one event, glued together."""
    events = [
        msgspec.json.encode({"choices": [{"index": it.get("choice", 0), "delta": it}]}).decode()
        for it in case["deltas"]
    ]
    end = ends("openai", case.get("reason", "tool_calls"))
    outcome, _ = ask("openai", stream(event("".join(events)), *end), call(tools=TOOLS))

    assert decoded(outcome.request.calls) == [tuple(it) for it in case["calls"]]


@pytest.mark.parametrize("vendor", VENDORS)
@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize("case", WRITTEN, ids=lambda case: case["name"])
def test_calls_written_as_text_are_run_or_void(vendor, streamed, case):
    """What a server left in the text is a call, or a failure, but never shown as the answer."""
    reason = case.get("reason", "stop")
    reply = (
        answers(vendor, *case["pieces"], reason=reason)
        if streamed
        else response(body=document(vendor, "".join(case["pieces"]), reason))
    )
    outcome, _ = ask(vendor, reply, call(tools=TOOLS, stream=streamed))

    assert case["source"]
    assert outcome.kind == case.get("kind")
    if "calls" in case:
        assert decoded(outcome.request.calls) == [tuple(it) for it in case["calls"]]
        assert all(it.id for it in outcome.request.calls)
    if outcome.error is None and not case.get("shown"):
        assert outcome.text == case.get("text", "")


@pytest.mark.parametrize("vendor", VENDORS)
def test_calls_written_as_text_are_void_where_none_may_be_made(vendor):
    """Once the rounds are used up, a call is no answer either."""
    text = '<tool_call>{"name": "now"}</tool_call>'
    outcome, _ = ask(vendor, answers(vendor, text), call(tools=TOOLS, may_call=False))

    assert outcome.kind == "malformed_response"
    assert outcome.text == ""


@pytest.mark.parametrize("vendor", VENDORS)
def test_markup_is_text_where_there_are_no_tools(vendor):
    """Without tools, what looks like a call is what was asked about."""
    text = '<tool_call>{"name": "now"}</tool_call>'
    outcome, _ = ask(vendor, answers(vendor, text))

    assert outcome.text == text


@pytest.mark.parametrize("size", [1, 3, 17])
@pytest.mark.parametrize("case", WRITTEN, ids=lambda case: case["name"])
def test_pieces_of_written_calls_make_no_difference(size, case):
    """Wherever the text is cut, the calls in it are the same."""
    whole = "".join(case["pieces"])
    calls = [TextCalls(TOOLS), TextCalls(TOOLS)]
    said = ["", ""]
    for place, pieces in enumerate(
        ([whole], [whole[at : at + size] for at in range(0, len(whole), size)])
    ):
        said[place] = "".join(calls[place].feed(piece)[0] for piece in pieces)
        said[place] += calls[place].end()
    made = [decoded(it.complete()) for it in calls]

    assert said[0] == said[1]
    assert made[0] == made[1]
    assert calls[0].is_broken == calls[1].is_broken


def sent_with(vendor, asked):
    """Give the body of a request."""
    outcome, server = ask(vendor, answers(vendor, "Hi"), asked)
    assert outcome.text == "Hi"
    return server.requests[0].json


def test_declarations_and_a_choice_of_none():
    """Each vendor is told of the tools in its words, and of the end of the rounds."""
    bodies = {vendor: sent_with(vendor, call(tools=TOOLS)) for vendor in VENDORS}
    ended = {vendor: sent_with(vendor, call(tools=TOOLS, may_call=False)) for vendor in VENDORS}
    bare = {vendor: sent_with(vendor, call()) for vendor in VENDORS}

    assert bodies["openai"]["tools"][0] == {
        "type": "function",
        "function": {
            "name": "count",
            "description": "Count up.",
            "parameters": COUNT.parameters,
        },
    }
    assert bodies["anthropic"]["tools"][0] == {
        "name": "count",
        "description": "Count up.",
        "input_schema": COUNT.parameters,
    }
    declared = bodies["gemini"]["tools"][0]["functionDeclarations"]
    assert declared[0]["parametersJsonSchema"] == COUNT.parameters
    assert [tool["name"] for tool in declared] == ["count", "now"]
    assert ended["openai"]["tool_choice"] == "none"
    assert ended["anthropic"]["tool_choice"] == {"type": "none"}
    assert ended["gemini"]["toolConfig"] == {"functionCallingConfig": {"mode": "NONE"}}
    for vendor in VENDORS:
        assert "tool_choice" not in bodies[vendor]
        assert "toolConfig" not in bodies[vendor]
        assert not {"tools", "tool_choice", "toolConfig"} & bare[vendor].keys()


def test_openai_is_told_of_rounds():
    """Calls of another vendor go to OpenAI with ids, names and arguments that it takes."""
    said, *results = sent_with("openai", call(tools=TOOLS, rounds=(*turn(), *turn(text=""))))[
        "messages"
    ][1:4]

    first, second = said["tool_calls"]
    assert said["content"] == "Let me see."
    assert first["function"] == {"name": "count", "arguments": '{"by":3}'}
    assert second["function"] == {"name": "no_such_tool", "arguments": "{}"}
    assert [it["tool_call_id"] for it in results] == [first["id"], second["id"]]
    assert [it["content"] for it in results] == ["counted", "Error: none"]
    assert all(re.fullmatch("[a-z0-9]{9}", it["id"]) for it in said["tool_calls"])


@pytest.mark.parametrize("vendor", VENDORS)
def test_images_of_results_go_along(vendor):
    """An image that a tool gave is sent to each vendor, beside the result's text."""
    said, *told = turn()
    png = Image(media_type="image/png", data=b"png")
    rounds = (said, *(msgspec.structs.replace(it, parts=(png,)) for it in told))
    body = msgspec.json.encode(sent_with(vendor, call(tools=TOOLS, rounds=rounds))).decode()

    assert body.count("cG5n") == len(told)
    assert "counted" in body


def test_anthropic_is_told_of_rounds():
    """Results go to Anthropic in one user turn; ids differ between rounds."""
    messages = sent_with("anthropic", call(tools=TOOLS, rounds=(*turn(), *turn(text=""))))[
        "messages"
    ]

    assert [it["role"] for it in messages] == ["user", "assistant", "user", "assistant", "user"]
    said, results = messages[1]["content"], messages[2]["content"]
    assert said[0] == {"type": "text", "text": "Let me see."}
    assert [it["input"] for it in said[1:]] == [{"by": 3}, {}]
    assert [it["tool_use_id"] for it in results] == [it["id"] for it in said[1:]]
    assert results[1] == {
        "type": "tool_result",
        "tool_use_id": said[2]["id"],
        "content": "Error: none",
        "is_error": True,
    }
    assert "is_error" not in results[0]
    later = [it["type"] for it in messages[3]["content"]]
    assert later == ["tool_use", "tool_use"]
    assert len({it["id"] for it in (*said[1:], *messages[3]["content"])}) == 4


def test_gemini_is_told_of_rounds():
    """The first call of a turn that another model made goes to Gemini without a signature check."""
    contents = sent_with("gemini", call(tools=TOOLS, rounds=turn()))["contents"]

    assert [it["role"] for it in contents] == ["user", "model", "user"]
    text, first, second = contents[1]["parts"]
    assert text == {"text": "Let me see."}
    assert first == {
        "functionCall": {"name": "count", "args": {"by": 3}},
        "thoughtSignature": "skip_thought_signature_validator",
    }
    assert second == {"functionCall": {"name": "no_such_tool", "args": {}}}
    assert contents[2]["parts"] == [
        {"functionResponse": {"name": "count", "response": {"result": "counted"}}},
        {"functionResponse": {"name": "no_such_tool", "response": {"error": "none"}}},
    ]


def went_back(vendor, *events):
    """Ask for calls, answer them, and give the second request's body and the calls."""

    async def run():
        http = HttpClients()
        plays = [stream(*events), answers(vendor, "Done")]

        async def play(connection):
            await connection.send(plays.pop(0))

        try:
            async with raw_server(play) as server:
                model = backend(vendor, server.url, http)
                first = await attempt(model, call(tools=TOOLS))
                calls = first.request.calls
                made = Message(
                    "assistant",
                    first.text,
                    calls=calls,
                    made_by=model.identity,
                    raw=first.request.raw,
                )
                results = [Message("tool", "7", call_id=it.id, name=it.name) for it in calls]
                second = await attempt(model, call(tools=TOOLS, rounds=(made, *results)))
                assert second.text == "Done"
                return server.requests[1].json, calls
        finally:
            await http.aclose()

    return asyncio.run(run())


def test_anthropic_gets_its_own_turn_back_with_thoughts_and_signature():
    """Thinking blocks go back as they came, before the calls they led to."""
    thinking = [
        event(
            {
                "type": "content_block_start",
                "index": 0,
                "content_block": {"type": "thinking", "thinking": "", "signature": ""},
            },
            "content_block_start",
        ),
        *(
            event({"type": "content_block_delta", "index": 0, "delta": delta}, "x")
            for delta in (
                {"type": "thinking_delta", "thinking": "I should "},
                {"type": "thinking_delta", "thinking": "count."},
                {"type": "signature_delta", "signature": SIGNATURE},
            )
        ),
    ]
    opening = opens("anthropic")[0]
    body, calls = went_back(
        "anthropic",
        opening,
        *thinking,
        *called("anthropic", *CALLS),
        *ends("anthropic", "tool_use"),
    )

    assert body["messages"][1]["content"] == [
        {"type": "thinking", "thinking": "I should count.", "signature": SIGNATURE},
        {"type": "tool_use", "id": "call_1", "name": "count", "input": CALLS[0][2]},
        {"type": "tool_use", "id": "call_2", "name": "now", "input": {}},
    ]
    assert [it["tool_use_id"] for it in body["messages"][2]["content"]] == [it.id for it in calls]


def test_gemini_gets_its_own_parts_back():
    """Parts go back as they came, with their signature and ids."""
    body, _ = went_back("gemini", *calling("gemini", *CALLS, text="Let me see."))

    text, first, second = body["contents"][1]["parts"]
    assert text == {"text": "Let me see."}
    assert first["thoughtSignature"] == SIGNATURE
    assert first["functionCall"] == {"id": "call_1", "name": "count", "args": CALLS[0][2]}
    assert "thoughtSignature" not in second
    ids = [it["functionResponse"]["id"] for it in body["contents"][2]["parts"]]
    assert ids == ["call_1", "call_2"]


def test_openai_gets_its_own_ids_thoughts_and_extras_back():
    """What a compatible server keeps beside its calls goes back to it alone."""
    extra = {"google": {"thought_signature": SIGNATURE}}
    first = {"index": 0, "id": "call_1", "function": {"name": "now", "arguments": "{}"}}
    thought = event({"choices": [{"index": 0, "delta": {"reasoning_content": "Hm."}}]})
    body, _ = went_back(
        "openai",
        *opens("openai"),
        thought,
        openai_fragment(first | {"extra_content": extra}),
        *ends("openai", "tool_calls"),
    )

    said = body["messages"][1]
    assert said["reasoning_content"] == "Hm."
    assert said["content"] == ""
    assert said["tool_calls"][0]["id"] == "call_1"
    assert said["tool_calls"][0]["extra_content"] == extra


@pytest.mark.parametrize(
    "message",
    [
        "thinking is enabled but reasoning_content is missing in assistant tool call message",
        "Missing `reasoning_content` field in the assistant message at message index 1.",
    ],
)
def test_a_server_that_wants_thoughts_with_calls_gets_them(message):
    """A 400 that misses them is repaired: the same calls go again, with empty thoughts."""
    asked = call(tools=TOOLS, rounds=turn())
    outcome, _ = ask("openai", response(400, {"error": {"message": message}}), asked)
    again = msgspec.structs.replace(asked, omit=frozenset({outcome.error.parameter}))
    said = sent_with("openai", again)["messages"][1]

    assert said["reasoning_content"] == ""
    assert "reasoning_content" not in sent_with("openai", asked)["messages"][1]


def test_openrouter_gets_its_details_back():
    """Signed thoughts go back whole and in their order, to the server that sent them alone."""
    pieces = [
        {"type": "reasoning.text", "text": "I should ", "index": 0, "format": "x"},
        {"type": "reasoning.text", "text": "count.", "index": 0, "signature": SIGNATURE},
        {"type": "reasoning.encrypted", "data": SIGNATURE, "id": "r", "index": 1},
    ]
    thoughts = [
        event({"choices": [{"index": 0, "delta": {"reasoning_details": [piece]}}]})
        for piece in pieces
    ]
    body, _ = went_back(
        "openai",
        *opens("openai"),
        *thoughts,
        *called("openai", *CALLS),
        *ends("openai", "tool_calls"),
    )

    assert body["messages"][1]["reasoning_details"] == [
        {
            "type": "reasoning.text",
            "text": "I should count.",
            "index": 0,
            "format": "x",
            "signature": SIGNATURE,
        },
        pieces[2],
    ]


HALVES = {
    "openai": [
        {"choices": [{"index": 0, "delta": {"reasoning_content": half}}]}
        for half in ("Hm \ud83d", "\ude80")
    ],
    "anthropic": [
        {
            "type": "content_block_delta",
            "index": 0,
            "delta": {"type": "thinking_delta", "thinking": half},
        }
        for half in ("Hm \ud83d", "\ude80")
    ],
    "gemini": [{"candidates": [{"content": {"parts": [{"text": "Hm \ud83d", "thought": True}]}}]}],
}


@pytest.mark.parametrize("vendor", HALVES)
def test_halves_in_thoughts_go_back_as_they_can(vendor):
    """Thoughts with halves of a UTF-16 pair go back joined, or with U+FFFD for a lone one."""
    thoughts = [f"data: {json.dumps(value)}\n\n".encode() for value in HALVES[vendor]]
    opening = opens(vendor)[:1]
    made = called(vendor, *CALLS)
    body, _ = went_back(vendor, *opening, *thoughts, *made, *ends(vendor, ENDINGS[vendor]))

    assert ("Hm 🚀" if vendor != "gemini" else "Hm \ufffd") in json.dumps(body, ensure_ascii=False)


@pytest.mark.parametrize("vendor", VENDORS)
def test_halves_in_arguments_go_back_as_they_can(vendor):
    """Arguments with half of a pair, escaped, are no reason to fail."""
    made = ToolCall(id="a", name="count", arguments='{"why": "\\ud83d!"}')
    rounds = (
        Message("assistant", "", calls=(made,), made_by="elsewhere"),
        Message("tool", "7", call_id="a", name="count"),
    )

    assert "\ufffd!" in json.dumps(
        sent_with(vendor, call(tools=TOOLS, rounds=rounds)), ensure_ascii=False
    )


@pytest.mark.parametrize("vendor", VENDORS)
def test_halves_in_written_arguments(vendor):
    """The same where the call is written as text."""
    text = '<tool_call>{"name": "count", "arguments": {"why": "\\ud83d!"}}</tool_call>'
    outcome, _ = ask(vendor, answers(vendor, text), call(tools=TOOLS))

    assert decoded(outcome.request.calls) == [("count", {"why": "\ufffd!"})]


@given(
    st.lists(
        st.sampled_from(
            [*CALL_MARKS, *"{}[]()\"',:=", "count", "now", "name", "args", "<", ">", "\n"]
        )
        | st.text(max_size=3),
        max_size=20,
    )
)
def test_any_text_is_calls_or_none(pieces):
    """Whatever a model writes, reading its calls does not fail."""
    calls = TextCalls(TOOLS)
    said = "".join(calls.feed(piece)[0] for piece in pieces) + calls.end()
    made = calls.complete()

    assert "".join(pieces).startswith(said)
    assert all(it.id and it.name for it in made)


def test_another_vendor_gets_no_thoughts():
    """What a model thought is for the server that made it, not for the next tier's."""
    raw = {"reasoning_content": "Hm.", "reasoning_details": [{"text": "Hm."}], "extras": [None] * 2}
    for vendor in VENDORS:
        said, *results = turn()
        rounds = (msgspec.structs.replace(said, raw=raw), *results)
        body = sent_with(vendor, call(tools=TOOLS, rounds=rounds))

        assert "Hm." not in str(body)


def test_anthropic_blocks_that_all_have_index_0():
    """A server that begins every block with index 0 means several."""
    events = [
        event({"type": "content_block_start", "index": 0, "content_block": block})
        for block in (
            {"type": "tool_use", "id": "a", "name": "count", "input": {"by": 1}},
            {"type": "tool_use", "id": "b", "name": "now", "input": {}},
        )
    ]
    outcome, _ = ask(
        "anthropic",
        stream(*opens("anthropic"), *events, *ends("anthropic", "tool_use")),
        call(tools=TOOLS),
    )

    assert decoded(outcome.request.calls) == [("count", {"by": 1}), ("now", {})]


REJECTIONS = [
    ("openai", 400, "registry.ollama.ai/library/gemma:2b does not support tools"),
    ("openai", 400, "`tool calling` is not supported with this model"),
    ("openai", 404, "No endpoints found that support tool use. Try disabling now."),
    ("openai", 500, "tools param requires --jinja flag"),
    ("openai", 400, '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser'),
    ("openai", 400, "Unsupported parameter: 'tools'"),
    ("anthropic", 400, "tools: Extra inputs are not permitted"),
    ("gemini", 400, "Function calling is not enabled for models/gemma-3-27b-it"),
]


@pytest.mark.parametrize(("vendor", "status", "message"), REJECTIONS)
def test_a_model_without_tools_is_a_parameter_to_repair(vendor, status, message):
    """A server that will not have tools is asked again without them: it is no outage."""
    reply = response(status, {"error": {"message": message}})
    outcome, _ = ask(vendor, reply, call(tools=TOOLS))

    assert outcome.kind == "bad_request"
    assert outcome.error.parameter == "tools"


@pytest.fixture(scope="module")
def llama():
    """llama.cpp's own server with a real model."""
    with llama_server(smollm2_path()) as url:
        yield url


@pytest.mark.parametrize("vendor", ["openai", "responses"])
@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize("may_call", [True, False])
def test_llama_cpp_takes_tools_and_rounds(llama, vendor, streamed, may_call):
    """llama.cpp's server accepts declarations and a finished round, and answers or calls."""

    async def run():
        http = HttpClients()
        try:
            model = backend(vendor, llama, http)
            asked = call(
                Message("system", "Use what the tools gave."),
                Message("user", "What is the count?"),
                tools=TOOLS,
                rounds=turn(),
                may_call=may_call,
                stream=streamed,
            )
            asked = msgspec.structs.replace(
                asked, params=msgspec.structs.replace(asked.params, max_tokens=48)
            )
            return await attempt(model, asked)
        finally:
            await http.aclose()

    outcome = asyncio.run(run())

    # A small model may write anything; a request it cannot read would be a bad one.
    assert outcome.finish or outcome.request or outcome.kind == "malformed_response"
    assert outcome.error is None or "max_tokens" in outcome.error.message
