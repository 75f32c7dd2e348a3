"""Measure the local tier beside llama.cpp's own server, with the same file and threads."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import msgspec
from msgspec.structs import replace

from benchmarks.measure import Pair, alternate
from tieredllm.client import FallbackManager
from tieredllm.files import Places
from tieredllm.local.ladder import Rates, Rung, Trial
from tieredllm.local.library import Library
from tieredllm.local.machine import physical_cores
from tieredllm.local.pull import verify
from tieredllm.local.validation_cache import ValidationCache, state_of
from tieredllm.profile.schema import Params, Profile, Tier
from tieredllm.types import Answer, Message, Prompt

__all__ = [
    "calibrate",
    "continued",
    "decode",
    "insist_on_fastest",
    "model",
    "profile",
    "running_server",
    "second_question",
    "several",
    "several_beside_server",
    "threads",
]

MODEL = Path.home() / ".cache/tieredllm-tests/SmolLM2-135M-Instruct.Q4_1.gguf"
"""Where the tests keep the small model."""

SERVER = """
import sys
from xllamacpp import CommonParams, Server
params = CommonParams()
params.model.path, params.n_ctx, params.n_parallel = sys.argv[1], 4096, int(sys.argv[3])
if params.n_parallel > 1:
    params.n_ctx, params.kv_unified = 16384, True
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = int(sys.argv[2])
server = Server(params)
print(server.listening_address, flush=True)
sys.stdin.read()
"""

TOKENS = 200
QUESTION = "Count from 1 to 500, one number after the other, separated by commas."
QUESTIONS = [f"Tell a story about the number {number}." for number in range(64)]
BATCH_TOKENS = 64
SLOTS = 16
TEXT = "The quick brown fox jumps over the lazy dog while the band plays on. " * 60


def model() -> str:
    """Give the model file, or say how to get it.

    Raises:
        SystemExit: it is not there.
    """
    if not MODEL.exists():
        sys.exit(f"{MODEL} is not there: run `make test` once, which fetches it")
    return str(MODEL)


def threads() -> int:
    """Give the number of threads the local tier uses here."""
    return physical_cores()


def calibrate(env: Mapping[str, str]) -> tuple[Trial, ...]:
    """Try the model for the directories of an environment; return how each way to load it went."""
    places = Places.from_environment(env)
    found = Library(places, env).find(str(model()))
    return verify(found, cache_dir=places.cache).validated.trials


def insist_on_fastest(env: Mapping[str, str], trials: tuple[Trial, ...]) -> Rung:
    """Make the processes of an environment load the model so that it computes the fastest."""
    fastest = max(
        (trial for trial in trials if trial.rates is not None),
        key=lambda trial: (trial.rung == "repacked", trial.rates and trial.rates.decode_tps),
    )
    path = Path(model())
    verdicts = ValidationCache(Places.from_environment(env).cache)
    calibrate(env)
    verdict = verdicts.get(path, state_of(path))
    # That loading takes time is left out of what the process knows.
    slow = Rates(load_s=1e6, prompt_tps=1.0, decode_tps=1.0)
    forced = tuple(
        trial if trial.rung == fastest.rung or trial.rates is None else replace(trial, rates=slow)
        for trial in verdict.trials
    )
    verdicts.put(path, replace(verdict, trials=forced))
    return fastest.rung


def profile(*, max_tokens: int, before: str | None = None) -> str:
    """Write a profile of the local tier, optionally after a cloud tier that fails."""
    cloud = (
        f"  - {{name: primary, provider: openai, model: m, base_url: '{before}', "
        "api_key_env: null, retries: 2}\n"
        if before
        else ""
    )
    return (
        f"name: bench\ntiers:\n{cloud}  - name: local\n    provider: llama_cpp\n"
        f"    model: {model()}\n    params: {{temperature: 0, max_tokens: {max_tokens}}}\n"
        "    first_token_timeout_s: 300\ndeadline_s: 600\n"
    )


def _manager(max_tokens: int, sequences: int = 1) -> FallbackManager:
    tier = Tier(
        name="local",
        provider="llama_cpp",
        model=model(),
        context_tokens=4096,
        first_token_timeout_s=60.0,
        params=Params(temperature=0.0, max_tokens=max_tokens),
    )
    profile = Profile(name="bench", tiers=(tier,))
    return FallbackManager(profile, persist=False, sequences=sequences)


def decode(runs: int) -> Pair:
    """Measure milliseconds per token while text flows, ours and the server's."""

    async def measure() -> Pair:
        manager = _manager(TOKENS)
        with running_server() as url:
            ours: list[float] = []
            floor: list[float] = []
            for number in range(runs + 1):
                answer = await manager.process_with_fallbacks(QUESTION)
                base = await asyncio.to_thread(_server_ms_per_token, url)
                if number:
                    ours.append(_ms_per_token(answer))
                    floor.append(base)
        await manager.aclose()
        return Pair(ours=tuple(ours), floor=tuple(floor))

    return asyncio.run(measure())


def _ms_per_token(answer: Answer) -> float:
    assert answer.usage.completion_tokens == TOKENS, answer
    return (answer.latency_ms - (answer.first_token_ms or 0)) / (TOKENS - 1)


def _server_ms_per_token(url: str) -> float:
    body = {
        "model": "m",
        "stream": True,
        "temperature": 0,
        "max_tokens": TOKENS,
        "messages": [{"role": "user", "content": QUESTION}],
    }
    times: list[float] = []
    with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=60) as response:
        for line in response.iter_lines():
            if line.startswith("data: {"):
                choices = msgspec.json.decode(line[6:])["choices"]
                if choices and choices[0]["delta"].get("content"):
                    times.append(time.perf_counter())
    return (times[-1] - times[0]) * 1000 / (len(times) - 1)


