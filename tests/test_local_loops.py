"""An answer that goes in circles is stopped, and what only looks like one is not."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from local_support import answer, backend, call, smollm2, user
from wire_support import gemma3_path

from tieredllm.local.generate import LOOP_TOKENS, Job, LoopDetector
from tieredllm.local.generate import answer as generate
from tieredllm.local.template import ChatPrompt

DOCUMENTS = sorted(Path(__file__).parents[1].glob("*.md"))
SENTENCE = "The cat sat on the mat and looked at the moon. "
ITEM = '{"name": "John Smith", "age": 30, "city": "New York"},\n'
TRUE_TO_LIFE = {
    "a list": "".join(f"- Item {n}: buy milk, bread and butter.\n" for n in range(40)),
    "a table": "| day | open | closed |\n|---|---|---|\n"
    + "".join(f"| {n} | yes | no |\n" for n in range(1, 32)),
    "equal rows": "| x | yes | no |\n" * 12,
    "a matrix": "[0, 0, 0, 0, 0, 0, 0, 0],\n" * 8,
    "placeholders": f"[\n{ITEM * 6}]\n",
    "closing tags": "</div>\n" * 30,
    "a rule": "=" * 400,
    "a count": ", ".join(str(n) for n in range(200)),
    "a refrain": "Row, row, row your boat, gently down the stream.\n"
    "Merrily, merrily, merrily, merrily, life is but a dream.\n" * 3,
    "laughter": "Ha ha ha ha ha ha ha ha ha ha ha ha, " + "very funny! " * 5,
    "code": "def f(x):\n    return x\n\n\n" * 5,
}


class Told:
    """A model that says what it is told to, token by token of the real vocabulary."""

    def __init__(self, vocabulary, text):
        self.vocabulary = vocabulary
        self.n_ctx = 100_000
        self._tokens = vocabulary.tokenize(text)

    def evaluate(self, prompt, **_):
        pass

    def sample(self, limit, params):
        yield from self._tokens[:limit]


class Plain:
    """A chat format of no interest."""

    stop = ()
    problem = None

    def prompt(self, messages):
        return ChatPrompt(tokens=[1], lasting=0)


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    """The real small model's vocabulary."""
    made = backend(smollm2(), tmp_path_factory.mktemp("loops"))
    loop = asyncio.new_event_loop()
    yield loop.run_until_complete(made._runner().ready()).vocabulary
    loop.run_until_complete(made.aclose())
    loop.close()


def said(vocabulary, text, *, limit=4000):
    """Let the generator hear a text; give the pieces it posted, and the end."""
    pieces = []
    job = Job([user("x")], call(user("x"), max_tokens=limit).params, pieces.append)
    end = generate(Told(vocabulary, text), Plain(), job)
    return pieces, end


@pytest.mark.parametrize("sentence", [SENTENCE, "I like tea. ", "今日はとても天気がいいです。"])
@pytest.mark.parametrize("before", ["", "Here is a story for you:\n\n"])
def test_a_loop_is_cut_to_its_first_round(vocabulary, sentence, before):
    """A sentence said over and over is stopped and comes out once, well before the limit."""
    pieces, end = said(vocabulary, before + sentence * 200)

    assert end.reason == "repetition"
    assert (before + sentence).strip() == "".join(pieces).strip()
    assert end.completion_tokens < 2 * LOOP_TOKENS


def test_a_loop_of_paragraphs_is_found(vocabulary):
    """Rounds of 60 tokens are as much a loop as those of five."""
    paragraph = (
        "Rain is water that falls from clouds. It forms when vapour cools and gathers into drops, "
        "and it feeds rivers, lakes and fields. People have always watched the sky for it, and "
        "many songs were written about the sound it makes on a roof.\n\n"
    )
    pieces, end = said(vocabulary, paragraph * 20)

    assert end.reason == "repetition"
    assert paragraph.strip() == "".join(pieces).strip()


@pytest.mark.parametrize("name", TRUE_TO_LIFE)
def test_lists_tables_and_code_are_no_loops(vocabulary, name):
    """What people write with good reason comes out whole, to the letter."""
    text = TRUE_TO_LIFE[name]
    pieces, end = said(vocabulary, text)

    assert end.reason == "stop"
    assert text == "".join(pieces)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.name)
def test_real_documents_are_no_loops(vocabulary, path):
    """The project's own documents, their tables, lists and code, come out whole."""
    text = path.read_text(encoding="utf-8")[:60_000]
    pieces, end = said(vocabulary, text, limit=50_000)

    assert end.reason == "stop"
    assert text == "".join(pieces)


def test_the_projects_code_is_no_loop(vocabulary):
    """Nor is Python: the modules of the local tier come out whole."""
    for path in sorted(Path(__file__).parents[1].glob("tieredllm/local/*.py")):
        text = path.read_text(encoding="utf-8")
        pieces, end = said(vocabulary, text, limit=50_000)

        assert (end.reason, "".join(pieces)) == ("stop", text), path


def test_every_token_gives_a_sign_of_life(vocabulary):
    """While repeated text is held back, empty pieces show that the model is at work."""
    pieces, end = said(vocabulary, SENTENCE * 200)

    assert len(pieces) == end.completion_tokens


def test_ordinary_text_is_hardly_held_back(vocabulary):
    """In prose, nine of ten tokens come out within four of being made."""
    text = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    detector = LoopDetector()

    tokens = vocabulary.tokenize(text)
    held = sorted(detector.feed(vocabulary.bytes_of(token)) for token in tokens)
    assert held[len(held) * 9 // 10] <= 4


def test_a_real_model_that_loops_is_stopped(tmp_path):
    """Gemma's base model, which does not know when to stop, is stopped; the answer says why."""

    async def body():
        made = backend(gemma3_path(), tmp_path)
        try:
            return await answer(made, call(user("Tell me about the sea."), max_tokens=1500))
        finally:
            await made.aclose()

    text, finish = asyncio.run(body())

    assert finish.reason == "repetition"
    assert finish.usage.completion_tokens < 1500
    assert text.strip()
