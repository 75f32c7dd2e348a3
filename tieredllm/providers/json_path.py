"""Look into JSON of which nothing is known for sure, without ever failing on its shape."""

from __future__ import annotations

from typing import Any

__all__ = [
    "content_text",
    "find_error",
    "get_count",
    "get_path",
    "get_str",
    "is_well",
    "words_in",
]


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


def content_text(content: Any) -> str | None:
    """Return the text of a message's content; None when there is some that cannot be read.

    It is a string, or the text parts of a list. Parts of other types (thinking, images, tool calls)
    are no answer text. A list of parts is what OpenAI's and Anthropic's references define for
    content, and what Mistral's server answers with.
    """
    if isinstance(content, str):
        return content
    if isinstance(content, dict) and content.keys().isdisjoint(("type", "text")):
        return None if content else ""
    texts = [_part_text(part) for part in (content if isinstance(content, list) else [content])]
    return None if None in texts else "".join(text for text in texts if text)


def _part_text(part: Any) -> str | None:
    if isinstance(part, dict):
        if part.get("type") not in ("text", "output_text", None):
            return ""
        part = part.get("text")
    if isinstance(part, str):
        return part
    return "" if part in (None, [], {}) else None


_WORDY = (
    *("message", "msg", "error", "errors", "detail", "details", "reason", "description"),
    *("text", "title", "cause"),
)
"""Where servers put words, the likeliest first."""


def words_in(value: Any, depth: int = 4) -> str:
    """Return the first words to be found in a shape that nobody knows."""
    if isinstance(value, str):
        return value
    if depth == 0 or not isinstance(value, dict | list):
        return ""
    inner = value if isinstance(value, list) else [value.get(key) for key in _WORDY]
    found = (words_in(item, depth - 1) for item in inner)
    return next((words for words in found if words.strip()), "")


def find_error(value: Any) -> Any:
    """Return the error that an answer's JSON carries; None when it carries none.

    A top-level `error` that says anything counts, as in OpenAI's own client; so does OpenRouter's
    error of a single choice, and where there is no answer what other houses put in its place.
    """
    if not isinstance(value, dict):
        return None
    own = value.get("error")
    for found in (own, get_path(value, "choices", 0, "error")):
        if not all(map(is_well, found.values() if isinstance(found, dict) else [found])):
            return value if found is own else {"error": found}
    if value.get("type") == "error" or value.get("object") in ("error", "Error"):
        return value
    if code := get_count(value, "base_resp", "status_code"):
        message = get_str(value, "base_resp", "status_msg") or ""
        return {"error": {"message": message, "code": f"minimax_{code}"}}
    if "type" in value or any(map(value.get, _ANSWERS)):
        return None
    return value if _is_envelope(value) else None


_ANSWERS = ("choices", "candidates", "content", "output", "data", "models")
"""What an answer, a piece of one or a list of models is in, over each wire."""

_GOOD_CODES = frozenset({0, 200, "0", "200", "ok", "OK", "success", ""})


def is_well(said: Any) -> bool:
    """Whether a part of an error, such as some servers send with every answer, says nothing."""
    return not said or (isinstance(said, int | str) and said in _GOOD_CODES)


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
