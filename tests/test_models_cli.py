"""`tieredllm models` lists, pulls, verifies, removes and finds model files."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys

import msgspec
import pytest
from hub_support import FakeHub
from local_support import write_gemma
from typer.testing import CliRunner

from tieredllm.cli import environment, models
from tieredllm.errors import ModelFileError, UsageError
from tieredllm.local.progress import Progress

OWN = """
models:
  - {name: tiny, description: Tiny, licence: MIT, file: tiny.gguf, size_bytes: 380000,
     context_tokens: 1024, sources: [{hub: someone/tiny-GGUF, file: t.gguf}]}
"""


@pytest.fixture
def server(tmp_path):
    made = FakeHub()
    made.files["someone/tiny-GGUF", "t.gguf"] = write_gemma(tmp_path / "t.gguf").read_bytes()
    yield made
    made.close()


@pytest.fixture
def home(tmp_path):
    root = tmp_path / "home"
    (root / "config").mkdir(parents=True)
    (root / "config" / "models.yaml").write_text(OWN)
    return root


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def run(home, server):
    """Give a function that runs one command and gives stdout, stderr and what was raised."""

    def command(*arguments, terminal=False, quiet=False, stdin=None):
        out = Terminal() if terminal else io.StringIO()
        err = Terminal() if terminal else io.StringIO()
        environment.use(
            environment.Environment(
                env={
                    "TIEREDLLM_HOME": str(home),
                    "HF_ENDPOINT": server.endpoint,
                    "NO_COLOR": "1",
                    "HOME": str(home),
                    "OLLAMA_MODELS": str(home),
                },
                stdin=stdin or io.StringIO(),
                stdout=out,
                stderr=err,
                quiet=quiet,
            )
        )
        try:
            result = CliRunner().invoke(models.app, arguments)
        finally:
            environment._current.set(None)
        error = result.exception
        if error is not None and not isinstance(error, ModelFileError | UsageError | SystemExit):
            raise error
        return out.getvalue(), err.getvalue(), error

    return command


def test_list_is_plain_in_a_pipe(run, home):
    """Without a terminal each model is a line of fields separated by tabs."""
    out, err, error = run("list")
    rows = [line.split("\t") for line in out.splitlines()]

    assert [row[0] for row in rows] == [
        "smollm2-135m",
        "gemma-2-2b-it",
        "qwen3-4b-instruct",
        "gemma-2b-it",
        "gemma-3-1b-it",
        "tiny",
    ]
    assert rows[0] == ["smollm2-135m", "to pull", "98 MB", "Q4_1", "8192", "-"]
    assert (err, error) == ("", None)
    assert not (home / "data").exists()


def test_list_has_a_heading_on_a_terminal(run):
    """On a terminal the list is a table."""
    out, _, _ = run("list", terminal=True)

    assert out.splitlines()[0].split() == ["model", "where", "size", "quant", "context", "fits"]
    assert "smollm2-135m" in out


def test_a_model_is_pulled_used_and_removed(run, home):
    """The whole life of a model file."""
    path = home / "data" / "models" / "tiny.gguf"
    out, err, error = run("pull", "tiny")
    assert (out, error) == ("", None)
    assert err.splitlines()[:2] == ["downloading tiny", "verifying tiny"]
    assert f"tiny is installed and verified: {path}" in err
    assert "licence: MIT" in err

    _, err, _ = run("pull", "tiny")
    assert f"tiny is already installed and verified: {path}" in err

    out, _, _ = run("list")
    assert "tiny\tinstalled\t0 MB\t-\t1024\tyes" in out.splitlines()

    out, _, _ = run("verify")
    assert out.startswith("tiny\n  SHA-256 ")
    assert out.splitlines()[0] == run("verify", "tiny")[0].splitlines()[0]

    assert f"{path}\n" == run("path", "tiny")[0]

    out, err, error = run("rm", "tiny", "--yes")
    assert (out, err, error) == ("", "tiny is removed; 0 MB are free again\n", None)
    assert list(path.parent.iterdir()) == []


def test_a_pull_is_quiet_when_asked(run):
    """With `-q` a pull that works says nothing."""
    assert run("pull", "tiny", quiet=True) == ("", "", None)


def test_a_pull_shows_a_bar_on_a_terminal(run):
    """On a terminal a bar comes and goes, and stdout stays empty."""
    out, err, error = run("pull", "tiny", terminal=True)

    assert (out, error) == ("", None)
    assert "downloading tiny" in err
    assert "is installed and verified" in err


def test_a_model_that_does_not_load_is_told_at_the_pull(run, server, tmp_path):
    """A verified file that llama.cpp rejects is said to be of no use, at once."""
    data = server.files["someone/tiny-GGUF", "t.gguf"]
    server.files["someone/tiny-GGUF", "t.gguf"] = data.replace(b"blk.1.ffn_down", b"blk.1.ffn_lost")
    _, err, error = run("pull", "tiny")

    assert error is None
    assert "it cannot be used as things are: tiny.gguf cannot be loaded by llama.cpp" in err


def test_failures_are_errors_of_ours(run, server):
    """Unknown names, gated models and absent files are reported as model file errors."""
    server.refusals["someone/tiny-GGUF"] = (401, "GatedRepo")
    for arguments, words in [
        (("pull", "nope"), "'nope' is not in the catalog"),
        (("pull", "tiny"), "accept its licence"),
        (("verify", "tiny"), "tiny is not on this machine"),
        (("path", "tiny"), "run `tieredllm models pull tiny`"),
        (("rm", "tiny"), "tiny is not installed"),
    ]:
        out, _, error = run(*arguments)
        assert isinstance(error, ModelFileError), arguments
        assert words in str(error)
        assert out == ""


def test_a_damaged_file_fails_the_verification(run, home):
    """Damage is reported after the sound files, and fails the command."""
    run("pull", "tiny", quiet=True)
    path = home / "data" / "models" / "tiny.gguf"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    _, _, error = run("verify")

    assert isinstance(error, ModelFileError)
    assert "has the SHA-256" in str(error)


@pytest.mark.parametrize("amx", [True, False])
def test_verify_says_how_kernels_for_amx_are_mended(run, monkeypatch, amx):
    """Where repacked weights crash on a processor with AMX, the command that helps is told."""
    from tieredllm.local import machine, pull
    from tieredllm.local.ladder import Rates, Trial

    run("pull", "tiny")
    verify = pull.verify
    trials = (
        Trial(rung="plain", rates=Rates(load_s=1.0, prompt_tps=9.0, decode_tps=9.0)),
        Trial(rung="repacked", fault="SIGSEGV: no message"),
    )

    def crashed(model, **places):
        found = verify(model, **places)
        validated = msgspec.structs.replace(found.validated, trials=trials)
        return msgspec.structs.replace(found, validated=validated)

    monkeypatch.setattr(pull, "verify", crashed)
    monkeypatch.setattr(machine, "has_amx", lambda: amx)
    out, _, _ = run("verify", "tiny")

    assert "weights repacked: not usable here (SIGSEGV" in out
    assert ("CXXFLAGS=-fno-dse pip install --force-reinstall" in out) == amx


def test_verify_without_models_says_so(run):
    """With nothing installed there is nothing wrong, and a word on how to get a model."""
    out, err, error = run("verify")

    assert (out, error) == ("", None)
    assert "no model is installed" in err


def test_removing_without_a_terminal_needs_yes(run, home):
    """Nothing is removed unasked: without a terminal `--yes` is needed."""
    run("pull", "tiny", quiet=True)
    _, _, error = run("rm", "tiny")

    assert isinstance(error, UsageError)
    assert (home / "data" / "models" / "tiny.gguf").exists()


def test_the_models_directory_is_told(run, home):
    """`path` alone prints where files are kept, whether or not it exists."""
    assert (f"{home}/data/models\n", "", None) == run("path")


def test_a_slow_pull_tells_rate_and_time_left():
    """A line of progress has how much, how fast, and how long it will take."""
    assert (
        models._line(
            Progress(step="download", done_bytes=250_000_000, total_bytes=1_000_000_000), 50_000_000
        )
        == "250 MB of 1.00 GB, 50.0 MB/s, 15 s left"
    )
    assert models._line(Progress(step="download", done_bytes=5_000_000), 0) == "5 MB"


def test_ctrl_c_leaves_a_part_to_go_on_from(home, server, tmp_path):
    """An interrupted pull on a real terminal shows a bar, keeps its part, and goes on from it."""
    code = """
