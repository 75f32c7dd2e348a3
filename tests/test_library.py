"""What other programs import: misuse is answered with our own errors, in words."""

from __future__ import annotations

import asyncio
import pickle
from concurrent.futures import ProcessPoolExecutor

import pytest

import tieredllm
from tieredllm import FallbackManager, NoAnswerError, Options, UsageError
from tieredllm.errors import FallbackTriggerError, Mistake, ProfileError
from tieredllm.kinds import ErrorKind
from tieredllm.types import Answer

MISTAKE = Mistake(file="p.yaml", line=3, column=1, message="what is wrong")
ERRORS = [
    UsageError("no such tier"),
    ProfileError([MISTAKE]),
    FallbackTriggerError(ErrorKind.RATE_LIMIT, "slow down", status=429, retry_after_s=2.0),
    NoAnswerError(Answer(request_id="0", latency_ms=1.0, original_error="primary: tls")),
]


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


def test_every_exported_name_is_there():
    """What the package says it exports can be imported."""
    missing = [name for name in tieredllm.__all__ if not hasattr(tieredllm, name)]

    assert missing == []


def test_what_a_request_asks_for_besides_is_one_value(manager):
    """The options go in as one value; a tier that is not there is told in words."""
    with pytest.raises(UsageError, match="no tier 'primary'"):
        manager.ask("hello", options=Options(start="primary"))


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_error_can_be_pickled_with_all_it_holds(error):
    """What another process raised is the same error here."""
    here = pickle.loads(pickle.dumps(error))

    assert (type(here), str(here), vars(here)) == (type(error), str(error), vars(error))


def _ask(profile: str) -> str | None:
    return FallbackManager(profile).ask("hello").text


def test_an_error_in_a_pool_of_processes_reaches_who_asked(tmp_path):
    """A question that cannot be asked in a worker fails alone; the pool goes on."""
    (wrong := tmp_path / "wrong.yaml").write_text("tiers: 3\n", encoding="utf-8")
    (right := tmp_path / "right.yaml").write_text(
        "tiers:\n  - {name: rules, provider: rules}\n", encoding="utf-8"
    )
    with ProcessPoolExecutor(1) as pool:
        failed, answered = (pool.submit(_ask, str(path)) for path in (wrong, right))

    with pytest.raises(ProfileError) as raised:
        failed.result()
    assert raised.value.mistakes[0].line == 1
    assert "REF-" in (answered.result() or "")
