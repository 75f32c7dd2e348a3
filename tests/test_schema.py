"""An answer that has to be JSON of a certain shape is that, or none."""

from __future__ import annotations

import ctypes
import json
import re
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
from cli_support import answering, cli, install_model, profile, served, two_clouds
from jsonschema import Draft202012Validator
from local_support import smollm2, write_gemma
from wire_support import answers

from tieredllm.cli.schema_input import read_schema
from tieredllm.engine.shape import check_schema, fitted
from tieredllm.errors import FallbackTriggerError, UsageError
from tieredllm.kinds import ErrorKind
from tieredllm.local import grammar
from tieredllm.local.grammar import grammar_of
from tieredllm.local.ladder import LoadSettings
from tieredllm.local.llama_bindings import Flag, bindings
from tieredllm.local.model import LAST, LoadedModel
from tieredllm.local.sampler import HeldParams
from tieredllm.local.tokenizer import NativeVocabulary
from tieredllm.tools.base import ArgumentsError
from tieredllm.tools.schema import schema_checker

DOG = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


def test_the_short_form_is_a_schema():
    """Fields with types and descriptions make an object that has all of them."""
    found = read_schema("name, age int, bio: one sentence").schema

    assert {**DOG["properties"], "bio": {"type": "string", "description": "one sentence"}} == (
        found["properties"]
    )
    assert found["required"] == ["name", "age", "bio"]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("name, 2 words", "'2 words' is no field"),
        ("age integer", "types: str, int, float, bool"),
        ("{", "is no JSON"),
        ('{"type": "objekt"}', "no JSON Schema: type"),
        ("nowhere.json", "cannot read nowhere.json"),
        ('{"items": {"$ref": "#/$defs/persn"}, "$defs": {"person": {}}}', "persn leads nowhere"),
        ('{"$ref": "https://example.org/a.json"}', "a.json leads nowhere"),
        ('{"allOf": [{}], "$ref": "#/allOf/x"}', "#/allOf/x leads nowhere"),
        ('{"minimum": 5, "$ref": "#/minimum/x"}', "#/minimum/x leads nowhere"),
        ('{"$schema": 5}', "no JSON Schema"),
        ('{"$id": "http://[", "not": {"$id": "http://[x", "$ref": "#"}}', "no JSON Schema"),
        ('{"items": ' * 400 + "{}" + "}" * 400, "no JSON Schema"),
        ('{"items": ' * 100_000, "no JSON: "),
    ],
)
def test_what_is_no_schema_is_told(given, words):
    """A slip is told before anything is asked."""
    with pytest.raises(UsageError, match=words):
        read_schema(given)


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#/$defs/a", "$defs": {"a": {"anyOf": [{"$ref": "#"}, {"type": "string"}]}}},
        {"$id": "https://example.org/a", "$ref": "b", "$defs": {"b": {"$id": "b", "title": "B"}}},
        {"$ref": "#it", "$defs": {"it": {"$anchor": "it"}}},
        {"properties": {"$ref": {"type": "string"}}, "const": {"$ref": "#/nowhere"}},
    ],
)
def test_a_reference_that_leads_somewhere_is_none_to_refuse(schema):
    """By pointer, by anchor, by id; what is called `$ref` and is none."""
    check_schema(schema)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (' {"name": "Rex", "age": 3}\n', '{"name": "Rex", "age": 3}'),
        ('```json\n{"name": "Rex", "age": 3}\n```', '{"name": "Rex", "age": 3}'),
    ],
)
def test_the_json_alone_is_kept(text, expected):
    """Blanks and a fence around it are left out."""
    assert expected == fitted(text, DOG)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Rex is three.", "is no JSON"),
        ('{"name": "Rex"}', "'age' is a required property"),
        ('{"name": "Rex", "age": "three"}', "age: 'three' is not of type 'integer'"),
    ],
)
def test_what_does_not_fit_is_a_failure(text, words):
    """It gives way, and says nothing about the health of whoever gave it."""
    with pytest.raises(FallbackTriggerError, match=words) as raised:
        fitted(text, DOG)
    assert raised.value.kind == ErrorKind.MALFORMED_RESPONSE
    assert not raised.value.counts


