"""Rendered Markdown looks right, and carries nothing that the model could abuse."""

from __future__ import annotations

import io
import re
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from render_support import FakeClock, Terminal, console_on
from rich.cells import cell_len
from rich.console import Console
from rich.markdown import Markdown

from tieredllm.render.markdown_stream import MarkdownStream

OWN_SEQUENCES = re.compile(
    r"\x1b\[(?:[0-9;]*m|2K|A|\?7[lh]|\?2026[lh])|\x1b\]8;;(?:(?:https?|mailto):[!-~]+)?\x1b\\"
)
"""All that this program itself may send: colours, erasing and moving up rows, and safe links."""


def shown(text, width=80, height=40, cuts=()):
    """Stream a text at once, and give the terminal."""
    terminal = Terminal(width, height)
    markdown = MarkdownStream(console_on(terminal), frame_s=0, clock=FakeClock())
    markdown.feed(text)
    markdown.finish()
    return terminal


def test_plain_blocks_look_as_rich_renders_them():
    """Where nothing is changed on purpose, the screen is what rich's own Markdown gives."""
    text = (
        "Some *text* with `code` that is long enough to wrap at forty columns.\n\n"
        "- one\n- two is long enough to wrap at forty columns\n\n> quoted\n\n## Second\n\nEnd\n"
    )
    file = io.StringIO()
    Console(file=file, width=40, force_terminal=True, color_system=None).print(Markdown(text))
    expected = [line.rstrip() for line in file.getvalue().splitlines()]

    assert shown(text, 40).lines() == expected


def test_nothing_a_model_writes_is_dim():
    """Dim is what the program says itself: no heading, quotation or emphasis can look like that."""
    markdown = "\n\n".join(
        f"{mark}tieredllm: answered by rules"
        for mark in ("###### ", "##### ", "> ", "- ", "*", "~~")
    )

    styles = re.findall(r"\x1b\[([0-9;]*)m", shown(markdown).getvalue())

    assert styles
    assert not any(re.match(r"(?:\d+;)*2(?:;|$)", re.sub("[34]8;5;\\d+", "0", it)) for it in styles)


@pytest.mark.parametrize("width", [40, 80, 200])
def test_rows_fit_the_width(width):
    """No row is wider than the screen, whatever is in it; code is left to the terminal."""
    text = (
        "# 見出しがとても長いのでどこかで折り返さなければなりません、そうですよね\n\n"
        + "🎉日本語" * 40
        + "\n\n```\n"
        + "x" * 300
        + "\n```\n\n| a | b |\n|---|---|\n| "
        + "word " * 60
        + "| "
        + "y" * 250
        + " |\n\n- "
        + "z" * 500
        + "\n"
    )
    terminal = shown(text, width)
    rows = OWN_SEQUENCES.sub("", terminal.getvalue()).splitlines()

    assert max(cell_len(row) for row in rows if set(row) != {"x"}) <= width
    assert "x" * 300 in rows
    assert terminal.text().count("z") == 500
    assert terminal.text().count("y") == 250


def test_code_begins_in_the_first_column():
    """Code can be copied: no indentation is added, no blank line lost, tabs are expanded."""
    lines = shown("```py\nif x:\n\n\ty = 1\n```\n").lines()

    assert lines == ["if x:", "", "    y = 1"]


def test_code_is_highlighted_on_a_background():
    """Code has colours of its own, as wide as the screen."""
    cells = shown("```py\nreturn 1\n```\n", 40).cells()

    assert len({cell[1] for cell in cells[0]}) > 1
    assert len({cell[2] for cell in cells[0]} - {"default"}) == 1


@pytest.mark.parametrize("language", ["nosuchlanguage", "python {.x}", "c++", "brainf*ck"])
def test_any_language_is_taken(language):
    """An unknown language is shown without colours."""
    assert shown(f"```{language}\ncode\n```").lines() == ["code"]


def test_code_that_no_background_tells_has_a_mark_above_it():
    """Code without a language is marked, all code without colours: on a line that is not copied."""
    plain = Terminal(80, 40)
    markdown = MarkdownStream(console_on(plain, color=False), frame_s=0, clock=FakeClock())
    markdown.feed("```py\ncode\n```\n")
    markdown.finish()

    assert shown("So:\n\n```\ncode\n```\n").lines() == ["So:", "", "┄┄┄", "code"]
    assert plain.lines() == ["┄┄┄", "code"]


@pytest.mark.parametrize(
    "line",
    [
        r"so \(a_1 * b * c_1\) holds",
        r"so \(x\) holds",
        r"so \[x_{1} = \{a\}\] holds",
        "so $a*b*c$ and $$d*e*f$$ hold",
    ],
)
def test_a_formula_in_a_line_stays_as_it_is_written(line):
    """Nothing of TeX is taken for an escape or for emphasis."""
    assert shown(line).lines() == [line]


def test_money_is_no_formula():
    """Emphasis between two prices is rendered."""
    assert shown("from $5 **up** to $10").lines() == ["from $5 up to $10"]


