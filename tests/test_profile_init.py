"""`profile init`: the questions, the file it writes, and what it never does."""

from __future__ import annotations

import itertools
import stat
from datetime import date

import pytest
from chat_support import talking
from cli_support import Terminal, cli, install_model, served
from profile_support import command
from wire_support import response

from tieredllm.cli.profile_questions import server_at
from tieredllm.files import Places, shipped
from tieredllm.profile.init_template import VENDORS, Choice, Server, draft
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


SERVER = Server(base_url="http://127.0.0.1:8080/v1", model="my: model, #1")
NAMES = (*VENDORS, SERVER)
CHOICES = [
    names for count in range(len(NAMES) + 1) for names in itertools.permutations(NAMES, count)
]


def drafted(tmp_path, **choice):
    """Read back what is written for a choice."""
    text = draft(Choice(name="mine", made_on=date(2026, 1, 2), **choice))
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return text, load(Found(name="mine", path=path, origin="file"), places(tmp_path / "home"))


@pytest.mark.parametrize("local", [None, "gemma-2-2b-it", "smollm2-135m", "/models/own.gguf"])
def test_every_choice_makes_a_sound_profile(tmp_path, local):
    """Whatever is chosen, the text is a profile without mistakes or doubts, and asks just those."""
    for sources in CHOICES:
        text, loaded = drafted(tmp_path, sources=sources, local=local)
        tiers = {tier.name: tier for tier in loaded.profile.tiers}
        vendors = [source for source in sources if source is not SERVER]
        minimal = tiers.pop("minimal", None)
        clouds = {
            backend.provider
            for tier in tiers.values()
            for backend in (tier, *tier.alternates)
            if backend.provider in VENDORS and backend.base_url is None
        }

        assert lint(loaded) == []
        assert clouds == set(vendors)
        assert (minimal.model if minimal else None) == local
        assert list(tiers)[-1] == "rules"
        assert all(len(line) <= 100 for line in text.splitlines())
        if sources:
            first = next(iter(tiers.values()))
            own = (first.base_url, first.model) == (SERVER.base_url, SERVER.model)
            assert own if sources[0] is SERVER else first.provider == sources[0]
        if vendors:
            first, second = tiers["primary"], tiers["secondary"]
            assert [first.provider, *(a.provider for a in first.alternates)] == vendors
            assert second.provider == vendors[1 % len(vendors)]


def test_a_server_and_vendors_keep_their_own_limits(tmp_path):
    """A vendor's tier has not the small context of a server, nor the other way round."""
    for sources in (("openai", SERVER), (SERVER, "openai", "gemini")):
        _, loaded = drafted(tmp_path, sources=sources, local=None)
        tiers = {tier.name: tier for tier in loaded.profile.tiers}

        assert tiers["server"].context_tokens == 4096
        assert tiers["primary"].context_tokens == 1_000_000
        assert tiers["primary"].first_token_timeout_s == 20
        assert tiers["server"].first_token_timeout_s == 60


def test_only_differences_are_written(tmp_path):
    """What the built-in profile says is inherited, so that a later version's models are used."""
    _, everything = drafted(tmp_path, sources=tuple(VENDORS), local="gemma-2-2b-it")
    text, one = drafted(tmp_path, sources=("anthropic",), local="gemma-2-2b-it")
    home = places(tmp_path / "home")

    assert "tiers:" not in text
    for loaded, name in ((everything, "default"), (one, "anthropic")):
        path = shipped("profiles") / f"{name}.yaml"
        theirs = load(Found(name=name, path=path, origin="shipped"), home).profile
        assert loaded.profile.tiers == theirs.tiers
        assert loaded.profile.deadline_s == theirs.deadline_s


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
        *(["primary", "down"], ["secondary", "down"], ["minimal", "not_configured"]),
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
        terminal.until("Its model [m-1]")
        terminal.type("\r")
        terminal.until("The variable with its key")
        terminal.type("\r")
        terminal.until("GEMINI_API_KEY (not shown")
        terminal.type("typed-unseen\r")
        terminal.until("Its number; 0 for none [2]")
        shown = [line.split(maxsplit=4) for line in terminal.lines]
        assert ["2", "gemma-2-2b-it", "1.71", "GB", "Gemma Terms of Use"] in shown
        assert ["1", "smollm2-135m", "98", "MB", "Apache-2.0"] in shown
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
    assert [profile.tiers[1].provider, profile.tiers[1].alternates[0].provider] == [
        *("gemini", "openai")
    ]
    assert [tier.name for tier in profile.tiers] == [
        *("server", "primary", "secondary", "minimal", "rules")
    ]
    assert "typed-unseen" in keys_file.read_text()
    assert stat.S_IMODE(keys_file.stat().st_mode) == 0o600
    assert b"unseen" not in terminal.raw
    assert any("server" in line and "healthy" in line for line in terminal.lines)
    assert not (home / "data").exists()


