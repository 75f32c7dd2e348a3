"""Write the tables of the references in docs/ from the code.

A table stands between `<!-- KIND -->`, or `<!-- KIND: NAME -->`, and `<!-- end -->`; the text
around it is written by hand. With `--check` nothing is written: the exit code is 1 when a table is
not what the code says.

What no code can tell in words, the variables and the files, is told here, once; tests hold both
against what the program reads and writes.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import msgspec.inspect as types

from tieredllm import kinds
from tieredllm import types as values
from tieredllm.cli import exit_codes
from tieredllm.cli.exit_codes import ExitCode
from tieredllm.cli.lazy_group import COMMANDS
from tieredllm.files import Places
from tieredllm.kinds import FIXES, POLICIES, ErrorKind
from tieredllm.profile import schema as profiles
from tieredllm.profile.validate import describe
from tieredllm.rules import schema as rule_files

DOCS = Path(__file__).parents[1] / "docs"
PAGES = ("profile.md", "rules.md", "errors.md", "scripting.md", "files.md", "commands.md")
BLOCK = re.compile(r"(<!-- ([a-z]+)(?:: (\w+))? -->\n).*?(<!-- end -->)", re.DOTALL)

VARIABLES = {
    "TIEREDLLM_PROFILE": "the profile to use (`profile use NAME` chooses one for good)",
    "TIEREDLLM_HOME": "one directory for everything",
    "TIEREDLLM_DEBUG": "show the traceback of an error",
    "TIEREDLLM_PROXY_LOOPBACK": "reach this machine's own addresses through the proxy, too",
    "OPENAI_API_KEY": "OpenAI's key, unless the tier names another variable",
    "ANTHROPIC_API_KEY": "Anthropic's",
    "GEMINI_API_KEY": "Google's; `GOOGLE_API_KEY` is the same",
    "NO_COLOR": "no colours; the layout stays. A pipe gets none, whatever `FORCE_COLOR` says",
    "TERM": "`dumb`: plain text",
    "COLUMNS": "how wide the terminal is, if it does not say",
    "VISUAL": "the editor; else `EDITOR`",
    "HTTPS_PROXY": "a proxy, also for `HTTP_PROXY`, `ALL_PROXY`; not for what `NO_PROXY` names",
    "SSL_CERT_FILE": "certificates of authorities to trust; or `SSL_CERT_DIR`",
    "HF_TOKEN": "for gated models of the Hugging Face hub",
    "HF_ENDPOINT": "a mirror of the hub",
    "HF_HOME": "where the hub's cache is; or `HF_HUB_CACHE`",
    "OLLAMA_MODELS": "where Ollama keeps its models",
    "LLAMA_CACHE": "where llama.cpp keeps its downloads",
    "LLAMA_CPP_LIB_PATH": "another build of llama.cpp's library, as in llama-cpp-python",
}

ANYBODY, YOU = "as your system has it", "you alone"
FILES = (
    ("config", "profiles/*.yaml", "your profiles", ANYBODY),
    ("config", "profile-in-use", "the profile that `profile use` chose", ANYBODY),
    ("config", "keys.yaml", "keys that `keys set` keeps", YOU),
    ("config", "prompts/*.yaml", "stored prompts", ANYBODY),
    ("config", "models.yaml", "your own entries of the catalog of models", ANYBODY),
    ("config", "log-off", "while it is there, nothing is logged", ANYBODY),
    ("state", "state.db*", "health, and the log: questions and answers in clear text", YOU),
    ("state", "chat_history", "what was typed in chats", YOU),
    ("state", "approvals.json", "tools that were approved for good", YOU),
    ("state", "mcp_logins/*", "logins to remote MCP servers", YOU),
    ("state", "servers/*", "where MCP servers are started", YOU),
    (
        "data",
        "models/*",
        "pulled models, their checksums, and names given by `models add`",
        ANYBODY,
    ),
    ("cache", "contexts/*", "what local models have read of conversations", YOU),
    ("cache", "model-verdicts.json", "how model files can be loaded on this machine", ANYBODY),
    ("cache", "offered-models.json", "what servers offer, for completion", ANYBODY),
    ("cache", "mcp/*", "what MCP servers offer", YOU),
    ("cache", "batch/*", "locks of the outputs that batches write", ANYBODY),
)
"""Directory, path in it, what it is, and who can read it."""


def keys(name: str) -> str:
    """Return the keys of a struct as a table: key, type, default, meaning."""
    module = profiles if hasattr(profiles, name) else rule_files
    docs = profiles.field_docs(str(module.__file__))[name]
    rows = []
    fields = msgspec.structs.fields(getattr(module, name))
    for field in sorted(fields, key=lambda field: field.name != "name"):  # before what is inherited
        meaning = " ".join(docs[field.name.rstrip("_")].split())
        rows.append(
            (f"`{field.encode_name}`", takes(types.type_info(field.type)), default(field), meaning)
        )
    return table(("key", "takes", "default", "meaning"), rows)


def fields(name: str) -> str:
    """Return the fields of a value that JSON output has: field, meaning."""
    struct = getattr(values, name, None) or getattr(kinds, name)
    docs = profiles.field_docs(str(sys.modules[struct.__module__].__file__))[name]
    rows = [
        (f"`{field.encode_name}`", " ".join(docs.get(field.name, "").split()))
        for field in msgspec.structs.fields(struct)
    ]
    return table(("field", "meaning"), rows)


def errors(_: str) -> str:
    """Return the kinds of errors and what follows from each."""
    docs = profiles.field_docs(str(kinds.__file__))["ErrorKind"]
    rows = []
    for kind in ErrorKind:
        policy = POLICIES[kind]
        rows.append(
            (
                f"`{kind}`",
                " ".join(docs[kind.name].split()),
                "yes" if policy.again else "no",
                "yes" if policy.counts else "no",
                f"{policy.bench_s / 60:g} min" if policy.bench_s else "",
                FIXES.get(kind, ""),
            )
        )
    return table(
        ("kind", "when", "same backend again", "counts", "set aside", "what you can do"), rows
    )


def exits(_: str) -> str:
    """Return the exit codes."""
    return table(("code", "meaning"), [(f"{code}", text) for code, text in exit_meanings().items()])


def exit_meanings() -> dict[int, str]:
    """Return what each exit code means."""
    docs = profiles.field_docs(str(exit_codes.__file__))["ExitCode"]
    return {code.value: " ".join(docs[code.name].split()) for code in ExitCode}


def variables(_: str) -> str:
    """Return the environment variables."""
    return table(("variable", "does"), [(f"`{name}`", text) for name, text in VARIABLES.items()])


def files(_: str) -> str:
    """Return the files, by directory."""
    rows = [
        (what, place, f"`{path.replace('*.yaml', 'NAME.yaml')}`", who)
        for place, path, what, who in FILES
    ]
    return table(("what", "directory", "file", "who can read it"), rows)


def directories(_: str) -> str:
    """Return where the directories are, as platformdirs has them on each system."""
    from platformdirs.macos import MacOS
    from platformdirs.unix import Unix

    home = str(Path.home())
    linux, macos = (system("tieredllm", appauthor=False) for system in (Unix, MacOS))
    rows = []
    for name in Places.__struct_fields__:
        found = [
            f"`{getattr(each, f'user_{name}_dir')}`".replace(home, "~") for each in (linux, macos)
        ]
        # platformdirs.windows asks Windows: its docstrings say what it gets.
        windows = "`%LOCALAPPDATA%\\tieredllm" + ("\\Cache`" if name == "cache" else "`")
        rows.append((name, *found, windows))
    return table(("directory", "Linux", "macOS", "Windows"), rows)


def commands(_: str) -> str:
    """Return the commands and their subcommands, with the first line of each one's help."""
    import typer
    from typer.core import TyperGroup

    from tieredllm.cli.app import app

    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)  # noqa: S101 - it has commands
    context = typer.Context(group)
    rows = []
    for name, about in COMMANDS.items():
        rows.append((f"`{name}`", about))
        command = group.get_command(context, name)
        if isinstance(command, TyperGroup):
            for each in command.list_commands(context):
                child = command.get_command(context, each)
                said = child.get_short_help_str(200) if child is not None else ""
                rows.append((f"`{name} {each}`", said))
    return table(("command", "what it does"), rows)


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [f"| {' | '.join(headings)} |", "|" + "---|" * len(headings)]
    lines += [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows]
    return "\n".join(lines) + "\n"


