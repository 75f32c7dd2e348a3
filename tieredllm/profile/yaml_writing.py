"""Write plain values as YAML that reads back as the same values."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

__all__ = ["scalar", "written"]

Remark = Callable[[str, Any], str | None]
"""Gives the comment that goes behind a key's value, if any."""

_WORD = r"[A-Za-z0-9_./@+,()-]+"
_PLAIN = re.compile(rf"(?=.*[A-Za-z])(?=[A-Za-z0-9_./]){_WORD}([ :]{_WORD})*")
_READ_AS_OTHER = re.compile(
    r"(y|n|yes|no|on|off|true|false|null|\.inf|\.nan|[0-9.][0-9a-fox_.:e+-]*)", re.IGNORECASE
)
"""Texts that YAML 1.1 or 1.2 may read as something else."""
_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t", "\r": "\\r"}


def written(values: Mapping[str, Any], remark: Remark | None = None) -> str:
    """Write a mapping, one key a line.

    Args:
        values: strings, numbers, truth values, None, and lists and mappings of them.
        remark: gives comments.
    """
    if not values:
        return "{}\n"
    return "\n".join(_mapping(values, 0, remark or (lambda _key, _value: None))) + "\n"


def scalar(value: str | float | bool | None) -> str:
    """Write one value; text is plain where that is safe, else in double quotes."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        plain = _PLAIN.fullmatch(value) and not _READ_AS_OTHER.fullmatch(value)
        return value if plain else f'"{"".join(map(_escaped, value))}"'
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    number = repr(value)
    # YAML 1.1 wants a point in every number with an exponent.
    return number.replace("e", ".0e") if "e" in number and "." not in number else number


def _escaped(character: str) -> str:
    if character in _ESCAPES:
        return _ESCAPES[character]
    if character.isprintable():
        return character
    code = ord(character)
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _mapping(values: Mapping[str, Any], indent: int, remark: Remark) -> list[str]:
    lines = []
    space = "  " * indent
    for key, value in values.items():
        start = f"{space}{scalar(key)}:"
        if isinstance(value, Mapping) and value:
            lines += [start, *_mapping(value, indent + 1, remark)]
        elif _is_list(value) and value:
            lines += [start, *_sequence(value, indent + 1, remark)]
        else:
            comment = remark(key, value)
            lines.append(f"{start} {_flat(value)}" + (f"  # {comment}" if comment else ""))
    return lines


def _sequence(values: Sequence[Any], indent: int, remark: Remark) -> list[str]:
    lines = []
    space = "  " * indent
    for value in values:
        if isinstance(value, Mapping) and value:
            first, *rest = _mapping(value, indent + 1, remark)
            lines += [f"{space}- {first.lstrip()}", *rest]
        elif _is_list(value) and value:
            lines += [f"{space}-", *_sequence(value, indent + 1, remark)]
        else:
            lines.append(f"{space}- {_flat(value)}")
    return lines


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _flat(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{}"
    return "[]" if _is_list(value) else scalar(value)
