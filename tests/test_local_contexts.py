"""What a model has read is kept for the next process, privately, and never trusted blindly."""

from __future__ import annotations

import asyncio
import os
import stat

import pytest
from local_support import answer, backend, call, smollm2, user, write_gemma

from tieredllm.local import contexts as module
from tieredllm.local.contexts import MAX_BYTES, MAX_CONTEXTS, MIN_TOKENS, KeptContexts
from tieredllm.types import Message

TEXT = "The quick brown fox jumps over the lazy dog while the band plays on. " * 20
FIRST = user("the quick brown fox jumps over the lazy dog " * 10 + "what jumps")
SECOND = user("and what else")
TOKENS = list(range(1000, 1000 + 2 * MIN_TOKENS))


@pytest.fixture
def kept(tmp_path):
    """The contexts of one user, none so far."""
    return KeptContexts(tmp_path / "cache")


def files(root):
    return sorted((root / "cache" / "contexts").glob("*"))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A model whose every letter is a token."""
    return write_gemma(tmp_path_factory.mktemp("model") / "tiny.gguf")


def ask(root, model, *messages, keep=True, context_tokens=1024):
    """Ask in what might be a process of its own.

    Returns:
        The answer, the tokens of the prompt, and how many were evaluated.
    """

    async def body():
        made = backend(model, root, context_tokens=context_tokens, keep_contexts=keep)
        try:
            text, finish = await answer(made, call(*messages, max_tokens=8))
            evaluated = (await made._runner().ready()).evaluated_tokens
        finally:
            await made.aclose()
        return text, finish.usage.prompt_tokens, evaluated

    return asyncio.run(body())


def followed_up(root, model, *, keep=True, **options):
    """Ask a long question and then another in another process."""
    first, _, _ = ask(root, model, FIRST, keep=keep)
    messages = (FIRST, Message("assistant", first), SECOND)
    return ask(root, model, *messages, keep=keep, **options)


def test_a_second_process_goes_on_where_the_first_was(tmp_path):
    """The second question evaluates its own words only; the answer is the same as without."""
    model = smollm2()
    long = user(f"{TEXT}\n\nWhat jumps?")
    first, _, _ = ask(tmp_path, model, long)
    messages = (long, Message("assistant", first), user("And what plays?"))
    text, prompt, evaluated = ask(tmp_path, model, *messages)
    anew, _, whole = ask(tmp_path, model, *messages, keep=False)

    assert prompt > 300
    assert evaluated < 40
    assert whole == prompt
    assert text == anew


@pytest.mark.parametrize("context_tokens", [600, 1024])
def test_another_size_of_context_is_no_obstacle(tmp_path, tiny, context_tokens):
    """What was read in one context is taken into a larger or smaller one."""
    _, prompt, evaluated = followed_up(tmp_path, tiny, context_tokens=context_tokens)

    assert evaluated < 40 < prompt


def test_a_context_that_does_not_fit_is_left_alone(tmp_path, tiny):
    """A context larger than the one it should go into changes nothing."""
    ask(tmp_path, tiny, FIRST)
    text, _, _ = ask(tmp_path, tiny, user(FIRST.content[:270]), context_tokens=300)

    assert text


def test_a_stopped_answer_keeps_nothing(tmp_path, tiny):
    """Whoever stopped an answer does not wait for anything to be written."""

    async def body():
        made = backend(tiny, tmp_path, context_tokens=1024, keep_contexts=True)
        stream = made.answer(call(FIRST, max_tokens=500))
        async for _ in stream:
            break
        await stream.aclose()
        await made.aclose()

    asyncio.run(body())

    assert files(tmp_path) == []


def test_nothing_is_kept_of_a_short_question(tmp_path, tiny):
    """What is read again in no time is not worth a file."""
    ask(tmp_path, tiny, user("what is rain"))

    assert files(tmp_path) == []


def test_nothing_is_kept_unless_wanted(tmp_path, tiny):
    """Where nothing is logged nothing is kept."""
    ask(tmp_path, tiny, FIRST, keep=False)

    assert files(tmp_path) == []


def test_what_is_kept_is_private(tmp_path, tiny):
    """Nobody else can read it, nor see that there is something."""
    ask(tmp_path, tiny, FIRST)
    (file,) = files(tmp_path)

    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


def test_a_conversation_has_one_context(tmp_path, tiny):
    """The context of a second question takes the place of the first's."""
    followed_up(tmp_path, tiny)

    assert len(files(tmp_path)) == 1


def changed(file, at):
    data = bytearray(file.read_bytes())
    data[at] ^= 0xFF
    file.write_bytes(data)


def test_a_damaged_context_is_never_loaded(tmp_path, tiny):
    """One byte changed in the middle: everything is evaluated, and the answer is right."""
    first, _, _ = ask(tmp_path, tiny, FIRST)
    (file,) = files(tmp_path)
    changed(file, -1000)

    messages = (FIRST, Message("assistant", first), SECOND)
    text, prompt, evaluated = ask(tmp_path, tiny, *messages)
    assert evaluated == prompt
    assert (text, prompt, prompt) == ask(tmp_path / "other", tiny, *messages, keep=False)


