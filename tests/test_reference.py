"""The references are what the code says, and their examples work."""

from __future__ import annotations

import fnmatch
import re
import subprocess
import sys
from pathlib import Path

import pytest
from chat_support import PROMPT
from cli_support import Terminal, answering, cli, environment, install_model, served, two_clouds
from profile_support import mistakes_in, places_in

from tieredllm.profile.load import load_profile
from tieredllm.rules.load import load_rules
from tieredllm.rules.match import Matcher, failed_tests

ROOT = Path(__file__).parents[1]
EXAMPLE = re.compile(r"```yaml\n(# (?:rules|regeln|profile).*?)```", re.DOTALL)


def examples(page):
    return EXAMPLE.findall((ROOT / "docs" / page).read_text(encoding="utf-8"))


@pytest.fixture
def reference(monkeypatch):
    """Give the script's module."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import reference

    return reference


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


OTHERS = {"TIEREDLLM_COMPLETE", "TIEREDLLM_WEBHOOK_URL"}
"""The shell's own way to ask for completions, and a default that the profile's reference has."""


def test_the_variables_are_those_the_program_reads(reference):
    """Each that is told of is read somewhere, and each of our own that is read is told of."""
    code = "".join(path.read_text("utf-8") for path in (ROOT / "tieredllm").rglob("*.py"))
    own = set(re.findall(r"TIEREDLLM_[A-Z]+(?:_[A-Z]+)*", code)) - OTHERS

    assert own == {name for name in reference.VARIABLES if name.startswith("TIEREDLLM_")}
    assert [name for name in reference.VARIABLES if name.lower() not in code.lower()] == []


def test_every_file_is_in_the_table(reference, tmp_path):
    """What a day's work leaves is told of, and nobody else can read what is said to be private."""
    install_model(tmp_path)
    with served(answering("Yes.")) as server:
        used = two_clouds(tmp_path, server.url)
        for command in (
            ["-p", used, "hello"],
            # By chance a small model runs in circles, which is exit code 3.
            ["-p", "offline", "ask", "-o", "temperature", "0", "hello"],
            ["-p", "offline", "ask", "-o", "temperature", "0", "-c", "and how are you? " * 80],
            ["ask", "-s", "Be brief.", "--save", "brief"],
            ["profile", "use", "offline"],
            ["log", "off"],
            [
                "models",
                "add",
                str(next((tmp_path / "data/models").glob("*.gguf"))),
                "--name",
                "own",
            ],
        ):
            assert cli(tmp_path, *command).returncode == 0, command
        cli(tmp_path, "keys", "set", "openai", stdin=b"sk-test-0123456789abcdef")
        cli(tmp_path, "-p", used, "models", "list", "--tier", "primary")
        terminal = Terminal(tmp_path, "-p", used, "chat")
        terminal.until(PROMPT)
        terminal.type("hello\r")
        terminal.until("Yes.")
        terminal.type("\x04")
        terminal.run()
    found = [path for path in tmp_path.rglob("*") if path.is_file() and path != Path(used)]

    for path in found:
        name = str(path.relative_to(tmp_path))
        rows = [
            who
            for place, file, _, who in reference.FILES
            if fnmatch.fnmatch(name, f"{place}/{file}")
        ]
        assert len(rows) == 1, name
        if rows == [reference.YOU]:
            assert path.stat().st_mode & 0o077 == 0 or path.parent.stat().st_mode & 0o077 == 0, name
    assert len(found) > 8


@pytest.mark.parametrize("page", ["README.md", "docs/recipes.md", "docs/profile.md"])
def test_the_profiles_in_the_documents_are_sound(tmp_path, page):
    """Whatever inherits something is a profile, and has no mistakes."""
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)
    profiles = [text for text in blocks if re.search(r"^extends: \w+$", text, re.MULTILINE)]

    assert profiles
    for text in profiles:
        path = tmp_path / "p.yaml"
        path.write_text(text)
        assert mistakes_in(path, places_in(tmp_path / "home")) == []


def test_the_programs_in_the_documents_run(tmp_path):
    """The snippets of the library's page run as they stand, with nothing set up."""
    text = (ROOT / "docs/library.md").read_text(encoding="utf-8")
    first, second, third = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    body = "".join(f"    {line}\n" for line in second.splitlines())
    code = f"{first}\nimport asyncio\nasyncio.run(stream())\n\nasync def second():\n{body}\n"
    served = (
        "from types import SimpleNamespace\n"
        "async def serve(app):\n"
        "    async with lifespan(app):\n"
        "        await app.state.manager.process_with_fallbacks('hello')\n"
        "asyncio.run(serve(SimpleNamespace(state=SimpleNamespace())))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nasyncio.run(second())\n{third}\n{served}"],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("Reference code: REF-") == 2
