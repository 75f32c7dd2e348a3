"""The client's own tools, structured answers, and `llm`: what programs do besides asking."""

from __future__ import annotations

import json
import subprocess
import sys

import anthropic
import pytest
from pydantic import BaseModel
from serve_support import FIRST, ONE, QUESTION, SECOND, TWO, WIRES, serving
from tool_wire_support import called
from wire_support import (
    answers,
    closes,
    document,
    ends,
    event,
    opens,
    responded,
    response,
    says,
    stream,
)

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
MADE = [("call_1", "weather", {"city": "Ulm"}), ("call_2", "weather", {"city": "Bonn"})]
CALLS = stream(
    *opens("openai"),
    says("openai", "I look."),
    *called("openai", *MADE),
    *ends("openai", "tool"),
    *closes("openai"),
)
TOOL = {"name": "weather", "description": "The weather.", "parameters": SCHEMA}
CHAT_TOOLS = [{"type": "function", "function": TOOL}]
CLAUDE_TOOLS = [{"name": "weather", "description": "The weather.", "input_schema": SCHEMA}]
RESPONSES_TOOLS = [{"type": "function", "strict": False, **TOOL}]


@pytest.mark.parametrize("streams", [True, False], ids=["streamed", "whole"])
def test_chat_clients_get_calls_of_their_own_tools(streams, tmp_path):
    """Two parallel calls with index, id, name and arguments as text; the reason is `tool_calls`."""
    with serving(CALLS, tmp=tmp_path) as served, served.openai() as client:
        if streams:
            with client.chat.completions.stream(
                model="auto", messages=QUESTION, tools=CHAT_TOOLS
            ) as events:
                final = events.get_final_completion()
        else:
            final = client.chat.completions.create(
                model="auto", messages=QUESTION, tools=CHAT_TOOLS
            )
        asked = served.upstreams[0].requests[0].json

    (choice,) = final.choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content == "I look."
    assert [
        (call.id, call.function.name, json.loads(call.function.arguments))
        for call in choice.message.tool_calls
    ] == MADE
    assert asked["tools"][0]["function"]["name"] == "weather"


@pytest.mark.parametrize("streams", [True, False], ids=["streamed", "whole"])
def test_claude_clients_get_calls_of_their_own_tools(streams, tmp_path):
    """Each a block of its own after the text; the reason is `tool_use`."""
    given = {"model": "auto", "max_tokens": 99, "messages": QUESTION, "tools": CLAUDE_TOOLS}
    with serving(CALLS, tmp=tmp_path) as served, served.anthropic() as claude:
        if streams:
            with claude.messages.stream(**given) as events:
                final = events.get_final_message()
        else:
            final = claude.messages.create(**given)

    assert final.stop_reason == "tool_use"
    text, *calls = final.content
    assert text.text == "I look."
    assert [(call.id, call.name, call.input) for call in calls] == MADE


@pytest.mark.parametrize("streams", [True, False], ids=["streamed", "whole"])
def test_responses_clients_get_calls_of_their_own_tools(streams, tmp_path):
    """Each an item of its own after the message."""
    given = {"model": "auto", "input": "Why?", "tools": RESPONSES_TOOLS}
    with serving(CALLS, tmp=tmp_path) as served, served.openai() as client:
        if streams:
            with client.responses.stream(**given) as events:
                final = events.get_final_response()
        else:
            final = client.responses.create(**given)

    message, *calls = final.output
    assert message.content[0].text == "I look."
    assert [(call.call_id, call.name, json.loads(call.arguments)) for call in calls] == MADE
    assert final.status == "completed"


CODEX_TOOLS = [
    {
        "type": "namespace",
        "name": "agents",
        "description": "Helpers.",
        "tools": [{"type": "function", **TOOL}],
    },
    {"type": "custom", "name": "apply_patch", "description": "Edit files."},
    {"type": "web_search"},
]
CODEX_CALLS = stream(
    *opens("openai"),
    *called(
        "openai",
        ("call_a", "agents__weather", {"city": "Rome"}),
        ("call_b", "apply_patch", {"input": "*** Begin Patch\n"}),
    ),
    *ends("openai", "tool"),
    *closes("openai"),
)


