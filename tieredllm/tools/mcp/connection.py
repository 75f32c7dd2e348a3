"""Keep one connection to an MCP server, from its start to its end.

The SDK's session has to be entered and left by the same task, so each connection has a task of its
own; calls come from any.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

from tieredllm.aio import in_thread
from tieredllm.profile.schema import McpSettings
from tieredllm.text import one_line
from tieredllm.tools.base import Output, ToolFailureError
from tieredllm.tools.mcp.results import RemoteTool, describe, output_of, resource_of
from tieredllm.tools.mcp.transport import Stderr
from tieredllm.version import __version__

if TYPE_CHECKING:
    from mcp import ClientSession
    from mcp_types import CallToolResult

__all__ = ["Connection", "Era", "Life", "SessionLostError", "UnavailableError"]

T = TypeVar("T")

Era = Literal["modern", "handshake"]
"""Whether a server answers `server/discover` (2026-07-28), or `initialize` (until 2025-11-25)."""

CLOSE_S = 0.8
"""How long a server has to end; after that it is no longer waited for."""

DISCOVER_S = 2.0
"""How long a server may be silent to `server/discover`; then it is asked to `initialize`."""

_UNSUPPORTED_VERSION = -32022
"""Says, in answer to `initialize`, that a server has heard an earlier `server/discover`."""

MAX_TOOLS = 1024
MAX_PAGES = 32
"""How much of a server's list of tools is read."""


class UnavailableError(Exception):
    """Report that a server cannot be used, and why.

    Attributes:
        is_mute: whether it was waited for in vain.
    """

    def __init__(self, reason: str, *, is_mute: bool = False) -> None:
        self.is_mute = is_mute
        super().__init__(reason)


class SessionLostError(ToolFailureError):
    """Report that a server does not know the session any more: the call has not run."""


class Life(Protocol):
    """One start of a server: what the SDK's session talks through."""

    async def start(self, stack: AsyncExitStack) -> None:
        """Start it; the SDK is not there yet. It ends with the stack.

        Raises:
            OSError: it cannot be started.
            UnavailableError: something it needs is missing.
        """
        ...

    async def streams(self, stack: AsyncExitStack) -> tuple[Any, Any]:
        """Return what is read from and written to; they end with the stack."""
        ...

    @property
    def has_ended(self) -> asyncio.Event:
        """Is set when it is gone."""
        ...

    def begin(self) -> None:
        """Take note that something is asked next, in this context."""
        ...

    def is_over(self, exc: BaseException) -> bool:
        """Whether a failure means that it is gone; an error of a server's own does not."""
        ...

    @property
    def has_heard(self) -> bool:
        """Whether it may have read anything that it was sent."""
        ...

    def is_unknown(self, exc: BaseException) -> bool:
        """Whether a failure means that the server does not know it, and what was asked not run."""
        ...

    def explain(self, exc: BaseException) -> str | None:
        """Say what the transport knows of a failure, and the SDK does not tell; None: nothing."""
        ...


MakeLife = Callable[[Stderr], Life]


