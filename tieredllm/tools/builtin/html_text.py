"""Turn HTML into text that reads like the page.

Own code rather than `html.parser`: that takes quadratic time on some broken pages
(CVE-2025-6069, python/cpython#135462, and again CVE-2026-15308, python/cpython#153030),
and this input is anybody's. Here each character is looked at a bounded number of times.
"""

from __future__ import annotations

import html
import re
import time

__all__ = ["title_and_text"]

MAX_TAG_CHARACTERS = 4096
"""A tag longer than this is cut at its first `>`; pages have images in theirs."""

MAX_S = 1.0
"""The longest this takes; what is read until then counts."""

_RAW = frozenset({"script", "style", "textarea", "title", "xmp", "iframe", "noframes", "noembed"})
"""Elements whose content is no markup (HTML standard, 13.2.5)."""

_UNSEEN = frozenset({"script", "style", "iframe", "noframes", "noembed", "textarea"})
_SKIPPED = frozenset({"template", "svg", "noscript", "select", "object", "canvas", "math"})
"""Elements whose whole content is left out."""

_HEADINGS = {f"h{level}": "#" * level + " " for level in range(1, 7)}
_PARAGRAPHS = frozenset(
    [
        *("address", "article", "aside", "blockquote", "details", "dialog", "div", "dl"),
        *("fieldset", "figcaption", "figure", "footer", "form", "header", "hgroup", "hr"),
        *("main", "menu", "nav", "ol", "p", "pre", "section", "summary", "table", "ul"),
    ]
)
_LINES = frozenset(["br", "dd", "dt", "li", "option", "tr", "caption", "legend"])
_CELLS = frozenset({"td", "th"})

_NAME = re.compile(r"/?[A-Za-z][^\s/>]{0,40}")
_TAG_END = re.compile(r"""(?:[^"'>]|"[^"]*"|'[^']*')*+>""")
_BLANKS = re.compile(r"[ \t\r\n\f\v\xa0]+")
_EMPTY_LINES = re.compile(r"\n{3,}")


def title_and_text(page: str) -> tuple[str, str]:
    """Return a page's title and its text; both may be empty."""
    reader = _Reader(page)
    reader.read()
    return reader.title, reader.text()


class _Reader:
    """Read a page from its beginning to its end."""

    def __init__(self, page: str) -> None:
        self._page = page
        self._at = 0
        self._out: list[str] = []
        self._breaks = 0
        """How many line ends go before the next text."""
        self._fresh = True
        """Whether a line has just begun, so that blanks mean nothing."""
        self._preformatted = 0
        self._skipping: str | None = None
        self._depth = 0
        self.title = ""

    def read(self) -> None:
        page, until = self._page, time.monotonic() + MAX_S
        for count in range(len(page) + 1):
            start = page.find("<", self._at)
            if start < 0:
                self._data(page[self._at :])
                return
            self._data(page[self._at : start])
            self._at = self._markup(start)
            if self._at < 0 or (count % 512 == 0 and time.monotonic() > until):
                return

    def text(self) -> str:
        lines = "".join(self._out).split("\n")
        return _EMPTY_LINES.sub("\n\n", "\n".join(line.rstrip() for line in lines)).strip()

    def _markup(self, start: int) -> int:
        """Read what begins with `<`; give where it ends, -1 for the end of the page."""
        page = self._page
        if page.startswith("<!--", start):
            end = page.find("-->", start + 4)
            return end + 3 if end >= 0 else -1
        if page.startswith(("<!", "<?"), start):
            end = page.find(">", start)
            return end + 1 if end >= 0 else -1
        found = _NAME.match(page, start + 1)
        if found is None:
            self._data("<")
            return start + 1
        end = self._tag_end(found.end())
        if end < 0:
            return -1
        name = found[0].lower()
        if name.startswith("/"):
            self._close(name[1:])
        else:
            self._open(name)
            if name in _RAW:
                return self._raw(name, end)
        return end

    def _tag_end(self, at: int) -> int:
        window = self._page[at : at + MAX_TAG_CHARACTERS]
        found = _TAG_END.match(window)
        if found:
            return at + found.end()
        end = self._page.find(">", at)
        return end + 1 if end >= 0 else -1

    def _raw(self, name: str, at: int) -> int:
        """Pass over content that is no markup; a title is kept."""
        found = re.compile(rf"</{name}(?=[\s/>])", re.IGNORECASE).search(self._page, at)
        end = found.start() if found else len(self._page)
        if name == "title" and not self.title and self._skipping is None:
            self.title = _BLANKS.sub(
                " ", html.unescape(self._page[at : min(end, at + 500)])
            ).strip()
        elif name not in _UNSEEN and name != "title":
            self._data(self._page[at:end])
        return end if found else -1

    def _open(self, name: str) -> None:
        if self._skipping is not None:
            self._depth += name == self._skipping
        elif name in _SKIPPED:
            self._skipping, self._depth = name, 1
        elif name in _HEADINGS:
            self._break(2)
            self._write(_HEADINGS[name])
        elif name in _PARAGRAPHS:
            self._break(2 if name in {"p", "pre", "table"} else 1)
            self._preformatted += name == "pre"
        elif name in _LINES:
            self._break(1)
            if name == "li":
                self._write("- ")
        elif name in _CELLS and not self._fresh:
            self._write(" | ")
            self._fresh = True

    def _close(self, name: str) -> None:
        if self._skipping is not None:
            self._depth -= name == self._skipping
            if self._depth == 0:
                self._skipping = None
        elif name in _HEADINGS or name in _PARAGRAPHS:
            self._break(2 if name in _HEADINGS or name in {"p", "pre", "table"} else 1)
            if name == "pre":
                self._preformatted = max(0, self._preformatted - 1)
        elif name in _LINES:
            self._break(1)

    def _break(self, lines: int) -> None:
        self._breaks = max(self._breaks, lines)
        self._fresh = True

    def _write(self, text: str) -> None:
        self._out += ["\n" * self._breaks, text]
        self._breaks = 0

    def _data(self, data: str) -> None:
        if not data or self._skipping is not None:
            return
        text = html.unescape(data)
        if not self._preformatted:
            text = _BLANKS.sub(" ", text)
            if self._fresh:
                text = text.lstrip(" ")
        if text:
            self._write(text)
            self._fresh = not self._preformatted and text.endswith(" ")
