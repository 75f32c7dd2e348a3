"""Test what is sent to each vendor."""

from __future__ import annotations

import asyncio

import pytest
from wire_support import KEY, answers, ask, backend, call, document, response

from tieredllm import __version__
from tieredllm.errors import FallbackTriggerError
from tieredllm.profile.schema import Params
from tieredllm.prompts.fit import estimate_tokens
from tieredllm.providers.cloud import CloudBackend
from tieredllm.providers.http import HttpClients
from tieredllm.roles import OPENING
from tieredllm.types import (
    Document,
    Image,
    Message,
    OutputSchema,
    ToolChoice,
    ToolDeclaration,
)

VENDORS = ["openai", "anthropic", "gemini"]
FULL = Params(
    temperature=1.4, max_tokens=512, top_p=0.85, frequency_penalty=0.5, presence_penalty=-0.5
)
BARE = Params(temperature=None, max_tokens=64, top_p=None)
TALK = (
    Message("system", "Be kind."),
    Message("user", "One?"),
    Message("assistant", "One."),
    Message("user", "Two?"),
)

every_vendor = pytest.mark.parametrize("vendor", VENDORS)


def request(vendor, asked=None, **options):
    """Give the request that an attempt makes."""
    _, server = ask(vendor, response(200, document(vendor, "Hi")), asked or call(), **options)
    (received,) = server.requests
    return received


def at_home(vendor, model, asked=None):
    """Give the body for the vendor's own server, which is not asked."""
    made = backend(vendor, None, HttpClients(), model=model)
    assert isinstance(made, CloudBackend)
    return made._build_request(asked or call(params=FULL))


def test_openai_is_sent_its_form():
    """The Chat Completions request, streaming, with usage."""
    received = request("openai", call(*TALK, params=FULL))

    assert (received.method, received.path) == ("POST", "/v1/chat/completions")
    assert f"Bearer {KEY}" == received.headers["authorization"]
    assert received.json == {
        "model": "m-1",
        "messages": [
            {"role": "system", "content": "Be kind."},
            {"role": "user", "content": "One?"},
            {"role": "assistant", "content": "One."},
            {"role": "user", "content": "Two?"},
        ],
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 1.4,
        "top_p": 0.85,
        "frequency_penalty": 0.5,
        "presence_penalty": -0.5,
        "max_tokens": 512,
    }


def test_anthropic_is_sent_its_form():
    """The Messages request: temperature at most 1, and no penalties."""
    received = request("anthropic", call(*TALK, params=FULL))

    assert (received.method, received.path) == ("POST", "/v1/messages")
    assert received.headers["x-api-key"] == KEY
    assert received.headers["anthropic-version"] == "2023-06-01"
    assert received.json == {
        "model": "m-1",
        "system": "Be kind.",
        "messages": [
            {"role": "user", "content": "One?"},
            {"role": "assistant", "content": "One."},
            {"role": "user", "content": "Two?"},
        ],
        "stream": True,
        "temperature": 1.0,
        "top_p": 0.85,
        "max_tokens": 512,
    }


def test_gemini_is_sent_its_form():
    """The generateContent request, as a stream of events; no penalties."""
    received = request("gemini", call(*TALK, params=FULL))

    assert received.path == "/v1beta/models/m-1:streamGenerateContent?alt=sse"
    assert received.headers["x-goog-api-key"] == KEY
    assert received.json == {
        "systemInstruction": {"parts": [{"text": "Be kind."}]},
        "contents": [
            {"role": "user", "parts": [{"text": "One?"}]},
            {"role": "model", "parts": [{"text": "One."}]},
            {"role": "user", "parts": [{"text": "Two?"}]},
        ],
        "generationConfig": {"maxOutputTokens": 512, "temperature": 1.4, "topP": 0.85},
    }


def test_without_streaming_nothing_of_it_is_asked_for():
    """The three forms of a request for one document."""
    bodies = {vendor: request(vendor, call(stream=False, params=BARE)) for vendor in VENDORS}

    assert bodies["openai"].json == {
        "model": "m-1",
        "messages": [{"role": "user", "content": "Hello?"}],
        "stream": False,
        "max_tokens": 64,
    }
    assert bodies["anthropic"].json["stream"] is False
    assert bodies["gemini"].path == "/v1beta/models/m-1:generateContent"
    assert bodies["gemini"].json["generationConfig"] == {"maxOutputTokens": 64}


@every_vendor
def test_who_asks_is_told_and_streams_are_not_compressed(vendor):
    """The headers every request has."""
    received = request(vendor)

    assert f"tieredllm/{__version__}" == received.headers["user-agent"]
    assert received.headers["content-type"] == "application/json"
    assert received.headers["accept-encoding"] == "identity"


