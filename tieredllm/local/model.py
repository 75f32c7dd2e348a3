"""One loaded model and its context: evaluate a prompt, sample an answer. Synchronous.

Everything here runs on one thread (see `llama.py`). The calls are those of llama.h:
https://github.com/ggml-org/llama.cpp/blob/master/include/llama.h
"""

from __future__ import annotations

import ctypes
import hashlib
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec

from tieredllm.errors import FallbackTriggerError
from tieredllm.kinds import ErrorKind
from tieredllm.local.contexts import MAX_BYTES, MIN_TOKENS, KeptContexts, shared_beginning
from tieredllm.local.ladder import LoadSettings
from tieredllm.local.llama_bindings import (
    Flag,
    StoppedError,
    binding_stamp,
    bindings,
    last_complaint,
)
from tieredllm.local.machine import physical_cores
from tieredllm.local.sampler import make_sampler
from tieredllm.local.tokenizer import NativeVocabulary
from tieredllm.profile.schema import Params

__all__ = ["BadFileError", "LoadedModel"]

BATCH_TOKENS = 512
"""Prompt tokens in one call; llama.cpp's own default for a physical batch."""
ABORTED = 2
"""What `llama_decode` returns when the abort callback said stop."""
FLASH_ATTENTION_ON, FLASH_ATTENTION_OFF, FLASH_ATTENTION_AUTO = 1, 0, -1
"""`llama_flash_attn_type` of llama.h."""


MAX_SNAPSHOTS = 4
"""How many turns back a model that cannot cut its cache remembers; 0.1 to some 20 MB each."""


class _Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """The state a model carries from token to token, after some of them."""

    tokens: int
    data: ctypes.Array[ctypes.c_uint8]


class BadFileError(FallbackTriggerError):
    """Report that llama.cpp rejects a file for what is in it."""


