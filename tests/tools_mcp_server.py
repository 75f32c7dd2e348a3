"""Be a real MCP server, of the SDK, with tools that count, fail, hang and crash.

Run as a program: `python tools_mcp_server.py COUNTER_FILE [HOW]`, where HOW is `stdio`, `http`,
`stubborn`, `slow`, `dead` or `chatty`.
`http` takes a port as well, and prints it as the first line of stdout. `stubborn` ignores SIGTERM
and the end of its stdin, and so does its child, whose process id it writes to `COUNTER_FILE.child`.
`chatty` says something on stderr five times a second.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from mcp.server.mcpserver import MCPServer
from mcp_types import ToolAnnotations

COUNTER = Path(sys.argv[1])
HOW = sys.argv[2] if len(sys.argv) > 2 else "stdio"

server = MCPServer("counter")


@server.tool()
def count(by: int = 1) -> str:
    """Count up, for good."""
    total = int(COUNTER.read_text()) + by if COUNTER.exists() else by
    COUNTER.write_text(str(total))
    return f"counted to {total}"


@server.tool(annotations=ToolAnnotations(read_only_hint=True))
def total() -> str:
    """Tell the count."""
    return COUNTER.read_text() if COUNTER.exists() else "0"


@server.tool(annotations=ToolAnnotations(read_only_hint=False), name="odd.name")
def odd() -> list[int]:
    """Have a name with a dot."""
    return [1, 2, 3]


@server.tool()
def fail() -> str:
    """Fail."""
    raise ValueError("the database is on fire")


@server.tool()
def crash() -> str:
    """Count, and end at once."""
    count()
    print("about to go down", file=sys.stderr, flush=True)
    os._exit(3)


@server.tool()
async def hang() -> str:
    """Count, and never answer."""
    count()
    await asyncio.sleep(3600)
    return "never"


@server.tool()
def environment() -> str:
    """Tell the names of all variables, and one value."""
    return " ".join(sorted(os.environ)) + " " + os.environ.get("GIVEN", "")


@server.tool()
def noise() -> str:
    """Print to stdout what is no JSON-RPC, and control characters."""
    os.write(1, b"this is not JSON\n")
    return "a\x1b[31mb\x00c\u202ed"


def run_http() -> None:
    import socket

    import uvicorn

    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", int(sys.argv[3]) if len(sys.argv) > 3 else 0))
    listener.listen()
    print(listener.getsockname()[1], flush=True)
    app = server.streamable_http_app()
    config = uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=1)
    asyncio.run(uvicorn.Server(config).serve([listener]))


def run_stubborn() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    child = subprocess.Popen(
        [sys.executable, "-c", "import signal,time;signal.signal(15,1);time.sleep(600)"],
    )
    Path(f"{COUNTER}.child").write_text(str(child.pid))
    server.run("stdio")
    time.sleep(600)


def chat_on() -> None:
    for number in itertools.count():
        print("still here", number, file=sys.stderr, flush=True)
        time.sleep(0.2)


if __name__ == "__main__":
    if HOW == "http":
        run_http()
    elif HOW == "stubborn":
        run_stubborn()
    elif HOW == "slow":
        time.sleep(600)
    elif HOW == "dead":
        sys.exit("no licence was found")
    else:
        if HOW == "chatty":
            threading.Thread(target=chat_on, daemon=True).start()
        server.run("stdio")
