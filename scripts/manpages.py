"""Write man/*.1 from the commands' own help: `make man`.

Each command has a page: what it does, its options, its examples, the exit codes. The text is that
of `--help`, so that it is written once.
"""

from __future__ import annotations

import re
import sys
import textwrap
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperGroup

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

from reference import FILES, VARIABLES, exit_meanings  # noqa: E402

from tieredllm.cli.app import app  # noqa: E402

FILES_SHOWN = ("config", "state", "data")
"""The directories whose files a page names; a cache can go at any time."""


def escape(text: str) -> str:
    """Return a text as roff takes it: no line of it is a request, and no backslash is lost."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return "\n".join(
        f"\\&{line}" if line.startswith((".", "'")) else line for line in text.split("\n")
    )


def page(name: str, command: Any) -> str:
    """Return the page of a command."""
    about = " ".join((command.help or "").split("\n\n")[0].split())
    lines = [
        f'.TH {name.upper().replace(" ", "-")} 1 "" "tieredllm" "User commands"',
        ".SH NAME",
        f"{escape(name.replace(' ', '-'))} \\- {escape(about.rstrip('.'))}",
        ".SH SYNOPSIS",
        f".B {escape(name)}",
        "[\\fIOPTIONS\\fR]" + (" \\fICOMMAND\\fR" if isinstance(command, TyperGroup) else ""),
        ".SH DESCRIPTION",
    ]
    for paragraph in (command.help or "").split("\n\n"):
        lines += [".PP", escape(" ".join(paragraph.replace("\b", "").split()))]
    options = [param for param in command.params if param.param_type_name == "option"]
    if options:
        lines.append(".SH OPTIONS")
    for option in options:
        value = f" \\fI{escape(option.metavar)}\\fR" if option.metavar else ""
        lines += [
            ".TP",
            f"\\fB{escape(', '.join(option.opts))}\\fR{value}",
            escape(" ".join((option.help or "").split())),
        ]
    if isinstance(command, TyperGroup):
        lines.append(".SH COMMANDS")
        context = typer.Context(command)
        for each in command.list_commands(context):
            child = command.get_command(context, each)
            said = child.get_short_help_str(200) if child is not None else ""
            lines += [".TP", f".B {escape(each)}", escape(said)]
    if command.epilog:
        text = re.sub(r"^(Examples|Names of models):", "", command.epilog.replace("\b", ""))
        examples = textwrap.dedent(text.strip("\n"))
        lines += [".SH EXAMPLES", ".nf", escape(examples), ".fi"]
    lines.append('.SH "EXIT STATUS"')
    for code, meaning in exit_meanings().items():
        lines += [".TP", f".B {code}", escape(meaning.replace("`", ""))]
    lines += [".SH FILES", "The directories are the system's own, or below \\fBTIEREDLLM_HOME\\fR."]
    for directory, file, meaning, _ in FILES:
        if directory in FILES_SHOWN:
            lines += [
                ".TP",
                f".I {escape(f'{directory}/{file}')}",
                escape(meaning.replace("`", "")),
            ]
    lines.append(".SH ENVIRONMENT")
    for variable, meaning in VARIABLES.items():
        lines += [".TP", f".B {variable}", escape(meaning.replace("`", ""))]
    return "\n".join(lines) + "\n"


def pages() -> dict[str, str]:
    """Return every page, by its file's name."""
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)  # noqa: S101 - it has commands
    context = typer.Context(group)
    found = {"tieredllm.1": page("tieredllm", group)}
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        found[f"tieredllm-{name}.1"] = page(f"tieredllm {name}", command)
    return found


def main() -> None:
    """Write the pages."""
    folder = ROOT / "man"
    folder.mkdir(exist_ok=True)
    for name, text in pages().items():
        (folder / name).write_text(text, "utf-8")
    print(f"wrote {folder}: `man {folder.name}/tieredllm-ask.1`")


if __name__ == "__main__":
    main()
