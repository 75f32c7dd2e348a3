"""What the minimal tier makes of conversations and long questions, with a real small model."""

from __future__ import annotations

import pytest
from local_support import places, pretend_tried, smollm2

from tieredllm.client import FallbackManager
from tieredllm.profile.schema import Params, Profile, Tier
from tieredllm.types import Attachment, Message, Prompt

LONG_QUESTION = (
    "I am planning a long journey by train this summer, and I have taken some notes.\n\n"
    + "\n".join(
        f"Day {day}: breakfast at the hotel, then a walk through the old town, a visit to the "
        "museum beside the station, and in the evening a quiet dinner near the river."
        for day in range(1, 9)
    )
    + "\n\nWhat is the capital of France?"
)
"""About 300 tokens, with the point in the last line."""


@pytest.fixture
def ask(tmp_path):
    """Give a function that asks the small model through the minimal policy, greedily."""
    pretend_tried(smollm2(), tmp_path)
    tier = Tier(
        name="minimal",
        provider="llama_cpp",
        model=str(smollm2()),
        prompt="minimal",
        context_tokens=2048,
        params=Params(temperature=0.0, max_tokens=32),
        first_token_timeout_s=90.0,
    )
    profile = Profile(name="t", tiers=(tier,), deadline_s=100.0)

    def asked(prompt):
        manager = FallbackManager(profile, places=places(tmp_path), persist=False)
        return manager.ask(prompt)

    return asked


def test_a_conversation_is_remembered(ask):
    """What was said a turn before is known in the next."""
    history = (
        Message("user", "My name is Bartholomew."),
        Message("assistant", "Nice to meet you, Bartholomew!"),
    )
    answer = ask(Prompt(question="What is my name?", history=history))

    assert "Bartholomew" in answer.text
    assert answer.left_out is None


def test_a_long_question_is_answered_to_its_last_line(ask):
    """A question of some 300 tokens is not cut: its last line is answered."""
    answer = ask(LONG_QUESTION)

    assert answer.usage.prompt_tokens > 300
    assert "Paris" in answer.text


def test_a_document_is_known_in_later_questions(ask):
    """A text that was attached to the first question is sent with the next one too."""
    attached = Attachment(name="note.txt", text="The password is swordfish.\n" * 40)
    first = Prompt(question="Is there a password?", attachments=(attached,))
    history = (
        Message("user", first.question, attachments=first.attachments),
        Message("assistant", "Yes."),
    )
    answer = ask(Prompt(question="Which one?", history=history))

    assert answer.usage.prompt_tokens > 200
    assert "swordfish" in answer.text.lower()
