"""`chat` on a terminal: typing, pasting, Ctrl-C, completion, and what the screen shows."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import stat
import sys
import threading
import time

import pytest
from chat_support import PROMPT, asked, talking
from cli_support import (
    REFUSED,
    Terminal,
    answering,
    install_model,
    profile,
    served,
    two_clouds,
)
from wire_support import STREAM_HEAD, chunk, ends, opens, response, says, stream

LIMITED = response(429, {"error": {"message": "slow down"}}, {"Retry-After": "1"})
ENTER, CTRL_C, CTRL_D, CTRL_O, ALT_ENTER, TAB, UP = (
    *("\r", "\x03", "\x04", "\x0f", "\x1b\r", "\t", "\x1b[A"),
)


@pytest.fixture
def home(tmp_path):
    """Give the user's directories."""
    return tmp_path / "user"


def sat_down(home, *args, columns=80, rows=24, **extra) -> Terminal:
    """Start a chat on a terminal and wait for its prompt."""
    terminal = Terminal(home, *args, columns=columns, rows=rows, **extra)
    prompt = (
        ">" if extra.get("TERM") == "dumb" else "\N{SINGLE RIGHT-POINTING ANGLE QUOTATION MARK}"
    )
    terminal.until(lambda: any(line == prompt for line in terminal.lines))
    return terminal


def leave(terminal: Terminal) -> int:
    """Press Ctrl-D on the empty line; give the exit code."""
    terminal.type(CTRL_D)
    return terminal.run()


def screen(terminal: Terminal) -> str:
    """Give what is on the screen, in one text."""
    return "\n".join(terminal.lines)


def hold(*pieces: str):
    """Make a play that says some words and then stays silent, until the client goes away."""

    async def play(connection):
        await connection.send(STREAM_HEAD + b"".join(chunk(e) for e in opens("openai")))
        for piece in pieces:
            await connection.send(chunk(says("openai", piece)))
        await connection.gone()

    return play


def test_a_turn_and_another(home):
    """A message is answered below it, in Markdown, under the tier's name; Ctrl-D exits with 0."""
    replies = {"sky": answering("It **scatters** light.")}
    with talking(replies) as server:
        terminal = sat_down(home, "-p", two_clouds(home, server.url + "/v1"), "chat")
        assert terminal.lines[0] == "tieredllm chat · test · primary m-1 · /help lists commands"
        terminal.type("the sky?" + ENTER)
        terminal.until("It scatters light.")
        terminal.type("and more" + ENTER)
        terminal.until("You said: and more")
        terminal.until(lambda: terminal.lines[-1] == PROMPT)
        code = leave(terminal)

    assert code == 0
    assert terminal.lines[-1].startswith("to go on: tieredllm chat -c (or --cid ")
    assert terminal.lines[1:-1] == [
        *(f"{PROMPT} the sky?", "primary · m-1", "It scatters light."),
        *(f"{PROMPT} and more", "primary · m-1", "You said: and more", PROMPT),
    ]
    assert [m["role"] for m in server.requests[1].json["messages"]] == ["user", "assistant", "user"]


def test_several_lines_in_one_message(home):
    """A bracketed paste, Alt-Enter and a block each make one message of several lines."""
    pasted = "def f():\n    return 1\n\n/help is no command here"
    with talking({"": answering("ok")}) as server:
        terminal = sat_down(home, "-p", two_clouds(home, server.url + "/v1"), "chat")
        terminal.paste(pasted)
        terminal.until("/help is no command here")
        assert server.connections == 0
        terminal.type(ENTER)
        terminal.until("ok")
        terminal.type("one" + ALT_ENTER + "two" + ENTER)
        terminal.until(lambda: len(server.requests) == 2)
        terminal.until(lambda: screen(terminal).count("ok") == 2)
        terminal.type('"""' + ENTER + "/three" + ENTER + '  four"""' + ENTER)
        terminal.until(lambda: screen(terminal).count("ok") == 3)
        assert leave(terminal) == 0

    contents = [request.json["messages"][-1]["content"] for request in server.requests]
    assert contents == [pasted, "one\ntwo", "/three\n  four"]


