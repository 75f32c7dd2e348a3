"""Make tools of Python functions: the signature becomes the schema, the docstring the description.

A function is named in the profile as `module:function`. It is imported when a tier that may use it
is first asked, or `tools` is used. A module is looked for where Python looks anyway and then, last,
in the folder of the profile that names it; never in the working directory, which may be anybody's:
who unpacks an archive and asks a question in it must not run what lies there.

What a function prints goes to stderr: stdout belongs to the answer.
"""

from __future__ import annotations

import hashlib
import inspect
import re
import sys
import threading
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

from tieredllm.aio import in_thread
from tieredllm.errors import UsageError
from tieredllm.text import one_line
from tieredllm.tools.base import CallTime, Tool, ToolFailureError
from tieredllm.tools.schema import UnsuitableTypeError, checker, schema_of

__all__ = ["load_function", "make_function_tool", "name_of", "parse_docstring"]

_UNFIT = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
_SECTION = re.compile(
    r"(Args|Arguments|Parameters|Returns?|Yields?|Raises|Examples?|Notes?|Attributes|Warnings?|"
    r"See Also|Todo|References?):\s*"
)
_ARGUMENTS = frozenset({"Args", "Arguments", "Parameters"})
_ARGUMENT = re.compile(r"\*{0,2}(\w+)\s*(?:\([^()]*(?:\([^()]*\)[^()]*)*\))?\s*:\s*(.*)")


def name_of(entry: str) -> str:
    """Return the name a tool has, of `module:function`: the function's."""
    return entry.rpartition(":")[2]


def load_function(entry: str, folders: Sequence[Path]) -> Tool:
    """Import a function and make a tool of it.

    Args:
        entry: `module:function`, as in the profile.
        folders: where else to look for the module, after everywhere Python looks.

    Raises:
        UsageError: it cannot be imported or made a tool of; the message names the entry.
    """
    module, _, name = entry.rpartition(":")
    try:
        with _DIVERSION:
            found = getattr(_imported(module, folders), name, None)
    except UsageError as exc:
        raise UsageError(f"tools.python: {entry}: {exc}") from exc
    if found is None:
        raise UsageError(f"tools.python: {entry}: the module {module} has no {name}")
    if not callable(found) or inspect.isclass(found):
        raise UsageError(f"tools.python: {entry}: {name} is not a function")
    try:
        return make_function_tool(found, name=name)
    except UnsuitableTypeError as exc:
        raise UsageError(f"tools.python: {entry}: {exc}") from exc


def make_function_tool(function: Callable[..., Any], *, name: str) -> Tool:
    """Make a tool of a function.

    Arguments without an annotation take anything. A function with the attribute `read_only = True`
    runs without being approved; `private = True` says that what it gives may be private, `sends =
    True` that it can carry data away.

    Args:
        function: synchronous ones run in a thread, asynchronous ones on the event loop.
        name: what models call it.

    Raises:
        UnsuitableTypeError: its signature cannot be described to a model.
    """
    about, meanings = parse_docstring(inspect.getdoc(function))
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError) as exc:
        raise UnsuitableTypeError(f"{name} has no signature") from exc
    struct = _struct(signature, _hints(function), meanings)
    positional = tuple(
        parameter.name
        for parameter in signature.parameters.values()
        if parameter.kind is inspect.Parameter.POSITIONAL_ONLY
    )
    asynchronous = inspect.iscoroutinefunction(_plain(function))

    async def run(arguments: dict[str, Any], time: CallTime) -> str:  # noqa: ARG001
        given = _values(msgspec.convert(arguments, struct), signature)
        first = [given.pop(each) for each in positional if each in given]
        try:
            if asynchronous:
                with _DIVERSION:
                    result = await function(*first, **given)
            else:
                result = await in_thread(lambda: _called(function, first, given))
                if inspect.isawaitable(result):
                    result = await result
        except SystemExit as exc:
            raise ToolFailureError("the tool tried to end the program") from exc
        return _worded(result)

    return Tool(
        name=name,
        description=about or f"Call {name}.",
        parameters=_with_defaults(schema_of(struct), signature),
        read_only=True if getattr(function, "read_only", None) is True else None,
        origin="python",
        private=getattr(function, "private", None) is True,
        destination=(lambda _: name) if getattr(function, "sends", None) is True else None,
        identity=_identity(function, name),
        check=checker(struct),
        run=run,
    )


def _imported(module: str, folders: Sequence[Path]) -> types.ModuleType:
    for folder in map(str, folders):
        if folder not in sys.path:
            sys.path.append(folder)
    try:
        return import_module(module)
    except ModuleNotFoundError as exc:
        if exc.name is not None and f"{module}.".startswith(f"{exc.name}."):
            raise UsageError(f"there is no module {exc.name}") from exc
        raise UsageError(f"importing {module} failed: it needs {exc.name}") from exc
    except (Exception, SystemExit) as exc:
        said = one_line(str(exc), 200)
        reason = f"importing {module} failed: {type(exc).__name__}: {said}".rstrip(": ")
        raise UsageError(reason) from exc


