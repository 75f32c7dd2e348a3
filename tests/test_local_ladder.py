"""The way to load a model is found by trying, remembered, and chosen for what is to be done."""

from __future__ import annotations

import sys

import pytest
from local_support import places, write_gemma

from tieredllm.errors import FallbackTriggerError
from tieredllm.local import validate
from tieredllm.local.ladder import RUNGS, SESSION, Job, Rates, Trial, best, expected_s
from tieredllm.local.machine import processor_stamp
from tieredllm.local.probe import probe_in_child
from tieredllm.local.validate import quick_check, validate_model
from tieredllm.local.validation_cache import ValidationCache, state_of

CRASHING_CHILD = """
import os, resource, signal, sys
import msgspec
from tieredllm.local import ladder, probe_child
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
real, faults = probe_child._measure, {faults!r}
def measure(settings, request):
    rung = next(name for name, one in ladder.RUNGS.items() if one == settings)
    if faults.get(rung) == "NaN":
        raise ArithmeticError
    if rung in faults:
        os.kill(os.getpid(), getattr(signal, faults[rung]))
    return real(settings, request)
probe_child._measure = measure
probe_child.main(msgspec.json.decode(sys.argv[1], type=probe_child.ProbeRequest))
"""
"""A child that crashes on purpose where it is told to, and else does its work."""

ALL = dict.fromkeys(RUNGS, "SIGSEGV")


@pytest.fixture
def tiny(tmp_path):
    return write_gemma(tmp_path / "tiny.gguf")


@pytest.fixture
def verdicts(tmp_path):
    return ValidationCache(places(tmp_path).cache)


class Children:
    """Start real children that crash on purpose, and keep what each was to try."""

    def __init__(self, faults):
        self.faults = faults
        self.asked = []

    def __call__(self, request, go_on):
        self.asked.append(request.rungs)
        code = CRASHING_CHILD.format(faults=self.faults)
        return probe_in_child(request, go_on, command=(sys.executable, "-c", code))


def remembered(verdicts, path):
    trials = verdicts.get(path, state_of(path)).trials
    return [(trial.rung, trial.fault) for trial in trials]


@pytest.mark.parametrize(
    ("faults", "job", "asked", "found", "rung"),
    [
        ({}, Job(), [("plain",)], [("plain", None)], "plain"),
        (
            {"repacked": "SIGSEGV"},
            SESSION,
            [("plain", "repacked")],
            [("plain", None), ("repacked", "SIGSEGV: no message")],
            "plain",
        ),
        (
            {"plain": "SIGILL"},
            Job(),
            [("plain",), ("repacked",)],
            [("plain", "SIGILL: no message"), ("repacked", None)],
            "repacked",
        ),
        (
            {"plain": "SIGABRT", "repacked": "SIGABRT"},
            Job(),
            [("plain",), ("repacked",), ("no_flash_attention",)],
            [
                ("plain", "SIGABRT: no message"),
                ("repacked", "SIGABRT: no message"),
                ("no_flash_attention", None),
            ],
            "no_flash_attention",
        ),
        (
            ALL | {"one_thread": None} | {"plain": "NaN"},
            Job(),
            [("plain",), ("repacked",), ("no_flash_attention",), ("one_thread",)],
            [
                ("plain", "NaN"),
                ("repacked", "SIGSEGV: no message"),
                ("no_flash_attention", "SIGSEGV: no message"),
                ("one_thread", None),
            ],
            "one_thread",
        ),
    ],
)
def test_the_ladder_goes_down_to_what_works(tiny, verdicts, faults, job, asked, found, rung):
    """What crashes or computes nonsense is left out, remembered, and never told to who asks."""
    faults = {name: fault for name, fault in faults.items() if fault is not None}
    children = Children(faults)
    for _ in range(2):  # the second time from memory
        result = validate_model(tiny, n_ctx=512, verdicts=verdicts, job=job, probe=children)

        assert (rung, RUNGS[rung]) == (result.rung, result.settings)
    assert asked == children.asked
    assert found == remembered(verdicts, tiny)
    assert rung == quick_check(tiny, n_ctx=512, verdicts=verdicts).rung


