"""MCP servers of the SDK's own, over stdio and HTTP: nothing runs twice, none is left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from tools_support import MCP_SERVER, alive, call, carried_out, declared, mcp_toolbox, servers

from tieredllm.errors import UsageError
from tieredllm.tools.approval import Approval
from tieredllm.tools.base import ArgumentsError
from tieredllm.tools.execute import ToolSession
from tieredllm.tools.mcp.server import MAX_NAME, prefixes, wire_name
from tieredllm.tools.registry import Toolbox
from tieredllm.tools.schema import schema_checker

ODD = wire_name("docs__", "odd.name")


def counted(folder):
    """Give the count the server keeps."""
    path = folder / "count"
    return int(path.read_text()) if path.exists() else 0


def with_tools(toolbox, use, *, approval=None):
    """Run a function on a request's tools, and close everything."""

    async def go():
        tools = ToolSession(toolbox, approval=approval or Approval("always"), max_rounds=50)
        try:
            return await use(tools)
        finally:
            await toolbox.aclose()

    return asyncio.run(go())


class HttpServer:
    """The counting server over HTTP; started again when a test has ended it."""

    def __init__(self, folder):
        self.folder = folder
        self._process = None
        self._port = "0"

    @property
    def url(self):
        return f"http://127.0.0.1:{self._port}/mcp"

    def ready(self, *, anew=True):
        if anew:
            (self.folder / "count").unlink(missing_ok=True)
        if self._process is not None and not anew:
            self._process.wait(10)
        if self._process is None or self._process.poll() is not None:
            self.close()
            self._process = subprocess.Popen(
                [sys.executable, str(MCP_SERVER), str(self.folder / "count"), "http", self._port],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            self._port = self._process.stdout.readline().strip()
        return self

    def close(self):
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process.stdout.close()


@pytest.fixture(scope="module")
def http_server(tmp_path_factory):
    """Run one server over HTTP for all tests."""
    server = HttpServer(tmp_path_factory.mktemp("http"))
    yield server
    server.close()


@pytest.fixture(params=["stdio", "http"])
def toolbox(request, tmp_path, http_server):
    """Give the counting server over each transport; `folder` is where it counts."""
    if request.param == "stdio":
        box = mcp_toolbox(tmp_path)
        box.folder = tmp_path
        return box
    server = http_server.ready()
    box = Toolbox(declared(mcp={"docs": {"url": server.url}}), cwd=tmp_path, env={})
    box.folder = server.folder
    return box


def test_its_tools_and_their_results(toolbox):
    """Tools have the server's prefix and hint, arguments are checked, and results come as text."""

    async def use(tools):
        deadline = asyncio.get_running_loop().time() + 20
        declared = await tools.tools("all", deadline=deadline)
        return {tool.name: tool for tool in declared}, await carried_out(
            tools,
            call("docs__count", {"by": 3}, call_id="1"),
            call("docs__fail", call_id="2"),
            call("docs__count", {"by": "much"}, call_id="3"),
            call("docs__noise", call_id="4"),
            call(ODD, call_id="5"),
            call("docs__nothing", call_id="6"),
        )

    tools, results = with_tools(toolbox, use)

    assert set(tools) == {
        *(f"docs__{name}" for name in ("count", "total", "fail", "crash", "hang")),
        *(f"docs__{name}" for name in ("environment", "noise")),
        ODD,
    }
    assert tools["docs__count"].read_only is None
    assert tools["docs__total"].read_only is True
    assert tools[ODD].read_only is False
    assert tools["docs__count"].description == "Count up, for good."
    assert tools["docs__count"].parameters["properties"]["by"]["type"] == "integer"
    assert tools["docs__count"].origin == "mcp:docs"
    outcomes = ["ok", "failed", "invalid", "ok", "ok", "unknown"]
    assert [result.outcome for result in results] == outcomes
    assert results[0].text == "counted to 3"
    assert "Error executing tool fail" in results[1].text
    assert results[2].text == "the arguments are wrong: `by`: 'much' is not of type 'integer'"
    assert results[3].text == "abcd"
    assert results[4].text == "1\n\n2\n\n3"
    assert counted(toolbox.folder) == 3


def test_nothing_runs_twice_over_tiers(toolbox):
    """Three tiers that ask for the same count get one, and the server has counted once."""

    async def use(tools):
        found = []
        for tier in ("primary", "secondary", "third"):
            found += await carried_out(tools, call("docs__count", call_id=tier), tier=tier)
        return found

    results = with_tools(toolbox, use)

    assert counted(toolbox.folder) == 1
    assert [result.text for result in results] == ["counted to 1"] * 3
    assert [result.repeated for result in results] == [False, True, True]


def test_what_is_not_read_only_needs_approval(tmp_path):
    """Without a terminal only the tool with the hint runs."""

    async def use(tools):
        return await carried_out(
            tools, call("docs__count"), call("docs__total", call_id="2"), call(ODD, call_id="3")
        )

    results = with_tools(mcp_toolbox(tmp_path), use, approval=Approval("ask"))

    assert [result.outcome for result in results] == ["denied", "ok", "denied"]
    assert counted(tmp_path) == 0


def test_a_crash_is_a_result_and_the_server_is_started_again(toolbox, http_server):
    """A server that dies under a call has failed it; a model that calls again gets a new one."""
    over_http = toolbox._declared.mcp["docs"].url is not None

    async def use(tools):
        found = await carried_out(tools, call("docs__crash"), tier="primary")
        if over_http:  # over stdio it is started anew by the next call
            http_server.ready(anew=False)
        found += await carried_out(tools, call("docs__crash", call_id="2"), tier="secondary")
        if over_http:
            http_server.ready(anew=False)
        found += await carried_out(tools, call("docs__total", call_id="3"))
        return found

    first, second, third = with_tools(toolbox, use)

    assert (first.outcome, second.outcome) == ("failed", "failed")
    assert not second.repeated
    assert counted(toolbox.folder) == 2
    assert "has ended before its answer came, which may have taken effect" in first.text
    assert over_http or first.text.endswith(": about to go down")
    assert third.text == "2"


def test_a_hang_ends_at_its_time(toolbox):
    """A call without an answer is given up; others still work, and so does another try."""

    async def use(tools):
        started = time.perf_counter()
        found = await carried_out(tools, call("docs__hang"), left_s=1.0)
        took = time.perf_counter() - started
        found += await carried_out(tools, call("docs__total", call_id="2"))
        found += await carried_out(tools, call("docs__hang", call_id="3"), tier="secondary")
        return found, took

    async def warmed(tools):
        await tools.tools("all", deadline=asyncio.get_running_loop().time() + 20)
        return await use(tools)

    (hang, total, again), took = with_tools(toolbox, warmed)

    assert hang.outcome == again.outcome == "timeout"
    assert 0.4 < took < 1.5
    assert total.text == "1"
    assert counted(toolbox.folder) == 2


def test_the_environment_is_minimal(tmp_path):
    """A server gets what every program needs and what the profile gives it, and no key."""
    box = mcp_toolbox(tmp_path, env={"GIVEN": "value"}, pass_env=["TOKEN"])

    async def use(tools):
        return await carried_out(tools, call("docs__environment"))

    [result] = with_tools(box, use)
    names = set(result.text.split()[:-1])

    assert result.text.endswith(" value")
    assert {"GIVEN", "TOKEN", "PATH"} <= names
    assert "OPENAI_API_KEY" not in names
    assert names - {"GIVEN", "TOKEN", "PATH", "HOME", "LC_CTYPE"} == set()


def test_a_server_starts_on_first_use_and_once(tmp_path):
    """No grant, no server; two requests share one; closing ends it."""
    box = mcp_toolbox(tmp_path)
    seen = []

    async def go():
        seen.append(len(servers(tmp_path)))
        await box.granted("none")
        await box.granted(())
        seen.append(len(servers(tmp_path)))
        await asyncio.gather(box.granted("all"), box.granted(("docs__total",)))
        seen.append(len(servers(tmp_path)))
        await box.aclose()
        seen.append(len(servers(tmp_path)))

    asyncio.run(go())
    assert seen == [0, 0, 1, 0]
    assert box.troubles == ()


def test_an_event_loop_that_ends_ends_its_servers(tmp_path):
    """Also where nobody has closed the toolbox; each loop has one of its own."""

    async def names():
        return len(await mcp_toolbox(tmp_path).granted("all"))

    for _ in range(2):
        assert asyncio.run(names()) == 8
        assert servers(tmp_path) == []


def test_a_stubborn_server_and_its_children_are_killed(tmp_path):
    """A server that ignores everything is gone within a second, and so is what it has started."""
    box = mcp_toolbox(tmp_path, "stubborn")

    async def use(tools):
        [result] = await carried_out(tools, call("docs__count"))
        return result, time.perf_counter()

    result, started = with_tools(box, use)
    took = time.perf_counter() - started
    child = int((tmp_path / "count.child").read_text())

    assert result.text == "counted to 1"
    assert took < 1.2
    assert servers(tmp_path) == []
    assert not alive(child)


SCRIPT = """
import asyncio, os, sys, signal
from pathlib import Path
sys.path.insert(0, {tests!r})
from tools_support import mcp_toolbox, call, carried_out
from tieredllm.tools.execute import ToolSession
from tieredllm.tools.approval import Approval

async def main():
    box = mcp_toolbox(Path({folder!r}), {how!r})
    tools = ToolSession(box, approval=Approval("always"), max_rounds=9)
    try:
        await carried_out(tools, call("docs__count"), left_s=60)
        print("ready", flush=True)
        {then}
    finally:
        {closing}

try:
    {run}(main())
except KeyboardInterrupt:
    sys.exit(130)
"""


UNDER_A_CALL = "await carried_out(tools, call('docs__hang'), left_s=60)"


@pytest.mark.parametrize(
    ("how", "then", "closing", "expected"),
    [
        ("stdio", UNDER_A_CALL, "await box.aclose()", 130),
        ("stubborn", UNDER_A_CALL, "await box.aclose()", 130),
        ("stubborn", "await asyncio.sleep(60)", "pass", 130),
        ("stubborn", "pass", "pass", 0),
    ],
    ids=["ctrl-c", "ctrl-c, stubborn", "ctrl-c without closing", "loop left open"],
)
def test_no_server_outlives_the_program(tmp_path, how, then, closing, expected):
    """However a program ends, within a second no server of its is left."""
    left_open = "asyncio.new_event_loop().run_until_complete"
    code = SCRIPT.format(
        tests=str(Path(__file__).parent),
        folder=str(tmp_path),
        how=how,
        then=then,
        closing=closing,
        run=left_open if expected == 0 else "asyncio.run",
    )
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.1)
        started = time.perf_counter()
        if expected == 130:
            process.send_signal(signal.SIGINT)
        assert process.wait(10) == expected
        took = time.perf_counter() - started
    finally:
        process.kill()
        process.wait()
        process.stdout.close()

    assert took < 1.5
    assert servers(tmp_path) == []
    if how == "stubborn":
        assert not alive(int((tmp_path / "count.child").read_text()))


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"command": ["/nowhere/at/all"]}, "there is no /nowhere/at/all"),
        ({"command": [sys.executable, "-c", "pass"]}, ""),
        ({"command": ["$HOME/nosuch"]}, "there is no $HOME/nosuch; a variable is written ${NAME}"),
        ({"command": [sys.executable, "-c", "print('hello')"]}, "hello"),
        ({"command": [sys.executable, "-c", "import sys; sys.exit('no licence')"]}, "no licence"),
        ({"command": ["cat"], "cwd": "nowhere"}, "nowhere"),
        (
            {"command": [sys.executable, "-c", "import time; time.sleep(99)"]}
            | {"start_timeout_s": 0.3},
            "it has not started within 0.3 s",
        ),
        ({"command": ["yes"]}, ""),
        ({"command": ["cat"], "pass_env": ["NOT_SET"]}, "NOT_SET is not set"),
        ({"url": "http://127.0.0.1:9/mcp"}, "127.0.0.1:9/mcp cannot be reached"),
        ({"url": "http://127.0.0.1:9/mcp", "headers_env": {"X": "NOT_SET"}}, "NOT_SET is not set"),
    ],
    ids=[
        "missing",
        "ends",
        "variable",
        "prints",
        "dies",
        "no folder",
        "silent",
        "floods",
        "key",
        "url",
        "header",
    ],
)
def test_a_server_that_cannot_be_used_is_a_trouble(tmp_path, settings, reason):
    """What keeps a server from starting is told in a line, and the other tools are there."""
    box = Toolbox(
        declared(builtin=("now",), mcp={"docs": settings}),
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"]},
    )

    async def go():
        names = [tool.name for tool in await box.granted("all")]
        started = time.perf_counter()
        again = [tool.name for tool in await box.granted("all")]
        took = time.perf_counter() - started
        await box.aclose()
        return names, again, took

    names, again, took = asyncio.run(go())

    assert names == again == ["now"]
    assert took < 0.1  # it is not started again at once
    [trouble] = box.troubles
    assert trouble.startswith("MCP server docs: ")
    assert reason in trouble
    assert "\n" not in trouble


