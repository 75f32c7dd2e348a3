"""MCP servers that are not as the SDK's own are: what they say reaches the model all the same."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from base64 import b64encode
from pathlib import Path

import pytest
from cli_support import cli
from tools_support import RAW_SERVER, call, carried_out, declared, servers

from tieredllm.tools.approval import Approval, RememberedApprovals
from tieredllm.tools.base import CallTime
from tieredllm.tools.execute import ToolSession
from tieredllm.tools.mcp.http import HttpProblem
from tieredllm.tools.mcp.transport import Stderr
from tieredllm.tools.registry import Toolbox
from tieredllm.types import Image


def raw_box(folder, *how, cache=None, env=None, **settings):
    """Declare the raw server under the name `raw`."""
    command = [sys.executable, str(RAW_SERVER), str(folder), *how]
    return Toolbox(
        declared(mcp={"raw": {"command": command} | settings}),
        cwd=folder,
        env={"PATH": os.environ["PATH"], **(env or {})},
        cache=cache,
    )


def lines(folder, file):
    """Give what a server noted."""
    path = folder / file
    return path.read_text().split() if path.exists() else []


def called(box, *names, left_s=20.0, policy="always"):
    """Call tools one after the other; give their results."""

    async def go():
        tools = ToolSession(box, approval=Approval(policy), max_rounds=50)
        try:
            found = []
            for number, wanted in enumerate(names):
                name, arguments = (wanted, None) if isinstance(wanted, str) else wanted
                made = call(f"raw__{name}", arguments, call_id=str(number))
                found += await carried_out(tools, made, left_s=left_s)
            return found
        finally:
            await box.aclose()

    return asyncio.run(go())


def listed(box, *, times=1, fresh=False):
    """Give a server's tools by name, without the prefix."""

    async def go():
        try:
            for _ in range(times):
                tools = await box.granted("all", fresh=fresh)
            return {tool.name.removeprefix("raw__"): tool for tool in tools}
        finally:
            await box.aclose()

    return asyncio.run(go())


def test_an_error_of_a_server_is_an_answer(tmp_path):
    """-32000 and -32600 are a server's own errors: they are told, and the server lives on."""
    names = ["state", "limited", "refused", "internal", "state"]
    first, limited, refused, internal, last = called(raw_box(tmp_path), *names)

    assert limited.text == "the MCP server raw failed: GitHub API rate limit exceeded"
    assert refused.text == "the MCP server raw failed: Elicitation not supported"
    assert internal.text == 'the MCP server raw failed: Internal error ({"reason":"locked"})'
    assert {limited.outcome, refused.outcome, internal.outcome} == {"failed"}
    assert first.text.split(" of ")[1] == last.text.split(" of ")[1]
    assert last.text.startswith("call 5 of ")
    assert len(lines(tmp_path, "starts")) == 1


@pytest.mark.parametrize(
    ("name", "why"), [("dies", "Error: out of memory"), ("quits", "it gave no reason")]
)
def test_what_a_server_said_before_a_call_is_not_why_it_ended(tmp_path, name, why):
    """Only what comes after the call may be the reason; many tell at length that they are ready."""
    [result] = called(raw_box(tmp_path, "noisy"), name)

    assert result.text.endswith(f"before its answer came, which may have taken effect: {why}")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("summary", '2 rows found\n\n{"rows":[1,2]}'),
        ("only_data", '{"rows":[1,2]}'),
        ("video", "see\n\n[video of type video/mp4, not shown]"),
        ("null", "(The result is empty.)"),
        ("not_utf8", "a\ufffdb"),
    ],
)
def test_no_part_of_a_result_is_lost(tmp_path, name, text):
    """Data beside a summary, results without content and blocks of unknown kinds are told."""
    [result] = called(raw_box(tmp_path), name)

    assert (result.outcome, result.text) == ("ok", text)


BLOCK = '{"type":"text","text":"x"}'


@pytest.mark.parametrize(
    "line",
    [
        # What an envelope may lack, or have too much of.
        '{"id":ID,"result":{"content":[BLOCK]}}',
        '{"jsonrpc":"2.0","id":ID.0,"error":null,"result":{"content":[BLOCK]}}',
        '[{"jsonrpc":"2.0","id":"ID","result":{"content":[BLOCK]}}]',
        '\ufeff{"jsonrpc":"2.0","id":ID,"result":{"content":[BLOCK]}}',
        'Ready {"id":ID,"jsonrpc":"2.0","result":{"content":[BLOCK]}}',
        # What a result may be made of.
        '{"jsonrpc":"2.0","id":ID,"result":"x"}',
        '{"jsonrpc":"2.0","id":ID,"result":[BLOCK]}',
        '{"jsonrpc":"2.0","id":ID,"result":{"_meta":"odd","content":BLOCK}}',
        # server-filesystem 2026.8.31 has the content in the structured content once more.
        '{"jsonrpc":"2.0","id":ID,"result":{"content":[BLOCK],"structuredContent":{"c":[BLOCK]}}}',
    ],
)
def test_a_loose_answer_is_read_as_it_is_meant(tmp_path, line):
    """Whatever a server makes of an answer's form, the model gets what is in it."""
    box = raw_box(tmp_path, timeout_s=5)
    [result] = called(box, ("say", {"line": line.replace("BLOCK", BLOCK)}))

    assert (result.outcome, result.text) == ("ok", "x")


