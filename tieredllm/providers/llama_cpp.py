"""Ask a GGUF model on this machine, with llama.cpp in this process.

The model is loaded when it is first wanted, on a thread of its own (`tieredllm.local.worker`).
Nothing here needs a key or a network.
"""

from __future__ import annotations

import contextlib
import functools
import os
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from tieredllm.aio import in_thread
from tieredllm.errors import FallbackTriggerError, ModelFileError
from tieredllm.files import Places
from tieredllm.kinds import ErrorKind
from tieredllm.local.ladder import SESSION, Job, LoadSettings
from tieredllm.local.validation_cache import FileState, ValidationCache, state_of
from tieredllm.profile.schema import Params
from tieredllm.providers.base import (
    Call,
    CallPiece,
    Capabilities,
    Chunk,
    Delta,
    Finish,
    Missing,
    ProbeResult,
    Retraction,
    ThoughtDelta,
    TokenCounter,
)
from tieredllm.text import replace_surrogates
from tieredllm.thoughts import Split
from tieredllm.types import Message, Usage

if TYPE_CHECKING:
    from tieredllm.local.library import Library, LocalModel
    from tieredllm.local.worker import LlamaRunner, Prepare, RunnerPool

__all__ = ["LlamaCppBackend"]

HASHED_S = 3.0
"""How long a probe may compute a hash that is not remembered; a larger file's is checked before it
is first used."""

Key = tuple[Path, FileState, int, Path | None, int, bool, int | None, int | None]


class _AbsentError(FallbackTriggerError):
    """There is no file to load: the backend is not configured."""

    def __init__(self, what: str, *, fix: str, model: str | None = None) -> None:
        super().__init__(ErrorKind.MODEL_UNAVAILABLE, f"{what}: {fix}")
        self.missing = Missing(what=what, fix=fix, model=model)


