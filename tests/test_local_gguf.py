"""The header of a GGUF file is read without trusting it."""

from __future__ import annotations

import contextlib
import os
import struct
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from local_support import smollm2, write_gemma

from tieredllm.errors import ModelFileError
from tieredllm.local.gguf import BLOCKS, Header, read_header


def string(text):
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def header(*, version=3, tensors=0, keys=0, rest=b""):
    return b"GGUF" + struct.pack("<IQQ", version, tensors, keys) + rest


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    return write_gemma(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


def problem(tmp_path, data):
    path = tmp_path / "model.gguf"
    path.write_bytes(data)
    with pytest.raises(ModelFileError) as raised:
        read_header(path)
    assert str(raised.value).startswith(f"{path}: ")
    return str(raised.value)


def test_a_real_header_is_read():
    """What the real model's header says is what its makers wrote."""
    found = read_header(smollm2())

    expected = Header(
        version=3,
        architecture="llama",
        name="Smollm2 135M 8k Lc100K Mix1 Ep2",
        context_tokens=8192,
        layers=30,
        embedding=576,
        vocabulary=49_152,
        kv_bytes_per_token=30 * 3 * (64 + 64) * 2,
        has_chat_template=True,
        tensors=272,
        size_bytes=98_362_432,
    )
    assert expected == found


def test_gemmas_wide_keys_count():
    """A key length of its own, not the width over the heads, decides the cache's size."""
    from tieredllm.local.gguf import _summarise

    values = {
        "general.architecture": "gemma2",
        "gemma2.block_count": 26,
        "gemma2.embedding_length": 2304,
        "gemma2.attention.head_count": 8,
        "gemma2.attention.head_count_kv": 4,
        "gemma2.attention.key_length": 256,
        "gemma2.attention.value_length": 256,
    }

    assert _summarise(3, 0, values, 24).kv_bytes_per_token == 26 * 4 * 512 * 2


def test_heads_per_layer_are_added_up():
    """A list of key-value heads, one number per layer, is summed."""
    from tieredllm.local.gguf import _summarise

    values = {
        "general.architecture": "x",
        "x.block_count": 3,
        "x.embedding_length": 64,
        "x.attention.head_count": [4, 4, 4],
        "x.attention.head_count_kv": [2, 0, 1],
    }

    assert _summarise(3, 0, values, 24).kv_bytes_per_token == 3 * (16 + 16) * 2


def test_reading_is_quick():
    """Reading the header of a 98 MB file takes milliseconds."""
    path = smollm2()
    best = 1e9
    for _ in range(5):
        started = time.perf_counter()
        read_header(path)
        best = min(best, time.perf_counter() - started)

    assert best < 0.1


def test_block_sizes_are_those_of_ggml():
    """The table of block sizes agrees with the gguf package."""
    from gguf.constants import GGML_QUANT_SIZES

    known = {int(kind): size for kind, size in GGML_QUANT_SIZES.items()}

    assert {kind: BLOCKS[kind] for kind in known if kind in BLOCKS} == {
        kind: known[kind] for kind in known if kind in BLOCKS
    }
    assert set(BLOCKS) <= set(known)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "it is empty"),
        (b"GGUF", "it is too short"),
        (b"\1\2\3\4" + b"\0" * 100, "it starts with b'\\x01\\x02\\x03\\x04' instead of b'GGUF'"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0) + b"\0" * 64, "big-endian"),
        (header(version=1), "version 1 is not known"),
        (header(version=99), "version 99 is not known"),
        (header(tensors=2**60), "it claims 1152921504606846976 tensors"),
        (header(keys=2**60), "and 1152921504606846976 keys"),
        (header(), "it names no architecture"),
        (header(keys=1), "cut short"),
        (header(keys=1, rest=struct.pack("<Q", 2**62)), "a length points beyond its end"),
        (header(keys=1, rest=string("a") + struct.pack("<I", 77)), "unknown type 77"),
        (
            header(keys=1, rest=string("a") + struct.pack("<IIQ", 9, 8, 2**40)),
            "a length points beyond its end",
        ),
        (
            header(keys=1, rest=string("a") + struct.pack("<IIQ", 9, 4, 2**61)),
            "a length points beyond its end",
        ),
        (
            header(keys=1, rest=string("a") + struct.pack("<IIQ", 9, 9, 2**15) * 8),
            "it has an array of the unknown type 9",
        ),
        (
            header(keys=1, rest=string("general.alignment") + struct.pack("<II", 4, 3)),
            "its alignment is 3",
        ),
        (header(tensors=1, rest=string("t") + struct.pack("<I", 9)), "tensor 't' has 9 dimensions"),
        (
            header(tensors=1, rest=string("t") + struct.pack("<IQQIQ", 2, 2**40, 2**40, 0, 0)),
            "has 1208925819614629174706176 elements",
        ),
        (
            header(tensors=1, rest=string("t") + struct.pack("<IQIQ", 1, 1024, 0, 0)),
            "it is cut short: 57 bytes of at least 4160",
        ),
        (
            header(tensors=1, rest=string("t") + struct.pack("<IQIQ", 1, 1, 0, 2**62)),
            "it is cut short",
        ),
    ],
)
def test_a_wrong_header_says_what_is_wrong(tmp_path, data, words):
    """Each kind of damage has words of its own, with the file's path before them."""
    assert words in problem(tmp_path, data)


