"""The command `tools` shows what each tier may use, and calls a tool as a model would."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pexpect
import pytest
import yaml
from tools_support import MCP_SERVER, RAW_SERVER, servers

from tieredllm.cli import lazy_group
from tieredllm.cli.environment import Environment
from tieredllm.cli.main import run

MODULE = '''
def close_ticket(number: int) -> str:
    """Close a ticket.

    For good.
    """
    return f"closed {number}"
'''
PROFILE = """
name: test
tools:
  builtin: [now, calculate, read_file]
  python: [tickets_x:close_ticket]
  approve: {approve}
tiers:
  - {{name: primary, provider: openai, model: m, api_key_env: null, tools: all}}
  - {{name: secondary, provider: anthropic, model: m, api_key_env: null, tools: [calculate]}}
  - {{name: third, provider: gemini, model: m, api_key_env: null}}
  - {{name: minimal, provider: llama_cpp, model: smollm2-135m, tools: all}}
  - {{name: rules, provider: rules}}
"""


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Make a profile with a module beside it, and be in a directory with a file."""
    folder = tmp_path / "profiles"
    folder.mkdir()
    (folder / "tickets_x.py").write_text(MODULE)
    (folder / "test.yaml").write_text(PROFILE.format(approve="ask"))
    work = tmp_path / "work"
    work.mkdir()
    (work / "notes.txt").write_text("the note\n")
    monkeypatch.chdir(work)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setitem(
        lazy_group.COMMANDS, "tools", "Show and call the tools that models may use."
    )
    yield folder
    sys.modules.pop("tickets_x", None)


def tools(folder, *args, profile="test.yaml"):
    """Run the command in a pipe; give its exit code, stdout and stderr."""
    stdout, stderr = io.StringIO(), io.StringIO()
    environment = Environment(
        env={"TIEREDLLM_HOME": str(folder / "home")},
        stdin=io.StringIO("y\n"),
        stdout=stdout,
        stderr=stderr,
        profile_name=str(folder / profile),
    )
    code = run(["tools", *args], environment)
    return code, stdout.getvalue(), stderr.getvalue()


def test_list(home):
    """Each tier's tools are a line each; what no wire carries has none."""
    code, out, err = tools(home, "list")

    assert (code, err) == (0, "")
    rows = [line.split("\t") for line in out.splitlines()]
    assert [row[:3] for row in rows] == [
        ["primary", "now", "read-only"],
        ["primary", "calculate", "read-only"],
        ["primary", "read_file", "read-only"],
        ["primary", "close_ticket", "needs approval"],
        ["secondary", "calculate", "read-only"],
        ["third", "-", ""],
        ["minimal", "-", ""],
        ["rules", "-", ""],
    ]
    assert rows[3][3] == "Close a ticket."


def test_list_shows_what_no_tier_may_use(home):
    """What is declared and granted to nobody is listed at the end, without a tier."""
    text = PROFILE.format(approve="ask").replace("tools: all", "tools: [all, -close_ticket]")
    (home / "some.yaml").write_text(text)
    _, out, _ = tools(home, "list", profile="some.yaml")
    _, listed, _ = tools(home, "list", "--json", profile="some.yaml")

    assert out.splitlines()[-1].split("\t")[:3] == ["(no tier)", "close_ticket", "needs approval"]
    last = json.loads(listed)[-1]
    assert (last["tier"], [it["name"] for it in last["tools"]]) == (None, ["close_ticket"])


def test_all_that_a_server_says_is_shown_with_v(home):
    """`-v` shows each line of its stderr, and what it tells models of itself."""
    server = [sys.executable, str(RAW_SERVER), str(home), "tells", "noisy"]
    (home / "some.yaml").write_text(
        "tiers: [{name: rules, provider: rules}]\n"
        f"tools: {{mcp: {{raw: {{command: {json.dumps(server)}}}}}}}\n"
    )
    _, _, quiet = tools(home, "list", profile="some.yaml")
    _, _, told = tools(home, "list", "-v", profile="some.yaml")
    _, _, called = tools(home, "call", "-v", "raw__state", profile="some.yaml")

    assert quiet == ""
    said = "raw: reading the settings\nraw: ready\n"
    assert told.startswith(f"{said}raw tells models (2048 characters):\nCall state first.\nxxx")
    assert called.startswith(said)


