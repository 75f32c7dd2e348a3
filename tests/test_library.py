"""What other programs import: misuse is answered with our own errors, in words."""

from __future__ import annotations

import asyncio
import copy
import pickle
import subprocess
import sys

import pytest

import tieredllm
from tieredllm import (
    FallbackManager,
    FallbackTriggerError,
    NoAnswerError,
    Options,
    ParamOverrides,
    UsageError,
)
from tieredllm.errors import Mistake, ProfileError, UnknownModelError
from tieredllm.profile.schema import Profile, Tier
from tieredllm.types import Answer


@pytest.fixture
def manager(tmp_path):
    path = tmp_path / "p.yaml"
    path.write_text("tiers:\n  - {name: rules, provider: rules}\n", encoding="utf-8")
    return FallbackManager(str(path))


def test_ask_answers_synchronous_code(manager):
    """`ask` needs no event loop, and may be used again."""
    texts = [manager.ask("hello").text for _ in range(2)]

    assert all("REF-" in text for text in texts)


def test_ask_inside_a_loop_says_what_to_do(manager):
    """Where a loop runs, `ask` names the method for it, and leaves nothing behind unawaited."""

    async def inside():
        manager.ask("hello")

    with pytest.raises(UsageError, match=r"await manager\.process_with_fallbacks"):
        asyncio.run(inside())


@pytest.mark.parametrize("prompt", ["", "  ", [], 3, [3], [{"role": "user"}], [{"content": "x"}]])
def test_a_prompt_of_another_shape_is_a_usage_error(manager, prompt):
    """What is neither a question nor chat messages is refused by our own error."""
    with pytest.raises(UsageError, match="prompt"):
        manager.ask(prompt)


def test_a_system_prompt_of_another_type_is_a_usage_error(manager):
    """The context has no types of its own; no tier is blamed for what is wrong with it."""
    with pytest.raises(UsageError, match="system prompt is no string: list"):
        manager.ask("hello", {"system": ["Be brief."]})


def test_an_error_says_why_where_nobody_could_be_asked(manager):
    """Without a failed tier to name, what the answer says of itself is the message."""
    with pytest.raises(NoAnswerError, match="none is left that may answer"):
        manager.ask("hello", options=Options(require_llm=True))


def test_every_exported_name_is_there():
    """What the package says it exports can be imported."""
    missing = [name for name in tieredllm.__all__ if not hasattr(tieredllm, name)]

    assert missing == []


def test_names_that_are_not_loaded_yet_are_listed():
    """A notebook completes them."""
    code = "import tieredllm; print(*dir(tieredllm)); print(*tieredllm.__all__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    listed, exported = (set(line.split()) for line in done.stdout.splitlines())

    assert exported <= listed


@pytest.mark.parametrize(
    ("values", "wrong"),
    [
        ({"provider": "opnai"}, r"opnai.*tiers\[0\].provider"),
        ({"provider": "rules", "retries": -1}, r">= 0.*tiers\[0\].retries"),
        ({"provider": "rules", "params": {"temperature": "hot"}}, r"tiers\[0\].params"),
    ],
)
def test_a_profile_made_in_code_is_checked(values, wrong):
    """What no type checker has seen is told as a profile's file would be: before any request."""
    profile = Profile(name="code", tiers=(Tier(name="a", **values),))

    with pytest.raises(UsageError, match=wrong):
        FallbackManager(profile, persist=False)


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        ({"start": "primary"}, "no tier 'primary'"),
        ({"max_tier": "primary"}, "no tier 'primary'"),
        ({"deadline_s": 0}, r"> 0.*deadline_s"),
        ({"deadline_s": float("nan")}, r"> 0.*deadline_s"),
        ({"deadline_s": "3"}, "deadline_s"),
        ({"params": ParamOverrides(temperature=9)}, r"<= 2.*params.temperature"),
        ({"params": ParamOverrides(stop="end")}, "array.*params.stop"),
        ({"schema": {"type": "object"}}, "schema"),
    ],
)
def test_what_a_request_asks_for_besides_is_one_value(manager, options, wrong):
    """The options go in as one value; what is wrong with them is told before anybody is asked."""
    with pytest.raises(UsageError, match=wrong):
        manager.ask("hello", options=Options(**options))


@pytest.mark.parametrize(
    "given", [ParamOverrides(temperature=1), {"deadline_s": 3}, {}, "deadline_s"]
)
def test_options_of_another_type_are_a_usage_error(manager, given):
    """What has some of the same names, or none, is not taken for options that say nothing."""
    with pytest.raises(UsageError, match=f"{type(given).__name__} is no Options"):
        manager.ask("hello", options=given)


@pytest.mark.parametrize(
    "error",
    [
        NoAnswerError(Answer(request_id="0" * 32, latency_ms=1, original_error="primary: timeout")),
        ProfileError([Mistake(file="p.yaml", line=1, column=2, message="no tiers")]),
        FallbackTriggerError("rate_limit", "slow down", status=429, retry_after_s=2.0),
        UnknownModelError("no model 'x'"),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda error: pickle.loads(pickle.dumps(error))]
)
def test_an_error_reaches_another_process_whole(error, copied):
    """Pools of processes and task queues pickle what a task raises: nothing of it is lost."""
    error.add_note("for order 7")

    other = copied(error)

    assert type(other) is type(error)
    assert (str(other), repr(other)) == (str(error), repr(error))
    assert vars(other) == vars(error)
