"""Show how each tier did: the command `stats`."""

from __future__ import annotations

from typing import Annotated

import typer

from tieredllm.cli.environment import Environment, current
from tieredllm.cli.options import Json, finite, make_app
from tieredllm.errors import TieredLLMError
from tieredllm.render.summary import format_cost
from tieredllm.render.timeline import duration, sparkline
from tieredllm.store.statistics import ModelStatistics, Statistics, TierStatistics
from tieredllm.text import one_line, pluralize

__all__ = ["app"]

app = make_app("stats")

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
            callback=finite,
            help="How far to look back (else the profile's health window).",
            show_default=False,
        ),
    ] = None,
    by_model: Annotated[
        bool, typer.Option("--models", help="The models alone, one line for each.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show how each tier did, and each model.

    Per tier: how often it was asked, the share it answered, the share of requests that went on to
    a lower tier, the time its answers took (half and 95 % within), and their first token. Per
    model: its answers, tokens, and cost where the profile names prices. Requests asked with
    `--no-log` are not among them.
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
        _show(environment, found, span=_words(span_s), by_model=by_model)


def _window_s(environment: Environment) -> float:
    from tieredllm.profile.load import load_profile

    profile = load_profile(environment.profile_name, environment.places)
    return profile.health.window_minutes * 60


def _words(seconds: float) -> str:
    if seconds >= DAY_S:
        return "day" if seconds == DAY_S else f"{seconds / DAY_S:g} days"
    return f"{seconds / 60:g} minutes"


TIERS = ("tier", "asked", "answered", "fell back", "p50", "p95", "first token")
CHARTS = ("latency", "falls")
MODELS = ("tier", "model", "answers", "p50", "first token", "tokens in", "out", "cost")


def _show(environment: Environment, found: Statistics, *, span: str, by_model: bool) -> None:
    """Print the figures of a stretch of time.

    Args:
        environment: where to.
        found: the figures.
        span: the stretch of time, for people.
        by_model: whether to print those of the models alone.
    """
    from tieredllm.cli.output import fits, print_table

    models = [_model_cells(model) for model in found.models]
    tiers = [_cells(tier) for tier in found.tiers]
    if by_model or not environment.stdout.isatty():
        print_table(MODELS if by_model else TIERS, models if by_model else tiers, environment)
        return
    from rich.text import Text

    console = environment.console()
    went_on = f", {_percent(found.fallback_rate)} not answered by the first tier"
    unanswered = f", {found.unanswered} not at all" if found.unanswered else ""
    about = f"last {span}: {pluralize(found.requests, 'request')}{went_on}{unanswered}"
    console.print(Text(about, style="dim"))
    console.print()
    ascii_only = not console.encoding.lower().startswith("utf")
    charted = [
        [*cells, *_charts(tier, ascii_only=ascii_only)]
        for cells, tier in zip(tiers, found.tiers, strict=True)
    ]
    if fits((*TIERS, *CHARTS), charted, console.width):
        print_table((*TIERS, *CHARTS), charted, environment)
    else:
        print_table(TIERS, tiers, environment)
    if models:
        console.print()
        print_table(MODELS, models, environment)


def _cells(tier: TierStatistics) -> list[str]:
    return [
        one_line(tier.name),
        str(tier.requests),
        _percent(tier.success_rate),
        _percent(tier.fallback_rate),
        _duration(tier.latency_p50_ms),
        _duration(tier.latency_p95_ms),
        _duration(tier.first_token_p50_ms),
    ]


def _model_cells(model: ModelStatistics) -> list[str]:
    return [
        one_line(model.tier),
        one_line(model.model),
        str(model.answers),
        _duration(model.latency_p50_ms),
        _duration(model.first_token_p50_ms),
        str(model.prompt_tokens),
        str(model.completion_tokens),
        "-" if model.cost is None else format_cost(model.cost),
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
