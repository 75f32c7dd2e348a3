"""Turn the tree of a profile into its value, or into every mistake it has."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec

from tieredllm.errors import Mistake, ProfileError
from tieredllm.profile.schema import PROVIDER_DEFAULTS, Profile
from tieredllm.profile.sense import duplicate_tiers, path_at, senseless
from tieredllm.profile.tree import Mapping, Place, Scalar, plain
from tieredllm.profile.yaml_reading import read

__all__ = ["in_order", "mistakes_of", "profile_of", "read_mapping"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


def read_mapping(path: Path) -> tuple[Mapping, list[Mistake]]:
    """Read one profile file, without what it inherits.

    Returns:
        Its tree; and what can be wrong with one file by itself: keys given twice, tiers of the
        same name.

    Raises:
        ProfileError: it cannot be read, is not YAML, is empty or no mapping.
    """
    root, mistakes = read(path)
    start = Place(str(path), 1, 1)
    if root is None or (isinstance(root, Scalar) and root.value is None):
        message = "the file is empty: start with `tiers:`, or with `extends: default`"
        raise ProfileError([*mistakes, start.mistake(message)])
    if not isinstance(root, Mapping):
        message = "a profile is a mapping (lines of `key: value`): start with `tiers:`"
        raise ProfileError([*mistakes, root.place.mistake(message)])
    return root, mistakes + duplicate_tiers(root)


def profile_of(root: Mapping, *, name: str, found: list[Mistake]) -> Profile:
    """Convert a profile's tree, what it inherits included.

    Args:
        root: the tree.
        name: the profile's name unless it says its own.
        found: mistakes known already.

    Raises:
        ProfileError: with every mistake, those known already included.
    """
    mistakes = found + senseless(root)
    try:
        profile = msgspec.convert(_prepared(root, name), Profile)
    except msgspec.ValidationError as exc:
        mistakes += mistakes_of(root)
        if not mistakes:
            mistakes.append(root.place.mistake(f"the profile is not valid: {exc}"))
    if mistakes:
        raise ProfileError(in_order(mistakes, first=root.place.file))
    return profile


def mistakes_of(root: Mapping, *, complete: bool = True) -> list[Mistake]:
    """Check a profile's keys, types and ranges; see `checking.check`."""
    from tieredllm.profile.checking import check

    return check(root, Profile, complete=complete)


def in_order(mistakes: list[Mistake], *, first: str | None = None) -> list[Mistake]:
    """Put mistakes in the order of their places, file by file, each only once.

    Args:
        mistakes: in any order.
        first: the file that comes first; the others come as they do in `mistakes`.
    """
    files = list(dict.fromkeys([first or "", *(mistake.file for mistake in mistakes)]))
    return sorted(
        dict.fromkeys(mistakes),
        key=lambda mistake: (files.index(mistake.file), mistake.line, mistake.column),
    )


def _prepared(root: Mapping, name: str) -> Any:
    """Give the values with the defaults of their provider below, and their paths made absolute."""
    values = plain(root)
    values.setdefault("name", name if _NAME.fullmatch(name) else "unnamed")
    tiers = values.get("tiers")
    nodes = root.items("tiers")
    for number, node in enumerate(nodes):
        if isinstance(node, Mapping):
            tier = _with_paths(tiers[number], node)
            tiers[number] = PROVIDER_DEFAULTS.get(node.text("provider") or "", {}) | tier
    return values


def _with_paths(tier: dict[str, Any], node: Mapping) -> dict[str, Any]:
    rules, written = node.text("rules"), node.get("rules")
    if rules and written and rules != "builtin":
        tier["rules"] = path_at(rules, written.place)
    _with_model_path(tier, node)
    for number, alternate in enumerate(node.items("alternates")):
        if isinstance(alternate, Mapping):
            _with_model_path(tier["alternates"][number], alternate)
    return tier


def _with_model_path(values: dict[str, Any], node: Mapping) -> None:
    model, written = node.text("model"), node.get("model")
    if node.text("provider") == "llama_cpp" and model and written and _is_path(model):
        values["model"] = path_at(model, written.place)


def _is_path(model: str) -> bool:
    return model.endswith(".gguf") or "/" in model or "\\" in model or model.startswith("~")
