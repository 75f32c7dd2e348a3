"""Word what came of a request, in a few lines for stderr.

All functions are pure: an `Answer` in, text out. What comes from outside is cleaned for a terminal.
"""

from __future__ import annotations

from tieredllm.kinds import ErrorKind
from tieredllm.render.event_messages import describe_backend, describe_failure
from tieredllm.text import one_line
from tieredllm.types import Answer, Attempt, last_failures

__all__ = ["failure_lines", "fix_for", "summary_line", "usage_line"]

_REASON_LIMIT = 120
"""Characters that each tier's reason may take in the summary, which is to stay a line or two."""

_FIXES: dict[ErrorKind, str] = {
    ErrorKind.QUOTA_EXHAUSTED: "add credit or raise the spending limit at the vendor",
    ErrorKind.SERVICE_UNAVAILABLE: "ask again later; the server has a problem",
    ErrorKind.CONNECTION: "check the network and the tier's base_url",
    ErrorKind.TLS: "check the certificate, the clock and the proxy of this machine",
    ErrorKind.TIMEOUT: "raise first_token_timeout_s, idle_timeout_s or timeout_s of the tier",
    ErrorKind.AUTHENTICATION: "check the key, and set a valid one with `tieredllm keys set`",
    ErrorKind.PERMISSION: "let the key use this model, or choose another with `-m`",
    ErrorKind.NOT_FOUND: "check the tier's model and base_url",
    ErrorKind.CONTEXT_LENGTH: "shorten the question or what is piped in",
    ErrorKind.CONTENT_FILTER: "reword the question, or set `on_content_filter: fallback`",
    ErrorKind.BAD_REQUEST: "check the tier's model and params",
    ErrorKind.MALFORMED_RESPONSE: "check that base_url is the API's address, not a web page's",
    ErrorKind.DEADLINE: "allow more time with `--deadline`",
}
"""What a person can do about each kind of error, where there is something."""


def summary_line(answer: Answer) -> str | None:
    """Name the tier that answered and why, when it isn't the first; and if the answer was cut.

    Args:
        answer: what came of the request.

    Returns:
        One line, or None when there is nothing to say.
    """
    if answer.text is None or answer.tier is None:
        return None
    parts: list[str] = []
    if answer.fallback_used:
        parts.append(_answered_by(answer, answer.tier))
    if answer.cached_at is not None:
        parts.append(f"this answer is from {one_line(answer.cached_at)}")
    if answer.finish_reason == "repetition":
        parts.append("the answer ran in circles and was cut after the first round")
    elif answer.truncated:
        tokens = answer.usage.completion_tokens
        parts.append("the answer was cut at max_tokens" + (f" ({tokens})" if tokens else ""))
    return f"tieredllm: {'; '.join(parts)}" if parts else None


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
    who = f"{_who(answer, answer.tier)}: " if answer.tier else ""
    return f"tieredllm: {who}{tokens}, {', '.join(times)}"


def failure_lines(answer: Answer) -> list[str]:
    """List why every tier failed, the first tier first, and what to do about each.

    Args:
        answer: a request that nothing answered.
    """
    lines = ["tieredllm: no complete answer" + (":" if answer.attempts else "")]
    shown = set()
    for attempt in last_failures(answer.attempts):
        shown.add(attempt.error)
        lines.append(f"  {describe_backend(attempt)}: {describe_failure(attempt, 400)}")
        fix = fix_for(attempt)
        if fix is not None:
            lines.append(f"    {fix}")
    if answer.error is not None and answer.error not in shown:
        lines.append(f"  {one_line(str(answer.error), 400)}")
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
    return _FIXES.get(error.kind)


def _answered_by(answer: Answer, tier: str) -> str:
    reasons = [
        f"{one_line(attempt.tier)}: {_why(attempt)}"
        for attempt in sorted(
            [*last_failures(answer.attempts), *_overtaken(answer)], key=lambda one: one.level
        )
        if attempt.level < (answer.fallback_level or 0)
    ]
    who = _who(answer, tier)
    return f"answered by {who}" + (f" after {'; '.join(reasons)}" if reasons else "")


def _why(attempt: Attempt) -> str:
    if attempt.outcome == "cancelled" and attempt.first_token_ms is None:
        return f"no token in {attempt.duration_ms / 1000:.1f} s"
    return describe_failure(attempt, _REASON_LIMIT)


def _overtaken(answer: Answer) -> list[Attempt]:
    """Return the attempts that lost a race, of tiers that nothing else is told of."""
    told = {attempt.tier for attempt in last_failures(answer.attempts)}
    return [
        attempt
        for attempt in answer.attempts
        if attempt.outcome == "cancelled" and attempt.tier not in told
    ]


def _who(answer: Answer, tier: str) -> str:
    model = one_line(answer.model_used or "")
    tier = one_line(tier)
    return f"{tier} ({model})" if model not in {"", tier} else tier
