"""Derive the code by which support finds a request again."""

from __future__ import annotations

import re

__all__ = ["ref_code"]

DIGITS = 8


def ref_code(request_id: str) -> str:
    """Give the reference code of a request.

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
