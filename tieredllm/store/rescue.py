"""Move a damaged database out of the way, once, however many processes find it."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from tieredllm.store.opening import FileId, file_id

__all__ = ["move_aside"]

JOURNALS = ("-journal", "-wal", "-shm")
"""What SQLite keeps beside a database. They go first: a new database must never find an old log."""


def move_aside(path: Path, damaged: FileId, *, now: float) -> Path | None:
    """Rename a damaged database and its journals to `<name>.corrupt-<time>`.

    Args:
        path: where it is.
        damaged: which file was found to be damaged.
        now: seconds since the epoch, for the name.

    Returns:
        Where it is now; None when another process has moved it already.

    Raises:
        BlockingIOError: another process is about it.
        OSError: it cannot be renamed.
    """
    with _alone(path.parent):
        if file_id(path) != damaged:
            return None
        target = _free_name(path, now)
        for suffix in JOURNALS:
            with contextlib.suppress(FileNotFoundError):
                Path(f"{path}{suffix}").replace(f"{target}{suffix}")
        path.replace(target)
        return target


def _free_name(path: Path, now: float) -> Path:
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
    name = f"{path.name}.corrupt-{stamp}"
    target, number = path.with_name(name), 1
    while os.path.lexists(target):
        number += 1
        target = path.with_name(f"{name}-{number}")
    return target


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the folder's advisory lock; the kernel frees it if the process is killed."""
    try:
        import fcntl
    except ImportError:  # Windows, where a file that others have open cannot be renamed anyway
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)
