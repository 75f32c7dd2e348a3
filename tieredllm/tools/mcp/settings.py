"""Define how an MCP server is declared in a profile."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from tieredllm.errors import UsageError
from tieredllm.tools.schema import worded

__all__ = ["McpSettings", "read_settings"]

Seconds = Annotated[float, Meta(gt=0, le=86_400)]


class McpSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Hold where a server is: a program that is started, or a URL."""

    command: Annotated[tuple[str, ...], Meta(min_length=1)] | None = None
    """The program and its arguments; it speaks over its stdin and stdout."""
    env: dict[str, str] = {}
    """Variables it gets, besides the few that every program needs (see `process`)."""
    pass_env: tuple[str, ...] = ()
    """Names of variables, or of stored keys, that are passed on to it: for what is secret."""
    cwd: str | None = None
    """Where it runs; relative to the working directory, which is the default."""
    url: str | None = None
    """Where it answers over streamable HTTP."""
    headers_env: dict[str, str] = {}
    """HTTP headers, each with the name of the variable, or stored key, that holds its value."""
    start_timeout_s: Seconds = 20.0
    """How long it may take until it has told its tools, in seconds."""
    timeout_s: Seconds = 30.0
    """How long one call may take, in seconds."""


def read_settings(name: str, values: Mapping[str, Any]) -> McpSettings:
    """Check one server's entry of the profile.

    Args:
        name: the server's name.
        values: what the profile says of it.

    Raises:
        UsageError: a key is unknown, a value has the wrong type, or it is neither a program nor
            a URL; the message names the server.
    """
    try:
        settings = msgspec.convert(dict(values), McpSettings)
    except msgspec.ValidationError as exc:
        raise UsageError(f"tools.mcp.{name}: {worded(str(exc))}") from exc
    problem = _problem(settings)
    if problem:
        raise UsageError(f"tools.mcp.{name}: {problem}")
    return settings


def _problem(settings: McpSettings) -> str | None:
    if (settings.command is None) == (settings.url is None):
        return "give either `command` (a list) or `url`"
    if settings.command is not None:
        if not all(settings.command) or any("\0" in word for word in settings.command):
            return "`command` has an empty word in it"
        return "`headers_env` goes with `url` only" if settings.headers_env else None
    if settings.url and not settings.url.startswith(("http://", "https://")):
        return "`url` must start with http:// or https://"
    if settings.env or settings.pass_env or settings.cwd:
        return "`env`, `pass_env` and `cwd` go with `command` only"
    return None
