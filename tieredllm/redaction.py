"""Keep secrets out of what is shown, kept or sent on: one list of how keys look, for all."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from tieredllm.text import clean, printable_line, replace_surrogates, truncate

__all__ = [
    "HIDDEN",
    "MASK",
    "SHOWN_CHARACTERS",
    "Redactor",
    "is_address",
    "looks_like_key",
    "mask_text",
    "mask_url",
    "presentable",
    "redact",
]

SHOWN_CHARACTERS = 300
"""The contract's limit for an error's message."""

MASK = "[key]"
"""What stands for a key within a text."""

HIDDEN = "****"
"""What stands for a whole value of a profile."""

SHORTEST_SECRET = 6
"""Shorter ones are no keys; striking them out of what people wrote would only mangle it."""

# More than this of an error body is never looked at: its first words say what is wrong.
_LOOKED_AT_CHARACTERS = 16_384

# What a masked key may consist of, besides base64: vendors show `sk-abc***xyz` or `sk-abc...xyz`.
_TAIL = r"[A-Za-z0-9_\-.*~+/=…•]"
_STARRED = r"[A-Za-z0-9_\-~+/=]*(?:\*{2}|\.{3}|…|••)" + _TAIL + "*"

_PREFIXES = "sk|pk|rk|gsk|xai|hf|ghp|r8|nvapi|pplx|tgp|csk|fw|sess|xox[abeprs]"
"""How the vendors' keys begin, before a `-` or `_`.

OpenAI and Anthropic and those who follow them (sk, pk, rk, sess), Groq, xAI, Hugging Face, GitHub,
Replicate, NVIDIA, Perplexity, Together, Cerebras, Fireworks, Slack.
"""

_GOOGLE_OR_JWT = ("AIza", r"AQ\.", "eyJ")
"""How Google's old and new keys begin, and a JSON Web Token (`{"` in base64)."""

_KEYS = re.compile(
    rf"""
    # authorization headers
    (?:(?<=Bearer\ )|(?<=bearer\ )|(?<=Basic\ )|(?<=basic\ ))[^\s"'<>,;]{{4,}}
    | \b(?:{_PREFIXES})[-_]{_TAIL}{{6,}}
    | \b(?:{"|".join(_GOOGLE_OR_JWT[:2])}){_TAIL}{{6,}}
    | \b{_GOOGLE_OR_JWT[2]}[A-Za-z0-9_\-]{{8,}}\.{_TAIL}+
    # any long token of letters and digits
    | (?<![A-Za-z0-9_\-+/])(?=[A-Za-z_\-+/]*[0-9])(?=[0-9_\-+/]*[A-Za-z])
      [A-Za-z0-9_\-+/]{{40,}}={{0,2}}
    """,
    re.VERBOSE,
)
"""Keys within a text."""

STARRED_SECRET = 16
"""The shortest secret whose first 8 characters stand for it where the rest is starred out."""

LONG_SECRET = 20
"""The shortest secret of which a part says nothing by itself."""
PART = 12
_BETWEEN = re.compile(r"[^A-Za-z0-9]+")

_KEY_START = re.compile(
    r"(?:sk|pk|rk)-[A-Za-z0-9]"
    rf"|(?:{_PREFIXES})[-_][A-Za-z0-9-]{{12}}"
    rf"|(?:{'|'.join(_GOOGLE_OR_JWT)})[A-Za-z0-9_-]{{10}}"
)
"""A value that is a key itself, told from a name such as `hf_token` by its length."""

_LONG = re.compile(r"[A-Za-z0-9_\-=+]{28,}")
_PARAMETERS = re.compile(
    r"""(?i)\b((?:api[_-]?key|key|(?:access[_-]?|auth[_-]?)?token|secret|password|sig(?:nature)?)
        ["']?\s?[=]\s?["']?)[^\s&"'<>,;]{4,}""",
    re.VERBOSE,
)
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_USERINFO = re.compile(r"(?<=://)[^/?#@\s]*@")
_SECRET_QUERY = re.compile(
    r"([?&;][^=&#\s]*(?:key|token|secret|password|passwd|signature|sig|auth|code)=)[^&#\s]*",
    re.IGNORECASE,
)
# `[^<>]` and not `[^>]`: text full of "<" must not take quadratic time.
_TAGS = re.compile(r"<(?:[A-Za-z/!?][^<>]*)(?:>|$)")
# These stand inside words: without a blank in their place, a key stays in one piece.
_INLINE = re.compile(r"(?i)</?(?:a|b|i|u|em|strong|code|span|mark|wbr|small|tt|kbd)\b[^<>]*>")
_TITLE = re.compile(r"(?i)<title[^<>]*>([^<>]*)</title")
_UNSHOWN = re.compile(r"(?i)<(script|style|head|svg)\b")
_PAGE = re.compile(r"(?i)\A\s*(?:\ufeff)?\s*<(?:!doctype\s+html|html|head|body|\?xml)")


