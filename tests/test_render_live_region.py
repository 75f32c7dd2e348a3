"""Live rows are replaced in place, also after the terminal was resized."""

from __future__ import annotations

import pytest
from render_support import Terminal

from tieredllm.render.live_region import LiveRegion, rewraps_on_resize
from tieredllm.render.markdown_style import Row


def rows(*texts):
    return [Row(text, len(text)) for text in texts]


def region_on(terminal, *, rewraps=False):
    return LiveRegion(terminal.write, rewraps=rewraps)


def test_only_changed_rows_are_written_again():
    """A row that stays the same is not sent twice."""
    terminal = Terminal()
    region = region_on(terminal)
    region.update([], rows("one", "two"), width=80)
    before = len(terminal.getvalue())
    region.update([], rows("one", "two!"), width=80)

    assert "one" not in terminal.getvalue()[before:]
    assert terminal.lines() == ["one", "two!"]


def test_nothing_is_sent_when_nothing_changed():
    """An update without a change is no write at all, also when live rows become settled."""
    terminal = Terminal()
    region = region_on(terminal)
    region.update([], rows("one", "two"), width=80)
    before = terminal.getvalue()
    region.update(rows("one"), rows("two"), width=80)

    assert terminal.getvalue() == before


@pytest.mark.parametrize(
    ("settled", "live", "shown"),
    [
        ([], ["a"], ["a"]),
        ([], [], []),
        (["x", "y", "z", "u"], [], ["x", "y", "z", "u"]),
        (["a"], ["b", "c"], ["a", "b", "c"]),
        (["a", "b"], ["q"], ["a", "b", "q"]),
        ([], ["", "", "c"], ["", "", "c"]),
    ],
)
def test_old_rows_leave_no_trace(settled, live, shown):
    """More rows, fewer rows or none: the screen shows the new ones alone."""
    terminal = Terminal()
    region = region_on(terminal)
    region.update([], rows("a", "bbbb", "cccc"), width=80)
    region.update(rows(*settled), rows(*live), width=80)
    assert terminal.lines() == shown
    region.close()

    assert terminal.cursor == (len(shown), 0)


def test_rows_as_wide_as_the_screen_take_one_row():
    """A row that fills the screen does not wrap, settled or live."""
    terminal = Terminal(10, 5)
    region = region_on(terminal)
    for text in ("a" * 10, "b" * 10):
        region.update([], rows(text, text), width=10)
    region.update(rows("c" * 10), rows("d" * 10), width=10)
    region.close()

    assert terminal.lines() == ["c" * 10, "d" * 10]


def test_row_wider_than_thought_stays_one_row():
    """A character that the terminal finds wider than we do cannot break the counting."""
    terminal = Terminal(10, 5)
    region = region_on(terminal)
    for n in range(3):
        region.update([], [Row("x" * 14, 10), Row(f"below {n}", 7)], width=10)

    assert terminal.lines()[1:] == ["below 2"]


def test_settled_rows_scroll_away():
    """More rows than the screen has go to the scrollback, in order and once."""
    terminal = Terminal(20, 4)
    region = region_on(terminal)
    for n in range(20):
        region.update(rows(f"row {n}"), rows("live"), width=20)
    region.update([], [], width=20)

    assert terminal.lines() == [f"row {n}" for n in range(20)]


def test_terminal_that_wraps_anew_is_reckoned_with():
    """On a narrower terminal that wraps its rows anew, the rows they became are all replaced."""
    terminal = Terminal(10, 8)
    terminal.write("above\r\n")
    terminal.write("\n".join(["aaaaa", "aa", "bbbbb", "bb"]).replace("\n", "\r\n"))
    region = LiveRegion(terminal.write, rewraps=True)
    region._live = rows("aaaaaaa", "bbbbbbb")
    region._at_line_start = False
    region.update([], rows("new"), width=5)

    assert terminal.lines() == ["above", "new"]


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({"TERM": "xterm-256color"}, True),
        ({"TERM": "xterm-256color", "XTERM_VERSION": "XTerm(390)"}, False),
        ({"TERM": "screen-256color"}, False),
        ({"TERM": "screen-256color", "TMUX": "/tmp/x,1,0"}, True),
        ({"TERM": "linux"}, False),
        ({"TERM": "xterm-kitty"}, True),
        ({}, True),
    ],
)
def test_terminals_that_wrap_anew(env, expected):
    """The terminals that cut rows off are known by their environment."""
    assert rewraps_on_resize(env) is expected
