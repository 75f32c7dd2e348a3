"""A model file is examined once before it is used, in a way that survives its worst."""

from __future__ import annotations

import hashlib
import json
import sys
import time

import msgspec
import pytest
from local_support import places, smollm2, write_gemma

from tieredllm.client import FallbackManager
from tieredllm.errors import FallbackTriggerError
from tieredllm.kinds import ErrorKind
from tieredllm.local import validate
from tieredllm.local.gguf import read_header
from tieredllm.local.ladder import RUNGS, Rates, Trial
from tieredllm.local.llama_bindings import Flag, StoppedError, bindings
from tieredllm.local.machine import physical_cores
from tieredllm.local.model import LoadedModel
from tieredllm.local.probe import RejectedError, probe_in_child
from tieredllm.local.probe_child import ProbeRequest
from tieredllm.local.validate import needed_bytes, quick_check, validate_model
from tieredllm.local.validation_cache import ValidationCache, Verdict, state_of
from tieredllm.profile.schema import Profile, Tier


@pytest.fixture
def tiny(tmp_path):
    return write_gemma(tmp_path / "tiny.gguf")


@pytest.fixture
def verdicts(tmp_path):
    return ValidationCache(tmp_path / "cache")


RATES = Rates(load_s=0.1, prompt_tps=500.0, decode_tps=100.0)


class FakeProbe:
    """Stand for the child process, and keep what it is asked."""

    def __init__(self, *, crashing=(), rejected=None, rates=None):
        self.crashing = crashing
        self.rejected = rejected
        self.rates = rates or {}
        self.asked = []
        self.gpu_layers = []

    def __call__(self, request, go_on):
        self.asked.append(request.rungs)
        self.gpu_layers.append(request.gpu_layers)
        if self.rejected is not None:
            raise RejectedError(ErrorKind.MODEL_UNAVAILABLE, self.rejected)
        trials = []
        for rung in request.rungs:
            if rung in self.crashing:
                return [*trials, Trial(rung=rung, fault="SIGSEGV: boom")]
            trials.append(Trial(rung=rung, rates=self.rates.get(rung, RATES)))
        return trials

    @property
    def runs(self):
        return len(self.asked)


def request_for(path, *rungs):
    return ProbeRequest(path=bytes(path), rungs=rungs or ("plain",), n_ctx=1024, budget_s=0.1)


def failing(path, verdicts, **options):
    options.setdefault("n_ctx", 512)
    with pytest.raises(FallbackTriggerError) as raised:
        validate_model(path, verdicts=verdicts, **options)
    assert raised.value.kind is ErrorKind.MODEL_UNAVAILABLE
    return raised.value.message


def child(code):
    """Give a stand-in for the trial command."""
    return (sys.executable, "-c", code)


def test_a_sound_file_passes(tiny, verdicts):
    """A real child process loads the file, decodes a token and finds nothing wrong."""
    found = validate_model(tiny, n_ctx=512, verdicts=verdicts)

    assert found.header == read_header(tiny)
    assert found.chosen.rates.decode_tps > 0
    assert verdicts.get(tiny, state_of(tiny)).reason is None


def test_the_trial_runs_once_per_file(tiny, verdicts):
    """A verdict holds until size or time of the file change."""
    trial = FakeProbe()
    for _ in range(3):
        validate_model(tiny, n_ctx=512, verdicts=verdicts, probe=trial)
    assert trial.runs == 1

    with tiny.open("ab") as file:
        file.write(b"\0")
    validate_model(tiny, n_ctx=512, verdicts=verdicts, probe=trial)

    assert trial.runs == 2


def test_a_bad_verdict_is_remembered(tiny, verdicts):
    """A file found bad is not tried again, and the reason is given again."""
    trial = FakeProbe(rejected="cannot be loaded by llama.cpp: boom")
    messages = {failing(tiny, verdicts, probe=trial) for _ in range(3)}

    assert trial.runs == 1
    assert messages == {"tiny.gguf cannot be loaded by llama.cpp: boom"}


def test_another_llama_cpp_tries_again(tiny, verdicts, monkeypatch):
    """A file that one installation of llama.cpp rejected is tried again with the next."""
    failing(tiny, verdicts, probe=FakeProbe(rejected="is of an unknown architecture"))
    monkeypatch.setattr(validate, "binding_stamp", lambda: "another")
    trial = FakeProbe()
    validate_model(tiny, n_ctx=512, verdicts=verdicts, probe=trial)

    assert trial.runs == 1


