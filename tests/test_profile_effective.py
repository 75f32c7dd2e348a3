"""What is in effect can be shown, without showing a secret."""

from __future__ import annotations

import pytest
import yaml
from profile_support import places_in, write

from tieredllm.profile.dump import dump
from tieredllm.profile.lint import lint
from tieredllm.profile.load import find_profile, known_profiles, load, load_profile
from tieredllm.redaction import looks_like_key, mask_text, mask_url


@pytest.fixture
def places(tmp_path):
    return places_in(tmp_path / "home")


def never(_name):
    return None


def test_every_shipped_profile_reads_back_as_it_is_in_effect(tmp_path, places):
    """What `profile show` prints is a profile that behaves the same."""
    for found in known_profiles(places):
        text = dump(load(found, places).profile, never)
        again = load_profile(str(write(tmp_path / "again.yaml", text)), places)

        assert dump(again, never) == text


def test_defaults_are_shown(places):
    """Keys that the file does not have are there with what they are."""
    text = dump(load_profile("offline", places), never)

    assert "    connect_timeout_s: 3\n" in text
    assert "      factor: 2\n" in text
    assert "  failure_threshold: 3\n" in text


def test_vendors_own_url_and_key_are_shown(places):
    """A tier that names none shows what it uses, and whether the key is set, and where."""
    where = {"OPENAI_API_KEY": "environment", "GEMINI_API_KEY": "keys file"}
    text = dump(load_profile(None, places), where.get)

    assert "    base_url: https://api.openai.com/v1\n" in text
    assert "    api_key_env: OPENAI_API_KEY  # OPENAI_API_KEY: set (environment)\n" in text
    assert "    api_key_env: GEMINI_API_KEY  # GEMINI_API_KEY: set (keys file)\n" in text
    assert "    api_key_env: ANTHROPIC_API_KEY  # ANTHROPIC_API_KEY: not set\n" in text


def test_secrets_in_a_profile_are_masked(tmp_path, places):
    """Passwords and keys in URLs, and what an MCP server is given, are hidden."""
    text = """
        tiers:
          - name: a
            provider: openai
            model: m
            base_url: https://me:secret1@host/v1?api-version=2&api_key=secret2
            alternates: [{provider: gemini, model: g, base_url: "https://host/v1beta?key=secret3"}]
          - {name: r, provider: rules, vars: {help_url: https://example.com/help}}
        tools:
          mcp:
            x: {url: "https://host/?token=secret4", headers_env: {X-Key: NAME}, timeout_s: 3}
            y: {command: [run, sk-secret6secret6], env: {TOKEN: secret7}}
            z:
              command: docker
              args: [-e, "API_KEY=secret8", --token, "secret9", "--key=${MY_KEY}", --verbose, me]
            w: {command: [npx, -y, mcp-remote, --header, "Authorization: Bearer secret10"]}
            v:
              command: run
              args:
                - "https://me:secret11@host/${TENANT}"
                - "postgres://me:secret12@db/${DB}"
                - "sk-ant-api03-secret13secret ${X}"
                - "--url=https://me:secret14@host"
                - "--token=${NAME:-secret15}"
                - "BOT_TOKENS=secret16"
    """
    shown = dump(load_profile(str(write(tmp_path / "p.yaml", text)), places), never)

    assert "secret" not in shown
    assert "base_url: https://****@host/v1?api-version=2&api_key=****\n" in shown
    assert "help_url: https://example.com/help" in shown
    assert "        X-Key: NAME\n" in shown
    arguments = ["-e", "API_KEY=****", "--token", "****", "--key=${MY_KEY}", "--verbose", "me"]
    servers = yaml.safe_load(shown)["tools"]["mcp"]
    assert servers["z"]["args"] == arguments
    assert servers["w"]["command"][3:] == ["--header", "Authorization: ****"]
    assert servers["v"]["args"] == [
        "https://****@host/${TENANT}",
        "postgres://****@db/${DB}",
        "****",
        "--url=https://****@host",
        "--token=****",
        "BOT_TOKENS=****",
    ]
    assert "      timeout_s: 3\n" in shown


def test_what_is_no_secret_is_shown(tmp_path, places):
    """Counts of tokens, the word after a switch, a variable's name, and texts outside of `mcp`."""
    args = "[--max-tokens, '5', --no-token, name, --token, '${T}', 'Authorization: Bearer ${T}']"
    text = f"""
        tiers:
          - name: a
            provider: openai
            model: m
            params: {{stop: ["Token: x", --token, y]}}
            body: {{args: [--token, y]}}
        tools: {{mcp: {{x: {{command: run, args: {args}}}}}}}
    """
    shown = dump(load_profile(str(write(tmp_path / "p.yaml", text)), places), never)

    profile = yaml.safe_load(shown)
    assert profile["tools"]["mcp"]["x"]["args"] == yaml.safe_load(args)
    assert profile["tiers"][0]["params"]["stop"] == ["Token: x", "--token", "y"]
    assert profile["tiers"][0]["body"]["args"] == ["--token", "y"]


