"""Read Google-style docstrings: what a function does, and what its arguments mean.

The style is that of https://google.github.io/styleguide/pyguide.html, section 3.8.3.
"""

from __future__ import annotations

import inspect
import re

__all__ = ["described"]

_SECTION = re.compile(
    r"(Args|Arguments|Parameters|Returns?|Yields?|Raises|Examples?|Notes?|Attributes|Warnings?|"
    r"See Also|Todo|References?):\s*"
)
_ARGUMENTS = frozenset({"Args", "Arguments", "Parameters"})
_ARGUMENT = re.compile(r"\*{0,2}(\w+)\s*(?:\([^()]*(?:\([^()]*\)[^()]*)*\))?\s*:\s*(.*)")


def described(docstring: str | None) -> tuple[str, dict[str, str]]:
    """Give what is said before the first section, and what is said of each argument.

    Args:
        docstring: as it is in the source; None for none.
    """
    lines = inspect.cleandoc(docstring or "").splitlines()
    starts = [number for number, line in enumerate(lines) if _SECTION.fullmatch(line)]
    first = starts[0] if starts else len(lines)
    about = "\n".join(lines[:first]).strip()
    arguments: dict[str, str] = {}
    for start, end in zip(starts, [*starts, len(lines)][1:], strict=True):
        if lines[start].strip().rstrip(":") in _ARGUMENTS:
            arguments |= _arguments(lines[start + 1 : end])
    return about, arguments


def _arguments(lines: list[str]) -> dict[str, str]:
    """Read the lines of one section: those with the least indentation begin an argument."""
    indents = [len(line) - len(line.lstrip()) for line in lines if line.strip()]
    least = min(indents, default=0)
    found: dict[str, str] = {}
    name = ""
    for line in lines:
        text = line.strip()
        if text and len(line) - len(line.lstrip()) == least:
            argument = _ARGUMENT.fullmatch(text)
            name = argument[1] if argument else ""
            if argument:
                found[name] = argument[2]
        elif text and name:
            found[name] = f"{found[name]} {text}".strip()
    return found