def test_a_slow_server_is_not_waited_for_beyond_the_deadline(tmp_path):
    """At the deadline a request goes on without a server that is not ready."""
    box = mcp_toolbox(tmp_path, "slow")

    async def go():
        started = time.perf_counter()
        tools = await box.granted("all", deadline=asyncio.get_running_loop().time() + 0.3)
        took = time.perf_counter() - started
        await box.aclose()
        return tools, took

    tools, took = asyncio.run(go())
    assert tools == ()
    assert took < 2.0
    [trouble] = box.troubles
    assert trouble.startswith("MCP server docs: it has not started in time (0.3")
    assert "`tieredllm tools list` gives it its 20 s" in trouble
    assert servers(tmp_path) == []


def test_a_granted_name_that_a_server_lacks_is_a_trouble(tmp_path):
    """What a server offers is known only once it runs: a missing name is told, and no mistake."""
    box = mcp_toolbox(tmp_path)

    async def go():
        tools = await box.granted(("docs__total", "docs__no_such"))
        with pytest.raises(UsageError, match="no tool `other__x` is declared"):
            await box.granted(("other__x",))
        found = await box.find("docs__total"), await box.find("docs__nope"), await box.find("x")
        await box.aclose()
        return tools, found

    tools, found = asyncio.run(go())
    assert [tool.name for tool in tools] == ["docs__total"]
    assert [tool and tool.name for tool in found] == ["docs__total", None, None]
    assert "MCP server docs has no tool that is called docs__no_such" in box.troubles


