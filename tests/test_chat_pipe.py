"""`chat` without a terminal, as a process: lines in, answers out, and the exit codes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import pytest
from chat_support import talking
from cli_support import (
    REFUSED,
    answering,
    cli,
    environment,
    install_model,
    profile,
    served,
    tieredllm,
    two_clouds,
)
from profile_support import command
from wire_support import KEY, answers, response


@pytest.fixture
def home(tmp_path):
    """Give the user's directories."""
    return tmp_path / "user"


def chat(home, path, stdin, *args, **extra):
    """Run a chat on piped text; give exit code, stdout and stderr."""
    done = cli(home, "-p", path, "chat", *args, stdin=stdin, **extra)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def contents(server, request=-1):
    """Give the messages of a request, as `role: content`."""
    sent = server.requests[request].json["messages"]
    return [f"{message['role']}: {message['content']}" for message in sent]


def test_one_question(home):
    """`echo q | tieredllm chat` answers and exits 0; stdout has the answer alone."""
    with talking() as server:
        result = chat(home, two_clouds(home, server.url + "/v1"), b"why blue?\n")

    assert result == (0, "You said: why blue?\n", "")


def test_line_by_line(home):
    """Each line that is not blank is a question; the conversation goes on from one to the next."""
    lines = b'one\n\n   \n"""\ntwo\n\nthree\n"""\r\n//four\r\nfive'
    with talking() as server:
        code, out, err = chat(home, two_clouds(home, server.url + "/v1"), lines)

    assert (code, err) == (0, "")
    assert out.splitlines() == [
        *("You said: one", "You said: two", "", "three"),
        *("You said: /four", "You said: five"),
    ]
    assert contents(server)[:4] == [
        "user: one",
        "assistant: You said: one",
        "user: two\n\nthree",
        "assistant: You said: two\n\nthree",
    ]


def test_nothing_to_say(home):
    """No question at all is no failure, and no request."""
    with talking() as server:
        assert chat(home, two_clouds(home, server.url + "/v1"), b"\n \n") == (0, "", "")
        assert server.connections == 0


def test_a_file_as_stdin(home, tmp_path):
    """Questions may come from a file, too."""
    (tmp_path / "questions").write_text("one\ntwo\n")
    with talking() as server, (tmp_path / "questions").open("rb") as file:
        done = subprocess.run(
            tieredllm("-p", two_clouds(home, server.url + "/v1"), "chat"),
            stdin=file,
            capture_output=True,
            env=environment(home),
            timeout=30,
            check=False,
        )

    assert (done.returncode, done.stdout) == (0, b"You said: one\nYou said: two\n")


