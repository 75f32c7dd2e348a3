"""Test the backends against llama.cpp's own server with a real model, in both protocols."""

from __future__ import annotations

import asyncio

import pytest
from wire_support import KEY, attempt, backend, call, llama_server, smollm2_path

from tieredllm.profile.schema import Params
from tieredllm.providers.http import HttpClients
from tieredllm.types import Message

SHORT = Params(temperature=0.0, top_p=1.0, max_tokens=24)
QUESTION = (
    Message("system", "You answer in one word."),
    Message("user", "My name is Ada."),
    Message("assistant", "Hello!"),
    Message("user", "What is the capital of France?"),
)

both = pytest.mark.parametrize("vendor", ["openai", "responses", "anthropic"])


@pytest.fixture(scope="module")
def server():
    """Run the server for all tests of this file; it wants a key."""
    with llama_server(smollm2_path(), api_key=KEY) as url:
        yield url


def run(server, work, **options):
    """Do work with a backend at the server."""

    async def once():
        http = HttpClients()
        try:
            return await work(lambda vendor: backend(vendor, server, http, **options))
        finally:
            await http.aclose()

    return asyncio.run(once())


@both
def test_a_streamed_answer_comes_in_tokens_with_usage(server, vendor):
    """A real model's stream: several pieces, a finish reason and the server's counts."""

    async def work(make):
        return await attempt(make(vendor), call(*QUESTION, params=SHORT))

    outcome = run(server, work)

    assert "Paris" in outcome.text
    assert len(outcome.texts) > 1
    assert outcome.finish is not None
    assert outcome.finish.reason in ("stop", "length")
    assert outcome.finish.usage.prompt_tokens > 30
    assert 1 < outcome.finish.usage.completion_tokens <= 24
    assert "SmolLM2" in outcome.finish.model


@both
def test_a_whole_answer_is_the_streamed_one(server, vendor):
    """Greedy sampling gives the same text either way, in both protocols the same prompt."""

    async def streamed_work(make):
        return await attempt(make(vendor), call(*QUESTION, params=SHORT))

    async def whole_work(make):
        return await attempt(make(vendor), call(*QUESTION, params=SHORT, stream=False))

    # Each on a connection of its own: this server closes one after a stream, without saying so.
    streamed = run(server, streamed_work)
    whole = run(server, whole_work)

    assert streamed.text == whole.text
    assert streamed.finish.usage.prompt_tokens == whole.finish.usage.prompt_tokens


@both
@pytest.mark.parametrize("stream", [True, False])
def test_an_answer_cut_at_max_tokens_says_so(server, vendor, stream):
    """Three tokens of a long answer end with `length`."""

    async def work(make):
        params = Params(temperature=0.0, top_p=None, max_tokens=3)
        return await attempt(
            make(vendor), call("Tell me a long story.", params=params, stream=stream)
        )

    outcome = run(server, work)

    assert outcome.finish is not None
    assert outcome.finish.reason == "length"
    assert outcome.finish.usage.completion_tokens == 3


@both
@pytest.mark.parametrize("stream", [True, False])
def test_a_prompt_over_the_context_is_told(server, vendor, stream):
    """The server's own error for a prompt that is too long."""

    async def work(make):
        return await attempt(make(vendor), call("word " * 3000, params=SHORT, stream=stream))

    outcome = run(server, work)

    assert outcome.kind == "context_length"
    assert "exceeds the available context size" in outcome.error.message


@both
def test_a_wrong_key_is_rejected_by_its_variable(server, vendor):
    """The server's own 401."""

    async def work(make):
        return await attempt(make(vendor), call("Hi"))

    outcome = run(server, work, key="sk-wrong-0123456789")

    assert outcome.kind == "authentication"
    assert outcome.error.message.startswith("the key in ")


@both
def test_leaving_early_frees_the_server(server, vendor):
    """Closing the answer after its first token stops the generation: the next one is served."""

    async def work(make):
        long = call("Count to a thousand.", params=Params(temperature=0.0, max_tokens=900))
        parts = make(vendor).answer(long)
        await anext(parts)
        await parts.aclose()
        return await attempt(make(vendor), call("Hi", params=SHORT))

    assert run(server, work).finish is not None


@both
def test_probes(server, vendor):
    """The free probe lists the model; the deep one gets a token."""

    async def work(make):
        return await make(vendor).probe(), await make(vendor).probe(deep=True)

    plain, deep = run(server, work)

    assert plain.ok, plain.error
    assert deep.ok, deep.error
    assert plain.latency_ms < deep.latency_ms


def test_an_address_without_the_path_is_not_found(server):
    """A base URL that leaves `/v1` out or doubles it is told as such."""

    async def once():
        http = HttpClients()
        try:
            return await attempt(backend("openai", f"{server}/elsewhere", http))
        finally:
            await http.aclose()

    assert asyncio.run(once()).kind == "not_found"
