"""Say in plain words what the YAML parser found, and where."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tieredllm.errors import Mistake
from tieredllm.profile.tree import Place

if TYPE_CHECKING:
    from yaml import MarkedYAMLError

__all__ = ["explained", "forbidden"]

_TAB = "a tab cannot indent in YAML: use spaces"
_IN_WORDS = (
    ("tab character", _TAB),
    (
        "mapping values are not allowed",
        "a `:` cannot be here: quote the value, or fix this line's indentation",
    ),
    ("could not find expected ':'", "a key needs a `:` and a space after it"),
    ("did not find expected key", "this fits no key above it: fix its indentation, or the quotes"),
    ("did not find expected '-'", "this fits no list item above it: fix its indentation"),
    ("',' or ']'", "the list opened with `[` lacks a `,` or its `]`"),
    ("',' or '}'", "the mapping opened with `{` lacks a `,` or its `}`"),
    ("unexpected end of stream", "the quotes opened here are never closed"),
    ("expected node content", "a value is missing here"),
    ("scanning an alias", "a value that starts with `*` must be in quotes"),
    ("scanning an anchor", "a value that starts with `&` must be in quotes"),
    ("scanning a block scalar", "text after `|` or `>` starts on the next line, indented"),
    ("sequence entries are not allowed", "a `- ` cannot be here: fix this line's indentation"),
    ("expected <document start>", "this fits nothing above it: fix its indentation, or quote it"),
    ("unknown escape character", "this backslash is no escape: use single quotes, or write `\\\\`"),
)
"""What scanner.c and parser.c of https://github.com/yaml/libyaml say, and what it means."""
_OPENED = ("',' or ']'", "',' or '}'", "unexpected end of stream")
"""Problems best shown where the unfinished thing began: they are found at the file's end."""


def explained(exc: MarkedYAMLError, text: str, file: str) -> Mistake:
    """Turn a scanner's or parser's error into a mistake."""
    problem = exc.problem or "this is not YAML"
    mark = exc.problem_mark or exc.context_mark
    if exc.context_mark is not None and any(words in problem for words in _OPENED):
        mark = exc.context_mark
    place = Place(file, mark.line + 1, mark.column + 1) if mark is not None else Place(file, 1, 1)
    if "cannot start any token" in problem:
        return place.mistake(_bad_start(text, place))
    said = f"{exc.context}: {problem}" if exc.context else problem
    for found, words in _IN_WORDS:
        if found in said:
            return place.mistake(words)
    return place.mistake(f"not YAML: {said}")


def forbidden(text: str, file: str) -> Mistake:
    """Find the character that made the parser refuse the text."""
    for number, line in enumerate(text.split("\n"), start=1):
        for column, character in enumerate(line, start=1):
            if not _allowed(character):
                message = f"the character U+{ord(character):04X} is not allowed in YAML: remove it"
                return Place(file, number, column).mistake(message)
    return Place(file, 1, 1).mistake("a character is not allowed in YAML")


def _allowed(character: str) -> bool:
    """Whether YAML 1.1 takes a character (section 5.1 of https://yaml.org/spec/1.1/)."""
    code = ord(character)
    return (
        character in "\t\r\x85"
        or 0x20 <= code <= 0x7E
        or 0xA0 <= code <= 0xD7FF
        or (0xE000 <= code <= 0xFFFD and code != 0xFEFF)
        or code >= 0x10000
    )


def _bad_start(text: str, place: Place) -> str:
    lines = text.split("\n")
    line = lines[place.line - 1] if place.line <= len(lines) else ""
    character = line[place.column - 1 : place.column]
    if character == "\t":
        return _TAB
    return f"a value cannot start with {character!r}: put it in quotes"