@pytest.mark.parametrize(
    ("step", "value", "fits"),
    [
        ("0.01", "19.99", True),
        ("0.01", "19.995", False),
        ("0.1", "0.3", True),
        ("0.01", "1e300", True),
        ("7", "1e22", False),
        ("2", "4.0", True),
    ],
)
def test_decimals_count_as_they_are_written(step, value, fits):
    """A price of 19.99 is a multiple of 0.01, whatever binary fractions say."""
    schema = {"multipleOf": json.loads(step)}

    if fits:
        assert fitted(value, schema) == value
        assert schema_checker({"properties": {"a": schema}})({"a": json.loads(value)})
    else:
        with pytest.raises(FallbackTriggerError, match="not a multiple"):
            fitted(value, schema)
        with pytest.raises(ArgumentsError, match="not a multiple"):
            schema_checker({"properties": {"a": schema}})({"a": json.loads(value)})


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({"type": "array", "items": {"$ref": "#"}}, "[" * 400 + "]" * 400),
        ({"type": "array"}, "[" * 100_000),
        ({"multipleOf": 0.01}, "1e400"),
        ({"multipleOf": 0.01}, "-1e999"),
    ],
)
def test_an_answer_that_cannot_be_checked_is_the_models_own_fault(schema, text):
    """Nested without end, or a number beyond all: another model's answer may fit."""
    with pytest.raises(FallbackTriggerError) as caught:
        fitted(text, schema)

    assert caught.value.kind == ErrorKind.MALFORMED_RESPONSE


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
def test_what_only_python_reads_is_no_json(constant):
    """An answer is JSON for every reader, or none."""
    with pytest.raises(FallbackTriggerError, match="is no JSON"):
        fitted(f'{{"age": {constant}}}', {"type": "object"})


@pytest.mark.parametrize(
    "schema", [{"type": "nonsense"}, {"$ref": "#/no"}, {"pattern": "("}, {"$ref": "#"}]
)
def test_a_schema_that_nothing_fits_is_the_requests_own_fault(schema):
    """A program's, which nobody has checked: no tier is asked for another answer to it."""
    with pytest.raises(FallbackTriggerError) as caught:
        fitted('"n"', schema)

    assert (caught.value.kind, caught.value.again) == (ErrorKind.BAD_REQUEST, False)


def test_an_answer_that_does_not_fit_gives_way(tmp_path):
    """The next tier's answer that fits is printed, and nothing but it; both are asked for it."""
    with (
        served(answering("A dog.")) as first,
        served(answering('{"name": "Rex", "age": 3}')) as second,
    ):
        used = two_clouds(tmp_path, first.url + "/v1", second.url + "/v1")
        done = cli(tmp_path, "-p", used, "ask", "--schema", "name, age int", "invent a dog")
        asked = json.loads(second.requests[-1].body)["response_format"]

    assert (done.returncode, done.stdout) == (0, b'{"name": "Rex", "age": 3}\n')
    assert asked["type"] == "json_schema"
    assert b"secondary" in done.stderr


def test_json_that_was_cut_is_told_as_cut(tmp_path):
    """Where max_tokens left half of the JSON, that is said, and not where its text ends."""
    with served(answers("openai", '{"name": "Re', reason="length")) as server:
        used = two_clouds(tmp_path, server.url)
        done = cli(tmp_path, "-p", used, "ask", "--schema", "name", "a dog")

    assert done.returncode == 1
    assert b"no JSON: max_tokens was used up before it ended" in done.stderr


def test_rules_cannot_answer_it(tmp_path):
    """Where no model's answer fits there is none."""
    with served(answering("A dog.")) as server:
        used = two_clouds(tmp_path, server.url + "/v1")
        done = cli(tmp_path, "-p", used, "ask", "--schema", "name", "--allow-rules", "a dog")

    assert (done.returncode, done.stdout) == (1, b"")
    assert b"the answer is no JSON" in done.stderr


