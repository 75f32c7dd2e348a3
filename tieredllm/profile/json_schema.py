"""Describe profiles as a JSON Schema, for editors.

An editor that knows it (for instance through the line `# yaml-language-server: $schema=PATH`)
completes keys, shows what they mean and marks mistakes while they are made.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from tieredllm.profile import schema

__all__ = ["profile_schema"]

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_INHERITABLE = ("Tier", "Email")
"""Structs that merge over inherited ones, and so may lack what they inherit."""


def profile_schema() -> dict[str, Any]:
    """Give the JSON Schema of a profile file.

    The types, ranges and defaults are those that profiles are checked against; the descriptions
    are the docstrings of `profile.schema`. What must be there must be there only in a profile that
    extends no other.
    """
    result = msgspec.json.schema(schema.Profile)
    structs: dict[str, Any] = result["$defs"]
    for name, docs in _field_docs().items():
        properties = structs.get(name, {}).get("properties", {})
        for field, description in docs.items():
            if field in properties:
                properties[field] = {"description": description} | properties[field]
    for struct in structs.values():
        struct["description"] = _about(struct["description"])
    required = {name: structs[name].pop("required") for name in _INHERITABLE}
    structs["Tier"]["required"] = ["name"]
    root = structs.pop("Profile")
    root.pop("required")
    root["properties"]["name"].pop("default")  # it is the file's name
    whole_tier = {"required": required["Tier"]}
    whole_email = {"anyOf": [{"type": "null"}, {"required": required["Email"]}]}
    return {
        "$schema": _DIALECT,
        "title": "tieredllm profile",
        "description": "Tiers of language models, tried in order until one answers.",
        **{key: value for key, value in root.items() if key not in {"title", "description"}},
        "if": {"not": {"required": ["extends"]}},
        "then": {
            "required": ["tiers"],
            "properties": {
                "tiers": {"items": whole_tier},
                "notifications": {"properties": {"email": whole_email}},
            },
        },
        "$defs": structs,
    }


def _about(docstring: str) -> str:
    """Turn what a struct does ("Hold how …") into what it is about ("How …")."""
    about = docstring.removeprefix("Hold ")
    return about[:1].upper() + about[1:]


def _field_docs() -> dict[str, dict[str, str]]:
    """Read the docstrings below the fields of the schema's structs; at run time they are gone."""
    import ast

    tree = ast.parse(Path(schema.__file__).read_text(encoding="utf-8"))
    docs: dict[str, dict[str, str]] = {}
    for struct in tree.body:
        if not isinstance(struct, ast.ClassDef):
            continue
        fields = docs.setdefault(struct.name, {})
        for field, below in zip(struct.body, struct.body[1:], strict=False):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(below, ast.Expr)
                and isinstance(below.value, ast.Constant)
                and isinstance(below.value.value, str)
            ):
                fields[field.target.id.rstrip("_")] = below.value.value
    return docs
