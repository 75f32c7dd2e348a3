"""Read YAML into nodes that know their place, and say in plain words what is wrong with it.

The nodes are built from the events of `yaml.parse()`. `yaml.compose()` would do for good files, but
it recurses in C, which only a new libyaml bounds, so a file of a hundred thousand `[` could end the
process; and it stops at the first alias that it does not know, where a user wants to hear of every
mistake at once.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from tieredllm.errors import Mistake, ProfileError
from tieredllm.files import UnfitFileError, read_file
from tieredllm.profile.nodes import Entry, ErrorNode, ListNode, MappingNode, Node, Place, ScalarNode

if TYPE_CHECKING:
    import yaml

__all__ = ["MAX_BYTES", "MAX_DEPTH", "MAX_NODES", "parse_yaml", "read_yaml"]

MAX_BYTES = 1_048_576
"""More than this is no file that somebody wrote by hand."""
MAX_NODES = 10_000
"""Nodes with every alias counted in full, so that aliases of aliases cannot fill the memory."""
MAX_DEPTH = 64
"""Levels of nesting; a profile has six."""

_TAG = "tag:yaml.org,2002:"
_QUOTES = frozenset("'\"|>")
"""The styles of a scalar that is text whatever it says."""
_BOOLEANS = {"yes": True, "true": True, "on": True, "no": False, "false": False, "off": False}


def read_yaml(path: Path, *, secret: bool = False) -> tuple[Node | None, list[Mistake]]:
    """Read a YAML file.

    Args:
        path: the file; its mistakes name it just so.
        secret: whether mistakes must not repeat what the file says.

    Returns:
        The tree, None for an empty file; and what is wrong with it as YAML, short of what makes
        it unreadable.

    Raises:
        ProfileError: it is no regular file, cannot be read, is not UTF-8, or is not YAML at all.
    """
    start = Place(str(path), 1, 1)
    try:
        raw = read_file(path, max_bytes=MAX_BYTES)
    except UnfitFileError as exc:
        raise ProfileError([start.mistake(f"{exc.strerror}: give a YAML file")]) from exc
    except OSError as exc:
        message = f"the file cannot be read: {(exc.strerror or str(exc)).lower()}"
        raise ProfileError([start.mistake(message)]) from exc
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        before = exc.object[: exc.start].decode("utf-8", errors="replace")
        line = before.count("\n") + 1
        place = Place(str(path), line, len(before) - before.rfind("\n"))
        message = f"byte 0x{exc.object[exc.start]:02x} is not UTF-8: save the file as UTF-8"
        raise ProfileError([place.mistake(message)]) from exc
    return parse_yaml(text, str(path), secret=secret)


def parse_yaml(text: str, file: str, *, secret: bool = False) -> tuple[Node | None, list[Mistake]]:
    """Parse YAML text; see `read_yaml`.

    Args:
        text: one YAML document.
        file: what its mistakes call the file.
        secret: whether mistakes must not repeat what the text says.

    Raises:
        ProfileError: the text is not YAML.
    """
    import yaml
    from yaml.reader import ReaderError

    # libyaml's parser, twenty times faster; PyYAML's own where it was built without.
    loader_type = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    mistakes: list[Mistake] = []
    try:
        loader = loader_type(text)
        try:
            return _Builder(file, loader, mistakes, secret=secret).document(), mistakes
        finally:
            loader.dispose()
    except (ReaderError, UnicodeError) as exc:
        raise ProfileError([_forbidden(text, file), *mistakes]) from exc
    except yaml.MarkedYAMLError as exc:
        raise ProfileError([*mistakes, _explain(exc, text, file)]) from exc


class _Builder:
    """The nodes of one document, made of its events by recursive descent.

    Args:
        file: what mistakes call the file.
        loader: the parser.
        mistakes: where mistakes go that leave the rest readable.
        secret: whether mistakes must not repeat what the file says.
    """

    def __init__(
        self,
        file: str,
        loader: yaml.SafeLoader | yaml.CSafeLoader,
        mistakes: list[Mistake],
        *,
        secret: bool,
    ) -> None:
        self._mistakes = mistakes
        self._file = file
        self._loader = loader
        self._secret = secret
        self._anchors: dict[str, tuple[Node, int]] = {}
        """Each anchor's node, and how many nodes it stands for."""
        self._count = 0

    def document(self) -> Node | None:
        """Return the one document's root; None when there is nothing in it."""
        import yaml

        root = None
        documents = 0
        while (event := self._next()) is not None:
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    self._stop(event, "a second document starts here: keep one, without `---`")
            elif isinstance(event, yaml.NodeEvent):
                root = self._node(event, 0)
        return root

    def _next(self) -> yaml.Event | None:
        return self._loader.get_event() if self._loader.check_event() else None

    def _place(self, event: yaml.Event) -> Place:
        mark = event.start_mark
        if mark is None:  # only events made by hand have none
            return Place(self._file, 1, 1)
        return Place(self._file, mark.line + 1, mark.column + 1)

    def _stop(self, event: yaml.Event, message: str) -> None:
        raise ProfileError([*self._mistakes, self._place(event).mistake(message)])

    def _count_up(self, nodes: int, event: yaml.Event) -> None:
        self._count += nodes
        if self._count > MAX_NODES:
            self._stop(event, f"more than {MAX_NODES} values, aliases counted in full: use fewer")

    def _mistake(self, place: Place, message: str) -> None:
        self._mistakes.append(place.mistake(message))

    def _quoted(self, text: str) -> str:
        return "`…`" if self._secret else f"`{text}`"

    def _node(self, event: yaml.NodeEvent, depth: int) -> Node:
        """Return the node that an event begins, `depth` levels below the root."""
        import yaml

        if isinstance(event, yaml.AliasEvent):
            return self._alias(event)
        before = self._count
        self._count_up(1, event)
        if isinstance(event, yaml.ScalarEvent):
            node: Node = self._scalar(event)
        else:
            if depth >= MAX_DEPTH:
                self._stop(event, _TOO_DEEP)
            node = self._collection(event, depth)
        if event.anchor is not None:
            self._anchors[event.anchor] = (node, self._count - before)
        return node

    def _collection(self, event: yaml.NodeEvent, depth: int) -> Node:
        import yaml

        place = self._place(event)
        tag = getattr(event, "tag", None)
        if tag not in {None, "!", _TAG + "map", _TAG + "seq"}:
            self._mistake(place, self._bad_tag(tag))
        nodes = []
        while isinstance(inner := self._next(), yaml.NodeEvent):
            nodes.append(self._node(inner, depth + 1))
        if isinstance(event, yaml.SequenceStartEvent):
            return ListNode(place=place, items=tuple(nodes))
        return MappingNode(place=place, entries=self._entries(nodes))

    def _alias(self, event: yaml.AliasEvent) -> Node:
        name, place = event.anchor or "", self._place(event)
        known = self._anchors.get(name)
        if known is None:
            alias, anchor = self._quoted(f"*{name}"), self._quoted(f"&{name}")
            self._mistake(place, f"{alias} repeats nothing: no {anchor} ends before it")
            known = (ErrorNode(place=place), 1)
        node, size = known
        self._count_up(size, event)
        return node

    def _scalar(self, event: yaml.ScalarEvent) -> ScalarNode | ErrorNode:
        import yaml

        place, text, tag = self._place(event), event.value, event.tag
        if tag in {None, "!"}:
            resolve: Callable[..., str] = self._loader.resolve
            tag = resolve(yaml.ScalarNode, text, event.implicit)
        try:
            value = _value(tag.removeprefix(_TAG), text)
        except (ValueError, OverflowError):
            self._mistake(place, self._bad_tag(tag))
            return ErrorNode(place=place)
        return ScalarNode(place=place, value=value, text=text, quoted=event.style in _QUOTES)

    def _bad_tag(self, tag: str) -> str:
        shown = self._quoted(tag.replace(_TAG, "!!"))
        return f"the tag {shown} does not fit this value: remove it"

    def _key_name(self, text: str) -> str:
        """Quote a key, unless it may be a secret that stands where a name should."""
        if self._secret:
            return f"`{text}`" if text.isupper() and text.isidentifier() else "`…`"
        from tieredllm.redaction import mask_text

        return f"`{mask_text(text)}`"

    def _entries(self, nodes: list[Node]) -> dict[str, Entry]:
        entries: dict[str, Entry] = {}
        merged: list[Node] = []
        for key, node in zip(nodes[::2], nodes[1::2], strict=True):
            if isinstance(key, ErrorNode):
                continue
            if not isinstance(key, ScalarNode):
                self._mistake(key.place, "a key must be one word, not a list or a mapping")
            elif key.text == "<<" and not key.quoted:
                merged.append(node)
            elif not isinstance(key.value, str):
                self._mistake(key.place, f"YAML reads this key as {_read_as(key)}: quote it")
            elif key.text in entries:
                first = entries[key.text].place.line
                name = self._key_name(key.text)
                self._mistake(key.place, f"{name} is given twice, first in line {first}: keep one")
            else:
                entries[key.text] = Entry(key.place, node)
        for node in merged:
            for source in node.items if isinstance(node, ListNode) else (node,):
                self._merge(entries, source)
        return entries

    def _merge(self, entries: dict[str, Entry], source: Node) -> None:
        """Take over what `<<` names, below what is given (https://yaml.org/type/merge.html)."""
        if isinstance(source, MappingNode):
            for key, entry in source.entries.items():
                entries.setdefault(key, entry)
        elif not isinstance(source, ErrorNode):
            self._mistake(source.place, "`<<` takes a mapping, or a list of mappings")


def _value(kind: str, text: str) -> bool | int | float | str | None:
    """Return what YAML 1.1 reads; a date and an odd number stay text.

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


def _read_as(key: ScalarNode) -> str:
    if key.value is None:
        return "nothing"
    if isinstance(key.value, bool):
        return "true" if key.value else "false"
    return "a number"


_TAB = "a tab cannot indent in YAML: use spaces"
_TOO_DEEP = f"values are nested more than {MAX_DEPTH} deep"
_IN_WORDS = (
    # libyaml's own limit, 1000; it looks ahead and so may find it before we count.
    ("exceeded maximum nesting depth", _TOO_DEEP),
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


def _explain(exc: yaml.MarkedYAMLError, text: str, file: str) -> Mistake:
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


def _forbidden(text: str, file: str) -> Mistake:
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
