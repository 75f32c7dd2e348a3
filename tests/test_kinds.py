"""The table of error kinds."""

from __future__ import annotations

import msgspec
import pytest
from error_table import ROWS

from tieredllm.kinds import POLICIES, ErrorKind


def test_the_set_is_closed():
    """The contract's kinds are all there are, and each has its row."""
    assert set(ROWS) == set(ErrorKind) == set(POLICIES)


@pytest.mark.parametrize("kind", list(ErrorKind))
def test_every_row_is_the_contract_s(kind):
    """What follows from a kind is what the contract says."""
    assert msgspec.structs.astuple(POLICIES[kind]) == tuple(ROWS[kind])
