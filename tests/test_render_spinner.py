"""The spinner says what is waited for, and leaves no trace."""

from __future__ import annotations

import io

import pytest
from render_support import FakeClock, Terminal, console_on
from rich.cells import cell_len
from rich.console import Console

from tieredllm.kinds import ErrorInfo, ErrorKind
from tieredllm.render.spinner import Spinner
from tieredllm.types import Attempt, AttemptFailed, AttemptStarted, RetryScheduled, Thought, Token

STARTED = AttemptStarted(tier="primary", level=0, provider="openai", model="gpt-5", number=1)
BUSY = ErrorInfo(kind=ErrorKind.RATE_LIMIT, message="Too many requests", status=429)


def spinner_on(terminal, **options):
    clock = FakeClock()
    return Spinner(console_on(terminal), clock=clock, **options), clock


def wait(spinner, clock, seconds):
    clock.now += seconds
    spinner.tick()


def test_a_fast_answer_needs_no_spinner():
    """Nothing is written in the first fifth of a second, nor when the answer came by then."""
    terminal = Terminal()
    spinner, clock = spinner_on(terminal)
    spinner.take(STARTED)
    wait(spinner, clock, 0.15)
    spinner.take(Token(tier="primary", text="x"))
    wait(spinner, clock, 9)
    spinner.stop()

    assert terminal.getvalue() == ""


def test_it_names_tier_model_and_seconds():
    """The line tells the tier, the model and the whole seconds so far, and moves."""
    terminal = Terminal()
    spinner, clock = spinner_on(terminal)
    spinner.take(STARTED)
    wait(spinner, clock, 0.3)
    assert terminal.text() == "⠋ primary (gpt-5) · 0 s"
    wait(spinner, clock, 3)

    assert terminal.text() == "⠙ primary (gpt-5) · 3 s"
    assert terminal.cursor == (0, 0)


def test_it_is_gone_before_the_first_token():
    """A token takes the line away, and the cursor is where the answer begins."""
    terminal = Terminal()
    spinner, clock = spinner_on(terminal)
    spinner.take(STARTED)
    wait(spinner, clock, 1)
    spinner.take(Token(tier="primary", text="x"))

    assert terminal.lines() == []
    assert terminal.cursor == (0, 0)


def test_a_retry_is_explained():
    """While it waits for a retry it says why and how long, then which try it is."""
    terminal = Terminal()
    spinner, clock = spinner_on(terminal)
    spinner.take(STARTED)
    spinner.take(RetryScheduled(tier="primary", wait_s=2.0, error=BUSY))
    wait(spinner, clock, 1)
    assert terminal.text() == ("⠋ primary again in 1 s: rate_limit (429) Too many requests · 1 s")
    spinner.take(
        AttemptStarted(tier="primary", level=0, provider="openai", model="gpt-5", number=2)
    )
    wait(spinner, clock, 1)

    assert terminal.text() == "⠙ primary, try 2 (gpt-5) · 2 s"


def test_a_race_names_both():
    """Two tiers that are asked at once are both named; one that failed is not."""
    terminal = Terminal()
    spinner, clock = spinner_on(terminal)
    spinner.take(STARTED)
    spinner.take(AttemptStarted(tier="secondary", level=1, provider="x", model="claude", number=1))
    wait(spinner, clock, 1)
    assert terminal.text() == "⠋ primary and secondary · 1 s"
    failed = Attempt(
        tier="primary",
        level=0,
        provider="openai",
        model="gpt-5",
        outcome="failed",
        error=BUSY,
        started_ms=0,
        duration_ms=1,
    )
    spinner.take(AttemptFailed(attempt=failed, streamed=False))
    wait(spinner, clock, 1)

    assert terminal.text() == "⠙ secondary (claude) · 2 s"


