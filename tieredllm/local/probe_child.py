"""Load a model in this process in several ways, compute with each, and say on stdout how it went.

Run as `python -m tieredllm.local.probe_child REQUEST`, the request and the lines on stdout being
JSON (`ProbeRequest`, `ProbeLine`). Native code that crashes takes this process with it, not the one
that has an answer to give; what was printed before that still counts.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from tieredllm.errors import FallbackTriggerError
from tieredllm.local.ladder import RUNGS, LoadSettings, Rates, Rung
from tieredllm.profile.schema import Params
from tieredllm.types import Message

if TYPE_CHECKING:
    from tieredllm.local.model import LoadedModel

__all__ = ["NAN", "ProbeLine", "ProbeRequest", "main"]

FIRST_TOKENS = 32
"""Prompt tokens of a first batch, whose time bounds the size of the second."""
LAST_TOKENS = 8
"""Tokens that are evaluated one by one, as those of an answer are."""
NAN = "NaN"


class ProbeRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What a probe is to try."""

    path: bytes
    """As the file system has it: not every path can be written as JSON's text."""
    rungs: tuple[Rung, ...]
    n_ctx: int
    budget_s: float
    """About how long the large batch of prompt tokens may take; it is as large as that allows."""
    gpu_layers: int | None = None
    """See `LoadSettings`."""


class ProbeLine(msgspec.Struct, frozen=True, kw_only=True):
    """One finding of a probe: that llama.cpp has started, or how a rung went."""

    rung: Rung | None = None
    rates: Rates | None = None
    fault: str | None = None
    rejected: str | None = None
    """Why the file cannot be used, in words that follow its name."""
    bad_file: bool = False
    """Whether that lies in the file, and not in the moment."""


def main(request: ProbeRequest) -> None:
    """Try the rungs one after the other, printing a line each, the first when llama.cpp runs."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if sys.platform != "win32":
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        from tieredllm.local.llama_bindings import bindings

        bindings()
        _print(ProbeLine())
        for rung in request.rungs:
            line = _try(rung, request)
            _print(line)
            if line.rejected is not None:
                return
    except FallbackTriggerError as exc:
        _print(ProbeLine(rejected=exc.message))


def _print(line: ProbeLine) -> None:
    print(msgspec.json.encode(line).decode(), flush=True)


def _try(rung: Rung, request: ProbeRequest) -> ProbeLine:
    from tieredllm.local.model import BadFileError

    try:
        settings = msgspec.structs.replace(RUNGS[rung], gpu_layers=request.gpu_layers)
        rates = _measure(settings, request)
    except FallbackTriggerError as exc:
        return ProbeLine(rung=rung, rejected=exc.message, bad_file=isinstance(exc, BadFileError))
    except ArithmeticError:
        return ProbeLine(rung=rung, fault=NAN)
    return ProbeLine(rung=rung, rates=rates)


def _measure(settings: LoadSettings, request: ProbeRequest) -> Rates:
    """Load the model, compute with the shapes of an answer, and return how fast that went.

    Raises:
        FallbackTriggerError: llama.cpp cannot use the file, or has no memory for it.
        ArithmeticError: what came out is not a number.
    """
    from tieredllm.local.llama_bindings import Flag
    from tieredllm.local.model import BATCH_TOKENS, LoadedModel
    from tieredllm.local.template import ChatFormat

    started = time.perf_counter()
    model = LoadedModel(
        Path(os.fsdecode(request.path)),
        n_ctx=request.n_ctx,
        settings=settings,
        stop=Flag(),
        go_on=lambda: True,
    )
    load_s = time.perf_counter() - started
    try:
        seed = ChatFormat(model.vocabulary).prompt([Message("user", "Hello")]).tokens[:FIRST_TOKENS]
        room = request.n_ctx - LAST_TOKENS - 1
        text = (seed * (request.n_ctx // len(seed) + 1))[:room]
        first = min(FIRST_TOKENS, room // 2)
        first_s = _time(model, text[:first])
        prompt_tps = first / first_s
        more = min(BATCH_TOKENS, room - first, int(request.budget_s * prompt_tps))
        if more > first:  # the more tokens at once, the better the estimate
            text = text[: first + more]
            prompt_tps = more / _time(model, text)
        decode_s = 0.0
        for _ in range(LAST_TOKENS):
            text.append(seed[0])
            decode_s += _time(model, text)
        if not model.computes_numbers():
            raise ArithmeticError
        list(model.sample(1, Params(temperature=0)))
    finally:
        model.close()
    return Rates(load_s=load_s, prompt_tps=prompt_tps, decode_tps=LAST_TOKENS / decode_s)


def _time(model: LoadedModel, tokens: list[int]) -> float:
    """Evaluate what the tokens have beyond those before, and return the seconds it took."""
    started = time.perf_counter()
    model.evaluate(tokens)
    return time.perf_counter() - started


if __name__ == "__main__":
    main(msgspec.json.decode(sys.argv[1], type=ProbeRequest))
