"""Word what came of a request, in a few lines for stderr.

All functions are pure: an `Answer`, or what models lack, in, text out. What comes from outside is
cleaned for a terminal.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tieredllm.engine.plan import TierPlan, most_tokens
from tieredllm.kinds import FIXES, ErrorKind
from tieredllm.profile.schema import KEY_VARIABLES
from tieredllm.render.event_messages import describe_backend, describe_failure
from tieredllm.text import one_line
from tieredllm.types import (
    NO_MODEL,
    Answer,
    Attempt,
    answering,
    backend_of,
    is_from_first_choice,
)

if TYPE_CHECKING:
    from tieredllm.providers.base import Missing

__all__ = [
    "failure_lines",
    "fix_for",
    "format_cost",
    "setup_lines",
    "summary_line",
    "unconfigured_models",
    "usage_line",
]

SMALLEST, SMALLEST_SIZE = "smollm2-135m", "98 MB"
"""The model that is had the soonest (models/catalog.yaml)."""
_REASON_LIMIT = 120
"""Characters that each tier's reason may take in the summary, which is to stay a line or two."""


def summary_line(
    answer: Answer, *, names_model: bool = True, plans: Sequence[TierPlan] = ()
) -> str | None:
    """Name the model that answered and why, when it isn't the first choice; and if it was cut.

    Args:
        answer: what came of the request.
        names_model: False where it is said elsewhere who answers.
        plans: the profile's tiers, where they are known: how much more each of them allows.

    Returns:
        One line, or None when there is nothing to say.
    """
    if answer.text is None or answer.tier is None:
        return None
    parts: list[str] = []
    if names_model and not is_from_first_choice(answer):
        parts.append(_answered_by(answer, answer.tier))
    if answer.cached_at is not None:
        parts.append(f"this answer is from {one_line(answer.cached_at)}")
    if answer.finish_reason == "repetition":
        parts.append("the answer ran in circles and was cut after the first round")
    elif answer.truncated:
        parts.append(_cut(answer, plans))
    return f"tieredllm: {'; '.join(parts)}" if parts else None


def setup_lines(lacking: Sequence[Missing]) -> list[str]:
    """Say how to begin, in three lines: which key, which model, and the command that asks.

    Args:
        lacking: what each language model lacks.
    """
    variables = dict.fromkeys(gap.variable for gap in lacking if gap.variable)
    vendors = {variable: vendor for vendor, variable in KEY_VARIABLES.items()}
    keys = [vendors.get(variable, variable) for variable in variables]
    pullable = [gap.model for gap in lacking if gap.model]
    others = (gap for gap in lacking if not gap.variable and not gap.model)
    lines = ["tieredllm: no model is set up yet: `tieredllm profile init` asks what to use, or"]
    if keys:
        any_one = ", any one" if len(keys) > 1 else ""
        lines.append(f"  a key{any_one}: tieredllm keys set {' | '.join(keys)}")
    if pullable:
        model = SMALLEST if SMALLEST in pullable else pullable[0]
        size = f" ({SMALLEST_SIZE})" if model == SMALLEST else ""
        lines.append(
            f"  without a key, also offline: tieredllm models pull {one_line(model)}{size}"
        )
    lines += dict.fromkeys(f"  {one_line(gap.what)}: {one_line(gap.fix)}" for gap in others)
    return lines


def unconfigured_models(answer: Answer) -> list[Attempt]:
    """Return the language models that lack a key or a file, where there is none that does not."""
    models = [attempt for attempt in answer.attempts if attempt.provider not in NO_MODEL]
    return models if all(attempt.is_unconfigured for attempt in models) else []


def _cut(answer: Answer, plans: Sequence[TierPlan]) -> str:
    """Say where an answer was cut, and what allows more: only what would."""
    tokens, limit = answer.usage.completion_tokens, answer.max_tokens
    known = limit or tokens
    counted = f" ({known})" if known else ""
    tier = one_line(answer.tier or "")
    # Below the first tier of a request its own limit holds.
    is_first = not answer.attempts or answer.attempts[0].level == answer.fallback_level
    more = 2 * known if known else None
    if plans and more is not None and known is not None:
        own = plans[answer.fallback_level or 0].tier
        if known >= (most := most_tokens(own)):
            return (
                f"the answer was cut at max_tokens{counted}: `-o` allows no more; `max_tokens` in "
                f"the params of tier {tier} does, or its `context_tokens` ({own.context_tokens})"
            )
        more = min(more, most)
    option = f"-o max_tokens {more or 'NUMBER'}"
    option = option if is_first else f"-t {tier} {option}"
    is_short = tokens and limit and 10 * tokens < 9 * limit and answer.reasoning is None
    unless = f"; unless its server has a limit of its own: it has {tokens} tokens"
    return (
        f"the answer was cut at max_tokens{counted}: `{option}`, or `max_tokens` in the params of "
        f"tier {tier}, allows more{unless if is_short else ''}"
    )


