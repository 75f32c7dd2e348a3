"""The one SQLite file, `state.db`, kept in a way that never stops an answer.

`read` and `write` raise nothing for what may be wrong with the file: they return a default, and
`problem` says why, for `-v` and `health`. Where the file can't be written (read-only, full, another
program's, a newer version's), a database in memory stands in for a while. A damaged file is moved
aside, once, however many processes find it, and a new one is started.

Being killed at any point loses at most the transaction under way: SQLite's journal sees to that,
and the schema is made in one transaction too. The file is its owner's alone (0600, in a directory
made with 0700); SQLite gives its `-wal` and `-shm` the same mode. A symbolic link in its place is
not followed: somebody else may have put it there. Marks and version are in SQLite's header
(https://www.sqlite.org/fileformat.html, offsets 60 and 68).
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self, TypedDict, TypeVar

from tieredllm.errors import TieredLLMError
from tieredllm.store.schema import APPLICATION_ID, STEPS, Steps

if TYPE_CHECKING:
    from sqlite3 import Connection

__all__ = ["Database", "DatabaseError", "is_on_network"]

T = TypeVar("T")
FileId = tuple[int, int]
"""Device and inode: tells a file from one that took its name."""

WAIT_S = 0.1
"""The longest wait for another process's lock."""

FORK_S = 5.0
"""The longest wait of a fork for another thread's call."""

WAITS = 3
"""How many waits in a row may be in vain before the next ones are cut to `IMPATIENT_S`: a file that
somebody keeps locked shouldn't cost a tenth of a second at each step of a request."""

IMPATIENT_S = 0.01
"""The longest wait then, until a lock is had again."""

STAND_IN_S = 60.0
"""After this long the file is tried again instead of what stands in for it."""

LOOKS = 8
"""How often one call looks at a damaged file, while other processes may be moving it."""

JOURNALS = ("-journal", "-wal", "-shm")
"""What SQLite keeps beside a database."""

NETWORK_FILE_SYSTEMS = frozenset(
    {
        "9p", "afs", "beegfs", "ceph", "cifs", "fuse.glusterfs", "fuse.sshfs", "glusterfs", "gpfs",
        "lustre", "nfs", "nfs4", "orangefs", "smb2", "smb3", "smbfs",
    }
)  # fmt: skip
"""File systems several hosts may write to, where a WAL's shared memory isn't shared
(https://www.sqlite.org/wal.html, section 1)."""


class _Connect(TypedDict):
    timeout: float
    isolation_level: None
    check_same_thread: bool


CONNECT: _Connect = {"timeout": 0, "isolation_level": None, "check_same_thread": False}
"""How every connection is made: who waits, begins transactions and takes turns is `Database`."""


class DatabaseError(TieredLLMError):
    """Report that the file is there and could not be used; the message says why."""


class _UnusableError(Exception):
    """Report a file that is left alone as it is; the message says why, for people."""