@pytest.mark.parametrize(
    ("text", "is_key"),
    [
        ("sk-proj-abc", True),
        ("sk-ant-api03-x", True),
        ("AIzaSyA0123456789", True),
        ("gsk_0123456789abcdef", True),
        ("aB3" * 12, True),
        ("OPENAI_API_KEY", False),
        ("HF_TOKEN", False),
        ("hf_token", False),
        ("gemma-2-2b-it", False),
        ("/home/me/Models/some-very-long-Name-4B.gguf", False),
        ("", False),
    ],
)
def test_keys_are_told_from_names(text, is_key):
    """What starts like a vendor's key, or is long and mixed, is taken for one."""
    assert looks_like_key(text) is is_key


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("https://u:p@h/v1", "https://****@h/v1"),
        ("https://h/v1?x=1&key=abc&y=2", "https://h/v1?x=1&key=****&y=2"),
        ("https://h/v1?access_token=abc", "https://h/v1?access_token=****"),
        ("https://h/a@b", "https://h/a@b"),
    ],
)
def test_urls_keep_all_but_their_secrets(url, masked):
    """The host, the path and harmless parts stay readable."""
    assert mask_url(url) == mask_text(url) == masked


def doubted(tmp_path, places, text):
    path = write(tmp_path / "p.yaml", text)
    return [
        f"{d.line}:{d.column}: {d.message}"
        for d in lint(load(find_profile(str(path), places), places))
    ]


LAST = "\n  - {name: r, provider: rules}\n"
TIERS = f"tiers:{LAST}"


def model(provider, more):
    return f"tiers:\n  - {{name: a, provider: {provider}, model: m, {more}}}{LAST}"


@pytest.mark.parametrize(
    ("text", "doubt"),
    [
        (
            "tiers:\n  - {name: a, provider: openai, model: m}",
            "2:5: there is no rules tier at the end: a request can end without any answer",
        ),
        (
            "tiers:\n  - {name: r, provider: rules}\n  - {name: a, provider: openai, model: m}",
            "3:5: tier `a` is never reached: `r` above it always answers",
        ),
        (
            "tiers:\n  - {name: r, provider: rules, hedge_after_s: 1}",
            "2:32: `hedge_after_s` on the last tier does nothing",
        ),
        (
            model("openai", "hedge_after_s: 1"),
            "2:43: `hedge_after_s` starts the rules tier, which answers at once and so wins",
        ),
        (
            model("openai", "context_tokens: 1000"),
            (
                "2:43: `max_tokens` (1024) leaves nothing of `context_tokens` "
                "(1000) for the question: "
                "the tier will be skipped"
            ),
        ),
        (
            "deadline_s: 5\ntiers:\n  - {name: a, provider: openai, model: m}" + LAST,
            (
                "3:5: `deadline_s` (5) is over before this tier has given way "
                "(10 s): no other will be "
                "tried"
            ),
        ),
        (
            model("openai", "vars: {x: y}"),
            "2:43: `vars` means something to a rules tier only",
        ),
        (
            model("openai", "base_url: http://localhost:1, api_key_env: null"),
            "2:43: an OpenAI-compatible `base_url` goes up to and with /v1",
        ),
        (
            "tools:\n  mcp:\n    a: {type: sse, url: 'http://x/sse'}\n" + TIERS,
            "3:5: MCP server `a`: SSE is not supported: give its streamable HTTP `url`",
        ),
        (
            model("gemini", "base_url: http://localhost:1, api_key_env: null"),
            "2:43: a Gemini `base_url` goes up to and with /v1beta",
        ),
        (
            model("anthropic", "base_url: http://localhost/v1, api_key_env: K"),
            "2:46: an Anthropic `base_url` goes without /v1, which is added",
        ),
        (
            model("openai", "base_url: https://x/v1"),
            (
                "2:43: this server is sent OPENAI_API_KEY: say `api_key_env: "
                "null` if it needs no key, "
                "else the name of its own"
            ),
        ),
        (
            model("openai", "base_url: http://x/v1, api_key_env: K"),
            "2:43: the key goes over the network unencrypted: use https://",
        ),
        (
            model("openai", "alternates: [{provider: openai, model: m}]"),
            "2:56: openai `m` is in this tier twice",
        ),
        (
            "tiers:\n  - {name: l, provider: llama_cpp, model: m, tools: all}" + LAST,
            "2:46: a llama_cpp tier calls no tools: it gets what others found out as text",
        ),
        (
            "tiers:\n  - {name: r, provider: rules}\nhealth: {cooldown_s: 60}",
            "3:9: `cooldown_s` is above `max_cooldown_s`: the smaller one counts",
        ),
    ],
)
def test_what_is_likely_not_meant_is_doubted(tmp_path, places, text, doubt):
    """What is legal but odd is pointed at; nothing else is."""
    assert doubted(tmp_path, places, text) == [doubt]


def test_the_vendors_own_url_written_out_is_not_doubted(tmp_path, places):
    """Saying the default is fine."""
    text = model("openai", "base_url: https://api.openai.com/v1/")

    assert doubted(tmp_path, places, text) == []
