"""Make the tools that a profile declares, when they are first asked for."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tieredllm.clock import Clock, SystemClock
from tieredllm.errors import UsageError
from tieredllm.profile.schema import Tools
from tieredllm.tools.base import Grant, Tool

if TYPE_CHECKING:
    from tieredllm.tools.builtin.egress import EgressPolicy
    from tieredllm.tools.mcp.server import McpServer

__all__ = ["START_S", "Toolbox"]

START_S = 30.0
"""How long servers may take to start when there is no deadline."""


class Toolbox:
    """The tools of a profile. Nothing is imported, started or opened before it is needed.

    A toolbox serves any number of requests of one event loop, and is closed in it.

    Args:
        declared: the profile's `tools`.
        cwd: the working directory: what files are read below.
        env: the environment; servers get only what the profile passes on.
        lookup: finds keys by name; in the environment alone when None.
        folders: where the modules of Python functions are looked for besides Python's own places:
            the folders of the profiles that name them.
        private: files that no tool may read wherever they lie, such as the one with the keys.
        clock: the time.
        reach: what `fetch_url` may connect to; for tests.
        cache: where what MCP servers offer is remembered; None for nowhere.
        state: where logins to MCP servers are kept; None for nowhere.
        said: takes the name of a server and a line that it says on stderr.
    """

    def __init__(
        self,
        declared: Tools,
        *,
        cwd: Path,
        env: Mapping[str, str],
        lookup: Callable[[str], str | None] | None = None,
        folders: Sequence[Path] = (),
        private: Sequence[Path] = (),
        clock: Clock | None = None,
        reach: EgressPolicy | None = None,
        cache: Path | None = None,
        state: Path | None = None,
        said: Callable[[str, str], None] | None = None,
    ) -> None:
        self._declared = declared
        self._said = said
        self._cache = None if cache is None else cache / "mcp"
        self._state = state
        self._cwd = cwd
        self._env = env
        self._lookup = lookup or env.get
        self._folders = tuple(folders)
        self._private = tuple(private)
        self._clock = clock or SystemClock()
        self._reach = reach
        self._made: dict[str, Tool] = {}
        self._servers: dict[str, McpServer] = {}
        self._troubles: dict[str, str] = {}
        self._remarks: dict[str, None] = {}

    @property
    def remarks(self) -> tuple[str, ...]:
        """What is worth knowing of servers, and no trouble: a request is not told."""
        return tuple(self._remarks)

    @property
    def troubles(self) -> tuple[str, ...]:
        """Why some tools are missing, a line for each server that is not available."""
        return tuple(self._troubles.values())

    def may_offer(self, grant: Grant) -> bool:
        """Whether a tier with this grant has any tool, as far as can be told without looking."""
        declared = self._declared
        if grant == "all":
            return bool(declared.builtin or declared.python or declared.mcp)
        return grant != "none" and bool(grant)

    async def granted(
        self, grant: Grant, *, deadline: float | None = None, fresh: bool = False
    ) -> tuple[Tool, ...]:
        """Return the tools of a grant, in the order of the profile.

        Servers whose tools are not known are started, all at the same time. One that cannot be
        used is among `troubles`, and its tools are missing.

        Args:
            grant: a tier's `tools`.
            deadline: when to go on without servers that are not ready, on the event loop's clock.
            fresh: whether to ask servers for their tools whatever is remembered of them.

        Raises:
            UsageError: a name is granted that is not declared, a Python function cannot be made a
                tool or two tools have the same name.
        """
        if not self.may_offer(grant):
            return ()
        wanted = Wanted(grant)
        tools = {tool.name: tool for tool in self._local(wanted)}
        for tool in await self._remote(wanted, deadline, fresh=fresh):
            tools.setdefault(tool.name, tool)
        self._check_missing(wanted, tuple(tools.values()))
        return tuple(tools.values())

    async def find(self, name: str, *, deadline: float | None = None) -> Tool | None:
        """Return one tool, whoever may use it; None when there is none of that name.

        Raises:
            UsageError: see `granted`.
        """
        if not self._knows(name):
            return None
        for fresh in (False, True):  # what is remembered of a server may be of yesterday
            found = await self.granted((name,), deadline=deadline, fresh=fresh)
            if found:
                return found[0]
        return None

    def server(self, name: str) -> McpServer:
        """Return an MCP server by its name.

        Raises:
            UsageError: none of that name is declared.
        """
        prefix = self._prefixes().get(name)
        if prefix is None:
            known = ", ".join(self._declared.mcp) or "none"
            raise UsageError(f"no MCP server `{name}` is declared: there are {known}")
        return self._server(name, prefix)

    def instructions(self, tools: Iterable[Tool]) -> dict[str, str]:
        """Return what the servers of some tools say of themselves, by their names."""
        servers = dict.fromkeys(tool.server for tool in tools if tool.server in self._servers)
        told = {name: self._servers[name].instructions for name in servers if name is not None}
        return {name: text for name, text in told.items() if text}

    async def aclose(self) -> None:
        """End what was started, within a second."""
        servers, self._servers = self._servers, {}
        if servers:
            await asyncio.gather(*(server.aclose() for server in servers.values()))

    def _knows(self, name: str) -> bool:
        from tieredllm.tools.python import name_of

        local = [*self._declared.builtin, *map(name_of, self._declared.python)]
        return name in local or self._server_of(name) is not None

    def _server_of(self, tool: str) -> str | None:
        """Return the server a tool's name points to: of those that fit, the longest."""
        known = self._prefixes()
        fitting = [name for name, prefix in known.items() if tool.startswith(prefix)]
        return max(fitting, key=lambda name: len(known[name]), default=None)

    def _prefixes(self) -> dict[str, str]:
        if not self._declared.mcp:
            return {}
        from tieredllm.tools.mcp.server import prefixes

        return prefixes(self._declared.mcp)

    def _local(self, wanted: Wanted) -> list[Tool]:
        tools = [
            self._made.get(name) or self._make_builtin(name)
            for name in self._declared.builtin
            if wanted.takes(name)
        ]
        if self._declared.python:
            tools += self._functions(wanted)
        for tool in tools:
            self._made[tool.name] = tool
        return tools

    def _functions(self, wanted: Wanted) -> list[Tool]:
        from tieredllm.tools.python import load_function, name_of

        taken: dict[str, str] = dict.fromkeys(self._declared.builtin, "a built-in tool")
        tools = []
        for entry in dict.fromkeys(self._declared.python):
            name = name_of(entry)
            if name in taken:
                raise UsageError(
                    f"tools.python: {entry}: {taken[name]} is called {name}, too: rename one"
                )
            taken[name] = entry
            if wanted.takes(name):
                tools.append(self._made.get(name) or load_function(entry, self._folders))
        return tools

    def _make_builtin(self, name: str) -> Tool:
        if name == "now":
            from tieredllm.tools.builtin.now import make_now

            return make_now(self._clock)
        if name == "calculate":
            from tieredllm.tools.builtin.calculate import make_calculate

            return make_calculate()
        if name == "fetch_url":
            from tieredllm.tools.builtin.fetch_url import make_fetch_url

            return make_fetch_url(self._reach) if self._reach else make_fetch_url()
        from tieredllm.tools.builtin.files import make_list_files, make_read_file

        if name == "read_file":
            return make_read_file(self._cwd, private=self._private)
        return make_list_files(self._cwd)

    async def _remote(self, wanted: Wanted, deadline: float | None, *, fresh: bool) -> list[Tool]:
        needed = [
            self._server(name, prefix)
            for name, prefix in self._prefixes().items()
            if not self._declared.mcp[name].disabled and wanted.may_take_from(name, prefix)
        ]
        if not needed:
            return []
        if deadline is None:
            deadline = asyncio.get_running_loop().time() + START_S
        lists = await asyncio.gather(
            *(self._tools_of(server, deadline, fresh=fresh) for server in needed)
        )
        return [
            tool
            for server, tools in zip(needed, lists, strict=True)
            for tool in tools
            if wanted.takes(tool.name, server.name)
            # Who takes a tool away may know it as the profile and the server spell it; models are
            # told another form of a name that does not fit or is another's.
            and not wanted.drops(tool.spelled)
        ]

    def _server(self, name: str, prefix: str) -> McpServer:
        if name not in self._servers:
            from tieredllm.tools.mcp.server import McpServer

            self._servers[name] = McpServer(
                name,
                self._declared.mcp[name],
                prefix=prefix,
                env=self._env,
                lookup=self._lookup,
                cwd=self._cwd,
                cache=self._cache,
                state=self._state,
                clock=self._clock,
                said=None if self._said is None else partial(self._said, name),
            )
        return self._servers[name]

    async def _tools_of(
        self, server: McpServer, deadline: float, *, fresh: bool
    ) -> tuple[Tool, ...]:
        from tieredllm.tools.mcp.connection import UnavailableError

        try:
            tools = await server.tools(deadline=deadline, fresh=fresh)
        except UnavailableError as exc:
            self._troubles[server.name] = f"MCP server {server.name}: {exc}"
            return ()
        self._troubles.pop(server.name, None)
        for reason in server.unusable:
            self._remarks[f"MCP server {server.name}: {reason}"] = None
        for number, reason in enumerate(server.left_out):
            self._troubles[f"{server.name} {number}"] = f"MCP server {server.name}: {reason}"
        return tools

    def _check_missing(self, wanted: Wanted, tools: Sequence[Tool]) -> None:
        """Report names that mean nothing; what a server lacks is its trouble, and no mistake."""
        servers = self._declared.mcp
        for name in wanted.names:
            if name in servers or any(tool.name == name for tool in tools) or wanted.drops(name):
                continue
            server = self._server_of(name)
            if server is None:
                raise UsageError(f"no tool `{name}` is declared: add it under `tools`")
            if server not in self._troubles and not servers[server].disabled:
                self._troubles[name] = f"MCP server {server} has no tool that is called {name}"


