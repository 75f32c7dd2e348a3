"""Remember which model files were found good or bad, so that a file is examined once.

A verdict holds for one size, modification time and installation of llama-cpp-python. It lives in
`CACHE/model-verdicts.json`; a cache that cannot be read is an empty one, and one that cannot be
written is done without.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

import msgspec

from tieredllm.files import atomic_write
from tieredllm.local.gguf import Header

__all__ = ["FileState", "ValidationCache", "Verdict", "state_of"]

MAX_CACHE_BYTES = 1024 * 1024


class FileState(msgspec.Struct, frozen=True, kw_only=True):
    """Tell one content of a path from another without reading it."""

    size_bytes: int
    mtime_ns: int


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """Hold what is known of one model file."""

    state: FileState
    header: Header | None = None
    """What the header says; None when it could not be read."""
    sha256: str | None = None
    """The file's hash, once it was computed."""
    stamp: str | None = None
    """The installation of llama-cpp-python that tried to load it; None when none did."""
    reason: str | None = None
    """Why it cannot be used, in words that follow the file's name; None when it can."""


def state_of(path: Path) -> FileState:
    """Give a file's state.

    Raises:
        OSError: there is no such file.
    """
    stat = path.stat()
    return FileState(size_bytes=stat.st_size, mtime_ns=stat.st_mtime_ns)


class ValidationCache:
    """Be the memory of verdicts in one cache directory."""

    def __init__(self, cache_dir: Path) -> None:
        self._file = cache_dir / "model-verdicts.json"

    def get(self, path: Path, state: FileState) -> Verdict:
        """Give what is known of a file as it is now; a blank verdict when that is nothing."""
        verdict = self._read().get(str(path))
        return verdict if verdict is not None and verdict.state == state else Verdict(state=state)

    def put(self, path: Path, verdict: Verdict) -> None:
        """Remember a verdict; the last one to be put wins."""
        verdicts = self._read()
        verdicts[str(path)] = verdict
        with contextlib.suppress(OSError):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(self._file, msgspec.json.encode(verdicts))

    def _read(self) -> dict[str, Verdict]:
        try:
            with self._file.open("rb") as file:
                return msgspec.json.decode(file.read(MAX_CACHE_BYTES), type=dict[str, Verdict])
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
            return {}
