"""Declare tools so that each vendor accepts them: one bad schema fails a whole request.

Tools come with whatever schemas their servers write. Here they are made such that every vendor
takes them; what is lost thereby (that one of two sets of arguments is wanted, say) is lost to the
model alone, as arguments are checked against the tool's own schema before it runs. Keys that had
to be renamed are given back to the tool as it knows them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import unquote

import msgspec
from msgspec import UNSET

from tieredllm.lenient_json import NotJsonError, decode
from tieredllm.providers.tool_calls import told_name
from tieredllm.types import ToolCall, ToolDeclaration

__all__ = ["AdaptedTools", "SchemaRules", "adapt_tools", "rules_of", "select_tools"]


class SchemaRules(msgspec.Struct, frozen=True, kw_only=True):
    """What a vendor demands beyond a valid schema of an object."""

    max_tools: int | None = None
    """The most tools of one request."""
    combinators_at_root: bool = True
    """Whether `oneOf`, `anyOf`, `allOf`, `enum` and `not` may stand at the top."""
    keys: re.Pattern[str] | None = None
    """What the names of arguments match, at any depth."""
    references: bool = True
    """Whether `$ref` into the schema's own definitions is followed whatever stands beside it."""


_OPENAI = SchemaRules(max_tools=128, combinators_at_root=False)
_RULES = {
    # "Invalid 'tools': array too long. Expected an array with maximum length 128" and "schema must
    # have type 'object' and not have 'oneOf'/'anyOf'/'allOf'/'enum'/'not' at the top level"
    # (zed-industries/zed#32946, anomalyco/opencode#46628).
    "openai": _OPENAI,
    # "input_schema does not support oneOf, allOf, or anyOf at the top level" and "Property keys
    # should match pattern '^[a-zA-Z0-9_.-]{1,64}$'" (anthropics/claude-code#40075, #79418).
    "anthropic": SchemaRules(combinators_at_root=False, keys=re.compile(r"^[a-zA-Z0-9_.-]{1,64}$")),
    # "$ref" takes nothing but description and default beside it, and "$defs" only at the root
    # (anomalyco/opencode#12295, google-gemini/gemini-cli#13326).
    "gemini": SchemaRules(references=False),
}

_TYPES = frozenset({"string", "number", "integer", "boolean", "object", "array", "null"})
_BRANCHES = ("allOf", "anyOf", "oneOf")
_ONE_SCHEMA = frozenset(
    {
        *("additionalProperties", "contains", "else", "if", "items", "not", "propertyNames"),
        *("then", "unevaluatedItems", "unevaluatedProperties"),
    }
)
_SCHEMAS = frozenset({*_BRANCHES, "prefixItems"})
_NAMED_SCHEMAS = frozenset(
    {"$defs", "definitions", "dependentSchemas", "patternProperties", "properties"}
)
_COUNTS = (
    *("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"),
    *("minContains", "maxContains"),
)
_VALUES: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("title", "description", "pattern", "format", "$comment"), str),
    **dict.fromkeys(_COUNTS, int),
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), (int, float)),
    **dict.fromkeys(("multipleOf",), (int, float)),
    **dict.fromkeys(("uniqueItems", "deprecated", "readOnly", "writeOnly"), bool),
    **dict.fromkeys(("enum", "examples"), list),
    "dependentRequired": dict,
}
"""What the value of a keyword is; draft 2020-12, https://json-schema.org/draft/2020-12/schema."""
_DEFINITIONS = frozenset({"$defs", "definitions"})
_IDENTITY = frozenset(
    {
        *("$schema", "$id", "id", "$anchor", "$dynamicAnchor", "$vocabulary"),
        *("$dynamicRef", "$recursiveRef", "$recursiveAnchor"),
    }
)
"""Says where a schema is from, or leads there; "Unknown name "$schema" at 'tools[0]…'" (Gemini)."""
_PLAIN_REFERENCE = re.compile(r"#/(\$defs|definitions)/[\w.-]+$")
"""What every vendor that follows references can follow."""

