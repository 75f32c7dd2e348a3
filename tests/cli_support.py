"""Run the command line as users do: as a process, into a pipe or on a terminal."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pexpect
import pyte
from wire_support import MODEL_FILE, Play, RawServer, answers, raw_server, smollm2_path

REFUSED = "http://127.0.0.1:9/v1"
"""Where nothing listens (the discard port)."""


@contextlib.contextmanager
def served(play: Play | bytes) -> Iterator[RawServer]:
    """Run a raw server on a thread of its own, for processes to talk to."""
    started, ended = threading.Event(), threading.Event()
    box: list[RawServer] = []

    async def serve() -> None:
        async with raw_server(play) as server:
            box.append(server)
            started.set()
            while not ended.is_set():
                await asyncio.sleep(0.01)
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    assert started.wait(10)
    try:
        yield box[0]
    finally:
        ended.set()
        thread.join(10)


def environment(home: Path, **extra: str) -> dict[str, str]:
    """Give a process's environment: directories of its own, no keys, nothing of a terminal's."""
    env = {
        name: value
        for name, value in os.environ.items()
        if not name.endswith(("_API_KEY", "_proxy", "_PROXY"))
        and name not in {"NO_COLOR", "COLUMNS", "LINES"}
    }
    return env | {"TIEREDLLM_HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1"} | extra


def tieredllm(*args: str) -> list[str]:
    """Give the command line of a process."""
    return [sys.executable, "-m", "tieredllm", *args]


def cli(
    home: Path,
    *args: str,
    stdin: bytes | None = None,
    timeout: float = 60,
    cwd: Path | None = None,
    **extra: str,
) -> subprocess.CompletedProcess[bytes]:
    """Run a command to its end; no stdin unless some is given."""
    given = {"input": stdin} if stdin is not None else {"stdin": subprocess.DEVNULL}
    return subprocess.run(
        tieredllm(*args),
        capture_output=True,
        env=environment(home, **extra),
        timeout=timeout,
        cwd=cwd,
        check=False,
        **given,
    )


class Terminal:
    """A command on a pseudo-terminal, with a screen that can be read."""

    def __init__(self, home: Path, *args: str, columns: int = 80, rows: int = 24, **extra: str):
        self.screen = pyte.Screen(columns, rows)
        self._stream = pyte.ByteStream(self.screen)
        self.raw = b""
        env = environment(home, **({"TERM": "xterm-256color"} | extra))
        self.child = pexpect.spawn(
            sys.executable,
            ["-m", "tieredllm", *args],
            env=env,
            dimensions=(rows, columns),
            timeout=30,
        )

    def run(self, timeout: float = 30) -> int:
        """Read to the end and give the exit code."""
        while True:
            try:
                data = self.child.read_nonblocking(65536, timeout)
            except pexpect.EOF:
                break
            self.raw += data
            self._stream.feed(data)
        self.child.close()
        return self.child.exitstatus if self.child.exitstatus is not None else -1

    def type(self, text: str) -> None:
        """Press keys: CR is Enter, ETX Ctrl-C, EOT Ctrl-D, ESC CR Alt-Enter."""
        self.child.send(text)

    def paste(self, text: str) -> None:
        """Paste as a terminal does that marks what is pasted (bracketed paste)."""
        self.child.send(f"\x1b[200~{text}\x1b[201~".replace("\n", "\r"))

    def until(self, wanted: str | Callable[[], bool], timeout: float = 15) -> None:
        """Read until the screen shows a text, or something else holds."""
        holds = wanted if callable(wanted) else lambda: wanted in "\n".join(self.lines)
        give_up = time.monotonic() + timeout
        while not holds():
            if time.monotonic() > give_up:
                shown = "\n".join(self.lines)
                raise AssertionError(f"{wanted!r} was not shown within {timeout} s:\n{shown}")
            with contextlib.suppress(pexpect.TIMEOUT):
                data = self.child.read_nonblocking(65536, 0.05)
                self.raw += data
                self._stream.feed(data)

    @property
    def lines(self) -> list[str]:
        """The screen's lines that are not blank."""
        return [line.rstrip() for line in self.screen.display if line.strip()]


def profile(home: Path, text: str, name: str = "test") -> str:
    """Write a profile and give its path."""
    path = home / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return str(path)


def two_clouds(
    home: Path, first: str, second: str | None = None, *, extra: str = "", top: str = ""
) -> str:
    """Write a profile of one or two OpenAI-compatible tiers without keys, then rules."""
    tiers = "".join(
        f"  - {{name: {name}, provider: openai, model: m-1, base_url: '{url}', api_key_env: null,"
        f" retries: 0, backoff: {{base_s: 0.01}} {extra}}}\n"
        for name, url in (("primary", first), ("secondary", second))
        if url is not None
    )
    return profile(home, f"name: test\n{top}tiers:\n{tiers}  - {{name: rules, provider: rules}}\n")


def answering(text: str, vendor: str = "openai") -> bytes:
    """Make a whole streamed answer of one text, in a few pieces."""
    third = max(1, len(text) // 3)
    pieces = [text[start : start + third] for start in range(0, len(text), third)]
    return answers(vendor, *pieces)


def install_model(home: Path) -> Path:
    """Put the small real model where `models pull` would have."""
    folder = home / "data" / "models"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / MODEL_FILE
    if not path.exists():
        os.link(smollm2_path(), path)
    return path