def test_import_writes_servers_without_their_secrets(home):
    """Another program's servers come as a profile's, secrets as names of variables."""
    servers = {
        "git": {"command": "uvx", "args": ["mcp-server-git"], "env": {"GITHUB_TOKEN": "ghp_abc"}},
        "my crm": {"url": "https://x/mcp", "headers": {"Authorization": "Bearer s3cret"}},
        "plain": {"command": "serve", "env": {"PORT": "3000", "API_KEY": "${MINE}"}},
        "db": {"command": "npx", "args": ["-y", "pg", "postgresql://me:s3cret@host/db"]},
        "opts": {"command": "npx", "args": ["--access-token", "s3cret", "--api-key=s3cret", "x"]},
        "remote": {"command": "npx", "args": ["--header", "Authorization: Bearer s3cret"]},
        "keyed": {"url": "https://x/mcp?api_key=s3cret"},
    }
    (home / "mcp.json").write_text(json.dumps({"mcpServers": servers}))
    code, out, err = tools(home, "import", str(home / "mcp.json"))

    assert code == 0
    assert yaml.safe_load(out)["tools"]["mcp"] == {
        "git": servers["git"] | {"env": {"GITHUB_TOKEN": "${GITHUB_TOKEN}"}},
        "my crm": servers["my crm"] | {"headers": {"Authorization": "Bearer ${MY_CRM_TOKEN}"}},
        "plain": servers["plain"],
        "db": {"command": "npx", "args": ["-y", "pg", "${DB_URL}"]},
        "opts": {
            "command": "npx",
            "args": ["--access-token", "${ACCESS_TOKEN}", "--api-key=${API_KEY}", "x"],
        },
        "remote": {
            "command": "npx",
            "args": ["--header", "Authorization: Bearer ${REMOTE_TOKEN}"],
        },
        "keyed": {"url": "${KEYED_URL}"},
    }
    assert "`tieredllm keys set GITHUB_TOKEN`" in err
    assert "`tieredllm keys set MY_CRM_TOKEN`" in err
    assert "s3cret" not in out + err


def test_import_without_a_file_says_where_there_are_some(home, monkeypatch):
    """Files of programs that are known are named; where there are none that is said."""
    monkeypatch.setenv("HOME", str(home / "nobody"))
    nothing = tools(home, "import")
    Path(".mcp.json").write_text("{}")
    something = tools(home, "import")

    assert nothing[0] == 1
    assert something[:2] == (0, ".mcp.json\n")


def test_approvals_are_shown_and_forgotten(home):
    """What was approved for good is listed, and asked about again once it is forgotten."""
    path = home / "home" / "state" / "approvals.json"
    path.parent.mkdir(parents=True)
    path.write_text(
        '["docs docs__write 1f", "docs * 1f", "python close_ticket 3a", "My Server * 2e"]'
    )
    tools(home, "approvals", "--forget", "My Server")
    _, out, _ = tools(home, "approvals")
    code, listed, _ = tools(home, "approvals", "--forget", "docs__write")
    _, left, _ = tools(home, "approvals", "--json")
    wrong, _, err = tools(home, "approvals", "--forget", "nothing")

    assert out == "docs\tdocs__write\ndocs\t*\npython\tclose_ticket\n"
    assert (code, listed) == (0, "")
    assert [it["tool"] for it in json.loads(left)] == ["*", "close_ticket"]
    assert (wrong, err) == (2, "tieredllm: nothing called nothing was approved for good\n")