KINDS: dict[str, Callable[[str], str]] = {
    "keys": keys,
    "fields": fields,
    "errors": errors,
    "exits": exits,
    "variables": variables,
    "files": files,
    "directories": directories,
    "commands": commands,
}


def takes(info: types.Type) -> str:
    """Return what a key takes, in words."""
    match info:
        case types.Metadata():
            words = str((info.extra or {}).get("means") or takes(info.type))
        case types.UnionType():
            parts = [takes(part) for part in info.types if not isinstance(part, types.NoneType)]
            words = " or ".join(parts) + (", or null" if len(parts) < len(info.types) else "")
        case types.LiteralType():
            words = ", ".join(f"`{value}`" for value in info.values)
        case types.VarTupleType():
            of_structs = isinstance(info.item_type, types.StructType)
            words = "a list, see below" if of_structs else f"a list: {takes(info.item_type)}"
        case types.DictType():
            words = f"names, each with {takes(info.value_type)}"
        case types.StructType():
            words = "a mapping, see below"
        case _:
            words = describe(info)
    return words


def default(field: msgspec.structs.FieldInfo) -> str:
    """Return a key's default as YAML."""
    if field.required:
        return "required"
    value: Any = field.default
    if value is msgspec.NODEFAULT:
        value = field.default_factory() if callable(field.default_factory) else msgspec.UNSET
    if value is msgspec.UNSET:
        return "the vendor's own"
    if isinstance(value, msgspec.Struct):
        return "each key's own"
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return f"`{value if isinstance(value, str) else msgspec.json.encode(value).decode()}`"


def filled(text: str) -> str:
    """Return a page with its tables as the code has them."""
    return BLOCK.sub(
        lambda found: f"{found[1]}\n{KINDS[found[2]](found[3] or '')}\n{found[4]}", text
    )


def main() -> int:
    """Write the pages, or check them."""
    for name in ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME"):
        os.environ.pop(name, None)  # the places are told as they are without them
    stale = []
    for page in (DOCS / name for name in PAGES):
        text = page.read_text(encoding="utf-8")
        if filled(text) != text:
            stale.append(page.name)
            if "--check" not in sys.argv:
                page.write_text(filled(text), encoding="utf-8")
    if stale and "--check" in sys.argv:
        print(f"run scripts/reference.py: {', '.join(stale)} not as in the code")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
