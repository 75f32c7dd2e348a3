"""Declarations of tools: whatever a server writes, each vendor takes it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator
from tool_wire_support import calling
from wire_support import ask, call, response, stream

from tieredllm.providers.tool_schema import adapt_tools, rules_of, select_tools
from tieredllm.types import ToolDeclaration

REAL = json.loads((Path(__file__).parent / "data" / "mcp_tools.json").read_text())
"""Tools as real servers declare them, their descriptions cut; the packages are named in it."""

CHILD = {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}}}
ODD = {
    "nothing": {},
    "no properties": {"type": "object"},
    "properties that are null": {"type": "object", "properties": None},
    "oneOf at the top": {
        "type": "object",
        "oneOf": [{"properties": {"a": {}}, "required": ["a"]}, {"properties": {"b": {}}}],
    },
    "allOf of references": {
        "allOf": [{"$ref": "#/definitions/x"}, {"required": ["a"]}],
        "definitions": {"x": {"properties": {"a": {"type": "string"}}}},
    },
    "enum, const, not at the top": {"type": "object", "enum": [{}], "not": {}, "const": {}},
    "illegal names": {"properties": {"a<": {}, "x y": {}, "größe": {}, "$.x": {}}},
    "illegal names within": {"properties": {"o": {"properties": {"n" * 70: {}, "n<": {}}}}},
    "array without items": {"properties": {"a": {"type": "array"}, "b": {"type": ["array"]}}},
    "array of a tuple": {"properties": {"a": {"type": "array", "items": [{"type": "string"}]}}},
    "unknown types": {"properties": {"a": {"type": "any"}, "b": {"type": ["str", "null"]}}},
    "required that is no list": {"properties": {"a": {"required": True}}, "required": "a"},
    "a draft of 2010": {
        "$schema": "http://json-schema.org/draft-04/schema#",
        "id": "x",
        "properties": {"a": {"type": "number", "minimum": 0, "exclusiveMinimum": True}},
    },
    "an enum of nothing": {"properties": {"a": {"enum": []}, "b": {"enum": "x"}}},
    "counts that are texts": {"properties": {"a": {"type": "string", "maxLength": "3"}}},
    "a reference beside others": {
        "properties": {"a": {"$ref": "#/$defs/x", "title": "A", "minLength": 1}},
        "$defs": {"x": {"type": "string"}},
    },
    "a reference into properties": {
        "properties": {"a": {"type": "string"}, "b": {"$ref": "#/properties/a"}}
    },
    "references that are escaped": {
        "properties": {"a": {"$ref": "#/$defs/X%3Cy%3E"}, "b": {"$ref": "#/$defs/p~1q"}},
        "$defs": {"X<y>": {"type": "string"}, "p/q": {"type": "string"}},
    },
    "references by an anchor": {
        "$recursiveAnchor": True,
        "properties": {
            "a": {"$ref": "#x"},
            "b": {"$recursiveRef": "#"},
            "c": {"$dynamicRef": "#x"},
        },
        "$defs": {"x": {"$anchor": "x"}},
    },
    "numbers that are none": {
        "properties": {"a": {"maximum": float("inf"), "multipleOf": 0, "minLength": -1}}
    },
    "a reference to elsewhere": {"properties": {"a": {"$ref": "https://example.com/x.json"}}},
    "a reference to nowhere": {"properties": {"a": {"$ref": "#/$defs/none"}}},
    "itself": {"properties": {"a": {"$ref": "#"}}},
    "itself combined": {"anyOf": [{"$ref": "#"}]},
    "a list of nodes": {"properties": {"a": {"$ref": "#/$defs/node"}}, "$defs": {"node": CHILD}},
    "definitions within": {
        "properties": {"a": {"$ref": "#/$defs/y", "$defs": {"y": {"type": "string"}}}}
    },
    "truth": {"properties": {"a": True, "b": False, "c": None}},
}


def adapted(schema, vendor):
    """Make one tool with a schema acceptable; give it."""
    tool = ToolDeclaration(name="it", description="", parameters=schema)
    return adapt_tools([tool], rules_of(vendor))


def schemas(node, *, top=True):
    """Give every schema within one, itself first, and whether it is the top."""
    if not isinstance(node, dict):
        return
    yield node, top
    for key, value in node.items():
        if key in {"properties", "$defs", "definitions", "patternProperties"}:
            for inner in (value or {}).values():
                yield from schemas(inner, top=False)
        elif key in {"anyOf", "oneOf", "allOf", "prefixItems"}:
            for inner in value:
                yield from schemas(inner, top=False)
        elif key in {"items", "additionalProperties", "not", "if", "then", "else"}:
            yield from schemas(value, top=False)


def what_openai_says(schema):
    """Check as OpenAI does functions that are not strict, in its words."""
    for node, top in schemas(schema):
        kinds = node.get("type")
        if top and (kinds != "object" or "properties" not in node):
            return "object schema missing properties"
        if top and {"oneOf", "anyOf", "allOf", "enum", "not"} & node.keys():
            return "must not have combinators at the top level"
        if (kinds == "array" or (isinstance(kinds, list) and "array" in kinds)) and (
            "items" not in node
        ):
            return "array schema missing items"
    return None


def what_anthropic_says(schema):
    """Check as Anthropic does, in its words."""
    if schema.get("type") != "object":
        return "input_schema.type: Field required"
    if {"oneOf", "allOf", "anyOf"} & schema.keys():
        return "input_schema does not support oneOf, allOf, or anyOf at the top level"
    for node, _ in schemas(schema):
        for name in node.get("properties") or {}:
            if not re.fullmatch(r"[a-zA-Z0-9_.-]{1,64}", name):
                return "Property keys should match pattern"
    return None


def what_gemini_says(schema):
    """Check as Google does `parametersJsonSchema`, in its words."""
    for node, top in schemas(schema):
        if "$ref" in node and node.keys() - {"$ref", "description", "default"}:
            return "$ref beside other keys"
        if not top and "$defs" in node:
            return "reference to undefined schema"
        if "$schema" in node:
            return 'Unknown name "$schema"'
    return None


SAID = {
    "openai": what_openai_says,
    "anthropic": what_anthropic_says,
    "gemini": what_gemini_says,
}


@pytest.mark.parametrize("vendor", SAID)
@pytest.mark.parametrize("tool", REAL, ids=lambda tool: tool["name"])
def test_real_servers_tools_are_accepted(tool, vendor):
    """Schemas of real servers pass each vendor's rules and the newest draft's."""
    [declared] = adapted(tool["inputSchema"], vendor).tools

    Draft202012Validator.check_schema(declared.parameters)
    assert SAID[vendor](declared.parameters) is None


@pytest.mark.parametrize("vendor", SAID)
@pytest.mark.parametrize("schema", ODD.values(), ids=ODD)
def test_odd_schemas_are_accepted(schema, vendor):
    """Each class of schema that took a tier away is made one that passes."""
    [declared] = adapted(schema, vendor).tools

    Draft202012Validator.check_schema(declared.parameters)
    assert SAID[vendor](declared.parameters) is None
    assert not re.search(r'"\$ref": "(https|#/\$defs/none)', json.dumps(declared.parameters))


def test_the_rules_above_mean_something():
    """Unchanged, some of the schemas fail each vendor's rules."""
    for said in SAID.values():
        assert any(said(schema) for schema in [*ODD.values(), *(it["inputSchema"] for it in REAL)])


