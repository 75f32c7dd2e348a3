"""Calculate exactly where numbers allow it, and within bounds of size and time.

A number is a `Fraction` as long as it is exact: whole numbers, fractions and decimals, and all that
`+ - * / // %` and whole powers make of them. What has no exact value (most roots, logarithms,
angles) is a `Decimal` of 50 digits; the trigonometric functions give the 15 digits of the machine's
floating point. Whatever would be longer than some 4,000 digits is refused before it is computed.
"""

from __future__ import annotations

import decimal
import math
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction

__all__ = [
    "MAX_BITS",
    "TOO_LARGE",
    "ArithmeticalError",
    "Number",
    "approximated",
    "binary",
    "bounded",
    "negated",
    "power",
    "sqrt",
    "whole_power",
]

Number = Fraction | Decimal

MAX_BITS = 13_000
"""The longest exact number, in binary digits: 3,913 decimal ones.

Python refuses to print whole numbers of more than 4,300 digits (`sys.set_int_max_str_digits`).
"""

TOO_LARGE = f"the result would have more than {int(MAX_BITS * math.log10(2))} digits"

DIGITS = 50
"""How many digits an approximate number has."""

_CONTEXT = decimal.Context(
    prec=DIGITS,
    Emax=9999,
    Emin=-9999,
    traps=[decimal.InvalidOperation, decimal.DivisionByZero, decimal.Overflow],
)


class ArithmeticalError(Exception):
    """Report what cannot be calculated, and why."""


def binary(operator: str, left: Number, right: Number) -> Number:
    """Apply `+`, `-`, `*`, `/`, `//`, `%` or `**`.

    `//` and `%` round down, as Python's do: `-7 % 3` is 2.

    Raises:
        ArithmeticalError: there is no result, or it is too large.
    """
    if operator == "**":
        return power(left, right)
    if operator in {"/", "//", "%"} and right == 0:
        raise ArithmeticalError("division by zero")
    if isinstance(left, Fraction) and isinstance(right, Fraction):
        return bounded(_EXACT[operator](left, right))
    return approximated(_APPROXIMATE[operator], left, right)


def power(base: Number, exponent: Number) -> Number:
    """Raise a number to a power; exactly when the exponent is whole, or asks for an exact root.

    Raises:
        ArithmeticalError: there is no real result, or it is too large.
    """
    if base == 0 and exponent < 0:
        raise ArithmeticalError("zero has no negative powers")
    if isinstance(base, Fraction) and isinstance(exponent, Fraction):
        if exponent.denominator == 1:
            return whole_power(base, exponent.numerator)
        if exponent.denominator == 2 and base >= 0:
            return power(sqrt(base), Fraction(exponent.numerator))
    if base < 0 and (not isinstance(exponent, Fraction) or exponent.denominator != 1):
        raise ArithmeticalError("a negative number has no real power with a broken exponent")
    return approximated(decimal.Context.power, base, exponent)


def whole_power(base: Fraction, exponent: int) -> Fraction:
    """Raise an exact number to a whole power.

    Raises:
        ArithmeticalError: the result is too large.
    """
    if base in {0, 1}:
        return base if exponent else Fraction(1)
    if base == -1:
        return Fraction(-1 if exponent % 2 else 1)
    bits = max(base.numerator.bit_length(), base.denominator.bit_length())
    # A number of so many bits is at least 2 ** (bits - 1).
    if (bits - 1) * abs(exponent) > MAX_BITS:
        raise ArithmeticalError(TOO_LARGE)
    return bounded(base**exponent)


def bounded(value: Fraction) -> Fraction:
    """Give a number back.

    Raises:
        ArithmeticalError: it is too large.
    """
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
        raise ArithmeticalError(TOO_LARGE)
    return value


def approximated(compute: Callable[..., Decimal], *values: Number) -> Number:
    """Compute with decimals; from exact numbers, the result is exact when nothing was rounded.

    Args:
        compute: gets a context to compute in, and the values as decimals.
        values: what to compute with.

    Raises:
        ArithmeticalError: there is no result, or it is too large.
    """
    context = _CONTEXT.copy()
    try:
        result = compute(context, *(_decimal(context, value) for value in values))
    except decimal.Overflow as exc:
        raise ArithmeticalError(TOO_LARGE) from exc
    except decimal.DivisionByZero as exc:
        raise ArithmeticalError("division by zero") from exc
    except decimal.InvalidOperation as exc:
        raise ArithmeticalError("there is no real result") from exc
    exact = all(isinstance(value, Fraction) for value in values)
    return bounded(Fraction(result)) if exact and not context.flags[decimal.Inexact] else result


def _decimal(context: decimal.Context, value: Number) -> Decimal:
    if isinstance(value, Decimal):
        return value
    return context.divide(Decimal(value.numerator), Decimal(value.denominator))


def sqrt(value: Number) -> Number:
    """Take the square root, exactly where it is one of whole numbers.

    Raises:
        ArithmeticalError: the number is negative.
    """
    if value < 0:
        raise ArithmeticalError("a negative number has no real square root")
    if isinstance(value, Fraction):
        top, bottom = math.isqrt(value.numerator), math.isqrt(value.denominator)
        if top * top == value.numerator and bottom * bottom == value.denominator:
            return Fraction(top, bottom)
    return approximated(decimal.Context.sqrt, value)


def negated(value: Number) -> Number:
    """Change a number's sign."""
    return -value if isinstance(value, Fraction) else value.copy_negate()


def _floored(context: decimal.Context, left: Decimal, right: Decimal) -> Decimal:
    return context.divide(left, right).to_integral_value(decimal.ROUND_FLOOR)


_EXACT: dict[str, Callable[[Fraction, Fraction], Fraction]] = {
    "+": lambda left, right: left + right,
    "-": lambda left, right: left - right,
    "*": lambda left, right: left * right,
    "/": lambda left, right: left / right,
    "//": lambda left, right: Fraction(left // right),
    "%": lambda left, right: left % right,
}
_APPROXIMATE: dict[str, Callable[..., Decimal]] = {
    "+": decimal.Context.add,
    "-": decimal.Context.subtract,
    "*": decimal.Context.multiply,
    "/": decimal.Context.divide,
    "//": _floored,
    "%": lambda context, left, right: context.subtract(
        left, context.multiply(right, _floored(context, left, right))
    ),
}
