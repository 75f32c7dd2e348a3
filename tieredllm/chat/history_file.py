"""Keep what was typed, for the up key of later sessions, in a file only its owner can read."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable
from pathlib import Path

from prompt_toolkit.history import History

from tieredllm.files import atomic_write

__all__ = ["PrivateHistory"]

MOST_BYTES = 1_048_576
"""A longer file is cut to its newer half."""


class PrivateHistory(History):
    """Keep entries as prompt_toolkit's own `FileHistory` does: a `#` line, then `+` lines.

    A file that cannot be read or written is done without.

    Args:
        file: need not exist.
    """

    def __init__(self, file: Path) -> None:
        super().__init__()
        self._file = file

    def load_history_strings(self) -> Iterable[str]:
        """Give the entries, the newest first."""
        try:
            self._shorten()
            text = self._file.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return []
        entries: list[list[str]] = []
        for line in text.split("\n"):
            if line.startswith("+"):
                if not entries:
                    entries.append([])
                entries[-1].append(line[1:])
            elif not entries or entries[-1]:
                entries.append([])
        return ["\n".join(lines) for lines in reversed(entries) if lines]

    def store_string(self, string: str) -> None:
        """Add an entry."""
        lines = "".join(f"+{line}\n" for line in string.split("\n"))
        entry = f"\n# {time.strftime('%Y-%m-%d %H:%M:%S')}\n{lines}"
        with contextlib.suppress(OSError):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self._file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                self._file.chmod(0o600)
                file.write(entry.encode("utf-8", "replace"))

    def _shorten(self) -> None:
        if self._file.stat().st_size <= MOST_BYTES:
            return
        with self._file.open("rb") as file:
            file.seek(-MOST_BYTES // 2, os.SEEK_END)
            newer = file.read()
        start = newer.find(b"\n#")
        atomic_write(self._file, newer[max(start, 0) :], private=True)
