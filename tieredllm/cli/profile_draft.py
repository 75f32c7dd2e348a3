"""Write a profile's text, with comments, from a few choices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date
from typing import TYPE_CHECKING

import msgspec

from tieredllm.files import Places, shipped
from tieredllm.profile.yaml_writing import scalar

if TYPE_CHECKING:
    from tieredllm.profile.schema import Alternate, Profile, Tier

__all__ = [
    "OWN_SERVER",
    "SERVER_MODEL",
    "SERVER_URL",
    "Choice",
    "Model",
    "Vendor",
    "draft",
    "own_server",
    "vendors",
]

TITLES = {"openai": "OpenAI", "anthropic": "Anthropic", "gemini": "Google Gemini"}

OWN_SERVER = "server"
"""What a server of the user's own is called among the vendors."""

SERVER_URL = "http://127.0.0.1:11434/v1"
SERVER_MODEL = "gemma3:4b"
"""Where Ollama is by default, and a model of its list: as in the built-in profile `ollama`."""

SMALLEST = "smollm2-135m"
"""The local model that is quick to get: it stands in for a better one that is not there."""

COMMENT_COLUMN = 34


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """Hold one model of a vendor, with what its tier says of it."""

    name: str
    context_tokens: int
    temperature: float | None
    """None where the model takes none."""
    top_p: float | None


class Vendor(msgspec.Struct, frozen=True, kw_only=True):
    """Hold where answers may come from."""

    name: str
    title: str
    """What people call it."""
    provider: str
    """Whose protocol it speaks."""
    large: Model
    medium: Model
    """For the second tier, below another vendor's large one."""
    small: Model
    """For the second tier, below its own large one."""
    key_variable: str | None
    """None: it needs no key."""
    base_url: str | None = None
    """None for the vendor's own."""


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """Hold what a profile is to be."""

    name: str
    vendors: tuple[Vendor, ...]
    """The best first; may be empty."""
    local: str | None
    """A model of the catalog; None for no local tier."""
    made_on: date


def vendors(places: Places) -> dict[str, Vendor]:
    """Give the vendors, with the models the built-in profiles have for them.

    Args:
        places: the user's directories.

    Raises:
        ProfileError: a built-in profile has mistakes.
    """
    from tieredllm.profile.schema import KEY_VARIABLES

    together = _built_in("default", places).tiers
    found: dict[str, Vendor] = {}
    for name, title in TITLES.items():
        alone = _built_in(name, places).tiers
        large, medium = (
            _model(alone[level], _name_in(together[level], name) or alone[level].model)
            for level in (0, 1)
        )
        found[name] = Vendor(
            name=name,
            title=title,
            provider=name,
            large=large,
            medium=medium,
            small=_model(alone[1], alone[1].model),
            key_variable=KEY_VARIABLES[name],
        )
    return found


def _built_in(name: str, places: Places) -> Profile:
    from tieredllm.profile.load import Found, load

    path = shipped("profiles") / f"{name}.yaml"
    return load(Found(name=name, path=path, origin="shipped"), places).profile


def _name_in(tier: Tier, vendor: str) -> str | None:
    """Give the model that a tier of several vendors has for one of them."""
    backends: tuple[Tier | Alternate, ...] = (tier, *tier.alternates)
    return next((backend.model for backend in backends if backend.provider == vendor), None)


def _model(tier: Tier, name: str | None) -> Model:
    return Model(
        name=name or "",
        context_tokens=tier.context_tokens,
        temperature=tier.params.temperature,
        top_p=tier.params.top_p,
    )


def own_server(base_url: str, model: str, key_variable: str | None) -> Vendor:
    """Give a server of the user's own, which speaks OpenAI's protocol."""
    # Ollama drops what is beyond its own context without a word: 4096 tokens by default.
    one = Model(name=model, context_tokens=4096, temperature=0.7, top_p=0.95)
    return Vendor(
        name=OWN_SERVER,
        title="your own server",
        provider="openai",
        large=one,
        medium=one,
        small=one,
        key_variable=key_variable,
        base_url=base_url,
    )


def draft(choice: Choice) -> str:
    """Write the profile."""
    lines = [*_head(choice), "", "tiers:"]
    sources = choice.vendors
    if sources:
        lines += ["  # The first to be asked: the best model there is.", *_cloud(sources, 0)]
        if len(sources) > 1 or sources[0].name != OWN_SERVER:
            about = "a medium model, of another vendor" if len(sources) > 1 else "a smaller model"
            lines += ["", f"  # Asked when the first gave way: {about}."]
            lines += _cloud((*sources[1:], sources[0]), 1)
        lines.append("")
    if choice.local is not None:
        lines += ["  # A model on this machine. No key and no network; only it takes longer."]
        lines += [*_local(choice.local, alone=not sources), ""]
    lines += _rules()
    return "\n".join(lines) + "\n"


