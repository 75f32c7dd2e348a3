"""An error is the same whatever place of a response it comes in, over every wire."""

from __future__ import annotations

import msgspec
import pytest
from wire_support import BACKENDS, ask, call, document, event, opens, response, says, stream

MEANINGS = {
    # LM Studio 0.4.21, lmstudio-bug-tracker 2322
    "context_length": {
        "error": {
            "message": "Trying to keep the first 4500 tokens when context the overflows. However, "
            "the model is loaded with context length of only 4096 tokens, which is not enough."
        }
    },
    # z.ai, docs.z.ai/api-reference/api-code
    "quota_exhausted": {
        "error": {"code": "1113", "message": "Insufficient balance or no resource package."}
    },
    # xAI, theopenco/llmgateway#1785
    "content_filter": {
        "code": "The caller does not have permission",
        "error": "Content violates usage guidelines.",
    },
    # xAI, openai/codex#1352
    "authentication": {
        "code": "Client specified an invalid argument",
        "error": "Incorrect API key provided: xa***bc.",
    },
}


def words_of(body):
    return body["error"] if isinstance(body["error"], str) else body["error"]["message"]


PLACES = {
    "400": lambda body: response(400, body),
    "403": lambda body: response(403, body),
    "422": lambda body: response(422, body),
    "429": lambda body: response(429, body),
    "500": lambda body: response(500, body),
    "502": lambda body: response(502, body),
    "a list": lambda body: response(400, [body]),
    "detail": lambda body: response(400, {"detail": body}),
    "a 200": lambda body: response(200, body),
    "a pretty 200": lambda body: response(200, msgspec.json.format(msgspec.json.encode(body))),
    "a 200 of another type": lambda body: response(
        200, msgspec.json.encode(body), {"Content-Type": "text/event-stream"}
    ),
    "data:": lambda body: stream(event(body)),
    "a refusal's event": lambda body: response(
        400, b"id:1\nevent:error\n:HTTP_STATUS/400\ndata:" + msgspec.json.encode(body) + b"\n\n"
    ),
    "event: error": lambda body: stream(event(body, "error")),
    "error:": lambda body: stream(b"error: " + msgspec.json.encode(body) + b"\n\n"),
    "a bare line": lambda body: stream(msgspec.json.encode(body) + b"\n"),
    # the words alone
    "text": lambda body: response(400, words_of(body)),
    "a 200 of text": lambda body: response(200, words_of(body), {"Content-Type": "text/plain"}),
    "a list of texts": lambda body: response(400, [words_of(body)]),
    "twice an error": lambda body: response(400, {"error": {"error": {"message": words_of(body)}}}),
    "a message's text": lambda body: response(
        400, {"error": {"message": {"text": words_of(body)}}}
    ),
    "a reason": lambda body: response(422, {"reason": words_of(body)}),
    "error: text": lambda body: stream(b"error: " + words_of(body).encode() + b"\n\n"),
    "data: error: text": lambda body: stream(b"data: error: " + words_of(body).encode() + b"\n\n"),
    "event: error, text": lambda body: stream(event(words_of(body), "error")),
}


@pytest.mark.parametrize("vendor", BACKENDS)
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", MEANINGS)
@pytest.mark.parametrize("streamed", [True, False], ids=["stream", "whole"])
def test_what_an_error_means_does_not_hang_on_where_it_is(vendor, place, kind, streamed):
    """Status, document, event, field or line: its words say what it is."""
    outcome, _ = ask(vendor, PLACES[place](MEANINGS[kind]), call(stream=streamed))

    assert outcome.kind == kind
    assert not outcome.texts


@pytest.mark.parametrize("vendor", BACKENDS)
@pytest.mark.parametrize("place", ["data:", "event: error", "error:", "a bare line"])
def test_an_error_after_words_names_its_cause(vendor, place):
    """The answer broke off, and the server's own words say why."""
    body = MEANINGS["quota_exhausted"]
    line = msgspec.json.encode(body)
    events = {
        "data:": event(body),
        "event: error": event(body, "error"),
        "error:": b"error: " + line + b"\n\n",
        "a bare line": line + b"\n",
    }
    outcome, _ = ask(vendor, stream(*opens(vendor), says(vendor, "Half"), events[place]))

    assert outcome.kind == "stream_interrupted"
    assert "Insufficient balance" in outcome.error.message


ENVELOPES = [
    ({"code": 401, "msg": "token expired or incorrect", "success": False}, "authentication"),
    ({"code": 1113, "msg": "Insufficient balance", "success": False}, "quota_exhausted"),
    ({"code": 503, "message": "busy"}, "service_unavailable"),
    ({"code": "InvalidApiKey", "message": "Invalid API-key provided."}, "authentication"),
    (
        {"choices": None, "base_resp": {"status_code": 1008, "status_msg": "insufficient balance"}},
        "quota_exhausted",
    ),
    (
        {"base_resp": {"status_code": 1027, "status_msg": "output new_sensitive"}},
        "content_filter",
    ),
    (
        {"success": False, "errors": [{"code": 7009, "message": "upstream"}], "result": None},
        "service_unavailable",
    ),
    ({"status": "failure", "message": "no config"}, "service_unavailable"),
    ({"error_code": 17, "error_msg": "Open api daily request limit"}, "service_unavailable"),
    ({"detail": "Model is loading"}, "service_unavailable"),
]
"""What other houses put into a 200 (see `json_path.find_error`), and what it means."""


@pytest.mark.parametrize("vendor", BACKENDS)
@pytest.mark.parametrize(("body", "kind"), ENVELOPES)
@pytest.mark.parametrize("place", ["a 200", "data:"])
def test_another_house_s_envelope_is_an_error_in_its_own_words(vendor, body, kind, place):
    """Never an answer that is merely malformed, whose cause nobody is told."""
    outcome, _ = ask(vendor, PLACES[place](body))
    words = msgspec.json.encode(body).decode()

    assert outcome.kind == kind
    assert outcome.error.message.rpartition(": ")[2].rstrip(".") in words


@pytest.mark.parametrize("vendor", BACKENDS)
def test_what_only_looks_like_an_envelope_is_none(vendor):
    """An answer that is a success in some house's words as well is an answer."""
    extra = {"code": 200, "msg": "ok", "success": True, "status": "completed"}
    for more in (extra, {"base_resp": {"status_code": 0, "status_msg": ""}}, {"errors": []}):
        body = document(vendor, "Hi") | more
        outcome, _ = ask(vendor, response(200, body), call(stream=False))

        assert outcome.text == "Hi"
