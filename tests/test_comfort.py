"""What a daily user does in a chat and with the log: attach, set, resume, stop, look back."""

from __future__ import annotations

import json

import pytest
from chat_support import talking
from cli_support import Terminal, answering, cli, served, two_clouds
from test_chat_terminal import hold

PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 20


def sent(server, number=-1):
    """Give what the server was asked."""
    return json.loads(server.requests[number].body)


def chat(home, used, text):
    """Talk through a pipe."""
    return cli(home, "-p", used, "chat", stdin=text.encode())


def test_a_file_is_attached_in_a_chat(tmp_path):
    """`/file` attaches a text or an image to the next message; it stays in the conversation."""
    (tmp_path / "notes.txt").write_text("the code is 4711")
    (tmp_path / "x.png").write_bytes(PNG)
    with served(answering("Seen.")) as server:
        used = two_clouds(tmp_path, server.url, extra=", vision: true")
        done = chat(
            tmp_path,
            used,
            f"/file {tmp_path}/notes.txt\nwhat code?\n/file {tmp_path}/x.png\nand this?\n/file -\n",
        )
        first, second = (sent(server, number)["messages"] for number in (0, 1))

    assert done.returncode == 0, done.stderr
    assert "the code is 4711" in json.dumps(first)
    assert "the code is 4711" in json.dumps(second)
    assert "image/png" in json.dumps(second[-1])
    assert b"nothing is attached" in done.stderr


def test_parameters_are_set_in_a_chat(tmp_path):
    """`/set` holds for every request from then on, until it is left to the tiers."""
    with served(answering("Yes.")) as server:
        used = two_clouds(tmp_path, server.url)
        done = chat(
            tmp_path,
            used,
            "/set temperature 0.1\none\n/set temperature -\ntwo\n/set temprature 1\n",
        )
        temperatures = [sent(server, number).get("temperature") for number in (0, 1)]

    assert temperatures == [0.1, 0.7]
    assert b"no parameter 'temprature': did you mean `temperature`" in done.stderr


def test_a_stored_prompt_is_a_role(tmp_path):
    """`/role` takes a stored prompt's system prompt, options and tier."""
    cli(
        tmp_path, "ask", "-s", "You are a pirate.", "-o", "seed", "7", "-t", "secondary",
        "--save", "pirate",
    )  # fmt: skip
    with served(answering("Arr.")) as server:
        used = two_clouds(tmp_path, server.url, server.url)
        done = chat(tmp_path, used, "/role\n/role pirate\nhello\n/tier\n")
        body = sent(server)

    assert b"pirate\tYou are a pirate." in done.stderr
    assert (body["messages"][0]["content"], body["seed"]) == ("You are a pirate.", 7)
    assert "→ secondary" in done.stderr.decode()


def test_a_conversation_is_listed_and_gone_on_with(tmp_path):
    """`/history` lists conversations, any request's id leads to its own."""
    with served(answering("Fine.")) as server:
        used = two_clouds(tmp_path, server.url)
        chat(tmp_path, used, "first of one\nsecond of one\n/new\nonly of two\n")
        ids = [row["request_id"] for row in json.loads(cli(tmp_path, "log", "--json").stdout)]
        done = chat(tmp_path, used, f"/history\n/history {ids[1][:8]}\nmore\n")
        turns = [message["content"] for message in sent(server)["messages"]]
        cli(tmp_path, "-p", used, "ask", "--cid", ids[1], "even more")
        again = [message["content"] for message in sent(server)["messages"]]

    assert "2 requests: first of one" in done.stderr.decode()
    assert turns == ["first of one", "Fine.", "second of one", "Fine.", "more"]
    assert again[-1] == "even more"
    assert "first of one" in again


def test_a_stopped_answer_is_kept(tmp_path):
    """What was said before Ctrl-C is part of the conversation, in the log, and of `/log`."""
    with talking(
        {"tell me": hold("The first half", "."), "go on": answering("the rest.")}
    ) as server:
        terminal = Terminal(tmp_path, "-p", two_clouds(tmp_path, server.url), "chat")
        terminal.until("/help lists commands")
        terminal.type("tell me\r")
        terminal.until("The first half.")
        terminal.type("\x03")
        terminal.until("what it said is kept")
        terminal.type("go on\r")
        terminal.until("the rest.")
        terminal.type("\x04")
        terminal.until("to go on: tieredllm chat -c")
        terminal.run()
        turns = [message["content"] for message in sent(server)["messages"]]
    rows = json.loads(cli(tmp_path, "log", "--json").stdout)

    assert turns == ["tell me", "The first half.", "go on"]
    assert [row["finish_reason"] for row in rows] == ["stop", "stopped"]


def test_a_long_paste_is_folded(tmp_path):
    """A paste of many lines shows as one mark, and is sent whole."""
    with served(answering("Long.")) as server:
        terminal = Terminal(tmp_path, "-p", two_clouds(tmp_path, server.url), "chat")
        terminal.until("/help lists commands")
        terminal.type("look: ")
        terminal.paste("\n".join(f"line {number}" for number in range(200)))
        terminal.until("look: [200 lines pasted, 1]")
        terminal.type("\r")
        terminal.until("Long.")
        terminal.type("\x04")
        terminal.run()
        text = sent(server)["messages"][-1]["content"]
    history = (tmp_path / "state/chat_history").read_text()

    assert text.startswith("look: line 0\nline 1\n")
    assert text.endswith("line 199")
    assert "line 199" in history


@pytest.fixture
def logged(tmp_path):
    """Give a home whose log has three requests."""
    with served(answering("Paris.")) as server:
        used = two_clouds(tmp_path, server.url, server.url)
        cli(tmp_path, "-p", used, "capital of France?")
        cli(tmp_path, "-p", used, "-t", "secondary", "and of Spain?")
        cli(tmp_path, "-p", used, "-c", "really?")
    return tmp_path


def test_the_log_shows_the_latest_and_its_answer(logged):
    """`log show` without an id is the latest request, `log -r` its answer again."""
    shown = json.loads(cli(logged, "log", "show", "--json").stdout)

    assert shown["question"] == "really?"
    assert cli(logged, "log", "-r").stdout == b"Paris.\n"
    assert json.loads(cli(logged, "log", "-r", "--json").stdout)["text"] == "Paris."


def test_the_log_is_narrowed(logged):
    """By conversation, by tier and by model."""

    def asked(*arguments):
        found = cli(logged, "log", *arguments, "--json").stdout
        return [row["question"] for row in json.loads(found)]

    last = json.loads(cli(logged, "log", "show", "--json").stdout)["request_id"]

    assert asked("--cid", last[:8]) == ["really?", "and of Spain?"]
    assert asked("--tier", "secondary") == ["and of Spain?"]
    assert len(asked("--model", "m-")) == 3
    assert b"no request is like that" in cli(logged, "log", "--model", "gpt").stderr


def test_logging_is_switched_off_for_good(logged):
    """`log off` holds for every later command, until `log on`."""
    cli(logged, "log", "off")
    cli(logged, "--simulate", "primary=timeout", "-t", "rules", "hello there")
    off = json.loads(cli(logged, "log", "--json").stdout)
    cli(logged, "log", "on")
    cli(logged, "-t", "rules", "hello there")
    on = json.loads(cli(logged, "log", "--json").stdout)

    assert (len(off), len(on)) == (3, 4)