@pytest.mark.parametrize("width", [1, 5, 10, 20, 40, 80, 200])
def test_it_fits_the_width(width):
    """The line never reaches the last column, wide characters or not, and never wraps."""
    terminal = Terminal(width, 5)
    spinner, clock = spinner_on(terminal)
    spinner.take(
        AttemptStarted(tier="主要な層", level=0, provider="x", model="模型" * 60, number=3)
    )
    for _ in range(5):
        wait(spinner, clock, 1000)
    lines = terminal.lines()

    assert len(lines) <= 1
    assert all(cell_len(line) < max(width, 2) for line in lines)
    assert terminal.cursor == (0, 0)
    spinner.stop()
    assert terminal.lines() == []


def test_it_needs_no_escape_sequences():
    """Carriage returns and spaces are enough, so that nothing has to be restored."""
    terminal = Terminal()
    spinner, clock = spinner_on(terminal)
    spinner.take(STARTED)
    for _ in range(3):
        wait(spinner, clock, 1)
    spinner.stop()

    assert "\x1b" not in terminal.getvalue()


def test_names_from_a_profile_cannot_drive_the_terminal():
    """A model's name with an escape sequence is cleaned."""
    terminal = Terminal()
    spinner, clock = spinner_on(terminal)
    spinner.take(
        AttemptStarted(tier="a\x1b[2Jb", level=0, provider="x", model="m\x07\n\x9b1m", number=1)
    )
    wait(spinner, clock, 1)

    assert terminal.text() == "⠋ ab (m) · 1 s"


def test_it_is_silent_where_it_has_no_place():
    """No terminal, `TERM=dumb` or disabled: not a byte is written."""
    file = io.StringIO()
    terminal = Terminal()
    clock = FakeClock()
    for spinner in (
        Spinner(Console(file=file), clock=clock),
        Spinner(console_on(terminal, dumb=True), clock=clock),
        Spinner(console_on(terminal), enabled=False, clock=clock),
    ):
        spinner.take(STARTED)
        wait(spinner, clock, 2)
        spinner.stop()

    assert file.getvalue() == ""
    assert terminal.getvalue() == ""


def test_plain_characters_where_the_encoding_has_no_others():
    """A terminal that is not UTF-8 gets a spinner of ASCII characters."""

    class Latin(Terminal):
        encoding = "latin-1"

    terminal = Latin(40)
    spinner, clock = spinner_on(terminal)
    spinner.take(
        AttemptStarted(tier="primary", level=0, provider="x", model="long-name-" * 9, number=1)
    )
    wait(spinner, clock, 1)

    assert terminal.getvalue().isascii()
    assert terminal.text().startswith("| primary (long-name-")
    assert terminal.text().endswith("... - 1 s")


class Key:
    """A key that has been pressed, or not."""

    name = "Tab"

    def __init__(self) -> None:
        self.listens = False

    def listen(self) -> bool:
        self.listens = True
        return True

    def rest(self) -> None:
        self.listens = False


def test_it_says_who_is_next_when_and_which_key_asks_them_now():
    """The time is that of the line's own clock, from tier to tier; who thinks has none."""
    terminal, key = Terminal(), Key()
    spinner, clock = spinner_on(terminal, key=key)

    def ask(tier, **following):
        spinner.take(
            AttemptStarted(tier=tier, level=0, provider="x", model="m", number=1, **following)
        )
        wait(spinner, clock, 4)
        return terminal.text()[2:]

    lines = [
        ask("primary", next_tier="primary", next_model="other", until_s=10),
        ask("primary", next_tier="secondary", next_model="m", until_s=10),
    ]
    spinner.take(Thought(tier="primary", text="hm"))
    wait(spinner, clock, 1)
    lines.append(terminal.text()[2:])
    spinner.pause()
    assert not key.listens
    spinner.resume()
    lines.append(ask("primary"))
    spinner.stop()

    assert lines == [
        "primary (m) · 4 s → other at 10 s (Tab: now)",
        "primary (m) · 8 s → secondary at 14 s (Tab: now)",
        "primary is thinking · 9 s → secondary (Tab: now)",
        "primary (m) · 13 s",
    ]
    assert not key.listens
