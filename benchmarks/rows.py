"""Define the rows of the table: what is measured, beside what, and how much is allowed."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import msgspec

from benchmarks import gateway, local
from benchmarks.measure import Figures, Pair, alternate, compare, first_byte_s, run
from benchmarks.servers import REFUSING, running
from tieredllm.local.ladder import WORDS, Job, best

__all__ = ["ROWS", "Row"]

FLOORS = Path(__file__).parent / "floors"
PYTHON = sys.executable
ANSWERS = 1000
AT_ONCE = 50


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """Hold one line of the table."""

    what: str
    beside: str
    unit: str
    pair: Pair
    limit: float | None
    """The largest ratio that is allowed; None for a row that is there to look at."""


@contextmanager
def user(profile: str) -> Iterator[tuple[list[str], dict[str, str]]]:
    """Give a command line and an environment with a profile and directories of its own."""
    with tempfile.TemporaryDirectory() as home:
        path = Path(home) / "profile.yaml"
        path.write_text(profile, encoding="utf-8")
        env = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        yield [PYTHON, "-m", "tieredllm", "-p", str(path)], env | {"TIEREDLLM_HOME": home}


def clouds(*urls: str, **settings: object) -> str:
    """Make a profile of OpenAI-compatible tiers, then rules."""
    extra = "".join(f", {name}: {msgspec.json.encode(v).decode()}" for name, v in settings.items())
    tiers = "".join(
        f"  - {{name: {name}, provider: openai, model: {name}, base_url: '{url}', "
        f"api_key_env: null{extra}}}\n"
        for name, url in zip(("primary", "secondary", "tertiary"), urls, strict=False)
    )
    return f"name: bench\ntiers:\n{tiers}  - {{name: rules, provider: rules}}\n"


def start_up(runs: int) -> list[Row]:
    """Measure `ask` of a server that answers at once."""
    with running("instant") as url, user(clouds(url)) as (command, env):
        floor = [PYTHON, str(FLOORS / "httpx_stream.py"), url]
        pairs = compare([*command, "ask", "hello"], floor, env, runs)
        return [
            _row("ask, instant server", "httpx, 12 lines", "s", pairs["wall_s"], 1.3),
            _row("ask, instant server: memory", "the same", "MiB", pairs["peak_mib"], 1.6),
        ]


def beside_llm(runs: int) -> list[Row]:
    """Measure an `ask` beside `llm` asking the same server: the whole process, and the first word.

    Its log is off, as ours is; both stream. Left out where `llm` is not installed.
    """
    if importlib.util.find_spec("llm") is None:
        return []
    with running("instant") as url, user(clouds(url)) as (command, env):
        (Path(env["TIEREDLLM_HOME"]) / "extra-openai-models.yaml").write_text(
            f"- {{model_id: bench, model_name: bench, api_base: '{url}'}}\n", encoding="utf-8"
        )
        env |= {"LLM_USER_PATH": env["TIEREDLLM_HOME"], "OPENAI_API_KEY": "none"}
        ours = [*command, "ask", "--stream", "--no-log", "hello"]
        other = [PYTHON, "-m", "llm", "-m", "bench", "--no-log", "hello"]
        pairs = compare(ours, other, env, runs)
        first = alternate(lambda: first_byte_s(ours, env), lambda: first_byte_s(other, env), runs)
    name = f"llm {version('llm')}"
    return [
        _row("ask, whole process", name, "s", pairs["wall_s"], 0.4),
        _row("its first word", name, "s", first, 0.4),
        _row("its CPU time", name, "s", pairs["cpu_s"], 0.4),
        _row("its peak memory", name, "MiB", pairs["peak_mib"], 0.7),
    ]


def rules(runs: int) -> list[Row]:
    """Measure `ask` when every server refuses."""
    with running("instant") as url, user(clouds(REFUSING, REFUSING)) as (command, env):
        floor = [PYTHON, str(FLOORS / "httpx_stream.py"), url]
        pairs = compare([*command, "ask", "hello"], floor, env, runs)
        return [_row("ask, all refuse, rules answer", "httpx, 12 lines", "s", pairs["wall_s"], 1.4)]


def help_and_version(runs: int) -> list[Row]:
    """Measure the commands that do nothing."""
    floor = [PYTHON, "-c", "import typer"]
    with user(clouds(REFUSING)) as (command, env):
        return [
            _row(
                f"tieredllm {flag}",
                "import typer",
                "s",
                compare([*command[:3], flag], floor, env, runs)["wall_s"],
                1.3,
            )
            for flag in ("--help", "--version")
        ]


def offline(runs: int) -> list[Row]:
    """Measure offline answers of 32 and 64 tokens, the whole process.

    Beside llama-cpp-python alone, loading the model in the same way; and beside our own process
    made to compute as fast as it can, whatever that costs while loading.
    """
    question = "Count from 1 to 100."
    rows = []
    for tokens, limit in ((32, 1.05), (64, 1.15)):
        with user(local.profile(max_tokens=tokens)) as (command, env):
            trials = local.calibrate(env)
            rung = best(trials, Job()) or "plain"
            bare = [PYTHON, str(FLOORS / "bare_llama.py"), local.model(), str(local.threads())]
            floor = [*bare, question, str(tokens), rung]
            pairs = compare([*command, "ask", "-q", question], floor, env, runs)
        what = f"ask offline, {tokens} tokens"
        rows.append(_row(what, f"llama-cpp-python, {WORDS[rung]}", "s", pairs["wall_s"], limit))
    ask = ["ask", "-q", question]
    with (
        user(local.profile(max_tokens=32)) as (command, env),
        user(local.profile(max_tokens=32)) as (other, fastest_env),
    ):
        trials = local.calibrate(env)
        fastest = local.insist_on_fastest(fastest_env, trials)
        pair = alternate(
            lambda: run([*command, *ask], env).wall_s,
            lambda: run([*other, *ask], fastest_env).wall_s,
            runs,
        )
    # Where repacking is of no use or crashes, both are the same.
    limit = 0.6 if fastest == "repacked" and best(trials, Job()) != "repacked" else 1.05
    beside = f"the same, {WORDS[fastest]}"
    return [*rows, _row("ask offline, 32 tokens", beside, "s", pair, limit)]


def warm_up(runs: int) -> list[Row]:
    """Measure an offline answer whose first tier has to fail first, beside the local answer alone.

    The local model is loaded in the background from the first failure on.
    """
    ask = ["ask", "-q", "Count from 1 to 100."]
    with (
        user(local.profile(max_tokens=64, before=REFUSING)) as (command, env),
        user(local.profile(max_tokens=64)) as (alone, alone_env),
    ):

        def failing() -> float:
            # Forget the failures of the run before, or the first tier would not be asked.
            shutil.rmtree(Path(env["TIEREDLLM_HOME"]) / "state", ignore_errors=True)
            return run([*command, *ask], env).wall_s

        pair = alternate(failing, lambda: run([*alone, *ask], alone_env).wall_s, runs)
        return [_row("refused primary, local answer", "the local answer alone", "s", pair, 1.1)]


def known_silence(runs: int) -> list[Row]:
    """Measure `ask` when the primary is silent and its circuit is known to be open."""
    patience = {"first_token_timeout_s": 0.2, "retries": 0}
    with running("silent") as silent, running("instant") as url:
        health = "health: {cooldown_s: 3600, max_cooldown_s: 3600}\n"
        with (
            user(health + clouds(silent, url, **patience)) as (command, env),
            user(clouds(url)) as (healthy, healthy_env),
        ):
            for _ in range(3):
                run([*command, "ask", "hello"], env)

            pair = alternate(
                lambda: run([*command, "ask", "-q", "hello"], env).wall_s,
                lambda: run([*healthy, "ask", "-q", "hello"], healthy_env).wall_s,
                runs,
            )
            return [_row("ask, silent primary known", "a healthy ask", "s", pair, 1.05)]


def overhead(runs: int) -> list[Row]:
    """Measure the engine's CPU time for many streamed answers at once."""
    count = [str(ANSWERS), str(AT_ONCE)]
    with running("instant") as url, user(clouds(url)) as (command, env):
        floor = [PYTHON, str(FLOORS / "httpx_load.py"), url, *count]
        ours = [PYTHON, str(FLOORS / "engine_load.py"), command[-1], *count]
        what = f"{ANSWERS} answers, {AT_ONCE} at once: CPU"
        runs = max(1, runs // 2)
        rows = [_row(what, "httpx alone", "s", compare(ours, floor, env, runs)["cpu_s"], 1.3)]
        if importlib.util.find_spec("litellm") is not None:
            other = [PYTHON, str(FLOORS / "litellm_load.py"), url, *count]
            pair = compare(other, floor, env, 1)["cpu_s"]
            rows.append(_row(f"{what}, LiteLLM", "httpx alone", "s", pair, None))
        return rows


def _row(what: str, beside: str, unit: str, pair: Pair, limit: float | None) -> Row:
    return Row(what=what, beside=beside, unit=unit, pair=pair, limit=limit)


def decode_rate(runs: int) -> list[Row]:
    """Measure the local tier's time per token beside llama.cpp's own server."""
    pair = local.decode(runs)
    return [_row("local tier, per token", "llama.cpp's server", "ms", pair, 1 / 0.97)]


def second_question(runs: int) -> list[Row]:
    """Measure the first token of a chat's second question beside a fresh prompt's."""
    pair = local.second_question(runs)
    return [_row("chat, 2nd question, first token", "a fresh prompt", "ms", pair, 0.35)]


def continued(runs: int) -> list[Row]:
    """Measure `ask -c` after a long first question: with what was read kept, and without."""
    with user(local.profile(max_tokens=16)) as (command, env):
        pair = local.continued(command, env, max(2, runs // 2))
    return [_row("ask -c after 1,800 tokens: first token", "reading anew", "ms", pair, 0.15)]


def several(_runs: int) -> list[Row]:
    """Measure 64 answers of 64 tokens, 8 at once: beside one after the other and the server's.

    Also with a beginning of some 300 tokens that all have in common, which one after the other
    keeps, too. CPU time counts the waiting of threads for one another, which others' load makes
    long.
    """
    if not Path("/proc/self/stat").exists():
        return []
    beginning = "You are a careful assistant who answers briefly and never guesses. " * 22
    rows = []
    for begins, alike, gain in (("", "", 1.8), (beginning, ", begin alike", 1.7)):
        found = local.several(begins)
        count = len(found.together) * local.ROUND
        what = f"batch, {count} x {local.BATCH_TOKENS} tokens{alike}"
        for beside, costs, limit in (
            ("one after the other", found.in_turn, 1 / gain),
            ("llama.cpp's server", found.server, 1 / 0.95),
        ):
            rows.append(_row(what, beside, "ms", found.pair("wall", costs), limit))
            rows.append(_row(f"{what}: CPU", beside, "ms", found.pair("cpu", costs), None))
    return rows


def batch(runs: int) -> list[Row]:
    """Measure the CPU of a batch over a cloud tier beside httpx alone."""
    with running("instant") as url, user(clouds(url)) as (command, env):
        source = Path(env["TIEREDLLM_HOME"]) / "in.txt"
        source.write_text("hello\n" * ANSWERS)
        floor = [PYTHON, str(FLOORS / "httpx_load.py"), url, str(ANSWERS), "64"]
        ours = [*command, "-q", "batch", str(source)]
        pair = compare(ours, floor, env, max(1, runs // 2))["cpu_s"]
        return [_row(f"batch, {ANSWERS} lines: CPU", "httpx alone", "s", pair, 1.3)]


def health_decision(runs: int) -> list[Row]:
    """Measure a decision with a million recorded requests beside one with none.

    What is allowed is 2 ms more; the ratio is for the picture.
    """
    from benchmarks.health import decision

    pair = decision(runs)
    more_ms = sorted(pair.ours)[len(pair.ours) // 2] - sorted(pair.floor)[len(pair.floor) // 2]
    what = f"health decision, 10⁶ requests: {more_ms:+.2f} ms"
    return [_row(what, "no request", "ms", pair, None)]


def serving(runs: int) -> list[Row]:
    """Measure `serve` in front of a server that says twenty words at once, and other gateways.

    What is allowed is absolute where the contract is: 90 MiB, a second from the process's start to
    its first answer, 5 ms more than without it. Others are measured where they are installed.
    """
    if not Path("/proc/self/stat").exists():
        return []
    with running("twenty") as url, user(clouds(url)) as (command, env):
        home = Path(env["TIEREDLLM_HOME"])
        launches = {
            "ours": gateway.ours(command, env),
            "LiteLLM": gateway.litellm(url, home),
            "Portkey": gateway.portkey(url, home),
        }
        found: dict[str, list[Served]] = {}
        floor: list[Figures] = []
        direct_ms: list[float] = []
        for _ in range(max(1, runs // 2)):
            for name, launch in launches.items():
                if launch is not None:
                    # LiteLLM takes 50 ms for each.
                    count = ANSWERS // 5 if name == "LiteLLM" else ANSWERS
                    found.setdefault(name, []).append(_served(launch, count))
            direct_ms.append(gateway.answer_ms(url, 50))
            load = [PYTHON, str(FLOORS / "httpx_load.py"), url, str(ANSWERS), str(AT_ONCE)]
            floor.append(run(load, env))

    our = found.pop("ours")

    def pair(field: str, others: Iterable[float]) -> Pair:
        return Pair(ours=tuple(getattr(one, field) for one in our), floor=tuple(others))

    def at_most(field: str, most: float) -> Pair:
        return pair(field, [most] * len(our))

    client_ms = [figures.cpu_s * 1000 / ANSWERS for figures in floor]
    direct = [figures.wall_s * 1000 / ANSWERS for figures in floor]
    more = Pair(
        ours=tuple(max(0.1, one.lone_ms - ms) for one, ms in zip(our, direct_ms, strict=True)),
        floor=(5.0,) * len(our),
    )
    what = f"serve, {ANSWERS} answers, {AT_ONCE} at once"
    rows = [
        _row(f"{what}: CPU for each", "httpx, as a client", "ms", pair("cpu_ms", client_ms), 1.6),
        _row(f"{what}: time for each", "without it", "ms", pair("each_ms", direct), None),
        _row("serve: resident", "allowed", "MiB", at_most("resident_mib", 90), 1.0),
        _row("serve: a lone answer, more", "allowed", "ms", more, 1.0),
        _row("serve: start to first answer", "allowed", "s", at_most("first_answer_s", 1), 1.0),
    ]
    for name, theirs in found.items():
        allowed = {"LiteLLM": 1 / 8, "Portkey": 1.0}[name]
        for what, unit, field, limit in (
            ("CPU for each", "ms", "cpu_ms", allowed),
            ("time for each", "ms", "each_ms", None),
            ("resident", "MiB", "resident_mib", None),
            ("a lone answer", "ms", "lone_ms", None),
            ("start to first answer", "s", "first_answer_s", None),
        ):
            beside = pair(field, [getattr(one, field) for one in theirs])
            rows.append(_row(f"serve: {what}", name, unit, beside, limit))
    return rows


class Served(msgspec.Struct, frozen=True, kw_only=True):
    """What one run of a gateway took."""

    first_answer_s: float
    lone_ms: float
    cpu_ms: float
    each_ms: float
    resident_mib: float


def _served(launch: gateway.Launch, count: int) -> Served:
    with gateway.running_gateway(launch) as running_one:
        lone_ms = gateway.answer_ms(running_one.url, 50, running_one.headers)
        before_s = running_one.cpu_s()
        wall_s = gateway.load(running_one, count, AT_ONCE)
        return Served(
            first_answer_s=running_one.first_answer_s,
            lone_ms=lone_ms,
            cpu_ms=(running_one.cpu_s() - before_s) * 1000 / count,
            each_ms=wall_s * 1000 / count,
            resident_mib=running_one.resident_mib(),
        )


def unused_tools(runs: int) -> list[Row]:
    """Measure `ask` with an MCP server that is declared and not called, beside `ask` without."""
    server = msgspec.json.encode([PYTHON, str(Path(__file__).parent / "servers.py"), "mcp"])
    declared = f"tools: {{mcp: {{docs: {{command: {server.decode()}}}}}}}\n"
    with (
        running("instant") as url,
        user(clouds(url, tools="all") + declared) as (command, env),
        user(clouds(url)) as (plain, plain_env),
    ):
        rounds = [
            (run([*command, "ask", "hello"], env), run([*plain, "ask", "hello"], plain_env))
            for _ in range(runs + 1)
        ][1:]

    def pair(figure: str) -> Pair:
        return Pair(
            ours=tuple(getattr(a, figure) for a, _ in rounds),
            floor=tuple(getattr(b, figure) for _, b in rounds),
        )

    what = "ask, an MCP server declared"
    return [
        _row(what, "ask without", "s", pair("wall_s"), 1.15),
        _row(f"{what}: CPU", "ask without", "s", pair("cpu_s"), 1.15),
    ]


ROWS: dict[str, Callable[[int], list[Row]]] = {
    "start-up": start_up,
    "llm": beside_llm,
    "rules": rules,
    "help": help_and_version,
    "offline": offline,
    "decode": decode_rate,
    "chat": second_question,
    "continued": continued,
    "overhead": overhead,
    "serve": serving,
    "batch": batch,
    "several": several,
    "tools": unused_tools,
    "health": health_decision,
    "silence": known_silence,
    "warm-up": warm_up,
}
