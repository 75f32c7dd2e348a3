"""Read the file of `mcpServers` that most programs with MCP servers have, as it is.

A profile names it (`mcp: {file: .mcp.json}`). What programs put there besides what all of them know
(time limits in units of their own, lists of approved tools) is left aside.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec

from tieredllm.errors import Mistake, ProfileError
from tieredllm.profile.nodes import (
    Entry,
    ListNode,
    MappingNode,
    Node,
    Place,
    ScalarNode,
    to_builtins,
)
from tieredllm.profile.semantics import path_at
from tieredllm.profile.yaml_reader import MAX_BYTES, parse_yaml
from tieredllm.redaction import looks_like_key, mask_url

__all__ = ["NAMED", "SECRET_NAME", "as_settings", "read_servers", "with_servers_of_files"]

_LISTS = ("mcpServers", "servers", "context_servers")
"""Where programs keep their servers: Claude Code, Cursor, Gemini CLI and most others; VS Code
(`.vscode/mcp.json`); Zed."""

_KEYS = {
    **{key: key for key in ("command", "args", "env", "cwd", "url", "type", "headers", "disabled")},
    "httpUrl": "url",  # Gemini CLI
    "serverUrl": "url",  # Windsurf
    "transport": "type",
}
_COMMENT = re.compile(r'"(?:\\.|[^"\\])*"|//[^\n]*|/\*.*?\*/', re.DOTALL)
"""A text, or a comment."""
_BARE = re.compile(r"^\$([A-Z_][A-Z0-9_]*)$")
"""Gemini CLI's other form of a variable (its guide to settings.json)."""
_VS_CODE = re.compile(
    r"\$\{(?:(?P<fixed>workspaceFolder|userHome)|(?:env|input):(?P<name>[^}]+))\}"
)
"""VS Code's variables (https://code.visualstudio.com/docs/reference/variables-reference), which
Cursor and Windsurf have, too; what VS Code would ask for is a variable, or a stored key, here."""
_TYPES = frozenset({"stdio", "http", "streamable-http", "streamable_http", "sse"})


def with_servers_of_files(root: MappingNode) -> tuple[MappingNode, list[Mistake]]:
    """Put the servers of the file that `tools.mcp.file` names in the place of that key.

    Servers of the profile itself win over those of the file.

    Args:
        root: a profile file's tree.

    Returns:
        The tree; and what is wrong with the file, where it stands.
    """
    tools, servers = root.mapping("tools"), root.mapping("tools", "mcp")
    named = servers.entries.get("file")
    if named is None or isinstance(named.node, MappingNode):
        return root, []
    own = {key: entry for key, entry in servers.entries.items() if key != "file"}
    nodes = named.node.items if isinstance(named.node, ListNode) else (named.node,)
    found: dict[str, Entry] = {}
    mistakes: list[Mistake] = []
    for node in nodes:
        if not isinstance(node, ScalarNode) or not isinstance(node.value, str):
            mistakes.append(node.place.mistake("`file` must be the path of a file of `mcpServers`"))
            continue
        try:
            found |= read_servers(Path(path_at(node.value, node.place)))
        except OSError as exc:
            said = (exc.strerror or str(exc)).lower()
            mistakes.append(node.place.mistake(f"{exc.filename} cannot be read: {said}"))
        except ProfileError as exc:
            mistakes += exc.mistakes
    merged = MappingNode(place=servers.place, entries=found | own)
    entries = tools.entries | {"mcp": Entry(tools.entries["mcp"].place, merged)}
    changed = MappingNode(place=tools.place, entries=entries)
    whole = root.entries | {"tools": Entry(root.entries["tools"].place, changed)}
    return MappingNode(place=root.place, entries=whole), mistakes


def read_servers(path: Path) -> dict[str, Entry]:
    """Return the servers of a file, each as a profile has it.

    Args:
        path: a JSON file.

    Raises:
        OSError: it cannot be read.
        ProfileError: it is no JSON, or has no servers.
    """
    with path.open("rb") as file:
        raw = file.read(MAX_BYTES)
    # JSON is YAML but for tabs, which it has between values only, and for VS Code's and Zed's
    # comments.
    text = raw.decode("utf-8", "replace").removeprefix("\ufeff").replace("\t", " ")
    root, mistakes = parse_yaml(_COMMENT.sub(_blanked, text), str(path))
    if mistakes:
        raise ProfileError(mistakes)
    listed = None
    if isinstance(root, MappingNode):
        listed = next((root.get(key) for key in _LISTS if root.get(key) is not None), None)
    if not isinstance(root, MappingNode) or not isinstance(listed, MappingNode):
        place = root.place if root is not None else Place(str(path), 1, 1)
        raise ProfileError([place.mistake("there are no servers: they are under `mcpServers`")])
    folder = path.resolve().parent
    # What lies in `.vscode` or `.cursor` is said of the folder around it.
    workspace = folder.parent if folder.name.startswith(".") else folder
    return {
        name: Entry(it.place, _server(_with_our_variables(it.node, str(workspace))))
        for name, it in listed.entries.items()
        if not _is_of_an_extension(it.node)
    }


def _is_of_an_extension(node: Node) -> bool:
    """Whether Zed alone knows how a server is started: its settings are all there is."""
    keys = node.entries.keys() if isinstance(node, MappingNode) else ()
    return "settings" in keys and "command" not in keys and "url" not in keys


