"""Know every model file by one name space, whoever keeps it.

smollm2-135m                        the catalog, or the user's own `models.yaml`
my-model                            named by `models add`, or my-model.gguf in the models folder
hf:OWNER/NAME[:QUANT|FILE]          the Hugging Face hub; also hf.co/…, a URL, or OWNER/NAME
ollama:gemma3:4b                    what Ollama has pulled
lmstudio:OWNER/NAME[:QUANT|FILE]    what LM Studio has
llama.cpp:FILE                      what llama.cpp has downloaded
~/models/my.gguf                    a path
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

import msgspec

from tieredllm.errors import ModelFileError, UnknownModelError
from tieredllm.files import Places, atomic_write, one_at_a_time
from tieredllm.local import catalog
from tieredllm.local.catalog import CatalogModel
from tieredllm.local.gguf import SHARD, shards
from tieredllm.local.stores import (
    REPOSITORY,
    StoredModel,
    Stores,
    choose_file,
    first_parts,
    plain_files,
    quant_of,
)

__all__ = [
    "HubName",
    "Library",
    "LocalModel",
    "NotInstalledError",
    "Owner",
    "as_hub_name",
    "is_path",
]

Owner = Literal["catalog", "hub", "folder", "added", "other", "path"]
"""Whose a file is:

catalog  an entry of the catalog, pulled or not
hub      pulled from the Hugging Face hub by its name there
folder   somebody put it into the models folder
added    it lies elsewhere, and `models add` gave it a name
other    another program keeps it
path     named by its path
"""
STORES = ("ollama", "lmstudio", "llama.cpp")
NAME = re.compile(r"[A-Za-z0-9][\w.-]*")
"""What a name given by `models add` may be."""


class NotInstalledError(ModelFileError):
    """Report a model that can be had and is not here.

    Args:
        name: the model.
        fix: the command that gets it.
        about: what else is to be said.
    """

    def __init__(self, name: str, fix: str, about: str = "") -> None:
        super().__init__(f"{name} is not on this machine: run `{fix}`{about}")
        self.fix = fix


class HubName(msgspec.Struct, frozen=True, kw_only=True):
    """A model of the Hugging Face hub."""

    repository: str
    wanted: str | None = None
    """A quantisation, or a file; None for the usual one."""
    revision: str = "main"

    def __str__(self) -> str:
        """Return it as it is written."""
        return f"hf:{self.repository}" + (f":{self.wanted}" if self.wanted else "")


class LocalModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model file, and whose it is."""

    name: str
    path: Path
    """The file, which need not exist; of a split model its first part."""
    owner: Owner
    entry: CatalogModel | None = None
    """Its entry of the catalog."""
    stored: StoredModel | None = None
    """What the program says that keeps it."""

    @property
    def quant(self) -> str | None:
        """The quantisation, as far as a name tells it."""
        return quant_of(self.path.name) or quant_of(self.name.replace(":", "-"))

    @property
    def files(self) -> tuple[Path, ...]:
        """The files it is made of that are there."""
        return tuple(file for file in shards(self.path) if file.is_file())

    @property
    def size_bytes(self) -> int | None:
        """The size of all parts; None when it is not here."""
        sizes = [file.stat().st_size for file in self.files]
        return sum(sizes) if sizes else None

    def require(self) -> None:
        """Make sure that there is a file.

        Raises:
            ModelFileError: there is none, and what to do.
        """
        if self.path.exists():
            return
        if self.entry is not None:
            raise NotInstalledError(self.name, f"tieredllm models pull {self.name}")
        raise ModelFileError(f"{self.path} does not exist")

    def pulled_sha256(self) -> str | None:
        """Return what the SHA-256 of a pulled file must be; None when nobody says."""
        return catalog.known_sha256(self.path, self.entry)

    def sha256(self) -> str | None:
        """Return what its SHA-256 must be, also by the word of the program that keeps it.

        To check a large file takes many seconds: what another program keeps is checked by
        `models verify`, and not before a question.
        """
        return self.pulled_sha256() or (self.stored.sha256 if self.stored else None)


