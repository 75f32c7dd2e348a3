"""Describe arguments as a JSON Schema, and check arguments against it.

Arguments of the built-in tools and of Python functions are msgspec structs; what they describe, and
nothing else, is what they take. Those of MCP tools are checked against the schema of their server.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from itertools import islice
from typing import Any

import msgspec

from tieredllm.text import one_line
from tieredllm.tools.base import ArgumentsError, Check

__all__ = ["UnsuitableTypeError", "checker", "multiple_of", "schema_checker", "schema_of", "worded"]

_REFERENCE = "#/$defs/"
_PLACE = re.compile(r"^(.*) - at `(?:key in )?\$\.?([^`]*)`$", re.DOTALL)


class UnsuitableTypeError(Exception):
    """Report a type that no JSON Schema describes."""


def schema_of(struct: type[msgspec.Struct]) -> dict[str, Any]:
    """Return the JSON Schema of a struct, without references: not every vendor follows them.

    An argument that may be left out has no `null` among its types: leaving it out says the same.

    Raises:
        UnsuitableTypeError: a type in it has no schema, or contains itself.
    """
    try:
        (schema,), named = msgspec.json.schema_components(
            (struct,), ref_template=_REFERENCE + "{name}"
        )
    except TypeError as exc:
        raise UnsuitableTypeError(str(exc).strip().splitlines()[-1]) from exc
    result: dict[str, Any] = _inlined(schema, named, ())
    required = set(result.get("required", ()))
    properties = result.get("properties", {})
    for name, described in properties.items():
        if name not in required:
            properties[name] = _without_null(described)
    # Empty lists are legal, but some servers reject them.
    return {key: value for key, value in result.items() if key != "required" or value}


def checker(struct: type[msgspec.Struct]) -> Check:
    """Make the function that checks arguments for a struct.

    It gives them back with defaults filled in and types made plain, so that equal calls are equal.
    """

    def check(arguments: dict[str, Any]) -> dict[str, Any]:
        try:
            value = msgspec.convert(arguments, struct)
        except msgspec.ValidationError as exc:
            message = worded(str(exc))
            if "unknown field" in message:
                message += f"; there are: {', '.join(struct.__struct_encode_fields__) or 'none'}"
            raise ArgumentsError(message) from exc
        plain: dict[str, Any] = msgspec.to_builtins(value)
        return plain

    return check


def worded(message: str) -> str:
    """Put the name of the value before what msgspec says is wrong with it."""
    found = _PLACE.match(message)
    if not found or not found[2]:
        return message
    return f"`{found[2]}`: {found[1][:1].lower()}{found[1][1:]}"


def _inlined(node: Any, named: Mapping[str, Any], within: tuple[str, ...]) -> Any:
    if isinstance(node, list):
        return [_inlined(item, named, within) for item in node]
    if not isinstance(node, dict):
        return node
    reference = node.get("$ref")
    if isinstance(reference, str):
        name = reference.removeprefix(_REFERENCE)
        if name in within:
            raise UnsuitableTypeError(f"the type {name} contains itself")
        target = _inlined(named[name], named, (*within, name))
        rest = {key: value for key, value in node.items() if key != "$ref"}
        return {**target, **_inlined(rest, named, within)}
    result = {
        key: _inlined(value, named, within)
        for key, value in node.items()
        if key != "title" or not isinstance(value, str)
    }
    choices = result.get("enum")
    if isinstance(choices, list) and all(isinstance(choice, str) for choice in choices):
        result.setdefault("type", "string")  # Gemini takes no enum without one
    return result


def _without_null(described: dict[str, Any]) -> dict[str, Any]:
    choices = described.get("anyOf")
    if not isinstance(choices, list) or {"type": "null"} not in choices:
        return described
    left = [choice for choice in choices if choice != {"type": "null"}]
    rest = {
        key: value
        for key, value in described.items()
        if key != "anyOf" and not (key == "default" and value is None)
    }
    if len(left) == 1:
        return {**left[0], **rest}
    return {"anyOf": left, **rest}


MAX_MISTAKES = 5
SHOWN_CHARACTERS = 200
"""How many mistakes in its arguments a model is told, and how much of each."""

CHECK_S = 0.1
"""How long the check of one call's arguments may take; a usual one takes a millisecond."""

Keyword = Callable[..., Any]
"""Yields the mistakes of a value under one keyword, or returns None."""

