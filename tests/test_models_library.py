"""Every model file has a name, whoever keeps it, and is used where it lies."""

from __future__ import annotations

import hashlib
import json
import os
import re
from concurrent.futures import ThreadPoolExecutor

import pytest
from cli_support import cli
from hub_support import FakeHub
from local_support import write_gemma
from wire_support import smollm2_path

from tieredllm.errors import ModelFileError, UnknownModelError
from tieredllm.files import Places
from tieredllm.local.library import HubName, Library, NotInstalledError, as_hub_name, is_path
from tieredllm.local.pull import Puller
from tieredllm.local.stores import choose_file, quant_of

REPOSITORY = "bartowski/SmolLM2-135M-Instruct-GGUF"
FILE = "SmolLM2-135M-Instruct-Q4_1.gguf"


@pytest.fixture
def user(tmp_path):
    """Give a user's directory, and what tells the library that it is the user's."""
    home = tmp_path / "user"
    home.mkdir()
    return home


@pytest.fixture
def env(user, tmp_path):
    return {
        "HOME": str(user),
        "TIEREDLLM_HOME": str(tmp_path / "home"),
        "XDG_CACHE_HOME": str(user / ".cache"),
        "OLLAMA_MODELS": str(user / ".ollama/models"),
        "HF_HUB_CACHE": str(user / ".cache/huggingface/hub"),
        "LLAMA_CACHE": str(user / ".cache/llama.cpp"),
    }


@pytest.fixture
def library(env):
    return Library(Places.from_environment(env), env)


@pytest.fixture
def server():
    made = FakeHub()
    yield made
    made.close()


def pull_hub(name, models, **how):
    return Puller(models, **how).hub(name)


def pull_url(url, models):
    return Puller(models).url(url)


def put(path, source=None):
    """Put the real model, or a made-up one, where a program would have it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if source is not None:
        os.link(source, path)
    else:
        write_gemma(path)
    return path


def in_ollama(user, source, name="library/smollm2", tag="135m"):
    """Put a file into Ollama's store, as `ollama pull` does."""
    root = user / ".ollama/models"
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    put(root / "blobs" / f"sha256-{digest}", source)
    manifest = root / "manifests/registry.ollama.ai" / name / tag
    manifest.parent.mkdir(parents=True)
    layers = [
        {"mediaType": "application/vnd.ollama.image.template", "digest": "sha256:" + "0" * 64},
        {"mediaType": "application/vnd.ollama.image.model", "digest": f"sha256:{digest}"},
    ]
    manifest.write_text(json.dumps({"schemaVersion": 2, "layers": layers}))


def in_hub_cache(user, source, repository=REPOSITORY, file=FILE):
    """Put a file into the hub's cache, as `hf download` does."""
    root = user / ".cache/huggingface/hub" / f"models--{repository.replace('/', '--')}"
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    blob = put(root / "blobs" / digest, source)
    link = root / "snapshots" / ("c" * 40) / file
    link.parent.mkdir(parents=True)
    link.symlink_to(os.path.relpath(blob, link.parent))


def everywhere(user, source):
    """Put a file into the stores of four programs."""
    in_ollama(user, source)
    in_hub_cache(user, source)
    put(user / ".lmstudio/models" / REPOSITORY / FILE, source)
    put(user / ".cache/llama.cpp" / f"{REPOSITORY.replace('/', '_')}_{FILE}", source)


NAMES = [
    "ollama:smollm2:135m",
    f"lmstudio:{REPOSITORY}:Q4_1",
    f"hf:{REPOSITORY}:Q4_1",
    f"llama.cpp:{REPOSITORY.replace('/', '_')}_{FILE.removesuffix('.gguf')}",
]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hf:a/b", HubName(repository="a/b")),
        ("hf:a/b:Q4_K_M", HubName(repository="a/b", wanted="Q4_K_M")),
        ("hf:a/b:dir/x.gguf", HubName(repository="a/b", wanted="dir/x.gguf")),
        ("hf.co/a/b:Q8_0", HubName(repository="a/b", wanted="Q8_0")),
        ("https://huggingface.co/a/b", HubName(repository="a/b")),
        ("https://huggingface.co/a/b/tree/main", HubName(repository="a/b")),
        (
            "https://huggingface.co/a/b/blob/v2/x.gguf?download=true",
            HubName(repository="a/b", wanted="x.gguf", revision="v2"),
        ),
        (
            "https://huggingface.co/a/b/resolve/main/q/x.gguf",
            HubName(repository="a/b", wanted="q/x.gguf"),
        ),
        ("a/b", None),
        ("./a/b.gguf", None),
        ("ollama:gemma3:4b", None),
    ],
)
def test_the_forms_that_people_paste_are_read(text, expected):
    """A model of the hub is named in each of the forms that pages and programs show."""
    assert expected == as_hub_name(text)


