"""Cut Markdown that is still growing into pieces that can be shown one after the other.

A `Unit` is the smallest piece that is shown for good: a top-level block, or one item of a top-level
list. In CommonMark a block that has been closed by the start of the next one never changes again,
whatever follows, provided that one looks at complete lines only ("# " begins a heading, "#a" does
not). So all units of the complete lines but the last are final. The one exception is a link
reference that is defined after its use: text that is already shown keeps its brackets.

What is still unfinished is guessed at (`hold_back`, `close_markup`), so that a live view does not
flicker. Only what is shown while an answer is still coming depends on these guesses, never what
stays.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import msgspec
from markdown_it import MarkdownIt
from markdown_it.ruler import RuleOptionsType
from markdown_it.rules_block import StateBlock, reference
from markdown_it.rules_core import StateCore, inline, text_join
from markdown_it.rules_inline import StateInline
from markdown_it.token import Token

__all__ = ["BlockParser", "Unit", "close_markup", "final_units", "hold_back"]

_DEEPEST = 32
"""The nesting that is rendered: the parser drops text that is deeper, so it is shown as it is."""

_LISTS = frozenset({"bullet_list_open", "ordered_list_open"})

_LINE_BREAK_TAG = re.compile(r"<br\s*/?>", re.IGNORECASE)


class Unit(msgspec.Struct, frozen=True, kw_only=True):
    """One piece of a document, ready to be rendered."""

    tokens: list[Token]
    """The parser's tokens; a list item is wrapped in a list of its own."""
    start: int
    """Its first line in the source, 0-based."""
    end: int
    """The line after its last."""
    number: int | None = None
    """The number of an item of an ordered list."""
    in_list: bool = False
    """Whether it goes on with the list of the unit before it."""
    set_off: bool = True
    """Whether a blank row parts it from the unit before it."""

    @property
    def is_roomy(self) -> bool:
        """Whether it is an item with more than a paragraph and lists: a blank row follows it."""
        return (
            sum(
                token.level == 2 and token.nesting >= 0 and token.type not in _LISTS
                for token in self.tokens[2:-2]
            )
            > 1
        )

    @property
    def is_code(self) -> bool:
        """Whether it is a fenced code block."""
        return self.tokens[0].type == "fence"

    @property
    def may_become_a_table(self) -> bool:
        """Whether it is one line that looks like a table's header."""
        return (
            self.tokens[0].type == "paragraph_open"
            and self.end - self.start == 1
            and self.tokens[1].content.startswith("|")
        )


class BlockParser:
    """Parse a document piece by piece, remembering the link references that were defined.

    HTML is not interpreted: tags are text and are shown, all but `<br>`, which models use to break
    lines inside table cells. Nor are formulas of TeX and footnotes: both stay as they are written.
    """

    def __init__(self) -> None:
        self._markdown = MarkdownIt("commonmark", {"html": False, "maxNesting": _DEEPEST})
        self._markdown.enable(["strikethrough", "table"])
        interrupts: RuleOptionsType = {"alt": ["paragraph", "reference", "blockquote", "list"]}
        self._markdown.block.ruler.before("fence", "tex", _tex_block, interrupts)
        self._markdown.block.ruler.at("reference", _link_reference)
        self._markdown.inline.ruler.before("escape", "tex", _tex_inline)
        self._env: dict[str, Any] = {}

    def units(self, source: str, after: Unit | None = None) -> list[Unit]:
        """Parse the blocks of complete lines, not yet what is inside them.

        Args:
            source: what is left of the document, from the start of a unit.
            after: the unit before it, when it was an item of a list that the source may go on with.
        """
        return self._units(source, self._env, after)

    def preview(self, source: str, after: Unit | None = None) -> list[Unit]:
        """Parse a source that ends anywhere, as it most likely is meant; all the way.

        A last line that may still become anything is left out, and emphasis, code and links that
        are open at the end are closed.
        """
        references = self._env.get("references")
        env = {"references": dict(references)} if references else {}
        units = self._units(hold_back(source), env, after)
        for unit in units:
            self._parse_inline(unit, env, unfinished=unit is units[-1])
        return units

    def finish(self, unit: Unit) -> Unit:
        """Parse what is inside a unit's blocks."""
        self._parse_inline(unit, self._env, unfinished=False)
        return unit

    def _units(self, source: str, env: dict[str, Any], after: Unit | None) -> list[Unit]:
        tokens: list[Token] = []
        self._markdown.block.parse(source, self._markdown, env, tokens)
        units: list[Unit] = []
        for unit in _cut(tokens, after):
            if any(token.level >= _DEEPEST - 1 for token in unit.tokens):
                return [*units, _verbatim(source, unit.start)]
            units.append(unit)
        return units

    def _parse_inline(self, unit: Unit, env: dict[str, Any], *, unfinished: bool) -> None:
        if unfinished:
            leaves = [token for token in unit.tokens if token.content]
            if leaves and leaves[-1].type == "inline":
                leaves[-1].content = close_markup(leaves[-1].content)
        state = StateCore("", self._markdown, env, unit.tokens)
        inline(state)
        text_join(state)
        for index, token in enumerate(unit.tokens):
            if token.type == "inline":
                if index > 1 and unit.tokens[index - 2].type == "list_item_open":
                    unit.tokens[index - 2].meta["source"] = token.content
                token.children = list(_plainer(token.children or []))


