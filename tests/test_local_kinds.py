"""What a file is, is said from its header, before anything is loaded, wherever it is named."""

from __future__ import annotations

import asyncio
import shutil

import pytest
from local_support import answer, backend, call, places, user, write_gemma

from tieredllm.errors import FallbackTriggerError, ModelFileError
from tieredllm.local.gguf import read_header
from tieredllm.local.library import LocalModel
from tieredllm.local.pull import verify
from tieredllm.local.validate import needed_bytes, quick_check, validate_model
from tieredllm.local.validation_cache import ValidationCache

KINDS = [
    ({"general.type": "adapter", "adapter.type": "lora"}, "adapter", "is a LoRA adapter"),
    ({"general.type": "mmproj"}, "projector", "is the projector (mmproj) of a model that sees"),
    ({"general.type": "imatrix"}, "imatrix", "is an importance matrix"),
    ({"gemma2.pooling_type": 1}, "embedding", "is an embedding model"),
    ({"gemma2.pooling_type": 4}, "reranker", "is a reranker"),
    ({"gemma2.attention.causal": False}, "diffusion", "is an embedding or diffusion model"),
]
ARCHITECTURES = [
    ("clip", "projector", "is the projector (mmproj)"),
    ("bert", "embedding", "is an embedding model"),
    ("nomic-bert-moe", "embedding", "is an embedding model"),
    ("gemma-embedding", "embedding", "is an embedding model"),
    ("t5encoder", "encoder", "is an encoder model"),
    ("controlvector", "control vector", "is a control vector"),
]
FOREIGN = [
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:", "a git-lfs pointer: run `git lfs"),
    (b"<!DOCTYPE html><html><head>", "a web page: download the file itself"),
    (b"\n\n<html>", "a web page"),
    (b"PK\x03\x04\x14\0", "a zip archive"),
    (b"\x1f\x8b\x08\0", "a gzip archive"),
    (b'\x58\x00\0\0\0\0\0\0{"__metadata__":', "one of safetensors, which llama.cpp does not read"),
    (b"tjgg\3\0\0\0", "a model in the format before GGUF"),
]


@pytest.fixture(autouse=True)
def no_process(monkeypatch, request):
    """Nothing is loaded: no test but those of sound files starts a child."""
    if "sound" not in request.node.name:
        monkeypatch.setattr("subprocess.Popen", None)


def refusals(path, root):
    """Give what validation, a probe of health, `models verify` and an answer say of a file."""
    verdicts = ValidationCache(places(root).cache)
    told = []
    for check in (validate_model, quick_check):
        with pytest.raises(FallbackTriggerError) as raised:
            check(path, n_ctx=512, verdicts=verdicts)
        told.append(raised.value.message)
    with pytest.raises(ModelFileError) as refused:
        verify(LocalModel(name="own", path=path, owner="path"), cache_dir=root)
    told.append(str(refused.value))

    async def ask():
        made = backend(path, root)
        probe = await made.probe()
        with pytest.raises(FallbackTriggerError) as raised:
            await answer(made, call(user("Hello")))
        await made.aclose()
        return [probe.error, raised.value.message]

    return [*told, *asyncio.run(ask())]


def check_alike(path, root, words):
    for told in refusals(path, root):
        assert words in told
        assert told.startswith((path.name, f"{path}"))


@pytest.mark.parametrize(("extra", "kind", "words"), KINDS)
def test_a_key_tells_what_a_file_is(tmp_path, extra, kind, words):
    """`general.type`, the pooling and the attention say it, whatever the architecture."""
    path = write_gemma(tmp_path / "odd.gguf", extra=extra)

    assert kind == read_header(path).kind
    check_alike(path, tmp_path, f"odd.gguf {words}")


@pytest.mark.parametrize(("architecture", "kind", "words"), ARCHITECTURES)
def test_an_architecture_tells_what_a_file_is(tmp_path, architecture, kind, words):
    """Some architectures are never a model to chat with."""
    path = write_gemma(tmp_path / "odd.gguf", architecture=architecture)

    assert kind == read_header(path).kind
    check_alike(path, tmp_path, f"odd.gguf {words}")


def test_what_a_file_calls_itself_is_one_line(tmp_path):
    """Signs that act on a terminal, or break a table, stay in the file."""
    path = write_gemma(tmp_path / "odd.gguf")
    path.write_bytes(path.read_bytes().replace(b"Tiny Gemma", b"Ti\x1b[\n\x07\xe2\x80\xae!"))

    assert read_header(path).name == "Ti[ !"


def test_a_vocabulary_without_weights_is_told(tmp_path):
    """A file of the vocabulary alone has no tensors."""
    import gguf

    path = tmp_path / "vocabulary.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_token_list(["a", "b"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    check_alike(path, tmp_path, "vocabulary.gguf has a vocabulary and no weights")


@pytest.mark.parametrize(("start", "words"), FOREIGN)
def test_a_file_of_another_format_is_named(tmp_path, start, words):
    """The first bytes tell a pointer, a page, an archive or another format from a damaged model."""
    path = tmp_path / "odd.gguf"
    path.write_bytes(start + b" " * 600)

    for told in refusals(path, tmp_path):
        assert f"is no GGUF file but {words}" in told


def test_a_directory_is_named(tmp_path):
    """A directory is no file, and where the file is found is said."""
    path = tmp_path / "dir.gguf"
    path.mkdir()

    for told in refusals(path, tmp_path / "root"):
        assert f"{path} is a directory: name the .gguf file in it" == told.replace(": is", " is")


def test_a_file_that_may_not_be_read_is_tried_again(tmp_path, monkeypatch):
    """Permission is no property of the content: nothing is remembered, and the grammar is right."""
    path = write_gemma(tmp_path / "locked.gguf")
    verdicts = ValidationCache(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.open", _refuse)
        with pytest.raises(FallbackTriggerError) as raised:
            quick_check(path, n_ctx=512, verdicts=verdicts)

    assert f"{path} cannot be read: Permission denied" == raised.value.message
    assert quick_check(path, n_ctx=512, verdicts=verdicts).header.kind == "model"


def _refuse(*_arguments, **_options):
    raise PermissionError(13, "Permission denied")


@pytest.fixture
def parts(tmp_path):
    """Give the two parts of a split model."""
    write_gemma(tmp_path / "model.gguf", part_tensors=14)
    return [tmp_path / f"model-0000{n}-of-00002.gguf" for n in (1, 2)]


def test_a_sound_split_model_is_one_file(parts, tmp_path):
    """All parts count for the memory, and llama.cpp loads them together."""
    whole = write_gemma(tmp_path / "whole.gguf")
    verdicts = ValidationCache(tmp_path / "cache")
    found = validate_model(parts[0], n_ctx=512, verdicts=verdicts)

    assert found.chosen.rates.decode_tps > 0
    assert found.header.size_bytes == sum(part.stat().st_size for part in parts)
    assert needed_bytes(found.header, 512) >= needed_bytes(read_header(whole), 512)


def test_another_part_is_told_which_to_name(parts, tmp_path):
    """Only the first part has what the others need."""
    check_alike(parts[1], tmp_path, "is part 2 of 2 of a model: name model-00001-of-00002.gguf")


def test_a_missing_part_is_told_until_it_is_there_and_sound(parts, tmp_path, monkeypatch):
    """What was said of a model without its second part is forgotten when that arrives."""
    away = tmp_path / "away"
    shutil.move(parts[1], away)
    verdicts = ValidationCache(tmp_path / "cache")
    words = "is part 1 of 2 of a model, and model-00002-of-00002.gguf is not there"
    for _ in range(2):
        with pytest.raises(FallbackTriggerError, match=words):
            validate_model(parts[0], n_ctx=512, verdicts=verdicts)

    shutil.move(away, parts[1])
    assert validate_model(parts[0], n_ctx=512, verdicts=verdicts).rung == "plain"


def test_a_changed_part_is_examined_anew(parts, tmp_path):
    """A part that changes later makes another model, though the first is as it was."""
    from tieredllm.local.validation_cache import state_of

    before = state_of(parts[0])
    with parts[1].open("ab") as file:
        file.write(b"\0")

    assert before != state_of(parts[0])


def test_a_part_under_another_name_is_told(parts, tmp_path):
    """llama.cpp finds the other parts by their names."""
    renamed = parts[0].rename(tmp_path / "renamed.gguf")

    check_alike(renamed, tmp_path, "is part 1 of 2 of a model and lacks the name of one")


def test_health_says_what_to_do_about_a_file(tmp_path):
    """A path is to be verified; a name of the catalog is pulled, or verified if it is there."""
    path = write_gemma(tmp_path / "odd.gguf", extra={"general.type": "adapter"})
    here = places(tmp_path).models / "SmolLM2-135M-Instruct.Q4_1.gguf"

    def fix(model):
        return asyncio.run(backend(model, tmp_path).probe()).fix

    assert fix(path) == f"tieredllm models verify {path}"
    assert fix("smollm2-135m") == "tieredllm models pull smollm2-135m"
    here.parent.mkdir(parents=True)
    path.rename(here)
    assert fix("smollm2-135m") == "tieredllm models verify smollm2-135m"


def test_health_tells_a_sound_file_with_another_hash(tmp_path):
    """A catalog's file that is not the one of its name is told before it is used."""
    here = places(tmp_path).models / "SmolLM2-135M-Instruct.Q4_1.gguf"
    here.parent.mkdir(parents=True)
    write_gemma(tmp_path / "other.gguf").rename(here)
    found = asyncio.run(backend("smollm2-135m", tmp_path).probe())

    assert not found.ok
    assert "has the SHA-256" in found.error
    assert found.fix == "tieredllm models verify smollm2-135m"


def test_a_sound_files_rung_and_rate_are_shown_by_health(tmp_path):
    """Once a file was tried, a probe tells quietly how it is loaded and how fast it is."""
    path = write_gemma(tmp_path / "tiny.gguf")
    before = asyncio.run(backend(path, tmp_path).probe())
    validate_model(path, n_ctx=512, verdicts=ValidationCache(places(tmp_path).cache))
    after = asyncio.run(backend(path, tmp_path).probe())

    assert (before.ok, before.note) == (True, None)
    assert after.note.endswith(" tokens/s, weights as they are")
