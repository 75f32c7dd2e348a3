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
from tieredllm.providers.errors.retry_after import retry_after_s
from tieredllm.providers.errors.tools import faulty_tool, is_about_a_tool
from tieredllm.providers.request_info import RequestInfo, host_of

__all__ = ["classify_inside_200", "classify_response"]

_FIXED = {
    401: ErrorKind.AUTHENTICATION,
    402: ErrorKind.QUOTA_EXHAUSTED,
    404: ErrorKind.NOT_FOUND,
}
_TRANSIENT = frozenset({408, 409, 425})

# Stands for parts of a message that name other parameters than the rejected one: "did you mean
# 'stop'?" (Groq), "Use 'max_completion_tokens' instead." (OpenAI).
_HINT = re.compile(r"(?i)did you mean|[.;,]\s+(?:please )?(?:use|try|set|instead)\b")
_UNSUPPORTED = re.compile(
    r"(?i)unsupported|(?:not|n't|no longer) (?:be )?(?:support|permitted|allowed|enabled|accept)"
    r"|unrecogni[sz]ed|unknown (?:name|parameter|field|argument)|unexpected (?:keyword|parameter)"
    r"|deprecated|cannot both be|extra (?:inputs|fields)"
)


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
    error = read_error_text(body)
    return _error(info, error, status=status, meant=status, wait_s=retry_after_s(headers, now=now))


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
    return _error(info, error, status=status, meant=meant, wait_s=retry_after_s(headers, now=now))


def _error(
    info: RequestInfo, error: ErrorBody, *, status: int, meant: int, wait_s: float | None
) -> FallbackTriggerError:
    kind = _kind(error, meant, inside_200=status < 300)
    tool, parameter, lasting = None, None, True
    sign = sign_of_words(error.message)
    if kind is ErrorKind.BAD_REQUEST and info.tools and is_about_a_tool(error):
        # One tool's declaration is at fault; that says nothing of tools as such.
        tool = faulty_tool(error, tuple(info.tools))
        parameter = info.tools[tool] if tool else "tools"
        lasting = tool is not None
    elif sign is not None and sign.parameter in info.parameters.values():
        kind, parameter = ErrorKind.BAD_REQUEST, sign.parameter
    elif kind is ErrorKind.BAD_REQUEST:
        parameter = _parameter(info, error)
    if kind in (ErrorKind.RATE_LIMIT, ErrorKind.SERVICE_UNAVAILABLE) and wait_s is None:
        wait_s = error.retry_after_s
    return FallbackTriggerError(
        kind,
        info.presentable(_message(info, error, kind, meant)),
        status=status,
        retry_after_s=wait_s,
        parameter=parameter,
        tool=tool,
        lasting=lasting,
        truncated=sign is not None and sign.truncated,
    )


def _kind(error: ErrorBody, status: int, *, inside_200: bool) -> ErrorKind:
    code = kind_of_codes(error.codes)
    if status in _FIXED:
        return _FIXED[status]
    if status == 429:
        return _kind_of_429(error, code)
    if status == 403:
        return _kind_of_403(error, code)
    if status in _TRANSIENT or status >= 500:
        # llama.cpp's server has sent a prompt's excess as 500; and an error inside a 200 names no
        # status when its code or its words are all there is.
        said = code or _kind_of_words(error)
        decisive = said is ErrorKind.CONTEXT_LENGTH or inside_200
        return said if said is not None and decisive else ErrorKind.SERVICE_UNAVAILABLE
    return _kind_of_request(error, code, status)


def _kind_of_request(error: ErrorBody, code: ErrorKind | None, status: int) -> ErrorKind:
    if status == 413 and code is ErrorKind.RATE_LIMIT:
        # Groq: one request of more tokens than a minute allows.
        return ErrorKind.CONTEXT_LENGTH
    if code is None and status_of_codes(error.codes) == 404:
        return ErrorKind.NOT_FOUND
    return code or _kind_of_words(error) or ErrorKind.BAD_REQUEST


def _kind_of_words(error: ErrorBody) -> ErrorKind | None:
    sign = sign_of_words(error.message)
    return sign.means if sign is not None and isinstance(sign.means, ErrorKind) else None


def _kind_of_429(error: ErrorBody, code: ErrorKind | None) -> ErrorKind:
    if code is ErrorKind.QUOTA_EXHAUSTED or any("perday" in quota for quota in error.quotas):
        return ErrorKind.QUOTA_EXHAUSTED
    if _kind_of_words(error) is ErrorKind.QUOTA_EXHAUSTED:
        return ErrorKind.QUOTA_EXHAUSTED
    return ErrorKind.RATE_LIMIT


def _kind_of_403(error: ErrorBody, code: ErrorKind | None) -> ErrorKind:
    if code in (ErrorKind.QUOTA_EXHAUSTED, ErrorKind.CONTENT_FILTER):
        return code
    return ErrorKind.CONTENT_FILTER if error.flagged else ErrorKind.PERMISSION


def _message(info: RequestInfo, error: ErrorBody, kind: ErrorKind, status: int) -> str:
    words = error.message or _reason(status)
    if kind is ErrorKind.AUTHENTICATION:
        if info.key_env is None:
            return f"{info.host} wants a key, and the profile's api_key_env names none: {words}"
        return f"the key in {info.key_env} was rejected: {words}"
    if kind is ErrorKind.NOT_FOUND and not error.codes:
        return f"{info.host} has no such model or address ({info.model}): {words}"
    return words


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
