"""Test probes: what says whether a cloud model could answer."""

from __future__ import annotations

import asyncio
import time

import pytest
from wire_support import (
    KEY,
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


def gated(vendor, *, path=None, key_wanted=True):
    """Play a server whose list wants the key, as most do."""

    async def play(connection):
        received = connection.received
        keyed = any(KEY in value for value in received.headers.values())
        if path is not None and received.path != path:
            await connection.send(response(404, b"no such page"))
        elif keyed or not key_wanted:
            await connection.send(response(200, LISTS[vendor]))
        else:
            await connection.send(response(401, {"error": {"message": "no key"}}))

    return play


@every_vendor
def test_a_probe_lists_the_models_and_nothing_that_is_billed(vendor):
    """The vendor's list is asked for with the key, then without: it would prove nothing."""
    found, server = probe(vendor, gated(vendor), key=KEY)

    assert (found.ok, found.error, found.sure) == (True, None, True)
    assert found.latency_ms > 0
    assert [(received.method, received.path) for received in server.requests] == [
        ("GET", PATHS[vendor])
    ] * 2
    assert [KEY in str(received.headers) for received in server.requests] == [True, False]


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


@every_vendor
def test_a_public_list_says_nothing_of_the_key(vendor):
    """Whoever gets the list without a key as well cannot tell a good one from a bad one."""
    found, _ = probe(vendor, gated(vendor, key_wanted=False), key=KEY)

    assert (found.ok, found.sure) == (True, False)
    assert "public" in found.note
    assert "--deep" in found.fix


def test_a_server_that_needs_no_key_is_asked_once():
    """`api_key_env: null` says that there is none to be tested."""

    async def run():
        http = HttpClients()
        async with raw_server(response(200, LISTS["openai"])) as server:
            made = backend("openai", server.url, http, api_key_env=None)
            try:
                return await made.probe(), server
            finally:
                await http.aclose()

    found, server = asyncio.run(run())

    assert (found.ok, found.sure) == (True, True)
    assert len(server.requests) == 1


@every_vendor
@pytest.mark.parametrize(
    "refusal",
    [
        response(404, b"page not found"),
        response(405, {"error": "method"}),
        response(501, b""),
        response(200, {"error": "Unexpected endpoint or method. (GET /models)"}),
    ],
)
def test_a_server_without_a_list_is_not_down(vendor, refusal):
    """Off the vendor's own host there may be none; what it said is told."""
    found, _ = probe(vendor, refusal)

    assert (found.ok, found.error, found.sure) == (True, None, False)
    assert found.note.startswith("it gives no list of models: ")


def test_a_model_that_another_server_does_not_list_is_unsure_and_what_it_lists_is_told():
    """It may answer all the same: some list patterns, some load on demand, some take any name."""
    bodies = {
        "m-1": None,
        "models/m-1": None,
        "m-1:free": None,
        "q": "127.0.0.1:PORT lists a, m-1, b, c, d, …, but not q",
    }
    for model, note in bodies.items():

        async def run(model=model):
            http = HttpClients()
            names = [{"id": name} for name in ("a", "m-1", "b", "c", "d", "e")]
            async with raw_server(response(200, {"data": names})) as server:
                made = backend("openai", server.url, http, model=model, api_key_env=None)
                try:
                    return await made.probe(), server.url.rpartition(":")[2]
                finally:
                    await http.aclose()

        found, port = asyncio.run(run())

        assert found.ok
        assert found.note == (note and note.replace("PORT", port))


def test_openrouter_is_asked_what_the_key_is_good_for(monkeypatch):
    """Its list is public; `/key` is not."""

    async def run(status):
        http = HttpClients()

        async def play(connection):
            await connection.send(
                response(status, {"error": {"message": "No auth", "code": 401}})
                if connection.received.path == "/v1/key"
                else response(200, LISTS["openai"])
            )

        async with raw_server(play) as server:
            host = server.url.removeprefix("http://")
            monkeypatch.setattr("tieredllm.providers.cloud.OPENROUTER", host)
            try:
                return await backend("openai", server.url, http, key=KEY).probe()
            finally:
                await http.aclose()

    good, bad = asyncio.run(run(200)), asyncio.run(run(401))

    assert (good.ok, good.sure) == (True, True)
    assert bad.error.startswith("authentication (401) the key in OPENAI_API_KEY was rejected")


def test_at_home_a_key_that_may_not_list_is_no_verdict(monkeypatch):
    """A restricted key of OpenAI's may only ask."""
    words = "You have insufficient permissions. Missing scopes: api.model.read."

    async def run(message):
        http = HttpClients()
        async with raw_server(response(403, {"error": {"message": message}})) as server:
            made = backend("openai", server.url, http)
            monkeypatch.setattr(type(made), "own_host", server.url.removeprefix("http://"))
            try:
                return await made.probe()
            finally:
                await http.aclose()

    assert asyncio.run(run(words)).sure is False
    assert asyncio.run(run("Country not supported")).error.startswith("permission (403)")


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
