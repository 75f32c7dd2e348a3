"""`ask`, as a process: pipes, terminals, JSON, files, odd input, and the exit codes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cli_support import (
    REFUSED,
    Terminal,
    answering,
    cli,
    environment,
    install_model,
    profile,
    served,
    tieredllm,
    two_clouds,
)
from wire_support import KEY, STREAM_HEAD, answers, chunk, event, opens, response, says

from tieredllm.cli.environment import discard


@pytest.fixture
def home(tmp_path):
    """Give the user's directories."""
    return tmp_path / "user"


def test_into_a_pipe(home):
    """Into a pipe goes the answer alone, with exactly one line end; nothing on stderr."""
    with served(answering("The sky scatters blue light.\n\n")) as server:
        done = cli(home, "-p", two_clouds(home, server.url + "/v1"), "ask", "why", "blue?")

    assert (done.returncode, done.stdout) == (0, b"The sky scatters blue light.\n")
    assert done.stderr == b""
    sent = server.requests[0].json
    assert sent["messages"] == [{"role": "user", "content": "why blue?"}]


def test_from_a_pipe(home):
    """Piped text joins the prompt: the text, a blank line, the question."""
    with served(answering("ok")) as server:
        cli(home, "-p", two_clouds(home, server.url + "/v1"), "ask", "what?", stdin=b"a\nb\n")

    assert server.requests[0].json["messages"][0]["content"] == "a\nb\n\nwhat?"


@pytest.mark.parametrize("args", [["-"], []])
def test_the_prompt_from_stdin(home, args):
    """`-`, or no prompt at all, makes stdin the prompt."""
    with served(answering("ok")) as server:
        done = cli(
            home, "-p", two_clouds(home, server.url + "/v1"), "ask", *args, stdin=b"why blue?\n"
        )

    assert done.returncode == 0
    assert server.requests[0].json["messages"][0]["content"].strip() == "why blue?"


@pytest.mark.parametrize("stdin", [b"", b" \n\t\n"])
def test_empty_input(home, stdin):
    """Empty input is exit 2, one line, and no request."""
    with served(answering("ok")) as server:
        done = cli(home, "-p", two_clouds(home, server.url + "/v1"), "ask", stdin=stdin)

    assert done.returncode == 2
    assert done.stderr.decode().count("\n") == 1
    assert b"nothing to ask" in done.stderr
    assert server.connections == 0


def test_no_prompt_on_a_terminal(home):
    """Without a prompt on a terminal, help is printed and the exit code is 2."""
    terminal = Terminal(home, "ask", rows=90)

    assert terminal.run() == 2
    assert "Usage: tieredllm ask" in terminal.lines[0]


def test_ten_megabytes(home):
    """Ten megabytes on stdin are cut to the context; head, tail and the question stay."""
    text = b"first line\n" + b"x" * 99 + b"\n"
    text = text + b"middle\n" * 1_500_000 + b"last line\n"
    with served(answering("long")) as server:
        done = cli(home, "-p", two_clouds(home, server.url + "/v1"), "ask", "sum up", stdin=text)

    assert done.stdout == b"long\n"
    content = server.requests[0].json["messages"][0]["content"]
    assert content.startswith("first line\n")
    assert content.endswith("last line\n\nsum up")
    assert "characters left out here" in content
    assert len(content) < 1_000_000
    assert b"the piped text is cut to fit" in done.stderr


def test_bytes_that_are_not_utf8(home):
    """Bytes that are not UTF-8 are replaced, with a one-line warning."""
    with served(answering("ok")) as server:
        done = cli(
            home, "-p", two_clouds(home, server.url + "/v1"), "ask", "what?", stdin=b"a\xff\xfeb"
        )

    assert done.returncode == 0
    assert server.requests[0].json["messages"][0]["content"] == "a��b\n\nwhat?"
    assert done.stderr.decode().count("\n") == 1
    assert b"stdin is not UTF-8 (byte 1)" in done.stderr


def test_files(home, tmp_path):
    """Files are named and put before the question, after piped text."""
    (tmp_path / "a.txt").write_text("alpha\n")
    with served(answering("ok")) as server:
        url = two_clouds(home, server.url + "/v1")
        cli(home, "-p", url, "ask", "-f", "a.txt", "what?", stdin=b"piped", cwd=tmp_path)

    content = server.requests[0].json["messages"][0]["content"]
    assert content == "piped\n\n[file: a.txt]\nalpha\n\nwhat?"


def test_a_file_that_is_not_there(home):
    """A file that cannot be read is exit 2 and one line that names it."""
    done = cli(home, "ask", "-f", "/nowhere/x.txt", "what?")

    assert done.returncode == 2
    assert done.stderr == b"tieredllm: cannot read /nowhere/x.txt: No such file or directory\n"


