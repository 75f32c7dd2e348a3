"""Find the tool calls that a model has written into its text, where its server did not.

A server without the right parser passes a model's own markup on as text. What follows its first
mark is never shown; it is read at the end of the answer. Nothing is guessed: a mark whose calls
cannot be read is a broken call.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from typing import Any

import msgspec

from tieredllm.lenient_json import NotJsonError, decode, encode
from tieredllm.providers.json_path import get_path, get_str
from tieredllm.providers.tool_calls import with_unique_ids
from tieredllm.thoughts import is_in_code
from tieredllm.types import ToolCall, ToolDeclaration

__all__ = ["CALL_MARKS", "TextCalls"]

CALL_MARKS = (
    "<tool_call>",  # Hermes, Qwen, GLM, Nemotron, …
    "<tool_calls>",
    "<|tool_call|>",  # Granite, Phi-4
    "<|tool_call>",  # Gemma 4
    "<|tool_calls_section_begin|>",  # Kimi K2
    "<｜tool▁calls▁begin｜>",  # noqa: RUF001 - DeepSeek, as its templates write it
    "<|tool▁calls▁begin|>",
    "<｜DSML｜",  # noqa: RUF001 - DeepSeek V3.2 and V4
    "<|tool_call_start|>",  # LFM2
    "<|tool_call_begin|>",
    "<|action_start|>",  # InternLM
    "<TOOLCALL>",  # Nemotron Nano v2
    "<start_function_call>",  # FunctionGemma
    "<minimax:tool_call>",
    "<seed:tool_call>",
    "<function=",  # Qwen3-Coder, Llama 3
    "<function_calls>",
    "<function_call>",
    "<invoke name=",
    "[TOOL_CALLS]",  # Mistral
    "[TOOL_CALL]",
    "<|python_tag|>",  # Llama 3.1
    "<|START_ACTION|>",  # Command A
    "<|channel|>commentary to=",  # gpt-oss
    "<|start|>assistant<|channel|>commentary to=",
)
"""What a model's own markup of calls begins with; the wordings are those of the chat templates."""

_FIRST = ("<", "[")
_JSON_START = re.compile(r"[{\[]")
_NAMES = ("name", "tool_name", "tool", "function", "recipient_name")
_ARGUMENTS = ("arguments", "parameters", "args", "input", "tool_args", "kwargs")
_FUNCTION = re.compile(r"<function=([^>\s]+)>(.*?)(?:</function>|$)", re.DOTALL)
_PARAMETER = re.compile(r"<parameter=([^>\s]+)>\n?(.*?)\n?</parameter>", re.DOTALL)
_INVOKE = re.compile(r"<invoke name=\"([^\"]+)\">(.*?)</invoke>", re.DOTALL)
_INVOKED = re.compile(r"<parameter name=\"([^\"]+)\"[^>]*>(.*?)</parameter>", re.DOTALL)
_TAGGED = re.compile(r"<tool_call>\s*([\w.-]+)\s*(<arg_key>.*?)</tool_call>", re.DOTALL)
_TAG = re.compile(r"<arg_key>(.*?)</arg_key>\s*<arg_value>(.*?)</arg_value>", re.DOTALL)
_WORD = re.compile(r"[\w.-]+")
_BARE = re.compile(r"call:([\w.-]+)(\{.*?\})\s*(?=<tool_call\||<end_function_call>|$)", re.DOTALL)
"""Gemma 4's and FunctionGemma's form, whose keys are bare and whose strings have their own quotes
(vllm-project/vllm, gemma4_tool_parser.py and functiongemma_tool_parser.py)."""
_BARE_QUOTE = re.compile(r"<\|\"\|>|<escape>")
_BARE_KEY = re.compile(r"([{,]\s*)([\w-]+)\s*:")
_DSML = re.compile(r"[|｜]+\s*DSML\s*[|｜]+\s*")  # noqa: RUF001
_CODE = re.compile(r"\[?\s*([A-Za-z_][\w.]*\(.*\))\s*\]?\s*$", re.DOTALL)
_FENCED = re.compile(r"\s*```(?:json)?\s*(.*?)\s*```\s*", re.DOTALL)


