"""YAML is read with places, and what is wrong with it is told in plain words."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tieredllm.errors import ProfileError
from tieredllm.profile.dump import write_yaml
from tieredllm.profile.nodes import MappingNode, to_builtins
from tieredllm.profile.yaml_reader import MAX_BYTES, MAX_DEPTH, MAX_NODES, parse_yaml, read_yaml


def told(text: str) -> list[str]:
    """Give the mistakes of a text, fatal or not."""
    try:
        _, mistakes = parse_yaml(text, "f")
    except ProfileError as exc:
        mistakes = exc.mistakes
    return [str(mistake) for mistake in mistakes]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: 1\nb: [x, 2.5, null, ~, true]", {"a": 1, "b": ["x", 2.5, None, None, True]}),
        ("a: yes\nb: 'yes'\nc: off", {"a": True, "b": "yes", "c": False}),
        ("a: 1e3\nb: 1.0e+3\nc: 0x1F\nd: 1_000", {"a": "1e3", "b": 1000.0, "c": 31, "d": 1000}),
        (
            "a: 010\nb: 1:30\nc: .nan\nd: -.inf",
            {"a": "010", "b": "1:30", "c": ".nan", "d": "-.inf"},
        ),
        ("a: 2024-02-30\nb: =\nc:", {"a": "2024-02-30", "b": "=", "c": None}),
        ("a: !!str 5\nb: |\n  two\n  lines\n", {"a": "5", "b": "two\nlines\n"}),
        ("x: &x {a: 1, b: 2}\ny: {<<: *x, b: 3}", {"x": {"a": 1, "b": 2}, "y": {"b": 3, "a": 1}}),
        ("x: &x [1]\ny: [*x, *x]", {"x": [1], "y": [[1], [1]]}),
        ("'<<': 1", {"<<": 1}),
        ("\ufeffa: 1", {"a": 1}),
    ],
)
def test_reads_yaml(text, value):
    """Values are what YAML 1.1 says; only numbers nobody means as numbers stay text."""
    root, mistakes = parse_yaml(text.removeprefix("\ufeff"), "f")

    assert (to_builtins(root), mistakes) == (value, [])


def test_every_node_knows_its_place():
    """Lines and columns count from 1, in characters, also after a character of many bytes."""
    root, _ = parse_yaml("# é\na:\n  - {é: [x, yy]}\n", "f")

    assert isinstance(root, MappingNode)
    entry = root.mappings("a")[0].entries["é"]
    item = entry.node.items[1]
    assert (entry.place.line, entry.place.column) == (3, 6)
    assert (item.place.file, item.place.line, item.place.column) == ("f", 3, 13)


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        ("a:\n\tb: 1", "f:2:1: a tab cannot indent in YAML: use spaces"),
        ("a: 1\n\tb: 2", "f:2:1: a tab cannot indent in YAML: use spaces"),
        ("a: [1, 2\nb: 3", "f:1:4: the list opened with `[` lacks a `,` or its `]`"),
        ("a: {b: 1", "f:1:4: the mapping opened with `{` lacks a `,` or its `}`"),
        ("a: 'x\nb: 1\n", "f:1:4: the quotes opened here are never closed"),
        ("a: *b*", "f:1:6: a value that starts with `*` must be in quotes"),
        ("a: & b", "f:1:5: a value that starts with `&` must be in quotes"),
        ("a: |b", "f:1:5: text after `|` or `>` starts on the next line, indented"),
        ("a: - b", "f:1:4: a `- ` cannot be here: fix this line's indentation"),
        ("{a: 1}\nb: 2", "f:2:1: this fits nothing above it: fix its indentation, or quote it"),
        ("a: @x", "f:1:4: a value cannot start with '@': put it in quotes"),
        (
            "a: b: c",
            "f:1:5: a `:` cannot be here: quote the value, or fix this line's indentation",
        ),
        (
            "a:\n  b: 1\n c: 2",
            "f:3:2: this fits no key above it: fix its indentation, or the quotes",
        ),
        ("a: b\n- c", "f:2:1: this fits no key above it: fix its indentation, or the quotes"),
        ('a: "\\q"', "f:1:5: this backslash is no escape: use single quotes, or write `\\\\`"),
        ("a: x\x07", "f:1:5: the character U+0007 is not allowed in YAML: remove it"),
        ("é: \ud800", "f:1:4: the character U+D800 is not allowed in YAML: remove it"),
        ("a: 1\n---\nb: 1", "f:2:1: a second document starts here: keep one, without `---`"),
        ("a: !foo x", "f:1:4: the tag `!foo` does not fit this value: remove it"),
        ("a: !!int x", "f:1:4: the tag `!!int` does not fit this value: remove it"),
        ("a: " + "9" * 5000, "f:1:4: the tag `!!int` does not fit this value: remove it"),
        ("a: !!set {x}", "f:1:4: the tag `!!set` does not fit this value: remove it"),
        ("a: *b", "f:1:4: `*b` repeats nothing: no `&b` ends before it"),
        ("a: &a [*a]", "f:1:8: `*a` repeats nothing: no `&a` ends before it"),
        ("a: 1\nb: 2\na: 3", "f:3:1: `a` is given twice, first in line 1: keep one"),
        ("on: 1", "f:1:1: YAML reads this key as true: quote it"),
        ("1: 1", "f:1:1: YAML reads this key as a number: quote it"),
        ("~: 1", "f:1:1: YAML reads this key as nothing: quote it"),
        ("? [x]\n: 1", "f:1:3: a key must be one word, not a list or a mapping"),
        ("a: {<<: 3}", "f:1:9: `<<` takes a mapping, or a list of mappings"),
    ],
)
def test_tells_what_is_wrong_and_where(text, mistake):
    """Each mistake names its place, what is wrong and what to do."""
    assert told(text) == [mistake]


def test_goes_on_after_what_leaves_the_rest_readable():
    """A key given twice, a bad tag and an unknown alias are reported together."""
    lines = [line.split(":")[1] for line in told("a: 1\na: 2\nb: !x y\nc: *d\n")]

    assert sorted(lines) == ["2", "3", "4"]


@pytest.mark.parametrize("text", ["", "# only a remark\n", "---\n"])
def test_nothing_is_no_tree(text):
    """A file without any value has no tree, or null."""
    root, mistakes = parse_yaml(text, "f")

    assert (root is None or to_builtins(root) is None, mistakes) == (True, [])


def test_deep_nesting_is_a_mistake_and_no_crash():
    """A hundred thousand open brackets end in a message, not in the interpreter's end.

    On one line libyaml reads a thousand characters ahead, in search of a `:`, before it tells of
    the first bracket; PyYAML 6.0.4 gives up there by itself, 6.0.3 and older do not.
    """
    too_deep = f"values are nested more than {MAX_DEPTH} deep"

    assert told("[" * (MAX_DEPTH + 1)) == [f"f:1:{MAX_DEPTH + 1}: {too_deep}"]
    assert told("[\n" * 100_000) == [f"f:{MAX_DEPTH + 1}:1: {too_deep}"]
    [on_one_line] = told("[" * 100_000)
    assert re.fullmatch(rf"f:1:\d+: {too_deep}", on_one_line)
    assert told("[" * MAX_DEPTH + "]" * MAX_DEPTH) == []


def test_aliases_of_aliases_are_counted_in_full():
    """Ten lines of aliases that stand for millions of values are refused at once."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]

    assert told("\n".join(lines)) == [
        f"f:4:45: more than {MAX_NODES} values, aliases counted in full: use fewer"
    ]


