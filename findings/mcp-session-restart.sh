#!/bin/sh
# mcp 2.3.0 (run 2026-11), `ClientSession` over `streamable_http_client`: when a server was restarted,
# every later call of the session fails, where the specification has a client that gets HTTP 404 for a
# session "MUST start a new session"; the SDK's own server answers such a call with an error in its
# body, so that what is raised (MCPError) tells a lost session from an error of a tool by its words
# alone. (Upstream: python-sdk #1676, #3556.)
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT INT TERM
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check mcp==2.3.0
cat > "$folder/server.py" <<'PYTHON'
import sys

from mcp.server import MCPServer

server = MCPServer("s")


@server.tool()
def hello() -> str:
    return "hello"


server.run("streamable-http", host="127.0.0.1", port=int(sys.argv[1]))
PYTHON
cat > "$folder/finding.py" <<'PYTHON'
import asyncio
import socket
import subprocess
import sys

from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client


QUIET = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


async def start(port):
    server = subprocess.Popen([sys.executable, "server.py", str(port)], **QUIET)
    for _ in range(600):
        await asyncio.sleep(0.1)
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return server
        except OSError:
            pass
    raise SystemExit("the server has not started")


async def called(session):
    try:
        return (await session.call_tool("hello")).content[0].text
    except Exception as exc:
        return f"{type(exc).__name__} {exc.error.code}: {exc.error.message}"


async def main():
    port = free_port()
    url = f"http://127.0.0.1:{port}/mcp"
    server = await start(port)
    seen = []
    try:
        async with streamable_http_client(url) as streams, ClientSession(*streams) as session:
            await session.initialize()
            await session.list_tools()
            seen.append(await called(session))
            server.kill()
            server.wait()
            server = await start(port)
            seen += [await called(session), await called(session)]
        async with streamable_http_client(url) as streams, ClientSession(*streams) as session:
            await session.initialize()
            await session.list_tools()
            seen.append(await called(session))
    finally:
        server.kill()
    when = ("before", "after a restart", "once more", "in a new session")
    for what, it in zip(when, seen, strict=True):
        print(f"{what}: {it}")
    lost = "MCPError -32600: Session not found"
    if seen != ["hello", lost, lost, "hello"]:
        raise SystemExit(f"changed: {seen}")


asyncio.run(main())
PYTHON
cd "$folder"
timeout 120 "$folder/venv/bin/python" -W ignore finding.py 2>"$folder/log" || { tail -5 "$folder/log"; exit 1; }
