"""Read the parameters of one request as people write them: a name and a value."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import msgspec
import msgspec.inspect as types

from tieredllm.errors import UsageError
from tieredllm.profile.validate import describe, suggestion
from tieredllm.types import ParamOverrides

__all__ = ["param_names", "read_params", "written_params"]


@functools.cache
def _fields() -> dict[str, types.Type]:
    info = types.type_info(ParamOverrides)
    assert isinstance(info, types.StructType)  # noqa: S101 - it is a struct
    return {field.name: field.type for field in info.fields}


def param_names() -> list[str]:
    """Return the names that there are."""
    return list(_fields())


def read_params(pairs: Sequence[tuple[str, str]], option: str = "-o") -> ParamOverrides:
    """Read names and values; `stop` may come several times, of others the last one counts.

    Args:
        pairs: what was written.
        option: how they were given, for the message.

    Raises:
        UsageError: there is no such parameter, or the value is not one of it.
    """
    values: dict[str, Any] = {}
    for name, text in pairs:
        if name not in _fields():
            near = suggestion(name, param_names())
            hint = near or f"there are {', '.join(param_names())}"
            raise UsageError(f"{option}: no parameter {name!r}: {hint}")
        value: Any = [*values.get(name, []), text] if name == "stop" else text
        try:
            read = getattr(msgspec.convert({name: value}, ParamOverrides, strict=False), name)
            if read is None:  # of `null`, which would say nothing
                raise msgspec.ValidationError
        except msgspec.ValidationError as exc:
            takes = describe(_fields()[name]).removesuffix(" or null").removesuffix(",")
            raise UsageError(f"{option} {name} takes {takes}, not {text!r}") from exc
        values[name] = value
    return msgspec.convert(values, ParamOverrides, strict=False)


def written_params(params: ParamOverrides) -> list[tuple[str, str]]:
    """Return parameters as people write them; those that are set alone."""
    pairs: list[tuple[str, str]] = []
    for name in param_names():
        value = getattr(params, name)
        if isinstance(value, tuple | list):
            pairs += [(name, str(each)) for each in value]
        elif value is not None:
            pairs.append((name, f"{value:g}" if isinstance(value, float) else str(value)))
    return pairs
