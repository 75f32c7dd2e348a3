"""`tieredllm rules`: show and try the rules of the last tier."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from tieredllm.cli.environment import Environment, current
from tieredllm.cli.exit_codes import ExitCode
from tieredllm.cli.options import Json, make_app
from tieredllm.cli.output import print_json, print_table
from tieredllm.errors import UsageError
from tieredllm.text import pluralize

if TYPE_CHECKING:
    from tieredllm.rules.answer import RuleAnswer
    from tieredllm.rules.match import Candidate
    from tieredllm.rules.schema import Rules

__all__ = ["app"]

app = make_app("rules", no_args_is_help=True)


NO_REQUEST = "0" * 32
"""The request id of an answer that no request asked for: its reference code is REF-00000000."""

SHOWN_CHARACTERS = 200


@app.command("list")
def list_rules(*, as_json: Json = False) -> None:
    """List the intents of the rules in use, in the order in which they are tried."""
    from tieredllm.rules.load import load_rules

    environment = current()
    source, variables = _in_use(environment)
    rules = load_rules(source)
    rows = _rows(rules)
    wanted = {name: bool(variables.get(name, "").strip()) for name in _variables(rules)}
    if as_json:
        print_json({"rules": rules.origin, "intents": rows, "variables": wanted}, environment)
        return
    cells = [
        [
            row["name"] + (" (default)" if row["default"] else ""),
            str(row["priority"]),
            str(row["patterns"]),
            str(row["responses"]),
            row["lang"],
            row["origin"],
        ]
        for row in rows
    ]
    headings = ("intent", "priority", "patterns", "responses", "language", "from")
    print_table(headings, cells, environment)
    unset = [name for name, is_set in wanted.items() if not is_set]
    if unset:
        environment.say(
            f"not set under `vars` of the rules tier, so sentences with it are left out: "
            f"{', '.join(unset)}"
        )


@app.command("test")
def try_query(
    query: Annotated[list[str], typer.Argument(help="What a user might ask.", metavar="QUERY...")],
    *,
    as_json: Json = False,
) -> None:
    """Show which intent a query has, by which pattern, what is answered, and why.

    The answer's reference code is REF-00000000, since there is no request.
    """
    from tieredllm.rules.answer import answer
    from tieredllm.rules.load import load_rules
    from tieredllm.rules.match import Matcher

    environment = current()
    text = " ".join(query)
    if not text.strip():
        raise UsageError("the query is empty: give some words")
    source, variables = _in_use(environment)
    matcher = Matcher(load_rules(source))
    given = answer(
        matcher,
        text,
        variables=variables,
        request_id=NO_REQUEST,
        finding=matcher.explain(text),
    )
    if as_json:
        print_json(_explanation(given), environment)
    else:
        _print_explained(given, several=len(matcher.rules.languages) > 1, environment=environment)


@app.command()
def check(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="A rule file, or `builtin`.", show_default=False)
    ],
    *,
    as_json: Json = False,
) -> None:
    """Check a rule file, and run the tests it brings along.

    Exit code 2: it has mistakes, each named with its line and column; 1: a test of its own fails;
    0: neither.
    """
    from tieredllm.rules.load import BUILTIN, load_rules
    from tieredllm.rules.match import Matcher, failed_tests

    environment = current()
    source = file if file == BUILTIN else str(Path(file).expanduser())
    matcher = Matcher(load_rules(source))
    failed = failed_tests(matcher)
    rows = _rows(matcher.rules)
    tests = len(matcher.rules.tests)
    if as_json:
        value = {
            "rules": source,
            "ok": not failed,
            "intents": len(rows),
            "patterns": sum(row["patterns"] for row in rows),
            "tests": tests,
            "failed": [str(mistake) for mistake in failed],
        }
        print_json(value, environment)
        raise typer.Exit(ExitCode.FAILURE if failed else ExitCode.OK)
    for mistake in failed:
        environment.print(str(mistake))
    environment.print(
        f"{source}: {pluralize(len(rows), 'intent')}, "
        f"{pluralize(sum(row['patterns'] for row in rows), 'pattern')}, "
        f"{pluralize(tests, 'test')}" + (f", {len(failed)} failed" if failed else ", ok")
    )
    if failed:
        raise typer.Exit(ExitCode.FAILURE)


def _in_use(environment: Environment) -> tuple[str, dict[str, str]]:
    """Return the rules and variables of the profile's rules tier."""
    from tieredllm.profile.load import load_profile
    from tieredllm.rules.load import BUILTIN

    profile = load_profile(environment.profile_name, environment.places)
    tier = next((tier for tier in profile.tiers if tier.provider == "rules"), None)
    if tier is None:
        environment.say(f"profile {profile.name} has no rules tier: these are the built-in rules")
        return BUILTIN, {}
    return tier.rules, tier.vars


def _rows(rules: Rules) -> list[dict[str, Any]]:
    return [
        {
            "name": intent.name,
            "priority": intent.priority,
            "patterns": len(intent.rules),
            "responses": len(intent.responses) + len(intent.otherwise),
            "lang": language.lang,
            "default": intent.name == language.default,
            "origin": intent.origin,
        }
        for language in rules.languages
        for intent in sorted(language.intents, key=lambda intent: -intent.priority)
    ]


def _variables(rules: Rules) -> list[str]:
    """Name the variables that the responses want from the profile."""
    from tieredllm.rules.template import OWN_VARIABLES, names

    wanted = {
        name
        for language in rules.languages
        for intent in language.intents
        for response in (*intent.responses, *intent.otherwise)
        for name in names(response)
    }
    return sorted(name for name in wanted - OWN_VARIABLES if "." not in name)


def _explanation(given: RuleAnswer) -> dict[str, Any]:
    finding: dict[str, Any] = msgspec.to_builtins(given.finding)
    winner = finding.pop("winner")
    return {
        "intent": given.intent,
        "pattern": winner["pattern"] if winner else None,
        "answer": given.text,
        **finding,
    }


def _print_explained(given: RuleAnswer, *, several: bool, environment: Environment) -> None:
    finding = given.finding
    out = partial(environment.print, wrap=True)
    out(f"intent: {given.intent}")
    if several:
        out(f"language: {given.lang}")
    if finding.winner is not None:
        out(f"pattern: {finding.winner.pattern}")
    out(f"why: {finding.why}")
    if finding.candidates:
        out("candidates:")
    for candidate in finding.candidates:
        out(f"  {_describe(candidate, several=several)}")
    out(f"tried: {finding.tried} of {pluralize(finding.patterns, 'pattern')}")
    out(f"\n{given.text}")


def _describe(candidate: Candidate, *, several: bool) -> str:
    from tieredllm.text import printable_line

    lang = f" ({candidate.lang})" if several else ""
    return (
        f"{candidate.intent}{lang}, priority {candidate.priority}, "
        f"characters {candidate.start} to {candidate.end}: "
        f"`{printable_line(candidate.text, SHOWN_CHARACTERS)}`, by {candidate.pattern}"
    )
