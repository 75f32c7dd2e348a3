"""Show recent requests, and how each went: the command `log`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from tieredllm.cli.context import Session, current
from tieredllm.errors import TieredLLMError, UsageError
from tieredllm.text import pluralize

if TYPE_CHECKING:
    from tieredllm.store.history import History

__all__ = ["app"]

app = typer.Typer(
    name="log",
    help="Show recent requests, and how each went.",
    invoke_without_command=True,
    rich_markup_mode=None,
    add_completion=False,
)

T = TypeVar("T")

DAY_S = 86_400.0

Number = Annotated[
    int, typer.Option("--number", "-n", min=1, help="How many requests, the latest first.")
]
Search = Annotated[
    str | None,
    typer.Option(
        "--search",
        metavar="TEXT",
        help="Only requests whose question or answer holds this text.",
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON value.")]


@app.callback()
def log(
    ctx: typer.Context, *, number: Number = 20, search: Search = None, as_json: Json = False
) -> None:
    """Show recent requests, and how each went.

    Without a subcommand it lists them, the latest first.
    """
    if ctx.invoked_subcommand is None:
        _list(current(), number=number, search=search, as_json=as_json)


@app.command("list")
def list_requests(*, number: Number = 20, search: Search = None, as_json: Json = False) -> None:
    """List recent requests: when, id, tier, model, time taken, and what was asked."""
    _list(current(), number=number, search=search, as_json=as_json)


@app.command()
def show(
    wanted: Annotated[
        str,
        typer.Argument(
            metavar="ID|REF-...",
            help="A request's id, its unique beginning, or the reference code of an answer.",
        ),
    ],
    *,
    as_json: Json = False,
) -> None:
    """Draw one request's attempts as a time line, with what was asked and answered.

    A thin bar is the time to the first token, a thick one the answer coming, dots are waiting.
    """
    from tieredllm.cli.log_views import show_request

    session = current()
    found = _from_history(session, lambda history: history.find(wanted))
    if as_json:
        _print_json(session, found.to_dict())
    else:
        show_request(session, found)


@app.command()
def prune(
    *,
    older_than: Annotated[
        float, typer.Option("--older-than", metavar="DAYS", min=0, help="Drop what is older.")
    ],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
) -> None:
    """Drop old requests from the log, for good."""
    import time

    session = current()
    before = time.time() - older_than * DAY_S
    count = _from_history(session, lambda history: history.count(before))
    if count and not yes:
        if session.stdin is None or not session.stdin.isatty():
            reason = f"{pluralize(count, 'request')} would be dropped: add --yes"
            raise UsageError(reason)
        typer.confirm(f"Drop {pluralize(count, 'request')} for good?", abort=True, err=True)
    dropped = _from_history(session, lambda history: history.prune(before)) if count else 0
    session.say(f"dropped {pluralize(dropped, 'request')}")


@app.command()
def path() -> None:
    """Print where the log's file is."""
    session = current()
    print(session.places.state_db, file=session.stdout)


def _list(session: Session, *, number: int, search: str | None, as_json: bool) -> None:
    from tieredllm.cli.log_views import list_requests

    found = _from_history(session, lambda history: history.recent(number, search))
    if as_json:
        _print_json(session, [request.to_dict() for request in found])
    elif found:
        list_requests(session, found)
    else:
        session.say("no request has this text" if search else "no request was logged yet")


def _from_history(session: Session, work: Callable[[History], T]) -> T:
    """Give what the log says.

    Raises:
        TieredLLMError: it cannot be read.
    """
    from tieredllm.store.database import Database
    from tieredllm.store.history import History

    with Database(session.places.state_db) as database:
        try:
            done = work(History(database))
        finally:
            trouble = database.trouble
            if trouble is not None:
                raise TieredLLMError(trouble)
    return done


def _print_json(session: Session, value: object) -> None:
    import json

    print(json.dumps(value, indent=2, ensure_ascii=False), file=session.stdout)