@pytest.mark.parametrize(
    ("file", "quant"),
    [
        ("gemma-2-2b-it-Q4_K_M.gguf", "Q4_K_M"),
        ("gemma-2b-it-q4_k_m.gguf", "Q4_K_M"),
        ("SmolLM2-135M-Instruct.Q4_1.gguf", "Q4_1"),
        ("Q8_0/big-Q8_0-00001-of-00003.gguf", "Q8_0"),
        ("Qwen3-4B-UD-Q4_K_XL.gguf", "UD-Q4_K_XL"),
        ("x-IQ3_XXS.gguf", "IQ3_XXS"),
        ("x-BF16.gguf", "BF16"),
        ("phi-4.gguf", None),
    ],
)
def test_a_name_tells_its_quantisation(file, quant):
    """The quantisation is read off a file's name, in capitals."""
    assert quant == quant_of(file)


FILES = [
    "README.md",
    "mmproj-model-f16.gguf",
    "m-Q8_0.gguf",
    "m-Q4_K_S.gguf",
    "m-UD-Q4_K_XL.gguf",
    "big/m-F16-00002-of-00002.gguf",
    "big/m-F16-00001-of-00002.gguf",
]


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (None, "m-UD-Q4_K_XL.gguf"),
        ("latest", "m-UD-Q4_K_XL.gguf"),
        ("q8_0", "m-Q8_0.gguf"),
        ("Q4_K_XL", "m-UD-Q4_K_XL.gguf"),
        ("f16", "big/m-F16-00001-of-00002.gguf"),
        ("m-q4_k_s.gguf", "m-Q4_K_S.gguf"),
        ("Q2_K", None),
    ],
)
def test_a_quantisation_is_chosen(wanted, expected):
    """What is named is taken; else Q4_K_M or what is nearest; never a projector or a later part."""
    assert expected == choose_file(FILES, wanted)


def test_models_of_four_programs_are_found(user, library):
    """Ollama's, LM Studio's, the hub cache's and llama.cpp's files have names, and a path."""
    everywhere(user, smollm2_path())
    found = {model.name: model for model in library.elsewhere()}

    assert sorted(NAMES) == sorted(found)
    for name in NAMES:
        assert library.find(name).path == found[name].path
        assert library.find(name).size_bytes == smollm2_path().stat().st_size
    assert {found[name].stored.owner for name in NAMES} == {
        "Ollama",
        "LM Studio",
        "llama.cpp",
        "the hub's cache",
    }


@pytest.mark.parametrize(
    "variables",
    [
        {"HF_HOME": "~/hf"},
        {"HF_HUB_CACHE": "~/hf/hub", "HF_HOME": "/nowhere"},
        {"HUGGINGFACE_HUB_CACHE": "~/hf/hub"},
    ],
)
def test_the_hubs_cache_is_where_its_variables_say(user, env, variables):
    """As `huggingface_hub` reads them: the old name too, and a home that no shell has put in."""
    put(user / "hf/hub/models--me--tiny/snapshots/abc/t-Q8_0.gguf")
    del env["HF_HUB_CACHE"]
    library = Library(Places.from_environment(env), env | variables)

    assert [model.name for model in library.elsewhere()] == ["hf:me/tiny:Q8_0"]


def test_every_name_that_is_listed_leads_to_its_file(user, library):
    """Also where a folder or a file has a name that no repository of the hub could have."""
    put(user / ".lmstudio/models/my lab/tiny one/a b.gguf")
    put(user / ".lmstudio/models/me/tiny/Tiny-Q8_0.gguf")
    put(user / ".cache/llama.cpp/my file.gguf")
    there = list(library.elsewhere())

    assert len(there) == 3
    for model in there:
        assert model.path == library.find(model.name).path


