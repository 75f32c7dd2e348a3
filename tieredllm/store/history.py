"""Requests, their attempts and conversations: what `log`, `stats` and `ask -c` go by.

Every request belongs to a conversation; one that continues none starts its own, whose id is the
request's. What a conversation goes on from are its complete answers only: a failed request, or one
that the rules answered, is in the log but is no turn, so no model ever reads a rule answer as
something it said. After one, `ask -c` goes on from the turns before it in the same conversation.

The log bounds itself: beyond the limits it is given, each new request drops the oldest ones.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from tieredllm.clock import Clock, SystemClock
from tieredllm.errors import UsageError
from tieredllm.store.database import Database, DatabaseError
from tieredllm.store.record import (
    SHORT_ID,
    LoggedRequest,
    TierTurn,
    decode,
    encode,
    fingerprint,
    is_reusable,
    is_turn,
    tier_turns,
    turn_messages,
)
from tieredllm.types import Answer, Message, Prompt

if TYPE_CHECKING:
    from sqlite3 import Connection

__all__ = [
    "MAX_MB",
    "MAX_REQUESTS",
    "CachedAnswer",
    "Conversation",
    "History",
    "LoggedConversation",
    "Unreadable",
]

MAX_TURNS = 1000
"""How many of the latest turns a conversation goes on from; no model's context holds more."""

PRUNED_AT_ONCE = 500
"""How many requests one transaction drops: others that want to write wait for no more."""

PRUNED_BY_EACH = 20
"""How many a new request drops at most, where there are too many: none waits for long."""

MAX_REQUESTS = 100_000
"""How many requests the log keeps where a profile says nothing; a request has some kilobyte."""

MAX_MB = 512
"""What may be in use of the file then, in MiB."""

PAGE = 100
"""How many requests are read at once; each may have megabytes of text."""

MAX_NAME = 64
"""Characters of a conversation's name."""

LAST_NUMBER = 2**63 - 1
"""The largest number a row can have."""

SAVE_WAIT_S = 2.0
"""How long a request that has ended waits for another process's lock before it is given up."""

TURN_COLUMNS = TierTurn.__struct_fields__
# Columns of the statistics' table are the fields of `TierTurn` (hence S608): no text from outside.
INSERT_TURN = (
    f"INSERT INTO tier_turns (asked_at, request, {', '.join(TURN_COLUMNS)})"  # noqa: S608
    f" VALUES (?, ?{', ?' * len(TURN_COLUMNS)})"
)


class LoggedConversation(msgspec.Struct, frozen=True, kw_only=True):
    """One conversation in a list."""

    cid: str
    count: int
    """Its requests."""
    last_at: float
    """When the latest was asked, seconds since the epoch."""
    question: str
    """What was asked first."""
    name: str | None = None
    """What the user calls it."""


class Conversation(NamedTuple):
    """What a conversation goes on from."""

    cid: str
    messages: tuple[Message, ...]
    """The turns so far, oldest first: what was asked and what was answered, by turns."""
    system: str | None
    """The system prompt that was last given."""
    request_ids: tuple[str, ...] = ()
    """The requests the turns come from, one for each question and its answer."""
    name: str | None = None
    """What the user calls it."""


class CachedAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A complete answer that was given before."""

    text: str
    answered_at: float
    """Seconds since the epoch."""
    request_id: str
    tier: str
    provider: str
    model: str


class Unreadable(msgspec.Struct, frozen=True, kw_only=True):
    """A row of the log that is not what was written."""

    request_id: str
    reason: str


class History:
    """The log of one user's requests.

    Where the file is there and cannot be read, every question about it raises `DatabaseError`.

    Args:
        database: where it is kept.
        clock: the time.
        keep: the most requests it keeps.
        max_mb: the most MiB of the file that may be in use, however few requests that are.
    """

    def __init__(
        self,
        database: Database,
        clock: Clock | None = None,
        *,
        keep: int = MAX_REQUESTS,
        max_mb: int = MAX_MB,
    ) -> None:
        self._database = database
        self._clock = clock or SystemClock()
        self._keep = keep
        self._max_bytes = max_mb * 1024 * 1024
        self.unsaved: str | None = None
        """Why the latest request is not in the log; None when it is."""

    def save(
        self,
        prompt: Prompt,
        answer: Answer,
        profile: str,
        conversation_id: str | None = None,
        *,
        secrets: Collection[str] = (),
        reusable: bool = True,
        usual_system: str | None = None,
    ) -> str:
        """Keep a request that has ended just now. A second one of the same id changes nothing.

        Another process's lock is waited for up to `SAVE_WAIT_S`; afterwards `unsaved` says whether
        the request is in the log.

        Args:
            prompt: what was asked; its history isn't kept, the conversation has it.
            answer: what came of it, complete or failed.
            profile: the profile's name.
            conversation_id: which conversation it continues; None starts one, named after the
                request.
            secrets: texts to strike out wherever they occur, such as the keys in use.
            reusable: whether it may answer the same prompt again; not where something else, such as
                a schema, has shaped it.
            usual_system: the profile's system prompt, which a prompt without its own is asked with.

        Returns:
            The conversation's id.
        """
        asked = prompt
        if prompt.system is None and usual_system is not None:
            asked = msgspec.structs.replace(prompt, system=usual_system)
        asked_at = self._clock.wall() - answer.latency_ms / 1000
        text, record = encode(
            LoggedRequest(
                asked_at=asked_at,
                profile=profile,
                conversation_id=conversation_id or answer.request_id,
                prompt=prompt,
                answer=answer,
            ),
            secrets,
        )
        reusable = reusable and is_reusable(answer, record.answer)
        row = (
            answer.request_id,
            asked_at,
            answer.fallback_level,
            record.conversation_id,
            is_turn(answer),
            fingerprint(profile, asked) if reusable else None,
            answer.ref_code,
            text,
        )
        turns = tier_turns(record.answer)

        def keep(connection: Connection) -> bool:
            added = connection.execute(
                "INSERT INTO log (id, asked_at, level, conversation_id, is_turn, reusable_as,"
                " ref_code, record) VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING",
                row,
            )
            if added.rowcount:
                connection.executemany(
                    INSERT_TURN,
                    [(asked_at, added.lastrowid, *msgspec.structs.astuple(turn)) for turn in turns],
                )
                _bound(connection, self._keep, self._max_bytes)
            return True

        kept = self._database.write(keep, default=False, wait_s=SAVE_WAIT_S)
        lost = not kept or self._database.stands_in
        self.unsaved = self._database.problem if lost else None
        return record.conversation_id

    def conversation(self, cid: str | None = None) -> Conversation | None:
        """Return what a conversation goes on from.

        Args:
            cid: its name, its id, that of any request in it, or the unique beginning of one; None
                for that of the latest request.

        Returns:
            The conversation, without turns if nothing in it was answered; None when there is no
            request at all to continue.

        Raises:
            UsageError: no conversation has this name or id, or several begin with it.
            DatabaseError: the log cannot be read.
        """
        if cid is None:
            latest = self._rows("SELECT conversation_id FROM log ORDER BY number DESC LIMIT 1")
            if not latest:
                return None
            found = str(latest[0][0])
        else:
            found = self.conversation_id(cid)
        rows = self._rows(
            "SELECT id, CAST(record AS BLOB) FROM log"
            " WHERE conversation_id = ? AND is_turn ORDER BY number DESC LIMIT ?",
            found,
            MAX_TURNS,
        )
        turns = [
            record for row in reversed(rows) if isinstance(record := _record(*row), LoggedRequest)
        ]
        system = self._rows(
            "SELECT json_extract(record, '$.prompt.system') FROM log WHERE conversation_id = ?"
            " AND json_valid(record) AND json_extract(record, '$.prompt.system') IS NOT NULL"
            " ORDER BY number DESC LIMIT 1",
            found,
        )
        name = self._rows("SELECT name FROM conversation_names WHERE conversation_id = ?", found)
        return Conversation(
            cid=found,
            messages=tuple(message for turn in turns for message in turn_messages(turn)),
            system=system[0][0] if system else None,
            request_ids=tuple(turn.answer.request_id for turn in turns),
            name=name[0][0] if name else None,
        )

    def conversation_id(self, beginning: str) -> str:
        """Return the id of the conversation with this name or id, or with a request of this id.

        Args:
            beginning: a whole name, which comes first, or the unique beginning of an id.

        Raises:
            UsageError: none has this name or id, or several begin with it.
            DatabaseError: the log cannot be read.
        """
        named = self._rows(
            "SELECT conversation_id FROM conversation_names WHERE name = ?", beginning.strip()
        )
        if named:
            return str(named[0][0])
        try:
            return self._only(
                beginning,
                "conversation",
                "SELECT DISTINCT conversation_id FROM log"
                " WHERE conversation_id >= ?1 AND conversation_id < ?2"
                " ORDER BY conversation_id LIMIT 2",
            )
        except UsageError:
            requests = self._rows(
                "SELECT conversation_id FROM log WHERE id >= ?1 AND id < ?2 ORDER BY id LIMIT 2",
                beginning,
                f"{beginning}g",
            )
            if len(requests) != 1:
                raise
            return str(requests[0][0])

    def conversations(self, limit: int) -> list[LoggedConversation]:
        """Return the latest conversations, the latest first.

        Raises:
            DatabaseError: the log cannot be read.
        """
        rows = self._rows(
            "SELECT conversation_id, count(*), max(asked_at), min(number) FROM log"
            " GROUP BY conversation_id ORDER BY max(number) DESC LIMIT ?",
            limit,
        )
        found = []
        names = self.names()
        for cid, count, last_at, number in rows:
            question = self._rows(
                "SELECT json_extract(record, '$.prompt.question') FROM log"
                " WHERE number = ? AND json_valid(record)",
                number,
            )
            text = question[0][0] if question else None
            found.append(
                LoggedConversation(
                    cid=cid,
                    count=count,
                    last_at=last_at,
                    question=text or "",
                    name=names.get(cid),
                )
            )
        return found

    def names(self) -> dict[str, str]:
        """Return what conversations are called, by their ids and in the order of their names.

        Raises:
            DatabaseError: the log cannot be read.
        """
        return dict(
            self._rows("SELECT conversation_id, name FROM conversation_names ORDER BY name")
        )

    def set_name(self, cid: str, name: str | None) -> None:
        """Call a conversation by a name of the user's own, instead of the one it has.

        Args:
            cid: its whole id.
            name: one printable line of up to `MAX_NAME` characters; None takes its name away.

        Raises:
            UsageError: this is no name, another conversation has it, or this one isn't in the log.
            DatabaseError: it could not be kept.
        """
        if name is not None:
            _check_name(name)

        def keep(connection: Connection) -> str:
            """Return the conversation that has the name, `""` if this one is not there."""
            if not connection.execute(
                "SELECT 1 FROM log WHERE conversation_id = ? LIMIT 1", (cid,)
            ).fetchone():
                return ""
            others = connection.execute(
                "SELECT conversation_id FROM conversation_names"
                " WHERE name = ? AND conversation_id <> ?",
                (name, cid),
            ).fetchone()
            if others:
                return str(others[0])
            connection.execute("DELETE FROM conversation_names WHERE conversation_id = ?", (cid,))
            if name is not None:
                connection.execute("INSERT INTO conversation_names VALUES (?, ?)", (cid, name))
            return cid

        owner = self._database.write(keep, None, creates=False, wait_s=SAVE_WAIT_S)
        if self._database.problem and (owner is None or self._database.stands_in):
            raise DatabaseError(self._database.problem)
        if not owner:
            raise UsageError("the conversation is not in the log, so it cannot have a name")
        if owner != cid:
            short = owner[:SHORT_ID]
            reason = (
                f"conversation {short} is named {name!r} already: "
                f"`tieredllm log name {short} -` takes the name away"
            )
            raise UsageError(reason)

    def take_back(self, request_id: str) -> None:
        """Leave a request out of what its conversation goes on from; the log still has it."""

        def unmark(connection: Connection) -> None:
            connection.execute("UPDATE log SET is_turn = 0 WHERE id = ?", (request_id,))

        self._database.write(unmark, None, creates=False, wait_s=SAVE_WAIT_S)

    def find(self, wanted: str) -> LoggedRequest:
        """Return the request with this id, unique beginning of an id, or reference code.

        Args:
            wanted: of a code (`REF-` and 8 hexadecimal digits) the latest request is returned.

        Raises:
            UsageError: there is none, several begin with it, or its row makes no sense.
            DatabaseError: the log cannot be read.
        """
        text = wanted.strip()
        if text.upper().startswith("REF-"):
            rows = self._rows(
                "SELECT id FROM log WHERE ref_code = ? ORDER BY number DESC LIMIT 1", text.upper()
            )
            if not rows:
                reason = f"no logged request has the code {text.upper()}"
                raise UsageError(reason)
            request_id = str(rows[0][0])
        else:
            request_id = self._only(
                text,
                "request",
                "SELECT id FROM log WHERE id >= ?1 AND id < ?2 ORDER BY id LIMIT 2",
            )
        rows = self._rows("SELECT id, CAST(record AS BLOB) FROM log WHERE id = ?", request_id)
        record = _record(*rows[0]) if rows else None
        if not isinstance(record, LoggedRequest):
            reason = f"request {request_id} cannot be read"
            raise UsageError(reason if record is None else f"{reason}: {record.reason}")
        return record

    def recent(
        self,
        limit: int,
        search: str | None = None,
        *,
        cid: str | None = None,
        tier: str | None = None,
        model: str | None = None,
    ) -> Iterator[LoggedRequest | Unreadable]:
        """Yield the latest requests, the latest first, reading a few at a time.

        Args:
            limit: how many at most.
            search: a text the question or the answer holds; ASCII letters match in both cases.
            cid: only those of the conversation with this whole id.
            tier: only those that this tier answered.
            model: only those that a model answered whose name has this in it.

        Raises:
            DatabaseError: the log cannot be read.
        """
        pattern, named = _holding(search), _holding(model)
        before = LAST_NUMBER
        while limit > 0:
            rows = self._rows(
                "SELECT number, id, CAST(record AS BLOB) FROM log"
                " WHERE number < ?1 AND (?2 IS NULL OR json_valid(record) AND"
                r" (json_extract(record, '$.prompt.question') LIKE ?2 ESCAPE '\'"
                r" OR json_extract(record, '$.answer.text') LIKE ?2 ESCAPE '\'))"
                " AND (?4 IS NULL OR conversation_id = ?4)"
                " AND (?5 IS NULL OR json_valid(record)"
                " AND json_extract(record, '$.answer.tier') = ?5)"
                " AND (?6 IS NULL OR json_valid(record)"
                r" AND json_extract(record, '$.answer.model_used') LIKE ?6 ESCAPE '\')"
                " ORDER BY number DESC LIMIT ?3",
                before,
                pattern,
                min(limit, PAGE),
                cid,
                tier,
                named,
            )
            for number, request_id, record in rows:
                before = number
                yield _record(request_id, record)
            limit = limit - len(rows) if len(rows) == PAGE else 0

    def cached_answer(
        self, profile: str, prompt: Prompt, *, newer_than: float
    ) -> CachedAnswer | None:
        """Return the latest complete answer a model gave to the same request, kept whole.

        One that seems to come from later than now, since a clock was wrong, is passed over: how old
        it is cannot be told.

        Args:
            profile: the profile's name.
            prompt: what is asked; see `record.fingerprint` for what counts as the same.
            newer_than: when it must have been asked after, seconds since the epoch.
        """
        asked = (fingerprint(profile, prompt), newer_than, self._clock.wall())

        def load(connection: Connection) -> list[Any]:
            return connection.execute(
                "SELECT id, CAST(record AS BLOB) FROM log"
                " WHERE reusable_as = ? AND asked_at > ? AND asked_at <= ?"
                " ORDER BY asked_at DESC LIMIT 1",
                asked,
            ).fetchall()

        nothing: list[Any] = []
        for row in self._database.read(load, nothing):
            record = _record(*row)
            if isinstance(record, LoggedRequest) and record.answer.text is not None:
                answer = record.answer
                return CachedAnswer(
                    text=record.answer.text,
                    answered_at=record.asked_at + answer.latency_ms / 1000,
                    request_id=answer.request_id,
                    tier=answer.tier or "",
                    provider=answer.provider or "",
                    model=answer.model_used or "",
                )
        return None

    def count(self, older_than: float | None = None) -> int:
        """Count the requests there are, or those asked before a time (seconds since the epoch).

        Raises:
            DatabaseError: the log cannot be read.
        """
        rows = self._rows("SELECT count(*) FROM log WHERE ?1 IS NULL OR asked_at < ?1", older_than)
        return int(rows[0][0]) if rows else 0

    def prune(self, older_than: float) -> int:
        """Drop the requests asked before a time, for good: their text leaves the file.

        Args:
            older_than: seconds since the epoch.

        Returns:
            How many were dropped.
        """

        def drop(connection: Connection) -> int:
            return _drop(
                connection,
                "SELECT number, asked_at FROM log WHERE asked_at < ? ORDER BY asked_at LIMIT ?",
                (older_than, PRUNED_AT_ONCE),
            )

        dropped = 0
        while gone := self._database.write(drop, 0, creates=False, wait_s=SAVE_WAIT_S):
            dropped += gone
        if dropped:
            self._database.compact()
        return dropped

    def _only(self, beginning: str, what: str, query: str) -> str:
        """Return the one id that begins so."""
        beginning = beginning.strip()
        rows: list[Any] = []
        for start in dict.fromkeys((beginning, beginning.lower())):
            if start and not rows:
                rows = self._rows(query, start, start + "\U0010ffff")
        exact = [row for row in rows if row[0] == beginning]
        if len(exact or rows) > 1:
            reason = f"several {what}s begin with {beginning!r}: give more of the id"
            raise UsageError(reason)
        if not rows:
            reason = f"no logged {what} begins with {beginning!r}: `tieredllm log` lists them"
            raise UsageError(reason)
        return str((exact or rows)[0][0])

    def _rows(self, query: str, *values: Any) -> list[Any]:
        nothing: list[Any] = []
        return self._database.require(
            lambda connection: connection.execute(query, values).fetchall(), nothing
        )


def _holding(text: str | None) -> str | None:
    """Return the pattern of what has a text in it."""
    if not text:
        return None
    escaped = text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return f"%{escaped}%"


def _record(request_id: str, text: bytes) -> LoggedRequest | Unreadable:
    try:
        return decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return Unreadable(request_id=str(request_id), reason=str(error))


def _check_name(name: str) -> None:
    """Refuse what cannot be told from an id or an option, or shown on a line.

    Raises:
        UsageError: it is such a text.
    """
    if not 0 < len(name) <= MAX_NAME or not name.isprintable() or name != name.strip():
        reason = f"a name is one printable line of at most {MAX_NAME} characters, not {name!r}"
        raise UsageError(reason)
    if name.startswith("-") or re.fullmatch("[0-9a-f]{32}", name):
        reason = f"{name!r} looks like {'an option' if name[0] == '-' else 'an id'}: not a name"
        raise UsageError(reason)


def _bound(connection: Connection, keep: int, max_bytes: int) -> None:
    """Drop the oldest requests while there are too many, a few for each new one."""
    oldest_first = "SELECT number, asked_at FROM log WHERE number <= ? ORDER BY number LIMIT ?"
    newest: int = connection.execute("SELECT max(number) FROM log").fetchone()[0]
    _drop(connection, oldest_first, (newest - keep, PRUNED_BY_EACH))
    for _ in range(PRUNED_BY_EACH):
        pages, unused, size = (
            connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("page_count", "freelist_count", "page_size")
        )
        if (pages - unused) * size <= max_bytes:
            break
        if not _drop(connection, oldest_first, (newest - 1, 1)):
            break


def _drop(connection: Connection, query: str, values: Sequence[Any]) -> int:
    rows = connection.execute(query, values).fetchall()
    connection.executemany("DELETE FROM log WHERE number = ?", [row[:1] for row in rows])
    connection.executemany("DELETE FROM tier_turns WHERE request = ? AND asked_at = ?", rows)
    if rows:
        connection.execute(
            "DELETE FROM conversation_names WHERE NOT EXISTS"
            " (SELECT 1 FROM log WHERE log.conversation_id = conversation_names.conversation_id)"
        )
    return len(rows)
