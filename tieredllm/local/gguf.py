"""Read the header of a GGUF file without trusting it.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3. Every length is
checked against the file's size before it is used, so a cut, corrupt or hostile file gives a
`ModelFileError`, not a crash or a huge allocation. Token arrays are stepped over, not kept. A file
that was cut while it was copied, the commonest fault of all, is thus noticed in milliseconds
wherever it is named, not only where llama.cpp tries it.
"""

from __future__ import annotations

import re
import stat
import struct
from pathlib import Path
from typing import Any, Literal

import msgspec

from tieredllm.errors import ModelFileError
from tieredllm.text import printable_line

__all__ = ["SHARD", "Header", "Kind", "UnreadableError", "read_header", "shards"]

MAGIC = b"GGUF"
VERSIONS = (2, 3)
FIRST_READ_BYTES = 4 * 1024 * 1024
"""Room for the header of most models: the token list of 49,152 words takes 1.7 MB."""
MAX_HEADER_BYTES = 64 * 1024 * 1024
MAX_KEYS = 65_536
MAX_TENSORS = 65_536
MAX_KEPT_STRING = 1024 * 1024
MAX_SHARDS = 1000
MAX_NAME = 200
MAX_DIMENSIONS = 4
"""`GGML_MAX_DIMS`."""
MAX_ELEMENTS = 2**63
DEFAULT_ALIGNMENT = 32

SCALARS = {
    0: "<B",
    1: "<b",
    2: "<H",
    3: "<h",
    4: "<I",
    5: "<i",
    6: "<f",
    7: "<?",
    10: "<Q",
    11: "<q",
    12: "<d",
}
"""`gguf_metadata_value_type` → struct format; 8 is a string, 9 an array."""
STRING, ARRAY = 8, 9

BLOCKS = {
    0: (1, 4),  # F32
    1: (1, 2),  # F16
    2: (32, 18),  # Q4_0
    3: (32, 20),  # Q4_1
    6: (32, 22),  # Q5_0
    7: (32, 24),  # Q5_1
    8: (32, 34),  # Q8_0
    9: (32, 40),  # Q8_1
    10: (256, 84),  # Q2_K
    11: (256, 110),  # Q3_K
    12: (256, 144),  # Q4_K
    13: (256, 176),  # Q5_K
    14: (256, 210),  # Q6_K
    15: (256, 292),  # Q8_K
    16: (256, 66),  # IQ2_XXS
    17: (256, 74),  # IQ2_XS
    18: (256, 98),  # IQ3_XXS
    19: (256, 50),  # IQ1_S
    20: (32, 18),  # IQ4_NL
    21: (256, 110),  # IQ3_S
    22: (256, 82),  # IQ2_S
    23: (256, 136),  # IQ4_XS
    24: (1, 1),  # I8
    25: (1, 2),  # I16
    26: (1, 4),  # I32
    27: (1, 8),  # I64
    28: (1, 8),  # F64
    29: (256, 56),  # IQ1_M
    30: (1, 2),  # BF16
    34: (256, 54),  # TQ1_0
    35: (256, 66),  # TQ2_0
    39: (32, 17),  # MXFP4
    40: (64, 36),  # NVFP4
    41: (128, 18),  # Q1_0
}
"""`ggml_type` → elements and bytes of one block (`type_traits` in ggml.c). Of a type that is not
here only the start of the tensor is checked."""

Kind = Literal[
    "model",
    "adapter",
    "projector",
    "embedding",
    "reranker",
    "encoder",
    "diffusion",
    "vocabulary",
    "imatrix",
    "control vector",
]
"""What a GGUF file is, by its header."""

TYPES: dict[str, Kind] = {"adapter": "adapter", "mmproj": "projector", "imatrix": "imatrix"}
"""`general.type` (`GGUFType` of gguf-py 0.19, constants.py); all else is taken for a model."""
ARCHITECTURES: dict[str, Kind] = {
    "clip": "projector",
    "controlvector": "control vector",
    "t5encoder": "encoder",
    "t5": "encoder",
}
"""Architectures that tell what a file is, also where `general.type` is missing."""
EMBEDDING_ARCHITECTURES = ("bert", "-embedding", "llama-embed")
"""Ends of the architectures that only make vectors (`MODEL_ARCH_NAMES` of gguf-py 0.19)."""
RERANK_POOLING = 4
"""`LLAMA_POOLING_TYPE_RANK` of llama.h; 0 is none, 1 to 3 make one vector of a text."""