@pytest.mark.parametrize(
    ("content", "text"),
    [
        # What Python's and JavaScript's own encoders write.
        ('"content":["half \\ud83d"]', "half \ufffd"),
        ('"structuredContent":{"x":NaN}', '{"x":null}'),
        ('"toolResult":{"a":1}', '{"toolResult":{"a":1}}'),
        ('"content":[{"type":"text","text":{"a":1}}]', '{"a":1}'),
        ('"content":[{"type":"json","json":1}]', '{"type":"json","json":1}'),
        ('"content":[{"type":"resource","resource":{"text":"x"}}]', "x"),
        (
            '"content":[{"type":"resource","resource":{"mimeType":"text/csv","blob":"aGk="}}]',
            "hi",
        ),
        ('"content":[{"type":"resource_link","uri":"a:b","size":"big"}]', "[a:b](a:b)"),
        (
            '"content":[{"type":"resource_link","uri":"a:b","name":"n","description":"all"}]',
            "[n](a:b): all",
        ),
    ],
)
def test_a_loose_block_is_told(tmp_path, content, text):
    """A block of an unknown kind, or without what its kind needs, is told as well as it can be."""
    line = f'{{"jsonrpc":"2.0","id":ID,"result":{{{content}}}}}'
    [result] = called(raw_box(tmp_path, timeout_s=5), ("say", {"line": line}))

    assert (result.outcome, result.text) == ("ok", text)


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ('{"jsonrpc":"2.0","id":ID,"error":"full"}', "the MCP server raw failed: full"),
        (
            '{"jsonrpc":"2.0","id":ID,"error":{"code":"E1","message":"full"}}',
            'the MCP server raw failed: {"code":"E1","message":"full"}',
        ),
        (
            '{"jsonrpc":"2.0","id":ID}',
            "the MCP server raw failed: an answer with neither a result nor an error",
        ),
        (
            '{"jsonrpc":"2.0","id":ID,"error":{"code":-32000,"message":"Connection closed"}}',
            "the MCP server raw failed: Connection closed",
        ),
        ('{"jsonrpc":"2.0","id":ID,"result":{"content":["x"],"isError":"true"}}', "x"),
        (
            '{"jsonrpc":"2.0","id":ID,"result":{"resultType":"input_required"}}',
            "the tool wants to ask the user something first, which is not supported",
        ),
    ],
)
def test_a_loose_error_is_one_at_once(tmp_path, line, text):
    """An error of any shape ends its call with what it says, and the server lives on."""
    box = raw_box(tmp_path, timeout_s=5)
    result, after = called(box, ("say", {"line": line}), "state")

    assert (result.outcome, result.text) == ("failed", text)
    assert after.outcome == "ok"
    assert len(lines(tmp_path, "starts")) == 1


def test_an_image_is_passed_on(tmp_path):
    """What is an image by its first bytes goes along beside the text; anything else is named."""
    png = b"\x89PNG\r\n\x1a\n rest"
    blocks = [
        {"type": "text", "text": "see"},
        {"type": "image", "mimeType": "image/jpeg", "data": b64encode(png).decode()},
        {"type": "image", "mimeType": "image/png", "data": b64encode(b"no image").decode()},
    ]
    line = json.dumps({"jsonrpc": "2.0", "id": "ID", "result": {"content": blocks}})
    [result] = called(raw_box(tmp_path), ("say", {"line": line}))

    assert result.text == (
        "see\n\n[image of type image/png, 13 bytes]\n\n"
        "[image of type image/png, 8 bytes, not shown]"
    )
    assert result.as_message().parts == (Image(media_type="image/png", data=png),)


def test_progress_keeps_a_call_alive(tmp_path):
    """A call may take longer than `timeout_s` while its server says that it is at work."""
    box = raw_box(tmp_path, timeout_s=2)
    [result] = called(box, "works")

    assert (result.outcome, result.text) == ("ok", "done")
    assert result.duration_ms > 2_500


def test_notifications_that_cannot_be_read_are_no_news(tmp_path):
    """Progress that is no number, or of nothing, is passed over, and nobody sees a traceback."""
    profile = tmp_path / "p.yaml"
    command = [sys.executable, str(RAW_SERVER), str(tmp_path)]
    tiers = [{"name": "rules", "provider": "rules"}]
    profile.write_text(
        json.dumps({"tiers": tiers, "tools": {"mcp": {"raw": {"command": command}}}})
    )
    wanted = ("tools", "call", "--approve-tools", "raw__babbles", "{}")
    done = cli(tmp_path, "-p", str(profile), *wanted)

    assert (done.stdout, done.stderr) == (b"done\n", b"")


def test_progress_does_not_outlast_the_request(tmp_path):
    """However much progress there is, half of the request's time is all a call gets."""
    [result] = called(raw_box(tmp_path, timeout_s=2), "works", left_s=4)

    assert result.outcome == "timeout"
    assert "(half of what was left of deadline_s)" in result.text


def test_a_server_that_ends_now_and_then_is_started_each_time(tmp_path, monkeypatch):
    """Only a server that ends again and again at once is given up."""
    given_up = called(raw_box(tmp_path), *["dies"] * 4)
    monkeypatch.setattr("tieredllm.tools.mcp.server.RETRY_S", 0)
    kept = called(raw_box(tmp_path), *["dies"] * 4, "state")

    assert "it has ended 3 times: Error: out of memory" in given_up[-1].text
    assert kept[-1].outcome == "ok"


def test_a_resource_that_a_result_links_to_can_be_read(tmp_path):
    """There is a tool for it from the first link on, and for nothing that was not linked to."""
    before = listed(raw_box(tmp_path))
    early, _, read, other = called(
        raw_box(tmp_path),
        ("read_resource", {"uri": "raw://log"}),
        "links",
        ("read_resource", {"uri": "raw://log"}),
        ("read_resource", {"uri": "file:///etc/passwd"}),
    )

    assert "read_resource" not in before
    assert early.outcome == "unknown"
    assert (read.outcome, read.text) == ("ok", "all of raw://log")
    assert (other.outcome, other.text) == (
        "failed",
        "no result of raw linked to it, but to raw://log",
    )
    assert lines(tmp_path, "heard").count("resources/read") == 1


def test_what_a_server_says_of_itself_is_remembered(tmp_path):
    """Its instructions are there without starting it, up to 2048 characters, unless refused."""

    def told(**settings):
        box = raw_box(tmp_path, "tells", cache=tmp_path / "cache", **settings)

        async def go():
            try:
                return box.instructions(await box.granted("all"))
            finally:
                await box.aclose()

        return asyncio.run(go())

    first, second, refused = told(), told(), told(instructions=False)
    assert first["raw"].startswith("Call state first.\nxxx")
    assert len(first["raw"]) == 2048
    assert (second, refused) == (first, {})
    assert len(lines(tmp_path, "starts")) == 2


def test_all_that_a_server_says_on_stderr_can_be_heard(tmp_path):
    """Each line comes as it is said, with the server's name, cleaned; the last one needs no end."""
    script = tmp_path / "noisy.py"
    script.write_text("import sys; print('one\\n\\x1b[31mtwo', file=sys.stderr, end='')")
    heard = []
    box = Toolbox(
        declared(mcp={"raw": {"command": [sys.executable, str(script)]}}),
        cwd=tmp_path,
        env={},
        said=lambda *it: heard.append(it),
    )
    listed(box)

    assert heard[:2] == [("raw", "one"), ("raw", "two")]


def test_lists_in_place_of_objects_cost_nothing(tmp_path):
    """A server that writes `[]` for what is empty has its tools all the same."""
    assert [*listed(raw_box(tmp_path, "forgets_types"))] == ["state"]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("half", "the server sent an answer that is no JSON"),
        ("big", "the server sent more than 32 MiB at once, which is not read"),
    ],
)
def test_an_answer_that_cannot_be_read_is_an_error_at_once(tmp_path, name, reason):
    """It is not waited for until time is up, and the server lives on."""
    broken, after = called(raw_box(tmp_path), name, "state")

    assert broken.outcome == "failed"
    assert reason in broken.text
    assert after.outcome == "ok"
    assert len(lines(tmp_path, "starts")) == 1