_FLAGS_OF_OPENAPI = {"exclusiveMinimum", "exclusiveMaximum"}
"""Say in draft 4 and OpenAPI 3.0 of `minimum` and `maximum` that they are excluded; bridges to MCP
pass such schemas on as they are (https://spec.openapis.org/oas/v3.0.3#schema-object)."""

_UNCHECKED = (
    "pattern",  # a regular expression from outside can take for ever,
    "patternProperties",  # and Python cannot stop it
    "uniqueItems",  # jsonschema compares each item with each
    "unevaluatedItems",  # these two walk through the schema once more, on their own
    "unevaluatedProperties",
)


def schema_checker(schema: dict[str, Any]) -> Check:
    """Make the function that checks arguments against the JSON Schema that a server gives.

    `jsonschema` comes with the SDK, and is loaded when it is first used. Some keywords are left to
    the server, which checks its arguments anyway (`_UNCHECKED`).

    What cannot be checked (a schema that is none, refers to somewhere else, or takes longer than
    `CHECK_S`) is passed on: the server has the last word.
    """
    limit = _Limit()
    validators: list[Any] = []

    def check(arguments: dict[str, Any]) -> dict[str, Any]:
        try:
            if not validators:
                validators.append(_validator(schema, limit))
            limit.start()  # not before: `jsonschema` takes longer to load
            mistakes = [
                _mistake(it) for it in islice(validators[0].iter_errors(arguments), MAX_MISTAKES)
            ]
        except Exception:  # noqa: BLE001 - the schema is at fault, or refers to elsewhere
            return arguments
        if mistakes:
            raise ArgumentsError("; ".join(mistakes))
        return arguments

    return check


class _TooLongError(Exception):
    """A check takes too long."""


class _Limit:
    """The time that one check may take: everything else of this process waits for it."""

    _until = math.inf

    def start(self) -> None:
        """Begin a check."""
        self._until = time.monotonic() + CHECK_S

    def of(self, keyword: Keyword) -> Keyword:
        """Return a keyword's function that gives up when the time is over.

        A few references that each lead to two others are a schema of a hundred bytes, and of 2³⁰
        steps; each of them comes by here.
        """

        def limited(validator: Any, value: Any, instance: Any, schema: Any) -> Any:
            if time.monotonic() > self._until:
                raise _TooLongError
            if instance is None and schema.get("nullable") is True:  # OpenAPI 3.0
                return None
            return keyword(validator, value, instance, schema)

        return limited


def multiple_of(validator: Any, step: float, value: Any, _schema: dict[str, Any]) -> Iterator[Any]:
    """Check `multipleOf` by the numbers as they are written.

    jsonschema 4.26.0 divides binary fractions, in which 19.99 is no multiple of 0.01
    (findings/jsonschema-multiple-of.sh).
    """
    from jsonschema import ValidationError

    if validator.is_type(value, "number") and (
        math.isinf(value)  # `1e400`, as Python reads it
        or (Fraction(str(value)) / Fraction(str(step))).denominator != 1
    ):
        yield ValidationError(f"{value!r} is not a multiple of {step!r}")


def _validator(schema: dict[str, Any], limit: _Limit) -> Any:
    from jsonschema import Draft202012Validator, validators
    from referencing import Registry

    kind = validators.validator_for(schema, default=Draft202012Validator)
    checks: dict[str, Any] = {**kind.VALIDATORS, "multipleOf": multiple_of}
    for name in _FLAGS_OF_OPENAPI & checks.keys():
        checks[name] = _unless_flag(checks[name])
    keywords = {name: limit.of(check) for name, check in checks.items()}
    bounded = validators.extend(kind, keywords | dict.fromkeys(_UNCHECKED))
    # An empty registry: a reference leads nowhere but into the schema itself.
    return bounded(schema, registry=Registry())


def _unless_flag(keyword: Keyword) -> Keyword:
    """Return a keyword's function that leaves alone what is no number."""

    def check(validator: Any, value: Any, instance: Any, schema: Any) -> Any:
        return None if isinstance(value, bool) else keyword(validator, value, instance, schema)

    return check


def _mistake(mistake: Any) -> str:
    where = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in mistake.path)
    said = one_line(str(mistake.message), SHOWN_CHARACTERS)
    return f"`{where.lstrip('.')}`: {said}" if where else said