@pytest.mark.parametrize("streams", [True, False], ids=["streamed", "whole"])
def test_calls_of_other_kinds_come_back_as_the_client_knows_them(streams, tmp_path):
    """Those of a namespace with its name, those of a custom tool with its text."""
    given = {"model": "auto", "input": "Why?", "tools": CODEX_TOOLS}
    with serving(CODEX_CALLS, tmp=tmp_path) as served, served.openai() as client:
        if streams:
            with client.responses.stream(**given) as events:
                seen = list(events)
            final = next(e.response for e in seen if e.type == "response.completed")
            (typed,) = [e for e in seen if e.type == "response.custom_tool_call_input.done"]
            assert typed.input == "*** Begin Patch\n"
        else:
            final = client.responses.create(**given)
        served.reports.clear()

    spawn, patch = final.output
    assert (spawn.type, spawn.namespace, spawn.name) == ("function_call", "agents", "weather")
    assert json.loads(spawn.arguments) == {"city": "Rome"}
    assert (patch.type, patch.name, patch.call_id) == ("custom_tool_call", "apply_patch", "call_b")
    assert patch.input == "*** Begin Patch\n"


LONG = "mcp__a_server_with_many_tools__get_failed_pipeline_jobs_from_merge_request_by_"


def test_names_that_are_too_long_for_a_vendor_are_shortened_on_the_way(tmp_path):
    """Anthropic's clients have names of up to 128 characters, OpenAI's servers take 64."""
    names = [f"{LONG}{end}" for end in ("author", "reviewer")]
    tools = [{"name": name, "input_schema": SCHEMA} for name in names]

    async def play(connection):
        sent = connection.received.json
        if sent["messages"][-1]["role"] == "tool":
            await connection.send(answers("openai", "Two."))
            return
        told = sent["tools"][1]["function"]["name"]
        made = called("openai", ("call_1", told, {"city": "Ulm"}))
        await connection.send(
            stream(*opens("openai"), *made, *ends("openai", "tool"), *closes("openai"))
        )

    with serving(play, tmp=tmp_path) as served, served.anthropic() as claude:
        given = {"model": "auto", "max_tokens": 50, "tools": tools}
        given["tool_choice"] = {"type": "tool", "name": names[1]}
        call = claude.messages.create(messages=QUESTION, **given).content[0]
        result = {"type": "tool_result", "tool_use_id": call.id, "content": "2"}
        messages = [
            *QUESTION,
            {"role": "assistant", "content": [call.to_dict()]},
            {"role": "user", "content": [result]},
        ]
        text = claude.messages.create(messages=messages, **given).content[0].text
        first, second = (one.json for one in served.upstreams[0].requests)

    told = [tool["function"]["name"] for tool in first["tools"]]
    assert (call.name, text) == (names[1], "Two.")
    assert len(set(told)) == 2
    assert max(map(len, told)) == 64
    assert first["tool_choice"]["function"]["name"] == told[1]
    assert second["messages"][1]["tool_calls"][0]["function"]["name"] == told[1]


def test_tools_that_nobody_can_call_are_named_once(tmp_path):
    """Whoever runs the gateway learns why a client's tool is never called."""
    with serving(ONE, tmp=tmp_path) as served, served.openai() as client:
        for _ in range(2):
            client.responses.create(model="auto", input="Why?", tools=CODEX_TOOLS)
        reports = [*served.reports]
        served.reports.clear()

    assert len(reports) == 1
    assert "web_search" in reports[0]


def test_results_of_the_clients_tools_survive_a_fallback(tmp_path):
    """The tier that asked for them is gone in the second round; the next one is told of them."""
    with serving(CALLS, TWO, tmp=tmp_path) as served, served.openai() as client:
        first = client.chat.completions.create(model="auto", messages=QUESTION, tools=CHAT_TOOLS)
        served.call(setattr, served.upstreams[0], "_play", response(503))
        said = first.choices[0].message
        messages = [
            *QUESTION,
            said.model_dump(exclude_none=True),
            *(
                {"role": "tool", "tool_call_id": call.id, "content": f"rain {number}"}
                for number, call in enumerate(said.tool_calls)
            ),
        ]
        final = client.chat.completions.create(model="auto", messages=messages, tools=CHAT_TOOLS)
        asked = served.upstreams[1].requests[0].json

    assert final.choices[0].message.content == SECOND
    assert [message["role"] for message in asked["messages"]] == [
        "user",
        "assistant",
        "tool",
        "tool",
    ]
    assert [call["function"]["name"] for call in asked["messages"][1]["tool_calls"]] == [
        "weather",
        "weather",
    ]
    assert [message["content"] for message in asked["messages"][2:]] == ["rain 0", "rain 1"]


