"""Turn a rule's pattern into a regular expression that matches whole words.

Patterns are regular expressions of the `regex` package, which can be stopped: the standard
library's `re` has no time limit, and one careless pattern would hang the last tier. The limit stops
a search, but not the compiling of a pattern, for which `regex` writes out each counted repeat:
`(?:(?:a{1000}){1000}){1000}` fills the memory. Such patterns are refused unseen.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

from tieredllm.rules.text import straighten

if TYPE_CHECKING:
    from regex import Pattern

__all__ = ["MAX_CHARACTERS", "MAX_REPEATS", "compile_pattern", "pattern_mistake", "reject_reason"]

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

UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]"
)
"""Letters of scripts written without spaces: Thai, Lao, Burmese, Khmer, Japanese, Chinese. Where
words are not told apart in writing, a pattern matches anywhere."""


@lru_cache(maxsize=4096)
def compile_pattern(source: str) -> Pattern[str]:
    """Compile a pattern: in any case, and between the limits of words.

    A pattern of other letters than ASCII takes longer to compile, since full case folding (`ß` is
    `SS`) is switched on for it.

    Raises:
        regex.error: it is no regular expression.
    """
    import regex

    text = straighten(source)
    flags = regex.IGNORECASE if text.isascii() else regex.IGNORECASE | regex.FULLCASE
    if UNSPACED.search(text):
        return regex.compile(text, flags)
    return regex.compile(rf"(?<!\w)(?:{text})(?!\w)", flags)


def pattern_mistake(source: str) -> str | None:
    """Return what is wrong with a pattern; None when it can be used."""
    import regex

    refused = reject_reason(source)
    if refused:
        return refused
    try:
        # By itself first: `a)|(?:b` would be one pattern more within our brackets.
        regex.compile(straighten(source))
        matches_nothing = compile_pattern(source).search("", timeout=0.05)
    except regex.error as exc:
        return f"not a regular expression: {exc}, in {_shown(source)}"
    except TimeoutError:
        return None
    except (ValueError, OverflowError, RecursionError, KeyError, IndexError, TypeError) as exc:
        # What `regex` lets through for patterns such as `(?:a{99999999999999999999})`.
        return f"not a regular expression: {exc or type(exc).__name__}, in {_shown(source)}"
    if matches_nothing:
        return f"{_shown(source)} matches the empty text, so it would match every query"
    return None


def _shown(source: str) -> str:
    short = source if len(source) <= 60 else f"{source[:59]}\u2026"
    return repr(short)


def reject_reason(source: str) -> str | None:
    """Return why a pattern is refused unseen; None when it may be compiled."""
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
