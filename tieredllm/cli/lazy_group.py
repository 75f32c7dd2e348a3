"""Load a command's module only when the command is used, so that the others cost nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any

import typer
from typer._click.core import augment_usage_errors
from typer.core import TyperGroup, TyperOption

if TYPE_CHECKING:
    from typer._click.core import Command, Context
    from typer._click.formatting import HelpFormatter

__all__ = ["COMMANDS", "LazyGroup"]

COMMANDS = {
    "ask": "Ask one question and print one answer.",
    "chat": "Talk with the tiers, turn by turn.",
    "serve": "Serve the tiers to any program that can be given a base URL.",
    "batch": "Answer many questions at once; the output is the checkpoint.",
    "health": "Probe and show every tier.",
    "models": "List, pull, verify and remove local model files.",
    "profile": "Show, check and edit tier profiles.",
    "keys": "Keep API keys in a file that only you can read.",
    "prompts": "List, show, edit and remove stored prompts.",
    "rules": "Show and try the rules of the last tier.",
    "log": "Show recent requests, and how each went.",
    "stats": "Show how each tier did, and each model.",
    "tools": "Show and call the tools that models may use.",
    "notify": "Try the notification channels, and show what waits.",
    "drill": "Rehearse every fault on every tier, without a network.",
}
"""The commands, in the order of `--help`. Each lives in `tieredllm.cli.<name>` as `app`; the help
line must be the first of its own help (a test compares them)."""


DEFAULT = "ask"
"""What a question without a command is for."""

ELSEWHERE = {
    "help": "--help",
    "version": "--version",
    "list": "models list",
    "ls": "models list",
    "init": "profile init",
    "config": "profile",
    "login": "keys set",
    "history": "log",
}
"""What other programs call a thing → what it is here. Alone, none of them is a question."""


class _Context(typer.Context):
    """A context that each usage error carries: the parser's about an option's value has none."""

    @contextmanager
    def scope(self, cleanup: bool = True) -> Iterator[Context]:
        with super().scope(cleanup) as context, augment_usage_errors(context):
            yield context


class LazyGroup(TyperGroup):
    """A group whose commands are imported when they are asked for.

    What begins with no command's name is a question: `tieredllm "why?"` is `tieredllm ask "why?"`,
    and so is text that is piped into `tieredllm` alone.
    """

    context_class = _Context

    def list_commands(self, ctx: Context) -> list[str]:  # noqa: ARG002
        """Return the names, in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: Context, cmd_name: str) -> Command | None:  # noqa: ARG002
        """Import one command; None when there is none of that name."""
        if cmd_name not in COMMANDS:
            return None
        app: typer.Typer = import_module(f"tieredllm.cli.{cmd_name}").app
        command: Command = typer.main.get_command(app)
        command.name = cmd_name
        command.context_class = _Context
        if isinstance(command, TyperGroup):
            for child in command.commands.values():
                child.context_class = _Context
                # In the list of its siblings its first sentence is broken, where Click cuts it.
                child.short_help = child.short_help or " ".join(
                    (child.help or "").partition("\n\n")[0].split()
                )
        return command

    def parse_args(self, ctx: Context, args: list[str]) -> list[str]:
        """Parse the global options, and see to it that a command follows them."""
        from tieredllm.cli.environment import current

        start = self._own_options(ctx, args)
        rest = args[start:]
        if rest and rest[0] not in COMMANDS:
            if not ctx.resilient_parsing:
                self._refuse_slips(ctx, rest)
            args = [*args[:start], DEFAULT, *rest]
        elif not rest and not ctx.resilient_parsing and current().has_piped_text:
            args = [*args, DEFAULT]
        return super().parse_args(ctx, args)

    def _own_options(self, ctx: Context, args: list[str]) -> int:
        """Count the arguments at the start that are the program's own options and their values."""
        options = [param for param in self.get_params(ctx) if isinstance(param, TyperOption)]
        flags = {name for option in options if option.is_flag for name in option.opts}
        valued = {name for option in options if not option.is_flag for name in option.opts}
        at = 0
        while at < len(args) and args[at] not in {"-", "--"} and args[at].startswith("-"):
            name, equals, _ = args[at].partition("=")
            if not name.startswith("--"):  # -vq, -pNAME
                taken = next((f"-{c}" for c in name[1:] if f"-{c}" not in flags), None)
                if taken is None:
                    at += 1
                elif taken in valued:
                    at += 1 if not name.endswith(taken[1:]) else 2
                else:
                    break
            elif name in flags or name in valued:
                at += 2 if name in valued and not equals else 1
            else:
                break
        return min(at, len(args))

    def _refuse_slips(self, ctx: Context, words: list[str]) -> None:
        """Refuse what looks like a command with a slip, before a model is asked for it.

        Args:
            ctx: the program's.
            words: what follows the program's own options.

        Raises:
            UsageError: it does.
        """
        from difflib import get_close_matches

        from tieredllm.errors import UsageError

        first, second = words[0], words[1] if len(words) > 1 else None
        if first.startswith("-"):
            ask = self.get_command(ctx, DEFAULT)
            takes_value = {
                name: param.nargs
                for param in (ask.params if ask else [])
                if isinstance(param, TyperOption) and not param.is_flag
                for name in param.opts
            }
            at = 0
            while at < len(words) and words[at].startswith("-") and words[at] not in {"-", "--"}:
                at += 1 + (takes_value.get(words[at], 0) if "=" not in words[at] else 0)
            if words[at : at + 1] == [DEFAULT] and len(words) > at + 1:
                raise UsageError(f"`{DEFAULT}` comes before its options: `{DEFAULT} {first} ...`")
            is_bundle = not first.startswith("--") and f"-{first[-1]}" in takes_value  # -xt TIER
            if second in COMMANDS and first not in takes_value and not is_bundle:
                raise UsageError(f"{first} stands before the command: try `{second} {first}`")
            return
        near = get_close_matches(first, COMMANDS, n=1)
        hint = repr(near[0]) if near else None
        if first == "help" and second in COMMANDS:
            hint = f"`tieredllm {second} --help`"
        elif first in ELSEWHERE and (second is None or first == "help"):
            hint = f"`tieredllm {ELSEWHERE[first]}`"
        if hint is not None:
            raise UsageError(
                f"no such command {first!r}: did you mean {hint}? "
                f"(`tieredllm ask {first} ...` asks a model)"
            )

    def _main_shell_completion(
        self, ctx_args: MutableMapping[str, Any], prog_name: str, complete_var: str | None = None
    ) -> None:
        if "_TIEREDLLM_COMPLETE" in os.environ:
            from tieredllm.cli.completion import mend_bash

            mend_bash()
        super()._main_shell_completion(ctx_args, prog_name, complete_var)

    def format_commands(self, ctx: Context, formatter: HelpFormatter) -> None:  # noqa: ARG002
        """List the commands without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))
