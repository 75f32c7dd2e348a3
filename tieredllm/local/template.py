"""Turn a conversation into a model's tokens, by the chat template its file brings.

The template (Jinja, as Hugging Face defines it) is rendered in a sandbox, with place-holders
instead of what people wrote, so it cannot act on that. Only the template's own text may become
control tokens: a question that contains `<|im_end|>` has these ten characters in it and does not
end its turn. See https://huggingface.co/docs/transformers/chat_templating.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from tieredllm.roles import alternating
from tieredllm.thoughts import opened_block
from tieredllm.types import Message

if TYPE_CHECKING:
    from tieredllm.local.tokenizer import NativeVocabulary

__all__ = ["PLAIN", "ChatFormat", "ChatPrompt"]

Render = Callable[[list[dict[str, Any]]], str]

GEMMA = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m['role'] == 'system' %}{{ raise_exception('Gemma has no system role') }}{% endif %}"
    "<start_of_turn>"
    "{{ 'model' if m['role'] == 'assistant' else 'user' }}\n{{ m['content'] }}<end_of_turn>\n"
    "{% endfor %}{{ '<start_of_turn>model\n' }}"
)
"""https://ai.google.dev/gemma/docs/core/prompt-structure; Jinja drops a newline at the end."""
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{{ '<|im_start|>assistant\n' }}"
)
PLAIN = (
    "{% for m in messages %}"
    "{{ {'system': '', 'user': 'User: ', 'assistant': 'Assistant: '}[m['role']] }}"
    "{{ m['content'] }}\n\n{% endfor %}Assistant:"
)
"""For a model that has neither a template nor the control tokens of a known one."""
PLAIN_STOP = "\nUser:"
PADDING = " \n\t "
"""Shows whether a template trims what it is given."""
PADDING_IN_JSON = json.dumps(PADDING)[1:-1]
"""Shows that it writes what it is given as JSON."""
THOUGHTS = re.compile(r"\s*<think>(.*?)</think>(.*)", re.DOTALL)
"""An answer with the thoughts before it, as Qwen, DeepSeek and their kin write them."""
MARKER = re.compile("<[|\uff5c].*[|\uff5c]>", re.DOTALL)
"""What control tokens look like whatever their type says; DeepSeek's have wide bars."""
BLANKS = " \t\n\v\f\r"
"""What C's `isspace` takes for blanks: llama.cpp strips these."""


class ChatPrompt(msgspec.Struct, frozen=True, kw_only=True):
    """A conversation in a model's tokens, up to where the answer begins."""

    tokens: list[int]
    lasting: int
    """How many of them end with what was asked last: the next turn's prompt begins with these, but
    perhaps not with the rest, such as the empty thoughts that some templates open an answer with;
    0 when that cannot be told."""
    opened: str | None = None
    """The mark of the thoughts that the template has opened, with which the answer begins."""