FOREIGN: tuple[tuple[bytes, str], ...] = (
    (b"version https://git-lfs", "a git-lfs pointer: run `git lfs pull` where it was cloned"),
    (b"PK\x03\x04", "a zip archive: unpack it, or download the .gguf file itself"),
    (b"\x1f\x8b", "a gzip archive: unpack it"),
    (b"ggjt", "a model in the format before GGUF: download it as .gguf"),
    (b"lmgg", "a model in the format before GGUF: download it as .gguf"),
    (b"tjgg", "a model in the format before GGUF: download it as .gguf"),
)
"""First bytes → what such a file is. Pointer: git-lfs docs/spec.md; zip: APPNOTE 4.3.7; gzip: RFC
1952; the rest are the magics of llama.cpp before August 2023, in both byte orders."""

SHARD = re.compile(r"^(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf$", re.IGNORECASE)
"""How llama.cpp names the parts of a split model: `llama_split_path`, `"%s-%05d-of-%05d.gguf"`."""


def shards(path: Path) -> tuple[Path, ...]:
    """Return the files a model is made of, by the file's name; they need not exist."""
    match = SHARD.match(path.name)
    if match is None or not 1 < int(match["count"]) <= MAX_SHARDS:
        return (path,)
    count = match["count"]
    return tuple(
        path.with_name(f"{match['stem']}-{number:05d}-of-{count}.gguf")
        for number in range(1, int(count) + 1)
    )


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """What the header tells about a file."""

    kind: Kind = "model"
    version: int
    architecture: str
    name: str | None
    context_tokens: int
    """The window the model was trained for; 0 when the file does not say."""
    layers: int
    embedding: int
    """The width of the model: elements of one token's vector."""
    vocabulary: int
    """How many tokens there are; 0 when the file does not say."""
    kv_bytes_per_token: int
    """What one token of context takes in a 16-bit key and value cache, over all layers."""
    has_chat_template: bool
    tensors: int
    size_bytes: int
    """The size on disk, all parts of a split model together."""
    part: int = 0
    """Which part of a split model it is, from 0."""
    parts: int = 1


class UnreadableError(ModelFileError):
    """Report a file whose header cannot be read.

    Attributes:
        reason: why, in words that follow the file's name.
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.reason = reason


class _HeaderError(Exception):
    """Say what is wrong with a header, in words that follow the file's name."""


class _NeedMoreError(Exception):
    """Say that the header goes on beyond what was read."""


def read_header(path: Path) -> Header:
    """Read and check a file's header.

    Args:
        path: the file; of a split model, any part of it.

    Returns:
        What it says; the size is that of all parts that are there.

    Raises:
        UnreadableError: the file cannot be read, is no GGUF file, or is cut or corrupt.
    """
    try:
        mode = path.stat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # opening a pipe waits for its writer
            raise _wrong("it is no plain file")
        with path.open("rb") as file:
            size = path.stat().st_size
            room = FIRST_READ_BYTES
            while True:
                file.seek(0)
                data = file.read(min(room, size))
                try:
                    header = _parse(data, size)
                    break
                except _NeedMoreError:
                    if len(data) >= size:
                        raise _wrong("it is cut short: the header goes beyond its end") from None
                    if room >= MAX_HEADER_BYTES:
                        raise _wrong("its header is implausibly large") from None
                    room *= 4
    except IsADirectoryError as exc:
        raise UnreadableError(path, "is a directory: name the .gguf file in it") from exc
    except OSError as exc:
        raise UnreadableError(path, f"cannot be read: {exc.strerror or exc}") from exc
    except _HeaderError as exc:
        raise UnreadableError(path, str(exc)) from None
    if header.parts > 1:
        there = sum(file.stat().st_size for file in shards(path) if file.exists())
        header = msgspec.structs.replace(header, size_bytes=max(there, size))
    return header


