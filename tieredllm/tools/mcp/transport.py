"""Run a server as a child process and exchange lines of JSON-RPC with it.

The SDK has such a transport too, and since 2.x it ends the whole process tree, takes an `env` and
leads stderr elsewhere. Delete this module when it also takes its graces as arguments and kills when
the interpreter ends: mcp 2.3.0 waits 0.5 + 2 + 2 + 2 s, shielded from cancellation
(`mcp/client/stdio.py`, _WRITER_FLUSH_TIMEOUT to _KILL_REAP_TIMEOUT), where Ctrl-C has to end the
program within a second whatever a server does, and nothing kills a server whose event loop was torn
down.

A server is started before the SDK is imported, which takes longer than most servers do.

Wire format: https://modelcontextprotocol.io/specification/2025-11-25/basic/transports#stdio
"""

from __future__ import annotations

import asyncio
import atexit
import errno
import math
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import msgspec

from tieredllm.lenient_json import NotJsonError, decode, encode
from tieredllm.profile.schema import ORDINARY_VARIABLES
from tieredllm.text import clean, one_line
from tieredllm.tools.mcp.results import mend

if TYPE_CHECKING:
    from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
    from mcp.shared.message import SessionMessage

    Incoming = MemoryObjectReceiveStream[SessionMessage | Exception]
    Outgoing = MemoryObjectSendStream[SessionMessage]

__all__ = ["INHERITED", "MAX_LINE_BYTES", "Exchange", "ServerProcess", "Stderr"]

