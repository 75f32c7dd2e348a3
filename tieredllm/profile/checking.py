"""Check a tree against the types of the schema, and report every mistake with its place.

The types, ranges and patterns are those of `profile.schema`, as msgspec describes them; msgspec
itself stops at the first mistake and knows no lines.
"""

from __future__ import annotations

import re
from types import UnionType
from typing import TypeGuard

import msgspec.inspect as types

from tieredllm.errors import Mistake
from tieredllm.profile.tree import Broken, Mapping, Node, Scalar, Sequence
from tieredllm.profile.wording import choices, described, unknown_key, why_not

__all__ = ["check"]


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
        parts = choices(info)
        match node:
            case Broken():
                return
            case Mapping():
                self._mapping(node, parts, info, label)
            case Sequence():
                self._sequence(node, parts, info, label)
            case Scalar():
                if not any(_fits(node, choice) for choice in parts):
                    self._wrong(node, info, label)

    def _wrong(self, node: Node, info: types.Type, label: str) -> None:
        message = f"{label} must be {described(info)}, {why_not(node, info, label)}"
        self.mistakes.append(node.place.mistake(message))

    def _mapping(
        self, node: Mapping, parts: list[types.Type], info: types.Type, label: str
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
        if not _takes_anything(parts):
            self._wrong(node, info, label)

    def _struct(self, node: Mapping, info: types.StructType) -> None:
        fields = {field.encode_name: field for field in info.fields}
        for key, entry in node.entries.items():
            if key in fields:
                self.node(entry.node, fields[key].type, f"`{key}`")
            else:
                self.mistakes.append(entry.place.mistake(unknown_key(key, info)))
        for key, field in fields.items():
            if field.required and self._complete and key not in node.entries:
                message = f"`{key}` is missing: give {described(field.type)}"
                self.mistakes.append(node.place.mistake(message))

    def _sequence(
        self, node: Sequence, parts: list[types.Type], info: types.Type, label: str
    ) -> None:
        for choice in parts:
            if isinstance(choice, types.VarTupleType):
                for number, item in enumerate(node.items, start=1):
                    self.node(item, choice.item_type, f"item {number} of {label}")
                if len(node.items) < (choice.min_length or 0):
                    self._wrong(node, info, label)
                return
        if not _takes_anything(parts):
            self._wrong(node, info, label)


def _takes_anything(parts: list[types.Type]) -> bool:
    return any(isinstance(choice, types.AnyType) for choice in parts)


def _fits(node: Scalar, info: types.Type) -> bool:
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
            fits = isinstance(info, types.AnyType)
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