def test_an_answer_comes_before_the_next_question(home):
    """Whoever writes a line gets its answer before they write the next."""
    with (
        talking() as server,
        subprocess.Popen(
            tieredllm("-p", two_clouds(home, server.url + "/v1"), "chat"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment(home),
        ) as process,
    ):
        for word in (b"one", b"two"):
            process.stdin.write(word + b"\n")
            process.stdin.flush()
            assert process.stdout.readline() == b"You said: " + word + b"\n"
        process.stdin.close()
        assert process.wait(10) == 0


def test_a_failed_answer_is_exit_1_and_the_rest_goes_on(home):
    """Every tier's error is listed, later questions are answered, and the code is 1."""
    down = response(503, {"error": {"message": "down"}})
    with talking({"bad": down}) as server:
        path = two_clouds(home, server.url + "/v1")
        code, out, err = chat(home, path, b"bad\ngood\n", "--require-llm")

    assert (code, out) == (1, "You said: good\n")
    assert err.startswith("tieredllm: no complete answer:\n")
    assert "service_unavailable (503)" in err


def test_a_rule_answer_is_less_and_no_turn(home):
    """The rules' answer is exit 3 and on stderr; no model is shown it as its own."""
    down = response(503, {"error": {"message": "down"}})
    with talking({"bad": down}) as server:
        code, out, err = chat(home, two_clouds(home, server.url + "/v1"), b"bad\ngood\n")

    assert (code, out) == (3, "You said: good\n")
    assert "REF-" in err
    assert "tieredllm: answered by rules after primary: service_unavailable" in err
    assert contents(server) == ["user: good"]


def test_the_conversation_carries_across_tiers(home):
    """The next tier gets what the one above said."""
    down = response(503, {"error": {"message": "down"}})
    with talking({"second": down}) as one, talking() as two:
        path = two_clouds(home, one.url + "/v1", two.url + "/v1")
        code, out, err = chat(home, path, b"first\nsecond\n")

    assert code == 0
    assert out.splitlines() == ["You said: first", "You said: second"]
    assert contents(two) == ["user: first", "assistant: You said: first", "user: second"]
    assert "answered by secondary (m-1) after primary" in err


def test_commands_work_in_a_pipe(home, tmp_path):
    """Commands work line by line too; what they say is on stderr."""
    lines = (
        b"one\n/system Be brief.\ntwo\n/undo\nthree\n/tier\n/model\n/usage\n/log\n/help\n"
        b"/save talk.json\n/exit\nnever\n"
    )
    with talking() as server:
        path = two_clouds(home, server.url + "/v1")
        done = cli(home, "-p", path, "chat", stdin=lines, cwd=tmp_path)
    err = done.stderr.decode()

    assert done.returncode == 0
    assert done.stdout.decode().splitlines() == [f"You said: {n}" for n in ("one", "two", "three")]
    assert contents(server) == [
        "system: Be brief.",
        "user: one",
        "assistant: You said: one",
        "user: three",
    ]
    for said in (
        "system prompt set",
        "took back: two",
        "→ primary\topenai m-1",
        "primary\tm-1",
        "3 answers (primary 3)",
        "answered by primary (openai m-1)",
        "/retry [TIER]\t",
        "saved 2 turns to talk.json",
    ):
        assert said in err
    saved = json.loads((tmp_path / "talk.json").read_text())
    assert [message["role"] for message in saved] == [
        *("system", "user", "assistant", "user", "assistant")
    ]


WRONG = {
    "/nope": "no command /nope",
    "/sav x": "did you mean /save?",
    "/etc/hosts": "no command /etc/hosts",
    "/edit": "/edit needs a terminal",
    "/retry": "nothing was asked yet",
    "/retry nope": "no tier 'nope'",
    "/undo": "nothing to take back",
    "/copy": "no answer to copy",
    "/copy x": "nothing or `code`",
    "/log": "nothing was asked yet",
    "/save": "/save FILE",
    "/save x": "nothing to save yet",
    "/load": "/load FILE",
    "/load /nowhere/x": "cannot read /nowhere/x: No such file",
    "/load ~nobody-of-this-name/x": "~nobody-of-this-name",
    "/tier nope": "no tier 'nope': there are primary, rules",
    "/model nope=x": "no tier 'nope'",
    "/model primary=": "which model?",
    "/model rules=x": "tier rules has no model",
}


def test_wrong_commands(home):
    """A wrong command is one line and exit 1, never a message; the session goes on."""
    with talking() as server:
        path = two_clouds(home, server.url + "/v1")
        lines = "\n".join([*WRONG, "still there?"])
        code, out, err = chat(home, path, lines.encode())

    assert (code, out) == (1, "You said: still there?\n")
    assert contents(server) == ["user: still there?"]
    for line, said in zip(err.splitlines(), WRONG.values(), strict=True):
        assert line.startswith("tieredllm: ")
        assert said in line


def test_saving_never_replaces_unasked(home, tmp_path):
    """A file that is there is kept, unless this session wrote it or `-f` says so."""
    (tmp_path / "mine.json").write_text("precious")
    lines = (
        b"one\n/save mine.json\n/save -f mine.json\ntwo\n/save mine.json\n/reset\n/load mine.json\n"
        b"three\n"
    )
    with talking() as server:
        path = two_clouds(home, server.url + "/v1")
        done = cli(home, "-p", path, "chat", stdin=lines, cwd=tmp_path)

    assert done.returncode == 1
    assert b"mine.json is there already: /save -f mine.json replaces it" in done.stderr
    assert b"loaded 2 turns from mine.json" in done.stderr
    assert contents(server) == [
        *("user: one", "assistant: You said: one", "user: two", "assistant: You said: two"),
        "user: three",
    ]


def test_retry_takes_the_place_of_the_answer(home):
    """`/retry` asks the same again, without the answer it had; from a tier of choice, once."""
    with talking() as one, talking({"q": answering("Other.")}) as two:
        path = two_clouds(home, one.url + "/v1", two.url + "/v1")
        code, out, _ = chat(home, path, b"q\n/retry\n/retry secondary\nand?\n")

    assert code == 0
    assert out.splitlines() == ["You said: q", "You said: q", "Other.", "You said: and?"]
    assert contents(one, 1) == ["user: q"]
    assert contents(two)[-1].startswith("user: ")
    assert contents(one, 2) == ["user: q", "assistant: Other.", "user: and?"]


def test_a_retry_that_fails_keeps_the_answer(home):
    """When nothing better comes, the turn stays as it was."""
    with talking() as server:
        path = two_clouds(home, server.url + "/v1")
        lines = b"one\n/tier rules\n/retry\n/tier auto\nthree\n"
        code, out, _ = chat(home, path, lines, "--allow-rules")

    assert code == 3
    assert out.splitlines()[0] == "You said: one"
    assert "REF-" in out
    assert contents(server) == ["user: one", "assistant: You said: one", "user: three"]


def test_options_reach_the_wire(home, tmp_path):
    """`-s`, `-m`, `-t` and `-f` do what they do for `ask`; a file is for the first message."""
    (tmp_path / "a.txt").write_text("alpha\n")
    with talking() as server:
        path = two_clouds(home, REFUSED, server.url + "/v1")
        options = ["-s", "be kind", "-m", "secondary=m-9", "-t", "secondary", "-f", "a.txt", "-u"]
        done = cli(home, "-p", path, "chat", *options, stdin=b"sum up\nmore\n", cwd=tmp_path)

    assert done.returncode == 0
    assert server.requests[0].json["model"] == "m-9"
    assert contents(server, 0) == ["system: be kind", "user: [file: a.txt]\nalpha\n\nsum up"]
    assert contents(server, 1)[1] == "user: [file: a.txt]\nalpha\n\nsum up"
    assert contents(server, 1)[-1] == "user: more"
    assert done.stderr.count(b"12 prompt + 3 completion tokens") == 2


def test_model_and_tier_change_on_the_way(home):
    """`/model` asks another model from then on; `/tier` starts elsewhere, until `auto`."""
    with talking() as one, talking() as two:
        path = two_clouds(home, one.url + "/v1", two.url + "/v1")
        lines = b"a\n/model m-2\nb\n/tier secondary\n/model secondary=m-3\nc\n/tier auto\nd\n"
        code, _, err = chat(home, path, lines)

    assert code == 0
    assert [request.json["model"] for request in one.requests] == ["m-1", "m-2", "m-2"]
    assert [request.json["model"] for request in two.requests] == ["m-3"]
    assert "answered by" not in err.partition("starting at secondary")[0]


def test_a_model_is_asked_in_the_tier_that_fits(home):
    """`/model MODEL` asks it where `-m MODEL` would, and not the first tier's server for it."""
    with talking() as one, talking() as two:
        path = profile(
            home,
            "name: t\ntiers:\n"
            + "".join(
                f"  - {{name: {name}, provider: openai, model: {name}-model,"
                f" base_url: '{server.url}/v1', api_key_env: null}}\n"
                for name, server in (("a", one), ("b", two))
            ),
        )
        code, _, err = chat(home, path, b"one\n/model b-model\ntwo\n/model c-model\nthree\n")

    assert code == 0
    assert [request.json["model"] for request in one.requests] == ["a-model"]
    assert [request.json["model"] for request in two.requests] == ["b-model", "c-model"]
    assert "b asks b-model from now on" in err


def test_a_file_waits_for_an_answer(home, tmp_path):
    """A file stays attached until a model has answered about it."""
    (tmp_path / "a.txt").write_text("alpha\n")
    down = response(503, {"error": {"message": "down"}})
    with talking({"sum": down}) as server:
        path = two_clouds(home, server.url + "/v1")
        cli(home, "-p", path, "chat", "-f", "a.txt", stdin=b"sum up\nagain\n", cwd=tmp_path)

    assert contents(server) == ["user: [file: a.txt]\nalpha\n\nagain"]


def test_no_key_is_kept(home):
    """A key that an answer repeats is struck out of the log."""
    with talking() as server:
        path = profile(
            home,
            "name: t\ntiers:\n"
            f"  - {{name: a, provider: openai, model: m, base_url: '{server.url}/v1'}}\n",
        )
        code, out, _ = chat(home, path, f"is it {KEY}?\n".encode(), OPENAI_API_KEY=KEY)

    assert (code, KEY in out) == (0, True)
    for file in (home / "state").rglob("*"):
        assert KEY.encode() not in file.read_bytes()


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["-t", "nope"], "no tier 'nope'"),
        (["-m", "primary"], "'primary' is a tier, no model: name both"),
        (["--simulate", "primary=nonsense"], "no fault 'nonsense'"),
        (["--deadline", "0"], "--deadline"),
        (["-c"], "no conversation to continue is in the log"),
        (["-c", "--cid", "x"], "exclude each other"),
        (["--cid", "ffff"], "ffff"),
        (["-f", "/nowhere/x"], "cannot read /nowhere/x"),
        (["a question"], "a question"),
    ],
)
def test_wrong_usage(home, args, said):
    """Wrong usage is exit 2 and one line, before anything is read."""
    result = command("chat", *args, home=home, stdin="hello\n")

    assert (result.code, result.stdout) == (2, "")
    assert said in result.stderr
    assert result.stderr.count("\n") == 1


