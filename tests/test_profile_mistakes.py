"""Every mistake of a profile is reported at once, with its place and what would be right."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from profile_support import mistakes_in, places_in, write

from tieredllm.errors import ProfileError
from tieredllm.profile.dump import write_yaml
from tieredllm.profile.load import find_mistakes, load_profile
from tieredllm.profile.schema import McpSettings, Profile, Tools, variables_of
from tieredllm.profile.yaml_reader import parse_yaml

DATA = Path(__file__).parent / "data"
BROKEN = (DATA / "profile_broken.yaml").read_text(encoding="utf-8")
TOLD = (DATA / "profile_broken.txt").read_text(encoding="utf-8")


@pytest.fixture
def places(tmp_path):
    return places_in(tmp_path / "home")


def test_a_broken_profile_shows_every_mistake_at_once(tmp_path, places):
    """Three dozen mistakes of all kinds come with line and column, in the order of the file."""
    path = write(tmp_path / "broken.yaml", BROKEN)

    assert mistakes_in(path, places) == TOLD.replace("{folder}", str(tmp_path)).splitlines()


def test_no_secret_is_repeated(tmp_path, places):
    """What was pasted where a name belongs is in no message."""
    told = "\n".join(mistakes_in(write(tmp_path / "broken.yaml", BROKEN), places))

    assert "0123456789" not in told
    assert "SECRET" not in told


def tier(lines: str) -> str:
    body = "\n".join(f"    {line}" for line in lines.splitlines())
    return f"tiers:\n  - name: a\n{body}\n"


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        ("", "1:1: the file is empty: start with `tiers:`, or with `extends: default`"),
        ("# x\n", "1:1: the file is empty: start with `tiers:`, or with `extends: default`"),
        ("- a", "1:1: a profile is a mapping (lines of `key: value`): start with `tiers:`"),
        ("words", "1:1: a profile is a mapping (lines of `key: value`): start with `tiers:`"),
        ("tiers:\n\t- a", "2:1: a tab cannot indent in YAML: use spaces"),
        ("deadline_s: 1", "1:1: `tiers` is missing: give a list with at least one item"),
        ("tiers: []", "1:8: `tiers` must be a list with at least one item, not an empty list"),
        (
            "tiers: {name: a}",
            "1:8: `tiers` must be a list with at least one item, not a mapping",
        ),
        (tier("provider: rules\nvars: *q"), "4:11: `*q` repeats nothing: no `&q` ends before it"),
        (
            tier("provider: llama_cpp"),
            (
                "2:5: `model` is missing: tier `a` needs a catalog name such as "
                "gemma-2-2b-it, or the "
                "path of a .gguf file"
            ),
        ),
        (
            tier("provider: openai\nmodel:"),
            "4:11: `model` is missing: tier `a` needs the name its server has for a model",
        ),
        (
            tier("provider: openai\nmodel: ''"),
            "4:12: `model` must be text that is not empty, or null, not empty text",
        ),
        (
            tier("provider: openai\nmodel: 4.1"),
            "4:12: `model` must be text that is not empty, or null, not `4.1`: put it in quotes",
        ),
        (
            "serve: {hosts: ['gw.example:443']}\n" + tier("provider: rules"),
            (
                "1:17: item 1 of `hosts` must be the name or address of a host, "
                "without a scheme or a port, not the text `gw.example:443`"
            ),
        ),
        (
            "serve: {origins: ['*']}\n" + tier("provider: rules"),
            (
                "1:19: item 1 of `origins` must be a web origin, such as https://chat.example.org, "
                "without a path or `*`, not the text `*`"
            ),
        ),
        (
            tier("provider: llama_cpp\nmodel: x\nbase_url: http://x"),
            "5:5: a model that runs in-process has no `base_url`: remove it",
        ),
        (
            tier("provider: rules\napi_key_env: KEY"),
            "4:5: a rules tier has no `api_key_env`: remove it",
        ),
        (
            tier("provider: gemini\nmodel: x\napi_key_env: AIzaSyA0123456789abcdefghij"),
            (
                "5:18: `api_key_env` must be the name of an environment "
                "variable, not the key itself: "
                "keep that with `tieredllm keys set NAME`, and put the NAME "
                "here, such as OPENAI_API_KEY"
            ),
        ),
        (
            tier("provider: gemini\nmodel: x\napi_key_env: $KEY"),
            (
                "5:18: `api_key_env` must be the name of an environment variable, or null, without "
                "the `$`"
            ),
        ),
        (
            tier("provider: openai\nmodel: x\nbase_url: ftp://u:secret@x/v1"),
            "5:15: `base_url` must start with https:// or http://, not `ftp://****@x/v1`",
        ),
        (
            tier("provider: openai\nmodel: x\nbase_url: http:///v1"),
            "5:15: `base_url` names no server: `http:///v1`",
        ),
        (
            tier("provider: openai\nmodel: x\nbase_url: http://x/v1#y"),
            "5:15: `base_url` has a `#` in it, and what follows one is sent to no server",
        ),
        (
            tier("provider: openai\nmodel: x\nheaders: {Transfer-Encoding: chunked}"),
            (
                "5:15: `headers.Transfer-Encoding` says where a request ends, which is ours to "
                "say: remove it"
            ),
        ),
        (
            tier("provider: openai\nmodel: x\nbase_url: http://x:99999/v1"),
            "5:15: `base_url` is no URL: `http://x:99999/v1`",
        ),
        (
            tier("provider: openai\nmodel: x\nbase_url: http://x y/v1"),
            "5:15: `base_url` has a space or a control character in it",
        ),
        (
            tier("provider: openai\nmodel: x\ntimeout_s: 010"),
            "5:16: `timeout_s` must be a number above 0 up to 86400, not the text `010`: write 10",
        ),
        (
            tier("provider: openai\nmodel: x\ntimeout_s: .inf"),
            "5:16: `timeout_s` must be a number above 0 up to 86400, not the text `.inf`",
        ),
        (
            tier("provider: openai\nmodel: x\ntools: some"),
            "5:12: `tools` must be all, none or a list, not the text `some`",
        ),
        (
            tier("provider: openai\nmodel: x\ntools: [now]"),
            "5:13: no tool `now` is declared: add it under `tools`",
        ),
        (
            tier("provider: openai\nmodel: x\nparams:"),
            "5:12: `params` must be a mapping (lines of `key: value`), not nothing",
        ),
        (
            tier("provider: rules") + "tools: {mcp: {docs: {command: 3}}}",
            (
                "4:31: `command` must be a program, or a list of it and its arguments, or null, "
                "not `3`"
            ),
        ),
        (
            tier("provider: rules") + "tools: {mcp: {docs: {}}}",
            "4:15: MCP server `docs` needs either `command` or `url`",
        ),
        (
            tier("provider: rules") + "tools: {mcp: {docs: {url: docs}}}",
            "4:27: `url` must start with https:// or http://, not `docs`",
        ),
        (
            tier("provider: rules") + "tools: {builtin: [now], python: [a:f, 'b:f', a:f]}",
            "4:39: a:f is called `f`, too: rename one",
        ),
        (
            tier("provider: rules") + "extends: [default]",
            "4:10: `extends` must be text, or null, not a list",
        ),
    ],
)
def test_each_mistake_says_what_would_be_right(tmp_path, places, text, mistake):
    """One mistake is one line, at the place where it is put right."""
    assert mistakes_in(write(tmp_path / "p.yaml", text), places) == [mistake]


def test_what_may_come_of_an_mcp_server_may_be_granted(tmp_path, places):
    """A tool is not unknown as long as a server may offer it."""
    granted = "[docs__search, docs, 'docs__*', -docs__delete, '-*__write', all]"
    text = tier(f"provider: openai\nmodel: x\ntools: {granted}")
    text += "tools: {mcp: {docs: {command: [npx, docs]}}}"

    assert mistakes_in(write(tmp_path / "p.yaml", text), places) == []


def test_a_grant_that_nothing_can_come_of_is_a_mistake(tmp_path, places):
    """Neither a tool nor a server nor a name with a server's prefix has that name."""
    text = tier("provider: openai\nmodel: x\ntools: [docz, now]")
    text += "tools: {builtin: [now], mcp: {docs: {command: [npx, docs]}}}"

    [told] = mistakes_in(write(tmp_path / "p.yaml", text), places)
    assert told.endswith("no tool `docz` is declared: did you mean `docs`?")


