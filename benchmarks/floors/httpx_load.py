"""Stream many answers at once with httpx alone: the floor of the engine's overhead."""

import asyncio
import json
import sys

import httpx

URL, COUNT, AT_ONCE = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
HEADERS = json.loads(sys.argv[4]) if len(sys.argv) > 4 else {}
BODY = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "hello"}]}


async def ask(client: httpx.AsyncClient, turn: asyncio.Semaphore) -> str:
    async with turn, client.stream("POST", URL + "/chat/completions", json=BODY) as response:
        pieces = [
            choice["delta"].get("content") or ""
            async for line in response.aiter_lines()
            if line.startswith("data: {")
            for choice in json.loads(line[6:])["choices"]
        ]
        return "".join(pieces)


async def main() -> None:
    turn = asyncio.Semaphore(AT_ONCE)
    limits = httpx.Limits(max_connections=AT_ONCE, max_keepalive_connections=AT_ONCE)
    async with httpx.AsyncClient(limits=limits, timeout=60, headers=HEADERS) as client:
        texts = await asyncio.gather(*(ask(client, turn) for _ in range(COUNT)))
    assert len(set(texts)) == 1
    assert texts[0]


asyncio.run(main())
