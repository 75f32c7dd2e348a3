"""What the three wires read: real clients' requests, as one kind of request to the tiers."""

from __future__ import annotations

import base64
import json

import pytest
from serve_support import ONE, QUESTION, WIRES, serving

from tieredllm.lenient_json import NotJsonError, decode_sent
from tieredllm.serve.chat import ChatWire
from tieredllm.serve.messages import MessagesWire
from tieredllm.serve.responses import ResponsesWire
from tieredllm.serve.wire import RefusedError, sealed
from tieredllm.types import Document, Image, Message, Seal, ToolCall, ToolChoice

PIXEL = b"\x89PNG\r\n\x1a\n"
DATA = base64.b64encode(PIXEL).decode()
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


def chat(**body):
    return ChatWire().read({"model": "auto", "messages": QUESTION} | body)


def messages(**body):
    return MessagesWire().read({"model": "auto", "max_tokens": 50, "messages": QUESTION} | body)


def responses(**body):
    return ResponsesWire().read({"model": "auto", "input": "Why?"} | body)


READS = {"chat": chat, "messages": messages, "responses": responses}


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_the_last_users_turn_is_the_question(read):
    """One question, and nothing before it."""
    request = read()

    assert request.prompt.question == "Why?"
    assert request.prompt.history == ()
    assert not request.stream


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_unknown_fields_do_no_harm(read):
    """Betas and whatever comes next are ignored."""
    request = read(
        metadata={"user_id": "x"},
        context_management={"edits": [{"type": "clear_thinking_20251015"}]},
        store=False,
        service_tier="auto",
        something_new=[1, {"a": None}],
    )

    assert request.prompt.question == "Why?"


def test_system_and_developer_messages_are_the_system_prompt():
    """Wherever they stand, and in every protocol's words."""
    said = [
        {"role": "developer", "content": [{"type": "text", "text": "Be brief."}]},
        *QUESTION,
        {"role": "system", "content": "Be kind."},
    ]
    in_chat = chat(messages=[said[2], *said[:2]])
    in_messages = messages(
        system=[{"type": "text", "text": "One.", "cache_control": {"type": "ephemeral"}}],
        messages=[*QUESTION, said[2]],
    )
    in_responses = responses(
        instructions="One.",
        input=[
            {
                "type": "message",
                "role": "developer",
                "content": [{"type": "input_text", "text": "Two."}],
            },
            {"role": "user", "content": [{"type": "input_text", "text": "Why?"}]},
        ],
    )

    assert in_chat.prompt.system == "Be kind.\n\nBe brief."
    assert in_messages.prompt.system == "One.\n\nBe kind."
    assert in_messages.prompt.question == "Why?"
    assert in_responses.prompt.system == "One.\n\nTwo."


def test_a_tools_result_is_the_last_word():
    """The conversation ends with it: there is no question, and the tool's name is known."""
    call = {"name": "weather", "arguments": '{"city":"Ulm"}'}
    in_chat = chat(
        messages=[
            *QUESTION,
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": "c1", "type": "function", "function": call}],
            },
            {"role": "tool", "tool_call_id": "c1", "content": "rain"},
        ]
    )
    in_messages = messages(
        messages=[
            *QUESTION,
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "hm", "signature": "s"},
                    {"type": "tool_use", "id": "c1", "name": "weather", "input": {"city": "Ulm"}},
                ],
            },
            {
                "role": "user",
                "content": [{"type": "tool_result", "tool_use_id": "c1", "content": "rain"}],
            },
        ]
    )
    in_responses = responses(
        input=[
            {"role": "user", "content": "Why?"},
            {"type": "reasoning", "id": "r", "summary": [], "encrypted_content": "x"},
            {"type": "function_call", "id": "fc_1", "call_id": "c1", **call},
            {"type": "function_call_output", "call_id": "c1", "output": "rain"},
        ]
    )

    for request in (in_chat, in_messages, in_responses):
        assert request.prompt.question == ""
        assert request.prompt.history == (
            Message("user", "Why?"),
            Message(
                "assistant",
                "",
                calls=(ToolCall(id="c1", name="weather", arguments='{"city":"Ulm"}'),),
            ),
            Message("tool", "rain", call_id="c1", name="weather"),
        )