def test_a_large_paste(home):
    """Ten thousand pasted lines are one message, in full."""
    pasted = "\n".join(f"line {number}" for number in range(10_000))
    with talking({"": answering("ok")}) as server:
        terminal = sat_down(home, "-p", two_clouds(home, server.url + "/v1"), "chat")
        terminal.paste(pasted)
        terminal.until("[10000 lines pasted, 1]")
        terminal.type(ENTER)
        terminal.until("ok")
        assert leave(terminal) == 0

    assert asked(server) == pasted


def test_ctrl_c_stops_the_answer_only(home):
    """Ctrl-C stops within a second; what was said stays on the screen and in the conversation."""
    with talking({"first": hold("half of", " it"), "silent": hold()}) as server:
        terminal = sat_down(home, "-p", two_clouds(home, server.url + "/v1"), "chat")
        for question, shown in (("first", "half of it"), ("silent", "primary (m-1)")):
            terminal.type(question + ENTER)
            terminal.until(shown)
            started = time.monotonic()
            terminal.type(CTRL_C)
            terminal.until(lambda: "— stopped" in terminal.lines[-2])
            assert time.monotonic() - started < 1.0
        terminal.type("second" + ENTER)
        terminal.until("You said: second")
        assert leave(terminal) == 0

    assert "half of it" in terminal.lines
    assert "— stopped; what it said is kept: ask it to go on, or /undo —" in terminal.lines
    assert [m["content"] for m in server.requests[-1].json["messages"]] == [
        "first",
        "half of it",
        "second",
    ]


def test_a_signal_stops_the_answer_too(home):
    """SIGINT from elsewhere is the same as the key; `/retry` asks the stopped question again."""
    replies = {"first": hold("half")}
    with talking(replies) as server:
        terminal = sat_down(home, "-p", two_clouds(home, server.url + "/v1"), "chat")
        terminal.type("first" + ENTER)
        terminal.until("half")
        os.kill(terminal.child.pid, signal.SIGINT)
        terminal.until("— stopped")
        replies.clear()
        terminal.type("/retry" + ENTER)
        terminal.until("You said: first")
        terminal.until(lambda: terminal.lines[-1] == PROMPT)
        time.sleep(0.8)  # beyond the time a press still belongs to the stopping
        os.kill(terminal.child.pid, signal.SIGINT)
        terminal.until("Ctrl-C again or Ctrl-D leaves")
        assert leave(terminal) == 0


def test_ctrl_c_at_the_prompt(home):
    """Ctrl-C drops what was typed; on an empty line it hints, and twice it leaves with 130."""
    terminal = sat_down(home, "-p", two_clouds(home, REFUSED), "chat")
    terminal.type("half a mess" + CTRL_C)
    terminal.until(lambda: terminal.lines[-2:] == [f"{PROMPT} half a mess", PROMPT])
    assert "leaves" not in screen(terminal)
    terminal.type(CTRL_C)
    terminal.until("Ctrl-C again or Ctrl-D leaves")
    terminal.type(CTRL_C)

    assert terminal.run() == 130
    assert "Traceback" not in screen(terminal)


def test_ctrl_c_stops_the_local_model(home):
    """Also the model in this process stops within a second, and answers the next question."""
    install_model(home)
    path = profile(
        home,
        "name: t\ntiers:\n  - name: minimal\n    provider: llama_cpp\n    model: smollm2-135m\n"
        "    prompt: full\n    params: {max_tokens: 3000, temperature: 0}\n"
        "  - {name: rules, provider: rules}\n",
    )
    terminal = sat_down(home, "-p", path, "chat", rows=60)
    for _ in range(2):
        terminal.type("Write a very long story about a river." + ENTER)
        count = screen(terminal).count("minimal · smollm2-135m")
        terminal.until(lambda n=count: screen(terminal).count("minimal · smollm2-135m") > n, 60)
        started = time.monotonic()
        terminal.type(CTRL_C)
        terminal.until(lambda: any("— stopped" in line for line in terminal.lines[-2:]))
        assert time.monotonic() - started < 1.0
    assert leave(terminal) == 0


