"""Measure the local tier beside llama.cpp's own server, with the same file and threads."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import msgspec
from msgspec.structs import replace

from benchmarks.measure import Pair, alternate, cpu_seconds
from tieredllm.batch.lines import BatchLine, Reader, Wording
from tieredllm.batch.output import Output, record_of
from tieredllm.batch.run import Batch, Tally
from tieredllm.client import FallbackManager
from tieredllm.files import Places
from tieredllm.local.ladder import Rates, Rung, Trial
from tieredllm.local.library import Library
from tieredllm.local.llama_bindings import SPINS
from tieredllm.local.machine import physical_cores
from tieredllm.local.pull import verify
from tieredllm.local.validation_cache import ValidationCache, state_of
from tieredllm.profile.schema import Params, Profile, Tier
from tieredllm.types import Answer, Message, Options, Prompt

__all__ = [
    "answer_rounds",
    "calibrate",
    "continued",
    "decode",
    "insist_on_fastest",
    "model",
    "profile",
    "running_server",
    "second_question",
    "several",
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
WARM_UP = ["Name a colour.", "Name a town."]
BATCH_TOKENS = 64
SLOTS = 8
ROUND = 16
"""How many questions each way answers before the next way's turn."""
SEVERAL_S = 180
"""After how long no further round begins, where others keep the machine busy."""
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
    return FallbackManager(profile, persist=False, sequences=sequences, batch=sequences > 1)


def decode(runs: int) -> Pair:
    """Measure milliseconds per token while text flows, ours and the server's."""

    async def measure() -> Pair:
        manager = _manager(TOKENS)
        with running_server() as (url, _):
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


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """What a token cost, in milliseconds."""

    wall: float
    cpu: float
    """Of the process that computes, all its threads."""


class Several(msgspec.Struct, frozen=True, kw_only=True):
    """Rounds of the same questions, each asked in turn in every way there is."""

    together: list[Cost]
    """Side by side, through `batch`."""
    in_turn: list[Cost]
    """One after the other, through `batch`; what prompts have in common is kept."""
    server: list[Cost]
    """Side by side, by llama.cpp's own server with as many slots."""

    def pair(self, figure: str, floor: list[Cost]) -> Pair:
        """Return one figure of `together` beside that of another way."""
        return Pair(
            ours=tuple(getattr(cost, figure) for cost in self.together),
            floor=tuple(getattr(cost, figure) for cost in floor),
        )


def several(beginning: str = "") -> Several:
    """Measure answers of `BATCH_TOKENS` tokens to `QUESTIONS`, in short rounds.

    Each way loads the model once and answers a few other questions first. On a busy machine there
    are fewer rounds.

    Args:
        beginning: what each question begins with.
    """
    questions = [f"{beginning}{question}" for question in QUESTIONS]
    rounds = [questions[at : at + ROUND] for at in range(0, len(questions), ROUND)]
    found = Several(together=[], in_turn=[], server=[])

    with (
        running_server(slots=SLOTS) as (url, server_pid),
        _answering(SLOTS) as wide,
        _answering(1) as narrow,
        httpx.Client(base_url=url, timeout=300) as client,
        ThreadPoolExecutor(SLOTS) as pool,
    ):
        ways: list[tuple[list[Cost], Callable[[list[str]], int], int]] = [
            (found.together, partial(_answered, wide), wide.pid),
            (found.in_turn, partial(_answered, narrow), narrow.pid),
            (
                found.server,
                lambda asked: sum(pool.map(partial(_server_tokens, client), asked)),
                server_pid,
            ),
        ]
        give_up = time.monotonic() + SEVERAL_S
        for asked in [WARM_UP, *rounds]:
            if found.server and time.monotonic() > give_up:
                break
            for costs, ask, pid in ways:
                cpu_s, began = cpu_seconds(pid), time.perf_counter()
                tokens = ask(asked)
                wall_ms = (time.perf_counter() - began) * 1000
                cpu_ms = (cpu_seconds(pid) - cpu_s) * 1000
                if asked is not WARM_UP:
                    costs.append(Cost(wall=wall_ms / tokens, cpu=cpu_ms / tokens))
    return found


@contextlib.contextmanager
def _answering(at_once: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process that answers rounds by `batch`; two models in one disturb each other."""
    script = f"from benchmarks.local import answer_rounds; answer_rounds({at_once})"
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


def _answered(process: subprocess.Popen[bytes], questions: list[str]) -> int:
    """Let a process answer a round; return how many tokens the answers have."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(msgspec.json.encode(questions) + b"\n")
    process.stdin.flush()
    return int(process.stdout.readline())


def answer_rounds(at_once: int) -> None:
    """Answer lists of questions, lines of JSON on stdin; print how many tokens each list took."""

    async def answer() -> None:
        async with _manager(BATCH_TOKENS, sequences=at_once) as manager:
            for line in sys.stdin:  # nothing else goes on between two rounds
                tokens = await _batch_tokens(manager, msgspec.json.decode(line), at_once)
                print(tokens, flush=True)

    asyncio.run(answer())


async def _batch_tokens(manager: FallbackManager, questions: list[str], at_once: int) -> int:
    """Let `batch` answer questions into a file; return how many tokens the answers have."""
    source = io.BytesIO("".join(f"{question}\n" for question in questions).encode())
    lines = (
        line for line in Reader(source, "in", Wording()).lines() if isinstance(line, BatchLine)
    )
    tokens = 0
    with tempfile.NamedTemporaryFile() as file:
        output = Output(Path(file.name))

        def write(line: BatchLine, answer: Answer) -> None:
            nonlocal tokens
            output.append(record_of(line, answer))
            tokens += answer.usage.completion_tokens or 0

        tally = Tally(len(questions))
        options = Options(patient=True)
        await Batch(lines, manager, options, write, at_once=at_once, tally=tally).run()
        output.close()
    assert tally.answered == len(questions)
    return tokens


def _server_tokens(client: httpx.Client, question: str) -> int:
    body = {
        "model": "m",
        "temperature": 0,
        "max_tokens": BATCH_TOKENS,
        "messages": [{"role": "user", "content": question}],
    }
    response = client.post("/v1/chat/completions", json=body)
    return int(response.json()["usage"]["completion_tokens"])


@contextlib.contextmanager
def running_server(slots: int = 1) -> Iterator[tuple[str, int]]:
    """Run llama.cpp's own server with the model; give its root URL and its process."""
    command = [sys.executable, "-c", SERVER, model(), str(threads()), str(slots)]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=dict(os.environ) | {"GOMP_SPINCOUNT": SPINS},  # as for our own
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield process.stdout.readline().strip(), process.pid
        process.stdin.close()
