"""Lay out which tiers a request may use."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from tieredllm.profile.schema import Tier
from tieredllm.providers.base import Backend
from tieredllm.types import Options

__all__ = ["TierPlan", "leading_models", "selected"]


class TierPlan(msgspec.Struct, frozen=True, kw_only=True):
    """One tier of the profile with the backends that serve it, in their order."""

    tier: Tier
    level: int
    """The tier's place in the profile, 0 for the first."""
    backends: tuple[Backend, ...]
    """Never empty."""

    @property
    def is_language_model(self) -> bool:
        """Whether a model writes this tier's answers."""
        return self.backends[0].is_language_model


def selected(plans: Sequence[TierPlan], options: Options) -> list[TierPlan]:
    """Return the tiers a request may use, in order.

    Raises:
        ValueError: no tier has the name to start at.
    """
    chosen = list(plans)
    if options.start is not None:
        names = [plan.tier.name for plan in chosen]
        chosen = chosen[names.index(options.start) :]
    if options.require_llm:
        chosen = [plan for plan in chosen if plan.tier.provider != "rules"]
    return chosen if options.fallback else chosen[:1]


def leading_models(plans: Sequence[TierPlan]) -> list[TierPlan]:
    """Return the tiers at the front whose answers a model writes: those a slow one may race."""
    leading: list[TierPlan] = []
    for plan in plans:
        if not plan.is_language_model:
            break
        leading.append(plan)
    return leading