def test_a_token_goes_into_its_header(tmp_path):
    """A bare token becomes a bearer token, and other values go as they are."""
    seen = []

    async def serve(reader, writer):
        seen.append((await reader.readuntil(b"\r\n\r\n")).decode())
        writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    async def go():
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        headers = {"Authorization": "TOKEN", "X-Team": "TEAM"}
        box = Toolbox(
            declared(mcp={"crm": {"url": f"http://127.0.0.1:{port}/mcp", "headers_env": headers}}),
            cwd=tmp_path,
            env={"TOKEN": "t0ken", "TEAM": "red"},
        )
        await box.granted("all")
        await box.aclose()
        server.close()
        await asyncio.sleep(0.05)
        return box.troubles

    troubles = asyncio.run(go())
    assert "authorization: bearer t0ken" in seen[0].lower()
    assert "x-team: red" in seen[0].lower()
    assert len(troubles) == 1
    assert "t0ken" not in troubles[0]


def test_names_fit_all_vendors():
    """Names have the characters and the length that every vendor takes, and stay different."""
    names = [
        ("docs", "search"),
        ("docs", "search.all"),
        ("docs", "search_all"),
        ("docs", "search all"),
        ("my.docs", "x"),
        ("7zip", "list"),
        ("s" * 64, "t" * 64),
        ("s" * 64, "t" * 63 + "u"),
        ("docs", "größe"),
    ]
    known = prefixes(server for server, _ in names)
    made = [wire_name(known[server], tool) for server, tool in names]

    assert made[0] == "docs__search"
    assert len(set(made)) == len(names)
    for name, (server, _) in zip(made, names, strict=True):
        assert len(name) <= MAX_NAME
        assert name.isascii()
        assert name.replace("_", "a").replace("-", "a").isalnum()
        assert name[0].isalpha() or name[0] == "_"
        assert len(server) > 60 or name.startswith(known[server])