def _blanked(found: re.Match[str]) -> str:
    """Return a text as it is, and a comment as blanks, so that places stay."""
    text = found[0]
    return text if text.startswith('"') else re.sub(r"[^\n]", " ", text)


def _with_our_variables(node: Node, workspace: str) -> Node:
    """Return a node with other programs' variables written as ours, at any depth."""
    if isinstance(node, MappingNode):
        entries = {
            key: Entry(it.place, _with_our_variables(it.node, workspace))
            for key, it in node.entries.items()
        }
        return MappingNode(place=node.place, entries=entries)
    if isinstance(node, ListNode):
        items = tuple(_with_our_variables(it, workspace) for it in node.items)
        return msgspec.structs.replace(node, items=items)
    if not isinstance(node, ScalarNode) or not isinstance(node.value, str):
        return node
    value = _BARE.sub(r"${\1}", node.value)

    def of_vs_code(found: re.Match[str]) -> str:
        if found["fixed"]:
            return workspace if found["fixed"] == "workspaceFolder" else "${HOME}"
        return "${" + re.sub(r"[^A-Za-z0-9_]", "_", found["name"]) + "}"

    return msgspec.structs.replace(node, value=_VS_CODE.sub(of_vs_code, value))


def as_settings(path: Path) -> tuple[dict[str, Any], list[str]]:
    """Return a file's servers as a profile would write them, and the variables they need.

    What looks like a secret is replaced by the name of a variable.

    Raises:
        OSError: the file cannot be read.
        ProfileError: it is no JSON, or has no servers.
    """
    variables: dict[str, None] = {}
    servers = {name: to_builtins(entry.node) for name, entry in read_servers(path).items()}
    for name, server in servers.items():
        if not isinstance(server, dict):
            continue
        for key in ("env", "headers"):
            given = server.get(key)
            if isinstance(given, dict):
                server[key] = {
                    each: _without_secret(name, each, value, variables)
                    for each, value in given.items()
                }
        if isinstance(server.get("args"), list):
            server["args"] = _arguments_without_secrets(name, server["args"], variables)
        if "url" in server:
            server["url"] = _without_secret(name, f"{name}_url", server["url"], variables)
    return servers, list(variables)


def _arguments_without_secrets(
    server: str, given: list[Any], variables: dict[str, None]
) -> list[Any]:
    """Return arguments whose secrets are variables: `--token x`, `--token=x`, `Name: x`, keys."""
    found = []
    option = ""
    for value in given:
        named = NAMED.match(value) if isinstance(value, str) else None
        if named is not None:
            secret = _without_secret(server, named["name"], named["value"], variables)
            found.append(f"{named['name']}{named['between']}{secret}")
        else:
            name = option or f"{server}_{'url' if '://' in str(value) else 'key'}"
            is_option = isinstance(value, str) and value.startswith("-")
            found.append(value if is_option else _without_secret(server, name, value, variables))
        option = value if isinstance(value, str) and value.startswith("-") and not named else ""
    return found


NAMED = re.compile(r"(?P<name>-*[A-Za-z][\w-]*)(?P<between>=|: )(?P<value>.+)$", re.DOTALL)
"""An argument that names what it gives: an option, or a header."""


def _without_secret(server: str, name: str, value: Any, variables: dict[str, None]) -> Any:
    if not isinstance(value, str) or "${" in value:
        return value
    known = looks_like_key(value) or ("://" in value and mask_url(value) != value)
    if not (SECRET_NAME.search(name) or known):
        return value
    if name.lower() == "authorization":
        scheme, _, secret = value.rpartition(" ")
        variable = re.sub(r"[^A-Z0-9]", "_", server.upper()) + "_TOKEN"
        variables[variable] = None
        return f"{scheme} ${{{variable}}}" if scheme and secret else f"${{{variable}}}"
    variable = re.sub(r"[^A-Z0-9]", "_", name.lstrip("-").upper())
    variables[variable] = None
    return f"${{{variable}}}"


SECRET_NAME = re.compile(
    r"(?i)(?<!max)(?<!max[-_])token|secret|password|passwd|api_?-?key|authorization|credential"
)
"""How what holds a secret is called; `--max-tokens` holds a number."""


def _server(node: Node) -> Node:
    if not isinstance(node, MappingNode):
        return node
    given = dict(node.entries)
    command = node.get("command")
    if isinstance(command, MappingNode):  # Zed's form until 2025: `{path, args, env}`
        given |= {"command" if key == "path" else key: it for key, it in command.entries.items()}
    enabled = given.pop("enabled", None)  # Zed's
    if enabled is not None and isinstance(enabled.node, ScalarNode) and not enabled.node.value:
        disabled = msgspec.structs.replace(enabled.node, value=True)
        given["disabled"] = Entry(enabled.place, disabled)
    entries: dict[str, Entry] = {}
    for key, entry in given.items():
        ours = _KEYS.get(key)
        value = entry.node
        if ours is None or (isinstance(value, ScalarNode) and value.value in (None, "")):
            continue
        if ours == "type" and not (isinstance(value, ScalarNode) and value.value in _TYPES):
            continue
        entries[ours] = entry
    unused = ("headers",) if "command" in entries else ("args", "env", "cwd")
    kept = {key: it for key, it in entries.items() if key not in unused}
    return MappingNode(place=node.place, entries=kept)
