"""Put what a profile says over what it inherits."""

from __future__ import annotations

from tieredllm.profile.schema import PROVIDER_DEFAULTS
from tieredllm.profile.tree import Entry, Mapping, Node, Sequence

__all__ = ["inherit"]

_NOT_INHERITED = ("name", "extends", "description")
_OF_THE_BACKEND = ("model", "base_url", "api_key_env", "alternates", "context_tokens")
"""What says nothing about a tier once another provider answers it."""


def inherit(parent: Mapping, child: Mapping) -> Mapping:
    """Merge a profile over the one it extends.

    Mappings merge key by key. A tier merges over the inherited one of its name, in that one's
    place; a new tier comes right after the one it follows in the child's list. Every other list,
    and every single value, is the child's. A tier that changes its provider keeps nothing that
    belongs to the old backend.

    Args:
        parent: the inherited profile's tree, merged with what it inherits itself.
        child: the tree of the profile that extends it.

    Returns:
        A new tree, whose parts keep their places in their own files.
    """
    kept = {key: entry for key, entry in parent.entries.items() if key not in _NOT_INHERITED}
    merged = _over(Mapping(place=child.place, entries=kept), child)
    ours, theirs = child.get("tiers"), parent.get("tiers")
    if isinstance(ours, Sequence) and isinstance(theirs, Sequence):
        place = child.entries["tiers"].place
        tiers = Sequence(place=ours.place, items=_tiers(theirs, ours))
        merged.entries["tiers"] = Entry(place, tiers)
    return merged


def _over(parent: Mapping, child: Mapping) -> Mapping:
    entries = dict(parent.entries)
    for key, entry in child.entries.items():
        below = entries.get(key)
        node: Node = entry.node
        if below is not None and isinstance(below.node, Mapping) and isinstance(node, Mapping):
            node = _over(below.node, node)
        entries[key] = Entry(entry.place, node)
    return Mapping(place=child.place, entries=entries)


def _tiers(theirs: Sequence, ours: Sequence) -> tuple[Node, ...]:
    result = list(theirs.items)
    after = 0
    for node in ours.items:
        at = _position(result, node)
        if at is None:
            result.insert(after, node)
            after += 1
        else:
            below = result[at]
            if isinstance(below, Mapping) and isinstance(node, Mapping):
                result[at] = _over(_without_backend(below, node), node)
            after = at + 1
    return tuple(result)


def _position(tiers: list[Node], node: Node) -> int | None:
    name = node.text("name") if isinstance(node, Mapping) else None
    if name is None:
        return None
    for position, tier in enumerate(tiers):
        if isinstance(tier, Mapping) and tier.text("name") == name:
            return position
    return None


def _without_backend(below: Mapping, tier: Mapping) -> Mapping:
    provider = tier.text("provider")
    if provider is None or provider == below.text("provider"):
        return below
    gone = {*_OF_THE_BACKEND, *PROVIDER_DEFAULTS.get(provider, ())}
    entries = {key: entry for key, entry in below.entries.items() if key not in gone}
    return Mapping(place=below.place, entries=entries)