def _wrong(what: str) -> _HeaderError:
    return _HeaderError(f"is not a usable GGUF file: {what}")


class _Reader:
    """The header's bytes, and how far they have been read."""

    def __init__(self, data: bytes, size: int) -> None:
        self.data = data
        self.size = size
        self.at = 0

    def skip(self, count: int) -> int:
        """Step over `count` bytes; give where they start."""
        start = self.at
        end = start + count
        if end > len(self.data):
            if end > self.size:
                raise _wrong("it is cut short or corrupt: a length points beyond its end")
            raise _NeedMoreError
        self.at = end
        return start

    def number(self, form: str) -> Any:
        """Read one scalar."""
        return struct.unpack_from(form, self.data, self.skip(struct.calcsize(form)))[0]

    def string(self, limit: int) -> str:
        """Read a string, which has its 64-bit length before it."""
        length: int = self.number("<Q")
        start = self.skip(length)
        return self.data[start : start + min(length, limit)].decode("utf-8", "replace")

    def skip_strings(self, count: int) -> None:
        """Step over an array of strings."""
        data, at, end = self.data, self.at, len(self.data) - 8
        unpack = struct.Struct("<Q").unpack_from
        for _ in range(count):
            if at > end:
                break
            at += 8 + unpack(data, at)[0]
        else:
            self.at = at
            self.skip(0)
            return
        self.at = at
        self.skip(8)  # complains in the right way

    def value(self, kind: int, depth: int = 0) -> Any:
        """Read a value; short arrays of numbers are kept, others give their length."""
        if kind in SCALARS:
            return self.number(SCALARS[kind])
        if kind == STRING:
            return self.string(MAX_KEPT_STRING)
        if kind != ARRAY:
            raise _wrong(f"it has a value of the unknown type {kind}")
        item: int = self.number("<I")
        count: int = self.number("<Q")
        if item in SCALARS:
            width = struct.calcsize(SCALARS[item])
            start = self.skip(count * width)
            if count <= 4096:
                return list(struct.unpack_from(f"<{count}{SCALARS[item][1]}", self.data, start))
        elif item == STRING:
            self.skip_strings(count)
        elif item == ARRAY and depth < 2 and count <= MAX_KEYS:
            for _ in range(count):
                self.value(ARRAY, depth + 1)
        else:
            raise _wrong(f"it has an array of the unknown type {item}")
        return _Length(count)


class _Length(int):
    """The length of an array that was stepped over."""


def _parse(data: bytes, size: int) -> Header:
    """Parse the first bytes of a file of `size` bytes."""
    if size < 24:
        raise _wrong("it is too short" if size else "it is empty")
    if data[:4] != MAGIC:
        raise _foreign(data)
    reader = _Reader(data, size)
    reader.skip(4)
    version: int = reader.number("<I")
    if version not in VERSIONS:
        big_endian = version & 0xFFFF == 0
        raise _wrong("it is big-endian" if big_endian else f"version {version} is not known")
    tensors: int = reader.number("<Q")
    keys: int = reader.number("<Q")
    if tensors > MAX_TENSORS or keys > MAX_KEYS:
        raise _wrong(f"it claims {tensors} tensors and {keys} keys")
    values: dict[str, Any] = {}
    for _ in range(keys):
        key = reader.string(65_536)
        values[key] = reader.value(reader.number("<I"))
    _check_tensors(reader, tensors, values)
    return _summarise(version, tensors, values, size)


def _foreign(data: bytes) -> _HeaderError:
    """Say what a file is that does not start as GGUF does."""
    for start, what in FOREIGN:
        if data.startswith(start):
            return _HeaderError(f"is no GGUF file but {what}")
    head = data[:512].lstrip().lower()
    if head.startswith((b"<!doctype html", b"<html", b"<head")):
        return _HeaderError("is no GGUF file but a web page: download the file itself")
    length = int.from_bytes(data[:8], "little")  # safetensors: the size of the JSON that follows
    if data[8:9] == b"{" and 0 < length < 100_000_000:
        return _HeaderError(
            "is no GGUF file but one of safetensors, which llama.cpp does not read: "
            "take the model's GGUF edition"
        )
    return _wrong(f"it starts with {data[:4]!r} instead of {MAGIC!r}")


