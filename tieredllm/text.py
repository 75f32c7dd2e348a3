r"""Clean text from outside, and word numbers, sizes and times the same way everywhere.

A model's, a server's or a tool's text may carry escape sequences that set the window's title,
write the clipboard (OSC 52), hide a link's destination (OSC 8), move the cursor, or reorder what is
read (bidirectional overrides). What happens to it here, and why:

- Escape sequences (ECMA-48, also in their 8-bit form) are dropped whole, so that no `[31m` is left
  behind. A string sequence (OSC, DCS, SOS, PM, APC) that is never ended stops at the end of its
  line, so that it cannot swallow the answer.
- `\r\n`, a lone `\r`, vertical tab, form feed, NEL and the Unicode line and paragraph separators
  become `\n`: they end lines, but a terminal does something else with each.
- All other C0 and C1 controls but `\n` and `\t`, and DEL, are dropped.
- Bidirectional embeddings, overrides and isolates are dropped (CVE-2021-42574, "Trojan Source"),
  as are the deprecated format characters U+206A to U+206F, interlinear annotations, the byte order
  mark, and the tag characters, which carry invisible text. The price: the three flags spelled with
  tags (England, Scotland, Wales) become a plain black flag.
- Lone surrogates, which no encoding takes, become U+FFFD.

Kept are the directional marks (LRM, RLM, ALM), joiners and zero-width spaces: scripts and emoji
need them, and they move nothing.
"""

from __future__ import annotations

import re
from enum import Enum

__all__ = [
    "TextFilter",
    "clean",
    "escape_json",
    "format_bytes",
    "one_line",
    "pluralize",
    "printable_line",
    "replace_surrogates",
    "truncate",
]

_INTRODUCER = re.compile("[\x1b\x90\x98\x9b\x9d-\x9f]")
"""ESC, and the C1 controls that begin a sequence: DCS, SOS, CSI, OSC, PM, APC (ECMA-48, 8.3)."""

_STRING_END = re.compile("[\x07\x18\x1a\x1b\x9c\n\r]")
"""BEL (xterm's end of an OSC), CAN, SUB, ESC (of `ESC \\`), ST, and the end of the line."""

_LINE_END = re.compile("\r\n?|[\x0b\x0c\x85\u2028\u2029]")

_DROPPED = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x9f"
    "\u202a-\u202e\u2066-\u206f"
    "\ufeff\ufff9-\ufffb"
    "\U000e0000-\U000e007f]"
)

_SURROGATE = re.compile("[\ud800-\udfff]")

_UNFIT_IN_JSON = re.compile(
    "[\x7f-\x9f\u2028-\u202e\u2066-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]"
)
"""What is dropped elsewhere, and JSON does not escape by itself."""


class _State(Enum):
    """Where in an escape sequence the text so far has ended."""

    TEXT = "text"
    ESCAPE = "after ESC"
    INTERMEDIATE = "after ESC and an intermediate byte"
    CONTROL = "in a control sequence"
    STRING = "in a control string"
    STRING_ESCAPE = "after an ESC in a control string"


_AFTER_ESCAPE = {
    "[": _State.CONTROL,
    "\x1b": _State.ESCAPE,
    **dict.fromkeys("PX]^_", _State.STRING),
}
"""What CSI, another ESC, and DCS, SOS, OSC, PM and APC begin, in their 7-bit form."""


class TextFilter:
    """Clean a text that comes in pieces; how it is cut into pieces changes nothing."""

    def __init__(self) -> None:
        self._state = _State.TEXT
        self._after_return = False

    def feed(self, text: str) -> str:
        """Return what of the next piece may be shown."""
        if self._state is not _State.TEXT or _INTRODUCER.search(text):
            text = self._without_sequences(text)
        if not text:
            return ""
        if self._after_return and text[0] == "\n":
            text = text[1:]
            self._after_return = False
            if not text:
                return ""
        self._after_return = text[-1] == "\r"
        text = _LINE_END.sub("\n", text)
        text = _DROPPED.sub("", text)
        return _SURROGATE.sub("\ufffd", text)

    def _without_sequences(self, text: str) -> str:
        kept: list[str] = []
        at = 0
        while at < len(text):
            if self._state is _State.TEXT:
                found = _INTRODUCER.search(text, at)
                if found is None:
                    kept.append(text[at:])
                    break
                kept.append(text[at : found.start()])
                self._state = _begun_by(found[0])
                at = found.end()
            elif self._state is _State.STRING:
                found = _STRING_END.search(text, at)
                if found is None:
                    break
                at = self._end_string(found)
            else:
                self._state, consumed = _after(self._state, text[at])
                at += consumed
        return "".join(kept)

    def _end_string(self, found: re.Match[str]) -> int:
        if found[0] == "\x1b":
            self._state = _State.STRING_ESCAPE
        else:
            self._state = _State.TEXT
            if found[0] in "\n\r":
                return found.start()
        return found.end()


