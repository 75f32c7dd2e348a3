"""Measure what each prompt policy does to a small model's answers: `python -m benchmarks.quality`.

A hundred short questions with an answer that a pattern recognises (`data/quality.tsv`) go to the
small model, greedily, as each policy words them, and bare to llama.cpp's own server. Two things
more are checked on the minimal policy: that a conversation has a memory, and that a long question
is answered whose point is in its last line. Exit code 1: `minimal` is worse than `full` or than
the bare model, or one of the two failed.
"""

from __future__ import annotations

import asyncio
import re
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal

import httpx
import msgspec

from benchmarks.local import model, running_server
from tieredllm.client import FallbackManager
from tieredllm.profile.schema import Params, Profile, Tier
from tieredllm.types import Message, Prompt

__all__ = ["LONG_QUESTION", "Question", "questions"]

Policy = Literal["full", "simplified", "minimal"]
POLICIES: tuple[Policy, ...] = ("full", "simplified", "minimal")
MAX_TOKENS = 96
"""Enough for a sentence or two more than the answer."""

MEMORY = (
    Message("user", "My name is Bartholomew."),
    Message("assistant", "Nice to meet you, Bartholomew!"),
)

LONG_QUESTION = (
    "I am planning a long journey by train this summer, and I have taken some notes.\n\n"
    + "\n".join(
        f"Day {day}: breakfast at the hotel, then a walk through the old town, a visit to the "
        "museum beside the station, and in the evening a quiet dinner near the river."
        for day in range(1, 9)
    )
    + "\n\nForget the notes for a moment, here is what I really want to know:\n\n"
    "What is the capital of France?"
)
"""About 300 tokens, all but the last line beside the point."""


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """A question, and what an answer to it must hold."""

    text: str
    pattern: str
    """A regular expression; with capitals in it, capitals count."""

    def is_answered_by(self, answer: str) -> bool:
        """Return whether the answer is right."""
        flags = re.NOFLAG if self.pattern.isupper() else re.IGNORECASE
        return re.search(self.pattern, answer, flags) is not None


def questions() -> list[Question]:
    """Return the hundred questions."""
    lines = (Path(__file__).parent / "data" / "quality.tsv").read_text(encoding="utf-8")
    pairs = (line.split("\t") for line in lines.splitlines())
    return [Question(text=text, pattern=pattern) for text, pattern in pairs]


def _manager(policy: Policy) -> FallbackManager:
    tier = Tier(
        name="local",
        provider="llama_cpp",
        model=model(),
        prompt=policy,
        context_tokens=2048,
        params=Params(temperature=0.0, max_tokens=MAX_TOKENS),
        first_token_timeout_s=120.0,
        idle_timeout_s=60.0,
    )
    profile = Profile(name="quality", deadline_s=300.0, tiers=(tier,))
    return FallbackManager(profile, persist=False)


def _bare(url: str, question: str) -> str:
    body = {
        "messages": [{"role": "user", "content": question}],
        "temperature": 0,
        "max_tokens": MAX_TOKENS,
    }
    reply = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=300).raise_for_status()
    return str(reply.json()["choices"][0]["message"]["content"])


def _score(name: str, answer: Callable[[str], str]) -> int:
    started = time.monotonic()
    asked = questions()
    right = sum(question.is_answered_by(answer(question.text)) for question in asked)
    took_s = time.monotonic() - started
    print(f"{name:<28}{right:>4} of {len(asked)} right in {took_s:.0f} s", flush=True)
    return right


def main() -> int:
    scores: dict[str, int] = {}
    with asyncio.Runner() as runner:

        def ask(manager: FallbackManager, prompt: str | Prompt) -> str:
            return runner.run(manager.process_with_fallbacks(prompt)).text or ""

        for policy in POLICIES:
            manager = _manager(policy)
            scores[policy] = _score(policy, partial(ask, manager))
            if policy == "minimal":
                memory = ask(manager, Prompt(question="What is my name?", history=MEMORY))
                long = ask(manager, LONG_QUESTION)
            runner.run(manager.aclose())
    with running_server() as (url, _):
        scores["bare"] = _score("bare, llama.cpp's server", lambda text: _bare(url, text))
    checks = {
        "minimal is at least full": scores["minimal"] >= scores["full"],
        "minimal is at least bare": scores["minimal"] >= scores["bare"],
        "a conversation is remembered": "bartholomew" in memory.lower(),
        "a long question is answered": "paris" in long.lower(),
    }
    for what, holds in checks.items():
        print(f"{what:<32}{'yes' if holds else 'NO'}")
    return int(not all(checks.values()))


if __name__ == "__main__":
    sys.exit(main())