def test_an_answer_of_three_thousand_levels_ends_its_call(tmp_path):
    """However deep it is, the call ends at once, one way or the other."""
    result, after = called(raw_box(tmp_path), "deep", "state")

    assert result.outcome in {"ok", "failed"}
    assert result.duration_ms < 15_000
    assert after.outcome == "ok"


def test_a_bad_entry_costs_itself_alone(tmp_path):
    """Of a list with entries that are none the others are used; hints are believed with care."""
    box = raw_box(tmp_path, "odd_list")
    tools = listed(box)

    assert {"state", "no_schema", "not_an_object", "odd_hint", "both"} <= tools.keys()
    assert not {"task", "huge"} & tools.keys()
    assert tools["state"].read_only is True
    assert (tools["odd_hint"].read_only, tools["both"].read_only) == (None, None)
    assert box.troubles == ("MCP server raw: huge is left out: its schema has more than 64 KiB",)
    assert box.remarks == ("MCP server raw: task runs as a task only, which is not supported",)


ALL_OF_THEM = "now a_b__get_x a_b__get_y a_b__put a_b_648fa9__get_x a_b_648fa9__put"


@pytest.mark.parametrize(
    ("grant", "granted"),
    [
        ("all", ALL_OF_THEM),
        (("all", "-now"), ALL_OF_THEM.removeprefix("now ")),
        (("a.b",), "a_b__get_x a_b__get_y a_b__put"),
        (("a_b",), "a_b_648fa9__get_x a_b_648fa9__put"),
        (("now", "a_b__get_*"), "now a_b__get_x a_b__get_y"),
        (("*__get_x",), "a_b__get_x a_b_648fa9__get_x"),
        (("a.b", "-a_b__get_*"), "a_b__put"),
        (("-a.b",), "now a_b_648fa9__get_x a_b_648fa9__put"),
        # By the server's own name, whatever models are told.
        (("a.b", "-a.b__put"), "a_b__get_x a_b__get_y"),
        (("a_b", "-a_b__put"), "a_b_648fa9__get_x"),
        (("c", "-c__pages/delete", "-c__lö*"), "c__pages_get_52bcd5"),
    ],
)
def test_grants_name_tools_servers_and_patterns(tmp_path, grant, granted):
    """A grant gives what it names, less what it takes away, of servers with like names, too."""

    def server(tools):
        return {"command": [sys.executable, str(RAW_SERVER), str(tmp_path), f"only={tools}"]}

    servers = {"a.b": server("get_x,get_y,put"), "a_b": server("get_x,put")}
    if "c" in grant:
        servers["c"] = server("pages/get,pages/delete,löschen")
    box = Toolbox(declared(builtin=("now",), mcp=servers), cwd=tmp_path, env={})

    async def go():
        try:
            return [tool.name for tool in await box.granted(grant)]
        finally:
            await box.aclose()

    assert asyncio.run(go()) == granted.split()
    assert box.troubles == ()


@pytest.mark.parametrize(("cwd", "covered"), [(".", False), (None, True)])
def test_an_approval_for_good_holds_where_it_was_given(tmp_path, cwd, covered):
    """With `cwd: .` one command is another program in each folder."""
    command = [sys.executable, str(RAW_SERVER), str(tmp_path)]
    settings = {"command": command} | ({"cwd": cwd} if cwd else {})
    folders = [tmp_path / "one", tmp_path / "two"]
    tools = []
    for folder in folders:
        folder.mkdir()
        box = Toolbox(declared(mcp={"raw": settings}), cwd=folder, env={})
        tools.append(listed(box)["adds"])
    memory = RememberedApprovals(tmp_path / "approvals.json")
    memory.add(tools[0], whole=True)

    assert [memory.covers(tool) for tool in tools] == [True, covered]


def test_the_users_word_on_what_is_read_only_counts(tmp_path):
    """`read_only` names tools that are, and `trust_hints: false` believes no hint."""
    tools = listed(raw_box(tmp_path, trust_hints=False, read_only=["sum*"]))

    assert (tools["state"].read_only, tools["summary"].read_only) == (None, True)


@pytest.mark.parametrize(
    ("how", "starts", "first"),
    [
        ([], 1, "server/discover"),
        (["dies_of_discover"], 2, "server/discover"),
        (["silent_to_discover"], 1, "server/discover"),
        (["banner"], 1, "server/discover"),
    ],
)
def test_older_servers_are_asked_to_initialize(tmp_path, how, starts, first):
    """Whether `server/discover` is an error, silence or the end, the tools are known in seconds."""
    began = time.perf_counter()
    tools = listed(raw_box(tmp_path, *how))
    took = time.perf_counter() - began

    assert "state" in tools
    assert took < 9  # the SDK waits 10 s for an answer to `server/discover`
    assert len(lines(tmp_path, "starts")) == starts
    assert lines(tmp_path, "heard")[0] == first


def test_a_slow_server_may_end_of_the_first_question(tmp_path):
    """One that hears `server/discover` late, and ends of it, is started again all the same."""
    tools = listed(raw_box(tmp_path, "dies_of_discover", "slow=2.5"))

    assert "state" in tools
    assert lines(tmp_path, "heard")[:2] == ["server/discover", "initialize"]
    assert len(lines(tmp_path, "starts")) == 2


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what is left in a pipe")
@pytest.mark.parametrize("after_s", [0, 1.2, 3.2], ids=["at once", "soon", "after a while"])
def test_a_server_that_does_not_start_is_started_once(tmp_path, after_s):
    """Ending before it has read a question is no answer to the question: it would end again."""
    script = tmp_path / "server.py"
    script.write_text(
        "import sys, time\n"
        f"open({str(tmp_path / 'starts')!r}, 'a').write('started\\n')\n"
        f"time.sleep({after_s})\n"
        "sys.exit('Error: API_KEY is required')\n"
    )
    mcp = {"dies": {"command": [sys.executable, str(script)]}}
    box = Toolbox(declared(mcp=mcp), cwd=tmp_path, env={})
    listed(box)

    assert box.troubles == ("MCP server dies: Connection closed (Error: API_KEY is required)",)
    assert lines(tmp_path, "starts") == ["started"]


