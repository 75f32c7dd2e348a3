"""`ask` with tools, as a process: JSON, pipes, approval on a terminal, and what is loaded."""

from __future__ import annotations

import http.client
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from chat_support import PROMPT
from cli_support import (
    Terminal,
    answering,
    cli,
    environment,
    profile,
    served,
    tieredllm,
    two_clouds,
)
from tool_wire_support import calling
from tools_support import MCP_SERVER
from wire_support import answers, response, stream

from tieredllm.client import FallbackManager
from tieredllm.files import Places


@pytest.fixture
def home(tmp_path):
    """Give the user's directories."""
    return tmp_path / "user"


@pytest.fixture
def counter(tmp_path):
    """Give the file in which the MCP server counts."""
    return tmp_path / "counter"


class Model:
    """A server whose model calls a tool, and answers or fails once it has the result."""

    def __init__(self, vendor, name, arguments, then, *, text="", rounds=1):
        self.vendor = vendor
        self.then = then
        self.calls = stream(*calling(vendor, ("call_1", name, arguments), text=text))
        self.rounds = rounds
        self.served = 0

    async def __call__(self, connection):
        self.served += 1
        await connection.send(self.calls if self.served <= self.rounds else self.then)


def with_tools(home, counter, *servers, approve="always", tools="all"):
    """Write a profile of tiers that may call the MCP server's tools, then rules."""
    tiers = "".join(
        f"  - {{name: {name}, provider: {vendor}, model: m-1, base_url: '{url}',"
        f" api_key_env: null, retries: 0, backoff: {{base_s: 0.01}}, tools: {tools}}}\n"
        for name, (vendor, url) in zip(("primary", "secondary"), servers, strict=False)
    )
    command = json.dumps([sys.executable, str(MCP_SERVER), str(counter)])
    return profile(
        home,
        f"name: test\ntiers:\n{tiers}  - {{name: rules, provider: rules}}\n"
        f"tools:\n  builtin: [calculate]\n  approve: {approve}\n"
        f"  mcp: {{c: {{command: {command}}}}}\n",
    )


def test_what_a_server_says_on_stderr_is_shown_when_asked_for(home, counter):
    """`-v` shows each line that an MCP server says on stderr, with its name; nothing else does."""
    with served(Model("openai", "c__crash", {}, answers("openai", "Gone."))) as server:
        path = with_tools(home, counter, ("openai", server.url + "/v1"))
        shown = cli(home, "-p", path, "ask", "-v", "crash, please")
        hidden = cli(home, "-p", path, "ask", "crash, please")

    assert b"tieredllm: c: about to go down\n" in shown.stderr
    assert (hidden.stdout, hidden.stderr) == (b"Gone.\n", b"")


def test_json_tells_the_calls_and_nothing_runs_twice(home, counter):
    """The first tier dies after its call; the second gets the result, and the count is one."""
    dying = Model("openai", "c__count", {"by": 1}, response(503, {"error": {"message": "down"}}))
    again = Model("anthropic", "c__count", {"by": 1}, answers("anthropic", "It is 1."))
    with served(dying) as first, served(again) as second:
        path = with_tools(home, counter, ("openai", first.url + "/v1"), ("anthropic", second.url))
        done = cli(home, "-p", path, "ask", "--json", "count, please")

    answer = json.loads(done.stdout)
    assert (done.returncode, answer["text"], answer["tier"]) == (0, "It is 1.", "secondary")
    assert counter.read_text() == "1"
    made, repeated = answer["tool_calls"]
    assert (
        made.items()
        >= {
            "tier": "primary",
            "name": "c__count",
            "arguments": {"by": 1},
            "outcome": "ok",
            "result": "counted to 1",
        }.items()
    )
    assert made["duration_ms"] > 0
    assert (repeated["tier"], repeated["repeated"]) == ("secondary", True)
    told = second.requests[0].json["messages"]
    assert told[1]["content"][0]["type"] == "tool_use"
    assert told[2]["content"][0]["content"] == "counted to 1"
    outcomes = [(it["tier"], it["outcome"]) for it in answer["attempts"]]
    assert outcomes == [
        ("primary", "ok"),
        ("primary", "failed"),
        ("secondary", "ok"),
        ("secondary", "ok"),
    ]