def _check_tensors(reader: _Reader, count: int, values: dict[str, Any]) -> None:
    """Check that every tensor lies within the file."""
    alignment = values.get("general.alignment", DEFAULT_ALIGNMENT)
    if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
        raise _wrong(f"its alignment is {alignment!r}")
    last = 0
    for _ in range(count):
        name = reader.string(1024)
        dimensions: int = reader.number("<I")
        if dimensions > MAX_DIMENSIONS:
            raise _wrong(f"tensor {name[:64]!r} has {dimensions} dimensions")
        elements = 1
        for _ in range(dimensions):
            elements *= reader.number("<Q")
        kind: int = reader.number("<I")
        offset: int = reader.number("<Q")
        if elements >= MAX_ELEMENTS:
            raise _wrong(f"tensor {name[:64]!r} has {elements} elements")
        per_block, block_bytes = BLOCKS.get(kind, (1, 0))
        last = max(last, offset + -(-elements // per_block) * block_bytes)
    start = -(-reader.at // alignment) * alignment
    if count and start + last > reader.size:
        raise _wrong(f"it is cut short: {reader.size} bytes of at least {start + last}")


def _kind(architecture: str, tensors: int, values: dict[str, Any]) -> Kind:
    """Return what a file is that names its architecture."""
    kind = TYPES.get(_text(values.get("general.type"))) or ARCHITECTURES.get(architecture)
    if kind is not None:
        return kind
    pooling = _number(values.get(f"{architecture}.pooling_type"))
    if pooling == RERANK_POOLING:
        return "reranker"
    if pooling or architecture.endswith(EMBEDDING_ARCHITECTURES) or "bert" in architecture:
        return "embedding"
    if values.get(f"{architecture}.attention.causal") is False:
        return "diffusion"
    if not tensors and _number(values.get("split.count")) <= 1:
        return "vocabulary"
    return "model"


def _number(value: Any) -> int:
    return value if isinstance(value, int) and 0 <= value < MAX_SHARDS else 0


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _summarise(version: int, tensors: int, values: dict[str, Any], size: int) -> Header:
    """Pick what is used later out of the header's values."""
    architecture = values.get("general.architecture")
    part, parts = (_number(values.get(key)) for key in ("split.no", "split.count"))
    if not isinstance(architecture, str) or not architecture:
        # Of a split model only the first part has the rest; an imatrix is of every architecture.
        if part or _text(values.get("general.type")) == "imatrix":
            architecture = "unknown"
        else:
            raise _wrong("it names no architecture")

    def number(key: str, default: int = 0) -> int:
        value = values.get(f"{architecture}.{key}", default)
        if isinstance(value, list):  # one number per layer
            value = max((n for n in value if isinstance(n, int)), default=default)
        return value if isinstance(value, int) and 0 <= value < 2**40 else default

    layers = number("block_count")
    embedding = number("embedding_length")
    heads = number("attention.head_count") or 1
    width = embedding // heads
    kv_width = number("attention.key_length", width) + number("attention.value_length", width)
    per_layer = values.get(f"{architecture}.attention.head_count_kv")
    if isinstance(per_layer, list):
        kv_heads = sum(n for n in per_layer if isinstance(n, int) and n > 0)
    else:
        kv_heads = layers * number("attention.head_count_kv", heads)
    tokens = values.get("tokenizer.ggml.tokens")
    return Header(
        kind=_kind(architecture, tensors, values),
        version=version,
        architecture=printable_line(architecture, 64),
        name=printable_line(_text(values.get("general.name")), MAX_NAME) or None,
        context_tokens=number("context_length"),
        layers=layers,
        embedding=embedding,
        vocabulary=int(tokens) if isinstance(tokens, _Length) else number("vocab_size"),
        kv_bytes_per_token=kv_heads * kv_width * 2,
        has_chat_template=isinstance(values.get("tokenizer.chat_template"), str),
        tensors=tensors,
        size_bytes=size,
        part=part,
        parts=max(1, parts),
    )
