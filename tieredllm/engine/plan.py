"""Lay out which tiers a request may use."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from tieredllm.profile.schema import BackendSettings, Params, Price, Tier
from tieredllm.providers.base import Backend, Capabilities
from tieredllm.types import Document, Image, Options, ParamOverrides, Prompt, Usage

__all__ = [
    "TierPlan",
    "cost",
    "lacking",
    "leading_models",
    "merged",
    "most_tokens",
    "prompt_room",
    "selected",
]


UNCAPPED_ROOM = 32_768
"""What is kept of a context for an answer without a limit of its own: more than any but the longest
take, thoughts included."""


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

    def price_of(self, alternate: int) -> Price | None:
        """Return what a backend's model costs, where the profile says; 0 for the tier's first."""
        sources: list[BackendSettings] = [self.tier, *self.tier.alternates]
        return sources[alternate].price


def cost(price: Price | None, usage: Usage) -> float | None:
    """Return what an answer cost; None where no price or no count is known.

    Args:
        price: of a million tokens.
        usage: as the backend reported it.
    """
    sent, written = usage.prompt_tokens, usage.completion_tokens
    if price is None or sent is None or written is None:
        return None
    return round((sent * price.input + written * price.output) / 1_000_000, 9)


def selected(plans: Sequence[TierPlan], options: Options) -> list[TierPlan]:
    """Return the tiers a request may use, in order; without fallback one tier's one backend.

    Where the tier to start at comes after the last that may answer, it is asked alone.

    Raises:
        ValueError: no tier has the name to start or to end at.
    """
    names = [plan.tier.name for plan in plans]
    first = 0 if options.start is None else names.index(options.start)
    last = len(names) - 1 if options.max_tier is None else names.index(options.max_tier)
    chosen = list(plans[first : max(first, last) + 1])
    if options.require_llm:
        chosen = [plan for plan in chosen if plan.tier.provider != "rules"]
    return chosen if options.fallback else [_alone(plan) for plan in chosen[:1]]


def _alone(plan: TierPlan) -> TierPlan:
    """Return a tier with one backend: the first that is configured, if any is."""
    able = [backend for backend in plan.backends if backend.missing() is None]
    return msgspec.structs.replace(plan, backends=(able or list(plan.backends))[:1])


def leading_models(plans: Sequence[TierPlan]) -> list[TierPlan]:
    """Return the tiers at the front whose answers a model writes: those a slow one may race."""
    leading: list[TierPlan] = []
    for plan in plans:
        if not plan.is_language_model:
            break
        leading.append(plan)
    return leading


def merged(tier: Tier, overrides: ParamOverrides, *, is_first: bool) -> Params:
    """Return a tier's parameters with those that a request sets itself.

    An answer is not promised more than half the context, unless the tier does so itself: agents
    ask for 64,000 tokens of any model, and nothing would be left for what they send.

    Args:
        tier: whose parameters and context they are.
        overrides: the request's.
        is_first: whether it is the first tier of the request; below it `max_tokens` is at most the
            tier's own, which its context is made for.
    """
    given = {
        name: value
        for name in ParamOverrides.__struct_fields__
        if (value := getattr(overrides, name)) is not None
    }
    if "max_tokens" in given:
        own = tier.params.max_tokens
        most = most_tokens(tier) if is_first or own is None else own
        given["max_tokens"] = min(given["max_tokens"], most)
    return msgspec.structs.replace(tier.params, **given)


def most_tokens(tier: Tier) -> int:
    """Return the largest `max_tokens` that a request which starts at a tier may set itself."""
    return max(tier.params.max_tokens or 0, tier.context_tokens // 2)


def prompt_room(tier: Tier, params: Params) -> int:
    """Return how many tokens of a tier's context are left beside the answer.

    The answer has `max_tokens` where there is a limit, else a quarter, at most `UNCAPPED_ROOM`.
    """
    uncapped = min(tier.context_tokens // 4, UNCAPPED_ROOM)
    return tier.context_tokens - (uncapped if params.max_tokens is None else params.max_tokens)


def lacking(capabilities: Capabilities, prompt: Prompt, options: Options) -> str | None:
    """Return what a backend cannot do that a request needs, for people; None when it can do all."""
    parts = [*prompt.parts, *(part for turn in prompt.history for part in turn.parts)]
    needs = {
        "it cannot call the caller's tools": bool(options.caller_tools)
        and options.tool_choice.mode != "none"
        and not capabilities.tools,
        "it cannot see images": any(isinstance(part, Image) for part in parts)
        and not capabilities.images,
        "it cannot read PDF documents": any(isinstance(part, Document) for part in parts)
        and not capabilities.documents,
        "its answers cannot be held to a schema": options.schema is not None
        and not capabilities.schema,
    }
    return next((what for what, is_lacking in needs.items() if is_lacking), None)