def test_a_change_of_tier_and_its_return(home):
    """That a tier gave way is said in plain words, once; and that it is back."""
    replies = {"b": LIMITED, "c": LIMITED}
    with talking(replies) as one, talking() as two:
        path = two_clouds(home, one.url + "/v1", two.url + "/v1")
        terminal = sat_down(home, "-p", path, "chat", rows=40)
        for word in "abc":
            terminal.type(word + ENTER)
            terminal.until(f"You said: {word}")
        replies.clear()
        time.sleep(1.2)  # what the server asked to wait
        terminal.type("d" + ENTER)
        terminal.until("You said: d")
        assert leave(terminal) == 0

    said = [line for line in terminal.lines if line.startswith(("primary", "secondary"))]
    assert said == [
        "primary · m-1",
        "primary is rate limited, secondary is answering",
        "secondary · m-1",
        "primary is answering again",
    ]
    messages = two.requests[0].json["messages"]
    assert [m["content"] for m in messages] == ["a", "You said: a", "b"]


def test_no_error_ends_the_session(home):
    """A stream that dies, and every tier failing, are told; the session goes on."""

    async def cut(connection):
        await connection.send(STREAM_HEAD + b"".join(chunk(e) for e in opens("openai")))
        await connection.send(chunk(says("openai", "half an")))
        await asyncio.sleep(0.2)
        await connection.reset()

    down = response(503, {"error": {"message": "down"}})
    with talking({"cut": cut, "down": down}) as one, talking({"down": down}) as two:
        path = two_clouds(home, one.url + "/v1", two.url + "/v1")
        terminal = sat_down(home, "-p", path, "chat", "--require-llm", rows=40)
        terminal.type("cut" + ENTER)
        terminal.until("You said: cut")
        terminal.type("down" + ENTER)
        terminal.until("no complete answer:")
        terminal.type("fine" + ENTER)
        terminal.until("You said: fine")
        assert leave(terminal) == 0

    text = screen(terminal)
    assert (
        "half an\n— primary broke off (stream_interrupted); starting again with secondary —" in text
    )
    assert "tieredllm: " not in text


def test_commands_and_their_completion(home):
    """Commands, tiers and models complete with Tab; a wrong one is told, and is no message."""
    with talking() as one, talking() as two:
        path = two_clouds(home, one.url + "/v1", two.url + "/v1")
        terminal = sat_down(home, "-p", path, "chat", rows=60)
        terminal.type("/he")
        terminal.until("/health  probe and show every tier")
        terminal.type("l" + TAB + ENTER)
        terminal.until("Alt-Enter")
        terminal.type("/ti" + TAB + "sec" + TAB + ENTER)
        terminal.until("starting at secondary from now on")
        terminal.type("/mod" + TAB + "s" + TAB + ENTER)
        terminal.until("secondary asks m-1 from now on")
        terminal.type("/helo" + ENTER)
        terminal.until("no command /helo: did you mean /help?")
        terminal.type("//helo" + ENTER)
        terminal.until("You said: /helo")
        terminal.type("exit" + ENTER)
        code = terminal.run()

    assert code == 0
    assert (len(one.requests), len(two.requests)) == (0, 1)
    assert "secondary · m-1" in terminal.lines


def test_the_looks_of_commands(home):
    """`/tier`, `/health`, `/log`, `/usage` and `/copy` say what they did."""
    with talking() as server:
        path = two_clouds(home, server.url + "/v1", REFUSED)
        terminal = sat_down(
            home, "-p", path, "chat", "-u", rows=70, PATH="/nowhere", DISPLAY="", TMUX=""
        )
        terminal.type("hello" + ENTER)
        terminal.until("12 prompt + 3 completion tokens")
        for line, shown in (
            ("/tier", "→ primary"),
            ("/health", "secondary   down"),
            ("/log", "openai m-1: answered"),
            ("/usage", "1 answer (primary 1)"),
            ("/copy", "to the terminal's clipboard (OSC 52"),
        ):
            terminal.type(line + ENTER)
            terminal.until(shown)
        assert leave(terminal) == 0

    assert b"\x1b]52;c;WW91IHNhaWQ6IGhlbGxv\x07" in terminal.raw


