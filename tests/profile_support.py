"""Write profiles into a user's places, and check values against a JSON Schema."""

from __future__ import annotations

import io
import re
import textwrap
from pathlib import Path
from typing import Any

from tieredllm.cli.environment import Environment
from tieredllm.cli.main import run
from tieredllm.errors import ProfileError
from tieredllm.files import Places
from tieredllm.profile.load import load_profile


def places_in(root: Path) -> Places:
    return Places.from_environment({"TIEREDLLM_HOME": str(root)})


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text), encoding="utf-8")
    return path


def mistakes_in(path: Path, places: Places) -> list[str]:
    """Give what is wrong with a profile, each as `line:column: message`."""
    try:
        load_profile(str(path), places)
    except ProfileError as exc:
        return [f"{each.line}:{each.column}: {each.message}" for each in exc.mistakes]
    return []


class Result:
    """What a command line ended with."""

    def __init__(self, code: int, stdout: str, stderr: str) -> None:
        self.code, self.stdout, self.stderr = code, stdout, stderr


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def command(
    *args: str,
    home: Path,
    stdin: str = "",
    env: dict[str, str] | None = None,
    terminal: bool = False,
) -> Result:
    """Run a command line in surroundings of its own."""
    stdout = Terminal() if terminal else io.StringIO()
    stderr = io.StringIO()
    environment = Environment(
        env={"TIEREDLLM_HOME": str(home), "TIEREDLLM_DEBUG": "", **(env or {})},
        stdin=io.StringIO(stdin),
        stdout=stdout,
        stderr=stderr,
    )
    return Result(int(run(args, environment)), stdout.getvalue(), stderr.getvalue())


def schema_errors(
    value: Any, schema: dict[str, Any], root: dict[str, Any], at: str = "$"
) -> list[str]:
    """Check a value against the part of JSON Schema 2020-12 that profiles' schema uses."""
    errors: list[str] = []
    for keyword, wanted in schema.items():
        errors += _keyword_errors(keyword, wanted, value, schema, root, at)
    return errors


_TYPES = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "null": type(None),
    "number": (int, float),
    "integer": int,
}
_ANNOTATIONS = {"$schema", "$defs", "title", "description", "default", "then"}


def _keyword_errors(
    keyword: str, wanted: Any, value: Any, schema: dict[str, Any], root: dict[str, Any], at: str
) -> list[str]:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    match keyword:
        case "$ref":
            return schema_errors(value, root["$defs"][wanted.rpartition("/")[2]], root, at)
        case "type":
            fits = isinstance(value, _TYPES[wanted]) and (wanted == "boolean" or value is not True)
            return [] if fits else [f"{at}: not {wanted}"]
        case "enum":
            return [] if value in wanted else [f"{at}: not in {wanted}"]
        case "anyOf":
            fits = any(not schema_errors(value, each, root, at) for each in wanted)
            return [] if fits else [f"{at}: none of the choices"]
        case "not":
            return [] if schema_errors(value, wanted, root, at) else [f"{at}: not wanted"]
        case "if":
            applies = not schema_errors(value, wanted, root, at)
            return schema_errors(value, schema["then"], root, at) if applies else []
        case "properties" if isinstance(value, dict):
            return [
                error
                for key, part in wanted.items()
                if key in value
                for error in schema_errors(value[key], part, root, f"{at}.{key}")
            ]
        case "required":
            missing = [key for key in wanted if isinstance(value, dict) and key not in value]
            return [f"{at}: lacks {key}" for key in missing]
        case "additionalProperties" if isinstance(value, dict):
            others = {
                key: it for key, it in value.items() if key not in schema.get("properties", {})
            }
            if wanted is False:
                return [f"{at}: unknown {key}" for key in others]
            return [e for key, it in others.items() for e in schema_errors(it, wanted, root, at)]
        case "items" if isinstance(value, list):
            return [
                e
                for i, it in enumerate(value)
                for e in schema_errors(it, wanted, root, f"{at}[{i}]")
            ]
        case "minimum" if number:
            return [] if value >= wanted else [f"{at}: below {wanted}"]
        case "maximum" if number:
            return [] if value <= wanted else [f"{at}: above {wanted}"]
        case "exclusiveMinimum" if number:
            return [] if value > wanted else [f"{at}: not above {wanted}"]
        case "minLength" if isinstance(value, str):
            return [] if len(value) >= wanted else [f"{at}: too short"]
        case "minItems" if isinstance(value, list):
            return [] if len(value) >= wanted else [f"{at}: too few"]
        case "pattern" if isinstance(value, str):
            return [] if re.search(wanted, value) else [f"{at}: not like {wanted}"]
        case "properties" | "additionalProperties" | "items" | "minimum" | "maximum":
            return []
        case "exclusiveMinimum" | "minLength" | "minItems" | "pattern":
            return []
        case _ if keyword in _ANNOTATIONS:
            return []
    raise AssertionError(f"the schema uses {keyword}, which is not checked here")
