"""`calculate` is exact, knows when it isn't, and cannot be made to work for long."""

from __future__ import annotations

import ast
import math
import time
from contextlib import suppress
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tools_support import used

from tieredllm.tools.base import ToolFailureError
from tieredllm.tools.builtin.calculate import (
    MAX_CHARACTERS,
    evaluate,
    format_number,
    make_calculate,
)
from tieredllm.tools.builtin.math_functions import MAX_BITS, ArithmeticalError

_OPERATORS = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b,
    ast.FloorDiv: lambda a, b: Fraction(a // b),
    ast.Mod: lambda a, b: a % b,
    ast.Pow: lambda a, b: a**b,
}


def by_python(text):
    """Give what Python's own parser and its fractions make of an expression."""

    def value(node):
        if isinstance(node, ast.Constant):
            return Fraction(node.value)
        if isinstance(node, ast.UnaryOp):
            inner = value(node.operand)
            return -inner if isinstance(node.op, ast.USub) else inner
        return _OPERATORS[type(node.op)](value(node.left), value(node.right))

    return value(ast.parse(text, mode="eval").body)


numbers = st.integers(0, 10**6).map(str)
powers = st.tuples(numbers, st.integers(0, 4)).map(lambda pair: f"{pair[0]} ** {pair[1]}")
expressions = st.recursive(
    numbers | powers,
    lambda inner: (
        st.tuples(inner, st.sampled_from(["+", "-", "*", "/", "//", "%"]), inner).map(" ".join)
        | inner.map("({})".format)
        | inner.map("- {}".format)
    ),
    max_leaves=12,
)


@given(expressions)
@settings(max_examples=500, deadline=None)
def test_it_is_what_python_makes_of_fractions(text):
    """Precedence, associativity and exact results agree with Python's parser and fractions."""
    try:
        expected = by_python(text)
    except ZeroDivisionError:
        with pytest.raises(ArithmeticalError):
            evaluate(text)
        return

    assert evaluate(text) == expected


@given(st.decimals(allow_nan=False, allow_infinity=False, places=6, min_value=0, max_value=10**9))
@settings(deadline=None)
def test_decimals_are_exact(number):
    """A decimal comes out as it went in: nothing is binary floating point."""
    assert Fraction(format_number(evaluate(f"{number:f}"))) == Fraction(number)