def test_the_local_model_is_held_to_it(tmp_path):
    """The small model writes JSON of the shape that is asked for."""
    install_model(tmp_path)
    used = profile(
        tmp_path,
        "name: test\ntiers:\n  - {name: local, provider: llama_cpp, model: smollm2-135m,"
        " context_tokens: 2048, first_token_timeout_s: 100, idle_timeout_s: 100, timeout_s: 100}\n",
    )
    schema = {
        "type": "object",
        "properties": {"kind": {"enum": ["cat", "dog"]}, "legs": {"type": "integer"}},
        "required": ["kind", "legs"],
        "additionalProperties": False,
    }
    done = cli(
        tmp_path, "-p", used, "ask", "-o", "temperature", "0", "--schema", json.dumps(schema),
        "Describe a cat.", timeout=110,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout).keys() == {"kind", "legs"}


@pytest.fixture(scope="module")
def writes():
    """Give a function that tells whether a grammar lets a model write a text and end there."""
    llama = bindings()
    settings = llama.llama_model_default_params()
    settings.vocab_only = True
    model = llama.llama_model_load_from_file(bytes(smollm2()), settings)
    vocabulary = NativeVocabulary(llama, model)

    def allows(grammar, token):
        one = (llama.llama_token_data * 1)(llama.llama_token_data(id=token, logit=1.0))
        choice = llama.llama_token_data_array(data=one, size=1, selected=-1)
        llama.llama_sampler_apply(grammar, ctypes.byref(choice))
        return one[0].logit == 1.0

    def accepts(source, text):
        grammar = llama.llama_sampler_init_grammar(vocabulary.native, source.encode(), b"root")
        assert grammar, source
        for token in vocabulary.tokenize(text):
            if not allows(grammar, token):
                return False
            llama.llama_sampler_accept(grammar, token)
        ends = allows(grammar, vocabulary.eos)
        llama.llama_sampler_free(grammar)
        return ends

    yield accepts
    vocabulary.close()
    llama.llama_model_free(model)


def an_object(properties, *required, **more):
    return {"type": "object", "properties": properties, "required": list(required), **more}


TEXT, NUMBER = {"type": "string"}, {"type": "integer"}


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({}, 7),
        ({"minimum": 3}, 7),
        ({"not": {"type": "string"}}, 7),
        ({"const": {"a": [1, 2]}}, {"a": [1, 2]}),
        ({"enum": [["x"], "y"]}, ["x"]),
        ({"enum": ["a\\b"]}, "a\\b"),
        ({"const": "\N{ROCKET} é"}, "\N{ROCKET} é"),
        ({"type": "array", "items": True}, [1, "x"]),
        ({"type": "array", "prefixItems": [TEXT], "minItems": 3}, ["a", 1, 2]),
        ({"type": "array", "items": TEXT, "maxItems": 5000}, ["a", "b"]),
        ({"type": "string", "maxLength": 100_000}, "ab"),
        ({"allOf": [an_object({"a": TEXT}), an_object({"b": NUMBER})]}, {"b": 1}),
        (an_object({"a": {}}, "a"), {"a": 7}),
        (an_object({"a": TEXT}, "a", "b"), {"a": "x", "b": 1}),
        (an_object({"a": TEXT}, additionalProperties=NUMBER), {"a": "x"}),
        (an_object({"a": TEXT}, additionalProperties=True), {"a": "x", "b": 1}),
        (an_object({"a": TEXT}, minProperties=2), {"a": "x", "b": 1}),
        (an_object({"a": TEXT}, "a", dependentRequired={"a": ["b"]}), {"a": "x", "b": 1}),
        (an_object({"kind": {"const": "cat"}}, "kind", anyOf=[{"required": ["legs"]}]),
         {"kind": "cat", "legs": 4}),
        (an_object({'say "a"': TEXT, "": TEXT, "\N{ROCKET}": TEXT}, ""), {"": "x"}),
        (an_object({"é": {"$ref": "#/$defs/n"}}, "é", **{"$defs": {"n": NUMBER}}), {"é": 5}),
        ({"$defs": {"n": an_object({"next": {"anyOf": [{"$ref": "#/$defs/n"}, {"type": "null"}]}},
                                   "next")}, "$ref": "#/$defs/n"}, {"next": {"next": None}}),
    ],
)  # fmt: skip
def test_a_grammar_leaves_a_right_answer(writes, capfd, schema, value):
    """Whatever a schema says, its grammar can be read and lets an answer through that fits."""
    Draft202012Validator(schema).validate(value)

    assert writes(grammar_of(schema), json.dumps(value, ensure_ascii=False))
    assert capfd.readouterr().err == ""


