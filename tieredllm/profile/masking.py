"""Keep secrets out of what is shown."""

from __future__ import annotations

import re

__all__ = ["HIDDEN", "is_address", "looks_like_key", "mask_text", "mask_url"]

HIDDEN = "****"
_KEY_START = re.compile(
    r"(sk|pk|rk)-[A-Za-z0-9]"  # OpenAI, Anthropic and many who follow them
    r"|(sk|gsk|hf|xai|ghp|r8|pplx|nvapi|csk|xox[abpr])[-_][A-Za-z0-9-]{12}"
    r"|AIza[A-Za-z0-9_-]{10}|AQ\.[A-Za-z0-9]|eyJ[A-Za-z0-9_-]{10}"
)
"""How vendors' keys begin, and tokens (eyJ: a JSON Web Token)."""
_LONG = re.compile(r"[A-Za-z0-9_\-=+]{28,}")
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_USERINFO = re.compile(r"(?<=://)[^/?#@\s]*@")
_SECRET_QUERY = re.compile(
    r"([?&;][^=&#\s]*(?:key|token|secret|password|passwd|signature|sig|auth|code)=)[^&#\s]*",
    re.IGNORECASE,
)


def looks_like_key(text: str) -> bool:
    """Whether a text is likely a key itself: it starts like one, or is long and mixed."""
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
    """Whether a text starts like a URL."""
    return _ADDRESS.match(text.strip()) is not None


def mask_url(url: str) -> str:
    """Hide the user, password and secret query values of a URL."""
    return _SECRET_QUERY.sub(rf"\g<1>{HIDDEN}", _USERINFO.sub(f"{HIDDEN}@", url))


def mask_text(text: str) -> str:
    """Hide a text that looks like a key; mask the secrets of a URL; give others as they are."""
    if is_address(text):
        return mask_url(text)
    return HIDDEN if looks_like_key(text) else text
