"""`now` tells the time in any zone."""

from __future__ import annotations

import pytest
from tools_support import used

from tieredllm.tools.base import ArgumentsError, ToolFailureError
from tieredllm.tools.builtin.now import make_now, told

NOON = 1_774_699_200.0  # 2026-03-28T12:00:00Z, the day before the European clocks change


class Stopped:
    def monotonic(self):
        return 0.0

    def wall(self):
        return NOON


@pytest.mark.parametrize(
    ("zone", "expected"),
    [
        ("UTC", "2026-03-28T12:00:00+00:00 (Saturday, UTC, UTC)"),
        ("Europe/Berlin", "2026-03-28T13:00:00+01:00 (Saturday, Europe/Berlin, CET)"),
        ("Asia/Kolkata", "2026-03-28T17:30:00+05:30 (Saturday, Asia/Kolkata, IST)"),
        ("Pacific/Auckland", "2026-03-29T01:00:00+13:00 (Sunday, Pacific/Auckland, NZDT)"),
    ],
)
def test_any_zone(zone, expected):
    """The offset, the weekday and the zone's own abbreviation are those of that place and day."""
    assert used(make_now(Stopped()), timezone=zone) == expected


def test_summer_time_begins_between_two_moments():
    """A day later the same zone has another offset."""
    assert "+02:00" in told(NOON + 86_400, "Europe/Berlin")


def test_without_a_zone_it_is_the_machine_s(monkeypatch):
    """Left out, the zone is that of the machine."""
    import time

    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    try:
        assert used(make_now(Stopped())) == "2026-03-28T08:00:00-04:00 (Saturday, EDT)"
        assert used(make_now(Stopped()), timezone=None).startswith("2026-03-28T08:00:00-04:00")
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize("zone", ["Europe/Berln", "../../etc/passwd", "/etc/localtime", "x\0y"])
def test_a_zone_that_is_none(zone):
    """A name that is no zone's is a failure, and never a path."""
    with pytest.raises(ToolFailureError, match="there is no time zone"):
        used(make_now(Stopped()), timezone=zone)


def test_a_misspelled_zone_is_suggested():
    """The failure names what was likely meant."""
    with pytest.raises(ToolFailureError, match=r"did you mean Europe/Berlin"):
        used(make_now(Stopped()), timezone="Europe/Berln")


def test_other_arguments_are_mistakes():
    """What it does not take is told."""
    with pytest.raises(ArgumentsError, match="unknown field `zone`"):
        used(make_now(Stopped()), zone="UTC")
