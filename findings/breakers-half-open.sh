#!/bin/sh
# circuitbreaker 2.1.3, aiobreaker 1.2.0, purgatory 3.0.1 and pybreaker 1.4.1 (Python, run 2026-11): what a
# circuit breaker lets through when its time is over and 20 calls wait at that moment. circuitbreaker's
# documentation says that it "allows one test-execution", aiobreaker's that "the next call" is the trial.
#
# - circuitbreaker, aiobreaker and purgatory let all 20 through: the state changes with a call's end, not
#   with its beginning, and until then every call is the trial. A server that has just come back gets the
#   whole load at once, for as long as an answer takes: with language models, seconds;
# - pybreaker lets one through, but knows functions only: around an `async def` it sees each call succeed,
#   since it made a coroutine, and never opens.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT INT TERM
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    circuitbreaker==2.1.3 aiobreaker==1.2.0 purgatory==3.0.1 pybreaker==1.4.1
cat > "$folder/finding.py" <<'PYTHON'
import asyncio
import threading
import time
from contextlib import suppress
from datetime import timedelta

import aiobreaker
import circuitbreaker
import pybreaker
import purgatory

FAILURES, REST_S, TAKES_S, WAITING = 3, 0.5, 1.0, 20


def guarded(name):
    """Return a server that always fails, behind a breaker, and the list of calls that reached it."""
    reached = []

    async def ask():
        reached.append(time.monotonic())
        await asyncio.sleep(TAKES_S if len(reached) > FAILURES else 0)
        raise ConnectionError

    if name == "circuitbreaker":
        return circuitbreaker.circuit(failure_threshold=FAILURES, recovery_timeout=REST_S)(ask), reached
    if name == "aiobreaker":
        breaker = aiobreaker.CircuitBreaker(FAILURES, timedelta(seconds=REST_S))
        return (lambda: breaker.call_async(ask)), reached
    if name == "purgatory":
        factory = purgatory.AsyncCircuitBreakerFactory(FAILURES, REST_S)
        return factory("server")(ask), reached
    return pybreaker.CircuitBreaker(fail_max=FAILURES, reset_timeout=REST_S)(ask), reached


async def count(name):
    """Return how many calls got through: of those while it was open, and of those after its rest."""
    call, reached = guarded(name)
    for _ in range(FAILURES):
        with suppress(Exception):
            await call()
    counts = []
    for rest in (0, REST_S + 0.1):
        await asyncio.sleep(rest)
        before = len(reached)
        await asyncio.gather(*(call() for _ in range(WAITING)), return_exceptions=True)
        counts.append(len(reached) - before)
    return tuple(counts)


def count_threads():
    """The same of pybreaker, with functions in threads."""
    breaker, reached = pybreaker.CircuitBreaker(fail_max=FAILURES, reset_timeout=REST_S), []

    def ask():
        reached.append(time.monotonic())
        time.sleep(TAKES_S if len(reached) > FAILURES else 0)
        raise ConnectionError

    def call():
        with suppress(Exception):
            breaker.call(ask)

    for _ in range(FAILURES):
        call()
    counts = []
    for rest in (0, REST_S + 0.1):
        time.sleep(rest)
        before = len(reached)
        threads = [threading.Thread(target=call) for _ in range(WAITING)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        counts.append(len(reached) - before)
    return tuple(counts)


expected = {
    "circuitbreaker": (0, WAITING),
    "aiobreaker": (0, WAITING),
    "purgatory": (0, WAITING),
    "pybreaker": (WAITING, WAITING),
    "pybreaker, functions": (0, 1),
}
seen = {name: asyncio.run(count(name)) for name in list(expected)[:-1]}
seen["pybreaker, functions"] = count_threads()
for name, (while_open, after) in seen.items():
    print(f"{name}: {while_open} of {WAITING} while open, {after} of {WAITING} after its rest")
print("changed" if seen != expected else "as written")
raise SystemExit(seen != expected)
PYTHON
"$folder/venv/bin/python" -W ignore "$folder/finding.py"
