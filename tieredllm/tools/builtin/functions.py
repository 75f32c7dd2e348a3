"""Define the constants and functions that an expression may use."""

from __future__ import annotations

import decimal
import math
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction

from tieredllm.tools.builtin.arithmetic import (
    MAX_BITS,
    TOO_LARGE,
    ArithmeticalError,
    Number,
    approximated,
    binary,
    bounded,
    negated,
    power,
    sqrt,
    whole_power,
)

__all__ = ["CONSTANTS", "FUNCTIONS"]

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
        total = binary("+", total, value)
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
    "mean": (lambda *values: binary("/", _sum(*values), Fraction(len(values))), (1, 100)),
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
