"""Test that nothing runs that was not asked for: not what lies where somebody happens to be."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cli_support import environment, profile
from wire_support import smollm2_path

from tieredllm.child import start_child, without_keys

SCRIPT = shutil.which("tieredllm", path=str(Path(sys.executable).parent))

TRAP = "raise SystemExit(open({mark!r}, 'a').write(__name__ + '\\n'))\n"
"""Python that leaves a mark when it is run, by whoever imports it or takes it for a script."""

MODULES = (
    "anyio certifi encodings filelock h11 httpcore httpx httpx2 huggingface_hub jinja2 json "
    "llama_cpp markdown_it mcp msgspec msvcrt pip platformdirs prompt_toolkit regex rich "
    "sitecustomize sqlite3 ssl subprocess tieredllm truststore typer typing usercustomize yaml"
)

PROFILE = """name: trap
tiers: [{name: primary, provider: openai, model: m, base_url: http://127.0.0.1:9, \
api_key_env: OPENAI_API_KEY}]
tools: {python: [work_tools:steal]}
"""

FILES = {
    "work": PROFILE,
    "default": PROFILE,
    "default.yaml": PROFILE,
    "work.yaml": PROFILE,
    "profiles/work.yaml": PROFILE,
    ".tieredllm.yaml": PROFILE,
    "tieredllm.yaml": PROFILE,
    "keys.yaml": "OPENAI_API_KEY: sk-trap\n",
    "rules.yaml": "intents: []\n",
    "catalog.yaml": "models: {}\n",
    "models/catalog.yaml": "models: {}\n",
    ".env": "OPENAI_API_KEY=sk-trap\n",
    ".netrc": "default login a password b\n",
    "pip.conf": "[global]\nindex-url = http://127.0.0.1:9/\n",
    "setup.cfg": "[install]\nuser = 1\n",
    "pyproject.toml": "[tool.tieredllm]\n",
    "mcp.json": '{"mcpServers": {}}',
    ".mcp.json": '{"mcpServers": {}}',
    "package.json": '{"name": "trap"}',
    ".npmrc": "ignore-scripts=false\n",
    "ggml-metal.metal": "",
    "libllama.so": "",
    "libggml.so": "",
    "openssl.cnf": "",
    "history.json": "[]",
    "state.db": "",
}

PROGRAMS = (
    "node",
    "npx",
    "python",
    "python3",
    "pip",
    "vi",
    "nano",
    "less",
    "git",
    "uname",
    "xclip",
)

WATCH = """
import os, sys
here = os.path.realpath({folder!r})
EVENTS = {{"open", "subprocess.Popen", "os.exec", "os.posix_spawn", "os.listdir", "os.scandir"}}

