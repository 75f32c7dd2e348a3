"""Ways to load a model, what each was found to do here, and which one suits a job.

llama.cpp's fastest kernels crash on some processors: with AMX, `ggml_backend_amx_mul_mat` loads a
tile configuration whose stores GCC 12 has dropped (llama.cpp issue 20824, pull request 26954).
Weights that are not repacked never reach that code, and answer at about half the speed of what GCC
compiles with `-fno-dse` (seen with GCC 12.2 and llama-cpp-python 0.3.36).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec

__all__ = [
    "BATCH",
    "RUNGS",
    "SESSION",
    "Job",
    "LoadSettings",
    "Rates",
    "Rung",
    "Trial",
    "best",
    "expected_s",
    "missing",
]


class LoadSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How a model is loaded and computed with."""

    repack: bool = False
    """Whether weights are laid out anew for the processor's matrix units (`use_extra_bufts` of
    llama.h). It takes time while loading and wins some while computing."""
    flash_attention: bool = True
    threads: int | None = None
    """How many threads compute; None for one per physical core."""
    gpu_layers: int | None = None
    """How many layers a GPU gets, in a build for one; None for llama.cpp's default: all."""
    sequences: int = 1
    """How many answers may be under way at the same time, in one context."""
    more_tokens: int = 0
    """The room that they share besides one whole context, in tokens."""
    apart: bool = False
    """Whether each has a part of the room to itself, for as long as they all fit in there: faster
    while all are busy."""


Rung = Literal["repacked", "plain", "no_flash_attention", "one_thread"]

RUNGS: dict[Rung, LoadSettings] = {
    "repacked": LoadSettings(repack=True),
    "plain": LoadSettings(),
    "no_flash_attention": LoadSettings(flash_attention=False),
    "one_thread": LoadSettings(flash_attention=False, threads=1),
}
"""The ladder, the fastest computing first; each leaves out one more thing that may crash."""

WORDS: dict[Rung, str] = {
    "repacked": "weights repacked",
    "plain": "weights as they are",
    "no_flash_attention": "without flash attention",
    "one_thread": "with one thread",
}
"""How each rung is called where it is shown."""

ALTERNATIVES: tuple[Rung, ...] = ("repacked", "plain")
"""Those that may each be the best: one loads faster, the other computes faster."""


class Rates(msgspec.Struct, frozen=True, kw_only=True):
    """How fast a model is with one rung on this machine."""

    load_s: float
    prompt_tps: float
    """Prompt tokens evaluated per second."""
    decode_tps: float
    """Tokens of an answer per second."""


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """How a rung went: either its rates or its fault is set."""

    rung: Rung
    rates: Rates | None = None
    fault: str | None = None
    """The signal that ended it and llama.cpp's last words, or `NaN`."""

    def describe(self) -> str:
        """Return the rung and its rates in words."""
        if self.rates is None:
            return f"{WORDS[self.rung]}: not usable here ({self.fault})"
        return f"{self.rates.decode_tps:.3g} tokens/s, {WORDS[self.rung]}"


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What a process is going to do with a model; the defaults are one short question."""

    prompt_tokens: int = 64
    completion_tokens: int = 128
    questions: int = 1
    keeps_busy: bool = False
    """Whether as many questions as can be answered at once are there at any time."""

    @property
    def is_long(self) -> bool:
        """Whether computing faster is worth loading slower, so that both are to be tried."""
        return self.questions > 1 or self.prompt_tokens >= LONG_PROMPT_TOKENS


LONG_PROMPT_TOKENS = 1500
"""Where, on the machines measured, a second of repacking is won back while reading the prompt."""
CLEARLY = 1.05
"""More than two measurements of the same differ on a quiet machine."""
SESSION = Job(prompt_tokens=200, completion_tokens=200, questions=10)
"""A conversation, or a program that keeps the model."""
BATCH = Job(prompt_tokens=200, completion_tokens=200, questions=100, keeps_busy=True)
"""A list of questions that are all there from the beginning."""


def expected_s(rates: Rates, job: Job) -> float:
    """Return the seconds that loading a model and doing a job will take."""
    question_s = job.prompt_tokens / rates.prompt_tps + job.completion_tokens / rates.decode_tps
    return rates.load_s + job.questions * question_s


def best(trials: Iterable[Trial], job: Job) -> Rung | None:
    """Return the rung with the least expected time for a job; None when none works.

    Repacked weights, which take memory of their own, must be clearly better.
    """
    times = {
        trial.rung: expected_s(trial.rates, job) for trial in trials if trial.rates is not None
    }
    if "repacked" in times:
        times["repacked"] *= CLEARLY
    return min(times, key=times.__getitem__, default=None)


def missing(trials: Sequence[Trial], job: Job) -> list[Rung]:
    """Return the rungs to try next for a job, in this order; empty when enough is known.

    One short question is answered with the first rung that works; both alternatives are measured
    where the faster one may pay.
    """
    tried = {trial.rung for trial in trials}
    wanted: tuple[Rung, ...] = ALTERNATIVES[::-1] if job.is_long else ("plain",)
    if left := [rung for rung in wanted if rung not in tried]:
        return left
    if any(trial.rates for trial in trials):
        return []
    return [rung for rung in RUNGS if rung not in tried][:1]
