"""`profile init`: the questions, the file it writes, and what it never does."""

from __future__ import annotations

import itertools
import stat
from datetime import date

import pytest
from chat_support import talking
from cli_support import Terminal, cli, install_model
from profile_support import command

from tieredllm.cli.profile_draft import Choice, draft, own_server, vendors
from tieredllm.files import Places, shipped
from tieredllm.kinds import ErrorKind
from tieredllm.profile.lint import lint
from tieredllm.profile.load import Found, load

NOWHERE = {"HTTPS_PROXY": "http://127.0.0.1:9", "HTTP_PROXY": "", "NO_PROXY": "127.0.0.1"}
"""Keeps probes of vendors on this machine, where nothing answers them."""


@pytest.fixture
def home(tmp_path):
    """Give the user's directories."""
    return tmp_path / "user"


def places(home):
    return Places.from_environment({"TIEREDLLM_HOME": str(home)})


def written(home, name="default"):
    """Read the profile that was written."""
    path = home / "config" / "profiles" / f"{name}.yaml"
    return load(Found(name=name, path=path, origin="user"), places(home))


def models(tier):
    """Give what a tier asks, in order."""
    return [tier.model, *(alternate.model for alternate in tier.alternates)]


NAMES = ("openai", "anthropic", "gemini", "server")
CHOICES = [
    names for count in range(len(NAMES) + 1) for names in itertools.permutations(NAMES, count)
]


@pytest.mark.parametrize("local", [None, "gemma-2-2b-it", "smollm2-135m"])
def test_every_choice_makes_a_sound_profile(tmp_path, local):
    """Whatever is chosen, the text is a profile without mistakes or doubts, and reads well."""
    known = vendors(places(tmp_path))
    known["server"] = own_server("http://127.0.0.1:8080/v1", "my: model, #1", None)
    for names in CHOICES:
        chosen = tuple(known[name] for name in names)
        choice = Choice(name="mine", vendors=chosen, local=local, made_on=date(2026, 1, 2))
        text = draft(choice)
        path = tmp_path / "mine.yaml"
        path.write_text(text)
        loaded = load(Found(name="mine", path=path, origin="file"), places(tmp_path))

        assert lint(loaded) == []
        tiers = {tier.name: tier for tier in loaded.profile.tiers}
        assert ("primary" in tiers) is bool(names)
        assert ("secondary" in tiers) is (bool(names) and names != ("server",))
        assert ("minimal" in tiers) is (local is not None)
        assert list(tiers)[-1] == "rules"
        if len(names) > 1:
            assert models(tiers["primary"]) == [known[name].large.name for name in names]
            later = (*names[1:], names[0])
            assert models(tiers["secondary"]) == [known[name].medium.name for name in later]
            assert tiers["secondary"].provider == known[names[1]].provider
        assert all(len(line) <= 100 for line in text.splitlines())
        assert {line.index(" # ") for line in text.splitlines() if " # " in line[20:]} <= {33}


def test_the_numbers_are_those_of_the_built_in_profile(home):
    """Tokens, retries and timeouts are those of the default profile's tiers."""
    choice = Choice(
        name="default",
        vendors=tuple(vendors(places(home)).values()),
        local="gemma-2-2b-it",
        made_on=date(2026, 1, 2),
    )
    path = home / "config" / "profiles" / "default.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(draft(choice))
    mine = written(home).profile

    usual = load(
        Found(name="default", path=shipped("profiles") / "default.yaml", origin="shipped"),
        places(home),
    ).profile

    for ours, theirs in zip(mine.tiers, usual.tiers, strict=True):
        assert models(ours) == models(theirs)
        for field in ("name", "prompt", "context_tokens", "timeout_s", "retries"):
            assert getattr(ours, field) == getattr(theirs, field)
        assert ours.params.max_tokens == theirs.params.max_tokens


