"""Say how each kind of Markdown block looks on a terminal, and render blocks into rows of a screen.

The elements are rich's, changed where needed: rich's own put headings in the middle, indent code,
drop the number of an empty list item, cut off long words in tables, and let the last item of a list
decide how far the first is indented.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

import msgspec
from markdown_it.token import Token
from rich import box
from rich.cells import cell_len
from rich.color import ColorSystem
from rich.console import Console, ConsoleOptions, RenderResult
from rich.markdown import (
    BlockQuote,
    CodeBlock,
    Heading,
    ListElement,
    ListItem,
    Markdown,
    MarkdownContext,
    MarkdownElement,
    Paragraph,
    TableElement,
)
from rich.segment import Segment
from rich.style import Style
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from tieredllm.text import clean

__all__ = ["Document", "Row", "Rows", "code_lines", "trimmed"]

_THEME = "monokai"
"""The colours of code, on their own background, so that they suit light and dark terminals."""

TASK = re.compile(r"\[([ xX])\] ")
"""How an item of a list of tasks begins (GitHub Flavored Markdown 0.29, section 5.3)."""

CODE_MARK = "┄┄┄"
"""Stands above code that has no background to be known by, on a line of its own."""

WIDEST_PROSE = 100
"""Columns beyond which the eye loses the line it reads; what has code or a table may be wider."""

WIDE = frozenset({"table_open", "fence", "code_block"})
"""The tokens of what is no prose, be it within a list."""

LEADING_BLANKS = re.compile(r"\A(?:[ \t]*\n)+")

_NARROWEST = 16
"""Columns below which nothing is indented any further: deep nesting must not squeeze text away."""


def trimmed(lines: list[list[Segment]]) -> list[list[Segment]]:
    """Leave out blank lines at the start and the end."""
    start, end = 0, len(lines)
    while start < end and _is_blank(lines[start]):
        start += 1
    while start < end and _is_blank(lines[end - 1]):
        end -= 1
    return lines[start:end]


def _is_blank(line: Sequence[Segment]) -> bool:
    return all(
        not segment.text.strip() and (segment.style is None or segment.style.bgcolor is None)
        for segment in line
    )


def code_lines(
    console: Console, options: ConsoleOptions, code: str, info: str
) -> list[list[list[Segment]]]:
    """Highlight code: for each of its lines, the rows it takes, at most as wide as the options say.

    A line is broken where the width ends, as a terminal breaks it, and nothing is added to it. Code
    of no named language, and all of it where there are no colours, has a mark above its first line.

    Args:
        console: whose theme is used.
        options: the width.
        code: blank lines at its start and end are left out, as of every block.
        info: what stands behind the opening fence; its first word names the language.
    """
    code = LEADING_BLANKS.sub("", code.rstrip()).expandtabs(4)
    if not code:
        return []
    background = Syntax.get_theme(_THEME).get_background_style()
    language = info.split(maxsplit=1)[0] if info.strip() else "text"
    try:
        text = Syntax("", language, theme=_THEME).highlight(code)
    except Exception:  # noqa: BLE001 - a lexer is anybody's plug-in, and colours are no answer
        text = Text(code)
    text.stylize_before(background)
    has_colors = console.color_system is not None and not console.no_color
    mark = Text("" if has_colors and info.strip() else CODE_MARK, style="dim")
    if not _can_show(console, CODE_MARK):
        mark = Text("-" * len(mark.plain), style="dim")
    return [
        *([[list(mark.render(console))]] if mark else []),
        *(
            [
                list(piece.render(console))
                for piece in line.divide(_breaks(line.plain, options.max_width))
            ]
            for line in text.split("\n", allow_blank=True)[: code.count("\n") + 1]
        ),
    ]


def _can_show(console: Console, text: str) -> bool:
    try:
        text.encode(console.encoding)
    except (LookupError, UnicodeError):
        return False
    return True


def _breaks(line: str, width: int) -> list[int]:
    """Return where a terminal of this width breaks a line, as offsets of characters."""
    if len(line) * 2 <= width:
        return []
    breaks, cells = [], 0
    for index, character in enumerate(line):
        size = cell_len(character)
        if cells + size > width and cells:
            breaks.append(index)
            cells = 0
        cells += size
    return breaks


class _Code(CodeBlock):
    """Show code from the first column on, so that it can be copied."""

    @classmethod
    def create(cls, markdown: Markdown, token: Token) -> _Code:  # noqa: ARG003 - rich's interface
        """Keep what stands behind the opening fence, also if that is nothing."""
        return cls(token.info or "", _THEME)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for rows in code_lines(console, options, str(self.text), self.lexer_name):
            for row in rows:
                yield from row
                yield Segment.line()


class _Heading(Heading):
    """Show every heading at the left, where the text is, and none dim."""

    LEVEL_ALIGN = {}  # noqa: RUF012 - rich's own class variable

    def __init__(self, tag: str) -> None:
        # Dim are the program's own remarks: rich 15 has h6 so, and a model could write one.
        super().__init__("h5" if tag == "h6" else tag)


class _Quote(BlockQuote):
    """Show a quotation behind a bar."""

    def __init__(self) -> None:
        super().__init__()
        self.children: list[MarkdownElement] = []

    def on_child_close(self, context: MarkdownContext, child: MarkdownElement) -> bool:  # noqa: ARG002
        self.children.append(child)
        return False

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        bar = Segment("▌ ", self.style)
        yield from _behind(console, options, self.children, markers=(bar, bar), style=self.style)


class _Item(ListItem):
    """A list's item.

    Args:
        source: its first text as it was written, where an escaped bracket begins no task.
    """

    def __init__(self, source: str) -> None:
        super().__init__()
        self.is_task = TASK.match(source) is not None
        self.children: list[MarkdownElement] = []

    def on_child_close(self, context: MarkdownContext, child: MarkdownElement) -> bool:  # noqa: ARG002
        self.children.append(child)
        return False

    @classmethod
    def create(cls, markdown: Markdown, token: Token) -> _Item:  # noqa: ARG003
        return cls(token.meta.get("source", ""))

    def take_box(self) -> str | None:
        """Take the mark of a task out of the text, and return its box; None where it has none."""
        first = self.children[0] if self.children else None
        if not self.is_task or not isinstance(first, Paragraph):
            return None
        found = TASK.match(first.text.plain)
        if found is None:  # `x` is a link, which shows where it leads
            return None
        first.text = first.text[found.end() :]
        return "☐" if found[1] == " " else "☑"

    @property
    def is_roomy(self) -> bool:
        """Whether a blank row sets the next item off: it has more than a paragraph and lists."""
        return sum(not isinstance(child, ListElement) for child in self.children) > 1


class _List(ListElement):
    """Show a list so that no item depends on those below it: a number has two columns and a dot."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        items = [item for item in self.items if isinstance(item, _Item)]
        for index, item in enumerate(items):
            if index and items[index - 1].is_roomy:
                yield Segment.line()
            if self.list_type == "ordered_list_open":
                number = (1 if self.list_start is None else self.list_start) + index
                style = console.get_style("markdown.item.number")
                marker = Segment(f"{number:>2}. ", style)
            else:
                box = item.take_box() if _can_show(console, "☐☑") else None
                marker = Segment(f" {box or '•'} ", console.get_style("markdown.item.bullet"))
            markers = (marker, Segment(" " * marker.cell_length))
            yield from _behind(console, options, item.children, markers=markers, style=item.style)


