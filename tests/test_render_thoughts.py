"""Tests of what is shown of a model's thoughts."""

from __future__ import annotations

import io

import pytest
from render_support import FakeClock, Terminal, console_on
from test_render_terminal import answered, play, started

from tieredllm.render.plain import PlainAnswer, ThoughtView
from tieredllm.render.spinner import Spinner
from tieredllm.types import Retracted, Thought, Token

THOUGHTS = [
    started("primary"),
    Thought(tier="primary", text="\nHm,\x1b[31m"),
    Thought(tier="primary", text=" hm.\n"),
    Token(tier="primary", text="Yes."),
    answered("Yes."),
]
RETRACTED = [
    started("primary"),
    Token(tier="primary", text="Hm, hm.\n"),
    Retracted(tier="primary"),
    Token(tier="primary", text="Yes."),
    answered("Yes."),
]


def test_thoughts_are_shown_dim_when_asked_for():
    """What the model thinks stands dim above its answer, without control characters."""
    shown = play(THOUGHTS, reasoning=True, raw=True).getvalue()

    assert "\x1b[2mHm,\x1b[0m\x1b[2m hm.\x1b[0m\n\nYes.\n" in shown
    assert "\x1b[31m" not in shown


def test_thoughts_are_not_shown_unasked():
    """The terminal has the answer alone; the spinner says what is going on."""
    terminal = play(THOUGHTS)

    assert terminal.lines() == ["Yes."]
    assert "primary is thinking" in terminal.getvalue()


def test_thoughts_never_go_into_a_pipe():
    """What reads stdout or a redirected stderr gets no thoughts."""
    stdout, stderr = io.StringIO(), io.StringIO()
    view = PlainAnswer(stdout=stdout, stderr=stderr, stream=True)
    for event in THOUGHTS:
        view.handle(event)
    view.close()

    assert (stdout.getvalue(), stderr.getvalue()) == ("Yes.\n", "")


def test_thoughts_are_shown_on_a_terminal_beside_a_pipe():
    """Where stderr is a terminal and stdout is not, thoughts go there."""
    stdout, terminal = io.StringIO(), io.StringIO()
    view = PlainAnswer(stdout=stdout, stderr=terminal, thoughts=ThoughtView(terminal, dim=False))
    for event in THOUGHTS:
        view.handle(event)
    view.close()

    assert stdout.getvalue() == "Yes.\n"
    assert terminal.getvalue() == "Hm, hm.\n\n"


@pytest.mark.parametrize("raw", [True, False])
def test_text_that_was_thoughts_is_set_apart_on_a_terminal(raw):
    """When only the end of the thoughts is marked, a dim line parts them from the answer."""
    assert play(RETRACTED, raw=raw).lines() == [
        "Hm, hm.",
        "— primary was only thinking —",
        "",
        "Yes.",
    ]


def test_text_that_was_thoughts_is_not_in_a_buffered_answer():
    """Into a pipe goes the answer alone."""
    stdout = io.StringIO()
    view = PlainAnswer(stdout=stdout, stderr=io.StringIO())
    for event in RETRACTED:
        view.handle(event)

    assert stdout.getvalue() == "Yes.\n"


def test_the_spinner_tells_that_a_model_thinks():
    """Thoughts that are not shown are what is waited for."""
    out, clock = Terminal(), FakeClock()
    spinner = Spinner(console_on(out), clock=clock)
    spinner.take(THOUGHTS[0])
    spinner.take(THOUGHTS[1])
    clock.now += 1.0
    spinner.tick()

    assert "primary is thinking" in out.getvalue()


def test_thoughts_of_two_tiers_are_kept_apart():
    """Two tiers that are asked at once do not think in one line."""
    terminal = io.StringIO()
    view = ThoughtView(terminal, dim=False)
    for tier in ("primary", "secondary"):
        view.take(Thought(tier=tier, text="Hm."))
    view.end()

    assert terminal.getvalue() == "Hm.\n\nHm.\n\n"


def test_thoughts_after_the_answer_has_begun_are_not_shown_in_it():
    """An answer on the screen stays whole, whatever the server sends beside it."""
    late = [*THOUGHTS[:4], Thought(tier="primary", text="Done."), *THOUGHTS[4:]]

    assert play(late, reasoning=True).lines() == ["Hm, hm.", "", "Yes."]