@pytest.mark.parametrize(
    ("faults", "words"),
    [
        (
            ALL,
            "llama.cpp crashes on this processor with tiny.gguf, whatever the settings (SIGSEGV: ",
        ),
        (ALL | {"plain": "NaN"}, "llama.cpp crashes on this processor with tiny.gguf"),
        (
            dict.fromkeys(RUNGS, "NaN"),
            "tiny.gguf computes values that are not numbers: its file is damaged",
        ),
    ],
)
def test_no_rung_left_is_told_with_what_to_do(tiny, verdicts, faults, words):
    """A crash of all is the build's fault, NaN of all the file's; neither is tried again."""
    children = Children(faults)
    for _ in range(2):
        with pytest.raises(FallbackTriggerError) as raised:
            validate_model(tiny, n_ctx=512, verdicts=verdicts, probe=children)
        assert raised.value.message.startswith(words)
        assert ("pip install" in raised.value.message) is words.startswith("llama.cpp")
    with pytest.raises(FallbackTriggerError) as raised:
        quick_check(tiny, n_ctx=512, verdicts=verdicts)

    assert raised.value.message.startswith(words)
    assert len(children.asked) == 4


def test_a_session_tries_what_one_question_left_out(tiny, verdicts):
    """One question is answered with the first rung that works; the rest comes when it pays."""
    children = Children({})
    validate_model(tiny, n_ctx=512, verdicts=verdicts, probe=children)
    validate_model(tiny, n_ctx=512, verdicts=verdicts, job=SESSION, probe=children)
    validate_model(tiny, n_ctx=512, verdicts=verdicts, job=SESSION, probe=children)

    assert children.asked == [("plain",), ("repacked",)]


def test_a_thorough_check_tries_all_again(tiny, verdicts):
    """`models verify` measures anew, whatever is remembered."""
    children = Children({})
    for _ in range(2):
        validate_model(tiny, n_ctx=512, verdicts=verdicts, thorough=True, probe=children)

    assert children.asked == [("plain", "repacked")] * 2


@pytest.mark.parametrize("change", ["processor", "package"])
def test_what_was_found_holds_for_one_build_on_one_processor(tiny, verdicts, monkeypatch, change):
    """Another processor or another llama.cpp is tried afresh, also after a crash on every rung."""
    with pytest.raises(FallbackTriggerError):
        validate_model(tiny, n_ctx=512, verdicts=verdicts, probe=Children(ALL))
    name = "processor_stamp" if change == "processor" else "binding_stamp"
    monkeypatch.setattr(validate, name, lambda: "another")

    assert quick_check(tiny, n_ctx=512, verdicts=verdicts).rung is None
    children = Children({})
    found = validate_model(tiny, n_ctx=512, verdicts=verdicts, probe=children)
    assert (found.rung, children.asked) == ("plain", [("plain",)])


def test_an_upgrade_changes_the_build(tmp_path, monkeypatch):
    """A library that was built anew is another build, with the same version or not."""
    from tieredllm.local import llama_bindings

    library = tmp_path / "libggml-cpu.so"
    library.write_bytes(b"one")
    monkeypatch.setenv("LLAMA_CPP_LIB_PATH", str(tmp_path))
    before = llama_bindings.binding_stamp()
    library.write_bytes(b"another")

    assert before != llama_bindings.binding_stamp()


CPUINFO = """processor\t: 0
model name\t: {name}
cpu MHz\t\t: {mhz}
flags\t\t: fpu {flags} sse4_1 rdrand

processor\t: 1
model name\t: {name}
flags\t\t: fpu sse4_1
"""


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({}, True),
        ({"mhz": "800.000"}, True),
        ({"flags": "avx2 amx_tile"}, True),
        ({"flags": "avx2"}, False),
        ({"name": "Other(R) Processor"}, False),
    ],
)
def test_a_processor_is_told_by_what_kernels_ask_of_it(tmp_path, change, same):
    """Model and vector features count; clock rates and the features' order do not."""
    stamps = []
    for values in ({}, change):
        filled = {"name": "Some(R) Processor", "mhz": "2100.000", "flags": "amx_tile avx2"} | values
        (tmp_path / "cpuinfo").write_text(CPUINFO.format(**filled))
        stamps.append(processor_stamp(proc=tmp_path))

    assert (stamps[0] == stamps[1]) is same
    assert "avx2" in stamps[0]