@every_vendor
def test_no_key_is_sent_where_none_is_needed(vendor):
    """With `api_key_env: null` no header carries a key."""
    headers = request(vendor, api_key_env=None).headers

    assert not {"authorization", "x-api-key", "x-goog-api-key"} & set(headers)


@every_vendor
def test_blanks_around_a_key_are_not_sent(vendor):
    """A key that was read from a file with its newline works."""
    headers = request(vendor, key=f" {KEY}\n").headers

    assert any(value.removeprefix("Bearer ") == KEY for value in headers.values())


@every_vendor
@pytest.mark.parametrize("key", ["sk-\u00e9t\u00e9", "sk-a\nb", "sk-\x00"])
def test_a_key_that_no_header_can_carry_is_told_without_a_request(vendor, key):
    """Characters that no key has are an authentication error that doesn't show the key."""
    outcome, server = ask(vendor, response(200, document(vendor, "Hi")), key=key)

    assert outcome.kind == "authentication"
    assert key not in str(outcome.error)
    assert not server.requests


@pytest.mark.parametrize(
    ("vendor", "base", "path"),
    [
        ("openai", "/v1/", "/v1/chat/completions"),
        ("openai", "/openai/v1//", "/openai/v1/chat/completions"),
        ("openai", "/d?api-version=1", "/d/chat/completions?api-version=1"),
        ("anthropic", "/", "/v1/messages"),
        ("anthropic", "/v1/", "/v1/messages"),
        ("anthropic", "/proxy", "/proxy/v1/messages"),
        ("gemini", "/v1beta/", "/v1beta/models/m-1:streamGenerateContent?alt=sse"),
        ("gemini", "/g?x=1", "/g/models/m-1:streamGenerateContent?x=1&alt=sse"),
    ],
)
def test_the_path_goes_below_the_base_url(vendor, base, path):
    """Slashes at the end and queries are tolerated."""
    from wire_support import BACKENDS, attempt, raw_server, source

    from tieredllm.clock import SystemClock

    async def run():
        http = HttpClients()
        async with raw_server(response(200, document(vendor, "Hi"))) as server:
            made = BACKENDS[vendor](
                source(vendor, server.url + base),
                api_key_env=None,
                keys={},
                http=http,
                clock=SystemClock(),
            )
            outcome = await attempt(made)
            await http.aclose()
            return outcome, server

    outcome, server = asyncio.run(run())

    assert outcome.text == "Hi"
    assert path == server.requests[0].path


@pytest.mark.parametrize(
    ("vendor", "omit", "gone"),
    [
        ("openai", "temperature", "temperature"),
        ("openai", "top_p", "top_p"),
        ("openai", "frequency_penalty", "frequency_penalty"),
        ("openai", "stream_options", "stream_options"),
        ("anthropic", "temperature", "temperature"),
        ("anthropic", "top_p", "top_p"),
        ("gemini", "topP", "topP"),
        ("gemini", "temperature", "temperature"),
        ("gemini", "maxOutputTokens", "maxOutputTokens"),
    ],
)
def test_a_parameter_known_to_be_rejected_is_left_out(vendor, omit, gone):
    """What `omit` names by its wire name is not sent, and the rest is."""
    asked = call(params=FULL)
    whole = request(vendor, asked).json
    without = request(vendor, call(params=FULL, omit=frozenset({omit}))).json
    if vendor == "gemini":
        whole, without = whole["generationConfig"], without["generationConfig"]
    del whole[gone]

    assert whole == without


@every_vendor
def test_a_rejected_stream_is_asked_for_as_a_document(vendor):
    """`stream` among the rejected parameters turns streaming off."""
    received = request(vendor, call(omit=frozenset({"stream"})))

    if vendor == "gemini":
        assert received.path.endswith(":generateContent")
    else:
        assert received.json["stream"] is False
        assert "stream_options" not in received.json


def test_each_name_for_the_cap_replaces_the_other():
    """OpenAI's own server gets `max_completion_tokens`, others `max_tokens`, and vice versa."""
    home = at_home("openai", "gpt-4o").body
    repaired = at_home(
        "openai", "gpt-4o", call(params=FULL, omit=frozenset({"max_completion_tokens"}))
    ).body
    away = request("openai", call(params=FULL, omit=frozenset({"max_tokens"}))).json
    neither = frozenset({"max_tokens", "max_completion_tokens"})

    assert ("max_completion_tokens" in home, "max_tokens" in home) == (True, False)
    assert ("max_completion_tokens" in repaired, "max_tokens" in repaired) == (False, True)
    assert ("max_completion_tokens" in away, "max_tokens" in away) == (True, False)
    assert not neither & set(request("openai", call(omit=neither)).json)