class ChatFormat:
    """The way one model wants its conversations written.

    Attributes:
        stop: text that ends an answer, for models without a token for that; None for the others.
        problem: why the file's own template is not used, in words that follow the model's name;
            None when it is, or when there is none.
    """

    def __init__(self, vocabulary: NativeVocabulary) -> None:
        self._vocabulary = vocabulary
        self._markers: dict[int, bool] = {}
        self._source = vocabulary.chat_template or ""
        self.stop: tuple[str, ...] = ()
        self.problem: str | None = None
        if not self._source:
            self._render = self._fallback()
            return
        try:
            self._render = _compile(self._source, vocabulary)
        except Exception as exc:  # noqa: BLE001 - a template is foreign code and may raise anything
            self._render = self._fallback(exc)

    def _fallback(self, reason: Exception | None = None) -> Render:
        """Choose a template by the control tokens there are, and note why that was necessary."""
        known = (("<start_of_turn>", "Gemma's", GEMMA), ("<|im_start|>", "the ChatML", CHATML))
        form, source = "a plain", PLAIN
        for opening, name, template in known:
            if len(self._vocabulary.tokenize(opening, control=True)) == 1:
                form, source = name, template
                break
        else:
            self.stop = (PLAIN_STOP,)
        if self._source:
            said = " ".join(str(reason).split())[:120] if reason else "it leaves messages out"
            self.problem = (
                f"has a chat template that cannot be used ({said}): it was asked in {form} form, "
                "and its answers may be worse for it"
            )
        return _compile(source, self._vocabulary)

    def prompt(self, messages: Sequence[Message]) -> ChatPrompt:
        """Write a conversation, in the first shape that suits the template."""
        reason: Exception | None = None
        for typed in (False, True):
            for shape in (list, _system_in_first_turn, _alternating):
                try:
                    pieces = _pieces(self._render, shape(messages), typed=typed)
                except Exception as exc:  # noqa: BLE001 - see above; the next shape may do
                    reason = exc
                    continue
                if pieces is not None:
                    return self._tokenize(pieces)
        self._render = self._fallback(reason)
        return self._tokenize(_pieces(self._render, _alternating(messages)) or [])

    def _tokenize(self, pieces: list[_Piece]) -> ChatPrompt:
        """Tokenise the text between control tokens as a whole, as the model saw it in training."""
        vocabulary = self._vocabulary
        tokens: list[int] = []
        lasting = 0
        run = ""

        def flush() -> None:
            nonlocal run
            if tokens and vocabulary.takes_blanks(tokens[-1]):
                run = run.lstrip(BLANKS)
            if run:
                tokens.extend(self._as_text(run))
            run = ""

        for number, (text, is_ours) in enumerate(pieces):
            if not is_ours:
                run += text
                continue
            rest = text
            for token in vocabulary.tokenize(text, control=True):
                written = vocabulary.token_text(token) if self._is_marker(token) else ""
                before, found, after = rest.partition(written) if written else (rest, "", "")
                if found:
                    run += before
                    flush()
                    if number == len(pieces) - 1 and not lasting:
                        lasting = len(tokens)
                    tokens.append(token)
                    rest = after
            run += rest
        flush()
        bos = vocabulary.bos
        if vocabulary.adds_bos and bos is not None and tokens[:1] != [bos]:
            tokens.insert(0, bos)
            lasting += 1 if lasting else 0
        opened = opened_block(pieces[-1].text) if pieces and pieces[-1].is_ours else None
        return ChatPrompt(tokens=tokens, lasting=lasting, opened=opened)

    def _as_text(self, text: str) -> list[int]:
        """Tokenise text in which nothing is a control token, whatever it looks like.

        llama.cpp finds tokens typed USER_DEFINED in any text. Some models (gpt-oss) type the marks
        of their turns so; these are taken apart.
        """
        vocabulary = self._vocabulary
        tokens = vocabulary.tokenize(text)
        marks = {vocabulary.token_text(token) for token in tokens if self._is_marker(token)}
        if not marks:
            return tokens
        parts = re.split(
            "|".join(f"(?<={re.escape(m[0])})(?={re.escape(m[1:])})" for m in marks), text
        )
        return [token for part in parts for token in vocabulary.tokenize(part)]

    def _is_marker(self, token: int) -> bool:
        """Tell tokens that structure a conversation from those that are text."""
        found = self._markers.get(token)
        if found is None:
            vocabulary = self._vocabulary
            found = vocabulary.is_control(token)
            if not found and vocabulary.is_user_defined(token):
                text = vocabulary.token_text(token)
                # Blanks and HTML tags are tokens of this type, too, with Gemma.
                found = len(text) > 1 and (
                    MARKER.fullmatch(text) is not None
                    or (text[0] in "<[" and text[-1] in ">]" and text in self._source)
                )
            self._markers[token] = found
        return found


class _Piece(NamedTuple):
    """A part of a written conversation."""

    text: str
    is_ours: bool
    """Whether it is the template's own."""


def _compile(source: str, vocabulary: NativeVocabulary) -> Render:
    """Compile a template as transformers does (`_compile_jinja_template` there)."""
    from jinja2 import nodes
    from jinja2.exceptions import TemplateError
    from jinja2.ext import Extension, loopcontrols
    from jinja2.runtime import ChainableUndefined, Undefined
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Nothing(ChainableUndefined):
        """A name the template uses and nobody defines: an empty text, as llama.cpp has it."""

        def __add__(self, other: Any) -> Any:
            return other

        __radd__ = __add__

    class Generation(Extension):
        """Pass over `{% generation %}`, which marks answers for training."""

        tags = {"generation"}  # noqa: RUF012 - how jinja2 declares it

        def parse(self, parser: Any) -> nodes.Node | list[nodes.Node]:
            next(parser.stream)
            body: list[nodes.Node] = parser.parse_statements(
                ("name:endgeneration",), drop_needle=True
            )
            return body

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    def strftime_now(form: str) -> str:
        from datetime import datetime

        return datetime.now().astimezone().strftime(form)

    def tojson(
        value: Any,
        ensure_ascii: bool = False,
        indent: int | None = None,
        separators: tuple[str, str] | None = None,
        sort_keys: bool = False,
    ) -> str:
        if isinstance(value, Undefined):
            return ""
        return json.dumps(
            value,
            ensure_ascii=ensure_ascii,
            indent=indent,
            separators=separators,
            sort_keys=sort_keys,
        )

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[Generation, loopcontrols],
        undefined=Nothing,
    )
    environment.filters["tojson"] = tojson
    environment.globals.update(raise_exception=raise_exception, strftime_now=strftime_now)
    template = environment.from_string(source)
    bos, eos = vocabulary.bos, vocabulary.eos
    constants: dict[str, Any] = {
        "bos_token": "" if bos is None else vocabulary.token_text(bos),
        "eos_token": "" if eos is None else vocabulary.token_text(eos),
        "add_generation_prompt": True,
        # Small models think at a length their window has no room for (Qwen 3 and its kin).
        "enable_thinking": False,
    }

    def render(messages: list[dict[str, Any]]) -> str:
        # What llama.cpp gives Llama 3's and Firefunction's templates (common/chat.cpp). The time of
        # day is left out: with it, no prompt would begin as the one before.
        dates = {"date_string": strftime_now("%d %b %Y"), "datetime": strftime_now("%b %d %Y")}
        return template.render(messages=messages, **constants, **dates)

    return render


