"""Find a profile by name or path, and read it with all it inherits, or report every mistake."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import msgspec

from tieredllm.errors import Mistake, ProfileError, UsageError
from tieredllm.files import Places, atomic_write, shipped
from tieredllm.profile.mcp_file import with_servers_of_files
from tieredllm.profile.nodes import (
    Entry,
    ListNode,
    MappingNode,
    Node,
    Place,
    ScalarNode,
    to_builtins,
)
from tieredllm.profile.schema import (
    OLLAMA_CONTEXT_TOKENS,
    OLLAMA_PORT,
    PROVIDER_DEFAULTS,
    Profile,
)
from tieredllm.profile.semantics import check_semantics, duplicate_tiers, path_at
from tieredllm.profile.yaml_reader import parse_yaml, read_yaml

__all__ = [
    "Found",
    "Loaded",
    "convert",
    "find_mistakes",
    "find_profile",
    "inherit",
    "known_profiles",
    "load",
    "load_profile",
    "profile_in_use",
    "read_mapping",
    "sort_mistakes",
]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_NOT_INHERITED = ("name", "extends", "remove_tiers", "description")
_OF_THE_BACKEND = (
    *("model", "base_url", "api_key_env", "alternates", "context_tokens", "vision"),
    *("api", "api_version", "headers", "headers_env", "body"),
)
"""What says nothing about a tier once another provider answers it."""
IN_USE = "profile-in-use"
"""The file in the configuration directory that names the profile to use."""
DEFAULT = "default"
_ENDINGS = (".yaml", ".yml")
Origin = Literal["user", "shipped", "file"]


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """The place of a profile."""

    name: str
    path: Path
    origin: Origin
    """`user`: in the configuration directory; `shipped`: comes with tieredllm; `file`: a path."""


class Loaded(msgspec.Struct, frozen=True, kw_only=True):
    """A profile that has been read."""

    profile: Profile
    found: Found
    tree: MappingNode
    """What its files say, merged: every part knows its place."""

    @property
    def tool_folders(self) -> tuple[Path, ...]:
        """The folders of the files that name Python functions, in the order of the functions."""
        named = self.tree.mapping("tools").items("python")
        return tuple(dict.fromkeys(Path(node.place.file).resolve().parent for node in named))


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
    """Find a profile; see `load_profile`.

    A bare name is never a path: what lies in the working directory is not trusted unless it is
    named with a separator or the ending `.yaml` or `.yml`. An empty one is that of a variable that
    is not set, and no wish for another profile.
    """
    if name_or_path == "":
        raise UsageError("the name of the profile is empty: give one, or leave it out")
    chosen = None if name_or_path else profile_in_use(places)
    wanted = name_or_path or chosen or DEFAULT
    hint = "; `tieredllm profile use NAME` chose it, and chooses another" if chosen else ""
    if not _is_path(wanted):
        found = _find_named(wanted, places)
        if found is not None:
            return found
        raise UsageError(_unknown_profile(wanted, places, Path()) + hint)
    path = Path(wanted).expanduser()
    if not path.exists():
        raise UsageError(
            f"there is no profile file {path}: `tieredllm profile list` shows names{hint}"
        )
    return Found(name=path.stem, path=path, origin="file")


def profile_in_use(places: Places) -> str | None:
    """Return the name or path that `profile use` chose; None for `default`."""
    try:
        return (places.config / IN_USE).read_text("utf-8").strip() or None
    except (OSError, UnicodeDecodeError):
        return None


def use_profile(name: str | None, places: Places) -> None:
    """Use a profile where none is named, from now on.

    Args:
        name: its name or absolute path; None for `default`.
        places: the user's directories.

    Raises:
        OSError: that cannot be remembered.
    """
    file = places.config / IN_USE
    if name is None:
        file.unlink(missing_ok=True)
        return
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    atomic_write(file, f"{name}\n")


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


def load(found: Found, places: Places, *, text: str | None = None) -> Loaded:
    """Read a profile that has been found, with all it inherits.

    Args:
        found: where it is.
        places: the user's directories.
        text: what its file is going to say; None to read that.

    Raises:
        ProfileError: it, or one it inherits from, has mistakes; all of them are reported.
    """
    tree, mistakes = _chain(found.path, places, (), text)
    profile = convert(tree, name=found.path.stem, found=mistakes)
    return Loaded(profile=profile, found=found, tree=tree)


def _chain(
    path: Path, places: Places, above: tuple[Path, ...], text: str | None = None
) -> tuple[MappingNode, list[Mistake]]:
    """Read a profile file and merge it over those it extends.

    Args:
        path: the file.
        places: the user's directories.
        above: the files that led here, the first one first.
        text: what the file is taken to say; None to read it.
    """
    tree, mistakes = read_mapping(path, text)
    extends, entry = tree.text("extends"), tree.entries.get("extends")
    if extends is None or entry is None:
        return tree, mistakes + _missing_tiers([], tree)
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
        own = mistakes + find_mistakes(tree, complete=False)
        raise ProfileError(sort_mistakes(own + exc.mistakes)) from exc
    except UsageError as exc:
        own = mistakes + find_mistakes(tree, complete=False)
        raise ProfileError(sort_mistakes([*own, entry.node.place.mistake(str(exc))])) from exc
    mistakes += _missing_tiers(inherited.mappings("tiers"), tree)
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
    found = _find_named(extends, places, but=path)
    if found is not None:
        return found.path
    raise UsageError(_unknown_profile(extends, places, path.parent))


def _folders(places: Places) -> tuple[tuple[Path, Origin], ...]:
    return ((places.profiles, "user"), (shipped("profiles"), "shipped"))


def _find_named(name: str, places: Places, *, but: Path | None = None) -> Found | None:
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


def _unknown_profile(name: str, places: Places, folder: Path) -> str:
    """Word that there is no such profile, and point at a file of that name in a folder."""
    from tieredllm.profile.validate import suggestion

    for ending in ("", *_ENDINGS):
        if (folder / (name + ending)).is_file():
            return f"no profile `{name}`: for the file, write ./{name}{ending}"
    known = [found.name for found in known_profiles(places)]
    near = suggestion(name, known)
    hint = f"{near} " if near else ""
    return f"there is no profile `{name}`: {hint}known are {', '.join(known)}"


def read_mapping(path: Path, text: str | None = None) -> tuple[MappingNode, list[Mistake]]:
    """Read one profile file, or a text in its place, without what it inherits.

    Returns:
        Its tree; and what can be wrong with one file by itself: keys given twice, tiers of the
        same name.

    Raises:
        ProfileError: it cannot be read, is not YAML, is empty or no mapping.
    """
    root, mistakes = read_yaml(path) if text is None else parse_yaml(text, str(path))
    start = Place(str(path), 1, 1)
    if root is None or (isinstance(root, ScalarNode) and root.value is None):
        message = "the file is empty: start with `tiers:`, or with `extends: default`"
        raise ProfileError([*mistakes, start.mistake(message)])
    if not isinstance(root, MappingNode):
        message = "a profile is a mapping (lines of `key: value`): start with `tiers:`"
        raise ProfileError([*mistakes, root.place.mistake(message)])
    root, more = with_servers_of_files(root)
    return root, mistakes + more + duplicate_tiers(root)


def convert(root: MappingNode, *, name: str, found: list[Mistake]) -> Profile:
    """Convert a profile's tree, what it inherits included.

    Args:
        root: the tree.
        name: the profile's name unless it says its own.
        found: mistakes known already.

    Raises:
        ProfileError: with every mistake, those known already included.
    """
    mistakes = found + check_semantics(root)
    try:
        profile = msgspec.convert(_complete(root, name), Profile)
    except msgspec.ValidationError as exc:
        mistakes += find_mistakes(root)
        if not mistakes:
            mistakes.append(root.place.mistake(f"the profile is not valid: {exc}"))
    if mistakes:
        raise ProfileError(sort_mistakes(mistakes, first=root.place.file))
    return profile


def find_mistakes(root: MappingNode, *, complete: bool = True) -> list[Mistake]:
    """Check a profile's keys, types and ranges; see `validate.check`."""
    from tieredllm.profile.validate import check

    return check(root, Profile, complete=complete)


