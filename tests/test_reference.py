"""The references are what the code says, and their examples work."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from profile_support import mistakes_in, places_in

from tieredllm.profile.load import load_profile
from tieredllm.rules.load import load_rules
from tieredllm.rules.match import Matcher, failed_tests

ROOT = Path(__file__).parents[1]
EXAMPLE = re.compile(r"```yaml\n(# (?:rules|regeln|profile).*?)```", re.DOTALL)


def examples(page):
    return EXAMPLE.findall((ROOT / "docs" / page).read_text(encoding="utf-8"))


def test_the_tables_are_as_in_the_code():
    """A key that is added, renamed or worded anew is in the references, or this fails."""
    done = subprocess.run(
        [sys.executable, "scripts/reference.py", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_profile_in_the_reference_is_sound(tmp_path):
    """The example has no mistakes and does what it says."""
    [text] = examples("profile.md")
    path = tmp_path / "p.yaml"
    path.write_text(text)

    assert mistakes_in(path, places_in(tmp_path / "home")) == []
    profile = load_profile(str(path), places_in(tmp_path / "home"))
    assert (profile.deadline_s, profile.tiers[0].params.max_tokens) == (60, 2048)


@pytest.mark.parametrize("name", ["rules.yaml", "regeln.yaml"])
def test_the_rule_files_in_the_reference_pass_their_own_tests(tmp_path, name):
    """Both examples are loaded as they stand, and every test they bring along holds."""
    for text in examples("rules.md"):
        file = text.split("\n")[0].removeprefix("# ")
        (tmp_path / file).write_text(text, encoding="utf-8")
    matcher = Matcher(load_rules(str(tmp_path / name)))

    assert matcher.rules.tests
    assert failed_tests(matcher) == []