def test_a_grammar_holds_an_answer_to_its_schema(writes):
    """What it can express it forbids otherwise: keys that are absent, values of another type."""
    grammar = grammar_of(an_object({"a": {"enum": ["x", "y"]}, "b": NUMBER}, "a"))

    assert writes(grammar, '{"a": "x"}')
    assert not writes(grammar, '{"b": 1}')
    assert not writes(grammar, '{"a": "z"}')
    assert not writes(grammar, '{"a": "x", "b": "1"}')


@pytest.fixture(scope="module")
def loaded():
    model = LoadedModel(
        smollm2(), n_ctx=256, settings=LoadSettings(), stop=Flag(), go_on=lambda: True
    )
    yield model
    model.close()


def held(grammar, **params):
    return HeldParams(temperature=0.0, grammar=f"root ::= {grammar}", **params)


@pytest.mark.parametrize("penalty", [0.0, 0.5])
def test_a_token_that_a_grammar_forbids_is_not_chosen(loaded, penalty):
    """What the model would rather say gives way to the likeliest that is allowed, each time."""
    loaded.evaluate(loaded.vocabulary.tokenize("The capital of France is"))
    params = held('" Rome" [0-9]{3} "."', presence_penalty=penalty)
    said = b"".join(map(loaded.vocabulary.bytes_of, loaded.sample(16, params))).decode()

    assert re.fullmatch(r" Rome\d{3}\.", said)


STUCK = """
import pathlib, sys
from tieredllm.errors import FallbackTriggerError
from tieredllm.local.ladder import LoadSettings
from tieredllm.local.llama_bindings import Flag
from tieredllm.local.model import LoadedModel
from tieredllm.local.sampler import HeldParams

model = LoadedModel(pathlib.Path(sys.argv[1]), n_ctx=256, settings=LoadSettings(), stop=Flag(),
                    go_on=lambda: True)
model.evaluate(model.vocabulary.tokenize("hello"))
try:
    list(model.sample(5, HeldParams(temperature=0.0, grammar='root ::= "{" [0-9] "}"')))
except FallbackTriggerError as exc:
    print(exc.message)
"""


