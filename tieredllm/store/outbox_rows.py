"""Read and write the outbox's entries as rows, and drop those that say nothing any more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from tieredllm.store.outbox_entry import Entry

if TYPE_CHECKING:
    from sqlite3 import Connection

__all__ = ["clear", "end_alerts", "load", "one", "save"]

EXPIRES_S = 86_400.0
"""How long a message is tried for after the last time it happened, 24 hours."""

FORGET_S = 30 * 86_400.0
"""How long an alert stays open whose end was never seen, 30 days."""

MOST_ENTRIES = 500
"""How many entries there are at most; the one that has been quiet for the longest goes first."""

# The names of columns are put into statements below (hence S608): they come from here alone.
FIELDS = Entry.__struct_fields__


def load(connection: Connection, profile: str | None) -> list[Entry]:
    """Give the entries of one profile, or of all (None), the oldest first."""
    rows = connection.execute(
        f"SELECT {', '.join(FIELDS)} FROM outbox"  # noqa: S608
        " WHERE ?1 IS NULL OR profile = ?1 ORDER BY first_at, channel, cause",
        (profile,),
    )
    return [_entry(row) for row in rows]


def one(connection: Connection, profile: str, channel: str, cause: str) -> Entry | None:
    """Give one entry, if there is one."""
    row = connection.execute(
        f"SELECT {', '.join(FIELDS)} FROM outbox"  # noqa: S608
        " WHERE profile = ? AND channel = ? AND cause = ?",
        (profile, channel, cause),
    ).fetchone()
    return None if row is None else _entry(row)


def save(connection: Connection, entry: Entry) -> None:
    """Put an entry in place of the one there was."""
    values = [getattr(entry, field) for field in FIELDS]
    connection.execute(
        f"INSERT OR REPLACE INTO outbox ({', '.join(FIELDS)})"  # noqa: S608
        f" VALUES ({', '.join('?' * len(FIELDS))})",
        values,
    )


def end_alerts(connection: Connection, recovery: Entry) -> None:
    """End the alerts that a delivered recovery was about."""
    connection.execute(
        "UPDATE outbox SET is_open = 0, told = 0, opened_at = NULL"
        " WHERE profile = ? AND channel = ? AND is_open AND sent_at <= ?",
        (recovery.profile, recovery.channel, recovery.leased_at),
    )


def clear(connection: Connection, now: float) -> None:
    """Give up what has waited for too long, drop what says nothing any more, and bound the rest."""
    connection.execute(
        "UPDATE outbox SET waiting = 0, tries = 0, last_error = NULL, lease_owner = NULL"
        " WHERE waiting > 0 AND abs(last_at - ?) > ?",
        (now, EXPIRES_S),
    )
    connection.execute(
        "DELETE FROM outbox WHERE waiting = 0 AND CASE WHEN is_open THEN abs(sent_at - ?1) > ?2"
        " ELSE NOT (held_from <= ?1 AND ?1 < held_from + held_s) END",
        (now, FORGET_S),
    )
    connection.execute(
        "DELETE FROM outbox WHERE (profile, channel, cause) IN (SELECT profile, channel, cause"
        " FROM outbox ORDER BY last_at DESC LIMIT -1 OFFSET ?)",
        (MOST_ENTRIES - 1,),
    )


def _entry(row: Sequence[Any]) -> Entry:
    values = dict(zip(FIELDS, row, strict=True))
    values["is_open"] = bool(values["is_open"])
    return msgspec.convert(values, Entry)