class TextCalls:
    """The calls in one answer's text.

    Args:
        tools: what the model may call.
    """

    def __init__(self, tools: tuple[ToolDeclaration, ...]) -> None:
        self._schemas = {tool.name: tool.parameters for tool in tools}
        self._said: list[str] = []
        self._held = ""
        self._markup: list[str] = []
        self.is_broken = False
        """Whether `complete` found markup that cannot be read."""

    def feed(self, text: str) -> tuple[str, bool]:
        """Take a piece; return what of it is text, and whether some of it is markup."""
        if self._markup:
            self._markup.append(text)
            return "", True
        if not self._held and not any(first in text for first in _FIRST):
            self._said.append(text)
            return text, False
        text, self._held = self._held + text, ""
        at = self._find(text)
        if at is None:
            keep = _held_length(text)
            text, self._held = text[: len(text) - keep], text[len(text) - keep :]
            self._said.append(text)
            return text, False
        self._said.append(text[:at])
        self._markup.append(text[at:])
        return text[:at], True

    def end(self) -> str:
        """Return what was held back, once the text has ended."""
        held, self._held = self._held, ""
        self._said.append(held)
        return held

    def complete(self) -> tuple[ToolCall, ...]:
        """Return the calls, once the answer has ended properly."""
        if self._markup:
            calls = list(self._read(_DSML.sub("", "".join(self._markup))))
            self.is_broken = not calls
            return with_unique_ids(calls)
        said = "".join(self._said).strip().removeprefix("functools")  # Phi-4 mini's
        if fenced := _FENCED.fullmatch(said):
            said = fenced[1]
        if said.startswith("[") and said.endswith(")]"):  # Llama 4's
            return with_unique_ids(list(self._code(said)))
        if not said.startswith(("{", "[{")):
            return ()
        # Llama 3.2 and others write the object alone (vLLM's `llama3_json`).
        try:
            calls = list(self._in_json(decode(said), anything=False))
        except NotJsonError:
            return ()
        return with_unique_ids(calls)

    def _find(self, text: str) -> int | None:
        """Return where the markup begins; marks in code are what an answer is about."""
        for at in sorted(at for mark in CALL_MARKS if (at := text.find(mark)) >= 0):
            before = "".join(self._said) + text[:at]
            if not is_in_code(before):
                return at
        return None

    def _read(self, text: str) -> Iterator[ToolCall]:
        tagged = [
            (name, dict(pairs.findall(body)))
            for form, pairs in (
                (_FUNCTION, _PARAMETER),
                (_INVOKE, _INVOKED),
                (_TAGGED, _TAG),
            )
            for name, body in form.findall(text)
            if pairs.search(body) or "{" not in body
        ]
        if tagged:
            for name, values in tagged:
                typed = {key.strip(): self._typed(name, key.strip(), values[key]) for key in values}
                yield _call(name, typed)
            return
        calls = list(_bare(text)) or list(self._objects(text))
        yield from calls or self._code(text)

    def _objects(self, text: str) -> Iterator[ToolCall]:
        """Read JSON objects: whole calls, or arguments after a name."""
        decoder = json.JSONDecoder(strict=False)
        at = done = 0
        while (found := _JSON_START.search(text, at)) is not None:
            try:
                value, end = decoder.raw_decode(text, found.start())
            except (ValueError, RecursionError):
                at = found.start() + 1
                continue
            calls = list(self._in_json(value, anything=True))
            if not calls and isinstance(value, dict):
                before = _WORD.findall(text[done : found.start()])
                names = [
                    name for word in before for name in (word, word.rpartition(".")[2].strip("-"))
                ]
                known = [name for name in names if name in self._schemas]
                calls = [_call(known[-1], value)] if known else []
            yield from calls
            at = done = end

    def _in_json(self, value: Any, *, anything: bool) -> Iterator[ToolCall]:
        """Read calls out of a decoded value.

        Args:
            value: an object that is a call, or a list of such.
            anything: whether it may call what was not given; an answer in JSON is no call.
        """
        if isinstance(value, list):
            for item in value:
                yield from self._in_json(item, anything=anything)
        if not isinstance(value, dict):
            return
        inner = value.get("function")
        call = inner if isinstance(inner, dict) else value
        name = next((found for key in _NAMES if (found := get_str(call, key))), None)
        given = next((call[key] for key in _ARGUMENTS if key in call), None)
        if name is None or (given is None and not anything):
            return
        if not anything and (name not in self._schemas or not isinstance(given, dict)):
            return
        made = _call(name, {} if given is None else given)
        yield msgspec.structs.replace(made, id=get_str(value, "id") or "")

    def _code(self, text: str) -> Iterator[ToolCall]:
        """Read calls written as Python: `calculate.call(expression="1+1")`."""
        found = _CODE.search(re.sub(r"<\|\w+\|>|\[/?TOOL_CALLS?\]|</?tool_calls?>", "", text))
        if found is None:
            return
        try:
            tree = ast.parse(f"[{found[1]}]", mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return
        for node in tree.elts if isinstance(tree, ast.List) else []:
            if not isinstance(node, ast.Call):
                return
            name = ast.unparse(node.func).removesuffix(".call")
            if name not in self._schemas:
                return
            try:
                values = {it.arg: ast.literal_eval(it.value) for it in node.keywords if it.arg}
            except (ValueError, RecursionError):
                return
            yield _call(name, values)

    def _typed(self, name: str, key: str, text: str) -> Any:
        """Return an argument that is written as bare text as what its schema says it is."""
        if get_path(self._schemas.get(name), "properties", key, "type") == "string":
            return text
        try:
            return decode(text.strip())
        except NotJsonError:
            return text


def _bare(text: str) -> Iterator[ToolCall]:
    for name, body in _BARE.findall(text):
        pieces = [
            json.dumps(piece) if place % 2 else _BARE_KEY.sub(r'\1"\2":', piece)
            for place, piece in enumerate(_BARE_QUOTE.split(body))
        ]
        try:
            value = decode("".join(pieces))
        except NotJsonError:
            return
        yield _call(name, value)


def _call(name: str, arguments: Any) -> ToolCall:
    text = arguments if isinstance(arguments, str) else encode(arguments)
    return ToolCall(id="", name=name, arguments=text)


def _held_length(text: str) -> int:
    """Return how many characters of a text's end could be the beginning of a mark."""
    for length in range(min(max(map(len, CALL_MARKS)) - 1, len(text)), 0, -1):
        end = text[-length:]
        if end[0] in _FIRST and any(mark.startswith(end) for mark in CALL_MARKS):
            return length
    return 0
