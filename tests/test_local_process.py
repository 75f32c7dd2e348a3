"""A process with the model in it is silent, ends at once, and ends cleanly."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from local_support import as_tried, smollm2

from tieredllm.local import llama_bindings

ASK = """
import asyncio, logging, sys, time
from pathlib import Path
# That a step took long, which asyncio tells in Python's development mode, is the machine's doing.
logging.getLogger("asyncio").addFilter(lambda record: not record.msg.startswith("Executing"))
sys.path.insert(0, {tests!r})
from local_support import answer, backend, call, user
made = backend({model!r}, Path({root!r}), tried=False)
made._verbose = {verbose}
"""
LONG = "made.answer(call(user('Tell a very long story.'), max_tokens=1500))"


@pytest.fixture
def start(tmp_path):
    """Give a function that starts a process with a script of its own."""
    started = []

    def begin(body, *, verbose=False, root=tmp_path, **options):
        head = ASK.format(
            tests=os.path.dirname(__file__),  # noqa: PTH120
            model=str(smollm2()),
            root=str(root),
            verbose=verbose,
        )
        process = subprocess.Popen(
            [sys.executable, "-X", "dev", "-W", "error", "-c", head + body],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def tried(tmp_path_factory):
    """Give a root where the model has been found good, so that no child is started."""
    root = tmp_path_factory.mktemp("tried")
    as_tried(smollm2(), root)
    return root


def test_an_answer_is_silent(start):
    """Loading, answering and ending write nothing to stdout or stderr themselves."""
    process = start("print(asyncio.run(answer(made, call(user('Hi'), max_tokens=2)))[1].reason)")
    out, err = process.communicate(timeout=60)

    assert (out, err, process.returncode) == ("length\n", "", 0)


def test_only_warnings_are_on_stderr_when_asked_for(start, tried):
    """With `verbose`, llama.cpp's thousands of lines about a sound file stay away all the same."""
    process = start(
        "asyncio.run(answer(made, call(user('Hi'), max_tokens=1)))", verbose=True, root=tried
    )
    out, err = process.communicate(timeout=60)

    assert out == ""
    assert "llama_model_loader" not in err


def test_levels_of_the_log(capsys):
    """Warnings and errors show when asked for, with what continues them; the rest never does."""
    log = llama_bindings._Log()
    lines = [(1, b"debug\n"), (2, b"info\n"), (5, b"more info\n")]
    lines += [(3, b"warn\n"), (5, b"more warn\n"), (4, b"error\n"), (2, b"info again\n")]
    for level, line in lines:
        log._take(level, line, None)
    assert capsys.readouterr().err == ""
    assert list(log.errors) == ["error"]

    log.verbose = True
    for level, line in lines:
        log._take(level, line, None)
    assert capsys.readouterr().err == "warn\nmore warn\nerror\n"


@pytest.mark.parametrize("closed", [(1,), (0, 1), (1, 2)])
def test_closed_streams_do_no_harm(start, tried, closed, tmp_path):
    """With stdout or stderr closed the answer is the same, and no file is written into."""
    target = tmp_path / "answer"
    body = (
        f"text = asyncio.run(answer(made, call(user('Hi'), max_tokens=2)))[0]\n"
        f"Path({str(target)!r}).write_text(text)"
    )
    process = start(
        body,
        verbose=True,
        root=tried,
        preexec_fn=lambda: [os.close(number) for number in closed],
    )
    process.communicate(timeout=60)

    assert process.returncode == 0
    assert target.read_text().strip()
    assert "llama" not in target.read_text()


@pytest.mark.parametrize(
    ("when", "body"),
    [
        (
            "loading",
            (
                "async def main():\n made.warm_up()\n print('now', flush=True)\n"
                " await made.token_counter()\n await asyncio.sleep(30)\n"
            ),
        ),
        (
            "reading the prompt",
            (
                "async def main():\n await made.token_counter()\n"
                " stream = made.answer(call(user('The quick brown fox. ' * 380)))\n"
                " asyncio.get_running_loop().call_later(0.2, lambda: print('now', flush=True))\n"
                " async for _ in stream: pass\n await asyncio.sleep(30)\n"
            ),
        ),
        (
            "answering",
            f"async def main():\n async for _ in {LONG}:\n  print('now', flush=True)\n",
        ),
    ],
)
def test_ctrl_c_ends_the_process_at_once(start, tried, when, body):
    """An interrupt ends the process cleanly within a second, whatever llama.cpp is doing."""
    tail = "try:\n asyncio.run(main())\nexcept KeyboardInterrupt:\n sys.exit(130)\n"
    process = start(body + tail, root=tried)
    assert process.stdout.readline() == "now\n"
    pressed = time.monotonic()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    took = time.monotonic() - pressed

    assert (process.returncode, err) == (130, "")
    assert set(out.split()) <= {"now"}
    assert took < 1.5


def cpu_s_of_children():
    """Return the processor time of all children that have ended; 0 where nobody counts it."""
    try:
        import resource
    except ImportError:
        return 0.0
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def without_processor_s(pid):
    """Return for how long each of a process's threads was ready to run but did not, by its id."""
    waits_s = {}
    with contextlib.suppress(OSError):  # it has just ended, or nobody counts it
        for thread in Path(f"/proc/{pid}/task").iterdir():
            waits_s[thread.name] = int((thread / "schedstat").read_text().split()[1]) / 1e9
    return waits_s


