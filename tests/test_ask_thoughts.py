"""`ask` and a model's thoughts: into a pipe, as JSON, on a terminal, and in the next question."""

from __future__ import annotations

import json

import pytest
from cli_support import Terminal, cli, served, two_clouds
from wire_support import answers

THOUGHT = "The user wants bash.\n```bash\nrm -rf draft\n```\nNo, rather ls."
ANSWER = "```bash\nls\n```"
THINKS = {
    "a block": answers("openai", f"<think>\n{THOUGHT}\n</think>\n\n", ANSWER),
    "its end alone": answers("openai", f"{THOUGHT}\n</think>\n\n", ANSWER),
}


@pytest.fixture
def home(tmp_path):
    """A home of its own."""
    return tmp_path / "home"


@pytest.mark.parametrize("shape", THINKS)
def test_thoughts_go_nowhere_but_into_the_json(home, shape):
    """A pipe gets the answer, `-x` its code, and the JSON both, each in its place."""
    with served(THINKS[shape]) as server:
        path = two_clouds(home, server.url + "/v1")
        piped = cli(home, "-p", path, "ask", "-v", "how?")
        code = cli(home, "-p", path, "ask", "-x", "how?")
        whole = json.loads(cli(home, "-p", path, "ask", "--json", "how?").stdout)

    assert piped.stdout.decode() == ANSWER + "\n"
    assert b"draft" not in piped.stderr
    assert code.stdout == b"ls\n"
    assert whole["text"] == ANSWER
    assert whole["reasoning"].strip() == THOUGHT


def test_thoughts_are_not_sent_again(home):
    """The next question of a conversation goes with the answer before it, without thoughts."""
    with served(THINKS["a block"]) as server:
        path = two_clouds(home, server.url + "/v1")
        cli(home, "-p", path, "ask", "how?")
        cli(home, "-p", path, "ask", "-c", "and then?")
        messages = server.requests[1].json["messages"]

    assert [message["content"] for message in messages] == ["how?", ANSWER, "and then?"]


@pytest.mark.parametrize("option", ["-v", "--show-reasoning", None])
def test_thoughts_show_on_a_terminal_when_asked_for(home, option):
    """The answer stands below what the model thought, or alone."""
    with served(THINKS["a block"]) as server:
        path = two_clouds(home, server.url + "/v1")
        terminal = Terminal(home, "-p", path, "ask", *([option] if option else []), "--raw", "how?")
        code = terminal.run()

    assert code == 0
    assert ("rm -rf draft" in terminal.lines) == (option is not None)
    assert "ls" in terminal.lines
