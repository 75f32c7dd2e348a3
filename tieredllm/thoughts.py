"""Tell a model's thoughts from its answer, where a server sends both as one text.

Thoughts stand at the start of a text, between a pair of marks. A mark that comes later belongs to
the answer, which may well be about such marks. Some chat templates open the block themselves, so
that only its end is in the text.
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

__all__ = ["MARKS", "TOKENS", "HeldStart", "Split", "ThoughtSplitter", "is_in_code", "opened_block"]

MARKS: dict[str, str] = {
    "<think>": "</think>",  # DeepSeek R1, Qwen, GLM, Kimi K2, MiniMax, Nemotron, …
    "<thinking>": "</thinking>",  # models told so by their prompts
    "<thought>": "</thought>",  # EXAONE Deep
    "<reasoning>": "</reasoning>",
    "[THINK]": "[/THINK]",  # Magistral, Ministral
    "<seed:think>": "</seed:think>",  # Seed-OSS; vllm/reasoning/seedoss_reasoning_parser.py
    "<longcat_think>": "</longcat_think>",  # vllm/reasoning/longcat_reasoning_parser.py
    "◁think▷": "◁/think▷",  # Kimi-VL
    "<|START_THINKING|>": "<|END_THINKING|>",  # Command A; cohere_command_reasoning_parser.py
    "<|channel>thought\n": "<channel|>",  # Gemma 4; gemma4_reasoning_parser.py
    "<|begin_of_thought|>": "<|end_of_thought|>",  # Sky-T1, OpenThinker
}
"""What opens a block of thoughts, and what closes it."""

TOKENS = frozenset([*MARKS, *MARKS.values(), "<|channel>"])
"""Marks, or the first part of one, that are tokens of their own in some models' vocabularies."""

_CLOSING = {close: mark for mark, close in MARKS.items() if "/" in close}
"""What closes a block that a chat template has opened."""

_BARE_ANALYSIS = re.compile(r"analysis(?=[A-Z\"'(])")
"""gpt-oss's first channel where a server drops the marks: `analysisThe user asks…assistantfinal…`
(ggml-org/llama.cpp#15789)."""
_BARE_FINAL = "assistantfinal"

_HEADER = re.compile(
    r"(?:<\|start\|>assistant)?<\|channel\|>(\w+)([^<]*(?:<\|constrain\|>[^<]*)?)<\|message\|>"
)
"""The head of a message in OpenAI's harmony format, gpt-oss's: a channel, and who it is for."""
_HEADER_STARTS = ("<|start|>assistant<|channel|>", "<|channel|>")
_LONGEST_HEADER = 256
_MESSAGE_END = re.compile(r"<\|(?:end|return|call)\|>")
_ENDS = ("<|end|>", "<|return|>", "<|call|>")

_LONGEST_MARK = max(map(len, _CLOSING))
_OPENINGS = (*MARKS, *_CLOSING, *_HEADER_STARTS, "analysis")
_QUOTES = ("`", '"', "'")
_MOST_CLOSINGS = 16
"""How often an end without a beginning is looked at: text about such marks has many."""


class Split(NamedTuple):
    """What a piece of text turned out to be; the thoughts come before the text."""

    text: str = ""
    thought: str = ""
    unsaid: bool = False
    """Whether all text before this piece has turned out to be thoughts."""


