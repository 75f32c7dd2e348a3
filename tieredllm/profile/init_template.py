"""Write a new profile: a built-in one that it inherits from, and what is different."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import msgspec
import yaml

from tieredllm.files import shipped
from tieredllm.profile.dump import write_yaml

__all__ = ["VENDORS", "Choice", "Server", "draft", "inheriting"]

VENDORS = {"openai": "OpenAI", "anthropic": "Anthropic", "gemini": "Google Gemini"}
"""The vendors that have a built-in profile of their name, with what people call them. Their order
is that of the first tier of the built-in `default`."""

_WAITS = (
    *("context_tokens", "connect_timeout_s", "first_token_timeout_s", "idle_timeout_s"),
    *("timeout_s", "retries"),
)
"""What the built-in profile `ollama` says of a server on this machine."""


class Server(msgspec.Struct, frozen=True, kw_only=True):
    """A server of the user's own, which speaks OpenAI's protocol."""

    base_url: str
    model: str
    api_key_env: str | None = None
    """The variable that holds its key; None: it needs none."""


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """What a profile is to be."""

    name: str
    sources: tuple[str | Server, ...]
    """Names of vendors, and at most one server, the best first; may be empty."""
    local: str | None
    """A model of the catalog, or the path of a file; None for no local tier."""
    made_on: date


def draft(choice: Choice) -> str:
    """Return the text of the profile."""
    values = _differences(choice)
    name = choice.name
    used = "It is used when you name none" if name == "default" else f"Use it with `-p {name}`"
    option = "" if name == "default" else f" -p {name}"
    head = [
        f"# Made by `tieredllm profile init` on {choice.made_on.isoformat()}. {used}.",
        f"# What is not said here is as in the built-in profile `{values['extends']}`, in later",
        "# versions too. A tier whose key is not set is passed over.",
        "#",
        f"#   tieredllm profile show {name:<12} every key with its value",
        f"#   tieredllm profile edit {name:<12} change it, and check it",
        f"#   {'tieredllm' + option + ' health':<35} see how its tiers are",
        f"#   {'tieredllm keys set NAME':<35} keep a key (or set the variable)",
    ]
    return "\n".join(head) + "\n\n" + write_yaml(values)


def inheriting(name: str, text: str) -> str:
    """Return the text of a profile that takes the place of a built-in one, and inherits from it.

    Args:
        name: what both are called.
        text: what the built-in one says; it is there as a comment, to copy from.
    """
    lines = [f"# {line}".rstrip() for line in text.splitlines()]
    return (
        f"# Your own `{name}`. What you do not say here is as in the built-in profile, in later\n"
        "# versions too. Here is what that says, to copy from; your own lines go below.\n#\n"
        + "\n".join(lines)
        + f"\n\nextends: {name}\n"
    )


def _differences(choice: Choice) -> dict[str, Any]:
    vendors = [source for source in choice.sources if isinstance(source, str)]
    server = next((one for one in choice.sources if isinstance(one, Server)), None)
    base = _base(vendors, server)
    values: dict[str, Any] = {"description": _description(choice), "extends": base}
    tiers: list[dict[str, Any]] = []
    if base == "default" and vendors != list(VENDORS):
        tiers = _ordered(vendors)
    if server is not None:
        values["deadline_s"] = _shipped("ollama")["deadline_s"]
        _add_server(tiers, server, base, first=choice.sources[0] is server)
    local = next(tier for tier in _shipped(base)["tiers"] if tier["name"] == "minimal")
    if choice.local is None:
        values["remove_tiers"] = ["minimal"]
    elif choice.local != local["model"]:
        rest = [one for one in local["alternates"] if one["model"] != choice.local]
        changed = {"name": "minimal", "model": choice.local}
        tiers.append(changed if rest == local["alternates"] else changed | {"alternates": rest})
    return values | ({"tiers": tiers} if tiers else {})


def _base(vendors: list[str], server: Server | None) -> str:
    """Return the built-in profile that is nearest to what was chosen."""
    if len(vendors) == 1:
        return vendors[0]
    if vendors:
        return "default"
    return "offline" if server is None else "ollama"


def _ordered(vendors: list[str]) -> list[dict[str, Any]]:
    """Return the first two tiers of `default`, with these vendors in this order and no others.

    The second tier begins with another vendor than the first.
    """
    tiers = []
    for tier, order in zip(
        _shipped("default")["tiers"], (vendors, [*vendors[1:], vendors[0]]), strict=False
    ):
        models = {one["provider"]: one["model"] for one in (tier, *tier["alternates"])}
        backends = [{"provider": vendor, "model": models[vendor]} for vendor in order]
        # A tier that changes its provider inherits no context.
        context = {"context_tokens": tier["context_tokens"]}
        tiers.append({"name": tier["name"]} | backends[0] | context | {"alternates": backends[1:]})
    return tiers


def _add_server(tiers: list[dict[str, Any]], server: Server, base: str, *, first: bool) -> None:
    """Add the tier of a server: before the vendors' when it was named first, else after them."""
    values = msgspec.to_builtins(server)
    template = _shipped("ollama")["tiers"][0]
    if base == "ollama":
        tiers.append({"name": template["name"]} | values)
        return
    # A tier of its own: its context and its patience are not the vendors'.
    tier = {"name": "server", "provider": "openai"} | values
    tier |= {key: template[key] for key in _WAITS}
    if first:
        tiers.insert(0, tier)
    else:
        tiers += [tier] if tiers else [{"name": "secondary"}, tier]


def _description(choice: Choice) -> str:
    titles = [
        VENDORS[source] if isinstance(source, str) else "your own server"
        for source in choice.sources
    ]
    local = [] if choice.local is None else ["a local model"]
    return ", then ".join([*([", ".join(titles)] if titles else []), *local, "rules"])


def _shipped(name: str) -> dict[str, Any]:
    """Read a built-in profile as it stands; tests see to it that it has no mistakes."""
    path: Path = shipped("profiles") / f"{name}.yaml"
    values: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return values
