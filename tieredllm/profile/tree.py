"""Define a YAML document as a tree whose every part knows its place in a file."""

from __future__ import annotations

from typing import Any

import msgspec

from tieredllm.errors import Mistake

__all__ = ["Broken", "Entry", "Mapping", "Node", "Place", "Scalar", "Sequence", "plain"]


class Place(msgspec.Struct, frozen=True):
    """Point at a character of a file."""

    file: str
    line: int
    """1-based."""
    column: int
    """1-based."""

    def mistake(self, message: str) -> Mistake:
        """Give a mistake at this place."""
        return Mistake(file=self.file, line=self.line, column=self.column, message=message)


class Scalar(msgspec.Struct, frozen=True, kw_only=True):
    """Hold one value."""

    place: Place
    value: bool | int | float | str | None
    """What YAML reads it as."""
    text: str
    """What the file says, quotes and escapes resolved."""
    quoted: bool
    """Whether it is quoted, or a block of text, and so cannot be anything but text."""


class Sequence(msgspec.Struct, frozen=True, kw_only=True):
    """Hold a list."""

    place: Place
    items: tuple[Node, ...]


class Entry(msgspec.Struct, frozen=True):
    """Hold one key of a mapping, and its value."""

    place: Place
    """Where the key is."""
    node: Node


class Mapping(msgspec.Struct, frozen=True, kw_only=True):
    """Hold keys and values, in the order of the file."""

    place: Place
    entries: dict[str, Entry]

    def get(self, key: str) -> Node | None:
        """Give a key's value, or None when the key is absent."""
        entry = self.entries.get(key)
        return entry.node if entry is not None else None

    def text(self, key: str) -> str | None:
        """Give a key's value when it is text, else None."""
        node = self.get(key)
        return node.value if isinstance(node, Scalar) and isinstance(node.value, str) else None

    def items(self, key: str) -> tuple[Node, ...]:
        """Give the items of a key's list; none when it is absent or no list."""
        node = self.get(key)
        return node.items if isinstance(node, Sequence) else ()

    def mappings(self, key: str) -> list[Mapping]:
        """Give those items of a key's list that are mappings."""
        return [item for item in self.items(key) if isinstance(item, Mapping)]


class Broken(msgspec.Struct, frozen=True, kw_only=True):
    """Stand where something was that has been reported already."""

    place: Place


Node = Scalar | Sequence | Mapping | Broken


def plain(node: Node) -> Any:
    """Give a node as dicts, lists and scalars; what is broken is null."""
    match node:
        case Scalar():
            return node.value
        case Sequence():
            return [plain(item) for item in node.items]
        case Mapping():
            return {key: plain(entry.node) for key, entry in node.entries.items()}
        case Broken():
            return None
