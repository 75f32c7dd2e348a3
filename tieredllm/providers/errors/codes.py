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
    whatever_the_status: bool = False
    """Whether it means this also where the status says that the server or the model is missing."""


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
        source="LiteLLM 1.108.7, litellm/exceptions.py `BudgetExceededError`: 422; it passes"
        " OpenAI's sentence on without its code. Google says it of a minute's limit, too, and more",
        codes=("budget_exceeded",),
        words=(
            (
                r"exceeded your current quota, please check your plan and billing details"
                r"(?!.{0,900}(?:retry in|exceeded for metric))"
            ),
        ),
    ),
    Sign(
        means=ErrorKind.QUOTA_EXHAUSTED,
        source="MiniMax, platform.minimax.io/docs/api-reference/errorcode, `base_resp.status_code`;"
        " as a 429's type modelscope/modelscope#1691, in a 500's words MiniMax-AI/MiniMax-M2#62",
        codes=("minimax_1008", "insufficient_balance_error"),
    ),
    Sign(
        means=ErrorKind.QUOTA_EXHAUSTED,
        source="z.ai, docs.z.ai/api-reference/api-code: no balance; a day's, plan's, week's limit",
        codes=("1113", "1304", "1308", "1309", "1310"),
    ),
    Sign(
        means=ErrorKind.QUOTA_EXHAUSTED,
        source="DashScope and Volcengine, error references",
        codes=("allocationquota.freetieronly", "setlimitexceeded"),
    ),
    Sign(
        means=ErrorKind.QUOTA_EXHAUSTED,
        source="without a code: z.ai, MiniMax, DeepSeek 'insufficient balance'; xAI's 429;"
        " OpenRouter (openclaw/openclaw#59892, can1357/oh-my-pi#5429); Cohere's trial keys,"
        " Ollama's cloud, Cloudflare's neurons, Bedrock's tokens per day",
        words=(
            r"\binsufficient (?:account )?(?:balance|credits|funds)\b",
            r"used all available credits",
            r"\bmonthly spend(?:ing)? limit\b",
            r"key limit exceeded",
            r"free-models-per-day",
            r"trial key, which is limited to [0-9,]+ api calls ?/ ?month",
            r"weekly usage limit",
            r"used up your daily free allocation",
            r"too many tokens per day",
        ),
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
            "minimax_1002",
            "1302",  # z.ai
            "1303",
            "1305",
            "throttling_error",  # LiteLLM 1.108.7
            "throttlingexception",  # Bedrock
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
            "model_max_prompt_tokens_exceeded",  # Copilot
            "request_body_too_large_after_decoding",  # Anthropic
            "1261",  # z.ai
            "minimax_1039",
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
    Sign(
        means=ErrorKind.CONTEXT_LENGTH,
        source="vLLM (vllm-project/vllm#12165, #33418), NIM, TGI and Together, Perplexity, Cohere,"
        " DashScope, z.ai, Vertex, Copilot, Cloudflare, Bedrock, watsonx, TabbyAPI, FastFlowLM"
        " (amd/gaia#2513), MiniMax, Poolside, LiteLLM: seen in public reports of 2025 and 2026",
        words=(
            r"longer than the (?:maximum )?model'?s? (?:maximum )?(?:context )?length",
            r"prompt \((?:total )?length [0-9]+\) is too long",
            r"max_tokens must be at least 1, got -[0-9]+",
            r"exceeds (?:the )?maximum allowed (?:input length|token size)",
            r"messages have [0-9]+ tokens, which exceeds the max limit",
            r"`inputs`.{0,40}must (?:be <=|have less than) ?[0-9]+",
            r"inputs tokens \+ .?max_new_tokens.? must be",
            # Cohere's (cohere-ai/sandbox-topically#4)
            r"too many tokens: .{0,80}(?:exceeds? the limit|cannot exceed|limit exceeded)",
            r"range of input length should be",
            r"tokens in request more than max tokens allowed",
            r"prompt exceeds max(?:imum)? length",
            r"input token count is [0-9]+ but model only supports up to",
            r"prompt token count of [0-9]+ exceeds the limit",
            r"exceeded this model context window limit",
            r"context window exceeds limit",
            r"number of input tokens exceeds maximum length",
            r"expected maxlength: [0-9]+, actual: [0-9]+",
            r"cannot exceed the total tokens limit",
            r"prompt length [0-9]+ is greater than max_seq_len",
            r"max length reached!",
            r"contextwindowexceedederror",
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
            "bio_policy",  # openai-python 3.57, types/responses/response_error.py
            "misalignment_policy_violation",
            "image_content_policy_violation",
            "refusal",  # OpenRouter, `metadata.error_type`
            "1301",  # z.ai
            "minimax_1026",
            "minimax_1027",
            "*sensitivecontentdetected",  # Volcengine
        ),
    ),
    Sign(
        means=ErrorKind.CONTENT_FILTER,
        source="Anthropic and DeepSeek, 400 `invalid_request_error`; LiteLLM 1.108.7, 400 with the"
        " name of its exception, or with OpenAI's sentence alone, whose code it drops",
        words=(
            r"prompt was flagged as potentially violating our usage policy",
            r"request was rejected as a result of our safety system",
            r"output blocked by content filtering policy",
            r"content exists risk",
            r"contentpolicyviolationerror",
        ),
    ),
    Sign(
        means=ErrorKind.CONTENT_FILTER,
        source="xAI, as 403 (theopenco/llmgateway#1785, UKGovernmentBEIS/inspect_ai#2267)",
        words=(r"content violates usage guidelines",),
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
            "minimax_1004",
            "minimax_2049",
        ),
    ),
    Sign(
        means=ErrorKind.AUTHENTICATION,
        source="xAI, as 400 without a code (openai/codex#1352); z.ai inside a 200"
        " (KiwiGaze/glm-for-copilot#29)",
        words=(
            r"incorrect api key provided",
            r"\binvalid api[ _-]?key\b",
            r"token expired or incorrect",
        ),
    ),
    # What this account, or this place, may not do.
    Sign(
        means=ErrorKind.PERMISSION,
        source="Anthropic, `details.error_code` of a 400; z.ai: a locked account, a plan without"
        " the model, no right",
        codes=("organization_on_hold", "1112", "1121", "1220", "1311"),
    ),
    Sign(
        means=ErrorKind.PERMISSION,
        source="Google, 400 FAILED_PRECONDITION without a reason",
        words=(r"user location is not supported",),
    ),
    # The model or the address.
    Sign(
        means=ErrorKind.NOT_FOUND,
        source="z.ai: 'Unknown Model'; LiteLLM 1.108.7, a 400; LM Studio, a 200"
        " (lmstudio-bug-tracker#618)",
        codes=("1211",),
        words=(
            r"invalid model name passed in model=",
            r"unexpected endpoint or method",
        ),
    ),
    # The model's slip.
    Sign(
        means=ErrorKind.MALFORMED_RESPONSE,
        source="Groq, 400: the model's call of a tool is broken",
        codes=("tool_use_failed",),
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
    # What the model cannot do; its server and its name are well, and the next text is answered.
    Sign(
        means=ErrorKind.BAD_REQUEST,
        source="A picture for a model that sees none: llama.cpp's server (500, xllamacpp 2026.10),"
        " Ollama (500 and 400, ha-llmvision#691, ollama#17301), OpenRouter (404,"
        " openclaw#99078), LM Studio (400, lmstudio-bug-tracker#908)",
        words=(
            r"image input is not supported",
            r"missing data required for image input",
            r"no endpoints found that support image input",
            r"model does not support image",
        ),
        whatever_the_status=True,
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
    Sign(
        means=400,
        source="OpenAI's Responses, openai-python 3.57.0, types/responses/response_error.py",
        codes=(
            "data_residency_mismatch",
            "invalid_image",
            "invalid_image_format",
            "invalid_base64_image",
            "invalid_image_url",
            "invalid_image_mode",
            "image_too_large",
            "image_too_small",
            "image_parse_error",
            "image_file_too_large",
            "image_file_not_found",
            "unsupported_image_media_type",
            "empty_image_file",
            "failed_to_download_image",
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
        names = [
            code,
            *("*_" + "_".join(steps[at:]) for at in range(1, len(steps))),
            # Volcengine: `InputTextSensitiveContentDetected`, and what may follow a dot
            "*" + code.partition(".")[0][-len("sensitivecontentdetected") :],
        ]
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