@given(st.text("0123456789+-*/%^!().,e _xpiabsqrtn", max_size=60))
@settings(max_examples=1500, deadline=None)
def test_any_text_has_a_value_or_an_error(text):
    """Whatever is written, the outcome is a number or an error of its own kind."""
    with suppress(ArithmeticalError):
        assert format_number(evaluate(text))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.1 + 0.2", "0.3"),
        ("1/3", "1/3 (about 0.333333333333333333333333333333)"),
        ("2**100", "1267650600228229401496703205376"),
        ("2^10", "1024"),
        ("-2**2", "-4"),
        ("2**3**2", "512"),
        ("-7 % 3", "2"),
        ("-7 // 2", "-4"),
        ("5!", "120"),
        ("2 \u00d7 3 \u00f7 4 \u2212 1", "0.5"),
        ("1_000_000 * 3", "3000000"),
        ("0xff + 0b11", "258"),
        ("1e-3", "0.001"),
        ("sqrt(16/9)", "4/3 (about 1.33333333333333333333333333333)"),
        ("sqrt(2)", "about 1.41421356237309504880168872421"),
        ("2 ** 0.5", "about 1.41421356237309504880168872421"),
        ("8 ** 0.5 ** 2", "about 1.68179283050742908606225095247"),
        ("cbrt(-27)", "-3"),
        ("pi", "about 3.14159265358979323846264338328"),
        ("round(pi, 4)", "3.1416"),
        ("round(2.675, 2)", "2.68"),
        ("log10(1000)", "3"),
        ("log(8, 2)", "3"),
        ("ln(e)", "about 1"),
        ("sin(pi)", "0"),
        ("sin(1)", "about 0.841470984807897"),
        ("max(1/3, 0.3, 1/4)", "1/3 (about 0.333333333333333333333333333333)"),
        ("mean(1, 2, 6)", "3"),
        ("comb(50, 6)", "15890700"),
        ("gcd(12, 18) + lcm(4, 6)", "18"),
        ("exp(-1000)", "about 5.07595889754945676529180947957e-435"),
        ("0 ** 0", "1"),
        ("(-1) ** (10 ** 100)", "1"),
    ],
)
def test_values(text, expected):
    """What is exact is given in full, and what is not is called approximate."""
    assert format_number(evaluate(text)) == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("1/0", "division by zero"),
        ("1 % (2 - 2)", "division by zero"),
        ("pi / 0", "division by zero"),
        ("0 ** -1", "zero has no negative powers"),
        ("sqrt(-1)", "no real square root"),
        ("(-8) ** (1/3)", "no real power"),
        ("ln(0)", "above 0"),
        ("log(8, 1)", "base"),
        ("asin(2)", "no real result"),
        ("1,000", "write 1000, not 1,000"),
        ("2(3)", "an operator is missing"),
        ("2 pi", "an operator is missing"),
        ("(1", "`)` is missing"),
        ("1)", "cannot be here"),
        ("", "ends too early"),
        ("3 +", "ends too early"),
        ("1 == 1", "comparisons"),
        ("nope + 1", "there is no 'nope'"),
        ("nope(1)", "there is no function 'nope'"),
        ("sqrt", "write sqrt("),
        ("sqrt(1, 2)", "takes 1 arguments, not 2"),
        ("gcd(1.5, 2)", "whole numbers only"),
        ("(-3)!", "no factorial"),
        ("__import__('os').system('id')", "means nothing here"),
        ("().__class__", "means nothing here"),
        ("floor(exp(9000))", "known to its first digits only"),
        ("1 if 1 else 2", "an operator is missing"),
    ],
)
def test_errors_say_what_is_wrong(text, reason):
    """An expression without a value is an error that says why."""
    with pytest.raises(ArithmeticalError) as caught:
        evaluate(text)

    assert reason in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "10**10**10",
        "9**9**9**9",
        "2**13001",
        "(1/2)**99999999",
        "1.0000001**99999999999999999999",
        "1400!!",
        "99999999999999999999!",
        "comb(10**30, 10**29)",
        "perm(10**9, 10**8)",
        "1e999999",
        "exp(10**9)",
        "exp(exp(exp(exp(9))))",
        "3**8000 * 3**8000",
        "lcm(" + ",".join(f"2**{n}+1" for n in range(800, 900, 2)) + ")",
        "(" * 400 + "1" + ")" * 400,
        "-" * 900 + "1",
        "2" + "**1" * 300,
        "1" * (MAX_CHARACTERS + 1),
        "sinh(10**6)",
        "float(10**5000)",
    ],
)
def test_what_is_too_large_is_refused_at_once(text):
    """Neither huge results nor deep nesting take time or memory: they are refused."""
    started = time.perf_counter()
    with pytest.raises(ArithmeticalError):
        evaluate(text)

    assert time.perf_counter() - started < 0.5


@pytest.mark.parametrize(
    "text",
    [
        "+".join(["7**4000/3**8000"] * 60),
        "%".join(["7**4500"] * 120),
        "+".join(["cbrt(2**12000)"] * 60),
        "gcd(" + ",".join(["3**8100", "2**12900"] * 40) + ")",
        "+".join(f"1/{n}**40" for n in range(3, 110)),
    ],
)
def test_the_most_expensive_expressions_are_quick(text):
    """As many operations on as large numbers as fit take a fraction of a second."""
    assert len(text) <= MAX_CHARACTERS
    started = time.perf_counter()
    format_number(evaluate(text))

    assert time.perf_counter() - started < 1.0


def test_the_largest_number_can_be_printed():
    """What is within the bound is given digit by digit."""
    largest = format_number(evaluate(f"2**{MAX_BITS - 1}"))

    assert largest == str(2 ** (MAX_BITS - 1))
    assert len(largest) == math.floor((MAX_BITS - 1) * math.log10(2)) + 1


def test_the_tool_turns_errors_into_failures():
    """What a model gets for an expression without a value is a failure, with the reason."""
    tool = make_calculate()

    assert used(tool, expression="6 * 7") == "42"
    with pytest.raises(ToolFailureError, match="division by zero"):
        used(tool, expression="1/0")
    assert tool.read_only is True
    assert tool.parameters["required"] == ["expression"]
