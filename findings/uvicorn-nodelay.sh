#!/bin/sh
# uvicorn 0.54.0 on asyncio (CPython 3.11.7; the condition stands in 3.12 and 3.13 as well; run 2026-11):
# connections have TCP_NODELAY when uvicorn makes the listening socket through asyncio, and have it not
# when it is handed a socket, nor when it makes one itself for more than one worker or for reloading
# (`Config.bind_socket`). asyncio's `_set_nodelay` looks for `proto == IPPROTO_TCP`, and a socket made
# without naming the protocol (`socket.create_server`, `socket.socket(AF_INET, SOCK_STREAM)`) has 0,
# which its accepted connections inherit. Small writes of a token stream then wait for the
# acknowledgement of the one before, up to 40 ms each with delayed acknowledgements.
# A socket made with socket.IPPROTO_TCP is right.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT INT TERM
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check uvicorn==0.54.0
cat > "$folder/finding.py" <<'PYTHON'
import asyncio
import socket

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol


async def app(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})


def has_nodelay(listener):
    """Say whether a connection that the server accepts from the listener has TCP_NODELAY."""
    seen = []

    class Protocol(H11Protocol):
        def connection_made(self, transport):
            accepted = transport.get_extra_info("socket")
            seen.append(bool(accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)))
            super().connection_made(transport)

    async def ask_once():
        settings = uvicorn.Config(
            app, http=Protocol, loop="asyncio", lifespan="off", log_level="error",
            host="127.0.0.1", port=0,
        )
        server = uvicorn.Server(settings)
        serving = asyncio.create_task(server.serve([listener] if listener else None))
        while not server.started:
            await asyncio.sleep(0.01)
        host, port = server.servers[0].sockets[0].getsockname()
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(b"GET / HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n")
        await reader.read()
        writer.close()
        server.should_exit = True
        await serving

    asyncio.run(ask_once())
    return seen


def bound(*kind):
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, *kind)
    listener.bind(("127.0.0.1", 0))
    return listener


seen = {
    "made by asyncio": has_nodelay(None),
    "made by Config.bind_socket": has_nodelay(
        uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error").bind_socket()
    ),
    "socket.create_server": has_nodelay(socket.create_server(("127.0.0.1", 0))),
    "socket.socket without protocol": has_nodelay(bound()),
    "socket.socket with IPPROTO_TCP": has_nodelay(bound(socket.IPPROTO_TCP)),
}
for what, values in seen.items():
    print(f"{what}: TCP_NODELAY {values}")
if list(seen.values()) != [[True], [False], [False], [False], [True]]:
    raise SystemExit("changed")
PYTHON
cd "$folder"
timeout 120 "$folder/venv/bin/python" -W ignore finding.py