MCP_JSON = """{
\t"mcpServers": {
\t\t"git": {"type": "stdio", "command": "uvx", "args": ["mcp-server-git"], "timeout": 60000},
\t\t"crm": {"type": "http", "url": "https://crm.example/mcp",
\t\t\t"headers": {"Authorization": "Bearer ${CRM_TOKEN}"}, "alwaysAllow": ["x"]},
\t\t"gem": {"httpUrl": "https://gem.example/mcp", "trust": true},
\t\t"port": {"command": "./serve", "env": {"PORT": 3000, "KEY": "${KEY:-none}"}, "cwd": ""}
\t}
}
"""


def test_the_file_of_servers_that_everybody_has_is_read(tmp_path, places):
    """`mcp: {file: …}` takes the servers of `mcpServers`; those of the profile itself win."""
    write(tmp_path / ".mcp.json", MCP_JSON)
    text = tier("provider: openai\nmodel: x\ntools: [git, crm]")
    text += "tools: {mcp: {file: .mcp.json, git: {command: mine}}}"
    mcp = load_profile(str(write(tmp_path / "p.yaml", text)), places).tools.mcp

    assert list(mcp) == ["git", "crm", "gem", "port"]
    assert mcp["git"] == McpSettings(command="mine")
    assert mcp["crm"].headers == {"Authorization": "Bearer ${CRM_TOKEN}"}
    assert mcp["gem"].url == "https://gem.example/mcp"
    assert mcp["port"].env == {"PORT": 3000, "KEY": "${KEY:-none}"}
    assert {"CRM_TOKEN", "KEY"} <= variables_of(Profile(tiers=(), tools=Tools(mcp=mcp)))


