"""Find a profile by name or path, and read it with all it inherits."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import msgspec

from tieredllm.errors import Mistake, ProfileError, UsageError
from tieredllm.files import Places, shipped
from tieredllm.profile.inherit import inherit
from tieredllm.profile.reading import in_order, mistakes_of, profile_of, read_mapping
from tieredllm.profile.schema import Profile
from tieredllm.profile.tree import Mapping

__all__ = ["Found", "Loaded", "find_profile", "known_profiles", "load", "load_profile"]

DEFAULT = "default"
_ENDINGS = (".yaml", ".yml")
Origin = Literal["user", "shipped", "file"]


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """Hold where a profile is."""

    name: str
    path: Path
    origin: Origin
    """`user`: in the configuration directory; `shipped`: comes with tieredllm; `file`: a path."""


class Loaded(msgspec.Struct, frozen=True, kw_only=True):
    """Hold a profile that has been read."""

    profile: Profile
    found: Found
    tree: Mapping
    """What its files say, merged: every part knows its place."""


def load_profile(name_or_path: str | None, places: Places) -> Profile:
    """Find and read a profile.

    Args:
        name_or_path: a name (the user's profiles before those that ship), or the path of a YAML
            file; None for `default`.
        places: the user's directories.

    Raises:
        UsageError: there is no such profile.
        ProfileError: it has mistakes; all of them are reported.
    """
    return load(find_profile(name_or_path, places), places).profile


def find_profile(name_or_path: str | None, places: Places) -> Found:
    """Find a profile; see `load_profile`. A name that is known wins over a file of that name."""
    wanted = name_or_path or DEFAULT
    if not _is_path(wanted):
        found = _named(wanted, places)
        if found is not None:
            return found
        if not Path(wanted).is_file():
            raise UsageError(_unknown(wanted, places))
    path = Path(wanted).expanduser()
    if not path.exists():
        raise UsageError(f"there is no profile file {path}: `tieredllm profile list` shows names")
    return Found(name=path.stem, path=path, origin="file")


def known_profiles(places: Places) -> list[Found]:
    """List the profiles that have a name, sorted by it; a user's one hides a shipped one."""
    found: dict[str, Found] = {}
    for folder, origin in _folders(places):
        if not folder.is_dir():
            continue
        for path in sorted(folder.iterdir()):
            if path.suffix in _ENDINGS and path.is_file() and path.stem not in found:
                found[path.stem] = Found(name=path.stem, path=path, origin=origin)
    return [found[name] for name in sorted(found)]


def load(found: Found, places: Places) -> Loaded:
    """Read a profile that has been found, with all it inherits.

    Raises:
        ProfileError: it, or one it inherits from, has mistakes; all of them are reported.
    """
    tree, mistakes = _chain(found.path, places, ())
    profile = profile_of(tree, name=found.path.stem, found=mistakes)
    return Loaded(profile=profile, found=found, tree=tree)


def _chain(path: Path, places: Places, above: tuple[Path, ...]) -> tuple[Mapping, list[Mistake]]:
    """Read a profile file and merge it over those it extends.

    Args:
        path: the file.
        places: the user's directories.
        above: the files that led here, the first one first.
    """
    tree, mistakes = read_mapping(path)
    extends, entry = tree.text("extends"), tree.entries.get("extends")
    if extends is None or entry is None:
        return tree, mistakes
    here = (*above, path)
    try:
        parent = _parent(extends, path, places)
        circle = [step for step in here if _same(step, parent)]
        if circle:
            names = [*(step.name for step in here[here.index(circle[0]) :]), parent.name]
            raise UsageError(f"`extends` goes in a circle: {' → '.join(names)}")
        inherited, more = _chain(parent, places, here)
    except ProfileError as exc:
        # Nothing can be merged; what is wrong here by itself can be told all the same.
        own = mistakes + mistakes_of(tree, complete=False)
        raise ProfileError(in_order(own + exc.mistakes)) from exc
    except UsageError as exc:
        own = mistakes + mistakes_of(tree, complete=False)
        raise ProfileError(in_order([*own, entry.node.place.mistake(str(exc))])) from exc
    return inherit(inherited, tree), mistakes + more


def _parent(extends: str, path: Path, places: Places) -> Path:
    """Find what a profile extends.

    A name never means the file itself, so a user's `default` can extend the shipped one.
    """
    if _is_path(extends):
        parent = path.parent / Path(extends).expanduser()
        if not parent.exists():
            raise UsageError(f"there is no file {parent} to extend")
        return parent
    found = _named(extends, places, but=path)
    if found is not None:
        return found.path
    beside = next((end for end in _ENDINGS if (path.parent / (extends + end)).is_file()), None)
    if beside:
        raise UsageError(f"no profile `{extends}`: for the file, write ./{extends}{beside}")
    raise UsageError(_unknown(extends, places))


def _folders(places: Places) -> tuple[tuple[Path, Origin], ...]:
    return ((places.profiles, "user"), (shipped("profiles"), "shipped"))


def _named(name: str, places: Places, *, but: Path | None = None) -> Found | None:
    for folder, origin in _folders(places):
        for ending in _ENDINGS:
            path = folder / (name + ending)
            if path.is_file() and not (but is not None and _same(path, but)):
                return Found(name=name, path=path, origin=origin)
    return None


def _is_path(text: str) -> bool:
    separators = {"/", os.sep, os.altsep or os.sep}
    return text.endswith(_ENDINGS) or any(separator in text for separator in separators)


def _same(one: Path, other: Path) -> bool:
    return one.resolve() == other.resolve()


def _unknown(name: str, places: Places) -> str:
    from tieredllm.profile.wording import suggestion

    known = [found.name for found in known_profiles(places)]
    near = suggestion(name, known)
    hint = f"{near} " if near else ""
    return f"there is no profile `{name}`: {hint}known are {', '.join(known)}"
