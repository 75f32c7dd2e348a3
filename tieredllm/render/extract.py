"""Take the first fenced code block out of an answer."""

from __future__ import annotations

__all__ = ["first_code_block"]


def first_code_block(markdown: str) -> str | None:
    """Return the content of the first fenced code block, or None if there is none.

    The rules are CommonMark's (0.31, section 4.5): backticks or tildes, closed by a fence at least
    as long as the opening one, indented by up to three spaces or standing in a list item or a
    quotation (whose indentation is taken off), and ended by the end of its container when it is not
    closed. Indented code is no fenced code. The parser is only loaded when the text has a fence.

    Args:
        markdown: the text of an answer.

    Returns:
        The code with its line ends, without the fences and the info string; empty for an empty
        block.
    """
    if "```" not in markdown and "~~~" not in markdown:
        return None
    from markdown_it import MarkdownIt
    from markdown_it.token import Token

    parser = MarkdownIt("commonmark", {"html": False})
    tokens: list[Token] = []
    text = markdown.replace("\r\n", "\n").replace("\r", "\n")
    parser.block.parse(text, parser, {}, tokens)
    return next((token.content for token in tokens if token.type == "fence"), None)
