"""Calculate an arithmetic expression, without ever running code.

Python's own parser reads it, so precedence is Python's; what may be in it is checked before and
after. People's signs are put in Python's words first: `^` is a power, the typographical signs for
times, divided by and minus are what they look like, and `5!` is a factorial. Numbers are kept out
of the parser, which would make binary floating point of decimals.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from decimal import Context, Decimal
from fractions import Fraction
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from tieredllm.tools.base import CallTime, Tool, ToolFailureError
from tieredllm.tools.builtin.math_functions import (
    CONSTANTS,
    FUNCTIONS,
    ArithmeticalError,
    Number,
    apply,
)
from tieredllm.tools.schema import checker, schema_of

__all__ = ["MAX_CHARACTERS", "evaluate", "format_number", "make_calculate"]

MAX_CHARACTERS = 1000
MAX_DEPTH = 50
"""How deep functions, signs and powers may be nested; Python's own stack bounds it too."""

MAX_EXPONENT = 3900
"""The largest power of ten in a literal, such as 1e3900."""

_TOO_DEEP = f"the expression is nested more than {MAX_DEPTH} deep"


SHOWN_DIGITS = 30
"""How many digits of an approximate result are shown."""

MAX_DECIMALS = 60
"""More decimals than this are shown as a fraction."""

MAX_FRACTION_DIGITS = 40
"""A fraction whose numbers are longer is shown as a decimal only."""


class Arguments(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `calculate` takes."""

    expression: Annotated[
        str,
        Meta(
            min_length=1,
            description=(
                "Arithmetic such as (17.5 * 3) ** 2 / 7 or round(sqrt(2), 4). "
                "Operators: + - * / // % ** and ^ for powers, n! for factorials; "
                f"constants: pi, e, tau; functions: {', '.join(FUNCTIONS)} (angles in radians)."
            ),
        ),
    ]


_TOKEN = re.compile(
    r"""\s*(?:
        (?P<number> 0[xX][0-9a-fA-F]+ | 0[bB][01]+
            | (?:[0-9](?:_?[0-9])*(?:\.(?:[0-9](?:_?[0-9])*)?)? | \.[0-9](?:_?[0-9])*)
              (?:[eE][+-]?[0-9]{1,6})? )
        | (?P<name> [A-Za-zπτ_][A-Za-z0-9_]* )
        | (?P<sign> \*\* | // | [-+*/%^(),!\u00d7\u00b7\u00f7\u2212] )
    )""",
    re.VERBOSE,
)
_SAME = {
    "^": "**", "\u00d7": "*", "\u00b7": "*", "\u00f7": "/", "\u2212": "-", "π": "pi", "τ": "tau",
}  # fmt: skip
_OPERATORS: dict[type[ast.operator], str] = {
    ast.Add: "+",
    ast.Sub: "-",
    ast.Mult: "*",
    ast.Div: "/",
    ast.FloorDiv: "//",
    ast.Mod: "%",
    ast.Pow: "**",
}


def evaluate(text: str) -> Number:
    """Return the value of an expression.

    Raises:
        ArithmeticalError: it cannot be read, has no value, or is too large in any step.
    """
    if len(text) > MAX_CHARACTERS:
        raise ArithmeticalError(f"the expression is longer than {MAX_CHARACTERS} characters")
    source, numbers = _translate(text.rstrip())
    try:
        tree = ast.parse(source, mode="eval")
    except SyntaxError as exc:
        raise ArithmeticalError(f"the expression cannot be read: {exc.msg}") from exc
    except (MemoryError, RecursionError) as exc:
        raise ArithmeticalError(_TOO_DEEP) from exc
    return _value(tree.body, numbers, 0)


def _translate(text: str) -> tuple[str, list[Fraction]]:
    """Put an expression in Python's words, and each number as its place in a list of exact ones."""
    words: list[str] = []
    numbers: list[Fraction] = []
    opened: list[int] = []
    at = 0
    start: int | None = None  # of the value that ends here; None where one must follow
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None:
            left = text[at:].lstrip()
            raise ArithmeticalError(f"{left[:1]!r} means nothing here: {_hint(left)}")
        at = found.end()
        kind = str(found.lastgroup)
        word = _SAME.get(found[kind], found[kind])
        calls = word == "(" and start is not None and words[-1].isidentifier()
        if start is not None and not calls and (kind != "sign" or word == "("):
            raise ArithmeticalError(f"an operator is missing before {word!r}")
        if (word == ")" and not opened) or (word == "!" and start is None):
            raise ArithmeticalError(f"{word!r} cannot be here")
        if kind == "number":
            numbers.append(_literal(word))
            word = str(len(numbers) - 1)
        if kind != "sign":
            start = len(words)
        elif word == "(":
            opened.append(len(words) - calls)
            start = None
        elif word == ")":
            start = opened.pop()
        elif word == "!" and start is not None:
            words.insert(start, "factorial(")
            word = ")"
        else:
            start = None
        words.append(word)
    if start is None:
        raise ArithmeticalError("the expression ends too early")
    if opened:
        raise ArithmeticalError("a `)` is missing at the end")
    return " ".join(words), numbers


def _hint(left: str) -> str:
    if left[0] in "=<>&|~":
        return "comparisons and logic are not calculated"
    if left[0] in "$€£":
        return "leave currencies out"
    return "use numbers, + - * / // % ** ( ) and functions such as sqrt"


def _literal(text: str) -> Fraction:
    text = text.replace("_", "")
    if text[:2].lower() in {"0x", "0b"}:
        return Fraction(int(text, 0))
    _, _, exponent = text.lower().partition("e")
    if exponent and abs(int(exponent)) > MAX_EXPONENT:
        raise ArithmeticalError(f"a power of ten above {MAX_EXPONENT} is too large")
    return Fraction(text)


def _value(node: ast.expr, numbers: Sequence[Fraction], depth: int) -> Number:
    """Compute a part of the tree; a chain such as 1 + 2 + 3 is a loop, however long it is."""
    if depth > MAX_DEPTH:
        raise ArithmeticalError(_TOO_DEEP)
    chain: list[ast.BinOp] = []
    while isinstance(node, ast.BinOp):
        chain.append(node)
        node = node.left
    value = _operand(node, numbers, depth)
    for link in reversed(chain):
        value = apply(_OPERATORS[type(link.op)], value, _value(link.right, numbers, depth + 1))
    return value


def _operand(node: ast.expr, numbers: Sequence[Fraction], depth: int) -> Number:
    match node:
        case ast.Constant(value=int(place)) if not isinstance(place, bool):
            return numbers[place]
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return _value(operand, numbers, depth + 1)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return apply("-", Fraction(0), _value(operand, numbers, depth + 1))
        case ast.Name(id=name):
            if name in CONSTANTS:
                return CONSTANTS[name]
            if name in FUNCTIONS:
                raise ArithmeticalError(f"{name} is a function: write {name}(…)")
            raise ArithmeticalError(f"there is no {name!r}: {_known()}")
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]):
            if name not in FUNCTIONS:
                raise ArithmeticalError(f"there is no function {name!r}: {_known()}")
            function, (least, most) = FUNCTIONS[name]
            if not least <= len(args) <= most:
                wanted = str(least) if least == most else f"{least} to {most}"
                raise ArithmeticalError(f"{name} takes {wanted} arguments, not {len(args)}")
            return function(*(_value(each, numbers, depth + 1) for each in args))
        case ast.Tuple(elts=[_, *_]):
            raise ArithmeticalError("`,` separates arguments only: write 1000, not 1,000")
        case _:
            raise ArithmeticalError("only numbers, operators and functions are calculated")