def test_a_pipe_never_approves(home, counter):
    """Without a terminal `approve: ask` means no, and the model is told; the option means yes."""
    for options, counted in (([], False), (["--approve-tools"], True)):
        model = Model("openai", "c__count", {"by": 1}, answering("Done."))
        with served(model) as server:
            path = with_tools(home, counter, ("openai", server.url + "/v1"), approve="ask")
            done = cli(home, "-p", path, "ask", "-v", *options, "count, please", stdin=b"y\ny\n")

        assert done.stdout == b"Done.\n"
        assert counter.exists() == counted
        result = server.requests[1].json["messages"][-1]["content"]
        assert ("nobody at a terminal" in result) != counted
        shown = done.stderr.decode()
        assert 'primary calls c__count {"by":1}' in shown
        assert ("c__count gave 12 characters" if counted else "c__count: denied") in shown


@pytest.mark.parametrize("said", ["y", "n"])
def test_a_person_approves_on_a_terminal(home, counter, said):
    """A tool that may change something is asked about; what the model said before is set apart."""
    model = Model("openai", "c__count", {"by": 1}, answering("All done."), text="I will count.")
    with served(model) as server:
        path = with_tools(home, counter, ("openai", server.url + "/v1"), approve="ask")
        terminal = Terminal(home, "-p", path, "ask", "count, please")
        terminal.until("Run it? [y/N]")
        asked = list(terminal.lines)
        terminal.type(f"{said}\r")
        assert terminal.run() == 0

    assert any("primary calls c__count" in line for line in asked)
    assert any('c__count {"by":1}' in line for line in asked)
    assert counter.exists() == (said == "y")
    assert terminal.lines[-1] == "All done."
    assert any(line.startswith("I will count.") for line in terminal.lines)


@pytest.mark.parametrize("on_terminal", [False, True])
def test_a_batch_shows_what_servers_say(home, counter, on_terminal):
    """`batch -v` shows each line with the server's name; on a terminal, above the bar."""
    with served(Model("openai", "c__crash", {}, answering("Gone."))) as server:
        path = with_tools(home, counter, ("openai", server.url + "/v1"))
        source = counter.with_name("questions.txt")
        source.write_text("crash, please\n")
        args = ("-p", path, "-v", "batch", str(source), "-o", str(source.with_suffix(".jsonl")))
        if on_terminal:
            terminal = Terminal(home, *args)
            code, lines = terminal.run(), [line.rstrip() for line in terminal.lines]
        else:
            result = cli(home, *args)
            code, lines = result.returncode, result.stderr.decode().splitlines()

    assert code == 0
    assert "tieredllm: c: about to go down" in lines


def test_a_gateway_shows_what_servers_say(home, counter):
    """`serve -v` shows each line with the server's name."""
    with served(Model("openai", "c__crash", {}, answering("Gone."))) as server:
        path = with_tools(home, counter, ("openai", server.url + "/v1"))
        command = tieredllm("-p", path, "-v", "serve", "--port", "0")
        with subprocess.Popen(command, env=environment(home), stderr=subprocess.PIPE) as process:
            try:
                address = re.search(rb"http://(\S+?)[ )/]", process.stderr.readline())[1].decode()
                gateway = http.client.HTTPConnection(address, timeout=20)
                body = json.dumps(
                    {"model": "auto", "messages": [{"role": "user", "content": "crash"}]}
                )
                headers = {"Content-Type": "application/json"}
                gateway.request("POST", "/v1/chat/completions", body, headers)
                answer = json.loads(gateway.getresponse().read())
                gateway.close()
            finally:
                process.terminate()
            said = process.stderr.read()

    assert answer["choices"][0]["message"]["content"] == "Gone."
    assert b"tieredllm: c: about to go down\n" in said


