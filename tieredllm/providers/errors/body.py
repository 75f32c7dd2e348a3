"""Read what a server says went wrong, in any of the shapes servers say it.

The shapes, as their references and live answers show them:

- OpenAI, Groq, vLLM, llama.cpp, Ollama: `{"error": {"message", "type", "param", "code"}}`
- Anthropic: `{"type": "error", "error": {"type", "message", "details": {"error_code"}}}`
- Google: `{"error": {"code", "message", "status", "details": [...]}}`, also as a list of one
- Azure: `error.innererror.code`
- OpenRouter: `error.metadata.raw` holds the provider's own error, as text
- Mistral, old vLLM: `{"object": "error", "message", "type", "code"}`, where the message may be an
  object of validation errors, or that object as text
- FastAPI: `{"detail": "..."}` or `{"detail": [{"type", "loc", "msg"}]}`
- xAI, Ollama's own API: `{"code", "error": "..."}`
- DeepInfra and others on FastAPI: `{"detail": {"error": "..."}}`, `{"detail": {"message": "..."}}`
- AWS: `{"Message": "...", "__type": "..."}`
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import msgspec

from tieredllm.lenient_json import NotJsonError, decode
from tieredllm.providers.errors.retry_after import duration_s
from tieredllm.providers.json_path import get_path, get_str, words_in
from tieredllm.providers.sse import Decoder

__all__ = ["ErrorBody", "read_error", "read_error_text"]


class ErrorBody(msgspec.Struct, frozen=True, kw_only=True):
    """What an error body says."""

    message: str = ""
    """The server's words, as they came."""
    codes: tuple[str, ...] = ()
    """Codes, types and reasons, the most exact first, in lower case with `_` for `-` and blanks."""
    number: int | None = None
    """The HTTP status the body names, where it names one."""
    param: str | None = None
    """The request parameter the error is about."""
    forbidden: tuple[str, ...] = ()
    """Top-level parameters that a validator calls unknown."""
    quotas: tuple[str, ...] = ()
    """Google's ids of the quotas that were exceeded, in lower case and without `_`."""
    retry_after_s: float | None = None
    """Google's `RetryInfo.retryDelay` or `ErrorInfo`'s `quotaResetDelay`."""
    headers: dict[str, str] = {}
    """The headers of the provider's own answer, which OpenRouter passes on in the body."""
    is_page: bool = False
    """Whether it is a web page, whose words mean nothing."""
    flagged: bool = False
    """Whether OpenRouter names the input its moderation flagged."""


def read_error_text(body: bytes) -> ErrorBody:
    """Read an error body: JSON in a known shape, or else all of it as the message."""
    try:
        return read_error(decode(body))
    except NotJsonError:
        text = body.decode("utf-8", "replace")
    is_page = text.lstrip().startswith("<")
    # Where a stream was asked for, a refusal may come as an event of one.
    decoder = Decoder()
    for event in () if is_page else (*decoder.feed(body), *decoder.flush()):
        with suppress(NotJsonError):
            if isinstance(value := decode(event.data), dict | list):
                found = read_error(value)
                if found.message or found.codes:
                    return msgspec.structs.replace(found, message=found.message or text)
    return ErrorBody(message=text, is_page=is_page)


def read_error(value: Any) -> ErrorBody:
    """Read a decoded error body; what is not understood is left out."""
    whole = value
    if isinstance(value, list):
        value = next((item for item in value if isinstance(item, dict)), None)
    if isinstance(value, str):
        return ErrorBody(message=value)
    if not isinstance(value, dict):
        return ErrorBody(message=words_in(whole))
    value = _unwrapped(value)
    while isinstance(get_path(value, "error", "error"), dict):
        value = value["error"]
    inner = value.get("error") or get_path(value, "errors", 0)
    error: dict[str, Any] = inner if isinstance(inner, dict) else value
    problems = list(_problems(value, error))
    message = inner if isinstance(inner, str) else _message(error, problems)
    upstream = _upstream(error)
    message = message or ("" if upstream.message else words_in(value))
    return ErrorBody(
        message=": ".join(part for part in (message, upstream.message) if part),
        codes=(*upstream.codes, *_codes(error)),
        number=_status_number(error),
        param=upstream.param or get_str(error, "param"),
        forbidden=upstream.forbidden + tuple(_forbidden(problems)),
        quotas=tuple(
            quota.lower().replace("_", "")
            for detail in _details(error)
            for quota in _quota_ids(detail)
        ),
        retry_after_s=next(
            (
                delay
                for detail in _details(error)
                for place in (("retryDelay",), ("metadata", "quotaResetDelay"))
                if (delay := duration_s(get_path(detail, *place))) is not None
            ),
            None,
        ),
        headers=_passed_on(error),
        flagged=get_path(error, "metadata", "flagged_input") is not None,
    )


