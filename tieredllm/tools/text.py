"""Make what a tool gives fit for a model: no control characters, and no more than so much.

What a tool gives is data from outside. Escape sequences, control characters, bidirectional
overrides (CVE-2021-42574) and Unicode's tag characters, which carry text that nobody sees, are
taken out: none of them means anything to a model, and all of them can hide something from a person.
"""

from __future__ import annotations

import re

__all__ = ["MAX_RESULT_BYTES", "clean", "one_line", "shortened"]

MAX_RESULT_BYTES = 32 * 1024
"""The longest result of one call, in bytes of UTF-8: some 8,000 tokens of English."""

HEAD_SHARE = 0.75
"""How much of what is kept of a text that is too long is its beginning; the rest is its end."""

_ESCAPES = re.compile(
    "(?:\x1b\\[|\x9b)[0-?]*[ -/]*[@-~]?"  # control sequences (ECMA-48, 5.4)
    "|(?:\x1b[PX\\]^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x9c\n\r]*(?:\x07|\x1b\\\\|\x9c)?"  # strings
    "|\x1b[ -/]*[0-~]?"
)
_LINE_ENDS = re.compile("\r\n?|[\x0b\x0c\x85\u2028\u2029]")
_DROPPED = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x9f"
    "\u202a-\u202e\u2066-\u206f"
    "\ufeff\ufff9-\ufffb"
    "\U000e0000-\U000e007f]"
)
_SURROGATES = re.compile("[\ud800-\udfff]")


def clean(text: str) -> str:
    """Take out what is not text; line ends become line feeds, lone surrogates U+FFFD."""
    text = _ESCAPES.sub("", text)
    text = _LINE_ENDS.sub("\n", text)
    return _SURROGATES.sub("\ufffd", _DROPPED.sub("", text))


def one_line(text: str, limit: int) -> str:
    """Give a text as one clean line of at most `limit` characters."""
    line = " ".join(clean(text).split())
    return line if len(line) <= limit else line[: limit - 1].rstrip() + "…"


def shortened(text: str, max_bytes: int = MAX_RESULT_BYTES) -> str:
    """Cut the middle out of a text that is too long, and say so where it was.

    Args:
        text: clean text.
        max_bytes: the most it may have in UTF-8, the note about the cut included; at least 200.
    """
    raw = text.encode("utf-8", "replace")
    if len(raw) <= max_bytes:
        return text
    kept = max_bytes - 100  # room for the note
    head_bytes = int(kept * HEAD_SHARE)
    head = raw[:head_bytes].decode("utf-8", "ignore")
    tail = raw[len(raw) - (kept - head_bytes) :].decode("utf-8", "ignore")
    left_out = len(text) - len(head) - len(tail)
    return f"{head}\n[… {left_out} characters of this result are left out here …]\n{tail}"