@pytest.mark.parametrize("vendor", SAID)
def test_a_good_schema_stays_as_it_is(vendor):
    """Nothing is changed that needs no change."""
    schema = {
        "type": "object",
        "properties": {
            "a": {"type": ["string", "null"], "pattern": "^x", "default": None},
            "b": {"type": "array", "items": {"type": "integer", "minimum": 0}, "uniqueItems": True},
            "c": {"anyOf": [{"const": 1}, {"enum": ["x"]}]},
        },
        "required": ["a"],
        "additionalProperties": False,
    }

    assert adapted(schema, vendor).tools[0].parameters == schema


def test_what_is_combined_at_the_top_is_merged():
    """All arguments are there; the model is told which belong together."""
    schema = {
        "properties": {"x": {"type": "string"}},
        "required": ["x"],
        "oneOf": [
            {
                "properties": {"id": {"type": "integer"}, "n": {"type": "string"}},
                "required": ["id"],
            },
            {"properties": {"n": {"type": "null"}}, "required": ["n"]},
        ],
    }
    [declared] = adapted(schema, "openai").tools

    assert declared.parameters == {
        "type": "object",
        "properties": {
            "x": {"type": "string"},
            "id": {"type": "integer"},
            "n": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        },
        "required": ["x"],
    }
    assert "exactly one of these sets of arguments: id | n" in declared.description
    assert adapted(schema, "gemini").tools[0].parameters["oneOf"] == schema["oneOf"]


@pytest.mark.parametrize("vendor", SAID)
def test_references_are_followed_however_they_are_written(vendor):
    """Escaped references, and those by the schema's own address, lead where they point."""
    schema = {
        "$id": "https://x.test/s.json",
        "properties": {
            "a": {"$ref": "#/$defs/X%3Cy%3E"},
            "b": {"$ref": "https://x.test/s.json#/$defs/z"},
            "c": {"$ref": "#z", "type": "STRING"},
        },
        "$defs": {"X<y>": {"type": "string"}, "z": {"$anchor": "z", "type": "integer"}},
    }
    [declared] = adapted(schema, vendor).tools

    assert declared.parameters["properties"] == {
        "a": {"type": "string"},
        "b": {"type": "integer"},
        "c": {"type": "string"},
    }


