"""Notifications that are to be delivered, shared by every process of the user.

What becomes of an entry is decided in `outbox_entry`; here it is read and written, each time in one
transaction. A sender claims what is due with a lease, so that of many processes one sends it, and
after a kill another does. Nothing here raises for what is wrong with the file: see `Database`.

The time is read inside each transaction: before it, one might wait for the lock, and then hold
against an older time what another process has just written.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from tieredllm.clock import Clock, SystemClock
from tieredllm.store.database import Database
from tieredllm.store.outbox_entry import (
    RECOVERED,
    Claimed,
    Entry,
    Note,
    covers,
    delivered,
    failed,
    is_due,
    is_on_its_way,
    leased,
    noted,
)

if TYPE_CHECKING:
    from sqlite3 import Connection

__all__ = ["Outbox", "Sent"]

EXPIRES_S = 86_400.0
"""How long a message is tried for after the last time it happened, 24 hours."""

FORGET_S = 30 * 86_400.0
"""How long an alert stays open whose end was never seen, 30 days."""

MOST_ENTRIES = 500
"""How many entries there are at most; the one that has been quiet for the longest goes first."""

# The names of columns are put into statements below (hence S608): they come from here alone.
FIELDS = Entry.__struct_fields__

MOST_AT_ONCE = 20
"""How many messages one sender claims."""


class Sent(msgspec.Struct, frozen=True, kw_only=True):
    """What came of sending one message."""

    claimed: Claimed
    error: str | None = None
    """Why it failed; None when it has arrived."""
    retry_after_s: float | None = None
    """Seconds the receiver asked to wait."""


class Outbox:
    """The outbox of one user.

    Args:
        database: where it is kept.
        clock: the time.
    """

    def __init__(self, database: Database, clock: Clock | None = None) -> None:
        self._database = database
        self._clock = clock or SystemClock()

    def entries(self, profile: str | None = None) -> list[Entry]:
        """Return the entries of one profile, or all, the oldest first; no file is made for it.

        Those that wait have `waiting` above 0.
        """
        nothing: list[Entry] = []
        return self._database.read(lambda connection: _load(connection, profile), nothing)

    def has_work(
        self,
        profile: str,
        channels: Collection[str],
        *,
        is_back: bool = False,
        patient: bool = True,
    ) -> bool:
        """Whether there is anything to send, or to end; takes one query.

        Args:
            profile: whose messages.
            channels: the channels there are.
            is_back: whether the first tier has answered.
            patient: whether to wait before another try as long as the failures so far suggest.
        """
        now = self._clock.wall()
        return any(
            is_due(entry, now, patient=patient) or (is_back and entry.is_open)
            for entry in self.entries(profile)
            if entry.channel in channels
        )

    def covers(self, profile: str, note: Note) -> bool:
        """Whether a message of the same cause waits, or was sent within the interval.

        A read, so that it works while others keep the file locked for writing.
        """
        now = self._clock.wall()
        return any(
            covers(entry, note, now)
            for entry in self.entries(profile)
            if (entry.channel, entry.cause) == (note.channel, note.cause)
        )

    def put(self, profile: str, notes: Sequence[Note]) -> bool:
        """Add what has happened; a recovery that waits is called off by it.

        Returns:
            Whether it was done; False while another process keeps the file locked.
        """

        def add(connection: Connection) -> bool:
            now = self._clock.wall()
            _clear(connection, now)
            _add(connection, profile, notes, now)
            return True

        return self._database.write(add, default=False)

    def recover(self, profile: str, channels: Iterable[str], body: str) -> bool:
        """Add a recovery message on each channel where an alert is open.

        Args:
            profile: whose alerts.
            channels: the channels there are.
            body: the details of the request that shows it.

        Returns:
            Whether it was done; False while another process keeps the file locked.
        """
        wanted = set(channels)

        def add(connection: Connection) -> bool:
            now = self._clock.wall()
            _clear(connection, now)
            ranks: dict[str, int] = {}
            for entry in _load(connection, profile):
                if entry.is_open and entry.channel in wanted:
                    rank = max(entry.sent_severity, ranks.get(entry.channel, 0))
                    ranks[entry.channel] = rank
            for channel, rank in ranks.items():
                before = _one(connection, profile, channel, RECOVERED)
                if before is not None and before.waiting:
                    continue
                if before is not None:
                    # That this one ends a graver alert is no reason to skip the interval.
                    before = msgspec.structs.replace(before, sent_severity=rank)
                note = Note(channel=channel, cause=RECOVERED, severity=rank, body=body)
                entry = noted(before, note, profile=profile, now=now, new_id=_new_id())
                _save(connection, entry)
            return True

        return self._database.write(add, default=False, creates=False)

    def claim(
        self,
        profile: str,
        channels: Collection[str],
        *,
        notes: Sequence[Note] = (),
        lease_s: float,
        patient: bool = True,
    ) -> list[Claimed] | None:
        """Take the messages that are due, for this process alone.

        What has just happened can be added in the same transaction: where many processes fail at
        once, each then waits for the lock only once.

        Args:
            profile: whose messages.
            channels: the channels that can be sent to.
            notes: what to add before; see `put`.
            lease_s: after how many seconds another process may take them.
            patient: whether to wait before another try as long as the failures so far suggest.

        Returns:
            Each with what it says; None when it couldn't be done now.
        """
        owner = _new_id()

        def take(connection: Connection) -> list[Claimed]:
            now = self._clock.wall()
            _clear(connection, now)
            _add(connection, profile, notes, now)
            entries = {
                (entry.channel, entry.cause): entry
                for entry in _load(connection, profile)
                if entry.channel in channels
            }
            due = [key for key, entry in entries.items() if is_due(entry, now, patient=patient)]
            # A recovery takes in what its alerts have held back, so it goes first.
            due.sort(key=lambda key: key[1] != RECOVERED)
            taken: list[Claimed] = []
            for key in due[:MOST_AT_ONCE]:
                if not entries[key].waiting:
                    continue
                ended = _taken_in(entries, key[0], now) if key[1] == RECOVERED else []
                for over in ended:
                    entries[over.channel, over.cause] = over
                    _save(connection, over)
                mine = leased(entries[key], owner=owner, now=now, lease_s=lease_s)
                _save(connection, mine)
                taken.append(Claimed(entry=mine, ended=tuple(ended)))
            return taken

        return self._database.write(take, None, creates=bool(notes))

    def settle(
        self, results: Sequence[Sent], *, min_interval_s: float, wait_s: float | None = None
    ) -> bool:
        """Note what came of what was claimed.

        Args:
            results: one for each message that was claimed.
            min_interval_s: how long the next message of the same cause is held back.
            wait_s: the longest wait for another process's lock, in seconds.

        Returns:
            Whether it was done; False while another process keeps the file locked.
        """

        def note(connection: Connection) -> bool:
            now = self._clock.wall()
            for result in results:
                sent = result.claimed.entry
                entry = _one(connection, sent.profile, sent.channel, sent.cause)
                if entry is None or entry.lease_owner != sent.lease_owner:
                    continue  # the lease was over, and somebody else has it
                if result.error is not None:
                    error, wait_s = result.error, result.retry_after_s
                    moved = failed(entry, now=now, error=error, retry_after_s=wait_s)
                else:
                    new_id = _new_id()
                    moved = delivered(
                        entry, sent, now=now, min_interval_s=min_interval_s, new_id=new_id
                    )
                    if sent.cause == RECOVERED:
                        _end_alerts(connection, sent)
                _save(connection, moved)
            return True

        return self._database.write(note, default=False, creates=False, wait_s=wait_s)


def _add(connection: Connection, profile: str, notes: Iterable[Note], now: float) -> None:
    for note in notes:
        before = _one(connection, profile, note.channel, note.cause)
        _save(connection, noted(before, note, profile=profile, now=now, new_id=_new_id()))
        recovery = _one(connection, profile, note.channel, RECOVERED)
        if recovery is not None and not is_on_its_way(recovery, now):
            _save(connection, msgspec.structs.replace(recovery, waiting=0))


def _taken_in(entries: Mapping[tuple[str, str], Entry], channel: str, now: float) -> list[Entry]:
    """Return a channel's open alerts, with what they have held back counted as told.

    What was tried before may have arrived, and what is graver was never told: both go their way.
    """
    over = [entry for entry in entries.values() if entry.is_open and entry.channel == channel]
    return [
        entry
        if entry.tries or is_on_its_way(entry, now) or entry.severity > entry.sent_severity
        else msgspec.structs.replace(entry, told=entry.told + entry.waiting, waiting=0)
        for entry in over
    ]


def _new_id() -> str:
    return os.urandom(12).hex()


def _load(connection: Connection, profile: str | None) -> list[Entry]:
    """Return the entries of one profile, or of all (None), the oldest first."""
    rows = connection.execute(
        f"SELECT {', '.join(FIELDS)} FROM outbox"  # noqa: S608
        " WHERE ?1 IS NULL OR profile = ?1 ORDER BY first_at, channel, cause",
        (profile,),
    )
    return [_entry(row) for row in rows]


def _one(connection: Connection, profile: str, channel: str, cause: str) -> Entry | None:
    """Return one entry, if there is one."""
    row = connection.execute(
        f"SELECT {', '.join(FIELDS)} FROM outbox"  # noqa: S608
        " WHERE profile = ? AND channel = ? AND cause = ?",
        (profile, channel, cause),
    ).fetchone()
    return None if row is None else _entry(row)


def _save(connection: Connection, entry: Entry) -> None:
    """Put an entry in place of the one there was."""
    values = [getattr(entry, field) for field in FIELDS]
    connection.execute(
        f"INSERT OR REPLACE INTO outbox ({', '.join(FIELDS)})"  # noqa: S608
        f" VALUES ({', '.join('?' * len(FIELDS))})",
        values,
    )


def _end_alerts(connection: Connection, recovery: Entry) -> None:
    """End the alerts that a delivered recovery was about."""
    connection.execute(
        "UPDATE outbox SET is_open = 0, told = 0, opened_at = NULL"
        " WHERE profile = ? AND channel = ? AND is_open AND sent_at <= ?",
        (recovery.profile, recovery.channel, recovery.leased_at),
    )


def _clear(connection: Connection, now: float) -> None:
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
