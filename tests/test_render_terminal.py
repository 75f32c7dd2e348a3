"""An answer on a terminal streams, and what broke off is never passed off as an answer."""

from __future__ import annotations

import io
import re

import pytest
from render_support import FakeClock, Terminal, console_on
from rich.console import Console

from tieredllm.kinds import ErrorInfo, ErrorKind
from tieredllm.render.terminal import TerminalAnswer, takes_markdown
from tieredllm.types import (
    Answer,
    Answered,
    Attempt,
    AttemptFailed,
    AttemptStarted,
    FellBack,
    Notice,
    RetryScheduled,
    TierSkipped,
    Token,
    Usage,
)

RESET = ErrorInfo(kind=ErrorKind.STREAM_INTERRUPTED, message="connection reset")


def started(tier, level=0, model="m", number=1):
    return AttemptStarted(tier=tier, level=level, provider="p", model=model, number=number)


def attempt(tier, outcome="failed", error=RESET, reason=None, model="m"):
    return Attempt(
        tier=tier,
        level=0,
        provider="p",
        model=model,
        outcome=outcome,
        error=error,
        reason=reason,
        started_ms=0,
        duration_ms=100,
    )


def answered(text, tier="primary"):
    return Answered(
        answer=Answer(
            request_id="r",
            text=text,
            tier=tier if text is not None else None,
            fallback_level=0,
            fallback_used=False,
            provider="p",
            model_used="m",
            latency_ms=1500,
            first_token_ms=100,
            finish_reason="stop",
            truncated=False,
            usage=Usage(),
            original_error=None,
            error=None if text is not None else RESET,
        )
    )


def play(events, terminal=None, *, color=True, dumb=False, close=True, **options):
    """Show events on one terminal for both streams, ticking a second after each."""
    terminal = terminal or Terminal()
    clock = FakeClock()
    console = console_on(terminal, color=color, dumb=dumb)
    settings = {"raw": False, "quiet": False, "verbose": False, "clock": clock, **options}
    view = TerminalAnswer(stdout_console=console, stderr_console=console, **settings)
    for event in events:
        view.handle(event)
        clock.now += 1.0
        view.tick()
    if close:
        view.close()
    return terminal


BROKEN = [
    started("primary"),
    Token(tier="primary", text="Half an "),
    AttemptFailed(attempt=attempt("primary"), streamed=True),
    FellBack(from_tier="primary", to_tier="secondary", reason="reset"),
    started("secondary", 1),
    Token(tier="secondary", text="A **whole** answer."),
    answered("A **whole** answer.", "secondary"),
]


def test_answer_is_rendered_and_ends_in_one_line_end():
    """Markdown is rendered, the spinner is gone, the cursor is on the line below."""
    terminal = play(
        [started("primary"), Token(tier="primary", text="**Yes**\n\n"), answered("**Yes**\n\n")]
    )

    assert terminal.lines() == ["Yes"]
    assert terminal.cursor == (1, 0)


@pytest.mark.parametrize("raw", [True, False])
def test_broken_stream_is_named_and_the_next_starts_afresh(raw):
    """A line parts the void half from the next tier's answer."""
    whole = "A **whole** answer." if raw else "A whole answer."

    assert play(BROKEN, raw=raw).lines() == [
        "Half an",
        "— primary broke off (stream_interrupted); starting again with secondary —",
        "",
        whole,
    ]


def test_broken_stream_line_is_dim():
    """The line is dim where colours are allowed, and only there."""
    line = "— primary broke off (stream_interrupted); starting again with secondary —"

    assert f"\x1b[2m{line}\x1b[0m\n" in play(BROKEN).getvalue()
    assert f"\n{line}\n" in play(BROKEN, color=False).getvalue()


def test_another_backend_of_the_same_tier_is_named_by_its_model():
    """When the tier goes on with another model, the line says which."""
    events = [*BROKEN[:3], started("primary", model="other")]

    assert "starting again with other —" in play(events).text()


