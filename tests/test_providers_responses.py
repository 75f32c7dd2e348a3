"""OpenAI's Responses API: what is sent, what comes back, and when it is spoken."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from profile_support import places_in, write
from tool_wire_support import COUNT, call_item, calling
from wire_support import (
    KEY,
    ask,
    attempt,
    backend,
    call,
    document,
    ends,
    event,
    opens,
    raw_server,
    responded,
    response,
    says,
    stream,
)

from tieredllm.clock import SystemClock
from tieredllm.keys import Keys
from tieredllm.profile.load import load_profile
from tieredllm.profile.schema import Params
from tieredllm.providers.factory import BackendDeps, make_backends
from tieredllm.providers.http import HttpClients
from tieredllm.providers.openai_responses import ResponsesBackend
from tieredllm.types import Document, Image, Message, OutputSchema, ToolChoice

FULL = Params(
    temperature=1.4, top_p=0.85, max_tokens=512, frequency_penalty=0.5, reasoning_effort="high"
)
TALK = (
    Message("system", "Be kind."),
    Message("user", "One?"),
    Message("assistant", "One."),
    Message("user", "Two?"),
)
THOUGHT = {
    "id": "rs_1",
    "type": "reasoning",
    "summary": [],
    "encrypted_content": "gAAAA",
    "status": None,
}
SAID = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "status": "completed",
    "phase": "commentary",
    "content": [{"type": "output_text", "text": "Let me see.", "annotations": []}],
}


def said(text):
    content = [{"type": "output_text", "text": text}]
    return {"type": "message", "role": "assistant", "content": content}


def sent(asked, **options):
    _, server = ask("responses", response(200, document("responses", "Hi")), asked, **options)
    (received,) = server.requests
    return received


def at_home(model, asked=None):
    """Give the body for OpenAI's own server, which is not asked."""
    return backend("responses", None, HttpClients(), model=model)._build_request(asked or call())


def test_it_is_sent_its_form():
    """Nothing is kept at the server; what it has no parameter for is not sent."""
    received = sent(call(*TALK, params=FULL, tools=(COUNT,)))

    assert (received.method, received.path) == ("POST", "/v1/responses")
    assert f"Bearer {KEY}" == received.headers["authorization"]
    assert received.json == {
        "model": "m-1",
        "instructions": "Be kind.",
        "input": [
            {"role": "user", "content": "One?"},
            said("One."),
            {"role": "user", "content": "Two?"},
        ],
        "stream": True,
        "store": False,
        "temperature": 1.4,
        "top_p": 0.85,
        "max_output_tokens": 512,
        "reasoning": {"effort": "high"},
        "tools": [
            {
                "type": "function",
                "name": "count",
                "description": "Count up.",
                "parameters": COUNT.parameters,
                "strict": False,
            }
        ],
    }


def test_a_model_that_thinks_is_sent_no_sampling_and_asked_for_its_thoughts():
    """They come encrypted, to go back with the calls they led to, and summed up."""
    body = at_home("gpt-5.6", call(params=FULL, tools=(COUNT,))).body

    assert "temperature" not in body
    assert "top_p" not in body
    assert body["include"] == ["reasoning.encrypted_content"]
    assert body["reasoning"] == {"effort": "high", "summary": "auto"}
    assert "include" not in at_home("gpt-5.6").body
    assert "include" not in at_home("gpt-4o", call(tools=(COUNT,))).body


