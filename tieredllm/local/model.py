"""One loaded model and its context: evaluate a prompt, sample an answer. Synchronous.

Everything here runs on one thread (see `worker.py`). The calls are those of llama.h:
https://github.com/ggml-org/llama.cpp/blob/master/include/llama.h
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import math
import os
from collections import Counter
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
from tieredllm.local.sampler import Sampler
from tieredllm.local.tokenizer import NativeVocabulary
from tieredllm.profile.schema import Params

__all__ = ["BATCH_TOKENS", "BadFileError", "LoadedModel", "NoRoomError", "Piece", "Sequence"]

BATCH_TOKENS = 512
"""Prompt tokens in one call; llama.cpp's own default for a physical batch."""
BUFFER_STEP = 256
"""What llama.cpp rounds the length of a sequence's own buffer to (`llama_context`)."""
LAST = -1
"""The row of the last token that was evaluated, for `llama_get_logits_ith`."""
NO_ROOM = 1
"""What `llama_decode` returns when the cache has no place for the batch."""
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


class Sequence:
    """One text that the context holds.

    Args:
        number: llama.cpp's id of it.

    Attributes:
        tokens: what is in the cache of it.
        cells: for each of them, the place it takes; several sequences may share one.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.tokens: list[int] = []
        self.cells: list[int] = []


class Piece(msgspec.Struct, frozen=True, kw_only=True):
    """What one sequence evaluates in one step."""

    sequence: Sequence
    tokens: list[int]
    """They follow what is in the cache."""
    is_read: bool = True
    """Whether what follows the last of them will be looked at."""


class NoRoomError(Exception):
    """Report that the context has no room for a step."""


class BadFileError(FallbackTriggerError):
    """Report that llama.cpp rejects a file for what is in it."""


class LoadedModel:
    """A model in memory, with one context.

    Args:
        path: a GGUF file that has been checked.
        n_ctx: the longest text with its answer, in tokens.
        settings: how to load it and compute with it.
        stop: watched while computing; when it is set, `StoppedError` comes out.
        go_on: asked while the file is read; False stops it.

    Attributes:
        vocabulary: to tokenise with.
        sequences: the texts that the context holds; one where the model carries a state from token
            to token, which takes memory of its own for each.
        room_tokens: what the texts may have together; what they have in common counts once.
        own_tokens: how long each may be while each has a part of the room to itself; None where
            they share it.
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
        self._batch: Any = None
        self._lent: Any = None
        self._cells: Counter[int] = Counter()
        self._next_cell = 0
        self._snapshots: list[_Snapshot] = []
        self._name = path.name
        self._settings = settings
        self._stop = stop
        self.n_ctx = n_ctx
        self.room_tokens = n_ctx
        self.own_tokens: int | None = None
        self.sequences = [Sequence(0)]
        self.evaluated_tokens = 0
        self._model: Any = self._load(path, go_on)
        self.vocabulary = NativeVocabulary(self._llama, self._model)
        try:
            if self._llama.llama_model_has_encoder(self._model):
                raise self._useless("is an encoder model, which does not answer questions")
            if settings.sequences > 1 and self._can_cut:
                self.sequences = [Sequence(number) for number in range(settings.sequences)]
                self.room_tokens = n_ctx + settings.more_tokens
                own = self.room_tokens // settings.sequences // BUFFER_STEP * BUFFER_STEP
                self.own_tokens = own if settings.apart and own else None
            self.open()
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

        params.use_extra_bufts = self._settings.repack
        if self._settings.gpu_layers is not None:
            params.n_gpu_layers = self._settings.gpu_layers
        params.progress_callback = llama.llama_progress_callback(progress)
        last_complaint()
        model = llama.llama_model_load_from_file(os.fsencode(path), params)
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

    def open(self) -> None:
        """Make the context, where there is none.

        Raises:
            FallbackTriggerError: llama.cpp has no memory for it.
        """
        if self._context is not None:
            return
        self._context = self._make_context()
        self._kept = self._stop.watch(self._llama, self._context)
        self._memory = self._llama.llama_get_memory(self._context)

    def share_room(self) -> None:
        """Let the texts share the room from now on, so that each may have `n_ctx` tokens.

        All sequences are empty then, and there is no context until `open` has made it.
        """
        for sequence in self.sequences:
            self._forget(sequence, 0)
        self._llama.llama_free(self._context)
        self._context, self.own_tokens = None, None

    def _make_context(self) -> Any:
        llama = self._llama
        params = llama.llama_context_default_params()
        fields = {name for name, *_ in params._fields_}
        params.n_ctx = self.room_tokens
        if self.own_tokens is not None:
            params.n_ctx = self.own_tokens * len(self.sequences)
        params.n_batch = params.n_ubatch = min(BATCH_TOKENS, self.n_ctx)
        params.n_seq_max = len(self.sequences)
        if len(self.sequences) > 1:
            # In one buffer for all, a long text may take what short ones leave, and what several
            # begin with is there once. But each looks at the others' cells, too, if in vain.
            params.kv_unified = self.own_tokens is None
        params.n_threads = params.n_threads_batch = self._settings.threads or physical_cores()
        params.no_perf = True
        # All of the past is kept, also where layers look at a window of it only. Without, llama.cpp
        # says that the cache was cut though the cells before the window are gone, and the next
        # logits are silently off (seen with Gemma 2 and 3 and gpt-oss, llama.cpp of October 2026).
        params.swa_full = True
        if "n_outputs_max" in fields:
            # Only the last token's logits are read; room for 512 rows of them is half a gigabyte
            # with Gemma's vocabulary.
            params.n_outputs_max = len(self.sequences)
        flash = self._settings.flash_attention
        params.flash_attn_type = FLASH_ATTENTION_ON if flash else FLASH_ATTENTION_OFF
        context = llama.llama_init_from_model(self._model, params)
        if flash and not context:  # some architectures cannot
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
        return bool(self._memory) and not self._llama.llama_model_is_diffusion(self._model)

    def evaluate(
        self, prompt: list[int], *, lasting: int = 0, contexts: KeptContexts | None = None
    ) -> None:
        """Bring the cache to hold exactly the prompt, so that `sample` can go on from it.

        The part the prompt has in common with what the cache holds, or with a kept context, is not
        evaluated again.

        Args:
            prompt: its tokens, fewer than `n_ctx`.
            lasting: with how many of them the next prompt of the conversation will begin, too;
                what a model that cannot cut its cache goes back to.
            contexts: where to look for a kept context.

        Raises:
            StoppedError: the stop flag was set.
            FallbackTriggerError: llama.cpp failed.
        """
        first = self.sequences[0]
        # The last token is always evaluated: its logits are what the answer starts from.
        known = prompt[:-1]
        if contexts is not None:
            self.load_context(contexts, known)
        self.cut(first, shared_beginning(first.tokens, known))
        if self.wants_snapshot(len(first.tokens), lasting=lasting, whole=len(prompt)):
            self._read(prompt[:lasting])
            self.take_snapshot()
        self._read(prompt)

    def wants_snapshot(self, read: int, *, lasting: int, whole: int) -> bool:
        """Whether the state after the lasting part of a prompt is worth to be noted.

        Args:
            read: how many tokens of the prompt are in the cache.
            lasting: with how many of them the next prompt will begin, too.
            whole: how many it has.
        """
        return not self._can_cut and read < lasting < whole

    def _read(self, prompt: list[int]) -> None:
        """Evaluate what a prompt has beyond the first sequence's cache."""
        first = self.sequences[0]
        for start in range(len(first.tokens), len(prompt), BATCH_TOKENS):
            piece = prompt[start : start + BATCH_TOKENS]
            self.decode([Piece(sequence=first, tokens=piece)])
            self.evaluated_tokens += len(piece)

    def sample(self, limit: int, params: Params) -> Iterator[int]:
        """Yield one token after the other, at most `limit`; fewer when the model ends.

        Raises:
            StoppedError: the stop flag was set.
            FallbackTriggerError: llama.cpp failed, or computed something that is no number.
        """
        with self.sampler(params) as sampler:
            for number in range(1, limit + 1):
                token = self.pick(sampler, LAST)
                if self.vocabulary.ends_answer(token):
                    return
                yield token
                if number < limit:
                    self.decode([Piece(sequence=self.sequences[0], tokens=[token])])

    @contextlib.contextmanager
    def sampler(self, params: Params) -> Iterator[Sampler]:
        """Lend a sampler for one answer."""
        sampler = Sampler(self._llama, self.vocabulary.native, params)
        try:
            yield sampler
        finally:
            sampler.close()

    def pick(self, sampler: Sampler, row: int) -> int:
        """Choose a token by what was computed.

        Args:
            sampler: the answer's.
            row: what `decode` gave for its piece.

        Raises:
            FallbackTriggerError: what was computed is no number, or nothing fits the grammar.
        """
        token = sampler.choose(self._context, row)
        if math.isnan(self._llama.llama_get_logits_ith(self._context, row)[token]):
            # Broken weights, or weights overwritten under us: the same file gives the same again,
            # so it is the model that is of no use, not this one answer.
            raise self._failed("computes values that are not numbers: its file is damaged")
        if not sampler.take(token):
            message = f"{self._name} has no token with which a text of the schema goes on"
            raise FallbackTriggerError(ErrorKind.MALFORMED_RESPONSE, message)
        return token

    def computes_numbers(self) -> bool:
        """Tell whether each value computed for the last token is a number."""
        llama = self._llama
        count = llama.llama_vocab_n_tokens(self.vocabulary.native)
        # A sum is NaN as soon as one of its terms is.
        return not math.isnan(sum(llama.llama_get_logits_ith(self._context, -1)[:count]))

    @property
    def used_tokens(self) -> int:
        """How much of the room is taken."""
        return len(self._cells)

    def cut(self, sequence: Sequence, keep: int) -> None:
        """Forget all but the first `keep` tokens of a sequence.

        Models with a state that is carried from token to token (recurrent and hybrid ones) cannot
        forget the last tokens alone. They go back to a snapshot before them, or forget everything.
        """
        if keep and self._llama.llama_memory_seq_rm(self._memory, sequence.number, keep, -1):
            self._forget(sequence, keep)
            self._snapshots = [each for each in self._snapshots if each.tokens <= keep]
            return
        while self._snapshots:
            snapshot = self._snapshots[-1]
            if snapshot.tokens <= keep and self._return_to(snapshot):
                return
            self._snapshots.pop()
        self._llama.llama_memory_seq_rm(self._memory, sequence.number, -1, -1)
        self._forget(sequence, 0)

    def copy(self, source: Sequence, target: Sequence, count: int) -> None:
        """Let a sequence begin with the first tokens of another, which are not evaluated again."""
        llama, memory = self._llama, self._memory
        self.cut(target, 0)
        if self.own_tokens is None:
            llama.llama_memory_seq_cp(memory, source.number, target.number, 0, count)
        else:  # from buffer to buffer, llama.cpp copies nothing but the whole
            llama.llama_memory_seq_cp(memory, source.number, target.number, -1, -1)
            llama.llama_memory_seq_rm(memory, target.number, count, -1)
        target.tokens = source.tokens[:count]
        target.cells = source.cells[:count]
        self._cells.update(target.cells)

    def _append(self, sequence: Sequence, tokens: list[int]) -> None:
        """Take note of tokens that are in the native cache now."""
        cells = range(self._next_cell, self._next_cell + len(tokens))
        self._next_cell += len(tokens)
        sequence.tokens += tokens
        sequence.cells += cells
        self._cells.update(cells)

    def _forget(self, sequence: Sequence, keep: int) -> None:
        """Take note of tokens that are not in the native cache any more."""
        for cell in sequence.cells[keep:]:
            self._cells[cell] -= 1
            if not self._cells[cell]:
                del self._cells[cell]
        del sequence.tokens[keep:]
        del sequence.cells[keep:]

    def take_snapshot(self) -> None:
        """Note the carried state, which is small; what attention remembers can be cut."""
        llama, context = self._llama, self._context
        partial = llama.LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY
        size = llama.llama_state_seq_get_size_ext(context, 0, partial)
        data = (ctypes.c_uint8 * size)()
        if size and llama.llama_state_seq_get_data_ext(context, data, size, 0, partial) == size:
            self._snapshots.append(_Snapshot(tokens=len(self.sequences[0].tokens), data=data))
            del self._snapshots[:-MAX_SNAPSHOTS]

    def _return_to(self, snapshot: _Snapshot) -> bool:
        llama, data = self._llama, snapshot.data
        partial = llama.LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY
        if not llama.llama_state_seq_set_data_ext(self._context, data, len(data), 0, partial):
            return False
        if not llama.llama_memory_seq_rm(self._memory, 0, snapshot.tokens, -1):
            return False
        self._forget(self.sequences[0], snapshot.tokens)
        return True

    def keep_context(self, contexts: KeptContexts) -> None:
        """Keep what has been read and said, for a later process to go on from."""
        llama, context = self._llama, self._context
        first = self.sequences[0]
        if not self._can_cut:
            # The next prompt parts from this one before the answer's end, if only by a token.
            self.cut(first, len(first.tokens) - 1)
        if len(first.tokens) < MIN_TOKENS:
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
            contexts.keep(self.identity, first.tokens, data)

    def load_context(self, contexts: KeptContexts, prompt: list[int]) -> None:
        """Take a kept context into the first sequence's cache if it has much more of the prompt."""
        first = self.sequences[0]
        shared = shared_beginning(first.tokens, prompt)
        if len(prompt) - shared < MIN_TOKENS:
            return
        found = contexts.find(self.identity, prompt, beyond=shared)
        if found is None or len(found[0]) >= self.n_ctx:
            return
        tokens, data = found
        if not self._can_cut and tokens != prompt[: len(tokens)]:
            return
        self.cut(first, 0)
        lent = (ctypes.c_uint8 * len(data)).from_buffer(data)
        if self._llama.llama_state_seq_set_data(self._context, lent, len(data), first.number):
            self._append(first, tokens)
        else:
            self.cut(first, 0)

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

    def decode(self, pieces: list[Piece]) -> list[int]:
        """Evaluate a step: for each sequence in it, the tokens after those in its cache.

        Args:
            pieces: at most `BATCH_TOKENS` tokens in all, one piece per sequence.

        Returns:
            For each piece, where what follows its last token is found, for `pick`.

        Raises:
            StoppedError: the stop flag was set; nothing of the step is in the cache.
            NoRoomError: there is no room for it; nothing of the step is in the cache.
            FallbackTriggerError: llama.cpp failed.
        """
        if self._stop.is_set():
            raise StoppedError
        batch, rows = self._fill_batch(pieces)
        result = self._llama.llama_decode(self._context, batch)
        if result == 0:
            for piece in pieces:
                self._append(piece.sequence, piece.tokens)
            return rows
        for piece in pieces:  # part of the batch may be in the native cache
            self.cut(piece.sequence, len(piece.sequence.tokens))
        if result == ABORTED or self._stop.is_set():
            raise StoppedError
        if result == NO_ROOM:
            raise NoRoomError
        why = last_complaint() or f"llama_decode gave {result}"
        raise self._failed(f"could not be evaluated: {why}")

    def _fill_batch(self, pieces: list[Piece]) -> tuple[Any, list[int]]:
        llama = self._llama
        if len(self.sequences) == 1:
            tokens = pieces[0].tokens
            count = len(tokens)
            array = self._one if count == 1 else (llama.llama_token * count)()
            array[:] = tokens
            self._lent = array  # the batch has its address alone
            return llama.llama_batch_get_one(array, count), [LAST]
        if self._batch is None:
            self._batch = llama.llama_batch_init(BATCH_TOKENS, 0, 1)
        batch, at, rows = self._batch, 0, []
        for piece in pieces:
            position = len(piece.sequence.tokens)
            for token in piece.tokens:
                batch.token[at] = token
                batch.pos[at] = position
                batch.n_seq_id[at] = 1
                batch.seq_id[at][0] = piece.sequence.number
                batch.logits[at] = 0
                position += 1
                at += 1
            batch.logits[at - 1] = piece.is_read
            rows.append(at - 1)
        batch.n_tokens = at
        return batch, rows

    def close(self) -> None:
        """Free the model; harmless when done twice."""
        self.vocabulary.close()
        if self._batch is not None:
            self._llama.llama_batch_free(self._batch)
            self._batch = None
        if self._context is not None:
            self._llama.llama_free(self._context)
            self._context = None
        if self._model is not None:
            self._llama.llama_model_free(self._model)
            self._model = None
