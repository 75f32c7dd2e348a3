"""`tieredllm drill`: rehearse every outage before it comes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from tieredllm.cli.environment import Environment, current
from tieredllm.cli.exit_codes import ExitCode
from tieredllm.cli.options import GlobalOptions, takes_options

if TYPE_CHECKING:
    from tieredllm.drill import Rehearsal

__all__ = ["app"]

app = typer.Typer(rich_markup_mode=None, add_completion=False)

EXAMPLES = """Examples:

\b
  tieredllm drill
  tieredllm -p my-profile.yaml drill --json || echo "this profile can leave users alone"
"""


@app.command(epilog=EXAMPLES, context_settings={"help_option_names": ["-h", "--help"]})
@takes_options(GlobalOptions)
def drill(
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON array.")] = False,
) -> None:
    """Rehearse every fault on every tier, without a network.

    The real engine runs in virtual time against played models, and a table shows what you would
    have got with your profile, your keys and your local models as they are now, and after how long.
    Exit code 1: some single fault would leave you without an answer.
    """
    from tieredllm.client import FallbackManager
    from tieredllm.drill import rehearse

    environment = current()
    manager = FallbackManager(
        environment.profile_name, env=environment.env, places=environment.places, persist=False
    )
    rehearsals = rehearse(manager.profile, manager.plans)
    if as_json:
        from tieredllm.cli.output import print_json_line

        print_json_line(rehearsals, environment)
    else:
        _print(rehearsals, environment)
    lost = [case for case in rehearsals if case.leaves_nothing]
    if lost:
        environment.say(f"{len(lost)} faults would leave you without an answer")
    raise typer.Exit(ExitCode.FAILURE if lost else ExitCode.OK)


def _print(rehearsals: list[Rehearsal], environment: Environment) -> None:
    rows = [
        (
            case.tier,
            str(case.fault),
            _outcome(case),
            f"{case.after_s:.1f} s",
            f"{case.attempts} calls" if case.attempts != 1 else "1 call",
        )
        for case in rehearsals
    ]
    if not environment.stdout.isatty():
        for row in rows:
            print("\t".join(row), file=environment.stdout)
        return
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for heading in ("tier", "fault", "answered by", "after", "calls"):
        table.add_column(
            heading, overflow="fold", justify="right" if heading == "after" else "left"
        )
    previous = None
    for case, (tier, fault, outcome, after, calls) in zip(rehearsals, rows, strict=True):
        style = "red" if case.leaves_nothing else "yellow" if case.refused else ""
        if previous not in {None, tier}:
            table.add_section()
        table.add_row(
            "" if tier == previous else tier, fault, Text(outcome, style=style), after, calls
        )
        previous = tier
    environment.console().print(table)


def _outcome(case: Rehearsal) -> str:
    if case.answered_by is not None:
        return f"{case.answered_by} ({case.model})"
    return "refusal (on_content_filter: stop)" if case.refused else "nobody"