class Wanted:
    """What a grant names: tools, MCP servers, patterns of names, and what is taken away again.

    Args:
        grant: a tier's `tools`.
    """

    def __init__(self, grant: Grant) -> None:
        items = ("all",) if grant == "all" else () if grant == "none" else grant
        self._given = tuple(item for item in items if not item.startswith("-"))
        self._taken = tuple(item[1:] for item in items if item.startswith("-"))
        # Who only takes away takes from all there is.
        if not self._given and self._taken:
            self._given = ("all",)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of tools or servers that are given, without patterns."""
        return tuple(it for it in self._given if it != "all" and not _is_pattern(it))

    def takes(self, tool: str, server: str | None = None) -> bool:
        """Whether a tool is granted.

        Args:
            tool: its name.
            server: the MCP server it is of.
        """
        given = any(_names(item, tool, server) for item in self._given)
        return given and not self.drops(tool, server)

    def drops(self, tool: str, server: str | None = None) -> bool:
        """Whether a tool is taken away."""
        return any(_names(item, tool, server) for item in self._taken)

    def may_take_from(self, server: str, prefix: str) -> bool:
        """Whether any tool of a server could be granted.

        Args:
            server: its name.
            prefix: what the names of its tools begin with.
        """
        if server in self._taken or f"{prefix}*" in self._taken:
            return False
        for item in self._given:
            fixed = re.split(r"[*?\[]", item, maxsplit=1)[0]
            if item in ("all", server) or item.startswith(prefix):
                return True
            if _is_pattern(item) and (fixed.startswith(prefix) or prefix.startswith(fixed)):
                return True
        return False


def _names(item: str, tool: str, server: str | None) -> bool:
    return (
        item in ("all", tool)
        or (server is not None and item == server)
        or (_is_pattern(item) and fnmatchcase(tool, item))
    )


def _is_pattern(item: str) -> bool:
    return any(character in item for character in "*?[")
