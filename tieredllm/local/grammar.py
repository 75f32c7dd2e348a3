"""Hold a local model's answer to a JSON Schema with a grammar of llama.cpp.

The grammar is a help, not the proof: every answer is validated against the schema itself
(`engine/shape.py`). What llama-cpp-python's converter gets wrong (findings/, its
`llama-cpp-python-json-schema.sh`) is taken out of the schema first, so that the grammar always
leaves a right answer and forces no wrong one; it then allows more than the schema does.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import math
import re
from collections.abc import Callable
from types import ModuleType
from typing import Any

__all__ = ["grammar_of"]

NOT_CONVERTED = frozenset(
    {"allOf", "not", "if", "then", "else", "dependentSchemas", "dependentRequired", "dependencies"}
    | {"patternProperties", "$dynamicRef", "$recursiveRef"}
)
"""Keywords beside which only the type counts: with `allOf` optional keys become required, the
converter knows none of the others."""
CHOICES = frozenset({"enum", "const", "anyOf", "oneOf", "$ref"})
"""Keywords of which the converter takes one, and no notice of what stands beside it."""
BESIDE = frozenset({"properties", "required", "additionalProperties", "items", "prefixItems"})
BOUNDS = ("minLength", "maxLength", "minItems", "maxItems")
MAX_BOUND = 1000
"""llama.cpp reads no grammar with some 2,000 repeats (`MAX_REPETITION_THRESHOLD` of
src/llama-grammar.cpp), and prints the whole of it on stderr."""
LEAST: dict[str, Callable[[float], int]] = {
    "minimum": math.ceil,
    "exclusiveMinimum": lambda bound: math.floor(bound) + 1,
}
MOST: dict[str, Callable[[float], int]] = {
    "maximum": math.floor,
    "exclusiveMaximum": lambda bound: math.ceil(bound) - 1,
}
"""Bounds, and which whole number each still allows."""
MAX_NUMBERS = 1000
"""As many whole numbers are listed one by one: the converter takes no notice of their bounds."""
ANY = {"type": ["object", "array", "string", "number", "boolean", "null"]}
"""Any JSON value; the converter takes `{}` for an object."""
REFERENCE = re.compile(r"#/(\$defs|definitions)/([^/%~]+)")
CHARACTER = r"""[^"\\\x7F\x00-\x1F] | "\\" (["\\/bfnrt] | "u" [0-9a-fA-F]{4})"""
"""A character of a string (grammars/json.gbnf of llama.cpp); the converter's may be a line end."""
JSON = rf"""
root ::= (object | array | string | number | "true" | "false" | "null") space
object ::= "{{" space (pair ("," space pair)*)? "}}"
pair ::= string space ":" space root
array ::= "[" space (root ("," space root)*)? "]"
string ::= "\"" ({CHARACTER})* "\""
number ::= "-"? ("0" | [1-9] [0-9]*) ("." [0-9]+)? ([eE] [-+]? [0-9]+)?
space ::= | " " | "\n" [ \t]{{0,20}}
"""
"""Any JSON text (RFC 8259), where there is no better grammar."""


def grammar_of(schema: Any) -> str:
    """Return the grammar of the JSON texts that a schema allows, or of somewhat more."""
    try:
        return str(_converter().json_schema_to_gbnf(json.dumps(_safe(schema))))
    except Exception:  # noqa: BLE001 - whatever a converter cannot take is validated all the same
        return JSON


@functools.cache
def _converter() -> ModuleType:
    """Load llama-cpp-python's converter alone: the package around it brings numpy and more.

    Raises:
        AttributeError: a release has elsewhere what is set right in it here, so that its grammars
            would force wrong answers.
    """
    package = importlib.util.find_spec("llama_cpp")
    assert package is not None  # noqa: S101 - a model of it is about to be asked
    file = f"{(package.submodule_search_locations or [''])[0]}/llama_grammar.py"
    spec = importlib.util.spec_from_file_location("tieredllm_llama_grammar", file)
    assert spec is not None  # noqa: S101 - it is a .py file
    assert spec.loader is not None  # noqa: S101
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    converter, rules = module.SchemaConverter, module.PRIMITIVE_RULES
    if not hasattr(converter, "_format_literal") or "char" not in rules:
        raise AttributeError("the converter has neither `_format_literal` nor `char` where it had")
    converter._format_literal = lambda _, text: _literal(text)  # noqa: SLF001
    rules["char"] = module.BuiltinRule(CHARACTER, [])
    return module