def test_without_questions(home):
    """`--yes` takes the vendors whose keys are found, and the local model; nothing is pulled."""
    command("keys", "set", "GEMINI_API_KEY", home=home, stdin="from-the-file")
    done = cli(
        home, "profile", "init", "--yes", ANTHROPIC_API_KEY="from-the-environment", **NOWHERE
    )
    tiers = written(home).profile.tiers

    assert done.returncode == 0
    assert [tier.name for tier in tiers] == ["primary", "secondary", "minimal", "rules"]
    assert [tier.provider for tier in tiers[:2]] == ["anthropic", "gemini"]
    assert models(tiers[2]) == ["gemma-2-2b-it", "smollm2-135m"]
    assert [line.split("\t")[:2] for line in done.stdout.decode().splitlines()] == [
        *(["primary", "down"], ["secondary", "down"], ["minimal", "not_ready"]),
        ["rules", "healthy"],
    ]
    text = (home / "config" / "profiles" / "default.yaml").read_text()
    assert "from-the-" not in text + done.stderr.decode()
    assert not (home / "data").exists()


def test_without_questions_and_without_keys(home):
    """Without any key all vendors are there, so that any key that is set later works."""
    done = cli(home, "profile", "init", "--yes", "--name", "work", **NOWHERE)
    tiers = written(home, "work").profile.tiers

    assert done.returncode == 0
    assert len(models(tiers[0])) == 3
    assert b"tieredllm -p work ask" in done.stderr
    assert b"not_configured" in done.stdout


def test_wishes_are_heard(home):
    """`--vendor`, `--local` and `--name` settle what would be asked."""
    done = cli(
        *(home, "profile", "init", "--yes", "--name", "w", "--local", "none"),
        *("--vendor", "gemini", "--vendor", "openai"),
        **NOWHERE,
    )
    tiers = written(home, "w").profile.tiers

    assert done.returncode == 0
    assert [tier.provider for tier in tiers] == ["gemini", "openai", "rules"]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ([], "there is no terminal to ask at: add --yes"),
        (["--yes", "--name", "../x"], "--name: '../x' is no name"),
        (["--yes", "--vendor", "acme"], "--vendor: no vendor 'acme': there are openai"),
        (["--yes", "--local", "acme"], "--local: no model 'acme': there are smollm2-135m"),
    ],
)
def test_wrong_wishes(home, args, said):
    """What cannot be met is exit 2, one line, and no file."""
    result = command("profile", "init", *args, home=home)

    assert (result.code, result.stdout) == (2, "")
    assert said in result.stderr
    assert result.stderr.count("\n") == 1
    assert not home.exists()


def test_nothing_is_replaced_unasked(home):
    """A profile that is there stays, unless `--force` says otherwise."""
    path = home / "config" / "profiles" / "default.yaml"
    path.parent.mkdir(parents=True)
    path.write_text("# precious\n")
    kept = command("profile", "init", "--yes", home=home)

    assert kept.code == 2
    assert "is there already: add --force to replace it" in kept.stderr
    assert path.read_text() == "# precious\n"
    done = cli(home, "profile", "init", "--yes", "--force", "--local", "none", **NOWHERE)
    assert done.returncode == 0
    assert path.read_text().startswith("# Made by `tieredllm profile init`")


def test_a_pull_that_fails_is_told(home):
    """When the model cannot be pulled that is told, and the profile is there all the same."""
    env = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "", "PIP_CONFIG_FILE": "/dev/null"}
    done = cli(
        *(home, "profile", "init", "--yes", "--pull", "--local", "smollm2-135m"), **env, **NOWHERE
    )

    assert done.returncode == 0
    assert b"smollm2-135m was not pulled" in done.stderr
    assert models(written(home).profile.tiers[2]) == ["smollm2-135m"]


def test_an_installed_model_is_taken(home):
    """A model that is here already is the one taken, and pulling it again downloads nothing."""
    install_model(home)
    done = cli(home, "profile", "init", "--yes", "--pull", **NOWHERE)

    assert done.returncode == 0
    assert b"already installed" in done.stderr
    assert b"minimal\thealthy" in done.stdout
    assert models(written(home).profile.tiers[2]) == ["smollm2-135m"]


