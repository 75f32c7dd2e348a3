"""Check a model file before it is used in this process, and find the way to load it here.

In this order: what its header says it is, its size and SHA-256 where they are known, whether there
is memory for it, and which ways to load it llama.cpp survives, in a child process (`ladder.py`).
What was found is remembered (`validation_cache.py`), so that all of it but the memory is done once
per file, build of llama.cpp and processor.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec

from tieredllm.local.gguf import Header, Kind, UnreadableError, read_header, shards
from tieredllm.local.ladder import RUNGS, Job, LoadSettings, Rung, Trial, best, missing
from tieredllm.local.llama_bindings import REINSTALL, StoppedError, binding_stamp
from tieredllm.local.machine import available_bytes, processor_stamp
from tieredllm.local.model import BATCH_TOKENS
from tieredllm.local.probe import GoOn, Probe, RejectedError, probe_in_child, unusable
from tieredllm.local.probe_child import NAN, ProbeRequest
from tieredllm.local.validation_cache import ValidationCache, Verdict, state_of

__all__ = [
    "Validated",
    "hash_file",
    "needed_bytes",
    "quick_check",
    "shared_room",
    "unfit",
    "validate_model",
]

HASH_CHUNK_BYTES = 4 * 1024 * 1024
BASE_BYTES = 96 * 1024 * 1024
"""What a loaded model takes beside weights, cache and activations, rounded up: code, vocabulary."""
ACTIVATION_COPIES = 32
"""Rows of the model's width that one batch's graph holds at a time, rounded up."""
SEQUENCE_TOKENS = 1024
"""What room is made for with each further answer at the same time: most have a shorter prompt, and
a longer one takes what others leave."""
PROBE_CONTEXT_TOKENS = 1024
"""Room for a whole batch of prompt tokens, and some of an answer."""
BUDGET_S, THOROUGH_BUDGET_S = 0.5, 10.0
"""How long a probe's batch may take while somebody waits for an answer, and when they asked for the
probe itself."""

KINDS: dict[Kind, str] = {
    "adapter": "is a LoRA adapter, which changes a model and is none: name the model's own file",
    "projector": "is the projector (mmproj) of a model that sees, not the model: name the model's "
    "own file",
    "embedding": "is an embedding model, which turns text into vectors and does not answer "
    "questions",
    "reranker": "is a reranker, which compares texts and does not answer questions",
    "encoder": "is an encoder model, which does not answer questions",
    "diffusion": "is an embedding or diffusion model: it does not write one word after the other",
    "vocabulary": "has a vocabulary and no weights: download the model itself",
    "imatrix": "is an importance matrix, made for quantising a model: name the model's own file",
    "control vector": "is a control vector, which changes a model and is none: name the model's "
    "own file",
}
"""What is said of a file that is no model to chat with."""


class Validated(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a file that can be used."""

    header: Header
    n_ctx: int
    """The context to load it with, in tokens."""
    rung: Rung | None = None
    """The way to load it; None when that was not tried."""
    trials: tuple[Trial, ...] = ()
    """How each way went that was tried."""

    @property
    def settings(self) -> LoadSettings:
        """What to load it with."""
        return RUNGS[self.rung or "plain"]

    @property
    def chosen(self) -> Trial | None:
        """How the way to load it went."""
        return next((trial for trial in self.trials if trial.rung == self.rung), None)


