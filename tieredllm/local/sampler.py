"""Build llama.cpp's chain of samplers for a tier's parameters."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from tieredllm.profile.schema import Params

__all__ = ["HeldParams", "make_sampler"]

TEMPERATURE, TOP_K, TOP_P, MIN_P = 0.8, 40, 0.95, 0.05
"""llama.cpp's own defaults (`common_params_sampling` in common/common.h)."""
PENALTY_TOKENS = 64
"""How many of the last tokens the penalties look at: `penalty_last_n` there."""
RANDOM_SEED = 0xFFFFFFFF
"""`LLAMA_DEFAULT_SEED`: another one each time."""


class HeldParams(Params, frozen=True, kw_only=True):
    """A tier's parameters, and the grammar that an answer is held to."""

    grammar: str
    """GBNF; see grammars/README.md of llama.cpp."""


def make_sampler(llama: ModuleType, vocab: Any, params: Params) -> Any:
    """Build a chain of what narrows the choice, and the choice; whoever asks frees it.

    A temperature of 0 always takes the likeliest token. Without a temperature or `top_p`,
    llama.cpp's defaults apply.
    """
    chain = llama.llama_sampler_chain_init(llama.llama_sampler_chain_default_params())
    links = []
    if isinstance(params, HeldParams):
        grammar = llama.llama_sampler_init_grammar(vocab, params.grammar.encode(), b"root")
        if grammar:  # NULL: it cannot be read; the answer is validated all the same
            links.append(grammar)
    if params.frequency_penalty or params.presence_penalty:
        init = llama.llama_sampler_init_penalties
        numbers = (PENALTY_TOKENS, 1.0, params.frequency_penalty, params.presence_penalty)
        # Releases of 2026 want the size of the vocabulary before the rest.
        if len(init.argtypes) == len(numbers) + 1:
            links.append(init(llama.llama_vocab_n_tokens(vocab), *numbers))
        else:
            links.append(init(*numbers))
    temperature = TEMPERATURE if params.temperature is None else params.temperature
    if temperature <= 0:
        links.append(llama.llama_sampler_init_greedy())
    else:
        top_p = TOP_P if params.top_p is None else params.top_p
        links.append(llama.llama_sampler_init_top_k(TOP_K))
        links.append(llama.llama_sampler_init_top_p(top_p, 1))
        links.append(llama.llama_sampler_init_min_p(MIN_P, 1))
        links.append(llama.llama_sampler_init_temp(temperature))
        seed = RANDOM_SEED if params.seed is None else params.seed
        links.append(llama.llama_sampler_init_dist(seed))
    for link in links:
        llama.llama_sampler_chain_add(chain, link)
    return chain
