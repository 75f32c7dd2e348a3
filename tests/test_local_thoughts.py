"""A local model's thoughts are told from its answer, whatever its template makes of them."""

from __future__ import annotations

import asyncio

import pytest
from local_support import backend, call, smollm2, user
from test_local_loops import Plain, Told

from tieredllm.errors import FallbackTriggerError
from tieredllm.local.generate import End, Job
from tieredllm.local.generate import answer as generate
from tieredllm.local.template import ChatFormat, ChatPrompt
from tieredllm.local.tokenizer import CONTROL, NativeVocabulary
from tieredllm.providers.base import Delta, Finish, Retraction, ThoughtDelta
from tieredllm.thoughts import Split


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    """The real small model's vocabulary."""
    made = backend(smollm2(), tmp_path_factory.mktemp("thoughts"))
    loop = asyncio.new_event_loop()
    yield loop.run_until_complete(made._runner().ready()).vocabulary
    loop.run_until_complete(made.aclose())
    loop.close()


class Opening(Plain):
    """A chat format whose template opens a block of thoughts."""

    def prompt(self, messages):
        return ChatPrompt(tokens=[1], lasting=0, opened="<think>")


def said(vocabulary, text, *, chat=None, limit=4000, room=100_000, stop=()):
    """Let the generator hear a text; give the thoughts, the text and the end."""
    items = []
    job = Job([user("x")], call(user("x"), max_tokens=limit, stop=stop).params, items.append)
    model = Told(vocabulary, text)
    model.n_ctx = room
    end = generate(model, chat or Plain(), job)
    thought = spoken = ""
    for item in items:
        split = Split(item) if isinstance(item, str) else item
        if split.unsaid:
            thought, spoken = thought + spoken, ""
        thought, spoken = thought + split.thought, spoken + split.text
    return thought, spoken, end


TALK = "Okay, the user asks why.", "The sky is blue."


def test_a_block_that_the_model_opens(vocabulary):
    """R1-0528, Kimi K2 and their kin open the block themselves."""
    thought, text, end = said(vocabulary, f"<think>\n{TALK[0]}\n</think>\n\n{TALK[1]}")

    assert (thought.strip(), text) == TALK
    assert end.reason == "stop"


def test_a_block_that_the_template_opens(vocabulary):
    """R1 and ten others begin their answer inside a block, also when asked not to think."""
    thought, text, _ = said(vocabulary, f"{TALK[0]}\n</think>\n\n{TALK[1]}", chat=Opening())

    assert (thought.strip(), text) == TALK


def test_harmony_channels(vocabulary):
    """gpt-oss's messages are thoughts, and the last of them the answer."""
    told = f"<|channel|>analysis<|message|>{TALK[0]}<|end|><|start|>assistant"
    thought, text, _ = said(vocabulary, f"{told}<|channel|>final<|message|>{TALK[1]}")

    assert (thought, text) == TALK


@pytest.mark.parametrize("stop", ["\n\n", "why", "sky is"])
def test_a_stop_text_ends_the_answer_and_no_thoughts(vocabulary, stop):
    """In thoughts, and between them and the answer, it is nothing that was asked to end it."""
    written = f"<think>\n{TALK[0]}\n\n</think>\n\n{TALK[1]}\n\nMore."
    thought, text, end = said(vocabulary, written, stop=(stop,))
    told = said(vocabulary, written.removeprefix("<think>"), chat=Opening(), stop=(stop,))

    assert thought.strip() == TALK[0]
    assert text == {"\n\n": TALK[1], "sky is": "The "}.get(stop, f"{TALK[1]}\n\nMore.")
    assert end.reason == "stop"
    assert (thought, text) == told[:2]


def test_thoughts_do_not_count_as_answer(vocabulary):
    """The limit of tokens is that of the answer: a model that thinks is not cut before it."""
    thought, text, end = said(
        vocabulary, f"<think>{'Hm, let me see. ' * 3}{'so ' * 3}</think>One two three.", limit=2
    )

    assert thought.startswith("Hm, let me see.")
    assert text == "One two"
    assert end.reason == "length"


