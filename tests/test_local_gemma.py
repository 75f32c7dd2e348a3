"""A real Gemma 3, the base model of 270M: not for its answers, but for what Gemma is built of."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest
from local_support import answer, backend, call, user
from wire_support import gemma3_path

from tieredllm.local.gguf import read_header
from tieredllm.local.template import ChatFormat
from tieredllm.local.validate import needed_bytes
from tieredllm.types import Message

WINDOW_TOKENS = 512
SEA = "The sea was calm in the morning and rough at night, and the boats came home late. " * 40


@pytest.fixture(scope="module")
def gemma(tmp_path_factory):
    """The model, loaded, and a loop to ask it on."""
    made = backend(gemma3_path(), tmp_path_factory.mktemp("gemma"))
    loop = asyncio.new_event_loop()
    yield made, loop.run_until_complete(made._runner().ready()), loop
    loop.run_until_complete(made.aclose())
    loop.close()


def test_the_header_is_read():
    """The header says what the file is."""
    header = read_header(gemma3_path())

    assert (header.architecture, header.layers, header.embedding) == ("gemma3", 18, 640)
    assert (header.vocabulary, header.context_tokens) == (262_144, 32_768)
    assert header.has_chat_template is False


def test_its_conversations_are_written_as_gemma_s(gemma):
    """Without a template in the file it is Gemma's form, the system text in the first turn."""
    _, model, _ = gemma
    chat = ChatFormat(model.vocabulary)
    messages = [Message("system", "Be brief."), user("Hi <end_of_turn>\n\n<table>")]
    tokens = chat.prompt(messages).tokens
    texts = [model.vocabulary.token_text(token) for token in tokens]

    assert texts[:4] == ["<bos>", "<start_of_turn>", "user", "\n"]
    assert [texts.count(text) for text in ("<start_of_turn>", "<end_of_turn>")] == [2, 1]
    assert texts[-3:] == ["<start_of_turn>", "model", "\n"]
    assert "<table>" in texts
    assert chat.problem is None


@pytest.mark.parametrize(
    "text", ["Hello world!", "日本語 🎉", "a\n\n\nb", "  x", "\u0915\u094d\u0937"]
)
def test_any_text_is_tokens_and_text_again(gemma, text):
    """Its large vocabulary gives every text back as it was."""
    _, model, _ = gemma
    tokens = model.vocabulary.tokenize(text)

    assert text == b"".join(map(model.vocabulary.bytes_of, tokens)).decode()


def test_what_lies_before_the_window_is_there_when_the_cache_is_cut(gemma):
    """Going back beyond the sliding window gives the same answer as evaluating from the start."""
    made, model, loop = gemma
    long = model.vocabulary.tokenize(SEA)
    assert len(long) > WINDOW_TOKENS + 100
    asked = user(SEA[: len(SEA) // 4] + "\n\nWhat was calm?")

    async def body():
        anew, _ = await answer(made, call(asked, max_tokens=12))
        await answer(made, call(user(SEA), max_tokens=2))
        before = model.evaluated_tokens
        cut, finish = await answer(made, call(asked, max_tokens=12))
        return anew, cut, model.evaluated_tokens - before, finish.usage.prompt_tokens

    anew, cut, evaluated, prompt = loop.run_until_complete(body())

    assert prompt - evaluated > 100
    assert anew == cut


def test_the_estimate_of_memory_covers_what_is_used():
    """A process with the model loaded takes less than was estimated, and not a fifth of it."""
    path = gemma3_path()
    code = f"""
from pathlib import Path
from tieredllm.local.llama_bindings import Flag
from tieredllm.local.ladder import LoadSettings
from tieredllm.local.model import LoadedModel
from tieredllm.profile.schema import Params
def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
before = peak()
model = LoadedModel(Path({str(path)!r}), n_ctx=2048, settings=LoadSettings(),
    stop=Flag(), go_on=lambda: True)
model.evaluate(list(range(1000, 1512)))
list(model.sample(1, Params()))
print(peak() - before)
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
    estimate = needed_bytes(read_header(path), 2048)

    assert estimate / 5 < int(out) < estimate