def seen(event, arguments):
    if event not in EVENTS or not isinstance(arguments[0], (str, bytes, os.PathLike)):
        return
    try:
        path = os.path.realpath(os.path.join(os.getcwd(), os.fsdecode(arguments[0])))
    except OSError:
        return
    if path.startswith(here) and os.path.lexists(path):  # not what a descriptor says where to find
        log = os.open({log!r}, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(log, (event + " " + path + "\\n").encode())
        os.close(log)

sys.addaudithook(seen)
"""


@pytest.fixture
def trapped(tmp_path):
    """Make a directory of traps, and what writes down whatever opens one of them."""
    folder, watch = tmp_path / "traps", tmp_path / "watch"
    folder.mkdir()
    watch.mkdir()
    trap = TRAP.format(mark=str(tmp_path / "ran"))
    for name in [*MODULES.split(), "work_tools"]:
        (folder / f"{name}.py").write_text(trap)
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    for program in PROGRAMS:
        for place in (folder, folder / "node_modules" / ".bin"):
            place.mkdir(parents=True, exist_ok=True)
            (place / program).write_text(f"#!/bin/sh\necho {program} >>{tmp_path / 'ran'}\n")
            (place / program).chmod(0o755)
    (watch / "sitecustomize.py").write_text(
        WATCH.format(folder=str(folder), log=str(tmp_path / "opened"))
    )
    return folder


def run(folder: Path, *args: str, **extra: str) -> subprocess.CompletedProcess[bytes]:
    """Run the installed program among the traps."""
    home = folder.parent / "home"
    # An empty entry of PYTHONPATH means the working directory; a child must not take it for one.
    variables = {"PYTHONPATH": str(folder.parent / "watch"), "PIP_NO_INDEX": "1", **extra}
    return subprocess.run(
        [str(SCRIPT), *args],
        cwd=folder,
        env=environment(home, **variables),
        input=b"",
        capture_output=True,
        timeout=60,
        check=False,
    )


COMMANDS = (
    "--version",
    "--help",
    "ask hello",
    "ask -c again",
    "health",
    "models list",
    "models path",
    "models pull smollm2-135m",
    "models verify",
    "tools list",
    'tools call calculate {"expression":"1+1"}',
    "notify outbox",
    "profile list",
    "profile show",
    "profile validate",
    "profile path",
    "profile schema",
    "keys list",
    "rules list",
    "rules test hello",
    "log",
    "log show",
    "stats",
    "drill",
    "chat",
)  # fmt: skip


@pytest.mark.skipif(SCRIPT is None, reason="the program is not installed")
@pytest.mark.skipif(os.name == "nt", reason="the traps are those of POSIX")
def test_nothing_of_the_current_directory_is_opened(trapped):
    """Every command runs among traps, and a trace shows that none was opened, run or listed."""
    for command in COMMANDS:
        done = run(trapped, *command.split())
        assert b"unexpected" not in done.stderr, (command, done.stderr)
    opened = trapped.parent / "opened"

    assert not (trapped.parent / "ran").exists()
    assert not opened.exists(), opened.read_text()


@pytest.mark.skipif(SCRIPT is None, reason="the program is not installed")
@pytest.mark.parametrize("way", ["option", "variable"])
def test_a_bare_name_is_no_path(trapped, way):
    """`-p work` beside a file `work` says that there is no such profile, and how to name a path."""
    done = (
        run(trapped, "-p", "work", "ask", "hello", OPENAI_API_KEY="sk-mine")
        if way == "option"
        else run(trapped, "ask", "hello", TIEREDLLM_PROFILE="work", OPENAI_API_KEY="sk-mine")
    )

    assert done.returncode == 2
    assert b"work" in done.stderr
    assert not (trapped.parent / "ran").exists()
    assert not (trapped.parent / "opened").exists()


def test_a_model_is_tried_elsewhere(trapped):
    """The child that tries a model neither runs nor opens anything of the directory."""
    models = trapped.parent / "home" / "data" / "models"
    models.mkdir(parents=True)
    (models / "smollm2-135m.gguf").symlink_to(smollm2_path())
    done = run(trapped, "models", "verify", str(models / "smollm2-135m.gguf"))

    assert done.returncode == 0, done.stderr
    assert not (trapped.parent / "ran").exists()
    assert not (trapped.parent / "opened").exists()


def test_an_empty_entry_of_the_search_path_is_not_the_current_directory(trapped, monkeypatch):
    """A child is elsewhere, so `PYTHONPATH=:…` does not run a module of the directory."""
    monkeypatch.chdir(trapped)
    monkeypatch.setenv("PYTHONPATH", os.pathsep + str(trapped.parent / "nothing"))
    with start_child("pip", ["--version"], stdout=subprocess.PIPE) as child:
        said = child.stdout.read()

    assert said.startswith(b"pip ")
    assert not (trapped.parent / "ran").exists()


@pytest.mark.skipif(os.name == "nt", reason="Windows keeps a directory that is in use")
@pytest.mark.parametrize("command", ["ask --allow-rules hello", "tools list", "chat"])
def test_a_directory_that_is_gone_stops_nothing(tmp_path, command):
    """With tools granted, a question asked where the directory was removed is answered."""
    here = tmp_path / "here"
    here.mkdir()
    path = profile(
        tmp_path,
        "name: t\ntiers:\n  - {name: a, provider: openai, model: m, api_key_env: null, retries: 0,"
        " base_url: 'http://127.0.0.1:9/v1', tools: all}\n  - {name: rules, provider: rules}\n"
        "tools: {builtin: [now, read_file, list_files]}\n",
    )
    code = (
        f"import os, sys; os.chdir({str(here)!r}); os.rmdir({str(here)!r})\n"
        "from tieredllm.cli.main import run\nsys.exit(run(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "-p", path, *command.split()],
        env=environment(tmp_path / "home"),
        input=b"hello\n",
        capture_output=True,
        timeout=60,
        check=False,
    )

    assert b"FileNotFoundError" not in done.stderr
    assert b"read_file" in done.stdout or b"fallback mode" in done.stdout + done.stderr


def test_a_child_has_no_keys():
    """What ends in `_API_KEY` stays here; what pip asks an index with goes along."""
    env = {"OPENAI_API_KEY": "sk-1", "My_Api_Key": "x", "PIP_INDEX_URL": "u", "PATH": "p"}

    assert without_keys(env) == {"PIP_INDEX_URL": "u", "PATH": "p"}


@pytest.mark.skipif(os.name == "nt", reason="there a process keeps its parent's number")
def test_a_child_ends_with_a_parent_that_was_killed(tmp_path):
    """SIGKILL leaves nobody time to end its children: they notice by themselves."""
    module = tmp_path / "sleeper.py"
    module.write_text("import time\nprint('here', flush=True)\ntime.sleep(60)\n")
    parent = f"""
import json, os, subprocess, sys
from tieredllm.child import start_child
child = start_child("sleeper", [], env={{"PYTHONPATH": {str(tmp_path)!r} + os.pathsep +
    {os.pathsep.join(sys.path)!r}}}, stdout=subprocess.PIPE)
child.stdout.readline()
print(json.dumps(child.pid), flush=True)
os.kill(os.getpid(), 9)
"""
    done = subprocess.run([sys.executable, "-c", parent], stdout=subprocess.PIPE, check=False)
    pid = json.loads(done.stdout)

    assert _ends(pid, within_s=5)


def _ends(pid: int, *, within_s: float) -> bool:
    import time

    end = time.monotonic() + within_s
    while time.monotonic() < end:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        status = Path(f"/proc/{pid}/stat")
        if status.exists() and status.read_text().rsplit(")", 1)[1].split()[0] == "Z":
            return True  # nobody waits for it in a container without an init
        time.sleep(0.05)
    return False
