"""Remember what servers offer, so that a question that calls none of their tools starts none.

Kept among the caches, a file for each server as it is configured: another command, another token
or a newer program is another server. A server that never answered is remembered as well, and left
alone for a while.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import msgspec

from tieredllm.clock import Clock
from tieredllm.files import atomic_write
from tieredllm.tools.mcp.connection import Era
from tieredllm.tools.mcp.results import RemoteTool

__all__ = ["Remembered", "ServerMemory"]

FORGET_S = 86_400.0
"""How long a list is used without asking the server."""

MUTE_S = 3600.0
"""How long a server that never answered is left alone."""


class Remembered(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a server."""

    listed_at: float = 0.0
    """Seconds since the epoch."""
    tools: tuple[RemoteTool, ...] = ()
    instructions: str = ""
    era: Era | None = None
    mute_at: float = 0.0
    """When it was waited for in vain."""
    problem: str = ""
    """What was said of that."""


class ServerMemory:
    """One server's file.

    Args:
        folder: where it is; None for no memory.
        identity: everything that makes the server what it is; only a hash of it is kept.
        clock: the time.
    """

    def __init__(self, folder: Path | None, identity: Any, clock: Clock) -> None:
        digest = hashlib.sha256(msgspec.json.encode(identity, order="deterministic")).hexdigest()
        self._path = None if folder is None else folder / f"{digest[:32]}.json"
        self._clock = clock

    def load(self) -> Remembered:
        """Return what is known; nothing where that cannot be read."""
        if self._path is None:
            return Remembered()
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=Remembered)
        except (OSError, msgspec.DecodeError, ValueError):
            return Remembered()

    def offer(self) -> Remembered | None:
        """Return what the server offers, if it is not too long ago that it said so."""
        known = self.load()
        age_s = self._clock.wall() - known.listed_at
        return known if known.listed_at and 0 <= age_s < FORGET_S else None

    def problem(self) -> str | None:
        """Return why the server is left alone, if it is."""
        known = self.load()
        left_s = known.mute_at + MUTE_S - self._clock.wall()
        if not known.problem or not 0 < left_s <= MUTE_S:
            return None
        return (
            f"{known.problem}; it is left alone for {left_s / 60:.0f} min, "
            "`tieredllm tools list` tries it at once"
        )

    def learn(self, tools: tuple[RemoteTool, ...], instructions: str, era: Era | None) -> None:
        """Keep what a server offers; what cannot be written is not remembered."""
        self._save(
            Remembered(
                listed_at=self._clock.wall(), tools=tools, instructions=instructions, era=era
            )
        )

    def learn_problem(self, problem: str, era: Era | None) -> None:
        """Keep that the server never answered, and what it speaks if that was found out."""
        known = self.load()
        self._save(
            msgspec.structs.replace(
                known, mute_at=self._clock.wall(), problem=problem, era=era or known.era
            )
        )

    def _save(self, known: Remembered) -> None:
        if self._path is None:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            atomic_write(self._path, msgspec.json.encode(known), private=True)
        except OSError:
            pass
