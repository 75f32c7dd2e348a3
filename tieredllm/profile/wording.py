"""Word what is wrong with a value, and what would be right."""

from __future__ import annotations

import re
from math import isfinite

import msgspec.inspect as types

from tieredllm.profile.tree import Node, Scalar, Sequence
from tieredllm.redaction import is_address, looks_like_key, mask_text

__all__ = ["choices", "described", "not_a_name", "suggestion", "unknown_key", "why_not"]

_SHOWN_CHARACTERS = 40
_NUMBER_AND_UNIT = re.compile(r"[-+]?[0-9.]+\s*(ms|s|sec|seconds|m|min|minutes|h|hours|%|k|tokens)")
_SECRETS = frozenset(
    {"api_key", "apikey", "key", "token", "secret", "password", "webhook", "webhook_url"}
)
"""Keys under which people paste secrets."""


def choices(info: types.Type) -> list[types.Type]:
    """Take a union apart."""
    if isinstance(info, types.UnionType):
        return [choice for part in info.types for choice in choices(part)]
    return choices(info.type) if isinstance(info, types.Metadata) else [info]


def described(info: types.Type) -> str:
    """Say what a type takes, for instance `a number above 0, at most 1`."""
    match info:
        case types.Metadata():
            words = (info.extra or {}).get("means") or described(info.type)
        case types.UnionType():
            words = _joined([word for part in info.types for word in _parts(part)])
        case types.LiteralType():
            words = _joined(_parts(info))
        case types.StrType():
            words = "text that is not empty" if info.min_length else "text"
        case types.BoolType():
            words = "true or false"
        case types.NoneType():
            words = "null"
        case types.IntType():
            words = f"a whole number {_range(info)}"
        case types.FloatType():
            words = f"a number {_range(info)}"
        case types.VarTupleType():
            words = "a list with at least one item" if info.min_length else "a list"
        case _:
            words = "a mapping (lines of `key: value`)"
    return str(words)


def why_not(node: Node, info: types.Type, label: str) -> str:
    """Say what was given instead, and how to put it right where that can be told."""
    if isinstance(node, Sequence):
        return "not an empty list" if not node.items else "not a list"
    if not isinstance(node, Scalar):
        return "not a mapping"
    if label.rstrip("`").endswith("_env") and isinstance(node.value, str):
        return not_a_name(node.value)
    return f"not {_shown(node)}{_hint(node, info)}"


def not_a_name(value: str) -> str:
    """Say why a text is not the name of a variable, without showing what may be a secret."""
    if is_address(value):
        return "not the address itself: put that into the variable, and the variable's name here"
    if looks_like_key(value):
        return (
            "not the key itself: keep that with `tieredllm keys set NAME`, and put the NAME here, "
            "such as OPENAI_API_KEY"
        )
    if value.startswith("$"):
        return "without the `$`"
    return "such as OPENAI_API_KEY: letters, digits and `_`, no digit first"


def unknown_key(key: str, info: types.StructType) -> str:
    """Say that there is no such key, and which one may be meant."""
    known = [field.encode_name for field in info.fields]
    start = f"unknown key `{_cut(mask_text(key))}`"
    if key.lower() in _SECRETS:
        names = [name for name in known if name.endswith("_env")]
        if names:
            return (
                f"{start}: a profile holds no secrets; give the name of a variable as `{names[0]}`"
                " and keep the value with `tieredllm keys set NAME`"
            )
    for field in info.fields:
        inner = field.type
        if isinstance(inner, types.StructType) and key in {f.encode_name for f in inner.fields}:
            return f"{start}: it belongs under `{field.encode_name}`"
    near = suggestion(key, known)
    return f"{start}: {near or 'known are ' + ', '.join(known)}"


def suggestion(word: str, known: list[str]) -> str | None:
    """Give `did you mean …?` when a known word is near."""
    from difflib import get_close_matches

    near = get_close_matches(word.lower(), known, n=1)
    return f"did you mean `{near[0]}`?" if near else None


def _hint(node: Scalar, info: types.Type) -> str:
    """Give `: what to do`, or nothing when the message says it all."""
    takes = described(info)
    if isinstance(node.value, str):
        hint = _text_hint(node, info, takes)
        if hint is None and "number" in takes:
            hint = _number_hint(node)
    elif node.value is not None and ("text" in takes or "name" in takes):
        spelled = node.text.lower() not in {"true", "false"} and isinstance(node.value, bool)
        read = f"YAML reads it as {'true' if node.value else 'false'}, so " if spelled else ""
        hint = f"{read}put it in quotes"
    else:
        hint = None
    return f": {hint}" if hint else ""


def _text_hint(node: Scalar, info: types.Type, takes: str) -> str | None:
    text = node.text.strip().lower()
    if takes == "true or false" and text in {"true", "false", "yes", "no", "on", "off"}:
        return "remove the quotes"
    if "null" in takes and text in {"none", "null", "nil"}:
        return "write null, without quotes"
    words = [
        str(value)
        for choice in choices(info)
        if isinstance(choice, types.LiteralType)
        for value in choice.values
    ]
    return suggestion(text, words)


def _number_hint(node: Scalar) -> str | None:
    text = node.text.strip()
    if _NUMBER_AND_UNIT.fullmatch(text):
        return "write the number alone, without a unit"
    try:
        number = float(text.replace("_", ""))
    except ValueError:
        return None
    if not isfinite(number):
        return None
    if node.quoted:
        return "remove the quotes"
    reads = "" if text.lstrip("+-").startswith("0") else "YAML reads it as text, so "
    return f"{reads}write {number:.15g}"


def _parts(info: types.Type) -> list[str]:
    if isinstance(info, types.LiteralType):
        return [str(value) for value in info.values]
    return [described(info)]


def _shown(node: Scalar) -> str:
    if node.value is None:
        return "null" if node.text else "nothing"
    if isinstance(node.value, str):
        return f"the text `{_cut(mask_text(node.value))}`" if node.value else "empty text"
    return f"`{_cut(node.text)}`"


def _cut(text: str) -> str:
    shown = "".join(character if character.isprintable() else "?" for character in text)
    return shown if len(shown) <= _SHOWN_CHARACTERS else shown[: _SHOWN_CHARACTERS - 1] + "…"


def _joined(words: list[str]) -> str:
    *first, last = words
    comma = "," if last == "null" else ""
    return f"{', '.join(first)}{comma} or {last}" if first else last


def _range(info: types.IntType | types.FloatType) -> str:
    parts = []
    if info.gt is not None:
        parts.append(f"above {info.gt}")
    if info.ge is not None:
        parts.append(f"from {info.ge}" if info.le is not None else f"of at least {info.ge}")
    if info.le is not None:
        parts.append(f"up to {info.le}")
    return " ".join(parts)