@pytest.mark.parametrize("name", NAMES)
def test_a_model_of_another_program_answers(user, env, tmp_path, name):
    """Each is asked under its name, where it lies; nothing is copied."""
    everywhere(user, smollm2_path())
    done = cli(
        tmp_path / "home", "ask", "-q", "-p", "offline", "-m", f"minimal={name}", "--json",
        "What is the capital of France?", **env,
    )  # fmt: skip
    answer = json.loads(done.stdout)

    assert (name, "minimal") == (answer["model_used"], answer["tier"])
    assert not list((tmp_path / "home").glob("data/models/**/*.gguf"))


def test_what_other_programs_keep_is_not_removed(user, env, tmp_path):
    """`rm` says how the program that has it removes it, and removes nothing."""
    in_ollama(user, smollm2_path())
    done = cli(tmp_path / "home", "models", "rm", "-y", "ollama:smollm2:135m", **env)

    assert (done.returncode, done.stdout) == (2, b"")
    assert b"`" not in done.stdout
    assert b"ollama rm smollm2:135m" in done.stderr
    assert list(user.glob(".ollama/models/blobs/*"))


def test_a_damaged_store_is_passed_over(user, library):
    """A manifest that cannot be read, or names a blob that is gone, is no model."""
    root = user / ".ollama/models/manifests/registry.ollama.ai/library"
    (root / "bad").mkdir(parents=True)
    (root / "bad/latest").write_text("{")
    (root / "gone").mkdir()
    (root / "gone/latest").write_text(
        json.dumps({"layers": [{"mediaType": "application/vnd.ollama.image.model", "digest": 7}]})
    )

    assert list(library.elsewhere()) == []


def test_a_file_gets_a_name(user, env, tmp_path):
    """`add` names a file, `rm` takes the name back, and the file stays as it was."""
    path = put(user / "somewhere/my own.gguf")
    home = tmp_path / "home"
    added = cli(home, "models", "add", str(path), "--name", "mine", **env)
    shown = json.loads(cli(home, "models", "show", "mine", "--json", **env).stdout)
    removed = cli(home, "models", "rm", "mine", **env)

    assert added.returncode == 0
    assert (str(path), "added", "gemma2") == (shown["path"], shown["where"], shown["architecture"])
    assert removed.returncode == 0
    assert path.exists()
    assert cli(home, "models", "show", "mine", **env).returncode == 2


def test_the_models_folder_is_looked_into(env, library, tmp_path):
    """A file that somebody puts into the models folder has its own name."""
    put(tmp_path / "home/data/models/own.gguf")

    assert tmp_path / "home/data/models/own.gguf" == library.find("own").path
    assert "own" in library.names()


def test_only_files_in_the_models_folder_are_models(library, tmp_path):
    """Folders, pipes and dead links are none; the suffix may be in capitals."""
    folder = tmp_path / "home/data/models"
    put(folder / "Loud.GGUF")
    put(folder / "me/tiny/T-Q8_0.GGUF")
    (folder / "folder.gguf").mkdir()
    (folder / "dead.gguf").symlink_to("nowhere")
    os.mkfifo(folder / "pipe.gguf")

    assert [model.name for model in library.folder()] == ["Loud"]
    assert [model.name for model in library.pulled()] == ["hf:me/tiny:Q8_0"]


def test_a_file_named_like_a_model_of_the_catalog_is_told_from_it(library, tmp_path):
    """Each of the two has a name that leads to it."""
    own = put(tmp_path / "home/data/models/gemma-2b-it.gguf")

    assert [model.name for model in library.folder()] == ["gemma-2b-it.gguf"]
    assert own == library.find("gemma-2b-it.gguf").path
    assert library.find("gemma-2b-it").owner == "catalog"


def test_names_that_are_given_at_once_are_all_kept(env, user, tmp_path):
    """Each of several `models add` at the same time adds to what the others have written."""
    path = put(user / "tiny.gguf")
    library = Library(Places.from_environment(env), env)
    names = [f"name{number}" for number in range(24)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: library.add(path, name), names))

    assert sorted(names) == sorted(model.name for model in library.added())
    assert not list((tmp_path / "home/data/models").glob(".*"))


