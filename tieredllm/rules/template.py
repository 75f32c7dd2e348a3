"""Fill in the texts of answers, and leave out what cannot be filled in.

`{support_contact}` names a variable of the profile, `{match.order_id}` a named group of the pattern
that matched, `{ref_code}` the reference code. `{{` and `}}` stand for single braces. A sentence one
of whose names has no value is left out, so nothing unfilled is ever printed.

A text is taken apart into sentences where `.`, `!`, `?` or an ellipsis is followed by white space
and no small letter, after their full-width forms, and at the end of each line. A response given as
a list is already taken apart: each of its parts stays or goes as a whole.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

__all__ = ["OWN_VARIABLES", "capture_mistakes", "fill", "names", "template_mistakes"]

OWN_VARIABLES = frozenset({"ref_code"})
"""Variables that always have a value; a profile cannot change them."""

MATCH = "match."

PLACEHOLDER = re.compile(r"\{\{|\}\}|\{([A-Za-z_]\w*|match\.[^\W\d]\w*)\}")
END = re.compile(
    r"(?<=[.!?\u2026])[\"')\]\u00bb\u201d\u2019]*(\s+)|(?<=[\u3002\uff01\uff1f])|(\n\s*)"
)
BRACKETED = re.compile(
    r"\[(?:support contact|support email/phone|help url|hours|business hours|contact details"
    r"|REF-FALLBACK)\]",
    re.IGNORECASE,
)
"""The placeholders of the document this tool implements, which nothing fills in here."""

Parts = str | tuple[str, ...]


def fill(response: Parts, values: Mapping[str, str]) -> str:
    """Fill in a response.

    Args:
        response: a text, or its parts.
        values: the value of each name; a value is never looked at for names of its own.

    Returns:
        What can be said; empty when nothing is left.
    """
    parts = _sentences(response) if isinstance(response, str) else [(p, " ") for p in response]
    said: list[str] = []
    for sentence, gap in parts:
        if all(name in values for name in names(sentence)):
            said += [PLACEHOLDER.sub(lambda found: _value(found, values), sentence), gap]
        elif said and "\n" in gap:
            # The paragraph ends all the same.
            said[-1] = gap
    return "".join(said).strip()


def _value(found: re.Match[str], values: Mapping[str, str]) -> str:
    name = found.group(1)
    return found.group(0)[0] if name is None else values[name]


def names(response: Parts) -> set[str]:
    """Return the names a response refers to."""
    return {name for text in _texts(response) for name in PLACEHOLDER.findall(text) if name}


def _sentences(text: str) -> list[tuple[str, str]]:
    """Take a text apart into sentences, each with the gap after it."""
    sentences = []
    start = 0
    for end in END.finditer(text):
        gap = end.group(1) or end.group(2) or ""
        stop = end.end() - len(gap)
        sentence = text[start:stop]
        starts_small = text[end.end() : end.end() + 1].islower() and "\n" not in gap
        # "1." and "e.g. this" end no sentence.
        if starts_small or not any(char.isalpha() for char in sentence):
            continue
        sentences.append((sentence, gap))
        start = end.end()
    return [*sentences, (text[start:], "")]


def template_mistakes(response: Parts) -> list[str]:
    """Return everything that is wrong with a response by itself."""
    mistakes = []
    for text in _texts(response):
        rest = PLACEHOLDER.sub("", text)
        mistakes += [
            f"{brace!r} is no placeholder: write {{name}} or {{match.name}}, and a brace of the "
            "text twice ({{ or }})"
            for brace in re.findall(r"\{[^{}]{0,40}\}?|\}", rest)
        ]
        mistakes += [
            f"{bracketed} would be printed as it stands: write a placeholder such as "
            "{support_contact}"
            for bracketed in BRACKETED.findall(text)
        ]
    return mistakes


def capture_mistakes(response: Parts, groups: Collection[str]) -> list[str]:
    """Name what a response wants to repeat of a query and no pattern of its intent captures.

    Args:
        response: a text, or its parts.
        groups: the named groups of the intent's patterns.
    """
    wanted = (name.removeprefix(MATCH) for name in names(response) if name.startswith(MATCH))
    return [
        f"{{match.{name}}}: no pattern of this intent has a group (?P<{name}>\u2026)"
        for name in sorted(wanted)
        if name not in groups
    ]


def _texts(response: Parts) -> tuple[str, ...]:
    return (response,) if isinstance(response, str) else response
