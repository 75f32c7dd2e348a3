"""Every command and option explains itself, and the README knows every command."""

from __future__ import annotations

import os
import pty
import re
import termios
from pathlib import Path

import pytest
import typer

from tieredllm.cli.app import app
from tieredllm.cli.environment import Environment
from tieredllm.cli.exit_codes import ExitCode
from tieredllm.cli.lazy_group import COMMANDS
from tieredllm.cli.main import run

README = Path(__file__).parent.parent / "README.md"


def leaves(command, path=()):
    """Give every command with its path."""
    context = command.context_class(command, info_name=path[-1] if path else "tieredllm")
    names = command.list_commands(context) if hasattr(command, "list_commands") else []
    yield path, command
    for name in names:
        yield from leaves(command.get_command(context, name), (*path, name))


ALL = list(leaves(typer.main.get_command(app)))


@pytest.mark.parametrize(("path", "command"), ALL, ids=[" ".join(p) or "root" for p, _ in ALL])
def test_every_command_and_option_has_help(path, command):
    """A command has a sentence of help, and so has each of its options and arguments."""
    assert command.help
    for parameter in command.params:
        assert parameter.help, f"{' '.join(path)} {parameter.name}"


@pytest.mark.parametrize("name", COMMANDS)
def test_the_table_of_commands_tells_the_truth(name):
    """The help line in the table is the first line of the command's own help."""
    command = next(command for path, command in ALL if path == (name,))

    assert command.help.strip().splitlines()[0] == COMMANDS[name]


@pytest.mark.parametrize("name", COMMANDS)
def test_the_readme_knows_every_command(name):
    """The README names each; what they do is in the reference, made from their own help."""
    assert f"`{name}`" in README.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", COMMANDS)
def test_a_help_is_made_for_people_at_80_columns(name, capsys):
    """Each command's line is whole, no line is wider than the screen, and values have names."""
    run([name, "--help"])
    shown = capsys.readouterr().out

    assert not re.search(r"\w\.\.\.$", shown, re.MULTILINE)
    assert max(map(len, shown.splitlines())) <= 80
    assert "range>" not in shown


@pytest.mark.parametrize("args", [[name, "--help"] for name in COMMANDS])
def test_help_is_exit_0(args, capsys):
    """`--help` of each command prints its usage and ends with 0."""
    assert run(args) == 0
    assert f"Usage: tieredllm {args[0]}" in capsys.readouterr().out


def test_no_command_prints_the_help(capsys):
    """Without a command the help is printed, and the exit code is 2."""
    assert run([]) == 2
    assert "Usage: tieredllm" in capsys.readouterr().err


def test_exit_codes():
    """The exit codes are those of the contract."""
    assert {code.name: int(code) for code in ExitCode} == {
        "OK": 0,
        "FAILURE": 1,
        "USAGE": 2,
        "LESS": 3,
        "INTERRUPTED": 130,
    }


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["helth"], "did you mean 'health'?"),
        (["modles", "list"], "did you mean 'models'?"),
        (["help"], "did you mean `tieredllm --help`?"),
        (["help", "ask"], "did you mean `tieredllm ask --help`?"),
        (["version"], "did you mean `tieredllm --version`?"),
        (["ls"], "did you mean `tieredllm models list`?"),
        (["--json", "health"], "try `health --json`"),
    ],
)
def test_a_slip_is_no_question(args, said, capsys):
    """What looks like a command with a slip is named, and no model is asked for it."""
    assert run(args) == 2
    assert said in capsys.readouterr().err


def test_a_question_with_a_dash_first_gets_a_hint(capsys):
    """A question that was taken for an option is told how to come through."""
    assert run(["ask", "-1 what is it"]) == 2
    assert 'after `--`: tieredllm ask -- "-1' in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "command"),
    [
        (["ask", "hi", "-t"], "tieredllm ask"),
        (["log", "-n"], "tieredllm log"),
        (["-p"], "tieredllm"),
        (["hi", "-t"], "tieredllm ask"),
        (["-v", "hi", "-o", "temperature"], "tieredllm ask"),
        (["-p", "batch", "hi", "-t"], "tieredllm ask"),
        (["profile", "validate", "--json=1"], "tieredllm profile validate"),
    ],
)
def test_an_option_without_its_value_names_the_help_to_read(args, command, capsys):
    """The help that is named is that of the command whose option it is."""
    assert run(args) == 2
    assert f"(see `{command} --help`)" in capsys.readouterr().err


def test_the_width_is_that_of_the_stream_that_is_written_to():
    """A remark is wrapped to the terminal it is shown on, though stdout is a pipe; COLUMNS wins."""
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (50, 200))
    with os.fdopen(slave, "w", encoding="utf-8") as terminal:
        widths = [
            Environment(env=env, stderr=terminal).columns(terminal)
            for env in ({}, {"COLUMNS": "60"}, {"COLUMNS": "wide"})
        ]
    os.close(master)

    assert widths == [200, 60, 200]
