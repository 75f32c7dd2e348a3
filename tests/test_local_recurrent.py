"""Models that carry a state from token to token go on in a conversation, too.

Their cache cannot be cut, so without a snapshot each turn would be evaluated from the start.
"""

from __future__ import annotations

import asyncio

import pytest
from local_support import answer, backend, call, user, write_recurrent

from tieredllm.types import Message

LONG = "the quick brown fox jumps over the lazy dog " * 10


@pytest.fixture(scope="module", params=["mamba", "lfm2"])
def model(request, tmp_path_factory):
    return write_recurrent(tmp_path_factory.mktemp("models") / "tiny.gguf", request.param)


def talk(root, model, *conversations, keep=False):
    """Have conversations with one loaded model.

    Returns:
        Of each the answer, the tokens of its prompt and how many of these were evaluated.
    """

    async def body():
        made = backend(model, root, context_tokens=1024, keep_contexts=keep)
        found = []
        try:
            loaded = await made._runner().ready()
            for messages in conversations:
                before = loaded.evaluated_tokens
                text, finish = await answer(made, call(*messages, max_tokens=8))
                read = loaded.evaluated_tokens - before
                found.append((text, finish.usage.prompt_tokens, read))
        finally:
            await made.aclose()
        return found

    return asyncio.run(body())


def after(messages, text, question):
    """Go on with a conversation, as if the answer had been this text."""
    return [*messages, Message("assistant", text), user(question)]


def test_the_next_turn_evaluates_its_own_words_only(tmp_path, model):
    """Another answer in the history than the model gave: what came before it is not read again."""
    first = [user(LONG + "what jumps")]
    second = after(first, "another answer", "and over what")
    third = after(second, "a third one", "and why")
    turns = talk(tmp_path, model, first, second, third)
    anew = [talk(tmp_path, model, messages)[0] for messages in (first, second, third)]

    assert [text for text, _, _ in turns] == [text for text, _, _ in anew]
    assert [read < 60 for _, _, read in turns] == [False, True, True]
    assert all(prompt > 300 and prompt == read for _, prompt, read in anew)


def test_an_earlier_turn_can_be_asked_otherwise(tmp_path, model):
    """Going back to an earlier turn goes back to its snapshot, and the answer is right."""
    first = [user(LONG + "what jumps")]
    second = after(first, "a fox", "and over what")
    other = after(first, "a dog", "and under what")
    *_, (text, _, read) = talk(tmp_path, model, first, second, other)

    assert read < 60
    assert [text] == [t for t, _, _ in talk(tmp_path, model, other)]


def test_another_conversation_starts_afresh(tmp_path, model):
    """Nothing of one conversation shows in an unlike one, nor when the first comes back."""
    one, other = [user(LONG + "what jumps")], [user("something else " + LONG)]
    turns = talk(tmp_path, model, one, other, one)

    assert turns[0][0] == turns[2][0]
    assert [turns[1][0]] == [text for text, _, _ in talk(tmp_path, model, other)]


def test_another_process_goes_on_there(tmp_path, model):
    """What is kept for the next process is what the next turn begins with."""
    first = [user(LONG + "what jumps")]
    second = after(first, "another answer", "and over what")
    talk(tmp_path, model, first, keep=True)
    ((text, _, read),) = talk(tmp_path, model, second, keep=True)

    assert read < 60
    assert [text] == [t for t, _, _ in talk(tmp_path, model, second)]
