"""Stream many answers at once through tieredllm's engine."""

import asyncio
import sys

from tieredllm import FallbackManager

PROFILE, COUNT, AT_ONCE = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])


async def main() -> None:
    turn = asyncio.Semaphore(AT_ONCE)
    async with FallbackManager(PROFILE) as manager:

        async def ask() -> str:
            async with turn:
                answer = await manager.process_with_fallbacks("hello")
                assert answer.tier == "primary", answer
                return answer.text or ""

        texts = await asyncio.gather(*(ask() for _ in range(COUNT)))
    assert len(set(texts)) == 1
    assert texts[0]


asyncio.run(main())
