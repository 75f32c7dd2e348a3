"""Take the first fenced code block out of an answer."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["CodeBlock", "first_code_block"]


class CodeBlock(NamedTuple):
    """A fenced code block."""

    code: str
    """With its line ends, without the fences and the info string; empty for an empty block."""
    is_closed: bool
    """Whether it ends with a fence: else what follows may be missing."""


def first_code_block(markdown: str) -> CodeBlock | None:
    """Return the first fenced code block, or None if there is none.

    The rules are CommonMark's (0.31, section 4.5): backticks or tildes, closed by a fence at least
    as long as the opening one, indented by up to three spaces or standing in a list item or a
    quotation (whose indentation is taken off), and ended by the end of its container when it is not
    closed. Indented code is no fenced code. The parser is only loaded when the text has a fence.

    Args:
        markdown: the text of an answer.
    """
    if "```" not in markdown and "~~~" not in markdown:
        return None
    from markdown_it import MarkdownIt
    from markdown_it.token import Token

    parser = MarkdownIt("commonmark", {"html": False})
    tokens: list[Token] = []
    text = markdown.replace("\r\n", "\n").replace("\r", "\n")
    parser.block.parse(text, parser, {}, tokens)
    fence = next((token for token in tokens if token.type == "fence"), None)
    if fence is None or fence.map is None:
        return None
    # The lines of a fence that is closed are one more than the opening one and the code's.
    first, end = fence.map
    code = fence.content
    lines = code.count("\n") + (code != "" and not code.endswith("\n"))
    return CodeBlock(code, end - first > 1 + lines)