def _unwrapped(value: dict[str, Any]) -> dict[str, Any]:
    """Return what a server has put into one more object."""
    if value.get("error"):
        return value
    for key in ("detail", "message"):
        inner = value.get(key)
        if isinstance(inner, dict) and any(
            isinstance(inner.get(name), str | dict) for name in ("error", "message", "detail")
        ):
            return {**inner, "code": inner.get("code", value.get("code"))}
    return value


def _passed_on(error: dict[str, Any]) -> dict[str, str]:
    headers = get_path(error, "metadata", "headers")
    if not isinstance(headers, dict):
        return {}
    return {name.lower(): str(value) for name, value in headers.items()}


def _message(error: dict[str, Any], problems: list[Any]) -> str:
    for key in ("message", "msg", "detail", "Message", "error_msg", "error_description", "title"):
        found = get_str(error, key)
        if found and not (problems and found.lstrip().startswith("{")):
            return found
    words = [
        f"{'.'.join(str(step) for step in loc)}: {get_str(problem, 'msg') or ''}"
        for problem in problems[:3]
        if isinstance(loc := get_path(problem, "loc"), list)
    ]
    return "; ".join(words)


def _codes(error: dict[str, Any]) -> Iterator[str]:
    """Return the codes, the most exact first."""
    found = [
        get_path(error, "innererror", "code"),
        get_path(error, "details", "error_code"),
        get_path(error, "metadata", "error_type"),
        *(get_path(detail, "reason") for detail in _details(error)),
        error.get("code"),
        error.get("error_code"),
        error.get("type"),
        error.get("status"),
        error.get("__type"),
    ]
    for code in found:
        if isinstance(code, int) and not isinstance(code, bool) and code >= 1000:
            yield str(code)  # z.ai's and MiniMax's own; smaller ones are HTTP's
        elif isinstance(code, str) and code and (not code.isdecimal() or len(code) > 3):
            yield code.lower().replace("-", "_").replace(" ", "_")


def _status_number(error: dict[str, Any]) -> int | None:
    for key in ("code", "status", "status_code", "raw_status_code"):
        code = error.get(key)
        if isinstance(code, str) and code.isdecimal() and len(code) == 3:
            code = int(code)
        if isinstance(code, int) and 400 <= code <= 599:
            return code
    return None


def _details(error: dict[str, Any]) -> list[Any]:
    details = error.get("details")
    return details if isinstance(details, list) else []


def _quota_ids(detail: Any) -> Iterator[str]:
    """Return the quota ids of a `google.rpc.QuotaFailure`."""
    violations = get_path(detail, "violations")
    for violation in violations if isinstance(violations, list) else [detail]:
        found = get_str(violation, "quotaId") or get_str(violation, "quotaMetric")
        if found:
            yield found


def _problems(value: dict[str, Any], error: dict[str, Any]) -> Iterator[Any]:
    """Return the validation errors of FastAPI and Mistral (pydantic's list of them)."""
    for holder in (error, value):
        message = holder.get("message")
        if isinstance(message, str) and message.lstrip().startswith("{"):
            try:
                message = decode(message)
            except NotJsonError:
                message = None
        for found in (get_path(message, "detail"), message, holder.get("detail")):
            if isinstance(found, list):
                yield from found
                return


def _forbidden(problems: list[Any]) -> Iterator[str]:
    for problem in problems:
        loc = get_path(problem, "loc")
        if get_path(problem, "type") == "extra_forbidden" and isinstance(loc, list):
            steps = [step for step in loc if step != "body"]
            if len(steps) == 1 and isinstance(steps[0], str):
                yield steps[0]


def _upstream(error: dict[str, Any]) -> ErrorBody:
    """Read the provider's own error that OpenRouter passes on, one level deep."""
    raw = get_path(error, "metadata", "raw")
    if isinstance(raw, str):
        try:
            raw = decode(raw)
        except NotJsonError:
            return ErrorBody(message=raw)
    if not isinstance(raw, dict) or get_path(raw, "error", "metadata") or get_path(raw, "metadata"):
        return ErrorBody()
    return read_error(raw)