def final_units(units: list[Unit], lines: list[str]) -> list[Unit]:
    """Return those units that will not change, whatever lines follow.

    A link reference's definition leaves no token, and its title may go on in the next line, where a
    paragraph seems to begin; so a unit right below one does not end the unit before.
    """
    count = len(units) - 1
    while count > 0:
        start, before = units[count].start, units[count - 1].end
        if before >= start or not lines[start - 1].strip():
            break
        count -= 1
    return units[: max(count, 0)]


def _cut(tokens: list[Token], after: Unit | None) -> Iterator[Unit]:
    """Cut a document's tokens at the top level, and top-level lists at their items."""
    at = 0
    while at < len(tokens):
        end = _end_of(tokens, at)
        opening = tokens[at]
        if opening.type in _LISTS:
            yield from _items(tokens[at:end], after if at == 0 else None)
        else:
            first, last = opening.map or [0, 0]
            yield Unit(tokens=tokens[at:end], start=first, end=last)
        at = end


def _items(tokens: list[Token], after: Unit | None) -> Iterator[Unit]:
    opening, closing = tokens[0], tokens[-1]
    number = None
    if opening.type == "ordered_list_open":
        number = int(opening.attrs.get("start", 1))
        if after is not None and after.number is not None:
            number = after.number + 1
    at = 1
    while at < len(tokens) - 1:
        end = _end_of(tokens, at)
        first, last = tokens[at].map or [0, 0]
        head = opening.copy(attrs={} if number is None else {"start": number})
        after = Unit(
            tokens=[head, *tokens[at:end], closing],
            start=first,
            end=last,
            number=number,
            in_list=after is not None,
            set_off=after is None or after.is_roomy,
        )
        yield after
        number = None if number is None else number + 1
        at = end


def _verbatim(source: str, start: int) -> Unit:
    """Make all of a source from a line on one block that is shown as it is."""
    lines = source.splitlines(keepends=True)
    text = Token("code_block", "code", 0, content="".join(lines[start:]))
    return Unit(tokens=[text], start=start, end=len(lines))


def _end_of(tokens: list[Token], at: int) -> int:
    """Return the index behind the block that begins at an index."""
    depth = 0
    for index in range(at, len(tokens)):
        depth += tokens[index].nesting
        if depth == 0:
            return index + 1
    return len(tokens)


def _plainer(children: list[Token]) -> Iterator[Token]:
    """Turn what is inside a block into what a terminal can show.

    A line break stays a line break (models mean it; they don't wrap their prose), a link shows
    where it leads when its text does not, and an image becomes a link to it.
    """
    opened: list[tuple[str, list[str]]] = []
    for token in children:
        if token.type == "softbreak":
            yield Token("hardbreak", "br", 0)
        elif token.type == "image":
            yield from _image(token)
        elif token.type == "text":
            yield from _text(token)
        else:
            yield token
        if opened:
            opened[-1][1].append(token.content)
        if token.type == "link_open":
            opened.append((str(token.attrs.get("href", "")), []))
        elif token.type == "link_close" and opened:
            href, parts = opened.pop()
            yield from _destination(href, "".join(parts))


def _text(token: Token) -> Iterator[Token]:
    if "<" not in token.content:
        yield token
        return
    for index, part in enumerate(_LINE_BREAK_TAG.split(token.content)):
        if index:
            yield Token("hardbreak", "br", 0)
        if part:
            yield token.copy(content=part)


def _image(token: Token) -> Iterator[Token]:
    source = str(token.attrs.get("src", ""))
    label = token.content or source.rstrip("/").rsplit("/", 1)[-1]
    yield Token("text", "", 0, content=f"[image: {label}]" if label else "[image]")
    yield from _destination(source, "")


