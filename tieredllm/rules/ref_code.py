"""Derive the code by which support finds a request again, and the answer that needs no rules."""

from __future__ import annotations

import re

__all__ = ["LAST_WORDS", "last_words", "ref_code"]

LAST_WORDS = (
    "No language model could answer, and the rules that answer in their place could not be used "
    "either. Please try again later; `tieredllm health` shows what is wrong.\n\n"
    "(A limited answer: no language model answered. Reference code: {ref_code}.)"
)
"""Said when even the built-in rules cannot be used."""

DIGITS = 8


def ref_code(request_id: str) -> str:
    """Return the reference code of a request.

    Args:
        request_id: the engine's are 32 hex digits; anything else works too.

    Returns:
        `REF-` and 8 upper-case hex digits: the id's first ones, or those of its SHA-256 when the id
        is not made of at least 8 hex digits.
    """
    if re.fullmatch(r"[0-9a-fA-F]{8,}", request_id):
        return f"REF-{request_id[:DIGITS].upper()}"
    import hashlib

    digest = hashlib.sha256(request_id.encode("utf-8", "surrogatepass")).hexdigest()
    return f"REF-{digest[:DIGITS].upper()}"


def last_words(code: str) -> str:
    """Return the one answer that needs no rules, with a reference code."""
    return LAST_WORDS.replace("{ref_code}", code)