JSON_FIELDS = {
    *("request_id", "text", "tier", "fallback_level", "fallback_used", "provider", "model_used"),
    *("latency_ms", "first_token_ms", "finish_reason", "truncated", "usage", "original_error"),
    *("ref_code", "intent", "error", "attempts"),
}


def test_json(home):
    """`--json` prints one object with the documented fields."""
    with served(response(503, {"error": {"message": "down"}})) as bad, served(answering("x")) as ok:
        path = two_clouds(home, bad.url + "/v1", ok.url + "/v1")
        done = cli(home, "-p", path, "ask", "--json", "why?")
    answer = json.loads(done.stdout)

    assert done.returncode == 0
    assert set(answer) >= JSON_FIELDS
    assert (answer["text"], answer["tier"], answer["fallback_level"]) == ("x", "secondary", 1)
    assert answer["usage"] == {"prompt_tokens": 12, "completion_tokens": 3}
    assert answer["original_error"].startswith("primary: service_unavailable (503)")
    failed, ok_attempt = answer["attempts"]
    assert failed["error"]["kind"] == "service_unavailable"
    assert failed["error"]["status"] == 503
    assert ok_attempt["outcome"] == "ok"


def test_json_and_the_line_on_stderr(home):
    """With `--json` too a line on stderr names the answering tier and why; `-q` hides it."""
    with served(answering("x")) as ok:
        path = two_clouds(home, REFUSED, ok.url + "/v1")
        told = cli(home, "-p", path, "ask", "--json", "why?")
        quiet = cli(home, "-q", "-p", path, "ask", "--json", "why?")

    assert told.stderr.startswith(b"tieredllm: answered by secondary (m-1) after primary: connect")
    assert told.stderr.count(b"\n") == 1
    assert quiet.stderr == b""


def test_json_loses_nothing_in_a_poor_encoding(home):
    """Characters that stdout's encoding lacks are escaped in JSON, not replaced."""
    with served(answering("Grüße €")) as ok:
        path = two_clouds(home, ok.url + "/v1")
        done = cli(home, "-p", path, "ask", "--json", "why?", PYTHONIOENCODING="ascii")

    assert done.stdout.isascii()
    assert json.loads(done.stdout)["text"] == "Grüße €"


def test_json_on_failure(home):
    """On failure the object has a null text and the error, and the exit code is 1."""
    path = two_clouds(home, REFUSED)
    done = cli(home, "-p", path, "ask", "--json", "--require-llm", "why?")
    answer = json.loads(done.stdout)

    assert done.returncode == 1
    assert answer["text"] is None
    assert answer["error"]["kind"] == "connection"


def test_failure_in_words(home):
    """Without JSON every tier's error is listed on stderr, and stdout stays empty."""
    path = two_clouds(home, REFUSED, REFUSED)
    done = cli(home, "-p", path, "ask", "--require-llm", "why?")

    assert (done.returncode, done.stdout) == (1, b"")
    errors = done.stderr.decode()
    assert errors.index("primary") < errors.index("secondary")
    assert "Traceback" not in errors


def test_a_rule_answer_goes_into_no_pipe_unasked(home):
    """A rule answer is exit 3 and on stderr, where no program takes it for a model's."""
    path = two_clouds(home, REFUSED)
    done = cli(home, "-p", path, "ask", "hello")
    streamed = cli(home, "-p", path, "ask", "--stream", "hello")
    allowed = cli(home, "-p", path, "ask", "--allow-rules", "hello")
    told = cli(home, "-p", path, "ask", "--json", "hello")

    for silent in (done, streamed):
        assert (silent.returncode, silent.stdout) == (3, b"")
        assert b"REF-" in silent.stderr
        assert b"answered by rules after primary: connection" in silent.stderr
    assert allowed.returncode == told.returncode == 3
    assert b"REF-" in allowed.stdout
    assert allowed.stderr.decode().count("\n") == 1
    assert json.loads(told.stdout)["tier"] == "rules"


def test_a_rule_answer_shows_on_a_terminal(home):
    """Whoever reads the screen sees that it is a limited answer; the code says so too."""
    terminal = Terminal(home, "-p", two_clouds(home, REFUSED), "ask", "hello")

    assert terminal.run() == 3
    assert b"REF-" in terminal.raw


def test_a_profile_may_take_a_rule_answer_for_none(home):
    """`require_llm: true` makes the rules no answer, unless the command allows them."""
    path = two_clouds(home, REFUSED)
    Path(path).write_text(Path(path).read_text() + "require_llm: true\n")
    done = cli(home, "-p", path, "ask", "hello")
    allowed = cli(home, "-p", path, "ask", "--allow-rules", "hello")
    both = cli(home, "-p", path, "ask", "--allow-rules", "--require-llm", "hello")

    assert (done.returncode, done.stdout) == (1, b"")
    assert b"no complete answer" in done.stderr
    assert (allowed.returncode, both.returncode) == (3, 2)
    assert b"REF-" in allowed.stdout


