"""Models, parameters and stored prompts of one request, at the command line."""

from __future__ import annotations

import json

import pytest
from chat_support import talking
from cli_support import REFUSED, answering, cli, install_model, profile, served, two_clouds

from tieredllm.errors import UsageError
from tieredllm.profile.choose import first_fit
from tieredllm.profile.load import load_profile
from tieredllm.profile.params import read_params, written_params
from tieredllm.prompts.stored import StoredPrompt
from tieredllm.types import ParamOverrides

DEFAULT = ("primary", "openai", "secondary", "anthropic")


def sent(server, number=-1):
    """Give what the server was asked."""
    return json.loads(server.requests[number].body)


@pytest.mark.parametrize(
    ("model", "is_local", "tier", "provider", "alternates"),
    [
        ("gpt-9", False, "primary", "openai", 2),
        ("claude-x", False, "primary", "anthropic", 2),
        ("gemini-9-pro", False, "primary", "gemini", 2),
        ("claude-sonnet-5-5", False, "secondary", "anthropic", 2),
        ("own", True, "minimal", "llama_cpp", 1),
        ("smollm2-135m", True, "minimal", "llama_cpp", 1),
        ("something-new", False, "primary", "openai", 2),
    ],
)
def test_a_model_goes_where_it_fits(places, model, is_local, tier, provider, alternates):
    """By the profile's own words, by the vendor's way to name, by where its file is."""
    changed, name = first_fit(load_profile("default", places), model, is_local=is_local)
    chosen = next(each for each in changed.tiers if each.name == name)

    assert (tier, provider, model) == (name, chosen.provider, chosen.model)
    assert alternates == len(chosen.alternates)
    assert model not in [each.model for each in chosen.alternates]


def test_a_server_of_ones_own_takes_any_name(places):
    """A model that no vendor's name tells goes to the tier with an address."""
    _, name = first_fit(load_profile("ollama", places), "qwen/qwen3", is_local=False)

    assert load_profile("ollama", places).tiers[0].name == name


def test_no_tier_for_a_model_is_told(places):
    """A profile, or the tier to start at, without a server refuses a server's model."""
    with pytest.raises(UsageError, match="offline has no tier for a model of a vendor"):
        first_fit(load_profile("offline", places), "gpt-9", is_local=False)
    with pytest.raises(UsageError, match="default has in tier minimal no place for a model of a"):
        first_fit(load_profile("default", places), "gpt-9", is_local=False, within="minimal")


def test_a_model_goes_into_the_tier_to_start_at(tmp_path):
    """`-t` says where `-m MODEL` is asked, of a stored prompt as well; it was not asked at all."""
    with served(answering("4")) as server:
        used = two_clouds(tmp_path, server.url, server.url)
        given = cli(tmp_path, "-p", used, "-t", "secondary", "-m", "some/model:2", "2+2?")
        cli(tmp_path, "-p", used, "ask", "-t", "secondary", "-m", "other", "--save", "sums")
        stored = cli(tmp_path, "-p", used, "-T", "sums", "2+2?")
        bodies = [json.loads(request.body) for request in server.requests]

    assert (given.returncode, stored.returncode) == (0, 0)
    assert [body["model"] for body in bodies] == ["some/model:2", "other"]


@pytest.fixture
def places(tmp_path):
    from tieredllm.files import Places

    return Places.from_environment({"TIEREDLLM_HOME": str(tmp_path)})


def test_one_model_is_asked(tmp_path):
    """`-m MODEL` asks it in the first tier that fits; `TIER=MODEL` in the one that is named."""
    with served(answering("Four.")) as server:
        used = two_clouds(tmp_path, server.url, server.url)
        first = cli(tmp_path, "-p", used, "-m", "some/model:2", "--json", "2+2?")
        other = cli(
            tmp_path, "-p", used, "-m", "secondary=m-2", "-t", "secondary", "--json", "2+2?"
        )
        models = [sent(server, 0)["model"], sent(server, 1)["model"]]

    assert models == ["some/model:2", "m-2"]
    assert json.loads(first.stdout)["tier"] == "primary"
    assert json.loads(other.stdout)["tier"] == "secondary"


