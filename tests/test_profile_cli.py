"""The command `profile` lists, shows, checks and edits profiles."""

from __future__ import annotations

import json
import re
import sys

import pytest
from cli_support import Terminal
from profile_support import command, write

from tieredllm.files import shipped

RULES = "tiers: [{name: rules, provider: rules}]\n"


def test_list_marks_the_profile_in_use(tmp_path):
    """Name, origin and description of each, with a mark, as lines of cells."""
    write(tmp_path / "config/profiles/work.yaml", "description: at work\n" + RULES)
    result = command("-p", "work", "profile", "list", home=tmp_path)
    rows = [line.split("\t") for line in result.stdout.splitlines()]

    assert result.code == 0
    assert [row[1] for row in rows] == [
        "anthropic",
        "default",
        "document",
        "gemini",
        "offline",
        "ollama",
        "openai",
        "work",
    ]
    assert [row for row in rows if row[0]] == [["*", "work", "yours", "at work"]]
    assert rows[4][2:] == ["built in", "a local model, then rules; nothing leaves this machine"]


def test_list_lines_up_on_a_terminal(tmp_path):
    """On a terminal the columns are aligned."""
    shown = command("profile", "list", home=tmp_path, terminal=True).stdout
    lines = re.sub(r"\x1b\[[\d;]*m", "", shown).splitlines()

    rows = [line for line in lines if "built in" in line]
    assert lines[0].split() == ["profile", "from", "about"]
    assert any(row.startswith("*   default") for row in rows)
    assert len({line.index("built in") for line in rows}) == 1


def test_list_as_json(tmp_path):
    """One JSON value, with paths; a file in use is there too."""
    path = write(tmp_path / "mine.yaml", RULES)
    result = command("-p", str(path), "profile", "list", "--json", home=tmp_path)
    rows = json.loads(result.stdout)

    assert rows[0] == {
        "name": "mine",
        "origin": "file",
        "description": None,
        "path": str(path),
        "in_use": True,
    }
    assert [row["in_use"] for row in rows[1:]] == [False] * 7


def test_list_does_not_fail_on_a_broken_profile(tmp_path):
    """A broken profile is listed as such, and an unknown one in use is told."""
    write(tmp_path / "config/profiles/bad.yaml", "tiers: [")
    result = command("-p", "none-such", "profile", "list", home=tmp_path)

    assert result.code == 0
    assert "\tbad\tyours\thas mistakes: see `tieredllm profile validate bad`\n" in result.stdout
    assert result.stderr.startswith("there is no profile `none-such`")


def test_show_prints_what_is_in_effect(tmp_path):
    """Every key with its value; of a key only whether it is set."""
    env = {"OPENAI_API_KEY": "sk-not-to-be-seen"}
    command("keys", "set", "GEMINI_API_KEY", home=tmp_path, stdin="not-to-be-seen")
    result = command("profile", "show", home=tmp_path, env=env)

    assert (result.code, result.stderr) == (0, "")
    assert "# OPENAI_API_KEY: set (environment)\n" in result.stdout
    assert "# GEMINI_API_KEY: set (keys file)\n" in result.stdout
    assert "# ANTHROPIC_API_KEY: not set\n" in result.stdout
    assert "not-to-be-seen" not in result.stdout


def test_show_takes_a_name_a_path_and_the_global_option(tmp_path):
    """All three ways of naming a profile give the same."""
    by_name = command("profile", "show", "offline", home=tmp_path)
    by_path = command("profile", "show", str(shipped("profiles") / "offline.yaml"), home=tmp_path)
    by_option = command("-p", "offline", "profile", "show", home=tmp_path)
    by_variable = command("profile", "show", home=tmp_path, env={"TIEREDLLM_PROFILE": "offline"})

    assert by_name.stdout.startswith("name: offline\n")
    assert by_name.stdout == by_path.stdout == by_option.stdout == by_variable.stdout


def test_path_prints_the_file(tmp_path):
    """The path alone, for scripts."""
    result = command("profile", "path", home=tmp_path)

    assert result.stdout == f"{shipped('profiles') / 'default.yaml'}\n"


def test_validate_says_ok(tmp_path):
    """A good profile is one line on stdout."""
    result = command("profile", "validate", home=tmp_path)

    assert result.code == 0
    assert (
        result.stdout
        == f"ok: {shipped('profiles') / 'default.yaml'}: primary, secondary, minimal, rules\n"
    )
    assert result.stderr == ""


def test_validate_prints_every_mistake_on_a_line_of_its_own(tmp_path):
    """Mistakes go to stderr, with file, line and column; the exit code is 2."""
    path = write(tmp_path / "bad.yaml", "deadline_s: x\ncolor: y\n" + RULES)
    result = command("profile", "validate", str(path), home=tmp_path)

    assert (result.code, result.stdout) == (2, "")
    assert [line.split(" ")[0] for line in result.stderr.splitlines()] == [
        f"{path}:1:13:",
        f"{path}:2:1:",
    ]


def test_validate_checks_the_rule_file_too(tmp_path):
    """A bad pattern in a rule file is a mistake of the profile that names it."""
    rules = write(
        tmp_path / "rules.yaml",
        """
        extends: builtin
        intents:
          - name: greeting
            patterns: ['(unclosed']
        """,
    )
    path = write(tmp_path / "p.yaml", "tiers: [{name: r, provider: rules, rules: ./rules.yaml}]")
    result = command("profile", "validate", str(path), home=tmp_path)

    assert (result.code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"{rules}:5:")