def alternates(*urls):
    """Give a profile of one tier whose alternates have a model and a server each."""
    own, *others = (
        f"{{provider: openai, model: m-{n}, base_url: '{url}', api_key_env: null}}"
        for n, url in enumerate(urls, start=1)
    )
    return (
        f"name: t\ntiers:\n  - {{name: primary, {own[1:-1]}, retries: 0,"
        f" alternates: [{', '.join(others)}]}}\n  - {{name: rules, provider: rules}}\n"
    )


def test_an_alternate_that_answers_is_named(home):
    """Another model than the first configured one is told, with what the first one did."""
    with served(answering("x")) as server:
        path = profile(home, alternates(REFUSED, server.url + "/v1"))
        done = cli(home, "-p", path, "ask", "hi")
        alone = cli(home, "-p", path, "ask", "--no-fallback", "hi")

    assert (done.returncode, done.stdout) == (0, b"x\n")
    assert b"answered by primary" in done.stderr
    assert b"after primary (m-1): connection" in done.stderr
    assert (alone.returncode, alone.stdout) == (1, b"")
    assert b"m-2" not in alone.stderr


def test_every_backend_that_failed_is_named(home):
    """When a tier's alternates fail too, the first one's failure is not hidden by the last's."""
    with served(response(401, {"error": {"message": "no"}})) as server:
        done = cli(
            home,
            "-p",
            profile(home, alternates(REFUSED, server.url + "/v1")),
            "ask",
            "--require-llm",
            "hi",
        )

    assert done.returncode == 1
    assert b"primary (openai m-1): connection" in done.stderr
    assert b"primary (openai m-2): authentication" in done.stderr


UNCONFIGURED = (
    "name: t\ntiers:\n  - {{name: a, provider: openai, model: m-0}}\n"
    "  - {{name: local, provider: llama_cpp, model: /nowhere/x.gguf}}\n"
    "  - {{name: b, provider: openai, model: m-1, base_url: '{url}', api_key_env: null}}\n"
    "  - {{name: rules, provider: rules}}\n"
)


def test_what_is_not_configured_is_silent(home):
    """The first configured tier answers without a word; a file that is not there is no failure."""
    with served(answering("x")) as server:
        path = profile(home, UNCONFIGURED.format(url=server.url + "/v1"))
        done = cli(home, "-p", path, "ask", "hi")
        told = json.loads(cli(home, "-p", path, "ask", "--json", "hi").stdout)

    assert (done.returncode, done.stderr) == (0, b"")
    assert [it["outcome"] for it in told["attempts"]] == ["skipped", "skipped", "ok"]
    assert told["attempts"][1]["skip"]["why"] == "not_configured"


def test_a_chosen_model_whose_file_is_missing_is_wrong_usage(home):
    """`-m` with a file that is not there, or a name nobody knows, is exit 2, and named."""
    path = profile(home, UNCONFIGURED.format(url=REFUSED))
    for model in ("my/nofile.gguf", "smollm2-135m", "no-such-model"):
        done = cli(home, "-p", path, "ask", "-m", f"local={model}", "hi")

        assert (done.returncode, done.stdout) == (2, b"")
        assert model.encode() in done.stderr
        assert done.stderr.count(b"\n") <= 3


def test_a_dry_run_shows_a_parameter_of_zero(home):
    """A temperature and a seed of 0 are sent, and so they are shown; a penalty of 0 is none."""
    path = two_clouds(home, REFUSED)
    done = cli(
        home, "-p", path, "ask", "--dry-run", "-o", "temperature", "0", "-o", "seed", "0", "?"
    )

    first = done.stdout.decode().partition("---")[0]
    assert "temperature 0" in first
    assert "seed 0" in first
    assert "penalty" not in first


def test_a_dry_run_tells_what_each_tier_would_be_sent(home):
    """`--dry-run` asks nobody: it prints each tier's messages and parameters."""
    with served(answering("x")) as server:
        path = two_clouds(home, server.url + "/v1", server.url + "/v1")
        done = cli(home, "-p", path, "ask", "--dry-run", "-s", "be kind", "why?")
        told = json.loads(cli(home, "-p", path, "ask", "--dry-run", "--json", "why?").stdout)
        asked = server.requests

    assert (done.returncode, asked) == (0, [])
    assert b"=== primary: openai m-1\n" in done.stdout
    assert b"--- system\nbe kind\n--- user\nwhy?\n" in done.stdout
    assert b"=== rules: rules\nis sent nothing" in done.stdout
    assert [tier["tier"] for tier in told["tiers"]] == ["primary", "secondary", "rules"]
    assert told["tiers"][0]["messages"] == [{"role": "user", "content": "why?"}]
    assert told["tiers"][0]["params"]["max_tokens"]