class LlamaCppBackend:
    """A model file of this machine.

    Args:
        model: a model's name in any form of `tieredllm.local.library`.
        context_tokens: the context to load it with; at most what it was trained for is used.
        places: where pulled models, the user's catalog and the cache of verdicts are.
        env: tells where other programs keep their models.
        verbose: whether llama.cpp's log goes to stderr.
        job: tells what the model is loaded for, when it is.
        keep_contexts: whether what was read and said is kept for later processes, and looked for.
        sequences: how many answers it makes at the same time.
        threads: how many compute; None for one per physical core.
        gpu_layers: how many layers a GPU gets, in a build for one; None for all.
        pool: where loaded models are shared; the process's own by default.
    """

    def __init__(
        self,
        *,
        model: str,
        context_tokens: int,
        places: Places,
        env: Mapping[str, str] = os.environ,
        verbose: bool = False,
        job: Callable[[], Job] = lambda: SESSION,
        keep_contexts: bool = False,
        sequences: int = 1,
        threads: int | None = None,
        gpu_layers: int | None = None,
        pool: RunnerPool | None = None,
    ) -> None:
        self._model = model
        self._context_tokens = context_tokens
        self._places = places
        self._verbose = verbose
        self._job = job
        self._keep_contexts = keep_contexts
        self._sequences = sequences
        self._threads = threads
        self._gpu_layers = gpu_layers
        self._pool = pool
        self._verdicts = ValidationCache(places.cache)
        self._env = env
        self._found: LocalModel | None = None
        self._taken: tuple[Key, LlamaRunner] | None = None
        self._retired: list[LlamaRunner] = []

    @functools.cached_property
    def _library(self) -> Library:
        """The model files there are; imported when the file is looked for."""
        from tieredllm.local.library import Library

        return Library(self._places, self._env)

    @property
    def provider(self) -> str:
        """`llama_cpp`."""
        return "llama_cpp"

    @property
    def model(self) -> str:
        """The model's name or path, as the profile has it, fit to be written anywhere."""
        return replace_surrogates(self._model)

    @property
    def identity(self) -> str:
        """The file by path, size and time: another file of that name starts afresh."""
        try:
            path, state = self._file()
        except FallbackTriggerError:
            return f"llama_cpp:{self.model}:absent"
        return replace_surrogates(f"llama_cpp:{path}:{state}")

    @property
    def is_language_model(self) -> bool:
        """A model writes the answers."""
        return True

    @property
    def capabilities(self) -> Capabilities:
        """Text and what a grammar holds it to, some answers at a time."""
        return Capabilities(at_once=self._sequences, schema=True)

    def missing(self) -> Missing | None:
        """Return the file that is not there, or the name that is unknown."""
        try:
            self._file()
        except _AbsentError as exc:
            return exc.missing
        except FallbackTriggerError:  # it is there, and the attempt will say what is wrong
            return None
        return None

    async def token_counter(self) -> TokenCounter:
        """Load the model and return its own tokeniser; text over 256 KiB is estimated.

        Raises:
            FallbackTriggerError: the model cannot be loaded.
        """
        loaded = await self._runner().ready()
        return loaded.vocabulary.count

    async def answer(self, call: Call) -> AsyncGenerator[Chunk, None]:
        """Answer the call's messages.

        Raises:
            FallbackTriggerError: the model cannot be loaded or fails, the prompt does not fit, or
                the answer is blank.
        """
        blank = True
        async with contextlib.aclosing(self._runner().generate(*_asked(call))) as items:
            async for item in items:
                if isinstance(item, str):
                    blank = blank and not item.strip()
                    yield Delta(item) if item else CallPiece()
                    continue
                if isinstance(item, Split):
                    blank = (blank or item.unsaid) and not item.text.strip()
                    for chunk in _chunks(item):
                        yield chunk
                    continue
                if blank:
                    cut = item.reason == "length"
                    how = "thought until its context was full" if cut else "gave a blank answer"
                    message = f"{self._model} {how}"
                    raise FallbackTriggerError(ErrorKind.EMPTY_RESPONSE, message, truncated=cut)
                usage = Usage(
                    prompt_tokens=item.prompt_tokens, completion_tokens=item.completion_tokens
                )
                notices = (f"{self._model} {item.notice}",) if item.notice else ()
                yield Finish(reason=item.reason, usage=usage, notices=notices)

    def warm_up(self) -> bool:
        """Start checking and loading the file in the background; False when it is not there."""
        try:
            self._runner().warm_up()
        except FallbackTriggerError:  # the attempt will say it
            return False
        return True

    async def probe(self, *, deep: bool = False) -> ProbeResult:
        """Check that the file is there and sound, and that there is memory for it.

        Args:
            deep: load it and decode one token, too.
        """
        started = time.perf_counter()
        error = fix = note = None
        try:
            from tieredllm.local.validate import quick_check

            path, _ = self._file()
            if deep:
                await self._one_token()
            found_as = self._found
            found = await in_thread(
                lambda: quick_check(
                    path,
                    n_ctx=self._context_tokens,
                    verdicts=self._verdicts,
                    sha256=found_as.pulled_sha256() if found_as is not None else None,
                    gpu_layers=self._gpu_layers,
                    go_on=lambda: time.perf_counter() - started < HASHED_S,
                )
            )
            note = found.chosen.describe() if found.chosen is not None else None
        except FallbackTriggerError as exc:
            error, fix = exc.message, self._fix()
        latency_ms = (time.perf_counter() - started) * 1000
        return ProbeResult(ok=error is None, latency_ms=latency_ms, error=error, fix=fix, note=note)

    def _fix(self) -> str:
        """Return what to do about a file that is not there or cannot be used."""
        from tieredllm.local.library import NotInstalledError

        try:
            found = self._library.find(self._model)
        except NotInstalledError as exc:
            return exc.fix
        except ModelFileError:
            return "tieredllm models list"
        absent = found.owner == "catalog" and not found.path.exists()
        return f"tieredllm models {'pull' if absent else 'verify'} {self._model}"

    async def _one_token(self) -> None:
        params = Params(temperature=0.0, max_tokens=1)
        async with contextlib.aclosing(
            self._runner().generate((Message("user", "Hello"),), params)
        ) as items:
            async for _ in items:
                pass

    async def aclose(self) -> None:
        """Stop using the model, and free it when nobody else uses it."""
        if self._taken is not None:
            self._give_back()
        retired, self._retired = self._retired, []
        for runner in retired:
            await runner.aclose()

    def _file(self) -> tuple[Path, FileState]:
        """Find the file.

        Raises:
            FallbackTriggerError: it is not there, or the name is unknown.
        """
        if self._found is None:
            from tieredllm.local.library import NotInstalledError

            try:
                self._found = self._library.find(self._model)
            except NotInstalledError as exc:
                what = f"{self._model} is not on this machine"
                raise _AbsentError(what, fix=f"run `{exc.fix}`") from exc
            except ModelFileError as exc:
                raise _AbsentError(str(exc), fix="`tieredllm models list` names them") from exc
        path = self._found.path
        try:
            return path, state_of(path)
        except OSError as exc:
            if not isinstance(exc, FileNotFoundError | NotADirectoryError):
                message = f"{path} cannot be read: {exc.strerror or exc}"
                raise FallbackTriggerError(ErrorKind.MODEL_UNAVAILABLE, message) from exc
            if self._found.owner == "catalog":
                what = f"{self._model} is not on this machine"
                fix = f"run `tieredllm models pull {self._model}`"
                raise _AbsentError(what, fix=fix, model=self._model) from exc
            self._found = None  # it may come to lie somewhere else
            raise _AbsentError(f"{path} does not exist", fix="check the path") from exc

    def _runner(self) -> LlamaRunner:
        """Return the runner of the file as it is now.

        Raises:
            FallbackTriggerError: there is no file.
        """
        path, state = self._file()
        cache = self._places.cache if self._keep_contexts else None
        compute = (self._sequences, self._job().keeps_busy, self._threads, self._gpu_layers)
        key = (path, state, self._context_tokens, cache, *compute)
        if self._taken is not None and self._taken[0] != key:
            self._give_back()
        if self._taken is None:
            from tieredllm.local.contexts import KeptContexts
            from tieredllm.local.worker import SHARED, LlamaRunner

            self._pool = self._pool or SHARED
            runner = self._pool.take(
                key,
                lambda: LlamaRunner(
                    path,
                    prepare=self._preparation(path),
                    verbose=self._verbose,
                    contexts=KeptContexts(self._places.cache) if self._keep_contexts else None,
                ),
            )
            self._taken = (key, runner)
        return self._taken[1]

    def _give_back(self) -> None:
        if self._taken is None or self._pool is None:
            return
        runner = self._pool.give_back(self._taken[0])
        self._taken = None
        if runner is not None:
            runner.close()
            self._retired.append(runner)

    def _preparation(self, path: Path) -> Prepare:
        """Return what the runner does before it loads the file; it blocks its thread."""
        n_ctx, verdicts = self._context_tokens, self._verdicts
        found_as, sequences, job = self._found, self._sequences, self._job()

        def prepare(go_on: Callable[[], bool]) -> tuple[int, LoadSettings]:
            from tieredllm.local.validate import shared_room, validate_model

            found = validate_model(
                path,
                n_ctx=n_ctx,
                verdicts=verdicts,
                sha256=found_as.pulled_sha256() if found_as is not None else None,
                gpu_layers=self._gpu_layers,
                job=job,
                go_on=go_on,
            )
            settings = found.settings
            settings = msgspec.structs.replace(
                settings,
                threads=settings.threads or self._threads,
                gpu_layers=self._gpu_layers,
            )
            if sequences > 1:
                settings = msgspec.structs.replace(
                    settings,
                    sequences=sequences,
                    more_tokens=shared_room(found.header, found.n_ctx, sequences),
                    apart=job.keeps_busy,
                )
            return found.n_ctx, settings

        return prepare


def _chunks(split: Split) -> Iterator[Chunk]:
    """Return what a piece of text with thoughts in it turned out to be."""
    if split.unsaid:
        yield Retraction()
    if split.thought:
        yield ThoughtDelta(split.thought)
    if split.text:
        yield Delta(split.text)


def _asked(call: Call) -> tuple[tuple[Message, ...], Params]:
    """Return what a call says, with its schema told and its answer held to it."""
    if call.schema is None:
        return tuple(call.messages), call.params
    from tieredllm.local.grammar import grammar_of
    from tieredllm.local.sampler import HeldParams

    schema = msgspec.json.encode(call.schema.schema).decode()
    *before, last = call.messages
    told = f"{last.content}\n\nAnswer with JSON that fits this JSON Schema: {schema}"
    messages = (*before, msgspec.structs.replace(last, content=told))
    values = {name: getattr(call.params, name) for name in Params.__struct_fields__}
    return messages, HeldParams(**values, grammar=grammar_of(call.schema.schema))