class _Part(NamedTuple):
    """What a person or a model wrote, and the name that stands for it while it is rendered."""

    name: str
    text: str
    message: int
    may_be_cut: bool
    """Whether the template may leave it out: the thoughts of earlier turns."""


def _pieces(
    render: Render, messages: Sequence[Message], *, typed: bool = False
) -> list[_Piece] | None:
    """Render a conversation and tell the template's text from what people wrote.

    Args:
        render: the template.
        messages: the conversation.
        typed: whether contents are lists of typed parts, as some templates want them.

    Returns:
        None when the template left a message out, wrote one twice, or changed the order of turns.
        The system text may be anywhere: Mistral's templates have it in the last user turn.
    """
    mark = secrets.token_hex(8)
    parts: list[_Part] = []
    rendered: list[dict[str, Any]] = []

    def stand_in(text: str, message: int, *, may_be_cut: bool = False) -> str:
        name = f"x{mark}x{len(parts)}x"
        parts.append(_Part(name, text, message, may_be_cut))
        return f"{PADDING}{name}{PADDING}"

    for number, message in enumerate(messages):
        thoughts = THOUGHTS.fullmatch(message.content) if message.role == "assistant" else None
        if thoughts:
            thought = stand_in(thoughts[1], number, may_be_cut=True)
            # Templates strip line ends here, so these stand for themselves.
            after = thoughts[2].lstrip("\n")
            blanks = "\n" * (len(thoughts[2]) - len(after))
            rest = stand_in(after, number).removeprefix(PADDING)
            content = f"<think>{thought}</think>{blanks}{rest}"
        else:
            content = stand_in(message.content, number)
        rendered.append(
            {
                "role": message.role,
                "content": [{"type": "text", "text": content}] if typed else content,
            }
        )
    rest = render(rendered)
    if typed and "'type'" in rest:  # the list itself was printed
        return None
    counts = [rest.count(part.name) for part in parts]
    if any(n != 1 and not (n == 0 and p.may_be_cut) for n, p in zip(counts, parts, strict=True)):
        return None
    found = sorted((part for part in parts if part.name in rest), key=lambda p: rest.index(p.name))
    turns = [part.message for part in found if messages[part.message].role != "system"]
    if turns != sorted(turns):
        return None
    pieces: list[_Piece] = []
    for part in found:
        before, _, rest = rest.partition(part.name)
        if before.endswith(PADDING_IN_JSON):
            before, rest = before.removesuffix(PADDING_IN_JSON), rest.removeprefix(PADDING_IN_JSON)
            text = json.dumps(part.text, ensure_ascii=False)[1:-1]
            pieces += [_Piece(before, is_ours=True), _Piece(text, is_ours=False)]
            continue
        text = part.text if before.endswith(PADDING) else part.text.lstrip()
        text = text if rest.startswith(PADDING) else text.rstrip()
        before, rest = before.removesuffix(PADDING), rest.removeprefix(PADDING)
        pieces += [_Piece(before, is_ours=True), _Piece(text, is_ours=False)]
    return None if mark in rest else [*pieces, _Piece(rest, is_ours=True)]


def _system_in_first_turn(messages: Sequence[Message]) -> list[Message]:
    """Put the system text in front of the first user turn: Gemma knows no system role."""
    system = "\n\n".join(message.content for message in messages if message.role == "system")
    turns = [message for message in messages if message.role != "system"]
    if not system:
        return turns
    if turns and turns[0].role == "user":
        return [Message("user", f"{system}\n\n{turns[0].content}"), *turns[1:]]
    return [Message("user", system), *turns]


def _alternating(messages: Sequence[Message]) -> list[Message]:
    """Make user and assistant take turns, the user first: what strict templates insist on."""
    return alternating(_system_in_first_turn(messages))
