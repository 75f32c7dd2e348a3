"""The parts of a YAML document; each knows its place in a file."""

from __future__ import annotations

from typing import Any

import msgspec

from tieredllm.errors import Mistake

__all__ = [
    "Entry",
    "ErrorNode",
    "ListNode",
    "MappingNode",
    "Node",
    "Place",
    "ScalarNode",
    "to_builtins",
]


class Place(msgspec.Struct, frozen=True):
    """A character of a file."""

    file: str
    line: int
    """1-based."""
    column: int
    """1-based."""

    def mistake(self, message: str) -> Mistake:
        """Return a mistake at this place."""
        return Mistake(file=self.file, line=self.line, column=self.column, message=message)


class ScalarNode(msgspec.Struct, frozen=True, kw_only=True):
    """One value."""

    place: Place
    value: bool | int | float | str | None
    """What YAML reads it as."""
    text: str
    """What the file says, quotes and escapes resolved."""
    quoted: bool
    """Whether it is quoted, or a block of text, and so cannot be anything but text."""


class ListNode(msgspec.Struct, frozen=True, kw_only=True):
    """A list."""

    place: Place
    items: tuple[Node, ...]


class Entry(msgspec.Struct, frozen=True):
    """One key of a mapping, and its value."""

    place: Place
    """Where the key is."""
    node: Node


class MappingNode(msgspec.Struct, frozen=True, kw_only=True):
    """Keys and values, in the order of the file."""

    place: Place
    entries: dict[str, Entry]

    def get(self, key: str) -> Node | None:
        """Return a key's value, or None when the key is absent."""
        entry = self.entries.get(key)
        return entry.node if entry is not None else None

    def text(self, key: str) -> str | None:
        """Return a key's value when it is text, else None."""
        node = self.get(key)
        return node.value if isinstance(node, ScalarNode) and isinstance(node.value, str) else None

    def mapping(self, *keys: str) -> MappingNode:
        """Return the mapping below a key, below the next key, ...; empty where there is none."""
        node = self
        for key in keys:
            below = node.get(key)
            if not isinstance(below, MappingNode):
                return MappingNode(place=node.place, entries={})
            node = below
        return node

    def items(self, key: str) -> tuple[Node, ...]:
        """Return the items of a key's list; none when it is absent or no list."""
        node = self.get(key)
        return node.items if isinstance(node, ListNode) else ()

    def texts(self, key: str) -> list[tuple[str, Place]]:
        """Return those items of a key's list that are text, each with its place."""
        return [
            (item.value, item.place)
            for item in self.items(key)
            if isinstance(item, ScalarNode) and isinstance(item.value, str)
        ]

    def mappings(self, key: str) -> list[MappingNode]:
        """Return those items of a key's list that are mappings."""
        return [item for item in self.items(key) if isinstance(item, MappingNode)]


class ErrorNode(msgspec.Struct, frozen=True, kw_only=True):
    """The place of something that has been reported already."""

    place: Place


Node = ScalarNode | ListNode | MappingNode | ErrorNode


def to_builtins(node: Node) -> Any:
    """Return a node as dicts, lists and scalars; what is broken is null."""
    match node:
        case ScalarNode():
            return node.value
        case ListNode():
            return [to_builtins(item) for item in node.items]
        case MappingNode():
            return {key: to_builtins(entry.node) for key, entry in node.entries.items()}
        case ErrorNode():
            return None
