"""The command `rules` lists, tries and checks rules."""

from __future__ import annotations

import json
import re

import pytest
from profile_support import command, write


@pytest.fixture
def home(tmp_path):
    """Have a profile with rules and variables of its own in use."""
    write(
        tmp_path / "config/profiles/default.yaml",
        """
        tiers:
          - {name: last, provider: rules, rules: my.yaml, vars: {support_contact: help@x.org}}
        """,
    )
    write(
        tmp_path / "config/profiles/my.yaml",
        """
        extends: builtin
        intents:
          - name: order
            priority: 60
            patterns: ["my order"]
            responses: ["Ask {support_contact} or see {shop_url}. Sorry."]
        tests:
          - {query: where is my order, intent: order}
        """,
    )
    return tmp_path


def test_list(home):
    """Every intent with its numbers and file, in the order in which they are tried."""
    result = command("rules", "list", home=home)
    rows = [line.split("\t") for line in result.stdout.splitlines()]

    assert result.code == 0
    assert rows[0] == ["order", "60", "1", "1", "en", str(home / "config/profiles/my.yaml")]
    assert [row[0] for row in rows[1:]] == [
        "contact",
        "information",
        "troubleshooting",
        "help",
        "greeting",
        "general (default)",
    ]
    assert result.stderr == (
        "not set under `vars` of the rules tier, so sentences with it are left out: "
        "help_url, hours, shop_url\n"
    )


def test_list_lines_up_on_a_terminal(home):
    """On a terminal the columns are aligned."""
    shown = command("rules", "list", home=home, terminal=True).stdout
    lines = re.sub(r"\x1b\[[\d;]*m", "", shown).splitlines()

    assert lines[0].split() == ["intent", "priority", "patterns", "responses", "language", "from"]
    assert len({line.index("  en  ") for line in lines[2:] if "  en  " in line}) == 1


def test_list_as_json(home):
    """One JSON object, with which variables are set."""
    listed = json.loads(command("rules", "list", "--json", home=home).stdout)

    assert listed["intents"][0] == {
        "name": "order",
        "priority": 60,
        "patterns": 1,
        "responses": 1,
        "lang": "en",
        "default": False,
        "origin": str(home / "config/profiles/my.yaml"),
    }
    assert listed["variables"] == {
        "help_url": False,
        "hours": False,
        "shop_url": False,
        "support_contact": True,
    }


def test_the_builtin_rules_are_used_without_a_rules_tier(tmp_path):
    """A profile without one says so, and the built-in rules are shown."""
    write(
        tmp_path / "p.yaml",
        "name: p\ntiers: [{name: a, provider: openai, model: m, base_url: 'http://127.0.0.1:9/v1'}]",
    )
    result = command("-p", str(tmp_path / "p.yaml"), "rules", "list", home=tmp_path)

    assert result.code == 0
    assert len(result.stdout.splitlines()) == 6
    assert "profile p has no rules tier: these are the built-in rules" in result.stderr


def test_test_shows_the_winner_and_why(home):
    """Intent, pattern, reason, every candidate with place and text, and the answer."""
    result = command("rules", "test", "what is wrong", "with my order", home=home)
    lines = result.stdout.splitlines()

    assert result.code == 0
    assert lines[:4] == [
        "intent: order",
        "pattern: my order",
        "why: order has the highest priority, 60; next is troubleshooting with 30",
        "candidates:",
    ]
    assert lines[4] == "  order, priority 60, characters 19 to 27: `my order`, by my order"
    assert lines[5].startswith(
        "  troubleshooting, priority 30, characters 0 to 13: `what is wrong`"
    )
    assert lines[6] == "tried: 24 of 24 patterns"
    assert lines[8:] == [
        "Sorry.",
        "",
        (
            "(A limited answer from fixed rules: no language model answered. "
            "Reference code: REF-00000000.)"
        ),
    ]


def test_test_as_json(home):
    """The same as one JSON object."""
    shown = json.loads(command("rules", "test", "--json", "my order \x1b\udc80", home=home).stdout)

    assert shown["intent"] == "order"
    assert shown["pattern"] == "my order"
    assert shown["answer"].startswith("Sorry.")
    assert shown["why"] == "only order matches"
    assert shown["timed_out"] is False
    assert [(one["intent"], one["start"], one["end"]) for one in shown["candidates"]] == [
        ("order", 0, 8)
    ]


def test_test_shows_no_control_characters(home):
    """What a query carries cannot drive the terminal."""
    write(
        home / "config/profiles/my.yaml",
        "extends: builtin\nintents: [{name: help, patterns: ['x.*y']}]",
    )
    stdout = command("rules", "test", "x \x1b]0;gotcha\x07 y", home=home).stdout

    assert "gotcha" in stdout
    assert "\x1b" not in stdout


def test_test_without_a_match(home):
    """The default intent, no pattern and no candidates."""
    lines = command("rules", "test", "tissue", home=home).stdout.splitlines()

    assert lines[:3] == [
        "intent: general",
        "why: no pattern matches: the default intent general answers",
        "tried: 24 of 24 patterns",
    ]


def test_test_needs_a_query(home):
    """Nothing to try is a usage error."""
    assert command("rules", "test", " ", home=home).code == 2
    assert command("rules", "test", home=home).code == 2


def test_check_passes(home):
    """A file without mistakes, whose own tests pass, is ok."""
    path = home / "config/profiles/my.yaml"
    result = command("rules", "check", str(path), home=home)

    assert (result.code, result.stderr) == (0, "")
    assert result.stdout == f"{path}: 7 intents, 24 patterns, 1 test, ok\n"
    assert command("rules", "check", "builtin", home=home).code == 0


def test_check_tells_every_mistake(home):
    """Exit code 2, and each mistake on a line of its own."""
    path = write(home / "bad.yaml", "extends: builtin\nnotice: x\ncolour: red\n")
    result = command("rules", "check", str(path), home=home)

    assert (result.code, result.stdout) == (2, "")
    assert [line.split(": ")[0] for line in result.stderr.splitlines()] == [
        f"{path}:2:9",
        f"{path}:3:1",
    ]


def test_check_tells_every_failing_test(home):
    """Exit code 1, and each failing test with its place and reason."""
    path = write(
        home / "failing.yaml",
        """\
        extends: builtin
        tests:
          - {query: hello, intent: greeting}
          - {query: hello, intent: help}
          - {query: tissue, intent: help}
        """,
    )
    result = command("rules", "check", str(path), home=home)

    assert result.code == 1
    assert result.stdout.splitlines() == [
        f"{path}:4:13: `hello` is greeting, not help: only greeting matches",
        (
            f"{path}:5:13: `tissue` is general, not help: no pattern matches: "
            "the default intent general answers"
        ),
        f"{path}: 6 intents, 23 patterns, 3 tests, 2 failed",
    ]


def test_a_broken_rule_file_of_the_profile_is_told(home):
    """`list` and `test` end with exit code 2 and the place of the mistake."""
    write(
        home / "config/profiles/my.yaml", "extends: builtin\nintents: [{name: a, patterns: ['(']}]"
    )
    for words in (("list",), ("test", "x")):
        result = command("rules", *words, home=home)

        assert result.code == 2
        assert f"{home / 'config/profiles/my.yaml'}:2:32: not a regular" in result.stderr
