"""The operators, constants and functions of `calculate`: exact where numbers allow it, and bounded.

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

__all__ = ["CONSTANTS", "FUNCTIONS", "MAX_BITS", "ArithmeticalError", "Number", "apply"]

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
    """Something cannot be calculated; the message says why."""


def apply(operator: str, left: Number, right: Number) -> Number:
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
    """Return a number back.

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


CONSTANTS: dict[str, Number] = {
    "pi": Decimal("3.1415926535897932384626433832795028841971693993751"),
    "e": Decimal("2.7182818284590452353602874713526624977572470937000"),
    "tau": Decimal("6.2831853071795864769252867665590057683943387987502"),
}


def _cbrt(value: Number) -> Number:
    if value < 0:
        return negated(_cbrt(negated(value)))
    if value == 0:
        return Fraction(0)
    third = approximated(decimal.Context.divide, Fraction(1), Fraction(3))
    root = power(value, third)
    if isinstance(value, Fraction):
        near = Fraction(_rounded(root))
        if near**3 == value:
            return near
    return root


def _rounded(value: Number) -> int:
    return round(Fraction(value))


def _ln(value: Number) -> Number:
    return _log(value, CONSTANTS["e"])


def _log(value: Number, base: Number = CONSTANTS["e"]) -> Number:
    if value <= 0:
        raise ArithmeticalError("only numbers above 0 have a logarithm")
    if base <= 0 or base == 1:
        raise ArithmeticalError("a logarithm's base is above 0 and not 1")
    if base == CONSTANTS["e"]:
        return approximated(decimal.Context.ln, value)
    if base == 10:
        return approximated(decimal.Context.log10, value)
    result = approximated(
        lambda context, x, y: context.divide(context.ln(x), context.ln(y)), value, base
    )
    if isinstance(value, Fraction) and isinstance(base, Fraction):
        near = _rounded(result)
        # log(8, 2) is 3, and not 2.9999…
        if abs(near) <= MAX_BITS and _whole_power_or_none(base, near) == value:
            return Fraction(near)
    return result


def _whole_power_or_none(base: Fraction, exponent: int) -> Fraction | None:
    try:
        return whole_power(base, exponent)
    except ArithmeticalError:
        return None


def _floating(function: Callable[..., float]) -> Callable[..., Number]:
    """Make a function of floating point one of numbers."""

    def call(*values: Number) -> Number:
        try:
            result = function(*(float(value) for value in values))
        except OverflowError as exc:
            raise ArithmeticalError("the number is too large for this function") from exc
        except ValueError as exc:
            raise ArithmeticalError("there is no real result") from exc
        if not math.isfinite(result):
            raise ArithmeticalError("there is no finite result")
        # sin(pi) is 1.2e-16 for a machine's pi.
        return Decimal(f"{result:.15g}") if abs(result) > 1e-15 else Fraction(0)

    return call


def _exactly(value: Number) -> Fraction:
    """Take a number at its word; one that is not known to the ones is none to round or count."""
    if isinstance(value, Decimal) and int(value.as_tuple().exponent) > 0:
        raise ArithmeticalError("the number is known to its first digits only")
    return Fraction(value)


def _whole(value: Number) -> int:
    exact = _exactly(value)
    if exact.denominator != 1:
        raise ArithmeticalError("this function takes whole numbers only")
    return exact.numerator


def _round(value: Number, digits: Number = Fraction(0)) -> Number:
    places = _whole(digits)
    if abs(places) > 1000:
        raise ArithmeticalError("rounding takes -1000 to 1000 digits")
    return bounded(Fraction(round(_exactly(value), places)))


def _factorial(value: Number) -> Number:
    number = _whole(value)
    if number < 0:
        raise ArithmeticalError("a negative number has no factorial")
    # ln(n!) is lgamma(n + 1); a number that is no float is far too large anyway.
    if number > MAX_BITS or math.lgamma(number + 1) / math.log(2) > MAX_BITS:
        raise ArithmeticalError(TOO_LARGE)
    return Fraction(math.factorial(number))


def _choices(function: Callable[[int, int], int], *, ordered: bool) -> Callable[..., Number]:
    def call(total: Number, chosen: Number) -> Number:
        n, k = _whole(total), _whole(chosen)
        if n < 0 or k < 0:
            raise ArithmeticalError("this function takes no negative numbers")
        if k > n:
            return Fraction(0)
        factors = k if ordered else min(k, n - k)
        # A product of so many factors, none of them above n.
        if factors > MAX_BITS or factors * n.bit_length() > 4 * MAX_BITS:
            raise ArithmeticalError(TOO_LARGE)
        return bounded(Fraction(function(n, k)))

    return call


def _of_whole(function: Callable[..., int]) -> Callable[..., Number]:
    return lambda *values: bounded(Fraction(function(*(_whole(value) for value in values))))


def _sum(*values: Number) -> Number:
    total: Number = Fraction(0)
    for value in values:
        total = apply("+", total, value)
    return total


Arity = tuple[int, int]
FUNCTIONS: dict[str, tuple[Callable[..., Number], Arity]] = {
    "sqrt": (sqrt, (1, 1)),
    "cbrt": (_cbrt, (1, 1)),
    "exp": (lambda x: approximated(decimal.Context.exp, x), (1, 1)),
    "ln": (_ln, (1, 1)),
    "log": (_log, (1, 2)),
    "log2": (lambda x: _log(x, Fraction(2)), (1, 1)),
    "log10": (lambda x: _log(x, Fraction(10)), (1, 1)),
    "pow": (power, (2, 2)),
    "abs": (lambda x: negated(x) if x < 0 else x, (1, 1)),
    "floor": (lambda x: Fraction(math.floor(_exactly(x))), (1, 1)),
    "ceil": (lambda x: Fraction(math.ceil(_exactly(x))), (1, 1)),
    "trunc": (lambda x: Fraction(math.trunc(_exactly(x))), (1, 1)),
    "round": (_round, (1, 2)),
    "min": (lambda *values: min(values), (1, 100)),
    "max": (lambda *values: max(values), (1, 100)),
    "sum": (_sum, (1, 100)),
    "mean": (lambda *values: apply("/", _sum(*values), Fraction(len(values))), (1, 100)),
    "factorial": (_factorial, (1, 1)),
    "comb": (_choices(math.comb, ordered=False), (2, 2)),
    "perm": (_choices(math.perm, ordered=True), (2, 2)),
    "gcd": (_of_whole(math.gcd), (1, 100)),
    "lcm": (_of_whole(math.lcm), (1, 100)),
    "sin": (_floating(math.sin), (1, 1)),
    "cos": (_floating(math.cos), (1, 1)),
    "tan": (_floating(math.tan), (1, 1)),
    "asin": (_floating(math.asin), (1, 1)),
    "acos": (_floating(math.acos), (1, 1)),
    "atan": (_floating(math.atan), (1, 1)),
    "atan2": (_floating(math.atan2), (2, 2)),
    "sinh": (_floating(math.sinh), (1, 1)),
    "cosh": (_floating(math.cosh), (1, 1)),
    "tanh": (_floating(math.tanh), (1, 1)),
    "degrees": (_floating(math.degrees), (1, 1)),
    "radians": (_floating(math.radians), (1, 1)),
}
"""The functions by name, each with the least and the most arguments it takes."""
