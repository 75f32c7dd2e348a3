"""What a profile says of one server: headers, keys, the body, the version of an API."""

from __future__ import annotations

import pytest
from profile_support import mistakes_in, places_in, write
from wire_support import KEY, ask, backend, call, document, response

from tieredllm.clock import SystemClock
from tieredllm.keys import Keys
from tieredllm.profile.dump import dump
from tieredllm.profile.load import load_profile
from tieredllm.profile.schema import Params, variables_of
from tieredllm.providers.factory import BackendDeps, make_backends
from tieredllm.providers.http import HttpClients

VENDORS = ["openai", "responses", "anthropic", "gemini"]
SECRET = "pk-portkey-0123456789abcdef"


def sent(vendor, *, more_keys=None, **options):
    """Give the request that is made with a server's options."""
    _, server = ask(
        vendor,
        response(200, document(vendor, "Hi")),
        call(),
        server=options,
        more_keys=more_keys or {},
    )
    (received,) = server.requests
    return received


@pytest.mark.parametrize("vendor", VENDORS)
def test_own_headers_and_keys_of_the_body_are_sent(vendor):
    """Over what the vendor's adapter sends; null takes a key of the body out."""
    received = sent(
        vendor,
        headers={"X-Portkey-Provider": "openai"},
        headers_env={"x-portkey-api-key": "PORTKEY"},
        body={"user": "me", "stream": None},
        more_keys={"PORTKEY": f" {SECRET}\n"},
    )

    assert received.headers["x-portkey-provider"] == "openai"
    assert received.headers["x-portkey-api-key"] == SECRET
    assert received.json["user"] == "me"
    assert "stream" not in received.json


def test_an_own_header_replaces_the_vendor_s_whatever_its_case():
    """A gateway may want its own key where the vendor's goes."""
    received = sent("openai", headers={"AUTHORIZATION": "Basic abc"})

    assert received.headers["authorization"] == "Basic abc"


@pytest.mark.parametrize("vendor", VENDORS)
def test_a_header_s_missing_variable_is_said_like_a_missing_key(vendor):
    """The tier is not configured until it is set, and nobody is asked."""
    server = {"headers_env": {"x-key": "PORTKEY"}}
    model = backend(vendor, "http://127.0.0.1:9", HttpClients(), server=server)
    outcome, asked = ask(vendor, b"", server=server)

    assert model.missing().what == "PORTKEY is not set"
    assert outcome.error.message == "PORTKEY is not set"
    assert not asked.requests


def test_a_secret_header_that_the_server_repeats_is_masked():
    """As the key is."""
    outcome, _ = ask(
        "openai",
        response(400, {"error": {"message": f"bad header {SECRET}!"}}),
        server={"headers_env": {"x-key": "PORTKEY"}},
        more_keys={"PORTKEY": SECRET},
    )

    assert SECRET not in outcome.error.message
    assert "bad header" in outcome.error.message


def test_backends_that_differ_in_what_is_sent_are_different_ones():
    """Their health is not shared; one without options keeps the identity it had."""
    http = HttpClients()
    variants = [
        backend("openai", "http://h", http, server=server)
        for server in (
            {},
            {"headers": {"x-a": "1"}},
            {"headers": {"x-a": "2"}},
            {"body": {"a": 1}},
        )
    ]

    assert len({model.identity for model in variants}) == 4
    assert variants[0].identity == backend("openai", "http://h", http).identity


def test_a_key_goes_to_anthropic_s_own_host_in_one_header_and_to_others_in_both():
    """Gateways want it as a bearer's (cline/cline#1062)."""
    received = sent("anthropic")
    model = backend("anthropic", None, HttpClients())
    own = model._headers(model._request_info("/v1/messages", {}))

    assert (received.headers["x-api-key"], received.headers["authorization"]) == (
        KEY,
        f"Bearer {KEY}",
    )
    assert own == {"anthropic-version": "2023-06-01", "x-api-key": KEY}


@pytest.mark.parametrize(
    ("version", "model", "sampled"),
    [
        ("2023-06-01", "claude-haiku-3-5", True),
        ("2023-06-01", "claude-opus-4-7", False),
        ("2026-10-21", "claude-haiku-3-5", False),
        ("2026-10-21", "m-1", False),
    ],
)
def test_an_api_version_is_asked_for_and_kept_to(version, model, sampled):
    """The one of October 2026 takes no sampling parameters, of no model."""
    _, server = ask(
        "anthropic",
        response(200, document("anthropic", "Hi")),
        call(params=Params(temperature=0.5)),
        model=model,
        server={"api_version": version},
    )
    (received,) = server.requests

    assert version == received.headers["anthropic-version"]
    assert ("temperature" in received.json) == sampled
    assert "max_tokens" in received.json