@pytest.mark.parametrize(
    ("model", "thinks"),
    [
        ("gpt-4o", False),
        ("gpt-4.1-mini", False),
        ("o3", True),
        ("o4-mini", True),
        ("gpt-5", True),
        ("gpt-5-mini", True),
        ("gpt-5-chat-latest", False),
        ("gpt-5.1", False),
        ("gpt-5.4", False),
        ("gpt-5.5", False),
        ("gpt-5.6-sol", True),
        ("gpt-5.10", True),
        ("gpt-6-luna", True),
        ("gpt-6.2-sol", True),
        ("gpt-10", True),
        ("omni-mini", False),
    ],
)
def test_openai_s_thinking_models_get_no_sampling_and_little_to_think(model, thinks):
    """By name, at OpenAI's own server: no temperature and top_p, and low effort for a small cap."""
    body = at_home("openai", model).body
    large = at_home("openai", model, call(params=Params(max_tokens=50_000))).body

    assert thinks == ("temperature" not in body)
    assert thinks == ("top_p" not in body)
    assert thinks == ("frequency_penalty" not in body)
    assert ("low" if thinks else None) == body.get("reasoning_effort")
    assert "reasoning_effort" not in large


@pytest.mark.parametrize(
    ("model", "sampling", "effort"),
    [
        ("claude-3-5-sonnet-20241022", {"temperature", "top_p"}, None),
        ("claude-sonnet-4-20250514", {"temperature", "top_p"}, None),
        ("claude-opus-4-1-20250805", {"temperature"}, None),
        ("claude-sonnet-4-5-20250929", {"temperature"}, None),
        ("claude-haiku-4-5", {"temperature"}, None),
        ("claude-opus-4-6", {"temperature"}, None),
        ("claude-opus-4-7", set(), None),
        ("claude-sonnet-5", set(), "low"),
        ("claude-sonnet-5-5", set(), "low"),
        ("claude-haiku-5-5", set(), "low"),
        ("claude-fable-5-2", set(), "low"),
        ("anthropic/claude-opus-4.8", set(), None),
        ("local-model", {"temperature", "top_p"}, None),
    ],
)
def test_claude_models_get_what_their_generation_takes(model, sampling, effort):
    """By name: both, temperature only, or neither; low effort where thinking is the default."""
    body = at_home("anthropic", model).body

    assert sampling == {"temperature", "top_p"} & set(body)
    assert effort == body.get("output_config", {}).get("effort")


def test_a_claude_model_that_takes_one_of_both_gets_top_p_where_that_is_all_there_is():
    """Without a temperature, `top_p` is sent."""
    params = Params(temperature=None, top_p=0.5)

    assert at_home("anthropic", "claude-haiku-4-5", call(params=params)).body["top_p"] == 0.5


def test_effort_is_not_asked_of_other_servers():
    """What is known of the vendor's own server is not taken for granted elsewhere."""
    assert "output_config" not in request("anthropic", model="claude-sonnet-5-5").json
    openai = request("openai", model="gpt-6.2-sol").json
    assert "reasoning_effort" not in openai
    assert openai["temperature"] == 0.7
    gemini = request("gemini", model="gemini-3.8-flash").json["generationConfig"]
    assert set(gemini) == {"maxOutputTokens", "temperature", "topP"}


@pytest.mark.parametrize(
    ("model", "config"),
    [
        ("gemini-2.0-flash", {"maxOutputTokens", "temperature", "topP"}),
        ("gemini-2.5-flash", {"maxOutputTokens", "temperature", "topP", "thinkingConfig"}),
        ("gemini-3.1-pro-preview", {"maxOutputTokens", "temperature", "topP", "thinkingConfig"}),
        ("gemini-3.5-flash-lite", {"maxOutputTokens", "temperature", "topP"}),
        ("gemini-3.8-flash", {"maxOutputTokens", "thinkingConfig"}),
        ("gemini-flash-latest", {"maxOutputTokens", "temperature", "topP", "thinkingConfig"}),
        ("models/gemini-4-x", {"maxOutputTokens", "thinkingConfig"}),
    ],
)
def test_gemini_models_get_what_their_generation_takes(model, config):
    """By name, at Google's own server: sampling up to 3.5, thinking from 2.5 on."""
    ask = at_home("gemini", model)

    assert config == set(ask.body["generationConfig"])
    assert ask.path == f"/models/{model.removeprefix('models/')}:streamGenerateContent?alt=sse"