def test_what_is_left_out_is_told_once(home):
    """A text that is cut is said once on stderr, and counted in the JSON, retries or not."""
    plays = [response(503, {"error": {"message": "down"}}), answers("openai", "x")] * 2

    async def play(connection):
        await connection.send(plays.pop(0))

    with served(play) as server:
        path = two_clouds(home, server.url + "/v1")
        Path(path).write_text(Path(path).read_text().replace("retries: 0", "retries: 1"))
        text = b"word " * 500_000
        done = cli(home, "-p", path, "ask", "why?", stdin=text)
        told = json.loads(cli(home, "-p", path, "ask", "--json", "why?", stdin=text).stdout)

    assert done.returncode == 0
    assert done.stderr.count(b"the piped text is cut to fit") == 1
    assert told["left_out"]["history_messages"] == 0
    assert told["left_out"]["attached_tokens"] > 100_000


def test_quiet(home):
    """`-q` hides the line about the answering tier."""
    done = cli(home, "-p", two_clouds(home, REFUSED), "ask", "-q", "hello")

    assert done.returncode == 3
    assert done.stderr.startswith(b"Hello!")
    assert b"tieredllm" not in done.stderr


def test_a_cut_stream_leaves_no_trace_in_a_pipe(home):
    """What a dying stream said never reaches a pipe."""
    half = STREAM_HEAD + b"".join(chunk(e) for e in [*opens("openai"), says("openai", "half an")])

    async def cut(connection):
        await connection.send(half)
        await connection.reset()

    with served(cut) as dying, served(answering("whole")) as ok:
        path = two_clouds(home, dying.url + "/v1", ok.url + "/v1")
        done = cli(home, "-p", path, "ask", "why?")

    assert done.stdout == b"whole\n"
    assert b"stream_interrupted" in done.stderr


def test_a_cut_stream_on_a_terminal(home):
    """On a terminal a line says that the stream died, and the next answer starts below it."""
    half = STREAM_HEAD + b"".join(chunk(e) for e in [*opens("openai"), says("openai", "half an")])

    async def cut(connection):
        await connection.send(half)
        await asyncio.sleep(0.3)
        await connection.reset()

    with served(cut) as dying, served(answering("whole")) as ok:
        path = two_clouds(home, dying.url + "/v1", ok.url + "/v1")
        terminal = Terminal(home, "-p", path, "ask", "why?")
        code = terminal.run()

    assert code == 0
    assert terminal.lines[0] == "half an"
    assert "stream_interrupted" in terminal.lines[1]
    assert terminal.lines[2] == "whole"


def test_markdown_on_a_terminal(home):
    """On a terminal Markdown is rendered; with `--raw` it is not."""
    with served(answering("# Title\n\nSome **bold** text.")) as server:
        path = two_clouds(home, server.url + "/v1")
        rendered = Terminal(home, "-p", path, "ask", "why?")
        rendered.run()
        raw = Terminal(home, "-p", path, "ask", "--raw", "why?")
        raw.run()

    assert any("Some bold text." in line for line in rendered.lines)
    assert "Some **bold** text." in raw.lines


@pytest.mark.parametrize("extra", [{"NO_COLOR": "1"}, {"TERM": "dumb"}, {}])
def test_control_characters_never_reach_a_terminal(home, extra):
    """Escape sequences in a model's answer are taken out on a terminal."""
    evil = "a\x1b]52;c;ZXZpbA==\x07b\x1b[31mc\x9b2Jd"
    with served(answering(evil)) as server:
        terminal = Terminal(home, "-p", two_clouds(home, server.url + "/v1"), "ask", "?", **extra)
        assert terminal.run() == 0

    assert b"\x1b]52" not in terminal.raw
    assert b"\x1b[31m" not in terminal.raw
    assert b"\x9b2J".decode("latin-1").encode() not in terminal.raw
    if extra:
        assert b"\x1b[3" not in terminal.raw


def test_stream_into_a_pipe(home):
    """`--stream` prints into a pipe as the text comes."""

    async def slow(connection):
        await connection.send(STREAM_HEAD + b"".join(chunk(e) for e in opens("openai")))
        await connection.send(chunk(says("openai", "first\n")))
        await connection.gone()

    with (
        served(slow) as server,
        subprocess.Popen(
            tieredllm("-p", two_clouds(home, server.url + "/v1"), "ask", "--stream", "why?"),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment(home),
        ) as process,
    ):
        assert os.read(process.stdout.fileno(), 100) == b"first"
        process.kill()


