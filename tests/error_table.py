"""The contract's table of error kinds (section 5), written down a second time, as text."""

from __future__ import annotations

from typing import NamedTuple

from tieredllm.kinds import ErrorKind

TABLE = """
kind                 again  counts  set aside, s
rate_limit           yes    yes     -
quota_exhausted      no     yes     3600
service_unavailable  yes    yes     -
connection           yes    yes     -
tls                  no     yes     -
timeout              no     yes     -
authentication       no     yes     300
permission           no     yes     300
not_found            no     yes     300
context_length       no     no      -
content_filter       no     no      -
bad_request          no     no      -
malformed_response   yes    yes     -
empty_response       yes    yes     -
stream_interrupted   no     yes     -
model_unavailable    no     yes     -
deadline             no     no      -
unexpected           no     yes     -
"""


class Row(NamedTuple):
    """What the contract says of one kind."""

    again: bool
    counts: bool
    bench_s: float | None


def _rows() -> dict[ErrorKind, Row]:
    rows = {}
    for line in TABLE.strip().splitlines()[1:]:
        kind, again, counts, bench = line.split()
        rows[ErrorKind(kind)] = Row(
            again == "yes", counts == "yes", None if bench == "-" else float(bench)
        )
    return rows


ROWS = _rows()