def test_a_model_without_a_system_role_gets_the_text_in_the_first_turn():
    """Gemma at Google: what `systemInstruction` may not say opens the conversation."""
    asked = call(*TALK, omit=frozenset({"systemInstruction"}))
    body = request("gemini", asked).json

    assert "systemInstruction" not in body
    assert body["contents"][0] == {"role": "user", "parts": [{"text": "Be kind.\n\nOne?"}]}


UNEVEN = (
    Message("assistant", "Earlier."),
    Message("user", "One?"),
    Message("user", "And?"),
    Message("assistant", " "),
    Message("user", "Two?"),
)


def test_openai_takes_turns_in_any_order():
    """Only blank messages are dropped."""
    turns = request("openai", call(*UNEVEN)).json["messages"]

    assert [turn["content"] for turn in turns] == ["Earlier.", "One?", "And?", "Two?"]


@pytest.mark.parametrize("vendor", ["anthropic", "gemini"])
def test_turns_alternate_and_the_user_goes_first(vendor):
    """Neighbours of one role are joined, and an answer is given a turn before it."""
    body = request(vendor, call(*UNEVEN)).json
    turns = [
        (turn["role"], turn["content"] if vendor == "anthropic" else turn["parts"][0]["text"])
        for turn in body["messages" if vendor == "anthropic" else "contents"]
    ]
    answer = "assistant" if vendor == "anthropic" else "model"

    assert turns == [
        ("user", OPENING),
        (answer, "Earlier."),
        ("user", "One?\n\nAnd?\n\nTwo?"),
    ]


@every_vendor
def test_text_that_no_json_can_carry_is_mended(vendor):
    """Lone surrogates, from arguments that are no UTF-8, become question marks."""
    assert b"caf? \xf0\x9f\x98\x80" in request(vendor, call("caf\udce9 😀")).body


@every_vendor
def test_an_unset_key_is_missing_and_told_how_to_set(vendor):
    """A backend without its key says what to do, and makes no request."""
    made = backend(vendor, "http://127.0.0.1:1", HttpClients(), key=None)
    missing = made.missing()

    assert missing is not None
    assert missing.what == f"{made._key_env} is not set"
    assert missing.fix == f"export {made._key_env}=… or `tieredllm keys set {made._key_env}`"
    with pytest.raises(FallbackTriggerError, match="is not set"):
        asyncio.run(anext(made.answer(call())))


@every_vendor
def test_nothing_is_missing_with_a_key_or_without_the_need_of_one(vendor):
    """A key that is set, or `api_key_env: null`."""
    assert backend(vendor, None, HttpClients()).missing() is None
    assert backend(vendor, None, HttpClients(), api_key_env=None).missing() is None


@every_vendor
def test_the_identity_tells_backends_apart_and_hides_the_key(vendor):
    """It changes with URL, model and key, and with nothing else."""
    http = HttpClients()
    first = backend(vendor, None, http)
    others = [
        backend(vendor, "http://127.0.0.1:1", http),
        backend(vendor, None, http, model="m-2"),
        backend(vendor, None, http, key=KEY + "x"),
        backend(vendor, None, http, api_key_env=None),
    ]

    assert first.identity == backend(vendor, None, HttpClients()).identity
    assert len({first.identity, *(other.identity for other in others)}) == 5
    assert KEY[3:] not in first.identity


@every_vendor
def test_tokens_are_estimated(vendor):
    """No vendor's tokenizer is at hand, so the estimate counts."""

    async def run():
        return await backend(vendor, None, HttpClients()).token_counter()

    assert asyncio.run(run()) is estimate_tokens


def test_anthropic_s_usage_counts_what_the_cache_held():
    """The prompt is the sum of three counts; the answer's last count is its total."""
    from wire_support import event, stream

    usage = {
        "input_tokens": 5,
        "cache_creation_input_tokens": 10,
        "cache_read_input_tokens": 100,
        "output_tokens": 1,
    }
    outcome, _ = ask(
        "anthropic",
        stream(
            event({"type": "message_start", "message": {"usage": usage}}),
            event(
                {
                    "type": "content_block_delta",
                    "delta": {"type": "text_delta", "text": "Hi"},
                }
            ),
            event(
                {
                    "type": "message_delta",
                    "delta": {"stop_reason": "end_turn"},
                    "usage": {"output_tokens": 9},
                }
            ),
        ),
    )

    assert outcome.finish is not None
    assert (outcome.finish.usage.prompt_tokens, outcome.finish.usage.completion_tokens) == (115, 9)


