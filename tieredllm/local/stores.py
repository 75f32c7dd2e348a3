"""Find the model files that other programs keep on this machine; they are used where they lie.

Nothing of another program is moved, changed or removed, and none of them need run.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec

from tieredllm.files import NOWHERE
from tieredllm.local.gguf import SHARD

__all__ = [
    "StoredModel",
    "Stores",
    "choose_file",
    "first_parts",
    "home_of",
    "plain_files",
    "quant_of",
]

OLLAMA_REGISTRY = "registry.ollama.ai"
OLLAMA_MODEL = "application/vnd.ollama.image.model"
"""The media type of a manifest's layer that is the model (ollama, server/images.go)."""
REPOSITORY = r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*"
"""A repository of the Hugging Face hub: `owner/name`."""

QUANT = re.compile(
    r"(?:^|[-_.])((?:UD[-_])?(?:I?Q\d(?:_[A-Z0-9]+)*|TQ\d_\d|MXFP4(?:_MOE)?|NVFP4|BF16|FP?16|F?P?32))"
    r"(?=$|[-_.])",
    re.IGNORECASE,
)
"""How names tell the quantisation: the names of llama.cpp's tools/quantize/quantize.cpp."""
PREFERRED = (
    "Q4_K_M", "Q4_K_L", "Q4_K_XL", "Q4_K_S", "Q4_1", "Q4_0", "MXFP4", "MXFP4_MOE", "IQ4_NL",
    "IQ4_XS", "Q5_K_M", "Q5_K_S", "Q5_1", "Q5_0", "Q6_K", "Q8_0", "Q3_K_L", "Q3_K_M", "IQ3_M",
    "Q3_K_S", "IQ3_XS", "BF16", "F16", "FP16", "Q2_K", "IQ2_M", "F32",
)  # fmt: skip
"""Which quantisation is taken when none is named: the hub's own default for `ollama run hf.co/…`
(https://huggingface.co/docs/hub/ollama: Q4_K_M), then what is nearest to it in size and quality."""


class StoredModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model file that another program keeps."""

    name: str
    """What it is called here, such as `ollama:gemma3:4b`."""
    path: Path
    """The file; of a split model its first part."""
    owner: str
    """The program."""
    remove: str
    """How that program removes it."""
    sha256: str | None = None
    """Where the store tells it."""


def quant_of(file: str) -> str | None:
    """Return the quantisation that a file's name tells, in capitals."""
    stem = re.sub(r"(?i)(-\d{5}-of-\d{5})?\.gguf$", "", PurePosixPath(file).name)
    found = QUANT.findall(stem)
    return found[-1].upper() if found else None


def first_parts(files: Sequence[str]) -> list[str]:
    """Return the files that are models by their names: of a split one the first part alone."""
    models = []
    for file in files:
        name = PurePosixPath(file).name
        if not name.lower().endswith(".gguf") or re.match(r"(?i)(.*[-_.])?(mmproj|imatrix)", name):
            continue
        part = SHARD.match(name)
        if part is None or int(part["number"]) == 1:
            models.append(file)
    return sorted(models)


def choose_file(files: Sequence[str], wanted: str | None) -> str | None:
    """Return the file that is meant, of those of one repository.

    Args:
        files: their names, with folders; of a split model all parts.
        wanted: a quantisation or a file's name; None takes Q4_K_M, or what is nearest to it.

    Returns:
        Of a split model the first part; None when there is none that fits.
    """
    models = first_parts(files)
    quants = {file: quant_of(file) or "" for file in models}
    if wanted is None or wanted.lower() == "latest":
        for quant in PREFERRED:
            for file in models:
                if _plain(quants[file]) == quant:
                    return file
        return models[0] if models else None
    name, quant = wanted.lower(), wanted.upper()
    named = [file for file in models if name in {file.lower(), PurePosixPath(file).name.lower()}]
    exact = [file for file in models if quants[file] == quant]
    near = [file for file in models if _plain(quants[file]) == quant]
    return next(iter((*named, *exact, *near)), None)


def _plain(quant: str) -> str:
    """Leave out the mark of a maker's own way to quantise ("UD-")."""
    return quant.removeprefix("UD-").removeprefix("UD_")


def home_of(env: Mapping[str, str]) -> Path:
    """Return the user's own directory; one where nothing is for who has none."""
    named = env.get("HOME") or env.get("USERPROFILE")
    try:
        return Path(named) if named else Path.home()
    except RuntimeError:
        return NOWHERE


