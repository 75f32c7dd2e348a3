"""A batch that is killed again and again: each id once, nothing asked twice, the pairs right."""

from __future__ import annotations

import os
import random
import re
import subprocess
import time
from contextlib import suppress
from json import JSONDecodeError, loads

from batch_support import Vendor, lines, records, serving, text_of, tiers
from cli_support import environment, tieredllm
from test_soak import FAULTS

LINES = int(os.environ.get("TIEREDLLM_KILL_LINES", "300"))
KILLS = int(os.environ.get("TIEREDLLM_KILLS", "6"))
"""How many; the whole test is 2,000 lines and 20 kills."""
STARTS = 400


def written(out) -> set[str]:
    """Give the ids of the whole, answered records of an output."""
    found = set()
    if out.exists():
        for line in out.read_bytes().split(b"\n"):
            with suppress(JSONDecodeError):
                record = loads(line)
                if record["response"]:
                    found.add(record["custom_id"])
    return found


def test_killed_at_random_moments(tmp_path):
    """Through kills and faults every id is answered once, and none again that was written."""
    rng = random.Random(7)
    vendors = [Vendor(badly=0.15, seed=1), Vendor(badly=0.15, seed=2)]
    source = lines(tmp_path / "in.jsonl", LINES)
    out = tmp_path / "out.jsonl"
    asked_again: set[str] = set()
    kills = starts = 0

    with serving(vendors[0]) as one, serving(vendors[1]) as two:
        used = tiers(tmp_path, one.url, two.url)
        code = -1
        while code != 0 and starts < STARTS:
            starts += 1
            before = written(out)
            marks = [len(vendor.asked) for vendor in vendors]
            process = subprocess.Popen(
                tieredllm("-q", "-p", used, "batch", str(source), "-o", str(out)),
                # Benches of minutes for a random 401 would leave nothing to be played.
                env=environment(tmp_path / f"home{starts}"),
                stderr=subprocess.DEVNULL,
            )
            # Not more than leaves something for the kills to come, however fast the machine; after
            # them until both vendors are benched, for a 401 or a used-up quota of those played.
            enough = len(before) + rng.randint(0, LINES // (KILLS + 2))
            until = time.monotonic() + rng.uniform(0, 2)
            if kills >= KILLS:
                enough, until = LINES + 1, time.monotonic() + 10
            while (
                process.poll() is None and len(written(out)) < enough and time.monotonic() < until
            ):
                time.sleep(0.01)
            if process.poll() is None:
                process.kill()
                kills += 1
            code = process.wait()
            time.sleep(0.05)
            for vendor, mark in zip(vendors, marks, strict=True):
                numbers = {question.split()[-1] for question in vendor.asked[mark:]}
                asked_again |= {f"q{number}" for number in numbers} & before

    found = records(out)
    assert code == 0
    assert kills >= KILLS
    assert asked_again == set()
    assert [record["custom_id"] for record in found] == [f"q{n}" for n in range(1, LINES + 1)]
    for record in found:
        number = re.sub(r"\D", "", record["custom_id"])
        assert text_of(record) == f"you said: question {number}"
    if LINES >= 2000:
        assert vendors[0].faults | vendors[1].faults == set(FAULTS)