def test_another_share_of_a_gpu_tries_again(tiny, verdicts):
    """A file is tried with the layers a GPU is to get, and anew with another number of them."""
    trial = FakeProbe()
    for layers in (None, 10, 10, None):
        validate_model(tiny, n_ctx=512, verdicts=verdicts, gpu_layers=layers, probe=trial)

    assert trial.gpu_layers == [None, 10, None]


def test_a_tier_says_how_its_model_is_computed(tmp_path):
    """`threads` and `gpu_layers` of a tier reach llama.cpp; without them its own ways hold."""
    found = []
    for settings in ({}, {"threads": 1, "gpu_layers": 0}):
        tier = Tier(name="own", provider="llama_cpp", model=str(smollm2()), **settings)
        manager = FallbackManager(Profile(tiers=(tier,)), places=places(tmp_path), env={})
        [backend] = manager.plans[0].backends
        _, used = backend._preparation(smollm2())(lambda: True)
        model = LoadedModel(smollm2(), n_ctx=512, settings=used, stop=Flag(), go_on=lambda: True)
        found.append((used.gpu_layers, bindings().llama_n_threads(model._context)))
        model.close()

    assert found == [(None, physical_cores()), (0, 1)]


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"\xff\xfe", b'{"x": {"state": 1}}', b"null"]
)
def test_a_corrupt_cache_is_an_empty_one(tiny, verdicts, tmp_path, content):
    """Whatever is in the cache file, the file is examined and the verdict written anew."""
    cache = tmp_path / "cache" / "model-verdicts.json"
    cache.parent.mkdir()
    cache.write_bytes(content)
    trial = FakeProbe()
    for _ in range(2):
        validate_model(tiny, n_ctx=512, verdicts=verdicts, probe=trial)

    assert trial.runs == 1
    assert json.loads(cache.read_bytes())[str(tiny)]["reason"] is None


def test_a_cache_that_cannot_be_written_is_done_without(tiny, tmp_path):
    """A file where the cache directory should be does not stop the examination."""
    (tmp_path / "file").write_text("in the way")
    verdicts = ValidationCache(tmp_path / "file")
    trial = FakeProbe()
    for _ in range(2):
        validate_model(tiny, n_ctx=512, verdicts=verdicts, probe=trial)

    assert trial.runs == 2
    assert (tmp_path / "file").read_text() == "in the way"


def test_no_temporary_file_is_left(tiny, verdicts, tmp_path):
    """Writing the cache leaves the cache and nothing else."""
    validate_model(tiny, n_ctx=512, verdicts=verdicts, probe=FakeProbe())

    assert [file.name for file in (tmp_path / "cache").iterdir()] == ["model-verdicts.json"]


def test_a_file_that_is_not_gguf_is_not_tried(tmp_path, verdicts):
    """A wrong header ends the examination before any process is started."""
    path = tmp_path / "page.gguf"
    path.write_text("<html>" * 100)
    trial = FakeProbe()

    assert "page.gguf is no GGUF file but a web page" in failing(path, verdicts, probe=trial)
    assert trial.runs == 0


def test_an_absent_file_is_reported(tmp_path, verdicts):
    """A file that is not there is `model_unavailable`, with its path."""
    path = tmp_path / "absent.gguf"

    assert f"{path} cannot be read: No such file or directory" == failing(path, verdicts)


def test_a_wrong_hash_is_noticed_before_the_trial(tiny, verdicts):
    """A file with another SHA-256 than it should have is not loaded, not even in a child."""
    trial = FakeProbe()
    found = hashlib.sha256(tiny.read_bytes()).hexdigest()

    message = failing(tiny, verdicts, sha256="0" * 64, probe=trial)
    assert f"tiny.gguf has the SHA-256 {found}, not {'0' * 64}: pull it again" == message
    assert trial.runs == 0


def test_the_hash_is_computed_once(tiny, verdicts, monkeypatch):
    """A hash that was computed is remembered with the verdict."""
    sha256 = hashlib.sha256(tiny.read_bytes()).hexdigest()
    validate_model(tiny, n_ctx=512, verdicts=verdicts, sha256=sha256, probe=FakeProbe())
    monkeypatch.setattr(validate, "hash_file", None)

    validate_model(tiny, n_ctx=512, verdicts=verdicts, sha256=sha256, probe=FakeProbe())


