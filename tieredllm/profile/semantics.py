"""Find the mistakes that types cannot: what fits each by itself but not together."""

from __future__ import annotations

import os
from urllib.parse import urlsplit

from tieredllm.errors import Mistake
from tieredllm.profile.nodes import ErrorNode, ListNode, MappingNode, Node, Place, ScalarNode

__all__ = ["check_semantics", "duplicate_tiers", "path_at", "url_problem"]

_OF_A_SERVER = ("base_url", "api_key_env", "api", "api_version", "headers", "headers_env", "body")
_WITHOUT_MODEL = ("model", *_OF_A_SERVER, "alternates")
_ENDPOINTS = ("/chat/completions", "/completions", "/responses", "/v1/messages")
"""What the vendors' APIs add to a base URL (https://platform.openai.com/docs/api-reference,
https://docs.anthropic.com/en/api/messages)."""
_OF_A_COMMAND = ("args", "env", "pass_env", "cwd")
_OF_A_URL = ("headers", "headers_env")
_MODEL = dict.fromkeys(("openai", "anthropic", "gemini"), "the name its server has for a model") | {
    "llama_cpp": "a catalog name such as gemma-2-2b-it, or the path of a .gguf file"
}
_FRAMING = frozenset({"content-length", "transfer-encoding", "connection", "trailer", "upgrade"})
"""Headers of a message's framing and of its connection (RFC 9112, 6 and 9.6): two of them would
make two requests of one."""


def check_semantics(root: MappingNode) -> list[Mistake]:
    """Check a whole profile, what it inherits included.

    Args:
        root: the tree; values of wrong types in it are passed over.
    """
    mistakes = list(_pasted_keys(root))
    for tier in root.mappings("tiers"):
        mistakes += _backend(tier)
        for alternate in tier.mappings("alternates"):
            mistakes += _url(alternate) + _framing_headers(alternate)
            if alternate.text("provider") == "llama_cpp":
                mistakes += _out_of_place(alternate, _OF_A_SERVER, "a model that runs in-process")
        mistakes += _rule_file(tier)
        mistakes += _granted_tools(tier, root)
    return mistakes + _functions_of_one_name(root) + _mcp_servers(root) + _served_models(root)


def duplicate_tiers(root: MappingNode) -> list[Mistake]:
    """Find tiers of one file that have the same name."""
    mistakes = []
    seen: dict[str, int] = {}
    for tier in root.mappings("tiers"):
        name, node = tier.text("name"), tier.get("name")
        if name is None or node is None:
            continue
        if name in seen:
            message = f"tier `{name}` is there already, in line {seen[name]}: rename one"
            mistakes.append(node.place.mistake(message))
        seen.setdefault(name, node.place.line)
    return mistakes


def path_at(text: str, place: Place) -> str:
    """Return the path a profile names, which is relative to the file it is written in."""
    return os.path.abspath(os.path.join(os.path.dirname(place.file), os.path.expanduser(text)))  # noqa: PTH100, PTH111, PTH118, PTH120 - `..` must go, links must stay


def _backend(tier: MappingNode) -> list[Mistake]:
    provider = tier.text("provider")
    name = tier.text("name")
    called = f"tier `{name}`" if name else "the tier"
    if provider in {"rules", "cache"}:
        return _out_of_place(tier, _WITHOUT_MODEL, f"a {provider} tier")
    mistakes = _url(tier) + _framing_headers(tier)
    if provider == "llama_cpp":
        mistakes += _out_of_place(tier, _OF_A_SERVER, "a model that runs in-process")
    model = tier.get("model")
    if provider in _MODEL and (
        model is None or (isinstance(model, ScalarNode) and model.value is None)
    ):
        place = model.place if model is not None else tier.place
        mistakes.append(place.mistake(f"`model` is missing: {called} needs {_MODEL[provider]}"))
    return mistakes


def _out_of_place(backend: MappingNode, keys: tuple[str, ...], what: str) -> list[Mistake]:
    mistakes = []
    for key in keys:
        entry = backend.entries.get(key)
        if entry is not None and not _says_nothing(entry.node):
            mistakes.append(entry.place.mistake(f"{what} has no `{key}`: remove it"))
    return mistakes


def _says_nothing(node: Node) -> bool:
    return (
        isinstance(node, ErrorNode)
        or (isinstance(node, ScalarNode) and node.value is None)
        or (isinstance(node, ListNode) and not node.items)
        or (isinstance(node, MappingNode) and not node.entries)
    )


def _url(backend: MappingNode) -> list[Mistake]:
    url, node = backend.text("base_url"), backend.get("base_url")
    if url is None or node is None:
        return []
    problem = url_problem(url) or _endpoint_problem(url)
    return [node.place.mistake(f"`base_url` {problem}")] if problem else []


def _framing_headers(backend: MappingNode) -> list[Mistake]:
    mistakes = []
    for key in ("headers", "headers_env"):
        for name, entry in backend.mapping(key).entries.items():
            if name.lower() in _FRAMING:
                message = (
                    f"`{key}.{name}` says where a request ends, which is ours to say: remove it"
                )
                mistakes.append(entry.place.mistake(message))
    return mistakes


