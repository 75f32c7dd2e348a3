"""Build a tree with places from YAML text.

The tree is built from libyaml's events, on a stack of our own: composing nodes the usual way
recurses in C, and a file of a hundred thousand `[` would end the process.

This module loads PyYAML; import it late.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import yaml
from yaml.reader import ReaderError

from tieredllm.errors import Mistake, ProfileError
from tieredllm.profile.tree import Broken, Entry, Mapping, Node, Place, Scalar, Sequence
from tieredllm.profile.yaml_errors import explained, forbidden

__all__ = ["MAX_DEPTH", "MAX_NODES", "build"]

MAX_NODES = 10_000
"""Nodes with every alias counted in full, so that aliases of aliases cannot fill the memory."""
MAX_DEPTH = 64
"""Levels of nesting; a profile has six."""

_TAG = "tag:yaml.org,2002:"
_QUOTES = frozenset("'\"|>")
"""The styles of a scalar that is text whatever it says."""
_BOOLEANS = {"yes": True, "true": True, "on": True, "no": False, "false": False, "off": False}

_Loader: type[yaml.SafeLoader | yaml.CSafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml's parser, twenty times faster; PyYAML's own where it was built without."""


def build(text: str, file: str) -> tuple[Node | None, list[Mistake]]:
    """Build the tree of one YAML document.

    Args:
        text: the document.
        file: what its mistakes call the file.

    Returns:
        The tree, None when there is nothing in it; and mistakes that leave the rest readable.

    Raises:
        ProfileError: the text is not YAML.
    """
    builder = _Builder(file)
    try:
        loader = _Loader(text)
        try:
            while loader.check_event():
                builder.take(loader.get_event(), loader)
        finally:
            loader.dispose()
    except (ReaderError, UnicodeError) as exc:
        raise ProfileError([forbidden(text, file), *builder.mistakes]) from exc
    except yaml.MarkedYAMLError as exc:
        raise ProfileError([*builder.mistakes, explained(exc, text, file)]) from exc
    return builder.root, builder.mistakes


class _Frame(msgspec.Struct, kw_only=True):
    """Hold a list or mapping while it is being filled; a mapping's keys and values alternate."""

    place: Place
    anchor: str | None
    before: int
    """How many nodes came before it."""
    nodes: list[Node] = []