def loaded(tmp_path, tier):
    text = f"tiers: [{{name: a, model: m-1, {tier}}}]"
    return load_profile(str(write(tmp_path / "p.yaml", text)), places_in(tmp_path / "home"))


def made(tmp_path, tier, env):
    deps = BackendDeps(
        places=places_in(tmp_path / "home"),
        env={},
        keys=Keys(env, tmp_path / "keys.yaml"),
        http=HttpClients(),
        clock=SystemClock(),
        look_up=lambda *_: None,
        simulate={},
        verbose=False,
        one_question=True,
        keep_contexts=False,
    )
    return make_backends(loaded(tmp_path, tier).tiers[0], deps)[0]


@pytest.mark.parametrize(
    ("tier", "env", "missing"),
    [
        ("provider: gemini", {"GOOGLE_API_KEY": KEY}, None),
        ("provider: gemini", {"GEMINI_API_KEY": KEY}, None),
        ("provider: gemini", {}, "GEMINI_API_KEY is not set"),
        (
            "provider: gemini, api_key_env: GEMINI_API_KEY",
            {"GOOGLE_API_KEY": KEY},
            "GEMINI_API_KEY is not set",
        ),
    ],
)
def test_google_s_other_variable_is_taken_where_the_profile_names_none(
    tmp_path, tier, env, missing
):
    """`GOOGLE_API_KEY` is what its own SDK looks at, too."""
    found = made(tmp_path, tier, env).missing()

    assert (found and found.what) == missing


def test_everything_of_a_server_comes_from_the_profile(tmp_path):
    """Tier and alternates alike, shown without secrets, variables known for redaction."""
    tier = (
        "provider: anthropic, base_url: 'https://gateway.example', api_version: '2026-10-21',"
        "headers: {X-Config: 'secret-config'}, headers_env: {X-Key: GATEWAY}, body: {user: {}},"
        "alternates: [{provider: openai, model: n, api: responses, headers: {X-B: b}}]"
    )
    profile = loaded(tmp_path, tier)
    shown = dump(profile, lambda _: None)
    model = made(tmp_path, tier, {"GATEWAY": "g", "ANTHROPIC_API_KEY": KEY})

    assert model._all_headers(model._request_info("/x", {})) == {
        "anthropic-version": "2026-10-21",
        "x-api-key": KEY,
        "authorization": f"Bearer {KEY}",
        "x-config": "secret-config",
        "x-key": "g",
    }
    assert profile.tiers[0].alternates[0].headers == {"X-B": "b"}
    assert "secret-config" not in shown
    assert "X-Key: GATEWAY" in shown
    assert "api: responses" in shown
    assert "api_version: '2026-10-21'" in shown
    assert "GATEWAY" in variables_of(profile)


@pytest.mark.parametrize(
    ("keys", "mistake"),
    [
        ("headers: {'X A': b}", "header"),
        ('headers: {X-A: "b\\nX-B: c"}', "line of ASCII"),
        ("headers_env: {X-A: 'not a name'}", "environment variable"),
        ("api_version: newest", "date"),
        ("api: completions", "chat, responses"),
    ],
)
def test_what_no_server_could_take_is_said_when_the_profile_is_read(tmp_path, keys, mistake):
    """With its place, before any request."""
    path = write(tmp_path / "p.yaml", f"tiers: [{{name: a, provider: openai, model: m, {keys}}}]")
    (found,) = mistakes_in(path, places_in(tmp_path / "home"))

    assert mistake in found


def test_keys_of_a_server_are_out_of_place_where_there_is_none(tmp_path):
    """A model in-process and a rules tier have no headers."""
    path = write(
        tmp_path / "p.yaml",
        """
        tiers:
          - {name: a, provider: llama_cpp, model: smollm2-135m, headers: {X-A: b}}
          - {name: r, provider: rules, body: {a: 1}}
        """,
    )
    found = mistakes_in(path, places_in(tmp_path / "home"))

    assert [mistake.partition(": ")[2] for mistake in found] == [
        "a model that runs in-process has no `headers`: remove it",
        "a rules tier has no `body`: remove it",
    ]


@pytest.mark.parametrize(
    ("keys", "tokens"),
    [
        ("base_url: 'http://127.0.0.1:11434/v1'", 4096),
        ("base_url: 'http://[::1]:11434/v1'", 4096),
        ("base_url: 'http://127.0.0.1:11434/v1', context_tokens: 32768", 32768),
        ("base_url: 'http://127.0.0.1:8080/v1'", 128_000),
    ],
)
def test_a_server_at_ollama_s_port_has_ollama_s_context(tmp_path, keys, tokens):
    """It cuts what is longer without a word, unless the profile says that it has more."""
    assert tokens == loaded(tmp_path, f"provider: openai, {keys}").tiers[0].context_tokens
