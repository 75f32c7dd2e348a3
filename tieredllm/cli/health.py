"""`tieredllm health`: how every tier is."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from tieredllm.aio import run
from tieredllm.cli.environment import Environment, current
from tieredllm.cli.exit_codes import ExitCode
from tieredllm.cli.options import (
    GlobalOptions,
    Json,
    RequestCommand,
    finite,
    make_app,
    takes_options,
)

if TYPE_CHECKING:
    from rich.table import Table

    from tieredllm.client import FallbackManager
    from tieredllm.health.report import HealthReport, TierReport

__all__ = ["app", "print_report"]

app = make_app("health")

EXAMPLES = """Examples:

\b
  tieredllm health
  tieredllm health --strict --json | jq .status
  tieredllm health --watch 10
"""

WATCH_S = 5.0
"""Seconds between two looks when `--watch` names none."""

COLORS = {
    "healthy": "green",
    "degraded": "yellow",
    "half_open": "yellow",
    "unknown": "yellow",
    "open": "red",
    "down": "red",
    "not_ready": "dim",
    "not_configured": "dim",
}


@app.command(cls=RequestCommand, epilog=EXAMPLES)
@takes_options(GlobalOptions)
def health(
    *,
    as_json: Json = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit 1 if any configured tier is not healthy.")
    ] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Look again every few seconds, until Ctrl-C.")
    ] = False,
    seconds: Annotated[
        float,
        typer.Argument(
            metavar="[SECONDS]", help="With --watch: how many.", min=0.5, callback=finite
        ),
    ] = WATCH_S,
    deep: Annotated[
        bool,
        typer.Option("--deep", help="Ask each model for one real token, which vendors bill."),
    ] = False,
    reset: Annotated[
        bool, typer.Option("--reset", help="Forget all failures first: every circuit is closed.")
    ] = False,
) -> None:
    """Probe and show every tier.

    A cloud tier is asked for its list of models, which is not billed; the local tier's file and the
    free memory are checked. Exit code 0: at least one language model can answer; 1: none can.
    """
    from tieredllm.client import FallbackManager

    environment = current()
    manager = FallbackManager(
        environment.profile_name,
        env=environment.env,
        places=environment.places,
        verbose=environment.verbose,
    )
    if reset:
        manager.forget()
    if watch:
        run(_watched(manager, environment, seconds, deep=deep, as_json=as_json))
        return
    report = run(_once(manager, environment, deep=deep, as_json=as_json))
    if manager.database.problem:
        environment.say(f"tieredllm: health is not remembered: {manager.database.problem}")
    raise typer.Exit(_code(report, strict=strict))


async def _once(
    manager: FallbackManager, environment: Environment, *, deep: bool, as_json: bool
) -> HealthReport:
    """Look once; without `as_json` each tier is shown as soon as it is known."""
    try:
        if as_json:
            report = await manager.check(deep=deep)
            _print(report, environment, manager, as_json=True)
        elif environment.stdout.isatty():
            report = await _as_a_table(manager, environment, deep=deep)
        else:
            rows = _Rows(environment)
            report = await manager.check(deep=deep, on_tier=rows.add)
            _say_fixes(report, manager, environment)
        return report
    finally:
        await manager.aclose()


async def _as_a_table(
    manager: FallbackManager, environment: Environment, *, deep: bool
) -> HealthReport:
    """Show a table that fills; all of it at the end where a terminal is to get no sequences."""
    from rich.live import Live

    console = environment.console()
    if console.no_color or console.is_dumb_terminal:
        report = await manager.check(deep=deep)
        print_report(report, manager, environment)
        return report
    known: dict[int, TierReport] = {}
    with Live(console=console, auto_refresh=False, screen=False) as live:

        def show(tier: TierReport) -> None:
            known[tier.level] = tier
            live.update(_table(list(known.values()), manager, console.width), refresh=True)

        live.update(_table([], manager, console.width), refresh=True)
        report = await manager.check(deep=deep, on_tier=show)
    _say_fixes(report, manager, environment)
    return report


class _Rows:
    """The lines of a pipe: each tier's as soon as it and those above it are known."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._known: dict[int, TierReport] = {}
        self._shown = 0

    def add(self, tier: TierReport) -> None:
        self._known[tier.level] = tier
        while (following := self._known.pop(self._shown, None)) is not None:
            _print_line(following, self._environment)
            self._environment.stdout.flush()
            self._shown += 1


async def _watched(
    manager: FallbackManager, environment: Environment, seconds: float, *, deep: bool, as_json: bool
) -> None:
    """Show the table again and again: in place on a terminal, else one after the other."""
    try:
        if as_json or not environment.stdout.isatty():
            while True:
                _print(await manager.check(deep=deep), environment, manager, as_json=as_json)
                environment.stdout.flush()
                await asyncio.sleep(seconds)
        from rich.live import Live

        console = environment.console()
        with Live(console=console, auto_refresh=False, screen=False) as live:
            while True:
                report = await manager.check(deep=deep)
                table = _table(report.tiers, manager, console.width)
                table.caption = time.strftime("at %H:%M:%S")
                table.caption_justify = "left"
                live.update(table, refresh=True)
                await asyncio.sleep(seconds)
    finally:
        await manager.aclose()