def test_results_come_before_what_is_said_with_them():
    """Anthropic's clients put both into one message."""
    request = messages(
        messages=[
            *QUESTION,
            {
                "role": "assistant",
                "content": [
                    {"type": "text", "text": "Let me see."},
                    {"type": "tool_use", "id": "c1", "name": "look", "input": {}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {
                        "type": "tool_result",
                        "tool_use_id": "c1",
                        "is_error": True,
                        "content": [
                            {"type": "text", "text": "no"},
                            {
                                "type": "image",
                                "source": {
                                    "type": "base64",
                                    "media_type": "image/png",
                                    "data": DATA,
                                },
                            },
                        ],
                    },
                    {"type": "text", "text": "And now?"},
                ],
            },
        ]
    )

    assert request.prompt.question == "And now?"
    assert request.prompt.history[-1] == Message(
        "tool",
        "no",
        call_id="c1",
        name="look",
        is_error=True,
        parts=(Image(media_type="image/png", data=PIXEL),),
    )


def test_parallel_calls_of_one_turn_stay_together():
    """On Responses each call is an item of its own."""
    request = responses(
        input=[
            {"role": "user", "content": "Why?"},
            {"role": "assistant", "content": [{"type": "output_text", "text": "Looking."}]},
            {"type": "function_call", "call_id": "a", "name": "f", "arguments": "{}"},
            {"type": "function_call", "call_id": "b", "name": "g", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "a", "output": "1"},
            {"type": "function_call_output", "call_id": "b", "output": "2"},
        ]
    )

    turns = request.prompt.history
    assert [turn.role for turn in turns] == ["user", "assistant", "tool", "tool"]
    assert turns[1].content == "Looking."
    assert [call.id for call in turns[1].calls] == ["a", "b"]
    assert [turn.name for turn in turns[2:]] == ["f", "g"]


def test_images_and_documents_are_parts():
    """By data and by URL, in each protocol's shape."""
    url = f"data:image/png;base64,{DATA}"
    pdf = base64.b64encode(b"%PDF").decode()
    in_chat = chat(
        messages=[
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "What?"},
                    {"type": "image_url", "image_url": {"url": url, "detail": "low"}},
                    {"type": "image_url", "image_url": {"url": "https://a.example/x.png"}},
                ],
            }
        ]
    )
    in_messages = messages(
        messages=[
            {
                "role": "user",
                "content": [
                    {
                        "type": "document",
                        "source": {
                            "type": "base64",
                            "media_type": "application/pdf",
                            "data": pdf,
                        },
                    },
                    {"type": "text", "text": "What?"},
                ],
            }
        ]
    )
    in_responses = responses(
        input=[
            {
                "role": "user",
                "content": [
                    {"type": "input_image", "image_url": url},
                    {"type": "input_text", "text": "What?"},
                ],
            }
        ]
    )

    assert in_chat.prompt.parts == (
        Image(media_type="image/png", data=PIXEL, detail="low"),
        Image(url="https://a.example/x.png"),
    )
    assert in_messages.prompt.parts == (Document(media_type="application/pdf", data=b"%PDF"),)
    assert in_responses.prompt.parts == (Image(media_type="image/png", data=PIXEL),)
    assert {r.prompt.question for r in (in_chat, in_messages, in_responses)} == {"What?"}


CSV = base64.b64encode(b"city,degrees").decode()


