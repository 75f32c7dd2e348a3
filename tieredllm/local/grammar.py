"""Hold a local model's answer to a JSON Schema with a grammar of llama.cpp.

The grammar is a help, not the proof: every answer is validated against the schema itself
(`engine/shape.py`). What llama-cpp-python's converter gets wrong (findings/, its
`llama-cpp-python-json-schema.sh`) is taken out of the schema first, so that the grammar never
*forbids* a right answer nor forces a wrong one; it then allows more than the schema does.
"""

from __future__ import annotations

import functools
import importlib.util
import json
from types import ModuleType
from typing import Any

__all__ = ["grammar_of"]

UNSAFE = frozenset(
    {"pattern", "format", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}
    | {"multipleOf", "$schema", "$id", "$comment", "default", "examples", "title", "description"}
)
"""Keywords that are left out: `pattern` (a bare quotation mark passes, `\\d` cannot be read), and
those that the converter leaves out itself."""
ANY_VALUE = {"allOf", "not", "if", "then", "else", "dependentSchemas", "patternProperties"}
"""Keywords whose schema is taken for any value: with `allOf` optional keys become required."""
GENERIC = r"""
root ::= object | array | string | number | ("true" | "false" | "null") ws
value ::= object | array | string | number | ("true" | "false" | "null") ws
object ::= "{" ws (string ":" ws value ("," ws string ":" ws value)*)? "}" ws
array ::= "[" ws (value ("," ws value)*)? "]" ws
string ::= "\"" ([^"\\\x7F\x00-\x1F] | "\\" (["\\bfnrt/] | "u" [0-9a-fA-F]{4}))* "\"" ws
number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9] [1-9]{0,15})? ws
ws ::= | " " | "\n" [ \t]{0,20}
"""
"""Any JSON value (grammars/json.gbnf of llama.cpp, and its bound on blanks)."""


def grammar_of(schema: dict[str, Any]) -> str:
    """Return the grammar of the JSON texts that a schema allows, or of somewhat more."""
    try:
        grammar: str = _converter().json_schema_to_gbnf(json.dumps(_safe(schema)))
    except Exception:  # noqa: BLE001 - whatever a converter cannot take is validated all the same
        return GENERIC
    return grammar


@functools.cache
def _converter() -> ModuleType:
    """Load llama-cpp-python's converter alone: the package around it brings numpy and more."""
    package = importlib.util.find_spec("llama_cpp")
    assert package is not None  # noqa: S101 - a model of it is about to be asked
    file = f"{(package.submodule_search_locations or [''])[0]}/llama_grammar.py"
    spec = importlib.util.spec_from_file_location("tieredllm_llama_grammar", file)
    assert spec is not None  # noqa: S101 - it is a .py file
    assert spec.loader is not None  # noqa: S101
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _safe(schema: Any) -> Any:
    """Return a schema without what the converter gets wrong."""
    if isinstance(schema, list):
        return [_safe(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if ANY_VALUE & schema.keys():
        return {}
    values = [*schema.get("enum", []), *([schema["const"]] if "const" in schema else [])]
    if any(_is_unsafe(value) for value in values):
        return {"type": "string"} if all(isinstance(value, str) for value in values) else {}
    if schema.get("type") == "object" and schema.get("additionalProperties") is True:
        return {}  # the converter would forbid the others
    safe = {}
    for key, value in schema.items():
        if key in UNSAFE:
            continue
        if key in {"properties", "$defs", "definitions"} and isinstance(value, dict):
            safe[key] = {name: _safe(each) for name, each in value.items()}
        elif key in {"enum", "const", "required", "type"}:
            safe[key] = value
        else:
            safe[key] = _safe(value)
    return safe


def _is_unsafe(value: Any) -> bool:
    """Return whether a value would not be escaped for the grammar."""
    return any(c in '"\\' or ord(c) < 0x20 for c in json.dumps(value, ensure_ascii=False)[1:-1])