def test_global_options_after_the_command(home):
    """The four global options work after the command too."""
    down = response(503, {"error": {"message": "down"}})
    with served(down) as server:
        path = two_clouds(home, server.url + "/v1")
        done = cli(home, "chat", "-p", path, "-q", "--no-color", stdin=b"hello\n")
        told = cli(home, "chat", "-p", path, "-v", stdin=b"hello\n")

    assert done.returncode == 3
    assert b"tieredllm" not in done.stderr
    assert b"falling back from primary to rules" in told.stderr


def test_a_chat_is_one_conversation(home):
    """All turns are logged as one conversation, which `chat -c` and `ask -c` go on from."""
    with talking() as server:
        path = two_clouds(home, server.url + "/v1")
        chat(home, path, b"one\ntwo\n/undo\n/retry\n", "-s", "be kind")
        log = json.loads(cli(home, "log", "--json").stdout)
        chat(home, path, b"three\n", "-c")
        resumed = contents(server)
        cli(home, "-p", path, "ask", "-c", "four")

    assert len({entry["conversation_id"] for entry in log}) == 1
    assert resumed == [*("system: be kind", "user: one", "assistant: You said: one", "user: three")]
    assert contents(server)[-2:] == ["assistant: You said: three", "user: four"]


def test_an_id_resumes_and_a_reset_begins_anew(home):
    """`--cid` resumes what is named; after `/reset` another conversation is kept."""
    with talking() as server:
        path = two_clouds(home, server.url + "/v1")
        chat(home, path, b"one\n/reset\ntwo\n")
        log = json.loads(cli(home, "log", "--json").stdout)
        first = log[-1]["conversation_id"]
        chat(home, path, b"three\n", "--cid", first[:12])

    assert log[0]["conversation_id"] != first
    assert contents(server) == ["user: one", "assistant: You said: one", "user: three"]


