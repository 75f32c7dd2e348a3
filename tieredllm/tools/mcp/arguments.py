"""Check arguments against the JSON Schema that an MCP server gives.

`jsonschema` comes with the SDK. Two keywords are left to the server, which checks its arguments
anyway: `pattern` and `patternProperties`. A regular expression from outside can take for ever, and
Python cannot stop it.
"""

from __future__ import annotations

from itertools import islice
from typing import Any

from tieredllm.text import one_line
from tieredllm.tools.base import ArgumentsError, Check

__all__ = ["schema_checker"]

MAX_MISTAKES = 5
SHOWN_CHARACTERS = 200


def schema_checker(schema: dict[str, Any]) -> Check:
    """Make the function that checks arguments; nothing is loaded before it is used.

    What cannot be checked (a schema that is none, or refers to somewhere else) is passed on: the
    server has the last word.
    """
    validators: list[Any] = []

    def check(arguments: dict[str, Any]) -> dict[str, Any]:
        if not validators:
            validators.append(_validator(schema))
        try:
            mistakes = [
                _worded(it) for it in islice(validators[0].iter_errors(arguments), MAX_MISTAKES)
            ]
        except Exception:  # noqa: BLE001 - the schema is at fault, or refers to elsewhere
            return arguments
        if mistakes:
            raise ArgumentsError("; ".join(mistakes))
        return arguments

    return check


def _validator(schema: dict[str, Any]) -> Any:
    from jsonschema import Draft202012Validator, validators
    from referencing import Registry

    kind = validators.validator_for(schema, default=Draft202012Validator)
    without_regex = validators.extend(kind, {"pattern": None, "patternProperties": None})
    # An empty registry: a reference leads nowhere but into the schema itself.
    return without_regex(schema, registry=Registry())


def _worded(mistake: Any) -> str:
    where = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in mistake.path)
    said = one_line(str(mistake.message), SHOWN_CHARACTERS)
    return f"`{where.lstrip('.')}`: {said}" if where else said