def _plain(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return what is called in the end: an object's `__call__`, and what a decorator wraps."""
    if isinstance(function, partial):
        function = function.func
    if not inspect.isroutine(function):
        function = type(function).__call__.__get__(function)
    plain: Callable[..., Any] = inspect.unwrap(function)
    return plain


def _identity(function: Callable[..., Any], name: str) -> str:
    """Return a hash of what a function is called in which file: each project may have `tools`."""
    code = getattr(_plain(function), "__code__", None)
    file = function.__module__ if code is None else code.co_filename
    whole = f"{file}:{getattr(function, '__qualname__', name)}"
    return hashlib.sha256(whole.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _hints(function: Callable[..., Any]) -> Mapping[str, Any]:
    try:
        return typing.get_type_hints(_plain(function), include_extras=True)
    except Exception as exc:
        said = one_line(str(exc), 200)
        raise UnsuitableTypeError(f"its annotations cannot be read: {said}") from exc


def _struct(
    signature: inspect.Signature, hints: Mapping[str, Any], meanings: Mapping[str, str]
) -> type[msgspec.Struct]:
    fields: list[tuple[str, Any] | tuple[str, Any, Any]] = []
    for parameter in signature.parameters.values():
        name = parameter.name
        if parameter.kind in _UNFIT:
            raise UnsuitableTypeError(f"`{parameter}` takes arguments without names")
        hint: Any = hints.get(name, Any)
        if name in meanings:
            hint = Annotated[hint, Meta(description=meanings[name])]
        if parameter.default is inspect.Parameter.empty:
            fields.append((name, hint))
        else:
            fields.append((name, hint | UnsetType, UNSET))
    try:
        struct = msgspec.defstruct("Arguments", fields, kw_only=True, forbid_unknown_fields=True)
        schema_of(struct)
    except (TypeError, ValueError) as exc:
        raise UnsuitableTypeError(str(exc).strip().splitlines()[-1]) from exc
    except UnsuitableTypeError as exc:
        raise UnsuitableTypeError(f"{_culprit(fields)}{exc}") from exc
    return struct


def _culprit(fields: Sequence[tuple[str, Any] | tuple[str, Any, Any]]) -> str:
    """Name the argument whose type is the trouble."""
    for field in fields:
        try:
            schema_of(msgspec.defstruct("Arguments", [field]))
        except (UnsuitableTypeError, TypeError):
            return f"argument `{field[0]}`: "
    return ""


def _with_defaults(schema: dict[str, Any], signature: inspect.Signature) -> dict[str, Any]:
    """Tell a model the defaults that JSON can tell."""
    for name, parameter in signature.parameters.items():
        default = parameter.default
        if isinstance(default, str | int | float | bool) and name in schema["properties"]:
            schema["properties"][name] = {**schema["properties"][name], "default": default}
    return schema


def _values(struct: msgspec.Struct, signature: inspect.Signature) -> dict[str, Any]:
    values = {name: getattr(struct, name) for name in signature.parameters}
    return {name: value for name, value in values.items() if value is not UNSET}


def _called(function: Callable[..., Any], first: list[Any], given: dict[str, Any]) -> Any:
    with _DIVERSION:
        return function(*first, **given)


def _worded(result: Any) -> str:
    if result is None:
        return "(The tool returned nothing.)"
    if isinstance(result, str):
        return result
    if isinstance(result, bytes):
        return result.decode("utf-8", "replace")
    return msgspec.json.encode(result, enc_hook=str).decode()


class _Diversion:
    """Count who wants stdout diverted; the last one to leave puts it back."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._kept: Any = None
        self._put: Any = None

    def __enter__(self) -> None:
        with self._lock:
            if self._users == 0:
                self._kept, self._put = sys.stdout, sys.stderr
                sys.stdout = self._put
            self._users += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0:
                if sys.stdout is self._put:  # nobody else has replaced it since
                    sys.stdout = self._kept
                self._kept = self._put = None


_DIVERSION = _Diversion()
"""One for all: there is one `sys.stdout`."""


def parse_docstring(docstring: str | None) -> tuple[str, dict[str, str]]:
    """Return what is said before the first section, and what is said of each argument.

    The style is Google's (https://google.github.io/styleguide/pyguide.html, section 3.8.3).

    Args:
        docstring: as it is in the source; None for none.
    """
    lines = inspect.cleandoc(docstring or "").splitlines()
    starts = [number for number, line in enumerate(lines) if _SECTION.fullmatch(line)]
    first = starts[0] if starts else len(lines)
    about = "\n".join(lines[:first]).strip()
    arguments: dict[str, str] = {}
    for start, end in zip(starts, [*starts, len(lines)][1:], strict=True):
        if lines[start].strip().rstrip(":") in _ARGUMENTS:
            arguments |= _meanings(lines[start + 1 : end])
    return about, arguments


def _meanings(lines: list[str]) -> dict[str, str]:
    """Read the lines of one section: those with the least indentation begin an argument."""
    indents = [len(line) - len(line.lstrip()) for line in lines if line.strip()]
    least = min(indents, default=0)
    found: dict[str, str] = {}
    name = ""
    for line in lines:
        text = line.strip()
        if text and len(line) - len(line.lstrip()) == least:
            argument = _ARGUMENT.fullmatch(text)
            name = argument[1] if argument else ""
            if argument:
                found[name] = argument[2]
        elif text and name:
            found[name] = f"{found[name]} {text}".strip()
    return found