def test_thoughts_end_with_the_context(vocabulary):
    """Thoughts that fill the context are cut, and no answer."""
    thought, text, end = said(vocabulary, f"<think>{TALK[0]}", room=6)

    assert thought
    assert TALK[0].startswith(thought)
    assert text == ""
    assert end.reason == "length"


class Runner:
    """A runner that posts what it is told to."""

    def __init__(self, *items):
        self._items = items

    async def generate(self, messages, params):
        for item in self._items:
            yield item


def answered(tmp_path, *items):
    """Give what the backend makes of a runner's items, and the error it ends with."""
    made = backend(smollm2(), tmp_path)
    made._runner = lambda: Runner(*items)

    async def run():
        chunks = []
        try:
            async for chunk in made.answer(call(user("x"))):
                chunks.append(chunk)
        except FallbackTriggerError as exc:
            return chunks, exc
        return chunks, None

    return asyncio.run(run())


def end(reason="stop"):
    return End(reason=reason, prompt_tokens=1, completion_tokens=1)


def test_the_backend_tells_thoughts_apart(tmp_path):
    """Thoughts, what turned out to be thoughts, and the answer are chunks of their own."""
    chunks, error = answered(
        tmp_path, "Hm", Split(thought=".", unsaid=True), Split("Yes", "so"), ".", end()
    )

    assert error is None
    assert chunks[:-1] == [
        Delta("Hm"),
        Retraction(),
        ThoughtDelta("."),
        ThoughtDelta("so"),
        Delta("Yes"),
        Delta("."),
    ]
    assert isinstance(chunks[-1], Finish)


@pytest.mark.parametrize("reason", ["stop", "length"])
@pytest.mark.parametrize("items", [(Split(thought="Hm"),), ("Hm", Split(unsaid=True))])
def test_nothing_but_thoughts_is_empty(tmp_path, reason, items):
    """A model that only thinks has not answered; the error says if it was cut."""
    _, error = answered(tmp_path, *items, end(reason))

    assert error.kind == "empty_response"
    assert error.truncated == (reason == "length")


class Native:
    """llama.cpp with a vocabulary of one control token."""

    def __init__(self, text):
        self._text = text

    def llama_model_get_vocab(self, model):
        return model

    def llama_token_to_piece(self, *_):
        return 0

    def llama_vocab_get_attr(self, vocab, token):
        return CONTROL

    def llama_vocab_get_text(self, vocab, token):
        return self._text


@pytest.mark.parametrize(
    ("text", "written"), [(b"[THINK]", b"[THINK]"), (b"<channel|>", b"<channel|>"), (b"</s>", b"")]
)
def test_marks_of_thoughts_are_seen_though_they_are_control_tokens(text, written):
    """Magistral's marks are control tokens, which are invisible; these are written out."""
    assert NativeVocabulary(Native(text), None).bytes_of(7) == written


@pytest.mark.parametrize(
    ("tail", "opened"),
    [
        ("<|im_start|>assistant\n<think>\n", "<think>"),  # QwQ, R1, Qwen3-Next thinking
        ("[|assistant|]<thought>\n", "<thought>"),  # EXAONE Deep
        ("<|im_start|>assistant\n<think>\n\n</think>\n\n", None),  # Qwen 3 asked not to
        ("<|im_start|>assistant\n", None),
    ],
)
def test_a_template_is_seen_to_open_a_block(vocabulary, tail, opened):
    """What a template ends with tells where the answer begins; what a person writes does not."""

    class Templated:
        chat_template = (
            "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
            "{% endfor %}" + tail.replace("\n", "{{ '\\n' }}")
        )

        def __getattr__(self, name):
            return getattr(vocabulary, name)

    prompt = ChatFormat(Templated()).prompt([user("What is <think>\n")])

    assert prompt.opened == opened