def test_a_local_model_is_asked_by_its_path(tmp_path):
    """`-m PATH` starts at the local tier, whatever stands above it."""
    path = install_model(tmp_path)
    done = cli(
        tmp_path,
        "-p",
        two_with_local(tmp_path),
        "-m",
        str(path),
        "-o",
        "max_tokens",
        "8",
        "--json",
        "Hi",
    )
    answer = json.loads(done.stdout)

    assert (str(path), "local") == (answer["model_used"], answer["tier"])
    assert [each["tier"] for each in answer["attempts"]] == ["local"]


def two_with_local(home):
    """Write a profile of a server that refuses and a local tier."""
    return profile(
        home,
        "name: test\ntiers:\n"
        f"  - {{name: cloud, provider: openai, model: m, base_url: '{REFUSED}',"
        " api_key_env: null}\n"
        "  - {name: local, provider: llama_cpp, model: smollm2-135m, context_tokens: 2048,"
        " first_token_timeout_s: 100, idle_timeout_s: 100, timeout_s: 100}\n",
    )


def test_parameters_reach_the_wire(tmp_path):
    """`-o NAME VALUE` is sent in place of the tier's own; `stop` may come several times."""
    with served(answering("Four.")) as server:
        cli(
            tmp_path, "-p", two_clouds(tmp_path, server.url),
            "-o", "temperature", "0", "-o", "max_tokens", "7", "-o", "stop", "END",
            "-o", "stop", ";", "-o", "seed", "42", "2+2?",
        )  # fmt: skip
        body = sent(server)

    assert (body["temperature"], body["stop"], body["seed"]) == (0, ["END", ";"], 42)
    assert 7 in (body.get("max_tokens"), body.get("max_completion_tokens"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-o", "temprature", "0"], "no parameter 'temprature': did you mean `temperature`"),
        (["-o", "temperature", "hot"], "-o temperature takes a number from 0 up to 2, not 'hot'"),
        (["-o", "temperature", "9"], "-o temperature takes"),
        (["-o", "max_tokens", "null"], "-o max_tokens takes a whole number from 1 up to 1000000"),
        (["-o", "seed"], "-o seed takes a whole number"),
        (["-m", "a", "-m", "b"], "a and b cannot both be asked first"),
        (["-m", "nowhere=m"], "no tier 'nowhere'"),
        (["-T", "nothing"], "no stored prompt 'nothing'"),
        (["--cid", ""], "--cid takes an id or a name"),
        (["--save", "x", "--schema", "a", "-f", "b"], "--save keeps no -f and no --schema"),
        (["-p", ""], "the name of the profile is empty"),
        (["--var", "a", "b"], "name it with -T"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path, arguments, words):
    """A slip is told in one line, exit 2, and nothing is asked."""
    done = cli(tmp_path, "ask", *arguments, "hi")

    assert (done.returncode, done.stdout) == (2, b"")
    assert words in done.stderr.decode()


def test_parameters_are_read_and_written_back():
    """What is read can be written again; each is of its type."""
    pairs = [("temperature", "0.2"), ("max_tokens", "9"), ("stop", "a"), ("stop", "b")]
    params = read_params(pairs)

    assert ParamOverrides(temperature=0.2, max_tokens=9, stop=("a", "b")) == params
    assert sorted(pairs) == sorted(written_params(params))


def test_a_prompt_is_kept_and_used(tmp_path):
    """`--save` keeps the system prompt, template, parameters and tier, and `-T` asks with them."""
    with served(answering("Fine.")) as server:
        used = two_clouds(tmp_path, server.url, server.url)
        kept = cli(
            tmp_path, "ask", "-s", "Be strict.", "-o", "temperature", "0", "-t", "secondary",
            "Review this {language} change:\n{input}", "--save", "review",
        )  # fmt: skip
        done = cli(
            tmp_path, "-p", used, "-T", "review", "--var", "language", "Go", "x := {1}", "--json"
        )
        body = sent(server)
        changed = cli(
            tmp_path, "-p", used, "-T", "review", "--var", "language", "C", "-t", "primary",
            "-s", "Be kind.", "-o", "temperature", "1", "x", "--json",
        )  # fmt: skip
        other = sent(server)

    assert kept.returncode == 0, kept.stderr
    assert json.loads(done.stdout)["tier"] == "secondary"
    assert body["messages"][0] == {"role": "system", "content": "Be strict."}
    assert body["messages"][1]["content"] == "Review this Go change:\nx := {1}"
    assert body["temperature"] == 0
    assert json.loads(changed.stdout)["tier"] == "primary"
    assert (other["messages"][0]["content"], other["temperature"]) == ("Be kind.", 1)


def test_a_prompt_takes_piped_text(tmp_path):
    """Piped text is what a stored prompt is about; no question is needed then."""
    with served(answering("Fix it.")) as server:
        cli(tmp_path, "ask", "Write a commit message.", "--save", "commit")
        done = cli(
            tmp_path, "-p", two_clouds(tmp_path, server.url), "-T", "commit", stdin=b"+ a line\n"
        )
        body = sent(server)

    assert (done.returncode, done.stdout) == (0, b"Fix it.\n")
    assert "+ a line" in body["messages"][-1]["content"]
    assert "Write a commit message." in body["messages"][-1]["content"]


def test_a_missing_variable_is_named():
    """A template says which variable it needs; braces that are no variable stay."""
    prompt = StoredPrompt(prompt="{a} {b} {input} {{}} {x y}", defaults={"a": "A"})

    assert prompt.question("q", {"b": "B"}) == "A B q {{}} {x y}"
    with pytest.raises(UsageError, match="needs b: add --var b VALUE"):
        prompt.question("q", {})
    with pytest.raises(UsageError, match="no variable 'c': it has a, b"):
        prompt.question("q", {"c": "C"})
    assert StoredPrompt(prompt="do it").question("q", {}) == "do it\n\nq"


def test_stored_prompts_are_listed_shown_edited_and_removed(tmp_path):
    """The life of a stored prompt, with mistakes told by line."""
    assert b"no prompt is kept yet" in cli(tmp_path, "prompts", "list").stderr
    cli(tmp_path, "ask", "-s", "Be brief.", "--save", "brief")
    listed = json.loads(cli(tmp_path, "prompts", "list", "--json").stdout)
    shown = cli(tmp_path, "prompts", "show", "brief").stdout
    editor = tmp_path / "editor.sh"
    editor.write_text("#!/bin/sh\necho 'sistem: x' > \"$1\"\n")
    editor.chmod(0o700)
    edited = cli(tmp_path, "prompts", "edit", "brief", EDITOR=str(editor))
    removed = cli(tmp_path, "prompts", "rm", "brief")

    assert [{key: row[key] for key in ("name", "system")} for row in listed] == [
        {"name": "brief", "system": "Be brief."}
    ]
    assert shown == b"system: Be brief.\n"
    assert edited.returncode == 2
    assert b"brief.yaml:1:1: unknown key `sistem`" in edited.stderr
    assert removed.returncode == 0
    assert cli(tmp_path, "prompts", "show", "brief").returncode == 2


def test_a_chat_says_that_it_leaves_a_prompts_words_out(tmp_path):
    """A chat takes system prompt, options, tier and model of a stored prompt, and no template."""
    cli(tmp_path, "ask", "-s", "Be brief.", "Translate: {input}", "--save", "tr")
    with served(answering("Ja.")) as server:
        used = two_clouds(tmp_path, server.url)
        given = cli(tmp_path, "-p", used, "chat", "-T", "tr", stdin=b"hello\n")
        taken = cli(tmp_path, "-p", used, "chat", stdin=b"/role tr\nhello\n")

    assert [done.returncode for done in (given, taken)] == [0, 0]
    for done in (given, taken):
        assert b"words" in done.stderr
        assert b"are for `ask`, not used here" in done.stderr


def test_a_profile_has_a_system_prompt(tmp_path):
    """`system:` of the profile is sent where the request has none."""
    with served(answering("Ja.")) as server:
        used = profile(
            tmp_path,
            "name: test\nsystem: Answer in German.\ntiers:\n"
            f"  - {{name: a, provider: openai, model: m, base_url: '{server.url}',"
            " api_key_env: null}\n",
        )
        cli(tmp_path, "-p", used, "Really?")
        usual = sent(server)["messages"]
        cli(tmp_path, "-p", used, "-s", "Answer in French.", "Really?")
        own = sent(server)["messages"]

    assert usual[0] == {"role": "system", "content": "Answer in German."}
    assert own[0] == {"role": "system", "content": "Answer in French."}


PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 20


def test_an_image_is_attached(tmp_path):
    """`-a` sends an image to a tier that sees; another is passed over for that reason."""
    picture = tmp_path / "x.png"
    picture.write_bytes(PNG)
    with served(answering("A square.")) as server:
        used = profile(
            tmp_path,
            "name: test\ntiers:\n"
            f"  - {{name: blind, provider: openai, model: m, base_url: '{REFUSED}', vision: false,"
            " api_key_env: null}\n"
            f"  - {{name: sees, provider: openai, model: m, base_url: '{server.url}', vision: true,"
            " api_key_env: null}\n",
        )
        done = cli(tmp_path, "-p", used, "-a", str(picture), "--json", "What is it?")
        piped = cli(tmp_path, "-p", used, "-a", "-", "What is it?", stdin=PNG)
        content = sent(server)["messages"][-1]["content"]
    answer = json.loads(done.stdout)

    assert (answer["tier"], answer["text"]) == ("sees", "A square.")
    assert answer["attempts"][0]["skip"]["why"] == "capability"
    assert piped.stdout == b"A square.\n"
    assert "data:image/png;base64,iVBORw0KGgo" in json.dumps(content)


def test_what_is_no_image_is_told(tmp_path):
    """A text is not sent as an image, nor an image as a text; each says the other option."""
    (tmp_path / "x.png").write_bytes(PNG)
    (tmp_path / "x.txt").write_text("text")
    text = cli(tmp_path, "ask", "-a", str(tmp_path / "x.txt"), "hi")
    image = cli(tmp_path, "ask", "-f", str(tmp_path / "x.png"), "hi")

    assert (text.returncode, image.returncode) == (2, 2)
    assert b"neither an image (PNG, JPEG, GIF, WebP) nor a PDF: `-f" in text.stderr
    assert b"attaches an image or a PDF" in image.stderr


def test_the_commands_name_after_its_options_is_a_slip(tmp_path):
    """`tieredllm -o NAME VALUE ask ...` would ask a model "ask ...": it is refused."""
    done = cli(tmp_path, "-o", "max_tokens", "8", "ask", "hi")

    assert done.returncode == 2
    assert b"`ask` comes before its options: `ask -o ...`" in done.stderr


@pytest.mark.parametrize(("stdin", "args"), [(b"", []), (b" \n", []), (b"", [""])])
def test_a_template_is_not_asked_about_nothing(tmp_path, stdin, args):
    """An empty diff is exit 2 and no request; a prompt that takes no input is asked as it is."""
    with talking() as server:
        used = two_clouds(tmp_path, server.url + "/v1")
        cli(tmp_path, "ask", "Review: {input}", "--save", "review")
        cli(tmp_path, "ask", "Tell a joke.", "--save", "joke")
        nothing = cli(tmp_path, "-p", used, "ask", "-T", "review", *args, stdin=stdin)
        joke = cli(tmp_path, "-p", used, "-T", "joke", stdin=stdin)

    assert (nothing.returncode, nothing.stdout) == (2, b"")
    assert b"nothing to ask" in nothing.stderr
    assert joke.stdout == b"You said: Tell a joke.\n"
    assert len(server.requests) == 1
