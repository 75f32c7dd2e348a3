"""Shell completion: commands and options, and what only the user's files know."""

from __future__ import annotations

import pytest
from cli_support import cli, profile


def completed(home, line: str) -> list[str]:
    """Complete a command line as bash asks for it."""
    words = line.split(" ")
    done = cli(
        home,
        COMP_WORDS=line,
        COMP_CWORD=str(len(words) - 1),
        _TIEREDLLM_COMPLETE="complete_bash",
    )
    assert done.stderr == b""
    return done.stdout.decode().split()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("tieredllm he", ["health"]),
        ("tieredllm ask --no-f", ["--no-fallback"]),
        ("tieredllm -p off", ["offline"]),
        ("tieredllm ask -p an", ["anthropic"]),
        ("tieredllm ask -t sec", ["secondary"]),
        ("tieredllm ask -m minimal=sm", ["minimal=smollm2-135m"]),
        ("tieredllm ask --simulate primary=q", ["primary=quota_exhausted"]),
        ("tieredllm models pull gemma-3", ["gemma-3-1b-it"]),
    ],
)
def test_completions(tmp_path, line, expected):
    """Commands, options, profiles, tiers, models and faults complete."""
    assert completed(tmp_path, line) == expected


def test_tiers_are_those_of_the_profile_named_before(tmp_path):
    """A profile that was typed decides which tiers there are."""
    path = profile(tmp_path, "name: p\ntiers:\n  - {name: only, provider: rules}\n")

    assert completed(tmp_path, f"tieredllm -p {path} ask -t o") == ["only"]
    assert completed(tmp_path, f"tieredllm ask -p {path} -t o") == ["only"]


def test_mistakes_complete_to_nothing(tmp_path):
    """A broken profile is no error while somebody types."""
    path = profile(tmp_path, "name: [")

    assert completed(tmp_path, f"tieredllm ask -p {path} -t o") == []