def test_gemini_s_usage_counts_its_thoughts():
    """Thoughts are billed as output and are not in `candidatesTokenCount`."""
    body = document("gemini", "Hi")
    body["usageMetadata"]["thoughtsTokenCount"] = 40
    outcome, _ = ask("gemini", response(200, body), call(stream=False))

    assert outcome.finish is not None
    assert outcome.finish.usage.completion_tokens == 43


@pytest.mark.parametrize(
    ("vendor", "body"),
    [
        (
            "openai",
            {
                "choices": [
                    {
                        "message": {"content": None, "refusal": "I can't help with that."},
                        "finish_reason": "stop",
                    }
                ]
            },
        ),
        (
            "anthropic",
            {
                "type": "message",
                "content": [],
                "stop_reason": "refusal",
                "stop_details": {"category": "x", "explanation": "I can't help with that."},
            },
        ),
        (
            "gemini",
            {"candidates": [{"finishReason": "SPII", "finishMessage": "I can't help with that."}]},
        ),
    ],
)
def test_the_words_of_a_refusal_are_shown(vendor, body):
    """Content is null, and what the model says instead is the error's message."""
    outcome, _ = ask(vendor, response(200, body), call(stream=False))

    assert (outcome.kind, str(outcome.error.message)) == (
        "content_filter",
        "I can't help with that.",
    )


def test_openai_s_refusal_in_deltas_is_a_content_filter():
    """Refusal text streams in a field of its own."""
    from wire_support import closes, ends, event, opens, stream

    deltas = [
        event({"choices": [{"index": 0, "delta": {"refusal": word}, "finish_reason": None}]})
        for word in ("I'm ", "sorry.")
    ]
    outcome, _ = ask(
        "openai", stream(*opens("openai"), *deltas, *ends("openai"), *closes("openai"))
    )

    assert (outcome.kind, outcome.error.message) == ("content_filter", "I'm sorry.")
    assert not outcome.texts


def test_gemini_s_block_reason_is_a_content_filter():
    """A blocked prompt has no candidates, in a 200."""
    body = {"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}, "usageMetadata": {}}
    outcome, _ = ask("gemini", response(200, body))

    assert outcome.kind == "content_filter"
    assert "PROHIBITED_CONTENT" in outcome.error.message


@pytest.mark.parametrize(
    "content",
    [
        [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}],
        [{"type": "thinking", "thinking": [{"text": "hm"}]}, {"type": "text", "text": "Hello"}],
        ["Hel", "lo"],
    ],
)
def test_content_may_be_a_list_of_parts(content):
    """Some compatible servers answer with parts, streamed or not."""
    from wire_support import closes, ends, event, stream

    whole, _ = ask("openai", response(200, document("openai", content)), call(stream=False))
    streamed, _ = ask(
        "openai",
        stream(
            event({"choices": [{"delta": {"content": content}}]}),
            *ends("openai"),
            *closes("openai"),
        ),
    )

    assert (whole.text, streamed.text) == ("Hello", "Hello")


@every_vendor
def test_an_answer_cut_at_max_tokens_is_an_answer(vendor):
    """Its finish reason is `length`."""
    outcome, _ = ask(vendor, answers(vendor, "Hel", reason="length"))

    assert outcome.finish is not None
    assert outcome.finish.reason == "length"


PNG = Image(media_type="image/png", data=b"\x89PNG")
PDF = Document(data=b"%PDF", name="bill.pdf")
PARTS = (
    Message("user", "What is it?", parts=(PNG, Image(url="https://x.test/y.jpg"), PDF)),
    Message("assistant", "A bill."),
    Message("user", "", parts=(PNG,)),
)


def test_images_and_documents_in_openais_form():
    """Pictures go as URLs, those of their data included, and files by name and data."""
    first, _, last = request("openai", call(*PARTS)).json["messages"]
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw=="}}

    assert first["content"] == [
        image,
        {"type": "image_url", "image_url": {"url": "https://x.test/y.jpg"}},
        {
            "type": "file",
            "file": {
                "filename": "bill.pdf",
                "file_data": "data:application/pdf;base64,JVBERg==",
            },
        },
        {"type": "text", "text": "What is it?"},
    ]
    assert last["content"] == [image]


def test_images_and_documents_in_anthropics_form():
    """Pictures and documents go as blocks with a source, before the text."""
    first, _, last = request("anthropic", call(*PARTS)).json["messages"]
    source = {"type": "base64", "media_type": "image/png", "data": "iVBORw=="}

    assert first["content"] == [
        {"type": "image", "source": source},
        {"type": "image", "source": {"type": "url", "url": "https://x.test/y.jpg"}},
        {
            "type": "document",
            "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERg=="},
            "title": "bill.pdf",
        },
        {"type": "text", "text": "What is it?"},
    ]
    assert last["content"] == [{"type": "image", "source": source}]


