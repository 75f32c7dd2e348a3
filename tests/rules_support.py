"""Make rules for tests, from YAML and from single patterns."""

from __future__ import annotations

import textwrap
from pathlib import Path

from tieredllm.errors import ProfileError
from tieredllm.rules.answer import RuleAnswer, answer
from tieredllm.rules.load import load_rules
from tieredllm.rules.match import Finding, Matcher
from tieredllm.rules.schema import Intent, Language, Rule, Rules

REQUEST_ID = "1a2b3c4d5e6f70819203a4b5c6d7e8f9"


def rule_file(folder: Path, text: str, name: str = "rules.yaml") -> Path:
    """Write a rule file."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text), encoding="utf-8")
    return path


def matcher(folder: Path, text: str) -> Matcher:
    """Load a rule file for matching."""
    return Matcher(load_rules(str(rule_file(folder, text))))


def mistakes_in(path: Path) -> list[str]:
    """Give what is wrong with a rule file, each as `file:line:column: message` without folders."""
    try:
        load_rules(str(path))
    except ProfileError as exc:
        return [str(each).replace(f"{path.parent}/", "") for each in exc.mistakes]
    return []


def from_patterns(**patterns: tuple[int, str]) -> Rules:
    """Make rules of one pattern per intent, given as priority and pattern."""
    intents = tuple(
        Intent(
            name=name,
            priority=priority,
            rules=(Rule(pattern=pattern, origin="test"),),
            responses=(f"This is {name}.",),
            origin="test",
        )
        for name, (priority, pattern) in patterns.items()
    )
    general = Intent(name="general", responses=("This is general.",), origin="test")
    return Rules(
        origin="test",
        languages=(
            Language(
                lang="en",
                intents=(*intents, general),
                default="general",
                notice="Limited. {ref_code}",
                spellings={},
            ),
        ),
    )


def matched(pattern: str, query: str) -> str | None:
    """Give the text that a pattern matches in a query, None when it does not."""
    finding = Matcher(from_patterns(some=(1, pattern))).match(query)
    return finding.winner.text if finding.winner else None


def say(rules: Matcher, query: str, *, finding: Finding | None = None, **variables: str) -> str:
    """Answer a query, without the notice."""
    text = said(rules, query, finding=finding, **variables).text
    return text.rpartition("\n\n")[0]


def said(
    rules: Matcher, query: str, *, finding: Finding | None = None, **variables: str
) -> RuleAnswer:
    """Answer a query."""
    return answer(rules, query, variables=variables, request_id=REQUEST_ID, finding=finding)
