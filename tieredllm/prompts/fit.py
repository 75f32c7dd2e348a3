"""Estimate tokens, and cut long texts to a number of them: head and tail stay, the cut is named."""

from __future__ import annotations

import string
from collections.abc import Callable, Sequence

__all__ = ["cut", "estimate_tokens", "fair_shares"]

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


# Tokens a byte of each class takes, on the safe side. Measured with a small vocabulary (SmolLM2's
# 49,152 tokens), which needs more tokens than the 200,000 and more of the cloud models:
# a byte of English prose is 0.22 of a token and one of German 0.38, a digit is one whole token (so
# too in Gemma's and Gemini's tokenizer; elsewhere up to three digits share one), a sign between
# letters is mostly one, and a byte of other scripts is 0.41 (Cyrillic) to 0.55 (Chinese). Blanks
# belong to the word they precede.
_WEIGHTS = (
    (string.ascii_letters.encode(), 0.3),
    (string.digits.encode(), 1.0),
    (string.punctuation.encode(), 0.75),
    (b"\n\t", 0.5),
    (bytes(range(0x80, 0x100)), 0.42),
)


def estimate_tokens(text: str) -> int:
    """Return a number of tokens that the text will hardly exceed.

    About a third of the bytes for prose, half of them for logs and other text full of numbers.
    Prose and code have about 0.25 tokens a byte in the cloud models' tokenizers, so a text that
    fits by this estimate fits; only unbroken random characters (Base64, hashes) take more.
    """
    data = text.encode("utf-8", "surrogatepass")
    weight = 0.0
    left = data
    for members, share in _WEIGHTS:
        rest = left.translate(None, members)
        weight += share * (len(left) - len(rest))
        left = rest
    return -(-int(weight * 100) // 100) if weight else int(bool(data))