@pytest.mark.parametrize(
    ("markdown", "looks"),
    [
        ("The variables **$name** and **$age** are set.", "The variables $name and $age are set."),
        ("[$a](http://a.b) and [$b](http://c.d)", "$a (http://a.b) and $b (http://c.d)"),
        (r"Dear \[Your Name\], file\(s\)", "Dear [Your Name], file(s)"),
        (r"- \[x\] done", " • [x] done"),
    ],
)
def test_markdown_with_the_marks_of_a_formula_is_markdown(markdown, looks):
    """Variables and escaped brackets are no formulas."""
    assert shown(markdown).lines() == [looks]


@pytest.mark.parametrize(("opening", "end"), [("$$", "$$"), (r"\[", r"\]")])
def test_a_displayed_formula_keeps_its_lines(opening, end):
    """No line of it becomes a list or a heading, wherever it stands; what follows is text again."""
    formula = [opening, "a_1*b*c", "+ d", "- e", "= f", end]

    shown_lines = shown("\n".join(["where", *formula, "- item"])).lines()

    assert shown_lines == ["where", "", *formula, "", " • item"]


def test_a_footnote_stays_as_it_is_written():
    """A note that is a lone address is no definition of a link, which nobody would see."""
    lines = ["See[^1].", "", "[^1]: https://example.org"]

    assert shown("\n".join(lines)).lines() == lines


def test_tasks_have_boxes():
    """An item that is done has a ticked box; what only looks like one is text."""
    text = "- [ ] open\n- [x] done\n- [y] other\n- plain [x]\n"

    assert shown(text).lines() == [" ☐ open", " ☑ done", " • [y] other", " • plain [x]"]


def test_prose_is_not_wider_than_can_be_read():
    """On a wide screen prose stays within a hundred columns; a table may use them all."""
    words = "word " * 60
    table = "| " + " | ".join("abcdefghij" * 2 for _ in range(6)) + " |\n" + "|---" * 6 + "|\n"

    code = "- a\n\n  ```\n  " + "x" * 150 + "\n  ```\n"

    assert max(map(len, shown(words, 200).lines())) <= 100
    assert "x" * 150 in shown(code, 200).lines()[-1]
    assert max(map(len, shown(table, 200).lines())) > 100


def test_numbers_of_lists_stay_in_place():
    """Items keep their numbers and their place, whatever the list's last number is."""
    text = "\n".join(f"{n}. item" for n in range(8, 13))

    assert shown(text).lines() == [f"{n:>2}. item" for n in range(8, 13)]


def test_items_with_several_blocks_are_set_off():
    """A paragraph, code and a list in an item are parted as the source parts them."""
    text = "1. a\n\n   ```\n   code\n   ```\n2. b\n   - c\n3.\n4. d\n"

    assert shown(text).lines() == [
        " 1. a",
        "",
        "    ┄┄┄",
        "    code",
        "",
        " 2. b",
        "     • c",
        " 3.",
        " 4. d",
    ]


def test_link_shows_where_it_leads():
    """A destination that differs from a link's text is shown behind it, and can be clicked."""
    terminal = shown("[your bank](https://evil.example/x) and <https://a.example/>")

    assert terminal.text() == "your bank (https://evil.example/x) and https://a.example/"
    assert "\x1b]8;;https://evil.example/x\x1b\\" in terminal.getvalue()


@pytest.mark.parametrize(
    "link",
    [
        "[x](file:///etc/passwd)",
        "[x](javascript:alert(1))",
        "[x](ssh://host)",
        "[x](https://a/%1b]0;t%07)",
        "[x](<https://a/\x1b]0;t\x07>)",
        "![x](https://a/\x07\x1b\\y)",
        "[x](&#x1b;]8;;http://e)",
    ],
)
def test_links_are_safe(link):
    """A link is clickable only if it leads to the web or a mail address; else it is text."""
    terminal = shown(f"see {link} now")

    assert "\x1b" not in OWN_SEQUENCES.sub("", terminal.getvalue())
    assert "see" in terminal.text()
    assert "now" in terminal.text()


@pytest.mark.parametrize(
    "text",
    [
        "a&#x202e;b",
        "a&#12;b",
        "a&#13;b",
        "a&#x9b;31mb",
        "a&#27;[31mb",
        "`a\x1b]0;t\x07b`",
        "a\x9b2Jb",
    ],
)
def test_entities_smuggle_no_control(text):
    """A control that is spelled as an entity is dropped like any other."""
    rest = OWN_SEQUENCES.sub("", shown(text).getvalue())

    assert not [
        c for c in rest if (unicodedata.category(c) == "Cc" and c not in "\n\r") or c == "\u202e"
    ]


