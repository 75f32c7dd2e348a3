"""Load a command's module only when the command is used, so that the others cost nothing."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperGroup

if TYPE_CHECKING:
    from typer._click.core import Command, Context
    from typer._click.formatting import HelpFormatter

__all__ = ["COMMANDS", "LazyGroup"]

COMMANDS = {
    "ask": "Ask one question and print one answer.",
    "chat": "Talk with the tiers, turn by turn.",
    "health": "Probe and show every tier.",
    "models": "List, pull, verify and remove local model files.",
    "profile": "Show, check and edit tier profiles.",
    "keys": "Keep API keys in a file that only you can read.",
    "rules": "Show and try the rules of the last tier.",
    "log": "Show recent requests, and how each went.",
    "stats": "Show how each tier did.",
    "tools": "Show and call the tools that models may use.",
    "notify": "Try the notification channels, and show what waits.",
    "drill": "Rehearse every fault on every tier, without a network.",
}
"""The commands, in the order of `--help`. Each lives in `tieredllm.cli.<name>` as `app`; the help
line must be the first of its own help (a test compares them)."""


class LazyGroup(TyperGroup):
    """Be a group whose commands are imported when they are asked for."""

    def list_commands(self, ctx: Context) -> list[str]:  # noqa: ARG002
        """Give the names, in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: Context, cmd_name: str) -> Command | None:  # noqa: ARG002
        """Import one command; None when there is none of that name."""
        if cmd_name not in COMMANDS:
            return None
        app: typer.Typer = import_module(f"tieredllm.cli.{cmd_name}").app
        command: Command = typer.main.get_command(app)
        command.name = cmd_name
        return command

    def resolve_command(self, ctx: Context, args: list[str]) -> Any:
        """Find the command, and name the nearest ones when there is none."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            from difflib import get_close_matches

            from tieredllm.errors import UsageError

            near = get_close_matches(args[0], COMMANDS)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(COMMANDS)}"
            reason = f"no such command {args[0]!r}: {hint}"
            raise UsageError(reason)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: Context, formatter: HelpFormatter) -> None:  # noqa: ARG002
        """List the commands without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))
