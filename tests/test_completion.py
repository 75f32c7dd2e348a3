"""Shell completion: commands and options, and what only the user's files know."""

from __future__ import annotations

import sys
from pathlib import Path

import pexpect
import pytest
from cli_support import cli, environment, profile
from store_support import answer

from tieredllm.kinds import ErrorKind
from tieredllm.store.database import Database
from tieredllm.store.history import History
from tieredllm.types import Prompt


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
        ("tieredllm keys set ANTH", ["ANTHROPIC_API_KEY"]),
        ("tieredllm keys rm gem", ["gemini"]),
    ],
)
def test_completions(tmp_path, line, expected):
    """Commands, options, profiles, tiers, models and faults complete."""
    assert completed(tmp_path, line) == expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("tieredllm ask -m minimal = sm", ["smollm2-135m"]),
        ("tieredllm ask --simulate primary = q", ["quota_exhausted"]),
        ("tieredllm ask --tier = sec", ["secondary"]),
        ("tieredllm ask --model = minimal = sm", ["smollm2-135m"]),
        ("tieredllm ask --simulate primary =", [kind.value for kind in ErrorKind]),
    ],
)
def test_bash_cuts_words_at_equals_signs(tmp_path, line, expected):
    """What stands after `=` completes, though bash gives it as a word; only that comes back."""
    assert completed(tmp_path, line) == expected


def test_bash_cuts_words_at_colons(tmp_path):
    """A model's name with a colon in it completes on both sides of the colon."""
    path = profile(
        tmp_path,
        "name: p\ntiers:\n  - {name: own, provider: openai, model: 'gemma3:4b'}\n",
    )

    assert completed(tmp_path, f"tieredllm -p {path} ask -m own = gem") == ["gemma3:4b"]
    assert completed(tmp_path, f"tieredllm -p {path} ask -m own = gemma3 : 4") == ["4b"]


def test_in_a_real_bash(tmp_path):
    """Tab completes a model's name after `=` in an interactive bash."""
    env = environment(tmp_path, PS1="$ ", TERM="dumb", INPUTRC="/dev/null")
    env["PATH"] = f"{Path(sys.executable).parent}:{env['PATH']}"
    with pexpect.spawn("bash", ["--norc", "--noprofile", "-i"], env=env, timeout=30) as bash:
        bash.sendline("bind 'set enable-bracketed-paste off'; PS1='$ '")
        bash.sendline('eval "$(_TIEREDLLM_COMPLETE=source_bash tieredllm)"; echo rea""dy')
        bash.expect("ready")
        bash.send("tieredllm ask -m minimal=sm\t")
        bash.expect_exact("tieredllm ask -m minimal=smollm2-135m ")


def test_tiers_are_those_of_the_profile_named_before(tmp_path):
    """A profile that was typed decides which tiers there are."""
    path = profile(tmp_path, "name: p\ntiers:\n  - {name: only, provider: rules}\n")

    assert completed(tmp_path, f"tieredllm -p {path} ask -t o") == ["only"]
    assert completed(tmp_path, f"tieredllm ask -p {path} -t o") == ["only"]


def test_conversations_complete_by_name(tmp_path):
    """`--cid` offers names beside ids; one that a shell would cut in two is not offered."""
    with Database(tmp_path / "state" / "state.db") as database:
        history = History(database)
        for request_id, name in (("a1", "küche"), ("a2", "kitchen sink")):
            history.save(Prompt(question="Why?"), answer(request_id), "default")
            history.set_name(request_id, name)

    assert completed(tmp_path, "tieredllm ask --cid k") == ["küche"]
    assert completed(tmp_path, "tieredllm log --cid a") == ["a2", "a1"]


def test_a_key_that_is_kept_completes(tmp_path):
    """It does though the profile does not name it."""
    cli(tmp_path, "keys", "set", "MINE", stdin=b"x")

    assert completed(tmp_path, "tieredllm keys rm MI") == ["MINE"]


def test_mistakes_complete_to_nothing(tmp_path):
    """A broken profile is no error while somebody types."""
    path = profile(tmp_path, "name: [")

    assert completed(tmp_path, f"tieredllm ask -p {path} -t o") == []