@pytest.mark.parametrize("kept", [10, 23, 24, 1000, 4096, 100_000, 380_000])
def test_a_cut_file_is_noticed(tmp_path, tiny, kept):
    """Wherever a file ends too early, the header check says so."""
    data = tiny.read_bytes()[:kept]

    assert "cut short" in problem(tmp_path, data) or "too short" in problem(tmp_path, data)


def test_a_cut_real_file_is_noticed(tmp_path):
    """One missing byte at the end of the real model is noticed."""
    path = tmp_path / "cut.gguf"
    with smollm2().open("rb") as source, path.open("wb") as target:
        target.write(source.read(8 * 1024 * 1024))
        target.truncate(98_362_431)

    with pytest.raises(ModelFileError, match="98362431 bytes of at least 98362432"):
        read_header(path)


def test_an_absent_file_is_an_error_of_ours(tmp_path):
    """A file that is not there or is a directory gives a ModelFileError."""
    with pytest.raises(ModelFileError, match="cannot be read"):
        read_header(tmp_path / "absent.gguf")
    with pytest.raises(ModelFileError, match=r"is a directory: name the \.gguf file in it"):
        read_header(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
def test_a_pipe_is_no_model_file(tmp_path):
    """A named pipe is refused at once: opening it would wait for whoever writes."""
    os.mkfifo(tmp_path / "pipe.gguf")

    with pytest.raises(ModelFileError, match="it is no plain file"):
        read_header(tmp_path / "pipe.gguf")


def test_a_header_beyond_the_first_read_is_read(tmp_path):
    """A header larger than what is read at first is read in full."""
    pad = string("pad") + struct.pack("<I", 8) + string("x" * 6_000_000)
    kind = string("general.architecture") + struct.pack("<I", 8) + string("llama")
    path = tmp_path / "large.gguf"
    path.write_bytes(header(keys=2, rest=pad + kind))

    assert read_header(path).architecture == "llama"


def test_an_endless_header_is_refused_quickly(tmp_path):
    """A header that claims millions of empty strings is refused within seconds."""
    path = tmp_path / "endless.gguf"
    keys = b"".join(
        string(f"k{n}") + struct.pack("<IIQ", 9, 8, 900_000) + b"\0" * (8 * 900_000)
        for n in range(4)
    )
    path.write_bytes(header(keys=5, rest=keys))
    started = time.perf_counter()

    with pytest.raises(ModelFileError, match="cut short"):
        read_header(path)
    assert time.perf_counter() - started < 10


@settings(
    max_examples=300, deadline=2000, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_damage_never_crashes_the_reader(tmp_path, tiny, data):
    """Whatever bytes are changed, the answer is a header or a ModelFileError."""
    original = tiny.read_bytes()
    damaged = bytearray(original)
    for _ in range(data.draw(st.integers(1, 6))):
        place = data.draw(st.integers(0, 12_000))
        new = data.draw(st.binary(min_size=1, max_size=9))
        damaged[place : place + len(new)] = new
    path = tmp_path / "damaged.gguf"
    path.write_bytes(bytes(damaged[: data.draw(st.sampled_from([len(original), 12_000, 400]))]))

    with contextlib.suppress(ModelFileError):
        assert isinstance(read_header(path), Header)