def _known() -> str:
    return f"there are {', '.join([*CONSTANTS, *FUNCTIONS])}"


def make_calculate() -> Tool:
    """Make the tool."""

    async def run(arguments: dict[str, Any], time: CallTime) -> str:  # noqa: ARG001
        try:
            return format_number(evaluate(arguments["expression"]))
        except ArithmeticalError as exc:
            raise ToolFailureError(str(exc)) from exc

    return Tool(
        name="calculate",
        description=(
            "Calculate an arithmetic expression exactly, with fractions and decimals of any length."
        ),
        parameters=schema_of(Arguments),
        read_only=True,
        origin="builtin",
        check=checker(Arguments),
        run=run,
    )


def format_number(value: Number) -> str:
    """Write a number: exact ones in full, others as `about …`."""
    if isinstance(value, Decimal):
        return f"about {_rounded(value)}"
    if value.denominator == 1:
        return str(value.numerator)
    decimals = _decimals(value)
    if decimals is not None:
        return decimals
    context = Context(prec=SHOWN_DIGITS)
    near = context.divide(Decimal(value.numerator), Decimal(value.denominator))
    about = f"about {_rounded(near)}"
    whole = f"{value.numerator}/{value.denominator}"
    return f"{whole} ({about})" if len(whole) <= 2 * MAX_FRACTION_DIGITS else about


def _decimals(value: Fraction) -> str | None:
    """Write a fraction as an exact decimal; None when it has no short one."""
    rest, twos, fives = value.denominator, 0, 0
    while rest % 2 == 0:
        rest, twos = rest // 2, twos + 1
    while rest % 5 == 0:
        rest, fives = rest // 5, fives + 1
    places = max(twos, fives)
    if rest != 1 or places > MAX_DECIMALS:
        return None
    digits = str(abs(value.numerator) * 10**places // value.denominator).rjust(places + 1, "0")
    sign = "-" if value < 0 else ""
    return f"{sign}{digits[:-places]}.{digits[-places:]}"


def _rounded(value: Decimal) -> str:
    context = Context(prec=SHOWN_DIGITS)
    shown = context.create_decimal(value)
    if shown and not -SHOWN_DIGITS <= shown.adjusted() < SHOWN_DIGITS:
        return f"{context.normalize(shown):e}"
    text = f"{shown:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
