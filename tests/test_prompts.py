"""Prompt policies, and cutting to a tier's context."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tieredllm.prompts.fit import cut, estimate_tokens, fair_shares
from tieredllm.prompts.policies import ContextTooSmallError, compose, prompt_from_messages
from tieredllm.types import Attachment, Message, Prompt


def words(text: str) -> int:
    """Count words: a tokenizer whose results a person can check."""
    return len(text.split())


def composed(prompt: Prompt, policy: str, budget: int = 10_000, count=estimate_tokens):
    return compose(prompt, policy=policy, budget_tokens=budget, count=count)


HISTORY = (
    Message("user", "one"),
    Message("assistant", "two"),
    Message("user", "three"),
    Message("assistant", "four"),
)


def test_full_sends_everything_unchanged():
    """The full policy sends the system prompt, all turns and the question as they are."""
    prompt = Prompt(question="five?", system="be kind", history=HISTORY)

    assert composed(prompt, "full").messages == (
        Message("system", "be kind"),
        *HISTORY,
        Message("user", "five?"),
    )


def test_piped_text_comes_first_and_a_blank_line_after():
    """Piped text joins the prompt: the text, a blank line, the question."""
    prompt = Prompt(question="what?", attachments=(Attachment(text="a\nb\n"),))

    assert composed(prompt, "full").messages[-1].content == "a\nb\n\nwhat?"


def test_files_are_named():
    """A file's text is preceded by its name."""
    prompt = Prompt(question="what?", attachments=(Attachment(text="x\n", name="a.txt"),))

    assert composed(prompt, "full").messages[-1].content == "[file: a.txt]\nx\n\nwhat?"


def test_simplified_keeps_the_last_four_messages():
    """The simplified policy keeps four messages, and wraps the last in its request."""
    prompt = Prompt(question="five?", system="be kind", history=HISTORY)
    messages = composed(prompt, "simplified").messages

    assert messages[:4] == (Message("system", "be kind"), *HISTORY[1:])
    assert messages[4].content.startswith("Please answer the following concisely")
    assert "\n\nfive?\n\n" in messages[4].content


def test_minimal_sends_the_question_alone():
    """The minimal policy sends one message: the question and a request to be brief."""
    prompt = Prompt(question="five?", system="be kind", history=HISTORY)
    (message,) = composed(prompt, "minimal").messages

    assert message.role == "user"
    assert message.content.startswith("Question: five?\n\n")
    assert "brief" in message.content


def test_minimal_reduces_a_long_question_to_its_first_paragraph():
    """A question of over 200 tokens is reduced to its first paragraph, a shorter one is not."""
    short = "First.\n\nSecond."
    long = "First one.\n\n" + "word " * 300
    assert "Second." in composed(Prompt(question=short), "minimal").messages[0].content

    content = composed(Prompt(question=long), "minimal").messages[0].content
    assert content.startswith("Question: First one.\n\nGive")


@pytest.mark.parametrize("gap", ["\r\n\r\n", "\n \t\n"])
def test_minimal_knows_every_blank_line(gap):
    """A paragraph ends at a blank line however it was written."""
    prompt = Prompt(question=f"First one.{gap}" + "word " * 300)

    content = composed(prompt, "minimal").messages[0].content
    assert content.startswith("Question: First one.\n\nGive")


@pytest.mark.parametrize("policy", ["full", "simplified", "minimal"])
def test_long_text_is_cut_and_the_cut_is_named(policy):
    """Head and tail of a long text stay, what is left out is said, the question stays whole."""
    text = "\n".join(f"line {number}" for number in range(20_000))
    prompt = Prompt(question="what is in line 3?", attachments=(Attachment(text=text),))
    outcome = composed(prompt, policy, budget=2000)
    content = outcome.messages[-1].content

    assert content.startswith("line 0\n")
    assert "line 19999" in content
    assert "characters left out here" in content
    assert "what is in line 3?" in content
    assert estimate_tokens(content) <= 2000
    assert estimate_tokens(content) > 1500
    assert outcome.notices == ("the piped text is cut to fit",)