def _behind(
    console: Console,
    options: ConsoleOptions,
    elements: Sequence[MarkdownElement],
    *,
    markers: tuple[Segment, Segment],
    style: Style,
) -> Iterator[Segment]:
    """Render elements behind markers: one before the first line, one before the other lines.

    A blank line parts the elements, but for a list and what introduces it.
    """
    first, other = markers
    width = options.max_width - first.cell_length
    if width < _NARROWEST:
        yield first
        yield Segment.line()
        first = other = Segment("")
        width = options.max_width
    options = options.update(width=width, height=None)
    lines: list[list[Segment]] = []
    for element in elements:
        part = trimmed(console.render_lines(element, options, style=style, pad=False))
        if lines and part and not isinstance(element, ListElement):
            lines.append([])
        lines += part
    for line in lines or [[]]:
        yield first
        yield from line
        yield Segment.line()
        first = other


class _Table(TableElement):
    """Show a table that loses nothing: where its columns don't fit, one line for each cell."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        header = self.header.row if self.header is not None else None
        heads = [cell.content for cell in header.cells] if header is not None else []
        body = self.body.rows if self.body is not None else []
        rows = [[cell.content for cell in row.cells] for row in body]
        if _needed_width([heads, *rows]) > options.max_width:
            yield from _records(heads, rows)
            return
        table = Table(box=box.SIMPLE, pad_edge=False, style="markdown.table.border")
        for head in heads:
            title = head.copy()
            title.stylize("markdown.table.header")
            table.add_column(title, overflow="fold")
        for row in rows:
            table.add_row(*row)
        yield table


def _needed_width(rows: Sequence[Sequence[Text]]) -> int:
    """Return the columns a readable table needs: its longest words, each up to twelve cells."""
    columns = max(map(len, rows), default=0)
    widest = [1] * columns
    for row in rows:
        for index, cell in enumerate(row):
            longest = max((Segment(word).cell_length for word in cell.plain.split()), default=1)
            widest[index] = max(widest[index], min(longest, 12))
    return sum(widest) + 3 * columns


def _records(heads: Sequence[Text], rows: Sequence[Sequence[Text]]) -> Iterator[Text]:
    """Render a table row by row, each cell on a line behind its column's name."""
    if not rows:
        yield Text(" | ").join(heads)
    for number, row in enumerate(rows):
        if number:
            yield Text()
        for head, cell in zip(heads, row, strict=False):
            line = head.copy()
            line.stylize("markdown.table.header")
            line.justify = "left"
            yield line.append(": ").append_text(cell)