_FOR_THE_WAY_OUT = (
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"),
    *("http_proxy", "https_proxy", "all_proxy", "no_proxy"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
    *("NODE_EXTRA_CA_CERTS", "UV_INDEX_URL", "UV_DEFAULT_INDEX", "PIP_INDEX_URL"),
    *("NPM_CONFIG_REGISTRY", "npm_config_registry", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"),
)
"""What a program needs to reach anything behind a company's proxy, npx and uvx among them."""
INHERITED = (*ORDINARY_VARIABLES, *_FOR_THE_WAY_OUT)
"""The variables a server gets from the environment; no key is among them."""

EOF_S = 0.3
TERM_S = 0.15
KILL_S = 0.15
"""How long a server has to end after its stdin closes, after SIGTERM, and after SIGKILL."""

GONE_S = 0.5
"""How long the program waits for a killed server to be gone."""

MAX_LINE_BYTES = 32 * 1024 * 1024
"""The longest message that is read; a longer one is an error of the call it answers."""

MAX_BACKLOG = 10_000
"""The most messages that wait to be looked at; a server that sends more is ended."""

MAX_STRAY_LINES = 1000
"""How many lines that are no messages are overlooked; a server that prints more is ended."""

STDERR_BYTES = 16 * 1024
_KILL = getattr(signal, "SIGKILL", signal.SIGTERM)
_LAUNCHED = (sys.executable, "-I", "-S", str(Path(__file__).with_name("launch.py")))

_INTERNAL = -32603
"""JSON-RPC 2.0, 5.1: an internal error."""
_MESSAGE = re.compile(r'\{\s*"(?:jsonrpc|id|result|error)"\s*:')
"""How a message begins that is glued to something else."""
_ID = re.compile(rb'"id"\s*:\s*(\d{1,15}|"[^"\\]{1,100}")')
_NO_REASON = re.compile(
    r"^(?:Node\.js v[0-9]|npm (?:error|ERR!) (?:A complete log|code |[A-Za-z]:\\|/)|\s*at )"
    r"|Processing request of type|transport 'stdio'|^\s*File \"|^Traceback|^[\s^~]*$|^\s*[})\]]"
    r"|^\s*(?:note: |exit status \d|goroutine \d|(?:main|[\w.-]+/[\w./-]+)\.[\w.*()]+\()"
    r"|^\s*(?:\d+: |\.\.\. \d+ more|Caused by: *|\[cause\]:)|^Run '[^']*--help'"
)
"""Lines of stderr that say nothing of what went wrong: Node's and npm's last lines, frames of
tracebacks, what servers of the `mcp` and `fastmcp` packages log, what Go, Rust, Java and docker say
after it."""
_REASON = re.compile(
    r"\b\w*(?:Error|Exception)\b|\berror\b|\bfatal\b|^panic: |^thread '.*' panicked"
    r"|was not found in the package registry",  # uv 0.9's, of several lines
    re.IGNORECASE,
)
_USAGE = re.compile(r"^usage:\s*$", re.IGNORECASE | re.MULTILINE)
"""How the help begins that Go's cobra prints after an error."""


class Stderr:
    """The last of what a server has said on stderr.

    Args:
        said: takes each line of it.
    """

    def __init__(self, said: Callable[[str], None] | None = None) -> None:
        self._raw = b""
        self.count = 0
        """How many bytes it has said."""
        self._said = said
        self._rest = b""

    def add(self, data: bytes) -> None:
        """Take more of it."""
        self._raw = (self._raw + data)[-STDERR_BYTES:]
        self.count += len(data)
        if self._said is not None:
            *lines, rest = (self._rest + data).split(b"\n")
            self._rest = rest[-STDERR_BYTES:]
            for line in lines:
                self._said(clean(line.decode("utf-8", "replace")).rstrip())

    def end(self) -> None:
        """Take note that no more will come: the last line may have no end."""
        if self._rest:
            self.add(b"\n")

    def reason(self, after: int = 0) -> str:
        """Return the line that most likely says why the server has ended; empty for none.

        That is the last one that names an error; of npm's, which comments its errors, the first.

        Args:
            after: how many bytes it had said before it was well.
        """
        raw = self._raw[max(0, len(self._raw) - (self.count - after)) :]
        text = clean(raw.decode("utf-8", "replace"))
        help_at = _USAGE.search(text)
        if help_at is not None and _REASON.search(text, 0, help_at.start()):
            text = text[: help_at.start()]
        lines = [it.strip() for it in text.splitlines() if not _NO_REASON.search(it)]
        of_npm = [it for it in lines if it.startswith(("npm error", "npm ERR!"))]
        if of_npm:
            return of_npm[0]
        errors = [line for line in lines if _REASON.search(line)]
        return next(iter([*errors[-1:], *lines[-1:]]), "")


class Exchange:
    """What was asked over one connection, so that answers are mended before the SDK sees them.

    Args:
        stderr: gets what a server logs over the connection.
    """

    def __init__(self, stderr: Stderr | None = None) -> None:
        self._methods: dict[str, str] = {}
        self._stderr = stderr

    def sent(self, request_id: Any, method: Any) -> None:
        """Take note of a message; one without an id or a method is answered by nobody."""
        if method is not None and request_id is not None:
            self._methods[str(request_id)] = method

    def answered(self, request_id: Any, result: Any) -> dict[str, Any]:
        """Return a result as the SDK takes it."""
        return mend(self._methods.pop(str(request_id), ""), result)

    def read(self, line: bytes) -> list[dict[str, Any]]:
        """Return the messages of a line: one, a batch of them, or none.

        A banner without a newline is glued to the first message: what is before the message is
        left aside. An answer that cannot be read is an error of the call it answers.
        """
        text = line.decode("utf-8", "replace").lstrip("\ufeff \t\r")
        glued = _MESSAGE.search(text)
        starts = [0] if text.startswith(("{", "[")) else []
        if glued is not None and glued.start() > 0:
            starts.append(glued.start())
        broken: NotJsonError | None = None
        for start in starts:
            try:
                value = decode(text[start:])
            except NotJsonError as exc:
                broken = exc
                continue
            values = value if isinstance(value, list) else [value]
            return [message for it in values if (message := self._message(it)) is not None]
        if broken is None:
            return []
        return self._unreadable(line, f"an answer that is no JSON: {broken}")

    def _message(self, value: Any) -> dict[str, Any] | None:
        """Return a message as the SDK takes it; None for what is none, such as a line of a log."""
        if not isinstance(value, dict):
            return None
        if "method" in value:
            return self._noted(value) if "jsonrpc" in value else None
        request_id = value.get("id")
        if isinstance(request_id, float) and request_id.is_integer():
            request_id = int(request_id)
        if "jsonrpc" not in value and str(request_id) not in self._methods:
            return None
        answer = {"jsonrpc": "2.0", "id": request_id}
        if value.get("error") is not None or "result" not in value:
            self._methods.pop(str(request_id), None)
            return answer | {"error": _error(value.get("error"))}
        return answer | {"result": self.answered(request_id, value["result"])}

    def _noted(self, value: dict[str, Any]) -> dict[str, Any]:
        """Return a request or notification; what one logs may be why the server ends.

        That is `notifications/message`, and `log` of @twilio-alpha/mcp 0.7.0.
        """
        params = value.get("params")
        if self._stderr is not None and value["method"] in ("notifications/message", "log"):
            told = params if isinstance(params, dict) else {}
            said = told.get("data", told.get("message"))
            text = said if isinstance(said, str) else encode(said)
            self._stderr.add(one_line(text, 1000).encode("utf-8", "replace") + b"\n")
        if params is None:
            return {key: it for key, it in value.items() if key != "params"}
        return value

    def too_long(self, line: bytes) -> list[dict[str, Any]]:
        """Return the error that stands for an answer longer than is read."""
        limit = f"more than {MAX_LINE_BYTES // 1024**2} MiB at once, which is not read"
        return self._unreadable(line, limit)

    def _unreadable(self, line: bytes, what: str) -> list[dict[str, Any]]:
        """Return the error that stands for an answer; none when it cannot be told whose it is."""
        found = _ID.search(line[:4096]) or _ID.search(line[-4096:])
        if found is None:
            return []
        request_id = msgspec.json.decode(found[1])
        if self._methods.pop(str(request_id), None) is None:
            return []
        error = _error(f"the server sent {one_line(what, 200)}")
        return [{"jsonrpc": "2.0", "id": request_id, "error": error}]


def _error(value: Any) -> dict[str, Any]:
    """Return an error as the SDK takes it: a whole number, a text, and perhaps data."""
    if value is None:
        value = "an answer with neither a result nor an error"
    if not isinstance(value, dict):
        return {"code": _INTERNAL, "message": value if isinstance(value, str) else encode(value)}
    code, message = value.get("code"), value.get("message")
    if isinstance(code, float) and code.is_integer():
        code = int(code)
    known = isinstance(code, int) and isinstance(message, str) and message
    mended = {
        "code": code if isinstance(code, int) else _INTERNAL,
        "message": message if known else encode(value),
    }
    return mended | ({"data": value["data"]} if known and value.get("data") is not None else {})


class _Pipes(asyncio.SubprocessProtocol):
    """Cut the server's stdout into lines."""

    def __init__(self, stderr: Stderr, ended: Callable[[], None]) -> None:
        self._ended = ended
        self._stderr = stderr
        self._parts: list[bytes] = []
        self._size = 0
        self._line: Callable[[bytes, bool], bool] | None = None
        self._waiting: list[tuple[bytes, bool]] = []
        self._given_up = False
        self.exited = asyncio.Event()

    def listen(self, line: Callable[[bytes, bool], bool]) -> None:
        """Give each line to a function, those that came before too.

        Args:
            line: takes a line and whether it was too long, and its middle is lost; gives whether
                to go on.
        """
        self._line = line
        waiting, self._waiting = self._waiting, []
        for data, cut in waiting:
            self._take(data, cut)

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        if fd != 1:
            self._stderr.add(data)
        if fd != 1 or self._given_up:
            return
        *whole, rest = data.split(b"\n")
        for part in whole:
            cut = self._size > MAX_LINE_BYTES
            line = b"".join([*self._parts, part[-4096:] if cut else part])
            self._parts, self._size = [], 0
            self._take(line, cut)
        self._size += len(rest)
        if self._size <= MAX_LINE_BYTES:
            self._parts.append(rest)
        elif len(self._parts) > 1 or len(self._parts[0] if self._parts else b"") > 4096:
            self._parts = [b"".join(self._parts)[:4096]]

    def _take(self, line: bytes, cut: bool) -> None:
        if not line.strip() or self._given_up:
            return
        if self._line is None:
            self._waiting.append((line, cut))
        if self._line is None and len(self._waiting) <= MAX_BACKLOG:
            return
        if self._line is None or not self._line(line, cut):
            self._given_up = True
            self._parts = []
            self._ended()

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:  # noqa: ARG002
        if fd == 1:
            self._ended()
        elif fd == 2:
            self._stderr.end()

    def process_exited(self) -> None:
        self.exited.set()
        self._ended()


class ServerProcess:
    """A server that runs as a child process, and ends for sure: a `Life` of it.

    Args:
        command: the program and its arguments.
        env: its whole environment.
        cwd: where it runs.
        stderr: gets what it says there.
    """

    def __init__(
        self, command: Sequence[str], *, env: Mapping[str, str], cwd: str, stderr: Stderr
    ) -> None:
        self._command = command
        self._env = env
        self._cwd = cwd
        self._stderr = stderr
        self._transport: asyncio.SubprocessTransport | None = None
        self._alive: int | None = None
        """The descriptor whose end is the server's, too."""
        self._unread: int | None = None
        """Its stdin once more: asyncio closes its own as soon as the server is gone."""
        self._sent_bytes = 0
        self.has_ended = asyncio.Event()
        """Set when it ends, closes its stdout, or has to be ended."""
        self._pipes = _Pipes(stderr, self.has_ended.set)

    async def start(self, stack: AsyncExitStack) -> None:
        """Start it; the SDK is not there yet. It ends with the stack.

        Raises:
            OSError: it cannot be started.
        """
        words = [_program(self._command[0], self._env, self._cwd), *self._command[1:]]
        heard: int | None = None
        if sys.platform != "win32":
            heard, self._alive = os.pipe()
            words = [*_LAUNCHED, str(heard), self._env.get("LC_CTYPE", ""), *words]
        try:
            self._transport, _ = await asyncio.get_running_loop().subprocess_exec(
                lambda: self._pipes,
                *words,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=dict(self._env),
                cwd=self._cwd,
                start_new_session=True,
                pass_fds=() if heard is None else (heard,),
            )
        finally:
            if heard is not None:
                os.close(heard)
            if self._transport is None:
                self._let_go()
        atexit.register(self.kill)
        pipe = None if self._stdin is None else self._stdin.get_extra_info("pipe")
        # uvloop gives none, and a server may have ended by now.
        if sys.platform != "win32" and pipe is not None and not pipe.closed:
            self._unread = os.dup(pipe.fileno())
        stack.push_async_callback(self._stop)

    async def streams(self, stack: AsyncExitStack) -> tuple[Incoming, Outgoing]:
        """Return what the SDK's session reads from and writes to; it ends with the stack."""
        import anyio
        from mcp.shared.message import SessionMessage
        from mcp_types import jsonrpc_message_adapter

        incoming, received = anyio.create_memory_object_stream[SessionMessage | Exception](math.inf)
        outgoing, to_send = anyio.create_memory_object_stream[SessionMessage](math.inf)
        exchange = Exchange(self._stderr)
        strays = 0

        def line(data: bytes, cut: bool) -> bool:
            nonlocal strays
            values = exchange.too_long(data) if cut else exchange.read(data)
            try:
                messages = [
                    jsonrpc_message_adapter.validate_python(it, by_name=False) for it in values
                ]
            except ValueError:
                messages = []
            if not messages:  # some servers print to stdout what belongs on stderr
                self._stderr.add(data[:1000] + b"\n")
                strays += 1
                return strays <= MAX_STRAY_LINES
            with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
                for message in messages:
                    incoming.send_nowait(SessionMessage(message))
            return incoming.statistics().current_buffer_used <= MAX_BACKLOG

        async def send() -> None:
            async for message in to_send:
                sent = message.message
                exchange.sent(getattr(sent, "id", None), getattr(sent, "method", None))
                text = message.message.model_dump_json(by_alias=True, exclude_unset=True)
                self._write(text.encode() + b"\n")

        async def over() -> None:
            await self.has_ended.wait()
            incoming.close()

        for stream in (incoming, received, outgoing, to_send):
            stack.enter_context(stream)
        self._pipes.listen(line)
        for work in (send(), over()):
            stack.callback(asyncio.create_task(work).cancel)
        return received, outgoing

    def begin(self) -> None:
        """Do nothing: what it says on stderr is of no call."""

    def is_over(self, exc: BaseException) -> bool:  # noqa: ARG002
        """Whether it has ended, whatever the failure."""
        return self.has_ended.is_set()

    def is_unknown(self, exc: BaseException) -> bool:  # noqa: ARG002
        """Whether it does not know the session: it has but one."""
        return False

    @property
    def has_heard(self) -> bool:
        """Whether it may have read something; only Linux tells how much is left in a pipe."""
        if sys.platform == "win32" or self._unread is None:
            return self._sent_bytes > 0
        import fcntl
        import termios

        left = fcntl.ioctl(self._unread, termios.FIONREAD, bytes(4))
        return int.from_bytes(left, sys.byteorder) < self._sent_bytes

    def explain(self, exc: BaseException) -> None:
        """Say nothing: it is the server's stderr that knows."""

    async def _stop(self) -> None:
        """Ask it to end, then make it end; all in less than a second."""
        try:
            self._forget_stdin()
            if self._stdin is not None:
                self._stdin.close()
            if not await self._has_exited(EOF_S):
                self._signal(signal.SIGTERM)
                await self._has_exited(TERM_S)
            # The group may outlive its leader: what npx starts is not ended with npx.
            self._signal(_KILL)
            await self._has_exited(KILL_S)
        finally:
            self.kill()

    def kill(self) -> None:
        """End it and all it has started, without waiting."""
        transport = self._transport
        if transport is None:
            return
        self._signal(_KILL)
        self._transport = None
        atexit.unregister(self.kill)
        self._let_go()
        process = transport.get_extra_info("subprocess")
        if process is not None and process.returncode is None:
            # On a busy machine even a killed child takes its time to be gone.
            with suppress(subprocess.TimeoutExpired, OSError):
                process.wait(GONE_S)
        with suppress(ProcessLookupError, PermissionError, RuntimeError):
            transport.close()

    def _forget_stdin(self) -> None:
        if self._unread is not None:
            os.close(self._unread)
            self._unread = None

    def _let_go(self) -> None:
        self._forget_stdin()
        if self._alive is not None:
            os.close(self._alive)
            self._alive = None

    @property
    def _stdin(self) -> asyncio.WriteTransport | None:
        if self._transport is None:
            return None
        # uvloop's are none by their class (0.23), which is therefore not looked at.
        return cast("asyncio.WriteTransport | None", self._transport.get_pipe_transport(0))

    def _write(self, data: bytes) -> None:
        stdin = self._stdin
        if stdin is not None and not stdin.is_closing():
            self._sent_bytes += len(data)
            stdin.write(data)

    def _signal(self, number: int) -> None:
        if self._transport is None:
            return
        with suppress(ProcessLookupError, PermissionError):
            if sys.platform == "win32":
                self._transport.send_signal(number)
            else:
                os.killpg(self._transport.get_pid(), number)

    async def _has_exited(self, seconds: float) -> bool:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._pipes.exited.wait()
        return self._pipes.exited.is_set()


def _program(name: str, env: Mapping[str, str], cwd: str) -> str:
    """Return where a program is.

    Raises:
        OSError: it is nowhere, or may not be run.
    """
    named = os.path.join(cwd, name) if os.path.dirname(name) else name  # noqa: PTH118, PTH120 - `./x`
    program = shutil.which(named, path=env.get("PATH"))
    if program is None:
        number = errno.EACCES if os.path.exists(named) else errno.ENOENT  # noqa: PTH110
        raise OSError(number, os.strerror(number), name)
    return program
