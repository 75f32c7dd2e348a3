"""Estimate token counts for models whose tokenizer is not at hand."""

from __future__ import annotations

__all__ = ["BYTES_PER_TOKEN", "estimate_tokens"]

BYTES_PER_TOKEN = 3
"""UTF-8 bytes taken as one token.

English prose has about 4 bytes a token in the vendors' tokenizers, code about 3, and Chinese,
Japanese and Korean about one token for each 3-byte character. Three is therefore on the safe side
for prose and about right for the rest: a text that fits by this estimate fits.
"""


def estimate_tokens(text: str) -> int:
    """Give a number of tokens the text will hardly exceed."""
    return -(-len(text.encode("utf-8", "surrogatepass")) // BYTES_PER_TOKEN)