def test_names_in_a_damaged_file_are_not_written_over(env, user, tmp_path):
    """What was given before is still there for whoever can mend it."""
    path = put(user / "tiny.gguf")
    names = tmp_path / "home/data/models/added.json"
    names.parent.mkdir(parents=True)
    names.write_text('{"mine": "/a.gguf",')
    done = cli(tmp_path / "home", "models", "add", str(path), **env)

    assert done.returncode == 1
    assert b"added.json is damaged" in done.stderr
    assert names.read_text() == '{"mine": "/a.gguf",'


def test_a_name_without_a_path_costs_no_other(library, env, user):
    """The other names are listed and found; nothing is written over what cannot be read."""
    path = put(user / "tiny.gguf")
    library.add(path, "mine")
    names = Places.from_environment(env).models / "added.json"
    names.write_text(json.dumps({"mine": str(path), "odd": None}))

    assert [model.name for model in library.added()] == ["mine"]
    with pytest.raises(ModelFileError, match=r"added\.json is damaged"):
        library.add(path, "another")


def test_a_path_of_any_bytes_is_tried_and_asked(env, user, tmp_path):
    """A file whose name is no UTF-8 is tried, answers, is logged and keeps the name it is given."""
    path = put(user / os.fsdecode(b"t\xff.gguf"))
    home = tmp_path / "home"
    tried = cli(home, "models", "verify", str(path), **env)
    named = cli(home, "models", "add", str(path), "--name", "odd", **env)
    asked = cli(home, "ask", "-p", "offline", "-m", f"minimal={path}", "--json", "Hi", **env)
    logged = json.loads(cli(home, "log", "--json", **env).stdout)

    assert (tried.returncode, named.returncode) == (0, 0), tried.stderr
    assert b"tokens/s" in tried.stdout
    assert json.loads(asked.stdout)["tier"] == "minimal"
    assert len(logged) == 1
    assert path == Library(Places.from_environment(env), env).find("odd").path


def test_the_list_has_groups(user, env, tmp_path):
    """`models list --json` tells what is installed, what is elsewhere, and what can be pulled."""
    in_ollama(user, smollm2_path())
    put(tmp_path / "home/data/models/own.gguf")
    rows = json.loads(cli(tmp_path / "home", "models", "list", "--json", **env).stdout)
    groups = {row["name"]: row["group"] for row in rows}

    assert groups["ollama:smollm2:135m"] == "elsewhere"
    assert groups["own"] == "installed"
    assert groups["gemma-2-2b-it"] == "catalog"
    one = next(row for row in rows if row["name"] == "ollama:smollm2:135m")
    assert (
        one["architecture"],
        one["context_tokens"],
        one["has_chat_template"],
    ) == ("llama", 8192, True)


def test_what_is_no_chat_model_is_named(env, user, tmp_path):
    """A file that cannot chat is listed as what it is, and gets no name."""
    path = user / "embedding.gguf"
    write_gemma(path, architecture="gemma-embedding")
    done = cli(tmp_path / "home", "models", "add", str(path), **env)

    assert done.returncode == 1
    assert b"embedding model" in done.stderr


def test_an_unknown_name_is_answered_with_the_near_ones(library):
    """A slip is answered with what it is near to, and with how any model is named."""
    with pytest.raises(UnknownModelError, match="did you mean gemma-2-2b-it"):
        library.find("gemma-2-2b")
    with pytest.raises(UnknownModelError, match=r"hf:OWNER/NAME\[:QUANT\]"):
        library.find("gpt-oss")


def test_what_is_not_here_says_how_to_get_it(library):
    """A model of the hub or of Ollama that is not here names the command that gets it."""
    with pytest.raises(NotInstalledError, match="`tieredllm models pull hf:a/b:Q8_0`"):
        library.find("a/b:Q8_0")
    with pytest.raises(NotInstalledError, match="`ollama pull gemma3:4b`"):
        library.find("ollama:gemma3:4b")


