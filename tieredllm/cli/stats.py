"""Show how each tier did: the command `stats`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from tieredllm.cli.environment import Environment, current
from tieredllm.errors import TieredLLMError
from tieredllm.render.plain import write
from tieredllm.render.timeline import duration, sparkline
from tieredllm.store.statistics import Statistics, TierStatistics
from tieredllm.text import one_line

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

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

    environment = current()
    span_s = days * DAY_S if days is not None else _window_s(environment)
    # What is asked at this very moment is meant too.
    until = time.time() + 1
    with Database(environment.places.state_db) as database:
        found = statistics(database, since=until - span_s, until=until)
        if database.problem is not None:
            raise TieredLLMError(database.problem)
    if as_json:
        from tieredllm.cli.output import print_json_line

        print_json_line(found, environment)
    elif not found.requests:
        environment.say(f"no request was logged in the last {_words(span_s)}")
    else:
        _show(environment, found, span=_words(span_s))


def _window_s(environment: Environment) -> float:
    from tieredllm.profile.load import load_profile

    profile = load_profile(environment.profile_name, environment.places)
    return profile.health.window_minutes * 60


def _words(seconds: float) -> str:
    if seconds >= DAY_S:
        return "day" if seconds == DAY_S else f"{seconds / DAY_S:g} days"
    return f"{seconds / 60:g} minutes"


COLUMNS = (
    "tier", "requests", "success", "p50", "p95", "first token", "tokens in", "tokens out",
    "fell back",
)  # fmt: skip


WIDEST = 1000
"""Columns in which any table fits, to find out how many it needs."""


def _show(environment: Environment, found: Statistics, *, span: str) -> None:
    """Print the figures of a stretch of time.

    Args:
        environment: where to.
        found: the figures.
        span: the stretch of time, for people.
    """
    if not environment.stdout.isatty():
        lines = ["\t".join(COLUMNS), *("\t".join(_cells(tier)) for tier in found.tiers)]
        write(environment.stdout, "\n".join(lines) + "\n")
        return
    from rich.text import Text

    console = environment.console()
    went_on = f", {_percent(found.fallback_rate)} not answered by the first tier"
    unanswered = f", {found.unanswered} not at all" if found.unanswered else ""
    console.print(Text(f"last {span}: {found.requests} requests{went_on}{unanswered}", style="dim"))
    console.print()
    ascii_only = not console.encoding.lower().startswith("utf")
    table = _table(found, ascii_only=ascii_only)
    if (
        console.measure(table, options=console.options.update(width=WIDEST)).maximum
        <= console.width
    ):
        console.print(table)
    else:
        _print_blocks(console, found, ascii_only=ascii_only)


def _table(found: Statistics, *, ascii_only: bool) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for name in COLUMNS:
        table.add_column(
            name, no_wrap=True, justify="left" if name == "tier" else "right", max_width=24
        )
    table.add_column("latency", no_wrap=True)
    table.add_column("fell back", no_wrap=True)
    for tier in found.tiers:
        latency, fallback = _charts(tier, ascii_only=ascii_only)
        table.add_row(
            *map(Text, _cells(tier)), Text(latency, style="cyan"), Text(fallback, style="yellow")
        )
    return table


def _print_blocks(console: Console, found: Statistics, *, ascii_only: bool) -> None:
    """Print a few short lines per tier: they fit 40 columns."""
    from rich.text import Text

    for tier in found.tiers:
        latency, fallback = _charts(tier, ascii_only=ascii_only)
        name, requests, success, p50, p95, first, tokens_in, tokens_out, fell_back = _cells(tier)
        console.print(Text.assemble((name, "bold"), f"  {requests} asked, {success} answered"))
        console.print(Text(f"  took p50 {p50}, p95 {p95}"))
        console.print(Text(f"  first token {first}"))
        console.print(Text(f"  tokens {tokens_in} in, {tokens_out} out"))
        console.print(Text(f"  fell back {fell_back}"))
        if latency.strip():
            console.print(Text.assemble("  latency   ", (latency, "cyan")))
        if fallback.strip():
            console.print(Text.assemble("  fell back ", (fallback, "yellow")))


def _cells(tier: TierStatistics) -> list[str]:
    return [
        one_line(tier.name),
        str(tier.requests),
        _percent(tier.success_rate),
        _duration(tier.latency_p50_ms),
        _duration(tier.latency_p95_ms),
        _duration(tier.first_token_p50_ms),
        str(tier.prompt_tokens),
        str(tier.completion_tokens),
        _percent(tier.fallback_rate),
    ]


def _charts(tier: TierStatistics, *, ascii_only: bool) -> tuple[str, str]:
    return (
        sparkline(tier.latency_series_ms, ascii_only=ascii_only),
        sparkline(tier.fallback_series, top=1.0, ascii_only=ascii_only),
    )


def _duration(ms: float | None) -> str:
    return "-" if ms is None else duration(ms)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.0%}"
