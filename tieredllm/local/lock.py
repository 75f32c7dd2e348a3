"""Let one process at a time write a file."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

__all__ = ["held"]

POLL_S = 0.2


@contextlib.contextmanager
def held(path: Path, *, on_wait: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold the lock of a path, waiting for whoever has it.

    The operating system lets go of it when its holder dies. The file is gone afterwards.

    Args:
        path: the lock file; its directory exists.
        on_wait: called once if another process has it.

    Raises:
        OSError: the lock file cannot be made.
    """
    told = False
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            # The one before may have removed the file between our opening and locking it.
            if _try_lock(handle) and _is_still(path, handle):
                break
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)
        if not told:
            on_wait()
            told = True
        time.sleep(POLL_S)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # an open file cannot be removed on Windows
            path.unlink()
        os.close(handle)


def _is_still(path: Path, handle: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(handle))
    except OSError:
        return False


def _try_lock(handle: int) -> bool:
    """Lock an open file if nobody has."""
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True
