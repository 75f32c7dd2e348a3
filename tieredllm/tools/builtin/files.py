"""Read and list files below the working directory."""

from __future__ import annotations

import codecs
import io
import os
from collections.abc import Sequence
from contextlib import suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from tieredllm.aio import in_thread
from tieredllm.tools.base import MAX_RESULT_BYTES, CallTime, Tool, ToolFailureError
from tieredllm.tools.builtin.sandbox import Sandbox
from tieredllm.tools.schema import checker, schema_of

__all__ = ["MAX_ENTRIES", "MAX_FILE_BYTES", "make_list_files", "make_read_file"]

MAX_FILE_BYTES = 1024 * 1024
"""The largest file that is read."""

MAX_ENTRIES = 500
"""The most entries of one listing."""

MAX_LOOKED_AT = 20_000
"""The most entries that are looked at for one listing."""

MAX_DEPTH = 12
"""How many directories deep a recursive listing goes."""

_SHOWN_BYTES = MAX_RESULT_BYTES - 512
"""How much of a file one call gives, with room for a note on where to go on."""

_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_SNIFFED_BYTES = 8192


class ReadArguments(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `read_file` takes."""

    path: Annotated[
        str, Meta(min_length=1, max_length=4096, description="Relative to the working directory.")
    ]
    from_line: Annotated[int, Meta(ge=1, description="The first line to give.")] = 1
    lines: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        Meta(description="How many lines to give; as many as fit when left out."),
    ] = None


class ListArguments(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `list_files` takes."""

    path: Annotated[
        str, Meta(max_length=4096, description="A directory, relative to the working directory.")
    ] = "."
    pattern: Annotated[
        Annotated[str, Meta(max_length=256)] | None,
        Meta(description="Only names that match, such as *.py; all when left out."),
    ] = None
    recursive: Annotated[bool, Meta(description="Whether to go into directories.")] = False


def make_read_file(root: Path, private: Sequence[Path] = ()) -> Tool:
    """Make the tool that reads files.

    Args:
        root: the working directory.
        private: files that stay closed wherever they lie.
    """
    sandbox = Sandbox(root, private=private)

    async def run(arguments: dict[str, Any], time: CallTime) -> str:  # noqa: ARG001
        asked = msgspec.convert(arguments, ReadArguments)
        return await in_thread(lambda: _read(sandbox, asked))

    return Tool(
        name="read_file",
        description=(
            "Read a text file below the working directory. Hidden files are out of reach. "
            "A long file is given in parts: go on with from_line."
        ),
        parameters=schema_of(ReadArguments),
        read_only=True,
        private=True,
        origin="builtin",
        timeout_s=10.0,
        check=checker(ReadArguments),
        run=run,
    )


def make_list_files(root: Path) -> Tool:
    """Make the tool that lists files.

    Args:
        root: the working directory.
    """
    sandbox = Sandbox(root)

    async def run(arguments: dict[str, Any], time: CallTime) -> str:  # noqa: ARG001
        asked = msgspec.convert(arguments, ListArguments)
        return await in_thread(lambda: _listed(sandbox, asked))

    return Tool(
        name="list_files",
        description=(
            "List the files and directories of a directory below the working directory, "
            "with sizes in bytes. Directories end in /, and hidden ones are left out."
        ),
        parameters=schema_of(ListArguments),
        read_only=True,
        origin="builtin",
        timeout_s=10.0,
        check=checker(ListArguments),
        run=run,
    )


def _read(sandbox: Sandbox, asked: ReadArguments) -> str:
    with sandbox.file(asked.path) as descriptor:
        size = os.fstat(descriptor).st_size
        if size > MAX_FILE_BYTES:
            megabytes = MAX_FILE_BYTES // 1024 // 1024
            raise ToolFailureError(
                f"{asked.path} has {size} bytes; at most {megabytes} MiB are read"
            )
        raw = _content(descriptor, size)
    text = _decoded(raw, asked.path)
    if not text:
        return f"({asked.path} is empty.)"
    # Lines as editors and compilers count them: a form feed or U+2028 ends none.
    lines = io.StringIO(text, newline="").readlines()
    if asked.from_line > len(lines):
        raise ToolFailureError(f"{asked.path} has {len(lines)} lines only")
    return _part(lines, asked)


def _content(descriptor: int, size: int) -> bytes:
    """Read no more than the size that was checked: the file may be growing."""
    parts = []
    while size > 0:
        part = os.read(descriptor, size)
        if not part:
            break
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _decoded(raw: bytes, path: str) -> str:
    for bom, encoding in _BOMS:
        if raw.startswith(bom):
            return raw.decode(encoding, "replace")
    if b"\0" in raw[:_SNIFFED_BYTES]:
        raise ToolFailureError(f"{path} is a binary file, not text")
    return raw.decode("utf-8", "replace")


def _part(lines: list[str], asked: ReadArguments) -> str:
    """Return as many whole lines as were asked for and fit, and say where to go on."""
    first = asked.from_line - 1
    last = len(lines) if asked.lines is None else min(len(lines), first + asked.lines)
    used = 0
    end = first
    while end < last:
        used += len(lines[end].encode("utf-8", "replace"))
        if used > _SHOWN_BYTES and end > first:
            break
        end += 1
    text = "".join(lines[first:end])
    if first == 0 and end == len(lines):
        return text
    more = f"; go on with from_line={end + 1}" if end < len(lines) else ""
    return f"[lines {first + 1} to {end} of {len(lines)}{more}]\n{text}"


def _listed(sandbox: Sandbox, asked: ListArguments) -> str:
    listing = _Listing(sandbox, asked)
    listing.add(asked.path or ".", "", MAX_DEPTH)
    lines = listing.lines
    if not listing.complete:
        lines.append("(There is more that is not listed.)")
    if not lines:
        return "(There is nothing that matches.)" if asked.pattern else "(It is empty.)"
    return "\n".join(lines)


class _Listing:
    """Collect entries, as many as are allowed."""

    def __init__(self, sandbox: Sandbox, asked: ListArguments) -> None:
        self._sandbox = sandbox
        self._asked = asked
        self._looked_at = 0
        self.lines: list[str] = []
        self.complete = True

    def add(self, path: str, prefix: str, depth: int) -> None:
        """List a directory, and those in it; `prefix` goes before its names.

        Raises:
            ToolFailureError: it is not there, or out of reach.
        """
        for name, is_directory, told in self._entries(path):
            if self._asked.pattern is None or fnmatch(name, self._asked.pattern):
                if len(self.lines) >= MAX_ENTRIES:
                    self.complete = False
                    return
                self.lines.append(f"{prefix}{told}")
            if not is_directory or not self._asked.recursive:
                continue
            if depth <= 1:
                self.complete = False
                continue
            with suppress(ToolFailureError):  # one that cannot be read spoils not the others
                self.add(f"{path}/{name}", f"{prefix}{_printable(name)}/", depth - 1)

    def _entries(self, path: str) -> list[tuple[str, bool, str]]:
        entries = []
        with self._sandbox.directory(path) as place, os.scandir(place) as scan:
            for entry in scan:
                self._looked_at += 1
                if self._looked_at > MAX_LOOKED_AT:
                    self.complete = False
                    break
                if not entry.name.startswith("."):
                    entries.append((entry.name, *_told(entry)))
        return sorted(entries)


def _told(entry: os.DirEntry[str]) -> tuple[bool, str]:
    """Say what an entry is; links are named and not followed."""
    name = _printable(entry.name)
    if entry.is_symlink():
        return False, f"{name} (link)"
    if entry.is_dir(follow_symlinks=False):
        return True, f"{name}/"
    if not entry.is_file(follow_symlinks=False):
        return False, f"{name} (special)"
    try:
        return False, f"{name} ({entry.stat(follow_symlinks=False).st_size})"
    except OSError:
        return False, name


def _printable(name: str) -> str:
    """Return a name as it is, or with escapes where it has line ends and the like in it."""
    return name if name.isprintable() else ascii(name)