def validate_model(
    path: Path,
    *,
    n_ctx: int,
    verdicts: ValidationCache,
    sha256: str | None = None,
    gpu_layers: int | None = None,
    job: Job = Job(),  # noqa: B008 - it is frozen
    thorough: bool = False,
    go_on: GoOn = lambda: True,
    probe: Probe | None = None,
    available: Callable[[], int | None] = available_bytes,
) -> Validated:
    """Make sure that a file can be loaded, and how; blocks for as long as that takes.

    Args:
        path: the file; of a split model, its first part. The verdict is remembered under it.
        n_ctx: the context wanted, in tokens.
        verdicts: what is remembered.
        sha256: what the file's hash must be, where that is known.
        gpu_layers: see `LoadSettings`; with another number it is tried anew.
        job: what it is to be loaded for.
        thorough: try each way that may be the best, whatever is remembered, with whole batches.
        go_on: asked every now and then; False stops it.
        probe: tries it somewhere safe; a child process by default.
        available: tells the bytes of memory there are.

    Raises:
        FallbackTriggerError: it cannot be used (`model_unavailable`), and why.
        StoppedError: `go_on` said so.
    """
    verdict = _known(path, verdicts, gpu_layers)
    if verdict.header is None:
        verdict = _with_header(path, verdict)
        if verdict.reason is not None:
            verdicts.put(path, verdict)
    header = _usable_header(path, verdict)
    if sha256 is not None:
        if verdict.sha256 is None:
            verdict = msgspec.structs.replace(verdict, sha256=hash_file(path, go_on))
            verdicts.put(path, verdict)
        _check_hash(path, verdict.sha256, sha256)
    _check_memory(path, header, n_ctx, available())
    verdict = msgspec.structs.replace(verdict, stamp=_stamp(gpu_layers))
    if thorough:
        verdict = msgspec.structs.replace(verdict, trials=())
        job = msgspec.structs.replace(job, questions=max(2, job.questions))
    if probe is None and not sys.executable:  # embedded: there is no interpreter to start
        return Validated(header=header, n_ctx=context_for(header, n_ctx))
    while rungs := missing(verdict.trials, job):
        request = ProbeRequest(
            path=os.fsencode(path.absolute()),  # the child is elsewhere
            rungs=tuple(rungs),
            n_ctx=context_for(header, PROBE_CONTEXT_TOKENS),
            budget_s=THOROUGH_BUDGET_S if thorough else BUDGET_S,
            gpu_layers=gpu_layers,
        )
        try:
            trials = (probe or probe_in_child)(request, go_on)
        except RejectedError as exc:
            verdict = msgspec.structs.replace(verdict, reason=exc.message)
            verdicts.put(path, verdict)
            raise unusable(f"{path.name} {exc.message}") from exc
        verdict = msgspec.structs.replace(verdict, trials=(*verdict.trials, *trials))
        verdicts.put(path, verdict)
    return _validated(path, header, verdict, n_ctx=n_ctx, job=job)


def _check_hash(path: Path, found: str | None, wanted: str) -> None:
    if found != wanted:
        raise unusable(f"{path.name} has the SHA-256 {found}, not {wanted}: pull it again")


def quick_check(
    path: Path,
    *,
    n_ctx: int,
    verdicts: ValidationCache,
    sha256: str | None = None,
    gpu_layers: int | None = None,
    go_on: GoOn = lambda: True,
    available: Callable[[], int | None] = available_bytes,
) -> Validated:
    """Check what takes little time: the header, the hash, the memory, and what is remembered.

    Args:
        path: the file; of a split model, its first part.
        n_ctx: the context wanted, in tokens.
        verdicts: what is remembered; nothing is added.
        sha256: what the file's hash must be, where that is known.
        gpu_layers: see `LoadSettings`.
        go_on: asked while a hash is computed that is not remembered; False leaves it at that.
        available: tells the bytes of memory there are.

    Raises:
        FallbackTriggerError: it cannot be used, and why.
    """
    verdict = _known(path, verdicts, gpu_layers)
    if verdict.header is None:
        verdict = _with_header(path, verdict)
    header = _usable_header(path, verdict)
    if sha256 is not None:
        with suppress(StoppedError):
            _check_hash(path, verdict.sha256 or hash_file(path, go_on), sha256)
    _check_memory(path, header, n_ctx, available())
    _stamp(gpu_layers)
    if not verdict.trials:
        return Validated(header=header, n_ctx=context_for(header, n_ctx))
    return _validated(path, header, verdict, n_ctx=n_ctx, job=Job())


def _validated(path: Path, header: Header, verdict: Verdict, *, n_ctx: int, job: Job) -> Validated:
    rung = best(verdict.trials, job)
    if rung is None and len(verdict.trials) == len(RUNGS):
        raise unusable(_no_way(path.name, verdict.trials))
    return Validated(
        header=header, n_ctx=context_for(header, n_ctx), rung=rung, trials=verdict.trials
    )


def _no_way(name: str, trials: tuple[Trial, ...]) -> str:
    """Say that no rung works."""
    faults = [trial.fault for trial in trials if trial.fault != NAN]
    if not faults:
        return f"{name} computes values that are not numbers: its file is damaged"
    return (
        f"llama.cpp crashes on this processor with {name}, whatever the settings "
        f"({faults[-1]}): {REINSTALL}"
    )