def test_the_callers_parameters_reach_the_tier(tmp_path):
    """Below the first tier `max_tokens` is at most the tier's own."""
    tier = {"params": {"max_tokens": 50}}
    with serving(response(500), TWO, tmp=tmp_path, tier=tier) as served, served.openai() as client:
        client.chat.completions.create(
            model="auto", messages=QUESTION, temperature=0.125, max_completion_tokens=70, stop="X"
        )
        first, second = (server.requests[0].json for server in served.upstreams)

    assert first["temperature"] == second["temperature"] == 0.125
    assert first["stop"] == ["X"]
    assert (first["max_tokens"], second["max_tokens"]) == (70, 50)


def test_a_tier_that_lacks_what_is_needed_is_passed_over(tmp_path):
    """An image goes to no tier that cannot see; where none can, it is the request's own fault."""
    pixel = "data:image/png;base64,iVBORw0KGgo="
    messages = [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What?"},
                {"type": "image_url", "image_url": {"url": pixel}},
            ],
        }
    ]
    with serving(ONE, tmp=tmp_path, tier={"vision": False}) as served:
        body = {"model": "auto", "messages": messages}
        status, _, answer = served.request("POST", "/v1/chat/completions", body)

        assert served.upstreams[0].requests == []
    assert status == 400
    assert "cannot see images" in json.loads(answer)["error"]["message"]


class Place(BaseModel):
    city: str


@pytest.mark.parametrize("wire", ["chat", "responses"])
def test_any_json_is_asked_for_by_the_word_that_the_server_knows(wire, tmp_path):
    """DeepSeek's knows `json_object` alone (its words of 2026), LM Studio's `json_schema` alone."""
    refusal = {"message": "This response_format type is unavailable now"}
    turns = iter([response(400, {"error": refusal}), *[answers("openai", '{"a": 1}')] * 2])

    async def play(connection):
        await connection.send(next(turns))

    form = {"type": "json_object"}
    given = {"response_format": form} if wire == "chat" else {"text": {"format": form}}
    body = WIRES[wire].body | given | {"stream": False}
    with serving(play, tmp=tmp_path) as served:
        statuses = [served.request("POST", WIRES[wire].path, body)[0] for _ in "ab"]
        sent = [one.json["response_format"]["type"] for one in served.upstreams[0].requests]

    assert statuses == [200, 200]
    assert sent == ["json_schema", "json_object", "json_object"]


@pytest.mark.parametrize("wire", WIRES.values(), ids=WIRES)
def test_a_stream_that_is_to_fit_a_schema_shows_no_answer_that_does_not(wire, tmp_path):
    """The next tier's is sent, whole: what does not fit is known only at its end."""
    given = {
        "/v1/chat/completions": {
            "response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}}
        },
        "/v1/messages": {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}},
        "/v1/responses": {"text": {"format": {"type": "json_schema", "schema": SCHEMA}}},
    }[wire.path]
    fits = answers("openai", '{"city"', ': "Ulm"}')
    with serving(ONE, fits, tmp=tmp_path) as served:
        body = wire.body | given | {"stream": True}
        status, found, content = served.request("POST", wire.path, body)

    assert (status, found["x-tieredllm-tier"]) == (200, "t2")
    assert "broken" not in found
    assert b"Ulm" in content
    assert b"Well" not in content


