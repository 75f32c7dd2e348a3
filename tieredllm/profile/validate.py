"""Check nodes against the types of the schema, and word every mistake with its place.

The types, ranges and patterns are those of `profile.schema`, as msgspec describes them. msgspec
itself stops at the first mistake, knows no lines, and cannot say what would be right ("remove the
quotes", "write the number alone, without a unit", "did you mean …?"). Pydantic could do the first
two, at a tenth of a second for each start.
"""

from __future__ import annotations

import re
from math import isfinite
from types import UnionType
from typing import TypeGuard

import msgspec.inspect as types

from tieredllm.errors import Mistake
from tieredllm.profile.nodes import ErrorNode, ListNode, MappingNode, Node, ScalarNode
from tieredllm.redaction import is_address, looks_like_key, mask_text

__all__ = ["check", "describe", "not_a_name", "suggestion"]

_SHOWN_CHARACTERS = 40
_NUMBER_AND_UNIT = re.compile(r"[-+]?[0-9.]+\s*(ms|s|sec|seconds|m|min|minutes|h|hours|%|k|tokens)")
_SECRETS = frozenset(
    {"api_key", "apikey", "key", "token", "secret", "password", "webhook", "webhook_url"}
)
"""Keys under which people paste secrets."""


def check(node: Node, model: type, *, complete: bool = True) -> list[Mistake]:
    """Check a whole file.

    Args:
        node: the file's tree.
        model: the struct it should be.
        complete: whether required keys must be there; not when others are inherited.

    Returns:
        Every mistake, in the order they are found.
    """
    checker = _Checker(complete=complete)
    checker.node(node, types.type_info(model), "the file")
    return checker.mistakes


class _Checker:
    """Walk a tree and its types side by side."""

    def __init__(self, *, complete: bool) -> None:
        self.mistakes: list[Mistake] = []
        self._complete = complete

    def node(self, node: Node, info: types.Type, label: str) -> None:
        """Check one value; `label` names it in a message."""
        parts = flatten_union(info)
        match node:
            case ErrorNode():
                return
            case MappingNode():
                self._mapping(node, parts, info, label)
            case ListNode():
                self._sequence(node, parts, info, label)
            case ScalarNode():
                if not any(_fits(node, choice) for choice in parts):
                    self._wrong(node, info, label)

    def _wrong(self, node: Node, info: types.Type, label: str) -> None:
        message = f"{label} must be {describe(info)}, {explain_mismatch(node, info, label)}"
        self.mistakes.append(node.place.mistake(message))

    def _mapping(
        self, node: MappingNode, parts: list[types.Type], info: types.Type, label: str
    ) -> None:
        for choice in parts:
            if isinstance(choice, types.StructType):
                self._struct(node, choice)
                return
            if isinstance(choice, types.DictType):
                name = label.strip("`")
                for key, entry in node.entries.items():
                    self.node(entry.node, choice.value_type, f"`{name}.{key}`")
                return
        self._wrong(node, info, label)

    def _struct(self, node: MappingNode, info: types.StructType) -> None:
        fields = {field.encode_name: field for field in info.fields}
        for key, entry in node.entries.items():
            if key in fields:
                self.node(entry.node, fields[key].type, f"`{key}`")
            else:
                self.mistakes.append(entry.place.mistake(unknown_key(key, info)))
        for key, field in fields.items():
            if field.required and self._complete and key not in node.entries:
                message = f"`{key}` is missing: give {describe(field.type)}"
                self.mistakes.append(node.place.mistake(message))

    def _sequence(
        self, node: ListNode, parts: list[types.Type], info: types.Type, label: str
    ) -> None:
        for choice in parts:
            if isinstance(choice, types.VarTupleType):
                for number, item in enumerate(node.items, start=1):
                    self.node(item, choice.item_type, f"item {number} of {label}")
                if len(node.items) < (choice.min_length or 0):
                    self._wrong(node, info, label)
                return
        self._wrong(node, info, label)


def _fits(node: ScalarNode, info: types.Type) -> bool:
    """Whether a value is of a type, and in its range."""
    value = node.value
    match info:
        case types.NoneType():
            fits = value is None
        case types.BoolType():
            fits = isinstance(value, bool)
        case types.LiteralType():
            fits = isinstance(value, str) and value in info.values
        case types.StrType():
            fits = isinstance(value, str) and _text_fits(value, info)
        case types.IntType():
            fits = _is_number(value, int) and _in_range(value, info)
        case types.FloatType():
            fits = _is_number(value, int | float) and _in_range(value, info)
        case _:
            fits = False
    return fits


def _is_number(value: object, kind: type | UnionType) -> TypeGuard[float]:
    """Whether a value is a number; in Python a truth value is one too."""
    return isinstance(value, kind) and not isinstance(value, bool)


def _text_fits(text: str, info: types.StrType) -> bool:
    return len(text) >= (info.min_length or 0) and (
        info.pattern is None or re.search(info.pattern, text) is not None
    )


def _in_range(number: float, info: types.IntType | types.FloatType) -> bool:
    return (
        (info.ge is None or number >= info.ge)
        and (info.gt is None or number > info.gt)
        and (info.le is None or number <= info.le)
        and (info.lt is None or number < info.lt)
    )


def flatten_union(info: types.Type) -> list[types.Type]:
    """Take a union apart."""
    if isinstance(info, types.UnionType):
        return [choice for part in info.types for choice in flatten_union(part)]
    return flatten_union(info.type) if isinstance(info, types.Metadata) else [info]


def describe(info: types.Type) -> str:
    """Return what a type takes, for instance `a number above 0, at most 1`."""
    match info:
        case types.Metadata():
            words = (info.extra or {}).get("means") or describe(info.type)
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


def explain_mismatch(node: Node, info: types.Type, label: str) -> str:
    """Return what was given instead, and how to put it right where that can be told."""
    if isinstance(node, ListNode):
        return "not an empty list" if not node.items else "not a list"
    if not isinstance(node, ScalarNode):
        return "not a mapping"
    if label.rstrip("`").endswith("_env") and isinstance(node.value, str):
        return not_a_name(node.value)
    return f"not {_shown(node)}{_hint(node, info)}"


def not_a_name(value: str) -> str:
    """Return why a text is not the name of a variable, without showing what may be a secret."""
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
    """Return that there is no such key, and which one may be meant."""
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
    """Return `did you mean …?` when a known word is near."""
    from difflib import get_close_matches

    near = get_close_matches(word.lower(), known, n=1)
    return f"did you mean `{near[0]}`?" if near else None


def _hint(node: ScalarNode, info: types.Type) -> str:
    """Return `: what to do`, or nothing when the message says it all."""
    takes = describe(info)
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


def _text_hint(node: ScalarNode, info: types.Type, takes: str) -> str | None:
    text = node.text.strip().lower()
    if takes == "true or false" and text in {"true", "false", "yes", "no", "on", "off"}:
        return "remove the quotes"
    if "null" in takes and text in {"none", "null", "nil"}:
        return "write null, without quotes"
    words = [
        str(value)
        for choice in flatten_union(info)
        if isinstance(choice, types.LiteralType)
        for value in choice.values
    ]
    return suggestion(text, words)


def _number_hint(node: ScalarNode) -> str | None:
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
    return [describe(info)]


def _shown(node: ScalarNode) -> str:
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