class Database:
    """One process's way to the file.

    Safe to use from several threads, one at a time, and after a fork.

    Args:
        path: the file; it and its directory are made by the first write. None keeps everything in
            memory.
        steps: what makes the schema.
        wait_s: the longest wait for a lock.
    """

    def __init__(self, path: Path | None, *, steps: Steps = STEPS, wait_s: float = WAIT_S) -> None:
        self.path = path
        self.problem: str | None = None
        self._steps = steps
        self._wait_s = wait_s
        self._in_vain = 0
        self._connection: Connection | None = None
        self._file: FileId | None = None
        self._stand_in: Literal["memory", "immutable"] | None = None
        self._stands_in_until = float("inf")
        self._lock = threading.Lock()
        self._left_behind: Connection | None = None
        """The parent's, which a forked child may neither use nor close."""
        _OPEN.add(self)

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
            default: what to return when there is nothing to read, or it cannot be read.
        """
        try:
            return self.require(work, default)
        except DatabaseError:
            return default

    def require(self, work: Callable[[Connection], T], default: T) -> T:
        """Let `work` read, and tell a file that cannot be read from one that is not there.

        Args:
            work: what to do with the connection; it may be called more than once.
            default: what to return when there is no file.

        Raises:
            DatabaseError: there is one, and it could not be read.
        """
        return self._run(work, default, writes=False, creates=False)

    def write(
        self,
        work: Callable[[Connection], T],
        default: T,
        *,
        creates: bool = True,
        wait_s: float | None = None,
    ) -> T:
        """Let `work` read and write in one transaction.

        Args:
            work: what to do with the connection; it may be called more than once.
            default: what to return when it couldn't be done.
            creates: whether a missing file is made; else `default` is returned.
            wait_s: the longest wait for a lock, in seconds; None for the usual one.
        """
        try:
            return self._run(work, default, writes=True, creates=creates, wait_s=wait_s)
        except DatabaseError:
            return default

    @property
    def stands_in(self) -> bool:
        """Whether what is written now is lost with this process."""
        return self._stand_in is not None

    def compact(self) -> bool:
        """Rewrite the file without what was deleted; False when it couldn't be done now."""

        def rewrite(connection: Connection) -> bool:
            connection.execute("VACUUM")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            return True

        return self.read(rewrite, default=False)

    def close(self) -> None:
        """Close the file; a later call opens it again."""
        with self._lock:
            self._give_place_to(None)

    def hold(self) -> bool:
        """Close the file and keep it closed; False when a call does not end in time."""
        if not self._lock.acquire(timeout=FORK_S):
            return False
        if self._is_on_disk:
            self._disconnect()
        return True

    def let_go(self) -> None:
        """End what `hold` began."""
        self._lock.release()

    def begin_in_child(self) -> None:
        """Take no notice of the parent's threads, nor of a connection they were using."""
        self._lock = threading.Lock()
        if self._is_on_disk:
            self._left_behind, self._connection = self._connection, None

    @property
    def _is_on_disk(self) -> bool:
        return self.path is not None and self._stand_in != "memory"

    def _run(
        self,
        work: Callable[[Connection], T],
        default: T,
        *,
        writes: bool,
        creates: bool,
        wait_s: float | None = None,
    ) -> T:
        with self._lock:
            if wait_s is None:
                wait_s = self._wait_s if self._in_vain < WAITS else min(self._wait_s, IMPATIENT_S)
            until = time.monotonic() + wait_s
            suspects: list[FileId | None] = []
            while True:
                try:
                    connection = self._connect(creates=creates)
                    if connection is not None:
                        done = _transact(connection, work) if writes else work(connection)
                        self._in_vain = 0
                        return done
                except Exception as error:
                    if self._may_try_again(
                        error, until=until, suspects=suspects, writes=writes, creates=creates
                    ):
                        continue
                    raise DatabaseError(self.problem) from error
                if suspects and not writes:
                    raise DatabaseError(self.problem)
                return default

    def _may_try_again(
        self,
        error: Exception,
        *,
        until: float,
        suspects: list[FileId | None],
        writes: bool,
        creates: bool,
    ) -> bool:
        """Do what can be done about an error; False when the call has to be given up."""
        verdict = _verdict_on(error)
        if verdict == "busy":
            if time.monotonic() < until:
                _pause()
                return True
            self._in_vain += 1
            self.problem = f"cannot use {self.path}: another process keeps it locked"
            return False
        if verdict == "damaged" and len(suspects) < LOOKS:
            suspects.append(self._file)
            self._disconnect()
            # The first time, look again with a fresh connection: others may be moving it.
            if suspects.count(suspects[-1]) == 1 or self._move_aside(suspects[-1]):
                return True
        is_left_alone = isinstance(error, _UnusableError)
        if verdict == "unusable" and not (is_left_alone or writes or self._stand_in):
            # A WAL's shared memory cannot be made in a folder that is read-only.
            self._give_place_to("immutable")
            return True
        why = error.strerror if isinstance(error, OSError) else None
        self.problem = f"cannot use {self.path}: {why or error}"
        if self._stand_in == "immutable":
            self._give_place_to(None)
        if verdict == "senseless" or not creates or self.path is None or self._stand_in == "memory":
            return False
        self._give_place_to("memory")
        return True

    def _connect(self, *, creates: bool) -> Connection | None:
        """Return a connection to the file that has the name now, or to what stands in for it.

        None when there is no file, and none is to be made.
        """
        if time.monotonic() >= self._stands_in_until:
            self._give_place_to(None)
        if self.path is None or self._stand_in == "memory":
            if self._connection is None and (creates or self.path is not None):
                self._connection = _open_memory(self._steps)
        elif self._connection is None or _file_id(self.path) != self._file:
            self._disconnect()
            self._file = _file_id(self.path)
            if self._stand_in == "immutable":
                self._connection = _open_immutable(self.path, self._steps)
            else:
                self._connection = _open_file(self.path, create=creates, steps=self._steps)
            self._file = _file_id(self.path)
        return self._connection

    def _give_place_to(self, stand_in: Literal["memory", "immutable"] | None) -> None:
        self._disconnect()
        self._stand_in = stand_in
        self._stands_in_until = float("inf") if stand_in is None else time.monotonic() + STAND_IN_S

    def _move_aside(self, damaged: FileId | None) -> bool:
        """Move a damaged file away; False when that fails."""
        if self.path is None or damaged is None:
            return False
        try:
            target = _rename_aside(self.path, damaged, now=time.time())
        except BlockingIOError:
            _pause()
            return True
        except (OSError, _UnusableError):
            return False
        if target is not None:
            self.problem = f"{self.path} was damaged: it is kept as {target.name}, a new one begins"
        return True

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        self._file = None
        if connection is not None:
            import sqlite3

            with contextlib.suppress(sqlite3.Error):
                connection.close()


