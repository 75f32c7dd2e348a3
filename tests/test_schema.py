"""An answer that has to be JSON of a certain shape is that, or none."""

from __future__ import annotations

import json

import pytest
from cli_support import answering, cli, install_model, profile, served, two_clouds

from tieredllm.cli.schema_input import read_schema
from tieredllm.engine.shape import fitted
from tieredllm.errors import FallbackTriggerError, UsageError
from tieredllm.kinds import ErrorKind
from tieredllm.local.grammar import GENERIC, grammar_of

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
        ("nowhere.json", "cannot be read"),
    ],
)
def test_what_is_no_schema_is_told(given, words):
    """A slip is told before anything is asked."""
    with pytest.raises(UsageError, match=words):
        read_schema(given)


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


@pytest.mark.parametrize(
    "schema",
    [
        {"allOf": [{"type": "object"}]},
        {"type": "object", "additionalProperties": True},
        {"enum": ["a\\b", 1]},
    ],
)
def test_a_grammar_forbids_nothing_that_is_right(schema):
    """What the converter gets wrong is any value: the validation decides."""
    assert grammar_of(schema) == grammar_of({})
    assert "root" in GENERIC


def test_values_with_marks_are_any_string():
    """A value that would be escaped wrongly does not force other text."""
    assert grammar_of({"enum": ['say "hi"']}) == grammar_of({"type": "string"})
    assert '"\\"cat\\""' in grammar_of({"enum": ["cat"]})
