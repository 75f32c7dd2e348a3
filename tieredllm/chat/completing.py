"""Find what a half-typed command may become."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec

from tieredllm.chat.commands import COMMANDS, known

__all__ = ["Candidate", "Choices", "candidates"]


class Candidate(msgspec.Struct, frozen=True):
    """Hold one way to go on."""

    text: str
    """What takes the place of what was typed of it."""
    typed: int
    """How many characters before the cursor it takes the place of."""
    about: str = ""
    """What it is, in a few words."""
    display: str | None = None
    """How a list shows it, if not as it is."""


class Choices(msgspec.Struct, frozen=True, kw_only=True):
    """Hold what arguments are completed from."""

    tiers: Callable[[], Sequence[tuple[str, str]]]
    """Gives the tiers' names, and what each is."""
    models: Callable[[], Sequence[tuple[str, str]]]
    """Gives `TIER=MODEL` of the models that are known, and what each is."""


def candidates(text: str, choices: Choices) -> Iterator[Candidate]:
    """Give the ways to go on with what stands before the cursor; none for a message."""
    if not text.startswith("/") or text.startswith("//") or "\n" in text:
        return
    word, space, argument = text[1:].partition(" ")
    if not space:
        for name, command in COMMANDS.items():
            if name.startswith(word.lower()):
                ending = " " if command.argument else ""
                yield Candidate(f"/{name}{ending}", len(text), command.about, f"/{name}")
        return
    name = known(word.lower()) or ""
    kind = COMMANDS[name].completes if name else ""
    if kind == "file":
        yield from _files(argument)
        return
    found: Sequence[tuple[str, str]] = ()
    if kind == "tier":
        found = choices.tiers()
        if name == "tier":
            found = [*found, ("auto", "the first tier that can be asked")]
    elif kind == "model":
        found = choices.models()
    elif kind == "code":
        found = [("code", "the first code block")]
    for each, about in found:
        if each.startswith(argument):
            yield Candidate(each, len(argument), about)


def _files(typed: str) -> Iterator[Candidate]:
    """Give the files and folders whose path begins so; hidden ones only when asked for."""
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
