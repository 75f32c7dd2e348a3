"""Stream many answers at once through LiteLLM's Router, where that is installed."""

import asyncio
import sys

from litellm import Router

URL, COUNT, AT_ONCE = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
PARAMS = {"model": "openai/m", "api_base": URL, "api_key": "none"}


async def main() -> None:
    turn = asyncio.Semaphore(AT_ONCE)
    router = Router(model_list=[{"model_name": "m", "litellm_params": PARAMS}])

    async def ask() -> str:
        async with turn:
            answer = await router.acompletion(
                "m", [{"role": "user", "content": "hello"}], stream=True
            )
            return "".join([part.choices[0].delta.content or "" async for part in answer])

    texts = await asyncio.gather(*(ask() for _ in range(COUNT)))
    assert len(set(texts)) == 1
    assert texts[0]


asyncio.run(main())
