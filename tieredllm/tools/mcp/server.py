"""Be the MCP servers of a profile: where each is, what it is told, and which tools it has.

A server is started on first use and ended with the toolbox. One that ends is started anew by the
next call, a few times; a call that was under way when it ended has failed and is not made again.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from tieredllm.profile.schema import McpSettings
from tieredllm.text import clean
from tieredllm.tools.base import Tool, ToolFailureError
from tieredllm.tools.mcp.arguments import schema_checker
from tieredllm.tools.mcp.connection import Connection, Ended, UnavailableError
from tieredllm.tools.mcp.process import INHERITED, Stderr, running
from tieredllm.tools.mcp.results import wire_name

if TYPE_CHECKING:
    from mcp_types import Tool as RemoteTool

__all__ = ["McpServer"]

Lookup = Callable[[str], str | None]

MAX_STARTS = 3
"""How often a server is started in one run of the program."""

RETRY_S = 60.0
"""How long a server that could not be started is left alone."""

DESCRIPTION_CHARACTERS = 4096
SCHEMA_BYTES = 64 * 1024
"""How much a model is told of one tool; one with a longer schema is left out."""


class McpServer:
    """Be one server of the profile.

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
        """Give its tools, starting it when it does not run.

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
