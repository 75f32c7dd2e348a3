"""Test that a process which has run out of descriptors, or lost its package, still answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from cli_support import served
from wire_support import STREAM_HEAD, chunk, document, opens, response, says

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows does not limit descriptors so")

FAULTS = {
    "429": response(429, {"error": {"message": "slow down"}}, {"Retry-After": "3"}),
    "401": response(401, {"error": {"message": "bad key", "code": "invalid_api_key"}}),
    "500": response(500, "<html><title>Oops</title></html>"),
    "html": response(200, "<html></html>", {"Content-Type": "text/html"}),
    "half": response(200, b'{"choices": [', {"Content-Type": "application/json"}),
    "empty": response(200, b""),
    "inside": response(200, {"error": {"message": "no", "code": 500}}),
    "cut": STREAM_HEAD + b"".join(chunk(item) for item in [*opens("openai"), says("openai", "h")]),
    "packed": response(200, document("openai", "Hi"), {"Content-Encoding": "gzip"}),
    "noise": b"\x00\x01 nothing like HTTP\r\n\r\n",
}

SCRIPT = """
import asyncio, concurrent.futures.thread, json, os, resource, sys
from tieredllm import FallbackManager

urls, limited = json.loads(sys.argv[1]), sys.argv[2] == "limited"
tiers = [
    {"name": f"t{at}", "provider": "openai", "model": "m", "base_url": url, "api_key_env": None,
     "retries": 0}
    for at, url in enumerate(urls)
]
import yaml, pathlib
path = pathlib.Path(os.environ["TIEREDLLM_HOME"]) / "p.yaml"
path.parent.mkdir(parents=True, exist_ok=True)
path.write_text(yaml.safe_dump({"name": "p", "tiers": [*tiers, {"name": "rules",
    "provider": "rules"}]}))

def take_all():
    held = []
    while limited:
        try:
            held.append(os.open(os.devnull, os.O_RDONLY))
        except OSError:
            break
    return held

def tell(answers, before):
    late = sorted(set(sys.modules) - before)
    errors = [attempt.error and attempt.error.message for attempt in answers[-1].attempts]
    print(json.dumps([[answer.tier for answer in answers], answers[0].text, late, errors]))

async def main():
    manager = FallbackManager(str(path))
    before = set(sys.modules)
    held = take_all()
    answers = [await manager.process_with_fallbacks("hello") for _ in range(2)]
    for descriptor in held:
        os.close(descriptor)
    tell(answers, before)
    await manager.aclose()

def synchronous():
    manager = FallbackManager(str(path))
    before = set(sys.modules)
    held = take_all()
    answers = [manager.ask("hello") for _ in range(5)]
    with concurrent.futures.ThreadPoolExecutor(2) as threads:
        answers += threads.map(manager.ask, ["hello"] * 5)
    for descriptor in held:
        os.close(descriptor)
    tell(answers, before)

if limited:
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
if sys.argv[3] == "asynchronous":
    asyncio.run(main())
else:
    synchronous()
"""


def run(tmp_path, urls, how, way="asynchronous"):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(urls), how, way],
        env=os.environ | {"TIEREDLLM_HOME": str(tmp_path)},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert done.stderr == b""
    return json.loads(done.stdout)


@pytest.mark.parametrize("way", ["asynchronous", "synchronous"])
def test_without_a_free_descriptor_rules_answer(tmp_path, way):
    """All 64 are in use before the first question: no connection, no database, an answer.

    The synchronous `ask` has not even a descriptor for an event loop.
    """
    tiers, text, late, errors = run(
        tmp_path, ["http://127.0.0.1:9/v1", "https://127.0.0.1:9/v1"], "limited", way
    )

    assert set(tiers) == {"rules"}
    assert "fallback mode" in text
    assert not late, late
    assert errors == [*["no file descriptor is free to connect with (ulimit -n)"] * 2, None]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_failure_loads_nothing(tmp_path, fault):
    """Whatever goes wrong, its handling is loaded: the package may have been replaced meanwhile."""
    with served(FAULTS[fault]) as server:
        tiers, _, late, _ = run(tmp_path, [server.url + "/v1"], "free")

    assert tiers == ["rules", "rules"]
    assert not late, late