def test_questions_and_answers(home):
    """Every question is put and heard; a typed key is kept unseen; the end shows health."""
    with talking() as server:
        terminal = Terminal(
            home, "profile", "init", rows=60, columns=100, OPENAI_API_KEY="sk-unseen", **NOWHERE
        )
        terminal.until("Its name")
        terminal.type("not a name\r")
        terminal.until("is no name")
        terminal.type("mine\r")
        terminal.until("[1]:")
        assert "OPENAI_API_KEY found (environment)" in "\n".join(terminal.lines)
        assert "GEMINI_API_KEY is not set" in "\n".join(terminal.lines)
        terminal.type("7\r")
        terminal.until("numbers from 1 to 4, or 0")
        terminal.type("4, 3 openai\r")
        terminal.until("Your server's address")
        terminal.type(f"{server.url}/v1\r")
        terminal.until("Its model")
        terminal.type("m-1\r")
        terminal.until("The variable with its key")
        terminal.type("\r")
        terminal.until("GEMINI_API_KEY (not shown")
        terminal.type("typed-unseen\r")
        terminal.until("Its number; 0 for none [2]")
        shown = "\n".join(terminal.lines)
        assert "gemma-2-2b-it  1.71 GB  Gemma Terms of Use" in shown
        assert "smollm2-135m     98 MB  Apache-2.0" in shown
        terminal.type("2\r")
        terminal.until("Download gemma-2-2b-it now (1.71 GB, Gemma Terms of Use)? [y/N]")
        terminal.type("\r")
        code = terminal.run()
    profile = written(home, "mine").profile
    keys_file = home / "config" / "keys.yaml"

    assert code == 0
    assert models(profile.tiers[0])[0] == "m-1"
    assert profile.tiers[0].base_url == f"{server.url}/v1"
    assert profile.tiers[0].api_key_env is None
    assert [a.provider for a in profile.tiers[0].alternates] == ["gemini", "openai"]
    assert [tier.name for tier in profile.tiers] == ["primary", "secondary", "minimal", "rules"]
    assert "typed-unseen" in keys_file.read_text()
    assert stat.S_IMODE(keys_file.stat().st_mode) == 0o600
    assert b"unseen" not in terminal.raw
    assert any("primary" in line and "healthy" in line for line in terminal.lines)
    assert not (home / "data").exists()


def test_enter_at_every_question(home):
    """Enter takes what is proposed: without keys no vendor, the local model, no download."""
    terminal = Terminal(home, "profile", "init", rows=60, **NOWHERE)
    for question in ("[default]", "[0]", "[2]", "[y/N]"):
        terminal.until(question)
        terminal.type("\r")

    assert terminal.run() == 0
    assert [tier.name for tier in written(home).profile.tiers] == ["minimal", "rules"]
    assert written(home).profile.tiers[0].prompt == "simplified"


@pytest.mark.parametrize("key", ["n\r", "\x03", "\x04"])
def test_declined(home, key):
    """No to replacing, Ctrl-C and Ctrl-D leave everything as it was, without a traceback."""
    path = home / "config" / "profiles" / "default.yaml"
    path.parent.mkdir(parents=True)
    path.write_text("# precious\n")
    terminal = Terminal(home, "profile", "init", "--name", "default")
    terminal.until("Replace it? [y/N]")
    terminal.type(key)
    code = terminal.run()

    assert code == (1 if key == "n\r" else 130)
    assert path.read_text() == "# precious\n"
    assert [entry.name for entry in path.parent.iterdir()] == ["default.yaml"]
    assert "Traceback" not in "\n".join(terminal.lines)


def test_an_address_that_is_wrong_is_told(home):
    """What was typed is checked like any profile: the mistake is told with its place."""
    terminal = Terminal(home, "profile", "init", "--name", "x", "--local", "none", rows=40)
    terminal.until("[0]")
    terminal.type("server\r")
    terminal.until("address")
    terminal.type("no-address\r")
    terminal.until("Its model")
    terminal.type("m\r")
    terminal.until("The variable")
    terminal.type("\r")

    assert terminal.run() == 2
    assert any("x.yaml:" in line for line in terminal.lines)
    assert ErrorKind.UNEXPECTED not in "\n".join(terminal.lines)