def test_parse_gives_objects(tmp_path):
    """`.parse()` of both SDKs: the schema goes to the tier, its answer is the object."""
    play = answers("openai", '{"city": ', '"Ulm"}')
    with serving(play, tmp=tmp_path) as served:
        with served.openai() as client:
            chat = client.chat.completions.parse(
                model="auto", messages=QUESTION, response_format=Place
            )
            whole = client.responses.parse(model="auto", input="Where?", text_format=Place)
        with served.anthropic() as claude:
            message = claude.messages.parse(
                model="auto", max_tokens=99, messages=QUESTION, output_format=Place
            )
        asked = [request.json for request in served.upstreams[0].requests]

    assert chat.choices[0].message.parsed == Place(city="Ulm")
    assert whole.output_parsed == Place(city="Ulm")
    assert message.parsed_output == Place(city="Ulm")
    assert all(
        "city" in body["response_format"]["json_schema"]["schema"]["properties"] for body in asked
    )


def llm(url: str, tmp_path, *args: str) -> subprocess.CompletedProcess[str]:
    """Run `llm` with the settings of docs/serve.md."""
    (tmp_path / "extra-openai-models.yaml").write_text(
        f"- model_id: tieredllm\n  model_name: tieredllm\n  api_base: {url}/v1\n"
        "  supports_tools: true\n  supports_schema: true\n  vision: true\n"
    )
    return subprocess.run(
        [sys.executable, "-m", "llm", "-m", "tieredllm", "--no-log", *args],
        env={"LLM_USER_PATH": str(tmp_path), "PATH": "", "HOME": str(tmp_path)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize("args", [(), ("--no-stream",)], ids=["streamed", "whole"])
def test_llm_gets_its_answer(args, tmp_path):
    """The first tier's, or the next one's."""
    with serving(response(503), ONE, tmp=tmp_path / "home") as served:
        done = llm(served.url, tmp_path, *args, "why?")

    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == FIRST


def test_llm_never_takes_half_an_answer_for_whole(tmp_path):
    """A tier that is cut after words makes it exit 1 with an error."""
    half = stream(*opens("openai"), says("openai", "Half"))
    with serving(half, TWO, tmp=tmp_path / "home") as served:
        done = llm(served.url, tmp_path, "why?")

    assert done.returncode == 1
    assert "t1 broke off" in done.stderr


def test_llms_schema_reaches_the_tier(tmp_path):
    """Its short form, through `response_format`."""
    with serving(answers("openai", '{"city": "Ulm"}'), tmp=tmp_path / "home") as served:
        done = llm(served.url, tmp_path, "--schema", "city str", "where?")

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"city": "Ulm"}


def block(index: int, begun: dict, *deltas: dict) -> list[bytes]:
    """Make the events of one of Anthropic's blocks."""
    at = {"index": index}
    told = [{"type": "content_block_start", "content_block": begun}]
    told += [{"type": "content_block_delta", "delta": delta} for delta in deltas]
    told.append({"type": "content_block_stop"})
    return [event(one | at, one["type"]) for one in told]


SIGNED = stream(
    opens("anthropic")[0],
    *block(
        0,
        {"type": "thinking", "thinking": "", "signature": ""},
        {"type": "thinking_delta", "thinking": "Let me "},
        {"type": "thinking_delta", "thinking": "see."},
        {"type": "signature_delta", "signature": "c2lnbmVk"},
    ),
    *block(1, {"type": "redacted_thinking", "data": "aGlkZGVu"}),
    *block(
        2,
        {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {}},
        {"type": "input_json_delta", "partial_json": '{"city": "Rome"}'},
    ),
    *block(
        3,
        {"type": "thinking", "thinking": "", "signature": ""},
        {"type": "thinking_delta", "thinking": "And Ulm?"},
        {"type": "signature_delta", "signature": "bW9yZQ"},
    ),
    *block(4, {"type": "text", "text": ""}, {"type": "text_delta", "text": "Ulm, too."}),
    *block(
        5,
        {"type": "tool_use", "id": "toolu_2", "name": "weather", "input": {}},
        {"type": "input_json_delta", "partial_json": '{"city": "Ulm"}'},
    ),
    *ends("anthropic", "tool"),
    *closes("anthropic"),
)
AS_SIGNED = [
    {"type": "thinking", "thinking": "Let me see.", "signature": "c2lnbmVk"},
    {"type": "redacted_thinking", "data": "aGlkZGVu"},
    {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Rome"}},
    {"type": "thinking", "thinking": "And Ulm?", "signature": "bW9yZQ"},
    {"type": "text", "text": "Ulm, too."},
    {"type": "tool_use", "id": "toolu_2", "name": "weather", "input": {"city": "Ulm"}},
]


@pytest.mark.parametrize("how", ["streamed", "complete", "whole", "unstreamed"])
def test_signed_thoughts_come_back_to_who_signed_them_and_nobody_else(how, tmp_path):
    """Byte for byte, where they stood, though the client is told calls last.

    Another tier is sent what was said and called without them.
    """
    message = document("anthropic", None, "tool") | {"content": AS_SIGNED}
    first = response(200, message) if how == "unstreamed" else SIGNED
    turns = iter([first, answers("anthropic", "Sunny."), response(500)])

    async def play(connection):
        await connection.send(next(turns))

    other = answers("anthropic", "Rainy.")
    given = {"model": "auto", "max_tokens": 2000, "tools": CLAUDE_TOOLS}
    given["thinking"] = {"type": "adaptive"}
    given["extra_headers"] = {"x-tieredllm-stream": "complete"} if how == "complete" else {}
    tier = {"provider": "anthropic", "stream": how != "unstreamed"}
    with (
        serving(play, other, tmp=tmp_path, tier=tier) as served,
        served.anthropic() as claude,
    ):
        if how == "whole":
            said = claude.messages.create(messages=QUESTION, **given).content
        else:
            with claude.messages.stream(messages=QUESTION, **given) as events:
                said = events.get_final_message().content
        results = [
            {"type": "tool_result", "tool_use_id": f"toolu_{number}", "content": "25 degrees"}
            for number in (1, 2)
        ]
        turn = [{"role": "assistant", "content": [one.to_dict() for one in said]}]
        messages = [*QUESTION, *turn, {"role": "user", "content": results}]
        texts = [claude.messages.create(messages=messages, **given).content[-1].text for _ in "ab"]
        own = served.upstreams[0].requests[1].json["messages"][1]["content"]
        others = served.upstreams[1].requests[0].json["messages"][1]["content"]

    assert [one.type for one in said] == [
        "thinking",
        "redacted_thinking",
        "thinking",
        "text",
        "tool_use",
        "tool_use",
    ]
    assert texts == ["Sunny.", "Rainy."]
    assert own == AS_SIGNED
    assert [one["type"] for one in others] == ["text", "tool_use", "tool_use"]


@pytest.mark.parametrize("streamed", [True, False])
def test_a_runner_of_tools_that_counts_on_the_server_loses_nothing(streamed, tmp_path):
    """Its SDK sends a thread's new messages alone, until it is told that none is kept."""
    turns = iter([SIGNED, *[answers("anthropic", "Sunny.")] * 2])

    async def play(connection):
        await connection.send(next(turns))

    @anthropic.beta_tool
    def weather(city: str) -> str:
        """Look up the weather."""
        return f"25 degrees in {city}"

    with (
        serving(play, tmp=tmp_path, tier={"provider": "anthropic"}) as served,
        served.anthropic() as claude,
    ):
        runner = claude.beta.messages.tool_runner(
            model="auto", max_tokens=2000, tools=[weather], messages=QUESTION, stream=streamed
        )
        said = runner.until_done().content
        sent = served.upstreams[0].requests[-1].json

    assert said[-1].text == "Sunny."
    assert [turn["role"] for turn in sent["messages"]] == ["user", "assistant", "user"]
    assert [one["content"] for one in sent["messages"][2]["content"]] == [
        "25 degrees in Rome",
        "25 degrees in Ulm",
    ]
    assert [tool["name"] for tool in sent["tools"]] == ["weather"]


def item(index: int, value: dict) -> list[bytes]:
    """Make the events of one of the Responses API's items."""
    kinds = ("response.output_item.added", "response.output_item.done")
    return [event({"type": kind, "output_index": index, "item": value}, kind) for kind in kinds]


def encrypted(number: int) -> dict:
    return {
        "id": f"rs_{number}",
        "type": "reasoning",
        "summary": [{"type": "summary_text", "text": f"Let me see, {number}."}],
        "encrypted_content": f"gAAAA{number}",
    }


def summed_up(number: int) -> bytes:
    kind = "response.reasoning_summary_text.delta"
    told = {"output_index": number, "summary_index": 0, "delta": f"Let me see, {number}."}
    return event({"type": kind} | told, kind)


WEATHER = {
    "id": "fc_1",
    "type": "function_call",
    "call_id": "call_1",
    "name": "weather",
    "arguments": '{"city":"Rome"}',
}
SPOKEN = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "phase": "commentary",
    "content": [{"type": "output_text", "text": "I look.", "annotations": []}],
}
MORE_WEATHER = WEATHER | {"id": "fc_2", "call_id": "call_2", "arguments": '{"city":"Ulm"}'}
OUTPUT = [encrypted(0), SPOKEN, WEATHER, encrypted(3), MORE_WEATHER]
ENCRYPTED = stream(
    *opens("responses")[:2],
    summed_up(0),
    *item(0, encrypted(0)),
    *item(1, SPOKEN)[:1],
    says("responses", "I look."),
    *item(1, SPOKEN)[1:],
    *item(2, WEATHER),
    summed_up(3),
    *item(3, encrypted(3)),
    *item(4, MORE_WEATHER),
    event(
        {"type": "response.completed", "response": responded(OUTPUT, None)},
        "response.completed",
    ),
)


@pytest.mark.parametrize("how", ["streamed", "complete", "whole", "unstreamed"])
def test_encrypted_thoughts_come_back_to_who_encrypted_them_and_nobody_else(how, tmp_path):
    """Each as it was and where it stood, though the client is told calls last; so do phases.

    Another tier is sent no thoughts, but the phases.
    """
    first = response(200, responded(OUTPUT, None))
    turns = iter(
        [
            first if how == "unstreamed" else ENCRYPTED,
            response(200, document("responses", "Sunny.")),
            response(500),
        ]
    )

    async def play(connection):
        await connection.send(next(turns))

    other = answers("responses", "Rainy.")
    given = {"model": "auto", "tools": RESPONSES_TOOLS, "reasoning": {"effort": "low"}}
    given["extra_headers"] = {"x-tieredllm-stream": "complete"} if how == "complete" else {}
    asked = [{"role": "user", "content": "Why?"}]
    with (
        serving(
            play, other, tmp=tmp_path, tier={"api": "responses", "stream": how != "unstreamed"}
        ) as served,
        served.openai() as client,
    ):
        if how == "whole":
            output = client.responses.create(input=asked, **given).output
        else:
            with client.responses.stream(input=asked, **given) as events:
                output = events.get_final_response().output
        results = [
            {"type": "function_call_output", "call_id": f"call_{number}", "output": "25 degrees"}
            for number in (1, 2)
        ]
        back = [*asked, *(one.to_dict() for one in output), *results]
        texts = [client.responses.create(input=back, **given).output_text for _ in "ab"]
        own = served.upstreams[0].requests[1].json["input"]
        others = served.upstreams[1].requests[0].json["input"]

    assert texts == ["Sunny.", "Rainy."]
    assert [one.type for one in output] == [
        "reasoning",
        "message",
        "reasoning",
        "function_call",
        "function_call",
    ]
    assert output[1].phase == "commentary"
    assert [own[1], own[4]] == [encrypted(0), encrypted(3)]
    assert (own[2]["phase"], own[2]["content"][0]["text"]) == ("commentary", "I look.")
    assert [one.get("call_id") for one in own[3:]] == ["call_1", None, "call_2", "call_1", "call_2"]
    assert [one.get("type") for one in others[1:4]] == [
        "message",
        "function_call",
        "function_call",
    ]
    assert others[1]["phase"] == "commentary"


FINAL = SPOKEN | {
    "id": "msg_2",
    "phase": "final_answer",
    "content": [{"type": "output_text", "text": "Sunny.", "annotations": []}],
}


def replied(*events: bytes) -> bytes:
    """Make a streamed response of OpenAI's of the events of its items."""
    completed = {"type": "response.completed", "response": responded([], None)}
    return stream(*opens("responses")[:2], *events, event(completed, completed["type"]))


@pytest.mark.parametrize("how", ["live", "complete", "whole"])
@pytest.mark.parametrize("vendor", ["openai", "anthropic"])
def test_what_is_said_after_thoughts_does_not_begin_with_a_blank_line(vendor, how, tmp_path):
    """It begins an item or a block of its own, and needs none to be apart."""
    one, two = (
        SPOKEN | {"id": f"msg_{text}", "content": [{"type": "output_text", "text": text}]}
        for text in ("One.", "Two.")
    )
    play = replied(*item(0, one), summed_up(1), *item(1, encrypted(1)), *item(2, two))
    given = {"model": "auto", "extra_headers": {"x-tieredllm-stream": how}}
    with serving(play, tmp=tmp_path, tier={"api": "responses"}) as served:
        if vendor == "openai":
            given |= {"input": QUESTION, "reasoning": {"effort": "low"}}
            with served.openai() as client:
                if how == "whole":
                    output = client.responses.create(**given).output
                else:
                    with client.responses.stream(**given) as events:
                        output = events.get_final_response().output
            said = [part for it in output for part in (it.content or it.summary)]
        else:
            given |= {"messages": QUESTION, "thinking": {"type": "adaptive"}, "max_tokens": 2000}
            with served.anthropic() as claude:
                if how == "whole":
                    said = claude.messages.create(**given).content
                else:
                    with claude.messages.stream(**given) as events:
                        said = events.get_final_message().content

    thought = "Let me see, 1."
    told = [one.thinking if one.type == "thinking" else one.text for one in said]
    assert told == ["One.", thought, "Two."]


def test_what_is_said_before_the_profile_s_tools_keeps_its_phase(tmp_path):
    """Nothing without one stands between it and the answer."""
    wanted = WEATHER | {"name": "now", "arguments": "{}"}
    plays = iter([replied(*item(0, SPOKEN), *item(1, wanted)), replied(*item(0, FINAL))])

    async def play(connection):
        await connection.send(next(plays))

    tier, settings = {"api": "responses", "tools": "all"}, {"tools": {"builtin": ["now"]}}
    with (
        serving(play, tmp=tmp_path, tier=tier, settings=settings) as served,
        served.openai() as client,
        client.responses.stream(model="auto", input=QUESTION) as events,
    ):
        added = [one.item.phase for one in events if one.type == "response.output_item.added"]
        output = events.get_final_response().output

    assert added == ["commentary", "final_answer"]
    assert [(one.phase, one.content[0].text) for one in output] == [
        ("commentary", "I look."),
        ("final_answer", "Sunny."),
    ]


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize("how", ["live", "complete"])
def test_messages_of_two_phases_stay_two(streamed, how, tmp_path):
    """Whether the client takes thoughts or not; elsewhere they are paragraphs of one."""
    spoken = stream(
        *opens("responses")[:2],
        *item(0, SPOKEN)[:1],
        says("responses", "I look."),
        *item(0, SPOKEN)[1:],
        *item(1, FINAL)[:1],
        says("responses", "Sunny."),
        *item(1, FINAL)[1:],
        event(
            {"type": "response.completed", "response": responded([SPOKEN, FINAL], None)},
            "response.completed",
        ),
    )
    tier = {"api": "responses", "stream": streamed}
    plays = iter([spoken if streamed else response(200, responded([SPOKEN, FINAL], None))] * 3)

    async def play(connection):
        await connection.send(next(plays))

    with serving(play, tmp=tmp_path, tier=tier) as served, served.openai() as client:
        with client.responses.stream(
            model="auto", input=QUESTION, extra_headers={"x-tieredllm-stream": how}
        ) as events:
            begun = [one.item.phase for one in events if one.type == "response.output_item.added"]
            output = events.get_final_response().output
        back = [*QUESTION, *(one.to_dict() for one in output), *QUESTION]
        whole = client.responses.create(model="auto", input=back).output
        text = client.chat.completions.create(model="auto", messages=QUESTION).choices[0]
        sent = served.upstreams[0].requests[1].json["input"]

    told = [("commentary", "I look."), ("final_answer", "Sunny.")]
    assert begun == ["commentary", "final_answer"]
    assert [(one.phase, one.content[0].text) for one in output] == told
    assert [(one.phase, one.content[0].text) for one in whole] == told
    assert text.message.content == "I look.\n\nSunny."
    assert [(one["phase"], one["content"][0]["text"]) for one in sent[1:3]] == told
