"""What the tests of the store share: a clock, values, and child processes."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from tieredllm.engine.ports import TurnResult
from tieredllm.kinds import ErrorInfo, ErrorKind
from tieredllm.types import Answer, Attempt, Skip, Usage

NOW = 1_800_000_000.0


class FakeClock:
    """Tell the time that a test says it is."""

    def __init__(self, now: float = NOW) -> None:
        self.now = now

    def wall(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now


def success(identity: str = "b", *, latency_s: float = 1.0, probe: bool = False) -> TurnResult:
    return TurnResult(identity=identity, request_id="r", ok=True, latency_s=latency_s, probe=probe)


def failure(
    identity: str = "b",
    kind: ErrorKind = ErrorKind.TIMEOUT,
    *,
    counts: bool = True,
    bench_s: float | None = None,
    probe: bool = False,
) -> TurnResult:
    return TurnResult(
        identity=identity,
        request_id="r",
        ok=False,
        kind=kind,
        counts=counts,
        bench_s=bench_s,
        latency_s=1.0,
        probe=probe,
    )


def attempt(
    tier: str = "primary",
    level: int = 0,
    outcome: str = "ok",
    *,
    started_ms: float = 0.0,
    duration_ms: float = 100.0,
    first_token_ms: float | None = None,
    kind: ErrorKind | None = None,
    reason: str | None = None,
    skip: Skip | None = None,
) -> Attempt:
    error = None if kind is None else ErrorInfo(kind=kind, message="it went wrong")
    return Attempt(
        tier=tier,
        level=level,
        provider="openai",
        model="gpt",
        outcome=outcome,
        error=error,
        reason=reason,
        skip=skip,
        started_ms=started_ms,
        duration_ms=duration_ms,
        first_token_ms=first_token_ms,
    )


def answer(
    request_id: str = "aa00",
    text: str | None = "An answer.",
    *,
    tier: str = "primary",
    level: int = 0,
    provider: str = "openai",
    attempts: Sequence[Attempt] = (),
    latency_ms: float = 250.0,
    truncated: bool = False,
    error: ErrorInfo | None = None,
    ref_code: str | None = None,
    usage: Usage | None = None,
) -> Answer:
    failed = error is not None
    return Answer(
        request_id=request_id,
        text=None if failed else text,
        tier=None if failed else tier,
        fallback_level=None if failed else level,
        fallback_used=not failed and level > 0,
        provider=None if failed else provider,
        model_used=None if failed else "gpt",
        latency_ms=latency_ms,
        first_token_ms=None if failed else latency_ms / 2,
        finish_reason=None if failed else "length" if truncated else "stop",
        truncated=truncated,
        usage=usage or Usage(prompt_tokens=10, completion_tokens=20),
        original_error=str(error) if failed else None,
        ref_code=ref_code,
        error=error,
        attempts=tuple(attempts),
    )


class Child:
    """Run pieces of Python code in a process of its own; they get `path`, `say()` and `wait()`."""

    def __init__(self, path: Path, *code: str) -> None:
        prelude = """
            import os, signal, sqlite3, sys, time
            from pathlib import Path
            from tieredllm.engine.ports import TurnResult
            from tieredllm.kinds import ErrorKind
            from tieredllm.profile.schema import HealthSettings
            from tieredllm.store.database import Database
            from tieredllm.health.memory import SqliteHealth

            path = Path(sys.argv[1])

            def say(*words):
                print(*words, flush=True)

            def wait():
                return sys.stdin.readline()
        """
        source = "".join(map(textwrap.dedent, (prelude, *code)))
        self.process = subprocess.Popen(
            [sys.executable, "-c", source, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(timeout=30)
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            with contextlib.suppress(BrokenPipeError):
                stream.close()

    def line(self) -> str:
        """Wait for the next line it prints."""
        return self.process.stdout.readline().strip()

    def go(self) -> None:
        """Let it go on."""
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def kill(self) -> str:
        """Kill it (SIGKILL) and give the rest of its output."""
        self.process.kill()
        return self._rest()

    def end(self) -> str:
        """Wait for its end and give the rest of its output; its errors fail the test."""
        with self:
            self.process.stdin.close()
            out, err = self._rest(), self.process.stderr.read()
            assert (self.process.wait(timeout=60), err) == (0, "")
        return out

    def _rest(self) -> str:
        # Not communicate(): it does not see what readline() has buffered.
        return self.process.stdout.read().strip()


def crowd(count: int, path: Path, *code: str) -> list[str]:
    """Let some processes run code at the same moment; give what each has said, sorted."""
    with contextlib.ExitStack() as stack:
        children = [
            stack.enter_context(Child(path, "say('ready'); wait()\n", *code)) for _ in range(count)
        ]
        for child in children:
            assert child.line() == "ready"
        for child in children:
            child.go()
        return sorted(child.end() for child in children)
