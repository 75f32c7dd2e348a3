"""Put another model into a profile: into a tier that is named, or into the first one that fits."""

from __future__ import annotations

import re
from typing import Any

from msgspec.structs import replace

from tieredllm.errors import UsageError
from tieredllm.profile.schema import Alternate, BackendSettings, Profile, Tier

__all__ = ["first_fit", "split_model", "with_model"]

VENDORS = (
    (re.compile(r"(chat)?gpt-|o\d(-|$)|codex-"), "openai"),
    (re.compile(r"claude-"), "anthropic"),
    (re.compile(r"gemini-|learnlm-"), "gemini"),
)
"""How the vendors name their models (the model lists of their documentation)."""


def split_model(text: str) -> tuple[str | None, str]:
    """Return the tier and the model of `[TIER=]MODEL`; a path or an address may have a `=`, too."""
    tier, equals, model = text.partition("=")
    return (tier, model) if equals and not re.search(r"[/:\\]", tier) else (None, text)


def with_model(profile: Profile, name: str, model: str) -> Profile:
    """Return the profile with another model in one tier.

    Raises:
        UsageError: there is no tier of that name, or it has no model.
    """
    chosen = next((tier for tier in profile.tiers if tier.name == name), None)
    if chosen is None:
        having = ", ".join(tier.name for tier in profile.tiers if tier.model is not None)
        raise UsageError(
            f"profile {profile.name} has no tier {name!r} with a model: it has {having}"
        )
    if chosen.model is None:
        raise UsageError(f"tier {name} has no model to choose")
    return _put(profile, chosen, replace(chosen, **_changes(chosen, model)))


def first_fit(
    profile: Profile,
    model: str,
    *,
    is_local: bool,
    usual: str | None = None,
    within: str | None = None,
) -> tuple[Profile, str]:
    """Return the profile with a model in the first tier that fits, and that tier's name.

    A model that the profile names fits where it is named; one of this machine fits llama.cpp; one
    whose name tells its vendor fits that vendor's own host, else any server that is no vendor's.
    A tier of which only an alternate fits asks that alternate first.

    Args:
        profile: the profile.
        model: the model's name.
        is_local: whether it is a file of this machine.
        usual: the tier that comes first among those that fit as well.
        within: the only tier to look at.

    Raises:
        UsageError: no tier fits.
    """
    backends: list[tuple[Tier, BackendSettings]] = []
    for tier in profile.tiers:
        if within in {None, tier.name}:
            backends += [(tier, tier), *((tier, each) for each in tier.alternates)]
    fits = [(_distance(each, model, is_local=is_local), tier, each) for tier, each in backends]
    near = [found for found in fits if found[0] is not None]
    if not near:
        where = "on this machine (`provider: llama_cpp`)" if is_local else "of a vendor or a server"
        tiers = "no tier" if within is None else f"in tier {within} no place"
        raise UsageError(f"profile {profile.name} has {tiers} for a model {where}: {model}")
    _, chosen, backend = min(near, key=lambda found: (found[0] or 0, found[1].name != usual))
    return _put(profile, chosen, _asking(chosen, backend, model)), chosen.name


def _distance(backend: BackendSettings, model: str, *, is_local: bool) -> int | None:
    """Return how well a backend fits a model, 0 the best; None when it does not."""
    if backend.model == model:
        return 0
    if is_local or backend.provider == "llama_cpp":
        return 1 if is_local and backend.provider == "llama_cpp" else None
    if backend.provider not in {"openai", "anthropic", "gemini"}:
        return None
    if backend.base_url is not None:
        return 2
    vendor = next((vendor for form, vendor in VENDORS if form.match(model)), None)
    return 1 if backend.provider == vendor else 3


def _asking(tier: Tier, backend: BackendSettings, model: str) -> Tier:
    """Return the tier with one of its backends first, asking a model."""
    if isinstance(backend, Tier):
        return replace(tier, **_changes(tier, model))
    own = Alternate(**{name: getattr(tier, name) for name in BackendSettings.__struct_fields__})
    others = tuple(each for each in tier.alternates if each is not backend)
    first = {name: getattr(backend, name) for name in BackendSettings.__struct_fields__}
    return replace(tier, **first | _changes(backend, model), alternates=(own, *others))


def _changes(backend: BackendSettings, model: str) -> dict[str, Any]:
    """Return what another model makes different; what it costs the profile does not say."""
    return {"model": model} if model == backend.model else {"model": model, "price": None}


def _put(profile: Profile, former: Tier, changed: Tier) -> Profile:
    tiers = tuple(changed if tier is former else tier for tier in profile.tiers)
    return replace(profile, tiers=tiers)