def _literal(text: str) -> str:
    """Return a JSON text as a grammar has it, without the escapes that JSON can do without."""
    shortest = json.dumps(json.loads(text), ensure_ascii=False)
    # A surrogate alone is written as in JSON: nothing else can have it.
    written = shortest.encode("utf-8", "backslashreplace").decode()
    escaped = written.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _safe(schema: Any) -> Any:
    r"""Return a schema that the converter gets right, and that allows no less.

    Of other keywords it leaves some out itself (`minimum`, `description`), and gets others wrong: a
    bare quotation mark passes a `pattern`, in which `\d` cannot be read.
    """
    if isinstance(schema, list):
        return [_safe(each) for each in schema]
    if not isinstance(schema, dict):
        return ANY
    by_type = {"type": schema["type"]} if "type" in schema else ANY
    safe: dict[str, Any] = {}
    for key, value in schema.items():
        if key in {"$defs", "definitions"}:
            safe[key] = {_rule_name(name): _safe(each) for name, each in value.items()}
    choices = CHOICES & schema.keys()
    if NOT_CONVERTED & schema.keys() or len(choices) > 1 or (choices and BESIDE & schema.keys()):
        return safe | by_type
    if schema.get("type") == "integer" and not choices and (numbers := _numbers(schema)):
        return safe | {"enum": numbers}
    for key, value in schema.items():
        if key in {"enum", "const", "type"}:
            safe[key] = value
        elif key in {"items", "prefixItems", "anyOf", "oneOf"}:
            safe[key] = _safe(value)
        elif key in BOUNDS and value <= MAX_BOUND:
            safe[key] = value
        elif key == "$ref":
            found = REFERENCE.fullmatch(value)
            safe |= {key: f"#/{found[1]}/{_rule_name(found[2])}"} if found else by_type
    if len(schema.get("prefixItems", ())) < schema.get("minItems", 0):
        safe.pop("prefixItems", None)  # the converter knows no items after those
    safe |= _safe_properties(schema)
    return safe if safe.keys() - {"$defs", "definitions"} else safe | ANY


def _numbers(schema: dict[str, Any]) -> list[int]:
    """Return the whole numbers within a schema's bounds; none where they are many.

    Draft 4 says with a boolean beside it whether a bound is itself allowed; here it always is.
    """
    bounds = {key: bound for key, bound in schema.items() if not isinstance(bound, bool)}
    least = [nearest(bounds[key]) for key, nearest in LEAST.items() if key in bounds]
    most = [nearest(bounds[key]) for key, nearest in MOST.items() if key in bounds]
    if not least or not most or min(most) - max(least) >= MAX_NUMBERS:
        return []
    return list(range(max(least), min(most) + 1))


def _safe_properties(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the keywords of an object; none where the converter gets them wrong."""
    properties, required = schema.get("properties", {}), schema.get("required", [])
    more = schema.get("additionalProperties")
    names = dict.fromkeys([*properties, *required])  # in their order
    if (
        (properties and more not in (None, False))  # it forbids the others, or asks for one
        or len(names) < schema.get("minProperties", 0)
        or "" in names  # it takes that for the root
    ):
        return {}
    safe: dict[str, Any] = {}
    if names:
        safe["properties"] = {name: _safe(properties.get(name, {})) for name in names}
        safe["required"] = required
    if more is not None:
        safe["additionalProperties"] = _safe(more) if isinstance(more, dict) else more
    return safe


def _rule_name(definition: str) -> str:
    """Return a name for a definition that the converter changes as little as any rule's."""
    return f"definition-{definition.encode('utf-8', 'surrogatepass').hex()}"