@pytest.mark.parametrize(
    ("read", "part"),
    [
        (
            chat,
            {
                "type": "file",
                "file": {"file_data": f"data:text/csv;base64,{CSV}", "filename": "a.csv"},
            },
        ),
        (
            responses,
            {
                "type": "input_file",
                "file_data": f"data:text/csv;base64,{CSV}",
                "filename": "a.csv",
            },
        ),
        (
            messages,
            {
                "type": "document",
                "title": "a.csv",
                "source": {"type": "text", "media_type": "text/plain", "data": "city,degrees"},
            },
        ),
        (
            messages,
            {
                "type": "document",
                "title": "a.csv",
                "source": {
                    "type": "content",
                    "content": [{"type": "text", "text": "city,degrees"}],
                },
            },
        ),
    ],
)
def test_a_document_that_is_text_is_read_by_every_model(read, part):
    """It was sent to OpenAI's as a PDF, and refused on Anthropic's wire."""
    asked = "input_text" if read is responses else "text"
    turn = {"role": "user", "content": [part, {"type": asked, "text": "Where?"}]}
    prompt = read(**{"input" if read is responses else "messages": [turn]}).prompt

    assert prompt.question == "[file: a.csv]\ncity,degrees\n\nWhere?"
    assert prompt.parts == ()


@pytest.mark.parametrize(
    "kind", ["application/octet-stream", "application/xml", "Text/Plain", "application/x-yaml", ""]
)
def test_what_reads_as_text_is_text_whatever_it_is_called(kind):
    """Types ignore case (RFC 9110, 8.3.1), and many clients know a file's by its name alone."""
    data = base64.b64encode("\ufeff<a>é</a>".encode()).decode()
    file = {"file_data": f"data:{kind};base64,{data}", "filename": "a.md"}
    asked = chat(messages=[{"role": "user", "content": [{"type": "file", "file": file}]}])

    assert asked.prompt.question == "[file: a.md]\n<a>é</a>"


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("application/zip", b"\xff"),
        ("application/zip", b"a\0b"),
        ("application/zip", b""),
        ("text/plain", b"\xff"),
        ("text/plain", b"a\0b"),
    ],
)
def test_a_document_that_nobody_can_read_is_refused(kind, data):
    """What is called text has to be it; a PDF is known by what it is."""
    url, pdf = (
        f"data:{kind};base64,{base64.b64encode(one).decode()}" for one in (data, b"%PDF-1.7")
    )
    with pytest.raises(RefusedError, match="has to be a PDF or text in UTF-8"):
        chat(messages=[{"role": "user", "content": [{"type": "file", "file": {"file_data": url}}]}])
    known = chat(
        messages=[{"role": "user", "content": [{"type": "file", "file": {"file_data": pdf}}]}]
    )

    assert known.prompt.parts == (Document(media_type="application/pdf", data=b"%PDF-1.7"),)


def test_the_callers_tools_are_declared():
    """Functions are; tools of types that only a vendor's server runs are left out."""
    function = {"name": "weather", "description": "d", "parameters": SCHEMA, "strict": True}
    in_chat = chat(tools=[{"type": "function", "function": function}, {"type": "custom"}])
    in_messages = messages(
        tools=[
            {"name": "weather", "description": "d", "input_schema": SCHEMA, "strict": True},
            {"type": "web_search_20250305", "name": "web_search"},
        ]
    )
    in_responses = responses(
        tools=[
            {"type": "function", **function},
            {"type": "web_search", "external_web_access": True},
        ]
    )

    for request in (in_chat, in_messages, in_responses):
        (tool,) = request.options.caller_tools
        assert (tool.name, tool.description, tool.parameters) == ("weather", "d", SCHEMA)
        assert tool.strict is True
    assert in_chat.left_out == ("custom",)
    assert in_messages.left_out == ("web_search_20250305",)
    assert in_responses.left_out == ("web_search",)


