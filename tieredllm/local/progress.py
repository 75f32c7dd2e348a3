"""How far a download is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import msgspec

__all__ = ["Progress", "ProgressCallback", "ignore"]


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How far one step of a pull is."""

    step: Literal["download", "unpack", "verify"]
    done_bytes: int
    total_bytes: int | None = None


ProgressCallback = Callable[[Progress], None]


def ignore(_: Progress) -> None:
    """Do nothing with it."""