def usage_line(answer: Answer) -> str:
    """Word the tokens and the time an answer took."""
    usage = answer.usage
    parts: list[str] = []
    if usage.prompt_tokens is not None:
        parts.append(f"{usage.prompt_tokens} prompt")
    if usage.completion_tokens is not None:
        parts.append(f"{usage.completion_tokens} completion")
    tokens = f"{' + '.join(parts)} tokens" if parts else "tokens not reported"
    times = [f"{answer.latency_ms / 1000:.2f} s"]
    if answer.first_token_ms is not None:
        times.append(f"first token after {answer.first_token_ms / 1000:.2f} s")
        writing_s = (answer.latency_ms - answer.first_token_ms) / 1000
        if usage.completion_tokens and writing_s > 0.05:
            times.append(f"{usage.completion_tokens / writing_s:.0f} tokens/s")
    if answer.cost is not None:
        times.append(f"cost {format_cost(answer.cost)}")
    who = f"{_who(answer, answer.tier)}: " if answer.tier else ""
    return f"tieredllm: {who}{tokens}, {', '.join(times)}"


def format_cost(cost: float) -> str:
    """Word an amount of money, down to a millionth."""
    return f"{cost:.6f}".rstrip("0").rstrip(".")


def failure_lines(answer: Answer) -> list[str]:
    """List why every tier failed, each backend of it, and what to do; the first tier first.

    Args:
        answer: a request that nothing answered.
    """
    lines = ["tieredllm: no complete answer" + (":" if answer.attempts else "")]
    ways = _given_way(answer.attempts)
    for attempt in ways:
        lines.append(f"  {describe_backend(attempt)}: {describe_failure(attempt, 400)}")
        fix = fix_for(attempt)
        if fix is not None:
            lines.append(f"    {fix}")
    error = answer.error
    is_told = any(attempt.error == error for attempt in ways)
    # Where every tier was passed over, the request's own error sums that up once more.
    is_sum = bool(ways) and all(attempt.skip is not None for attempt in ways)
    if error is not None and not is_told and (not is_sum or error.kind is ErrorKind.DEADLINE):
        lines.append(f"  {one_line(str(error), 400)}")
    return lines


def fix_for(attempt: Attempt) -> str | None:
    """Say what a person can do about a failed or skipped attempt; None if there is nothing."""
    if attempt.skip is not None:
        return one_line(attempt.skip.fix) if attempt.skip.fix else None
    error = attempt.error
    if error is None:
        return None
    if error.kind is ErrorKind.RATE_LIMIT:
        wait = f" in {error.retry_after_s:.0f} s" if error.retry_after_s else " in a while"
        return f"ask again{wait}"
    if error.kind is ErrorKind.MODEL_UNAVAILABLE:
        name = one_line(attempt.model)
        if "/" in name or name.endswith(".gguf"):
            return "check that the file is there, complete, and fits in memory"
        return f"`tieredllm models pull {name}`, or `tieredllm models verify {name}`"
    # Whoever has said words is the right address.
    spoke = error.kind is ErrorKind.MALFORMED_RESPONSE and attempt.first_token_ms is not None
    return None if spoke else FIXES.get(error.kind)


def _answered_by(answer: Answer, tier: str) -> str:
    """Name who answered, and what the first backend of each tier before did instead."""
    won = answering(answer)
    reasons: dict[str, str] = {}
    for attempt in sorted(_given_way(answer.attempts), key=lambda one: one.level):
        is_own = won is not None and backend_of(attempt) == backend_of(won)
        is_news = answer.provider == "rules" or not attempt.is_unconfigured
        if is_own or not is_news or attempt.level > (answer.fallback_level or 0):
            continue
        name = one_line(attempt.tier)
        if attempt.tier == tier:
            name += f" ({one_line(attempt.model)})"
        reasons.setdefault(attempt.tier, f"{name}: {_why(attempt)}")
    who = _who(answer, tier)
    return f"answered by {who}" + (f" after {'; '.join(reasons.values())}" if reasons else "")


def _given_way(attempts: tuple[Attempt, ...]) -> list[Attempt]:
    """Return why each backend gave no answer, tier by tier, in their order.

    Of a backend that is its last failure, else why it was passed over, else that it lost a race. A
    tier's backends that are not configured are left out where another of its backends is.
    """
    tiers: dict[tuple[int, str], dict[tuple[int, str, int, str, str], Attempt]] = {}
    for attempt in attempts:
        found = tiers.setdefault((attempt.level, attempt.tier), {})
        known = found.get(backend_of(attempt))
        if attempt.outcome == "failed" or (attempt.outcome != "ok" and known is None):
            found[backend_of(attempt)] = attempt
    ways: list[Attempt] = []
    for _, found in sorted(tiers.items()):
        backends = list(found.values())
        ways += [it for it in backends if not it.is_unconfigured] or backends[:1]
    return ways


def _why(attempt: Attempt) -> str:
    if attempt.outcome == "cancelled" and attempt.first_token_ms is None:
        return f"no token in {attempt.duration_ms / 1000:.1f} s"
    return describe_failure(attempt, _REASON_LIMIT)


def _who(answer: Answer, tier: str) -> str:
    model = one_line(answer.model_used or "")
    tier = one_line(tier)
    return f"{tier} ({model})" if model not in {"", tier} else tier