_OPEN: weakref.WeakSet[Database] = weakref.WeakSet()
_HELD: list[Database] = []
"""Those whose locks a fork holds."""


def _before_fork() -> None:
    """Close every connection, and let nobody open one until the fork is done.

    A child may not use one from before it (https://www.sqlite.org/howtocorrupt.html, section 2.6),
    and it is not enough to leave that one alone and open another: what SQLite knows of its own
    locks is inherited, the locks are not, and with both going on at once rows of both were lost.
    """
    _HELD.extend([database for database in list(_OPEN) if database.hold()])


def _after_fork() -> None:
    while _HELD:
        _HELD.pop().let_go()


def _in_child() -> None:
    _HELD.clear()
    for database in list(_OPEN):
        database.begin_in_child()


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_in_child)


def _transact(connection: Connection, work: Callable[[Connection], T]) -> T:
    # IMMEDIATE: a transaction that reads first could not wait for a writer without it
    # (https://www.sqlite.org/lang_transaction.html, section 2.1).
    connection.execute("BEGIN IMMEDIATE")
    try:
        done = work(connection)
        connection.execute("COMMIT")
    except BaseException:
        _roll_back(connection)
        raise
    return done


def _verdict_on(error: Exception) -> Literal["busy", "damaged", "unusable", "senseless"]:
    """Sort an error by SQLite's result code (https://www.sqlite.org/rescode.html).

    Another process has the file for now, its bytes are wrong, it can't be written or read; or the
    error isn't about the file (a row, or this program, makes no sense).
    """
    import sqlite3 as sql

    # Errors of the Python module itself have no code.
    code = getattr(error, "sqlite_errorcode", None)
    if not isinstance(error, sql.Error) or code is None:
        return "unusable" if isinstance(error, (OSError, _UnusableError)) else "senseless"
    if code == sql.SQLITE_READONLY_DBMOVED:  # moved aside just now; there is a new one
        return "busy"
    primary = code & 0xFF  # the low byte
    if primary in (sql.SQLITE_BUSY, sql.SQLITE_LOCKED, sql.SQLITE_PROTOCOL):
        return "busy"
    if primary in (sql.SQLITE_CORRUPT, sql.SQLITE_NOTADB):
        return "damaged"
    unusable = (
        sql.SQLITE_CANTOPEN, sql.SQLITE_FULL, sql.SQLITE_IOERR, sql.SQLITE_NOLFS, sql.SQLITE_PERM,
        sql.SQLITE_READONLY,
    )  # fmt: skip
    return "unusable" if primary in unusable else "senseless"