def test_list_as_json(home):
    """The JSON has what a model is told of each tool."""
    code, out, _ = tools(home, "list", "--json")
    value = json.loads(out)

    assert code == 0
    assert [tier["tier"] for tier in value] == ["primary", "secondary", "third", "minimal", "rules"]
    ticket = value[0]["tools"][3]
    assert ticket == {
        "name": "close_ticket",
        "origin": "python",
        "read_only": None,
        "description": "Close a ticket.\n\nFor good.",
        "parameters": {
            "type": "object",
            "properties": {"number": {"type": "integer"}},
            "required": ["number"],
            "additionalProperties": False,
        },
    }


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["calculate", '{"expression": "2**64"}'], "18446744073709551616\n"),
        (["read_file", '{"path": "notes.txt"}'], "the note\n"),
        (["--approve-tools", "close_ticket", '{"number": 7}'], "closed 7\n"),
    ],
)
def test_call_prints_the_result(home, args, expected):
    """The result is on stdout, with one line end, and nothing on stderr."""
    assert tools(home, "call", *args) == (0, expected, "")


def test_call_without_arguments(home):
    """A tool that needs none is called with none."""
    code, out, err = tools(home, "call", "now")

    assert (code, err) == (0, "")
    assert out.startswith("20")


@pytest.mark.parametrize(
    ("args", "code", "reason"),
    [
        (["nothing"], 2, "there is no tool `nothing`"),
        (["calculate", "{"], 2, "not JSON"),
        (["calculate", '{"expression": 3}'], 2, "`expression`: expected `str`, got `int`"),
        (["calculate"], 2, "missing required field `expression`"),
        (["calculate", '{"expression": "1/0"}'], 1, "calculate: division by zero"),
        (["read_file", '{"path": "../profiles/test.yaml"}'], 1, "outside of the working directory"),
        (["close_ticket", '{"number": 7}'], 1, "nobody at a terminal to approve it"),
    ],
)
def test_call_that_gives_no_result(home, args, code, reason):
    """Mistakes end with 2, errors and refusals with 1; one line on stderr says why."""
    ended, out, err = tools(home, "call", *args)

    assert (ended, out) == (code, "")
    assert reason in err
    assert err.count("\n") == 1


def test_the_profile_can_forbid(home):
    """`approve: never` holds against `--approve-tools`; `always` asks nobody."""
    (home / "never.yaml").write_text(PROFILE.format(approve="never"))
    (home / "always.yaml").write_text(PROFILE.format(approve="always"))
    call = ("call", "--approve-tools", "close_ticket", '{"number": 7}')

    code, out, err = tools(home, *call, profile="never.yaml")
    assert (code, out) == (1, "")
    assert "the profile allows no such tool" in err
    assert tools(home, "call", "close_ticket", '{"number": 7}', profile="always.yaml")[0] == 0


def test_mistakes_of_the_profile(home):
    """A function that cannot be imported is one line, and exit code 2."""
    text = PROFILE.format(approve="ask").replace("tickets_x:close_ticket", "nowhere_x:f")
    (home / "broken.yaml").write_text(text)
    code, out, err = tools(home, "list", profile="broken.yaml")

    assert (code, out) == (2, "")
    assert err == "tieredllm: tools.python: nowhere_x:f: there is no module nowhere_x\n"


def test_a_server_that_does_not_start_is_told(home):
    """The other tools are listed all the same, and the exit code is 1."""
    text = PROFILE.format(approve="ask").replace(
        "tools:\n",
        f"tools:\n  mcp: {{docs: {{command: [{sys.executable}, -c, 'exit(\"no\")']}}}}\n",
    )
    (home / "docs.yaml").write_text(text)
    code, out, err = tools(home, "list", profile="docs.yaml")

    assert code == 1
    assert "primary\tnow" in out
    assert err.startswith("tieredllm: MCP server docs: ")
    code, out, err = tools(home, "call", "docs__x", profile="docs.yaml")
    assert (code, out) == (2, "")
    assert "MCP server docs" in err


