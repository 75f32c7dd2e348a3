"""Remember across processes how each backend does: the engine's `HealthMemory` in SQLite.

A backend has a row with its circuit and, for each recent slice of time, a row that sums up its
requests; a decision reads some thirty rows, however many requests there were. The decisions
themselves are in `health/breaker.py`.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from tieredllm.clock import Clock, SystemClock
from tieredllm.engine.ports import Standing, TurnResult
from tieredllm.health import breaker
from tieredllm.health.breaker import Circuit
from tieredllm.health.window import NOTHING, Window
from tieredllm.profile.schema import HealthSettings
from tieredllm.store.database import Database, DatabaseError

if TYPE_CHECKING:
    from sqlite3 import Connection

__all__ = ["SqliteHealth", "WindowReport"]

SLICES = 30
"""Into how many slices a window is divided. A slice is forgotten when its last request leaves the
window, so a request counts for up to a thirtieth of the window too long."""

LEASE_S = 30.0
"""How long a probe may take before another request may probe too, in seconds."""

MOST_UNRECORDED = 1000
"""How many turns wait for a file that others keep locked; the oldest is forgotten first."""

CLOSE_WAIT_S = 0.5
"""How long the file is waited for at the end, when no answer is held up any more."""

FORGET_S = 30 * 86_400.0
"""A circuit that has not changed for this long is dropped: its key or model is gone for good."""

# The names of columns are put into statements below (hence S608): they come from here alone.
CIRCUIT_FIELDS = Circuit.__struct_fields__
WINDOW_FIELDS = Window.__struct_fields__
JUDGED_FIELDS = tuple(field for field in WINDOW_FIELDS if field != "latencies")
"""What a decision reads of a slice: the histogram is for people, and the costly part to decode."""

UNKNOWN = (Circuit(), NOTHING)
"""What is known of a backend that was never asked."""


class WindowReport(msgspec.Struct, frozen=True, kw_only=True):
    """One backend's window as `health --json` shows it."""

    requests: int
    success_rate: float | None
    """0 to 1; None when there was no request."""
    avg_latency_s: float | None
    """Of the requests that succeeded; None when none did."""
    p95_latency_s: float | None
    """Of the requests that succeeded; off by at most 5 %."""
    error_counts: dict[str, int]


