"""Keep the one SQLite file, `state.db`, in a way that never stops an answer.

Nothing here raises for what may be wrong with the file. A read of what cannot be read gives its
default. A write that finds the file locked is kept and made good by the next one; where the file
can't be written at all (read-only, full, another program's, a newer version's), a database in
memory stands in for the rest of the process. A damaged file is moved aside and a new one started.
`trouble` says what happened, for `-v` and `health`.

Being killed at any point loses at most the transaction under way: SQLite's journal sees to that,
and the schema is made in one transaction too.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

from tieredllm.store.opening import FileId, UnusableError, file_id, open_file, open_memory
from tieredllm.store.schema import STEPS, Steps
from tieredllm.store.verdict import Verdict, verdict_on

if TYPE_CHECKING:
    from sqlite3 import Connection

__all__ = ["Database"]

T = TypeVar("T")

WAIT_S = 0.1
"""The longest wait for another process's lock."""

WAITS = 3
"""How many waits in a row may be in vain before the next ones are cut to `IMPATIENT_S`: a file that
somebody keeps locked shouldn't cost a tenth of a second at each step of a request."""

IMPATIENT_S = 0.01
"""The longest wait then, until a lock is had again."""

STAND_IN_S = 60.0
"""After this long the file is tried again instead of the database in memory."""

RESCUES = 8
"""How often one call looks again at a damaged file, while other processes may be moving it."""

MOST_KEPT = 64
"""How many writes are kept while the file is locked."""


class _Call:
    """Hold how one read or write is going."""

    def __init__(self, *, waits_until: float, may_make: bool) -> None:
        self.waits_until = waits_until
        self.may_make = may_make
        self.suspect: FileId | None = None
        self.rescues = 0