MAX_NODES = 5000
"""The most parts of one schema; beyond it references are left open instead of being followed."""


MAX_FOLDS = 4
"""How deep combinators within combinators are merged at the top."""


class AdaptedTools(msgspec.Struct, frozen=True, kw_only=True):
    """Tools as a vendor takes them."""

    tools: tuple[ToolDeclaration, ...] = ()
    renamed: Mapping[str, Mapping[str, str]] = {}
    """For each tool with renamed arguments: their names here, and those the tool knows."""
    names: Mapping[str, str] = {}
    """The names of the tools here, and their own."""

    def restore(self, calls: Sequence[ToolCall]) -> tuple[ToolCall, ...]:
        """Return a model's calls with tools and arguments named as their owners know them."""
        return tuple(
            msgspec.structs.replace(
                _restored(call, self.renamed.get(call.name)),
                name=self.names.get(call.name, call.name),
            )
            for call in calls
        )


def rules_of(provider: str) -> SchemaRules:
    """Return what a provider's servers demand."""
    return _RULES.get(provider, _OPENAI)


def select_tools(
    tools: Sequence[ToolDeclaration], rules: SchemaRules, *, called: Iterable[str] = ()
) -> tuple[ToolDeclaration, ...]:
    """Return as many tools as a vendor takes: those that were called already, and the first.

    Args:
        tools: what there is, in the order of the profile.
        rules: the vendor's.
        called: the names of tools the conversation has called.
    """
    if rules.max_tools is None or len(tools) <= rules.max_tools:
        return tuple(tools)
    names = set(called)
    first = sorted(tools, key=lambda tool: tool.name not in names)
    chosen = {tool.name for tool in first[: rules.max_tools]}
    return tuple(tool for tool in tools if tool.name in chosen)


def adapt_tools(tools: Sequence[ToolDeclaration], rules: SchemaRules) -> AdaptedTools:
    """Make the declarations of tools acceptable.

    Args:
        tools: as their servers declare them.
        rules: the vendor's.
    """
    adapted, renamed = [], {}
    for tool in tools:
        mender = _Mender(tool.parameters, rules)
        try:
            parameters, note = mender.root()
        except RecursionError:  # nested a thousand levels deep: nobody means that
            parameters, note = {"type": "object", "properties": {}}, ""
        description = f"{tool.description}\n{note}" if note else tool.description
        name = told_name(tool.name)
        adapted.append(
            msgspec.structs.replace(tool, name=name, parameters=parameters, description=description)
        )
        if mender.renamed:
            renamed[name] = {new: old for old, new in mender.renamed.items()}
    names = {told_name(tool.name): tool.name for tool in tools}
    return AdaptedTools(tools=tuple(adapted), renamed=renamed, names=names)