def test_too_little_memory_is_told_and_not_remembered(tiny, verdicts):
    """A file that does not fit is refused before it is loaded, and tried when there is room."""
    trial = FakeProbe()
    needed = needed_bytes(read_header(tiny), 512)
    message = failing(tiny, verdicts, probe=trial, available=lambda: needed - 1)
    assert "tiny.gguf needs about" in message
    assert "for a context of 512 tokens" in message
    assert trial.runs == 0

    validate_model(tiny, n_ctx=512, verdicts=verdicts, probe=trial, available=lambda: needed)
    failing(tiny, verdicts, probe=trial, available=lambda: needed - 1)

    assert trial.runs == 1


def test_unknown_memory_is_enough(tiny, verdicts):
    """Where free memory is not known the file is tried."""
    trial = FakeProbe()
    validate_model(tiny, n_ctx=512, verdicts=verdicts, probe=trial, available=lambda: None)

    assert trial.runs == 1


def test_a_larger_context_needs_more(tiny):
    """The key and value cache grows with the context, up to what the model was trained for."""
    header = read_header(tiny)

    assert needed_bytes(header, 512) - needed_bytes(header, 256) == 256 * header.kv_bytes_per_token
    assert needed_bytes(header, 100_000) == needed_bytes(header, 1024)


def test_the_estimate_covers_what_is_used(tmp_path):
    """A process with the real model loaded takes less than was estimated, and not a tenth of it."""
    import subprocess

    path = smollm2()
    code = f"""
from pathlib import Path
from tieredllm.local.llama_bindings import Flag
from tieredllm.local.ladder import LoadSettings
from tieredllm.local.model import LoadedModel
from tieredllm.profile.schema import Params
def peak():
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024
before = peak()
model = LoadedModel(Path({str(path)!r}), n_ctx=4096, settings=LoadSettings(),
    stop=Flag(), go_on=lambda: True)
model.evaluate(list(range(1000, 1512)))
list(model.sample(1, Params()))
print(peak() - before)
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
    estimate = needed_bytes(read_header(path), 4096)

    assert estimate / 10 < int(out) < estimate


@pytest.mark.parametrize("signal_name", ["SIGSEGV", "SIGABRT", "SIGBUS", "SIGILL", "SIGFPE"])
def test_a_crash_is_a_finding(tiny, signal_name):
    """A child that dies of a signal of its own making condemns what it was just trying."""
    code = (
        "import os, resource, signal, sys; resource.setrlimit(resource.RLIMIT_CORE, (0, 0));"
        "print('{}', flush=True);"
        "print('GGML_ASSERT(x) failed', file=sys.stderr, flush=True);"
        f"os.kill(os.getpid(), signal.{signal_name})"
    )

    assert probe_in_child(request_for(tiny, "repacked"), command=child(code)) == [
        Trial(rung="repacked", fault=f"{signal_name}: GGML_ASSERT(x) failed")
    ]


def test_a_llama_cpp_that_cannot_start_is_told(tiny, verdicts):
    """A build for another processor dies before it tries anything; the file is not blamed."""
    code = "import os, signal; os.kill(os.getpid(), signal.SIGILL)"

    def trial(request, go_on):
        return probe_in_child(request, go_on, command=child(code))

    message = failing(tiny, verdicts, probe=trial)
    assert message.startswith(
        "llama.cpp cannot start on this processor (SIGILL: no message): "
        "this build of llama.cpp does not suit it; try another: `pip install "
    )
    assert verdicts.get(tiny, state_of(tiny)).reason is None


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import os; os.kill(os.getpid(), 9)", "was killed, probably for want of memory"),
        ("import sys; sys.exit(3)", "could not be tried (exit code 3: no message)"),
        ("raise ImportError('half a package')", "exit code 1: ImportError: half a package"),
        ("print('nonsense')", "gave no result"),
        (
            """print('{"rung": "plain", "rejected": "tiny.gguf has no room for a context"}')""",
            "tiny.gguf has no room for a context",
        ),
    ],
)
def test_an_accident_is_no_verdict(tiny, verdicts, code, words):
    """What may go well another time fails the attempt and is not held against the file."""
    command = child(code)
    runs = []

    def trial(request, go_on):
        runs.append(request)
        return probe_in_child(request, go_on, command=command)

    for _ in range(2):
        assert words in failing(tiny, verdicts, probe=trial)
    assert len(runs) == 2


def test_a_rejected_file_is_a_verdict(tmp_path, verdicts):
    """llama.cpp's own reason for rejecting a file is told, and remembered."""
    path = write_gemma(tmp_path / "odd.gguf")
    data = path.read_bytes().replace(b"blk.1.ffn_down.weight", b"blk.1.ffn_lost.weight")
    path.write_bytes(data)

    message = failing(path, verdicts)
    assert message.startswith("odd.gguf cannot be loaded by llama.cpp: ")
    assert "blk.1.ffn_down.weight" in message
    assert verdicts.get(path, state_of(path)).reason == message.removeprefix("odd.gguf ")


