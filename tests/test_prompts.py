"""Prompt policies, and cutting to a tier's context."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tieredllm.prompts.fit import cut, estimate_tokens, fair_shares
from tieredllm.prompts.policies import ContextTooSmallError, compose, prompt_from_messages
from tieredllm.types import Attachment, Message, Prompt, ToolCall


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


@pytest.mark.parametrize("policy", ["simplified", "minimal"])
def test_simplification_drops_nothing_that_fits(policy):
    """The lower policies send the system prompt and all turns; only the question is reworded."""
    prompt = Prompt(question="five?", system="be kind", history=HISTORY)
    messages = composed(prompt, policy).messages

    assert messages[:5] == (Message("system", "be kind"), *HISTORY)
    assert "five?" in messages[5].content
    assert messages[5].content != "five?"


@pytest.mark.parametrize("policy", ["full", "simplified", "minimal"])
def test_a_long_question_is_whole_on_every_tier(policy):
    """A question of many paragraphs reaches each policy to its last line."""
    question = "I have this table:\n\n" + "word " * 300 + "\n\nWhich is largest?"

    assert question in composed(Prompt(question=question), policy).messages[0].content


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

    assert content.startswith("why why")
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


TOOL_TURNS = (
    Message("user", "count"),
    Message("assistant", "", calls=(ToolCall(id="c1", name="count", arguments="{}"),)),
    Message("tool", "7", call_id="c1", name="count"),
)


def test_history_is_cut_where_the_user_speaks():
    """What is left of a history begins with a user's turn; calls and results stay together."""
    prompt = Prompt(question="so?", history=(*TOOL_TURNS, Message("assistant", "seven"), *HISTORY))
    messages = [
        composed(prompt, "full", budget=budget, count=words).messages for budget in range(30, 130)
    ]

    assert {sent[0].role for sent in messages} == {"user"}
    assert {len(sent) for sent in messages} == {1, 3, 5, 9}


REPORT = Attachment(name="report.txt", text="\n".join(f"line {n}" for n in range(100)))
ABOUT_REPORT = (
    Message("user", "sum up", attachments=(REPORT,)),
    Message("assistant", "long"),
    *HISTORY * 10,
)


@pytest.mark.parametrize("policy", ["full", "simplified", "minimal"])
def test_a_document_stays_with_its_conversation(policy):
    """When the turn that a text was attached to is left out, it opens the first that is sent."""
    prompt = Prompt(question="and?", history=ABOUT_REPORT)
    everything = composed(prompt, policy).messages
    outcome = composed(prompt, policy, budget=400, count=words)

    assert everything[0].content == f"[file: report.txt]\n{REPORT.text}\n\nsum up"
    assert outcome.left_out.history_messages > 0
    assert outcome.left_out.attached_tokens == 0
    assert outcome.messages[0].content.startswith(f"[file: report.txt]\n{REPORT.text}\n\n")


def test_a_document_that_does_not_fit_is_cut_in_its_middle():
    """The oldest turns go first, then the middle of the text; the latest turns stay beside it."""
    outcome = composed(
        Prompt(question="and?", history=ABOUT_REPORT), "full", budget=200, count=words
    )
    first = outcome.messages[0].content

    assert len(outcome.messages) > 2
    assert first.startswith("[file: report.txt]\nline 0\n")
    assert "line 99\n\n" in first
    assert "left out here" in first
    assert outcome.left_out.attached_tokens > 0
    assert "report.txt is cut to fit" in outcome.notices


def test_what_is_left_out_is_counted():
    """The messages and the tokens that a tier was not sent are data beside the words for people."""
    text = "\n".join(f"line {number}" for number in range(2000))
    prompt = Prompt(question="so?", history=HISTORY * 20, attachments=(Attachment(text=text),))
    outcome = composed(prompt, "full", budget=500, count=words)

    sent = len(outcome.messages) - 1
    assert outcome.left_out.history_messages == 80 - sent > 0
    kept = words(outcome.messages[-1].content) - 1
    assert outcome.left_out.attached_tokens == pytest.approx(4000 - kept, rel=0.1)
    assert composed(Prompt(question="so?", history=HISTORY), "full").left_out is None


@pytest.mark.parametrize("budget", [40, 80, 200, 1000])
def test_no_more_is_left_out_than_there_was(budget):
    """Also where next to nothing of a text is left but the line that says so."""
    text = "lorem ipsum " * 800
    prompt = Prompt(question="so?", attachments=(Attachment(text=text),))
    outcome = composed(prompt, "full", budget=budget, count=estimate_tokens)

    sent = estimate_tokens(outcome.messages[-1].content)
    lost = outcome.left_out.attached_tokens
    assert estimate_tokens(text) - sent <= lost <= estimate_tokens(text) * 1.02


def test_a_conversation_goes_on_from_a_tools_result():
    """With no question after a tool's result nothing is appended, and that turn is never cut."""
    prompt = Prompt(question="", history=(*HISTORY, *TOOL_TURNS))

    for policy in ("full", "simplified", "minimal"):
        assert composed(prompt, policy).messages == (*HISTORY, *TOOL_TURNS)
    small = composed(prompt, "full", budget=55, count=words)
    assert small.messages == TOOL_TURNS
    with pytest.raises(ContextTooSmallError):
        composed(prompt, "full", budget=20, count=words)


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