def test_a_server_that_ends_while_it_is_started_is_told(tmp_path, monkeypatch):
    """On a busy machine it may be gone by the time that its pipes are looked at."""
    command = ["sh", "-c", "echo started >> starts; echo Error: no >&2"]
    mcp = {"dies": {"command": command, "cwd": "."}}
    box = Toolbox(declared(mcp=mcp), cwd=tmp_path, env={"PATH": os.environ["PATH"]})

    async def go():
        loop = asyncio.get_running_loop()
        start = loop.subprocess_exec

        async def start_slowly(*args, **kwargs):
            started = await start(*args, **kwargs)
            await asyncio.sleep(1)
            return started

        monkeypatch.setattr(loop, "subprocess_exec", start_slowly)
        await box.granted("all")
        await box.aclose()

    asyncio.run(go())

    assert box.troubles == ("MCP server dies: Connection closed (Error: no)",)
    assert lines(tmp_path, "starts") == ["started"]


class Plain:
    """Something that is of no class of asyncio's."""

    def __init__(self, it):
        self._it = it

    def __getattr__(self, name):
        return getattr(self._it, name)


class PlainTransport(Plain):
    """A child's transport as uvloop's is: so are its pipes, and they do not tell their file."""

    def get_pipe_transport(self, fd):
        pipe = Plain(self._it.get_pipe_transport(fd))
        pipe.get_extra_info = lambda _: None
        return pipe


def test_a_server_can_be_spoken_to_on_another_loop(tmp_path, monkeypatch):
    """Transports of no class of asyncio's, such as uvloop's, are written to all the same."""
    box = raw_box(tmp_path)

    async def go():
        loop = asyncio.get_running_loop()
        start = loop.subprocess_exec

        async def start_plainly(*args, **kwargs):
            transport, protocol = await start(*args, **kwargs)
            return PlainTransport(transport), protocol

        monkeypatch.setattr(loop, "subprocess_exec", start_plainly)
        deadline = loop.time() + 10
        try:
            return await box.granted("all", deadline=deadline)
        finally:
            await box.aclose()

    tools = asyncio.run(go())

    assert "raw__state" in [tool.name for tool in tools]


def test_what_a_server_speaks_is_remembered(tmp_path):
    """The second start asks it to initialize at once."""
    folder, cache = tmp_path / "server", tmp_path / "cache"
    folder.mkdir()
    listed(raw_box(folder, "dies_of_discover", cache=cache))
    (folder / "heard").unlink()
    listed(raw_box(folder, "dies_of_discover", cache=cache), fresh=True)

    assert lines(folder, "heard")[:3] == ["initialize", "notifications/initialized", "tools/list"]


def test_a_server_is_started_by_its_first_call(tmp_path):
    """Its tools are remembered: who calls none starts none, another command is another server."""
    folder, cache = tmp_path / "server", tmp_path / "cache"
    folder.mkdir()
    first = listed(raw_box(folder, cache=cache))
    again = listed(raw_box(folder, cache=cache))
    starts = [len(lines(folder, "starts"))]
    [result] = called(raw_box(folder, cache=cache), "state")
    starts.append(len(lines(folder, "starts")))
    listed(raw_box(folder, cache=cache, env={"TOKEN": "x"}, pass_env=["TOKEN"]))
    starts.append(len(lines(folder, "starts")))

    assert first.keys() == again.keys()
    assert first["state"].parameters == again["state"].parameters
    assert result.text.startswith("call 1 of ")
    assert starts == [1, 2, 3]
    [kept, _] = sorted((cache / "mcp").iterdir(), key=lambda it: it.stat().st_mtime)
    assert kept.stat().st_mode & 0o777 == 0o600


def test_a_tool_that_is_newer_than_what_is_remembered_is_found(tmp_path):
    """Who names a tool that is not in the remembered list makes the server tell it anew."""
    folder, cache = tmp_path / "server", tmp_path / "cache"
    folder.mkdir()
    listed(raw_box(folder, cache=cache))
    (folder / "added").touch()

    async def find():
        box = raw_box(folder, cache=cache)
        try:
            return await box.find("raw__added"), await box.find("raw__nothing")
        finally:
            await box.aclose()

    added, nothing = asyncio.run(find())
    assert added is not None
    assert nothing is None


def test_a_tool_that_no_longer_reads_only_is_asked_about(tmp_path):
    """What a server said of it a day ago runs nothing unasked."""
    folder, cache = tmp_path / "server", tmp_path / "cache"
    folder.mkdir()
    listed(raw_box(folder, cache=cache))
    (folder / "writes").touch()
    first, second = called(raw_box(folder, cache=cache), "state", "state", policy="ask")

    assert (first.outcome, second.outcome) == ("failed", "denied")
    assert "may change something, and nobody was asked" in first.text
    assert "tools/call" not in lines(folder, "heard")


def test_a_server_that_starts_late_is_known_from_then_on(tmp_path):
    """Who did not wait for it goes on without it; the next program knows its tools at once."""
    folder, cache = tmp_path / "server", tmp_path / "cache"
    folder.mkdir()

    async def wait():
        box = raw_box(folder, "slow=1", cache=cache)
        loop = asyncio.get_running_loop()
        try:
            early = await box.granted("all", deadline=loop.time() + 0.1)
            async with asyncio.timeout(20):
                while not (late := await box.granted("all")):
                    await asyncio.sleep(0.1)
            return early, late
        finally:
            await box.aclose()

    early, late = asyncio.run(wait())
    tools = listed(raw_box(folder, "slow=1", cache=cache))

    assert early == ()
    assert [*tools] == [tool.name.removeprefix("raw__") for tool in late]
    assert len(lines(folder, "starts")) == 1


def test_a_mute_server_is_waited_for_once(tmp_path):
    """The next question goes on without it at once; a changed server is tried again."""
    folder, cache = tmp_path / "server", tmp_path / "cache"
    folder.mkdir()
    settings = {"cache": cache, "start_timeout_s": 1.0}
    boxes = [raw_box(folder, "mute", **settings) for _ in range(2)]
    nothing = listed(boxes[0])
    began = time.perf_counter()
    still_nothing = listed(boxes[1])
    took = time.perf_counter() - began
    starts = len(lines(folder, "starts"))
    tools = listed(raw_box(folder, **settings | {"start_timeout_s": 20.0}))

    assert (nothing, still_nothing, starts) == ({}, {}, 1)
    assert took < 0.5
    [trouble] = boxes[1].troubles
    assert "it has not started within 1 s" in trouble
    assert "it is left alone for 60 min, `tieredllm tools list` tries it at once" in trouble
    assert "state" in tools


def test_a_list_that_changes_is_read_again(tmp_path):
    """A tool that a call has added can be called in the same request."""
    before, added = called(raw_box(tmp_path), "adds", "added")

    assert (before.text, added.outcome, added.text) == ("added a tool", "ok", "added")


