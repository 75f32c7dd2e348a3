"""Prepare a query for matching.

It is cut to its first and last `END_CHARACTERS` characters, composed (NFC), freed of invisible
characters, its apostrophes made straight, its white space single, and its words freed of the
punctuation around them. What is inside a word stays: `AB-12`, `x.org`, `don't`.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping
from itertools import pairwise

from tieredllm.text import replace_surrogates

__all__ = ["correct_spelling", "normalize", "spelling_table", "straighten"]

END_CHARACTERS = 2000
"""A longer query is cut to this many characters from each end: what people want stands there."""

MAX_PARTIAL_WORD = 64
"""A word is cut off whole where the query is cut, unless it is longer than words are."""

APOSTROPHES = dict.fromkeys(map(ord, "\u2018\u2019\u201b\u02bc\u2032\u00b4\u0060\uff07"), "'")
INVISIBLE: dict[int, str | None] = dict.fromkeys(map(ord, "\u00ad\u200b\u2060\ufeff"))
_TABLE: dict[int, str | None] = {**APOSTROPHES, **INVISIBLE}

LEADING = "\"'\u201c\u201d\u201e\u00ab\u00bb\u00bf\u00a1*_"
TRAILING = LEADING + ".,;:!?\u2026\u3002\uff01\uff1f\uff0c"
DASHES = frozenset({"-", "--", "\u2013", "\u2014"})

SLIP_LETTERS = 5
"""Words this long have their slips put right; in shorter ones a slip makes another word."""

VOWELS = "aeiou"


def straighten(text: str) -> str:
    """Compose a text and make its apostrophes straight, as in a query."""
    return unicodedata.normalize("NFC", text).translate(APOSTROPHES)


def normalize(query: str) -> str:
    """Prepare a query for matching; see the module's docstring.

    Returns:
        At most 2 * `END_CHARACTERS` characters and an ellipsis between the two ends.
    """
    if len(query) <= 2 * END_CHARACTERS:
        return _tidied(query)
    head, tail = _ends(query)
    return f"{_tidied(head)} \u2026 {_tidied(tail)}"


def _ends(query: str) -> tuple[str, str]:
    """Cut out both ends, without the half words at the cuts: half of "they" is no "hey"."""
    head, tail = query[:END_CHARACTERS], query[-END_CHARACTERS:]
    if not query[END_CHARACTERS].isspace():
        whole, partial = _split_last(head)
        head = head if len(partial) > MAX_PARTIAL_WORD else whole
    if not query[-END_CHARACTERS - 1].isspace():
        partial = tail.split(None, 1)[0] if not tail[:1].isspace() and tail.split() else ""
        tail = tail if len(partial) > MAX_PARTIAL_WORD else tail[len(partial) :]
    return head, tail


def _split_last(text: str) -> tuple[str, str]:
    if text[-1:].isspace():
        return text, ""
    words = text.rsplit(None, 1)
    partial = words[-1] if words else ""
    return text[: len(text) - len(partial)], partial


def _tidied(text: str) -> str:
    # A lone surrogate (a byte of the command line that was no UTF-8) cannot be printed as JSON.
    text = unicodedata.normalize("NFC", replace_surrogates(text)).translate(_TABLE)
    # Once more: an invisible character may have stood between a letter and its accent.
    text = unicodedata.normalize("NFC", text)
    words = (word.lstrip(LEADING).rstrip(TRAILING) for word in text.split())
    return " ".join(word for word in words if word and word not in DASHES)


def spelling_table(spellings: Mapping[str, Iterable[str]]) -> dict[str, str]:
    """Return the right word for each misspelling.

    Args:
        spellings: right words with misspellings of them. In a word of `SLIP_LETTERS` letters or
            more the common slips are added by themselves: two neighbouring letters swapped, one
            left out, one doubled, one vowel taken for another. The first and the last letter are
            right in all but the swaps, so that `terror` is never read as `error`.
    """
    table: dict[str, str] = {}
    right = {word.casefold() for word in spellings}
    for word in spellings:
        folded = word.casefold()
        if len(folded) >= SLIP_LETTERS:
            for slip in _slips(folded):
                if slip not in right:
                    table.setdefault(slip, folded)
    for word, others in spellings.items():
        table.update((other.casefold(), word.casefold()) for other in others)
    return table


def _slips(word: str) -> Iterable[str]:
    for at, (one, two) in enumerate(pairwise(word[1:]), start=1):
        yield f"{word[:at]}{two}{one}{word[at + 2 :]}"
        yield word[:at] + word[at + 1 :]
        yield word[:at] + one + word[at:]
        if one in VOWELS:
            for vowel in VOWELS:
                yield word[:at] + vowel + word[at + 1 :]


def correct_spelling(text: str, table: Mapping[str, str]) -> str:
    """Put right the misspelled words of a normalized text."""
    if not table:
        return text
    return " ".join(table.get(word.casefold(), word) for word in text.split(" "))