def test_a_system_prompt_that_was_dropped_stays_dropped(home):
    """`/system -` holds for who resumes, too."""
    with talking() as server:
        path = two_clouds(home, server.url + "/v1")
        chat(home, path, b"one\n/system -\ntwo\n", "-s", "be kind")
        chat(home, path, b"three\n", "-c")

    assert [line for line in contents(server) if line.startswith("system")] == []


def test_no_log(home):
    """`-n` keeps no record of the session."""
    with talking() as server:
        chat(home, two_clouds(home, server.url + "/v1"), b"a secret question\n", "-n")

    assert len(server.requests) == 1
    for file in (home / "state").rglob("*"):
        assert b"secret" not in file.read_bytes()


def test_bytes_that_are_not_utf8(home):
    """Bytes that are not UTF-8 are replaced, with one warning; a byte order mark is left out."""
    with talking() as server:
        path = two_clouds(home, server.url + "/v1")
        code, out, err = chat(home, path, b"\xef\xbb\xbfa\xffb\nc\xfe\n")

    assert (code, out) == (0, "You said: a�b\nYou said: c�\n")
    assert err == "tieredllm: stdin is not UTF-8: characters were replaced\n"


def test_a_cut_answer_is_said(home):
    """An answer cut at `max_tokens` is given, and said to be cut."""
    with served(answers("openai", "half", reason="length")) as server:
        code, out, err = chat(home, two_clouds(home, server.url + "/v1"), b"why?\n")

    assert (code, out) == (3, "half\n")
    assert "cut at max_tokens" in err


