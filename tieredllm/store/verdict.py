"""Tell what an error says of the database."""

from __future__ import annotations

from typing import Literal

from tieredllm.store.opening import UnusableError

__all__ = ["Verdict", "verdict_on"]

Verdict = Literal["busy", "damaged", "unusable", "senseless"]
"""What to make of an error: another process has the file for now, its bytes are wrong, it can't be
written or read, or it isn't about the file (a row, or this program, makes no sense)."""


def verdict_on(error: Exception) -> Verdict:
    """Sort an error by SQLite's result code (https://www.sqlite.org/rescode.html)."""
    import sqlite3

    # Errors of the Python module itself have no code.
    code = getattr(error, "sqlite_errorcode", None)
    if not isinstance(error, sqlite3.Error) or code is None:
        return "unusable" if isinstance(error, (OSError, UnusableError)) else "senseless"
    if code == sqlite3.SQLITE_READONLY_DBMOVED:  # moved aside just now; there is a new one
        return "busy"
    verdicts: dict[int, Verdict] = {
        sqlite3.SQLITE_BUSY: "busy",
        sqlite3.SQLITE_LOCKED: "busy",
        sqlite3.SQLITE_PROTOCOL: "busy",
        sqlite3.SQLITE_CORRUPT: "damaged",
        sqlite3.SQLITE_NOTADB: "damaged",
        sqlite3.SQLITE_CANTOPEN: "unusable",
        sqlite3.SQLITE_FULL: "unusable",
        sqlite3.SQLITE_IOERR: "unusable",
        sqlite3.SQLITE_NOLFS: "unusable",
        sqlite3.SQLITE_PERM: "unusable",
        sqlite3.SQLITE_READONLY: "unusable",
    }
    # The low byte is the primary code.
    return verdicts.get(code & 0xFF, "senseless")
