"""Make the backends of a profile's tiers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec
from msgspec import UNSET

from tieredllm.clock import Clock
from tieredllm.files import Places
from tieredllm.kinds import ErrorKind
from tieredllm.local.ladder import BATCH, SESSION, Job
from tieredllm.profile.schema import KEY_SYNONYMS, KEY_VARIABLES, BackendSettings, Tier
from tieredllm.providers.base import Backend

if TYPE_CHECKING:
    from tieredllm.keys import Keys
    from tieredllm.providers.cloud import CloudBackend
    from tieredllm.providers.http import HttpClients
    from tieredllm.providers.static import LookUp

__all__ = ["BackendDeps", "make_backends"]


CHARS_PER_TOKEN = 4
"""About, in English prose; only to foresee how long reading will take."""


class BackendDeps:
    """What backends need from outside.

    Args:
        places: the user's directories.
        env: the environment.
        keys: where API keys are looked up by name.
        http: the shared HTTP connections.
        clock: the time.
        look_up: finds the last complete answer to a request, for the cache tier.
        simulate: faults that replace a tier's network or native call, by tier name.
        verbose: whether llama.cpp may print its log on stderr.
        one_question: whether one question is all there will be.
        batch: whether as many requests as can be made at once are there at any time.
        keep_contexts: whether local models keep what they have read for later processes.
        sequences: how many answers a local model makes at the same time.

    Attributes:
        new_text_chars: about how much a local model will have to read at first.
    """

    def __init__(
        self,
        *,
        places: Places,
        env: Mapping[str, str],
        keys: Keys,
        http: HttpClients,
        clock: Clock,
        look_up: LookUp,
        simulate: Mapping[str, ErrorKind],
        verbose: bool,
        one_question: bool,
        keep_contexts: bool,
        sequences: int = 1,
        batch: bool = False,
    ) -> None:
        self.places = places
        self.env = env
        self.keys = keys
        self.http = http
        self.clock = clock
        self.look_up = look_up
        self.simulate = simulate
        self.verbose = verbose
        self.one_question = one_question
        self.new_text_chars = 0
        self.keep_contexts = keep_contexts
        self.sequences = sequences
        self.batch = batch

    @property
    def job(self) -> Job:
        """What a local model is loaded for."""
        job = Job() if self.one_question else BATCH if self.batch else SESSION
        tokens = max(job.prompt_tokens, self.new_text_chars // CHARS_PER_TOKEN)
        return msgspec.structs.replace(job, prompt_tokens=tokens)


def make_backends(tier: Tier, around: BackendDeps) -> tuple[Backend, ...]:
    """Make a tier's own backend and its alternates, in their order. Nothing is loaded or opened."""
    sources: list[BackendSettings] = [tier, *tier.alternates]
    backends = tuple(_make(tier, source, around) for source in sources)
    fault = around.simulate.get(tier.name)
    if fault is None:
        return backends
    from tieredllm.providers.faults import SimulatedBackend

    return tuple(SimulatedBackend(backend, fault) for backend in backends)


def _make(tier: Tier, source: BackendSettings, around: BackendDeps) -> Backend:
    if source.provider == "rules":
        from tieredllm.providers.rules import RulesBackend

        return RulesBackend(rules=tier.rules, variables=tier.vars)
    if source.provider == "llama_cpp":
        from tieredllm.providers.llama_cpp import LlamaCppBackend

        return LlamaCppBackend(
            model=source.model or "",
            context_tokens=tier.context_tokens,
            places=around.places,
            env=around.env,
            verbose=around.verbose,
            job=lambda: around.job,
            keep_contexts=around.keep_contexts,
            sequences=around.sequences,
            threads=tier.threads,
            gpu_layers=tier.gpu_layers,
        )
    if source.provider == "cache":
        from tieredllm.providers.static import CacheBackend

        return CacheBackend(max_age_h=tier.max_age_h, look_up=around.look_up, clock=around.clock)
    return _cloud(source)(
        source,
        api_key_env=_key_variable(source, around.keys),
        keys=around.keys,
        http=around.http,
        clock=around.clock,
    )


def _key_variable(source: BackendSettings, keys: Keys) -> str | None:
    """Return the variable a tier names, else the vendor's first that is set, else its first."""
    if source.api_key_env is not UNSET:
        return source.api_key_env
    first = KEY_VARIABLES[source.provider]
    names = (first, *KEY_SYNONYMS.get(source.provider, ()))
    return next((name for name in names if keys.get(name)), first)


def _cloud(source: BackendSettings) -> type[CloudBackend]:
    """Import a vendor's adapter; the others cost nothing."""
    if source.provider == "openai":
        return _openai(source)
    if source.provider == "anthropic":
        from tieredllm.providers.anthropic import AnthropicBackend

        return AnthropicBackend
    from tieredllm.providers.gemini import GeminiBackend

    return GeminiBackend


def _openai(source: BackendSettings) -> type[CloudBackend]:
    from tieredllm.providers.cloud import is_own_host
    from tieredllm.providers.openai import OpenAIBackend

    own = is_own_host(source.base_url, OpenAIBackend.own_host)
    if source.api == "chat" or (source.api is None and not own):
        return OpenAIBackend
    from tieredllm.providers.openai_responses import ResponsesBackend

    return ResponsesBackend