def test_an_unreadable_file_is_a_mistake(tmp_path):
    """A directory, a missing, a huge and a non-UTF-8 file each say so at their place."""
    huge = tmp_path / "huge.yaml"
    huge.write_bytes(b"#" * (MAX_BYTES + 1))
    latin = tmp_path / "latin.yaml"
    latin.write_bytes("a: 1\nb: é é".encode("latin-1"))
    wide = tmp_path / "wide.yaml"
    wide.write_bytes("a: 1".encode("utf-16"))
    expected = {
        tmp_path: "1:1: this is a directory: give a YAML file",
        tmp_path / "none.yaml": "1:1: the file cannot be read: no such file or directory",
        huge: "1:1: the file is larger than 1 MiB: give a YAML file",
        latin: "2:4: byte 0xe9 is not UTF-8: save the file as UTF-8",
        wide: "1:1: byte 0xff is not UTF-8: save the file as UTF-8",
    }

    for path, message in expected.items():
        with pytest.raises(ProfileError) as caught:
            read_yaml(path)
        assert str(caught.value) == f"{path}:{message}"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="FIFOs are POSIX's")
def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    """Nobody writes to the FIFO, and nobody waits."""
    fifo = tmp_path / "profile.yaml"
    os.mkfifo(fifo)

    for path in (fifo, Path(os.devnull)):
        with pytest.raises(ProfileError) as caught:
            read_yaml(path)
        assert str(caught.value) == (
            f"{path}:1:1: this is a pipe or a device, not a file: give a YAML file"
        )


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads every file")
def test_a_forbidden_file_is_a_mistake(tmp_path):
    """A file without read permission says so."""
    path = tmp_path / "x.yaml"
    path.write_text("a: 1")
    path.chmod(0)

    with pytest.raises(ProfileError, match="cannot be read: permission denied"):
        read_yaml(path)


@given(st.binary(max_size=60))
def test_no_bytes_make_it_fail_otherwise(raw):
    """Any text gives a tree, or mistakes; nothing else is ever raised."""
    text = raw.decode("latin-1")

    assert all(line.startswith("f:") for line in told(text))


_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), _VALUES, max_size=4))
def test_what_is_written_reads_back(values):
    """Any text, number, list and mapping comes back from the YAML written of it."""
    surrogates = any(0xD800 <= ord(character) <= 0xDFFF for character in repr(values))
    if not surrogates:
        root, mistakes = parse_yaml(write_yaml(values), "f")

        assert mistakes == []
        assert to_builtins(root) == values


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("gemma3:4b", "gemma3:4b"),
        ("http://127.0.0.1:11434/v1", "http://127.0.0.1:11434/v1"),
        ("yes", "'yes'"),
        ("1e3", "1e3"),
        ("a # b", "'a # b'"),
        ("two\nlines", '"two\\nlines"'),
        ("x " * 200 + "x", "x " * 200 + "x"),
        (30.0, "30"),
        (0.1, "0.1"),
        (None, "null"),
        ([1, 1], "\n  - 1\n  - 1"),
    ],
)
def test_values_are_written_plainly_where_that_is_safe(value, text):
    """Quotes are only there where YAML would read something else; a value stays on its line."""
    assert write_yaml({"k": value}) == f"k:{text if isinstance(value, list) else ' ' + text}\n"
