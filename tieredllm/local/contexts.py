"""Keep what a model has read, so that the next process goes on from there.

A follow-up question begins with the whole conversation before it. Reading 2,000 tokens again takes
a 135M model 8 to 15 s on two cores; loading what llama.cpp computed of them takes 10 to 23 ms
(46 MB). llama.cpp's own file of it holds neither a checksum nor the model's identity, and bytes
changed in its middle are loaded without complaint, so both are ours.

A kept context is as private as the log: `log prune` and `ask --no-log` see to it. One that is
damaged, or of another model, build or kind of context, is as good as none.
"""

from __future__ import annotations

import array
import contextlib
import hashlib
import os
import secrets
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import msgspec

__all__ = ["KeptContexts", "shared_beginning"]

FOLDER = "contexts"
"""In the cache directory."""
MAX_CONTEXTS = 8
MAX_BYTES = 256 * 1024 * 1024
"""For all of them; one alone may have as much."""
MIN_TOKENS = 256
"""What is read again as fast as it is found: half a second of work of the smallest model."""
MAGIC = b"tieredllm context 1\n"
HEADER_BYTES = 512
"""The header's room; it is JSON, filled up with spaces."""


class _Header(msgspec.Struct, frozen=True, kw_only=True):
    """The beginning of a file: what follows are the tokens (32 bits each) and llama.cpp's data."""

    identity: str
    """The model, the build of llama.cpp and the kind of context."""
    tokens: int
    data_bytes: int
    sha256: str
    """Of identity, tokens and data."""


class KeptContexts:
    """The contexts one user's processes have kept.

    Args:
        cache: the user's cache directory; nothing in it is made before something is kept.
    """

    def __init__(self, cache: Path) -> None:
        self._folder = cache / FOLDER

    def find(
        self, identity: str, prompt: Sequence[int], *, beyond: int
    ) -> tuple[list[int], bytearray] | None:
        """Return the tokens and the data of the context that begins most like a prompt.

        Args:
            identity: that of the loaded model and its context.
            prompt: the tokens that are to be read.
            beyond: how many of them are known already; a context is worth loading if it has
                `MIN_TOKENS` more of them.
        """
        best: tuple[int, Path] | None = None
        for path in self._paths():
            with contextlib.suppress(OSError, ValueError), path.open("rb") as file:
                header = _read_header(file)
                if header.identity != identity:
                    continue
                shared = shared_beginning(_read_tokens(file, header), prompt)
                if shared - beyond >= MIN_TOKENS and (best is None or shared > best[0]):
                    best = shared, path
        if best is None:
            return None
        found = None
        with contextlib.suppress(OSError, ValueError), best[1].open("rb") as file:
            found = _read_whole(file)
        if found is None:
            _remove(best[1])
        return found

    def keep(self, identity: str, tokens: Sequence[int], data: bytearray) -> None:
        """Keep a context, in place of those that have nothing much beyond it, and of the oldest.

        Nothing is kept where it would not be worth it, or there is no room or permission.
        """
        if len(tokens) < MIN_TOKENS or len(data) > MAX_BYTES:
            return
        packed = _pack(tokens)
        header = _Header(
            identity=identity,
            tokens=len(tokens),
            data_bytes=len(data),
            sha256=_digest(identity, packed, data),
        )
        temporary = self._folder / f".{secrets.token_hex(8)}"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._folder.chmod(0o700)
            self._make_room(identity, tokens, len(data))
            # Not by `atomic_write`: what is lost with the power is read again, so nothing waits
            # for the disk.
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
            descriptor = os.open(temporary, flags, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(MAGIC + msgspec.json.encode(header).ljust(HEADER_BYTES))
                file.write(packed)
                file.write(data)
            temporary.replace(self._folder / f"{secrets.token_hex(8)}.context")
        except OSError:
            _remove(temporary)

    def clear(self) -> None:
        """Remove all of them."""
        with contextlib.suppress(OSError):
            for path in list(self._folder.iterdir()):
                _remove(path)

    def _make_room(self, identity: str, tokens: Sequence[int], size_bytes: int) -> None:
        for path in self._folder.glob(".*"):  # left behind by a process that was killed
            _remove(path)
        kept: list[tuple[float, int, Path]] = []
        for path in self._paths():
            with contextlib.suppress(OSError, ValueError):
                with path.open("rb") as file:
                    header = _read_header(file)
                    earlier = _read_tokens(file, header)
                shared = shared_beginning(earlier, tokens) if header.identity == identity else 0
                if shared and len(earlier) - shared < MIN_TOKENS:
                    _remove(path)
                    continue
            with contextlib.suppress(OSError):
                stat = path.stat()
                kept.append((stat.st_mtime, stat.st_size, path))
        kept.sort()
        while kept and (
            len(kept) >= MAX_CONTEXTS or sum(size for _, size, _ in kept) + size_bytes > MAX_BYTES
        ):
            _remove(kept.pop(0)[2])

    def _paths(self) -> Iterator[Path]:
        with contextlib.suppress(OSError):
            yield from sorted(self._folder.glob("*.context"))


def shared_beginning(one: Sequence[int], other: Sequence[int]) -> int:
    """Return how many tokens two texts have in common before they part."""
    for at, (ours, theirs) in enumerate(zip(one, other, strict=False)):
        if ours != theirs:
            return at
    return min(len(one), len(other))


def _read_header(file: BinaryIO) -> _Header:
    """Read the beginning of a file.

    Raises:
        ValueError: it is none of ours.
    """
    if file.read(len(MAGIC)) != MAGIC:
        raise ValueError
    return msgspec.json.decode(file.read(HEADER_BYTES), type=_Header)


def _read_tokens(file: BinaryIO, header: _Header) -> list[int]:
    packed = array.array("i")
    packed.frombytes(file.read(4 * header.tokens))
    if sys.byteorder == "big":
        packed.byteswap()
    return packed.tolist()


def _read_whole(file: BinaryIO) -> tuple[list[int], bytearray]:
    """Read a file and check it.

    Raises:
        ValueError: it is not what was written.
    """
    header = _read_header(file)
    tokens = _read_tokens(file, header)
    if not 0 < header.data_bytes <= MAX_BYTES:
        raise ValueError
    data = bytearray(header.data_bytes)
    complete = file.readinto(data) == header.data_bytes and not file.read(1)  # type: ignore[attr-defined]
    if not complete or _digest(header.identity, _pack(tokens), data) != header.sha256:
        raise ValueError
    return tokens, data


def _pack(tokens: Sequence[int]) -> bytes:
    packed = array.array("i", tokens)
    if sys.byteorder == "big":
        packed.byteswap()
    return packed.tobytes()


def _digest(identity: str, packed: bytes, data: bytearray) -> str:
    digest = hashlib.sha256(f"{len(identity)}:{identity}:{len(packed)}:".encode())
    digest.update(packed)
    digest.update(data)
    return digest.hexdigest()


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()