class SqliteHealth:
    """The engine's memory of health, shared by every process of the user.

    Where the database can't be used, no backend is known and every one is closed.

    Args:
        database: where it is kept.
        settings: the thresholds of the profile in use.
        clock: the time; what is stored is wall-clock time, which processes share.
        lease_s: how long a probe may take before another request may probe too, in seconds.
    """

    def __init__(
        self,
        database: Database,
        settings: HealthSettings,
        clock: Clock | None = None,
        *,
        lease_s: float = LEASE_S,
    ) -> None:
        self._database = database
        self._settings = settings
        self._clock = clock or SystemClock()
        self._lease_s = lease_s
        self._window_s = settings.window_minutes * 60
        self._leases: dict[str, str] = {}
        self._unrecorded: deque[tuple[TurnResult, str | None, float]] = deque(
            maxlen=MOST_UNRECORDED
        )
        """Turns to be written down, the lease of those that probed, and when they ended."""

    def standings(self, identities: Sequence[str]) -> dict[str, Standing]:
        """Return how the backends stand now; one that is unknown is closed. Takes one query."""
        try:
            return self._require_standings(identities)
        except DatabaseError:
            return dict.fromkeys(identities, Standing())

    def _require_standings(self, identities: Sequence[str]) -> dict[str, Standing]:
        now = self._clock.wall()
        nothing: dict[str, tuple[Circuit, Window]] = {}
        known = self._database.require(
            lambda connection: self._load(connection, identities, now), nothing
        )
        return {
            identity: breaker.standing(
                *known.get(identity, UNKNOWN), now=now, settings=self._settings
            )
            for identity in identities
        }

    def acquire_probe(self, identity: str) -> bool:
        """Take the one lease to probe a half-open backend; False when another request holds it.

        While the file is locked, so that the lease can't be written down, the answer is no, lest
        many probe at once. It is yes when the cooldown has been over for as long as a lease lasts:
        then the lock is no passing one, and the backend would never be asked again. A file that
        can't be written at all is as good as none: the backend counts as closed.
        """
        now = self._clock.wall()
        owner = os.urandom(8).hex()

        def take(connection: Connection) -> bool:
            circuit, window = self._load_one(connection, identity, now)
            leased = breaker.lease(
                circuit,
                window,
                now=now,
                settings=self._settings,
                owner=owner,
                lease_s=self._lease_s,
            )
            if leased is None:
                return False
            if leased != circuit:
                _store_circuit(connection, identity, leased, now)
            return True

        taken = self._database.write(take, None)
        if taken is None:
            try:
                standing = self._require_standings([identity])[identity]
            except DatabaseError:  # locked for reading, too, as while others open and close it
                return False
            if standing.state != "half_open" or standing.retry_at is None:
                return standing.state == "closed"
            return now >= standing.retry_at + self._lease_s
        if taken:
            self._leases[identity] = owner
        return taken

    def record(self, result: TurnResult) -> None:
        """Take note of one backend's turn, move its circuit, and give its lease back."""
        self.record_all([result])

    def record_all(self, results: Iterable[TurnResult]) -> None:
        """Take note of several turns, in order and in one transaction."""
        for result in results:
            owner = self._leases.pop(result.identity, None) if result.probe else None
            self._unrecorded.append((result, owner, self._clock.wall()))
        self._record()

    def close(self) -> None:
        """Write down what could not be written before, as others kept the file locked."""
        if self._unrecorded:
            self._record(wait_s=CLOSE_WAIT_S)

    def _record(self, *, wait_s: float | None = None) -> None:
        noted = list(self._unrecorded)

        def note(connection: Connection) -> bool:
            now = self._clock.wall()  # when nobody else writes any more
            before = self._load(connection, sorted({turn.identity for turn, *_ in noted}), now)
            after = dict(before)
            added: dict[tuple[str, int, float], list[Window]] = {}
            for result, owner, ended_at in noted:
                circuit, window = after.get(result.identity, UNKNOWN)
                # A clock that was set back since then was wrong before.
                at = min(ended_at, now)
                moved, request = self._judge(circuit, window, result, owner, at=at, now=now)
                kept = window if moved.era == circuit.era else NOTHING
                after[result.identity] = moved, kept.plus(request)
                piece = result.identity, moved.era, self._slice_of(at)
                added.setdefault(piece, []).append(request)
            for identity, (circuit, _) in after.items():
                known, window = before.get(identity, UNKNOWN)
                # A row that is written now and then is not taken for one that nobody needs.
                if circuit != known or not window.requests:
                    _store_circuit(connection, identity, circuit, now)
            for (identity, era, _), requests in added.items():
                self._add(connection, identity, era, Window.total(requests), now)
            return True

        if self._database.write(note, default=False, wait_s=wait_s):
            self._unrecorded.clear()

    def window(self, identity: str) -> WindowReport:
        """Sum up a backend's requests in the window, those before its last recovery too."""
        now = self._clock.wall()

        def load(connection: Connection) -> Window:
            rows = connection.execute(
                f"SELECT {_columns('s', WINDOW_FIELDS)} FROM window_slices AS s"  # noqa: S608
                " WHERE s.identity = ? AND s.last_at > ? AND s.last_at <= ?",
                (identity, now - self._window_s, now + self._window_s),
            )
            return Window.total(_window(WINDOW_FIELDS, row) for row in rows)

        window = self._database.read(load, NOTHING)
        return WindowReport(
            requests=window.requests,
            success_rate=window.success_rate,
            avg_latency_s=window.avg_latency_s,
            p95_latency_s=window.p95_latency_s,
            error_counts=dict(window.errors),
        )

    def reset(self, identity: str | None = None) -> None:
        """Forget one backend's health, or everyone's."""

        def forget(connection: Connection) -> None:
            for table in ("circuits", "window_slices"):
                connection.execute(
                    f"DELETE FROM {table} WHERE ?1 IS NULL OR identity = ?1",  # noqa: S608
                    (identity,),
                )

        self._database.write(forget, None, creates=False)

    def _judge(
        self,
        circuit: Circuit,
        before: Window,
        result: TurnResult,
        owner: str | None,
        *,
        at: float,
        now: float,
    ) -> tuple[Circuit, Window]:
        """Return what a turn makes of a circuit, and what it adds to the window.

        Of a turn that is written down late counts what would count still, had it been in time:
        the rest of its bench, nothing once it has left the window, and no success from before a
        circuit opened.

        Args:
            circuit: the circuit before.
            before: the requests before this one.
            result: the turn.
            owner: the lease it probed with; None if it did not probe.
            at: when it ended.
            now: when it is written down.
        """
        is_recent = at > now - self._window_s
        request = (
            Window.of(result, at=at) if is_recent and (result.ok or result.counts) else NOTHING
        )
        starts = (circuit.opened_at, circuit.benched_at)
        since = max((it for it in starts if it is not None and it <= now), default=at)
        if result.ok:
            if since > at:
                return circuit, request
            moved = breaker.after_success(circuit, before, request, now=at, settings=self._settings)
            return moved, request
        # Judged before what others have seen since, that would seem a wrong clock's future.
        judged_at = max(at, since)
        moved = breaker.after_failure(
            circuit,
            before,
            request,
            now=judged_at,
            settings=self._settings,
            kind=result.kind,
            bench_s=result.bench_s and result.bench_s - (judged_at - at),
            probed=owner is not None and owner == circuit.lease_owner,
        )
        return moved, request

    def _load(
        self, connection: Connection, identities: Sequence[str], now: float
    ) -> dict[str, tuple[Circuit, Window]]:
        """Read circuits and windows of the current eras, in one query."""
        marks = ",".join("?" * len(identities))
        rows = connection.execute(
            f"SELECT c.identity, {_columns('c', CIRCUIT_FIELDS)}, {_columns('s', JUDGED_FIELDS)}"  # noqa: S608
            " FROM circuits AS c LEFT JOIN window_slices AS s"
            " ON s.identity = c.identity AND s.era = c.era AND s.last_at > ? AND s.last_at <= ?"
            f" WHERE c.identity IN ({marks})",
            # Slices from the future are those of a clock that was wrong.
            (now - self._window_s, now + self._window_s, *identities),
        )
        circuits: dict[str, Circuit] = {}
        slices: dict[str, list[Window]] = {}
        split = 1 + len(CIRCUIT_FIELDS)
        for row in rows:
            identity = row[0]
            if identity not in circuits:
                fields = dict(zip(CIRCUIT_FIELDS, row[1:split], strict=True))
                fields["kind"] = breaker.known_kind(fields["kind"])
                circuits[identity] = msgspec.convert(fields, Circuit)
            slices.setdefault(identity, []).append(_window(JUDGED_FIELDS, row[split:]))
        return {
            identity: (circuit, Window.total(slices[identity]))
            for identity, circuit in circuits.items()
        }

    def _load_one(
        self, connection: Connection, identity: str, now: float
    ) -> tuple[Circuit, Window]:
        return self._load(connection, [identity], now).get(identity, UNKNOWN)

    def _add(
        self, connection: Connection, identity: str, era: int, request: Window, now: float
    ) -> None:
        """Add requests of one slice of the window; its first clears what is out of date."""
        if not request.requests:
            return
        starts_at = self._slice_of(request.last_at)
        row = connection.execute(
            f"SELECT {_columns('s', WINDOW_FIELDS)} FROM window_slices AS s"  # noqa: S608
            " WHERE identity = ? AND era = ? AND starts_at = ?",
            (identity, era, starts_at),
        ).fetchone()
        if row is None:
            connection.execute(
                "DELETE FROM window_slices WHERE keep_until <= ? OR last_at > ?",
                (now, now + self._window_s),
            )
            connection.execute(
                "DELETE FROM circuits WHERE changed_at <= ? AND identity <> ?",
                (now - FORGET_S, identity),
            )
        total = request if row is None else _window(WINDOW_FIELDS, row).plus(request)
        connection.execute(
            "INSERT OR REPLACE INTO window_slices"  # noqa: S608
            f" (identity, era, starts_at, keep_until, {', '.join(WINDOW_FIELDS)})"
            f" VALUES (?, ?, ?, ?, {', '.join('?' * len(WINDOW_FIELDS))})",
            (identity, era, starts_at, total.last_at + self._window_s, *_values(total)),
        )

    def _slice_of(self, at: float) -> float:
        """Return when the slice of a time begins."""
        width_s = self._window_s / SLICES
        return at // width_s * width_s