def test_what_a_server_says_breaks_no_question_and_no_line_that_is_typed(home, counter):
    """With `chat -v` it waits for the reply, or for the next answer, and none of it is lost."""
    model = Model("openai", "c__count", {"by": 1}, answering("All done."))
    with served(model) as server:
        path = with_tools(home, counter, ("openai", server.url + "/v1"), approve="ask")
        text = Path(path).read_text().replace(f'"{counter}"', f'"{counter}", "chatty"')
        Path(path).write_text(text)
        terminal = Terminal(home, "-p", path, "chat", "-v", rows=300)
        terminal.until(lambda: PROMPT in terminal.lines)
        terminal.type("count, please\r")
        terminal.until("Run it? [y/N]")
        asked_at = len(heard(terminal))
        time.sleep(0.5)
        terminal.type("y")
        terminal.until("Run it? [y/N] y")
        meanwhile = heard(terminal)[asked_at:]
        terminal.type("\r")
        terminal.until("All done.")
        terminal.until(lambda: terminal.lines[-1] == PROMPT)
        told = heard(terminal)
        terminal.type("and")
        time.sleep(0.5)
        terminal.type(" more")
        terminal.until(f"{PROMPT} and more")
        typing = heard(terminal)[len(told) :]
        terminal.type("\r")
        terminal.until(lambda: terminal.lines[-1] == PROMPT)
        terminal.type("\x04")
        code = terminal.run()

    assert (code, meanwhile, typing) == (0, [], [])
    lines = heard(terminal)
    assert lines == [f"tieredllm: c: still here {number}" for number in range(len(lines))]
    assert len(lines) > len(told) > asked_at


@pytest.mark.parametrize("way_out", ["ctrl-c", "deadline"])
def test_what_is_typed_after_a_question_goes_to_the_chat(home, counter, way_out):
    """A question that was left, by Ctrl-C or as the time was over, takes no key from the prompt."""
    model = Model("openai", "c__count", {"by": 1}, answering("All done."))
    with served(model) as server:
        path = with_tools(home, counter, ("openai", server.url + "/v1"), approve="ask")
        if way_out == "deadline":
            Path(path).write_text("deadline_s: 4\n" + Path(path).read_text())
            cli(home, "-p", path, "tools", "list")  # the server need not be started for the list
        terminal = Terminal(home, "-p", path, "chat", rows=60)
        terminal.until(lambda: PROMPT in terminal.lines)
        terminal.type("count, please\r")
        terminal.until("Run it? [y/N]")
        if way_out == "ctrl-c":
            terminal.type("\x03")
        terminal.until(lambda: terminal.lines[-1] == PROMPT)
        terminal.type("and now?\r")
        terminal.until("All done.")
        terminal.until(lambda: terminal.lines[-1] == PROMPT)
        terminal.type("\x04")
        code = terminal.run()

    assert code == 0
    assert f"{PROMPT} and now?" in terminal.lines
    assert any(
        line.removesuffix("^C").rstrip().endswith("Run it? [y/N]") for line in terminal.lines
    )
    assert not counter.exists()


def heard(terminal):
    """Give the lines that the chatty server's words are in."""
    return [line for line in terminal.lines if "still here" in line]


def test_a_broken_server_leaves_the_answer(home, counter):
    """A tool server that does not start is a line on stderr; the model is asked without it."""
    with served(answering("Fine.")) as server:
        path = with_tools(home, counter, ("openai", server.url + "/v1"))
        text = Path(path).read_text().replace(f'"{counter}"', f'"{counter}", "dead"')
        done = cli(home, "-p", profile(home, text), "ask", "hello?")

    assert (done.returncode, done.stdout) == (0, b"Fine.\n")
    assert b"MCP server c" in done.stderr
    tools = server.requests[0].json["tools"]
    assert [tool["function"]["name"] for tool in tools] == ["calculate"]


