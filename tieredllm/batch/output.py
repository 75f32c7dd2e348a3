"""Keep the answers in one file, a JSON line each, which is the checkpoint as well.

A line has the shape of OpenAI's batch output
(https://platform.openai.com/docs/api-reference/batch/request-output) and, under `tieredllm`, who
answered, and by which line and hash the answer is known again. It is written with one call of the
system at the file's end, so a killed process leaves at most the last line torn.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from tieredllm.batch.lines import BatchLine
from tieredllm.errors import UsageError
from tieredllm.serve.chat import ChatWire
from tieredllm.text import escape_json
from tieredllm.types import Answer

__all__ = [
    "Index",
    "Output",
    "Place",
    "Record",
    "TieredInfo",
    "places_in",
    "prepare",
    "record_of",
    "rewrite",
]

RECORD_START = b'{"id":"batch_req_'
"""What each record begins with, and so a torn one, too."""
COPY_BYTES = 2**20


class TieredInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What we add to OpenAI's shape."""

    tier: str | None
    """Who answered; None when nobody did, as for the next two."""
    level: int | None
    model: str | None
    attempts: int
    """How many backends were asked, each retry counted."""
    latency_ms: float
    line: int
    """Where the question begins in the input, from 1."""
    hash: str
    """Of the line, the prompt and the profile."""


class BatchError(msgspec.Struct, frozen=True, kw_only=True):
    """Why there is no answer."""

    code: str
    """A kind of error."""
    message: str


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the output."""

    id: str
    custom_id: str
    response: dict[str, Any] | None
    error: BatchError | None
    tieredllm: TieredInfo


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where a record is in its file."""

    offset: int
    length: int
    """With the end of the line."""
    record: Record


def record_of(line: BatchLine, answer: Answer) -> Record:
    """Return the record of an answer, or of why there is none."""
    response, error = None, None
    if answer.error is None:
        body = ChatWire().whole(line.request, answer)
        response = {"status_code": 200, "request_id": answer.request_id, "body": body}
    else:
        message = answer.original_error or str(answer.error)
        error = BatchError(code=str(answer.error.kind), message=message)
    asked = [attempt for attempt in answer.attempts if attempt.outcome != "skipped"]
    return Record(
        id=f"batch_req_{answer.request_id}",
        custom_id=line.id,
        response=response,
        error=error,
        tieredllm=TieredInfo(
            tier=answer.tier,
            level=answer.fallback_level,
            model=answer.model_used,
            attempts=len(asked),
            latency_ms=answer.latency_ms,
            line=line.number,
            hash=line.digest,
        ),
    )


def places_in(file: BinaryIO, name: str) -> Iterator[Place]:
    """Yield each record of an output; a torn last line is left out.

    Args:
        file: the output.
        name: what it is called, for messages.

    Raises:
        UsageError: it holds something else than records.
    """
    decode = msgspec.json.Decoder(Record).decode
    file.seek(0)
    offset = 0
    torn: str | None = None
    for number, raw in enumerate(file, 1):
        if torn is not None:
            raise UsageError(f"{name} is no output of `tieredllm batch`: {torn}")
        try:
            record = decode(raw)
        except (msgspec.DecodeError, ValueError, RecursionError) as exc:  # bytes of no UTF-8, too
            torn = f"line {number}: {exc}"
            if not raw.startswith(RECORD_START[: len(raw)]):
                raise UsageError(f"{name} is no output of `tieredllm batch`: {torn}") from None
        else:
            yield Place(offset=offset, length=len(raw), record=record)
        offset += len(raw)


