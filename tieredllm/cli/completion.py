"""Complete what only this user's files know: profiles, tiers, models and faults.

A shell asks while somebody types, so a file with mistakes completes to nothing instead of an error.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from tieredllm.cli.context import current

if TYPE_CHECKING:
    from tieredllm.profile.schema import Alternate, Tier

__all__ = ["catalog_models", "faults", "models", "profiles", "tiers"]


def profiles(incomplete: str) -> list[str]:
    """Give the profiles whose name begins so."""
    from tieredllm.profile.load import known_profiles

    return _beginning([found.name for found in known_profiles(current().places)], incomplete)


def tiers(ctx: typer.Context, incomplete: str) -> list[str]:
    """Give the tiers of the profile in use whose name begins so."""
    return _beginning([tier.name for tier in _tiers(ctx)], incomplete)


def models(ctx: typer.Context, incomplete: str) -> list[str]:
    """Give `TIER=MODEL` for the models that the profile in use names."""
    pairs: list[str] = []
    for tier in _tiers(ctx):
        backends: list[Tier | Alternate] = [tier, *tier.alternates]
        pairs += [f"{tier.name}={backend.model}" for backend in backends if backend.model]
    return _beginning(pairs, incomplete)


def faults(ctx: typer.Context, incomplete: str) -> list[str]:
    """Give `TIER=FAULT` for every fault."""
    from tieredllm.kinds import ErrorKind

    return _beginning(
        [f"{tier.name}={kind}" for tier in _tiers(ctx) for kind in ErrorKind], incomplete
    )


def catalog_models(incomplete: str) -> list[str]:
    """Give the local models of the catalog whose name begins so."""
    from tieredllm.errors import TieredLLMError
    from tieredllm.local.catalog import load_catalog

    try:
        entries = load_catalog(current().places.config / "models.yaml")
    except TieredLLMError:
        return []
    return _beginning(list(entries), incomplete)


def _tiers(ctx: typer.Context) -> tuple[Tier, ...]:
    from tieredllm.errors import TieredLLMError
    from tieredllm.profile.load import load_profile

    session = current()
    above = ctx.parent.params if ctx.parent is not None else {}
    name = ctx.params.get("profile") or above.get("profile") or session.profile_name
    try:
        return load_profile(name, session.places).tiers
    except TieredLLMError:
        return ()


def _beginning(names: list[str], incomplete: str) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]
