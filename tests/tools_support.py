"""Call tools in tests, and play web servers to them."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from tieredllm.profile.schema import Tools
from tieredllm.tools.approval import Approval
from tieredllm.tools.base import Tool
from tieredllm.tools.builtin.egress import EgressPolicy
from tieredllm.tools.execute import ToolSession
from tieredllm.tools.registry import Toolbox
from tieredllm.types import ToolCall, ToolResult

MCP_SERVER = Path(__file__).parent / "tools_mcp_server.py"
RAW_SERVER = Path(__file__).parent / "tools_raw_server.py"
HERE = EgressPolicy(
    ports=None,
    allowed=(ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128")),
)
"""A reach that takes in this machine."""


def used(tool: Tool, **arguments: Any) -> str:
    """Check arguments and run a tool; failures are raised."""

    async def use() -> str:
        async with asyncio.timeout(30):
            deadline = asyncio.get_running_loop().time() + 30
            return await tool.run(tool.check(arguments), deadline)

    return asyncio.run(use())


def stub(
    name: str = "stub",
    run: Callable[[dict[str, Any]], Awaitable[str]] | None = None,
    *,
    read_only: bool | None = True,
    timeout_s: float = 30.0,
) -> Tool:
    """Make a tool that takes anything and gives `done`, or what a function gives."""

    async def do(arguments: dict[str, Any], deadline: float) -> str:
        return await run(arguments) if run else "done"

    return Tool(
        name=name,
        description="",
        parameters={"type": "object"},
        read_only=read_only,
        origin="builtin",
        timeout_s=timeout_s,
        check=lambda arguments: arguments,
        run=do,
    )


class Box(Toolbox):
    """A toolbox of ready-made tools."""

    def __init__(self, *tools: Tool) -> None:
        super().__init__(Tools(), cwd=Path.cwd(), env={})
        self.tools = tools

    async def granted(self, grant, *, deadline=None):
        if grant == "none":
            return ()
        return tuple(tool for tool in self.tools if grant == "all" or tool.name in grant)


def session(*tools: Tool, approval: Approval | None = None, max_rounds: int = 8) -> ToolSession:
    """Start a request over ready-made tools, everything approved."""
    return ToolSession(Box(*tools), approval=approval or Approval("always"), max_rounds=max_rounds)


def call(name: str = "stub", arguments: Any = None, *, call_id: str = "1") -> ToolCall:
    """Make a call; arguments that are no text become JSON."""
    if not isinstance(arguments, str):
        arguments = "" if arguments is None else msgspec.json.encode(arguments).decode()
    return ToolCall(id=call_id, name=name, arguments=arguments)


async def carried_out(
    tools: ToolSession, *calls: ToolCall, grant: Any = "all", tier: str = "primary", left_s=10.0
) -> list[ToolResult]:
    """Carry out one round."""
    deadline = asyncio.get_running_loop().time() + left_s
    return await tools.execute_round(calls, grant, tier=tier, deadline=deadline)


def declared(**values: Any) -> Tools:
    """Read what a profile says under `tools`."""
    return msgspec.convert(values, Tools)


def mcp_toolbox(folder: Path, how: str = "stdio", **settings: Any) -> Toolbox:
    """Declare the counting server, started as a program, under the name `docs`."""
    import os

    command = [sys.executable, str(MCP_SERVER), str(folder / "count"), how]
    return Toolbox(
        declared(mcp={"docs": {"command": command} | settings}),
        cwd=folder,
        env={name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        | {"OPENAI_API_KEY": "sk-secret", "TOKEN": "t0ken"},
    )


def alive(pid):
    """Whether a process runs; one that has ended and waits to be noticed does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def servers(folder, script=MCP_SERVER):
    """Give the processes that run a server, the counting one, for a folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue
            if str(folder) in line and script.name in line and alive(entry.name):
                found.append(int(entry.name))
    return found


class Web:
    """A web server that answers each path with exact bytes."""

    def __init__(self) -> None:
        self.pages: dict[str, bytes | Callable[[asyncio.StreamWriter], Awaitable[None]]] = {}
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.connections = 0
        self.port = 0
        self._writers: list[asyncio.StreamWriter] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.append(writer)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            start, *lines = head.split("\r\n")
            path = start.split(" ")[1]
            headers = {
                name.lower(): value.strip()
                for name, _, value in (line.partition(":") for line in lines if line)
            }
            self.requests.append((path, headers))
            answer = self.pages[path.partition("?")[0]]
            if isinstance(answer, bytes):
                writer.write(answer)
                await writer.drain()
            else:
                await answer(writer)
        writer.close()

    async def aclose(self) -> None:
        """End every connection and see it go."""
        for writer in self._writers:
            writer.transport.abort()
        for _ in range(3):
            await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def web(tls: Any = None) -> AsyncIterator[Web]:
    """Run a web server on this machine."""
    site = Web()
    server = await asyncio.start_server(site._serve, "127.0.0.1", 0, ssl=tls)
    site.port = server.sockets[0].getsockname()[1]
    try:
        yield site
    finally:
        server.close()
        await site.aclose()


def page(
    body: bytes | str,
    kind: str = "text/html; charset=utf-8",
    status: str = "200 OK",
    headers: Mapping[str, str] | None = None,
) -> bytes:
    """Write a response."""
    raw = body.encode() if isinstance(body, str) else body
    lines = {"Content-Type": kind, "Content-Length": str(len(raw))} | dict(headers or {})
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items() if value)
    return f"HTTP/1.1 {status}\r\n{head}\r\n".encode() + raw


def redirect(location: str, status: str = "302 Found") -> bytes:
    """Write a redirect."""
    return page("", status=status, headers={"Location": location})