def is_path(name: str) -> bool:
    """Return whether a name is a path's, and of nothing else."""
    if name.startswith(("/", "./", "../", "~", ".\\", "..\\")) or re.match(r"[A-Za-z]:[\\/]", name):
        return True
    if as_hub_name(name) is not None or name.partition(":")[0] in STORES:
        return False
    return name.lower().endswith(".gguf") or "/" in name or "\\" in name


def as_hub_name(text: str, endpoint: str = "https://huggingface.co") -> HubName | None:
    """Read the name of a model of the hub, in any of the forms that people paste.

    Args:
        text: `hf:OWNER/NAME[:QUANT|FILE]`, `hf.co/…`, `https://huggingface.co/…`; a page of a file
            (`/blob/main/FILE`, `/resolve/main/FILE`) counts as well.
        endpoint: the hub's address.

    Returns:
        None when it is of no such form; `OWNER/NAME` alone is none, for it may be a path.
    """
    hosts = "|".join(
        re.escape(host)
        for host in ("huggingface.co", "www.huggingface.co", "hf.co", endpoint.partition("://")[2])
    )
    found = re.match(
        rf"(?:hf:|(?:https?://)?(?:{hosts})/)(?P<repository>{REPOSITORY})(?P<rest>.*)$", text
    )
    if found is None:
        return None
    repository, rest = found["repository"], found["rest"].partition("?")[0].strip("/")
    if "/" in repository and ":" in rest[:1]:
        return HubName(repository=repository, wanted=rest[1:] or None)
    page = re.match(r"(?:blob|resolve|raw|tree)/(?P<revision>[^/]+)(?:/(?P<file>.+))?$", rest)
    if page is not None:
        return HubName(
            repository=repository, wanted=page["file"], revision=page["revision"] or "main"
        )
    return HubName(repository=repository, wanted=rest or None)