def test_a_stream_into_a_pipe_says_what_is_void(home, counter):
    """With `--stream` the text before a call is in the pipe; a line on stderr says what follows."""
    model = Model("openai", "calculate", {"expression": "6*7"}, answering("42."), text="Wait.")
    with served(model) as server:
        path = with_tools(home, counter, ("openai", server.url + "/v1"), tools="[calculate]")
        done = cli(home, "-p", path, "ask", "--stream", "what is it?")

    assert done.stdout == b"Wait.\n42.\n"
    assert b"primary calls calculate; the answer starts anew" in done.stderr
    assert not counter.exists()


def test_log_show_names_the_tools(home, counter):
    """The log says of an attempt which tools it called."""
    model = Model("openai", "calculate", {"expression": "6*7"}, answering("42."))
    with served(model) as server:
        path = with_tools(home, counter, ("openai", server.url + "/v1"), tools="[calculate]")
        done = cli(home, "-p", path, "ask", "--json", "what is it?")
    shown = cli(home, "log", "show", json.loads(done.stdout)["request_id"])

    assert b"openai m-1: called calculate" in shown.stdout


def test_programs_get_tools_too(home, counter, monkeypatch):
    """`FallbackManager.ask` runs tools and ends what they started."""
    model = Model("gemini", "c__count", {"by": 2}, answers("gemini", "Two."))
    with served(model) as server:
        path = with_tools(home, counter, ("gemini", server.url + "/v1beta"), approve="ask")
        places = Places.from_environment({"TIEREDLLM_HOME": str(home)})
        manager = FallbackManager(path, env={}, places=places, approve_tools=True)
        answer = manager.ask("count, please")

    assert answer.text == "Two."
    assert answer.tool_calls[0].result == "counted to 2"
    sent = server.requests[1].json["contents"][-1]["parts"][0]["functionResponse"]
    assert sent["response"] == {"result": "counted to 2"}


WIRES = {
    "openai": ("openai", "/v1"),
    "responses": ("openai, api: responses", "/v1"),
    "anthropic": ("anthropic", ""),
    "gemini": ("gemini", "/v1beta"),
}


@pytest.mark.parametrize("vendor", WIRES)
def test_what_is_read_written_and_read_again_is_read_twice(home, tmp_path, vendor):
    """Over every wire a model that reads a file anew after its own write gets what it wrote."""
    module = f"note_over_{vendor}"  # each folder's own: Python keeps what it has imported
    (tmp_path / f"{module}.py").write_text(
        "from pathlib import Path\n"
        f"NOTE = Path({str(tmp_path / 'note')!r})\n"
        "NOTE.write_text('old')\n"
        "def read() -> str:\n    'Read.'\n    return NOTE.read_text()\n"
        "def write(text: str) -> str:\n    'Write.'\n    NOTE.write_text(text)\n    return 'ok'\n"
    )
    rounds = [
        stream(*calling(vendor, ("call_1", "read", {}))),
        stream(*calling(vendor, ("call_2", "write", {"text": "new"}))),
        stream(*calling(vendor, ("call_3", "read", {}))),
        answers(vendor, "Done."),
    ]

    async def model(connection):
        await connection.send(rounds.pop(0))

    with served(model) as server:
        provider, root = WIRES[vendor]
        path = tmp_path / "profile.yaml"
        path.write_text(
            "name: test\ntiers:\n"
            f"  - {{name: primary, provider: {provider}, model: m-1,"
            f" base_url: '{server.url}{root}', api_key_env: null, tools: all}}\n"
            f"tools: {{python: ['{module}:read', '{module}:write'], approve: always}}\n"
        )
        places = Places.from_environment({"TIEREDLLM_HOME": str(home)})
        answer = FallbackManager(path, env={}, places=places).ask("read, write, read")

    told = [(use.name, use.result, use.repeated) for use in answer.tool_calls]
    assert told == [("read", "old", False), ("write", "ok", False), ("read", "new", False)]
    assert "not run again" not in json.dumps(server.requests[-1].json)


