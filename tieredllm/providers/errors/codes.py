"""List the codes, types and sentences by which servers say what went wrong.

Codes decide. A sentence counts only where a vendor documents, or is known to send, no code for the
case; each is here with who says it. Prose such as "quota exceeded per minute" decides nothing.
"""

from __future__ import annotations

from tieredllm.kinds import ErrorKind

__all__ = ["implied_kind", "implied_status", "sentence_kind"]

_QUOTA = frozenset(
    {
        # OpenAI, help.openai.com article 5955604 and its error code guide
        "insufficient_quota",
        "credit_balance_exhausted",
        "billing_hard_limit_reached",
        "billing_not_active",
        # Anthropic, docs/api/errors: 402 billing_error, and 429's details.error_code
        "billing_error",
        "enforced_spend_limit_reached",
        # Google, ErrorInfo.reason of a 403
        "billing_disabled",
        # compatible servers: Moonshot, DeepSeek, OpenRouter, one-api, DashScope, Volcengine
        "exceeded_current_quota_error",
        "insufficient_balance",
        "insufficient_credits",
        "insufficient_user_quota",
        "payment_required",
        "arrearage",
        "accountoverdueerror",
    }
)
# `organization_spend_limit_exceeded`, `project_usage_limit_exceeded` and what may follow.
_QUOTA_ENDINGS = ("_spend_limit_exceeded", "_usage_limit_exceeded")

_RATE = frozenset(
    {
        "rate_limit_exceeded",
        "rate_limit_error",
        "rate_limit_reached_error",
        "ratelimitreached",
        "slow_down",
        "too_many_requests",
        "requests",
        "tokens",
    }
)
_CONTEXT = frozenset(
    {
        "context_length_exceeded",  # OpenAI, Groq, Azure, newer vLLM
        "context_window_exceeded",
        "context_limit_exceeded",
        "exceed_context_size_error",  # llama.cpp's server
        "string_above_max_length",  # OpenAI, one message of more than a million characters
        "request_too_large",  # Anthropic, 413
        "tokens_limit_reached",  # GitHub Models, 413
        "prompt_too_long",
    }
)
_FILTER = frozenset(
    {
        "content_filter",  # Azure
        "content_filtered",
        "content_policy_violation",  # OpenAI, Azure
        "responsibleaipolicyviolation",  # Azure, innererror.code
        "moderation_blocked",  # OpenAI
        "invalid_prompt",  # OpenAI, a prompt flagged for reasoning models
        "data_inspection_failed",  # DashScope
        "datainspectionfailed",
    }
)
_AUTHENTICATION = frozenset(
    {
        "api_key_invalid",  # Google, ErrorInfo.reason of a 400
        "api_key_expired",
        "invalid_api_key",  # OpenAI
        "authentication_error",  # Anthropic
        "unauthenticated",
    }
)

_STATUSES = {
    "overloaded_error": 529,
    "server_is_overloaded": 503,
    "service_unavailable_error": 503,
    "capacity_exceeded": 503,
    "unavailable": 503,
    "api_error": 500,
    "server_error": 500,
    "internal_server_error": 500,
    "internal": 500,
    "timeout_error": 504,
    "deadline_exceeded": 504,
    "conflict_error": 409,
    "permission_error": 403,
    "permission_denied": 403,
    "not_found_error": 404,
    "not_found": 404,
    "model_not_found": 404,
    "notfounderror": 404,
    "invalid_request_error": 400,
    "invalid_argument": 400,
    "failed_precondition": 400,
    "badrequesterror": 400,
    "bad_request_error": 400,
    "unsupported_parameter": 400,
    "unsupported_value": 400,
    "resource_exhausted": 429,
}
"""The HTTP status that goes with a code, for errors that came inside a 200."""

_SENTENCES: tuple[tuple[str, ErrorKind], ...] = (
    # Anthropic sends these as 400 `invalid_request_error`, without a code of their own.
    ("your credit balance is too low", ErrorKind.QUOTA_EXHAUSTED),
    ("you have reached your specified api usage limits", ErrorKind.QUOTA_EXHAUSTED),
    ("you have reached your specified workspace api usage limits", ErrorKind.QUOTA_EXHAUSTED),
    ("output blocked by content filtering policy", ErrorKind.CONTENT_FILTER),
    # Google sends this as 429 `RESOURCE_EXHAUSTED`, as for a rate.
    ("your prepayment credits are depleted", ErrorKind.QUOTA_EXHAUSTED),
    # DeepSeek, 400 `invalid_request_error`
    ("content exists risk", ErrorKind.CONTENT_FILTER),
)

# What servers without a code say when the prompt is too long: OpenAI's old and OpenRouter's and
# vLLM's "maximum context length", Anthropic's and Ollama's "prompt is too long", Google's "input
# token count", Groq's, Mistral's, xAI's, Moonshot's, Together's, LM Studio's, Bedrock's.
_TOO_LONG = (
    r"maximum context length",
    r"prompt (?:is )?too long",
    r"input token count.{0,40}exceeds",
    r"exceeds? (?:the )?(?:available |model'?s? )?context (?:length|size|window|limit)",
    r"(?:greater|longer|larger) than the (?:model'?s )?context (?:length|size|window)",
    r"context (?:length|size|window) (?:has been |is |was )?exceed",
    r"context length is only",
    r"reduce the length of the (?:messages|prompt|input)",
    r"maximum prompt length is",
    r"exceeded model token limit",
    r"input is too long for requested model",
)


def implied_kind(codes: tuple[str, ...]) -> ErrorKind | None:
    """Return the kind that the first decisive code stands for; None when none is decisive."""
    for code in codes:
        if code in _QUOTA or code.endswith(_QUOTA_ENDINGS):
            return ErrorKind.QUOTA_EXHAUSTED
        if code in _FILTER:
            return ErrorKind.CONTENT_FILTER
        if code in _CONTEXT:
            return ErrorKind.CONTEXT_LENGTH
        if code in _AUTHENTICATION:
            return ErrorKind.AUTHENTICATION
        if code in _RATE:
            return ErrorKind.RATE_LIMIT
    return None


def implied_status(codes: tuple[str, ...]) -> int | None:
    """Return the HTTP status that the first known code goes with."""
    return next((_STATUSES[code] for code in codes if code in _STATUSES), None)


def sentence_kind(message: str) -> ErrorKind | None:
    """Return the kind a vendor's sentence stands for, where the vendor has no code for it."""
    import re

    words = " ".join(message[:2000].lower().split())
    for sentence, kind in _SENTENCES:
        if sentence in words:
            return kind
    if any(re.search(pattern, words) for pattern in _TOO_LONG):
        return ErrorKind.CONTEXT_LENGTH
    return None
