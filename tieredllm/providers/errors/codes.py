"""The words by which servers say what went wrong: one table, each row with its source.

A code decides wherever it stands. A sentence counts only where a vendor documents, or is known to
send, no code for the case; prose such as "quota exceeded per minute" decides nothing. Whoever
learns of another wording adds a row here, and what it was seen in to the tests.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache

import msgspec

from tieredllm.kinds import ErrorKind

__all__ = ["SIGNS", "Sign", "kind_of_codes", "sign_of_words", "status_of_codes"]

LOOKED_AT_CHARACTERS = 2000
"""More of a message is never looked at: a server that echoes the prompt does so at its end."""


class Sign(msgspec.Struct, frozen=True, kw_only=True):
    """What some words of a server mean."""

    means: ErrorKind | int
    """The kind; or the HTTP status that goes with it, for errors that came inside a 200."""
    source: str
    """Who says so, and where that is written down."""
    codes: tuple[str, ...] = ()
    """Codes, types and reasons in lower case with `_`; `*` stands for any beginning."""
    words: tuple[str, ...] = ()
    """Patterns of sentences, in lower case with single blanks."""
    parameter: str | None = None
    """The request parameter that can be left out instead."""
    truncated: bool = False
    """Whether the limit of tokens was used up before an answer began."""


SIGNS: tuple[Sign, ...] = (
    # Out of money, or of what an account may use in all.
    Sign(
        means=ErrorKind.QUOTA_EXHAUSTED,
        source="OpenAI, help.openai.com article 5955604 and the guide to error codes",
        codes=(
            "insufficient_quota",
            "credit_balance_exhausted",
            "billing_hard_limit_reached",
            "billing_not_active",
            # `organization_spend_limit_exceeded`, `project_usage_limit_exceeded`, what may follow
            "*_spend_limit_exceeded",
            "*_usage_limit_exceeded",
        ),
    ),
    Sign(
        means=ErrorKind.QUOTA_EXHAUSTED,
        source="Anthropic, docs/api/errors: 402, and `details.error_code` of a 429 or 400"
        " (anthropic-python 2.14.0, types of `error_code`); two sentences come without a code",
        codes=("billing_error", "*_spend_limit_reached", "linked_organization_billing_unavailable"),
        words=(
            r"your credit balance is too low",
            r"you have reached your specified (?:workspace )?api usage limits",
        ),
    ),
    Sign(
        means=ErrorKind.QUOTA_EXHAUSTED,
        source="Google, `ErrorInfo.reason` of a 403; the sentence comes as 429 RESOURCE_EXHAUSTED",
        codes=("billing_disabled",),
        words=(r"your prepayment credits are depleted",),
    ),
    Sign(
        means=ErrorKind.QUOTA_EXHAUSTED,
        source="Moonshot, DeepSeek, OpenRouter, one-api, DashScope, Volcengine: error references",
        codes=(
            "exceeded_current_quota_error",
            "insufficient_balance",
            "insufficient_credits",
            "insufficient_user_quota",
            "payment_required",
            "arrearage",
            "accountoverdueerror",
        ),
    ),
    Sign(
        means=ErrorKind.QUOTA_EXHAUSTED,
        source="LiteLLM 1.108.7, litellm/exceptions.py `BudgetExceededError`: 422",
        codes=("budget_exceeded",),
    ),
    Sign(
        means=ErrorKind.QUOTA_EXHAUSTED,
        source="MiniMax, `base_resp.status_code` 1008 (adrianlyjak/obsidian-aloud-tts#114)",
        codes=("minimax_1008",),
    ),
    # Too many requests for now.
    Sign(
        means=ErrorKind.RATE_LIMIT,
        source="OpenAI, Anthropic, Moonshot, Azure, Mistral: error references",
        codes=(
            "rate_limit_exceeded",
            "rate_limit_error",
            "rate_limit_reached_error",
            "ratelimitreached",
            "slow_down",
            "too_many_requests",
            "requests",
            "tokens",
        ),
    ),
    # More than the model can read at once.
    Sign(
        means=ErrorKind.CONTEXT_LENGTH,
        source="OpenAI, Groq, Azure, newer vLLM; llama.cpp's server; Anthropic's and GitHub Models'"
        " 413; OpenAI on one message of more than a million characters",
        codes=(
            "context_length_exceeded",
            "context_window_exceeded",
            "context_limit_exceeded",
            "exceed_context_size_error",
            "string_above_max_length",
            "request_too_large",
            "tokens_limit_reached",
            "prompt_too_long",
        ),
    ),
    Sign(
        means=ErrorKind.CONTEXT_LENGTH,
        source="without a code: OpenAI's old and OpenRouter's and vLLM's 'maximum context length',"
        " Anthropic's and Ollama's 'prompt is too long', Google's 'input token count', Groq, xAI,"
        " Mistral, Moonshot, Together, LM Studio, Bedrock",
        words=(
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
        ),
    ),
    Sign(
        means=ErrorKind.CONTEXT_LENGTH,
        source="LM Studio 0.4.21 inside a 200 (lmstudio-bug-tracker 2322); mistral.rs 0.9.2,"
        " mistralrs-core; SGLang inside a 200",
        words=(
            r"trying to keep the first [0-9]+ tokens when context",
            r"context length of only [0-9]+ tokens",
            r"prompt sequence length is greater than [0-9]+",
            r"input length \(?[0-9]+(?: tokens\))? exceeds (?:the )?maximum allowed",
        ),
    ),
    # The vendor will not answer this.
    Sign(
        means=ErrorKind.CONTENT_FILTER,
        source="OpenAI (`invalid_prompt`: one flagged for reasoning models), Azure"
        " (`innererror.code`), DashScope",
        codes=(
            "content_filter",
            "content_filtered",
            "content_policy_violation",
            "responsibleaipolicyviolation",
            "moderation_blocked",
            "invalid_prompt",
            "data_inspection_failed",
            "datainspectionfailed",
        ),
    ),
    Sign(
        means=ErrorKind.CONTENT_FILTER,
        source="Anthropic and DeepSeek, 400 `invalid_request_error`; LiteLLM 1.108.7, 400 with the"
        " name of its exception",
        words=(
            r"output blocked by content filtering policy",
            r"content exists risk",
            r"contentpolicyviolationerror",
        ),
    ),
    # The key.
    Sign(
        means=ErrorKind.AUTHENTICATION,
        source="Google (`ErrorInfo.reason` of a 400), OpenAI, Anthropic",
        codes=(
            "api_key_invalid",
            "api_key_expired",
            "invalid_api_key",
            "authentication_error",
            "unauthenticated",
        ),
    ),
    # What can be left out.
    Sign(
        means=ErrorKind.BAD_REQUEST,
        source="OpenRouter (404), llama.cpp's server (500), vLLM: a model or server without tools",
        words=(
            r"no endpoints found that support tool use",
            r"requires --(?:jinja|enable-auto-tool-choice)",
        ),
        parameter="tools",
    ),
    Sign(
        means=ErrorKind.BAD_REQUEST,
        source="OpenAI, 400 without a code: all tokens went to thoughts",
        words=(r"model output limit was reached",),
        truncated=True,
    ),
    # The HTTP status that goes with a code.
    Sign(means=529, source="Anthropic", codes=("overloaded_error",)),
    Sign(
        means=503,
        source="OpenAI, vLLM, Mistral, Google",
        codes=(
            "server_is_overloaded",
            "service_unavailable_error",
            "capacity_exceeded",
            "unavailable",
        ),
    ),
    Sign(
        means=500,
        source="Anthropic, OpenAI, Google",
        codes=("api_error", "server_error", "internal_server_error", "internal"),
    ),
    Sign(means=504, source="Anthropic, Google", codes=("timeout_error", "deadline_exceeded")),
    Sign(means=409, source="Anthropic", codes=("conflict_error",)),
    Sign(means=403, source="Anthropic, Google", codes=("permission_error", "permission_denied")),
    Sign(
        means=404,
        source="Anthropic, Google, OpenAI, vLLM",
        codes=("not_found_error", "not_found", "model_not_found", "notfounderror"),
    ),
    Sign(
        means=400,
        source="OpenAI, Anthropic, Google, vLLM",
        codes=(
            "invalid_request_error",
            "invalid_argument",
            "failed_precondition",
            "badrequesterror",
            "bad_request_error",
            "unsupported_parameter",
            "unsupported_value",
        ),
    ),
    Sign(means=429, source="Google", codes=("resource_exhausted",)),
)


@cache
def _by_code() -> dict[str, Sign]:
    return {code: sign for sign in SIGNS for code in sign.codes}


@cache
def _patterns() -> tuple[tuple[re.Pattern[str], Sign], ...]:
    return tuple((re.compile(words), sign) for sign in SIGNS for words in sign.words)


def _signs(codes: Iterable[str]) -> Iterable[Sign]:
    table = _by_code()
    for code in codes:
        # `organization_spend_limit_exceeded` is found as `*_spend_limit_exceeded`.
        steps = code.split("_")
        names = [code, *("*_" + "_".join(steps[at:]) for at in range(1, len(steps)))]
        yield from (table[name] for name in names if name in table)


def kind_of_codes(codes: Iterable[str]) -> ErrorKind | None:
    """Return the kind that the first decisive code stands for; None when none is decisive."""
    kinds = (sign.means for sign in _signs(codes))
    return next((kind for kind in kinds if isinstance(kind, ErrorKind)), None)


def status_of_codes(codes: Iterable[str]) -> int | None:
    """Return the HTTP status that the first known code goes with."""
    statuses = (sign.means for sign in _signs(codes))
    return next((status for status in statuses if isinstance(status, int)), None)


def sign_of_words(message: str) -> Sign | None:
    """Return what a vendor's sentence means, where the vendor has no code for it."""
    words = " ".join(message[:LOOKED_AT_CHARACTERS].lower().split())
    return next((sign for pattern, sign in _patterns() if pattern.search(words)), None)