def test_extract(home):
    """`-x` prints the first fenced code block alone; without one the exit code is 1."""
    with served(answering("Here:\n\n```python\nprint(1)\n```\nDone.")) as server:
        done = cli(home, "-p", two_clouds(home, server.url + "/v1"), "ask", "-x", "code?")
    assert (done.returncode, done.stdout) == (0, b"print(1)\n")

    with served(answering("No code here.")) as server:
        done = cli(home, "-p", two_clouds(home, server.url + "/v1"), "ask", "-x", "code?")
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"No code here." in done.stderr
    assert b"no code block" in done.stderr


def test_usage(home):
    """`-u` prints tokens and time on stderr."""
    with served(answering("x")) as server:
        done = cli(home, "-p", two_clouds(home, server.url + "/v1"), "ask", "-u", "why?")

    assert b"12 prompt + 3 completion tokens" in done.stderr


@pytest.mark.parametrize(
    ("given", "own", "advice"),
    [
        (1000, 512, b"cut at max_tokens (1000): `-o max_tokens 2000`"),
        (1200, 512, b"cut at max_tokens (1200): `-o max_tokens 2048`"),
        (4096, 512, b"(2048): `-o` allows no more; `max_tokens` in the params of tier primary"),
        (2048, 3000, b"cut at max_tokens (2048): `-o max_tokens 3000`"),
        (9000, 3000, b"cut at max_tokens (3000): `-o` allows no more"),
    ],
)
def test_what_is_said_to_allow_more_does(home, given, own, advice):
    """A request's own limit is at most half the tier's context, or what the tier itself allows."""
    extra = f", context_tokens: 4096, params: {{max_tokens: {own}}}"
    with served(answers("openai", "half", reason="length")) as server:
        used = two_clouds(home, server.url + "/v1", extra=extra)
        done = cli(home, "-p", used, "ask", "-o", "max_tokens", str(given), "why?")

    assert advice in done.stderr


def test_truncated_is_said(home):
    """An answer cut at `max_tokens` is given, with exit 3 and what allows more."""
    with served(answers("openai", "half", reason="length")) as server:
        done = cli(home, "-p", two_clouds(home, server.url + "/v1"), "ask", "why?")

    assert (done.returncode, done.stdout) == (3, b"half\n")
    assert b"cut at max_tokens" in done.stderr
    assert b"-o max_tokens" in done.stderr


@pytest.mark.parametrize(
    ("text", "code", "stdout"),
    [
        ("```sh\ncp -r dist /srv/", 1, b""),
        ("```sh\nls\n```\nThen run", 3, b"ls\n"),
        ("words", 1, b""),
    ],
)
def test_half_a_script_is_not_extracted(home, text, code, stdout):
    """`-x` writes nothing of a block that is not whole; one that ends before the cut is whole."""
    with served(answers("openai", text, reason="length")) as server:
        done = cli(home, "-p", two_clouds(home, server.url + "/v1"), "ask", "-x", "why?")

    assert (done.returncode, done.stdout) == (code, stdout)
    assert text.splitlines()[0].encode() in done.stderr or code == 3


def test_a_stream_into_a_pipe_that_broke_off_is_no_success(home):
    """What `--stream` has written cannot be taken back: it is said, and exit 1."""
    half = STREAM_HEAD + b"".join(chunk(e) for e in [*opens("openai"), says("openai", "half an")])

    async def cut(connection):
        await connection.send(half)
        await connection.reset()

    with served(cut) as dying, served(answering("whole")) as ok:
        path = two_clouds(home, dying.url + "/v1", ok.url + "/v1")
        done = cli(home, "-p", path, "ask", "--stream", "why?")

    assert (done.returncode, done.stdout) == (1, b"half an\nwhole\n")
    assert b"void" in done.stderr


def test_system_model_and_tier(home):
    """`-s`, `-m` and `-t` reach the wire."""
    with served(answering("x")) as server:
        path = two_clouds(home, REFUSED, server.url + "/v1")
        done = cli(
            home, "-p", path, "ask", "-s", "be kind", "-m", "secondary=m-9", "-t", "secondary", "?"
        )
    sent = server.requests[0].json

    assert done.returncode == 0
    assert sent["model"] == "m-9"
    assert sent["messages"][0] == {"role": "system", "content": "be kind"}


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["-t", "nope", "q"], "no tier 'nope'"),
        (["-m", "primary", "q"], "'primary' is a tier, no model: name both"),
        (["-m", "nope=x", "q"], "no tier 'nope' with a model"),
        (["--simulate", "primary=nonsense", "q"], "no fault 'nonsense'"),
        (["--simulate", "nope=timeout", "q"], "no tier 'nope'"),
        (["--deadline", "0", "q"], "--deadline"),
        (["--deadline", "soon", "q"], "--deadline"),
        (["--stream", "--no-stream", "q"], "exclude each other"),
        (["-c", "q"], "no conversation to continue is in the log"),
        (["--cid", "ffff", "q"], "ffff"),
        (["--nope", "q"], "--nope"),
        (["-p", "nope", "q"], "nope"),
    ],
)
def test_wrong_usage(home, args, said):
    """Wrong usage is exit 2 and one line that says what is wrong."""
    done = cli(home, "ask", *args)

    assert done.returncode == 2
    assert said in done.stderr.decode()
    assert done.stderr.decode().count("\n") == 1
    assert done.stdout == b""