def _code(report: HealthReport, *, strict: bool) -> ExitCode:
    if report.status == "down":
        return ExitCode.FAILURE
    configured = [tier for tier in report.tiers if tier.status != "not_configured"]
    if strict and any(tier.status != "healthy" for tier in configured):
        return ExitCode.FAILURE
    return ExitCode.OK


def _print(
    report: HealthReport, environment: Environment, manager: FallbackManager, *, as_json: bool
) -> None:
    if as_json:
        from tieredllm.cli.output import print_json_line

        print_json_line(report, environment)
    else:
        print_report(report, manager, environment)


def print_report(report: HealthReport, manager: FallbackManager, environment: Environment) -> None:
    """Print how every tier is: a table on a terminal, else a line each.

    Args:
        report: what was found.
        manager: whose tiers they are: over how long their window reaches.
        environment: where to.
    """
    if environment.stdout.isatty():
        console = environment.console()
        console.print(_table(report.tiers, manager, console.width))
    else:
        for tier in report.tiers:
            _print_line(tier, environment)
    _say_fixes(report, manager, environment)


def _print_line(tier: TierReport, environment: Environment) -> None:
    parts = [tier.name, tier.status, tier.provider, tier.model, _numbers(tier), _why(tier)]
    print("\t".join(part for part in parts if part), file=environment.stdout)


def _say_fixes(report: HealthReport, manager: FallbackManager, environment: Environment) -> None:
    models = [each for plan in manager.plans for each in plan.backends if each.is_language_model]
    lacking = [missing for each in models if (missing := each.missing()) is not None]
    fixes = list(dict.fromkeys(missing.fix for missing in lacking))
    if len(lacking) == len(models) and len(fixes) > 1:
        environment.say("any one of these is enough; `tieredllm profile init` asks which:")
        for fix in fixes:
            environment.say(f"  {fix}")
        return
    for names, ways in _unconfigured(report, manager):
        if len(ways) == 1:
            environment.say(f"{names}: {ways[0]}")
            continue
        environment.say(f"{names}: any one of these is enough:")
        for way in ways:
            environment.say(f"  {way}")
    for tier in report.tiers:
        is_told = tier.status == "not_configured"
        if tier.fix and not is_told and (tier.status != "healthy" or tier.reason):
            environment.say(f"{tier.name}: {tier.fix}")
        if tier.rejected:
            environment.say(
                f"{tier.name}: asked without {', '.join(tier.rejected)}, which it has rejected; "
                "tieredllm health --reset forgets that"
            )


def _unconfigured(
    report: HealthReport, manager: FallbackManager
) -> Iterator[tuple[str, list[str]]]:
    """Yield the tiers that are not configured, those that lack the same together, and the fixes."""
    found: dict[frozenset[str], tuple[list[str], list[str]]] = {}
    for tier in report.tiers:
        if tier.status == "not_configured":
            backends = manager.plans[tier.level].backends
            fixes = list(dict.fromkeys(gap.fix for each in backends if (gap := each.missing())))
            found.setdefault(frozenset(fixes), ([], fixes))[0].append(tier.name)
    for names, fixes in found.values():
        yield ", ".join(names), fixes


def _table(known: Sequence[TierReport], manager: FallbackManager, width: int) -> Table:
    """Make the table; a tier that is not known yet has its name."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(
        box=box.SIMPLE_HEAD,
        show_edge=False,
        expand=False,
        pad_edge=False,
        padding=(0, 1),
        header_style="dim",
        border_style="dim",
    )
    table.add_column("tier", no_wrap=True)
    table.add_column("status", no_wrap=True)
    if width >= 60:
        table.add_column("model", overflow="fold")
    if width >= 100:
        window = f"last {manager.profile.health.window_minutes:g} min"
        table.add_column(window, no_wrap=True)
    table.add_column("now", overflow="fold")
    by_level = {tier.level: tier for tier in known}
    for plan in manager.plans:
        tier = by_level.get(plan.level)
        if tier is None:
            table.add_row(Text(plan.tier.name), Text("…", style="dim"))
            continue
        row = [Text(tier.name), Text(tier.status, style=COLORS[tier.status])]
        if width >= 60:
            row.append(Text(tier.model))
        if width >= 100:
            row.append(Text(_numbers(tier), style="dim"))
        row.append(Text(_why(tier), style="dim"))
        table.add_row(*row)
    return table


def _numbers(tier: TierReport) -> str:
    window = tier.window
    if not window.requests or window.success_rate is None:
        return ""
    seconds = "" if window.avg_latency_s is None else f", {window.avg_latency_s:.1f} s"
    return f"{window.success_rate:.0%} of {window.requests}{seconds}"


def _why(tier: TierReport) -> str:
    if tier.reason:
        return tier.reason
    if not tier.probe or not tier.probe.ok:
        return ""
    return ", ".join(filter(None, (f"{tier.probe.latency_ms:.0f} ms", tier.probe.note)))