def test_an_editor(home, tmp_path):
    """Ctrl-O and `/edit` open $EDITOR; its text comes to the prompt, and Enter sends it."""
    editor = tmp_path / "editor"
    editor.write_text('#!/bin/sh\nprintf "%s\\nsecond\\n" "$(cat "$1") edited" > "$1"\n')
    editor.chmod(0o755)
    with talking() as server:
        path = two_clouds(home, server.url + "/v1")
        terminal = sat_down(home, "-p", path, "chat", EDITOR=str(editor), VISUAL="")
        terminal.type("draft" + CTRL_O)
        terminal.until("draft edited")
        terminal.type(ENTER)
        terminal.until("You said: draft edited")
        terminal.type("/edit fresh" + ENTER)
        terminal.until(f"{PROMPT} fresh edited")
        terminal.type(ENTER)
        terminal.until("You said: fresh edited")
        editor.write_text("#!/bin/sh\nexit 3\n")
        terminal.type("kept" + CTRL_O)
        terminal.until("ended with")
        terminal.until(f"{PROMPT} kept")
        terminal.type(CTRL_C)
        assert leave(terminal) == 0

    contents = [request.json["messages"][-1]["content"] for request in server.requests]
    assert contents == ["draft edited\nsecond", "fresh edited\nsecond"]


def test_resuming(home):
    """`chat -c` says what it resumes and goes on from it; Up brings back what was typed."""
    with talking() as server:
        path = two_clouds(home, server.url + "/v1")
        terminal = sat_down(home, "-p", path, "chat", "-s", "be kind")
        terminal.type("remember blue" + ENTER)
        terminal.until("You said: remember blue")
        leave(terminal)
        terminal = sat_down(home, "-p", path, "chat", "-c")
        resumed = terminal.lines[1:4]
        terminal.type(UP + "?" + ENTER)
        terminal.until("You said: remember blue?")
        assert leave(terminal) == 0

    assert re.fullmatch(r"resuming [0-9a-f]{8}: 1 turn, system prompt: be kind", resumed[0])
    assert resumed[1:] == ["you asked: remember blue", "answer: You said: remember blue"]
    roles = [message["role"] for message in server.requests[1].json["messages"]]
    assert roles == ["system", "user", "assistant", "user"]
    assert stat.S_IMODE((home / "state" / "chat_history").stat().st_mode) == 0o600


def test_a_name_is_what_one_goes_on_by(home):
    """Leaving a named conversation tells its name, as a shell takes it; resuming does, too."""
    with talking() as server:
        path = two_clouds(home, server.url + "/v1")
        terminal = sat_down(home, "-p", path, "chat")
        terminal.type("remember blue" + ENTER)
        terminal.until("You said: remember blue")
        terminal.type("/name my trip" + ENTER)
        terminal.until("its name is my trip")
        assert leave(terminal) == 0
        left = terminal.lines
        terminal = sat_down(home, "-p", path, "chat", "--cid", "my trip")
        assert leave(terminal) == 0

    assert "to go on: tieredllm chat -c (or --cid 'my trip')" in left
    assert "resuming my trip: 1 turn" in terminal.lines


def test_no_log_keeps_nothing_that_was_typed(home):
    """With `-n` neither the conversation nor the history of keys is kept."""
    with talking() as server:
        terminal = sat_down(home, "-p", two_clouds(home, server.url + "/v1"), "chat", "-n")
        terminal.type("a secret" + ENTER)
        terminal.until("You said: a secret")
        leave(terminal)

    for file in (home / "state").rglob("*"):
        assert b"secret" not in file.read_bytes()