def _head(choice: Choice) -> Iterator[str]:
    name = choice.name
    used = "It is used when you name none" if name == "default" else f"Use it with `-p {name}`"
    yield f"# Made by `tieredllm profile init` on {choice.made_on.isoformat()}. {used}."
    yield "# The tiers are tried in order until one answers completely; one whose key is not set is"
    yield "# passed over."
    yield "#"
    for command, about in (
        (f"tieredllm profile edit {name}", "change it, and check it"),
        (f"tieredllm health -p {name}", "see how its tiers are"),
        ("tieredllm keys set NAME", "keep a key (or set the environment variable)"),
        ("tieredllm profile schema", "every key there is, for your editor"),
    ):
        yield f"#   {command:<37} {about}"
    yield ""
    yield f"name: {scalar(name)}"
    yield f"description: {scalar(_description(choice))}"
    seconds = 120 if choice.vendors and all(v.base_url is None for v in choice.vendors) else 300
    yield _with(f"deadline_s: {seconds}", "for the whole request, all tiers together")
    yield _with("on_content_filter: stop", "a refusal ends the request; fallback: ask the next")


def _description(choice: Choice) -> str:
    parts = [", ".join(vendor.title for vendor in choice.vendors)] if choice.vendors else []
    if choice.local is not None:
        parts.append("a local model")
    return ", then ".join([*parts, "rules"])


def _cloud(sources: Sequence[Vendor], level: int) -> Iterator[str]:
    """Write a tier of vendors: the first one's model, the others' as alternates."""
    models = [vendor.medium if level else vendor.large for vendor in sources]
    if level and len(sources) == 1:
        models = [sources[0].small]
    yield f"  - name: {'secondary' if level else 'primary'}"
    yield from _backend(sources[0], models[0], indent=4)
    if len(sources) > 1:
        yield _with("    alternates:", "other backends of this tier, tried in this order")
        for vendor, model in zip(sources[1:], models[1:], strict=True):
            first, *rest = _backend(vendor, model, indent=8)
            yield f"      - {first.lstrip()}"
            yield from rest
    yield "    params:"
    alike = len({(model.temperature, model.top_p) for model in models}) == 1
    own = models[0].temperature, models[0].top_p
    temperature, top_p = own if alike else ((0.5, 0.85) if level else (0.7, 0.95))
    none = "these models take none but their own"
    yield _with(f"      temperature: {scalar(temperature)}", none if temperature is None else "")
    yield f"      top_p: {scalar(top_p)}"
    yield _with(f"      max_tokens: {512 if level else 1024}", "the longest answer")
    if level:
        yield _with("    prompt: simplified", "the last four messages, a concise answer")
    else:
        yield _with("    prompt: full", "the system prompt and all messages")
    tokens = min(model.context_tokens for model in models)
    yield _with(f"    context_tokens: {tokens}", "text beyond it is cut, and the cut is named")
    if any(vendor.base_url is not None for vendor in sources):
        yield _with("    first_token_timeout_s: 60", "your server may have to load the model")
        yield "    idle_timeout_s: 20"
        yield "    timeout_s: 120"
        yield "    retries: 1"
    else:
        yield _with(f"    timeout_s: {15 if level else 30}", "one try, when it is not streaming")
        yield f"    retries: {3 if level else 2}"


def _backend(vendor: Vendor, model: Model, *, indent: int) -> Iterator[str]:
    space = " " * indent
    yield f"{space}provider: {vendor.provider}"
    yield f"{space}model: {scalar(model.name)}"
    if vendor.base_url is not None:
        yield f"{space}base_url: {scalar(vendor.base_url)}"
    key = f"{space}api_key_env: {scalar(vendor.key_variable)}"
    yield _with(key, "it needs no key" if vendor.key_variable is None else "")


def _local(model: str, *, alone: bool) -> Iterator[str]:
    """Write the tier of the local model; alone it keeps a memory, and may take its time."""
    yield "  - name: minimal"
    yield "    provider: llama_cpp"
    yield _with(f"    model: {scalar(model)}", f"tieredllm models pull {model}")
    if model != SMALLEST:
        yield _with("    alternates:", "used while the first is not there (93 MB)")
        yield f"      - {{provider: llama_cpp, model: {SMALLEST}}}"
    tokens = 512 if alone else 256
    yield f"    params: {{temperature: 0.3, max_tokens: {tokens}, top_p: 0.7}}"
    if alone:
        yield _with("    prompt: simplified", "the last four messages, so a chat has a memory")
    else:
        yield _with("    prompt: minimal", "the question alone, a brief answer")
    yield _with("    context_tokens: 2048", "more of it takes more memory")
    wait_s = 60 if alone else 30
    yield _with(f"    first_token_timeout_s: {wait_s}", "loading the model from disk included")
    yield f"    timeout_s: {120 if alone else 10}"
    yield f"    retries: {1 if alone else 5}"


def _rules() -> Iterator[str]:
    yield "  # Rules: they need nothing and cannot fail; their answers say that they are limited."
    yield "  - name: rules"
    yield "    provider: rules"
    yield _with("    rules: builtin", "or the path of your own rule file")
    yield _with("    vars: {}", "such as {support_contact: help@example.com}")


def _with(line: str, comment: str) -> str:
    return f"{line:<{COMMENT_COLUMN - 1}} # {comment}" if comment else line
