"""Install what a lock file names, and tieredllm itself, into the environment this Python runs in.

    python scripts/install.py requirements/dev.txt
    python scripts/install.py                       # the newest there is, without a lock

Every package's hash is checked, those that only build other packages included (see
`requirements/build.in`). llama.cpp is compiled on the way, so there is something to look at: what
pip is doing, how far the compiler is, and for how long. All that pip says is kept in `install.log`
of the environment. What GCC leaves out of llama.cpp's kernels for AMX it is told to leave in
(docs/platforms.md). With LLAMA_INDEX=URL llama-cpp-python alone is taken from there, as a wheel;
its hash is not locked then, as that page is not the index the lock was made from.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TextIO

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "requirements" / "build.txt"
LOG = Path(sys.prefix) / "install.log"
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "install"]
COMPILING = "compiling llama.cpp (once, about 5 minutes)"
NO_COMPILER = (
    "If llama.cpp could not be compiled: it needs a C and a C++ compiler, and the README's first\n"
    "lines have the way without them."
)
STEP = re.compile(r"\[(\d+)/(\d+)\]")
"""Ninja's count of what is built, and of what there is to build."""
DOING = {
    r"Collecting (\S+)": "fetching {0}",
    r"Building wheel for llama[-_]cpp[-_]python": COMPILING,
    r"Building wheel for (\S+)": "building {0}",
    r"Installing collected packages": "installing the packages",
}
"""What pip says when it begins something, and what is shown for it."""
AMX_FLAG = "-fno-dse"
"""Keeps GCC before 13.3 from dropping the tile configuration: its `_tile_loadconfig` tells the
compiler of the first eight bytes alone (amxtileintrin.h; llama.cpp issue 20824)."""
PLAIN_EVERY_S = 30
"""Between two lines where no line can be written over: a long silence looks like a hang."""


class Progress:
    """One line of what is going on: written over on a terminal, elsewhere a new one at times."""

    def __init__(self) -> None:
        self._began = self._shown_at = time.monotonic()
        self._doing = self._shown = ""
        self._live = sys.stderr.isatty()

    def read(self, line: str) -> None:
        """Take one line of pip's."""
        for pattern, words in DOING.items():
            if found := re.search(pattern, line):
                self._doing = words.format(*found.groups())
                break
        if self._doing == COMPILING and (step := STEP.match(line.strip())):
            self._show(f"{COMPILING}: {step[1]} of {step[2]} files")
        elif self._doing:
            self._show(self._doing)

    def close(self) -> None:
        """Take the line away."""
        if self._live:
            self._write("\r\x1b[K")

    def _show(self, words: str) -> None:
        now = time.monotonic()
        if self._live:
            took = int(now - self._began)
            columns = os.get_terminal_size(sys.stderr.fileno()).columns or 80
            self._write("\r\x1b[K" + f"{words} · {took // 60}:{took % 60:02}"[: columns - 1])
        elif (words == COMPILING and self._shown != words) or now - self._shown_at > PLAIN_EVERY_S:
            self._shown, self._shown_at = words, now
            self._write(f"{words}\n")

    @staticmethod
    def _write(text: str) -> None:
        sys.stderr.write(text)
        sys.stderr.flush()


def main() -> None:
    """Install pip as locked, then tieredllm in place, then what the lock file names."""
    lock = sys.argv[1] if sys.argv[1:] else None
    print(f"installing {lock or 'the newest of everything'}; llama.cpp may have to be compiled")
    with LOG.open("w", encoding="utf-8") as log, tempfile.TemporaryDirectory() as folder:
        own = Path(folder) / "pip.txt"
        own.write_text(pins(BUILD, "pip"), encoding="utf-8")
        run(log, "--require-hashes", "--no-deps", "-r", str(own))
        build = ("--build-constraint", str(BUILD))  # pip 25.3 and newer know it
        if lock is None:
            newest = ("--upgrade", "--upgrade-strategy", "eager")
            run(log, *newest, *build, "--editable", f"{ROOT}[dev]")
            return
        run(log, "--no-deps", *build, "--editable", str(ROOT))
        prebuilt(log, Path(lock))
        run(log, "--require-hashes", *build, "-r", lock)


def prebuilt(log: TextIO, lock: Path) -> None:
    """Install llama-cpp-python, and nothing else, as a wheel from the index in LLAMA_INDEX."""
    if index := os.environ.get("LLAMA_INDEX"):
        pin = pins(lock, "llama-cpp-python").split(" ", 1)[0]
        run(log, "--no-deps", "--only-binary", ":all:", "--index-url", index, pin)


def pins(lock: Path, name: str) -> str:
    """Return one package's lines of a lock file: its version and its hashes."""
    found = re.search(
        rf"^{re.escape(name)}==(?:.*\\\n)*.*\n", lock.read_text("utf-8"), re.MULTILINE
    )
    if found is None:
        sys.exit(f"{lock} does not lock {name}: run `make lock`")
    return found[0]


def compiling(env: Mapping[str, str], cpuinfo: Path = Path("/proc/cpuinfo")) -> dict[str, str]:
    """Return an environment to compile llama.cpp in, whose kernels for AMX do not crash."""
    compiler = env.get("CXX", "c++")
    try:
        has_amx = "amx_tile" in cpuinfo.read_text("utf-8", "replace")
        asked = [compiler, "-dumpfullversion"]  # Clang does not know it
        found = has_amx and subprocess.run(asked, capture_output=True, text=True, check=False)
    except OSError:
        return dict(env)
    version = re.fullmatch(r"(\d+)\.(\d+)\.\d+\s*", found.stdout) if found else None
    if version is None or (int(version[1]), int(version[2])) >= (13, 3):
        return dict(env)
    return {**env, "CXXFLAGS": f"{env.get('CXXFLAGS', '')} {AMX_FLAG}".lstrip()}


def run(log: TextIO, *arguments: str) -> None:
    """Run `pip install`, showing how far it is.

    Raises:
        SystemExit: it failed; the end of what it said has been shown.
    """
    progress = Progress()
    said: list[str] = []
    with subprocess.Popen(
        [*PIP, "--verbose", *arguments],
        cwd=ROOT,
        env=compiling(os.environ),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
    ) as pip:
        for line in pip.stdout or ():
            log.write(line)
            said = [*said[-19:], line]
            progress.read(line)
    progress.close()
    if pip.returncode:
        sys.stderr.write("".join(said))
        sys.exit(f"\npip could not install it; all it said is in {LOG}\n{NO_COMPILER}")


if __name__ == "__main__":
    main()
