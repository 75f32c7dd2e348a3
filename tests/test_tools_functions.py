"""Python functions become tools: signature and docstring are the schema."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import enum
import functools
import sys
import threading
import time
from typing import Annotated, Any, Literal, Optional, TypedDict

import msgspec
import pytest
from tools_support import call, carried_out, session, used

from tieredllm.errors import UsageError
from tieredllm.profile.schema import Tools
from tieredllm.tools.approval import RememberedApprovals
from tieredllm.tools.base import ArgumentsError, ToolFailureError
from tieredllm.tools.python import load_function, make_function_tool, parse_docstring
from tieredllm.tools.registry import Toolbox
from tieredllm.tools.schema import UnsuitableTypeError


class Color(enum.Enum):
    RED = "red"
    GREEN = "green"


@dataclasses.dataclass
class Item:
    sku: str
    count: int = 1


class Address(TypedDict):
    street: str
    number: int


def order(  # noqa: D417 - some arguments are left undescribed on purpose
    customer: str,
    items: list[Item],
    kind: Literal["fast", "slow"] = "fast",
    note: Optional[str] = None,  # noqa: UP045 - the old spelling is tested
    *,
    address: Address | None = None,
    when: datetime.date | None = None,
    color: Color = Color.RED,
    weight: Annotated[float, msgspec.Meta(ge=0)] = 1.5,
    tags: dict[str, int] = {},  # noqa: B006 - such functions exist
    anything=None,
) -> dict[str, Any]:
    """Place an order.

    It is sent at once.

    Args:
        customer: Who orders
            and pays.
        items (list[Item]): What is ordered.
        kind: How fast: fast or slow.

    Returns:
        The order.
    """
    bought = [[item.sku, item.count] for item in items]
    return {"who": customer, "items": bought, "when": when, "color": color, "weight": weight}


@dataclasses.dataclass
class Tree:
    children: list[Tree]


class Opaque:
    pass


def test_the_schema_says_what_the_signature_says():
    """Every annotation, default and description is told; what has a default is optional."""
    tool = make_function_tool(order, name="order")

    assert tool.description == "Place an order.\n\nIt is sent at once."
    assert tool.parameters == {
        "type": "object",
        "properties": {
            "customer": {"type": "string", "description": "Who orders and pays."},
            "items": {
                "type": "array",
                "description": "What is ordered.",
                "items": {
                    "type": "object",
                    "properties": {
                        "sku": {"type": "string"},
                        "count": {"type": "integer", "default": 1},
                    },
                    "required": ["sku"],
                },
            },
            "kind": {
                "type": "string",
                "enum": ["fast", "slow"],
                "default": "fast",
                "description": "How fast: fast or slow.",
            },
            "note": {"type": "string"},
            "address": {
                "type": "object",
                "properties": {"street": {"type": "string"}, "number": {"type": "integer"}},
                "required": ["number", "street"],
            },
            "when": {"type": "string", "format": "date"},
            "color": {"type": "string", "enum": ["green", "red"]},
            "weight": {"type": "number", "minimum": 0, "default": 1.5},
            "tags": {"type": "object", "additionalProperties": {"type": "integer"}},
            "anything": {},
        },
        "required": ["customer", "items"],
        "additionalProperties": False,
    }


def test_arguments_are_converted():
    """A function gets values of the types it asks for, and its own defaults."""
    tool = make_function_tool(order, name="order")
    result = used(
        tool, customer="Ann", items=[{"sku": "x"}], when="2026-02-03", color="green", note=None
    )

    assert msgspec.json.decode(result) == {
        "who": "Ann",
        "items": [["x", 1]],
        "when": "2026-02-03",
        "color": "green",
        "weight": 1.5,
    }


@pytest.mark.parametrize("text", ["null", "12", '["a"]', '{"a": 1}'])
def test_a_text_that_is_json_stays_a_text(text):
    """What a model wrote as a text is not read as anything else, also where null may stand."""

    def save(content: str | None = None) -> str:
        return f"saved {content!r}"

    assert used(make_function_tool(save, name="save"), content=text) == f"saved {text!r}"


@pytest.mark.parametrize(
    ("arguments", "mistake"),
    [
        ({"items": []}, "missing required field `customer`"),
        ({"customer": 1, "items": []}, "`customer`: expected `str`, got `int`"),
        ({"customer": "x", "items": [{}]}, "`items[0]`: object missing required field `sku`"),
        ({"customer": "x", "items": [], "kind": "no"}, "`kind`: invalid enum value 'no'"),
        ({"customer": "x", "items": [], "weight": -1}, "`weight`: expected `float` >= 0"),
        ({"customer": "x", "items": [], "when": "soon"}, "`when`: invalid"),
        ({"customer": "x", "items": [], "more": 1}, "unknown field `more`"),
    ],
)
def test_wrong_arguments_are_told(arguments, mistake):
    """A mistake names the argument and what it should be."""
    with pytest.raises(ArgumentsError) as caught:
        make_function_tool(order, name="order").check(arguments)

    assert mistake in str(caught.value)


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda *args: None, "without names"),
        (lambda **more: None, "without names"),
        (dict, "signature"),
        (max, "signature"),
    ],
)
def test_signatures_that_no_schema_describes(function, reason):
    """What takes anything under any name cannot be described."""
    with pytest.raises(UnsuitableTypeError, match=reason):
        make_function_tool(function, name="f")


def test_types_that_no_schema_describes():
    """Types that are no data, unknown or endless are named with their argument."""

    def opaque(a: int, thing: Opaque): ...

    def endless(tree: Tree): ...

    def unknown(a: Nonexistent): ...  # noqa: F821 - that is what is tested

    for function, reason in [
        (opaque, "argument `thing`"),
        (endless, "argument `tree`: the type Tree contains itself"),
        (unknown, "annotations cannot be read"),
    ]:
        with pytest.raises(UnsuitableTypeError, match=reason):
            make_function_tool(function, name="f")


def test_kinds_of_functions():
    """Plain, asynchronous, positional-only, decorated and partial functions and objects work."""

    async def later(a: int) -> int:
        await asyncio.sleep(0)
        return a + 1

    def first(a: int, /, b: int = 2) -> int:
        return a * b

    @functools.wraps(first)
    def wrapped(*args, **more):
        return first(*args, **more) + 100

    class Adder:
        """Add."""

        def __call__(self, a: int, b: int = 1) -> int:
            return a + b

    assert used(make_function_tool(later, name="f"), a=1) == "2"
    assert used(make_function_tool(first, name="f"), a=3) == "6"
    assert used(make_function_tool(wrapped, name="f"), a=3, b=3) == "109"
    assert used(make_function_tool(Adder(), name="f"), a=3) == "4"
    assert used(make_function_tool(functools.partial(first, b=5), name="f"), a=3) == "15"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("text", "text"),
        (b"b\xff", "b\ufffd"),
        (None, "(The tool returned nothing.)"),
        (1.5, "1.5"),
        ([Item("a")], '[{"sku":"a","count":1}]'),
        (datetime.date(2026, 1, 2), '"2026-01-02"'),
        ({"x": Opaque}, None),
    ],
)
def test_results_become_text(value, expected):
    """Text stays, and everything else is written as JSON, as far as that goes."""
    found = used(make_function_tool(lambda: value, name="f"))

    assert found == expected if expected is not None else "Opaque" in found


def test_what_a_function_does_wrong_is_a_result():
    """An exception, an attempt to end the program and a result of no kind are results."""

    def fails():
        raise KeyError("the key\nis missing")

    def leaves():
        sys.exit(7)

    async def leaves_later():
        raise SystemExit

    tools = [
        make_function_tool(function, name=function.__name__)
        for function in (fails, leaves, leaves_later)
    ]
    results = asyncio.run(
        carried_out(session(*tools), *(call(tool.name, call_id=tool.name) for tool in tools))
    )

    assert [result.outcome for result in results] == ["failed"] * 3
    assert results[0].text == "the tool failed: KeyError: 'the key\\nis missing'"
    assert "end the program" in results[1].text
    assert "end the program" in results[2].text


def test_a_function_that_hangs_is_left_behind():
    """A blocking function is given up at its time, and keeps neither loop nor program waiting."""
    released = threading.Event()
    threads: list[threading.Thread] = []

    def hangs() -> str:
        threads.append(threading.current_thread())
        released.wait(30)
        return "late"

    tool = make_function_tool(hangs, name="hangs")
    started = time.perf_counter()
    [result] = asyncio.run(carried_out(session(tool), call("hangs"), left_s=0.6))
    took = time.perf_counter() - started
    released.set()
    threads[0].join(5)  # until it has ended, stdout is not the next test's

    assert result.outcome == "timeout"
    assert "within 0.3 s" in result.text
    assert "may have taken effect" in result.text
    assert took < 2


def test_what_a_function_prints_does_not_reach_stdout(capsys):
    """Stdout belongs to the answer: prints of a function go to stderr, and stdout is restored."""

    def prints() -> str:
        print("to nobody")
        return "x"

    before = sys.stdout
    assert used(make_function_tool(prints, name="prints")) == "x"

    assert sys.stdout is before
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "to nobody\n"


def test_read_only_is_said_by_the_function():
    """Only the attribute makes a function read-only; without it nobody knows."""

    def reads(): ...

    assert make_function_tool(reads, name="reads").read_only is None
    reads.read_only = True
    assert make_function_tool(reads, name="reads").read_only is True
    reads.read_only = "yes"
    assert make_function_tool(reads, name="reads").read_only is None


MODULE = '''
"""A module of tools."""
print("imported")

def lookup_order(number: int) -> str:
    """Look an order up.

    Args:
        number: Its number.
    """
    return f"order {number}"

lookup_order.read_only = True
thing = 3
'''


@pytest.fixture
def modules(tmp_path, monkeypatch):
    """Make a folder with modules, and forget them afterwards."""
    folder = tmp_path / "profiles"
    folder.mkdir()
    (folder / "my_tools_x.py").write_text(MODULE)
    (folder / "needs_x.py").write_text("import not_installed_x\n")
    (folder / "broken_x.py").write_text("def f(:\n")
    (folder / "raises_x.py").write_text("raise RuntimeError('no\\nlicence')\n")
    (folder / "leaves_x.py").write_text("import sys; sys.exit(9)\n")
    (folder / "json.py").write_text("def dumps(): return 'fooled'\n")
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield folder
    for name in ("my_tools_x", "needs_x", "broken_x", "raises_x", "leaves_x"):
        sys.modules.pop(name, None)


def test_a_function_is_found_beside_the_profile(modules, capsys):
    """A module is found in the profile's folder, after all others; its prints go to stderr."""
    tool = load_function("my_tools_x:lookup_order", [modules])

    assert used(tool, number=7) == "order 7"
    assert tool.description == "Look an order up."
    assert tool.read_only is True
    assert capsys.readouterr().out == ""
    with pytest.raises(UsageError):
        load_function("json:nothing_like_it", [modules])
    import json

    assert str(modules) not in json.__file__


