"""Hold an answer to a JSON Schema: what does not fit it gives way like any failure."""

from __future__ import annotations

import json
import re
from typing import Any

from tieredllm.errors import FallbackTriggerError, UsageError
from tieredllm.kinds import ErrorKind
from tieredllm.text import one_line
from tieredllm.tools.schema import multiple_of

__all__ = ["check_schema", "fitted"]

FENCED = re.compile(r"^```(?:json)?[ \t]*\n(?P<text>.*?)\n?```$", re.DOTALL | re.IGNORECASE)
"""An answer that is one block of code, as models wrap JSON unasked."""
SHOWN = 200
"""Characters of what does not fit."""


def check_schema(schema: dict[str, Any]) -> None:
    """Make sure that a schema is one.

    Raises:
        UsageError: it is not, or jsonschema is not installed.
    """
    from jsonschema import SchemaError
    from jsonschema.validators import validator_for

    try:
        validator_for(schema).check_schema(schema)
    except SchemaError as exc:
        where = "/".join(map(str, exc.absolute_path)) or "the schema"
        raise UsageError(f"no JSON Schema: {where}: {one_line(exc.message, SHOWN)}") from exc


def fitted(text: str, schema: dict[str, Any], *, cut: bool = False) -> str:
    """Return the JSON that an answer is, without anything around it.

    Args:
        text: the answer.
        schema: what it has to fit. References to other documents are not followed.
        cut: whether the answer ended at a limit of tokens.

    Raises:
        FallbackTriggerError: it is no JSON, or does not fit; that says nothing about the health of
            whoever gave it.
    """
    from jsonschema.exceptions import best_match
    from jsonschema.validators import extend, validator_for
    from referencing import Registry

    text = text.strip()
    block = FENCED.match(text)
    text = block["text"].strip() if block is not None else text
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except ValueError as exc:
        why = "max_tokens was used up before it ended; allow more of them" if cut else str(exc)
        raise _misfit(f"the answer is no JSON: {why}") from exc
    try:
        kind = extend(validator_for(schema), {"multipleOf": multiple_of})
        wrong = best_match(kind(schema, registry=Registry()).iter_errors(value))
    except Exception as exc:  # a reference that leads nowhere, a pattern that cannot be read
        raise _misfit(f"the answer cannot be held to the schema: {exc}") from exc
    if wrong is not None:
        where = "/".join(map(str, wrong.absolute_path))
        at = f"{where}: " if where else ""
        raise _misfit(f"the answer does not fit the schema: {at}{wrong.message}")
    return text


def _refuse_constant(name: str) -> None:
    """Refuse NaN and Infinity, which Python reads and JSON lacks."""
    raise ValueError(f"{name} is no JSON number")


def _misfit(message: str) -> FallbackTriggerError:
    return FallbackTriggerError(
        ErrorKind.MALFORMED_RESPONSE, one_line(message, SHOWN), counts=False
    )