class Output:
    """The end of an output file, where records are appended.

    Args:
        path: the file, which exists.

    Raises:
        OSError: it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | getattr(os, "O_BINARY", 0))
        self._end = os.fstat(self._descriptor).st_size
        self._encoder = msgspec.json.Encoder()

    def append(self, record: Record) -> None:
        """Write one record; it is whole or not there.

        Raises:
            OSError: the disk is full, or what else went wrong.
        """
        # One line also for `str.splitlines`, which knows more ends of a line than JSON escapes.
        data = escape_json(self._encoder.encode(record).decode()).encode() + b"\n"
        try:
            written = os.write(self._descriptor, data)
            while written < len(data):
                written += os.write(self._descriptor, data[written:])
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, self._end)
            raise
        self._end += len(data)

    def close(self) -> None:
        """See to it that it is on the disk, and close it."""
        with contextlib.suppress(OSError):
            os.fsync(self._descriptor)
        os.close(self._descriptor)


def prepare(path: Path) -> None:
    """Make the output ready to be appended to: make it, or cut its torn last line off.

    Raises:
        UsageError: it holds something else than records.
        OSError: it cannot be read or written.
    """
    path.touch()
    with path.open("r+b") as file:
        end, last = 0, b"\n"
        for place in places_in(file, path.name):
            end = place.offset + place.length
        if end:
            file.seek(end - 1)
            last = file.read(1)
        file.truncate(end)
        if last != b"\n":  # only the end of the line was torn off
            file.seek(end)
            file.write(b"\n")


def rewrite(sources: Iterable[tuple[BinaryIO, int, int]], path: Path) -> None:
    """Put a file together from parts of files, and in place at once.

    Args:
        sources: a file, an offset in it and a length each.
        path: the file to make or to replace; it keeps its permissions.

    Raises:
        OSError: it cannot be written; what was there is as it was.
    """
    target = path.resolve()
    part = target.with_name(f".{target.name[:200]}.part")
    try:
        with part.open("wb") as out:
            if target.exists():
                part.chmod(target.stat().st_mode & 0o777)
            for file, offset, length in sources:
                file.seek(offset)
                left = length
                while left:
                    data = file.read(min(left, COPY_BYTES))
                    if not data:
                        raise OSError(f"{path.name} has changed meanwhile")
                    out.write(data)
                    left -= len(data)
                if not data.endswith(b"\n"):
                    out.write(b"\n")
            out.flush()
            os.fsync(out.fileno())
        part.replace(target)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


class Index:
    """Which lines there are, and which have an answer: on disk, so that a million take no memory.

    It is SQLite's private temporary database, gone when it is closed
    (https://www.sqlite.org/inmemorydb.html, "Temporary Databases").
    """

    def __init__(self) -> None:
        self._database = sqlite3.connect("", isolation_level=None)
        self._database.execute("PRAGMA cache_size = -2000")  # 2 MB
        self._database.execute("PRAGMA journal_mode = OFF")
        self._database.execute(
            "CREATE TABLE lines (number INTEGER PRIMARY KEY, id TEXT, hash TEXT)"
        )
        self._database.execute(
            "CREATE TABLE records (part INTEGER, offset INTEGER, length INTEGER, id TEXT,"
            " hash TEXT, ok INTEGER, line INTEGER, PRIMARY KEY (part, offset)) WITHOUT ROWID"
        )
        self._database.execute(
            "CREATE VIEW pending AS SELECT number FROM lines WHERE NOT EXISTS (SELECT 1 FROM"
            " records WHERE records.id = lines.id AND records.hash = lines.hash AND ok)"
        )
        # Where a record belongs: its line's place, or the one it had when the input is not known.
        self._database.execute(
            "CREATE VIEW placed AS SELECT records.*, coalesce(lines.number, line) AS here"
            " FROM records LEFT JOIN lines USING (id)"
        )

    def add_lines(self, lines: Iterable[BatchLine]) -> int:
        """Take in the input's lines; return how many there are."""
        rows = ((line.number, line.id, line.digest) for line in lines)
        self._database.execute("BEGIN")
        count = self._database.executemany("INSERT INTO lines VALUES (?, ?, ?)", rows).rowcount
        self._database.execute("COMMIT")
        self._database.execute("CREATE INDEX lines_by_id ON lines (id)")
        return max(count, 0)

    def doubles(self, most: int) -> list[tuple[str, int, int]]:
        """Return ids that more than one line has: the id and two of the lines, `most` of them."""
        found = self._database.execute(
            "SELECT id, min(number), max(number) FROM lines GROUP BY id HAVING count(*) > 1"
            " ORDER BY min(number) LIMIT ?",
            (most,),
        )
        return list(found)

    def add_records(self, places: Iterable[Place], part: int = 0) -> None:
        """Take in the records of an output."""
        rows = (
            (
                part,
                place.offset,
                place.length,
                place.record.custom_id,
                place.record.tieredllm.hash,
                place.record.response is not None,
                place.record.tieredllm.line,
            )
            for place in places
        )
        self._database.execute("BEGIN")
        self._database.executemany("INSERT INTO records VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
        self._database.execute("COMMIT")
        self._database.execute("CREATE INDEX IF NOT EXISTS records_by_id ON records (id)")

    def forget_records(self) -> None:
        """Forget all records."""
        self._database.execute("DELETE FROM records")

    def pending(self) -> Iterator[int]:
        """Yield the numbers of the lines that have no answer, in the input's order."""
        for (number,) in self._database.execute("SELECT number FROM pending ORDER BY number"):
            yield number

    def count_pending(self) -> int:
        """Count the lines that have no answer."""
        (count,) = self._database.execute("SELECT count(*) FROM pending").fetchone()
        return int(count)

    def count_stale(self) -> int:
        """Count the records of lines that are to be asked again."""
        (count,) = self._database.execute(
            "SELECT count(*) FROM records JOIN lines USING (id)"
            " WHERE NOT ok OR records.hash <> lines.hash"
        ).fetchone()
        return int(count)

    def replaced(self) -> Iterator[tuple[int, int]]:
        """Yield offset and length of the answers to another line or prompt, or by another profile.

        Their ids are those of lines of this batch.
        """
        yield from self._database.execute(
            "SELECT offset, length FROM records JOIN lines USING (id)"
            " WHERE ok AND records.hash <> lines.hash ORDER BY offset"
        )

    def kept(self) -> Iterator[tuple[int, int]]:
        """Yield offset and length of the records that stay, in the file's order."""
        yield from self._database.execute(
            "SELECT offset, length FROM records LEFT JOIN lines USING (id)"
            " WHERE lines.id IS NULL OR (ok AND records.hash = lines.hash) ORDER BY offset"
        )

    def count_clashing(self) -> int:
        """Count the ids under which different lines, or prompts, were answered."""
        (count,) = self._database.execute(
            "SELECT count(*) FROM (SELECT 1 FROM records WHERE ok GROUP BY id"
            " HAVING count(DISTINCT hash) > 1)"
        ).fetchone()
        return int(count)

    def best(self) -> Iterator[tuple[int, int, int]]:
        """Yield part, offset and length of one record per id, in the input's order.

        Of several, one that answers is better than one that does not, and a later better than an
        earlier one.
        """
        yield from self._database.execute(
            "SELECT part, offset, length FROM (SELECT *, row_number() OVER"
            " (PARTITION BY id ORDER BY ok DESC, part DESC, offset DESC) AS rank FROM placed)"
            " WHERE rank = 1 ORDER BY here, part, offset"
        )

    def is_in_order(self) -> bool:
        """Whether the one output there is has its records in the input's order."""
        inversion = self._database.execute(
            "SELECT 1 FROM (SELECT here, lag(here) OVER (ORDER BY offset) AS before FROM placed)"
            " WHERE here < before LIMIT 1"
        ).fetchone()
        return inversion is None

    def close(self) -> None:
        """Remove it."""
        self._database.close()