def _pause() -> None:
    """Wait a little, never two processes for the same time.

    SQLite's own busy handler waits up to 25 ms between tries within the first tenth of a second;
    with many writers, some would try a few times in vain and give up.
    """
    import random

    time.sleep(random.uniform(0.0005, 0.003))  # noqa: S311 - nothing secret depends on it


def _file_id(path: Path) -> FileId | None:
    """Tell which file has this name now; None when there is none.

    Raises:
        _UnusableError: it is no regular file.
        OSError: it cannot be looked at.
    """
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    if stat.S_ISLNK(found.st_mode):
        reason = "it is a symbolic link, which is not followed"
        raise _UnusableError(reason)
    if not stat.S_ISREG(found.st_mode):
        reason = "it is not a regular file"
        raise _UnusableError(reason)
    return found.st_dev, found.st_ino


def _open_file(path: Path, *, create: bool, steps: Steps) -> Connection | None:
    """Open a database, made and migrated as needed.

    Args:
        path: the file.
        create: whether to make it when it is missing or empty; else None is returned.
        steps: what makes the schema.

    Raises:
        _UnusableError: another program's file, or a newer version's.
        sqlite3.Error: SQLite cannot use it.
        OSError: the file or its directory cannot be made or looked at.
    """
    if _file_id(path) is None:
        if not create:
            return None
        _make(path)
    elif path.stat().st_mode & 0o077:
        with contextlib.suppress(OSError):
            path.chmod(0o600)
    import sqlite3

    connection = sqlite3.connect(_uri(path), uri=True, **CONNECT)
    try:
        if _prepare(connection, path, create=create, steps=steps):
            return connection
    except BaseException:
        connection.close()
        raise
    connection.close()
    return None


def _open_immutable(path: Path, steps: Steps) -> Connection:
    """Open a database that nothing can be written to, not even beside it.

    Raises:
        _UnusableError: what a process that was killed has left beside it would be passed over, or
            its schema is another.
    """
    if any(_left_over(Path(f"{path}{suffix}")) for suffix in ("-wal", "-journal")):
        reason = "it cannot be written, and what is beside it has to be"
        raise _UnusableError(reason)
    import sqlite3

    connection = sqlite3.connect(_uri(path, "mode=ro&immutable=1"), uri=True, **CONNECT)
    try:
        version: int = connection.execute("PRAGMA user_version").fetchone()[0]
        mark: int = connection.execute("PRAGMA application_id").fetchone()[0]
        if (mark, version) != (APPLICATION_ID, len(steps)):
            reason = "it cannot be written, and another version of tieredllm made it"
            raise _UnusableError(reason)
    except BaseException:
        connection.close()
        raise
    return connection


def _left_over(path: Path) -> bool:
    """Whether there is a file that is not empty."""
    try:
        return path.stat().st_size > 0
    except OSError:
        return False


def _open_memory(steps: Steps) -> Connection:
    """Open a database that lasts as long as its connection."""
    import sqlite3

    connection = sqlite3.connect(":memory:", **CONNECT)
    _migrate(connection, steps)
    return connection


