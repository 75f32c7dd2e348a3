"""Read the shape that an answer is to have: a JSON Schema, or a line such as `name, age int`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from tieredllm.errors import UsageError
from tieredllm.types import OutputSchema

__all__ = ["read_schema"]

FIELD = re.compile(r"(?P<name>[A-Za-z_]\w*)(?:\s+(?P<type>[a-z]+))?(?:\s*:\s*(?P<about>.+))?")
TYPES = {"str": "string", "int": "integer", "float": "number", "bool": "boolean"}
"""The types of the short form (https://llm.datasette.io/en/stable/schemas.html)."""


def read_schema(given: str) -> OutputSchema:
    """Read a schema.

    Args:
        given: a file of JSON, JSON itself, or fields: `name, age int, bio: one sentence`.

    Raises:
        UsageError: it is none of these, or no JSON Schema.
    """
    from tieredllm.engine.shape import check_schema

    text = given.strip()
    if text.startswith("{"):
        schema = _parsed(text, "--schema")
    elif text.endswith(".json") or "/" in text or Path(text).is_file():
        try:
            schema = _parsed(Path(text).expanduser().read_text("utf-8"), text)
        except OSError as exc:
            raise UsageError(f"--schema: cannot read {text}: {exc.strerror or exc}") from exc
        except UnicodeDecodeError as exc:
            raise UsageError(f"--schema: {text} is no UTF-8 (byte {exc.start})") from exc
    else:
        schema = _from_fields(text)
    check_schema(schema)
    title = schema.get("title")
    name = re.sub(r"[^A-Za-z0-9_-]", "_", title)[:64] if isinstance(title, str) else ""
    return OutputSchema(name=name or "answer", schema=schema)


def _parsed(text: str, name: str) -> dict[str, Any]:
    try:
        schema = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise UsageError(f"{name} is no JSON: {exc}") from exc
    if not isinstance(schema, dict):
        raise UsageError(f"{name} is no JSON Schema: it must be an object")
    return schema


def _from_fields(text: str) -> dict[str, Any]:
    """Return the schema of an object with these fields, all of them required."""
    properties: dict[str, Any] = {}
    for part in re.split(r"\n" if "\n" in text else ",", text):
        field = FIELD.fullmatch(part.strip())
        kind = TYPES.get(field["type"] or "str") if field is not None else None
        if field is None or kind is None:
            raise UsageError(
                f"--schema: {part.strip()!r} is no field: `name`, `age int`, `bio: one sentence` "
                f"(types: {', '.join(TYPES)}), a file, or JSON"
            )
        about = {"description": field["about"]} if field["about"] else {}
        properties[field["name"]] = {"type": kind, **about}
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