ATTACKS = [
    *("\x1b]52;c;ZXZpbA==\x07", "\x1b]0;title\x07", "\x1b]8;;http://e\x1b\\", "\x1b[2J", "\x1bc"),
    *("\x9b31m", "\x9d0;t\x9c", "\x1bP+q544e\x1b\\", "\x1b[?1049h", "\r", "\x07", "\x08", "\u202e"),
    *(
        "text ",
        "\n",
        "```\n",
        "`",
        "**",
        "[l](http://a.b)",
        "| a |\n|---|\n",
        "- ",
        "# ",
        "&#27;[1m",
    ),
    *("![i](", ")", "<", ">", "<b\x1b[1m>"),
]


@given(st.lists(st.sampled_from(ATTACKS), max_size=20).map("".join), st.integers(1, 7))
@settings(max_examples=120, deadline=None)
def test_only_own_sequences_reach_the_terminal(text, step):
    """Whatever a model writes, in whatever pieces, the terminal gets nothing it could abuse."""
    terminal = Terminal(40, 10)
    markdown = MarkdownStream(console_on(terminal), frame_s=0, clock=FakeClock())
    for at in range(0, len(text), step):
        markdown.feed(text[at : at + step])
    markdown.finish()
    rest = OWN_SEQUENCES.sub("", terminal.getvalue())

    assert not [c for c in rest if unicodedata.category(c) == "Cc" and c not in "\n\r"]
    assert "\u202e" not in rest


def test_html_is_text():
    """Tags are shown, not dropped with what they enclose; `<br>` breaks the line."""
    lines = shown("Use <b>bold</b>.\n\n<div>\nkept\n</div>\n\none<br>two\n").lines()

    assert lines == ["Use <b>bold</b>.", "", "<div>", "kept", "</div>", "", "one", "two"]


def test_line_breaks_stay():
    """Lines of a poem stay lines."""
    assert shown("roses\nviolets\n").lines() == ["roses", "violets"]


def test_image_is_named():
    """An image is named with its text and address."""
    assert shown("![a cat](https://x.y/cat.png)").text() == "[image: a cat] (https://x.y/cat.png)"


def test_table_is_aligned():
    """Columns are aligned as the table says."""
    lines = shown("| left | right | mid |\n|:--|--:|:-:|\n| a | 1 | x |\n| bb | 22 | y |\n").lines()

    assert re.fullmatch(r" a +1 +x", lines[2])
    assert re.fullmatch(r" bb +22 +y", lines[3])
    assert lines[2].index("1") == lines[3].rindex("2")


def test_table_that_does_not_fit_becomes_lines():
    """On a narrow screen each cell is a line behind its column's name, and nothing is cut off."""
    text = (
        "| Name | Backend | Latency | Notes |\n|--|--|--|--|\n| primary | openai | 8 ms | first |\n"
    )

    assert shown(text, 30).lines() == [
        "Name: primary",
        "Backend: openai",
        "Latency: 8 ms",
        "Notes: first",
    ]


def test_deep_nesting_keeps_its_text():
    """On a narrow screen deep nesting stops indenting rather than squeezing the text away."""
    text = "\n".join("  " * n + f"- level{n}" for n in range(14))
    found = re.findall(r"level(\d+)", shown(text, 40).text())

    assert found == [str(n) for n in range(14)]


def test_no_trailing_spaces():
    """Rows of text are not padded: padding wraps on a resize, and is copied."""
    terminal = shown("A paragraph.\n\n- item\n\n> quote\n")

    assert not re.search(r" +(\x1b\[[0-9;?]*[a-zA-Z])*\n", terminal.getvalue())


def test_nothing_is_erased_below_the_cursor():
    """ED is not used: erased from the top of the screen, tmux keeps it in its scrollback."""
    terminal = Terminal(40, 10)
    markdown = MarkdownStream(console_on(terminal), frame_s=0, clock=FakeClock())
    for char in "# Head\n\ntext **bold** text\n\n- a\n- b\n":
        markdown.feed(char)
    markdown.finish()

    assert not re.search(r"\x1b\[\d*J", terminal.getvalue())


def test_encoding_that_lacks_a_character_does_not_fail():
    """A terminal that speaks ASCII gets question marks, not an error."""

    class Ascii(io.TextIOWrapper):
        def isatty(self):
            return True

    file = Ascii(io.BytesIO(), encoding="ascii")
    console = Console(file=file, force_terminal=True, width=40, height=10, color_system=None)
    markdown = MarkdownStream(console)
    markdown.feed("- naïve\n")
    markdown.finish()

    assert b"na?ve" in file.buffer.getvalue()


@pytest.mark.parametrize("width", [40, 80])
def test_code_is_copied_as_it_is(width):
    """A line of code that is wider than the screen is one line, and nothing is added to any."""
    code = "def f(a, b, *arguments, **keywords):  # a comment that goes on and on\n    return 1"
    terminal = shown(f"Look:\n\n```python\n{code}\n```\n\nEnd\n", width)
    rows = OWN_SEQUENCES.sub("", terminal.getvalue()).replace("\r", "").split("\n")

    assert code.split("\n", maxsplit=1)[0] in rows
    assert "    return 1" in rows
