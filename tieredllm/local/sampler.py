"""Choose an answer's tokens with llama.cpp's samplers, for a tier's parameters."""

from __future__ import annotations

import ctypes
from types import ModuleType
from typing import Any

from tieredllm.profile.schema import Params

__all__ = ["HeldParams", "Sampler"]

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


class Sampler:
    """What chooses the tokens of one answer.

    A temperature of 0 always takes the likeliest token. Without a temperature or `top_p`,
    llama.cpp's defaults apply.

    To ask a grammar about all tokens of the vocabulary takes as long as to compute one: 10 ms for
    SmolLM2's 49,152, 53 ms for Gemma's 262,144. So, as in llama.cpp's `common_sampler_sample`, one
    is chosen freely, and only where the grammar forbids that one it is asked about all.
    """

    def __init__(self, llama: ModuleType, vocab: Any, params: Params) -> None:
        self._llama = llama
        self._grammar: Any = None
        if isinstance(params, HeldParams):
            # NULL: it cannot be read; the answer is validated all the same.
            source = params.grammar.encode()
            self._grammar = llama.llama_sampler_init_grammar(vocab, source, b"root") or None
        self._chain = _chain(llama, vocab, params, self._narrowing())
        self._guess: Any = None
        # Penalties would count a guess that the grammar forbids.
        if self._grammar and not (params.frequency_penalty or params.presence_penalty):
            self._guess = _chain(llama, vocab, params)

    def _narrowing(self) -> Any:
        """Return a link of the chain that takes out what the grammar forbids.

        The grammar itself is none: where it forbids all there is (damaged weights, a vocabulary
        without a brace), something is chosen all the same, and told of that, llama.cpp's grammar
        ends the process (`llama_grammar_accept_token` throws).
        """
        llama, grammar = self._llama, self._grammar
        if grammar is None:
            return None
        apply = llama.llama_sampler_i_apply(
            lambda _, choice: llama.llama_sampler_apply(grammar, choice)
        )
        self._lent = llama.llama_sampler_i(apply=apply)  # for as long as the chain lives
        return llama.llama_sampler_init(ctypes.byref(self._lent), None)

    def choose(self, context: Any, row: int) -> int:
        """Choose a token by what was computed."""
        sample = self._llama.llama_sampler_sample
        token: int
        if self._guess is not None:
            token = sample(self._guess, context, row)
            if self._allows(token):
                return token
        token = sample(self._chain, context, row)
        return token

    def take(self, token: int) -> bool:
        """Take note of the token that was chosen; False when the grammar forbids it."""
        if self._grammar is not None:
            if not self._allows(token):
                return False
            self._llama.llama_sampler_accept(self._grammar, token)
        return True

    def _allows(self, token: int) -> bool:
        one = (self._llama.llama_token_data * 1)(self._llama.llama_token_data(id=token, logit=1.0))
        choice = self._llama.llama_token_data_array(data=one, size=1, selected=-1)
        self._llama.llama_sampler_apply(self._grammar, ctypes.byref(choice))
        return bool(one[0].logit == 1.0)  # what is forbidden gets -infinity

    def close(self) -> None:
        """Free what is native."""
        for sampler in (self._chain, self._guess, self._grammar):
            if sampler is not None:
                self._llama.llama_sampler_free(sampler)


def _chain(llama: ModuleType, vocab: Any, params: Params, first: Any = None) -> Any:
    """Build a chain of what narrows the choice, and the choice."""
    chain = llama.llama_sampler_chain_init(llama.llama_sampler_chain_default_params())
    links = [] if first is None else [first]
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