KILLED_AT_ONCE = """
import os, signal
from tieredllm.tools.mcp import transport
def connection_made(pipes, made):
    os.kill(os.getpid(), signal.SIGKILL)
transport._Pipes.connection_made = connection_made
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
@pytest.mark.parametrize("at_once", [False, True], ids=["later", "as soon as it is started"])
@pytest.mark.parametrize("launcher", [[], ["sh", "-c", '"$@"; true', "launcher"]])
def test_a_server_outlives_no_kill(tmp_path, launcher, at_once):
    """SIGKILL of the program ends a server that would never notice, what launched it or not."""
    command = [*launcher, sys.executable, str(RAW_SERVER), str(tmp_path), "slow=600"]
    script = f"""
import asyncio, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from test_tools_mcp_odd import raw_box
{KILLED_AT_ONCE if at_once else ""}
async def go():
    box = raw_box(Path({str(tmp_path)!r}), command={command!r}, start_timeout_s=600)
    await box.granted("all", deadline=asyncio.get_running_loop().time() + 600)
asyncio.run(go())
"""
    program = subprocess.Popen([sys.executable, "-c", script])
    try:
        until = time.monotonic() + 30
        while not lines(tmp_path, "starts") and program.poll() is None:
            assert time.monotonic() < until
            time.sleep(0.05)
    finally:
        program.kill()
        program.wait()
    until = time.monotonic() + 5
    while servers(tmp_path, RAW_SERVER) and time.monotonic() < until:
        time.sleep(0.05)

    assert program.returncode == -signal.SIGKILL
    assert servers(tmp_path, RAW_SERVER) == []


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such program")
def test_the_environment_is_given_as_it_is(tmp_path):
    """What starts a server adds no variable to those it is to get, and drops none."""
    heard = []
    box = Toolbox(
        declared(mcp={"raw": {"command": "env", "env": {"a.b": "1", "LC_TIME": ""}}}),
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"]},
        said=lambda _, line: heard.append(line),
    )
    listed(box)

    assert {*heard} >= {"a.b=1", "LC_TIME=", f"PATH={os.environ['PATH']}"}
    assert not [line for line in heard if line.startswith(("LC_CTYPE", "PWD", "PYTHON"))]


@pytest.mark.skipif(os.name == "nt", reason="Windows starts no such file either way")
def test_a_program_that_cannot_be_run_is_told(tmp_path):
    """A file that is no program, or whose interpreter is missing, is named with the reason."""
    (tmp_path / "text").write_text("hi")
    (tmp_path / "script").write_text("#!/nowhere/sh\n")
    (tmp_path / "script").chmod(0o755)

    def trouble(command):
        box = raw_box(tmp_path, command=command, cwd=str(tmp_path))
        listed(box)
        return box.troubles[0]

    assert "there is no ./nothing" in trouble("./nothing")
    assert "Permission denied: './text'" in trouble("./text")
    assert "script cannot be run: No such file or directory" in trouble("./script")


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGHUP", 129), ("SIGINT", 130)])
def test_a_signal_ends_the_program_and_its_servers(tmp_path, name, code):
    """SIGTERM and SIGHUP end a program that waits for a busy server as Ctrl-C does."""
    command = [sys.executable, str(RAW_SERVER), str(tmp_path), "slow=600"]
    profile = tmp_path / "profile.yaml"
    profile.write_text(
        "name: test\n"
        "tiers: [{name: a, provider: openai, model: m, api_key_env: null, tools: all}]\n"
        f"tools: {{mcp: {{raw: {{command: {command}, start_timeout_s: 600}}}}}}\n"
    )
    program = subprocess.Popen(
        [sys.executable, "-m", "tieredllm", "-p", str(profile), "tools", "list"],
        env={"PATH": os.environ["PATH"], "TIEREDLLM_HOME": str(tmp_path / "home")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        until = time.monotonic() + 30
        while not lines(tmp_path, "starts") and time.monotonic() < until:
            time.sleep(0.05)
        [pid] = map(int, lines(tmp_path, "starts"))
        program.send_signal(getattr(signal, name))
        _, said = program.communicate(timeout=20)
    finally:
        program.kill()
        program.wait()

    assert (program.returncode, said) == (code, b"")
    assert not Path(f"/proc/{pid}").exists()


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (
            (
                "/x/y.js:3\nthrow new Error('no token')\n^\n\nError: GITHUB_TOKEN is required\n"
                "    at Object.<anonymous> (/x/y.js:3:7)\n    at node\n\nNode.js v20.20.2\n"
            ),
            "Error: GITHUB_TOKEN is required",
        ),
        (
            (
                "npm error code E404\nnpm error 404 Not Found - GET https://registry.example/nothing\n"
                "npm error 404 Note that you can also install from a\n"
                "npm error A complete log of this run can be found in: /root/.npm/_logs/x.log\n"
            ),
            "npm error 404 Not Found - GET https://registry.example/nothing",
        ),
        (
            (
                'Traceback (most recent call last):\n  File "x.py", line 1, in <module>\n'
                "AttributeError: 'Server' object has no attribute 'list_resources'\n"
            ),
            "AttributeError: 'Server' object has no attribute 'list_resources'",
        ),
        (
            "no licence was found\nProcessing request of type CallToolRequest\n",
            "no licence was found",
        ),
        (
            "panic: no token\n\ngoroutine 1 [running]:\nmain.main()\n\t/m.go:5\nexit status 2\n",
            "panic: no token",
        ),
        (
            "Error: no token\n\nCaused by:\n    0: reading\n    1: No such file (os error 2)\n",
            "Error: no token",
        ),
        (
            "docker: no daemon.\n\nRun 'docker run --help' for more information\n",
            "docker: no daemon.",
        ),
        (
            "Error: no contexts are defined.\nUsage:\n  k [flags]\n\nFlags:\n  --log error log\n",
            "Error: no contexts are defined.",
        ),
        (
            (
                "  \xd7 No solution found when resolving tool dependencies:\n"
                "  ╰─▶ Because x was not found in the package registry and you\n"
                "      require x, we can conclude that your requirements are\n"
                "      unsatisfiable.\n"
            ),
            "╰─▶ Because x was not found in the package registry and you",
        ),
        ("\x1b[31mError:\x1b[0m no token\n", "Error: no token"),
        ("", ""),
    ],
)
def test_the_line_that_says_why_is_found(said, reason):
    """Of all that Node, npm and Python print, the one line that helps is shown."""
    stderr = Stderr()
    stderr.add(said.encode())

    assert stderr.reason() == reason


@pytest.mark.parametrize(
    "logged",
    [
        # As @twilio-alpha/mcp 0.7.0 says that it has no account.
        {"method": "log", "params": {"message": "Error: no account"}, "id": "f9"},
        {"method": "notifications/message", "params": {"data": "Error: no account"}},
    ],
)
def test_what_a_server_logs_over_the_connection_may_be_why_it_ends(tmp_path, logged):
    """A server that logs an error as a message, and ends, has said why."""
    line = json.dumps({"jsonrpc": "2.0", **logged})
    box = raw_box(tmp_path, command=[sys.executable, "-c", f"print({line!r}, flush=True)"])
    listed(box)

    [trouble] = box.troubles
    assert trouble.endswith("(Error: no account)")


async def _serve(status, headers, body):
    """Answer every request with an error."""

    async def answer(reader, writer):
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = next(
            (int(it.split(":")[1]) for it in head.split("\r\n") if it.startswith("content-length")),
            0,
        )
        await reader.readexactly(length)
        lines = [f"HTTP/1.1 {status} X", *headers, f"Content-Length: {len(body)}"]
        writer.write("\r\n".join([*lines, "Connection: close", "", body]).encode())
        await writer.drain()
        writer.close()

    return await asyncio.start_server(answer, "127.0.0.1", 0)


@pytest.mark.parametrize(
    ("status", "headers", "body", "expected"),
    [
        (401, ["WWW-Authenticate: Bearer"], "", ["HTTP 401 Unauthorized", "tools login crm"]),
        (403, [], "", ["HTTP 403 Forbidden", "may not use it"]),
        (404, ["Content-Type: text/plain"], "no such page", ["HTTP 404", "no such page", "/mcp"]),
        (429, ["Retry-After: 30"], "", ["HTTP 429", "after 30 s"]),
        (
            500,
            ["Content-Type: application/json"],
            '{"error": "database down"}',
            ["HTTP 500", "database down", "server is at fault"],
        ),
        (402, [], "", ["HTTP 402 Payment Required", "refuses what it was asked"]),
        (200, ["Content-Type: text/html"], "<p>Log in", ["HTTP 200 OK", "text/html", "/mcp"]),
        (200, ["Content-Type: application/json"], '{"ok": 1}', ["HTTP 200 OK", "/mcp"]),
    ],
)
def test_an_error_of_http_is_told_with_what_to_do(tmp_path, status, headers, body, expected):
    """Status, address and body are told, and one thing to do."""

    async def go():
        server = await _serve(status, headers, body)
        port = server.sockets[0].getsockname()[1]
        box = Toolbox(
            declared(mcp={"crm": {"url": f"http://127.0.0.1:{port}/mcp"}}), cwd=tmp_path, env={}
        )
        await box.granted("all")
        await box.aclose()
        server.close()
        return box.troubles, port

    [trouble], port = asyncio.run(go())
    assert f"from http://127.0.0.1:{port}/mcp" in trouble
    for part in expected:
        assert part in trouble


def test_a_server_that_cannot_be_reached_is_named(tmp_path):
    """A closed port is told with its address, without what may be secret in it."""
    box = Toolbox(
        declared(mcp={"raw": {"url": "http://127.0.0.1:9/mcp?key=s3cret"}}), cwd=tmp_path, env={}
    )
    listed(box)

    [trouble] = box.troubles
    assert trouble.startswith("MCP server raw: http://127.0.0.1:9/mcp cannot be reached: ")


class ForgetfulServer:
    """A server over HTTP that is restarted after each session's first call: it knows none then.

    Args:
        forgotten: what it answers to a session that it does not know.
    """

    slow = ("tools/call",)

    def __init__(self, forgotten):
        self._forgotten = forgotten
        self.path = ""
        self.sessions = 0
        self.calls = []

    async def answer(self, reader, writer):
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        headers = dict(it.split(": ", 1) for it in head.split("\r\n")[1:] if ": " in it)
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        self.path = head.split(" ")[1]
        session, message = headers.get("mcp-session-id"), json.loads(body or "{}")
        status, extra, answer = self._answer(head.split(" ")[0], session, message)
        lines = [f"HTTP/1.1 {status} X", *extra, f"Content-Length: {len(answer)}"]
        try:
            if message.get("method") in self.slow:
                await self._work(session, status)
            writer.write("\r\n".join([*lines, "Connection: close", "", answer]).encode())
            await writer.drain()
        finally:
            writer.close()

    async def _work(self, session, status):
        """Take the time that a call takes."""

    def _answer(self, verb, session, message):
        method, request_id = message.get("method"), message.get("id")
        if verb != "post":
            return 405, [], ""
        if request_id is None:
            return 202, [], ""
        if method == "initialize":
            self.sessions += 1
            result = {
                "protocolVersion": "2025-11-25",
                "capabilities": {"tools": {}},
                "serverInfo": {"name": "forgetful", "version": "1"},
            }
        elif method == "tools/list":
            result = {"tools": [{"name": "count", "inputSchema": {"type": "object"}}]}
        elif method == "tools/call":
            if session in self.calls:
                return self._forgotten
            self.calls.append(session)
            result = {"content": [{"type": "text", "text": str(len(self.calls))}]}
        else:
            answer = {"error": {"code": -32601, "message": "Method not found"}}
            return 200, [JSON], json.dumps({"jsonrpc": "2.0", "id": request_id, **answer})
        extra = [JSON, *([f"Mcp-Session-Id: s{self.sessions}"] if method == "initialize" else [])]
        return 200, extra, json.dumps({"jsonrpc": "2.0", "id": request_id, "result": result})


JSON = "Content-Type: application/json"
NO_SESSION = '{"jsonrpc":"2.0","id":null,"error":{"code":-32000,"message":"%s"}}'


@pytest.mark.parametrize(
    "forgotten",
    [
        (404, [], ""),
        (404, [JSON], NO_SESSION % "Session not found"),
        # As the examples of the TypeScript SDK 1.30 have it.
        (400, [JSON], NO_SESSION % "Bad Request: No valid session ID provided"),
    ],
)
def test_a_session_that_a_server_forgot_is_begun_anew(tmp_path, forgotten):
    """A call that meets a restarted server runs in a new session, once, however often."""

    async def go():
        served = ForgetfulServer(forgotten)
        server = await asyncio.start_server(served.answer, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/mcp"
        box = Toolbox(declared(mcp={"raw": {"url": url}}), cwd=tmp_path, env={})
        tools = ToolSession(box, approval=Approval("always"), max_rounds=9)
        try:
            return [(await carried_out(tools, call("raw__count")))[0] for _ in range(3)]
        finally:
            await box.aclose()
            server.close()

    results = asyncio.run(go())
    assert [(it.outcome, it.text) for it in results] == [("ok", "1"), ("ok", "2"), ("ok", "3")]


class ChangedServer(ForgetfulServer):
    """A server whose tool is read-only in the first session alone."""

    def __init__(self):
        super().__init__((404, [JSON], NO_SESSION % "Session not found"))

    def _answer(self, verb, session, message):
        status, extra, answer = super()._answer(verb, session, message)
        if message.get("method") == "tools/list" and self.sessions == 1:
            answer = answer.replace('"count"', '"count", "annotations": {"readOnlyHint": true}')
        return status, extra, answer


def test_a_tool_that_changed_with_its_session_is_not_run_unasked(tmp_path):
    """What its server says in the new session counts, not what it said in the one it forgot."""

    async def go():
        served = ChangedServer()
        server = await asyncio.start_server(served.answer, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/mcp"
        box = Toolbox(declared(mcp={"raw": {"url": url}}), cwd=tmp_path, env={})
        tools = ToolSession(box, approval=Approval("ask"), max_rounds=9)
        try:
            results = [(await carried_out(tools, call("raw__count")))[0] for _ in range(2)]
            return results, served.sessions, served.calls
        finally:
            await box.aclose()
            server.close()

    (first, second), sessions, calls = asyncio.run(go())
    assert (first.text, second.outcome) == ("1", "failed")
    assert "says by now that this tool may change something" in second.text
    assert (sessions, calls) == (2, ["s1"])


class Replica(ForgetfulServer):
    """A server of which another one of its kind answers each second call of the first session."""

    def __init__(self):
        super().__init__((404, [JSON], NO_SESSION % "Session not found"))

    async def _work(self, session, status):
        await asyncio.sleep(1.0 if (session, status) == ("s1", 200) else 0.0)


def test_what_was_under_way_when_a_session_was_forgotten_is_not_run_again(tmp_path):
    """One call meets a server that does not know the session; another one, which runs, is lost."""

    async def go():
        served = Replica()
        server = await asyncio.start_server(served.answer, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/mcp"
        box = Toolbox(declared(mcp={"raw": {"url": url}}), cwd=tmp_path, env={})

        async def ask(after_s):
            await asyncio.sleep(after_s)
            tools = ToolSession(box, approval=Approval("always"), max_rounds=9)
            return (await carried_out(tools, call("raw__count")))[0]

        try:
            await box.granted("all")
            return await asyncio.gather(ask(0), ask(0.3)), served.calls
        finally:
            await box.aclose()
            server.close()

    (lost, other), calls = asyncio.run(go())
    assert (lost.outcome, other.outcome) == ("failed", "ok")
    assert "may have taken effect" in lost.text
    assert calls == ["s1", "s2"]


class FailingServer(ForgetfulServer):
    """A server whose calls fail with the statuses that they ask for, all at the same moment."""

    def __init__(self, calls):
        super().__init__(None)
        self._all_here = asyncio.Barrier(calls)

    async def _work(self, session, status):
        await self._all_here.wait()

    def _answer(self, verb, session, message):
        if message.get("method") != "tools/call":
            return super()._answer(verb, session, message)
        return message["params"]["arguments"]["status"], [], ""


def test_calls_at_once_are_told_their_own_errors(tmp_path):
    """Of several that fail over HTTP at the same time, each is told what came of it."""
    statuses = (429, 500, 403, 503)

    async def go():
        served = FailingServer(len(statuses))
        server = await asyncio.start_server(served.answer, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/mcp"
        box = Toolbox(declared(mcp={"raw": {"url": url, "read_only": ["*"]}}), cwd=tmp_path, env={})
        tools = ToolSession(box, approval=Approval("always"), max_rounds=9)
        calls = [call("raw__count", {"status": it}, call_id=str(it)) for it in statuses]
        try:
            return await carried_out(tools, *calls)
        finally:
            await box.aclose()
            server.close()

    results = asyncio.run(go())
    told = [re.search(r"failed: HTTP (\d+) ", it.text) for it in results]
    assert [found and int(found[1]) for found in told] == [*statuses]


class LockedServers(ForgetfulServer):
    """Servers at addresses of their own: `/401` and `/503` fail with that, at the same moment."""

    slow = ("server/discover", "initialize")

    def __init__(self):
        super().__init__(None)
        self._all_here = asyncio.Barrier(2)

    async def _work(self, session, status):
        if self.path != "/mcp":
            await self._all_here.wait()

    def _answer(self, verb, session, message):
        status = self.path.removeprefix("/")
        if not status.isdecimal():
            return super()._answer(verb, session, message)
        return int(status), [], ""


def test_servers_that_start_at_once_are_told_their_own_errors(tmp_path):
    """Also after a call to another server, whose errors are not theirs."""

    async def go():
        served = LockedServers()
        server = await asyncio.start_server(served.answer, "127.0.0.1", 0)
        address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"

        def box(path):
            mcp = {"raw": {"url": f"{address}/{path}"}}
            return Toolbox(declared(mcp=mcp), cwd=tmp_path, env={})

        boxes = [box(path) for path in ("mcp", "401", "503")]
        try:
            [tool] = await boxes[0].granted("all")
            async with asyncio.timeout(20) as timer:
                await tool.run({}, CallTime(timer, 20.0, timer.when()))
            await asyncio.gather(*(it.granted("all") for it in boxes[1:]))
            return [it.troubles for it in boxes]
        finally:
            for it in boxes:
                await it.aclose()
            server.close()

    none, [locked], [ill] = asyncio.run(go())
    assert none == ()
    assert "HTTP 401 " in locked
    assert "HTTP 503 " in ill


class RefusingServer(ForgetfulServer):
    """A server that refuses a call for an argument of its own that is called session."""

    def _answer(self, verb, session, message):
        if message.get("method") != "tools/call":
            return super()._answer(verb, session, message)
        self.calls.append(session)
        error = {"code": -32602, "message": "no tmux session 7"}
        body = json.dumps({"jsonrpc": "2.0", "id": message["id"], "error": error})
        return 400, [JSON], body


def test_an_error_that_is_an_answer_is_none_of_the_session(tmp_path):
    """A 400 that answers the call by its id was known to the server: the call is not made again."""

    async def go():
        served = RefusingServer(None)
        server = await asyncio.start_server(served.answer, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/mcp"
        box = Toolbox(declared(mcp={"raw": {"url": url}}), cwd=tmp_path, env={})
        tools = ToolSession(box, approval=Approval("always"), max_rounds=9)
        try:
            return (await carried_out(tools, call("raw__count")))[0], served.calls
        finally:
            await box.aclose()
            server.close()

    result, calls = asyncio.run(go())
    assert result.text == "the MCP server raw failed: no tmux session 7"
    assert calls == ["s1"]


class LooseServer(ForgetfulServer):
    """A server over HTTP whose calls are answered with a body of our own.

    Args:
        kind: the body's media type.
        body: the body.
        address: where it is; who asks elsewhere is sent there.
    """

    def __init__(self, kind, body, address="/mcp"):
        super().__init__(None)
        self._kind, self._body, self._address = kind, body, address

    def _answer(self, verb, session, message):
        if self.path != self._address:
            return 307, [f"Location: {self._address}"], ""
        if message.get("method") != "tools/call":
            return super()._answer(verb, session, message)
        body = self._body.replace("ID", str(message["id"])).replace("BLOCK", BLOCK)
        return 200, [f"Content-Type: {self._kind}"], body


LOOSE = '{"id":ID,"result":{"content":[BLOCK,{"type":"text","text":"half \\ud83d"}],"x":NaN}}'


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("application/json", LOOSE),
        ("text/event-stream", f"event: message\ndata: {LOOSE}\n\n"),
        ("text/event-stream; charset=utf-8", f": hello\n\nid: 1\r\ndata: {LOOSE}\r\n\r\n"),
        # One event of several lines, and a notification before it.
        (
            "text/event-stream",
            'data: {"jsonrpc":"2.0","method":"notifications/x","params":null}\n\n'
            "data: " + LOOSE.replace(",", ",\ndata: ") + "\n\n",
        ),
    ],
)
def test_a_loose_answer_over_http_is_read_as_it_is_meant(tmp_path, kind, body):
    """What is mended over pipes is over HTTP, in a body as in a stream of events."""
    result = answered(tmp_path, kind, body)

    assert (result.outcome, result.text) == ("ok", "x\n\nhalf \ufffd")


@pytest.mark.parametrize("kind", ["application/json", "text/event-stream"])
def test_an_answer_over_http_that_is_too_long_is_an_error_at_once(tmp_path, monkeypatch, kind):
    """No server fills the memory; its answer is an error of the call."""
    for module in ("transport", "http"):
        monkeypatch.setattr(f"tieredllm.tools.mcp.{module}.MAX_LINE_BYTES", 1024**2)
    body = ("data: " if "stream" in kind else "") + '{"id":ID,"result":["' + "x" * 2_000_000
    result = answered(tmp_path, kind, body)

    assert result.outcome == "failed"
    assert "more than 1 MiB at once, which is not read" in result.text


def test_an_answer_over_http_may_be_as_long_as_one_over_a_pipe(tmp_path):
    """The SDK's own limit, of 1 MiB for an event, is none."""
    body = 'data: {"id":ID,"result":{"content":["' + "x" * 2_000_000 + '"]}}\n\n'
    result = answered(tmp_path, "text/event-stream", body)

    assert result.outcome == "ok"
    assert result.text.startswith("xxx")