def test_tools_of_a_namespace_and_custom_ones_become_functions():
    """Codex has both: the name says the namespace, and the input is the one argument."""
    grammar = {"type": "grammar", "syntax": "lark", "definition": "start: WORD"}
    request = responses(
        tools=[
            {
                "type": "namespace",
                "name": "agents",
                "tools": [
                    {"type": "function", "name": "spawn", "parameters": SCHEMA},
                    {"type": "tool_search"},
                ],
            },
            {"type": "custom", "name": "patch", "description": "Edit.", "format": grammar},
        ],
        tool_choice={"type": "custom", "name": "patch"},
        input=[
            {"role": "user", "content": "Why?"},
            {
                "type": "function_call",
                "call_id": "c1",
                "name": "spawn",
                "namespace": "agents",
                "arguments": "{}",
            },
            {"type": "function_call_output", "call_id": "c1", "output": "done"},
        ],
    )

    spawn, patch = request.options.caller_tools
    assert (spawn.name, spawn.parameters) == ("agents__spawn", SCHEMA)
    assert (patch.name, list(patch.parameters["properties"])) == ("patch", ["input"])
    assert patch.description.startswith("Edit.")
    assert "start: WORD" in patch.description
    assert request.options.tool_choice == ToolChoice(mode="required", name="patch")
    assert request.left_out == ("tool_search",)
    assert request.prompt.history[-1].name == "agents__spawn"


@pytest.mark.parametrize(
    ("read", "given", "expected"),
    [
        (chat, "required", ToolChoice(mode="required")),
        (
            chat,
            {"type": "function", "function": {"name": "f"}},
            ToolChoice(mode="required", name="f"),
        ),
        (chat, "none", ToolChoice(mode="none")),
        (messages, {"type": "any"}, ToolChoice(mode="required")),
        (messages, {"type": "tool", "name": "f"}, ToolChoice(mode="required", name="f")),
        (
            messages,
            {"type": "auto", "disable_parallel_tool_use": True},
            ToolChoice(parallel=False),
        ),
        (responses, {"type": "function", "name": "f"}, ToolChoice(mode="required", name="f")),
        (responses, {"type": "custom", "name": "f"}, ToolChoice(mode="required", name="f")),
        (responses, "auto", ToolChoice()),
    ],
)
def test_what_is_to_be_called_is_understood(read, given, expected):
    """In each protocol's words."""
    tools = [{"type": "custom", "name": "f"}] if read is responses else []
    assert read(tool_choice=given, tools=tools).options.tool_choice == expected


def test_only_the_allowed_tools_are_declared():
    """`allowed_tools` leaves the others out, on both of OpenAI's wires."""
    functions = [{"name": name, "parameters": SCHEMA} for name in ("f", "g", "h")]
    nested = [{"type": "function", "function": {"name": name}} for name in ("h", "f")]
    flat = [{"type": "function", "name": name} for name in ("h", "f")]
    found = [
        chat(
            tools=[{"type": "function", "function": function} for function in functions],
            tool_choice={
                "type": "allowed_tools",
                "allowed_tools": {"mode": "required", "tools": nested},
            },
        ),
        responses(
            tools=[{"type": "function", **function} for function in functions],
            tool_choice={"type": "allowed_tools", "mode": "required", "tools": flat},
        ),
    ]

    for request in found:
        assert [tool.name for tool in request.options.caller_tools] == ["f", "h"]
        assert request.options.tool_choice == ToolChoice(mode="required")


def test_a_call_that_is_required_of_no_declared_tool_is_refused():
    """Without its tools the request would get words, where it asked for a call."""
    declared = {"name": "f", "parameters": SCHEMA}
    other = {"type": "function", "name": "g"}
    chosen = {"type": "allowed_tools", "mode": "required", "tools": [other]}
    for read, tool in (
        (chat, {"type": "function", "function": declared}),
        (responses, {"type": "function", **declared}),
    ):
        with pytest.raises(RefusedError) as refused:
            read(tools=[tool], tool_choice=chosen)

        assert refused.value.status == 400
        assert refused.value.message == "tool_choice.tools names no declared tool"
        free = read(tools=[tool], tool_choice=chosen | {"mode": "auto"})
        assert free.options.caller_tools == ()