def test_servers_of_like_names_are_told_apart():
    """Names that become the same have prefixes of their own, the first one's is plain."""
    known = prefixes(["a.b", "a_b", "日本", "中文"])

    assert known["a.b"] == "a_b__"
    assert len(set(known.values())) == 4


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"a": {"pattern": "(a+)+$"}}},
        {"type": "object", "patternProperties": {"(a+)+$": {"type": "integer"}}},
        {"type": "nonsense"},
        {"properties": {"a": {"$ref": "https://example.invalid/schema"}}},
        {"properties": {"a": {"$ref": "#/nowhere"}}},
        {"$ref": "#"},
    ],
)
def test_a_hostile_schema_neither_hangs_nor_fails(schema):
    """Schemas with dangerous patterns, references or nonsense let a call pass to its server."""
    arguments = {"a": "a" * 40 + "!", "a" * 40 + "!": "x"}
    started = time.perf_counter()

    assert schema_checker(schema)(arguments) == arguments
    assert time.perf_counter() - started < 2


def test_a_schema_that_takes_for_ever_is_left_to_the_server():
    """A hundred bytes can mean 2⁴⁰ steps: the check gives up, and everything else goes on."""
    steps = {f"s{at}": {"allOf": [{"$ref": f"#/$defs/s{at + 1}"}] * 2} for at in range(40)}
    schema = {"$defs": {**steps, "s40": {"type": "object"}}, "$ref": "#/$defs/s0"}
    unevaluated = {**schema, "unevaluatedProperties": False}
    unique = {"properties": {"a": {"uniqueItems": True}}}
    arguments = {"a": [[at, {}] for at in range(20_000)]}
    started = time.perf_counter()

    for hostile in (schema, unevaluated, unique):
        assert schema_checker(hostile)(arguments) == arguments
    assert time.perf_counter() - started < 1.5