def test_continue(home):
    """`-c` sends the turns before; `--cid` does for a conversation that is named."""
    with served(answering("Paris")) as server:
        path = two_clouds(home, server.url + "/v1")
        first = json.loads(cli(home, "-p", path, "ask", "--json", "-s", "brief", "capital?").stdout)
        assert cli(home, "-p", path, "ask", "-c", "and its river?").returncode == 0
        cli(home, "-p", path, "ask", "other topic")
        cli(home, "-p", path, "ask", "--cid", first["request_id"], "and its mayor?")

    continued = server.requests[1].json["messages"]
    assert continued == [
        {"role": "system", "content": "brief"},
        {"role": "user", "content": "capital?"},
        {"role": "assistant", "content": "Paris"},
        {"role": "user", "content": "and its river?"},
    ]
    assert len(server.requests[3].json["messages"]) == 6


def test_no_log(home):
    """`-n` keeps no record of the request."""
    with served(answering("secret answer")) as server:
        path = two_clouds(home, server.url + "/v1")
        cli(home, "-p", path, "ask", "-n", "a secret question")

    for file in (home / "state").rglob("*"):
        assert b"secret" not in file.read_bytes()


def test_no_key_leaves_the_process(home):
    """A key is in no output and in no file, also when a server sends it back."""
    echo = response(401, {"error": {"message": f"Incorrect API key provided: {KEY}"}})
    with served(echo) as server:
        path = profile(
            home,
            "name: t\ntiers:\n"
            f"  - {{name: a, provider: openai, model: m, base_url: '{server.url}/v1'}}\n"
            "  - {name: rules, provider: rules}\n",
        )
        done = cli(home, "-p", path, "ask", "--json", "-v", "why?", OPENAI_API_KEY=KEY)

    assert server.requests[0].headers["authorization"] == f"Bearer {KEY}"
    assert KEY.encode() not in done.stdout + done.stderr
    assert b"OPENAI_API_KEY" in done.stdout
    for file in home.rglob("*"):
        if file.is_file():
            assert KEY.encode() not in file.read_bytes()


def test_a_broken_file_of_keys_is_named(home):
    """When a tier gave way, what is wrong with the file of keys is told."""
    (home / "config").mkdir(parents=True)
    (home / "config" / "keys.yaml").write_text("OPENAI_API_KEY: [")
    done = cli(home, "ask", "hello")

    assert done.returncode == 3
    assert b"keys.yaml:2:1: a value is missing" in done.stderr


@pytest.mark.parametrize("where", ["connect", "stream"])
def test_ctrl_c(home, where):
    """Ctrl-C ends with 130 within a second, whatever is going on."""

    async def silent(connection):
        if where == "stream":
            await connection.send(STREAM_HEAD + b"".join(chunk(e) for e in opens("openai")))
            await connection.send(chunk(says("openai", "word ")))
        await connection.gone()

    with (
        served(silent) as server,
        subprocess.Popen(
            tieredllm("-p", two_clouds(home, server.url + "/v1"), "ask", "why?"),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(home),
        ) as process,
    ):
        give_up = time.monotonic() + 20
        while not server.requests and time.monotonic() < give_up:
            time.sleep(0.01)
        time.sleep(0.1)
        started = time.monotonic()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=10)
        took = time.monotonic() - started

    assert process.returncode == 130
    assert took < 1.0
    assert out == b""
    assert b"Traceback" not in err


def test_a_reader_that_goes_away(home):
    """A closed pipe is silent."""
    with served(answering("x\n" * 100_000)) as server:
        path = two_clouds(home, server.url + "/v1")
        done = subprocess.run(
            f"{sys.executable} -m tieredllm -p {path} ask why | head -1",
            shell=True,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            env=environment(home),
            timeout=30,
            check=False,
        )

    assert done.stdout == b"x\n"
    assert done.stderr == b""


