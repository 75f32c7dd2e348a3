"""Decide what becomes of one entry of the outbox: pure, times and counts in and out.

There is one entry per profile, channel and cause. What happens while a message waits, is on its way
or was sent less than `min_interval_s` ago adds to the count of the next one::

    nothing waits ──noted──> due ──leased──> on its way ──delivered──> nothing waits, held for the
      ^                       ^                  │                     interval: what is noted now
      │                       └──backoff over────┤                     becomes due when it is over
      │                                        failed                  (a graver one at once)
      └── 24 hours without a new one: given up

An alert that was delivered is *open* until a recovery is delivered.

Every span of time is kept as its start and its length and runs only from the one to the other, so
that a wall clock that is set back ends it early and never makes a message wait for years.
"""

from __future__ import annotations

import msgspec

__all__ = [
    "RECOVERED",
    "Claimed",
    "Entry",
    "Note",
    "covers",
    "delivered",
    "failed",
    "is_due",
    "is_on_its_way",
    "leased",
    "noted",
    "retry_wait_s",
]

RECOVERED = "recovered"
"""The cause of a recovery message."""

FIRST_WAIT_S = 1.0
"""The wait after the first failed try; each further one doubles it."""

MAX_WAIT_S = 900.0
"""The longest wait between two tries, a quarter of an hour."""

MAX_RETRY_AFTER_S = 3600.0
"""The longest wait that a receiver may ask for."""


class Note(msgspec.Struct, frozen=True, kw_only=True):
    """Something to tell on one channel."""

    channel: str
    cause: str
    severity: int
    """A larger one is graver."""
    body: str
    """The details, for whoever makes the message."""
    count: int = 1
    """How many times it happened."""


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """What waits, and what was sent, of one cause on one channel.

    Times are seconds since the epoch.
    """

    profile: str
    channel: str
    cause: str
    id: str
    """Of the message that waits; new for each message, the same on each try."""
    severity: int
    body: str
    """The details of the latest occurrence."""
    waiting: int
    """Occurrences that were not told yet."""
    first_at: float
    """When the first of them was."""
    last_at: float
    held_from: float = 0.0
    held_s: float = 0.0
    """How long it stays back from `held_from` on: the interval, or the wait before another try."""
    tries: int = 0
    """How often sending what waits was begun."""
    last_error: str | None = None
    lease_owner: str | None = None
    """Who is sending it, or was when killed."""
    leased_at: float = 0.0
    lease_s: float = 0.0
    sent_at: float | None = None
    """When the last message of this cause was delivered."""
    sent_severity: int = 0
    is_open: bool = False
    """Whether an alert was delivered whose end was not told."""
    told: int = 0
    """Occurrences told since it is open."""
    opened_at: float | None = None
    """When the first of them was."""


class Claimed(msgspec.Struct, frozen=True, kw_only=True):
    """An entry as it was leased: what its message says."""

    entry: Entry
    ended: tuple[Entry, ...] = ()
    """Of a recovery: the open alerts it ends."""


def noted(entry: Entry | None, note: Note, *, profile: str, now: float, new_id: str) -> Entry:
    """Add to an entry what has happened.

    Args:
        entry: the one there is.
        note: what to tell.
        profile: whose it is.
        now: the time.
        new_id: for a message that begins to wait with this.
    """
    if entry is None:
        return Entry(
            profile=profile,
            channel=note.channel,
            cause=note.cause,
            id=new_id,
            severity=note.severity,
            body=note.body,
            waiting=note.count,
            first_at=now,
            last_at=now,
        )
    moved = msgspec.structs.replace(
        entry, body=note.body, waiting=entry.waiting + note.count, last_at=now
    )
    if entry.waiting:
        moved = msgspec.structs.replace(moved, severity=max(entry.severity, note.severity))
    else:
        moved = msgspec.structs.replace(
            moved, id=new_id, severity=note.severity, first_at=now, tries=0, last_error=None
        )
    if moved.tries == 0 and moved.severity > moved.sent_severity:
        # What was told was less grave: this one doesn't wait for the interval's end.
        moved = msgspec.structs.replace(moved, held_s=0.0)
    return moved


def is_on_its_way(entry: Entry, now: float) -> bool:
    """Whether somebody is sending it; the lease of one that was killed ends by itself."""
    return entry.lease_owner is not None and _runs(entry.leased_at, entry.lease_s, now)


def is_due(entry: Entry, now: float, *, patient: bool = True) -> bool:
    """Whether it is to be sent now.

    Args:
        entry: any entry.
        now: the time.
        patient: whether to wait before another try as long as the failures so far suggest.
    """
    if not entry.waiting or is_on_its_way(entry, now):
        return False
    return not _runs(entry.held_from, entry.held_s, now) or (entry.tries > 0 and not patient)


def covers(entry: Entry, note: Note, now: float) -> bool:
    """Whether people learn of a note by what waits, or have just learnt of one as grave.

    Args:
        entry: the entry of the note's cause and channel.
        note: what is to be told.
        now: the time.
    """
    if entry.waiting:
        return True
    return _runs(entry.held_from, entry.held_s, now) and note.severity <= entry.sent_severity


def leased(entry: Entry, *, owner: str, now: float, lease_s: float) -> Entry:
    """Return it as leased: one sender has the right to send it."""
    return msgspec.structs.replace(
        entry, lease_owner=owner, leased_at=now, lease_s=lease_s, tries=entry.tries + 1
    )


def delivered(
    entry: Entry, sent: Entry, *, now: float, min_interval_s: float, new_id: str
) -> Entry:
    """Return the entry after a message has arrived.

    Args:
        entry: the entry now.
        sent: the entry as it was leased.
        now: the time.
        min_interval_s: how long the next message of the same cause is held back.
        new_id: for what came up meanwhile.
    """
    left = max(entry.waiting - sent.waiting, 0)
    graver = left > 0 and entry.severity > sent.severity
    is_alert = entry.cause != RECOVERED
    return msgspec.structs.replace(
        entry,
        id=new_id if left else entry.id,
        waiting=left,
        first_at=sent.leased_at if left else entry.first_at,
        held_from=now,
        held_s=0.0 if graver else min_interval_s,
        tries=0,
        last_error=None,
        lease_owner=None,
        sent_at=now,
        sent_severity=sent.severity,
        is_open=is_alert,
        told=entry.told + sent.waiting if is_alert else 0,
        opened_at=sent.first_at if entry.opened_at is None else entry.opened_at,
    )


def failed(entry: Entry, *, now: float, error: str, retry_after_s: float | None = None) -> Entry:
    """Note that a try has failed, and hold it back for a while.

    Args:
        entry: the entry now.
        now: the time.
        error: why, for people.
        retry_after_s: how long the receiver asked to wait.
    """
    return msgspec.structs.replace(
        entry,
        held_from=now,
        held_s=retry_wait_s(entry.tries, retry_after_s),
        last_error=error,
        lease_owner=None,
    )


def retry_wait_s(tries: int, retry_after_s: float | None = None) -> float:
    """Return how long to wait after some failed tries, in seconds.

    Args:
        tries: from 1.
        retry_after_s: how long the receiver asked to wait.
    """
    wait = min(FIRST_WAIT_S * 2.0 ** min(tries - 1, 30), MAX_WAIT_S)
    return max(wait, min(retry_after_s or 0.0, MAX_RETRY_AFTER_S))


def _runs(start: float, length: float, now: float) -> bool:
    return start <= now < start + length