def test_a_trial_that_takes_too_long_is_killed(tiny):
    """The child ends at its time limit."""
    started = time.monotonic()
    with pytest.raises(FallbackTriggerError, match=r"took more than 0\.3 s"):
        probe_in_child(request_for(tiny), command=child("import time; time.sleep(60)"), limit_s=0.3)

    assert time.monotonic() - started < 5


def test_a_trial_ends_when_nobody_waits(tiny):
    """The child is killed when the one who asked gives up."""
    answers = iter([True, True, False])
    started = time.monotonic()
    with pytest.raises(StoppedError):
        probe_in_child(
            request_for(tiny), lambda: next(answers), command=child("import time; time.sleep(60)")
        )

    assert time.monotonic() - started < 5


def test_a_module_in_the_way_is_not_imported(tiny, tmp_path, monkeypatch):
    """A folder named like this package in the current directory does not replace it."""
    trap = tmp_path / "tieredllm"
    trap.mkdir()
    (trap / "__init__.py").write_text("raise SystemExit('trapped')")
    monkeypatch.chdir(tmp_path)

    assert [trial.rung for trial in probe_in_child(request_for(tiny))] == ["plain"]


def test_without_an_interpreter_there_is_no_trial(tiny, verdicts, monkeypatch):
    """Where Python is embedded and has no executable, the trial is left out."""
    monkeypatch.setattr(validate.sys, "executable", "")
    monkeypatch.setattr("subprocess.Popen", None)
    found = validate_model(tiny, n_ctx=512, verdicts=verdicts)

    assert found.settings == RUNGS["plain"]


def test_a_glance_starts_no_process(tiny, verdicts, monkeypatch):
    """A probe checks header, memory and what is remembered, and nothing else."""
    monkeypatch.setattr("subprocess.Popen", None)

    assert read_header(tiny) == quick_check(tiny, n_ctx=512, verdicts=verdicts).header
    with pytest.raises(FallbackTriggerError, match="needs about"):
        quick_check(tiny, n_ctx=512, verdicts=verdicts, available=lambda: 1)


def test_a_glance_sees_a_bad_verdict(tiny, verdicts):
    """A file that llama.cpp is known to reject fails a probe."""
    failing(tiny, verdicts, probe=FakeProbe(rejected="cannot be loaded"))

    with pytest.raises(FallbackTriggerError, match="cannot be loaded"):
        quick_check(tiny, n_ctx=512, verdicts=verdicts)


def test_later_examinations_take_no_time(tiny, verdicts):
    """With a verdict at hand an examination costs milliseconds."""
    validate_model(tiny, n_ctx=512, verdicts=verdicts, probe=FakeProbe())
    best = 1e9
    for _ in range(5):
        started = time.perf_counter()
        validate_model(tiny, n_ctx=512, verdicts=verdicts)
        best = min(best, time.perf_counter() - started)

    assert best < 0.05


def test_verdicts_of_several_files_live_together(tmp_path, verdicts):
    """Remembering one file does not forget another."""
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
        state = state_of(tmp_path / name)
        verdicts.put(tmp_path / name, Verdict(state=state, reason=f"is {name}"))

    assert {"is a", "is b"} == {
        verdicts.get(tmp_path / name, state_of(tmp_path / name)).reason for name in ("a", "b")
    }
    assert msgspec.json.decode((tmp_path / "cache" / "model-verdicts.json").read_bytes())
