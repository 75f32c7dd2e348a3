"""Estimate token counts for models whose tokenizer is not at hand."""

from __future__ import annotations

import string

__all__ = ["estimate_tokens"]

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
    """Give a number of tokens that the text will hardly exceed.

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