@pytest.mark.parametrize(
    ("model", "params", "path"),
    [
        ("gpt-4o", Params(), "/v1/responses"),
        ("gpt-4o", Params(stop=("END",)), "/v1/chat/completions"),
        ("gpt-4o", Params(seed=0), "/v1/chat/completions"),
        ("gpt-4o", Params(presence_penalty=0.5), "/v1/chat/completions"),
        ("gpt-5.6", Params(stop=("END",)), "/v1/responses"),
    ],
)
def test_what_this_api_has_no_parameter_for_is_asked_over_the_other(
    monkeypatch, model, params, path
):
    """At OpenAI, which has both: no wish of a person is dropped that a model can fulfil."""

    async def run():
        http = HttpClients()

        async def play(connection):
            vendor = "responses" if connection.received.path == "/v1/responses" else "openai"
            await connection.send(response(200, document(vendor, "Hi")))

        async with raw_server(play) as server:
            monkeypatch.setattr(ResponsesBackend, "own_host", server.url.removeprefix("http://"))
            made = backend("responses", server.url, http, model=model)
            try:
                return await attempt(made, call(params=params, stream=False)), server
            finally:
                await http.aclose()

    outcome, server = asyncio.run(run())

    assert outcome.text == "Hi"
    assert [received.path for received in server.requests] == [path]


def test_the_lowest_limit_is_kept_to_where_there_is_one():
    """OpenAI refuses fewer than 16 tokens; other servers do not."""
    few = call(params=Params(max_tokens=5))

    assert at_home("gpt-4o", few).body["max_output_tokens"] == 16
    assert sent(few).json["max_output_tokens"] == 5


@pytest.mark.parametrize(
    ("words", "param", "rejected"),
    [
        (
            "Your organization must be verified to generate reasoning summaries.",
            "reasoning.summary",
            "summary",
        ),
        ("Encrypted content is not supported with this model.", "include", "include"),
        ("Unsupported parameter: 'reasoning.effort' is not supported.", "x.effort", "reasoning"),
        ("Unsupported parameter: 'temperature' is not supported.", "temperature", "temperature"),
    ],
)
def test_what_a_model_rejects_is_left_out_the_next_time(words, param, rejected):
    """By the names that OpenAI's refusals give, and only that."""
    model = backend("responses", None, HttpClients(), model="gpt-5.6")
    asked = call(params=FULL, tools=(COUNT,))
    if rejected == "temperature":
        model = backend("responses", None, HttpClients(), model="gpt-4o")
    request = model._build_request(asked)
    from tieredllm.providers.errors.http import classify_response

    error = classify_response(
        model._request_info(request.path, request.parameters),
        status=400,
        headers={},
        body=msgspec.json.encode(
            {"error": {"message": words, "param": param, "code": "unsupported_value"}}
        ),
        now=0.0,
    )
    again = model._build_request(msgspec.structs.replace(asked, omit=frozenset({rejected})))

    assert (error.kind, error.parameter) == ("bad_request", rejected)
    assert rejected not in again.body
    assert "summary" not in again.body.get("reasoning", {}) or rejected != "summary"


def test_a_phase_is_sent_unless_the_server_rejects_it():
    """It stands within a message, and is named by its place there."""
    from tieredllm.providers.errors.http import classify_response

    model = backend("responses", None, HttpClients(), model="gpt-5.6")
    asked = call(Message("assistant", "I look.", phase="commentary"), Message("user", "And?"))
    request = model._build_request(asked)
    param = "input[0].phase"
    refused = {"message": f"Unknown parameter: '{param}'.", "param": param}
    error = classify_response(
        model._request_info(request.path, request.parameters),
        status=400,
        headers={},
        body=msgspec.json.encode({"error": refused | {"code": "unknown_parameter"}}),
        now=0.0,
    )
    again = model._build_request(msgspec.structs.replace(asked, omit=frozenset({"phase"})))

    assert request.body["input"][0] == said("I look.") | {"phase": "commentary"}
    assert (error.kind, error.parameter) == ("bad_request", "phase")
    assert again.body["input"][0] == said("I look.")