def _stamp(gpu_layers: int | None) -> str:
    """Tell builds of llama.cpp, kinds of processors and what a GPU gets from one another.

    Raises:
        FallbackTriggerError: there is no llama.cpp.
    """
    shared = "" if gpu_layers is None else f" {gpu_layers}"
    text = f"{binding_stamp()} {processor_stamp()}{shared}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _known(path: Path, verdicts: ValidationCache, gpu_layers: int | None) -> Verdict:
    """Return what is remembered of a file, without what another llama.cpp or processor found."""
    try:
        verdict = verdicts.get(path, state_of(path))
    except OSError as exc:
        raise unusable(f"{path} cannot be read: {exc.strerror or exc}") from exc
    if verdict.stamp is not None and verdict.stamp != _stamp(gpu_layers):
        verdict = Verdict(state=verdict.state, sha256=verdict.sha256)
    return verdict


def _with_header(path: Path, verdict: Verdict) -> Verdict:
    try:
        header = read_header(path)
    except UnreadableError as exc:
        if isinstance(exc.__cause__, OSError):  # that may change without a trace in the file
            raise unusable(f"{path} {exc.reason}") from exc
        return msgspec.structs.replace(verdict, reason=exc.reason)
    return msgspec.structs.replace(verdict, header=header, reason=unfit(path, header))


def unfit(path: Path, header: Header) -> str | None:
    """Say why a file is no model to chat with, in words that follow its name."""
    if header.kind != "model":
        return KINDS[header.kind]
    if header.parts == 1:
        return None
    files = shards(path)
    if len(files) != header.parts:
        return (
            f"is part {header.part + 1} of {header.parts} of a model and lacks the name of one: "
            f"name the parts …-00001-of-{header.parts:05d}.gguf and so on"
        )
    if header.part:
        return f"is part {header.part + 1} of {header.parts} of a model: name {files[0].name}"
    gone = [file.name for file in files if not file.exists()]
    if gone:
        return f"is part 1 of {header.parts} of a model, and {', '.join(gone)} is not there"
    return None


def _usable_header(path: Path, verdict: Verdict) -> Header:
    if verdict.reason is not None:
        raise unusable(f"{path.name} {verdict.reason}")
    if verdict.header is None:  # only a verdict with a reason has none
        raise unusable("the model's header is not known")
    return verdict.header


def context_for(header: Header, wanted: int) -> int:
    """Return the context to load a model with: what is wanted, at most what it was trained for."""
    return min(wanted, header.context_tokens) if header.context_tokens else wanted


def needed_bytes(header: Header, n_ctx: int) -> int:
    """Estimate the memory a loaded model takes: weights, key and value cache, activations."""
    cache = header.kv_bytes_per_token * context_for(header, n_ctx)
    activations = ACTIVATION_COPIES * BATCH_TOKENS * header.embedding * 4
    return header.size_bytes + cache + activations + BASE_BYTES


def shared_room(
    header: Header,
    n_ctx: int,
    sequences: int,
    available: Callable[[], int | None] = available_bytes,
) -> int:
    """Return how many tokens several answers may share besides one whole context.

    That is `SEQUENCE_TOKENS` for each but the first, as far as half of the free memory goes.

    Args:
        header: the model's.
        n_ctx: the context it is loaded with.
        sequences: how many answers may be under way at the same time.
        available: tells the bytes of memory there are.
    """
    wanted = (sequences - 1) * min(n_ctx, SEQUENCE_TOKENS)
    free = available()
    if free is None or not header.kv_bytes_per_token:
        return wanted
    spare = max(0, free - needed_bytes(header, n_ctx)) // 2
    return min(wanted, spare // header.kv_bytes_per_token)


def _check_memory(path: Path, header: Header, n_ctx: int, available: int | None) -> None:
    needed = needed_bytes(header, n_ctx)
    if available is not None and needed > available:
        mb = 1_000_000
        raise unusable(
            f"{path.name} needs about {needed // mb} MB of memory for a context of {n_ctx} tokens; "
            f"{available // mb} MB are free: close something, or take a smaller model or context"
        )


def hash_file(path: Path, go_on: GoOn = lambda: True) -> str:
    """Compute a file's SHA-256.

    Raises:
        StoppedError: `go_on` said so.
        FallbackTriggerError: the file cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb", buffering=0) as file:
            while chunk := file.read(HASH_CHUNK_BYTES):
                if not go_on():
                    raise StoppedError
                digest.update(chunk)
    except OSError as exc:
        raise unusable(f"{path} cannot be read: {exc.strerror or exc}") from exc
    return digest.hexdigest()