def test_a_server_that_has_moved_is_found(tmp_path):
    """Frameworks send who asks at `/mcp` on to `/mcp/`, of the same host."""
    body = '{"id":ID,"result":{"content":[BLOCK]}}'
    result = answered(tmp_path, "application/json", body, address="/mcp/")

    assert (result.outcome, result.text) == ("ok", "x")


def answered(folder, kind, body, **more):
    """Call a tool of a server that answers with a body; give the result."""

    async def go():
        served = LooseServer(kind, body, **more)
        server = await asyncio.start_server(served.answer, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/mcp"
        box = Toolbox(declared(mcp={"raw": {"url": url}}), cwd=folder, env={})
        tools = ToolSession(box, approval=Approval("always"), max_rounds=9)
        try:
            return (await carried_out(tools, call("raw__count")))[0]
        finally:
            await box.aclose()
            server.close()

    return asyncio.run(go())


def test_no_failure_tells_a_servers_secrets(tmp_path):
    """What a server echoes of its token is masked, in errors and on stderr; its home is not."""
    secret, heard = "of-nobodys-business", []
    say = f"print('Error: bad {secret} in {tmp_path}', file=sys.stderr)"
    echo = {"jsonrpc": "2.0", "id": "ID", "error": {"code": -32000, "message": f"no {secret}"}}
    mcp = {
        "dies": {"command": [sys.executable, "-c", f"import sys; {say}"], "pass_env": ["TOK"]},
        "raw": {
            "command": [sys.executable, str(RAW_SERVER), "${HOME}"],
            "env": {"TOKEN": "${TOK}"},
        },
    }
    box = Toolbox(
        declared(mcp=mcp),
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "TOK": secret, "HOME": str(tmp_path)},
        said=lambda _, line: heard.append(line),
    )
    [result] = called(box, ("say", {"line": json.dumps(echo)}))

    assert result.text == "the MCP server raw failed: no [key]"
    [trouble] = box.troubles
    assert trouble.endswith(f"(Error: bad [key] in {tmp_path})")
    assert f"Error: bad [key] in {tmp_path}" in heard