class Database:
    """Be one process's way to the file.

    Safe to use from several threads, one at a time, and after a fork.

    Args:
        path: the file; it and its directory are made by the first write. None keeps everything in
            memory.
        steps: what makes the schema.
        wait_s: the longest wait for a lock.
    """

    def __init__(self, path: Path | None, *, steps: Steps = STEPS, wait_s: float = WAIT_S) -> None:
        self.path = path
        self.trouble: str | None = None
        self._steps = steps
        self._wait_s = wait_s
        self._in_vain = 0
        self._connection: Connection | None = None
        self._file: FileId | None = None
        self._stands_in_until: float | None = None
        self._kept: list[Callable[[Connection], object]] = []
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._left_behind: list[Connection] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def read(self, work: Callable[[Connection], T], default: T) -> T:
        """Let `work` read. A missing file stays missing.

        Args:
            work: what to do with the connection; it may be called more than once.
            default: what to give when there is nothing to read, or it cannot be read.
        """
        return self._run(work, default, writes=False, creates=False)

    def write(
        self,
        work: Callable[[Connection], T],
        default: T,
        *,
        creates: bool = True,
        keep: bool = False,
    ) -> T:
        """Let `work` read and write in one transaction.

        Args:
            work: what to do with the connection; it may be called more than once.
            default: what to give when it couldn't be done.
            creates: whether a missing file is made; else `default` is given.
            keep: whether to make it good later in this process when the file is locked now.
        """
        return self._run(work, default, writes=True, creates=creates, keep=keep)

    def compact(self) -> bool:
        """Rewrite the file without what was deleted; False when it couldn't be done now."""

        def rewrite(connection: Connection) -> bool:
            connection.execute("VACUUM")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            return True

        return self.read(rewrite, default=False)

    def close(self) -> None:
        """Make good what was kept, if the file isn't locked any more, and close it."""
        if self._kept and os.getpid() == self._pid:
            self._in_vain = 0
            self.write(lambda _: None, None)
        with self._own_lock():
            self._kept.clear()
            self._discard()

    def _run(
        self,
        work: Callable[[Connection], T],
        default: T,
        *,
        writes: bool,
        creates: bool,
        keep: bool = False,
    ) -> T:
        with self._own_lock():
            if not creates and self._is_missing():
                return default
            wait_s = self._wait_s if self._in_vain < WAITS else min(self._wait_s, IMPATIENT_S)
            call = _Call(waits_until=time.monotonic() + wait_s, may_make=creates)
            while True:
                try:
                    connection = self._connected(creates=creates)
                    if connection is None:
                        return default
                    done = self._transaction(connection, work) if writes else work(connection)
                    self._in_vain = 0
                    return done
                except Exception as error:  # noqa: BLE001 - a damaged row may break `work` anyhow
                    verdict = verdict_on(error)
                    if self._may_try_again(verdict, error, call):
                        continue
                    if verdict == "busy" and keep and len(self._kept) < MOST_KEPT:
                        self._kept.append(work)
                    return default

    def _may_try_again(self, verdict: Verdict, error: Exception, call: _Call) -> bool:
        """Do what can be done about an error; False when the call has to be given up."""
        if verdict == "busy":
            if time.monotonic() < call.waits_until:
                _pause()
                return True
            self._in_vain += 1
            self._note("another process keeps it locked")
            return False
        if verdict == "damaged" and call.rescues < RESCUES:
            call.rescues += 1
            found = self._file
            self._discard()
            if call.suspect is None or call.suspect != found:
                # Look again with a fresh connection before calling it damaged for sure.
                call.suspect = found
                return True
            call.suspect = None
            if self._moved_aside(found):
                return True
        self._note(str(error))
        self._kept.clear()
        return call.may_make and verdict != "senseless" and self._stand_in()

    def _transaction(self, connection: Connection, work: Callable[[Connection], T]) -> T:
        # IMMEDIATE: a transaction that reads first could not wait for a writer without it
        # (https://www.sqlite.org/lang_transaction.html, section 2.1).
        connection.execute("BEGIN IMMEDIATE")
        try:
            kept = len(self._kept)
            for earlier in self._kept[:kept]:
                earlier(connection)
            done = work(connection)
            connection.execute("COMMIT")
        except BaseException:
            import sqlite3

            with contextlib.suppress(sqlite3.Error):
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
            raise
        del self._kept[:kept]
        return done

    def _is_missing(self) -> bool:
        if self._connection is not None or self.path is None:
            return self._connection is None
        return not os.path.lexists(self.path)

    def _connected(self, *, creates: bool) -> Connection | None:
        """Give a connection to the file that has the name now, or to what stands in for it."""
        if self._stands_in_until is not None and time.monotonic() >= self._stands_in_until:
            self._discard()
        if self._stands_in_until is None and self.path is not None:
            if self._connection is not None and file_id(self.path) != self._file:
                self._discard()
            if self._connection is None:
                self._file = file_id(self.path)
                self._connection = open_file(self.path, create=creates, steps=self._steps)
                self._file = file_id(self.path)
        elif self._connection is None:
            self._connection = open_memory(self._steps)
        return self._connection

    def _stand_in(self) -> bool:
        """Go on in memory; False when it is memory that failed."""
        if self.path is None or self._stands_in_until is not None:
            return False
        self._discard()
        self._stands_in_until = time.monotonic() + STAND_IN_S
        return True

    def _moved_aside(self, damaged: FileId | None) -> bool:
        """Move a damaged file away; False when that fails."""
        from tieredllm.store.rescue import move_aside

        if self.path is None or damaged is None:
            return False
        try:
            target = move_aside(self.path, damaged, now=time.time())
        except BlockingIOError:
            _pause()
            return True
        except (OSError, UnusableError):
            return False
        if target is not None:
            self.trouble = f"{self.path} was damaged: it is kept as {target.name}, a new one begins"
        return True

    def _discard(self) -> None:
        connection, self._connection = self._connection, None
        self._file = None
        self._stands_in_until = None
        if connection is not None:
            import sqlite3

            with contextlib.suppress(sqlite3.Error):
                connection.close()

    def _note(self, reason: str) -> None:
        self.trouble = f"cannot use {self.path}: {reason}"

    def _own_lock(self) -> threading.Lock:
        """Give the lock; in a forked child, leave behind what is the parent's.

        A connection must not be used or closed across a fork
        (https://www.sqlite.org/howtocorrupt.html, section 2.6).
        """
        if os.getpid() != self._pid:
            self._pid = os.getpid()
            self._lock = threading.Lock()
            if self._connection is not None:
                self._left_behind.append(self._connection)
            self._connection = None
            self._file = None
            self._stands_in_until = None
            self._kept.clear()
        return self._lock


def _pause() -> None:
    """Wait a little, never two processes for the same time.

    SQLite's own busy handler waits up to 25 ms between tries within the first tenth of a second;
    with many writers, some would try a few times in vain and give up.
    """
    import random

    time.sleep(random.uniform(0.0005, 0.003))  # noqa: S311 - nothing secret depends on it
