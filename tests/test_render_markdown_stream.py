"""Markdown that streams ends up on the screen as if it had been rendered at once."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from render_support import FakeClock, Terminal, console_on, pieces

from tieredllm.render.markdown_blocks import BlockParser
from tieredllm.render.markdown_stream import MarkdownStream
from tieredllm.render.markdown_style import Rows

DOCUMENT = """# A guide

Some **bold** text, *italics*, `code` and a [link](https://example.com/path). It is long enough
to wrap on most screens, **and bold text that spans lines** too. 日本語のテキスト 🎉 here.
Second line.

1. First, install it:

   ```bash
   pip install tieredllm

   tieredllm health
   ```
2. Then ask.
   - nested bullet
   - another one
     with continuation
10. Done.

```python
def fib(n: int) -> int:
    \"\"\"Compute.\"\"\"

    return n
```

````markdown
```py
nested
```
````

| Tier | Backend | Latency |
|------|:-------:|--------:|
| primary | openai | 812 ms |
| minimal | llama.cpp | 4.2 s |

> A quotation
> over two lines.

---

The end, ~~struck~~ & done."""


def stream(text, cuts=(), *, width=80, height=24, abandon=False):
    """Show a text in pieces, redrawing with each, and give the terminal."""
    terminal = Terminal(width, height)
    markdown = MarkdownStream(console_on(terminal), frame_s=0, clock=FakeClock(), rewraps=False)
    for piece in pieces(text, cuts):
        markdown.feed(piece)
    if abandon:
        markdown.abandon()
    else:
        markdown.finish()
    return terminal


def at_once(text, *, width=80, height=24):
    """Render a whole document block by block, without a stream, and give the terminal."""
    terminal = Terminal(width, height)
    parser, rows = BlockParser(), Rows(console_on(terminal))
    for unit in parser.units(text):
        lines = rows.block(parser.finish(unit).tokens, width)
        if lines and unit.set_off and terminal.getvalue():
            terminal.write("\n")
        for row in lines:
            terminal.write(row.text + "\n")
    return terminal


@pytest.mark.parametrize("width", [40, 80, 200])
@pytest.mark.parametrize("height", [6, 24])
def test_char_by_char_equals_the_whole_at_once(width, height):
    """Every cell and its colours are the same, in the scrollback too, and the cursor is below."""
    streamed = stream(DOCUMENT, range(len(DOCUMENT)), width=width, height=height)
    whole = at_once(DOCUMENT, width=width, height=height)

    assert streamed.cells() == whole.cells()
    assert streamed.cursor == (len(whole.lines()), 0)


FRAGMENTS = [
    *(
        "# Head\n",
        "## Two **b**\n",
        "\n",
        "\n\n",
        "- item\n",
        "- item two is long enough to wrap\n",
    ),
    *(
        "  - nested\n",
        "    continued\n",
        "1. one\n",
        "2. two\n",
        "99. many\n",
        "1) p\n",
        "-\n",
        "#\n",
    ),
    *(
        "```py\n",
        "```\n",
        "def f():\n",
        "    return 1\n",
        "~~~\n",
        "````\n",
        "> quote\n",
        ">> deep\n",
    ),
    *(
        "| a | b |\n",
        "|---|---|\n",
        "| 1 | 2 |\n",
        "---\n",
        "***\n",
        "===\n",
        "text **bold",
        "** rest\n",
    ),
    *(
        "`code",
        "` x\n",
        "[l](http://x.y)",
        "![i](http://x.y/z.png)",
        "日本語の文章がここに。",
        "🎉 ",
    ),
    *(
        "   ",
        "\t",
        "<br>",
        "&amp;",
        "\\*",
        "long" * 30 + "\n",
        "* ",
        "+ a\n",
        "    code\n",
        "word ",
    ),
    *(
        "$$\n",
        "\\[\n",
        "\\]\n",
        "= a_1*b*c_1\n",
        "\\(x",
        "y\\)",
        "$5",
        "a$ ",
        "[^1]: http://x.y\n",
        "[^1]",
    ),
    "paragraph text that is somewhat longer than a narrow screen can take\n",
]


@given(
    st.lists(st.sampled_from(FRAGMENTS), max_size=25).map("".join),
    st.lists(st.integers(0, 800), max_size=15),
    st.sampled_from([20, 40, 80]),
    st.sampled_from([3, 8, 24]),
)
@example("```py\n&amp;日本語の文章がここに。", [], 20, 3)  # a wide character at the edge
@settings(max_examples=400, deadline=None)
def test_cutting_an_answer_into_pieces_changes_nothing(text, cuts, width, height):
    """However an answer is cut, what stays on the screen is the same."""
    assert (
        stream(text, cuts, width=width, height=height).cells()
        == at_once(text, width=width, height=height).cells()
    )


@given(st.text(max_size=120), st.lists(st.integers(0, 120), max_size=6))
@settings(max_examples=100, deadline=None)
def test_no_text_breaks_it(text, cuts):
    """Any text at all is shown, and leaves the cursor at the start of a line."""
    assert stream(text, cuts, width=40, height=8).cursor[1] == 0


@pytest.mark.parametrize("cuts", [(), range(0, 4000, 67)])
def test_nothing_of_a_long_block_is_lost(cuts):
    """Code, paragraphs and lists longer than the screen are complete in the scrollback, once."""
    code = "\n".join(f"x{n} = {n}" for n in range(100))
    words = " ".join(f"word{n}" for n in range(300))
    items = "\n".join(f"- item {n}" for n in range(60))
    terminal = stream(f"```py\n{code}\n```\n\n{words}\n\n{items}\n", cuts, width=60, height=10)
    shown = terminal.text()

    assert re.findall(r"x(\d+) = \1", shown) == [str(n) for n in range(100)]
    assert re.findall(r"\bword(\d+)", shown) == [str(n) for n in range(300)]
    assert re.findall(r"• item (\d+)", shown) == [str(n) for n in range(60)]


def test_long_code_scrolls_while_it_comes():
    """Lines of code that leave the screen are in the scrollback before the block is complete."""
    terminal = Terminal(40, 6)
    markdown = MarkdownStream(console_on(terminal), frame_s=0, clock=FakeClock())
    markdown.feed("```py\n" + "\n".join(f"line{n}" for n in range(20)))

    assert re.findall(r"line(\d+)", terminal.text()) == [str(n) for n in range(20)]


def test_unfinished_block_never_takes_more_than_the_screen():
    """Of a paragraph longer than the screen only the end is shown until it is complete."""
    terminal = Terminal(20, 5)
    markdown = MarkdownStream(console_on(terminal), frame_s=0, clock=FakeClock())
    for n in range(100):
        markdown.feed(f"word{n:02} ")

    assert not terminal.screen.history.top
    assert terminal.lines()[-1].endswith("word99")


def test_finished_blocks_are_written_once():
    """What is complete is not written again while the rest comes."""
    terminal = Terminal()
    markdown = MarkdownStream(console_on(terminal), frame_s=0, clock=FakeClock())
    markdown.feed("First block.\n\nSecond")
    before = len(terminal.getvalue())
    for _ in range(50):
        markdown.feed(" more")

    assert "First" not in terminal.getvalue()[before:]


def test_work_is_linear_in_the_length():
    """The tail alone is parsed again: ten times the text, ten times the work."""

    def parsed(blocks, monkeypatch):
        total = 0
        original = BlockParser.preview

        def counted(self, source, after=None):
            nonlocal total
            total += len(source)
            return original(self, source, after)

        monkeypatch.setattr(BlockParser, "preview", counted)
        text = "A paragraph of some length.\n\n" * blocks
        stream(text, range(0, len(text), 9), width=80, height=24)
        return total

    with pytest.MonkeyPatch.context() as monkeypatch:
        small = parsed(5, monkeypatch)
    with pytest.MonkeyPatch.context() as monkeypatch:
        large = parsed(50, monkeypatch)

    assert large < 11 * small


def test_slow_redraws_become_rare(monkeypatch):
    """After a redraw that took a second, the next waits for four."""
    clock = FakeClock()
    markdown = MarkdownStream(console_on(Terminal()), clock=clock)
    draws = []
    original = BlockParser.preview

    def slow(self, source, after=None):
        clock.now += 1.0
        draws.append(clock.now)
        return original(self, source, after)

    monkeypatch.setattr(BlockParser, "preview", slow)
    markdown.feed("a")
    for _ in range(80):
        clock.now += 0.1
        markdown.feed("b")

    assert len(draws) == 2


def test_pieces_between_two_frames_are_drawn_by_tick():
    """A stall right after a piece does not hide the piece."""
    clock = FakeClock()
    terminal = Terminal()
    markdown = MarkdownStream(console_on(terminal), clock=clock)
    markdown.feed("one ")
    markdown.feed("two")
    assert terminal.text() == "one"
    clock.now += 1.0
    markdown.tick()

    assert terminal.text() == "one two"


def test_open_emphasis_does_not_flicker():
    """Bold text is bold from its first word on; a fence does not flash up as backticks."""
    terminal = Terminal()
    markdown = MarkdownStream(console_on(terminal), frame_s=0, clock=FakeClock())
    for piece in ("This is **", "bold", " and"):
        markdown.feed(piece)
    assert terminal.text() == "This is bold and"
    for piece in (" so on**.\n", "\n``", "`", "py\nx = 1\n``", "`"):
        markdown.feed(piece)

        assert "`" not in terminal.text()
    assert "**" not in terminal.getvalue()


def test_table_does_not_flicker():
    """A table's header is not shown as text before it is known to be one."""
    terminal = Terminal()
    markdown = MarkdownStream(console_on(terminal), frame_s=0, clock=FakeClock())
    for char in "| a | b |\n|---|---|\n":
        markdown.feed(char)

    assert "|" not in re.sub(r"\x1b\S*?[a-zA-Z]", "", terminal.getvalue())


def test_abandoned_answer_stays_and_leaves_a_fresh_line():
    """What came of an answer that died is complete on the screen, the cursor below it."""
    text = "Intro.\n\n" + " ".join(f"word{n}" for n in range(100)) + " **bold"
    terminal = stream(text, range(0, 900, 11), width=40, height=6, abandon=True)

    assert re.findall(r"word(\d+)", terminal.text()) == [str(n) for n in range(100)]
    assert terminal.text().endswith(" bold")
    assert terminal.cursor == (len(terminal.lines()), 0)


@pytest.mark.parametrize("text", ["", "\n\n", "   \n"])
def test_empty_answer_writes_nothing(text):
    """Nothing to show leaves the terminal alone."""
    assert stream(text, range(5)).getvalue() == ""


@pytest.mark.parametrize("size", [(20, 24), (120, 24), (80, 6), (30, 5)])
def test_resizing_loses_nothing(size):
    """After a change of the terminal's size every word is there, in order."""
    terminal = Terminal(60, 12)
    markdown = MarkdownStream(console_on(terminal), frame_s=0, clock=FakeClock(), rewraps=False)
    words = [f"w{n}" for n in range(120)]
    markdown.feed("# Head\n\n" + " ".join(words[:60]))
    terminal.resize(*size)
    markdown.tick()
    markdown.feed(" " + " ".join(words[60:]))
    markdown.finish()
    shown = re.findall(r"\bw\d+\b", terminal.text())

    assert shown[-120:] == words
    assert terminal.cursor[1] == 0


def test_reference_defined_before_its_use_is_a_link():
    """A definition is remembered after its block was written."""
    text = "[docs]: https://example.com/d\n\nFirst.\n\nSee [docs] here.\n\nLast."

    assert "See docs (https://example.com/d) here." in stream(text, range(len(text))).lines()


def test_title_of_a_reference_may_be_on_the_next_line():
    """What looks like a paragraph below a definition may turn out to be its title."""
    text = "Intro.\n\n[docs]: https://example.com/d\n'a title\nof two lines'\n\nSee [docs]."
    streamed = stream(text, range(len(text)))

    assert streamed.lines() == ["Intro.", "", "See docs (https://example.com/d)."]
    assert streamed.lines() == at_once(text).lines()


def test_nesting_without_end_loses_nothing():
    """Quotations and lists nested deeper than anybody needs are still shown, text and all."""
    for mark in (">", "- "):
        text = f"before\n\n{mark * 200}deep\n\nafter\n"
        shown = stream(text, range(0, 300, 3), width=40).text()

        assert "before" in shown
        assert "deep" in shown
        assert "after" in shown