@pytest.mark.parametrize(("read", "field"), [(chat, "messages"), (responses, "input")])
@pytest.mark.parametrize("before", [[], [*QUESTION, {"role": "assistant", "content": "Because."}]])
def test_a_system_message_at_the_end_is_the_question(read, field, before):
    """Simple scripts send one and no more, others end a conversation with it; OpenAI's answer."""
    kind = {"role": "system", "content": "Be kind."}
    asked = {"role": "developer", "content": "Sum it up."}
    prompt = read(**{field: [kind, *before, asked]}).prompt

    assert (prompt.system, prompt.question) == ("Be kind.", "Sum it up.")
    assert len(prompt.history) == len(before)
    assert read(**{field: [kind, *QUESTION, asked]}).prompt.question == "Why?"


def test_a_phase_comes_back_with_its_message():
    """OpenAI's models want it back; it stands with thoughts before it and after it, and alone."""
    seal = sealed(Seal(kind="encrypted", data='{"type":"reasoning"}', made_by="m"))
    said = {"role": "assistant", "phase": "commentary", "content": "I look."}
    thought = {"type": "reasoning", "encrypted_content": seal}
    called = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
    result = {"type": "function_call_output", "call_id": "c", "output": "1"}
    for items in ([said, thought], [thought, said]):
        turn = responses(input=[*QUESTION, *items, called, result]).prompt.history[1]

        assert [one.get("phase") for one in turn.raw] == [one.get("phase") for one in items]
    assert responses(input=[*QUESTION, said, *QUESTION]).prompt.history[1].phase == "commentary"


@pytest.mark.parametrize("place", ["99", "9" * 6000, "٣", "-1", ""])
def test_a_seal_s_place_is_no_way_to_more_than_was_sent(place):
    """Whoever sends it; the calls stay those that were sent."""
    signed = f"m|tieredllm|{place}|tieredllm|c2ln"
    thought = {"type": "thinking", "thinking": "Hm.", "signature": signed}
    called = {"type": "tool_use", "id": "c", "name": "f", "input": {}}
    result = {"type": "tool_result", "tool_use_id": "c", "content": "1"}
    turn = messages(
        messages=[
            *QUESTION,
            {"role": "assistant", "content": [thought, called]},
            {"role": "user", "content": [result]},
        ]
    ).prompt.history[1]

    assert [one["type"] for one in turn.raw if one["type"] != "thinking"] == ["tool_use"]
    assert len(turn.raw) == 2


@pytest.mark.parametrize("wire", WIRES.values(), ids=WIRES)
def test_half_a_character_takes_nothing_else_with_it(wire, tmp_path):
    """Programs that cut texts by UTF-16 units, as JavaScript's do, send the half of an emoji."""
    body = json.dumps(wire.body).replace(QUESTION[0]["content"], r"Cut: \ud83d… Why?").encode()
    with serving(ONE, tmp=tmp_path) as served:
        status, _, _ = served.request("POST", wire.path, body)
        sent = served.upstreams[0].requests[0].json["messages"]

    assert status == 200
    assert sent[-1]["content"] == "Cut: \ufffd… Why?"


@pytest.mark.parametrize(
    "wrong", ["NaN", "1e999", '"a\tb"', "[" * 100_000, "1}{", "1}[DONE]"], ids=lambda it: it[:8]
)
def test_an_escaped_emoji_allows_nothing_else(wrong):
    """What is no JSON is none beside halves of UTF-16 pairs either."""
    for text in (r'{"a": "\ud83d", "b": %s}', r'{"a": "\ud83d\ude00", "b": %s}'):
        with pytest.raises(NotJsonError):
            decode_sent(text % wrong)


