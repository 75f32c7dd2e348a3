"""What a chat keeps of what was said, and its files."""

from __future__ import annotations

import os

import pytest
from chat_support import FAILURE, answer

from tieredllm.chat import transcript
from tieredllm.chat.conversation import Dialogue, Turn
from tieredllm.errors import TieredLLMError, UsageError
from tieredllm.types import Attachment, Prompt


def test_a_dialogue_keeps_what_models_said():
    """Complete answers are turns, with their attached text; rule answers and failures are not."""
    dialogue = Dialogue("be kind")
    attached = Prompt(question="Sum up", attachments=(Attachment(text="long text\n", name="a"),))
    dialogue.add(attached, answer())
    dialogue.add(Prompt(question="x"), answer("a2", provider="rules", tier="rules"))
    dialogue.add(Prompt(question="y"), answer("a3", text=None, tier=None, error=FAILURE))

    assert dialogue.turns == [
        Turn(
            asked="Sum up",
            attachments=(Attachment(name="a", text="long text\n"),),
            answered="Fine.",
            request_id="a1",
        )
    ]
    assert [message.role for message in dialogue.messages] == ["user", "assistant"]
    assert dialogue.take_back().request_id == "a1"
    assert dialogue.take_back() is None


def test_a_transcript_comes_back(tmp_path):
    """What is saved as JSON is loaded again; as Markdown it is for reading."""
    dialogue = Dialogue("be kind")
    dialogue.turns = [
        Turn(asked="Why?\nReally?", answered="# So\n\nBecause \x1b[31mred\ud800 ünï."),
        Turn(asked="And?", answered="Then."),
    ]
    transcript.save(dialogue, tmp_path / "talk.json")
    transcript.save(dialogue, tmp_path / "talk.md")
    loaded = transcript.load(tmp_path / "talk.json")

    assert loaded.system == "be kind"
    assert [turn.asked for turn in loaded.turns] == ["Why?\nReally?", "And?"]
    assert loaded.turns[0].answered == "# So\n\nBecause \x1b[31mred? ünï."
    assert (
        (tmp_path / "talk.md")
        .read_text()
        .startswith("*System: be kind*\n\n> Why?\n> Really?\n\n# So")
    )
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["talk.json", "talk.md"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "No such file"),
        ("# text", "is no conversation saved as JSON"),
        ('{"role": "user"}', "is no conversation saved as JSON"),
        ('[{"role": "boss", "content": "x"}]', "is no conversation saved as JSON"),
        ('[{"role": "user", "content": "x"}]', "message 1:"),
        ('[{"role": "assistant", "content": "x"}]', "message 1:"),
        (
            '[{"role": "user", "content": "x"}, {"role": "user", "content": "y"}]',
            "but `user` follows",
        ),
    ],
)
def test_what_is_no_transcript_is_refused(tmp_path, content, said):
    """A file that cannot be gone on from is told, with what is wrong."""
    path = tmp_path / "x.json"
    if content is not None:
        path.write_text(content)

    with pytest.raises(UsageError, match=said):
        transcript.load(path)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no FIFOs")
def test_a_pipe_is_no_transcript(tmp_path):
    """`/load` of a pipe nobody writes to waits for nothing."""
    os.mkfifo(tmp_path / "pipe")

    with pytest.raises(UsageError, match=r"cannot read .*: this is a pipe"):
        transcript.load(tmp_path / "pipe")


def test_a_transcript_that_cannot_be_written(tmp_path):
    """A file that cannot be written is one line, and leaves nothing behind."""
    with pytest.raises(TieredLLMError, match=r"cannot write .*No such file or directory"):
        transcript.save(Dialogue(), tmp_path / "none" / "x.json")


def test_what_no_encoding_takes_stays_out():
    """A lone surrogate in an answer is replaced before it is sent again."""
    dialogue = Dialogue()
    dialogue.add(Prompt(question="x"), answer(text="a\ud800b"))

    assert dialogue.turns[0].answered == "a?b"
