"""Tell what each tier would be sent, without asking any."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from tieredllm.engine.attempt import ToolContext, fit_to_context
from tieredllm.engine.plan import TierPlan, lacking, merged, prompt_room, selected
from tieredllm.errors import FallbackTriggerError
from tieredllm.profile.schema import Params
from tieredllm.prompts.fit import estimate_tokens
from tieredllm.prompts.policies import ContextTooSmallError
from tieredllm.types import LeftOut, Message, Options, Prompt

__all__ = ["Preview", "preview"]


class Preview(msgspec.Struct, frozen=True, kw_only=True):
    """What one tier would be sent."""

    tier: str
    level: int
    provider: str
    model: str
    skip: str | None
    """Why it would be passed over, as far as that is known without asking."""
    policy: str | None = None
    params: Params | None = None
    """None where no model answers."""
    messages: tuple[Message, ...] = ()
    left_out: LeftOut | None = None
    notices: tuple[str, ...] = ()
    """What is left out, for people."""


async def preview(
    plans: Sequence[TierPlan], prompt: Prompt, options: Options
) -> tuple[Preview, ...]:
    """Return what each tier's first configured backend would be sent, one after the other.

    Args:
        plans: the tiers.
        prompt: the request.
        options: what it asks for besides.
    """
    chosen = selected(plans, options)
    return tuple(
        [await _preview(plan, prompt, options, is_first=plan is chosen[0]) for plan in chosen]
    )


async def _preview(plan: TierPlan, prompt: Prompt, options: Options, *, is_first: bool) -> Preview:
    tier = plan.tier
    able = [backend for backend in plan.backends if backend.missing() is None]
    backend = (able or plan.backends)[0]
    missing = backend.missing()
    skip = missing.what if missing else lacking(backend.capabilities, prompt, options)
    about = Preview(
        tier=tier.name, level=plan.level, provider=backend.provider, model=backend.model, skip=skip
    )
    if not plan.is_language_model:
        return about
    params = merged(tier, options.params, is_first=is_first)
    about = msgspec.structs.replace(about, policy=tier.prompt, params=params)
    count: Callable[[str], int] = estimate_tokens
    try:
        if missing is None:
            count = await backend.token_counter()
        fit = fit_to_context(
            prompt,
            ToolContext(declared=options.caller_tools),
            policy=tier.prompt,
            budget_tokens=prompt_room(tier, params),
            count=count,
        )
    except (FallbackTriggerError, ContextTooSmallError) as exc:
        return msgspec.structs.replace(about, skip=skip or str(exc))
    return msgspec.structs.replace(
        about,
        messages=fit.messages,
        left_out=fit.composed.left_out,
        notices=fit.composed.notices,
    )