class Library:
    """The model files of this machine, and what can be had.

    Args:
        places: the user's directories.
        env: tells where other programs keep theirs.
    """

    def __init__(self, places: Places, env: Mapping[str, str]) -> None:
        self._models = places.models
        self._own_entries = places.config / "models.yaml"
        self._added = places.models / "added.json"
        self._stores = Stores(env)
        self._endpoint = (env.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")

    def entries(self) -> dict[str, CatalogModel]:
        """Return the entries of the catalog, and the user's own, by name.

        Raises:
            ModelFileError: a catalog has a mistake.
        """
        return catalog.load_catalog(self._own_entries)

    def hub_name(self, name: str) -> HubName | None:
        """Return what a name means at the hub; `OWNER/NAME[:QUANT]` too, where it is no path."""
        found = as_hub_name(name, self._endpoint)
        if found is not None:
            return found
        bare = re.fullmatch(rf"({REPOSITORY})(?::([\w./-]+))?", name)
        if bare is None or (name.lower().endswith(".gguf") and ":" not in name):
            return None
        if Path(name).exists() or Path(name).is_symlink():
            return None
        return HubName(repository=bare[1], wanted=bare[2])

    def find(self, name: str) -> LocalModel:
        """Return the model of a name.

        Its file need not exist where the name is a path, or an entry of the catalog.

        Raises:
            NotInstalledError: it is another's or the hub's, and not on this machine.
            UnknownModelError: there is no such name.
            ModelFileError: the user's own catalog has a mistake.
        """
        entries = self.entries()
        if name in entries:
            return self._of_entry(entries[name])
        if name.partition(":")[0] in STORES:
            return self._stored(name)
        for model in (*self.added(), *self.folder()):
            if model.name == name:
                return model
        hub = None if is_path(name) and "/" not in name else self.hub_name(name)
        if hub is not None:
            return self._of_hub(hub)
        if is_path(name):
            return LocalModel(name=name, path=Path(name).expanduser().absolute(), owner="path")
        known = [*entries, *(model.name for model in self.here())]
        near = get_close_matches(name, known, n=3, cutoff=0.4) or [
            each for each in known if name.lower() in each.lower()
        ]
        hint = f"did you mean {' or '.join(near)}?" if near else f"it has {', '.join(entries)}"
        raise UnknownModelError(
            f"{name!r} is not in the catalog; {hint} "
            "(any GGUF model: hf:OWNER/NAME[:QUANT], or the path of a .gguf file)"
        )

    def is_local(self, name: str) -> bool:
        """Return whether a name is meant for a file of this machine, which need not be here.

        `OWNER/NAME` is, if there is such a file: servers name their models so, too.
        """
        if as_hub_name(name, self._endpoint) or name.partition(":")[0] in STORES:
            return True
        if is_path(name) and self.hub_name(name) is None:
            return True
        try:
            self.find(name)
        except ModelFileError:
            return False
        return True

    def here(self) -> Iterator[LocalModel]:
        """Find every model whose file is on this machine: tieredllm's own, then the others'."""
        yield from (model for model in self.catalog() if model.size_bytes is not None)
        yield from self.pulled()
        yield from self.added()
        yield from self.folder()
        yield from self.elsewhere()

    def names(self) -> list[str]:
        """Return the names of all that is here or can be pulled by a short name."""
        names = [model.name for model in (*self.catalog(), *self.here())]
        return list(dict.fromkeys(names))

    def catalog(self) -> list[LocalModel]:
        """List the entries of the catalog, and where their files are or would be."""
        return [self._of_entry(entry) for entry in self.entries().values()]

    def pulled(self) -> Iterator[LocalModel]:
        """Find what was pulled from the hub by its name there."""
        for path in plain_files(self._models, "*/*/**/*"):
            owner, repository, *rest = path.relative_to(self._models).parts
            if first_parts(["/".join(rest)]):
                wanted = quant_of(path.name) or "/".join(rest)
                name = f"hf:{owner}/{repository}:{wanted}"
                yield LocalModel(name=name, path=path, owner="hub")

    def folder(self) -> Iterator[LocalModel]:
        """Find what somebody put into the models folder."""
        entries = self.entries()
        known = {entry.file for entry in entries.values()}
        for file in first_parts([path.name for path in plain_files(self._models, "*")]):
            if file not in known:
                part = SHARD.match(file)
                name = part["stem"] if part else Path(file).stem
                name = file if name in entries else name
                yield LocalModel(name=name, path=self._models / file, owner="folder")

    def added(self) -> Iterator[LocalModel]:
        """Find what `models add` gave a name."""
        names: dict[str, object] = {}
        with contextlib.suppress(OSError, ValueError):
            names = self._read_added()
        for name, path in names.items():
            if isinstance(path, str):  # the rest is told by whatever changes the file
                yield LocalModel(name=name, path=Path(path), owner="added")

    def elsewhere(self) -> Iterator[LocalModel]:
        """Find what other programs keep."""
        for stored in self._stores.all():
            yield LocalModel(name=stored.name, path=stored.path, owner="other", stored=stored)

    def add(self, path: Path, name: str) -> LocalModel:
        """Name a file, which stays where it is.

        Raises:
            ModelFileError: the name is taken or none.
        """
        if not NAME.fullmatch(name):
            raise ModelFileError(
                f"{name!r} is no name for a model: letters, digits, `.`, `_` and `-`"
            )
        taken = self.entries().get(name)
        if taken is not None or any(model.name == name for model in self.folder()):
            raise ModelFileError(f"{name!r} is taken: give another with --name")
        with self._change_added() as names:
            names[name] = str(path.absolute())
        return LocalModel(name=name, path=path.absolute(), owner="added")

    def forget(self, name: str) -> None:
        """Take a name back that `models add` gave; the file stays."""
        with self._change_added() as names:
            names.pop(name, None)

    def _read_added(self) -> dict[str, object]:
        """Read the names that were given, and whatever stands there for their paths.

        Raises:
            OSError: they cannot be read.
            ValueError: they are damaged.
        """
        if not self._added.exists():
            return {}
        try:
            return msgspec.convert(json.loads(self._added.read_bytes()), dict[str, object])
        except msgspec.ValidationError as exc:
            raise ValueError(str(exc)) from exc

    @contextlib.contextmanager
    def _change_added(self) -> Iterator[dict[str, str]]:
        """Lend the names that were given, to be written when the body ends.

        Raises:
            ModelFileError: they cannot be.
        """
        try:
            self._models.mkdir(parents=True, exist_ok=True)
            with one_at_a_time(self._added):
                names = msgspec.convert(self._read_added(), dict[str, str])
                yield names
                # In ASCII: a path whose bytes are no UTF-8 comes back as it was.
                atomic_write(self._added, json.dumps(names, indent=2) + "\n")
        except OSError as exc:
            message = f"{self._added} cannot be written: {exc.strerror or exc}"
            raise ModelFileError(message) from exc
        except (ValueError, msgspec.ValidationError) as exc:
            message = f"{self._added} is damaged ({exc}): mend it, or remove it and the names in it"
            raise ModelFileError(message) from exc

    def _of_entry(self, entry: CatalogModel) -> LocalModel:
        return LocalModel(
            name=entry.name, path=self._models / entry.file, owner="catalog", entry=entry
        )

    def _stored(self, name: str) -> LocalModel:
        """Return what another program keeps under a name.

        Raises:
            NotInstalledError: it does not.
        """
        store, _, wanted = name.partition(":")
        there = [model for model in self.elsewhere() if model.name.startswith(f"{store}:")]
        also = {"ollama": f"{name}:latest", "llama.cpp": name.removesuffix(".gguf")}.get(store)
        found = next((model for model in there if model.name in {name, also}), None)
        if found is None and store == "lmstudio":
            found = _of_repository(there, as_hub_name(f"hf:{wanted}"))
        if found is not None:
            return msgspec.structs.replace(found, name=name)
        has = ", ".join(model.name for model in there) or f"no model of {store}'s"
        get = f"ollama pull {wanted}" if store == "ollama" else "tieredllm models find"
        raise NotInstalledError(name, get, f" (there is {has})")

    def _of_hub(self, hub: HubName) -> LocalModel:
        """Return a model of the hub, from whichever store has it.

        Raises:
            NotInstalledError: none has.
        """
        pulled = [model for model in self.pulled() if _repository(model) == hub.repository.lower()]
        found = _of_repository(pulled, hub)
        found = found or next(
            (
                model
                for model in self.catalog()
                if model.size_bytes is not None and model.entry and _is_of(model.entry, hub)
            ),
            None,
        )
        found = found or _of_repository(list(self.elsewhere()), hub)
        if found is not None:
            return msgspec.structs.replace(found, name=str(hub))
        raise NotInstalledError(str(hub), f"tieredllm models pull {hub}")


def _repository(model: LocalModel) -> str:
    """Return the repository of a name such as `hf:OWNER/NAME:QUANT`, in small letters."""
    return model.name.partition(":")[2].partition(":")[0].lower()


def _of_repository(models: list[LocalModel], hub: HubName | None) -> LocalModel | None:
    """Return the model that a name means, of those of its repository."""
    if hub is None:
        return None
    files = {
        file: model
        for model in models
        if model.name.startswith(("hf:", "lmstudio:"))
        and _repository(model) == hub.repository.lower()
        for file in [_file_of(model, hub)]
    }
    chosen = choose_file(list(files), hub.wanted)
    return files[chosen] if chosen is not None else None


def _file_of(model: LocalModel, hub: HubName) -> str:
    """Return a file's name inside its repository, as far as its path tells."""
    parts = model.path.parts
    name = hub.repository.partition("/")[2].lower()
    for at in range(len(parts) - 2, 0, -1):
        if parts[at].lower() == name:
            return "/".join(parts[at + 1 :])
        if parts[at] == "snapshots":
            return "/".join(parts[at + 2 :])
    return model.path.name


def _is_of(entry: CatalogModel, hub: HubName) -> bool:
    """Return whether an entry of the catalog is what a name of the hub means."""
    return any(
        source.hub is not None
        and source.hub.lower() == hub.repository.lower()
        and choose_file([source.file or ""], hub.wanted) is not None
        for source in entry.sources
    )