def test_a_server_is_ended_with_the_command(home, tmp_path):
    """A real server is listed and called, and gone afterwards."""
    command = [sys.executable, str(MCP_SERVER), str(tmp_path / "count")]
    text = PROFILE.format(approve="ask").replace(
        "tools:\n", f"tools:\n  mcp: {{docs: {{command: {json.dumps(command)}}}}}\n"
    )
    (home / "docs.yaml").write_text(text)

    call = ("call", "docs__count", '{"by": 2}', "--approve-tools")
    assert tools(home, *call, profile="docs.yaml") == (0, "counted to 2\n", "")
    assert servers(tmp_path) == []


CODE = """
import sys
from tieredllm.cli.lazy_group import COMMANDS
COMMANDS.setdefault("tools", "Show and call the tools that models may use.")
from tieredllm.cli.main import run
sys.exit(run(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("answer", "code", "shown"),
    [
        ("y\n", 0, "closed 7"),
        ("yes\n", 0, "closed 7"),
        ("n\n", 1, "did not approve"),
        ("\n", 1, "did not approve"),
        ("sure\n", 1, "did not approve"),
        ("s\n", 1, "did not approve"),
        ("always\n", 0, "closed 7"),
        ("\x04", 1, "did not"),
    ],
)
def test_a_person_is_asked_at_a_terminal(home, answer, code, shown):
    """The question names the call; only y and yes mean yes, and nothing else runs it."""
    child = pexpect.spawn(
        sys.executable,
        [
            "-c",
            CODE,
            "-p",
            str(home / "test.yaml"),
            "tools",
            "call",
            "close_ticket",
            '{"number": 7}',
        ],
        timeout=60,
        encoding="utf-8",
        env={"PATH": "/usr/bin:/bin", "TIEREDLLM_HOME": str(home / "home"), "TERM": "dumb"},
        dimensions=(24, 200),
    )
    child.expect_exact('close_ticket {"number":7}')
    child.expect_exact("Close a ticket.")
    child.expect_exact("Run it? [y/N] ")
    child.send(answer)
    rest = child.read()
    child.close()

    assert child.exitstatus == code
    assert shown in rest


def test_ctrl_c_at_the_question(home):
    """Ctrl-C at the question ends the command, and nothing has run."""
    child = pexpect.spawn(
        sys.executable,
        [
            "-c",
            CODE,
            "-p",
            str(home / "test.yaml"),
            "tools",
            "call",
            "close_ticket",
            '{"number": 7}',
        ],
        timeout=60,
        encoding="utf-8",
        env={"PATH": "/usr/bin:/bin", "TIEREDLLM_HOME": str(home / "home"), "TERM": "dumb"},
    )
    child.expect_exact("[y/N] ")
    child.sendintr()
    rest = child.read()
    child.close()

    assert child.exitstatus == 130
    assert "closed" not in rest
    assert "Traceback" not in rest


LOADED = """
import sys
from tieredllm.cli.lazy_group import COMMANDS
COMMANDS.setdefault("tools", "x")
from tieredllm.cli.main import run
code = run(sys.argv[1:])
print(sorted(name for name in sys.modules if name.startswith(
    ("mcp", "jsonschema", "tieredllm.tools", "pydantic", "httpx", "httpcore", "anyio"))))
"""


def modules(home, *args):
    """Run a command in a new interpreter; give which modules of the tools it has loaded."""
    done = subprocess.run(
        [sys.executable, "-c", LOADED, "-p", str(home / "test.yaml"), *args],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env={"PATH": "/usr/bin:/bin", "TIEREDLLM_HOME": str(home / "home")},
    )
    return done.stdout.strip().splitlines()[-1]


def test_what_is_not_used_is_not_loaded(home):
    """Without servers neither SDK nor HTTP client is loaded; other commands load no tool."""
    assert "mcp" not in modules(home, "tools", "list").replace("tieredllm.tools.mcp", "")
    assert "http" not in modules(home, "tools", "call", "now")
    assert modules(home, "profile", "path") == "[]"
