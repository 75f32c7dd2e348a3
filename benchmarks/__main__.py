"""Run the benchmarks and print a table: `python -m benchmarks [ROW ...] [--runs N] [--json FILE]`.

Absolute times say little on a shared machine; the ratios are what counts, each taken pair by pair
from runs in turn. Exit code 1: a ratio is above what is allowed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from benchmarks.rows import ROWS, Row


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of {', '.join(ROWS)}")
    parser.add_argument("--runs", type=int, default=7, help="counted runs of each (7)")
    parser.add_argument("--json", type=Path, help="append the figures to this file, a line a run")
    given = parser.parse_args()
    unknown = set(given.rows) - set(ROWS)
    if unknown:
        parser.error(f"no such row: {', '.join(sorted(unknown))}")
    rows: list[Row] = []
    for name in given.rows or ROWS:
        print(f"measuring {name} ...", file=sys.stderr, flush=True)
        rows += ROWS[name](given.runs)
    _print(rows)
    if given.json:
        record = {"at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "rows": rows}
        with given.json.open("ab") as file:
            file.write(msgspec.json.encode(record) + b"\n")
    return int(any(row.limit is not None and row.pair.ratio > row.limit for row in rows))


def _print(rows: list[Row]) -> None:
    table = Table(box=None, pad_edge=False)
    for heading in ("what", "median", "beside", "median", "ratio", "spread", "at most"):
        table.add_column(heading, justify="left" if heading in {"what", "beside"} else "right")
    for row in rows:
        low, high = row.pair.spread
        over = row.limit is not None and row.pair.ratio > row.limit
        table.add_row(
            row.what,
            f"{statistics.median(row.pair.ours):.3g} {row.unit}",
            row.beside,
            f"{statistics.median(row.pair.floor):.3g} {row.unit}",
            f"{row.pair.ratio:.2f}",
            f"{low:.2f}-{high:.2f}",
            "" if row.limit is None else f"{row.limit:.2f}",
            style="red" if over else None,
        )
    Console(width=120).print(table)


if __name__ == "__main__":
    sys.exit(main())
