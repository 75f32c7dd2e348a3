"""The options of commands: declared once, shared by who takes them, and handed on by name."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated

import pytest
import typer
from cli_support import cli

from tieredllm.cli import ask, chat
from tieredllm.cli.environment import Environment, current, use
from tieredllm.cli.options import GlobalOptions, RequestOptions, takes_options
from tieredllm.types import Options


@pytest.fixture
def environment():
    use(Environment(env={}))
    yield current()
    use(Environment())


def names(command: object) -> set[str]:
    """Give the parameters of a command as Typer has made it."""
    return {str(parameter.name) for parameter in typer.main.get_command(command).params}


def test_ask_and_chat_take_the_same_options():
    """What is declared for requests is an option of `ask` and of `chat`."""
    shared = {field.name for field in fields(RequestOptions)}

    assert shared <= names(ask.app)
    assert names(chat.app) == shared


def test_a_field_of_the_engines_name_goes_to_the_engine():
    """An option reaches the engine by its name alone: no command repeats it."""

    @dataclass(frozen=True, kw_only=True)
    class More(RequestOptions):
        stream: Annotated[bool | None, typer.Option("--stream")] = None

    given = More(start="b", no_fallback=True, require_llm=True, deadline_s=3.0, stream=True)

    assert given.request() == Options(
        start="b", fallback=False, require_llm=True, deadline_s=3.0, stream=True
    )


def test_a_command_gets_its_options_as_one(environment):
    """Typer sees an option per field; the command gets them together, the global ones applied."""
    got = []
    app = typer.Typer()

    @app.command()
    @takes_options(RequestOptions)
    def command(word: str, *, options: RequestOptions) -> None:
        got.append((word, options.system, options.conversation, current().quiet))

    typer.main.get_command(app)(["hello", "-s", "be brief", "-c", "-q"], standalone_mode=False)

    assert got == [("hello", "be brief", "", True)]


def test_a_command_need_not_look_at_the_global_options(environment):
    """A command that has no use for them takes them all the same."""
    app = typer.Typer()

    @app.command()
    @takes_options(GlobalOptions)
    def command() -> None:
        environment.say("not seen")

    typer.main.get_command(app)(["-q", "--no-color", "-p", "work"], standalone_mode=False)

    assert (environment.quiet, environment.no_color) == (True, True)
    assert environment.profile_name == "work"


@pytest.mark.parametrize("number", ["nan", "inf"])
@pytest.mark.parametrize(
    "command",
    ["stats --days", "log prune --older-than", "serve --grace", "health --watch"],
)
def test_a_length_of_time_is_a_number(tmp_path, command, number):
    """What is no number is none: `log prune --older-than nan` would drop every request."""
    done = cli(tmp_path, *command.split(), number)

    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.startswith(b"tieredllm: Invalid value for ")
