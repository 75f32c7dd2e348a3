"""What was found out about model files, so that each is examined once.

A verdict holds for one content of the file, all parts of a split model together; what was tried
holds for one build of llama.cpp on one kind of processor, too. It lives in
`CACHE/model-verdicts.json`; a cache that cannot be read is an empty one, and one that cannot be
written is done without.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

import msgspec

from tieredllm.files import atomic_write
from tieredllm.local.gguf import Header, shards
from tieredllm.local.ladder import Trial

__all__ = ["FileState", "ValidationCache", "Verdict", "state_of"]

MAX_CACHE_BYTES = 1024 * 1024


class FileState(msgspec.Struct, frozen=True, kw_only=True):
    """What tells one content of a path from another without reading it."""

    parts: tuple[tuple[int, int], ...]
    """Size in bytes and modification time in nanoseconds of each part of a split model, or of the
    one file; zeros for a part that is not there."""

    def __str__(self) -> str:
        """Return it in one line, for a key."""
        return ",".join(f"{size}:{mtime}" for size, mtime in self.parts)


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one model file."""

    state: FileState
    header: Header | None = None
    """What the header says; None when it could not be read."""
    sha256: str | None = None
    """The file's hash, once it was computed."""
    reason: str | None = None
    """Why it cannot be used, in words that follow the file's name; None when it can."""
    stamp: str | None = None
    """The llama.cpp and the processor of the trials; None when there was none."""
    trials: tuple[Trial, ...] = ()
    """How each way to load it went that was tried."""


def state_of(path: Path) -> FileState:
    """Return a file's state, with that of the other parts of a split model.

    Raises:
        OSError: there is no such file.
    """
    path.stat()
    return FileState(parts=tuple(_state(part) for part in shards(path)))


def _state(path: Path) -> tuple[int, int]:
    try:
        stat = path.stat()
    except OSError:
        return 0, 0
    return stat.st_size, stat.st_mtime_ns


def _key(path: Path) -> str:
    """Return a path as JSON can have it, which takes no bytes that are no UTF-8."""
    return str(path).encode("utf-8", "backslashreplace").decode()


class ValidationCache:
    """The verdicts in one cache directory."""

    def __init__(self, cache_dir: Path) -> None:
        self._file = cache_dir / "model-verdicts.json"

    def get(self, path: Path, state: FileState) -> Verdict:
        """Return what is known of a file as it is now; a blank verdict when that is nothing."""
        verdict = self._read().get(_key(path))
        return verdict if verdict is not None and verdict.state == state else Verdict(state=state)

    def put(self, path: Path, verdict: Verdict) -> None:
        """Remember a verdict; the last one to be put wins."""
        verdicts = self._read()
        verdicts[_key(path)] = verdict
        with contextlib.suppress(OSError):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(self._file, msgspec.json.encode(verdicts))

    def _read(self) -> dict[str, Verdict]:
        try:
            with self._file.open("rb") as file:
                return msgspec.json.decode(file.read(MAX_CACHE_BYTES), type=dict[str, Verdict])
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
            return {}