def second_question(runs: int) -> Pair:
    """Measure the milliseconds to a first token: a chat's second question, and a fresh prompt."""
    first = Prompt(question=f"{TEXT}\n\nWhat jumps?")

    async def ask(manager: FallbackManager, prompt: Prompt) -> Answer:
        return await manager.process_with_fallbacks(prompt)

    def chat() -> float:
        async def both() -> float:
            async with _manager(16) as manager:
                answer = await ask(manager, first)
                history = (
                    Message("user", first.question),
                    Message("assistant", answer.text or ""),
                )
                second = await ask(manager, Prompt(question="And what plays?", history=history))
                return second.first_token_ms or 0.0

        return asyncio.run(both())

    def fresh() -> float:
        async def one() -> float:
            async with _manager(16) as manager:
                await ask(manager, Prompt(question="Hello."))
                answer = await ask(manager, Prompt(question=f"{TEXT}\n\nWhat jumps? What plays?"))
                return answer.first_token_ms or 0.0

        return asyncio.run(one())

    return alternate(chat, fresh, max(2, runs // 2))


def continued(command: list[str], env: dict[str, str], runs: int) -> Pair:
    """Measure the milliseconds to the first token of a process that continues a conversation.

    Args:
        command: the command line, with a profile of the local tier.
        env: its environment; `TIEREDLLM_HOME` is in it.
        runs: how often.
    """
    home = Path(env["TIEREDLLM_HOME"])
    first = "Read this.\n\n" + TEXT * 2 + "\n\nWhat jumps?"

    def ask(*args: str) -> dict[str, Any]:
        done = subprocess.run(
            [*command, "ask", "--json", *args], env=env, capture_output=True, check=False
        )
        answer: dict[str, Any] = msgspec.json.decode(done.stdout)
        assert answer["text"], (answer["original_error"], done.stderr)
        return answer

    ask(first)
    places = [Path("state"), Path("cache/contexts")]
    for place in places:
        shutil.copytree(home / place, home / "after-first" / place)

    def second(*, keep: bool) -> float:
        for place in places:
            shutil.rmtree(home / place)
            shutil.copytree(home / "after-first" / place, home / place)
        if not keep:
            shutil.rmtree(home / "cache" / "contexts")
        answer = ask("-c", "And what plays?")
        assert answer["usage"]["prompt_tokens"] > 1800, answer
        return float(answer["first_token_ms"])

    return alternate(lambda: second(keep=True), lambda: second(keep=False), runs)


def several(command: list[str], home: Path, runs: int, *, beginning: str = "") -> Pair:
    """Measure the seconds of a batch, side by side and one line after the other.

    Args:
        command: the command line, with a profile of the local tier.
        home: a directory for the input and the outputs.
        runs: how often.
        beginning: what each question begins with.
    """
    source = home / "in.txt"
    source.write_text("".join(f"{beginning}{question}\n" for question in QUESTIONS))
    env = dict(os.environ) | {"TIEREDLLM_HOME": str(home)}

    def batch(*args: str) -> float:
        out = home / "out.jsonl"
        out.unlink(missing_ok=True)
        started = time.perf_counter()
        subprocess.run(
            [*command, "batch", str(source), "-o", str(out), "-q", *args], env=env, check=True
        )
        assert len(out.read_bytes().splitlines()) == len(QUESTIONS)
        return time.perf_counter() - started

    return alternate(batch, lambda: batch("--reproducible"), runs, warm_ups=0)


def several_beside_server(runs: int) -> Pair:
    """Measure ms per token of answers side by side, ours and the server's with as many slots."""

    def ours() -> float:
        async def answers() -> float:
            manager = _manager(BATCH_TOKENS, sequences=SLOTS)
            await manager.process_with_fallbacks("hello")
            turn = asyncio.Semaphore(SLOTS)

            async def ask(question: str) -> int:
                async with turn:
                    answer = await manager.process_with_fallbacks(question)
                    return answer.usage.completion_tokens or 0

            started = time.perf_counter()
            tokens = sum(await asyncio.gather(*(ask(question) for question in QUESTIONS)))
            took_s = time.perf_counter() - started
            await manager.aclose()
            return took_s * 1000 / tokens

        return asyncio.run(answers())

    def server(url: str) -> float:
        async def answers() -> float:
            turn = asyncio.Semaphore(SLOTS)
            async with httpx.AsyncClient(timeout=300) as client:

                async def ask(question: str) -> int:
                    body = {
                        "model": "m",
                        "temperature": 0,
                        "max_tokens": BATCH_TOKENS,
                        "messages": [{"role": "user", "content": question}],
                    }
                    async with turn:
                        response = await client.post(f"{url}/v1/chat/completions", json=body)
                        return int(response.json()["usage"]["completion_tokens"])

                await ask("hello")
                started = time.perf_counter()
                tokens = sum(await asyncio.gather(*(ask(question) for question in QUESTIONS)))
                return (time.perf_counter() - started) * 1000 / tokens

        return asyncio.run(answers())

    with running_server(slots=SLOTS) as url:
        return alternate(ours, lambda: server(url), runs, warm_ups=0)


@contextlib.contextmanager
def running_server(slots: int = 1) -> Iterator[str]:
    """Run llama.cpp's own server with the model, and give its root URL."""
    command = [sys.executable, "-c", SERVER, model(), str(threads()), str(slots)]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=dict(os.environ),
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.stdin.close()