def test_images_and_documents_in_googles_form():
    """Data goes inline, a URL as file data."""
    first, _, last = request("gemini", call(*PARTS)).json["contents"]
    image = {"inlineData": {"mimeType": "image/png", "data": "iVBORw=="}}

    assert first["parts"] == [
        image,
        {"fileData": {"fileUri": "https://x.test/y.jpg", "mimeType": "image/png"}},
        {"inlineData": {"mimeType": "application/pdf", "data": "JVBERg=="}},
        {"text": "What is it?"},
    ]
    assert last["parts"] == [image]


SET = Params(
    temperature=None, max_tokens=64, top_p=None, stop=("###", "\n"), seed=7, reasoning_effort="high"
)
SCHEMA = OutputSchema(name="city", schema={"type": "object"}, strict=True)


def test_stop_seed_effort_and_schema_on_each_wire():
    """What a vendor has a word for is sent in that word, what it has none for is left out."""
    asked = call(params=SET, schema=SCHEMA)
    openai, anthropic, gemini = (request(vendor, asked).json for vendor in VENDORS)

    assert (openai["stop"], openai["seed"]) == (["###", "\n"], 7)
    assert openai["reasoning_effort"] == "high"
    assert openai["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "city", "schema": {"type": "object"}, "strict": True},
    }
    # Anthropic takes no stop text of blanks alone.
    assert anthropic["stop_sequences"] == ["###"]
    assert anthropic["output_config"] == {
        "effort": "high",
        "format": {"type": "json_schema", "schema": {"type": "object"}},
    }
    assert "seed" not in anthropic
    assert gemini["generationConfig"] == {
        "maxOutputTokens": 64,
        "stopSequences": ["###", "\n"],
        "seed": 7,
        "thinkingConfig": {"thinkingLevel": "high"},
        "responseMimeType": "application/json",
        "responseJsonSchema": {"type": "object"},
    }


@pytest.mark.parametrize(
    ("model", "effort", "expected"),
    [
        ("gemini-2.5-flash", "low", {"thinkingBudget": 1024}),
        ("gemini-2.5-flash", "none", {"thinkingBudget": 0}),
        ("gemini-3.1-pro-preview", "none", {"thinkingLevel": "minimal"}),
        ("gemini-3.1-pro-preview", "medium", {"thinkingLevel": "medium"}),
    ],
)
def test_googles_models_think_in_tokens_or_in_levels(model, effort, expected):
    """Effort is a number of tokens for 2.5 and a level from 3 on."""
    asked = call(params=Params(reasoning_effort=effort))
    config = at_home("gemini", model, asked).body["generationConfig"]

    assert config["thinkingConfig"] == expected
    assert config["maxOutputTokens"] == 1024 + expected.get("thinkingBudget", 0)


@pytest.mark.parametrize("vendor", VENDORS)
def test_a_server_that_takes_no_schema_is_known_by_one_word(vendor):
    """Whatever a server calls it, a rejected schema is the parameter `schema`."""
    words = {
        "openai": "Unsupported parameter: 'response_format'",
        "anthropic": "output_config.format: Extra inputs are not permitted",
        "gemini": "JSON mode is not enabled for models/gemma-3-27b-it",
    }
    reply = response(400, {"error": {"message": words[vendor]}})
    outcome, _ = ask(vendor, reply, call(schema=SCHEMA))

    assert outcome.error.parameter == "schema"


@pytest.mark.parametrize(
    ("vendor", "message"),
    [
        # agentjido/req_llm#302, jina-ai/node-DeepResearch#79
        (
            "anthropic",
            "output_format.schema: For 'integer' type, property 'minimum' is not supported",
        ),
        (
            "openai",
            "Invalid schema for response_format 'city': 'maxLength' is not permitted.",
        ),
        # mavam/pi-web-providers#14
        (
            "openai",
            "Invalid schema for response_format 'city': In context=(), 'format' is not permitted.",
        ),
        ("openai", "json_schema: 'pattern' is not supported"),
        # earendil-works/pi#5352
        (
            "openai",
            "JSON Schema not supported: could not understand the instance `{'required': ['a']}`.",
        ),
        ("openai", "response_format is not supported with tools"),
        ("openai", "response_format is not supported with this schema"),
        ("openai", "response_format is not supported for recursive schemas"),
        ("openai", "response_format json_schema is not supported: minItems"),
        ("openai", "response_format is not allowed to contain oneOf"),
        ("openai", "Unsupported keyword in response_format: 'pattern'"),
        ("openai", "'pattern' in json_schema is not supported"),
        ("openai", "Unknown field: response_format.json_schema.schema.pattern"),
    ],
)
def test_a_rejected_schema_says_nothing_of_the_next_one(vendor, message):
    """A server that cannot do something in one schema is not remembered as one without schemas."""
    outcome, _ = ask(vendor, response(400, {"error": {"message": message}}), call(schema=SCHEMA))

    assert outcome.error.parameter == "schema"
    assert not outcome.error.lasting