def _make(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | getattr(os, "O_NOFOLLOW", 0)
    with contextlib.suppress(FileExistsError):  # another process was quicker
        os.close(os.open(path, flags, 0o600))


def _uri(path: Path, options: str = "mode=rw") -> str:
    return f"{path.absolute().as_uri()}?{options}"


def _prepare(connection: Connection, path: Path, *, create: bool, steps: Steps) -> bool:
    """Bring a connection into use; False when there is nothing in it and nothing may be made."""
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    mark: int = connection.execute("PRAGMA application_id").fetchone()[0]
    if version > len(steps) and mark == APPLICATION_ID:
        reason = f"a newer tieredllm made it (schema {version}, this one knows {len(steps)})"
        raise _UnusableError(reason)
    if version != 0 or mark != 0:
        if mark != APPLICATION_ID:
            reason = "it is another program's database"
            raise _UnusableError(reason)
    elif connection.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchone() is not None:
        # Ours gets its tables and its mark at once, perhaps just now, from another process.
        if connection.execute("PRAGMA application_id").fetchone()[0] == 0:
            reason = "it is another program's database"
            raise _UnusableError(reason)
        return _prepare(connection, path, create=create, steps=steps)
    elif not create:
        return False
    elif _takes_wal(path):
        connection.execute("PRAGMA journal_mode=WAL").fetchone()  # the file remembers it
    if version < len(steps):
        _migrate(connection, steps)
    # In WAL mode a commit then costs no fsync; losing power may lose the last ones, no more.
    connection.execute("PRAGMA synchronous=NORMAL")
    return True


def _migrate(connection: Connection, steps: Steps) -> None:
    """Take every missing step and note it, in one transaction."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        # Another process may have done it while this one waited for the lock.
        version: int = connection.execute("PRAGMA user_version").fetchone()[0]
        for step in steps[version:]:
            for statement in step:
                connection.execute(statement)
        if version < len(steps):
            connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version={len(steps)}")
        connection.execute("COMMIT")
    except BaseException:
        _roll_back(connection)
        raise


def _roll_back(connection: Connection) -> None:
    import sqlite3

    with contextlib.suppress(sqlite3.Error):
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def _takes_wal(path: Path) -> bool:
    """Whether a write-ahead log works beside a file: SQLite only shows it by a first write.

    A file of another name is tried, as one that was switched to a log that fails is lost.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            mounts = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace")
            if is_on_network(path.parent.resolve(), mounts):
                return False
    import sqlite3

    trial = path.with_name(f"{path.name}.trial-{os.urandom(8).hex()}")
    _make(trial)
    try:
        with contextlib.closing(sqlite3.connect(_uri(trial), uri=True, **CONNECT)) as connection:
            mode: str = connection.execute("PRAGMA journal_mode=WAL").fetchone()[0]
            connection.execute("CREATE TABLE trial (x)")
            return mode == "wal"
    except sqlite3.OperationalError:
        return False
    finally:
        for suffix in ("", *JOURNALS):
            with contextlib.suppress(OSError):
                Path(f"{trial}{suffix}").unlink()


def is_on_network(folder: Path, mounts: str) -> bool:
    """Whether a folder lies on a network file system.

    Args:
        folder: an absolute path without symbolic links.
        mounts: the text of `/proc/mounts` (see proc_pid_mounts(5)).
    """
    best, kind = "", ""
    for line in mounts.splitlines():
        fields = line.split(" ")
        if len(fields) < 3:
            continue
        point = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), fields[1])
        if len(point) >= len(best) and folder.is_relative_to(point):
            best, kind = point, fields[2]
    return kind in NETWORK_FILE_SYSTEMS


def _rename_aside(path: Path, damaged: FileId, *, now: float) -> Path | None:
    """Rename a damaged database and its journals to `<name>.corrupt-<time>`.

    Returns:
        Where it is now; None when another process has moved it already.

    Raises:
        BlockingIOError: another process is about it.
        OSError: it cannot be renamed.
    """
    with _locked_folder(path.parent):
        if _file_id(path) != damaged:
            return None
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
        name = f"{path.name}.corrupt-{stamp}"
        target, number = path.with_name(name), 1
        while os.path.lexists(target):
            number += 1
            target = path.with_name(f"{name}-{number}")
        # The journals go first: a new database must never find an old log.
        for suffix in JOURNALS:
            with contextlib.suppress(FileNotFoundError):
                Path(f"{path}{suffix}").replace(f"{target}{suffix}")
        path.replace(target)
        return target


@contextlib.contextmanager
def _locked_folder(folder: Path) -> Iterator[None]:
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
