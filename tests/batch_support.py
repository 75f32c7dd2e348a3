"""Run batches as users do: lines in a file, a scripted vendor, records out."""

from __future__ import annotations

import contextlib
import json
import random
import re
import threading
from collections.abc import Iterator
from pathlib import Path

from cli_support import profile, served
from test_soak import FAULTS
from wire_support import Connection, RawServer, Received, answers


class Vendor:
    """A server that answers a question with its own words, well or badly; it keeps the count.

    Args:
        vendor: whose wire it speaks.
        badly: the share of requests that meet a random fault.
        seed: where the die begins.
    """

    def __init__(self, vendor: str = "openai", *, badly: float = 0.0, seed: int = 0) -> None:
        self.vendor = vendor
        self.server: RawServer
        self.asked: list[str] = []
        self.faults: set[str] = set()
        self.lock = threading.Lock()
        self._badly = badly
        self._rng = random.Random(seed)

    async def play(self, connection: Connection) -> None:
        """Answer the request that came last."""
        question = question_in(self.server.requests[-1])
        with self.lock:
            self.asked.append(question)
        if self._rng.random() >= self._badly:
            await connection.send(answers(self.vendor, "you said: ", question))
            return
        name = self._rng.choice(sorted(FAULTS))
        self.faults.add(name)
        await FAULTS[name](self.vendor, connection)


@contextlib.contextmanager
def serving(vendor: Vendor) -> Iterator[RawServer]:
    """Let a vendor answer on a thread of its own."""
    with served(vendor.play) as server:
        vendor.server = server
        yield server


def question_in(request: Received) -> str:
    """Find the question in a request of any vendor."""
    found = re.search(rb"question [\w-]+", request.body)
    return found[0].decode() if found else ""


def lines(path: Path, count: int, start: int = 1) -> Path:
    """Write JSON lines of questions."""
    numbers = range(start, start + count)
    text = "".join(
        json.dumps({"id": f"q{number}", "prompt": f"question {number}"}) + "\n"
        for number in numbers
    )
    path.write_text(text, encoding="utf-8")
    return path


def records(path: Path) -> list[dict]:
    """Read an output."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def text_of(record: dict) -> str:
    """Give the answer in a record."""
    return record["response"]["body"]["choices"][0]["message"]["content"]


def tiers(home: Path, *urls: str, extra: str = "") -> str:
    """Write a profile of one OpenAI-compatible tier per URL, then rules."""
    names = ("primary", "secondary", "tertiary")
    told = "".join(
        f"  - {{name: {name}, provider: openai, model: m-1, base_url: '{url}/v1',"
        " api_key_env: null, retries: 1, backoff: {base_s: 0.01, jitter_s: 0.01},"
        " first_token_timeout_s: 0.5, idle_timeout_s: 0.5, timeout_s: 0.5}\n"
        for name, url in zip(names, urls, strict=False)
    )
    return profile(
        home,
        "name: test\non_content_filter: fallback\n"
        f"health: {{cooldown_s: 0.3, max_cooldown_s: 0.6}}\n{extra}tiers:\n{told}"
        "  - {name: rules, provider: rules}\n",
    )