def _destination(href: str, label: str) -> Iterator[Token]:
    if not href or label.strip() in {href, href.removeprefix("mailto:"), href.removesuffix("/")}:
        return
    yield Token("text", "", 0, content=" (")
    yield Token("link_open", "a", 1, attrs={"href": href})
    yield Token("text", "", 0, content=href)
    yield Token("link_close", "a", -1)
    yield Token("text", "", 0, content=")")


_TEX_BLOCKS = {"$$": "$$", r"\[": r"\]"}
"""What a displayed formula begins with, alone on its line → what ends it."""

_TEX = re.compile(
    r"\$\$[^$]{1,2000}\$\$|(?<!\w)\\\([A-Za-z]\\\)"
    r"|\\\((?P<round>.{1,2000}?)\\\)|\\\[(?P<square>.{1,2000}?)\\\]"
    r"|\$(?![\s$])(?:\\.|[^$`\\\n]){1,500}(?<!\s)\$(?!\w)",
    re.DOTALL,
)
"""A formula in a line, of bounded length, so that none makes the search long. A lone `$` is money
where Pandoc takes it for that (its manual, "Math"); one before a letter begins a variable's name.
"""

_OF_FORMULAS = re.compile(r"[\\_^=+*/<>]")
r"""What tells `\(a_1\)` from Markdown's escaped brackets (`\[Your Name\]`); `\(x\)` needs none."""


def _tex_block(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """Take a displayed formula as code: its lines are no list, heading or emphasis.

    It ends with its mark, a blank line (there is none in a formula) or its container, so that what
    is to come changes nothing above.
    """
    opening = state.src[state.bMarks[start] + state.tShift[start] : state.eMarks[start]].strip()
    if opening not in _TEX_BLOCKS or state.is_code_block(start):
        return False
    if silent:
        return True
    line = start + 1
    while line < end and not state.isEmpty(line) and state.sCount[line] >= state.blkIndent:
        line += 1
        if (
            state.src[state.bMarks[line - 1] : state.eMarks[line - 1]].strip()
            == _TEX_BLOCKS[opening]
        ):
            break
    token = state.push("fence", "code", 0)
    token.info, token.map = "latex", [start, line]
    token.content = state.getLines(start, line, state.blkIndent, keepLastLF=True)
    state.line = line
    return True


def _link_reference(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """Take a link's definition, but no footnote: that is to be read."""
    is_footnote = state.src.startswith("[^", state.bMarks[start] + state.tShift[start])
    return not is_footnote and reference(state, start, end, silent)


def _tex_inline(state: StateInline, silent: bool) -> bool:
    """Take a formula as text."""
    found = _TEX.match(state.src, state.pos) if state.src[state.pos] in "$\\" else None
    if found is None:
        return False
    within = found["round"] or found["square"]
    if within is not None and _OF_FORMULAS.search(within) is None:
        return False
    if not silent:
        state.pending += found[0]
    state.pos = found.end()
    return True


_MARKERS = re.compile(r"[ \t>]*(?:[-=*+_#`~|:.\s]*|\d{1,9}[.)]?\s*)")
"""A line that may still become a heading, rule, list item, fence, table row or emphasis."""

_OPEN_LINK = re.compile(r"\[[^\]\n]*\]\([^()\s]*\Z")
"""A link whose destination is not complete."""

_MARK = re.compile(r"\\.|`+|\*\*|~~", re.DOTALL)


def hold_back(source: str) -> str:
    """Leave out a last line of which nothing but markers has come yet.

    Args:
        source: Markdown that ends anywhere.
    """
    complete, line_end, last = source.rpartition("\n")
    return complete + line_end if _MARKERS.fullmatch(last) else source


def close_markup(content: str) -> str:
    """Close the code, strong emphasis, strike-through and link that are open at the end.

    What was opened at the very end, and holds nothing yet, is left out. Single asterisks and
    underscores are left alone: they are as often no emphasis.

    Args:
        content: the inside of one block.
    """
    if _OPEN_LINK.search(content):
        return content + ")"
    open_marks: list[tuple[str, int]] = []
    for match in _MARK.finditer(content):
        mark = match[0]
        if mark[0] == "\\":
            continue
        if open_marks and open_marks[-1][0][0] == "`":
            if mark == open_marks[-1][0]:
                open_marks.pop()
        elif any(mark == opened for opened, _ in open_marks):
            while open_marks.pop()[0] != mark:
                pass
        else:
            open_marks.append((mark, match.end()))
    for mark, end in reversed(open_marks):
        if not content[end:].strip():
            content = content[: end - len(mark)]
        elif not content[end].isspace() or mark[0] == "`":
            content = content.rstrip() + mark
    return content