PLAIN = Rates(load_s=0.1, prompt_tps=300.0, decode_tps=100.0)
REPACKED = Rates(load_s=0.95, prompt_tps=900.0, decode_tps=110.0)


@pytest.mark.parametrize(
    ("job", "rung"),
    [
        (Job(), "plain"),
        (Job(prompt_tokens=64, completion_tokens=32), "plain"),
        (Job(prompt_tokens=3000, completion_tokens=128), "repacked"),
        (SESSION, "repacked"),
    ],
)
def test_the_rung_with_the_least_expected_time_is_taken(job, rung):
    """One short question loads fast; a session and a long prompt compute fast."""
    trials = [Trial(rung="plain", rates=PLAIN), Trial(rung="repacked", rates=REPACKED)]

    assert rung == best(trials, job)


@pytest.mark.parametrize(
    ("one_question", "text", "rung"),
    [(True, "Why?", "plain"), (True, "word " * 2400, "repacked"), (False, "Why?", "repacked")],
)
def test_the_manager_knows_what_a_model_is_loaded_for(tmp_path, one_question, text, rung):
    """One short question, one long pipe, and a session are told apart."""
    import asyncio

    from tieredllm.client import FallbackManager
    from tieredllm.profile.schema import Profile, Tier

    profile = Profile(name="x", tiers=(Tier(name="rules", provider="rules"),))

    async def ask():
        async with FallbackManager(
            profile, places=places(tmp_path), persist=False, one_question=one_question
        ) as manager:
            await manager.process_with_fallbacks(text)
            return manager._around.job

    trials = [Trial(rung="plain", rates=PLAIN), Trial(rung="repacked", rates=REPACKED)]
    assert rung == best(trials, asyncio.run(ask()))


def test_the_expected_time_is_loading_reading_and_writing():
    """0.1 s of loading, and twice 300 tokens at 300/s and 50 at 100/s: 3.1 s."""
    job = Job(prompt_tokens=300, completion_tokens=50, questions=2)

    assert expected_s(PLAIN, job) == pytest.approx(3.1)


def test_equal_rates_leave_the_weights_as_they_are():
    """Where repacking wins nothing (16-bit weights), it is not worth its memory."""
    faster = Rates(load_s=0.099, prompt_tps=301.0, decode_tps=101.0)

    assert (
        best([Trial(rung="repacked", rates=faster), Trial(rung="plain", rates=PLAIN)], SESSION)
        == "plain"
    )


def test_a_fault_after_a_rung_that_worked_is_that_rungs():
    """A second way to load a file that needs too much memory does not spoil the first."""
    from tieredllm.local.probe_child import ProbeRequest

    request = ProbeRequest(path=b"m.gguf", rungs=("plain", "repacked"), n_ctx=512, budget_s=0.1)
    code = (
        "import os; print('{}');"
        """print('{"rung": "plain", "rates": {"load_s": 1, "prompt_tps": 2, "decode_tps": 3}}',"""
        " flush=True); os.kill(os.getpid(), 9)"
    )
    found = probe_in_child(request, command=(sys.executable, "-c", code))

    assert found == [
        Trial(rung="plain", rates=Rates(load_s=1, prompt_tps=2, decode_tps=3)),
        Trial(rung="repacked", fault="was killed, probably for want of memory"),
    ]


def test_the_child_starts_no_debugger(tiny):
    """Ggml's own backtrace, which would hide the failed assertion, is off in the child."""
    from tieredllm.local.probe_child import ProbeRequest

    request = ProbeRequest(path=bytes(tiny), rungs=("plain",), n_ctx=512, budget_s=0.1)
    code = (
        "import os, sys, signal; print('{}', flush=True);"
        "print(os.environ['GGML_NO_BACKTRACE'], file=sys.stderr, flush=True);"
        "os.kill(os.getpid(), signal.SIGILL)"
    )

    assert probe_in_child(request, command=(sys.executable, "-c", code)) == [
        Trial(rung="plain", fault="SIGILL: 1")
    ]
