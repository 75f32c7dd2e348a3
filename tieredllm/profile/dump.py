"""Write a profile as it is in effect: every key with its value, no secret with its own."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import yaml
from msgspec import UNSET

from tieredllm.profile.mcp_file import NAMED, SECRET_NAME
from tieredllm.profile.schema import BASE_URLS, KEY_VARIABLES, BackendSettings, Profile, Tier
from tieredllm.redaction import HIDDEN, mask_text

__all__ = ["dump", "write_yaml"]

_OF_RULES = ("name", "provider", "rules", "vars")
_OF_CACHE = ("name", "provider", "max_age_h")
_OF_A_SERVER = ("api", "api_version", "headers", "headers_env", "body")
_OF_A_FILE = frozenset({"threads", "gpu_layers"})
_LEFT_OUT = frozenset({"rules", "vars", "max_age_h", "base_url", "api_key_env", *_OF_A_SERVER})
_SECRET_MAPPINGS = frozenset({"env", "headers"})
"""Where an MCP server's settings hold secrets."""
_OF_A_COMMAND = ("command", "args")
_REFERENCE = re.compile(r"(?i)(?:(?:bearer|basic|token) )?\$\{[\w:.]+\}")
"""A value that a variable has, which is no secret itself; what stands in for it may be one."""
_VARIABLE = re.compile(r"^( *(?:- )?\w+_env: ([A-Za-z_]\w*))$", re.MULTILINE)
_READABLE = 1e15
"""Whole numbers up to here are written without a point."""


def dump(profile: Profile, origin: Callable[[str], str | None]) -> str:
    """Return a profile as YAML, defaults included.

    Args:
        profile: the profile.
        origin: says where a variable is set, None when it is not (see `Keys.origin`).

    Returns:
        YAML that reads back as the same profile, apart from the secrets masked in it. Keys that
        mean nothing to a tier's provider are left out.
    """
    values: dict[str, Any] = msgspec.to_builtins(profile)
    del values["extends"], values["remove_tiers"]
    values["tiers"] = [_tier(tier) for tier in profile.tiers]
    servers = values["tools"]["mcp"]
    values["tools"]["mcp"] = {name: _server(server) for name, server in servers.items()}

    def comment(found: re.Match[str]) -> str:
        where = origin(found[2])
        return f"{found[1]}  # {found[2]}: {f'set ({where})' if where else 'not set'}"

    return _VARIABLE.sub(comment, write_yaml(values))


def write_yaml(values: Mapping[str, Any]) -> str:
    """Return a mapping as YAML that reads back as the same values, one key or item a line.

    Args:
        values: strings, numbers, truth values, None, and lists and mappings of them.
    """
    return yaml.dump(
        _without_points(values),
        Dumper=_Dumper,
        sort_keys=False,
        allow_unicode=True,
        width=float("inf"),
    )


class _Dumper(yaml.SafeDumper):
    """PyYAML's dumper, without aliases, each value on one line, lists indented."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002, FBT
        super().increase_indent(flow, indentless=False)  # as the shipped profiles are written

    def represent_text(self, data: str) -> yaml.ScalarNode:
        style = None if data.isprintable() else '"'
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)


_Dumper.add_representer(str, _Dumper.represent_text)


def _without_points(value: Any) -> Any:
    """Return values with whole numbers written without a point."""
    if isinstance(value, Mapping):
        return {key: _without_points(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_points(item) for item in value]
    whole = isinstance(value, float) and value.is_integer() and abs(value) < _READABLE
    return int(value) if whole else value


def _tier(tier: Tier) -> dict[str, Any]:
    values = tier.values
    if tier.provider == "rules":
        return {key: values[key] for key in _OF_RULES}
    if tier.provider == "cache":
        return {key: values[key] for key in _OF_CACHE}
    shown: dict[str, Any] = {}
    for key, value in values.items():
        if key == "model":
            shown |= _backend(tier)
        elif key == "alternates":
            alternates = tier.alternates
            shown[key] = [{"provider": each.provider} | _backend(each) for each in alternates]
        elif key not in _LEFT_OUT and (key not in _OF_A_FILE or tier.provider == "llama_cpp"):
            shown[key] = value
    return shown


def _backend(backend: BackendSettings) -> dict[str, Any]:
    if backend.provider == "llama_cpp":
        return {"model": backend.model}
    url = backend.base_url or BASE_URLS[backend.provider]
    name = backend.api_key_env
    shown = {
        "model": backend.model,
        "base_url": mask_text(url),
        "api_key_env": KEY_VARIABLES[backend.provider] if name is UNSET else name,
    }
    if backend.provider == "openai" and backend.api is not None:
        shown["api"] = backend.api
    if backend.provider == "anthropic":
        shown["api_version"] = backend.api_version
    for key in ("headers", "headers_env", "body"):
        if values := getattr(backend, key):
            shown[key] = _mask(values, secret=key == "headers")
    return shown


def _server(server: dict[str, Any]) -> dict[str, Any]:
    """Mask an MCP server's settings, the words of its command line by what they say they are."""
    lists = {key: it for key in _OF_A_COMMAND if isinstance(it := server[key], list | tuple)}
    return {**_mask(server), **{key: _mask_words(words) for key, words in lists.items()}}


def _mask(value: Any, *, secret: bool = False) -> Any:
    if isinstance(value, dict):
        return {
            key: _mask(item, secret=secret or key in _SECRET_MAPPINGS)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [_mask(item, secret=secret) for item in value]
    if isinstance(value, str):
        return HIDDEN if secret else mask_text(value)
    return value


def _mask_words(words: Sequence[str]) -> list[str]:
    """Mask keys and passwords, and what is given by name: `--api-key x`, `TOKEN=x`, `Name: x`."""
    shown: list[str] = []
    is_secret = False  # by the option before it
    for word in words:
        is_option = word.startswith("-")
        named = NAMED.match(word)
        if named is None:
            shown.append(_mask_word(word, is_secret=is_secret and not is_option))
        else:
            value = _mask_word(named["value"], is_secret=_is_secret(named["name"]))
            shown.append(f"{named['name']}{named['between']}{value}")
        is_secret = is_option and named is None and _is_secret(word)
    return shown


def _is_secret(name: str) -> bool:
    return SECRET_NAME.search(name) is not None and not name.startswith("--no-")


def _mask_word(word: str, *, is_secret: bool) -> str:
    if _REFERENCE.fullmatch(word):
        return word
    return HIDDEN if is_secret else mask_text(word)
