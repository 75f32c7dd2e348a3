"""Remember which request parameters a backend rejects: the engine's `ParameterMemory`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tieredllm.clock import Clock, SystemClock
from tieredllm.store.database import Database

if TYPE_CHECKING:
    from sqlite3 import Connection

__all__ = ["SqliteParameters"]

FORGET_S = 30 * 86_400.0
"""After 30 days a parameter is tried again: servers learn new ones."""


class SqliteParameters:
    """The engine's memory of rejected parameters, shared by every process of the user.

    Args:
        database: where it is kept.
        clock: the time.
        profile: identifies what was asked for: what was learned under one is not known under
            another, as the mistake may have been the profile's.
    """

    def __init__(
        self, database: Database, clock: Clock | None = None, *, profile: str = ""
    ) -> None:
        self._database = database
        self._profile = profile
        self._clock = clock or SystemClock()

    def rejected(self, identity: str) -> frozenset[str]:
        """Return the wire names this backend has named as unsupported in the last 30 days."""
        since = self._clock.wall() - FORGET_S

        def load(connection: Connection) -> frozenset[str]:
            rows = connection.execute(
                "SELECT parameter FROM rejected_parameters WHERE identity = ? AND learned_at > ?",
                (self._key(identity), since),
            )
            return frozenset(parameter for (parameter,) in rows)

        return self._database.read(load, frozenset())

    def reject(self, identity: str, parameter: str) -> None:
        """Remember one, for 30 days from now."""
        now = self._clock.wall()

        def note(connection: Connection) -> None:
            connection.execute(
                "DELETE FROM rejected_parameters WHERE learned_at <= ?", (now - FORGET_S,)
            )
            connection.execute(
                "INSERT OR REPLACE INTO rejected_parameters VALUES (?, ?, ?)",
                (self._key(identity), parameter, now),
            )

        self._database.write(note, None)

    def reset(self, identity: str | None = None) -> None:
        """Forget what one backend rejects, or everyone."""

        def forget(connection: Connection) -> None:
            connection.execute(
                "DELETE FROM rejected_parameters WHERE ?1 IS NULL OR identity = ?1",
                (None if identity is None else self._key(identity),),
            )

        self._database.write(forget, None, creates=False)

    def _key(self, identity: str) -> str:
        return f"{identity}@{self._profile}" if self._profile else identity
