"""Turn a rule's pattern into a regular expression that matches whole words.

Patterns are regular expressions of the `regex` package, which can
be stopped: the standard library's `re` has no time limit, and one careless pattern would hang the
last tier.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

from tieredllm.rules.limits import refusal
from tieredllm.rules.text import straight

if TYPE_CHECKING:
    from regex import Pattern

__all__ = ["compiled", "pattern_mistake"]

UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]"
)
"""Letters of scripts written without spaces: Thai, Lao, Burmese, Khmer, Japanese, Chinese. Where
words are not told apart in writing, a pattern matches anywhere."""


@lru_cache(maxsize=4096)
def compiled(source: str) -> Pattern[str]:
    """Compile a pattern: in any case, and between the limits of words.

    A pattern of other letters than ASCII takes longer to compile, since full case folding (`ß` is
    `SS`) is switched on for it.

    Raises:
        regex.error: it is no regular expression.
    """
    import regex

    text = straight(source)
    flags = regex.IGNORECASE if text.isascii() else regex.IGNORECASE | regex.FULLCASE
    if UNSPACED.search(text):
        return regex.compile(text, flags)
    return regex.compile(rf"(?<!\w)(?:{text})(?!\w)", flags)


def pattern_mistake(source: str) -> str | None:
    """Say what is wrong with a pattern; None when it can be used."""
    import regex

    refused = refusal(source)
    if refused:
        return refused
    try:
        # By itself first: `a)|(?:b` would be one pattern more within our brackets.
        regex.compile(straight(source))
        matches_nothing = compiled(source).search("", timeout=0.05)
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