class _Builder:
    """Turn events into nodes."""

    def __init__(self, file: str) -> None:
        self.mistakes: list[Mistake] = []
        self.root: Node | None = None
        self._file = file
        self._stack: list[_Frame] = []
        self._anchors: dict[str, tuple[Node, int]] = {}
        self._count = 0
        self._documents = 0

    def take(self, event: yaml.Event | None, loader: yaml.SafeLoader | yaml.CSafeLoader) -> None:
        """Take the next event."""
        if isinstance(event, yaml.ScalarEvent):
            before = self._count
            self._count_up(1, event)
            self._add(self._scalar(event, loader), event.anchor, before)
        elif isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent):
            self._open(event)
        elif isinstance(event, yaml.MappingEndEvent):
            frame = self._stack.pop()
            node = Mapping(place=frame.place, entries=self._entries(frame.nodes))
            self._add(node, frame.anchor, frame.before)
        elif isinstance(event, yaml.SequenceEndEvent):
            frame = self._stack.pop()
            items = Sequence(place=frame.place, items=tuple(frame.nodes))
            self._add(items, frame.anchor, frame.before)
        elif isinstance(event, yaml.AliasEvent):
            self._alias(event)
        elif isinstance(event, yaml.DocumentStartEvent):
            self._documents += 1
            if self._documents > 1:
                self._stop(event, "a second document starts here: keep one, without `---`")

    def _place(self, event: yaml.Event) -> Place:
        mark = event.start_mark
        if mark is None:  # only events made by hand have none
            return Place(self._file, 1, 1)
        return Place(self._file, mark.line + 1, mark.column + 1)

    def _stop(self, event: yaml.Event, message: str) -> None:
        raise ProfileError([*self.mistakes, self._place(event).mistake(message)])

    def _count_up(self, nodes: int, event: yaml.Event) -> None:
        self._count += nodes
        if self._count > MAX_NODES:
            self._stop(event, f"more than {MAX_NODES} values, aliases counted in full: use fewer")

    def _open(self, event: yaml.MappingStartEvent | yaml.SequenceStartEvent) -> None:
        before = self._count
        self._count_up(1, event)
        if len(self._stack) >= MAX_DEPTH:
            self._stop(event, f"values are nested more than {MAX_DEPTH} deep")
        if event.tag not in {None, "!", _TAG + "map", _TAG + "seq"}:
            self._mistake(self._place(event), _bad_tag(event.tag))
        self._stack.append(_Frame(place=self._place(event), anchor=event.anchor, before=before))

    def _mistake(self, place: Place, message: str) -> None:
        self.mistakes.append(place.mistake(message))

    def _alias(self, event: yaml.AliasEvent) -> None:
        name, place = event.anchor or "", self._place(event)
        known = self._anchors.get(name)
        if known is None:
            self._mistake(place, f"`*{name}` repeats nothing: no `&{name}` ends before it")
            known = (Broken(place=place), 1)
        node, size = known
        self._count_up(size, event)
        self._add(node, None, self._count)

    def _add(self, node: Node, anchor: str | None, before: int) -> None:
        if anchor is not None:
            self._anchors[anchor] = (node, self._count - before)
        if self._stack:
            self._stack[-1].nodes.append(node)
        else:
            self.root = node

    def _scalar(
        self, event: yaml.ScalarEvent, loader: yaml.SafeLoader | yaml.CSafeLoader
    ) -> Scalar | Broken:
        place, text = self._place(event), event.value
        tag = event.tag
        if tag in {None, "!"}:
            resolve: Callable[..., str] = loader.resolve
            tag = resolve(yaml.ScalarNode, text, event.implicit)
        try:
            value = _value(tag.removeprefix(_TAG), text)
        except (ValueError, OverflowError):
            self._mistake(place, _bad_tag(tag))
            return Broken(place=place)
        return Scalar(place=place, value=value, text=text, quoted=event.style in _QUOTES)

    def _entries(self, nodes: list[Node]) -> dict[str, Entry]:
        entries: dict[str, Entry] = {}
        merged: list[Node] = []
        for key, node in zip(nodes[::2], nodes[1::2], strict=True):
            if isinstance(key, Broken):
                continue
            if not isinstance(key, Scalar):
                self._mistake(key.place, "a key must be one word, not a list or a mapping")
            elif key.text == "<<" and not key.quoted:
                merged.append(node)
            elif not isinstance(key.value, str):
                self._mistake(key.place, f"YAML reads this key as {_read_as(key)}: quote it")
            elif key.text in entries:
                first = entries[key.text].place.line
                self._mistake(
                    key.place, f"`{key.text}` is given twice, first in line {first}: keep one"
                )
            else:
                entries[key.text] = Entry(key.place, node)
        for node in merged:
            self._merge(entries, node)
        return entries

    def _merge(self, entries: dict[str, Entry], node: Node) -> None:
        """Take over what `<<` names, below what is given (https://yaml.org/type/merge.html)."""
        for source in node.items if isinstance(node, Sequence) else (node,):
            if isinstance(source, Mapping):
                for key, entry in source.entries.items():
                    entries.setdefault(key, entry)
            elif not isinstance(source, Broken):
                self._mistake(source.place, "`<<` takes a mapping, or a list of mappings")


def _value(kind: str, text: str) -> bool | int | float | str | None:
    """Give what YAML 1.1 reads; a date and an odd number stay text.

    Raises:
        ValueError: the tag is not a plain value's, or does not fit the text.
    """
    match kind:
        case "null":
            return None
        case "bool":
            if text.lower() not in _BOOLEANS:
                raise ValueError(text)
            return _BOOLEANS[text.lower()]
        case "int" | "float" if _is_odd(text.lstrip("+-").lower()):
            return text
        case "int":
            return int(text.replace("_", ""), 0)
        case "float":
            return float(text.replace("_", ""))
        case "str" | "timestamp" | "value" | "merge":
            return text
    raise ValueError(kind)


def _is_odd(number: str) -> bool:
    """Whether YAML 1.1 reads as a number what nobody means as one: 010 is eight, 1:30 is ninety."""
    octal = len(number) > 1 and number[0] == "0" and number.replace("_", "").isdigit()
    return octal or ":" in number or number in {".inf", ".nan"}


def _read_as(key: Scalar) -> str:
    if key.value is None:
        return "nothing"
    if isinstance(key.value, bool):
        return "true" if key.value else "false"
    return "a number"


def _bad_tag(tag: str) -> str:
    return f"the tag `{tag.replace(_TAG, '!!')}` does not fit this value: remove it"