def test_the_working_directory_is_not_looked_in(modules, monkeypatch):
    """What lies in the working directory is not imported: it may be anybody's."""
    monkeypatch.chdir(modules)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in {"", "."}])
    with pytest.raises(UsageError, match="there is no module my_tools_x"):
        load_function("my_tools_x:lookup_order", [])


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ("nowhere_x:f", "there is no module nowhere_x"),
        ("my_tools_x.sub:f", "there is no module my_tools_x.sub"),
        ("needs_x:f", "importing needs_x failed: it needs not_installed_x"),
        ("broken_x:f", "importing broken_x failed: SyntaxError"),
        ("raises_x:f", "importing raises_x failed: RuntimeError: no licence"),
        ("leaves_x:f", "importing leaves_x failed: SystemExit: 9"),
        ("my_tools_x:nothing", "the module my_tools_x has no nothing"),
        ("my_tools_x:thing", "thing is not a function"),
        ("collections:Counter", "Counter is not a function"),
        ("os:execl", "without names"),
    ],
)
def test_import_errors_are_one_line(modules, entry, reason):
    """Whatever keeps a function from being a tool is one line that names its entry."""
    with pytest.raises(UsageError) as caught:
        load_function(entry, [modules])

    assert str(caught.value).startswith(f"tools.python: {entry}: ")
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_functions_of_one_name_in_two_files_are_told_apart(tmp_path):
    """An approval for good holds for the function that was approved, not for its namesakes."""
    tools = []
    for project in ("one", "two"):
        found = {"__name__": "mytools"}
        exec(compile("def delete(): ...", tmp_path / project / "mytools.py", "exec"), found)
        tools.append(make_function_tool(found["delete"], name="delete"))
    memory = RememberedApprovals(tmp_path / "approvals.json")
    memory.add(tools[0], whole=False)

    assert [memory.covers(tool) for tool in tools] == [True, False]


