"""Run a server as a child process and exchange lines of JSON-RPC with it.

The SDK has such a transport too, and since 2.x it ends the whole process tree, takes an `env` and
leads stderr elsewhere. Delete this module when it also takes its graces as arguments and kills when
the interpreter ends: mcp 2.3.0 waits 0.5 + 2 + 2 + 2 s, shielded from cancellation
(`mcp/client/stdio.py`, _WRITER_FLUSH_TIMEOUT to _KILL_REAP_TIMEOUT), where Ctrl-C has to end the
program within a second whatever a server does, and nothing kills a server whose event loop was torn
down.

Wire format: https://modelcontextprotocol.io/specification/2025-11-25/basic/transports#stdio
"""

from __future__ import annotations

import asyncio
import atexit
import math
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
    from mcp.shared.message import SessionMessage

    Incoming = MemoryObjectReceiveStream[SessionMessage | Exception]
    Outgoing = MemoryObjectSendStream[SessionMessage]

__all__ = ["INHERITED", "Stderr", "running"]

_ON_POSIX = ("HOME", "LANG", "LC_ALL", "LOGNAME", "PATH", "SHELL", "TERM", "TMPDIR", "TZ", "USER")
_ON_WINDOWS = (
    *("APPDATA", "COMSPEC", "HOMEDRIVE", "HOMEPATH", "LOCALAPPDATA", "PATH", "PATHEXT"),
    *("PROCESSOR_ARCHITECTURE", "SYSTEMDRIVE", "SYSTEMROOT", "TEMP", "USERNAME", "USERPROFILE"),
)
INHERITED = _ON_WINDOWS if sys.platform == "win32" else _ON_POSIX
"""The variables a server gets from the environment; no key is among them."""

EOF_S = 0.3
TERM_S = 0.15
KILL_S = 0.15
"""How long a server has to end after its stdin closes, after SIGTERM, and after SIGKILL."""

MAX_LINE_BYTES = 16 * 1024 * 1024
"""The longest message; a server that sends a longer one is ended."""

MAX_BACKLOG = 10_000
"""The most messages that wait to be looked at; a server that sends more is ended."""

MAX_STRAY_LINES = 1000
"""How many lines that are no messages are overlooked; a server that prints more is ended."""

STDERR_BYTES = 4096
_KILL = getattr(signal, "SIGKILL", signal.SIGTERM)


class Stderr:
    """Keep the last of what a server has said on stderr."""

    def __init__(self) -> None:
        self._raw = b""

    def add(self, data: bytes) -> None:
        """Take more of it."""
        self._raw = (self._raw + data)[-STDERR_BYTES:]

    @property
    def last_line(self) -> str:
        """The last line that is not blank; empty when there is none."""
        lines = self._raw.decode("utf-8", "replace").splitlines()
        return next((line.strip() for line in reversed(lines) if line.strip()), "")


class _Pipes(asyncio.SubprocessProtocol):
    """Cut the server's stdout into lines."""

    def __init__(
        self, line: Callable[[bytes], bool], ended: Callable[[], None], stderr: Stderr
    ) -> None:
        self._line = line
        self._ended = ended
        self._stderr = stderr
        self._parts: list[bytes] = []
        self._size = 0
        self._given_up = False
        self.exited = asyncio.Event()

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        if fd != 1:
            self._stderr.add(data)
        if fd != 1 or self._given_up:
            return
        *whole, rest = data.split(b"\n")
        for part in whole:
            line = b"".join([*self._parts, part])
            self._parts, self._size = [], 0
            if line.strip() and not self._line(line):
                self._give_up()
                return
        self._parts.append(rest)
        self._size += len(rest)
        if self._size > MAX_LINE_BYTES:
            self._give_up()

    def _give_up(self) -> None:
        self._given_up = True
        self._parts = []
        self._ended()

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:  # noqa: ARG002
        if fd == 1:
            self._ended()

    def process_exited(self) -> None:
        self.exited.set()
        self._ended()


class _Server:
    """The child process, and end it for sure."""

    def __init__(self, transport: asyncio.SubprocessTransport, pipes: _Pipes) -> None:
        self._transport = transport
        self._pipes = pipes
        self._pid = transport.get_pid()
        self._over = False
        atexit.register(self.kill)

    def write(self, data: bytes) -> None:
        stdin = self._transport.get_pipe_transport(0)
        if isinstance(stdin, asyncio.WriteTransport) and not stdin.is_closing():
            stdin.write(data)

    async def stop(self) -> None:
        """Ask it to end, then make it end; all in less than a second."""
        stdin = self._transport.get_pipe_transport(0)
        if stdin is not None:
            stdin.close()
        if not await self._has_exited(EOF_S):
            self._signal(signal.SIGTERM)
            await self._has_exited(TERM_S)
        # The group may outlive its leader: what npx starts is not ended with npx.
        self._signal(_KILL)
        await self._has_exited(KILL_S)
        self.kill()

    def kill(self) -> None:
        """End it and all it has started, without waiting."""
        if self._over:
            return
        self._over = True
        atexit.unregister(self.kill)
        self._signal(_KILL)
        with suppress(ProcessLookupError, PermissionError, RuntimeError):
            self._transport.close()

    def _signal(self, number: int) -> None:
        with suppress(ProcessLookupError, PermissionError):
            if sys.platform == "win32":
                self._transport.send_signal(number)
            else:
                os.killpg(self._pid, number)

    async def _has_exited(self, seconds: float) -> bool:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._pipes.exited.wait()
        return self._pipes.exited.is_set()


@asynccontextmanager
async def running(
    command: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: str,
    stderr: Stderr,
    ended: Callable[[], None],
) -> AsyncGenerator[tuple[Incoming, Outgoing]]:
    """Start a server; give the streams that the SDK's client reads from and writes to.

    Args:
        command: the program and its arguments.
        env: its whole environment.
        cwd: where it runs.
        stderr: gets what it says there.
        ended: is called when it ends, or has to be ended.

    Raises:
        OSError: it cannot be started.
    """
    import anyio
    from mcp.shared.message import SessionMessage
    from mcp_types import jsonrpc_message_adapter

    incoming, received = anyio.create_memory_object_stream[SessionMessage | Exception](math.inf)
    outgoing, to_send = anyio.create_memory_object_stream[SessionMessage](math.inf)

    strays: list[None] = []

    def line(data: bytes) -> bool:
        try:
            message = SessionMessage(jsonrpc_message_adapter.validate_json(data, by_name=False))
        except ValueError:  # some servers print to stdout what belongs on stderr
            stderr.add(data + b"\n")
            strays.append(None)
            return len(strays) <= MAX_STRAY_LINES
        with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
            incoming.send_nowait(message)
        return incoming.statistics().current_buffer_used <= MAX_BACKLOG

    async def send() -> None:
        async for message in to_send:
            text = message.message.model_dump_json(by_alias=True, exclude_unset=True)
            server.write(text.encode() + b"\n")

    def over() -> None:
        incoming.close()
        ended()

    program = shutil.which(command[0], path=env.get("PATH")) or command[0]
    with incoming, received, outgoing, to_send:
        transport, pipes = await asyncio.get_running_loop().subprocess_exec(
            lambda: _Pipes(line, over, stderr),
            program,
            *command[1:],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(env),
            cwd=cwd,
            start_new_session=True,
        )
        server = _Server(transport, pipes)
        sender = asyncio.create_task(send())
        try:
            yield received, outgoing
        finally:
            sender.cancel()
            try:
                await server.stop()
            finally:
                server.kill()
