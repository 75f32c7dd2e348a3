"""A real model answers, counts, is stopped at once, and keeps what it has read."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import threading
import time

import msgspec
import pytest
from local_support import answer, backend, call, pretend_tried, smollm2, user, write_gemma

from tieredllm.errors import FallbackTriggerError
from tieredllm.kinds import ErrorKind
from tieredllm.local.ladder import LoadSettings
from tieredllm.local.worker import LlamaRunner, RunnerPool
from tieredllm.profile.schema import Params
from tieredllm.providers.base import CallPiece, Delta, Finish
from tieredllm.types import Message

RAIN = user("In one sentence, what is rain?")
CHATTER = "The quick brown fox jumps over the lazy dog. " * 150
"""1,500 tokens: seconds of work."""


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("local")


def run(root, body, *, context_tokens=2048, model=None):
    """Run a coroutine with a backend of the real model, and free it."""

    async def main():
        made = backend(model or smollm2(), root, context_tokens=context_tokens)
        try:
            return await asyncio.wait_for(body(made), 60)
        finally:
            await made.aclose()

    return asyncio.run(main())


async def loaded(made):
    return await made._runner().ready()


def test_a_question_is_answered(root):
    """The real model gives a sensible answer, with exact counts."""

    async def body(made):
        text, finish = await answer(made, call(RAIN, max_tokens=24))
        model = await loaded(made)
        return text, finish, len(model.vocabulary.tokenize(text))

    text, finish, tokens = run(root, body)

    assert "water" in text.lower()
    assert finish.reason in ("stop", "length")
    assert finish.usage.prompt_tokens == 38
    # The token that ends the answer is not part of it.
    assert finish.usage.completion_tokens == tokens


def test_a_short_limit_cuts_the_answer(root):
    """An answer that ends at `max_tokens` has the reason `length` and that many tokens."""
    _, finish = run(root, lambda made: answer(made, call(RAIN, max_tokens=3)))

    assert (finish.reason, finish.usage.completion_tokens) == ("length", 3)


def test_an_answer_that_ends_by_itself_stops(root):
    """The model's end-of-turn token ends the answer and is not shown."""
    text, finish = run(
        root, lambda made: answer(made, call(user("Say only the word yes."), max_tokens=60))
    )

    assert finish.reason == "stop"
    assert "<|im_end|>" not in text


def test_unicode_comes_out_whole(root):
    """Characters that take several tokens are never broken."""

    async def body(made):
        model = await loaded(made)
        prompt = model.vocabulary.tokenize("日本語 🎉 ", control=False)
        from tieredllm.local.tokenizer import detokenizer

        text_of = detokenizer()
        parts = [text_of(model.vocabulary.bytes_of(token)) for token in prompt]
        return len(prompt), "".join(parts), parts

    tokens, text, parts = run(root, body)

    assert text == "日本語 🎉 "
    assert tokens > len(text)
    assert "" in parts
    assert "\ufffd" not in text


def test_counts_are_those_of_the_tokenizer(root):
    """The token counter counts as the model does, and estimates what is huge without delay."""

    async def body(made):
        count = await made.token_counter()
        model = await loaded(made)
        exact = {
            t: len(model.vocabulary.tokenize(t)) for t in ("", "Hello world!", "<|im_end|>", "é🎉")
        }
        huge = "The quick brown fox. " * 500_000
        started = time.perf_counter()
        estimate = count(huge)
        return {t: count(t) for t in exact}, exact, estimate, time.perf_counter() - started

    counts, exact, estimate, took = run(root, body)

    assert exact == counts
    assert counts["<|im_end|>"] > 1
    assert 2_500_000 <= estimate <= 2_900_000
    assert took < 2