import sys, time
from tieredllm.local import hub
from tieredllm.cli.models import app
real = hub._continue
def slow(client, found, part, progress):
    def report(step):
        progress(step)
        time.sleep(0.05)
        if step.done_bytes > 100_000:
            time.sleep(30)
    real(client, found, part, report)
if sys.argv[1] == "slow":
    hub._continue = slow
sys.exit(app(["pull", "tiny"], standalone_mode=False))
"""
    main, side = pty.openpty()
    env = {
        **os.environ,
        "TIEREDLLM_HOME": str(home),
        "HF_ENDPOINT": server.endpoint,
        "TERM": "xterm",
    }
    process = subprocess.Popen(
        [sys.executable, "-c", code, "slow"],
        stdin=side,
        stdout=side,
        stderr=side,
        env=env,
        start_new_session=True,
    )
    os.close(side)
    part = home / "data" / "models" / "tiny.gguf.part"
    shown = b""
    while not (part.exists() and part.stat().st_size > 100_000 and b"downloading tiny" in shown):
        shown += os.read(main, 65536)
    process.send_signal(2)
    assert process.wait(10) == 130
    os.close(main)
    size = part.stat().st_size
    assert size > 100_000

    done = subprocess.run(
        [sys.executable, "-c", code, "fast"], env=env, capture_output=True, text=True, check=True
    )
    assert f"going on after {size:,} of" in done.stderr
    assert not part.exists()


def test_every_command_and_option_has_help():
    """Each command says what it does, and so does each of its parameters."""
    import typer

    group = typer.main.get_command(models.app)
    assert set(group.commands) == {
        "list", "find", "show", "pull", "add", "verify", "rm", "path",
    }  # fmt: skip
    for command in group.commands.values():
        assert command.help
        assert all(parameter.help for parameter in command.params)