def _begun_by(introducer: str) -> _State:
    if introducer == "\x1b":
        return _State.ESCAPE
    return _State.CONTROL if introducer == "\x9b" else _State.STRING


def _after(state: _State, char: str) -> tuple[_State, bool]:
    """Return the state after a character of a sequence, and whether the character belongs to it.

    The byte ranges are those of ECMA-48, 5.4 (control sequences) and ECMA-35, 13.2 (escape
    sequences). A character outside of them ends the sequence and is text.
    """
    if state is _State.CONTROL:
        if " " <= char <= "?":
            return _State.CONTROL, True
        return _State.TEXT, "@" <= char <= "~"
    if state is _State.STRING_ESCAPE:
        return (_State.TEXT, True) if char == "\\" else (_State.ESCAPE, False)
    if " " <= char <= "/":
        return _State.INTERMEDIATE, True
    if state is _State.ESCAPE and char in _AFTER_ESCAPE:
        return _AFTER_ESCAPE[char], True
    return _State.TEXT, "0" <= char <= "~"


def clean(text: str) -> str:
    """Return a whole text as a terminal, or a model, may be shown it."""
    return TextFilter().feed(text)


def escape_json(text: str) -> str:
    r"""Return JSON with what no terminal should get written as `\uXXXX`; it means the same.

    Control characters below U+0020 are escaped in any JSON (RFC 8259, section 7); what is not are
    the C1 controls, among them the 8-bit CSI, and the invisible characters that reorder or hide.
    """

    def escape(found: re.Match[str]) -> str:
        units = found[0].encode("utf-16-be")
        return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))

    return text if text.isascii() and "\x7f" not in text else _UNFIT_IN_JSON.sub(escape, text)


def one_line(text: str, limit: int | None = None) -> str:
    """Return a text as one clean line: for messages that come from outside.

    Args:
        text: any text; runs of white space become one space.
        limit: the most characters to return, at least 1; see `truncate`.
    """
    return truncate(" ".join(clean(text).split()), limit)


def printable_line(text: str, limit: int | None = None) -> str:
    """Return a text as one line of its printable characters.

    All of Unicode's category C go, also joiners and directional marks: control, format, surrogate,
    private and unassigned characters. Of an escape sequence what is printable stays, unlike with
    `clean`: this is for showing people their own words.

    Args:
        text: any text; runs of white space become one space.
        limit: the most characters to return, at least 1; see `truncate`.
    """
    line = " ".join(text.split())
    if not line.isprintable():
        from unicodedata import category

        line = "".join(char for char in line if not category(char).startswith("C"))
        line = " ".join(line.split())
    return truncate(line, limit)


def truncate(line: str, limit: int | None) -> str:
    """Return a line of at most `limit` characters; one that was longer ends in an ellipsis."""
    if limit is None or len(line) <= limit:
        return line
    return line[: limit - 1].rstrip() + "…"


def replace_surrogates(text: str) -> str:
    """Return a text that any encoding of Unicode takes: lone surrogates become `?`.

    They come from undecodable arguments and from models' broken JSON; JSON and UTF-8 cannot carry
    them.
    """
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def pluralize(count: int, noun: str) -> str:
    """Return a count with its noun, such as "1 turn" or "3 turns"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def format_bytes(count: float) -> str:
    """Return a size as people read it: in decimal megabytes, from a thousand on in gigabytes."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