VSCODE_JSON = """// Servers
{
  "servers": { /* not "mcpServers": that is others' */
    "db": {
      "command": "${workspaceFolder}/serve", // starts it
      "args": ["http://x.example/y", "${userHome}/db"],
      "env": {"KEY": "${input:db-key}", "TOKEN": "${env:DB_TOKEN}", "BARE": "$DB", "COST": "$5"},
    },
  },
}
"""


def test_comments_and_variables_of_other_programs_are_read(tmp_path, places):
    """VS Code's comments, and its and Gemini CLI's forms of variables, mean what they do there."""
    write(tmp_path / ".vscode" / "mcp.json", VSCODE_JSON)
    text = tier("provider: openai\nmodel: x") + "tools: {mcp: {file: .vscode/mcp.json}}"
    server = load_profile(str(write(tmp_path / "p.yaml", text)), places).tools.mcp["db"]

    assert server.command == f"{tmp_path}/serve"
    assert server.args == ("http://x.example/y", "${HOME}/db")
    assert server.env == {
        "KEY": "${db_key}",
        "TOKEN": "${DB_TOKEN}",
        "BARE": "${DB}",
        "COST": "$5",
    }


ZED_JSON = """
{"context_servers": {
  "old": {"command": {"path": "npx", "args": ["-y", "x"], "env": {"K": "v"}}, "settings": {}},
  "new": {"source": "custom", "command": "uvx", "args": ["y"], "enabled": true},
  "off": {"source": "custom", "command": "uvx", "args": ["z"], "enabled": false},
  "extension": {"source": "extension", "settings": {"page_format": "Letter"}},
}}
"""


def test_servers_of_zed_are_read_in_both_of_its_forms(tmp_path, places):
    """A command may be an object, a server off, or an extension's, which Zed alone can start."""
    write(tmp_path / "settings.json", ZED_JSON)
    text = tier("provider: openai\nmodel: x") + "tools: {mcp: {file: settings.json}}"
    servers = load_profile(str(write(tmp_path / "p.yaml", text)), places).tools.mcp

    old, new, off = servers["old"], servers["new"], servers["off"]
    assert servers.keys() == {"old", "new", "off"}
    assert (old.command, old.args, old.env) == ("npx", ("-y", "x"), {"K": "v"})
    assert (new.command, new.disabled, off.disabled) == ("uvx", False, True)


