"""Make out what was typed: a message, a command, or nothing.

A command starts with `/`; `//` sends a message that starts with `/`. Three double quotes begin a
message that may have several lines and ends with three more; nothing in it is a command.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec

from tieredllm.chat.commands import COMMANDS, Command, find_command
from tieredllm.text import replace_surrogates

__all__ = [
    "Candidate",
    "Choices",
    "SlashCommand",
    "UserMessage",
    "candidates",
    "is_unfinished",
    "parse_input",
]

QUOTES = '"""'

_COMMAND = re.compile(r"/(\S*)\s*(.*)", re.DOTALL)


class UserMessage(msgspec.Struct, frozen=True):
    """A message for the tiers."""

    text: str


class SlashCommand(msgspec.Struct, frozen=True):
    """A command, which may not exist."""

    name: str
    """Without the slash, in lower case."""
    argument: str
    """What follows it, without the white space around it."""


def is_unfinished(text: str) -> bool:
    """Tell whether a quoted message was begun and not ended."""
    body = text.strip()
    return body.startswith(QUOTES) and not _is_quoted(body)


def parse_input(text: str) -> UserMessage | SlashCommand | None:
    """Tell messages from commands; None when there is nothing in it.

    A quoted message that was never ended counts as ended.
    """
    body = text.strip()
    if body.startswith(QUOTES):
        body = body[len(QUOTES) :]
        return _said(body.removesuffix(QUOTES))
    if body.startswith("//"):
        return _said(body[1:])
    ordered = _COMMAND.fullmatch(body)
    return SlashCommand(ordered[1].lower(), ordered[2]) if ordered else _said(text)


def _is_quoted(body: str) -> bool:
    return len(body) >= 2 * len(QUOTES) and body.endswith(QUOTES)


def _said(text: str) -> UserMessage | None:
    """Return a message without blank lines around it; what is no character becomes `?`."""
    if not text.strip():
        return None
    first = text.find(text.strip()[0])
    start = text.rfind("\n", 0, first) + 1
    return UserMessage(replace_surrogates(text[start:].rstrip()))


class Candidate(msgspec.Struct, frozen=True):
    """One way to go on."""

    text: str
    """What takes the place of what was typed of it."""
    typed: int
    """How many characters before the cursor it takes the place of."""
    about: str = ""
    """What it is, in a few words."""
    display: str | None = None
    """How a list shows it, if not as it is."""


class Choices(msgspec.Struct, frozen=True, kw_only=True):
    """What arguments are completed from."""

    tiers: Callable[[], Sequence[tuple[str, str]]]
    """Gives the tiers' names, and what each is."""
    prompts: Callable[[], Sequence[tuple[str, str]]]
    """Gives the names of the stored prompts, and what each is."""
    models: Callable[[], Sequence[tuple[str, str]]]
    """Gives `TIER=MODEL` of the models that are known, and what each is."""


def candidates(text: str, choices: Choices) -> Iterator[Candidate]:
    """Return the ways to go on with what stands before the cursor; none for a message."""
    if not text.startswith("/") or text.startswith("//") or "\n" in text:
        return
    word, space, argument = text[1:].partition(" ")
    if not space:
        for name, each in COMMANDS.items():
            if name.startswith(word.lower()):
                ending = " " if each.argument else ""
                yield Candidate(f"/{name}{ending}", len(text), each.about, f"/{name}")
        return
    command = find_command(word.lower())
    kind = command.completes if command is not None else ""
    if kind == "file":
        yield from _files(argument)
        return
    for choice, about in _choices(command, kind, argument, choices):
        if choice.startswith(argument):
            yield Candidate(choice, len(argument), about)


def _choices(
    command: Command | None, kind: str, argument: str, choices: Choices
) -> Sequence[tuple[str, str]]:
    """Return what a command's argument may be, and what each is."""
    match kind:
        case "tier":
            auto = [("auto", "the first tier that can be asked")]
            return [*choices.tiers(), *(auto if command is COMMANDS["tier"] else [])]
        case "model":
            return choices.models()
        case "prompt":
            return choices.prompts()
        case "code":
            return [("code", "the first code block")]
        case "parameter" if " " not in argument:
            from tieredllm.profile.params import param_names

            return [(f"{name} ", "") for name in param_names()]
    return ()


def _files(typed: str) -> Iterator[Candidate]:
    """Return the files and folders whose path begins so; hidden ones only when asked for."""
    folder, _, start = typed.rpartition("/")
    base = f"{folder}/" if "/" in typed else ""
    try:
        directory = Path(base or ".").expanduser()
        entries = sorted(directory.iterdir(), key=lambda entry: entry.name)
    except (OSError, RuntimeError):  # RuntimeError: no such user's home
        return
    for entry in entries:
        name = entry.name
        if not name.startswith(start) or (name.startswith(".") and not start):
            continue
        if not name.isprintable():
            continue
        is_folder = _is_folder(entry)
        ending = "/" if is_folder else ""
        yield Candidate(f"{base}{name}{ending}", len(typed), display=f"{name}{ending}")


def _is_folder(entry: Path) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False