@pytest.mark.parametrize(
    ("vendor", "message"),
    [
        # DeepSeek: llm-exe/llm-exe#662, BerriAI/litellm#31466
        ("openai", "This response_format type is unavailable now"),
        ("openai", "response_format.type `json_schema` is unavailable now"),
        # web-infra-dev/midscene#259
        (
            "openai",
            "Invalid parameter: 'response_format' of type 'json_schema' is not supported with this",
        ),
        # mkht/PSOpenAI#44
        ("openai", "Unsupported parameter: 'response_format'."),
        # DeepInfra: truefoundry/models#913
        ("openai", "json_schema response format is not supported for model: stepfun-ai/Step-3.5"),
        ("openai", "This model does not support response format `json_schema`."),
        # anthropics/anthropic-sdk-csharp#132
        ("anthropic", "output_config: Extra inputs are not permitted"),
        ("anthropic", "output_config.format: Extra inputs are not permitted"),
        ("gemini", "JSON mode is not enabled for models/gemma-3-27b-it"),
        (
            "gemini",
            "Unknown name \"responseJsonSchema\" at 'generation_config': Cannot find field.",
        ),
    ],
)
def test_a_server_that_takes_no_schema_at_all_is_remembered_as_that(vendor, message):
    """It is not asked with each line of a batch anew."""
    outcome, _ = ask(vendor, response(400, {"error": {"message": message}}), call(schema=SCHEMA))

    assert outcome.error.parameter == "schema"
    assert outcome.error.lasting


INTEGER, TEXT = {"type": "integer"}, {"type": "string"}


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        # what pydantic writes for a model
        (
            {
                "$defs": {
                    "Leg": {"type": "object", "properties": {"cm": INTEGER | {"minimum": 0}}}
                },
                "type": "object",
                "properties": {"legs": {"type": "array", "items": {"$ref": "#/$defs/Leg"}}},
                "required": ["legs"],
            },
            {
                "$defs": {
                    "Leg": {
                        "type": "object",
                        "properties": {"cm": INTEGER},
                        "additionalProperties": False,
                    }
                },
                "type": "object",
                "properties": {"legs": {"type": "array", "items": {"$ref": "#/$defs/Leg"}}},
                "required": ["legs"],
                "additionalProperties": False,
            },
        ),
        (
            {"oneOf": [{"properties": {"a": TEXT | {"maxLength": 9}}}, {"type": "null"}]},
            {
                "anyOf": [
                    {"properties": {"a": TEXT}, "additionalProperties": False},
                    {"type": "null"},
                ]
            },
        ),
        (
            {"type": "array", "items": TEXT, "minItems": 3, "uniqueItems": True},
            {"type": "array", "items": TEXT, "minItems": 1},
        ),
    ],
)
def test_a_schema_goes_to_claude_as_it_can_be_held_to_it(given, sent):
    """Objects with named properties are closed; limits, which it knows none of, stay with us."""
    asked = call(schema=OutputSchema(schema=given))

    assert request("anthropic", asked).json["output_config"]["format"]["schema"] == sent


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "additionalProperties": {"type": "number"}},
        {"type": "object", "properties": {"a": TEXT}, "additionalProperties": True},
        {"type": "object", "properties": {"a": TEXT}, "required": ["a", "b"]},
        {"properties": {"a": TEXT}, "allOf": [{"properties": {"b": TEXT}, "required": ["b"]}]},
        {"properties": {"a": TEXT}, "anyOf": [{"properties": {"b": TEXT}}, {"required": ["a"]}]},
        {"type": "object"},
        # What is no schema is left as it is, for the server to refuse.
        {"type": "array", "minItems": None},
        {"type": "object", "properties": {"a": TEXT}, "required": ["a", None, {}]},
        {"properties": [], "required": 1, "items": None, "anyOf": {}},
    ],
)
def test_an_object_that_may_hold_more_is_not_closed(schema):
    """Closed, a map could hold nothing, and an answer that fits would be forbidden."""
    asked = call(schema=OutputSchema(schema=schema))

    assert request("anthropic", asked).json["output_config"]["format"]["schema"] == schema