@pytest.mark.parametrize(
    ("content", "mistake"),
    [
        (None, "p.yaml:5:21: {file} cannot be read: no such file or directory"),
        ("{}", "{file}:1:1: there are no servers: they are under `mcpServers`"),
        ('{"mcpServers": {\n "a": {"command": 3}}}', "{file}:2:19: `command` must be a program"),
        ('{"mcpServers": {\n "a": {}}}', "{file}:2:2: MCP server `a` needs either `command`"),
        ('{"mcpServers": {\n', "{file}:2:1: a value is missing here"),
    ],
)
def test_what_is_wrong_with_that_file_is_told_where_it_stands(tmp_path, places, content, mistake):
    """A mistake in it has its own line and column; a file that is not there has the profile's."""
    file = tmp_path / "servers.json"
    if content is not None:
        write(file, content)
    text = tier("provider: openai\nmodel: x") + "tools: {mcp: {file: servers.json}}"
    with pytest.raises(ProfileError) as caught:
        load_profile(str(write(tmp_path / "p.yaml", text)), places)

    assert mistake.format(file=file) in str(caught.value)


def test_keys_that_say_nothing_are_no_mistake(tmp_path, places):
    """`null` and `[]` are welcome where the key itself would make no sense."""
    text = tier("provider: rules\nmodel: null\nbase_url: null\napi_key_env: null\nalternates: []")

    assert mistakes_in(write(tmp_path / "p.yaml", text), places) == []


def test_defaults_fill_what_is_not_said(tmp_path, places):
    """A mapping given in part keeps the other defaults, and a provider has defaults of its own."""
    text = """
        tiers:
          - {name: a, provider: openai, model: x, params: {temperature: 0}, backoff: {max_s: 9}}
          - {name: b, provider: llama_cpp, model: x, timeout_s: 5}
        health: {min_requests: 7}
    """
    profile = load_profile(str(write(tmp_path / "mine.yaml", text)), places)
    first, second = profile.tiers

    assert profile.name == "mine"
    assert (first.params.temperature, first.params.max_tokens, first.params.top_p) == (
        0,
        1024,
        0.95,
    )
    assert (first.backoff.base_s, first.backoff.max_s) == (0.1, 9)
    assert (first.context_tokens, first.first_token_timeout_s, first.timeout_s) == (128_000, 10, 30)
    assert (second.context_tokens, second.first_token_timeout_s, second.timeout_s) == (4096, 30, 5)
    assert (profile.health.min_requests, profile.health.cooldown_s) == (7, 10)


def test_paths_are_relative_to_the_file_they_are_in(tmp_path, places, monkeypatch):
    """A rule file and a model file are found wherever the command is run; `~` is the home."""
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    write(tmp_path / "etc/rules.yaml", "x: 1")
    text = """
        tiers:
          - name: a
            provider: llama_cpp
            model: ../m.gguf
            alternates: [{provider: llama_cpp, model: ~/n.gguf}]
          - {name: b, provider: llama_cpp, model: gemma-2-2b-it}
          - {name: c, provider: rules, rules: rules.yaml}
    """
    one, two, three = load_profile(str(write(tmp_path / "etc/p.yaml", text)), places).tiers

    assert one.model == str(tmp_path / "m.gguf")
    assert one.alternates[0].model == str(tmp_path / "me/n.gguf")
    assert two.model == "gemma-2-2b-it"
    assert three.rules == str(tmp_path / "etc/rules.yaml")


def test_a_profile_without_a_usable_file_name_is_unnamed(tmp_path, places):
    """A file name that is no profile name gives none."""
    path = write(tmp_path / "my profile!.yaml", tier("provider: rules"))

    assert load_profile(str(path), places).name == "unnamed"


GOOD = {
    "name": "x",
    "deadline_s": 5,
    "tiers": [
        {
            "name": "a",
            "provider": "openai",
            "model": "m",
            "api_key_env": "KEY",
            "params": {"temperature": 0.5, "max_tokens": 5},
            "tools": ["now"],
            "alternates": [{"provider": "gemini", "model": "g"}],
            "vars": {"a": "b"},
        }
    ],
    "health": {"min_requests": 1},
    "notifications": {"email": {"host": "h", "from": "f", "recipients": ["r"]}},
    "tools": {"builtin": ["now"], "mcp": {"d": {"command": ["x"], "env": {"A": "b"}}}},
}


def _paths(value, at=()):
    yield at
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        if isinstance(item, dict | list):
            yield from _paths(item, (*at, key))
        else:
            yield (*at, key)


