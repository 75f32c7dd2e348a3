"""Print how each tier did: a table or a few lines per tier on a terminal, else plain lines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tieredllm.cli.context import Session
from tieredllm.render.output import write
from tieredllm.render.sparkline import sparkline
from tieredllm.render.timeline import duration
from tieredllm.store.statistics import Statistics, TierStatistics
from tieredllm.text import one_line

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

__all__ = ["show_statistics"]

COLUMNS = (
    "tier", "requests", "success", "p50", "p95", "first token", "tokens in", "tokens out",
    "fell back",
)  # fmt: skip


WIDEST = 1000
"""Columns in which any table fits, to find out how many it needs."""


def show_statistics(session: Session, found: Statistics, *, span: str) -> None:
    """Print the figures of a stretch of time.

    Args:
        session: where to.
        found: the figures.
        span: the stretch of time, for people.
    """
    if not session.stdout.isatty():
        lines = ["\t".join(COLUMNS), *("\t".join(_cells(tier)) for tier in found.tiers)]
        write(session.stdout, "\n".join(lines) + "\n")
        return
    from rich.text import Text

    console = session.console()
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
