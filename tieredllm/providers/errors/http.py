"""Decide what a server's error is, from its status, headers and body.

Pure: nothing here waits or reads a clock. The table is that of the contract (section 5); codes and
types decide before the status does, and prose only as far as `codes` lists it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from tieredllm.errors import FallbackTriggerError
from tieredllm.kinds import ErrorKind
from tieredllm.providers.errors.body import ErrorBody, read_error, read_error_text
from tieredllm.providers.errors.codes import kind_of_codes, sign_of_words, status_of_codes
from tieredllm.providers.errors.retry_after import retry_after_s, wait_in_words_s
from tieredllm.providers.errors.tools import faulty_tool, is_about_a_tool
from tieredllm.providers.request_info import RequestInfo, host_of
from tieredllm.redaction import SHOWN_CHARACTERS
from tieredllm.text import truncate

__all__ = ["classify_inside_200", "classify_response"]

_FIXED = {
    401: ErrorKind.AUTHENTICATION,
    402: ErrorKind.QUOTA_EXHAUSTED,
    404: ErrorKind.NOT_FOUND,
}
_TRANSIENT = frozenset({408, 409, 424, 425, 498})
"""424 is Bedrock's for a model that failed, 498 Groq's for a lack of capacity (its error codes)."""

_VERSION = re.compile(r"/v[0-9]")
_LIMIT = re.compile(r"(?i)\blimit:? ([0-9][0-9,]{0,17})\b.{0,60}?\brequested:? ([0-9][0-9,]{0,17})")

# Stands for parts of a message that name other parameters than the rejected one: "did you mean
# 'stop'?" (Groq), "Use 'max_completion_tokens' instead." (OpenAI).
_HINT = re.compile(r"(?i)did you mean|[.;,]\s+(?:please )?(?:use|try|set|instead)\b")
_UNSUPPORTED = re.compile(
    r"(?i)unsupported|(?:not|n't|no longer) (?:be )?(?:support|permitted|allowed|enabled|accept)"
    r"|unrecogni[sz]ed|unknown (?:name|parameter|field|argument)|unexpected (?:keyword|parameter)"
    r"|deprecated|cannot both be|extra (?:inputs|fields)"
    # "This response_format type is unavailable now" (DeepSeek, UKGovernmentBEIS/inspect_ai#4916)
    r"|\bis unavailable now"
    # what was left out: "reasoning_content is missing in assistant tool call message" (Kimi,
    # n8n-io/n8n#29142), "Missing `reasoning_content` field in the assistant message" (DeepSeek)
    r"|reasoning_content\W? is missing|missing \W?reasoning_content"
    # a value: "invalid temperature: only 1 is allowed for this model" (MoonshotAI/Kimi-K2#124),
    # "top_p must be 1 when using greedy sampling" (Mistral, EricLBuehler/candle-vllm#307),
    # "`temperature` may only be set to 1 when thinking is enabled" (Anthropic)
    r"|\bonly \(?[0-9.]+\)? (?:is|are) (?:allowed|supported|accepted|permitted)"
    r"|\bonly (?:supports?|accepts?|allows?) [^.]{0,30}?\b[0-9.]+"
    r"|\bmust (?:be|equal) (?:set to |exactly |equal to )?[0-9]+(?:\.[0-9]+)?"
    r"(?= ?(?:when|if|for|with|in)\b|[.;,]?(?:\s*$|\s(?-i:[A-Z])))"
    r"|\b(?:may|can) only be (?:set to )?[0-9.]+"
)

_FORM = (
    r"(?:response[_ ]?formats?|(?:response_?)?json_?schema|output_(?:config\.)?format|output_config"
    r"|text\.format|structured outputs?|json mode)"
)
_NO_SCHEMAS = re.compile(
    # "This response_format type is unavailable now" and "response_format.type `json_schema` is
    # unavailable now" (DeepSeek, llm-exe/llm-exe#662, BerriAI/litellm#31466), "'response_format' of
    # type 'json_schema' is not supported with this model" (OpenAI, web-infra-dev/midscene#259),
    # "json_object response format is not supported for model" (DeepInfra, truefoundry/models#913)
    rf"(?i)(?<!in )(?<!in the )(?<!for ){_FORM}\W*(?:(?:of )?type\W*)?(?:{_FORM}\W*)?"
    r"(?:is|are) (?:unavailable|unsupported|not (?:available|supported|enabled|allowed|permitted))"
    r"(?!:| (?:to|when|while|if|together|in combination)\b| with (?:tool|function|stream)"
    r"| (?:with|for) (?:\w+ )?schemas?\b)"
    # "Unsupported parameter: 'response_format'" (mkht/PSOpenAI#44)
    r"|(?:unsupported|unknown|unrecogni[sz]ed|unexpected) (?:keyword )?"
    rf"(?:parameters?|names?|arguments?|fields?)[^a-z]+{_FORM}\b(?!\.)"
    # "output_config: Extra inputs are not permitted" (anthropics/anthropic-sdk-csharp#132)
    rf"|{_FORM}: extra (?:inputs|fields)"
    rf"|(?:not|n't) support (?:the )?{_FORM}(?! (?:with|when|if|in|schema|keyword))"
)
"""A refusal of schemas as such, whatever is in them."""


def classify_response(
    info: RequestInfo, *, status: int, headers: Mapping[str, str], body: bytes, now: float
) -> FallbackTriggerError:
    """Decide what a response with a status other than 2xx means.

    Args:
        info: the request it answers.
        status: the HTTP status.
        headers: looked up by lower-case names.
        body: as much of it as was read.
        now: seconds since the epoch.
    """
    if 300 <= status < 400:
        return _redirect(info, status, headers)
    if status == 407:
        message = f"{info.proxy or 'the proxy'} wants a user and a password: {_reason(status)}"
        return FallbackTriggerError(
            ErrorKind.CONNECTION, info.presentable(message), status=status, again=False
        )
    error = read_error_text(body)
    wait_s = retry_after_s(headers, now=now)
    made = _error(info, error, status=status, meant=status, wait_s=wait_s, now=now)
    if headers.get("x-should-retry", "").strip().lower() == "false":
        # OpenAI's and Anthropic's word to their clients (openai-python 3.57, `_base_client.py`).
        made.again = False
    return made


def classify_inside_200(
    info: RequestInfo, value: Any, *, status: int = 200, headers: Mapping[str, str], now: float
) -> FallbackTriggerError:
    """Decide what an error body or event inside a successful response means.

    The error's own code decides, or the HTTP status that it names or that goes with its type; an
    error that says nothing of the kind is a failure of the service.

    Args:
        info: the request it answers.
        value: the decoded body or event.
        status: the HTTP status it came with.
        headers: looked up by lower-case names.
        now: seconds since the epoch.
    """
    error = read_error(value)
    meant = error.number or status_of_codes(error.codes) or 500
    wait_s = retry_after_s(headers, now=now)
    return _error(info, error, status=status, meant=meant, wait_s=wait_s, now=now)


def _error(
    info: RequestInfo,
    error: ErrorBody,
    *,
    status: int,
    meant: int,
    wait_s: float | None,
    now: float,
) -> FallbackTriggerError:
    sign = None if error.is_page else sign_of_words(error.message)
    said = kind_of_codes(error.codes)
    words = sign.means if sign is not None and isinstance(sign.means, ErrorKind) else None
    if words is not None and sign is not None and sign.whatever_the_status:
        kind = words
    else:
        kind = _kind(error, meant, said=said, words=words, inside_200=status < 300)
    tool, parameter, lasting = None, None, True
    if kind is ErrorKind.BAD_REQUEST and info.tools and is_about_a_tool(error):
        # One tool's declaration is at fault; that says nothing of tools as such.
        tool = faulty_tool(error, tuple(info.tools))
        parameter = info.tools[tool] if tool else "tools"
        lasting = tool is not None
    elif sign is not None and sign.parameter in info.parameters.values():
        kind, parameter = ErrorKind.BAD_REQUEST, sign.parameter
    elif kind is ErrorKind.BAD_REQUEST:
        parameter = _parameter(info, error)
        # Mostly it is something in this very schema, and the next one may do:
        # "output_format.schema: For 'integer' type, property 'minimum' is not supported"
        # (agentjido/req_llm#302)
        no_schemas = bool(error.forbidden) or _NO_SCHEMAS.search(error.message) is not None
        lasting = parameter != "schema" or no_schemas
    if wait_s is None and kind in (ErrorKind.RATE_LIMIT, ErrorKind.SERVICE_UNAVAILABLE):
        wait_s = error.retry_after_s
        if wait_s is None:
            wait_s = retry_after_s(error.headers, now=now)
        if wait_s is None:
            wait_s = wait_in_words_s(error.message)
    return FallbackTriggerError(
        kind,
        _with_way(info, info.presentable(_message(info, error, kind, meant))),
        status=status,
        retry_after_s=wait_s,
        parameter=parameter,
        tool=tool,
        lasting=lasting,
        truncated=sign is not None and sign.truncated,
    )


def _kind(
    error: ErrorBody,
    status: int,
    *,
    said: ErrorKind | None,
    words: ErrorKind | None,
    inside_200: bool,
) -> ErrorKind:
    """Decide on the kind.

    Args:
        error: the body.
        status: the HTTP status, or the one that an error inside a 200 stands for.
        said: what its codes mean.
        words: what its words mean.
        inside_200: whether the status is only what the body stands for.
    """
    if status in _FIXED:
        # A gateway's 401 or 404 may well be about money (one-api).
        return ErrorKind.QUOTA_EXHAUSTED if said is ErrorKind.QUOTA_EXHAUSTED else _FIXED[status]
    meaning = _meaning(error, said, words)
    # Groq's 413 is one request of more tokens than a minute allows.
    too_large = status == 413 and said is ErrorKind.RATE_LIMIT
    is_limit = status == 429 or said is ErrorKind.RATE_LIMIT
    if too_large or (is_limit and _never_fits(error.message)):
        return ErrorKind.CONTEXT_LENGTH
    if meaning in _ANYWHERE or (meaning is not None and (inside_200 or _is_request(status))):
        return meaning
    return _by_status(status)


def _meaning(error: ErrorBody, said: ErrorKind | None, words: ErrorKind | None) -> ErrorKind | None:
    """Weigh codes against words: a code that says more than "wait" or "wrong" decides."""
    if error.flagged:
        return ErrorKind.CONTENT_FILTER
    if said in _ANYWHERE:
        return said
    if said is ErrorKind.RATE_LIMIT or any("perday" in quota for quota in error.quotas):
        spent = words is ErrorKind.QUOTA_EXHAUSTED or said is None
        return ErrorKind.QUOTA_EXHAUSTED if spent else said
    if said is None and words is None and status_of_codes(error.codes) == 404:
        return ErrorKind.NOT_FOUND
    return words or said


_ANYWHERE = frozenset(
    {
        ErrorKind.CONTEXT_LENGTH,
        ErrorKind.QUOTA_EXHAUSTED,
        ErrorKind.CONTENT_FILTER,
        ErrorKind.AUTHENTICATION,
    }
)
"""What is meant whatever the status: llama.cpp has sent a prompt's excess as 500, xAI a refusal as
403 and a wrong key as 400, z.ai an empty account as 429."""


def _by_status(status: int) -> ErrorKind:
    if status in _TRANSIENT or status >= 500:
        return ErrorKind.SERVICE_UNAVAILABLE
    return {
        403: ErrorKind.PERMISSION,
        413: ErrorKind.CONTEXT_LENGTH,
        429: ErrorKind.RATE_LIMIT,
    }.get(status, ErrorKind.BAD_REQUEST)


def _is_request(status: int) -> bool:
    """Return whether a status says no more than that the request will not do."""
    return status < 500 and status not in _TRANSIENT and status not in (403, 429)


def _never_fits(message: str) -> bool:
    """Return whether one request asks for more than a whole minute's limit.

    OpenAI: "Request too large for … on tokens per min (TPM): Limit 30000, Requested 45000."
    """
    found = _LIMIT.search(message)
    if not found:
        return False
    limit, requested = (int(number.replace(",", "")) for number in found.groups())
    return requested > limit


def _message(info: RequestInfo, error: ErrorBody, kind: ErrorKind, status: int) -> str:
    words = error.message if error.message.strip() else _reason(status)
    if kind is ErrorKind.AUTHENTICATION:
        if info.key_env is None:
            return f"{info.host} wants a key, and the profile's api_key_env names none: {words}"
        return f"the key in {info.key_env} was rejected: {words}"
    if kind is ErrorKind.NOT_FOUND:
        if not error.codes:
            words = f"{info.host} has no such model or address ({info.model}): {words}"
        if not (_VERSION.search(info.url) or "model_not_found" in error.codes):
            words += " (does base_url lack /v1?)"
    return words


def _with_way(info: RequestInfo, message: str) -> str:
    """Name the proxy where it may have said so itself: without TLS nobody else can be sure."""
    if info.proxy is None or info.url[:5].lower() != "http:":
        return message
    return truncate(message, SHOWN_CHARACTERS - len(info.way)) + info.way


def _reason(status: int) -> str:
    from http import HTTPStatus

    try:
        return f"HTTP {status} {HTTPStatus(status).phrase}"
    except ValueError:
        return {529: "HTTP 529 Overloaded"}.get(status, f"HTTP {status}")


def _redirect(info: RequestInfo, status: int, headers: Mapping[str, str]) -> FallbackTriggerError:
    target = host_of(headers.get("location", "")) or "another address"
    return FallbackTriggerError(
        ErrorKind.BAD_REQUEST,
        info.presentable(f"{info.host} redirects to {target}; redirects are never followed"),
        status=status,
    )


def _parameter(info: RequestInfo, error: ErrorBody) -> str | None:
    """Return the wire name of the parameter that the server will not have, if it was sent."""
    by_name = {_bare(word): name for word, name in info.parameters.items()}
    for forbidden in error.forbidden:
        if name := by_name.get(_bare(forbidden)):
            return name
    unsupported = any(
        code in ("unsupported_parameter", "unsupported_value", "unknown_parameter")
        for code in error.codes
    )
    if error.param and (unsupported or _UNSUPPORTED.search(error.message)):
        return by_name.get(_bare(error.param.rpartition(".")[2]))
    if unsupported or _UNSUPPORTED.search(error.message):
        return _named_in(error.message, by_name)
    return None


def _named_in(message: str, by_name: Mapping[str, str]) -> str | None:
    message = _HINT.split(message, maxsplit=1)[0]
    words = re.findall(r"(['\"`]?)([A-Za-z][A-Za-z_]*)", message)
    found: dict[str, None] = {}
    for place, (quote, word) in enumerate(words):
        following = words[place + 1][1] if place + 1 < len(words) else ""
        name = by_name.get(_bare(word)) or by_name.get(_bare(word + following))
        # An unquoted "stream" is as often the noun.
        if name is not None and (quote or name != "stream"):
            found[name] = None
    if not found:
        return None
    # "`temperature` and `top_p` cannot both be specified" (Anthropic): the first one stays.
    return list(found)[-1] if "both" in message else next(iter(found))


def _bare(word: str) -> str:
    """Make `topP`, `top_p` and `"top p"` one word."""
    return re.sub(r"[^a-z]", "", word.lower())