@pytest.mark.parametrize(
    ("after", "told"), [("7", "7 s"), ("Wed, 21 Oct 2026 07:28:00 GMT",) * 2, ("", "a while")]
)
def test_when_to_try_again_is_told_in_seconds_or_as_a_date(after, told):
    """`Retry-After` is one or the other (RFC 9110, 10.2.3)."""
    problem = HttpProblem(status=429, url="http://x/", retry_after=after)

    assert problem.explain("crm", None).endswith(f"try again after {told}")


def test_everything_a_server_is_told_may_name_variables(tmp_path):
    """`${NAME}` and `${NAME:-text}` stand for variables and stored keys; a missing one is told."""
    script = tmp_path / "show.py"
    script.write_text(
        "import json, os, sys\n"
        "sys.exit('Error: ' + json.dumps([sys.argv[1:], os.environ['T'], os.environ['PORT'],"
        " os.environ['HTTPS_PROXY'], os.getcwd()]))\n"
    )
    settings = {
        "command": sys.executable,
        "args": [str(script), "${WHO}", "${NOBODY:-none}"],
        "env": {"T": "${TOKEN}", "PORT": 3000},
        "cwd": "${WHERE}",
    }
    env = {"WHO": "me", "TOKEN": "t0ken", "WHERE": str(tmp_path), "HTTPS_PROXY": "http://p:1"}

    def trouble(env):
        box = Toolbox(declared(mcp={"raw": settings}), cwd=Path("/"), env=env)
        listed(box)
        return box.troubles[0]

    told, missing = trouble(env), trouble({**env, "TOKEN": ""})
    assert f'[["me", "none"], "t0ken", "3000", "http://p:1", "{tmp_path}"]' in told
    assert "TOKEN is not set: export TOKEN=… or `tieredllm keys set TOKEN`" in missing
