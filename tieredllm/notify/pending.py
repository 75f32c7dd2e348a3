"""Hold what was noted and is not in the outbox yet."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import msgspec

from tieredllm.notify.message import Details, redacted
from tieredllm.notify.severity import RANKS, Finding
from tieredllm.store.outbox_entry import Note

__all__ = ["Pending"]

MOST_CAUSES = 100
"""How many different ones are held; more than that says nothing more."""

Key = tuple[str, str]
"""Channel and cause."""


class _Held(msgspec.Struct, frozen=True, kw_only=True):
    """Hold how often something happened, and the last time's details."""

    rank: int
    count: int
    details: Details


class Pending:
    """Count what happened, per channel and cause.

    Args:
        minimum_ranks: the channels, each with the least rank it wants.
    """

    def __init__(self, minimum_ranks: Mapping[str, int]) -> None:
        self._minimum_ranks = minimum_ranks
        self._held: dict[Key, _Held] = {}

    def __bool__(self) -> bool:
        """Whether anything is held."""
        return bool(self._held)

    def add(self, found: Finding, details: Details) -> None:
        """Count one more, on each channel that wants it."""
        rank = RANKS[found.severity]
        for channel, minimum in self._minimum_ranks.items():
            if rank >= minimum:
                self._add((channel, found.cause), _Held(rank=rank, count=1, details=details))

    def notes(self) -> list[Note]:
        """Give what the outbox is to take."""
        return [
            Note(
                channel=channel,
                cause=cause,
                severity=held.rank,
                body=msgspec.json.encode(redacted(held.details)).decode(),
                count=held.count,
            )
            for (channel, cause), held in self._held.items()
        ]

    def clear(self) -> None:
        """Hold nothing more."""
        self._held.clear()

    def take(self, keys: Collection[Key]) -> Pending:
        """Hand some of it over, by channel and cause."""
        taken = Pending(self._minimum_ranks)
        taken._held = {key: held for key, held in self._held.items() if key in keys}
        for key in keys:
            self._held.pop(key, None)
        return taken

    def give_back(self, taken: Pending) -> None:
        """Hold again what was handed over, in addition to what was added meanwhile."""
        for key, held in taken._held.items():
            self._add(key, held)

    def _add(self, key: Key, held: _Held) -> None:
        before = self._held.get(key)
        if before is not None:
            held = msgspec.structs.replace(
                held, rank=max(held.rank, before.rank), count=held.count + before.count
            )
        elif len(self._held) >= MOST_CAUSES:
            return
        self._held[key] = held