class Document(Markdown):
    """Render tokens that are already parsed: whole blocks, put into `parsed` before each use."""

    elements = {  # noqa: RUF012 - rich's own class variable
        **Markdown.elements,
        "fence": _Code,
        "code_block": _Code,
        "heading_open": _Heading,
        "blockquote_open": _Quote,
        "bullet_list_open": _List,
        "ordered_list_open": _List,
        "list_item_open": _Item,
        "table_open": _Table,
    }

    def __init__(self) -> None:
        super().__init__("", code_theme=_THEME)


_COLOR_SYSTEMS = {
    "standard": ColorSystem.STANDARD,
    "256": ColorSystem.EIGHT_BIT,
    "truecolor": ColorSystem.TRUECOLOR,
    "windows": ColorSystem.STANDARD,
}
"""What rich calls the colour systems: `Console.color_system` against `Style.render`."""

_SAFE_URL = re.compile(r"(?:https?|mailto):[\x21-\x7e]{1,2000}", re.IGNORECASE)
"""A destination that may be made clickable: nothing local, no code, only printable ASCII."""


class Row(msgspec.Struct, frozen=True):
    """One row of the screen."""

    text: str
    """What is written: clean text and this program's own escape sequences, no line end."""
    cells: int
    """The columns it takes."""
    goes_on: bool = False
    """Whether the next row is the rest of the same line: the terminal breaks it by itself, so that
    who copies it gets one line."""


class Rows:
    """Render blocks for one console.

    Every text that gets into a row is cleaned here, whatever the parser made of it: an entity such
    as `&#x202e;` is only now a character.

    Args:
        console: whose colours and theme are used; nothing is written to it.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._document = Document()  # once: it comes with a parser of its own
        system = console.color_system
        self._colors = _COLOR_SYSTEMS.get(system) if system is not None else None

    def block(self, tokens: Sequence[Token], width: int) -> list[Row]:
        """Render the tokens of one block, without blank rows above and below it."""
        is_prose = WIDE.isdisjoint(token.type for token in tokens)
        options = self._options(min(width, WIDEST_PROSE) if is_prose else width)
        self._document.parsed = list(tokens)
        lines = self._console.render_lines(self._document, options, pad=False)
        return [self._row(line) for line in trimmed(lines)]

    def code(self, token: Token, width: int) -> list[list[Row]]:
        """Render a fenced block: the rows of each line of code, without blank ones at its end."""
        lines = code_lines(self._console, self._options(width), token.content, token.info)
        return [
            [
                msgspec.structs.replace(self._row(row), goes_on=number < len(line))
                for number, row in enumerate(line, 1)
            ]
            for line in lines
        ]

    def _options(self, width: int) -> ConsoleOptions:
        return self._console.options.update(width=width, height=None)

    def _row(self, line: Iterable[Segment]) -> Row:
        parts: list[str] = []
        cells = 0
        for segment in self._unpadded(line):
            text = clean(segment.text).replace("\n", " ")
            cells += Segment(text).cell_length
            parts.append(self._styled(text, segment.style))
        return Row("".join(parts), cells)

    def _unpadded(self, line: Iterable[Segment]) -> list[Segment]:
        """Leave out spaces at the end that nobody sees: they would wrap, and be copied."""
        segments = list(Segment.remove_color(line) if self._console.no_color else line)
        while segments:
            text, style, _ = segments[-1]
            if style is not None and (style.bgcolor or style.underline or style.reverse):
                break
            segments.pop()
            if kept := text.rstrip():
                segments.append(Segment(kept, style))
                break
        return segments

    def _styled(self, text: str, style: Style | None) -> str:
        if style is None or self._colors is None:
            return text
        link = style.link
        if link is None:
            return style.render(text, color_system=self._colors)
        # Rich gives each link a random id, which would make equal rows differ.
        styled = style.update_link(None).render(text, color_system=self._colors)
        if not _SAFE_URL.fullmatch(link):
            return styled
        return f"\x1b]8;;{link}\x1b\\{styled}\x1b]8;;\x1b\\"
