"""Test probes: what says whether a cloud model could answer."""

from __future__ import annotations

import asyncio
import time

import pytest
from wire_support import (
    STREAM_HEAD,
    answers,
    backend,
    call,
    chunk,
    document,
    opens,
    raw_server,
    response,
)

from tieredllm.providers.http import HttpClients

VENDORS = ["openai", "anthropic", "gemini"]
PATHS = {
    "openai": "/v1/models",
    "anthropic": "/v1/models?limit=1000",
    "gemini": "/v1beta/models?pageSize=1000",
}
LISTS = {
    "openai": {"object": "list", "data": [{"id": "m-1"}, {"id": "m-2"}]},
    "anthropic": {"data": [{"id": "m-1", "type": "model"}], "has_more": False},
    "gemini": {"models": [{"name": "models/m-1"}, {"name": "models/m-2"}]},
}

every_vendor = pytest.mark.parametrize("vendor", VENDORS)


def probe(vendor, play, *, deep=False, key="sk-test-0123456789abcdef"):
    async def run():
        http = HttpClients()
        async with raw_server(play) as server:
            try:
                return await backend(vendor, server.url, http, key=key).probe(deep=deep), server
            finally:
                await http.aclose()

    return asyncio.run(run())


@every_vendor
def test_a_probe_lists_the_models_and_nothing_that_is_billed(vendor):
    """One GET of the vendor's list, with the key."""
    found, server = probe(vendor, response(200, LISTS[vendor]))

    assert (found.ok, found.error) == (True, None)
    assert found.latency_ms > 0
    assert [(received.method, received.path) for received in server.requests] == [
        ("GET", PATHS[vendor])
    ]
    assert any("sk-test" in value for value in server.requests[0].headers.values())


@every_vendor
@pytest.mark.parametrize(
    ("body", "error"),
    [
        (response(401, {"error": {"message": "no"}}), "authentication (401)"),
        (response(500, b""), "service_unavailable (500)"),
        (response(200, b"<html><title>Wi-Fi</title>"), "malformed_response"),
        (response(200, b"{half"), "malformed_response"),
        (b"", "connection"),
    ],
)
def test_a_failing_probe_says_why(vendor, body, error):
    """The error is told by its kind and in words."""
    found, _ = probe(vendor, body)

    assert not found.ok
    assert found.error.startswith(error)


@every_vendor
def test_a_probe_without_a_key_asks_nobody(vendor):
    """What is not set cannot be probed with."""
    found, server = probe(vendor, response(200, LISTS[vendor]), key=None)

    assert not found.ok
    assert "is not set" in found.error
    assert not server.requests


@every_vendor
@pytest.mark.parametrize("deep", [False, True])
def test_a_probe_of_a_silent_server_ends(vendor, deep, monkeypatch):
    """A probe has its own bound, and one that waits for a token a longer one."""
    limits = {"PROBE_S": 5, "DEEP_PROBE_S": 0.2} if deep else {"PROBE_S": 0.2, "DEEP_PROBE_S": 5}
    for name, limit_s in limits.items():
        monkeypatch.setattr(f"tieredllm.providers.cloud.{name}", limit_s)

    async def play(connection):
        await connection.gone()

    start = time.perf_counter()
    found, _ = probe(vendor, play, deep=deep)

    assert not found.ok
    assert found.error == "timeout: no answer within 0.2 s"
    assert time.perf_counter() - start < 2


@every_vendor
def test_a_deep_probe_leaves_at_the_first_token(vendor):
    """One real token is asked for, and the connection is left when it came."""

    async def play(connection):
        await connection.send(STREAM_HEAD)
        for data in opens(vendor):
            await connection.send(chunk(data))
        from wire_support import says

        await connection.send(chunk(says(vendor, "OK")))
        await connection.gone()

    found, server = probe(vendor, play, deep=True)

    assert found.ok
    assert server.requests[0].method == "POST"
    assert b"16" in server.requests[0].body


@every_vendor
def test_a_deep_probe_whose_tokens_all_went_to_thinking_is_fine(vendor):
    """A model that thought for sixteen tokens is up."""
    found, _ = probe(vendor, answers(vendor, reason="length"), deep=True)

    assert found.ok


@every_vendor
def test_a_deep_probe_that_fails_says_why(vendor):
    """An empty answer with tokens to spare is a failure."""
    found, _ = probe(vendor, response(200, document(vendor, "")), deep=True)

    assert found.error.startswith("empty_response (200)")


@pytest.mark.parametrize(
    ("vendor", "model", "listed", "known"),
    [
        ("openai", "gpt-9", ["gpt-4o"], False),
        ("openai", "gpt-4o", ["gpt-4o", "o3"], True),
        ("anthropic", "claude-haiku-4-5", ["claude-haiku-4-5-20251001"], True),
        ("anthropic", "claude-3-7-sonnet-latest", ["claude-3-7-sonnet-20250219"], True),
        ("anthropic", "claude-9", ["claude-haiku-4-5-20251001"], False),
        ("gemini", "models/gemini-3.8-flash", ["models/gemini-3.8-flash"], True),
        ("gemini", "gemini-9", ["models/gemini-3.8-flash"], False),
        ("gemini", "gemini-9", [], True),
    ],
)
def test_at_home_a_model_that_is_not_listed_is_told(monkeypatch, vendor, model, listed, known):
    """The vendor's own complete list knows its models; other servers' lists are no promise."""
    key = "models" if vendor == "gemini" else "data"
    name = "name" if vendor == "gemini" else "id"
    body = response(200, {key: [{name: item} for item in listed]})

    async def run():
        http = HttpClients()
        async with raw_server(body) as server:
            made = backend(vendor, server.url, http, model=model)
            away = await made.probe()
            monkeypatch.setattr(type(made), "own_host", server.url.removeprefix("http://"))
            home = await made.probe()
            await http.aclose()
            return away, home

    away, home = asyncio.run(run())

    assert (away.ok, home.ok) == (True, known)
    assert known or home.error.startswith("not_found")


def test_warming_up_and_closing_do_nothing():
    """A cloud backend holds nothing of its own."""

    async def run():
        made = backend("openai", None, HttpClients())
        made.warm_up()
        await made.aclose()
        return made.is_language_model, call().stream

    assert asyncio.run(run()) == (True, True)


def test_a_deep_probe_leaves_out_what_the_server_rejects():
    """A parameter that is named as unsupported does not make a model look down."""
    rejects = {
        "error": {
            "message": "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.",
            "code": "unsupported_parameter",
            "param": "max_tokens",
        }
    }

    async def play(connection):
        await connection.send(response(400, rejects))
        again = await connection.request()
        assert b"max_completion_tokens" in again.body
        await connection.send(answers("openai", "OK"))

    found, _ = probe("openai", play, deep=True)

    assert found.ok, found.error


def test_a_deep_probe_that_is_refused_otherwise_is_a_failure():
    """A 400 that names no parameter is told; OpenAI's words for spent tokens are fine."""
    refused, _ = probe("openai", response(400, {"error": {"message": "no max_tokens"}}), deep=True)
    spent = "Could not finish the message because max_tokens or model output limit was reached."
    up, _ = probe("openai", response(400, {"error": {"message": spent}}), deep=True)

    assert (refused.ok, up.ok) == (False, True)