def test_a_refusal_that_comes_back_is_read():
    """Its words stand in a field of their own, in both of OpenAI's wires."""
    said = [{"type": "refusal", "refusal": "I won't."}]
    for turns in (
        chat(messages=[{"role": "assistant", "content": said}, *QUESTION]).prompt.history,
        responses(input=[{"role": "assistant", "content": said}, *QUESTION]).prompt.history,
    ):
        assert [turn.content for turn in turns] == ["I won't."]


def test_a_schema_is_passed_on():
    """Whatever the protocol calls it."""
    shape = {"name": "place", "schema": SCHEMA, "strict": True}
    found = [
        chat(response_format={"type": "json_schema", "json_schema": shape}),
        messages(output_config={"format": {"type": "json_schema", "schema": SCHEMA}}),
        responses(text={"format": {"type": "json_schema", **shape}, "verbosity": "low"}),
    ]

    assert [request.options.schema.schema for request in found] == [SCHEMA] * 3
    assert found[0].options.schema.name == "place"
    assert chat(response_format={"type": "text"}).options.schema is None
    assert chat(response_format={"type": "json_object"}).options.schema.schema == {"type": "object"}


def test_parameters_are_the_callers_own():
    """By the names of each protocol."""
    params = chat(
        temperature=0.1, max_completion_tokens=7, max_tokens=9, stop="END", seed=-5, top_p=0.5
    ).options.params
    others = messages(
        stop_sequences=["a", "b"], output_config={"effort": "high"}, max_tokens=2_000_000
    ).options.params

    assert (params.temperature, params.max_tokens, params.stop) == (0.1, 7, ("END",))
    assert params.seed == 2**31 - 5
    assert (others.stop, others.reasoning_effort) == (("a", "b"), "high")
    assert others.max_tokens == 1_000_000


@pytest.mark.parametrize(
    ("read", "body", "what"),
    [
        (chat, {"messages": []}, "has to end with a user's message"),
        (chat, {"messages": "hello"}, "messages has to be a list"),
        (chat, {"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
        (chat, {"messages": [{"role": "user", "content": " "}]}, "empty"),
        (chat, {"n": 2}, "n has to be 1"),
        (chat, {"functions": [{"name": "f", "parameters": {}}]}, "declare them as `tools`"),
        (chat, {"model": 5}, "model has to be a string"),
        (chat, {"temperature": 9}, "$.temperature"),
        (
            chat,
            {"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]},
            "input_audio",
        ),
        (
            chat,
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [{"type": "image_url", "image_url": {"url": "file:///etc/x"}}],
                    }
                ]
            },
            "neither an https URL",
        ),
        (messages, {"messages": [*QUESTION, {"role": "assistant", "content": "I"}]}, "has to end"),
        (messages, {"tools": [{"input_schema": {}}]}, "has no name"),
        (
            messages,
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [
                            {"type": "tool_result", "tool_use_id": "t"},
                            {"type": "search_result"},
                        ],
                    }
                ]
            },
            "messages[0].content[1]: no tier takes",
        ),
        (responses, {"previous_response_id": "resp_1"}, "previous_response_id is not supported"),
        (responses, {"input": [{"role": "user", "content": 5}]}, "input[0].content"),
        (responses, {"input": [{"type": "reasoning", "role": "system"}]}, "has to end with"),
        (
            responses,
            {"input": [{"type": "item_reference", "id": "msg_1"}, *QUESTION]},
            "send the whole conversation as `input`, and `store: false`",
        ),
        (
            messages,
            {"thread": {"type": "continue", "previous_message_id": "msg_1"}},
            "thread: nothing is kept",
        ),
    ],
)
def test_what_cannot_be_done_is_refused_plainly(read, body, what):
    """A 400 names the place."""
    with pytest.raises(RefusedError) as raised:
        read(**body)

    assert raised.value.status == 400
    assert what in raised.value.message
