"""Tool calls in the views: what the model said before them is no answer."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from tieredllm.cli.environment import Environment
from tieredllm.cli.output import make_view
from tieredllm.render.event_messages import remark
from tieredllm.render.plain import PlainAnswer
from tieredllm.render.spinner import Spinner
from tieredllm.render.terminal import TerminalAnswer
from tieredllm.types import (
    AttemptStarted,
    Notice,
    Token,
    ToolEnded,
    ToolResult,
    ToolStarted,
    ToolsWanted,
)

WANTED = ToolsWanted(tier="primary", names=("now", "count", "now"), streamed=True)
STARTED = AttemptStarted(tier="primary", level=0, provider="openai", model="m", number=1)


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self):
        return True


def console(stream):
    return Console(file=stream, force_terminal=True, width=80, _environ={"TERM": "xterm-256color"})


class Clock:
    """A clock that is moved by hand."""

    now = 0.0

    def monotonic(self):
        return self.now

    def wall(self):
        return self.now


def ended(**result):
    given = {"call_id": "1", "name": "count", "text": "12345", "outcome": "ok"} | result
    return ToolEnded(tier="primary", result=ToolResult(**given))


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (
            ToolStarted(tier="primary", call_id="1", name="count", arguments='{"by":\x1b[31m 1}'),
            'primary calls count {"by": 1}',
        ),
        (ended(duration_ms=1234), "primary: count gave 5 characters after 1.2 s"),
        (ended(repeated=True), "primary: count has run before, and is not run again"),
        (
            ended(outcome="failed", text="no\nluck"),
            "primary: count: failed after 0.0 s: no luck",
        ),
    ],
)
def test_calls_in_the_verbose_view(event, line):
    """A call and its result are one line each, without control characters."""
    assert remark(event) == line


def test_text_before_a_call_is_set_apart_on_a_terminal():
    """What was said before a call stays, a dim line says what follows, and the answer is new."""
    out, err = Terminal(), Terminal()
    view = TerminalAnswer(
        stdout_console=console(out),
        stderr_console=console(err),
        raw=True,
        quiet=False,
        verbose=False,
    )
    for event in (STARTED, Token(tier="primary", text="Let me see"), WANTED):
        view.handle(event)
    view.handle(Token(tier="primary", text="It is 1."))
    view.close()

    assert out.getvalue() == "Let me see\n\nIt is 1.\n"
    assert "— primary calls now and count —" in err.getvalue()


def test_the_spinner_tells_of_tools_and_is_still_while_something_is_asked():
    """While tools run the spinner names them; while it is paused nothing is drawn."""
    out, clock = Terminal(), Clock()
    spinner = Spinner(console(out), clock=clock)
    spinner.take(STARTED)
    spinner.take(WANTED)
    clock.now = 1.0
    spinner.tick()
    assert "primary calls now and count" in out.getvalue()

    spinner.pause()
    drawn = out.getvalue()
    clock.now = 2.0
    spinner.tick()
    assert out.getvalue() == drawn
    assert drawn.endswith(" \r")

    spinner.resume()
    spinner.tick()
    assert len(out.getvalue()) > len(drawn)


def on_a_terminal(err):
    return TerminalAnswer(
        stdout_console=console(err),
        stderr_console=console(err),
        raw=True,
        quiet=False,
        verbose=True,
    )


def into_a_pipe(err):
    return PlainAnswer(stdout=io.StringIO(), stderr=err, verbose=True)


def into_a_pipe_waited_for(err):
    surroundings = Environment(
        env={"TERM": "xterm"}, stdin=None, stdout=io.StringIO(), stderr=err, verbose=True
    )
    return make_view(surroundings, raw=False)[0]


@pytest.mark.parametrize("make", [on_a_terminal, into_a_pipe, into_a_pipe_waited_for])
def test_a_remark_waits_while_something_else_has_the_screen(make):
    """It stands neither in a question nor, after the answer, in a line that is being typed."""
    err = Terminal()
    view = make(err)
    view.handle(STARTED)
    view.pause()
    before = err.getvalue()
    view.handle(Notice(tier="docs", message="listening"))
    assert err.getvalue() == before

    view.resume()
    assert err.getvalue().count("tieredllm: docs: listening") == 1

    view.close()
    before = err.getvalue()
    view.handle(Notice(tier="docs", message="idle"))
    assert (err.getvalue(), view.withheld) == (before, ["docs: idle"])


def test_a_buffered_answer_has_only_the_last_text():
    """Into a pipe that is not streamed to, text before a call never goes."""
    out, err = io.StringIO(), io.StringIO()
    view = PlainAnswer(stdout=out, stderr=err)
    for event in (STARTED, Token(tier="primary", text="Let me see"), WANTED):
        view.handle(event)
    view.close()

    assert (out.getvalue(), err.getvalue()) == ("", "")