def test_only_what_is_granted_is_imported(modules):
    """A toolbox imports a module when a grant includes its function, and not before."""
    declared = Tools(builtin=("now",), python=("my_tools_x:lookup_order", "broken_x:f"))
    toolbox = Toolbox(declared, cwd=modules, env={}, folders=[modules])

    async def names(grant):
        return [tool.name for tool in await toolbox.granted(grant)]

    assert asyncio.run(names(("now",))) == ["now"]
    assert "my_tools_x" not in sys.modules
    assert asyncio.run(names(("lookup_order", "now"))) == ["now", "lookup_order"]
    with pytest.raises(UsageError, match="broken_x"):
        asyncio.run(names("all"))
    with pytest.raises(UsageError, match="no tool `nothing` is declared"):
        asyncio.run(names(("nothing",)))
    assert asyncio.run(names("none")) == []


@pytest.mark.parametrize(
    "python", [("my_tools_x:lookup_order", "broken_x:lookup_order"), ("my_tools_x:now",)]
)
def test_two_tools_of_one_name_are_a_mistake(modules, python):
    """A name means one tool: two that share it are reported."""
    toolbox = Toolbox(Tools(builtin=("now",), python=python), cwd=modules, env={})
    with pytest.raises(UsageError, match="rename one"):
        asyncio.run(toolbox.granted(("now",)))


def test_docstrings():
    """Sections, types and continuation lines are understood; what is not there is empty."""
    assert parse_docstring(None) == ("", {})
    assert parse_docstring("Do it.") == ("Do it.", {})
    about, arguments = parse_docstring(
        """Do it.

        Well: this is no section.

        Args:
            a (int, optional): The a,
                on two lines.
            b: With: a colon.
            *more: Others.
                indented: no argument

        Raises:
            c: not an argument
        """
    )

    assert about == "Do it.\n\nWell: this is no section."
    assert arguments == {
        "a": "The a, on two lines.",
        "b": "With: a colon.",
        "more": "Others. indented: no argument",
    }


def test_a_failure_of_ones_own_is_passed_on():
    """A function may say itself what a model should know."""

    def fails():
        raise ToolFailureError("order 7 was cancelled")

    with pytest.raises(ToolFailureError, match="order 7 was cancelled"):
        used(make_function_tool(fails, name="fails"))