@pytest.mark.parametrize("unit", ["a", " ", "1", "漢", "\U0001f389", "=", "\n"])
def test_text_without_an_end_of_word_is_tokenised(root, unit):
    """A quarter of a megabyte of one character is tokenised whole, and in good time."""

    async def body(made):
        model = await loaded(made)
        text = unit * (200_000 // len(unit.encode()))
        started = time.perf_counter()
        tokens = model.vocabulary.tokenize(text)
        took = time.perf_counter() - started
        data = b"".join(model.vocabulary.bytes_of(token) for token in tokens)
        return data.decode() == text, took

    whole, took = run(root, body)

    assert whole
    assert took < 3


def test_a_prompt_that_does_not_fit_is_refused(root):
    """Longer than the context is `context_length`, for long texts without tokenising them all."""

    async def body(made):
        errors = []
        for text in (CHATTER, CHATTER * 5000):
            started = time.perf_counter()
            with pytest.raises(FallbackTriggerError) as raised:
                await answer(made, call(user(text)))
            errors.append((raised.value.kind, time.perf_counter() - started))
        return errors

    errors = run(root, body, context_tokens=512)

    assert [kind for kind, _ in errors] == [ErrorKind.CONTEXT_LENGTH] * 2
    assert errors[1][1] < 5


def test_the_context_may_be_used_to_its_end(root):
    """Where the prompt leaves less than `max_tokens`, the answer ends with the context."""

    async def body(made):
        text = CHATTER[:2000] + "\nTell a long story about that fox, with many details."
        _, finish = await answer(made, call(user(text), max_tokens=400))
        return finish

    finish = run(root, body, context_tokens=512)

    assert finish.reason == "length"
    assert finish.usage.prompt_tokens + finish.usage.completion_tokens == 512


def test_the_context_is_at_most_what_the_model_was_trained_for(root):
    """A tier that asks for more context than the model has gets the model's."""

    async def body(made):
        return (await loaded(made)).n_ctx

    assert run(root, body, context_tokens=100_000) == 8192


def test_what_was_read_is_not_read_again(root):
    """The second question of a chat evaluates only its own tokens, not the first's."""

    async def body(made):
        long = user(CHATTER[:1200] + "\nWhat jumps?")
        text, first = await answer(made, call(long, max_tokens=4))
        model = await loaded(made)
        before = model.evaluated_tokens
        second = (long, Message("assistant", text), user("And over what?"))
        _, finish = await answer(made, call(*second, max_tokens=1))
        return (
            first.usage.prompt_tokens,
            finish.usage.prompt_tokens,
            model.evaluated_tokens - before,
        )

    first, second, evaluated = run(root, body)

    assert first > 250
    assert second > first
    assert evaluated <= second - first + 1


def test_another_conversation_starts_afresh(root):
    """Nothing of one conversation shows in the next: the answer is that of a fresh model."""

    async def body(made):
        before, _ = await answer(made, call(RAIN, max_tokens=12))
        await answer(made, call(user("Tell me about cats and dogs."), max_tokens=12))
        after, _ = await answer(made, call(RAIN, max_tokens=12))
        return before, after

    before, after = run(root, body)

    assert before == after


def test_closing_stops_while_the_answer_flows(root):
    """After the iterator is closed the next question is served at once."""

    async def body(made):
        stream = made.answer(call(user("Tell a very long story."), max_tokens=1500))
        async for _ in stream:
            break
        started = time.perf_counter()
        await stream.aclose()
        closed = time.perf_counter() - started
        await answer(made, call(RAIN, max_tokens=1))
        return closed, time.perf_counter() - started

    closed, served = run(root, body)

    assert closed < 0.1
    assert served < 3


def test_cancelling_stops_while_the_prompt_is_read(root):
    """A cancelled task ends at once, and so does the evaluation of its prompt."""

    async def body(made):
        model = await loaded(made)
        task = asyncio.create_task(answer(made, call(user(CHATTER), max_tokens=1)))
        await asyncio.sleep(0.15)
        assert not task.done()
        started = time.perf_counter()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        cancelled = time.perf_counter() - started
        while made._runner()._current is not None:
            await asyncio.sleep(0.001)
        idle = time.perf_counter() - started
        read = model.evaluated_tokens
        text, _ = await answer(made, call(RAIN, max_tokens=12))
        return cancelled, idle, read, text

    cancelled, idle, read, text = run(root, body)

    assert cancelled < 0.1
    assert idle < 0.5
    assert read < 1500
    assert "water" in text.lower() or "rain" in text.lower()


def test_loading_is_stopped_when_nobody_waits(root):
    """The last waiter's cancellation stops the loading; the next one loads anew."""
    events = []

    def prepare(go_on):
        events.append("start")
        until = time.monotonic() + (30 if len(events) == 1 else 0)
        while time.monotonic() < until:
            if not go_on():
                events.append("stopped")
                from tieredllm.local.llama_bindings import StoppedError

                raise StoppedError
            time.sleep(0.005)
        return 512, LoadSettings()

    async def main():
        runner = LlamaRunner(smollm2(), prepare=prepare)
        task = asyncio.create_task(runner.ready())
        await asyncio.sleep(0.05)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        count = (await runner.ready()).vocabulary.count("hello")
        await runner.aclose()
        return count

    assert asyncio.run(main()) == 1
    assert events == ["start", "stopped", "start"]


def test_loading_goes_on_when_it_was_asked_for_in_advance(root):
    """A warm-up is not stopped by a waiter that gives up."""
    gate = threading.Event()
    starts = []

    def prepare(go_on):
        starts.append(1)
        gate.wait(10)
        assert go_on()
        return 512, LoadSettings()

    async def main():
        runner = LlamaRunner(smollm2(), prepare=prepare)
        runner.warm_up()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(runner.ready(), 0.05)
        gate.set()
        (await runner.ready()).vocabulary.count("hello")
        await runner.aclose()

    asyncio.run(main())
    assert starts == [1]


def test_reading_the_file_can_be_stopped():
    """llama.cpp gives up a file within a tensor when it is told to."""
    from tieredllm.local.llama_bindings import Flag, StoppedError
    from tieredllm.local.model import LoadedModel

    asked = []

    def go_on():
        asked.append(1)
        return len(asked) < 3

    with pytest.raises(StoppedError):
        LoadedModel(smollm2(), n_ctx=512, settings=LoadSettings(), stop=Flag(), go_on=go_on)
    assert len(asked) == 3


def test_closing_ends_a_waiting_answer(root):
    """An answer under way when the backend is closed fails; it does not hang."""

    async def body(made):
        task = asyncio.create_task(answer(made, call(user("Tell a long story."), max_tokens=1500)))
        await loaded(made)
        await asyncio.sleep(0.1)
        await made.aclose()
        with pytest.raises(FallbackTriggerError, match="has been closed"):
            await task

    run(root, body)


def test_a_closed_backend_can_be_used_again(root):
    """After `aclose` the model is loaded anew when it is wanted."""

    async def body(made):
        await answer(made, call(RAIN, max_tokens=1))
        await made.aclose()
        return await answer(made, call(RAIN, max_tokens=2))

    assert run(root, body)[1].usage.completion_tokens == 2


def test_backends_of_one_file_share_the_model(root):
    """Two backends of the same file and context have one runner, freed with the last."""
    pool = RunnerPool()

    async def main():
        one, two, other = (backend(smollm2(), root, context_tokens=n) for n in (512, 512, 1024))
        for made in (one, two, other):
            made._pool = pool
        runners = one._runner(), two._runner(), other._runner()
        await one.aclose()
        text, _ = await answer(two, call(RAIN, max_tokens=1))
        await two.aclose()
        await other.aclose()
        return runners, text

    (first, second, third), text = asyncio.run(main())

    assert first is second
    assert third is not first
    assert text
    assert not pool._runners


def test_questions_at_the_same_time_are_all_answered(root):
    """Several questions at once are served one after the other, each with its own answer."""

    async def body(made):
        words = ["water", "fire", "cats"]
        calls = [call(user(f"Say the word {word}."), max_tokens=6) for word in words]
        alone = [(await answer(made, one))[0] for one in calls]
        together = [text for text, _ in await asyncio.gather(*(answer(made, c) for c in calls))]
        return alone, together

    alone, together = run(root, body)

    assert alone == together


def test_one_model_serves_one_event_loop_after_another(root):
    """A runner outlives the loop it was first used on."""
    made = backend(smollm2(), root)
    texts = [asyncio.run(answer(made, call(RAIN, max_tokens=4)))[0] for _ in range(2)]
    asyncio.run(made.aclose())

    assert texts[0] == texts[1]


@pytest.mark.parametrize(
    "params",
    [
        {"temperature": 0.7, "top_p": 0.9},
        {"temperature": None, "top_p": None},
        {"temperature": 1.0, "frequency_penalty": 0.5, "presence_penalty": 0.5},
    ],
)
def test_every_sampling_parameter_is_taken(root, params):
    """Each combination of parameters gives an answer."""
    import msgspec

    made = call(RAIN, max_tokens=6)
    changed = msgspec.structs.replace(made, params=msgspec.structs.replace(made.params, **params))
    text, _ = run(root, lambda backend: answer(backend, changed))

    assert text.strip()


def test_what_was_asked_is_not_penalised(root):
    """Penalties count what the model said: its first word may be one of the question."""
    plain = call(user("Repeat after me:\n" + "Hello\n" * 8), max_tokens=1)
    punished = {"frequency_penalty": 2.0, "presence_penalty": 2.0}
    hard = msgspec.structs.replace(plain, params=msgspec.structs.replace(plain.params, **punished))

    async def body(made):
        return [(await answer(made, one))[0] for one in (plain, hard)]

    assert run(root, body) == ["Hello", "Hello"]


def test_a_penalty_makes_repetition_stop(root):
    """A frequency penalty changes what greedy sampling repeats."""
    import msgspec

    async def body(made):
        plain = call(user("Repeat the word no forever: no no no no no no no no"), max_tokens=24)
        hard = msgspec.structs.replace(
            plain, params=msgspec.structs.replace(plain.params, frequency_penalty=2.0)
        )
        return [(await answer(made, one))[0] for one in (plain, hard)]

    plain, hard = run(root, body)

    def variety(text):
        words = text.split()
        return len(set(words)) / len(words)

    assert variety(hard) > variety(plain)


@pytest.mark.parametrize("architecture", ["gemma2", "gemma3"])
def test_gemma_loads_and_answers(root, tmp_path, architecture):
    """A model of Gemma's architecture, whose template knows no system role, answers."""
    path = write_gemma(tmp_path / "tiny.gguf", architecture=architecture)
    messages = (Message("system", "Be brief."), user("hello <end_of_turn>"))

    async def body(made):
        text, finish = await answer(made, call(*messages, max_tokens=6))
        model = await loaded(made)
        from tieredllm.local.template import ChatFormat

        tokens = ChatFormat(model.vocabulary).prompt(messages).tokens
        return text, finish, [model.vocabulary.token_text(token) for token in tokens]

    text, finish, tokens = run(root, body, model=path)

    assert text.strip()
    assert Finish(reason="length", usage=finish.usage) == finish
    assert tokens[:2] == ["<bos>", "<start_of_turn>"]
    assert [tokens.count(t) for t in ("<bos>", "<start_of_turn>", "<end_of_turn>")] == [1, 2, 1]
    assert finish.usage.prompt_tokens == len(tokens)


def test_a_model_without_a_template_answers(root, tmp_path):
    """A file without a chat template is asked in the form its control tokens suggest."""
    path = write_gemma(tmp_path / "bare.gguf", template=None)

    text, _ = run(root, lambda made: answer(made, call(user("hi"), max_tokens=3)), model=path)

    assert text.strip()


def test_deltas_are_never_empty(root):
    """Every delta has text, and the finish comes last and once."""

    async def body(made):
        return [chunk async for chunk in made.answer(call(RAIN, max_tokens=10))]

    chunks = run(root, body)

    assert all(chunk.text for chunk in chunks if isinstance(chunk, Delta))
    assert all(isinstance(chunk, Delta | CallPiece) for chunk in chunks[:-1])
    assert isinstance(chunks[-1], Finish)


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_values_that_are_no_numbers_are_noticed(root, tmp_path, temperature):
    """A model that computes NaN has failed, whatever token the sampler makes of that."""
    path = write_gemma(tmp_path / "damaged.gguf", damaged="▁q")
    pretend_tried(path, root)  # the trial would have noticed

    async def body(made):
        whole, _ = await answer(made, call(user("abc"), max_tokens=3))
        damaged = msgspec.structs.replace(
            call(user("a q c"), max_tokens=3),
            params=Params(temperature=temperature, max_tokens=3),
        )
        with pytest.raises(FallbackTriggerError, match="not numbers") as raised:
            await answer(made, damaged)
        return whole, raised.value.kind

    whole, kind = run(root, body, model=path)

    assert whole.strip()
    assert kind is ErrorKind.MODEL_UNAVAILABLE


def test_an_embedding_model_is_refused_before_it_is_computed(tmp_path):
    """llama.cpp loads it, and would take the process with it at the first token."""
    path = write_gemma(tmp_path / "embedding.gguf", architecture="gemma-embedding")
    code = f"""
from pathlib import Path
from tieredllm.local.ladder import LoadSettings
from tieredllm.local.llama_bindings import Flag
from tieredllm.local.model import BadFileError, LoadedModel
try:
    model = LoadedModel(Path({str(path)!r}), n_ctx=64, settings=LoadSettings(), stop=Flag(),
        go_on=lambda: True)
    model.evaluate([1, 2, 3])
except BadFileError as exc:
    print(exc.message)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert done.returncode == 0
    assert "embedding.gguf is an embedding or diffusion model" in done.stdout