TOOL = ToolDeclaration(name="count", description="Count.", parameters={"type": "object"})


@pytest.mark.parametrize(
    ("choice", "openai", "anthropic", "gemini"),
    [
        (ToolChoice(), None, None, None),
        (ToolChoice(mode="none"), "none", {"type": "none"}, {"mode": "NONE"}),
        (ToolChoice(mode="required"), "required", {"type": "any"}, {"mode": "ANY"}),
        (
            ToolChoice(mode="required", name="count", parallel=False),
            {"type": "function", "function": {"name": "count"}},
            {"type": "tool", "name": "count", "disable_parallel_tool_use": True},
            {"mode": "ANY", "allowedFunctionNames": ["count"]},
        ),
        (
            ToolChoice(parallel=False),
            None,
            {"type": "auto", "disable_parallel_tool_use": True},
            None,
        ),
    ],
)
def test_the_choice_of_tools_on_each_wire(choice, openai, anthropic, gemini):
    """Whether and what is to be called is said in each vendor's words."""
    asked = call(tools=(TOOL,), tool_choice=choice)
    bodies = [request(vendor, asked).json for vendor in VENDORS]

    assert bodies[0].get("tool_choice") == openai
    assert bodies[0].get("parallel_tool_calls") == choice.parallel
    assert bodies[1].get("tool_choice") == anthropic
    assert bodies[2].get("toolConfig", {}).get("functionCallingConfig") == gemini


@pytest.mark.parametrize(
    ("vendor", "model", "images", "documents"),
    [
        ("openai", "gpt-4o-mini", True, True),
        ("openai", "gpt-6.1-sol", True, True),
        ("openai", "o3", True, True),
        ("openai", "o3-mini", False, False),
        ("openai", "gpt-4-0613", False, False),
        ("openai", "gpt-4o-audio-preview-2025-06-03", False, False),
        ("anthropic", "claude-opus-5-5", True, True),
        ("anthropic", "claude-haiku-4-5-20251001", True, True),
        ("gemini", "gemini-3.8-flash", True, True),
        ("gemini", "gemma-3-27b-it", True, False),
        ("gemini", "gemma-3-1b-it", False, False),
    ],
)
def test_models_that_see_are_known_by_name(vendor, model, images, documents):
    """What a vendor's model can do is known by its name at the vendor's own server."""
    made = backend(vendor, None, HttpClients(), model=model)

    assert made.capabilities.images is images
    assert made.capabilities.documents is documents


@pytest.mark.parametrize(
    ("model", "images"),
    [
        ("openai/gpt-4o", True),
        ("gemma3:4b", True),
        ("gemma3:1b", False),
        ("llava:13b", True),
        ("Qwen/Qwen3-VL-8B-Instruct", True),
        ("qwen2.5:7b", False),
        ("mistralai/pixtral-12b", True),
        ("smollm2", False),
    ],
)
def test_models_that_see_at_other_servers(model, images):
    """Other servers' models are known by what the names of families have in common."""
    made = backend("openai", "http://127.0.0.1:9/v1", HttpClients(), model=model)

    assert made.capabilities.images is images
    assert not made.capabilities.documents


def test_documents_of_other_models_on_anthropics_wire():
    """Only Claude is sent documents: llama.cpp's server answers as if there had been none."""
    claude, other = (
        backend("anthropic", "http://127.0.0.1:9", HttpClients(), model=model)
        for model in ("claude-opus-5-5", "gemma3:4b")
    )
    claude.vision = other.vision = True

    assert claude.capabilities.documents
    assert other.capabilities.images
    assert not other.capabilities.documents


@pytest.mark.parametrize(
    ("model", "most"),
    [
        ("claude-opus-5-5", 128_000),
        ("claude-sonnet-4-6", 128_000),
        ("claude-haiku-4-5-20251001", 64_000),
        ("claude-opus-4-1", 32_000),
        ("claude-3-haiku-20240307", 4096),
        ("another", 4096),
    ],
)
def test_no_limit_is_the_models_own(model, most):
    """Without `max_tokens` none is sent, but to Anthropic, which wants one: the model's largest."""
    asked = call(params=Params(max_tokens=None))
    bodies = {vendor: request(vendor, asked).json for vendor in VENDORS}

    assert not {"max_tokens", "max_completion_tokens"} & bodies["openai"].keys()
    assert "maxOutputTokens" not in bodies["gemini"]["generationConfig"]
    assert at_home("anthropic", model, asked).body["max_tokens"] == most