def test_images_documents_a_schema_and_a_choice_are_put_its_way():
    """As `input_image`, `input_file`, `text.format` and a tool by its name."""
    received = sent(
        call(
            Message(
                "user",
                "What is it?",
                parts=(
                    Image(media_type="image/png", data=b"png"),
                    Document(media_type="application/pdf", data=b"pdf", name="a.pdf"),
                ),
            ),
            tools=(COUNT,),
            schema=OutputSchema(name="it", schema={"type": "object"}, strict=True),
            tool_choice=ToolChoice(mode="required", name="count", parallel=False),
        )
    ).json

    assert received["input"][0]["content"] == [
        {"type": "input_image", "image_url": "data:image/png;base64,cG5n", "detail": "auto"},
        {
            "type": "input_file",
            "filename": "a.pdf",
            "file_data": "data:application/pdf;base64,cGRm",
        },
        {"type": "input_text", "text": "What is it?"},
    ]
    assert received["text"] == {
        "format": {
            "type": "json_schema",
            "name": "it",
            "schema": {"type": "object"},
            "strict": True,
        }
    }
    assert received["tool_choice"] == {"type": "function", "name": "count"}
    assert received["parallel_tool_calls"] is False


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize("own", [True, False])
def test_a_round_goes_back_with_its_thoughts_to_the_model_that_had_them(streamed, own):
    """Encrypted thoughts and what was said go back as they came; another model gets neither."""
    items = [THOUGHT, SAID, call_item("call_1", "count", '{"by":3}')]
    events = calling("responses", ("call_1", "count", {"by": 3}), text="Let me see.")[:-1]
    events += [event({"type": "response.completed", "response": responded(items, "completed")})]
    body = stream(*events) if streamed else response(200, responded(items, "completed"))
    outcome, _ = ask("responses", body, call(tools=(COUNT,), stream=streamed))
    made = outcome.request
    model = backend("responses", None, HttpClients(), model="gpt-5.6")
    turn = Message(
        "assistant",
        outcome.text,
        calls=made.calls,
        made_by=model.identity if own else "elsewhere",
        raw=made.raw,
    )
    result = Message("tool", "counted", call_id="call_1", name="count")
    again = model._build_request(call(tools=(COUNT,), rounds=(turn, result))).body["input"]

    *before, called, given = again[1:]
    assert outcome.text == "Let me see."
    assert (called["type"], called["name"], called["arguments"]) == (
        "function_call",
        "count",
        '{"by":3}',
    )
    assert given == {
        "type": "function_call_output",
        "call_id": called["call_id"],
        "output": "counted",
    }
    if own:
        thought = {key: value for key, value in THOUGHT.items() if key != "status"}
        assert before == [thought, said("Let me see.") | {"phase": "commentary"}]
        assert called["call_id"] == "call_1"
    else:
        assert before == [said("Let me see.")]


def test_thoughts_that_are_kept_at_the_server_are_not_sent_back():
    """Without their content they would be looked for where nothing is kept."""
    items = [{"id": "rs_1", "type": "reasoning", "summary": []}, call_item("c", "count", "{}")]
    outcome, _ = ask(
        "responses",
        response(200, responded(items, "completed")),
        call(tools=(COUNT,), stream=False),
    )

    assert outcome.request.raw == []