def sort_mistakes(mistakes: list[Mistake], *, first: str | None = None) -> list[Mistake]:
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


def _complete(root: MappingNode, name: str) -> Any:
    """Return the values, with their provider's defaults below, and with whole paths."""
    values = to_builtins(root)
    values.setdefault("name", name if _NAME.fullmatch(name) else "unnamed")
    tiers = values.get("tiers")
    nodes = root.items("tiers")
    for number, node in enumerate(nodes):
        if isinstance(node, MappingNode):
            tier = _with_paths(tiers[number], node)
            defaults = PROVIDER_DEFAULTS.get(node.text("provider") or "", {})
            if _is_ollama(node):
                defaults = defaults | {"context_tokens": OLLAMA_CONTEXT_TOKENS}
            tiers[number] = defaults | tier
    return values


def _is_ollama(tier: MappingNode) -> bool:
    try:
        return urlsplit(tier.text("base_url") or "").port == OLLAMA_PORT
    except ValueError:
        return False


def _with_paths(tier: dict[str, Any], node: MappingNode) -> dict[str, Any]:
    rules, written = node.text("rules"), node.get("rules")
    if rules and written and rules != "builtin":
        tier["rules"] = path_at(rules, written.place)
    _with_model_path(tier, node)
    for number, alternate in enumerate(node.items("alternates")):
        if isinstance(alternate, MappingNode):
            _with_model_path(tier["alternates"][number], alternate)
    return tier


