"""Guess how Markdown that is cut off in the middle is meant, so that a live view does not flicker.

Only what is shown while an answer is still coming depends on these guesses, never what stays.
"""

from __future__ import annotations

import re

__all__ = ["close_markup", "hold_back"]

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