_NUMBERS = [-1, 0, 1, 3, 0.5, 1e9, 10**30]
_OTHERS = [None, True, False, "", "x", "all", "KEY", "a b", "stop", [], ["x"], [1], {}, {"x": 1}]
_OTHER = st.sampled_from([*_NUMBERS, *_OTHERS])
_WHERE = st.sampled_from([path for path in _paths(GOOD) if path])


@settings(deadline=None)
@given(
    where=st.sampled_from([path for path in _paths(GOOD) if path]), other=_OTHER, more=st.booleans()
)
def test_the_checker_finds_a_mistake_exactly_where_conversion_fails(where, other, more):
    """Whatever value is put in place of a good one, both agree on whether it is a mistake."""
    values = copy.deepcopy(GOOD)
    inner = values
    for key in where[:-1]:
        inner = inner[key]
    if more and isinstance(inner, dict):
        inner["surplus"] = other
    inner[where[-1]] = other
    try:
        msgspec.convert(values, Profile)
        good = True
    except msgspec.ValidationError:
        good = False
    root, _ = parse_yaml(write_yaml(values), "f")

    assert (find_mistakes(root) == []) == good


@pytest.mark.parametrize("ending", ["/chat/completions", "/responses/", "/v1/messages"])
def test_an_address_that_goes_too_far_is_told(tmp_path, places, ending):
    """A copied endpoint would be asked for `/chat/completions/chat/completions`."""
    text = f"tiers: [{{name: a, provider: openai, model: m, base_url: 'http://x{ending}'}}]\n"

    assert mistakes_in(write(tmp_path / "p.yaml", text), places) == [
        f"1:57: `base_url` goes too far: leave out `{ending.rstrip('/')}`, which is added"
    ]


@pytest.mark.parametrize(
    ("server", "mistake"),
    [
        ("{command: [x], url: 'http://x'}", "15: MCP server `d` needs either `command` or `url`"),
        (
            "{command: []}",
            "28: `command` must be a program, or a list of it and its arguments, or null, not an",
        ),
        ("{command: ['']}", "29: item 1 of `command` must be text that is not empty, not empty"),
        ('{command: ["a\\0"]}', "29: a word of `command` has a null character in it"),
        (
            "{command: [x], headers_env: {A: B}}",
            "33: an MCP server with `command` has no `headers_env`: remove it",
        ),
        ("{url: 'ftp://x'}", "24: `url` must start with https:// or http://"),
        (
            "{url: 'http://x', env: {A: b}}",
            "36: an MCP server with `url` has no `env`: remove it",
        ),
        (
            "{command: [x], env: {A: [1]}}",
            "42: `env.A` must be text, a number, or true or false, not",
        ),
        ("{command: x, type: ssh}", "37: `type` must be http, sse, stdio, streamable-http, str"),
        ("{command: x, approve: yes}", "40: `approve` must be always, ask, never, or null"),
        ("{url: 'http://x', args: [y]}", "36: an MCP server with `url` has no `args`: remove it"),
        ("{command: [x], cmd: 1}", "33: unknown key `cmd`: did you mean `cwd`?"),
        ("{command: [x], timeout_s: 0}", "44: `timeout_s` must be a number above 0"),
        (
            "{command: [x], pass_env: [sk-0123456789]}",
            "44: item 1 of `pass_env` must be the name of an environment variable, not the key",
        ),
    ],
)
def test_mcp_servers_are_checked(tmp_path, places, server, mistake):
    """A mistake in a server's entry is told at its place, before anything is started."""
    text = f"tiers: [{{name: r, provider: rules}}]\ntools: {{mcp: {{d: {server}}}}}\n"

    [told] = mistakes_in(write(tmp_path / "p.yaml", text), places)

    assert told.startswith(f"2:{mistake}")


def test_the_example_of_the_page_about_tools_is_right(tmp_path, places):
    """What `docs/tools.md` shows is a profile without mistakes, once its file is there."""
    page = (Path(__file__).parent.parent / "docs" / "tools.md").read_text(encoding="utf-8")
    [example] = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    write(tmp_path / ".mcp.json", MCP_JSON)

    assert mistakes_in(write(tmp_path / "p.yaml", example), places) == []
