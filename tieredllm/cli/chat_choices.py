"""Find the tiers and models that a chat's commands are completed from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from tieredllm.errors import ModelFileError

if TYPE_CHECKING:
    from tieredllm.client import FallbackManager
    from tieredllm.profile.schema import Alternate, Tier

__all__ = ["known_models", "tiers"]


def tiers(manager: FallbackManager) -> list[tuple[str, str]]:
    """Give the tiers' names, and what each asks."""
    return [
        (tier.name, " ".join(dict.fromkeys(filter(None, (tier.provider, tier.model)))))
        for tier in manager.profile.tiers
    ]


def known_models(manager: FallbackManager) -> list[tuple[str, str]]:
    """Give `TIER=MODEL` for the models the profile names for the tier's provider.

    A local tier has those of the catalog too.
    """
    found: dict[str, str] = {}
    for tier in manager.profile.tiers:
        if tier.model is None:
            continue
        for model in dict.fromkeys((tier.model, *_models(manager, tier.provider))):
            found[f"{tier.name}={model}"] = tier.provider
    return list(found.items())


def _models(manager: FallbackManager, provider: str) -> Iterator[str]:
    for tier in manager.profile.tiers:
        backends: tuple[Tier | Alternate, ...] = (tier, *tier.alternates)
        for backend in backends:
            if backend.provider == provider and backend.model is not None:
                yield backend.model
    if provider == "llama_cpp":
        from tieredllm.local.catalog import load_catalog

        try:
            yield from load_catalog(manager.places.config / "models.yaml")
        except ModelFileError:
            return