def url_problem(url: str) -> str | None:
    """Return what keeps a text from being an http(s) URL; None when it is one."""
    if any(character.isspace() or not character.isprintable() for character in url):
        return "has a space or a control character in it"
    try:
        parts = urlsplit(url)
        good = parts.hostname and parts.port != 0
    except ValueError:
        return f"is no URL: `{_shown(url)}`"
    if parts.scheme not in {"http", "https"}:
        return f"must start with https:// or http://, not `{_shown(url)}`"
    if "#" in url:
        return "has a `#` in it, and what follows one is sent to no server"
    return None if good else f"names no server: `{_shown(url)}`"


def _shown(url: str) -> str:
    from tieredllm.redaction import mask_text

    return mask_text(url)


def _endpoint_problem(url: str) -> str | None:
    """Return that an address goes on to where requests are sent, which is added to it."""
    path = urlsplit(url).path.rstrip("/")
    ending = next((end for end in _ENDPOINTS if path.endswith(end)), None)
    return f"goes too far: leave out `{ending}`, which is added" if ending else None


def _rule_file(tier: MappingNode) -> list[Mistake]:
    rules, node = tier.text("rules"), tier.get("rules")
    if rules is None or node is None or rules == "builtin" or tier.text("provider") != "rules":
        return []
    path = path_at(rules, node.place)
    if os.path.isfile(path):  # noqa: PTH113 - a string is at hand
        return []
    message = f"there is no rule file {path}: give `builtin`, or a path relative to this file"
    return [node.place.mistake(message)]


def _granted_tools(tier: MappingNode, root: MappingNode) -> list[Mistake]:
    tools = root.mapping("tools")
    servers = list(tools.mapping("mcp").entries)
    known = [
        *(name for name, _ in tools.texts("builtin")),
        *(name.rpartition(":")[2] for name, _ in tools.texts("python")),
        *servers,
    ]
    mistakes = []
    for text, place in tier.texts("tools"):
        name = text.removeprefix("-")
        # What an MCP server offers is known only once it runs.
        is_pattern = any(character in name for character in "*?[")
        if name in {*known, "all"} or is_pattern or (servers and "__" in name):
            continue
        from tieredllm.profile.validate import suggestion

        hint = suggestion(name, known)
        message = f"no tool `{name}` is declared: {hint or 'add it under `tools`'}"
        mistakes.append(place.mistake(message))
    return mistakes


def _functions_of_one_name(root: MappingNode) -> list[Mistake]:
    """Find Python functions that models could not tell apart."""
    tools = root.mapping("tools")
    taken = {name: "a built-in tool" for name, _ in tools.texts("builtin")}
    mistakes = []
    for function, place in tools.texts("python"):
        name = function.rpartition(":")[2]
        other = taken.setdefault(name, function)
        if other != function:
            mistakes.append(place.mistake(f"{other} is called `{name}`, too: rename one"))
    return mistakes


def _mcp_servers(root: MappingNode) -> list[Mistake]:
    mistakes = []
    for name, entry in root.mapping("tools", "mcp").entries.items():
        server = entry.node
        if not isinstance(server, MappingNode):
            continue
        given = [key for key in ("command", "url") if key in server.entries]
        if len(given) != 1:
            message = f"MCP server `{name}` needs either `command` or `url`"
            mistakes.append(entry.place.mistake(message))
            continue
        others = _OF_A_URL if given == ["command"] else _OF_A_COMMAND
        mistakes += _out_of_place(server, others, f"an MCP server with `{given[0]}`")
        url = server.text("url")
        problem = url_problem(url) if url is not None else None
        if problem:
            mistakes.append(server.entries["url"].node.place.mistake(f"`url` {problem}"))
        mistakes += [
            word.place.mistake("a word of `command` has a null character in it")
            for word in server.items("command")
            if isinstance(word, ScalarNode) and "\0" in word.text
        ]
    return mistakes


def _served_models(root: MappingNode) -> list[Mistake]:
    """Find names of models that lead to no tier."""
    tiers = [name for tier in root.mappings("tiers") if (name := tier.text("name")) is not None]
    mistakes = []
    for entry in root.mapping("serve", "models").entries.values():
        tier = entry.node.value if isinstance(entry.node, ScalarNode) else None
        if isinstance(tier, str) and tier not in tiers:
            message = f"there is no tier `{tier}`: it can be {', '.join(tiers)}"
            mistakes.append(entry.node.place.mistake(message))
    return mistakes


def _pasted_keys(node: Node) -> list[Mistake]:
    """Find keys where a variable's name goes and that could pass for one."""
    mistakes = []
    if isinstance(node, ListNode):
        for item in node.items:
            mistakes += _pasted_keys(item)
    elif isinstance(node, MappingNode):
        for key, entry in node.entries.items():
            value = entry.node.value if isinstance(entry.node, ScalarNode) else None
            if not key.endswith("_env") or not isinstance(value, str):
                mistakes += _pasted_keys(entry.node)
            elif value.isidentifier() and value.isascii() and not value.isupper():
                mistakes += _pasted_key(key, value, entry.node.place)
    return mistakes


def _pasted_key(key: str, value: str, place: Place) -> list[Mistake]:
    from tieredllm.profile.validate import not_a_name
    from tieredllm.redaction import looks_like_key

    if not looks_like_key(value):
        return []
    wanted = "must be the name of an environment variable"
    return [place.mistake(f"`{key}` {wanted}, {not_a_name(value)}")]