def test_paths_are_told_from_names(tmp_path, monkeypatch, library):
    """What exists is a path; `owner/name` is one of the hub's, unless there is such a file."""
    monkeypatch.chdir(tmp_path)

    assert is_path("sub/own.gguf")
    assert not is_path("smollm2-135m")
    assert HubName(repository="sub/own") == library.hub_name("sub/own")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/own").write_bytes(b"")
    assert library.hub_name("sub/own") is None
    assert tmp_path / "sub/own" == library.find("sub/own").path


def test_a_model_of_the_hub_is_pulled_and_found(server, env, tmp_path, library):
    """The usual quantisation is taken and named; then the name leads to the file."""
    for quant in ("Q8_0", "Q4_K_M"):
        path = tmp_path / f"{quant}.gguf"
        server.files["me/tiny", f"tiny-{quant}.gguf"] = write_gemma(path).read_bytes()
    notices = []
    models = tmp_path / "home/data/models"
    pulled = pull_hub(
        HubName(repository="me/tiny"),
        models,
        env={"HF_ENDPOINT": server.endpoint},
        notice=notices.append,
    )

    assert models / "me/tiny/tiny-Q4_K_M.gguf" == pulled.path
    assert pulled.licence == "apache-2.0"
    assert notices == ["taking tiny-Q4_K_M.gguf (hf:me/tiny:QUANT takes another)"]
    assert pulled.path == library.find("hf:me/tiny").path
    assert pulled.path == library.find("me/tiny:Q4_K_M").path
    assert "hf:me/tiny:Q4_K_M" in library.names()
    with pytest.raises(NotInstalledError):
        library.find("hf:me/tiny:Q8_0")


def test_a_split_model_is_pulled_whole_and_removed_whole(server, env, tmp_path):
    """All parts are pulled, counted and removed as one model."""
    write_gemma(tmp_path / "tiny-Q8_0.gguf", part_tensors=9)
    parts = sorted(tmp_path.glob("tiny-Q8_0-*.gguf"))
    for part in parts:
        server.files["me/big", f"Q8_0/{part.name}"] = part.read_bytes()
    home, more = tmp_path / "home", env | {"HF_ENDPOINT": server.endpoint}
    done = cli(home, "models", "pull", "hf:me/big:Q8_0", **more)
    shown = json.loads(cli(home, "models", "show", "hf:me/big", "--json", **more).stdout)
    removed = cli(home, "models", "rm", "-y", "hf:me/big:Q8_0", **more)

    assert len(parts) > 1
    assert (done.returncode, removed.returncode) == (0, 0), done.stderr
    assert sum(part.stat().st_size for part in parts) == shown["size_bytes"]
    assert not list((home / "data/models").glob("**/*.gguf*"))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("hf:me/gated", "accept its licence"),
        ("hf:me/none", r"there is no http.*me/none \(404\)"),
        ("hf:me/plain", "has no GGUF file"),
        ("hf:me/tiny:Q2_K", "has no Q2_K: it has Q8_0"),
        ("hf:me/broken", "lacks b-00002-of-00002.gguf"),
    ],
)
def test_what_the_hub_has_not_is_told(server, tmp_path, name, words):
    """Gated, gone, without a GGUF, without that quantisation, without a part: each says so."""
    server.refusals["me/gated"] = (403, "GatedRepo")
    server.files["me/plain", "model.safetensors"] = b"x"
    server.files["me/tiny", "t-Q8_0.gguf"] = b"x"
    server.files["me/broken", "b-00001-of-00002.gguf"] = b"x"
    with pytest.raises(ModelFileError, match=words):
        pull_hub(as_hub_name(name), tmp_path, env={"HF_ENDPOINT": server.endpoint})


def test_a_renamed_repository_is_followed(server, tmp_path):
    """The hub leads from an old name to the new one, which is told."""
    server.renamed["me/old"] = "me/new"
    server.files["me/new", "t-Q8_0.gguf"] = write_gemma(tmp_path / "t.gguf").read_bytes()
    notices = []
    pulled = pull_hub(
        HubName(repository="me/old"),
        tmp_path / "models",
        env={"HF_ENDPOINT": server.endpoint},
        notice=notices.append,
    )

    assert notices[0] == "me/old is called me/new today"
    assert pulled.path.exists()