class Stores:
    """The places where other programs keep model files.

    Args:
        env: tells where they are; only looked at.
    """

    def __init__(self, env: Mapping[str, str]) -> None:
        self._env = env
        self._home = home_of(env)

    def all(self) -> Iterator[StoredModel]:
        """Find every model file, program by program."""
        yield from self.ollama()
        yield from self.lm_studio()
        yield from self.hub_cache()
        yield from self.llama_cpp()

    def ollama(self) -> Iterator[StoredModel]:
        """Find what Ollama has pulled: a manifest names the blob that is the model."""
        named = self._env.get("OLLAMA_MODELS")
        # The second is the service's on Linux (ollama, docs/faq.md: "Where are models stored?").
        roots = [Path(named)] if named else [self._home / ".ollama/models"]
        if not named and sys.platform == "linux":
            roots.append(Path("/usr/share/ollama/.ollama/models"))
        for root in roots:
            for manifest in plain_files(root / "manifests", "*/*/*/*"):
                host, owner, model, tag = manifest.relative_to(root / "manifests").parts
                folder = model if owner == "library" else f"{owner}/{model}"
                name = f"{folder if host == OLLAMA_REGISTRY else f'{host}/{folder}'}:{tag}"
                digest = _model_layer(manifest)
                blob = root / "blobs" / f"sha256-{digest}"
                if digest and blob.is_file():
                    yield StoredModel(
                        name=f"ollama:{name}",
                        path=blob,
                        owner="Ollama",
                        remove=f"ollama rm {name}",
                        sha256=digest,
                    )

    def lm_studio(self) -> Iterator[StoredModel]:
        """Find LM Studio's: `models/publisher/model/file.gguf` (lmstudio.ai/docs, import-model)."""
        for root in (self._home / ".lmstudio/models", self._home / ".cache/lm-studio/models"):
            for repository, files in _by_repository(root).items():
                for file in first_parts(files):
                    yield StoredModel(
                        name=f"lmstudio:{repository}:{_tag(file, files)}",
                        path=root / repository / file,
                        owner="LM Studio",
                        remove=f"remove it in LM Studio's My Models ({repository})",
                    )

    def hub_cache(self) -> Iterator[StoredModel]:
        """Find what is in the Hugging Face hub's cache, where newer llama.cpp keeps its own, too.

        Layout: `models--OWNER--NAME/snapshots/COMMIT/FILE`, each file a link to
        `blobs/SHA256` (https://huggingface.co/docs/huggingface_hub/guides/manage-cache).
        """
        for repository, snapshot in self._snapshots():
            files = [
                file.relative_to(snapshot).as_posix() for file in plain_files(snapshot, "**/*")
            ]
            for file in first_parts(files):
                path = snapshot / file
                blob = path.resolve().name
                yield StoredModel(
                    name=f"hf:{repository}:{_tag(file, files)}",
                    path=path,
                    owner="the hub's cache",
                    remove=f"hf cache rm model/{repository}",
                    sha256=blob if re.fullmatch("[0-9a-f]{64}", blob) else None,
                )

    def _snapshots(self) -> Iterator[tuple[str, Path]]:
        """Find the newest snapshot of each repository that is cached."""
        cache = self._env.get("XDG_CACHE_HOME") or str(self._home / ".cache")
        home = self._env.get("HF_HOME") or f"{cache}/huggingface"
        named = self._env.get("HF_HUB_CACHE") or self._env.get("HUGGINGFACE_HUB_CACHE")
        root = Path(re.sub(r"^~(?=/|$)", lambda _: str(self._home), named or f"{home}/hub"))
        for folder in sorted(_folders(root)):
            prefix, _, repository = folder.name.partition("--")
            if prefix != "models" or "--" not in repository:
                continue
            snapshots = _folders(folder / "snapshots")
            if snapshots:
                yield (
                    repository.replace("--", "/", 1),
                    max(snapshots, key=lambda each: each.stat().st_mtime),
                )

    def llama_cpp(self) -> Iterator[StoredModel]:
        """Find llama.cpp's own: `OWNER_NAME_FILE` in one folder (common/download.cpp of 2025)."""
        if named := self._env.get("LLAMA_CACHE"):
            root = Path(named)
        elif sys.platform == "darwin":
            root = self._home / "Library/Caches/llama.cpp"
        elif sys.platform == "win32":
            root = Path(self._env.get("LOCALAPPDATA") or self._home / "AppData/Local") / "llama.cpp"
        else:
            root = Path(self._env.get("XDG_CACHE_HOME") or self._home / ".cache") / "llama.cpp"
        for file in first_parts([path.name for path in plain_files(root, "*")]):
            yield StoredModel(
                name=f"llama.cpp:{Path(file).stem}",
                path=root / file,
                owner="llama.cpp",
                remove=f"remove {root / file}",
            )


def _tag(file: str, files: Sequence[str]) -> str:
    """Return what tells a file from the others of its repository: its quantisation, or its name."""
    quant = quant_of(file)
    return quant if quant and choose_file(files, quant) == file else file


def _by_repository(root: Path) -> dict[str, list[str]]:
    """Return the files below `root/owner/name`, by `owner/name`."""
    found: dict[str, list[str]] = {}
    for path in plain_files(root, "*/*/**/*"):
        owner, name, *rest = path.relative_to(root).parts
        found.setdefault(f"{owner}/{name}", []).append("/".join(rest))
    return found


def plain_files(root: Path, pattern: str) -> list[Path]:
    """Return the plain files below a folder, in order; none where it cannot be read."""
    try:
        return sorted(path for path in root.glob(pattern) if path.is_file())
    except OSError:
        return []


def _folders(root: Path) -> list[Path]:
    try:
        return [path for path in root.iterdir() if path.is_dir()]
    except OSError:
        return []


def _model_layer(manifest: Path) -> str | None:
    """Return the SHA-256 of the layer that is the model."""
    try:
        content: Any = json.loads(manifest.read_bytes())
        layers = [
            layer["digest"] for layer in content["layers"] if layer["mediaType"] == OLLAMA_MODEL
        ]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    digest = layers[0] if layers else ""
    found = re.fullmatch("sha256[:-]([0-9a-f]{64})", digest if isinstance(digest, str) else "")
    return found.group(1) if found else None
