"""Try the notification channels and look into the outbox: the command `notify`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from tieredllm.aio import run
from tieredllm.cli.environment import Environment, current
from tieredllm.cli.exit_codes import ExitCode
from tieredllm.cli.options import Json, make_app
from tieredllm.cli.output import print_json, print_table
from tieredllm.clock import iso
from tieredllm.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tieredllm.notify.channels import Delivery
    from tieredllm.notify.notifier import Notifier
    from tieredllm.store.database import Database
    from tieredllm.store.outbox_entry import Entry

__all__ = ["app"]

app = make_app("notify", no_args_is_help=True)


HEADINGS = (
    "channel", "severity", "cause", "profile", "requests", "tries", "next try", "last error",
)  # fmt: skip


@app.command("test")
def send_test(
    channel: Annotated[
        str | None,
        typer.Argument(
            metavar="[CHANNEL]",
            help="slack, email or webhook; every one the profile has when not given.",
            show_default=False,
        ),
    ] = None,
    *,
    as_json: Json = False,
) -> None:
    """Send a real test message to each channel of the profile, or to one.

    A line per channel says what happened. Exit code 1: one of them failed; 2: there is none, or
    none of that name.
    """
    environment = current()
    notifier, database = _notifier(environment)
    wanted = _wanted(notifier, channel)
    try:
        deliveries = run(notifier.send_test(wanted))
    finally:
        database.close()
    _print(deliveries, environment, as_json=as_json)
    if any(delivery.error is not None for delivery in deliveries):
        raise typer.Exit(ExitCode.FAILURE)


@app.command()
def outbox(
    *,
    as_json: Json = False,
) -> None:
    """List the messages that wait, of every profile.

    Either sending failed and is tried again, or a message of the same cause was sent less than the
    profile's `min_interval_s` ago. A message that has waited for 24 hours is given up.
    """
    from tieredllm.store.database import Database
    from tieredllm.store.outbox import Outbox

    environment = current()
    with Database(environment.places.state_db) as database:
        waiting = [entry for entry in Outbox(database).entries() if entry.waiting]
        trouble = database.problem
    if trouble:
        environment.warn(f"tieredllm: {trouble}")
    if as_json:
        print_json([_row(entry) for entry in waiting], environment)
        return
    rows = [_cells(entry) for entry in waiting]
    print_table(HEADINGS, rows, environment, empty="nothing waits")


@app.command()
def flush(*, as_json: Json = False) -> None:
    """Send what waits for another try now, on the profile's channels.

    What is held back because a message of the same cause was sent less than `min_interval_s` ago
    stays. A line per message says what happened. Exit code 1: one of them failed.
    """
    environment = current()
    notifier, database = _notifier(environment)
    _wanted(notifier, None)
    try:
        deliveries = run(notifier.flush())
    finally:
        database.close()
    _print(deliveries, environment, as_json=as_json)
    if any(delivery.error is not None for delivery in deliveries):
        raise typer.Exit(ExitCode.FAILURE)


def _notifier(environment: Environment) -> tuple[Notifier, Database]:
    """Make the profile's notifier, and the database it uses."""
    from tieredllm.clock import SystemClock
    from tieredllm.notify.notifier import Notifier
    from tieredllm.profile.load import load_profile
    from tieredllm.store.database import Database
    from tieredllm.store.outbox import Outbox

    profile = load_profile(environment.profile_name, environment.places)
    database = Database(environment.places.state_db)
    clock = SystemClock()
    outbox = Outbox(database, clock)
    notifier = Notifier(profile.notifications, environment.keys, outbox, clock, profile.name)
    return notifier, database


def _wanted(notifier: Notifier, channel: str | None) -> Sequence[str]:
    """Return the channels to use.

    Raises:
        UsageError: there is none, or none of that name.
    """
    channels = notifier.channels
    if not channels:
        reason = (
            "the profile has no notification channel: add slack, email or webhook under "
            "`notifications`"
        )
        raise UsageError(reason)
    if channel is not None and channel not in channels:
        raise UsageError(f"the profile has no channel {channel!r}: it has {', '.join(channels)}")
    return channels if channel is None else [channel]


def _print(deliveries: Sequence[Delivery], environment: Environment, *, as_json: bool) -> None:
    """Print a line for each message."""
    if as_json:
        print_json(msgspec.to_builtins(deliveries), environment)
        return
    rows = []
    for delivery in deliveries:
        remark = f" ({delivery.remark})" if delivery.remark else ""
        result = f"sent{remark}" if delivery.error is None else f"failed: {delivery.error}"
        cells = (delivery.channel, result)
        rows.append(cells if delivery.cause == "test" else (*cells, delivery.cause))
    headings = ("channel", "result", "cause")[: len(rows[0]) if rows else None]
    print_table(headings, rows, environment, empty="nothing is to be sent")


def _row(entry: Entry) -> dict[str, str | int | None]:
    """Return what is told of one message that waits."""
    from tieredllm.notify.severity import severity_of

    return {
        "id": entry.id,
        "channel": entry.channel,
        "severity": severity_of(entry.severity),
        "cause": entry.cause,
        "profile": entry.profile,
        "count": entry.waiting,
        "first_at": iso(entry.first_at),
        "last_at": iso(entry.last_at),
        "tries": entry.tries,
        "next_try_at": iso(entry.held_from + entry.held_s) if entry.held_s else None,
        "last_error": entry.last_error,
    }


def _cells(entry: Entry) -> tuple[str, ...]:
    """Return the same for people, under `HEADINGS`."""
    row = _row(entry)
    names = ("channel", "severity", "cause", "profile", "count", "tries")
    return (
        *(str(row[name]) for name in names),
        str(row["next_try_at"] or "now"),
        str(row["last_error"] or ""),
    )
