"""Check a model file before it is used in this process.

In this order: its header, its size and SHA-256 where they are known, whether there is memory for
it, and whether llama.cpp can load it and decode a token, in a child process. What was found is
remembered (`verdicts.py`), so that all of it but the memory is done once per file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import msgspec

from tieredllm.errors import ModelFileError
from tieredllm.local.gguf import Header, read_header
from tieredllm.local.llama_bindings import StoppedError, binding_stamp
from tieredllm.local.machine import available_bytes
from tieredllm.local.model import BATCH_TOKENS
from tieredllm.local.probe import GoOn, TryOut, try_in_child, unusable
from tieredllm.local.validation_cache import ValidationCache, Verdict, state_of

__all__ = ["context_for", "hash_file", "needed_bytes", "quick_check", "validate_model"]

HASH_CHUNK_BYTES = 4 * 1024 * 1024
BASE_BYTES = 96 * 1024 * 1024
"""What a loaded model takes beside weights, cache and activations, rounded up: code, vocabulary."""
ACTIVATION_COPIES = 32
"""Rows of the model's width that one batch's graph holds at a time, rounded up."""


def validate_model(
    path: Path,
    *,
    n_ctx: int,
    verdicts: ValidationCache,
    sha256: str | None = None,
    go_on: GoOn = lambda: True,
    try_out: TryOut | None = None,
    available: Callable[[], int | None] = available_bytes,
) -> Header:
    """Make sure that a file can be loaded; blocks for as long as that takes.

    Args:
        path: the file; the verdict is remembered under it.
        n_ctx: the context wanted, in tokens.
        verdicts: what is remembered.
        sha256: what the file's hash must be, where that is known.
        go_on: asked every now and then; False stops the examination.
        try_out: loads it somewhere safe and says what is wrong; a child process by default.
        available: tells the bytes of memory there are.

    Raises:
        FallbackTriggerError: it cannot be used (`model_unavailable`), and why.
        StoppedError: `go_on` said so.
    """
    verdict = _known(path, verdicts)
    if verdict.header is None:
        verdict = _with_header(path, verdict)
        if verdict.reason is not None:
            verdicts.put(path, verdict)
    _raise_if_bad(path, verdict)
    if sha256 is not None:
        if verdict.sha256 is None:
            verdict = msgspec.structs.replace(verdict, sha256=hash_file(path, go_on))
            verdicts.put(path, verdict)
        if verdict.sha256 != sha256:
            raise unusable(
                f"{path.name} has the SHA-256 {verdict.sha256}, not {sha256}: pull it again"
            )
    header = _header_of(verdict)
    _check_memory(path, header, n_ctx, available())
    stamp = binding_stamp()
    if verdict.stamp != stamp:
        reason = (try_out or try_in_child)(path, go_on)
        verdict = msgspec.structs.replace(verdict, stamp=stamp, reason=reason)
        verdicts.put(path, verdict)
        _raise_if_bad(path, verdict)
    return header


def quick_check(
    path: Path,
    *,
    n_ctx: int,
    verdicts: ValidationCache,
    available: Callable[[], int | None] = available_bytes,
) -> Header:
    """Check what takes no time: the header, the memory, and what is remembered.

    Raises:
        FallbackTriggerError: it cannot be used, and why.
    """
    verdict = _known(path, verdicts)
    if verdict.header is None:
        verdict = _with_header(path, verdict)
    _raise_if_bad(path, verdict)
    header = _header_of(verdict)
    _check_memory(path, header, n_ctx, available())
    binding_stamp()
    return header


def _known(path: Path, verdicts: ValidationCache) -> Verdict:
    """Give what is remembered of a file, without verdicts of another llama.cpp."""
    try:
        verdict = verdicts.get(path, state_of(path))
    except OSError as exc:
        raise unusable(f"{path} cannot be read: {exc.strerror or exc}") from exc
    if verdict.stamp is not None and verdict.stamp != binding_stamp():
        verdict = msgspec.structs.replace(verdict, stamp=None, reason=None)
    return verdict


def _with_header(path: Path, verdict: Verdict) -> Verdict:
    try:
        return msgspec.structs.replace(verdict, header=read_header(path), reason=None)
    except ModelFileError as exc:
        reason = str(exc).removeprefix(f"{path}: ")
        return msgspec.structs.replace(verdict, reason=f"is {reason}")


def _header_of(verdict: Verdict) -> Header:
    if verdict.header is None:  # only a verdict with a reason has none
        raise unusable("the model's header is not known")
    return verdict.header


def _raise_if_bad(path: Path, verdict: Verdict) -> None:
    if verdict.reason is not None:
        raise unusable(f"{path.name} {verdict.reason}")


def context_for(header: Header, wanted: int) -> int:
    """Give the context to load a model with: what is wanted, at most what it was trained for."""
    return min(wanted, header.context_tokens) if header.context_tokens else wanted


def needed_bytes(header: Header, n_ctx: int) -> int:
    """Estimate the memory a loaded model takes: weights, key and value cache, activations."""
    cache = header.kv_bytes_per_token * context_for(header, n_ctx)
    activations = ACTIVATION_COPIES * BATCH_TOKENS * header.embedding * 4
    return header.size_bytes + cache + activations + BASE_BYTES


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
