"""Keep the results of tools short enough for a model."""

from __future__ import annotations

__all__ = ["MAX_RESULT_BYTES", "shortened"]

MAX_RESULT_BYTES = 32 * 1024
"""The longest result of one call, in bytes of UTF-8: some 8,000 tokens of English."""

HEAD_SHARE = 0.75
"""How much of what is kept of a text that is too long is its beginning; the rest is its end."""


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