def test_health_tells_what_is_left_out_and_a_new_profile_tries_it_again(home, counter):
    """A rejected tool costs itself alone, is shown by `-v` and `health`, and is not for ever."""
    message = "tools.1.custom.input_schema: input_schema does not support oneOf at the top level"
    refused = response(400, {"error": {"type": "invalid_request_error", "message": message}})
    script = [refused, answers("anthropic", "One."), answers("anthropic", "Two.")]

    async def model(connection):
        await connection.send(script.pop(0) if script else response(200, {"data": []}))

    with served(model) as server:
        path = with_tools(home, counter, ("anthropic", server.url))
        first = cli(home, "-p", path, "ask", "one?")
        second = cli(home, "-p", path, "ask", "-v", "two?")
        health = json.loads(cli(home, "-p", path, "health", "--json").stdout)
        told = cli(home, "-p", path, "health").stderr
        with_tools(home, counter, ("anthropic", server.url), tools="[calculate]")
        changed = json.loads(cli(home, "-p", path, "health", "--json").stdout)

    offered = [[it["name"] for it in sent.json["tools"]] for sent in server.requests[:3]]
    assert (first.stdout, second.stdout) == (b"One.\n", b"Two.\n")
    assert offered[0][1] not in offered[1]
    assert offered[1] == offered[2] == [name for name in offered[0] if name != offered[0][1]]
    assert f"asked again without the tool {offered[0][1]}: {message}"[:60].encode() in first.stderr
    assert f"without what it has rejected: {offered[0][1]}".encode() in second.stderr
    assert health["tiers"][0]["rejected"] == [offered[0][1]]
    assert f"asked without {offered[0][1]}, which it has rejected".encode() in told
    assert changed["tiers"][0]["rejected"] == []


def test_a_declared_server_that_nobody_calls_is_not_started(home, counter):
    """Once its tools are known, a question that calls none starts no process and loads no SDK."""
    script = """
import sys
from tieredllm.client import FallbackManager
from tieredllm.files import Places
home, path = sys.argv[1:]
manager = FallbackManager(path, env={}, places=Places.from_environment({"TIEREDLLM_HOME": home}))
assert manager.ask("hello?").text == "Hi."
print(sorted({name.partition(".")[0] for name in sys.modules} & {"mcp", "pydantic", "jsonschema"}))
"""
    with served(answering("Hi.")) as server:
        path = with_tools(home, counter, ("openai", server.url + "/v1"))
        loaded = [
            subprocess.run(
                [sys.executable, "-c", script, str(home), str(path)],
                capture_output=True,
                text=True,
                check=True,
            ).stdout.strip()
            for _ in range(2)
        ]
        offered = [
            [it["function"]["name"] for it in sent.json["tools"]] for sent in server.requests
        ]

    assert "mcp" in loaded[0]
    assert loaded[1] == "[]"
    assert offered[0] == offered[1]
    assert "c__count" in offered[1]


def test_a_request_without_tools_loads_none_of_it(home):
    """A cloud `ask` whose profile grants nothing imports nothing of the tools."""
    script = """
import sys
from pathlib import Path
from tieredllm.client import FallbackManager
from tieredllm.files import Places
home, path = sys.argv[1:]
manager = FallbackManager(path, env={}, places=Places.from_environment({"TIEREDLLM_HOME": home}))
answer = manager.ask("hello?")
assert answer.text == "Hi." and answer.tool_calls == ()
print([name for name in sys.modules if name.startswith(("tieredllm.tools", "mcp"))])
"""
    with served(answering("Hi.")) as server:
        path = two_clouds(home, server.url + "/v1")
        done = subprocess.run(
            [sys.executable, "-c", script, str(home), path],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )

    assert done.stdout.strip() == "[]"