def test_enter_at_every_question(home):
    """Enter takes what is proposed: without keys no vendor, the local model, no download."""
    terminal = Terminal(home, "profile", "init", rows=60, **NOWHERE)
    for question in ("[default]", "[0]", "[2]", "[y/N]"):
        terminal.until(question)
        terminal.type("\r")

    assert terminal.run() == 0
    assert [tier.name for tier in written(home).profile.tiers] == ["minimal", "rules"]
    assert written(home).profile.tiers[0].prompt == "minimal"


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


def test_each_answer_is_checked_where_it_is_given(home):
    """An address that is none is asked for again; `http://` and `/v1` are added."""
    with talking() as server:
        address = server.url.removeprefix("http://")
        terminal = Terminal(home, "profile", "init", "--name", "x", "--local", "none", rows=60)
        terminal.until("[0]")
        terminal.type("server, openai\r")
        terminal.until("address")
        terminal.type("http://no such host\r")
        terminal.until("has a space or a control character")
        terminal.type("127.0.0.1:9\r")
        terminal.until("nothing answers there (ConnectError)")
        terminal.type("n\r")
        terminal.until(lambda: "\n".join(terminal.lines).count("up to and with /v1") == 3)
        terminal.type(f"{address}\r")
        terminal.until("It has m-1")
        terminal.type("http://x/y\r")
        terminal.until("that is an address, not the name of a model")
        terminal.type("m-2\r")
        terminal.until("It does not list m-2. Take it all the same? [y/N]")
        terminal.type("\r")
        terminal.until(lambda: "\n".join(terminal.lines).count("Its model") == 3)
        terminal.type("\r")
        terminal.until("The variable")
        terminal.type("\r")
        terminal.until("OPENAI_API_KEY (not shown")
        terminal.type("1 4\r")
        terminal.until("that is no key")
        terminal.type("\r")
        code = terminal.run()
    tiers = written(home, "x").profile.tiers

    assert code == 0
    assert (tiers[0].base_url, tiers[0].model) == (f"{server.url}/v1", "m-1")
    assert [tier.name for tier in tiers] == ["server", "primary", "secondary", "rules"]


def test_what_would_have_mistakes_is_not_written(home):
    """The profile in use stays as it was when what it would inherit from is broken."""
    path = home / "config" / "profiles" / "default.yaml"
    path.parent.mkdir(parents=True)
    path.write_text("# precious\n")
    (path.parent / "openai.yaml").write_text("tiers: [\n")
    refused = command("profile", "init", "--yes", "--force", "--vendor", "openai", home=home)

    assert refused.code == 2
    assert "openai.yaml:2:1: a value is missing here" in refused.stderr
    assert path.read_text() == "# precious\n"


def test_a_server_is_a_wish_too(home):
    """`--vendor` takes a server's address, and its first model; one that is not there is told."""
    with talking() as server:
        done = cli(
            *(home, "profile", "init", "--yes", "--local", "none", "--vendor", server.url),
            **NOWHERE,
        )
    gone = command("profile", "init", "--yes", "--vendor", "http://127.0.0.1:9", home=home / "b")
    tier = written(home).profile.tiers[0]

    assert done.returncode == 0
    assert (tier.base_url, tier.model, tier.api_key_env) == (f"{server.url}/v1", "m-1", None)
    assert (gone.code, gone.stdout) == (2, "")
    assert "--vendor http://127.0.0.1:9/v1: nothing answers there" in gone.stderr
    assert not (home / "b").exists()


@pytest.mark.parametrize(
    ("variables", "problem"),
    [
        ({"NO_PROXY": "localhost,[::1]"}, None),
        ({"ALL_PROXY": "ftp://127.0.0.1:9"}, "ALL_PROXY names a proxy that cannot be used"),
        ({"HTTP_PROXY": "http://127.0.0.1:9"}, "nothing answers there (ConnectError)"),
    ],
)
def test_a_server_is_looked_for_on_the_way_its_tier_will_take(monkeypatch, variables, problem):
    """What proxies the environment names is read as for a tier, and never ends the questions."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setenv("TIEREDLLM_PROXY_LOOPBACK", "1")
    with served(response(200, {"object": "list", "data": [{"id": "m-1"}]})) as server:
        found = server_at(f"{server.url}/v1", wait_s=5)

    assert found.models == (("m-1",) if problem is None else ())
    assert (found.problem or "").startswith(problem or "")