def _with_model_path(values: dict[str, Any], node: MappingNode) -> None:
    model, written = node.text("model"), node.get("model")
    if node.text("provider") == "llama_cpp" and model and written and _is_model_path(model):
        path = path_at(model, written.place)
        # `owner/name` is one of the hub's where there is no such file.
        if model.endswith(".gguf") or model[0] in "~/.\\" or Path(path).exists():
            values["model"] = path


def _is_model_path(model: str) -> bool:
    """Return whether a model's name may be a path; those of stores and of the hub are none."""
    if re.match(r"(hf|ollama|lmstudio|llama\.cpp):|https?://|(hf|huggingface)\.co/", model):
        return False
    return model.endswith(".gguf") or "/" in model or "\\" in model or model.startswith("~")


def inherit(parent: MappingNode, child: MappingNode) -> MappingNode:
    """Merge a profile over the one it extends.

    Mappings merge key by key. Tiers that `remove_tiers` names are left out. A tier merges over the
    inherited one of its name, in that one's place; a new tier comes right after the one it follows
    in the child's list. Every other list, and every single value, is the child's. A tier that
    changes its provider keeps nothing that belongs to the old backend.

    Args:
        parent: the inherited profile's tree, merged with what it inherits itself.
        child: the tree of the profile that extends it.

    Returns:
        A new tree, whose parts keep their places in their own files.
    """
    kept = {key: entry for key, entry in parent.entries.items() if key not in _NOT_INHERITED}
    kept |= _kept_tiers(parent, child)
    parent = MappingNode(place=parent.place, entries=kept)
    merged = _over(parent, child)
    ours, theirs = child.get("tiers"), parent.get("tiers")
    if isinstance(ours, ListNode) and isinstance(theirs, ListNode):
        place = child.entries["tiers"].place
        tiers = ListNode(place=ours.place, items=_tiers(theirs, ours))
        merged.entries["tiers"] = Entry(place, tiers)
    return merged


def _kept_tiers(parent: MappingNode, child: MappingNode) -> dict[str, Entry]:
    """Return the entry of the inherited tiers, without those to do without."""
    entry = parent.entries.get("tiers")
    if entry is None or not isinstance(entry.node, ListNode):
        return {}
    gone = {node.value for node in child.items("remove_tiers") if isinstance(node, ScalarNode)}
    tiers = tuple(
        tier
        for tier in entry.node.items
        if not (isinstance(tier, MappingNode) and tier.text("name") in gone)
    )
    return {"tiers": Entry(entry.place, ListNode(place=entry.node.place, items=tiers))}


def _missing_tiers(inherited: list[MappingNode], child: MappingNode) -> list[Mistake]:
    """Find tiers to do without that are not there."""
    known = [name for tier in inherited if (name := tier.text("name")) is not None]
    there_are = f": there are {', '.join(known)}" if known else ""
    return [
        node.place.mistake(f"no tier `{node.text}` is inherited{there_are}")
        for node in child.items("remove_tiers")
        if isinstance(node, ScalarNode) and node.value not in known
    ]


def _over(parent: MappingNode, child: MappingNode) -> MappingNode:
    entries = dict(parent.entries)
    for key, entry in child.entries.items():
        below = entries.get(key)
        node: Node = entry.node
        if (
            below is not None
            and isinstance(below.node, MappingNode)
            and isinstance(node, MappingNode)
        ):
            node = _over(below.node, node)
        entries[key] = Entry(entry.place, node)
    return MappingNode(place=child.place, entries=entries)


def _tiers(theirs: ListNode, ours: ListNode) -> tuple[Node, ...]:
    result = list(theirs.items)
    after = 0
    for node in ours.items:
        at = _position(result, node)
        if at is None:
            result.insert(after, node)
            after += 1
        else:
            below = result[at]
            if isinstance(below, MappingNode) and isinstance(node, MappingNode):
                result[at] = _over(_without_backend(below, node), node)
            after = at + 1
    return tuple(result)


def _position(tiers: list[Node], node: Node) -> int | None:
    name = node.text("name") if isinstance(node, MappingNode) else None
    names = [tier.text("name") if isinstance(tier, MappingNode) else None for tier in tiers]
    return None if name is None or name not in names else names.index(name)


def _without_backend(below: MappingNode, tier: MappingNode) -> MappingNode:
    provider = tier.text("provider")
    if provider is None or provider == below.text("provider"):
        return below
    gone = {*_OF_THE_BACKEND, *PROVIDER_DEFAULTS.get(provider, ())}
    entries = {key: entry for key, entry in below.entries.items() if key not in gone}
    return MappingNode(place=below.place, entries=entries)