def test_an_embedding_model_is_not_downloaded(server, tmp_path):
    """What the hub's page calls something else than a chat model is refused before a byte comes."""
    server.task = "feature-extraction"
    server.files["me/embed", "e-Q8_0.gguf"] = b"x" * 100
    with pytest.raises(ModelFileError, match="'feature-extraction'"):
        pull_hub(HubName(repository="me/embed"), tmp_path, env={"HF_ENDPOINT": server.endpoint})
    assert server.downloads() == []


@pytest.mark.parametrize(
    "file",
    [
        "../../../../out-Q8_0.gguf",
        "/tmp/out-Q8_0.gguf",
        "a/../../../out-Q8_0.gguf",
        "..\\out-Q8_0.gguf",
        "C:out-Q8_0.gguf",
        "out\x1b[31m-Q8_0.gguf",
        "out\n-Q8_0.gguf",
        "out\ud83d-Q8_0.gguf",
    ],
)
def test_a_hub_names_no_file_outside_its_folder(server, tmp_path, file):
    """A file whose name leads elsewhere, or would act on a terminal, is none that is offered."""
    server.described = {"id": "me/tiny", "siblings": [{"rfilename": file, "size": 9}]}
    with pytest.raises(ModelFileError, match="me/tiny has no GGUF file"):
        pull_hub(
            HubName(repository="me/tiny"),
            tmp_path / "models",
            env={"HF_ENDPOINT": server.endpoint},
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "described",
    [
        [],
        7,
        {"id": 7, "siblings": []},
        {"id": "../x", "siblings": []},
        {"id": "me/\x1b[31m", "siblings": []},
        {"id": "me/tiny", "siblings": "text"},
        {"id": "me/tiny", "siblings": [7]},
        {"id": "me/tiny", "siblings": [{"rfilename": 7}]},
        {"id": "me/tiny", "siblings": [{"rfilename": "a.gguf", "size": "much"}]},
        {"id": "me/tiny", "siblings": [{"rfilename": "a.gguf", "size": -1}]},
        {"id": "me/tiny", "siblings": [], "cardData": "text"},
        {"id": "me/tiny", "siblings": [], "pipeline_tag": ["text"]},
    ],
)
def test_a_server_that_is_no_hub_is_told(server, tmp_path, described):
    """An answer that a hub would not give is called that, and not a network that is down."""
    server.described = described
    with pytest.raises(ModelFileError, match="does not answer for me/tiny as a hub does"):
        pull_hub(HubName(repository="me/tiny"), tmp_path, env={"HF_ENDPOINT": server.endpoint})


def test_a_file_in_any_script_is_pulled(server, tmp_path):
    """A file's name need not be ASCII, nor its hash beside it."""
    server.files["me/tiny", "模型 é-Q8_0.gguf"] = write_gemma(tmp_path / "t.gguf").read_bytes()
    environment = {"HF_ENDPOINT": server.endpoint}
    pulled = pull_hub(HubName(repository="me/tiny"), tmp_path / "models", env=environment)
    again = pull_hub(HubName(repository="me/tiny"), tmp_path / "models", env=environment)

    assert pulled.path.name == "模型 é-Q8_0.gguf"
    assert (again.already, again.verified) == (True, True)


def test_a_file_deep_in_a_repository_leaves_no_folder(server, env, tmp_path):
    """What a pull has made is gone with the model."""
    server.files["me/tiny", "a/b/t-Q8_0.gguf"] = write_gemma(tmp_path / "t.gguf").read_bytes()
    home, more = tmp_path / "home", env | {"HF_ENDPOINT": server.endpoint}
    cli(home, "models", "pull", "hf:me/tiny", **more)
    removed = cli(home, "models", "rm", "-y", "hf:me/tiny", **more)

    assert removed.returncode == 0, removed.stderr
    assert list((home / "data/models").iterdir()) == []


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"HF_ENDPOINT": "hub.example"}, "HF_ENDPOINT is 'hub.example'"),
        ({"HF_ENDPOINT": "http://[::1"}, "no http:// or https:// address"),
        ({"HF_ENDPOINT": "http://me:s3cret@127.0.0.1:9"}, "http://****@127.0.0.1:9 cannot be"),
        ({"HF_TOKEN": "hf_s3cret\nand more"}, "HF_TOKEN holds signs that no token has"),
        ({"HF_TOKEN": "hf_s3cretéé"}, "HF_TOKEN holds signs that no token has"),
    ],
)
def test_a_hub_that_cannot_be_asked_is_told(env, tmp_path, told, words):
    """An address or a token that is none is named by its variable, and no secret is shown."""
    more = {"HF_ENDPOINT": "http://127.0.0.1:9", **told}
    done = cli(tmp_path / "home", "models", "pull", "hf:me/tiny", **env | more)

    assert done.returncode == 1
    assert words in done.stderr.decode()
    assert "s3cret" not in done.stderr.decode()


