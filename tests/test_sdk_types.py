"""The vendors' own SDKs as an oracle: what they can name, the tool has decided on.

`data/sdk_types.yaml` says for each finish reason, event, block, delta, part and error type what the
tool makes of it. A new release of an SDK that brings a new one fails here until that is decided.
"""

from __future__ import annotations

import typing
from pathlib import Path
from typing import Annotated, Literal, get_args, get_origin

import anthropic.types.beta as anthropic_beta
import pytest
import yaml
from anthropic.types.shared.error_type import ErrorType
from google.genai import types as google
from openai.types import responses as openai_responses
from openai.types.chat import chat_completion, chat_completion_chunk
from openai.types.responses import response as openai_response
from openai.types.responses.response_output_message import Content
from wire_support import (
    BACKENDS,
    ask,
    call,
    document,
    ends,
    event,
    opens,
    response,
    says,
    source,
    stream,
)

from tieredllm.clock import SystemClock

TABLE = yaml.safe_load((Path(__file__).parent / "data" / "sdk_types.yaml").read_text("utf-8"))


def literals(of):
    """Return the texts that a type is made of."""
    if get_origin(of) is Literal:
        return set(get_args(of))
    return set().union(*map(literals, get_args(of)))


def models(of):
    """Return the classes that a union is made of."""
    if get_origin(of) is Annotated:
        return models(get_args(of)[0])
    if get_origin(of) is None:
        return [of]
    return [found for each in get_args(of) for found in models(each)]


def tags(of):
    """Return the `type`s of a union's classes."""
    return set().union(*(literals(each.model_fields["type"].annotation) for each in models(of)))


def field(model, name):
    return model.model_fields[name].annotation


def names(enum):
    return {each.name for each in enum}


WALKED = {
    "openai reasons": lambda: (
        literals(field(chat_completion.Choice, "finish_reason"))
        | literals(field(chat_completion_chunk.Choice, "finish_reason"))
    ),
    "openai fields": lambda: (
        set(chat_completion_chunk.ChoiceDelta.model_fields)
        | set(chat_completion.ChatCompletionMessage.model_fields)
    ),
    "responses statuses": lambda: literals(field(openai_responses.Response, "status")),
    "responses reasons": lambda: literals(field(openai_response.IncompleteDetails, "reason")),
    "responses events": lambda: tags(openai_responses.ResponseStreamEvent),
    "responses items": lambda: tags(openai_responses.ResponseOutputItem),
    "responses contents": lambda: tags(Content),
    "responses errors": lambda: literals(field(openai_responses.ResponseError, "code")),
    "anthropic reasons": lambda: literals(anthropic_beta.BetaStopReason),
    "anthropic events": lambda: tags(anthropic_beta.BetaRawMessageStreamEvent),
    "anthropic blocks": lambda: tags(anthropic_beta.BetaContentBlock),
    "anthropic deltas": lambda: tags(anthropic_beta.BetaRawContentBlockDelta),
    "anthropic errors": lambda: literals(ErrorType),
    "gemini reasons": lambda: names(google.FinishReason),
    "gemini blocked": lambda: names(google.BlockedReason),
    "gemini parts": lambda: set(google.Part.model_fields),
}


@pytest.mark.parametrize("what", WALKED)
def test_there_is_a_decision_on_all_that_an_sdk_knows(what):
    """Nothing that the installed SDK can name is without a decision."""
    undecided = WALKED[what]() - TABLE[what].keys()

    assert undecided == set()


def rows(what):
    return sorted(TABLE[what].items())


def said(outcome):
    """Return what an attempt came to, in the table's words."""
    return outcome.kind or outcome.finish.reason


REASONS = [
    (vendor, reason, *(expected if isinstance(expected, list) else (expected, expected)))
    for vendor in ("openai", "anthropic", "gemini")
    for reason, expected in rows(f"{vendor} reasons")
]
"""Each with what a stream comes to, and a document."""


@pytest.mark.parametrize(("vendor", "reason", "expected", "_"), REASONS)
def test_each_reason_ends_a_stream_as_decided(vendor, reason, expected, _):
    """A text that ends with a reason is whole, cut, refused or void."""
    closing = [] if vendor == "gemini" else [event({"type": "message_stop"})]
    closing = [event("[DONE]")] if vendor == "openai" else closing
    reply = stream(*opens(vendor), says(vendor, "Half"), *ends(vendor, reason), *closing)
    outcome, _ = ask(vendor, reply)

    assert said(outcome) == expected


@pytest.mark.parametrize(("vendor", "reason", "_", "expected"), REASONS)
def test_each_reason_ends_a_document_as_decided(vendor, reason, _, expected):
    """The same where the answer is not streamed, but that nothing has to be taken back."""
    reply = response(body=document(vendor, "Half", reason))
    outcome, _ = ask(vendor, reply, call(stream=False))

    assert said(outcome) == expected.replace("stream_interrupted", "malformed_response")


@pytest.mark.parametrize(("status", "expected"), rows("responses statuses"))
def test_each_status_of_a_response(status, expected):
    """Only a completed response is whole."""
    output = [{"type": "message", "content": [{"type": "output_text", "text": "Half"}]}]
    body = {"status": status, "output": output}
    outcome, _ = ask("responses", response(body=body), call(stream=False))

    assert said(outcome) == expected


@pytest.mark.parametrize(("reason", "expected"), rows("responses reasons"))
def test_each_reason_of_an_incomplete_response(reason, expected):
    """A response is incomplete for its length, a refusal, or what makes it void."""
    output = [{"type": "message", "content": [{"type": "output_text", "text": "Half"}]}]
    body = {"status": "incomplete", "incomplete_details": {"reason": reason}, "output": output}
    outcome, _ = ask("responses", response(body=body), call(stream=False))

    assert said(outcome) == expected