class _Mender:
    """Make one schema acceptable.

    Args:
        schema: a tool's own.
        rules: the vendor's.
    """

    def __init__(self, schema: Mapping[str, Any], rules: SchemaRules) -> None:
        self._schema = schema
        self._rules = rules
        self._left = MAX_NODES
        self.renamed: dict[str, str] = {}
        """The names of arguments that were changed, and what they are here."""

    def root(self) -> tuple[dict[str, Any], str]:
        """Return the schema, and a remark for the model on what it could not say."""
        schema = self._resolved(dict(self._schema))
        note = ""
        if not self._rules.combinators_at_root:
            schema, note = self._fold(schema)
            schema = {key: it for key, it in schema.items() if key not in {"enum", "not", "const"}}
        mended = self._schema_of({**schema, "type": "object"}, ())
        properties = mended.pop("properties", {})
        return {"type": "object", "properties": properties, **mended}, note

    def _fold(self, schema: dict[str, Any], depth: int = 0) -> tuple[dict[str, Any], str]:
        """Merge what is combined at the top into one set of arguments."""
        given = {key: it for key, it in schema.items() if key not in _BRANCHES}
        properties = dict(_mapping(given.get("properties")))
        required = list(_names(given.get("required")))
        notes = []
        for word in _BRANCHES:
            listed = schema.get(word)
            branches = [
                self._fold(self._resolved(dict(branch)), depth + 1)[0]
                for branch in (listed if isinstance(listed, list) and depth < MAX_FOLDS else ())
                if isinstance(branch, dict)
            ]
            if not branches:
                continue
            for branch in branches:
                for name, described in _mapping(branch.get("properties")).items():
                    known = properties.setdefault(name, described)
                    if known != described and word != "allOf":
                        properties[name] = _either(known, described)
            wanted = [_names(branch.get("required")) for branch in branches]
            if word == "allOf":
                required += [name for names in wanted for name in names]
            else:
                required += [name for name in wanted[0] if all(name in names for names in wanted)]
                choices = " | ".join(", ".join(names) or "nothing more" for names in wanted)
                some = "exactly one" if word == "oneOf" else "at least one"
                notes.append(f"Needs {some} of these sets of arguments: {choices}.")
        if properties:
            given["properties"] = properties
        if required:
            given["required"] = list(dict.fromkeys(required))
        return given, " ".join(notes)

    def _schema_of(self, node: Any, within: tuple[str, ...]) -> dict[str, Any]:
        """Return one schema; what is none takes anything."""
        self._left -= 1
        if node is False:
            return {"not": {}}
        if not isinstance(node, dict):
            return {}
        reference = node.get("$ref")
        if reference is not None:
            return self._referred(node, reference, within)
        result: dict[str, Any] = {}
        for key in node:
            if key in _IDENTITY or (key in _DEFINITIONS and not self._rules.references):
                continue
            mended = self._keyword(node, key, within)
            if mended is not UNSET:
                result[key] = mended
        return _completed(node, result)

    def _keyword(self, node: Mapping[str, Any], key: str, within: tuple[str, ...]) -> Any:
        """Return a keyword's value; UNSET to leave it out."""
        value = node[key]
        mended: Any = UNSET
        if key == "type":
            mended = _type(value) or UNSET
        elif key == "required":
            known = _mapping(node.get("properties"))
            mended = list(dict.fromkeys(self._name(it, known) for it in _names(value))) or UNSET
        elif key in _NAMED_SCHEMAS:
            mended = UNSET if not isinstance(value, dict) else self._named(key, value, within)
        elif key in _SCHEMAS or (key == "items" and isinstance(value, list)):
            listed = value if isinstance(value, list) else []
            mended = [self._schema_of(item, within) for item in listed] or UNSET
        elif key in _ONE_SCHEMA:
            mended = value if isinstance(value, bool) else self._schema_of(value, within)
        elif _is_valid(key, value):
            mended = value
        return mended

    def _named(self, key: str, value: dict[str, Any], within: tuple[str, ...]) -> dict[str, Any]:
        keys = {name: self._name(name, value) if key == "properties" else name for name in value}
        return {keys[name]: self._schema_of(it, within) for name, it in value.items()}

    def _name(self, name: str, beside: Mapping[str, Any]) -> str:
        """Return an argument's name as the vendor takes it."""
        if self._rules.keys is None or self._rules.keys.match(name):
            return name
        if name not in self.renamed:
            # Twilio's `StartTime<` and `StartTime>` stay two that can be told apart.
            spelled = name.replace("<", "_lt").replace(">", "_gt")
            plain = re.sub(r"[^a-zA-Z0-9_.-]", "_", spelled)[:56] or "_"
            taken = {*beside, *self.renamed.values()}
            number, new = 1, plain
            while new in taken:
                number += 1
                new = f"{plain}_{number}"
            self.renamed[name] = new
        return self.renamed[name]

    def _referred(
        self, node: Mapping[str, Any], reference: Any, within: tuple[str, ...]
    ) -> dict[str, Any]:
        """Return what a reference stands for: itself, where the vendor follows it."""
        rest = {key: it for key, it in node.items() if key != "$ref"}
        target = self._target(reference)
        if target is None:
            return self._schema_of(rest, within)
        if self._rules.references and _PLAIN_REFERENCE.match(reference):
            return {"$ref": reference, **self._schema_of(rest, within)}
        if reference in within or self._left <= 0:
            # It contains itself: what is deeper is left open.
            kind = _type(target.get("type"))
            return {**({"type": kind} if kind == "object" else {}), **self._schema_of(rest, within)}
        inner = self._schema_of(target, (*within, reference))
        return {**inner, **self._schema_of(rest, within)}

    def _resolved(self, schema: dict[str, Any]) -> dict[str, Any]:
        """Follow a reference at the top."""
        for _ in range(8):
            target = self._target(schema.get("$ref"))
            if target is None:
                break
            schema = {**target, **{key: it for key, it in schema.items() if key != "$ref"}}
        return {key: it for key, it in schema.items() if key != "$ref"}

    def _target(self, reference: Any) -> dict[str, Any] | None:
        """Return what a reference into the schema itself points to; None where there is nothing."""
        if not isinstance(reference, str):
            return None
        own = self._schema.get("$id")
        pointer = reference.removeprefix(own) if isinstance(own, str) else reference
        if pointer != "#" and not pointer.startswith("#/"):
            return None
        node: Any = self._schema
        for step in unquote(pointer).split("/")[1:]:  # RFC 6901, 6
            name = step.replace("~1", "/").replace("~0", "~")
            if isinstance(node, dict):
                node = node.get(name)
            elif isinstance(node, list) and name.isdecimal() and int(name) < len(node):
                node = node[int(name)]
            else:
                return None
        return node if isinstance(node, dict) else None


