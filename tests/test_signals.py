"""Test that the signals which mean the end are ended by as Ctrl-C is."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from chat_support import PROMPT, talking
from cli_support import REFUSED, Terminal, environment, profile, tieredllm, two_clouds
from wire_support import STREAM_HEAD, chunk, opens, says

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
if os.name != "nt":
    import termios

ENDINGS = [
    pytest.param(number, id=number.name)
    for number in (signal.SIGTERM, getattr(signal, "SIGHUP", 0), getattr(signal, "SIGQUIT", 0))
    if number
]
every_signal = pytest.mark.parametrize("number", ENDINGS)

SHOW, HIDE = b"\x1b[?25h", b"\x1b[?25l"


@pytest.fixture
def home(tmp_path):
    """Give directories of a user's own."""
    return tmp_path / "home"


async def half(connection):
    """Say half an answer, and then nothing."""
    await connection.send(STREAM_HEAD + b"".join(chunk(item) for item in opens("openai")))
    await connection.send(chunk(says("openai", "half of it ")))
    await connection.gone()


def settings(terminal):
    """Return a terminal's settings."""
    return termios.tcgetattr(terminal.child.child_fd)


def is_restored(terminal, before) -> bool:
    """Tell whether a terminal is as it was, its cursor shown."""
    return before == settings(terminal) and terminal.raw.rfind(SHOW) >= terminal.raw.rfind(HIDE)


def ended(terminal, number) -> int:
    """Send a signal and return the exit code; it must come soon."""
    started = time.monotonic()
    os.kill(terminal.child.pid, number)
    while terminal.child.isalive() and time.monotonic() - started < 10:
        with contextlib.suppress(Exception):
            terminal.raw += terminal.child.read_nonblocking(65536, 0.02)
    with contextlib.suppress(Exception):
        while True:
            terminal.raw += terminal.child.read_nonblocking(65536, 0)
    assert time.monotonic() - started < 3
    return terminal.child.exitstatus


@every_signal
def test_an_answer_is_ended(home, number):
    """While an answer comes on a terminal: the terminal is as it was, and nothing is said."""
    with talking({"why": half}) as server:
        terminal = Terminal(home, "-p", two_clouds(home, server.url + "/v1"), "ask", "why")
        before = settings(terminal)
        terminal.until("half of it")
        code = ended(terminal, number)

    assert code == 128 + number
    assert is_restored(terminal, before)
    assert b"Traceback" not in terminal.raw


@every_signal
@pytest.mark.parametrize("when", ["at the prompt", "while it answers"])
def test_a_chat_is_ended(home, number, when):
    """Not only its answer: a signal from elsewhere ends the chat, with the terminal restored."""
    with talking({"why": half}) as server:
        terminal = Terminal(home, "-p", two_clouds(home, server.url + "/v1"), "chat")
        before = settings(terminal)
        terminal.until(PROMPT)
        if when != "at the prompt":
            terminal.type("why\r")
            terminal.until("half of it")
        code = ended(terminal, number)

    assert code == 128 + number
    assert is_restored(terminal, before)
    assert b"Traceback" not in terminal.raw


@every_signal
def test_a_watch_is_ended(home, number):
    """`health --watch` gives the cursor back."""
    terminal = Terminal(home, "-p", two_clouds(home, REFUSED), "health", "--watch", "1")
    before = settings(terminal)
    terminal.until("primary")
    code = ended(terminal, number)

    assert code == 128 + number
    assert is_restored(terminal, before)


PIP = """
import sys, time, pathlib
pathlib.Path({mark!r}).write_text(str(__import__("os").getpid()))
time.sleep(60)
"""


def process_is_gone(pid: int, *, within_s: float = 3) -> bool:
    """Tell whether a process ends."""
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        status = Path(f"/proc/{pid}/stat")
        with contextlib.suppress(OSError):
            if status.read_text().rsplit(")", 1)[1].split()[0] == "Z":
                return True  # nobody waits for it in a container without an init
        time.sleep(0.02)
    return False