def _columns(alias: str, fields: Sequence[str]) -> str:
    return ", ".join(f"{alias}.{field}" for field in fields)


def _window(names: Sequence[str], values: Sequence[Any]) -> Window:
    """Read the columns of a slice; all NULL when there is none."""
    fields = dict(zip(names, values, strict=True))
    if fields["requests"] is None:
        return NOTHING
    fields["errors"] = msgspec.json.decode(fields["errors"], type=dict[str, int])
    if "latencies" in fields:
        fields["latencies"] = msgspec.json.decode(fields["latencies"], type=dict[int, int])
    return msgspec.convert(fields, Window)


def _values(window: Window) -> list[Any]:
    fields = msgspec.structs.asdict(window)
    fields["errors"] = msgspec.json.encode(window.errors).decode()
    fields["latencies"] = msgspec.json.encode(window.latencies).decode()
    return [fields[name] for name in WINDOW_FIELDS]


def _store_circuit(connection: Connection, identity: str, circuit: Circuit, now: float) -> None:
    connection.execute(
        f"INSERT OR REPLACE INTO circuits (identity, changed_at, {', '.join(CIRCUIT_FIELDS)})"  # noqa: S608
        f" VALUES (?, ?, {', '.join('?' * len(CIRCUIT_FIELDS))})",
        (identity, now, *msgspec.structs.astuple(circuit)),
    )