class Redactor:
    """Make texts fit to be kept: no secrets, no lone surrogates, no more than so much.

    Args:
        secrets: what must not be kept, such as the keys in use; also as quoted for a URL.
        limit: the most characters kept of one text.
    """

    def __init__(self, secrets: Collection[str] = (), *, limit: int) -> None:
        long_enough = (secret for secret in secrets if len(secret) >= SHORTEST_SECRET)
        self._secrets = sorted(long_enough, key=len, reverse=True)
        self._limit = limit

    def __call__(self, text: str, limit: int | None = None) -> str:
        """Return the text as it is kept: of a longer one its head and tail, and how much is not."""
        limit = self._limit if limit is None else limit
        text = replace_surrogates(_without(self._secrets, text))
        if len(text) <= limit:
            return text
        half = limit // 2
        left_out = len(text) - 2 * half
        return f"{text[:half]}\n[... {left_out} characters are not kept ...]\n{text[-half:]}"


def redact(text: str, secrets: Iterable[str | None] = ()) -> str:
    """Replace keys by a mask: the given ones in any form, and all that look like keys.

    Args:
        text: any text.
        secrets: the keys that were sent; also their URL-quoted form, and what a server shows
            of a long one when it cuts or stars out the rest, is found.
    """
    given = [secret for secret in secrets if secret]
    text = _without(given, text)
    for secret in given:
        if len(secret) >= STARRED_SECRET:
            text = re.sub(re.escape(secret[:8]) + _TAIL + "*", MASK, text)
    return _PARAMETERS.sub(rf"\1{MASK}", _KEYS.sub(MASK, text))


def _without(secrets: Iterable[str], text: str) -> str:
    """Mask secrets as they are, quoted for a URL, and with their middle starred out."""
    for secret in secrets:
        from urllib.parse import quote

        for form in {secret, quote(secret, safe="", errors="replace")}:
            text = text.replace(form, MASK)
        if len(secret) >= STARRED_SECRET:  # before its parts, which would leave the rest standing
            text = re.sub(re.escape(secret[:8]) + _STARRED, MASK, text)
        if len(secret) >= LONG_SECRET:
            text = _without_parts(secret, text)
    return text


def _without_parts(secret: str, text: str) -> str:
    """Mask what is most of a secret: its beginning or end, spaced, quoted, in other letters.

    Any `PART` of its characters in a row are looked for. A text is first looked through without all
    that may stand between them, which costs next to nothing.
    """
    bare = _bare(text)
    parts = [secret[at : at + PART] for at in range(len(secret) - PART + 1)]
    spans: list[tuple[int, int]] = []
    for part in parts:
        if len(known := _bare(part)) >= PART // 2 and known in bare:
            characters = (f"(?:{re.escape(each)}|{_quoted(each)})" for each in part)
            pattern = r"[^A-Za-z0-9%]{0,3}".join(characters)
            spans += (found.span() for found in re.finditer(pattern, text, re.IGNORECASE))
    pieces: list[str] = []
    done = 0
    for start, end in sorted(spans):
        if start > done or not pieces:
            pieces += (text[done:start], MASK)
        done = max(done, end)
    return "".join([*pieces, text[done:]])


def _quoted(character: str) -> str:
    return "".join(f"%{byte:02x}" for byte in character.encode("utf-8", "replace"))


def _bare(text: str) -> str:
    if "%" in text:
        from urllib.parse import unquote

        text = unquote(text)
    return _BETWEEN.sub("", text).lower()


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
    import html  # 0.5 ms, and its table is for error bodies only

    text = html.unescape(_without_tags(text)).encode("utf-8", "ignore").decode("utf-8")
    line = printable_line(_without_tags(clean(text)))
    return truncate(redact(line, secrets), SHOWN_CHARACTERS)


def _without_tags(text: str) -> str:
    return _TAGS.sub(" ", _INLINE.sub("", text))


def looks_like_key(text: str) -> bool:
    """Tell whether a text is likely a key itself: it starts like one, or is long and mixed."""
    text = text.strip()
    if _KEY_START.match(text):
        return True
    return (
        _LONG.fullmatch(text) is not None
        and any(character.islower() for character in text)
        and any(character.isupper() for character in text)
        and any(character.isdigit() for character in text)
    )


def is_address(text: str) -> bool:
    """Tell whether a text starts like a URL."""
    return _ADDRESS.match(text.strip()) is not None


def mask_url(url: str) -> str:
    """Return a URL with its user, password and secret query values hidden."""
    return _SECRET_QUERY.sub(rf"\g<1>{HIDDEN}", _USERINFO.sub(f"{HIDDEN}@", url))


def mask_text(text: str) -> str:
    """Hide a text that looks like a key; mask the secrets of a URL; return others as they are."""
    if is_address(text):
        return mask_url(text)
    return HIDDEN if looks_like_key(text) else text


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
