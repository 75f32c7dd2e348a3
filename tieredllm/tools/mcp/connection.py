"""Keep one connection to an MCP server, from its start to its end.

The SDK's client has to be entered and left by the same task, so each connection has a task of its
own; calls come from any.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import msgspec

from tieredllm.aio import in_thread
from tieredllm.profile.schema import McpSettings
from tieredllm.text import one_line
from tieredllm.tools.base import ToolFailureError
from tieredllm.tools.mcp.transport import Stderr

if TYPE_CHECKING:
    from mcp import Client
    from mcp_types import CallToolResult, ContentBlock
    from mcp_types import Tool as RemoteTool

__all__ = ["Connection", "Ended", "UnavailableError"]

Ended = Callable[[], None]
MakeTransport = Callable[[AsyncExitStack, Stderr, Ended], Awaitable[Any]]

CLOSE_S = 0.8
"""How long a server has to end; after that it is no longer waited for."""

_LOST = frozenset({-32000, -32600})
"""The SDK's codes for a connection that is gone, and for a session that a server has ended."""

MAX_TOOLS = 256
MAX_PAGES = 32
"""How much of a server's list of tools is read."""


class UnavailableError(Exception):
    """Report that a server cannot be used, and why."""


class Connection:
    """One life of a server. It starts when it is made.

    Args:
        transport: makes what the SDK's client connects through.
        settings: the server's.
    """

    def __init__(self, transport: MakeTransport, settings: McpSettings) -> None:
        self._transport = transport
        self._settings = settings
        self._stderr = Stderr()
        self._stop = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._ready: asyncio.Future[None] = self._loop.create_future()
        self._client: Client | None = None
        self._task = asyncio.create_task(self._live())
        self._task.add_done_callback(_noted)
        self._ready.add_done_callback(_noted)
        self.remote_tools: tuple[RemoteTool, ...] = ()
        self.problem = ""
        """Why it could not be started."""

    @property
    def alive(self) -> bool:
        """Whether it runs, or is being started, in the event loop that asks."""
        return not self._task.done() and self._loop is asyncio.get_running_loop()

    @property
    def started(self) -> bool:
        """Whether its tools have been known."""
        return self._ready.done() and not self.problem

    @property
    def last_words(self) -> str:
        """What it said last on stderr."""
        return one_line(self._stderr.last_line, 200) or "it gave no reason"

    async def until_ready(self, deadline: float) -> None:
        """Wait until its tools are known.

        Raises:
            UnavailableError: it could not be started, or the deadline came first.
        """
        try:
            async with asyncio.timeout_at(deadline):
                await asyncio.shield(self._ready)
        except TimeoutError as exc:
            raise UnavailableError("it has not started in time") from exc

    async def call(self, server: str, tool: str, arguments: dict[str, Any]) -> str:
        """Call a tool. Who gives up waiting is not held up by the server.

        Raises:
            ToolFailureError: the tool reports an error, or the server failed.
        """
        if self._client is None:
            raise ToolFailureError(f"the MCP server {server} has ended")
        task = asyncio.create_task(self._client.call_tool(tool, arguments))
        task.add_done_callback(_noted)
        try:
            await asyncio.wait({task, self._task}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            # The SDK's own clean-up may wait for a server that hangs; nothing here waits for it.
            task.cancel()
        if not task.done():
            raise ToolFailureError(await self._ended(server))
        try:
            result = task.result()
        except Exception as exc:
            if getattr(exc, "code", None) in _LOST:
                self._stop.set()  # the next use connects anew
            if self._stop.is_set() or self._task.done():
                raise ToolFailureError(await self._ended(server)) from exc
            raise ToolFailureError(f"the MCP server {server} failed: {_said(exc)}") from exc
        text = text_of(result)
        if result.is_error:
            raise ToolFailureError(text or "the tool reports an error, without saying which")
        return text

    async def close(self) -> None:
        """End it."""
        if self._loop is not asyncio.get_running_loop():
            return  # its loop has ended, and it with it
        self._stop.set()
        if not self._ready.done():
            self._task.cancel()  # it is still starting, and does not look
        await asyncio.wait({self._task}, timeout=CLOSE_S)
        if not self._task.done():
            self._task.cancel()
            await asyncio.wait({self._task}, timeout=0.1)

    async def _ended(self, server: str) -> str:
        await asyncio.wait({self._task}, timeout=CLOSE_S)  # its last words may be on their way
        return (
            f"the MCP server {server} has ended before its answer came, which may have taken "
            f"effect: {self.last_words}"
        )

    async def _live(self) -> None:
        """Open the connection, keep it until it is to end, and close it."""
        try:
            async with AsyncExitStack() as stack:
                async with asyncio.timeout(self._settings.start_timeout_s):
                    self._client = await self._entered(stack)
                    self.remote_tools = await _listed(self._client)
                self._settle(None)
                await self._stop.wait()
        except TimeoutError:
            self._settle(f"it has not started within {self._settings.start_timeout_s:g} s")
        except UnavailableError as exc:
            self._settle(str(exc))
        except Exception as exc:  # noqa: BLE001 - whatever it is, the server cannot be used
            self._settle(_said(exc), also=self._stderr.last_line)
        finally:
            self._client = None
            self._settle("it was stopped")

    async def _entered(self, stack: AsyncExitStack) -> Client:
        try:
            # Importing the SDK takes a second or so; the event loop goes on meanwhile.
            client_type = await in_thread(_imported)
        except ImportError as exc:
            raise UnavailableError("pip install 'tieredllm[mcp]' for MCP servers") from exc
        transport = await self._transport(stack, self._stderr, self._stop.set)
        client = client_type(transport, cache=None)
        entered: Client = await stack.enter_async_context(client)
        return entered

    def _settle(self, problem: str | None, *, also: str = "") -> None:
        if self._ready.done():
            return
        if problem is None:
            self._ready.set_result(None)
        else:
            last = one_line(also, 200)
            self.problem = f"{problem} ({last})" if last else problem
            self._ready.set_exception(UnavailableError(self.problem))


def _imported() -> type[Client]:
    import logging

    from mcp import Client

    # Python prints what a library logs when nobody listens; the SDK logs with tracebacks.
    logging.getLogger("mcp").addHandler(logging.NullHandler())
    return Client


async def _listed(client: Client) -> tuple[RemoteTool, ...]:
    """Read the list of tools, page by page, up to a bound."""
    tools: list[RemoteTool] = []
    cursor: str | None = None
    for _ in range(MAX_PAGES):
        page = await client.list_tools(cursor=cursor)
        tools += page.tools
        cursor = page.next_cursor
        if cursor is None or len(tools) >= MAX_TOOLS:
            break
    return tuple(tools[:MAX_TOOLS])


def _said(exc: BaseException) -> str:
    """Say in one line what went wrong; of several things at once, the first."""
    while isinstance(exc, BaseExceptionGroup):
        exc = exc.exceptions[0]
    if isinstance(exc, FileNotFoundError) and exc.filename:
        return f"there is no {exc.filename}"
    said = one_line(str(exc), 300)
    return said if said and type(exc).__name__ == "MCPError" else f"{type(exc).__name__}: {said}"


def _noted(future: asyncio.Future[Any]) -> None:
    """Look at what nobody may be waiting for any more, so that asyncio does not complain."""
    if not future.cancelled():
        future.exception()


def text_of(result: CallToolResult) -> str:
    """Return a result's texts; what is no text is named.

    Structured content is given when there is no text beside it: servers are to send both
    (https://modelcontextprotocol.io/specification/2025-11-25/server/tools#structured-content).
    """
    texts = [_block(block) for block in result.content]
    if not texts and result.structured_content is not None:
        return msgspec.json.encode(result.structured_content).decode()
    return "\n\n".join(text for text in texts if text)


def _block(block: ContentBlock) -> str:
    if block.type == "text":
        return block.text
    if block.type == "resource":
        text: Any = getattr(block.resource, "text", None)
        if isinstance(text, str):
            return text
        return f"[{block.resource.mime_type or 'binary'} resource {block.resource.uri}, not shown]"
    if block.type == "resource_link":
        return f"[{block.name}]({block.uri})"
    return f"[{block.type} of type {block.mime_type}, not shown]"
