"""Read a YAML file into a tree with places, and report what is wrong with it as YAML."""

from __future__ import annotations

from pathlib import Path

from tieredllm.errors import Mistake, ProfileError
from tieredllm.profile.tree import Node, Place

__all__ = ["MAX_BYTES", "parse", "read"]

MAX_BYTES = 1_048_576
"""More than this is no file that somebody wrote by hand."""


def read(path: Path) -> tuple[Node | None, list[Mistake]]:
    """Read a YAML file.

    Args:
        path: the file; its mistakes name it just so.

    Returns:
        The tree, None for an empty file; and what is wrong with it as YAML, short of what makes
        it unreadable.

    Raises:
        ProfileError: it cannot be read, is not UTF-8, or is not YAML at all.
    """
    start = Place(str(path), 1, 1)
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as exc:
        if path.is_dir():  # Windows calls it "permission denied"
            message = "this is a directory: give a YAML file"
        else:
            message = f"the file cannot be read: {(exc.strerror or str(exc)).lower()}"
        raise ProfileError([start.mistake(message)]) from exc
    if len(raw) > MAX_BYTES:
        raise ProfileError([start.mistake("the file is larger than 1 MiB: give a YAML file")])
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        before = exc.object[: exc.start].decode("utf-8", errors="replace")
        line = before.count("\n") + 1
        place = Place(str(path), line, len(before) - before.rfind("\n"))
        message = f"byte 0x{exc.object[exc.start]:02x} is not UTF-8: save the file as UTF-8"
        raise ProfileError([place.mistake(message)]) from exc
    return parse(text, str(path))


def parse(text: str, file: str) -> tuple[Node | None, list[Mistake]]:
    """Parse YAML text; see `read`.

    Args:
        text: one YAML document.
        file: what its mistakes call the file.
    """
    from tieredllm.profile.yaml_building import build

    return build(text, file)
