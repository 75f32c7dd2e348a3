"""Editors get a JSON Schema that knows what the reader knows."""

from __future__ import annotations

import json
import random

import jsonschema
import pytest
import yaml
from profile_support import schema_errors

from tieredllm.engine.retry import backoff_s
from tieredllm.files import shipped
from tieredllm.profile.schema import Backoff, profile_schema

SHIPPED = sorted(shipped("profiles").glob("*.yaml"))


@pytest.fixture(scope="module")
def schema():
    return json.loads(json.dumps(profile_schema()))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_profiles_are_valid(schema, path):
    """Every profile that ships fits the schema."""
    values = yaml.safe_load(path.read_text(encoding="utf-8"))

    assert schema_errors(values, schema, schema) == []


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_profiles_are_valid_to_a_full_validator(schema, path):
    """The same to the reference validator for Python."""
    jsonschema.Draft202012Validator(schema).validate(yaml.safe_load(path.read_text()))


@pytest.mark.parametrize(
    ("values", "errors"),
    [
        ({}, ["$: lacks tiers"]),
        ({"tiers": []}, ["$.tiers: too few"]),
        ({"tiers": [{"name": "a"}]}, ["$.tiers[0]: lacks provider"]),
        ({"extends": "default", "tiers": [{"name": "a"}]}, []),
        ({"extends": "default"}, []),
        ({"extends": "default", "health": {"min_requests": 0}}, ["$.health.min_requests: below 1"]),
        ({"extends": "default", "colour": 1}, ["$: unknown colour"]),
        ({"extends": "default", "deadline_s": 0}, ["$.deadline_s: not above 0"]),
        (
            {"extends": "x", "tiers": [{"name": "a", "tools": "some"}]},
            ["$.tiers[0].tools: none of the choices"],
        ),
        (
            {
                "tiers": [{"name": "a", "provider": "rules"}],
                "notifications": {"email": {"host": "h"}},
            },
            ["$.notifications.email: none of the choices"],
        ),
        ({"extends": "x", "notifications": {"email": {"port": 25}}}, []),
    ],
)
def test_mistakes_are_seen(schema, values, errors):
    """Required keys are required where nothing is inherited; types and ranges always count."""
    assert schema_errors(values, schema, schema) == errors


def test_every_key_is_described(schema):
    """An editor can say of each key what it means, in the words of the source."""
    structs = {"the profile": schema, **schema["$defs"]}
    lacking = [
        f"{name}.{key}"
        for name, struct in structs.items()
        for key, field in struct["properties"].items()
        if not field.get("description")
    ]

    assert lacking == []
    assert schema["$defs"]["Email"]["properties"]["from"]["description"] == "The sender's address."
    assert schema["$defs"]["Backoff"]["description"].startswith("How the wait")


def test_the_first_wait_is_described_as_it_is(schema):
    """The default wait before the first retry, without jitter, stands in the description."""
    first = Backoff().base_s * Backoff().factor
    described = schema["$defs"]["Backoff"]["properties"]["base_s"]["description"]

    assert backoff_s(Backoff(jitter_s=0), 1, random.Random(0)) == first
    assert f"({first:g} s by default)" in described
