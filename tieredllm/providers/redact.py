"""Make a server's words fit to show: one line, no markup, no control characters, no keys."""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Iterable

__all__ = ["MASK", "SHOWN_CHARACTERS", "presentable", "redact"]

SHOWN_CHARACTERS = 300
"""The contract's limit for an error's message."""

MASK = "[key]"

# More than this of an error body is never looked at: its first words say what is wrong.
_LOOKED_AT_CHARACTERS = 16_384

# What a masked key may consist of, besides base64: vendors show `sk-abc***xyz` or `sk-abc...xyz`.
_TAIL = r"[A-Za-z0-9_\-.*~+/=…•]"

_KEYS = re.compile(
    rf"""
    # authorization headers
    (?:(?<=Bearer\ )|(?<=bearer\ )|(?<=Basic\ )|(?<=basic\ ))[^\s"'<>,;]{{4,}}
    # the vendors' own prefixes, Google's old and new ones, JSON web tokens
    | \b(?:sk|pk|rk|gsk|xai|hf|ghp|r8|nvapi|pplx|tgp|csk|fw|sess)[-_]{_TAIL}{{6,}}
    | \bAIza{_TAIL}{{6,}}
    | \bAQ\.{_TAIL}{{6,}}
    | \beyJ[A-Za-z0-9_\-]{{8,}}\.{_TAIL}+
    # any long token of letters and digits
    | (?<![A-Za-z0-9_\-+/])(?=[A-Za-z_\-+/]*[0-9])(?=[0-9_\-+/]*[A-Za-z])
      [A-Za-z0-9_\-+/]{{40,}}={{0,2}}
    """,
    re.VERBOSE,
)
_PARAMETERS = re.compile(
    r"""(?i)\b((?:api[_-]?key|key|(?:access[_-]?|auth[_-]?)?token|secret|password|sig(?:nature)?)
        ["']?\s?[=]\s?["']?)[^\s&"'<>,;]{4,}""",
    re.VERBOSE,
)
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-_])")
# `[^<>]` and not `[^>]`: text full of "<" must not take quadratic time.
_TAGS = re.compile(r"<(?:[A-Za-z/!?][^<>]*)(?:>|$)")
# These stand inside words: without a blank in their place, a key stays in one piece.
_INLINE = re.compile(r"(?i)</?(?:a|b|i|u|em|strong|code|span|mark|wbr|small|tt|kbd)\b[^<>]*>")
_TITLE = re.compile(r"(?i)<title[^<>]*>([^<>]*)</title")
_UNSHOWN = re.compile(r"(?i)<(script|style|head|svg)\b")
_PAGE = re.compile(r"(?i)\A\s*(?:\ufeff)?\s*<(?:!doctype\s+html|html|head|body|\?xml)")


def redact(text: str, secrets: Iterable[str | None] = ()) -> str:
    """Replace keys by a mask: the given ones in any form, and all that look like keys.

    Args:
        text: any text.
        secrets: the keys that were sent; also their URL-quoted form, and what a server shows
            of a long one when it cuts or stars out the rest, is found.
    """
    for secret in secrets:
        if not secret:
            continue
        from urllib.parse import quote

        for form in {secret, quote(secret, safe="")}:
            text = text.replace(form, MASK)
        if len(secret) >= 16:
            text = re.sub(re.escape(secret[:8]) + _TAIL + "*", MASK, text)
    return _PARAMETERS.sub(rf"\1{MASK}", _KEYS.sub(MASK, text))


def presentable(text: str, secrets: Iterable[str | None] = ()) -> str:
    """Make text from outside fit for one line of an error message.

    A web page is reduced to its title. Markup and control characters (also the invisible ones
    that change the direction of text) go, runs of blanks become one, keys are masked, and the rest
    is cut to `SHOWN_CHARACTERS`.

    Args:
        text: any text, for instance an error body.
        secrets: the keys that were sent.
    """
    text = text[:_LOOKED_AT_CHARACTERS]
    if _PAGE.match(text):
        title = _TITLE.search(text)
        text = title[1] if title and title[1].strip() else _without_unshown(text)
    text = html.unescape(_TAGS.sub(" ", _INLINE.sub("", text)))
    text = _TAGS.sub(" ", _INLINE.sub("", _ESCAPES.sub("", text)))
    text = "".join(_plain(character) for character in text)
    text = redact(" ".join(text.split()), secrets)
    if len(text) > SHOWN_CHARACTERS:
        text = text[: SHOWN_CHARACTERS - 1].rstrip() + "…"
    return text


def _plain(character: str) -> str:
    if character in "\n\r\t\v\f\x85\u2028\u2029":
        return " "
    # Cc, Cf, Cs, Co and Cn: control, format, surrogate, private and unassigned characters.
    return "" if unicodedata.category(character).startswith("C") else character


def _without_unshown(text: str) -> str:
    """Cut out the parts of a page that a browser wouldn't show, in linear time."""
    kept: list[str] = []
    start = 0
    while found := _UNSHOWN.search(text, start):
        kept.append(text[start : found.start()])
        close = re.compile(rf"(?i)</{found[1]}\s*>").search(text, found.end())
        if close is None:
            return "".join(kept)
        start = close.end()
    return "".join([*kept, text[start:]])