@pytest.mark.parametrize("gone", ["full", "closed"])
def test_remarks_that_cannot_be_written_cost_no_answer(home, gone):
    """Stderr on a full disk, or without a reader, takes neither the answer nor its exit code."""
    if gone == "full":
        stderr = os.open("/dev/full", os.O_WRONLY)
    else:
        other, stderr = os.pipe()
        os.close(other)
    with served(answering("x")) as server:
        done = subprocess.run(
            tieredllm("-v", "-p", two_clouds(home, server.url + "/v1"), "ask", "why?"),
            stdout=subprocess.PIPE,
            stderr=stderr,
            stdin=subprocess.DEVNULL,
            env=environment(home),
            timeout=30,
            check=False,
        )
    os.close(stderr)

    assert (done.returncode, done.stdout) == (0, b"x\n")


def test_a_pipe_is_plain_whatever_is_forced(home):
    """`FORCE_COLOR` is set for whole CI jobs: into a pipe goes the same text as without it."""
    with served(answering("- **x**")) as server:
        path = two_clouds(home, server.url + "/v1")
        for args in (["ask", "-v", "why?"], ["health"], ["log", "show"]):
            forced = cli(home, "-p", path, *args, FORCE_COLOR="1", CLICOLOR_FORCE="1")

            assert b"\x1b" not in forced.stdout + forced.stderr


def test_a_remark_is_dim_and_a_models_own_is_not(home):
    """No line of a model's can be taken for one of the program's."""
    with served(answering("tieredllm: all is well")) as server:
        path = profile(
            home,
            "name: t\ntiers:\n"
            f"  - {{name: a, provider: openai, model: m, base_url: '{REFUSED}',"
            " api_key_env: null}\n"
            f"  - {{name: b, provider: openai, model: m, base_url: '{server.url}/v1',"
            " api_key_env: null}\n",
        )
        terminal = Terminal(home, "-p", path, "ask", "why?", columns=200)
        terminal.run()
    shown = terminal.raw.decode()

    assert "\x1b[2mtieredllm: answered by b" in shown
    assert "\x1b[2mtieredllm: all is well" not in shown
    assert "tieredllm: all is well" in shown


def test_a_stream_that_is_discarded_keeps_no_other_descriptor():
    """What is written to it goes nowhere, and no descriptor is left open for that."""
    read, write = os.pipe()
    stream = os.fdopen(write, "w")
    lowest_free = os.dup(read)
    os.close(lowest_free)

    discard(stream)
    print("lost", file=stream, flush=True)

    assert os.read(read, 9) == b""
    assert os.dup(read) == lowest_free
    os.close(lowest_free)
    stream.close()
    os.close(read)


def test_a_full_disk(home):
    """Output that cannot be written is exit 1 and one line."""
    with served(answering("x")) as server, Path("/dev/full").open("wb") as full:
        path = two_clouds(home, server.url + "/v1")
        done = subprocess.run(
            tieredllm("-p", path, "ask", "why?"),
            stdout=full,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            env=environment(home),
            timeout=30,
            check=False,
        )

    assert done.returncode == 1
    assert b"No space left on device" in done.stderr
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-"])
def test_closed_streams(home, closed):
    """A closed standard stream is no crash."""
    done = subprocess.run(
        f"{sys.executable} -m tieredllm -p {two_clouds(home, REFUSED)} ask hello {closed}",
        shell=True,
        capture_output=True,
        stdin=subprocess.DEVNULL,
        env=environment(home),
        timeout=30,
        check=False,
    )

    assert b"Traceback" not in done.stderr
    if closed != ">&-":
        assert done.returncode == 3
        assert done.stdout == b""


def test_offline_then_without_a_model(home):
    """Without a network the local model answers; without its file, the rules do, with exit 3."""
    model = install_model(home)
    path = profile(
        home,
        "name: t\ntiers:\n"
        f"  - {{name: a, provider: openai, model: m, base_url: '{REFUSED}', api_key_env: null}}\n"
        f"  - {{name: b, provider: gemini, model: m, base_url: '{REFUSED}', api_key_env: null}}\n"
        "  - name: minimal\n    provider: llama_cpp\n    model: smollm2-135m\n    prompt: minimal\n"
        "    params: {max_tokens: 24, temperature: 0}\n"
        "  - {name: rules, provider: rules}\n",
    )
    local = cli(home, "-p", path, "ask", "What is the capital of France?")
    assert local.returncode == 0
    assert b"Paris" in local.stdout
    assert b"answered by minimal (smollm2-135m) after a: connection" in local.stderr

    model.unlink()
    rules = cli(home, "-p", path, "ask", "--json", "What is the capital of France?")
    answer = json.loads(rules.stdout)
    assert rules.returncode == 3
    assert answer["tier"] == "rules"
    assert answer["attempts"][2]["skip"]["why"] == "not_configured"