@pytest.mark.parametrize(
    ("reason", "kind", "finish"),
    [
        ("completed", None, "stop"),
        ("max_output_tokens", None, "length"),
        ("max_messages", None, "length"),
        ("some_new_limit", None, "length"),
        ("content_filter", "content_filter", None),
        ("steered", "broken", None),
        ("cancelled", "broken", None),
        ("failed", "broken", None),
    ],
)
@pytest.mark.parametrize("streamed", [True, False])
def test_each_end_has_its_meaning(reason, kind, finish, streamed):
    """The states and reasons of openai-python 3.57.0; an unknown reason is a cut, never an end."""
    body = (
        stream(*opens("responses"), says("responses", "Hi"), *ends("responses", reason))
        if streamed
        else response(200, document("responses", "Hi", reason))
    )
    outcome, _ = ask("responses", body, call(stream=streamed))

    if kind == "broken":
        kind = "stream_interrupted" if streamed else "malformed_response"
    assert outcome.kind == kind
    assert (outcome.finish and outcome.finish.reason) == finish
    if finish:
        assert (outcome.text, outcome.finish.model) == ("Hi", "m-1")
        assert outcome.finish.usage.completion_tokens == 3


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("server_error", "service_unavailable"),
        ("vector_store_timeout", "service_unavailable"),
        ("rate_limit_exceeded", "rate_limit"),
        ("invalid_prompt", "content_filter"),
        ("bio_policy", "content_filter"),
        ("misalignment_policy_violation", "content_filter"),
        ("image_content_policy_violation", "content_filter"),
        ("data_residency_mismatch", "bad_request"),
        ("invalid_image", "bad_request"),
        ("image_too_large", "bad_request"),
        ("image_file_not_found", "bad_request"),
        ("insufficient_quota", "quota_exhausted"),
        ("context_length_exceeded", "context_length"),
    ],
)
def test_a_failure_is_told_by_its_code(code, kind):
    """In a failed response, whole or streamed, and in an error event of either shape."""
    failed = responded([], "failed") | {"error": {"code": code, "message": "no"}}
    bodies = [
        response(200, failed),
        stream(*opens("responses"), event({"type": "response.failed", "response": failed})),
        stream(event({"type": "error", "code": code, "message": "no", "param": None}, "error")),
        stream(event({"type": "error", "error": {"code": code, "message": "no"}}, "error")),
    ]
    for body in bodies:
        outcome, _ = ask("responses", body)

        assert outcome.kind == kind
        assert outcome.error.message.endswith("no")


@pytest.mark.parametrize("streamed", [True, False])
def test_a_refusal_is_a_refusal_in_the_model_s_words(streamed):
    """Once, although a stream says it twice."""
    content = {"type": "refusal", "refusal": "I cannot do that."}
    whole = responded([{"type": "message", "role": "assistant", "content": [content]}], "completed")
    events = [
        event({"type": "response.refusal.delta", "delta": "I cannot "}),
        event({"type": "response.refusal.delta", "delta": "do that."}),
        event({"type": "response.completed", "response": whole}),
    ]
    body = stream(*opens("responses"), *events) if streamed else response(200, whole)
    outcome, _ = ask("responses", body, call(stream=streamed))

    assert (outcome.kind, outcome.error.message) == ("content_filter", "I cannot do that.")


def test_the_end_s_own_text_counts_only_where_none_came_before():
    """Some servers send no pieces; those that do send the whole once more at the end."""
    last = event({"type": "response.completed", "response": document("responses", "Hi you")})
    for pieces in ([], [says("responses", "Hi "), says("responses", "you")]):
        outcome, _ = ask("responses", stream(*opens("responses"), *pieces, last))

        assert outcome.text == "Hi you"


@pytest.mark.parametrize(
    ("keys", "path"),
    [
        ("", "/responses"),
        ("base_url: 'https://api.openai.com/v1'", "/responses"),
        ("base_url: 'https://eu.api.openai.com/v1'", "/responses"),
        ("base_url: 'https://api.openai.com.example/v1'", "/chat/completions"),
        ("base_url: 'http://127.0.0.1:8080/v1'", "/chat/completions"),
        ("base_url: 'http://127.0.0.1:8080/v1', api: responses", "/responses"),
        ("api: chat", "/chat/completions"),
    ],
)
def test_it_is_spoken_at_openai_s_own_host_unless_the_profile_says_otherwise(tmp_path, keys, path):
    """Anywhere else chat completions are, which every server has."""
    more = f", {keys}" if keys else ""
    text = f"tiers: [{{name: a, provider: openai, model: m-1{more}}}]"
    tier = load_profile(str(write(tmp_path / "p.yaml", text)), places_in(tmp_path / "home")).tiers[
        0
    ]
    deps = BackendDeps(
        places=places_in(tmp_path / "home"),
        env={},
        keys=Keys({"OPENAI_API_KEY": KEY}, tmp_path / "keys.yaml"),
        http=HttpClients(),
        clock=SystemClock(),
        look_up=lambda *_: None,
        simulate={},
        verbose=False,
        one_question=True,
        keep_contexts=False,
    )
    (model,) = make_backends(tier, deps)

    assert path == model._build_request(call()).path