def test_broken_stream_with_nothing_after_it():
    """When nothing answers, the line still says that the text is broken off."""
    terminal = play([*BROKEN[:3], answered(None)])

    assert terminal.lines() == ["Half an", "— primary broke off (stream_interrupted) —"]


def test_broken_stream_is_told_on_both_streams_when_stderr_is_a_file():
    """Who reads the terminal must know, and so must who reads the file."""
    terminal, file = Terminal(), io.StringIO()
    view = TerminalAnswer(
        stdout_console=console_on(terminal),
        stderr_console=Console(file=file),
        raw=False,
        quiet=True,
        verbose=False,
    )
    for event in BROKEN:
        view.handle(event)
    view.close()

    assert "primary broke off" in terminal.text()
    assert file.getvalue() == (
        "— primary broke off (stream_interrupted); starting again with secondary —\n"
    )


def test_race_that_is_won_late_starts_afresh():
    """Tokens of another tier never run on from those of the first."""
    events = [
        started("primary"),
        Token(tier="primary", text="one"),
        Token(tier="secondary", text="two"),
        answered("two", "secondary"),
    ]

    assert play(events).lines()[0] == "one"
    assert play(events).lines()[-1] == "two"


def test_failure_of_another_tier_does_not_break_the_stream():
    """A tier that lost a race without a token leaves the answer alone."""
    tokens = [Token(tier="secondary", text=text) for text in ("one ", "two")]
    loser = AttemptFailed(attempt=attempt("primary"), streamed=False)

    assert play([tokens[0], loser, tokens[1], answered("one two")]).lines() == ["one two"]


def test_answer_without_tokens_is_shown():
    """An answer that did not stream is shown when it is complete."""
    assert play([started("rules"), answered("*Hello*", "rules")]).lines() == ["Hello"]


def test_without_streaming_only_the_complete_answer_is_shown():
    """With `stream=False` a void half never appears, and the spinner goes on."""
    terminal = play(BROKEN[:6], stream=False, close=False)
    assert "secondary (m)" in terminal.text()
    assert "Half" not in terminal.getvalue()

    assert play(BROKEN, stream=False).lines() == ["A whole answer."]


@pytest.mark.parametrize("options", [{"raw": True}, {"dumb": True}])
def test_plain_text_where_it_is_wanted(options):
    """Raw and on a dumb terminal the text is shown as it is, but clean."""
    text = "**Yes** \x1b[31mred\x1b[0m\x07 `x`"
    terminal = play(
        [
            Token(tier="primary", text=text[:10]),
            Token(tier="primary", text=text[10:]),
            answered(text),
        ],
        **options,
    )

    assert terminal.getvalue() == "**Yes** red `x`\n"


def test_no_color_keeps_the_layout():
    """With `NO_COLOR` no colour is sent; Markdown is laid out all the same."""
    text = "**Yes** `x`\n\n- one\n\n| a |\n|---|\n| b |"
    terminal = play(
        [started("primary"), *[Token(tier="primary", text=text)], answered(text)], color=False
    )
    shown = terminal.getvalue()

    assert not re.search(r"\x1b\[(?:[0-9;]*;)?(?:3[0-8]|4[0-8]|9\d|10\d)m", shown)
    assert "**" not in shown
    assert " • one" in terminal.text()


def test_dumb_terminal_gets_no_spinner():
    """With `TERM=dumb` there is not even a carriage return."""
    assert not re.search(r"[\x1b\r]", play(BROKEN, dumb=True).getvalue())


def test_escape_sequence_split_between_tokens_is_dropped():
    """A sequence cut in two by the stream leaves nothing behind, rendered or raw."""
    tokens = [Token(tier="primary", text=part) for part in ("a\x1b", "]52;c;", "ZXZp\x07", "b")]
    for raw in (True, False):
        assert play([*tokens, answered("ab")], raw=raw).lines() == ["ab"]


