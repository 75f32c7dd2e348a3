"""Send a running gateway 20,000 requests of every kind and compare its memory: `make soak`.

After 20,000 requests it may hold at most a tenth more than after 1,000: whole answers, streams,
ones that fall back, that fail, that are refused, and clients that vanish in the middle of it all.
Exit code 1: it holds more.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.gateway import ours, running_gateway
from benchmarks.rows import clouds, user
from benchmarks.servers import REFUSING, running

QUESTION = [{"role": "user", "content": "hello"}]
CHAT = ("/v1/chat/completions", {"model": "auto", "messages": QUESTION})
MESSAGES = ("/v1/messages", {"model": "auto", "max_tokens": 99, "messages": QUESTION})
RESPONSES = ("/v1/responses", {"model": "auto", "input": "hello"})
AT_ONCE = 32
GROWTH = 1.1
"""How much more memory may be held."""


async def ask(host: str, port: int, number: int) -> None:
    """Send one request, of a kind that its number chooses."""
    path, body = (CHAT, MESSAGES, RESPONSES)[number % 3]
    body = {**body, "stream": number % 2 == 0}
    if number % 7 == 0:
        body["model"] = "secondary"  # nothing listens there: the next tier answers
    if number % 31 == 0:
        del body["model"]  # refused
    data = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(data)}\r\nConnection: close\r\n\r\n"
    )
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(head.encode() + data)
    if number % 11 == 0:
        await reader.read(1)
        writer.transport.abort()
        return
    while await reader.read(65_536):
        pass
    writer.close()


async def send(url: str, first: int, count: int) -> None:
    """Send requests, some at the same time."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    host, port = parts.hostname, parts.port
    numbers = iter(range(first, first + count))

    async def client() -> None:
        for number in numbers:
            await ask(host, port, number)

    await asyncio.gather(*(client() for _ in range(AT_ONCE)))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--requests", type=int, default=20_000, help="how many in all (20,000)")
    given = parser.parse_args()
    if not Path("/proc/self/status").exists():
        parser.error("there is no /proc on this system")
    with (
        running("twenty") as url,
        user(clouds(url, REFUSING, url)) as (command, env),
        running_gateway(ours(command, env)) as gateway,
    ):
        asyncio.run(send(gateway.url, 0, 1000))
        early = gateway.resident_mib()
        print(f"after 1,000 requests: {early:.1f} MiB", flush=True)
        asyncio.run(send(gateway.url, 1000, given.requests - 1000))
        late = gateway.resident_mib()
    ratio = late / early
    print(f"after {given.requests:,}: {late:.1f} MiB, {ratio:.3f} times as much (at most {GROWTH})")
    return int(ratio > GROWTH)


if __name__ == "__main__":
    sys.exit(main())