class Connection:
    """One connection to a server. It starts when it is made.

    Args:
        make: makes a life of the server; twice, when the first ends of a question it does not know.
        settings: the server's.
        era: what it speaks, where that is known.
        said: takes each line that it says on stderr.
    """

    def __init__(
        self,
        make: MakeLife,
        settings: McpSettings,
        era: Era | None = None,
        said: Callable[[str], None] | None = None,
    ) -> None:
        self._make = make
        self._settings = settings
        self.era = era
        """What it speaks; known once it has started."""
        self._stderr = Stderr(said)
        self._stop = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._ready: asyncio.Future[None] = self._loop.create_future()
        self._session: ClientSession | None = None
        self._life: Life | None = None
        self._task = asyncio.create_task(self._live())
        self._task.add_done_callback(_noted)
        self._ready.add_done_callback(_noted)
        self.remote_tools: tuple[RemoteTool, ...] = ()
        self.instructions = ""
        """What it tells a model about itself."""
        self.list_is_cut = False
        """Whether it has more tools than are read."""
        self.list_has_changed = False
        """Whether it has said so since the list was read."""

    @property
    def alive(self) -> bool:
        """Whether it runs, or is being started, in the event loop that asks."""
        over = self._task.done() or self._stop.is_set()
        return not over and self._loop is asyncio.get_running_loop()

    @property
    def is_settled(self) -> bool:
        """Whether it has started, or could not."""
        return self._ready.done()

    @property
    def failure(self) -> BaseException | None:
        """Why it could not be started; None also while that is not known."""
        return self._ready.exception() if self._ready.done() else None

    @property
    def last_words(self) -> str:
        """What it said last on stderr."""
        return self._last_words(0)

    async def until_ready(self, deadline: float) -> None:
        """Wait until its tools are known.

        Raises:
            UnavailableError: it could not be started, or the deadline came first.
        """
        began = self._loop.time()
        try:
            async with asyncio.timeout_at(deadline):
                await asyncio.shield(self._ready)
        except TimeoutError as exc:
            waited_s = self._loop.time() - began
            raise UnavailableError(
                f"it has not started in time ({waited_s:.1f} s); `tieredllm tools list` gives it "
                f"its {self._settings.start_timeout_s:g} s",
                is_mute=True,
            ) from exc

    async def refresh(self) -> None:
        """Read the list of tools again, after the server has said that it changed."""
        if self._session is None or not self.list_has_changed:
            return
        self.list_has_changed = False
        try:
            async with asyncio.timeout(self._settings.start_timeout_s):
                await self._list(self._session)
        except Exception as exc:  # noqa: BLE001 - the old list is better than none
            self._stderr.add(f"error: tools/list failed: {_said(exc)}\n".encode())

    async def call(
        self, server: str, tool: str, arguments: dict[str, Any], renew: Callable[[], None]
    ) -> Output:
        """Call a tool. Who gives up waiting is not held up by the server.

        Args:
            server: its name, for messages.
            tool: the tool's name.
            arguments: the tool's.
            renew: is called at each notification of progress.

        Raises:
            ToolFailureError: the tool reports an error, or the server failed.
            SessionLostError: the server did not know the session, and the call has not run.
        """

        async def note_progress(progress: float, total: float | None, message: str | None) -> None:  # noqa: ARG001
            renew()

        def call(session: ClientSession) -> Awaitable[CallToolResult]:
            return session.call_tool(tool, arguments, progress_callback=note_progress)

        result = await self._asked(server, call)
        output = output_of(result.content)
        if result.is_error:
            what = output.text or "the tool reports an error, without saying which"
            raise ToolFailureError(what)
        return output

    async def read(self, server: str, uri: str) -> Output:
        """Read a resource.

        Args:
            server: the server's name, for messages.
            uri: the resource's address.

        Raises:
            ToolFailureError: the server failed, or has no such resource.
        """
        result = await self._asked(server, lambda session: session.read_resource(uri))
        return resource_of(result.contents)

    async def _asked(self, server: str, ask: Callable[[ClientSession], Awaitable[T]]) -> T:
        """Ask the server, until it has ended."""
        session = self._session
        if session is None:
            raise ToolFailureError(f"the MCP server {server} has ended")
        if self._life is not None:
            self._life.begin()
        said_before = self._stderr.count
        task = asyncio.ensure_future(ask(session))
        task.add_done_callback(_noted)
        try:
            await asyncio.wait({task, self._task}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            # The SDK's own clean-up may wait for a server that hangs; nothing here waits for it.
            task.cancel()
        if not task.done():
            raise ToolFailureError(await self._ended(server, said_before))
        try:
            return task.result()
        except Exception as exc:
            life = self._life
            if life is not None and life.is_over(exc):
                self._stop.set()  # the next use connects anew
            reason = (life.explain(exc) if life is not None else None) or _said(exc)
            if life is not None and life.is_unknown(exc):
                raise SessionLostError(f"the MCP server {server} failed: {reason}") from exc
            if self._stop.is_set() or self._task.done():
                raise ToolFailureError(await self._ended(server, said_before)) from exc
            raise ToolFailureError(f"the MCP server {server} failed: {reason}") from exc

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

    async def _ended(self, server: str, said_before: int) -> str:
        await asyncio.wait({self._task}, timeout=CLOSE_S)  # its last words may be on their way
        return (
            f"the MCP server {server} has ended before its answer came, which may have taken "
            f"effect: {self._last_words(said_before)}"
        )

    def _last_words(self, after: int) -> str:
        return one_line(self._stderr.reason(after), 200) or "it gave no reason"

    async def _live(self) -> None:
        """Open the connection, keep it until it is to end, and close it."""
        try:
            async with AsyncExitStack() as stack:
                async with asyncio.timeout(self._settings.start_timeout_s):
                    life = await self._connected(stack)
                self._settle(None)
                await self._until_over(life)
        except TimeoutError:
            self._settle(
                f"it has not started within {self._settings.start_timeout_s:g} s (start_timeout_s)",
                also=self._stderr.reason(),
                is_mute=True,
            )
        except UnavailableError as exc:
            self._settle(str(exc))
        except Exception as exc:  # noqa: BLE001 - whatever it is, the server cannot be used
            known = self._life.explain(exc) if self._life is not None else None
            self._settle(known or _said(exc), also="" if known else self._stderr.reason())
            self._stderr.add(f"error: {known or _said(exc)}\n".encode())
        finally:
            self._session = None
            self._settle("it was stopped")

    async def _until_over(self, life: Life) -> None:
        """Wait for whoever ends it first: the server, or this side."""
        ends = [asyncio.create_task(it.wait()) for it in (life.has_ended, self._stop)]
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._stop.set()
            for end in ends:
                end.cancel()

    async def _connected(self, stack: AsyncExitStack) -> Life:
        """Start the server, agree on what to speak, and read its tools.

        Servers of the `rmcp` package before 3 end when they are asked to discover
        (modelcontextprotocol/go-sdk#1177): they are started again for `initialize`. One that ended
        without having read anything ended of something else.
        """
        async with AsyncExitStack() as first:
            life, session = await self._opened(first)
            agreed = await self._agree(session, life)
            if agreed:
                stack.push_async_exit(first.pop_all())
        if not agreed:
            self.era = "handshake"
            life, session = await self._opened(stack)
            await self._agree(session, life)
        await self._list(session)
        self._session = session
        return life

    async def _opened(self, stack: AsyncExitStack) -> tuple[Life, ClientSession]:
        life = self._life = self._make(self._stderr)
        await life.start(stack)
        try:
            # Importing the SDK takes a second or so; the event loop, and the server, go on.
            session_type, info = await in_thread(_imported)
            read, write = await life.streams(stack)
        except ImportError as exc:
            raise UnavailableError("pip install 'tieredllm[mcp]' for MCP servers") from exc
        session = session_type(read, write, client_info=info, message_handler=self._take_note)
        return life, await stack.enter_async_context(session)

    async def _agree(self, session: ClientSession, life: Life) -> bool:
        """Agree on a version of the protocol; False when the server has to be started again."""
        if self.era != "handshake":
            try:
                async with asyncio.timeout(DISCOVER_S):
                    await session.discover()
            except Exception as exc:
                # An error, silence and nonsense all mean: it may know `initialize`.
                if life.is_over(exc):
                    if self.era == "modern" or not life.has_heard:
                        raise
                    return False
            else:
                self._greeted(session, "modern")
                return True
        try:
            await session.initialize()
            self._greeted(session, "handshake")
        except Exception as exc:
            if self.era is None and life.is_over(exc) and life.has_heard:
                return False  # it was slow to start, and ended of the first question
            if getattr(exc, "code", None) != _UNSUPPORTED_VERSION:
                raise
            # It was slow to start, and has heard the first question by now.
            await session.discover()
            self._greeted(session, "modern")
        return True

    def _greeted(self, session: ClientSession, era: Era) -> None:
        self.era = era
        self.instructions = session.instructions or ""

    async def _list(self, session: ClientSession) -> None:
        """Read the list of tools, page by page, up to a bound."""
        from mcp_types import PaginatedRequestParams

        tools: list[RemoteTool] = []
        cursor: str | None = None
        for _ in range(MAX_PAGES):
            params = None if cursor is None else PaginatedRequestParams(cursor=cursor)
            page = await session.list_tools(params=params)
            tools += [describe(tool) for tool in page.tools]
            cursor = page.next_cursor
            if cursor is None or len(tools) >= MAX_TOOLS:
                break
        self.list_is_cut = cursor is not None or len(tools) > MAX_TOOLS
        self.remote_tools = tuple(tools[:MAX_TOOLS])

    async def _take_note(self, message: Any) -> None:
        if getattr(message, "method", None) == "notifications/tools/list_changed":
            self.list_has_changed = True

    def _settle(self, problem: str | None, *, also: str = "", is_mute: bool = False) -> None:
        if self._ready.done():
            return
        if problem is None:
            self._ready.set_result(None)
        else:
            last = f" ({said})" if (said := one_line(also, 200)) else ""
            self._ready.set_exception(UnavailableError(f"{problem}{last}", is_mute=is_mute))


def _imported() -> tuple[type[ClientSession], Any]:
    import logging

    from mcp import ClientSession
    from mcp_types import Implementation

    # Python prints what a library logs when nobody listens; the SDK logs with tracebacks, and its
    # `mcp/client/session.py` (2.3.0) under another name than its own.
    for name in ("mcp", "client"):
        logging.getLogger(name).addHandler(logging.NullHandler())
    return ClientSession, Implementation(name="tieredllm", version=__version__)


def _said(exc: BaseException) -> str:
    """Say in one line what went wrong; of several things at once, the first."""
    while isinstance(exc, BaseExceptionGroup):
        exc = exc.exceptions[0]
    if isinstance(exc, FileNotFoundError) and exc.filename:
        return f"there is no {exc.filename}"
    said = one_line(str(exc), 300)
    if type(exc).__name__ != "MCPError":
        return f"{type(exc).__name__}: {said}"
    data = getattr(getattr(exc, "error", None), "data", None)
    if data is None:
        return said or "an error without a message"
    import msgspec

    told = data if isinstance(data, str) else msgspec.json.encode(data).decode()
    return f"{said} ({one_line(told, 300)})"


def _noted(future: asyncio.Future[Any]) -> None:
    """Look at what nobody may be waiting for any more, so that asyncio does not complain."""
    if not future.cancelled():
        future.exception()
