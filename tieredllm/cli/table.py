"""Print rows and JSON values on a session's stdout."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from tieredllm.cli.context import Session

__all__ = ["print_json", "print_table"]


def print_json(value: Any, session: Session) -> None:
    """Print one JSON value."""
    print(json.dumps(value, indent=2, ensure_ascii=False), file=session.stdout)


def print_table(rows: Sequence[Sequence[str]], session: Session) -> None:
    """Print rows: lined up on a terminal; else a tab between the cells, for `cut` and `awk`."""
    if not session.stdout.isatty():
        for row in rows:
            print("\t".join(row), file=session.stdout)
        return
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    for row in rows:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print(line.rstrip(), file=session.stdout)