class ThoughtSplitter:
    """Split one answer's text, however it is cut into pieces.

    Args:
        opened: the mark that the prompt has ended with, if it did: the text begins with thoughts.
    """

    def __init__(self, opened: str | None = None) -> None:
        self._held = ""
        self._close = "" if opened is None else MARKS[opened]
        self._state: Literal["start", "thought", "final", "text"] = (
            "start" if opened is None else "thought"
        )
        self._said: list[str] | None = [] if opened is None else None
        """The text so far, while its end as thoughts could still come."""
        self._closings = 0
        self._follows = opened is not None
        """Whether the text comes after thoughts: the line ends between them are neither's."""

    @property
    def is_answering(self) -> bool:
        """Whether the answer's text has begun."""
        return self._state in ("text", "final")

    @property
    def is_waiting(self) -> bool:
        """Whether it is open what comes next."""
        return self._state == "start"

    def skip_block(self) -> None:
        """Take note that the thoughts came elsewhere: none will end within the text."""
        self._said = None
        self._follows = True

    def passes(self, text: str) -> bool:
        """Take a piece if it is text beyond doubt, as nearly all are; else return False."""
        if self._state != "text" or self._held:
            return False
        if self._said is not None:
            if "/" in text or text[-1] in "<[◁":
                return False
            self._said.append(text)
        return True

    def feed(self, text: str) -> Split:
        """Take the next piece of text; what is uncertain is held back."""
        if self._state == "text":
            return self._watch(text)
        return self._split(self._held + text, at_end=False)

    def end(self) -> Split:
        """Return what was held back, once the text has ended."""
        held, self._held = self._held, ""
        if self._state != "text":
            split = self._split(held, at_end=True)
            rest = self.end() if self._held else Split()
            return Split(split.text + rest.text, split.thought + rest.thought, split.unsaid)
        for close in _CLOSING:
            before, mark, after = held.partition(close)
            if mark and not after and self._is_end(before, close, ""):
                return Split(thought=before, unsaid=True)
        return Split(held)

    def _split(self, text: str, *, at_end: bool) -> Split:
        """Take the blocks at the start off a text."""
        thoughts: list[str] = []
        texts: list[str] = []
        while True:
            state = self._state
            if state == "start":
                text = self._open(text, at_end=at_end)
            elif state == "text":
                self._held = ""
                rest = self._watch(text)
                thoughts.append(rest.thought)
                return Split("".join([*texts, rest.text]), "".join(thoughts), rest.unsaid)
            else:
                piece, text = self._read_block(text, at_end=at_end)
                (texts if state == "final" else thoughts).append(piece)
            if self._state == state:
                self._held = text
                return Split("".join(texts), "".join(thoughts))

    def _open(self, text: str, *, at_end: bool) -> str:
        """Look at a text's start; return the rest of it."""
        start = text.lstrip()
        for mark, close in MARKS.items():
            if start.startswith(mark):
                self._state, self._close, self._said = "thought", close, None
                self._follows = True
                return start[len(mark) :]
        for close in _CLOSING:
            if start.startswith(close):  # of a block that was empty
                self._follows = True
                return self._open(start[len(close) :], at_end=at_end)
        if head := _HEADER.match(start):
            return self._begin_message(start, head)
        if found := _BARE_ANALYSIS.match(start):
            self._state, self._close, self._said = "thought", _BARE_FINAL, None
            self._follows = True
            return start[found.end() :]
        waits = not start or any(mark.startswith(start) for mark in _OPENINGS)
        waits = waits or (start.startswith(_HEADER_STARTS) and len(start) < _LONGEST_HEADER)
        if at_end or not waits:
            self._state = "text"
            return text.lstrip("\r\n") if self._follows else text
        return text

    def _begin_message(self, text: str, head: re.Match[str]) -> str:
        """Begin a message of the harmony format: a call stays as it is, for who reads calls."""
        self._said, self._follows = None, True
        if "to=" in head[2]:
            self._state = "text"
            return text
        self._state = "final" if head[1] == "final" else "thought"
        self._close = ""
        return text[head.end() :]

    def _read_block(self, text: str, *, at_end: bool) -> tuple[str, str]:
        """Split a text within a block: what is in it, and what comes after it or is uncertain."""
        found = _MESSAGE_END.search(text) if not self._close else None
        end = text.find(self._close) if self._close else found.start() if found else -1
        if end >= 0:
            self._state = "text" if self._close == _BARE_FINAL else "start"
            return text[:end], text[end + len(found[0] if found else self._close) :]
        keep = 0 if at_end else _held_length(text, (self._close,) if self._close else _ENDS)
        return text[: len(text) - keep], text[len(text) - keep :]

    def _watch(self, text: str) -> Split:
        """Look for the end of thoughts whose beginning was in the prompt."""
        if self._said is None:
            return Split(text)
        if not self._held and "/" not in text and not text.endswith(("<", "[", "◁")):
            self._said.append(text)
            return Split(text)
        text, self._held = self._held + text, ""
        for close in _CLOSING:
            before, mark, after = text.partition(close)
            if not mark:
                continue
            if not after:  # what follows tells whether it is a mark
                self._held = text
                return Split()
            if self._is_end(before, close, after):
                self._said, self._state, self._follows = None, "start", True
                rest = self._split(after, at_end=False)
                return rest._replace(thought=before + rest.thought, unsaid=True)
            self._closings += 1
            if self._closings >= _MOST_CLOSINGS:
                self._said = None
                return Split(text)
        keep = _held_length(text, tuple(_CLOSING))
        text, self._held = text[: len(text) - keep], text[len(text) - keep :]
        self._said.append(text)
        return Split(text)

    def _is_end(self, piece: str, close: str, after: str) -> bool:
        """Tell an end of thoughts from a text about such ends: that has it in code or a sentence.

        Args:
            piece: the text of this piece before the mark.
            close: the mark.
            after: the text of this piece after it.
        """
        before = "".join(self._said or ()) + piece
        if _CLOSING[close] in before or before.endswith(_QUOTES) or is_in_code(before):
            return False
        return not (before.endswith(" ") and after.startswith((" ", ",", ".", *_QUOTES)))


class HeldStart:
    """A text that probably begins with thoughts, held back until that is known.

    For a model whose template is known to open the block: without it, the thoughts would be passed
    on as text and taken back.
    """

    def __init__(self) -> None:
        self._text = ""
        self.is_open = True
        """Whether it is still held."""

    def feed(self, text: str) -> str:
        """Take the next piece; return all so far once a mark has come, else nothing."""
        self._text += text
        new = self._text[-len(text) - _LONGEST_MARK :]
        start = self._text.lstrip()
        if start.startswith((*MARKS, *_HEADER_STARTS)) or any(close in new for close in _CLOSING):
            return self.end()
        return ""

    def end(self) -> str:
        """Return what is held, and hold nothing more."""
        self.is_open = False
        text, self._text = self._text, ""
        return text


def is_in_code(text: str) -> bool:
    """Whether a text ends inside a fenced block of code, or between backticks."""
    if len(re.findall(r"^ {0,3}```", text, re.MULTILINE)) % 2:
        return True
    return text.rpartition("\n")[2].count("`") % 2 == 1


def opened_block(prompt: str) -> str | None:
    """Return the mark of a block that a prompt ends with, so that the answer begins inside it."""
    end = prompt.rstrip()
    for mark in MARKS:
        if end.endswith(mark.rstrip()):
            return mark
    return None


def _held_length(text: str, marks: tuple[str, ...]) -> int:
    """Return how many characters of a text's end could be the beginning of a mark."""
    longest = max(map(len, marks)) - 1
    for length in range(min(longest, len(text)), 0, -1):
        if any(mark.startswith(text[-length:]) for mark in marks):
            return length
    return 0