class LoadedModel:
    """A model in memory, with one context.

    Args:
        path: a GGUF file that has been checked.
        n_ctx: the size of the context, in tokens.
        settings: how to load it and compute with it.
        stop: watched while computing; when it is set, `StoppedError` comes out.
        go_on: asked while the file is read; False stops it.

    Attributes:
        vocabulary: to tokenise with.
        evaluated_tokens: prompt tokens evaluated so far, without those found in the cache.
        identity: the file, the build of llama.cpp and the kind of context, for `KeptContexts`.

    Raises:
        StoppedError: `go_on` said so.
        BadFileError: llama.cpp rejects the file.
        FallbackTriggerError: llama.cpp is not there, or has no memory for the model.
    """

    def __init__(
        self,
        path: Path,
        *,
        n_ctx: int,
        settings: LoadSettings,
        stop: Flag,
        go_on: Callable[[], bool],
    ) -> None:
        self._llama: ModuleType = bindings()
        self._context: Any = None
        self._cached: list[int] = []
        self._snapshots: list[_Snapshot] = []
        self._name = path.name
        self._settings = settings
        self._stop = stop
        self.n_ctx = n_ctx
        self.evaluated_tokens = 0
        self._model: Any = self._load(path, go_on)
        self.vocabulary = NativeVocabulary(self._llama, self._model)
        try:
            if self._llama.llama_model_has_encoder(self._model):
                raise self._useless("is an encoder model, which does not answer questions")
            self._context = self._make_context()
            self._kept = stop.watch(self._llama, self._context)
            self._memory = self._llama.llama_get_memory(self._context)
            if not self._writes_word_by_word():
                raise self._useless(
                    "is an embedding or diffusion model: it does not write one word after the other"
                )
            self._one = (self._llama.llama_token * 1)()
            self.identity = self._identity(path)
        except BaseException:
            self.close()
            raise

    def _load(self, path: Path, go_on: Callable[[], bool]) -> Any:
        llama = self._llama
        params = llama.llama_model_default_params()
        stopped = False

        def progress(_share: float, _data: Any) -> bool:
            nonlocal stopped
            stopped = stopped or not go_on()
            return not stopped

        if "use_extra_bufts" in {name for name, *_ in params._fields_}:  # since August 2025
            params.use_extra_bufts = self._settings.repack
        params.progress_callback = llama.llama_progress_callback(progress)
        last_complaint()
        model = llama.llama_model_load_from_file(str(path).encode(), params)
        if stopped:
            if model:
                llama.llama_model_free(model)
            raise StoppedError
        if not model:
            why = last_complaint() or "no reason given"
            what = f"cannot be loaded by llama.cpp: {why}"
            if any(word in why for word in ("alloc", "memory", "mmap")):
                raise self._failed(what)
            raise self._useless(what)
        return model

    def _make_context(self) -> Any:
        llama = self._llama
        params = llama.llama_context_default_params()
        fields = {name for name, *_ in params._fields_}
        params.n_ctx = self.n_ctx
        params.n_batch = params.n_ubatch = min(BATCH_TOKENS, self.n_ctx)
        params.n_threads = params.n_threads_batch = self._settings.threads or physical_cores()
        params.no_perf = True
        # All of the past is kept, also where layers look at a window of it only. Without, llama.cpp
        # says that the cache was cut though the cells before the window are gone, and the next
        # logits are silently off (seen with Gemma 2 and 3 and gpt-oss, llama.cpp of October 2026).
        params.swa_full = True
        if "n_outputs_max" in fields:
            # Only the last token's logits are read; room for 512 rows of them is half a gigabyte
            # with Gemma's vocabulary.
            params.n_outputs_max = 1
        if "flash_attn_type" not in fields:  # before llama.cpp of August 2025
            params.flash_attn = self._settings.flash_attention
            context = llama.llama_init_from_model(self._model, params)
        elif not self._settings.flash_attention:
            params.flash_attn_type = FLASH_ATTENTION_OFF
            context = llama.llama_init_from_model(self._model, params)
        else:
            params.flash_attn_type = FLASH_ATTENTION_ON
            context = llama.llama_init_from_model(self._model, params)
            if not context:  # some architectures cannot
                params.flash_attn_type = FLASH_ATTENTION_AUTO
                context = llama.llama_init_from_model(self._model, params)
        kind = ("flash_attn_type", "type_k", "type_v", "n_seq_max", "kv_unified", "swa_full")
        self._kind = [(name, getattr(params, name)) for name in kind if name in fields]
        if not context:
            why = last_complaint() or "probably not enough memory"
            raise self._failed(f"has no room for a context of {self.n_ctx} tokens: {why}")
        return context

    def _failed(self, what: str) -> FallbackTriggerError:
        return FallbackTriggerError(ErrorKind.MODEL_UNAVAILABLE, f"{self._name} {what}")

    def _useless(self, what: str) -> BadFileError:
        failed = self._failed(what)
        return BadFileError(failed.kind, failed.message)

    def _writes_word_by_word(self) -> bool:
        """Tell whether each token follows from those before it, as `n_outputs_max = 1` needs.

        llama.cpp loads embedding and diffusion models, gives them no memory of earlier tokens
        (`create_memory` in llama-model.cpp), and aborts the process when it decodes them with one
        row of outputs.
        """
        is_diffusion = getattr(self._llama, "llama_model_is_diffusion", None)  # since August 2025
        return bool(self._memory) and not (is_diffusion and is_diffusion(self._model))

    def evaluate(
        self, prompt: list[int], *, lasting: int = 0, contexts: KeptContexts | None = None
    ) -> None:
        """Bring the cache to hold exactly the prompt, so that `sample` can go on from it.

        The part the prompt has in common with what the cache holds, or with a kept context, is not
        evaluated again.

        Args:
            prompt: its tokens.
            lasting: with how many of them the next prompt of the conversation will begin, too;
                what a model that cannot cut its cache goes back to.
            contexts: where to look for a kept context.

        Raises:
            StoppedError: the stop flag was set.
            FallbackTriggerError: the prompt does not fit (`context_length`), or llama.cpp failed.
        """
        if len(prompt) >= self.n_ctx:
            raise FallbackTriggerError(
                ErrorKind.CONTEXT_LENGTH,
                f"the prompt has {len(prompt)} tokens; the context has room for {self.n_ctx}",
            )
        # The last token is always evaluated: its logits are what the answer starts from.
        known = prompt[:-1]
        if contexts is not None:
            self._load_context(contexts, known)
        self._cut_cache(shared_beginning(self._cached, known))
        if self._can_cut or not len(self._cached) < lasting < len(prompt):
            self._read(prompt)
            return
        self._read(prompt[:lasting])
        self._take_snapshot()
        self._read(prompt)

    def _read(self, prompt: list[int]) -> None:
        """Evaluate what a prompt has beyond the cache."""
        for start in range(len(self._cached), len(prompt), BATCH_TOKENS):
            piece = prompt[start : start + BATCH_TOKENS]
            self._decode(piece)
            self.evaluated_tokens += len(piece)

    def sample(self, limit: int, params: Params) -> Iterator[int]:
        """Yield one token after the other, at most `limit`; fewer when the model ends.

        Raises:
            StoppedError: the stop flag was set.
            FallbackTriggerError: llama.cpp failed, or computed something that is no number.
        """
        llama, context, vocabulary = self._llama, self._context, self.vocabulary
        sampler = make_sampler(llama, vocabulary.native, params)
        try:
            for number in range(1, limit + 1):
                token = llama.llama_sampler_sample(sampler, context, -1)
                if math.isnan(llama.llama_get_logits_ith(context, -1)[token]):
                    # Broken weights, or weights overwritten under us: the same file gives the same
                    # again, so it is the model that is of no use, not this one answer.
                    raise self._failed("computes values that are not numbers: its file is damaged")
                if vocabulary.ends_answer(token):
                    return
                yield token
                if number < limit:
                    self._decode([token])
        finally:
            llama.llama_sampler_free(sampler)

    def computes_numbers(self) -> bool:
        """Tell whether each value computed for the last token is a number."""
        llama = self._llama
        count = llama.llama_vocab_n_tokens(self.vocabulary.native)
        # A sum is NaN as soon as one of its terms is.
        return not math.isnan(sum(llama.llama_get_logits_ith(self._context, -1)[:count]))

    def _cut_cache(self, keep: int) -> None:
        """Forget all but the first `keep` tokens.

        Models with a state that is carried from token to token (recurrent and hybrid ones) cannot
        forget the last tokens alone. They go back to a snapshot before them, or forget everything.
        """
        llama = self._llama
        if keep and llama.llama_memory_seq_rm(self._memory, 0, keep, -1):
            del self._cached[keep:]
            self._snapshots = [each for each in self._snapshots if each.tokens <= keep]
            return
        while self._snapshots:
            snapshot = self._snapshots[-1]
            if snapshot.tokens <= keep and self._return_to(snapshot):
                return
            self._snapshots.pop()
        self._clear_cache()

    def _clear_cache(self) -> None:
        self._llama.llama_memory_clear(self._memory, True)
        self._cached.clear()
        self._snapshots.clear()

    def _take_snapshot(self) -> None:
        """Note the carried state, which is small; what attention remembers can be cut."""
        llama, context = self._llama, self._context
        if not hasattr(llama, "llama_state_seq_get_data_ext"):  # before llama.cpp of August 2025
            return
        partial = llama.LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY
        size = llama.llama_state_seq_get_size_ext(context, 0, partial)
        data = (ctypes.c_uint8 * size)()
        if size and llama.llama_state_seq_get_data_ext(context, data, size, 0, partial) == size:
            self._snapshots.append(_Snapshot(tokens=len(self._cached), data=data))
            del self._snapshots[:-MAX_SNAPSHOTS]

    def _return_to(self, snapshot: _Snapshot) -> bool:
        llama, data = self._llama, snapshot.data
        partial = llama.LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY
        if not llama.llama_state_seq_set_data_ext(self._context, data, len(data), 0, partial):
            return False
        if not llama.llama_memory_seq_rm(self._memory, 0, snapshot.tokens, -1):
            return False
        del self._cached[snapshot.tokens :]
        return True

    def keep_context(self, contexts: KeptContexts) -> None:
        """Keep what has been read and said, for a later process to go on from."""
        llama, context = self._llama, self._context
        if not self._can_cut:
            # The next prompt parts from this one before the answer's end, if only by a token.
            self._cut_cache(len(self._cached) - 1)
        if len(self._cached) < MIN_TOKENS:
            return
        size = llama.llama_state_seq_get_size(context, 0)
        if not 0 < size <= MAX_BYTES:
            return
        data = bytearray(size)
        room = (ctypes.c_uint8 * size).from_buffer(data)
        written = llama.llama_state_seq_get_data(context, room, size, 0)
        del room  # a bytearray that is lent out cannot change its length
        if written:
            del data[written:]
            contexts.keep(self.identity, self._cached, data)

    def _load_context(self, contexts: KeptContexts, prompt: list[int]) -> None:
        """Take a kept context into the cache if it has much more of the prompt."""
        shared = shared_beginning(self._cached, prompt)
        if len(prompt) - shared < MIN_TOKENS:
            return
        found = contexts.find(self.identity, prompt, beyond=shared)
        if found is None or len(found[0]) >= self.n_ctx:
            return
        tokens, data = found
        if not self._can_cut and tokens != prompt[: len(tokens)]:
            return
        self._clear_cache()
        lent = (ctypes.c_uint8 * len(data)).from_buffer(data)
        if self._llama.llama_state_seq_set_data(self._context, lent, len(data), 0):
            self._cached += tokens
        else:
            self._clear_cache()

    @property
    def _can_cut(self) -> bool:
        """Whether the last tokens in the cache can be forgotten alone."""
        llama, model = self._llama, self._model
        if llama.llama_model_is_recurrent(model):
            return False
        is_hybrid = getattr(llama, "llama_model_is_hybrid", None)  # since July 2025
        return not (is_hybrid and is_hybrid(model))

    def _identity(self, path: Path) -> str:
        """Tell contexts that can be loaded here from all others.

        Another size of context or number of threads is no obstacle; flash attention, the types of
        keys and values and the number of sequences are (tried with llama.cpp of October 2026).
        """
        stat = path.stat()
        file = f"{path.resolve()}:{stat.st_size}:{stat.st_mtime_ns}"
        text = f"{file}\n{binding_stamp()}\n{self._kind}"
        return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()

    def _decode(self, tokens: list[int]) -> None:
        """Evaluate tokens after those in the cache."""
        if self._stop.is_set():
            raise StoppedError
        llama = self._llama
        count = len(tokens)
        array = self._one if count == 1 else (llama.llama_token * count)()
        array[:] = tokens
        result = llama.llama_decode(self._context, llama.llama_batch_get_one(array, count))
        if result == 0:
            self._cached += tokens
            return
        self._cut_cache(len(self._cached))  # part of the batch may be in the native cache
        if result == ABORTED or self._stop.is_set():
            raise StoppedError
        why = last_complaint() or f"llama_decode gave {result}"
        raise self._failed(f"could not be evaluated: {why}")

    def close(self) -> None:
        """Free the model; harmless when done twice."""
        self.vocabulary.close()
        if self._context is not None:
            self._llama.llama_free(self._context)
            self._context = None
        if self._model is not None:
            self._llama.llama_model_free(self._model)
            self._model = None
