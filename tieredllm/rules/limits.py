"""Refuse patterns that would take too much to compile.

A time limit stops a search, but not the compiling of a pattern, for which `regex` writes out each
counted repeat: `(?:(?:a{1000}){1000}){1000}` fills the memory.
"""

from __future__ import annotations

import re

__all__ = ["MAX_CHARACTERS", "MAX_REPEATS", "refusal"]

MAX_CHARACTERS = 2000
"""A longer pattern takes too long to compile, and no one can read it."""

MAX_REPEATS = 5000
"""Counted repeats multiplied through brackets; a query has fewer characters when it is matched."""

TOKEN = re.compile(
    r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]"  # an escape, a character class
    r"|(?P<open>\()|(?P<close>\))"  # a bracket
    r"|\{(?P<least>\d*)(?:,(?P<most>\d*))?\}"  # a counted repeat
    r"|.",
    re.DOTALL,
)


def refusal(source: str) -> str | None:
    """Say why a pattern is refused unseen; None when it may be compiled."""
    if len(source) > MAX_CHARACTERS:
        return f"a pattern of {len(source)} characters: {MAX_CHARACTERS} are the most"
    # How often the last thing is written out, and the most in each bracket that is open.
    last, most = 1, [1]
    for token in TOKEN.finditer(source):
        if token["open"]:
            most.append(1)
            last = 1
        elif token["close"] and len(most) > 1:
            last = most.pop()
        elif token["least"] is not None:
            last *= max(_number(token["least"]), _number(token["most"]), 1)
        else:
            last = 1
        most[-1] = max(most[-1], last)
        if last > MAX_REPEATS:
            return f"{token[0][:20]} repeats something more than {MAX_REPEATS} times in all"
    return None


def _number(digits: str | None) -> int:
    # A thousand digits are no number anybody means, and Python refuses more than 4300.
    return int(digits[:9]) if digits else 0