VERBOSE = [
    TierSkipped(attempt=attempt("first", "skipped", None, "KEY is not set", model="x")),
    started("primary"),
    RetryScheduled(tier="primary", wait_s=2, error=RESET),
    started("primary", number=2),
    AttemptFailed(attempt=attempt("primary"), streamed=False),
    FellBack(from_tier="primary", to_tier="secondary", reason="x"),
    started("secondary"),
    Token(tier="secondary", text="ok"),
    answered("ok", "secondary"),
]


def test_verbose_tells_each_step():
    """Each attempt, skip and retry is a line, and none of them is in the answer."""
    assert play(VERBOSE, Terminal(120), verbose=True).lines() == [
        "tieredllm: skipping first (p x): KEY is not set",
        "tieredllm: asking primary (p m)",
        "tieredllm: primary: stream_interrupted: connection reset; again in 2.0 s",
        "tieredllm: asking primary (p m), try 2",
        "tieredllm: primary (p m) failed after 0.1 s: stream_interrupted: connection reset",
        "tieredllm: falling back from primary to secondary",
        "tieredllm: asking secondary (p m)",
        "ok",
        "tieredllm: secondary answered after 1.5 s",
    ]


def test_without_verbose_only_notices_are_told():
    """A notice is for everybody, unless quiet; nothing else is said."""
    notice = Notice(tier="primary", message="the file was cut")

    assert play([notice, *VERBOSE]).lines() == ["tieredllm: primary: the file was cut", "ok"]
    assert play([notice, *VERBOSE], quiet=True).lines() == ["ok"]


def test_remarks_wait_until_the_answer_is_complete():
    """A remark that comes in the middle of an answer is told below it."""
    events = [
        Token(tier="primary", text="one "),
        Notice(tier="primary", message="note"),
        Token(tier="primary", text="two"),
        answered("one two"),
    ]

    assert play(events).lines() == ["one two", "tieredllm: primary: note"]


@pytest.mark.parametrize("count", range(8))
def test_closing_at_any_time_leaves_a_fresh_line(count):
    """Stopped anywhere, the spinner is gone and the cursor at the start of a free line."""
    terminal = play(BROKEN[:count])

    assert terminal.cursor[0] >= len(terminal.lines())
    assert terminal.cursor[1] == 0
    assert "(m) ·" not in terminal.text()


def test_closing_twice_is_closing_once():
    """A second `close` writes nothing."""
    terminal = Terminal()
    console = console_on(terminal)
    view = TerminalAnswer(
        stdout_console=console, stderr_console=console, raw=False, quiet=False, verbose=False
    )
    for event in BROKEN[:3]:
        view.handle(event)
    view.close()
    written = terminal.getvalue()
    view.close()

    assert terminal.getvalue() == written


def test_a_reader_that_left_is_reported_once():
    """`BrokenPipeError` reaches the caller; closing afterwards raises nothing."""

    class Gone(Terminal):
        def write(self, text):
            raise BrokenPipeError

    console = console_on(Gone())
    view = TerminalAnswer(
        stdout_console=console, stderr_console=console, raw=True, quiet=True, verbose=False
    )
    with pytest.raises(BrokenPipeError):
        view.handle(Token(tier="primary", text="x"))
    view.close()


@pytest.mark.parametrize("width", [40, 80, 200])
def test_long_lines_of_remarks_leave_the_answer_whole(width):
    """At any width the answer below wrapped remarks is complete."""
    terminal = play(
        [
            Notice(tier="primary", message="a long remark " * 20),
            started("primary", model="a-model-with-a-long-name" * 4),
            Token(tier="primary", text="- one\n- two\n"),
            answered("- one\n- two\n"),
        ],
        Terminal(width, 24),
    )

    assert terminal.lines()[-2:] == [" • one", " • two"]


def test_what_takes_markdown():
    """Only a terminal with colours gets rendered Markdown."""
    assert takes_markdown(console_on(Terminal()))
    assert not takes_markdown(console_on(Terminal(), color=False))
    assert not takes_markdown(console_on(Terminal(), dumb=True))
    assert not takes_markdown(Console(file=io.StringIO()))