@pytest.mark.parametrize("streamed", [True, False])
def test_thoughts_are_kept_apart(streamed):
    """Summaries come part by part; a model that tells none is at work all the same."""
    summary = [{"type": "summary_text", "text": text} for text in ("First.", "Then.")]
    thought = {"id": "rs_1", "type": "reasoning", "summary": summary}
    events = [
        {"type": "response.output_item.added", "output_index": 0, "item": {"type": "reasoning"}},
        {"type": "response.reasoning_summary_part.added", "summary_index": 0},
        {"type": "response.reasoning_summary_text.delta", "delta": "First."},
        {"type": "response.reasoning_summary_part.added", "summary_index": 1},
        {"type": "response.reasoning_summary_text.delta", "delta": "Then."},
    ]
    body = (
        stream(
            *opens("responses"),
            *map(event, events),
            says("responses", "Hi"),
            *ends("responses"),
        )
        if streamed
        else response(
            200, responded([thought, *document("responses", "Hi")["output"]], "completed")
        )
    )
    outcome, _ = ask("responses", body, call(stream=streamed))

    assert outcome.text == "Hi"
    assert outcome.thought == "First.\n\nThen."


def test_what_is_sent_is_what_the_sdk_s_types_allow():
    """Every item, part, tool and option of a full request, as openai-python types it."""
    from openai.types.responses.response_create_params import ResponseCreateParamsStreaming
    from pydantic import TypeAdapter

    items = [THOUGHT, SAID, call_item("call_1", "count", '{"by":3}')]
    outcome, _ = ask(
        "responses",
        response(200, responded(items, "completed")),
        call(tools=(COUNT,), stream=False),
    )
    model = backend("responses", None, HttpClients(), model="gpt-5.6")
    made = outcome.request
    body = model._build_request(
        call(
            *TALK,
            Message(
                "user",
                "What is it?",
                parts=(
                    Image(media_type="image/png", data=b"png"),
                    Image(url="https://host.example/it.png", detail="low"),
                    Document(media_type="application/pdf", data=b"pdf"),
                    Document(url="https://host.example/it.pdf"),
                ),
            ),
            params=FULL,
            tools=(COUNT,),
            rounds=(
                Message(
                    "assistant",
                    outcome.text,
                    calls=made.calls,
                    made_by=model.identity,
                    raw=made.raw,
                ),
                Message("tool", "counted", call_id="call_1", name="count"),
            ),
            schema=OutputSchema(name="it", schema={"type": "object"}),
            tool_choice=ToolChoice(mode="required", name="count", parallel=False),
        )
    ).body
    for item in body["input"]:
        if item.get("role") == "assistant":  # Codex, too, sends none of these
            item |= {"id": "msg_1", "status": "completed"}
            item["content"] = [part | {"annotations": []} for part in item["content"]]

    assert TypeAdapter(ResponseCreateParamsStreaming).validate_python(body)


@pytest.mark.parametrize(
    ("most", "own", "expected"),
    [
        (3, {}, "length"),
        (4, {}, "stop"),
        (None, {}, "stop"),
        (2, {}, "stop"),  # the server does not know the limit, or has another
        (2, {"max_output_tokens": 3}, "length"),
        (3, {"max_output_tokens": 4}, "stop"),
        (3, {"max_output_tokens": None}, "stop"),
    ],
)
@pytest.mark.parametrize("streamed", [True, False])
def test_an_answer_that_was_cut_without_a_word_is_not_called_whole(most, own, expected, streamed):
    """llama.cpp's server says `completed` at the limit that is sent; its count of tokens tells."""
    reply = (
        stream(*opens("responses"), says("responses", "Hi"), *ends("responses"))
        if streamed
        else response(200, document("responses", "Hi"))
    )
    asked = call(stream=streamed, params=Params(max_tokens=most))
    outcome, _ = ask("responses", reply, asked, server={"body": own})

    assert outcome.text == "Hi"
    assert outcome.finish.reason == expected
