"""Show a profile as it is in effect: every key with its value, no secret with its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import UNSET

from tieredllm.profile.schema import BASE_URLS, KEY_VARIABLES, Alternate, Profile, Tier
from tieredllm.profile.yaml_writing import written
from tieredllm.redaction import HIDDEN, mask_text

__all__ = ["effective"]

_OF_RULES = ("name", "provider", "rules", "vars")
_OF_CACHE = ("name", "provider", "max_age_h")
_LEFT_OUT = frozenset({"rules", "vars", "max_age_h", "base_url", "api_key_env"})
_SECRET_MAPPINGS = frozenset({"env", "headers"})
"""Where an MCP server's settings hold secrets."""


def effective(profile: Profile, origin: Callable[[str], str | None]) -> str:
    """Give a profile as YAML, defaults included.

    Args:
        profile: the profile.
        origin: says where a variable is set, None when it is not (see `Keys.origin`).

    Returns:
        YAML that reads back as the same profile, apart from the secrets masked in it. Keys that
        mean nothing to a tier's provider are left out.
    """
    values: dict[str, Any] = msgspec.to_builtins(profile)
    values.pop("extends", None)
    values["tiers"] = [_tier(tier) for tier in profile.tiers]
    values["tools"]["mcp"] = {name: _masked(it) for name, it in profile.tools.mcp.items()}

    def remark(key: str, value: Any) -> str | None:
        if not key.endswith("_env") or not isinstance(value, str):
            return None
        where = origin(value)
        return f"{value}: set ({where})" if where else f"{value}: not set"

    return written(values, remark)


def _tier(tier: Tier) -> dict[str, Any]:
    values: dict[str, Any] = msgspec.to_builtins(tier)
    if tier.provider == "rules":
        return {key: values[key] for key in _OF_RULES}
    if tier.provider == "cache":
        return {key: values[key] for key in _OF_CACHE}
    shown: dict[str, Any] = {}
    for key, value in values.items():
        if key == "model":
            shown |= _backend(tier)
        elif key == "alternates":
            alternates = tier.alternates
            shown[key] = [{"provider": each.provider} | _backend(each) for each in alternates]
        elif key not in _LEFT_OUT:
            shown[key] = value
    return shown


def _backend(backend: Tier | Alternate) -> dict[str, Any]:
    if backend.provider == "llama_cpp":
        return {"model": backend.model}
    url = backend.base_url or BASE_URLS[backend.provider]
    name = backend.api_key_env
    return {
        "model": backend.model,
        "base_url": mask_text(url),
        "api_key_env": KEY_VARIABLES[backend.provider] if name is UNSET else name,
    }


def _masked(value: Any, *, secret: bool = False) -> Any:
    if isinstance(value, dict):
        return {
            key: _masked(item, secret=secret or key in _SECRET_MAPPINGS)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [_masked(item, secret=secret) for item in value]
    if isinstance(value, str):
        return HIDDEN if secret else mask_text(value)
    return value