def test_renamed_arguments_come_back_under_their_own_names():
    """A model's call has the names the tool knows, at any depth; the others stay."""
    schema = {
        "properties": {
            "Start<": {"type": "string"},
            "Start>": {"type": "string"},
            "Start_lt": {"type": "string"},
            "list": {"type": "array", "items": {"properties": {"grö<e": {"type": "integer"}}}},
        },
        "required": ["Start<"],
    }
    [declared] = adapted(schema, "anthropic").tools
    given = {"Start_lt_2": "1", "Start_gt": "2", "Start_lt": "3", "list": [{"gr__lte": 4}]}
    reply = stream(*calling("anthropic", ("call_1", "it", given)))
    tool = ToolDeclaration(name="it", description="", parameters=schema)
    outcome, server = ask("anthropic", reply, call(tools=(tool,)))

    assert list(declared.parameters["properties"]) == ["Start_lt_2", "Start_gt", "Start_lt", "list"]
    assert declared.parameters["required"] == ["Start_lt_2"]
    assert json.loads(outcome.request.calls[0].arguments) == {
        "Start<": "1",
        "Start>": "2",
        "Start_lt": "3",
        "list": [{"grö<e": 4}],
    }
    assert server.requests[0].json["tools"][0]["input_schema"] == declared.parameters


def test_of_too_many_tools_those_that_were_called_stay():
    """OpenAI takes 128: the first ones, and what the conversation has called."""
    tools = [ToolDeclaration(name=f"t{n}", description="", parameters={}) for n in range(200)]
    chosen = [tool.name for tool in select_tools(tools, rules_of("openai"), called=["t199"])]

    assert chosen == [*(f"t{n}" for n in range(127)), "t199"]
    assert select_tools(tools, rules_of("anthropic")) == tuple(tools)


TOOLS = tuple(
    ToolDeclaration(name=name, description="", parameters={"type": "object", "properties": {}})
    for name in ("now", "m__bad", "m__other")
)
OF_ONE_TOOL = [
    ("openai", "Invalid schema for function 'm__bad': In context=(), object schema missing"),
    ("openai", "Invalid 'tools[1].function.parameters': string too long"),
    ("openai", "tools[1]: this keyword is not supported"),
    ("anthropic", "tools.1.custom.input_schema: input_schema does not support oneOf, allOf, or"),
    ("anthropic", "tools.1.custom.input_schema.properties: Property keys should match pattern"),
    (
        "gemini",
        "Unknown name \"$schema\" at 'tools[0].function_declarations[1].parameters': Cannot",
    ),
    ("gemini", "* GenerateContentRequest.tools[0].function_declarations[1].name: Invalid name"),
    (
        "gemini",
        "Unable to submit request because `m__bad` functionDeclaration `parameters` schema didn't",
    ),
    ("gemini", "Duplicate function declaration found: m__bad"),
    ("openai", "Failed to compile the schema of m__bad now"),
]


@pytest.mark.parametrize(("vendor", "message"), OF_ONE_TOOL)
def test_a_rejected_tool_is_named(vendor, message):
    """A 400 about one tool is about that tool, and never about tools as such."""
    outcome, _ = ask(vendor, response(400, {"error": {"message": message}}), call(tools=TOOLS))

    assert (outcome.kind, outcome.error.tool) == ("bad_request", "m__bad")
    assert outcome.error.parameter == TOOLS[1].rejected_as
    assert outcome.error.lasting


@pytest.mark.parametrize(
    ("vendor", "message"),
    [
        ("openai", "Invalid schema for function 'elsewhere': not supported"),
        ("anthropic", "input_schema does not support oneOf at the top level of tools"),
        ("gemini", "tools[0].function_declarations[77]: keyword is not supported"),
        ("gemini", "reference to undefined schema at properties.target.anyOf.1"),
        ("openai", "JSON schema conversion failed:\nPattern must start with '^' and end with '$'"),
        ("openai", "Invalid 'tools': array too long. Expected maximum length 2, but got length 3."),
        ("anthropic", "tools: Tool names must be unique."),
    ],
)
def test_a_rejected_tool_that_nobody_names_is_not_remembered(vendor, message):
    """Tools are left out of this request, and tried again in the next one."""
    outcome, _ = ask(vendor, response(400, {"error": {"message": message}}), call(tools=TOOLS))

    assert (outcome.error.parameter, outcome.error.lasting) == ("tools", False)
    assert outcome.error.tool is None


def test_the_schema_of_an_answer_is_no_tools():
    """What is said of the answer's own schema costs no tool."""
    message = "Invalid schema for response_format 'x': In context=(), 'required' is required"
    outcome, _ = ask("openai", response(400, {"error": {"message": message}}), call(tools=TOOLS))

    assert (outcome.error.tool, outcome.error.parameter) == (None, None)


def test_a_changed_tool_is_not_the_rejected_one():
    """What is remembered of a tool holds for the declaration that was rejected."""
    tool = ToolDeclaration(name="it", description="", parameters={"a": 1})
    same = ToolDeclaration(name="it", description="", parameters={"a": 1})
    other = ToolDeclaration(name="it", description="", parameters={"a": 2})

    assert tool.rejected_as == same.rejected_as != other.rejected_as
