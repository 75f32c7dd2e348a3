"""Test that nothing which does more than be read reaches a terminal, wherever it comes from."""

from __future__ import annotations

import json
import re

import pytest
from cli_support import Terminal, answering, cli, profile, served, two_clouds

from tieredllm.text import escape_json

HOSTILE = "a\x1b]0;title\x07b\x1b[31mc\x9b31md\x85e\u202ef\U000e0041g\u2028h\x7fi"
"""An OSC, a CSI in both forms, NEL, an override, a tag, a line separator and DEL."""

RAW = re.compile("[\x07\x7f-\x9f\u2028-\u202e\u2066-\u206f\ufeff\U000e0000-\U000e007f]|\x1b\\]")


@pytest.fixture
def home(tmp_path):
    """Give directories of a user's own."""
    return tmp_path / "home"


def shown(home, *args, **extra):
    """Run a command on a terminal and return what the terminal got."""
    terminal = Terminal(home, *args, columns=200, **extra)
    terminal.run()
    return terminal.raw.decode("utf-8", "surrogateescape")


def test_json_means_the_same():
    """What is unfit is escaped, which JSON reads as it was; all else is as it was."""
    text = json.dumps({"text": HOSTILE, "ok": "naïve 日本 🙂\n"}, ensure_ascii=False)
    escaped = escape_json(text)

    assert json.loads(escaped) == json.loads(text)
    assert not RAW.search(escaped)
    assert "naïve 日本 🙂" in escaped
    assert "\\u009b" in escaped
    assert "\\udb40\\udc41" in escaped


def test_json_of_an_answer_is_safe_on_a_terminal(home):
    """A model's text in `ask --json` and in `log --json` passes no control on, and loses none."""
    with served(answering(HOSTILE)) as server:
        path = two_clouds(home, server.url + "/v1")
        asked = shown(home, "-p", path, "ask", "--json", "hello")
        piped = cli(home, "-p", path, "ask", "--json", "hello").stdout
    logged = shown(home, "log", "show", "--json")
    listed = shown(home, "log", "--json")

    for text in (asked, logged, listed):
        assert not RAW.search(text)
    assert json.loads(piped)["text"] == HOSTILE


def test_what_a_profile_says_is_safe_on_a_terminal(home):
    """Names and models of a profile, in tables, lines, remarks and errors."""
    name = json.dumps(HOSTILE)
    path = profile(
        home,
        f"name: test\ntiers:\n  - {{name: primary, provider: openai, model: {name}, "
        "api_key_env: null, base_url: 'http://127.0.0.1:9/v1', retries: 0}\n"
        "  - {name: rules, provider: rules}\n",
    )
    for command in ("health", "ask hello", "profile show", "tools list", "log", "stats", "chat"):
        text = shown(home, "-p", path, *command.split())
        assert not RAW.search(text), command


def test_a_file_s_name_is_safe_on_a_terminal(home, tmp_path):
    """A path with escape sequences, in an error and as a profile's."""
    name = "p\x1b]0;title\x07\x9b31m.yaml"
    (tmp_path / name).write_text("name: [\n")

    for args in (
        ("-p", str(tmp_path / name), "ask", "x"),
        ("profile", "validate", str(tmp_path / name)),
        ("ask", "-f", str(tmp_path / ("no" + name)), "x"),
        ("rules", "check", str(tmp_path / name)),
    ):
        assert not RAW.search(shown(home, *args)), args