def test_what_is_typed_ahead_waits(home):
    """Keys pressed while an answer comes stay off the screen until the next prompt, and count."""
    go_on = threading.Event()

    async def slowly(connection):
        await connection.send(STREAM_HEAD + b"".join(chunk(e) for e in opens("openai")))
        await connection.send(chunk(says("openai", "begin ")))
        while not go_on.is_set():
            await asyncio.sleep(0.01)
        await connection.send(chunk(says("openai", "end")))
        await connection.send(b"".join(chunk(e) for e in ends("openai")) + b"0\r\n\r\n")

    with talking({"slowly": slowly}) as server:
        terminal = sat_down(home, "-p", two_clouds(home, server.url + "/v1"), "chat")
        terminal.type("slowly" + ENTER)
        terminal.until("begin")
        terminal.type("typed ahead" + ENTER)
        time.sleep(0.3)
        terminal.until("begin")
        assert "typed ahead" not in screen(terminal)
        go_on.set()
        terminal.until("You said: typed ahead")
        assert leave(terminal) == 0

    assert terminal.lines[3:6] == ["begin end", f"{PROMPT} typed ahead", "primary · m-1"]


LATE_PROMPT = """
import asyncio
from prompt_toolkit import PromptSession

shown = PromptSession.prompt_async
prompts = []

async def late(self, *args, **kwargs):
    prompts.append(1)
    if len(prompts) > 1:
        await asyncio.sleep(1)
    return await shown(self, *args, **kwargs)

PromptSession.prompt_async = late
"""
"""Python runs a module `sitecustomize` of its path first: every prompt but the first comes a second
late, as on a busy machine."""


@pytest.mark.parametrize("keys", [CTRL_D, "/exit" + ENTER])
def test_keys_between_an_answer_and_the_next_prompt_count(home, tmp_path, keys):
    """Ctrl-D or a line typed before the prompt is back is kept for it, and off the screen."""
    (tmp_path / "sitecustomize.py").write_text(LATE_PROMPT)
    with served(answering("abcdefg")) as server:
        path = two_clouds(home, server.url + "/v1")
        terminal = sat_down(home, "-p", path, "chat", PYTHONPATH=str(tmp_path))
        terminal.type("?" + ENTER)
        terminal.until("abcdefg")
        time.sleep(0.3)  # the answer is whole, its prompt is not there yet
        terminal.type(keys)
        code = terminal.run()

    assert code == 0
    assert screen(terminal).count("/exit") <= 1


def test_an_editor_gets_lines(home):
    """A program started by `/edit` finds a terminal with echo and lines, as a shell leaves it."""
    with talking({"": answering("ok")}) as server:
        path = two_clouds(home, server.url + "/v1")
        terminal = sat_down(
            home, "-p", path, "chat", EDITOR="sh -c 'stty -a; read line; echo $line>$0'"
        )
        terminal.type("/edit" + ENTER)
        terminal.until(" icanon")
        terminal.type("typed into it" + ENTER)
        terminal.until(f"{PROMPT} typed into it")
        terminal.type(CTRL_C + CTRL_D)
        assert terminal.run() == 0

    assert b" icrnl" in terminal.raw
    assert b" echo " in terminal.raw


EVIL = "a\x1b]52;c;ZXZpbA==\x07b\x1b[31mc\x1b]0;title\x07d\x1b[2Je\x9b2Jf\x1b[?1049hg"