def _completed(node: Mapping[str, Any], result: dict[str, Any]) -> dict[str, Any]:
    """Add what some vendor misses, and write old drafts' forms as the newest has them."""
    if isinstance(node.get("items"), list):
        result["prefixItems"] = result.pop("items", None) or [{}]
    for limit in ("minimum", "maximum"):
        exclusive = "exclusive" + limit.capitalize()
        if node.get(exclusive) is True and limit in result:
            result[exclusive] = result.pop(limit)
    kinds = result.get("type")
    if kinds == "array" or (isinstance(kinds, list) and "array" in kinds):
        # "array schema missing items" (OpenAI)
        result.setdefault("items", {})
    return {key: it for key, it in result.items() if key != "additionalItems"}


def _is_valid(key: str, value: Any) -> bool:
    """Whether a keyword that holds no schema has a value of its type."""
    wanted = _VALUES.get(key)
    if wanted is None:
        return True
    if isinstance(value, bool) and wanted is not bool:
        return False
    if not isinstance(value, wanted) or (key == "enum" and not value):
        return False
    if not isinstance(value, int | float) or isinstance(value, bool):
        return True
    lowest_is_out = (key in _COUNTS and value < 0) or (key == "multipleOf" and value <= 0)
    return math.isfinite(value) and not lowest_is_out


def _type(value: Any) -> str | list[str] | None:
    if isinstance(value, str):
        kind = value.lower()  # Google's own are capitals
        return kind if kind in _TYPES else None
    if isinstance(value, list):
        kinds = dict.fromkeys(it.lower() for it in _names(value))
        return [it for it in kinds if it in _TYPES] or None
    return None


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _names(value: Any) -> list[str]:
    return [it for it in value if isinstance(it, str)] if isinstance(value, list) else []


def _either(one: Any, other: Any) -> dict[str, Any]:
    choices = one["anyOf"] if isinstance(one, dict) and [*one] == ["anyOf"] else [one]
    return {"anyOf": choices if other in choices else [*choices, other]}


def _restored(call: ToolCall, names: Mapping[str, str] | None) -> ToolCall:
    if not names:
        return call
    try:
        arguments = _rename(decode(call.arguments), names)
    except NotJsonError:
        return call
    return msgspec.structs.replace(call, arguments=msgspec.json.encode(arguments).decode())


def _rename(value: Any, names: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {names.get(key, key): _rename(it, names) for key, it in value.items()}
    if isinstance(value, list):
        return [_rename(it, names) for it in value]
    return value
