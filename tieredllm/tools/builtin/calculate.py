"""Calculate an arithmetic expression."""

from __future__ import annotations

from decimal import Context, Decimal
from fractions import Fraction
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from tieredllm.tools.base import Tool, ToolFailureError
from tieredllm.tools.builtin.arithmetic import ArithmeticalError, Number
from tieredllm.tools.builtin.expression import evaluate
from tieredllm.tools.builtin.functions import FUNCTIONS
from tieredllm.tools.schema import checker, schema_of

__all__ = ["make_calculate", "worded"]

SHOWN_DIGITS = 30
"""How many digits of an approximate result are shown."""

MAX_DECIMALS = 60
"""More decimals than this are shown as a fraction."""

MAX_FRACTION_DIGITS = 40
"""A fraction whose numbers are longer is shown as a decimal only."""


class Arguments(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Hold what `calculate` takes."""

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


def make_calculate() -> Tool:
    """Make the tool."""

    async def run(arguments: dict[str, Any], deadline: float) -> str:  # noqa: ARG001
        try:
            return worded(evaluate(arguments["expression"]))
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


def worded(value: Number) -> str:
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
