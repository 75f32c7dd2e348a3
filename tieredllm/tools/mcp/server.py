"""The MCP servers of a profile: where each is, what it is told, and which tools it has.

A server is started on first use and ended with the toolbox. One that ends is started anew by the
next call, a few times; a call that was under way when it ended has failed and is not made again.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from tieredllm.profile.schema import McpSettings
from tieredllm.text import clean, one_line
from tieredllm.tools.base import ArgumentsError, Check, Tool, ToolFailureError
from tieredllm.tools.mcp.connection import Connection, Ended, UnavailableError
from tieredllm.tools.mcp.transport import INHERITED, Stderr, running

if TYPE_CHECKING:
    from mcp_types import Tool as RemoteTool

__all__ = ["MAX_NAME", "McpServer", "prefix", "schema_checker", "wire_name"]

Lookup = Callable[[str], str | None]

MAX_STARTS = 3
"""How often a server is started in one run of the program."""

RETRY_S = 60.0
"""How long a server that could not be started is left alone."""

DESCRIPTION_CHARACTERS = 4096
SCHEMA_BYTES = 64 * 1024
"""How much a model is told of one tool; one with a longer schema is left out."""

MAX_NAME = 64
"""The longest name of a tool that all vendors take (OpenAI's limit)."""

_UNFIT = re.compile(r"[^A-Za-z0-9_-]")

MAX_MISTAKES = 5
SHOWN_CHARACTERS = 200
"""How many mistakes in its arguments a model is told, and how much of each."""


class McpServer:
    """One server of the profile.

    Args:
        name: its name there.
        settings: what the profile says of it.
        env: the environment.
        lookup: finds keys by name, for what is secret.
        cwd: the working directory.
    """

    def __init__(
        self,
        name: str,
        settings: McpSettings,
        *,
        env: Mapping[str, str],
        lookup: Lookup,
        cwd: Path,
    ) -> None:
        self.name = name
        self._settings = settings
        self._env = env
        self._lookup = lookup
        self._cwd = cwd
        self._connection: Connection | None = None
        self._starts = 0
        self._next_start_at = 0.0
        self._tools: tuple[Tool, ...] = ()
        self._told_by: Connection | None = None

    async def tools(self, *, deadline: float) -> tuple[Tool, ...]:
        """Return its tools, starting it when it does not run.

        Raises:
            UnavailableError: it cannot be started, or has not told its tools in time.
        """
        connection = await self._connected(deadline)
        if connection is not self._told_by:
            tools: dict[str, Tool] = {}
            for remote in connection.remote_tools:
                if len(msgspec.json.encode(remote.input_schema)) <= SCHEMA_BYTES:
                    tool = self._tool(remote)
                    tools.setdefault(tool.name, tool)
            self._tools, self._told_by = tuple(tools.values()), connection
        return self._tools

    async def aclose(self) -> None:
        """End it, within a second."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def _connected(self, deadline: float) -> Connection:
        connection = self._connection
        if connection is None or not connection.alive:
            if connection is not None and not connection.started:
                if asyncio.get_running_loop().time() < self._next_start_at:
                    raise UnavailableError(connection.problem)
            elif self._starts >= MAX_STARTS and connection is not None:
                reason = f"it has ended {MAX_STARTS} times: {connection.last_words}"
                raise UnavailableError(reason)
            self._starts += 1
            self._next_start_at = asyncio.get_running_loop().time() + RETRY_S
            connection = self._connection = Connection(self._transport, self._settings)
        await connection.until_ready(deadline)
        return connection

    async def _transport(self, stack: AsyncExitStack, stderr: Stderr, ended: Ended) -> Any:
        """Make what the SDK's client connects through; it opens it itself."""
        settings = self._settings
        if settings.command is not None:
            return running(
                settings.command,
                env=self._environment(),
                cwd=self._folder(),
                stderr=stderr,
                ended=ended,
            )
        import httpx2
        from mcp.client.streamable_http import streamable_http_client

        timeout = httpx2.Timeout(settings.start_timeout_s, read=None)
        client = httpx2.AsyncClient(headers=self._headers(), timeout=timeout)
        await stack.enter_async_context(client)
        return streamable_http_client(settings.url or "", http_client=client)

    def _folder(self) -> str:
        return os.path.abspath(self._cwd / Path(self._settings.cwd or ".").expanduser())  # noqa: PTH100 - links stay

    def _environment(self) -> dict[str, str]:
        environment = {name: self._env[name] for name in INHERITED if name in self._env}
        environment |= self._settings.env
        for name in self._settings.pass_env:
            environment[name] = self._secret(name)
        return environment

    def _headers(self) -> dict[str, str]:
        headers = {}
        for header, name in self._settings.headers_env.items():
            value = self._secret(name).strip()
            if header.lower() == "authorization" and " " not in value:
                value = f"Bearer {value}"  # a bare token (RFC 6750, 2.1)
            headers[header] = value
        return headers

    def _secret(self, name: str) -> str:
        value = self._lookup(name)
        if not value:
            raise UnavailableError(f"{name} is not set")
        return value

    def _tool(self, remote: RemoteTool) -> Tool:
        async def run(arguments: dict[str, Any], deadline: float) -> str:
            try:
                connection = await self._connected(deadline)
            except UnavailableError as exc:
                raise ToolFailureError(
                    f"the MCP server {self.name} is not available: {exc}"
                ) from exc
            return await connection.call(self.name, remote.name, arguments)

        annotations = remote.annotations
        about = remote.description or remote.title or f"{remote.name} of {self.name}."
        return Tool(
            name=wire_name(self.name, remote.name),
            description=clean(about)[:DESCRIPTION_CHARACTERS],
            parameters={"type": "object", **remote.input_schema},
            read_only=annotations.read_only_hint if annotations is not None else None,
            origin=f"mcp:{self.name}",
            timeout_s=self._settings.timeout_s,
            check=schema_checker(remote.input_schema),
            run=run,
        )


def prefix(server: str) -> str:
    """Return what the names of all tools of a server begin with."""
    name = _UNFIT.sub("_", server)
    # Gemini takes no name that begins with a digit or a dash.
    return f"{name}__" if name[:1].isalpha() or name[:1] == "_" else f"_{name}__"


def wire_name(server: str, tool: str) -> str:
    """Return the name a model knows a server's tool by: `server__tool`.

    Characters that vendors reject become `_`. A name that was changed so that another one could
    become the same, or that is too long, ends in a hash of the whole.
    """
    name = prefix(server) + _UNFIT.sub("_", tool)
    if len(name) <= MAX_NAME and not _UNFIT.search(tool):
        return name
    digest = hashlib.sha256(f"{server}__{tool}".encode()).hexdigest()[:6]
    return f"{name[: MAX_NAME - 7]}_{digest}"


def schema_checker(schema: dict[str, Any]) -> Check:
    """Make the function that checks arguments against the JSON Schema that a server gives.

    `jsonschema` comes with the SDK, and is loaded when it is first used. Two keywords are left to
    the server, which checks its arguments anyway: `pattern` and `patternProperties`. A regular
    expression from outside can take for ever, and Python cannot stop it.

    What cannot be checked (a schema that is none, or refers to somewhere else) is passed on: the
    server has the last word.
    """
    validators: list[Any] = []

    def check(arguments: dict[str, Any]) -> dict[str, Any]:
        if not validators:
            validators.append(_validator(schema))
        try:
            mistakes = [
                _describe(it) for it in islice(validators[0].iter_errors(arguments), MAX_MISTAKES)
            ]
        except Exception:  # noqa: BLE001 - the schema is at fault, or refers to elsewhere
            return arguments
        if mistakes:
            raise ArgumentsError("; ".join(mistakes))
        return arguments

    return check


def _validator(schema: dict[str, Any]) -> Any:
    from jsonschema import Draft202012Validator, validators
    from referencing import Registry

    kind = validators.validator_for(schema, default=Draft202012Validator)
    without_regex = validators.extend(kind, {"pattern": None, "patternProperties": None})
    # An empty registry: a reference leads nowhere but into the schema itself.
    return without_regex(schema, registry=Registry())


def _describe(mistake: Any) -> str:
    where = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in mistake.path)
    said = one_line(str(mistake.message), SHOWN_CHARACTERS)
    return f"`{where.lstrip('.')}`: {said}" if where else said
