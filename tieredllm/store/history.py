"""Keep requests, their attempts and conversations: what `log`, `stats` and `ask -c` go by.

Every request belongs to a conversation; one that continues none starts its own, whose id is the
request's. What a conversation goes on from are its complete answers only: a failed request, or one
that the rules answered, is in the log but is no turn, so no model ever reads a rule answer as
something it said. After one, `ask -c` goes on from the turns before it in the same conversation.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from tieredllm.clock import Clock, SystemClock
from tieredllm.errors import UsageError
from tieredllm.redaction import Redactor
from tieredllm.store.database import Database
from tieredllm.store.logged import (
    ATTEMPT_COLUMNS,
    MAX_TEXT,
    REQUEST_COLUMNS,
    Logged,
    attempt_row,
    fingerprint,
    logged,
    request_row,
    turns,
)
from tieredllm.types import Answer, Message, Prompt

if TYPE_CHECKING:
    from sqlite3 import Connection

__all__ = ["CachedAnswer", "Conversation", "History"]

MOST_TURNS = 1000
"""How many of the latest turns a conversation goes on from; no model's context holds more."""

# The names of columns are put into statements below (hence S608): they come from here alone.
REQUEST = ", ".join(f"r.{column}" for column in REQUEST_COLUMNS)


class Conversation(NamedTuple):
    """Hold what a conversation goes on from."""

    cid: str
    messages: tuple[Message, ...]
    """The turns so far, oldest first: what was asked and what was answered, by turns."""
    system: str | None
    """The system prompt that was last given."""
    request_ids: tuple[str, ...] = ()
    """The requests the turns come from, one for each question and its answer."""


class CachedAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Hold a complete answer that was given before."""

    text: str
    answered_at: float
    """Seconds since the epoch."""
    request_id: str
    tier: str
    provider: str
    model: str


class History:
    """Be the log of one user's requests.

    Args:
        database: where it is kept.
        clock: the time.
    """

    def __init__(self, database: Database, clock: Clock | None = None) -> None:
        self._database = database
        self._clock = clock or SystemClock()

    def save(
        self,
        prompt: Prompt,
        answer: Answer,
        profile: str,
        conversation_id: str | None = None,
        *,
        secrets: Collection[str] = (),
    ) -> str:
        """Keep a request that has ended just now. A second one of the same id changes nothing.

        Args:
            prompt: what was asked; its history isn't kept, the conversation has it.
            answer: what came of it, complete or failed.
            profile: the profile's name.
            conversation_id: which conversation it continues; None starts one.
            secrets: texts to strike out wherever they occur, such as the keys in use.

        Returns:
            The conversation's id.
        """
        conversation_id = conversation_id or answer.request_id
        redact = Redactor(secrets, limit=MAX_TEXT)
        asked_at = self._clock.wall() - answer.latency_ms / 1000
        request = request_row(
            prompt,
            answer,
            profile=profile,
            conversation_id=conversation_id,
            asked_at=asked_at,
            redact=redact,
        )
        attempts = [attempt_row(attempt, redact) for attempt in answer.attempts]

        def keep(connection: Connection) -> None:
            marks = ", ".join("?" * len(REQUEST_COLUMNS))
            added = connection.execute(
                f"INSERT INTO requests ({', '.join(REQUEST_COLUMNS)}) VALUES ({marks})"  # noqa: S608
                " ON CONFLICT (id) DO NOTHING",
                request,
            )
            if not added.rowcount:
                return
            marks = ", ".join("?" * (2 + len(ATTEMPT_COLUMNS)))
            connection.executemany(
                f"INSERT INTO attempts (request, position, {', '.join(ATTEMPT_COLUMNS)})"  # noqa: S608
                f" VALUES ({marks})",
                [[added.lastrowid, position, *row] for position, row in enumerate(attempts)],
            )

        self._database.write(keep, None, keep=True)
        return conversation_id

    def conversation(self, cid: str | None = None) -> Conversation | None:
        """Give what a conversation goes on from.

        Args:
            cid: its id or the unique beginning of it; None for that of the latest request.

        Returns:
            The conversation, without turns if nothing in it was answered; None when there is no
            request at all to continue.

        Raises:
            UsageError: no conversation has this id, or several begin with it.
        """
        if cid is None:
            latest = self._rows(
                "SELECT conversation_id FROM requests ORDER BY number DESC LIMIT 1", ()
            )
            if not latest:
                return None
            found = str(latest[0][0])
        else:
            found = self._only(
                cid,
                "conversation",
                "SELECT DISTINCT conversation_id FROM requests"
                " WHERE conversation_id >= ?1 AND conversation_id < ?2"
                " ORDER BY conversation_id LIMIT 2",
            )

        def load(connection: Connection) -> Conversation:
            rows = connection.execute(
                "SELECT id, question, attachments, text FROM requests"
                " WHERE conversation_id = ? AND is_turn ORDER BY number DESC LIMIT ?",
                (found, MOST_TURNS),
            ).fetchall()[::-1]
            given = connection.execute(
                "SELECT system FROM requests WHERE conversation_id = ? AND system IS NOT NULL"
                " ORDER BY number DESC LIMIT 1",
                (found,),
            ).fetchone()
            return Conversation(
                cid=found,
                messages=tuple(turns(row[1:] for row in rows)),
                system=given[0] if given else None,
                request_ids=tuple(row[0] for row in rows),
            )

        return self._database.read(load, Conversation(found, (), None))

    def take_back(self, request_id: str) -> None:
        """Leave a request out of what its conversation goes on from; the log still has it."""

        def unmark(connection: Connection) -> None:
            connection.execute("UPDATE requests SET is_turn = 0 WHERE id = ?", (request_id,))

        self._database.write(unmark, None, creates=False, keep=True)

    def find(self, wanted: str) -> Logged:
        """Give the request with this id, unique beginning of an id, or reference code.

        Args:
            wanted: of a code (`REF-` and 8 hexadecimal digits) the latest request is given.

        Raises:
            UsageError: there is none, or several begin with it.
        """
        text = wanted.strip()
        if text.upper().startswith("REF-"):
            found = self._load("WHERE r.ref_code = ? ORDER BY r.number DESC LIMIT 1", text.upper())
            if not found:
                reason = f"no logged request has the code {text.upper()}"
                raise UsageError(reason)
            return found[0]
        name = self._only(
            text,
            "request",
            "SELECT id FROM requests WHERE id >= ?1 AND id < ?2 ORDER BY id LIMIT 2",
        )
        found = self._load("WHERE r.id = ?", name)
        if not found:
            reason = f"request {name} cannot be read"
            raise UsageError(reason)
        return found[0]

    def recent(self, limit: int, search: str | None = None) -> list[Logged]:
        """Give the latest requests, the latest first.

        Args:
            limit: how many at most.
            search: a text the question or the answer holds; ASCII letters match in both cases.
        """
        if not search:
            return self._load("ORDER BY r.number DESC LIMIT ?", limit)
        escaped = search.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
        return self._load(
            r"WHERE r.question LIKE ?1 ESCAPE '\' OR r.text LIKE ?1 ESCAPE '\'"
            " ORDER BY r.number DESC LIMIT ?2",
            f"%{escaped}%",
            limit,
        )

    def cached_answer(
        self, profile: str, prompt: Prompt, *, newer_than: float
    ) -> CachedAnswer | None:
        """Give the latest complete answer a model gave to the same request, whole and kept whole.

        Args:
            profile: the profile's name.
            prompt: what is asked; see `logged.fingerprint` for what counts as the same.
            newer_than: when it must have been asked after, seconds since the epoch.
        """
        names = CachedAnswer.__struct_fields__

        def load(connection: Connection) -> CachedAnswer | None:
            row = connection.execute(
                "SELECT text, asked_at + latency_ms / 1000, id, tier, provider, model"
                " FROM requests WHERE reusable_as = ? AND asked_at > ?"
                " ORDER BY asked_at DESC LIMIT 1",
                (fingerprint(profile, prompt), newer_than),
            ).fetchone()
            if row is None:
                return None
            return msgspec.convert(dict(zip(names, row, strict=True)), CachedAnswer)

        return self._database.read(load, None)

    def count(self, older_than: float | None = None) -> int:
        """Count the requests there are, or those asked before a time (seconds since the epoch)."""
        rows = self._rows(
            "SELECT count(*) FROM requests WHERE ?1 IS NULL OR asked_at < ?1", (older_than,)
        )
        return int(rows[0][0]) if rows else 0

    def prune(self, older_than: float) -> int:
        """Drop the requests asked before a time, for good: their text leaves the file.

        Args:
            older_than: seconds since the epoch.

        Returns:
            How many were dropped.
        """

        def drop(connection: Connection) -> int:
            connection.execute(
                "DELETE FROM attempts WHERE request IN"
                " (SELECT number FROM requests WHERE asked_at < ?)",
                (older_than,),
            )
            dropped = connection.execute("DELETE FROM requests WHERE asked_at < ?", (older_than,))
            return dropped.rowcount

        dropped = self._database.write(drop, 0, creates=False)
        if dropped:
            self._database.compact()
        return dropped

    def _only(self, beginning: str, what: str, query: str) -> str:
        """Give the one id that begins so."""
        beginning = beginning.strip()
        rows: list[Any] = []
        for start in dict.fromkeys((beginning, beginning.lower())):
            if start and not rows:
                rows = self._rows(query, (start, start + "\U0010ffff"))
        exact = [row for row in rows if row[0] == beginning]
        if len(exact or rows) > 1:
            reason = f"several {what}s begin with {beginning!r}: give more of the id"
            raise UsageError(reason)
        if not rows:
            reason = f"no logged {what} begins with {beginning!r}: `tieredllm log` lists them"
            raise UsageError(reason)
        return str((exact or rows)[0][0])

    def _rows(self, query: str, values: Sequence[Any]) -> list[Any]:
        nothing: list[Any] = []
        return self._database.read(
            lambda connection: connection.execute(query, values).fetchall(), nothing
        )

    def _load(self, rest: str, *values: Any) -> list[Logged]:
        """Read the requests a query's end selects, with their attempts."""
        nothing: list[Logged] = []
        return self._database.read(_loading(rest, values), nothing)


def _loading(rest: str, values: Sequence[Any]) -> Callable[[Connection], list[Logged]]:
    def load(connection: Connection) -> list[Logged]:
        rows = connection.execute(
            f"SELECT r.number, {REQUEST} FROM requests AS r {rest}",  # noqa: S608
            values,
        ).fetchall()
        requests: list[Logged] = []
        for number, *row in rows:
            attempts = connection.execute(
                f"SELECT {', '.join(ATTEMPT_COLUMNS)} FROM attempts"  # noqa: S608
                " WHERE request = ? ORDER BY position",
                (number,),
            ).fetchall()
            requests.append(logged(row, attempts))
        return requests

    return load
