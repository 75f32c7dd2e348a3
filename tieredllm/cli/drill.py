"""`tieredllm drill`: rehearse every outage before it comes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from tieredllm.cli.environment import Environment, current
from tieredllm.cli.exit_codes import ExitCode
from tieredllm.cli.options import GlobalOptions, Json, RequestCommand, make_app, takes_options

if TYPE_CHECKING:
    from tieredllm.drill import Rehearsal

__all__ = ["app"]

app = make_app("drill")

EXAMPLES = """Examples:

\b
  tieredllm drill
  tieredllm -p my-profile.yaml drill --json || echo "it can leave users alone"
"""


@app.command(cls=RequestCommand, epilog=EXAMPLES)
@takes_options(GlobalOptions)
def drill(
    *,
    as_json: Json = False,
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
    from rich.text import Text

    from tieredllm.cli.output import make_table

    console = environment.console()
    styles = {
        _outcome(case): "red" if case.leaves_nothing else "yellow" if case.refused else ""
        for case in rehearsals
    }
    folded = _folded(rows)
    table = make_table(
        ("tier", "answered by", "after", "calls", "at these faults"), folded, console.width
    )
    for tier, outcome, *rest in folded:
        table.add_row(tier, Text(outcome, style=styles[outcome]), *rest)
    console.print(table)
    environment.say(_conclusion(rehearsals))


def _folded(rows: list[tuple[str, str, str, str, str]]) -> list[tuple[str, ...]]:
    """Return one row for all faults of a tier that end in the same way, the tier named once."""
    faults: dict[tuple[str, ...], list[str]] = {}
    for tier, fault, *ending in rows:
        faults.setdefault((tier, *ending), []).append(fault)
    folded: list[tuple[str, ...]] = []
    named = None
    for (tier, *ending), names in faults.items():
        folded.append(("" if tier == named else tier, *ending, ", ".join(names)))
        named = tier
    return folded


def _conclusion(rehearsals: list[Rehearsal]) -> str:
    """Say in a sentence what it comes to."""
    answered = [case for case in rehearsals if case.answered_by is not None]
    alone = [case for case in rehearsals if case.leaves_nothing]
    slowest = max((case.after_s for case in answered), default=0.0)
    kept = "some fault leaves you alone" if alone else "no single fault leaves you alone"
    return f"{kept}; the slowest answer comes after {slowest:.1f} s"


def _outcome(case: Rehearsal) -> str:
    if case.answered_by is not None:
        return f"{case.answered_by} ({case.model})"
    return "refusal (on_content_filter: stop)" if case.refused else "nobody"
