"""Several answers at once in one context: fair, apart from one another, and faster."""

from __future__ import annotations

import asyncio
import contextlib
import time

import msgspec
import pytest
from local_support import places, smollm2, user, write_gemma, write_recurrent

from tieredllm.client import FallbackManager
from tieredllm.errors import FallbackTriggerError
from tieredllm.kinds import ErrorKind
from tieredllm.local.gguf import read_header
from tieredllm.local.ladder import LoadSettings
from tieredllm.local.validate import SEQUENCE_TOKENS, needed_bytes, shared_room
from tieredllm.local.worker import End, LlamaRunner
from tieredllm.profile.schema import Params, Profile, Tier
from tieredllm.providers.llama_cpp import LlamaCppBackend


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A tiny model with random weights, which answers in letters."""
    return write_gemma(tmp_path_factory.mktemp("tiny") / "tiny.gguf")


@pytest.fixture(params=[False, True], ids=["together", "apart"])
def apart(request):
    """Whether each sequence has a buffer of its own."""
    return request.param


def run(path, body, *, sequences=4, n_ctx=512, more_tokens=1024, apart=False):
    """Run a body with a runner of a model."""

    async def main():
        settings = LoadSettings(sequences=sequences, more_tokens=more_tokens, apart=apart)
        runner = LlamaRunner(path, prepare=lambda _go_on: (n_ctx, settings))
        try:
            return await asyncio.wait_for(body(runner), 100)
        finally:
            await runner.aclose()

    return asyncio.run(main())


async def ask(runner, text, max_tokens=16, **params):
    """Collect an answer and its end."""
    said = ""
    params = Params(temperature=0.0, max_tokens=max_tokens, **params)
    async for item in runner.generate([user(text)], params):
        if isinstance(item, End):
            return said, item
        said += item if isinstance(item, str) else item.text
    raise AssertionError("the answer had no end")


QUESTIONS = [f"question {chr(97 + number) * 5}" for number in range(10)]


def test_every_question_gets_its_own_answer(tiny, apart):
    """More questions than sequences, asked at once, are answered as one after the other."""

    async def at_once(runner):
        return await asyncio.gather(*(ask(runner, text) for text in QUESTIONS))

    async def in_turn(runner):
        return [await ask(runner, text) for text in QUESTIONS]

    assert run(tiny, at_once, apart=apart) == run(tiny, in_turn, sequences=1)


def test_a_common_beginning_is_evaluated_once(tiny, apart):
    """Eight prompts that begin alike, asked at once, take one reading of that beginning."""
    beginning = "the same words for each of us " * 10

    async def body(runner):
        await asyncio.gather(*(ask(runner, f"{beginning}{text}", 2) for text in QUESTIONS[:8]))
        model = await runner.ready()
        return model.evaluated_tokens, (await ask(runner, f"{beginning}z", 1))[1].prompt_tokens

    evaluated, whole = run(tiny, body, sequences=8, more_tokens=4096, apart=apart)

    assert whole > 200
    assert evaluated < whole + 8 * 60


def test_what_the_context_holds_is_shared_with_later_questions(tiny, apart):
    """A question goes on from what another one has left, also when that goes on itself."""

    async def body(runner):
        text = "a long story about letters " * 8
        await ask(runner, text, 4)
        model = await runner.ready()
        before = model.evaluated_tokens
        _, end = await ask(runner, f"{text} and more", 1)
        return model.evaluated_tokens - before, end.prompt_tokens

    evaluated, whole = run(tiny, body, more_tokens=1536, apart=apart)

    assert whole > 200
    assert evaluated < 40


def test_a_step_wakes_the_program_once(tiny, monkeypatch):
    """What a step brings for several answers is handed to their event loop together."""

    async def body(runner):
        await runner.ready()
        loop, wakes = asyncio.get_running_loop(), []
        wake = loop.call_soon_threadsafe
        monkeypatch.setattr(
            loop, "call_soon_threadsafe", lambda *args: wakes.append(args) or wake(*args)
        )
        ends = await asyncio.gather(*(ask(runner, text, 30) for text in QUESTIONS[:4]))
        return len(wakes), sum(end.completion_tokens for _, end in ends)

    wakes, tokens = run(tiny, body)

    assert tokens > 60
    assert wakes < 0.5 * tokens


def test_a_stop_of_one_takes_nothing_from_the_others(tiny, apart):
    """Some of the questions are given up midway; the rest get what they would have got."""

    async def body(runner):
        given_up = [asyncio.create_task(ask(runner, f"{text} x", 300)) for text in QUESTIONS[:3]]
        kept = [asyncio.create_task(ask(runner, text, 40)) for text in QUESTIONS]
        await runner.ready()
        for task in given_up:
            await asyncio.sleep(0.02)
            task.cancel()
        answers = await asyncio.gather(*kept)
        await asyncio.gather(*given_up, return_exceptions=True)
        return answers

    async def alone(runner):
        return [await ask(runner, text, 40) for text in QUESTIONS]

    assert run(tiny, body, apart=apart) == run(tiny, alone, sequences=1)


def test_short_ones_are_not_held_up_by_a_long_prompt():
    """A short question beside a long prompt is answered while that is still being read."""
    long = "The quick brown fox jumps over the lazy dog. " * 120

    async def body(runner):
        await runner.ready()
        ended = []

        async def noted(name, text, tokens):
            await ask(runner, text, tokens)
            ended.append(name)

        slow = asyncio.create_task(noted("long", long, 1))
        await asyncio.sleep(0.2)
        await asyncio.gather(noted("short", "Say yes.", 2), slow)
        return ended

    assert run(smollm2(), body, n_ctx=2048) == ["short", "long"]


def test_a_long_one_is_not_put_off_by_short_ones(tiny):
    """A question that needs nearly the whole room gets it before those that came later."""

    async def body(runner):
        ended = []

        async def noted(name, text, tokens):
            await ask(runner, text, tokens)
            ended.append(name)

        early = [noted(f"early {n}", QUESTIONS[n], 30) for n in range(2)]
        long = noted("long", "b" * 300, 60)
        late = [noted(f"late {n}", QUESTIONS[n], 30) for n in range(6)]
        await runner.ready()
        await asyncio.gather(*early, long, *late)
        return ended

    ended = run(tiny, body, more_tokens=0)

    assert len(ended) == 9
    assert ended.index("long") < ended.index("late 5")


def test_who_finds_no_room_is_read_again(tiny, monkeypatch):
    """When answers grow beyond what was foreseen, the last gives its room up and is whole later."""
    from tieredllm.local.generate import Writer

    async def body(runner):
        return await asyncio.gather(*(ask(runner, text, 200) for text in QUESTIONS[:4]))

    expected = run(tiny, body, more_tokens=4096)
    monkeypatch.setattr(Writer, "left", property(lambda _: 0))

    answers = run(tiny, body, more_tokens=0)

    assert [end.completion_tokens for _, end in answers] == [
        end.completion_tokens for _, end in expected
    ]
    assert [text for text, _ in answers] == [text for text, _ in expected]


def test_a_prompt_too_long_fails_alone(tiny, apart):
    """A question beyond the context is told so; its neighbours are answered."""

    async def body(runner):
        return await asyncio.gather(
            ask(runner, "x" * 600), ask(runner, QUESTIONS[0]), return_exceptions=True
        )

    long, short = run(tiny, body, apart=apart)

    assert isinstance(long, FallbackTriggerError)
    assert long.kind is ErrorKind.CONTEXT_LENGTH
    assert short[1].completion_tokens > 0


def test_closing_ends_all(tiny, apart):
    """When the model is closed, each of the answers under way fails at once, and says why."""

    async def body(runner):
        tasks = [asyncio.create_task(ask(runner, text, 400)) for text in QUESTIONS]
        await runner.ready()
        await asyncio.sleep(0.02)
        started = time.perf_counter()
        await runner.aclose()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        return results, time.perf_counter() - started

    results, took_s = run(tiny, body, apart=apart)

    assert took_s < 2
    failed = [result for result in results if isinstance(result, FallbackTriggerError)]
    assert failed
    assert all("closed" in result.message for result in failed)


def test_a_text_too_long_for_its_buffer_makes_all_share_one(tiny):
    """A long prompt among short ones is answered, and none of them loses anything."""
    texts = [*QUESTIONS[:3], "b" * 300, *QUESTIONS[3:6]]

    async def body(runner):
        before = (await runner.ready()).own_tokens
        answers = await asyncio.gather(*(ask(runner, text, 60) for text in texts))
        return answers, before, (await runner.ready()).own_tokens

    async def alone(runner):
        return [await ask(runner, text, 60) for text in texts]

    answers, before, after = run(tiny, body, more_tokens=512, apart=True)

    assert (before, after) == (256, None)
    assert answers == run(tiny, alone, sequences=1)


def test_an_answer_that_outgrows_its_buffer_goes_on(tiny, monkeypatch):
    """What was not foreseen makes all share one buffer; they begin alike, which is read once."""
    from tieredllm.local.generate import Writer

    beginning = "the same words for each of us " * 5
    texts = [f"{beginning}{text}" for text in QUESTIONS[:4]]

    async def body(runner):
        answers = await asyncio.gather(*(ask(runner, text, 150) for text in texts))
        model = await runner.ready()
        return answers, model.own_tokens, model.evaluated_tokens

    async def alone(runner):
        return [await ask(runner, text, 150) for text in texts]

    expected = run(tiny, alone, sequences=1)
    monkeypatch.setattr(Writer, "left", property(lambda _: 0))
    answers, own, evaluated = run(tiny, body, more_tokens=1024, apart=True)

    assert answers == expected
    assert own is None
    said = sum(end.completion_tokens for _, end in answers)
    assert evaluated < 2 * (len(beginning) + 4 * 40) + said


def test_answers_move_together(tiny, monkeypatch):
    """Those that are left when others have ended fill the gaps, and say what they would have."""
    from tieredllm.local.model import LoadedModel

    lengths = [150, 5, 5, 150]
    steps = []
    decode = LoadedModel.decode

    def noted(model, pieces):
        steps.append([piece.sequence.number for piece in pieces])
        return decode(model, pieces)

    async def body(runner):
        await runner.ready()
        asked = zip(QUESTIONS, lengths, strict=False)
        return await asyncio.gather(*(ask(runner, text, length) for text, length in asked))

    expected = run(tiny, body, sequences=1)
    monkeypatch.setattr(LoadedModel, "decode", noted)
    answers = run(tiny, body, apart=True)

    assert answers == expected
    apart = [step for step in steps if len(step) == 2 and step[1] - step[0] > 1]
    assert steps.count([0, 1]) > 100
    assert len(apart) < 10


def test_no_memory_for_a_shared_buffer(tiny, monkeypatch):
    """All under way are told; whoever asks when there is memory again is answered."""
    from tieredllm.local.model import LoadedModel

    make = LoadedModel._make_context
    full = True

    def make_context(model):
        if full and model.own_tokens is None:
            raise FallbackTriggerError(ErrorKind.MODEL_UNAVAILABLE, "no memory")
        return make(model)

    async def body(runner):
        nonlocal full
        texts = [QUESTIONS[0], "b" * 300]
        told = await asyncio.gather(*(ask(runner, text) for text in texts), return_exceptions=True)
        told += await asyncio.gather(ask(runner, QUESTIONS[1]), return_exceptions=True)
        full = False
        return told, await ask(runner, QUESTIONS[0])

    monkeypatch.setattr(LoadedModel, "_make_context", make_context)
    told, later = run(tiny, body, more_tokens=512, apart=True)

    assert [error.message for error in told] == ["no memory"] * 3
    assert later[1].completion_tokens > 0


def test_a_model_that_carries_a_state_makes_one_answer_at_a_time(tmp_path):
    """Recurrent models have one sequence, whatever is asked for, and answer one by one."""
    path = write_recurrent(tmp_path / "mamba.gguf", "mamba")

    async def body(runner):
        answers = await asyncio.gather(*(ask(runner, text, 4) for text in QUESTIONS[:3]))
        return answers, len((await runner.ready()).sequences)

    answers, sequences = run(path, body)

    assert sequences == 1
    assert len(answers) == 3


def test_the_room_follows_the_memory(tiny):
    """Answers share 1,024 tokens each, or as much as half of the free memory has room for."""
    header = read_header(tiny)
    base = needed_bytes(header, 512)

    plenty = shared_room(header, 2048, 8, lambda: 2**40)
    little = shared_room(header, 512, 8, lambda: base + 200 * header.kv_bytes_per_token)

    assert plenty == 7 * SEQUENCE_TOKENS
    assert little == 100
    assert shared_room(header, 512, 8, lambda: 0) == 0
    assert shared_room(header, 512, 1, lambda: 2**40) == 0


def test_a_backend_says_how_many_it_answers_at_once(tmp_path):
    """What asks many at once can tell how many a local model takes."""
    made = LlamaCppBackend(
        model="smollm2-135m", context_tokens=512, places=places(tmp_path), sequences=8
    )

    assert made.capabilities.at_once == 8


@pytest.mark.parametrize("batch", [True, False])
def test_a_batch_gives_each_answer_a_buffer(tiny, tmp_path, batch):
    """`FallbackManager(batch=True)` loads a model so, and a long line is answered all the same."""
    tier = Tier(name="local", provider="llama_cpp", model=str(tiny), context_tokens=512)
    tier = msgspec.structs.replace(tier, params=Params(temperature=0.0, max_tokens=20))
    profile = Profile(name="x", tiers=(tier,))

    async def body():
        async with FallbackManager(
            profile, places=places(tmp_path), persist=False, sequences=4, batch=batch
        ) as manager:
            asked = manager.process_with_fallbacks
            first = await asked("a")
            [backend] = manager.plans[0].backends
            own = (await backend._runner().ready()).own_tokens
            more = await asyncio.gather(*map(asked, ["b" * 440, *QUESTIONS]))
            return own, [answer.tier for answer in (first, *more)]

    own, tiers = asyncio.run(body())

    assert own == (512 if batch else None)
    assert tiers == ["local"] * 12


def test_giving_up_while_waiting_in_line_is_fine(tiny):
    """A question that is given up before its turn is never begun."""

    async def body(runner):
        busy = [asyncio.create_task(ask(runner, text, 100)) for text in QUESTIONS[:2]]
        await runner.ready()
        waiting = asyncio.create_task(ask(runner, "z" * 40, 10))
        await asyncio.sleep(0.01)
        waiting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await waiting
        return await asyncio.gather(*busy)

    assert len(run(tiny, body, sequences=2)) == 2
