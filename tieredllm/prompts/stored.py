r"""Prompts that a user keeps by name: a system prompt, a template, options, a tier.

A file `prompts/NAME.yaml` in the configuration directory:

    about: review a change as a colleague would
    system: You are a strict reviewer. Name the three worst problems, worst first.
    prompt: "Review this {language} change:\n{input}"
    defaults: {language: Python}
    options: {temperature: 0}
    tier: primary
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import msgspec

from tieredllm.errors import Mistake, ProfileError, UsageError
from tieredllm.files import Places, atomic_write
from tieredllm.profile.nodes import MappingNode, Node, Place, ScalarNode, to_builtins
from tieredllm.profile.validate import check, suggestion
from tieredllm.profile.yaml_reader import parse_yaml, read_yaml
from tieredllm.types import ParamOverrides

__all__ = ["StoredPrompt", "StoredPrompts", "parsed", "written"]

NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,63}")
VARIABLE = re.compile(r"\{([A-Za-z_]\w*)\}")
"""A place in a template. Other braces, as code has them, stay as they are."""
INPUT = "input"
"""The variable that is the question."""


class StoredPrompt(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """What is kept under one name."""

    about: str | None = None
    """One line for `prompts list`."""
    system: str | None = None
    """The system prompt."""
    prompt: str | None = None
    """The question; `{input}` is what is asked, other `{names}` are variables. Without `{input}`
    what is asked comes after it."""
    defaults: dict[str, str] = {}
    """What variables are unless they are given."""
    options: ParamOverrides = ParamOverrides()
    """Parameters of the request: temperature, max_tokens, top_p, stop, seed, …"""
    tier: str | None = None
    """The tier to start at."""
    model: str | None = None
    """The model to ask: `MODEL`, or `TIER=MODEL`."""

    @property
    def variables(self) -> list[str]:
        """The variables of the template, `input` aside, in their order."""
        found = VARIABLE.findall(self.prompt or "")
        return [name for name in dict.fromkeys(found) if name != INPUT]

    @property
    def wants_input(self) -> bool:
        """Whether there is nothing to ask without a question, a file or piped text."""
        return self.prompt is None or f"{{{INPUT}}}" in self.prompt

    def question(self, asked: str, given: Mapping[str, str]) -> str:
        """Fill in the template.

        Args:
            asked: the question; may be empty.
            given: the variables.

        Raises:
            UsageError: a variable has no value, or there is none of a name.
        """
        unknown = [name for name in given if name not in self.variables]
        if unknown:
            has = ", ".join(self.variables) or "none"
            raise UsageError(f"--var: the prompt has no variable {unknown[0]!r}: it has {has}")
        if self.prompt is None:
            return asked
        values = {**self.defaults, **given, INPUT: asked}
        missing = [name for name in self.variables if name not in values]
        if missing:
            raise UsageError(f"the prompt needs {', '.join(missing)}: add --var {missing[0]} VALUE")
        text = VARIABLE.sub(lambda found: values[found[1]], self.prompt)
        if asked and not self.wants_input:
            text = f"{text.rstrip()}\n\n{asked}"
        return text.strip()


class StoredPrompts:
    """The prompts of one user.

    Args:
        places: the user's directories.
    """

    def __init__(self, places: Places) -> None:
        self.folder = places.config / "prompts"

    def names(self) -> list[str]:
        """Return the names there are."""
        try:
            return sorted(file.stem for file in self.folder.glob("*.yaml"))
        except OSError:
            return []

    def path(self, name: str) -> Path:
        """Return where a prompt is or would be kept.

        Raises:
            UsageError: it is no name.
        """
        if not NAME.fullmatch(name):
            raise UsageError(
                f"{name!r} is no name for a prompt: at most 64 letters, digits, `_`, `.` and `-`"
            )
        return self.folder / f"{name}.yaml"

    def find(self, name: str) -> StoredPrompt:
        """Read one.

        Raises:
            UsageError: there is none of that name.
            ProfileError: its file has mistakes; all are told, each with its place.
        """
        path = self.path(name)
        if not path.is_file():
            known = self.names()
            near = suggestion(name, known)
            hint = near or (f"there are {', '.join(known)}" if known else "none is kept yet")
            raise UsageError(
                f"no stored prompt {name!r}: {hint} (`tieredllm ask ... --save {name}` makes one)"
            )
        return _converted(*read_yaml(path))

    def save(self, name: str, prompt: StoredPrompt) -> Path:
        """Keep one under a name, in place of what was there.

        Raises:
            UsageError: it is no name.
            OSError: it cannot be written.
        """
        path = self.path(name)
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        atomic_write(path, written(prompt))
        return path

    def remove(self, name: str) -> None:
        """Remove one.

        Raises:
            UsageError: there is none of that name.
        """
        if not self.path(name).is_file():
            self.find(name)
        self.path(name).unlink()


def written(prompt: StoredPrompt) -> str:
    """Return a prompt as its file says it."""
    import yaml

    values = msgspec.to_builtins(prompt)
    options = {key: value for key, value in values.get("options", {}).items() if value is not None}
    values = {key: value for key, value in values.items() if key != "options"}
    if options:
        values["options"] = options

    class Dumper(yaml.SafeDumper):
        """Write a text of several lines as one block."""

    def text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
        style = "|" if "\n" in value else None
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)

    Dumper.add_representer(str, text)
    found: str = yaml.dump(values, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=100)
    return found if values else '# system: …\n# prompt: "…{input}…"\n'


def parsed(text: str, file: str) -> StoredPrompt:
    """Read a prompt's text.

    Raises:
        ProfileError: it has mistakes; all are told, each with its place in the file.
    """
    return _converted(*parse_yaml(text, file))


def _converted(root: Node | None, mistakes: list[Mistake]) -> StoredPrompt:
    if not mistakes and (root is None or (isinstance(root, ScalarNode) and root.value is None)):
        return StoredPrompt()
    if root is None or not isinstance(root, MappingNode):
        message = "a prompt is a mapping (lines of `key: value`): start with `system:`"
        raise ProfileError(mistakes or ([root.place.mistake(message)] if root else []))
    try:
        if not mistakes:
            return msgspec.convert(to_builtins(root), StoredPrompt)
    except msgspec.ValidationError as exc:
        mistakes = check(root, StoredPrompt) or [
            Place(root.place.file, 1, 1).mistake(f"the prompt is not valid: {exc}")
        ]
    raise ProfileError(mistakes)