def test_a_token_with_a_line_end_is_a_token(server, tmp_path):
    """What a file or a paste has left behind it does no harm."""
    server.files["me/tiny", "t-Q8_0.gguf"] = write_gemma(tmp_path / "t.gguf").read_bytes()
    environment = {"HF_ENDPOINT": server.endpoint, "HF_TOKEN": "hf_abc\n"}
    pull_hub(HubName(repository="me/tiny"), tmp_path / "models", env=environment)

    assert "Bearer hf_abc" in {headers.get("authorization") for _, _, headers in server.requests}


def test_no_network_is_told_in_one_line(tmp_path):
    """Without a network the hub's address is named, and what to look at."""
    with pytest.raises(ModelFileError, match="cannot be reached"):
        pull_hub(HubName(repository="a/b"), tmp_path, env={"HF_ENDPOINT": "http://127.0.0.1:9"})


def test_a_file_of_any_server_is_pulled(server, tmp_path):
    """A URL of a .gguf file is downloaded into the models folder, under its own name."""
    server.files["me/tiny", "t.gguf"] = write_gemma(tmp_path / "t.gguf").read_bytes()
    url = f"{server.endpoint}/cdn/me/tiny/t.gguf"
    pulled = pull_url(url, tmp_path / "models")

    assert tmp_path / "models" / "t.gguf" == pulled.path
    assert server.files["me/tiny", "t.gguf"] == pulled.path.read_bytes()
    assert not pulled.verified
    assert not pull_url(url, tmp_path / "models").verified  # nor is it when it is there
    with pytest.raises(ModelFileError, match=r"names no \.gguf file"):
        pull_url(f"{server.endpoint}/page.html", tmp_path / "models")


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("{}/cdn/me/%2e%2e%2ft.gguf", "names no .gguf file"),
        ("{}/cdn/me/t%00.gguf", "names no .gguf file"),
        ("{}/cdn/me/t%0a.gguf", "names no .gguf file"),
        ("http://[::1/t.gguf", "is no URL"),
        ("http://localhost:abc/t.gguf", "is no URL: Invalid port: 'abc'"),
        ("ftp://127.0.0.1/t.gguf", "http or https"),
    ],
)
def test_a_url_of_no_model_file_is_told(server, tmp_path, url, words):
    """A name that leads elsewhere, an address that is none, a scheme that is not spoken."""
    with pytest.raises(ModelFileError, match=re.escape(words)):
        pull_url(url.format(server.endpoint), tmp_path / "models")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("host", ["a..b", "xn--a"])
def test_a_host_that_cannot_be_looked_up_is_told(tmp_path, host):
    """A name that no DNS can have is an address that cannot be reached."""
    with pytest.raises(ModelFileError, match=f"http://{host}/t.gguf cannot be reached"):
        pull_url(f"http://{host}/t.gguf", tmp_path)


def test_a_url_s_file_has_the_name_that_people_see(server, tmp_path):
    """What is quoted in a URL is not in the file's name, nor are a query and a fragment."""
    server.files["me/tiny", "my t.gguf"] = write_gemma(tmp_path / "t.gguf").read_bytes()
    pulled = pull_url(f"{server.endpoint}/cdn/me/tiny/my%20t.gguf?download=1#x", tmp_path / "m")

    assert pulled.path.name == "my t.gguf"


def test_a_url_s_password_is_not_shown(tmp_path, env):
    """The user, the password and the token of an address are in no message."""
    url = "http://me:s3cret@127.0.0.1:9/t.gguf?token=abcd"
    done = cli(tmp_path / "home", "models", "pull", url, **env)

    assert done.returncode == 1
    assert b"cannot be reached" in done.stderr
    assert not re.search(rb"s3cret|abcd", done.stdout + done.stderr)
