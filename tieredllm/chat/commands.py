"""Know the commands of a chat: their names, arguments and help."""

from __future__ import annotations

from typing import Literal

import msgspec

__all__ = ["ALIASES", "COMMANDS", "KEYS", "Command", "help_rows", "known", "unknown"]

ArgumentKind = Literal["", "tier", "file", "model", "code"]


class Command(msgspec.Struct, frozen=True, kw_only=True):
    """Hold what is to know about one command."""

    about: str
    """One line."""
    argument: str = ""
    """How its argument is written in the help."""
    completes: ArgumentKind = ""
    """What its argument is completed from."""


COMMANDS: dict[str, Command] = {
    "help": Command(about="list the commands and keys"),
    "tier": Command(
        argument="[NAME|auto]",
        about="show the tiers, or start at one of them from now on",
        completes="tier",
    ),
    "health": Command(about="probe and show every tier"),
    "model": Command(
        argument="[[TIER=]MODEL]",
        about="show the models, or ask another one from now on",
        completes="model",
    ),
    "system": Command(argument="[TEXT|-]", about="show, set or (-) drop the system prompt"),
    "retry": Command(
        argument="[TIER]",
        about="ask the last question again, at a tier of your choice",
        completes="tier",
    ),
    "undo": Command(about="take the last question and its answer back"),
    "edit": Command(argument="[TEXT]", about="write the message in your $EDITOR"),
    "reset": Command(about="forget the conversation and begin a new one"),
    "save": Command(
        argument="FILE",
        about="save the conversation (.md to read it, else JSON)",
        completes="file",
    ),
    "load": Command(
        argument="FILE", about="go on from a conversation saved as JSON", completes="file"
    ),
    "copy": Command(
        argument="[code]",
        about="copy the last answer, or its first code block",
        completes="code",
    ),
    "log": Command(about="draw the last request's attempts as a time line"),
    "usage": Command(about="count the session's tokens and time"),
    "exit": Command(about="leave (Ctrl-D does too)"),
}
"""The commands, in the order of `/help`."""

ALIASES = {"quit": "exit", "bye": "exit", "?": "help", "h": "help", "q": "exit"}
"""Other names, for people who are used to them."""

KEYS = (
    ("Enter", "send"),
    ("Alt-Enter", "a new line"),
    ('"""', "begin a message of several lines; three more end it"),
    ("Ctrl-O", "write the message in your $EDITOR"),
    ("Ctrl-C", "stop the answer"),
    ("Ctrl-R", "search what was typed before"),
    ("Tab", "complete a command, tier, model or file"),
    ("//", "begin a message that starts with /"),
)
"""What the keys do, for `/help`."""


def known(name: str) -> str | None:
    """Give the command's own name; None when there is no such command."""
    name = ALIASES.get(name, name)
    return name if name in COMMANDS else None


def unknown(name: str) -> str:
    """Say that there is no such command, and which is near."""
    from difflib import get_close_matches

    near = [each for each in COMMANDS if name and each.startswith(name)]
    near = near or get_close_matches(name, COMMANDS, n=1)
    hint = (
        f"did you mean {' or '.join(f'/{each}' for each in near)}?" if near else "/help lists them"
    )
    return f"no command /{name}: {hint} (// begins a message with a slash)"


def help_rows() -> list[tuple[str, str]]:
    """Give the lines of `/help`: what to type, and what it does."""
    rows = [
        (f"/{name} {command.argument}".rstrip(), command.about)
        for name, command in COMMANDS.items()
    ]
    return [*rows, ("", ""), *KEYS]
