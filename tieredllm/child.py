"""Start a Python module in a child process: in a folder of ours, without keys, not outliving us.

Where a person happens to be is not trusted: neither a module of that directory (`-P`), nor an empty
entry of `PYTHONPATH`, which means the same directory, may be run in place of the one that is meant.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

__all__ = ["start_child", "without_keys"]

WATCH_S = 0.2
"""How soon a child notices that the process which started it was killed."""


def start_child(
    module: str,
    arguments: Sequence[str],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdout: int = subprocess.DEVNULL,
    stderr: int = subprocess.DEVNULL,
    command: Sequence[str] | None = None,
) -> subprocess.Popen[bytes]:
    """Start `python -m MODULE ARGUMENT…`; it ends when this process does, however that ends.

    Args:
        module: what Python runs as a script.
        arguments: its arguments.
        cwd: a folder of ours, where it runs; the root of the file system where it needs none.
        env: variables in addition to this process's own, whose keys are left out.
        stdout: where its output goes, as `subprocess.Popen` takes it.
        stderr: the same for its messages.
        command: what to run instead of Python and the module.

    Raises:
        OSError: it cannot be started.
    """
    # The package may have been found in a way the child does not know of, such as the current
    # directory, which `-P` keeps out.
    root = str(Path(__file__).resolve().parents[1])
    search_path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    if command is None:
        command = (sys.executable, "-P", "-m", __name__, str(os.getpid()), module)
    return subprocess.Popen(  # noqa: S603 - our own interpreter, no shell
        [*command, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        cwd=cwd or os.path.abspath(os.sep),  # noqa: PTH100 - the root, on Windows the drive's
        env={**without_keys(os.environ), "PYTHONPATH": search_path, **(env or {})},
    )


def without_keys(env: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without what is named `…_API_KEY`.

    What else is secret there may be what pip asks an index with.
    """
    return {name: value for name, value in env.items() if not name.upper().endswith("_API_KEY")}


def _main(parent: int, module: str, arguments: list[str]) -> None:
    import runpy
    import threading
    import time

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(WATCH_S)
        os._exit(1)

    if sys.platform != "win32":  # there it stays what it was
        threading.Thread(target=watch, daemon=True).start()
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _main(int(sys.argv[1]), sys.argv[2], sys.argv[3:])
