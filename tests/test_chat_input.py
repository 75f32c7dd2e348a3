"""What was typed into a chat, and what it may become."""

from __future__ import annotations

import pytest

from tieredllm.chat.commands import ALIASES, COMMANDS, find_command, unknown_command
from tieredllm.chat.input import (
    Choices,
    SlashCommand,
    UserMessage,
    candidates,
    is_unfinished,
    parse_input,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("why?", UserMessage("why?")),
        ("\n\n  indented\nmore\n\n", UserMessage("  indented\nmore")),
        ("  \n\t", None),
        ("", None),
        ("/help", SlashCommand("help", "")),
        ("/", SlashCommand("", "")),
        ("  /TIER  secondary ", SlashCommand("tier", "secondary")),
        ("/system two\nlines", SlashCommand("system", "two\nlines")),
        ("/etc/hosts is what?", SlashCommand("etc/hosts", "is what?")),
        ("/ x", SlashCommand("", "x")),
        ("//etc/hosts is what?", UserMessage("/etc/hosts is what?")),
        ('"""/help\nis text"""', UserMessage("/help\nis text")),
        ('"""\n  a\n\n  b\n"""', UserMessage("  a\n\n  b")),
        ('"""never ended', UserMessage("never ended")),
        ('""""""', None),
        ("a \udcff b", UserMessage("a ? b")),
    ],
)
def test_what_was_typed(text, expected):
    """Messages, commands and nothing are told apart; a block is always a message."""
    assert parse_input(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('"""', True),
        ('""""', True),
        ('"""a\nb', True),
        ('"""a"""', False),
        ('"""a\nb\n"""\n', False),
        ('say """', False),
        ("a", False),
    ],
)
def test_unfinished_blocks(text, expected):
    """A block goes on until three quotes end it."""
    assert is_unfinished(text) is expected


def test_every_command_is_there_and_is_carried_out():
    """The promised commands exist, each with help, and each but `edit` has an action."""
    promised = {
        *("help", "tier", "health", "model", "system", "retry", "undo", "new"),
        *("save", "load", "copy", "log", "usage", "exit", "edit"),
        *("file", "set", "role", "clear", "history", "name"),
    }

    assert set(COMMANDS) == promised
    assert all(callable(command.act) for command in COMMANDS.values())
    assert all(command.about for command in COMMANDS.values())
    assert set(ALIASES.values()) <= set(COMMANDS)
    assert find_command("quit") is COMMANDS["exit"]


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("tiers", "/tier?"),
        ("sav", "/save?"),
        ("he", "/help or /health?"),
        ("xyz", "/help lists them"),
    ],
)
def test_unknown_commands_are_suggested_for(name, hint):
    """An unknown command is told, with the nearest one."""
    said = unknown_command(name)

    assert f"no command /{name}" in said
    assert hint in said


CHOICES = Choices(
    prompts=lambda: [("review", "a stored prompt")],
    tiers=lambda: [("primary", "openai big"), ("secondary", "gemini small")],
    models=lambda: [("primary=big", "openai"), ("secondary=small", "gemini")],
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/", [f"/{name}{' ' if c.argument else ''}" for name, c in COMMANDS.items()]),
        ("/he", ["/help", "/health"]),
        ("/sys", ["/system "]),
        ("/tier ", ["primary", "secondary", "auto"]),
        ("/tier s", ["secondary"]),
        ("/retry p", ["primary"]),
        ("/model sec", ["secondary=small"]),
        ("/copy ", ["code"]),
        ("/usage ", []),
        ("/nope ", []),
        ("he", []),
        ("//he", []),
        ("/he\n", []),
    ],
)
def test_completion(text, expected):
    """Commands and their arguments are completed; messages are left alone."""
    assert [candidate.text for candidate in candidates(text, CHOICES)] == expected


def test_completion_of_files(tmp_path, monkeypatch):
    """Files complete by path; folders end in a slash; hidden ones have to be asked for."""
    (tmp_path / "sub").mkdir()
    for name in ("sub/one.json", "some.md", ".secret", "odd\x1b[31m"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))

    def found(text: str) -> list[str]:
        return [candidate.text for candidate in candidates(text, CHOICES)]

    assert found("/load s") == ["some.md", "sub/"]
    assert found("/load sub/") == ["sub/one.json"]
    assert found("/save ") == ["some.md", "sub/"]
    assert found("/load .s") == [".secret"]
    assert found("/load ~/so") == ["~/some.md"]
    assert found(f"/load {tmp_path}/su") == [f"{tmp_path}/sub/"]
    assert found("/load none/x") == []
    assert found("/load ~nobody-of-this-name/x") == []
