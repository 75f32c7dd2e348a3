"""Find what is legal in a profile but likely not meant."""

from __future__ import annotations

from urllib.parse import urlsplit

from msgspec import UNSET

from tieredllm.errors import Mistake
from tieredllm.profile.load import Loaded
from tieredllm.profile.nodes import MappingNode, Place
from tieredllm.profile.schema import BASE_URLS, KEY_VARIABLES, BackendSettings, Profile, Tier

__all__ = ["lint"]

_LOCAL = frozenset({"localhost", "127.0.0.1", "::1"})


def lint(loaded: Loaded) -> list[Mistake]:
    """Look a profile over.

    Args:
        loaded: a profile without mistakes.

    Returns:
        What may be wrong, with places, in the order of the tiers. Nothing of it stops the profile
        from working as written.
    """
    profile, tree = loaded.profile, loaded.tree
    nodes = tree.mappings("tiers")
    found = []
    for level, (tier, node) in enumerate(zip(profile.tiers, nodes, strict=True)):
        for place, message in (
            *_order(profile, level, node),
            *_sizes(profile, level, node),
            *_useless(tier, node),
            *_backends(tier, node),
        ):
            found.append(place.mistake(message))
    for name, server in profile.tools.mcp.items():
        declared = tree.mapping("tools", "mcp").entries.get(name)
        if server.type == "sse" and declared is not None:
            message = f"MCP server `{name}`: SSE is not supported: give its streamable HTTP `url`"
            found.append(declared.place.mistake(message))
    if profile.health.cooldown_s > profile.health.max_cooldown_s:
        message = "`cooldown_s` is above `max_cooldown_s`: the smaller one counts"
        found.append(tree.mapping("health").place.mistake(message))
    return found


Finding = tuple[Place, str]


def _order(profile: Profile, level: int, node: MappingNode) -> list[Finding]:
    tier, last = profile.tiers[level], level == len(profile.tiers) - 1
    found = []
    before = [above.name for above in profile.tiers[:level] if above.provider == "rules"]
    if before:
        message = f"tier `{tier.name}` is never reached: `{before[0]}` above it always answers"
        found.append((node.place, message))
    if last and not any(each.provider == "rules" for each in profile.tiers):
        message = "there is no rules tier at the end: a request can end without any answer"
        found.append((node.place, message))
    if tier.hedge_after_s is not None:
        place = _place(node, "hedge_after_s")
        if last:
            found.append((place, "`hedge_after_s` on the last tier does nothing"))
        elif profile.tiers[level + 1].provider == "rules":
            message = "`hedge_after_s` starts the rules tier, which answers at once and so wins"
            found.append((place, message))
    return found


def _sizes(profile: Profile, level: int, node: MappingNode) -> list[Finding]:
    tier = profile.tiers[level]
    if not tier.model:
        return []
    found = []
    if (tier.params.max_tokens or 0) >= tier.context_tokens:
        message = (
            f"`max_tokens` ({tier.params.max_tokens}) leaves nothing of `context_tokens` "
            f"({tier.context_tokens}) for the question: the tier will be skipped"
        )
        found.append((_place(node, "context_tokens", "params"), message))
    wait = tier.first_token_timeout_s if tier.stream else tier.timeout_s
    if level == 0 and len(profile.tiers) > 1 and profile.deadline_s <= wait:
        message = (
            f"`deadline_s` ({profile.deadline_s:g}) is over before this tier has given way "
            f"({wait:g} s): no other will be tried"
        )
        found.append((node.place, message))
    return found


def _useless(tier: Tier, node: MappingNode) -> list[Finding]:
    """Find keys that belong to another kind of tier."""
    owners = {
        "rules": "rules",
        "vars": "rules",
        "max_age_h": "cache",
        "api": "openai",
        "api_version": "anthropic",
    }
    found = [
        (node.entries[key].place, f"`{key}` means something to a {owner} tier only")
        for key, owner in owners.items()
        if key in node.entries and tier.provider != owner
    ]
    providers = {tier.provider, *(alternate.provider for alternate in tier.alternates)}
    found += [
        (node.entries[key].place, f"`{key}` means something to a llama_cpp model only")
        for key in ("threads", "gpu_layers")
        if key in node.entries and "llama_cpp" not in providers
    ]
    if "tools" in node.entries and tier.tools != "none" and providers.isdisjoint(KEY_VARIABLES):
        message = f"a {tier.provider} tier calls no tools: it gets what others found out as text"
        found.append((node.entries["tools"].place, message))
    return found


def _backends(tier: Tier, node: MappingNode) -> list[Finding]:
    backends: list[tuple[BackendSettings, MappingNode]] = [(tier, node)]
    backends += zip(tier.alternates, node.mappings("alternates"), strict=True)
    found = []
    seen = set()
    for backend, at in backends:
        if backend.base_url is not None:
            found += _url(backend, backend.base_url, at)
        key = (backend.provider, backend.model, backend.base_url)
        if key in seen:
            message = f"{backend.provider} `{backend.model}` is in this tier twice"
            found.append((at.place, message))
        seen.add(key)
    return found


def _url(backend: BackendSettings, base_url: str, node: MappingNode) -> list[Finding]:
    provider, place = backend.provider, _place(node, "base_url")
    parts = urlsplit(base_url)
    path = parts.path.rstrip("/")
    found = []
    if provider == "openai" and not path:
        found.append((place, "an OpenAI-compatible `base_url` goes up to and with /v1"))
    if provider == "gemini" and not path:
        found.append((place, "a Gemini `base_url` goes up to and with /v1beta"))
    if provider == "anthropic" and path.endswith("/v1"):
        found.append((place, "an Anthropic `base_url` goes without /v1, which is added"))
    own = base_url.rstrip("/") == BASE_URLS.get(provider)
    if backend.api_key_env is UNSET and not own and provider in KEY_VARIABLES:
        message = (
            f"this server is sent {KEY_VARIABLES[provider]}: say `api_key_env: null` if it needs "
            "no key, else the name of its own"
        )
        found.append((place, message))
    if parts.scheme == "http" and parts.hostname not in _LOCAL and backend.api_key_env is not None:
        found.append((place, "the key goes over the network unencrypted: use https://"))
    return found


def _place(node: MappingNode, *keys: str) -> Place:
    """Return the place of the first of some keys that is there, else the mapping's."""
    return next((node.entries[key].place for key in keys if key in node.entries), node.place)
