"""Read an arithmetic expression and give its value, without ever running code.

The grammar is that of Python's arithmetic, with a few signs people write: `^` is a power, the
typographical signs for times, divided by and minus are what they look like, and `5!` is a
factorial. From weak to strong::

    sum      =  product { ("+" | "-") product }
    product  =  signed { ("*" | "/" | "//" | "%") signed }
    signed   =  ("+" | "-") signed  |  power
    power    =  postfix [ ("**" | "^") signed ]
    postfix  =  atom { "!" }
    atom     =  number  |  constant  |  function "(" sum { "," sum } ")"  |  "(" sum ")"

It is evaluated while it is read; `arithmetic` bounds every step.
"""

from __future__ import annotations

import re
from fractions import Fraction

from tieredllm.tools.builtin.arithmetic import ArithmeticalError, Number, binary, power
from tieredllm.tools.builtin.functions import CONSTANTS, FUNCTIONS

__all__ = ["MAX_CHARACTERS", "evaluate"]

MAX_CHARACTERS = 1000
MAX_DEPTH = 50
"""How deep parentheses, signs and powers may be nested; Python's own stack bounds it too."""

MAX_EXPONENT = 3900
"""The largest power of ten in a literal, such as 1e3900."""

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
_SAME = {"^": "**", "\u00d7": "*", "\u00b7": "*", "\u00f7": "/", "\u2212": "-"}
_GREEK = {"π": "pi", "τ": "tau"}


def evaluate(text: str) -> Number:
    """Give the value of an expression.

    Raises:
        ArithmeticalError: it cannot be read, has no value, or is too large in any step.
    """
    if len(text) > MAX_CHARACTERS:
        raise ArithmeticalError(f"the expression is longer than {MAX_CHARACTERS} characters")
    reader = _Reader(_tokens(text))
    value = reader.sum()
    reader.end()
    return value


def _tokens(text: str) -> list[tuple[str, str]]:
    tokens = []
    at = 0
    text = text.rstrip()
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None:
            left = text[at:].lstrip()
            raise ArithmeticalError(f"{left[:1]!r} means nothing here: {_hint(left)}")
        kind = str(found.lastgroup)
        tokens.append((kind, _SAME.get(found[kind], found[kind])))
        at = found.end()
    return tokens


def _hint(left: str) -> str:
    if left[0] in "=<>&|~":
        return "comparisons and logic are not calculated"
    if left[0] in "$€£":
        return "leave currencies out"
    return "use numbers, + - * / // % ** ( ) and functions such as sqrt"


class _Reader:
    """Read tokens from left to right."""

    def __init__(self, tokens: list[tuple[str, str]]) -> None:
        self._tokens = tokens
        self._at = 0
        self._depth = 0

    def sum(self) -> Number:
        value = self._product()
        while operator := self._take("+", "-"):
            value = binary(operator, value, self._product())
        return value

    def end(self) -> None:
        if self._at < len(self._tokens):
            raise self._wrong()

    def _product(self) -> Number:
        value = self._signed()
        while operator := self._take("*", "/", "//", "%"):
            value = binary(operator, value, self._signed())
        return value

    def _signed(self) -> Number:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise ArithmeticalError(f"the expression is nested more than {MAX_DEPTH} deep")
        if sign := self._take("+", "-"):
            value = self._signed()
            value = value if sign == "+" else binary("-", Fraction(0), value)
        else:
            value = self._postfix()
            if self._take("**"):
                value = power(value, self._signed())
        self._depth -= 1
        return value

    def _postfix(self) -> Number:
        value = self._atom()
        while self._take("!"):
            value = FUNCTIONS["factorial"][0](value)
        return value

    def _atom(self) -> Number:
        kind, text = self._peek()
        if kind == "number":
            self._at += 1
            return _literal(text)
        if kind == "name":
            self._at += 1
            return self._named(_GREEK.get(text, text))
        if self._take("("):
            value = self.sum()
            self._close()
            return value
        raise self._wrong()

    def _named(self, name: str) -> Number:
        if not self._take("("):
            if name in CONSTANTS:
                return CONSTANTS[name]
            if name in FUNCTIONS:
                raise ArithmeticalError(f"{name} is a function: write {name}(…)")
            raise ArithmeticalError(f"there is no {name!r}: {_known()}")
        if name not in FUNCTIONS:
            raise ArithmeticalError(f"there is no function {name!r}: {_known()}")
        values = [] if self._take(")") else self._arguments()
        function, (least, most) = FUNCTIONS[name]
        if not least <= len(values) <= most:
            wanted = str(least) if least == most else f"{least} to {most}"
            raise ArithmeticalError(f"{name} takes {wanted} arguments, not {len(values)}")
        return function(*values)

    def _arguments(self) -> list[Number]:
        values = [self.sum()]
        while self._take(","):
            values.append(self.sum())
        self._close()
        return values

    def _close(self) -> None:
        if not self._take(")"):
            if self._at == len(self._tokens):
                raise ArithmeticalError("a `)` is missing at the end")
            raise self._wrong()

    def _peek(self) -> tuple[str, str]:
        return self._tokens[self._at] if self._at < len(self._tokens) else ("end", "")

    def _take(self, *signs: str) -> str | None:
        kind, text = self._peek()
        if kind == "sign" and text in signs:
            self._at += 1
            return text
        return None

    def _wrong(self) -> ArithmeticalError:
        kind, text = self._peek()
        if kind == "end":
            return ArithmeticalError("the expression ends too early")
        before = self._tokens[self._at - 1] if self._at else ("", "")
        if text == ",":
            reason = "`,` separates arguments only: write 1000, not 1,000"
        elif kind in {"number", "name"} or (text == "(" and before[0] in {"number", "sign"}):
            reason = f"an operator is missing before {text!r}"
        else:
            reason = f"{text!r} cannot be here"
        return ArithmeticalError(reason)


def _known() -> str:
    return f"there are {', '.join([*CONSTANTS, *FUNCTIONS])}"


def _literal(text: str) -> Fraction:
    text = text.replace("_", "")
    if text[:2].lower() in {"0x", "0b"}:
        return Fraction(int(text, 0))
    _, _, exponent = text.lower().partition("e")
    if exponent and abs(int(exponent)) > MAX_EXPONENT:
        raise ArithmeticalError(f"a power of ten above {MAX_EXPONENT} is too large")
    return Fraction(text)
