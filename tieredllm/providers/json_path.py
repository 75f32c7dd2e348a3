"""Read JSON of which nothing is known for sure, without ever failing on its shape."""

from __future__ import annotations

import re
from typing import Any

import msgspec

__all__ = [
    "DONE",
    "NotJsonError",
    "cleaned",
    "content_text",
    "decode",
    "decode_all",
    "encode",
    "find_error",
    "get_count",
    "get_path",
    "get_str",
    "join_halves",
]


DONE = object()
"""Stands for `[DONE]`, which ends a stream of OpenAI's and is no JSON."""

_BETWEEN = re.compile(r"(?:\s|data:)*")
"""What may stand between glued documents."""


_SURROGATE = re.compile("[\ud800-\udfff]")


class NotJsonError(ValueError):
    """Report text that is no JSON."""


def decode(text: bytes | str) -> Any:
    """Decode a JSON document, as leniently as the vendors' own clients.

    Halves of a UTF-16 pair (legal alone by RFC 8259, section 8.2; see `join_halves`), raw control
    characters and NaN are taken as they are.

    Raises:
        NotJsonError: it is not JSON, or nested too deeply to read.
    """
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, ValueError, RecursionError) as exc:
        values = _decode_leniently(text)
        if len(values) != 1:
            raise NotJsonError(str(exc)) from exc
        return values[0]


def decode_all(text: bytes | str) -> list[Any]:
    """Decode the JSON documents of one event or body, mostly a single one.

    Several may be glued together, with a `data:` between them or a line end; `[DONE]`, which ends
    a stream, is `DONE`.

    Raises:
        NotJsonError: some of it is no JSON.
    """
    try:
        return [msgspec.json.decode(text)]
    except (msgspec.DecodeError, ValueError, RecursionError):
        return _decode_leniently(text)


def _decode_leniently(text: bytes | str) -> list[Any]:
    import json

    decoder = json.JSONDecoder(strict=False)
    values: list[Any] = []
    try:
        rest = text.decode("utf-8-sig") if isinstance(text, bytes) else text
        at = 0
        while at < len(rest):
            if skipped := _BETWEEN.match(rest, at):
                at = skipped.end()
            if at == len(rest):
                break
            if rest.startswith("[DONE]", at):
                value, at = DONE, at + len("[DONE]")
            else:
                value, at = decoder.raw_decode(rest, at)
            values.append(value)
    except (ValueError, RecursionError) as exc:
        raise NotJsonError(str(exc)) from exc
    if not values:
        reason = "there is nothing"
        raise NotJsonError(reason)
    return values


def encode(value: Any) -> str:
    """Encode what was decoded leniently: halves of UTF-16 pairs are joined."""
    try:
        return msgspec.json.encode(value).decode()
    except UnicodeEncodeError:
        import json

        return join_halves(json.dumps(value, ensure_ascii=False))


def cleaned(value: Any) -> Any:
    """Return what was decoded leniently as it can be sent back."""
    try:
        msgspec.json.encode(value)
    except UnicodeEncodeError:
        return decode(encode(value))
    return value


def join_halves(text: str) -> str:
    """Join halves of UTF-16 pairs that stand side by side; one that is alone becomes U+FFFD."""
    if text.isascii() or not _SURROGATE.search(text):
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def get_path(value: Any, *path: str | int) -> Any:
    """Follow a path of keys and indices; None as soon as it leads nowhere."""
    for step in path:
        if isinstance(value, dict):
            value = value.get(step)
        elif isinstance(value, list) and isinstance(step, int) and len(value) > step:
            value = value[step]
        else:
            return None
    return value


def get_str(value: Any, *path: str | int) -> str | None:
    """Return the text at a path; None when there is none, or an empty one."""
    found = get_path(value, *path)
    return found if isinstance(found, str) and found else None


def get_count(value: Any, *path: str | int) -> int | None:
    """Return the number at a path, when it could be a count."""
    found = get_path(value, *path)
    if found is None:
        return None
    # Some servers count in floats, or in text instead of whole numbers.
    if isinstance(found, str) and found.isdecimal() and len(found) < 16:
        found = int(found)
    if isinstance(found, float) and found.is_integer():
        found = int(found)
    if isinstance(found, int) and not isinstance(found, bool) and 0 <= found < 2**53:
        return found
    return None


def content_text(content: Any) -> str:
    """Return the text of a message's content: a string, or the text parts of a list.

    Parts of other types (thinking, images, tool calls) are no answer text. A list of parts is what
    OpenAI's and Anthropic's references define for content, and what Mistral's server answers with.
    """
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    return "".join(
        part if isinstance(part, str) else (get_str(part, "text") or "")
        for part in content
        if isinstance(part, str) or get_path(part, "type") in ("text", "output_text", None)
    )


def find_error(value: Any) -> Any:
    """Return the error that an answer's JSON carries; None when it carries none.

    A top-level `error` that says anything counts, as in OpenAI's own client; so does OpenRouter's
    error of a single choice, and where there is no answer what other houses put in its place.
    """
    if not isinstance(value, dict):
        return None
    own = value.get("error")
    for found in (own, get_path(value, "choices", 0, "error")):
        if found and not (isinstance(found, dict) and not any(found.values())):
            return value if found is own else {"error": found}
    if value.get("type") == "error" or value.get("object") in ("error", "Error"):
        return value
    if "type" in value or any(map(value.get, _ANSWERS)):
        return None
    if code := get_count(value, "base_resp", "status_code"):
        message = get_str(value, "base_resp", "status_msg") or ""
        return {"error": {"message": message, "code": f"minimax_{code}"}}
    return value if _is_envelope(value) else None


_ANSWERS = ("choices", "candidates", "content", "output", "data", "models")
"""What an answer, a piece of one or a list of models is in, over each wire."""

_GOOD_CODES = frozenset({0, 200, "0", "200", "ok", "OK", "success", ""})


def _is_envelope(value: dict[str, Any]) -> bool:
    """Return whether a document is some house's way to say that there is no answer.

    z.ai: `{"code": 401, "msg": "…", "success": false}` (KiwiGaze/glm-for-copilot#29); MiniMax's
    `base_resp` is read before (adrianlyjak/obsidian-aloud-tts#114); Cloudflare: `{"success": false,
    "errors": […]}`; Portkey 1.15.2: `{"status": "failure", "message": "…"}`; Baidu: `{"error_code":
    17, "error_msg": "…"}`; FastAPI: `{"detail": "…"}`.
    """
    if value.get("success") is False or value.get("errors") or value.get("detail"):
        return True
    says = any(isinstance(value.get(key), str) for key in ("message", "msg", "error_msg"))
    if says and value.get("status") in ("error", "fail", "failed", "failure"):
        return True
    codes = (value.get("code"), value.get("error_code"))
    return says and any(isinstance(code, int | str) and code not in _GOOD_CODES for code in codes)