@pytest.mark.parametrize(("reason", "expected"), rows("gemini blocked"))
def test_each_reason_of_a_blocked_prompt(reason, expected):
    """A prompt that is blocked is a refusal, unless no reason is given."""
    body = {"promptFeedback": {"blockReason": reason}}
    outcome, _ = ask("gemini", response(body=body), call(stream=False))

    assert said(outcome) == expected


@pytest.mark.parametrize(
    ("vendor", "code", "expected"),
    [
        (vendor, code, expected)
        for vendor in ("responses", "anthropic")
        for code, expected in rows(f"{vendor} errors")
    ],
)
def test_each_error_inside_a_stream(vendor, code, expected):
    """An error event is what its type or code says."""
    error = {"message": "no"} | ({"code": code} if vendor == "responses" else {"type": code})
    body = (
        {"type": "response.failed", "response": {"status": "failed", "error": error}}
        if vendor == "responses"
        else {"type": "error", "error": error}
    )
    outcome, _ = ask(vendor, stream(event(body, str(body["type"]))))

    assert said(outcome) == expected


def part_of(vendor, value):
    """Return in the table's words what an event, or a whole answer, says."""
    model = BACKENDS[vendor](
        source(vendor), api_key_env=None, keys={}, http=None, clock=SystemClock()
    )
    parts = [model._parse_chunk(one) for one in model._split(value)]
    found = {
        "error": any(part.error is not None for part in parts),
        "refusal": any(part.refusal for part in parts),
        "call": any(part.calls for part in parts),
        "thought": any(part.thought is not None for part in parts),
        "text": any(part.text for part in parts),
        "end": any(part.done for part in parts),
        "reason": any(part.reason is not None for part in parts),
    }
    return next((name for name, is_so in found.items() if is_so), "nothing")


RESPONSE = {"status": "completed", "output": []}


@pytest.mark.parametrize(("kind", "expected"), rows("responses events"))
def test_each_event_of_the_responses_api(kind, expected):
    """Events carry text, thoughts, calls, a refusal, an end or an error, or say nothing here."""
    value = {"type": kind, "delta": "x", "code": "server_error", "message": "no"}
    value |= {"output_index": 0, "response": RESPONSE}

    assert part_of("responses", value) == expected


def item(kind, content="output_text"):
    return {
        "type": kind,
        "content": [{"type": content, "refusal" if content == "refusal" else "text": "x"}],
        "summary": [{"type": "summary_text", "text": "x"}],
    }


@pytest.mark.parametrize(("kind", "expected"), rows("responses items"))
def test_each_item_of_a_response(kind, expected):
    """Items are the text, thoughts or calls; those of the server's own tools say nothing here."""
    value = {"status": None, "output": [item(kind)]}

    assert part_of("responses", value) == expected


@pytest.mark.parametrize(("kind", "expected"), rows("responses contents"))
def test_each_content_of_a_message(kind, expected):
    """A message's contents are text or a refusal."""
    assert part_of("responses", {"output": [item("message", kind)]}) == expected


@pytest.mark.parametrize(("kind", "expected"), rows("anthropic events"))
def test_each_event_of_anthropics(kind, expected):
    """Events carry text, a reason or the end, or frame what others carry."""
    value = {
        "type": kind,
        "index": 0,
        "message": {"content": [], "stop_reason": None},
        "content_block": {"type": "text", "text": ""},
    }
    if kind.endswith("_delta"):
        is_text = kind == "content_block_delta"
        value["delta"] = {"type": "text_delta", "text": "x"} if is_text else {"stop_reason": "x"}

    assert part_of("anthropic", value) == expected


FILLED = {"text": "x", "thinking": "x", "data": "x", "signature": "x", "name": "x", "input": {}}


@pytest.mark.parametrize(("kind", "expected"), rows("anthropic blocks"))
def test_each_block_of_anthropics(kind, expected):
    """Blocks are text, thoughts or calls, streamed or not; the others say nothing here."""
    block = {"type": kind, "content": "x"} | FILLED
    begun = {"type": "content_block_start", "index": 0, "content_block": block}

    assert part_of("anthropic", begun) == expected
    assert part_of("anthropic", {"type": "message", "content": [block]}) == expected


@pytest.mark.parametrize(("kind", "expected"), rows("anthropic deltas"))
def test_each_delta_of_anthropics(kind, expected):
    """Deltas are text, thoughts or pieces of calls; the others say nothing here."""
    delta = {"type": kind, "partial_json": "x", "content": "x", "citation": {}} | FILLED

    assert part_of("anthropic", {"type": "content_block_delta", "index": 0, "delta": delta}) == (
        expected
    )


@pytest.mark.parametrize(("name", "expected"), rows("gemini parts"))
def test_each_part_of_geminis(name, expected):
    """Parts are text, thoughts or calls; those of the server's own tools say nothing here."""
    head, *tail = name.split("_")
    value = {head + "".join(map(str.title, tail)): True if name == "thought" else {}}
    if name in ("text", "thought"):
        value["text"] = "x"

    assert part_of("gemini", {"candidates": [{"content": {"parts": [value]}}]}) == expected


@pytest.mark.parametrize(("name", "expected"), rows("openai fields"))
def test_each_field_of_a_delta(name, expected):
    """A delta's fields are text, a refusal or calls; the others say nothing here."""
    values: dict[str, typing.Any] = {"tool_calls": [{}], "function_call": {"name": "x"}}
    delta = {name: values.get(name, "x")}

    assert part_of("openai", {"choices": [{"index": 0, "delta": delta}]}) == expected
