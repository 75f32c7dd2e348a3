"""Write the tables of docs/profile.md and docs/rules.md from the structs that check the files.

A table stands between `<!-- keys: NAME -->` and `<!-- end -->`; the text around it is written by
hand. With `--check` nothing is written: the exit code is 1 when a table is not what the code says.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import msgspec
import msgspec.inspect as types

from tieredllm.profile import schema as profiles
from tieredllm.profile.validate import describe
from tieredllm.rules import schema as rule_files

DOCS = Path(__file__).parents[1] / "docs"
BLOCK = re.compile(r"(<!-- keys: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def table(name: str) -> str:
    """Return the keys of a struct as a table: key, type, default, meaning."""
    module = profiles if hasattr(profiles, name) else rule_files
    docs = profiles.field_docs(str(module.__file__))[name]
    rows = ["| key | takes | default | meaning |", "|---|---|---|---|"]
    for field in msgspec.structs.fields(getattr(module, name)):
        meaning = " ".join(docs[field.name.rstrip("_")].split())
        cells = (
            f"`{field.encode_name}`",
            takes(types.type_info(field.type)),
            default(field),
            meaning,
        )
        rows.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(rows) + "\n"


def takes(info: types.Type) -> str:
    """Return what a key takes, in words."""
    match info:
        case types.Metadata():
            words = str((info.extra or {}).get("means") or takes(info.type))
        case types.UnionType():
            parts = [takes(part) for part in info.types if not isinstance(part, types.NoneType)]
            words = " or ".join(parts) + (", or null" if len(parts) < len(info.types) else "")
        case types.LiteralType():
            words = ", ".join(f"`{value}`" for value in info.values)
        case types.VarTupleType():
            of_structs = isinstance(info.item_type, types.StructType)
            words = "a list, see below" if of_structs else f"a list: {takes(info.item_type)}"
        case types.DictType():
            words = f"names, each with {takes(info.value_type)}"
        case types.StructType():
            words = "a mapping, see below"
        case _:
            words = describe(info)
    return words


def default(field: msgspec.structs.FieldInfo) -> str:
    """Return a key's default as YAML."""
    if field.required:
        return "required"
    value: Any = field.default
    if value is msgspec.NODEFAULT:
        value = field.default_factory() if callable(field.default_factory) else msgspec.UNSET
    if value is msgspec.UNSET:
        return "the vendor's own"
    if isinstance(value, msgspec.Struct):
        return "each key's own"
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return f"`{value if isinstance(value, str) else msgspec.json.encode(value).decode()}`"


def filled(text: str) -> str:
    """Return a page with its tables as the code has them."""
    return BLOCK.sub(lambda found: found[1] + "\n" + table(found[2]) + "\n" + found[3], text)


def main() -> int:
    """Write the pages, or check them."""
    stale = []
    for page in (DOCS / "profile.md", DOCS / "rules.md"):
        text = page.read_text(encoding="utf-8")
        if filled(text) != text:
            stale.append(page.name)
            if "--check" not in sys.argv:
                page.write_text(filled(text), encoding="utf-8")
    if stale and "--check" in sys.argv:
        print(f"run scripts/reference.py: {', '.join(stale)} not as in the code")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
