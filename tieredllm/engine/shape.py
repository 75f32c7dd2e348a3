"""Hold an answer to a JSON Schema: what does not fit it gives way like any failure."""

from __future__ import annotations

import functools
import json
import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from tieredllm.errors import FallbackTriggerError, UsageError
from tieredllm.kinds import ErrorKind
from tieredllm.lenient_json import refuse_constant
from tieredllm.text import one_line
from tieredllm.tools.schema import multiple_of

if TYPE_CHECKING:
    from referencing import Resource

__all__ = ["check_schema", "fitted"]

FENCED = re.compile(r"^```(?:json)?[ \t]*\n(?P<text>.*?)\n?```$", re.DOTALL | re.IGNORECASE)
"""An answer that is one block of code, as models wrap JSON unasked."""
SHOWN = 200
"""Characters of what does not fit."""
DEEP = 30
"""Levels below which it is not an answer's own nesting that a check cannot follow.

Far below what jsonschema 4.26.0 can follow: under a recursive schema, at Python's limit of 1,000
frames, 248 levels of arrays, and 165 where each goes through an `anyOf`.
"""


def check_schema(schema: dict[str, Any]) -> None:
    """Make sure that a schema is one, and that its references lead somewhere within it.

    Raises:
        UsageError: it is not, or one does not: no answer would ever fit.
    """
    from jsonschema import SchemaError
    from jsonschema.validators import validator_for
    from referencing import Registry, Resource
    from referencing.jsonschema import DRAFT202012, UnknownDialect

    try:
        validator_for(schema).check_schema(schema)
        with suppress(UnknownDialect):
            root = Resource.from_contents(schema, default_specification=DRAFT202012)
            _check_references(root, Registry().resolver_with_root(root))
    except SchemaError as exc:
        where = "/".join(map(str, exc.absolute_path)) or "the schema"
        raise UsageError(f"no JSON Schema: {where}: {one_line(exc.message, SHOWN)}") from exc
    except UsageError:
        raise
    except Exception as exc:  # a `$schema` that is no text, an `$id` that is none, many levels
        raise UsageError(f"no JSON Schema: {one_line(str(exc), SHOWN)}") from exc


def _check_references(part: Resource[Any], resolver: Any) -> None:
    """Follow the references of a schema and of those in it, with referencing's own resolver."""
    from referencing.exceptions import Unresolvable

    reference = part.contents.get("$ref") if isinstance(part.contents, dict) else None
    if isinstance(reference, str):
        try:
            resolver.lookup(reference)
        except (Unresolvable, TypeError, ValueError):  # through a number, in a list by a name
            reason = f"no JSON Schema: {one_line(reference, SHOWN)} leads nowhere within it"
            raise UsageError(reason) from None
    for inner in part.subresources():
        _check_references(inner, resolver.in_subresource(inner))


def fitted(text: str, schema: dict[str, Any], *, cut: bool = False) -> str:
    """Return the JSON that an answer is, without anything around it.

    Args:
        text: the answer.
        schema: what it has to fit. References to other documents are not followed.
        cut: whether the answer ended at a limit of tokens.

    Raises:
        FallbackTriggerError: it is no JSON, or does not fit, or none would (`bad_request`); that
            says nothing about the health of whoever gave it.
    """
    from jsonschema.exceptions import best_match
    from jsonschema.validators import validator_for
    from referencing import Registry

    text = text.strip()
    block = FENCED.match(text)
    text = block["text"].strip() if block is not None else text
    try:
        value = json.loads(text, parse_constant=refuse_constant)
    except (ValueError, RecursionError) as exc:
        why = "max_tokens was used up before it ended; allow more of them" if cut else str(exc)
        raise _misfit(f"the answer is no JSON: {why}") from exc
    try:
        kind = _in_decimals(validator_for(schema))
        wrong = best_match(kind(schema, registry=Registry()).iter_errors(value))
    except Exception as exc:  # a reference that leads nowhere, a pattern that cannot be read
        if isinstance(exc, RecursionError) and _is_deep(value):
            raise _misfit("the answer is nested too deeply to be held to the schema") from exc
        reason = one_line(f"no answer can be held to the schema: {exc}", SHOWN)
        raise FallbackTriggerError(ErrorKind.BAD_REQUEST, reason, again=False) from exc
    if wrong is not None:
        where = "/".join(map(str, wrong.absolute_path))
        at = f"{where}: " if where else ""
        raise _misfit(f"the answer does not fit the schema: {at}{wrong.message}")
    return text


@functools.cache
def _in_decimals(kind: Any) -> Any:
    """Return a draft's validator that takes `multipleOf` as `multiple_of` does."""
    from jsonschema.validators import extend

    return extend(kind, {"multipleOf": multiple_of})


def _is_deep(value: Any) -> bool:
    """Return whether a value has more than `DEEP` levels."""
    level = [it for it in [value] if isinstance(it, dict | list)]
    for _ in range(DEEP):
        inner = (it.values() if isinstance(it, dict) else it for it in level)
        level = [it for each in inner for it in each if isinstance(it, dict | list)]
    return bool(level)


def _misfit(message: str) -> FallbackTriggerError:
    return FallbackTriggerError(
        ErrorKind.MALFORMED_RESPONSE, one_line(message, SHOWN), counts=False
    )
