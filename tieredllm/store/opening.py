"""Open `state.db`: make the file, choose its journal, bring its schema up to date.

The file is its owner's alone (0600, in a directory made with 0700); SQLite gives its `-wal` and
`-shm` the same mode. A symbolic link in its place isn't followed: somebody else may have put it
there. Marks and version are in SQLite's header (https://www.sqlite.org/fileformat.html, offsets 60
and 68), set in the transaction that makes the tables, so there is never one without the other.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from tieredllm.store.schema import APPLICATION_ID, Steps

if TYPE_CHECKING:
    from sqlite3 import Connection

__all__ = ["FileId", "UnusableError", "file_id", "is_on_network", "open_file", "open_memory"]

FileId = tuple[int, int]
"""Device and inode: tells a file from one that took its name."""

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


class UnusableError(Exception):
    """Report a file that is left alone as it is; the message says why, for people."""


def file_id(path: Path) -> FileId | None:
    """Tell which file has this name now; None when there is none.

    Raises:
        UnusableError: it is no regular file.
        OSError: it cannot be looked at.
    """
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    if stat.S_ISLNK(found.st_mode):
        raise UnusableError("it is a symbolic link, which is not followed")
    if not stat.S_ISREG(found.st_mode):
        raise UnusableError("it is not a regular file")
    return found.st_dev, found.st_ino


def open_file(path: Path, *, create: bool, steps: Steps) -> Connection | None:
    """Open a database, made and migrated as needed.

    Args:
        path: the file.
        create: whether to make it when it is missing or empty; else None is given.
        steps: what makes the schema.

    Raises:
        UnusableError: another program's file, or a newer version's.
        sqlite3.Error: SQLite cannot use it.
        OSError: the file or its directory cannot be made or looked at.
    """
    if file_id(path) is None:
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


def open_memory(steps: Steps) -> Connection:
    """Open a database that lasts as long as its connection."""
    import sqlite3

    connection = sqlite3.connect(":memory:", **CONNECT)
    _migrate(connection, steps)
    return connection


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


def _make(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | getattr(os, "O_NOFOLLOW", 0)
    with contextlib.suppress(FileExistsError):  # another process was quicker
        os.close(os.open(path, flags, 0o600))


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
        for suffix in ("", "-wal", "-shm", "-journal"):
            with contextlib.suppress(OSError):
                Path(f"{trial}{suffix}").unlink()


def _uri(path: Path) -> str:
    return f"{path.absolute().as_uri()}?mode=rw"


def _prepare(connection: Connection, path: Path, *, create: bool, steps: Steps) -> bool:
    """Bring a connection into use; False when there is nothing in it and nothing may be made."""
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    mark: int = connection.execute("PRAGMA application_id").fetchone()[0]
    if version > len(steps) and mark == APPLICATION_ID:
        raise UnusableError(
            f"a newer tieredllm made it (schema {version}, this one knows {len(steps)})"
        )
    if version != 0 or mark != 0:
        if mark != APPLICATION_ID:
            raise UnusableError("it is another program's database")
    elif connection.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchone() is not None:
        # Ours gets its tables and its mark at once, perhaps just now, from another process.
        if connection.execute("PRAGMA application_id").fetchone()[0] == 0:
            raise UnusableError("it is another program's database")
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
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