@pytest.mark.parametrize("command", ["models", "profile", "keys", "rules", "log", "notify"])
def test_help_of_a_group_is_plain(home, command):
    """A group's help has no boxes and no options of the whole program, also on a terminal."""
    terminal = Terminal(home, command, "--help", rows=60)

    assert terminal.run() == 0
    assert terminal.raw.isascii()
    assert b"\x1b" not in terminal.raw
    assert b"--install-completion" not in terminal.raw


@pytest.mark.parametrize("extra", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
@pytest.mark.parametrize("command", ["health", "drill"])
def test_tables_without_colour_are_plain(home, command, extra):
    """Without colours a table on a terminal has no bold and no dim text either."""
    path = two_clouds(home, REFUSED)
    terminal = Terminal(home, "-p", path, command, **extra)
    terminal.run()

    assert b"rules" in terminal.raw
    assert b"\x1b[" not in terminal.raw


def test_nothing_is_written_by_help_and_version(home):
    """`--help` and `--version` write no file."""
    for args in (["--help"], ["--version"], ["ask", "--help"]):
        assert cli(home, *args).returncode == 0

    assert not home.exists()


def test_simulated_faults(home):
    """`--simulate` plays a fault through the real engine, without a network."""
    path = two_clouds(home, REFUSED)
    done = cli(home, "-p", path, "ask", "--simulate", "primary=quota_exhausted", "--json", "hi")
    answer = json.loads(done.stdout)

    assert answer["tier"] == "rules"
    assert answer["attempts"][0]["error"]["kind"] == "quota_exhausted"


def test_deadline_with_a_silent_server(home):
    """`--deadline` ends a silent request in time, with the rule answer."""

    async def silent(connection):
        await connection.gone()

    with served(silent) as server:
        url = server.url + "/v1"
        done = cli(
            home, "-p", two_clouds(home, url, url), "ask", "--deadline", "1", "--json", "hello"
        )
    answer = json.loads(done.stdout)

    assert answer["tier"] == "rules"
    assert answer["latency_ms"] < 1300


def test_events_keep_alive_is_not_a_token(home):
    """A server that only sends keep-alives is silent."""

    async def keep_alive(connection):
        await connection.send(STREAM_HEAD)
        for _ in range(100):
            await connection.send(chunk(b": ping\n\n") + chunk(event({"choices": []})))
            await asyncio.sleep(0.1)

    with served(keep_alive) as server:
        path = two_clouds(
            home, server.url + "/v1", extra=", first_token_timeout_s: 0.5, timeout_s: 0.5"
        )
        done = cli(home, "-p", path, "ask", "--json", "hello")
    answer = json.loads(done.stdout)

    assert answer["attempts"][0]["error"]["kind"] == "timeout"


def test_health_fills_its_table_on_a_terminal(home):
    """The tiers' names are there at once, each one's row as soon as it is known."""

    async def slowly(connection):
        await asyncio.sleep(3)
        await connection.send(response(200, {"data": [{"id": "m-1"}]}))

    with served(slowly) as server:
        terminal = Terminal(home, "-p", two_clouds(home, f"{server.url}/v1"), "health", columns=100)
        terminal.until("healthy")
        early = "\n".join(terminal.lines)
        terminal.run()
        late = "\n".join(terminal.lines)

    assert "…" in early
    assert "m-1" not in early
    assert "m-1" in late
    assert "…" not in late


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["ask", "-t", "nope", "hi"], "has no tier 'nope'"),
        (["ask", "-m", "minimal=typo.gguf", "hi"], "typo.gguf does not exist"),
        (["-p", "nope", "ask", "hi"], "there is no profile `nope`"),
        (["ask", "hi", "--nosuch"], "No such option: --nosuch"),
        (["ask", "hi", "--deadline", "soon"], "'soon' is not a valid float"),
    ],
)
def test_json_is_printed_where_nothing_could_be_asked(home, args, said):
    """A wrong tier, model, profile or option is one object, too; the exit code is 2."""
    done = cli(home, *args, "--json")
    told = json.loads(done.stdout)

    assert done.returncode == 2
    assert (told["text"], told["error"]["kind"], told["attempts"]) == (None, "bad_request", [])
    assert said in told["error"]["message"]
    assert said in done.stderr.decode()


def test_json_tells_of_an_input_that_does_not_end(home):
    """A stdin that is not there by the deadline is an object, too: of kind `deadline`."""
    stdin, other = os.pipe()
    done = subprocess.run(
        tieredllm("ask", "--json", "--deadline", "0.5", "hi"),
        stdin=stdin,
        capture_output=True,
        env=environment(home),
        timeout=30,
        check=False,
    )
    os.close(stdin)
    os.close(other)

    assert (done.returncode, json.loads(done.stdout)["error"]["kind"]) == (1, "deadline")
