"""Be the other side: a server that answers at once, one that fails at once, or one of tools."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator

__all__ = ["REFUSING", "running"]

REFUSING = "http://127.0.0.1:9/v1"
"""Where nothing listens."""

TOKENS = 40
"""Pieces of the instant answer."""
WORDS = 20
"""Pieces of the answer that gateways pass on."""


def _event(value: object) -> bytes:
    data = f"data: {json.dumps(value)}\n\n".encode()
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def _answer(pieces: int) -> bytes:
    head = (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    words = b"".join(
        _event({"choices": [{"index": 0, "delta": {"content": f"word{n} "}}]})
        for n in range(pieces)
    )
    end = _event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    return head + words + end + b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"


ANSWERS = {
    "instant": _answer(TOKENS),
    "twenty": _answer(WORDS),
    "failing": b"HTTP/1.1 503 Down\r\nContent-Length: 0\r\n\r\n",
    "silent": None,
}


async def _serve(kind: str) -> None:
    answer = ANSWERS[kind]

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = int(head.partition(b"content-length: ")[2].split(b"\r\n")[0] or b"0")
                await reader.readexactly(length)
                if answer is not None:
                    writer.write(answer)
                    await writer.drain()
        writer.close()

    server = await asyncio.start_server(play, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    print(f"http://127.0.0.1:{port}/v1", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


def _offer_tools() -> None:
    """Be an MCP server with twenty tools, over stdin and stdout."""
    arguments = {"path": {"type": "string", "description": "Where it is."}, "limit": TYPE_OF_LIMIT}
    schema = {"type": "object", "properties": arguments, "required": ["path"]}
    tools = [
        {"name": f"tool_{n}", "description": "Find what is asked for. " * 5, "inputSchema": schema}
        for n in range(20)
    ]
    about = {"serverInfo": {"name": "bench", "version": "1"}, "capabilities": {"tools": {}}}
    answers = {
        "initialize": {"protocolVersion": "2025-11-25", **about},
        "tools/list": {"tools": tools},
    }
    for line in sys.stdin:
        asked = json.loads(line)
        if asked["method"] in answers:
            told = {"result": answers[asked["method"]]}
        else:
            told = {"error": {"code": -32601, "message": "Method not found"}}
        if "id" in asked:
            print(json.dumps({"jsonrpc": "2.0", "id": asked["id"], **told}), flush=True)


TYPE_OF_LIMIT = {"type": "integer", "minimum": 1, "default": 10}


@contextlib.contextmanager
def running(kind: str) -> Iterator[str]:
    """Run a server in a process of its own and give its base URL; it ends with its stdin."""
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.servers", kind],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.stdin.close()
        process.terminate()


if __name__ == "__main__":
    if sys.argv[1] == "mcp":
        _offer_tools()
    else:
        asyncio.run(_serve(sys.argv[1]))