def test_text_alone_is_cut_too():
    """Text without a question is cut, and is the question of the minimal policy."""
    prompt = Prompt(question="", attachments=(Attachment(text="why " * 100_000),))
    content = composed(prompt, "minimal", budget=1000).messages[-1].content

    assert content.startswith("Question: why why")
    assert estimate_tokens(content) <= 1000


def test_small_files_stay_whole_beside_a_large_one():
    """Each text gets its share: a small one is never cut for a large one's sake."""
    small = Attachment(text="small " * 20, name="small")
    large = Attachment(text="large " * 50_000, name="large")
    outcome = composed(Prompt(question="?", attachments=(large, small)), "full", budget=1500)

    assert small.text.rstrip("\n") in outcome.messages[-1].content
    assert outcome.notices == ("large is cut to fit",)


def test_oldest_turns_are_left_out_first():
    """Turns that do not fit are left out from the oldest on, and that is said."""
    history = tuple(Message("user", "word " * 100) for _ in range(20))
    outcome = composed(Prompt(question="now?", history=history), "full", budget=500, count=words)

    assert 1 < len(outcome.messages) < 6
    assert outcome.notices == (f"the oldest {21 - len(outcome.messages)} messages are left out",)


def test_question_is_never_cut():
    """A question that does not fit is refused, not cut."""
    with pytest.raises(ContextTooSmallError):
        composed(Prompt(question="word " * 3000), "full", budget=1000)


def test_no_room_at_all_is_refused():
    """A tier whose answer needs its whole context can take no question."""
    with pytest.raises(ContextTooSmallError):
        composed(Prompt(question="a"), "full", budget=0)


def test_megabytes_are_not_tokenized():
    """Cutting a huge text does not count all of it."""
    counted = 0

    def count(text: str) -> int:
        nonlocal counted
        counted += len(text)
        return estimate_tokens(text)

    prompt = Prompt(question="?", attachments=(Attachment(text="x" * 10_000_000),))
    composed(prompt, "full", budget=3000, count=count)

    assert counted < 1_000_000


@given(
    text=st.text(max_size=3000),
    budget=st.integers(0, 400),
)
def test_cut_keeps_to_its_budget(text, budget):
    """Whatever the text and the budget, the outcome fits, and a text that fits is unchanged."""
    outcome = cut(text, budget, estimate_tokens)

    assert estimate_tokens(outcome) <= budget
    if estimate_tokens(text) <= budget:
        assert outcome == text


@given(st.lists(st.integers(0, 1000), max_size=8), st.integers(0, 3000))
def test_fair_shares_are_fair(sizes, budget):
    """Shares never exceed a size or the budget, and nothing is held back that is wanted."""
    shares = fair_shares(sizes, budget)

    assert all(share <= size for share, size in zip(shares, sizes, strict=True))
    assert sum(shares) <= budget
    if sum(sizes) <= budget:
        assert shares == sizes


def test_prompt_from_messages():
    """Chat messages become a prompt: the last one the question, system messages joined."""
    prompt = prompt_from_messages(
        [
            {"role": "system", "content": "a"},
            {"role": "user", "content": "one"},
            {"role": "assistant", "content": "two"},
            {"role": "system", "content": "b"},
            {"role": "user", "content": "three"},
        ]
    )

    assert prompt == Prompt(
        question="three",
        system="a\n\nb",
        history=(Message("user", "one"), Message("assistant", "two")),
    )


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [{"role": "assistant", "content": "x"}],
        [{"role": "tool", "content": "x"}],
        [{"role": "user", "content": None}],
        [{"content": "x"}],
    ],
)
def test_messages_of_another_shape_are_refused(messages):
    """A list that is no conversation ending with the user is refused."""
    with pytest.raises(ValueError, match="message"):
        prompt_from_messages(messages)