def test_validate_warns_of_what_is_likely_not_meant(tmp_path):
    """A warning has a place too, leaves the exit code 0, and `-q` hides it."""
    path = write(tmp_path / "p.yaml", "tiers: [{name: a, provider: openai, model: m}]")
    result = command("profile", "validate", str(path), home=tmp_path)
    quiet = command("-q", "profile", "validate", str(path), home=tmp_path)

    assert (result.code, result.stdout) == (0, f"ok: {path}: a\n")
    assert result.stderr == (
        f"{path}:1:9: warning: there is no rules tier at the end: a request can end without any "
        "answer\n"
    )
    assert (quiet.code, quiet.stderr) == (0, "")


def test_every_command_reports_a_broken_profile_the_same_way(tmp_path):
    """`show` of a broken profile prints its mistakes and ends with 2."""
    path = write(tmp_path / "bad.yaml", "deadline_s: x\n" + RULES)
    result = command("profile", "show", str(path), home=tmp_path)

    assert (result.code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"{path}:1:13: `deadline_s` must be")


def test_an_unknown_profile_is_a_usage_error(tmp_path):
    """One line, exit code 2."""
    result = command("profile", "show", "defualt", home=tmp_path)

    assert (result.code, result.stdout) == (2, "")
    assert result.stderr.startswith(
        "tieredllm: there is no profile `defualt`: did you mean `default`?"
    )


def editor(script: str) -> dict[str, str]:
    """Give an editor that runs Python code; the file's path is `path`."""
    code = f"import pathlib, sys; path = pathlib.Path(sys.argv[1]); {script}"
    return {"EDITOR": f'"{sys.executable}" -c "{code}"'}


def test_edit_of_a_built_in_profile_makes_one_that_inherits(tmp_path):
    """What is edited is one's own, which says what is different and is in use from then on."""
    env = editor("path.write_text(path.read_text() + 'deadline_s: 77')")
    result = command("profile", "edit", home=tmp_path, env=env)
    path = tmp_path / "config/profiles/default.yaml"
    said = [line for line in path.read_text().splitlines() if not line.startswith("#")]

    assert (result.code, result.stderr) == (0, "")
    assert result.stdout.startswith(f"ok: {path}: ")
    assert said == ["", "extends: default", "deadline_s: 77"]
    assert "deadline_s: 77\n" in command("profile", "show", home=tmp_path).stdout


def test_an_edit_that_changes_nothing_makes_nothing(tmp_path):
    """A look at the built-in profile leaves no copy of it."""
    result = command("profile", "edit", home=tmp_path / "home", env=editor("None"))

    assert (result.code, result.stderr) == (0, "nothing was changed, and nothing made\n")
    assert not (tmp_path / "home").exists()


def test_an_edit_with_mistakes_is_kept_beside_the_profile(tmp_path):
    """One's own is opened as it is; what is wrong is told, ends with 2, and is not used."""
    path = write(tmp_path / "config/profiles/work.yaml", RULES)
    before = path.read_text()
    result = command(
        "profile", "edit", "work", home=tmp_path, env=editor("path.write_text('x: 1')")
    )
    rejected = path.with_name("work.yaml.rejected")

    assert (result.code, path.read_text(), rejected.read_text()) == (2, before, "x: 1")
    assert result.stderr.splitlines()[0].startswith(f"{path}:1:1: ")
    assert result.stderr.splitlines()[-1] == (
        f"kept as {rejected}; the profile in use is as it was"
    )


def test_at_a_terminal_a_profile_is_edited_until_it_is_right(tmp_path):
    """Enter opens the editor again, with what was written before."""
    path = write(tmp_path / "config/profiles/work.yaml", RULES)
    script = (
        "text = path.read_text(); "
        "right = text.replace('x: 1', 'deadline_s: 7'); "
        "path.write_text(right if 'x: 1' in text else text + 'x: 1')"
    )
    terminal = Terminal(tmp_path, "profile", "edit", "work", **editor(script))
    terminal.until("Edit it again? [Y/n]")
    terminal.type("\r")

    assert terminal.run() == 0
    assert path.read_text().endswith("deadline_s: 7")


def test_visual_comes_before_editor(tmp_path):
    """As everywhere else."""
    env = {**editor("path.write_text('x')"), "VISUAL": editor("None")["EDITOR"]}

    assert command("profile", "edit", home=tmp_path, env=env).code == 0


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("/no/such/editor", "the editor `/no/such/editor` does not start: "),
        ("'unclosed", "the editor `'unclosed` does not start: No closing quotation"),
        ("false", "the editor `false` ended with code 1"),
    ],
)
def test_an_editor_that_fails_is_told(tmp_path, value, message):
    """One line, exit code 2."""
    result = command("-q", "profile", "edit", home=tmp_path, env={"EDITOR": value})

    assert result.code == 2
    assert result.stderr.startswith(f"tieredllm: {message}")


def test_schema_is_one_json_value(tmp_path):
    """The schema can be saved as it is printed."""
    result = command("profile", "schema", home=tmp_path)

    assert result.code == 0
    assert json.loads(result.stdout)["title"] == "tieredllm profile"


def test_nothing_is_written_by_looking(tmp_path):
    """Listing, showing and checking leave no trace."""
    for words in (["list"], ["show"], ["path"], ["validate"], ["schema"]):
        command("profile", *words, home=tmp_path / "home")
    command("keys", "list", home=tmp_path / "home")

    assert not (tmp_path / "home").exists()
