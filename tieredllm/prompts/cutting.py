"""Cut a long text to a number of tokens: its head and tail stay, and the cut is named."""

from __future__ import annotations

from collections.abc import Callable, Sequence

__all__ = ["cut", "fair_shares"]

CHARACTERS_PER_TOKEN = 16
"""More than the average token of any tokenizer holds, except in runs of blanks: a text longer than
this times the budget is shortened before it is counted, so that megabytes are not tokenized."""

SNAP_CHARACTERS = 200
"""How far a cut may move to fall on a line's end."""


def cut(text: str, budget_tokens: int, count: Callable[[str], int]) -> str:
    """Cut a text to at most `budget_tokens`, keeping its head and its tail.

    Args:
        text: any text.
        budget_tokens: what it may take, in the tokens that `count` counts.
        count: the tokenizer's count, or a safe estimate.

    Returns:
        The text itself when it fits; else its head, a line that says how many characters were left
        out, and its tail. An empty string when not even that line fits.
    """
    window = 2 * budget_tokens * CHARACTERS_PER_TOKEN
    if len(text) <= window:
        tokens = count(text)
        if tokens <= budget_tokens:
            return text
        kept = len(text)
    else:
        kept = window
        tokens = count(_join(text, kept))
    while tokens > budget_tokens:
        # The share that should fit, a little less so that a few rounds are enough.
        kept = min(kept - 1, int(kept * budget_tokens / tokens * 0.97))
        if kept <= 0:
            return ""
        shortened = _join(text, kept)
        tokens = count(shortened)
    return _join(text, kept)


def _join(text: str, kept: int) -> str:
    head_end = (kept + 1) // 2
    tail_start = len(text) - kept // 2
    if kept > 4 * SNAP_CHARACTERS:
        newline = text.rfind("\n", head_end - SNAP_CHARACTERS, head_end)
        head_end = newline if newline >= 0 else head_end
        newline = text.find("\n", tail_start, tail_start + SNAP_CHARACTERS)
        tail_start = newline + 1 if newline >= 0 else tail_start
    left_out = tail_start - head_end
    return (
        f"{text[:head_end]}\n[... {left_out:,} of {len(text):,} characters left out here ...]\n"
        f"{text[tail_start:]}"
    )


def fair_shares(sizes: Sequence[int], budget: int) -> list[int]:
    """Share a budget among texts: the small ones whole, the large ones what is left, evenly.

    Args:
        sizes: each text's size, in tokens.
        budget: what all of them may take together, in tokens.

    Returns:
        Each text's share, never above its size; in the order of `sizes`.
    """
    shares = [0] * len(sizes)
    left = budget
    order = sorted(range(len(sizes)), key=lambda index: sizes[index])
    for done, index in enumerate(order):
        shares[index] = min(sizes[index], left // (len(sizes) - done))
        left -= shares[index]
    return shares
