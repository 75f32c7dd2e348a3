"""Show how each tier did: the command `stats`."""

from __future__ import annotations

from typing import Annotated

import typer

from tieredllm.cli.context import Session, current
from tieredllm.errors import TieredLLMError

__all__ = ["app"]

app = typer.Typer(name="stats", rich_markup_mode=None, add_completion=False)

DAY_S = 86_400.0


@app.command()
def stats(
    *,
    days: Annotated[
        float | None,
        typer.Option(
            "--days",
            metavar="N",
            min=1e-3,
            max=36_500,
            help="How far to look back (else the profile's health window).",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show how each tier did.

    Per tier: requests, the share it answered, the time its answers took, their first token and
    tokens, and the share of requests that went on to a lower tier. Requests asked with `--no-log`
    are not among them.
    """
    import time

    from tieredllm.store.database import Database
    from tieredllm.store.statistics import statistics

    session = current()
    span_s = days * DAY_S if days is not None else _window_s(session)
    # What is asked at this very moment is meant too.
    until = time.time() + 1
    with Database(session.places.state_db) as database:
        found = statistics(database, since=until - span_s, until=until)
        if database.trouble is not None:
            raise TieredLLMError(database.trouble)
    if as_json:
        import msgspec

        print(msgspec.json.encode(found).decode(), file=session.stdout)
    elif not found.requests:
        session.say(f"no request was logged in the last {_words(span_s)}")
    else:
        from tieredllm.cli.stats_views import show_statistics

        show_statistics(session, found, span=_words(span_s))


def _window_s(session: Session) -> float:
    from tieredllm.profile.load import load_profile

    profile = load_profile(session.profile_name, session.places)
    return profile.health.window_minutes * 60


def _words(seconds: float) -> str:
    if seconds >= DAY_S:
        return "day" if seconds == DAY_S else f"{seconds / DAY_S:g} days"
    return f"{seconds / 60:g} minutes"