@pytest.mark.parametrize("at", [0, 30, 520, 700, -1000, -1])
def test_one_changed_byte_is_enough(kept, tmp_path, at):
    """Wherever a byte is changed, the context is as good as none, and it is gone."""
    kept.keep("a", TOKENS, bytearray(5000))
    (file,) = files(tmp_path)
    changed(file, at)

    assert kept.find("a", [*TOKENS, 1], beyond=0) is None


@pytest.mark.parametrize("length", [0, 10, 600, 5000])
def test_a_cut_file_is_no_context(kept, tmp_path, length):
    """A file that ends too early is as good as none."""
    kept.keep("a", TOKENS, bytearray(5000))
    (file,) = files(tmp_path)
    file.write_bytes(file.read_bytes()[:length])

    assert kept.find("a", [*TOKENS, 1], beyond=0) is None


def test_another_file_has_other_contexts(tmp_path, tiny):
    """A model file that was changed is another model: what was read with it is of no use."""
    model = tmp_path / "model.gguf"
    model.write_bytes(tiny.read_bytes())
    first, _, _ = ask(tmp_path, model, FIRST)
    os.utime(model, (1, 1))

    messages = (FIRST, Message("assistant", first), SECOND)
    _, prompt, evaluated = ask(tmp_path, model, *messages)
    assert evaluated == prompt


def test_the_longest_common_beginning_is_found(kept):
    """Of several contexts, that with the most of the prompt is returned, whole."""
    other = [*TOKENS[:300], *range(300)]
    kept.keep("a", other, bytearray(b"other"))
    kept.keep("a", TOKENS, bytearray(b"right"))
    kept.keep("b", [*TOKENS, 7], bytearray(b"foreign"))

    assert kept.find("a", [*TOKENS, 7, 8], beyond=0) == (TOKENS, bytearray(b"right"))
    assert kept.find("a", [*TOKENS, 7, 8], beyond=400) is None
    assert kept.find("c", TOKENS, beyond=0) is None


def test_the_oldest_go_first(kept, tmp_path):
    """There are never more than a few; the oldest make room."""
    for number in range(MAX_CONTEXTS + 3):
        kept.keep("a", [number, *TOKENS], bytearray(b"x"))

    assert len(files(tmp_path)) == MAX_CONTEXTS
    assert kept.find("a", [0, *TOKENS], beyond=0) is None
    assert kept.find("a", [MAX_CONTEXTS + 2, *TOKENS], beyond=0) is not None


def test_all_of_them_have_a_limit(kept, tmp_path, monkeypatch):
    """Together they never take more room than is allowed."""
    monkeypatch.setattr(module, "MAX_BYTES", 1_000_000)
    for number in range(6):
        kept.keep("a", [number, *TOKENS], bytearray(300_000))
        assert sum(file.stat().st_size for file in files(tmp_path)) <= 1_000_000
    kept.keep("a", [9, *TOKENS], bytearray(1_000_001))

    assert kept.find("a", [9, *TOKENS], beyond=0) is None
    assert MAX_BYTES == 256 * 1024 * 1024


def test_what_a_killed_process_left_is_cleared_away(kept, tmp_path):
    """A file that was being written when its process died does not stay."""
    kept.keep("a", TOKENS, bytearray(b"x"))
    (tmp_path / "cache" / "contexts" / ".0123").write_bytes(b"half")
    kept.keep("a", [5, *TOKENS], bytearray(b"x"))

    assert [file.suffix for file in files(tmp_path)] == [".context"] * 2


@pytest.mark.parametrize("content", [b"", b"x" * 5000, b"tieredllm context 1\n{}", b"\xff" * 600])
def test_foreign_files_are_passed_over(kept, tmp_path, content):
    """What is not ours in the folder harms nothing."""
    kept.keep("a", TOKENS, bytearray(b"right"))
    (tmp_path / "cache" / "contexts" / "0.context").write_bytes(content)

    assert kept.find("a", [*TOKENS, 1], beyond=0) == (TOKENS, bytearray(b"right"))


def test_a_folder_that_cannot_be_written_keeps_nothing(tmp_path):
    """A cache directory that is a file is no failure."""
    (tmp_path / "cache").write_bytes(b"")
    kept = KeptContexts(tmp_path / "cache")

    kept.keep("a", TOKENS, bytearray(b"x"))
    kept.clear()
    assert kept.find("a", TOKENS, beyond=0) is None


def test_clearing_leaves_none(kept, tmp_path):
    """After `clear` nothing that was read is left."""
    kept.keep("a", TOKENS, bytearray(b"x"))
    kept.clear()

    assert files(tmp_path) == []