@pytest.mark.parametrize("extra", [{}, {"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_escape_sequences_never_reach_the_terminal(home, extra):
    """What a model says cannot drive the terminal: neither its answer nor a recap of it."""
    with served(answering(EVIL)) as server:
        path = two_clouds(home, server.url + "/v1")
        terminal = sat_down(home, "-p", path, "chat", **extra)
        terminal.type("?" + ENTER)
        terminal.until("abcdefg")
        leave(terminal)
        again = sat_down(home, "-p", path, "chat", "-c", **extra)
        again.until("answer: abcdefg")
        leave(again)

    for raw in (terminal.raw, again.raw):
        for sequence in (
            b"\x1b]52",
            b"\x1b]0;",
            b"\x1b[31m",
            b"\x1b[2J",
            b"\x1b[?1049h",
            b"\xc2\x9b",
        ):
            assert sequence not in raw


def test_without_colour(home):
    """With NO_COLOR there is no colour, and the layout and bold stay."""
    replies = {"x": answering("Some **bold** `code`.")}
    with talking(replies) as server:
        path = two_clouds(home, server.url + "/v1")
        terminal = sat_down(home, "-p", path, "chat", NO_COLOR="1")
        terminal.type("/he" + TAB + CTRL_C + "x" + ENTER)
        terminal.until("Some bold code.")
        assert leave(terminal) == 0

    assert not re.search(rb"\x1b\[[0-9;]*(3[0-8]|9[0-7]|4[0-8])[;m]", terminal.raw)


def test_a_dumb_terminal(home):
    """A terminal that only prints gets no escape sequence at all; Ctrl-C and Ctrl-D work."""
    with talking({"silent": hold("half")}) as server:
        path = two_clouds(home, server.url + "/v1")
        terminal = sat_down(home, "-p", path, "chat", TERM="dumb")
        terminal.type("hello\n")
        terminal.until("You said: hello")
        terminal.type("silent\n")
        terminal.until("half")
        terminal.type(CTRL_C)
        terminal.until("— stopped")
        time.sleep(0.8)  # beyond the time a press still belongs to the stopping
        terminal.type(CTRL_C)
        terminal.until("Ctrl-C again or Ctrl-D leaves")
        assert leave(terminal) == 0

    assert b"\x1b" not in terminal.raw


LONG = "word " * 60 + "\n\n- item " + "text " * 30 + "\n\n```\ncode line\n```\n\nThe end."


@pytest.mark.parametrize("columns", [40, 80, 200])
@pytest.mark.parametrize("known", [{}, {"COLUMNS": "80", "LINES": "24"}], ids=["", "exported"])
def test_widths(home, columns, known):
    """At any width nothing is cut or overlaps, and the prompt comes back below the answer.

    Neither is it where a shell has exported the width that its window had once.
    """
    with talking({"x": answering(LONG)}) as server:
        path = two_clouds(home, server.url + "/v1")
        terminal = sat_down(home, "-p", path, "chat", columns=columns, rows=50, **known)
        message = "x " + "y" * (columns + 10)
        terminal.type(message + ENTER)
        terminal.until("The end.")
        terminal.until(lambda: terminal.lines[-1] == PROMPT)
        leave(terminal)
    shown = screen(terminal)

    assert shown.replace("\n", "").count("y") >= columns + 10
    assert shown.split().count("word") == 60
    assert shown.split().count("text") == 30
    assert all(len(line) <= columns for line in terminal.lines)
    assert "code line" in shown


def test_stdout_in_a_file(home, tmp_path):
    """Who types at a terminal with stdout in a file gets answers there, and the rest on stderr."""
    with talking() as server:
        path = two_clouds(home, server.url + "/v1")
        terminal = Terminal(home, "-p", path, "chat")
        terminal.child.close(force=True)
        terminal.child = type(terminal.child)(
            "/bin/sh",
            ["-c", f'exec "$0" -m tieredllm -p {path} chat > {tmp_path}/out', sys.executable],
            env=terminal.child.env,
            dimensions=(24, 80),
        )
        terminal.until(">")
        terminal.type("hello\n")
        terminal.until(lambda: len(server.requests) == 1 and terminal.lines[-1] == ">")
        assert leave(terminal) == 0

    assert (tmp_path / "out").read_text() == "You said: hello\n"


def test_a_quiet_chat(home):
    """With `-q` there is nothing on the screen but what is typed and answered."""
    with served(stream(*opens("openai"), says("openai", "Fine."), *ends("openai"))) as server:
        path = two_clouds(home, REFUSED, server.url + "/v1")
        terminal = sat_down(home, "-p", path, "chat", "-q")
        terminal.type("hello" + ENTER)
        terminal.until("Fine.")
        assert leave(terminal) == 0

    assert terminal.lines == [f"{PROMPT} hello", "Fine.", PROMPT]