@pytest.mark.parametrize(
    ("name", "value", "is_wrong"),
    [
        ("above", 0.5, False),
        ("above", -1, True),
        ("below", 10, False),
        ("below", 11, True),
        ("perhaps", None, False),
        ("perhaps", 7, True),
        ("certainly", None, True),
    ],
)
def test_schemas_of_openapi_are_read_as_they_are_meant(name, value, is_wrong):
    """`exclusiveMinimum: true` is no number there, and what is `nullable` may be null."""
    properties = {
        "above": {"type": "number", "minimum": 0, "exclusiveMinimum": True},
        "below": {"type": "number", "maximum": 10, "exclusiveMaximum": False},
        "perhaps": {"type": "string", "enum": ["a"], "nullable": True},
        "certainly": {"type": "string"},
    }
    check = schema_checker({"type": "object", "properties": properties})
    try:
        check({name: value})
    except ArgumentsError:
        found = True
    else:
        found = False

    assert found == is_wrong


@pytest.mark.parametrize(("cwd", "where"), [(None, "state/servers"), (".", "here")])
def test_a_server_runs_in_a_folder_of_ours(tmp_path, cwd, where):
    """What lies where somebody happens to be is not what `npx` finds, unless `cwd` says so."""
    (tmp_path / "here").mkdir()
    mark = tmp_path / "ran in"
    code = f"import os; open({str(mark)!r}, 'w').write(os.getcwd())"
    settings = {"command": [sys.executable, "-c", code]} | ({"cwd": cwd} if cwd else {})
    box = Toolbox(
        declared(mcp={"docs": settings}),
        cwd=tmp_path / "here",
        env={"PATH": os.environ["PATH"]},
        state=tmp_path / "state",
    )

    async def go():
        await box.granted("all")
        await box.aclose()

    asyncio.run(go())

    assert Path(mark.read_text()).resolve() == (tmp_path / where).resolve()


def test_a_file_where_one_is_names_the_way_out(tmp_path):
    """A server that does not find its file says how it starts beside it."""
    (tmp_path / "server.py").write_text("")
    settings = {"command": [sys.executable, "server.py"]}
    box = Toolbox(declared(mcp={"docs": settings}), cwd=tmp_path, env={}, state=tmp_path / "state")

    async def go():
        await box.granted("all")
        await box.aclose()

    asyncio.run(go())

    assert "`cwd: .` starts it where you are" in box.troubles[0]