def ended_within_s(process):
    """Return how long a process takes to end, less what it waits for a processor."""
    began = time.monotonic()
    first = without_processor_s(process.pid)
    waits_s = dict(first)
    while process.poll() is None and time.monotonic() - began < 60:
        time.sleep(0.01)
        waits_s |= without_processor_s(process.pid)
    took_s = time.monotonic() - began
    return took_s - sum(waits_s.values()) + sum(first.values())


@pytest.mark.parametrize(
    "body",
    [
        pytest.param("made.warm_up()", id="while it starts loading"),
        pytest.param("made.warm_up(); import time; time.sleep(0.15)", id="while it loads"),
        pytest.param("asyncio.run(made.token_counter())", id="while it is idle"),
        pytest.param(
            f"async def main():\n async for _ in {LONG}:\n  return\nasyncio.run(main())",
            id="while it answers",
        ),
        pytest.param(
            f"async def main():\n stream = {LONG}\n await anext(stream)\n raise SystemExit(0)\n"
            "asyncio.run(main())",
            id="while it answers and nobody closes",
        ),
    ],
)
def test_the_process_ends_cleanly(start, tried, body):
    """A process that ends with the model at work ends soon, with its own code and no noise.

    What it waits for a processor is left out, so that a busy machine is not taken for a busy
    program, nor for one that waits for nothing.
    """
    ends = "" if "SystemExit" in body else "\nprint(time.process_time(), flush=True)"
    others_s = cpu_s_of_children()
    process = start(body + ends, root=tried)
    worked_s = float(process.stdout.readline()) if ends else 0.0
    took_s = ended_within_s(process)
    _, err = process.communicate(timeout=60)

    assert (process.returncode, err) == (0, "")
    if ends:
        assert cpu_s_of_children() - others_s - worked_s < 1
        assert took_s < 2


def test_ctrl_c_while_the_file_is_tried(start, tmp_path):
    """An interrupt during the first trial ends both processes and leaves no verdict."""
    body = (
        "from tieredllm.local import validate\n"
        "import functools\n"
        "validate.probe_in_child = functools.partial(validate.probe_in_child,"
        " command=(sys.executable, '-c', 'import time; time.sleep(60)'))\n"
        "async def main():\n"
        " asyncio.get_running_loop().call_later(0.5, lambda: print('now', flush=True))\n"
        " await made.token_counter()\n"
        "try:\n asyncio.run(main())\nexcept KeyboardInterrupt:\n sys.exit(130)\n"
    )
    process = start(body)
    assert process.stdout.readline() == "now\n"
    pressed = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)

    assert (process.returncode, err) == (130, "")
    assert time.monotonic() - pressed < 1.5
    cache = tmp_path / "cache" / "model-verdicts.json"
    assert not cache.exists() or '"stamp":null' in cache.read_text()


def test_a_forked_process_is_told(start, tried):
    """A child forked after the model was used gets an error, not a hang, and can close it."""
    body = """
import os, warnings
warnings.simplefilter("ignore")
async def ask():
    await answer(made, call(user("Hi"), max_tokens=1))
asyncio.run(ask())
if os.fork() == 0:
    try:
        asyncio.run(ask())
    except Exception as exc:
        print(exc, flush=True)
    asyncio.run(made.aclose())
    print("closed", flush=True)
    os._exit(0)
os.wait()
"""
    out, err = start(body, root=tried).communicate(timeout=60)

    assert "forked" in out
    assert out.endswith("closed\n")
    assert err == ""


def test_only_the_bindings_are_imported(start, tried):
    """The package around the C bindings is not imported with them, and can be later."""
    body = """
asyncio.run(answer(made, call(user("Hi"), max_tokens=1)))
print([name for name in ("numpy", "llama_cpp", "huggingface_hub", "httpx") if name in sys.modules])
import llama_cpp
print(llama_cpp.Llama.__name__, llama_cpp.llama_cpp.llama_decode is not None)
"""
    out, _ = start(body, root=tried).communicate(timeout=60)

    assert out == "[]\nLlama True\n"


def test_without_the_package_it_says_how_to_install_it(start, tried):
    """Where llama-cpp-python is missing, the error has both ways to install it."""
    body = """
sys.modules["llama_cpp"] = None
try:
    asyncio.run(answer(made, call(user("Hi"))))
except Exception as exc:
    print(exc.kind, exc.message)
"""
    out, _ = start(body, root=tried).communicate(timeout=60)

    assert out.startswith(
        "model_unavailable llama-cpp-python is not installed; with a C compiler: "
    )
    assert "`pip install llama-cpp-python`" in out
    assert "`pip install --no-deps --index-url https://" in out


def test_importing_the_backend_is_cheap(start):
    """Making a backend imports neither llama.cpp nor an event loop's worth of modules."""
    body = """
print([n for n in ("llama_cpp", "jinja2", "huggingface_hub", "yaml", "httpx") if n in sys.modules])
"""
    out, _ = start(body).communicate(timeout=60)

    assert out == "[]\n"
