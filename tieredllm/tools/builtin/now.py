"""Tell the date and time."""

from __future__ import annotations

from datetime import UTC, datetime, tzinfo
from difflib import get_close_matches
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from tieredllm.clock import Clock
from tieredllm.tools.base import CallTime, Tool, ToolFailureError
from tieredllm.tools.schema import checker, schema_of

__all__ = ["make_now"]


class Arguments(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `now` takes."""

    timezone: Annotated[
        Annotated[str, Meta(max_length=64)] | None,
        Meta(description="An IANA time zone such as Europe/Berlin; the user's own when left out."),
    ] = None


def make_now(clock: Clock) -> Tool:
    """Make the tool.

    Args:
        clock: the time.
    """

    async def run(arguments: dict[str, Any], time: CallTime) -> str:  # noqa: ARG001
        return told(clock.wall(), arguments["timezone"])

    return Tool(
        name="now",
        description="Tell the current date, time and weekday, with the offset from UTC.",
        parameters=schema_of(Arguments),
        read_only=True,
        origin="builtin",
        check=checker(Arguments),
        run=run,
    )


def told(wall: float, timezone: str | None) -> str:
    """Word a moment, for instance `2026-11-23T16:43:00+01:00 (Monday, CET)`.

    Args:
        wall: seconds since the epoch.
        timezone: an IANA name; None for the machine's own zone.

    Raises:
        ToolFailureError: there is no such time zone.
    """
    moment = datetime.fromtimestamp(wall, UTC).astimezone(_zone(timezone) if timezone else None)
    zone = f"{timezone}, {moment.tzname()}" if timezone else moment.tzname()
    return f"{moment.isoformat(timespec='seconds')} ({moment:%A}, {zone})"


def _zone(name: str) -> tzinfo:
    if name.upper() in {"UTC", "GMT", "Z"}:
        return UTC
    import zoneinfo

    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as exc:
        near = get_close_matches(name, sorted(zoneinfo.available_timezones()))
        hint = f"did you mean {' or '.join(near)}?" if near else "give one such as Europe/Berlin"
        raise ToolFailureError(f"there is no time zone {name!r}: {hint}") from exc