def wait_for(path: Path) -> str:
    """Return what a file holds as soon as it holds something."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            if text := path.read_text():
                return text
        time.sleep(0.01)
    raise AssertionError(f"{path} did not come")


@pytest.mark.parametrize("number", [*ENDINGS, pytest.param(signal.SIGINT, id="SIGINT")])
def test_a_pull_ends_pip_and_leaves_nothing(home, tmp_path, number):
    """Pip does not go on downloading, and what it had is removed."""
    package = tmp_path / "other" / "pip"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "__main__.py").write_text(PIP.format(mark=str(tmp_path / "pip.pid")))
    env = environment(home, PYTHONPATH=str(package.parent))
    with subprocess.Popen(
        tieredllm("models", "pull", "smollm2-135m"), env=env, stderr=subprocess.PIPE
    ) as process:
        pip = int(wait_for(tmp_path / "pip.pid"))
        process.send_signal(number)
        _, err = process.communicate(timeout=10)

    assert process.returncode == 128 + number
    assert b"Traceback" not in err
    assert process_is_gone(pip)
    left = [path.name for path in (home / "data" / "models").iterdir()]
    assert [name for name in left if not name.endswith(".lock")] == []


def test_a_killed_pull_takes_pip_along(home, tmp_path):
    """SIGKILL leaves no time for anything: pip notices by itself."""
    package = tmp_path / "other" / "pip"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "__main__.py").write_text(PIP.format(mark=str(tmp_path / "pip.pid")))
    env = environment(home, PYTHONPATH=str(package.parent))
    with subprocess.Popen(
        tieredllm("models", "pull", "smollm2-135m"), env=env, stderr=subprocess.DEVNULL
    ) as process:
        pip = int(wait_for(tmp_path / "pip.pid"))
        process.kill()

    assert process_is_gone(pip)


SERVER = """
import os, sys, time
sys.stdin.readline()
open({mark!r}, "w").write(str(os.getpid()))
time.sleep(60)
"""
"""A server that marks that it was spoken to, and never answers."""


@pytest.mark.parametrize("number", [*ENDINGS, pytest.param(signal.SIGKILL, id="SIGKILL")])
def test_a_call_of_a_server_ends_it(home, tmp_path, number):
    """An MCP server that is being started ends with the program, however that ends."""
    mark = tmp_path / "server.pid"
    code = SERVER.format(mark=str(mark))
    path = profile(
        home,
        "name: test\ntiers:\n  - {name: rules, provider: rules}\n"
        f"tools:\n  mcp:\n    slow: {{command: {json.dumps([sys.executable, '-c', code])}}}\n",
    )
    with subprocess.Popen(
        tieredllm("-p", path, "tools", "call", "slow__x", "{}"),
        env=environment(home),
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    ) as process:
        server = int(wait_for(mark))
        process.send_signal(number)
        _, err = process.communicate(timeout=10)

    assert process.returncode == (-number if number == signal.SIGKILL else 128 + number)
    assert b"Traceback" not in err
    assert process_is_gone(server)


@pytest.mark.parametrize("command", ["ask why", "chat", "health --watch 1"])
def test_nothing_is_left_of_what_was_killed(home, tmp_path, command):
    """SIGKILL of what shows an answer, a prompt or a watch leaves no process and no open file."""
    mark = tmp_path / "server.pid"
    code = SERVER.format(mark=str(mark))
    with talking({"why": half}) as server:
        path = profile(
            home,
            "name: test\ntiers:\n  - {name: primary, provider: openai, model: m, api_key_env: null,"
            f" base_url: '{server.url}/v1', tools: all}}\n  - {{name: rules, provider: rules}}\n"
            f"tools:\n  mcp:\n    slow: {{command: {json.dumps([sys.executable, '-c', code])}}}\n",
        )
        terminal = Terminal(home, "-p", path, *command.split())
        children = []
        if command.startswith("health"):
            terminal.until("primary")
        else:
            if command == "chat":
                terminal.until(PROMPT)
                terminal.type("why\r")
            children.append(int(wait_for(mark)))
        children.append(terminal.child.pid)
        os.kill(terminal.child.pid, signal.SIGKILL)

        assert all(process_is_gone(pid) for pid in children)
    assert list(home.rglob("*.part")) == []
    done = subprocess.run(
        tieredllm("-p", path, "log"), env=environment(home), capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"no request was logged yet\n")


def test_a_closed_terminal_ends_it(home):
    """Whoever closes the window ends what ran in it; nobody is left to be told anything."""
    with talking({"why": half}) as server:
        terminal = Terminal(home, "-p", two_clouds(home, server.url + "/v1"), "ask", "why")
        terminal.until("half of it")
        pid = terminal.child.pid
        terminal.child.close(force=False)

        assert process_is_gone(pid)


def test_an_ignored_signal_stays_ignored(home):
    """What `nohup` starts goes on when the terminal is closed."""
    with talking() as server:
        command = tieredllm("-p", two_clouds(home, server.url + "/v1"), "ask", "--no-stdin", "hi")
        with subprocess.Popen(
            ["sh", "-c", 'trap "" HUP; echo ready; exec "$@"', "sh", *command],
            env=environment(home),
            stdout=subprocess.PIPE,
        ) as process:
            assert process.stdout.readline() == b"ready\n"
            for _ in range(20):
                process.send_signal(signal.SIGHUP)
                time.sleep(0.02)
            out, _ = process.communicate(timeout=20)

    assert (process.returncode, out) == (0, b"You said: hi\n")


def test_a_program_keeps_its_own_signals():
    """Using the library changes nothing about the signals of the program that uses it."""
    code = """
import signal
from tieredllm import FallbackManager
manager = FallbackManager("default", persist=False)
manager.ask("hello")
assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL
"""
    env = {name: value for name, value in os.environ.items() if not name.endswith("_KEY")}
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, env=env)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_can_be_ended_at_any_moment(home, number):
    """However early a signal comes, no traceback is shown."""
    codes = []
    for delay_ms in range(60, 400, 40):
        with subprocess.Popen(
            tieredllm("-p", two_clouds(home, REFUSED), "ask", "hello"),
            env=environment(home),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        ) as process:
            time.sleep(delay_ms / 1000)
            process.send_signal(number)
            _, err = process.communicate(timeout=20)
            codes.append(process.returncode)
        # Before our first line runs, the interpreter itself has the word.
        assert b"Traceback" not in err or b"tieredllm/__main__.py" not in err, (delay_ms, err)

    assert set(codes) <= {0, 3, 128 + number, -number, 1}
