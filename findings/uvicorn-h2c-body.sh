#!/bin/sh
# uvicorn 0.54.0 with httptools 0.9.0, which it takes by itself when that is installed (run 2026-11): the
# body of a request that offers `Upgrade: h2c` is lost, and the application is told that it was empty.
# RFC 9110 7.8 has a server that does not want to upgrade answer as if it had not been offered, which
# uvicorn does on h11. Java's HttpClient offers it with every request to a server without TLS (and so do
# Spring's RestClient and LangChain4j, which stand on it), so that a chat completion arrives there as a
# POST of nothing. (Upstream: uvicorn #2722, httptools #124.)
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT INT TERM
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check uvicorn==0.54.0 httptools==0.9.0 h11==0.16.0
cat > "$folder/finding.py" <<'PYTHON'
import asyncio

import uvicorn

OFFER = (
    b"Connection: Upgrade, HTTP2-Settings\r\n"
    b"Upgrade: h2c\r\n"
    b"HTTP2-Settings: AAEAAEAAAAIAAAAAAAMAAAAAAAQBAAAAAAUAAEAAAAYABgAA\r\n"
)
BODY = b'{"model": "m", "messages": []}'


async def ask(parser, offer):
    """Post the body once; return how much of it the application got, and whether that was all."""
    got = []

    async def app(scope, receive, send):
        message = await receive()
        got.append((len(message["body"]), message["more_body"]))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})

    server = uvicorn.Server(
        uvicorn.Config(
            app, http=parser, ws="none", loop="asyncio", lifespan="off", log_level="error",
            host="127.0.0.1", port=0,
        )
    )
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    host, port = server.servers[0].sockets[0].getsockname()
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(
        b"POST / HTTP/1.1\r\nHost: here\r\n" + offer
        + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY
    )
    status = await asyncio.wait_for(reader.readline(), 10)
    writer.close()
    server.should_exit = True
    await serving
    return status.decode().split()[1], *got[0]


seen = {
    (parser, bool(offer)): asyncio.run(ask(parser, offer))
    for parser in ("h11", "httptools")
    for offer in (b"", OFFER)
}
for (parser, offers), (status, size, more) in seen.items():
    print(f"{parser}, {'h2c offered' if offers else 'plain'}: {status}, "
          f"{size} of {len(BODY)} bytes, {'more to come' if more else 'complete'}")
whole, lost = ("200", len(BODY), False), ("200", 0, False)
if list(seen.values()) != [whole, whole, whole, lost]:
    raise SystemExit("changed")
PYTHON
cd "$folder"
timeout 120 "$folder/venv/bin/python" -W ignore finding.py