def test_simulated_faults(home):
    """`--simulate` plays a fault for every message."""
    path = two_clouds(home, REFUSED)
    code, _, err = chat(home, path, b"hi\nho\n", "--simulate", "primary=quota_exhausted")

    assert code == 3
    assert "quota_exhausted" in err
    assert err.count("answered by rules") == 2


def test_ctrl_c_in_a_pipe(home):
    """Without a person to stay for, Ctrl-C ends with 130 within a second."""

    async def silent(connection):
        await connection.gone()

    with (
        served(silent) as server,
        subprocess.Popen(
            tieredllm("-p", two_clouds(home, server.url + "/v1"), "chat"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(home),
        ) as process,
    ):
        process.stdin.write(b"why?\n")
        process.stdin.flush()
        give_up = time.monotonic() + 20
        while not server.requests and time.monotonic() < give_up:
            time.sleep(0.01)
        started = time.monotonic()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=10)
        took = time.monotonic() - started

    assert (process.returncode, out) == (130, b"")
    assert took < 1.0
    assert b"Traceback" not in err


def test_a_reader_that_goes_away(home):
    """A closed pipe is silent."""
    with talking({"x": answering("x\n" * 100_000)}) as server:
        path = two_clouds(home, server.url + "/v1")
        done = subprocess.run(
            f"yes x | head -3 | {sys.executable} -m tieredllm -p {path} chat | head -1",
            shell=True,
            capture_output=True,
            env=environment(home),
            timeout=30,
            check=False,
        )

    assert (done.stdout, done.stderr) == (b"x\n", b"")


def test_closed_stdin(home):
    """A closed stdin is an empty one."""
    done = subprocess.run(
        f"{sys.executable} -m tieredllm -p {two_clouds(home, REFUSED)} chat <&-",
        shell=True,
        capture_output=True,
        env=environment(home),
        timeout=30,
        check=False,
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_the_local_model_is_loaded_once(home):
    """Two questions in one session share the loaded model: the second comes without loading it."""
    install_model(home)
    path = profile(
        home,
        "name: t\ntiers:\n"
        "  - name: minimal\n    provider: llama_cpp\n    model: smollm2-135m\n    prompt: minimal\n"
        "    params: {max_tokens: 64, temperature: 0}\n"
        "  - {name: rules, provider: rules}\n",
    )
    question = b"What is the capital of France?\n"
    code, out, _ = chat(home, path, question * 2)
    log = json.loads(cli(home, "log", "--json").stdout)

    assert code == 0
    assert out.count("Paris") == 2
    assert [entry["tier"] for entry in log] == ["minimal", "minimal"]
    assert log[0]["first_token_ms"] < log[1]["first_token_ms"]


def test_an_endless_line_is_refused(home):
    """A line that never ends is exit 2 with the bound named, before memory runs out."""
    with subprocess.Popen(
        ["/bin/sh", "-c", "yes | tr -d '\\n'"], stdout=subprocess.PIPE
    ) as endless:
        done = subprocess.run(
            tieredllm("-p", two_clouds(home, REFUSED), "chat"),
            stdin=endless.stdout,
            capture_output=True,
            env=environment(home),
            timeout=60,
            check=False,
        )
        endless.stdout.close()
        endless.terminate()

    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr == b"tieredllm: a line of stdin is over 64 MB\n"
