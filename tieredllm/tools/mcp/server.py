"""The MCP servers of a profile: where each is, what it is told, and which tools it has.

A server is started by the first call of one of its tools, or when its tools are not known yet, and
ended with the toolbox. One that ends is started anew by the next call, a few times; a call that was
under way when it ended has failed and is not made again.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import shlex
import shutil
import stat
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import msgspec

from tieredllm.clock import Clock, SystemClock
from tieredllm.profile.schema import REFERENCE, McpSettings
from tieredllm.redaction import Redactor
from tieredllm.text import clean, one_line
from tieredllm.tools.base import (
    CallTime,
    Output,
    Run,
    Tool,
    ToolFailureError,
)
from tieredllm.tools.mcp.connection import (
    Connection,
    Life,
    SessionLostError,
    UnavailableError,
)
from tieredllm.tools.mcp.remembered import ServerMemory
from tieredllm.tools.mcp.results import RemoteTool
from tieredllm.tools.mcp.transport import INHERITED, MAX_LINE_BYTES, ServerProcess, Stderr
from tieredllm.tools.schema import schema_checker

__all__ = ["MAX_NAME", "McpServer", "prefixes", "wire_name"]

Lookup = Callable[[str], str | None]

MAX_STARTS = 3
"""How often in a row a server is started that ends at once."""

RETRY_S = 60.0
"""How long a server that could not be started is left alone, and one must live to have not ended at
once."""

DESCRIPTION_CHARACTERS = 4096
SCHEMA_BYTES = 64 * 1024
"""How much a model is told of one tool; one with a longer schema is left out."""

INSTRUCTIONS_CHARACTERS = 2048
"""How much of what a server says of itself a model is told: as much as Claude Code 2.1.285."""

READER = "read_resource"
READER_SCHEMA = {
    "type": "object",
    "properties": {"uri": {"type": "string", "description": "The address, as it was given."}},
    "required": ["uri"],
}
MAX_LINKS = 1000
MAX_SHOWN_LINKS = 10
"""How many of the last links can be read, and how many of them a model is told."""

MAX_NAME = 64
"""The longest name of a tool that all vendors take (OpenAI's limit)."""

_UNFIT = re.compile(r"[^A-Za-z0-9_-]")


class McpServer:
    """One server of the profile.

    Args:
        name: its name there.
        settings: what the profile says of it.
        prefix: what the names of its tools begin with.
        env: the environment.
        lookup: finds keys by name, for what is secret.
        cwd: the working directory.
        cache: where what it offers is remembered; None for nowhere.
        state: where logins are kept; None for nowhere.
        clock: the time.
        said: takes each line that it says on stderr.
    """

    def __init__(
        self,
        name: str,
        settings: McpSettings,
        *,
        prefix: str,
        env: Mapping[str, str],
        lookup: Lookup,
        cwd: Path,
        cache: Path | None = None,
        state: Path | None = None,
        clock: Clock | None = None,
        said: Callable[[str], None] | None = None,
    ) -> None:
        self.name = name
        self._settings = settings
        self.prefix = prefix
        self._env = env
        self._lookup = lookup
        secrets = [value for it in sorted(settings.secrets) if (value := lookup(it))]
        self._without_secrets = Redactor(secrets, limit=MAX_LINE_BYTES)
        """What a server says when it fails is shown, kept, and told to models of any house."""
        self._said = None if said is None else lambda line: said(self._without_secrets(line))
        self._cwd = cwd
        self._state = state
        self._logins = None if state is None else state / "mcp_logins"
        self._connection: Connection | None = None
        self._given_up: Connection | None = None
        """One that was waited for in vain, and may be starting still."""
        self._starts = 0
        self._next_start_at = 0.0
        self._listed: tuple[RemoteTool, ...] | None = None
        self._learned: tuple[RemoteTool, ...] | None = None
        self._tools: tuple[Tool, ...] = ()
        self._instructions = ""
        self._links: dict[str, None] = {}
        """The resources that its results linked to."""
        self._memory = ServerMemory(cache, self._identity(), clock or SystemClock())
        self.left_out: tuple[str, ...] = ()
        """Which of its tools are not offered, and why, a line each."""
        self.unusable: tuple[str, ...] = ()
        """Which of its tools no client like this can use, and why, a line each."""

    async def tools(self, *, deadline: float, fresh: bool = False) -> tuple[Tool, ...]:
        """Return its tools; it is started when it does not run and they are not known.

        Args:
            deadline: when to stop waiting for it, on the event loop's clock.
            fresh: whether to ask the server itself, whatever is remembered.

        Raises:
            UnavailableError: it cannot be started, or has not told its tools in time.
        """
        connection = self._connection
        if connection is not None and not connection.alive:
            connection = None
        if connection is None and not fresh and self._listed is not None:
            return self._with_reader()
        running = connection is not None
        if not running and not fresh and (known := self._memory.offer()) is not None:
            self._instructions = known.instructions
            return self._made(known.tools)
        if not running and not fresh and (problem := self._memory.problem()) is not None:
            raise UnavailableError(problem)
        if connection is not None and connection is self._given_up and not connection.is_settled:
            raise UnavailableError("it has not started in time")
        try:
            connection = await self._connected(deadline)
        except UnavailableError as exc:
            if exc.is_mute:
                era = None if self._connection is None else self._connection.era
                self._memory.learn_problem(str(exc), era)
                self._given_up = self._connection
            raise UnavailableError(f"{exc}{self._hint()}", is_mute=exc.is_mute) from exc
        await connection.refresh()
        self._learn(connection)
        self._instructions = connection.instructions
        return self._made(connection.remote_tools)

    @property
    def instructions(self) -> str:
        """What models are told of it, in its own words, once its tools are known."""
        if not self._settings.instructions:
            return ""
        return clean(self._instructions).strip()[:INSTRUCTIONS_CHARACTERS]

    async def aclose(self) -> None:
        """End it, within a second."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    @contextmanager
    def _masking(self) -> Iterator[None]:
        """Mask the server's secrets in what it says of a failure."""
        try:
            yield
        except (UnavailableError, ToolFailureError) as exc:
            exc.args = (self._without_secrets(str(exc)),)
            raise

    async def _connected(self, deadline: float) -> Connection:
        with self._masking():
            connection = self._connection
            if connection is None or not connection.alive:
                now = asyncio.get_running_loop().time()
                if connection is not None and connection.failure is not None:
                    if now < self._next_start_at:
                        raise UnavailableError(str(connection.failure))
                elif now >= self._next_start_at:
                    self._starts = 0  # it has lived for a while
                elif self._starts >= MAX_STARTS and connection is not None:
                    reason = f"it has ended {MAX_STARTS} times: {connection.last_words}"
                    raise UnavailableError(reason)
                self._starts += 1
                self._next_start_at = now + RETRY_S
                era = self._memory.load().era
                connection = Connection(self._life, self._settings, era, self._said)
                self._connection = connection
            await connection.until_ready(deadline)
            self._learn(connection)
            return connection

    def _learn(self, connection: Connection) -> None:
        """Keep what it offers for later programs, once for each list."""
        if connection.remote_tools is not self._learned:
            self._learned = connection.remote_tools
            self._memory.learn(connection.remote_tools, connection.instructions, connection.era)

    def _life(self, stderr: Stderr) -> Life:
        settings = self._settings
        if settings.type == "sse":
            raise UnavailableError(
                "servers over SSE are not supported: give its address for streamable HTTP as `url`"
            )
        if settings.command is not None:
            return ServerProcess(
                self._command(), env=self._environment(), cwd=self._folder(), stderr=stderr
            )
        url = self._expanded(settings.url or "")
        auth = None
        if self._logins is not None and self._authorized_by() is None and self._logins.is_dir():
            from tieredllm.tools.mcp.login import auth_of

            auth = auth_of(self._logins, url)
        return self._http_life(url, auth)

    def _http_life(self, url: str, auth: Any) -> Life:
        from tieredllm.tools.mcp.http import HttpLife

        return HttpLife(
            self.name,
            url,
            headers=self._headers(),
            connect_timeout_s=self._settings.start_timeout_s,
            auth=auth,
            authorized_by=self._authorized_by(),
        )

    async def login(self, show: Callable[[str, Callable[[str], bool]], Awaitable[None]]) -> int:
        """Log in, and return how many tools there are then.

        Args:
            show: shows a person the address to log in at; what it is given besides takes the
                address that the browser is led back to, where that cannot reach this machine.

        Raises:
            UnavailableError: it is no remote server, or the login failed.
        """
        from tieredllm.tools.mcp.login import LOGIN_S, Loopback, new_auth

        if self._settings.url is None:
            raise UnavailableError("it is a program: only servers with a `url` take a login")
        if self._logins is None:
            raise UnavailableError("there is no place to keep a login")
        url = self._expanded(self._settings.url)
        patient = msgspec.structs.replace(self._settings, start_timeout_s=LOGIN_S)
        async with Loopback() as loopback:

            async def show_address(address: str) -> None:
                await show(address, loopback.take)

            auth = new_auth(self._logins, url, loopback, show_address)
            connection = Connection(lambda _: self._http_life(url, auth), patient, era="handshake")
            self._connection = connection
            await connection.until_ready(asyncio.get_running_loop().time() + LOGIN_S)
        self._memory.learn(connection.remote_tools, connection.instructions, None)
        return len(connection.remote_tools)

    def _identity(self) -> Any:
        """Return everything that makes the server what it is."""
        settings = self._settings
        words = _words(settings)
        program = shutil.which(words[0]) if words else None
        files = [path for path in (program, *words[1:]) if path is not None]
        return (
            settings,
            str(self._cwd) if settings.cwd is not None else None,
            [(path, changed) for path in files if (changed := _changed_at(self._cwd, path))],
            {name: self._lookup(name) for name in sorted(settings.variables)},
        )

    def _place(self) -> str:
        """Return a hash of what is started and where, or asked: an approval holds for that alone.

        `cwd: .` makes of one command another program in each folder.
        """
        folder = None if self._settings.cwd is None else self._folder()
        place = (_words(self._settings), self._settings.url, folder)
        return hashlib.sha256(msgspec.json.encode(place)).hexdigest()[:16]

    def _command(self) -> list[str]:
        return [os.path.expanduser(self._expanded(word)) for word in _words(self._settings)]  # noqa: PTH111 - most are no paths

    def _folder(self) -> str:
        """Return where it runs: in a folder of ours, unless the profile says where.

        A launcher such as `npx` runs what the folder it starts in holds, and who asks a question
        may be anywhere.
        """
        if self._settings.cwd is not None:
            folder = Path(self._expanded(self._settings.cwd)).expanduser()
            return os.path.abspath(self._cwd / folder)  # noqa: PTH100 - links stay
        if self._state is not None:
            own = self._state / "servers"
            with suppress(OSError):
                own.mkdir(mode=0o700, parents=True, exist_ok=True)
                return str(own)
        return os.path.abspath(os.sep)  # noqa: PTH100 - the root, on Windows the drive's

    def _hint(self) -> str:
        """Return what to do when its command is likely not meant as it is."""
        if any(re.match(r"\$[A-Za-z_]", word) for word in _words(self._settings)):
            return "; a variable is written ${NAME}"
        if self._settings.cwd is not None or self._settings.command is None:
            return ""
        named = [word for word in _words(self._settings) if not word.startswith("-")]
        if not any(not Path(word).is_absolute() and (self._cwd / word).exists() for word in named):
            return ""
        return "; it runs in a folder of ours: `cwd: .` starts it where you are"

    def _environment(self) -> dict[str, str]:
        environment = {name: self._env[name] for name in INHERITED if name in self._env}
        for name, value in self._settings.env.items():
            text = str(value).lower() if isinstance(value, bool) else str(value)
            environment[name] = self._expanded(text)
        for name in self._settings.pass_env:
            environment[name] = self._secret(name)
        return environment

    def _headers(self) -> dict[str, str]:
        headers = {name: self._expanded(it) for name, it in self._settings.headers.items()}
        for header, name in self._settings.headers_env.items():
            value = self._secret(name).strip()
            if header.lower() == "authorization" and " " not in value:
                value = f"Bearer {value}"  # a bare token (RFC 6750, 2.1)
            headers[header] = value
        return headers

    def _authorized_by(self) -> str | None:
        """Return the variable the token comes from; None when none is sent."""
        for header, name in self._settings.headers_env.items():
            if header.lower() == "authorization":
                return name
        for header, value in self._settings.headers.items():
            if header.lower() == "authorization":
                return next((name for name, _ in REFERENCE.findall(value)), "`headers`")
        return None

    def _expanded(self, text: str) -> str:
        """Put variables and stored keys in the place of their names."""

        def value_of(found: re.Match[str]) -> str:
            value = self._lookup(found[1])
            if value:
                return value
            if found[2] is not None:
                return found[2]
            return self._secret(found[1])

        return REFERENCE.sub(value_of, text)

    def _secret(self, name: str) -> str:
        value = self._lookup(name)
        if not value:
            raise UnavailableError(
                f"{name} is not set: export {name}=… or `tieredllm keys set {name}`"
            )
        return value

    def _made(self, remote_tools: tuple[RemoteTool, ...]) -> tuple[Tool, ...]:
        if remote_tools is self._listed:
            return self._with_reader()
        tools: dict[str, Tool] = {}
        left_out, unusable = [], []
        for remote in remote_tools:
            if len(msgspec.json.encode(remote.input_schema)) > SCHEMA_BYTES:
                size = f"its schema has more than {SCHEMA_BYTES // 1024} KiB"
                left_out.append(f"{one_line(remote.name, 80)} is left out: {size}")
            elif remote.needs_task:
                what = "runs as a task only, which is not supported"
                unusable.append(f"{one_line(remote.name, 80)} {what}")
            else:
                tool = self._tool(remote, self._caller(remote))
                tools.setdefault(tool.name, tool)
        if self._connection is not None and self._connection.list_is_cut:
            left_out.append(f"it has more than {len(remote_tools)} tools: the rest is left out")
        self.left_out, self.unusable = tuple(left_out), tuple(unusable)
        self._listed, self._tools = remote_tools, tuple(tools.values())
        return self._with_reader()

    def _with_reader(self) -> tuple[Tool, ...]:
        """Return the tools, with one that reads what results linked to, once one did."""
        name = wire_name(self.prefix, READER)
        if not self._links or any(tool.name == name for tool in self._tools):
            return self._tools

        async def run(arguments: dict[str, Any], time: CallTime) -> Output:
            uri = arguments["uri"]
            if uri not in self._links:
                known = ", ".join(list(self._links)[-MAX_SHOWN_LINKS:])
                raise ToolFailureError(f"no result of {self.name} linked to it, but to {known}")
            connection = await self._at_hand(time)
            with self._masking():
                return await connection.read(self.name, uri)

        about = f"Read what a result of {self.name} linked to."
        reader = RemoteTool(
            name=READER,
            description=about,
            input_schema=READER_SCHEMA,
            read_only=True,
        )
        return (*self._tools, self._tool(reader, run))

    def _caller(self, remote: RemoteTool) -> Run:
        """Return what calls a tool."""

        async def call(arguments: dict[str, Any], time: CallTime) -> Output:
            connection = await self._at_hand(time)
            self._check_hint(remote, connection)
            return await connection.call(self.name, remote.name, arguments, time.renew)

        async def run(arguments: dict[str, Any], time: CallTime) -> Output:
            with self._masking():
                try:
                    output = await call(arguments, time)
                except SessionLostError:  # the call has not run
                    output = await call(arguments, time)
            self._links = dict.fromkeys([*self._links, *output.links][-MAX_LINKS:])
            return output

        return run

    def _tool(self, remote: RemoteTool, run: Run) -> Tool:
        about = remote.description or f"{remote.name} of {self.name}."
        return Tool(
            name=wire_name(self.prefix, remote.name),
            description=clean(about)[:DESCRIPTION_CHARACTERS],
            parameters={"type": "object", **remote.input_schema},
            read_only=self._is_read_only(remote),
            origin=f"mcp:{self.name}",
            timeout_s=self._settings.timeout_s,
            approve=self._settings.approve,
            private=self._settings.private,
            destination=(lambda _: self.name) if self._settings.sends else None,
            server=self.name,
            spelled=f"{self.name}__{remote.name}",
            identity=self._place(),
            check=schema_checker(remote.input_schema),
            run=run,
        )

    async def _at_hand(self, time: CallTime) -> Connection:
        """Return the connection for a call; its start is part of the call's time."""
        try:
            return await self._connected(time.deadline)
        except UnavailableError as exc:
            reason = f"the MCP server {self.name} is not available: {exc}"
            raise ToolFailureError(reason) from exc

    def _check_hint(self, remote: RemoteTool, connection: Connection) -> None:
        """Refuse a call that nobody was asked about for what its server no longer says.

        What it offers may have been remembered, and is known anew once it has been started.

        Raises:
            ToolFailureError: it says now that the tool may change something.
        """
        told = [it for it in connection.remote_tools if it.name == remote.name]
        if self._is_read_only(remote) and not all(map(self._is_read_only, told)):
            raise ToolFailureError(
                f"{self.name} says by now that this tool may change something, and nobody was "
                "asked: it was not run, and can be called again"
            )

    def _is_read_only(self, remote: RemoteTool) -> bool | None:
        """Return what the user says, and else what the server says, if it is believed."""
        if any(fnmatchcase(remote.name, pattern) for pattern in self._settings.read_only):
            return True
        return remote.read_only if self._settings.trust_hints else None


def _words(settings: McpSettings) -> list[str]:
    """Return a program and its arguments; one text of several words is taken apart."""
    command = settings.command
    if command is None:
        return []
    if isinstance(command, str):
        alone = not settings.args and not Path(command).expanduser().exists()
        first = [command]
        if alone and " " in command:
            with suppress(ValueError):  # a quote that does not end
                first = shlex.split(command)
    else:
        first = list(command)
    return [*first, *settings.args]


def _changed_at(cwd: Path, path: str) -> int | None:
    """Return when a file was changed; None when there is none, or a folder."""
    try:
        found = (cwd / path).stat()
    except (OSError, ValueError):
        return None
    return found.st_mtime_ns if stat.S_ISREG(found.st_mode) else None


def prefixes(servers: Iterable[str]) -> dict[str, str]:
    """Return what the names of each server's tools begin with, in the order of the profile.

    Of two servers whose names become the same (`a.b` and `a_b`), the later one's ends in a hash.
    """
    found: dict[str, str] = {}
    for server in servers:
        name = _UNFIT.sub("_", server)
        if not (name[:1].isalpha() or name[:1] == "_"):
            name = f"_{name}"  # Gemini takes no name that begins with a digit or a dash
        if f"{name}__" in found.values():
            name += "_" + hashlib.sha256(server.encode()).hexdigest()[:6]
        found[server] = f"{name}__"
    return found


def wire_name(prefix: str, tool: str) -> str:
    """Return the name a model knows a server's tool by: `server__tool`.

    Characters that vendors reject become `_`. A name that was changed so that another one could
    become the same, or that is too long, ends in a hash of the whole.
    """
    name = prefix + _UNFIT.sub("_", tool)
    if len(name) <= MAX_NAME and not _UNFIT.search(tool):
        return name
    digest = hashlib.sha256(f"{prefix}{tool}".encode()).hexdigest()[:6]
    return f"{name[: MAX_NAME - 7]}_{digest}"