def test_a_grammar_that_allows_nothing_there_is_ends_the_answer_alone(tmp_path):
    """Where the model has no number for the one brace it may write, the process lives on."""
    path = write_gemma(tmp_path / "odd.gguf", damaged="<0x7B>")
    done = subprocess.run(
        [sys.executable, "-c", STUCK, str(path)], capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert "has no token with which a text of the schema goes on" in done.stdout


def test_a_grammar_that_allows_what_is_said_anyway_costs_little(loaded):
    """It is asked about the token that was chosen, not about the whole vocabulary."""
    loaded.evaluate(loaded.vocabulary.tokenize("The capital of France is"))
    with (
        loaded.sampler(held('[^"]*')) as quick,
        loaded.sampler(held('[^"]*', presence_penalty=0.5)) as thorough,
    ):
        began = time.thread_time()
        for _ in range(10):
            loaded.pick(quick, LAST)
        between = time.thread_time()
        for _ in range(10):
            loaded.pick(thorough, LAST)
        ended = time.thread_time()

    assert between - began < (ended - between) / 5


@pytest.mark.parametrize(
    "value", ['say "hi"', "a\\b", "line\nend", "\N{ROCKET} é", "\x7f", "\u2028", "\ud83d"]
)
def test_a_value_is_written_as_it_is(writes, value):
    """Whatever is in a value of `enum` and `const`, it alone is let through."""
    grammar = grammar_of({"enum": [value, "other"]})

    assert writes(grammar, json.dumps(value, ensure_ascii=value == "\ud83d"))
    assert writes(grammar, '"other"')
    assert not writes(grammar, '"cat"')


@pytest.mark.parametrize(
    ("bounds", "right", "wrong"),
    [
        ({"minimum": 1, "maximum": 5}, [1, 5], [0, 6, 15, -1]),
        ({"exclusiveMinimum": -3, "exclusiveMaximum": 1.5}, [-2, 1], [-3, 2]),
        ({"minimum": 1}, [1, 7000], []),
        ({"minimum": 0, "maximum": 10**9}, [5, 10**9], []),
        ({"minimum": 5, "maximum": 1}, [3], []),
        # draft 4: a bound that is not allowed itself is left to the validation
        ({"minimum": 0, "exclusiveMinimum": False, "maximum": 5, "exclusiveMaximum": True},
         [0, 4], [-1, 6]),
    ],
)  # fmt: skip
def test_whole_numbers_are_within_their_bounds(writes, bounds, right, wrong):
    """A rating from 1 to 5 is one; bounds that are far apart are left to the validation."""
    grammar = grammar_of({"type": "integer", **bounds})

    assert all(writes(grammar, str(number)) for number in right)
    assert not any(writes(grammar, str(number)) for number in wrong)


def test_a_string_has_no_line_end_in_it(writes):
    """What would make the text no JSON is forbidden in strings of any kind."""
    for schema in (TEXT, {"type": "string", "maxLength": 9}, {}):
        assert writes(grammar_of(schema), '"a\\nb"')
        assert not writes(grammar_of(schema), '"a\nb"')


@pytest.mark.parametrize("moved", ["_format_literal", "PRIMITIVE_RULES", "SchemaConverter"])
def test_a_converter_that_cannot_be_set_right_is_not_used(writes, monkeypatch, tmp_path, moved):
    """With a release that has its parts elsewhere the answer is any JSON, never a wrong one."""
    [folder] = find_spec("llama_cpp").submodule_search_locations
    source = (Path(folder) / "llama_grammar.py").read_text("utf-8")
    (tmp_path / "llama_grammar.py").write_text(source.replace(moved, f"{moved}_of_ours"), "utf-8")
    elsewhere = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    grammar._converter.cache_clear()
    with monkeypatch.context() as patched:
        patched.setattr(grammar.importlib.util, "find_spec", lambda _: elsewhere)
        found = grammar_of({"enum": ["a\\b", 'say "hi"']})

    assert all(writes(found, text) for text in (r'"a\\b"', r'"say \"hi\""', '{"a": [1, -2.5e3]}'))
    assert not any(writes(found, text) for text in ("[1,]", '"a\nb"', "yes", "01"))


def test_definitions_are_told_from_properties_of_their_names(writes):
    """A reference leads to its definition, whatever that is called, also from within."""
    definitions = {"n": TEXT, "Node[int]_x": an_object({"next": {"anyOf": [
        {"$ref": "#/$defs/Node[int]_x"}, {"type": "null"}]}}, "next")}  # fmt: skip
    properties = {
        "n": NUMBER,
        "m": {"$ref": "#/$defs/n"},
        "list": {"$ref": "#/$defs/Node[int]_x"},
    }
    grammar = grammar_of(an_object(properties, *properties, **{"$defs": definitions}))

    assert writes(grammar, '{"n": 1, "m": "x", "list": {"next": {"next": null}}}')
    assert not writes(grammar, '{"n": 1, "m": 1, "list": {"next": null}}')
