"""Turn a conversation into a model's tokens, by the chat template its file brings.

The template (Jinja, as Hugging Face defines it) is rendered in a sandbox, with place-holders
instead of what people wrote, so it cannot act on that. Only the template's own text may become
control tokens: a question that contains `<|im_end|>` has these ten characters in it and does not
end its turn. See https://huggingface.co/docs/transformers/chat_templating.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from tieredllm.types import Message

__all__ = ["PLAIN", "ChatFormat", "Vocabulary"]

Render = Callable[[list[dict[str, str]]], str]

GEMMA = (
    "{{ bos_token }}{% for m in messages %}<start_of_turn>"
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
EARLIER = "…"
"""Stands for the turns before an answer that comes first: templates want a user turn there."""


class Vocabulary(Protocol):
    """Be what a chat format needs of a loaded model."""

    @property
    def chat_template(self) -> str | None:
        """The template the file brings."""
        ...

    @property
    def bos(self) -> int | None:
        """The token a text begins with."""
        ...

    @property
    def eos(self) -> int | None:
        """The token a text ends with."""
        ...

    @property
    def adds_bos(self) -> bool:
        """Whether every prompt begins with `bos`."""
        ...

    def is_control(self, token: int) -> bool:
        """Whether a token is a control token."""
        ...

    def token_text(self, token: int) -> str:
        """Give a token as it is written."""
        ...

    def tokenize(self, text: str, *, control: bool = False) -> list[int]:
        """Turn text into tokens."""
        ...


class ChatFormat:
    """Be the way one model wants its conversations written.

    Attributes:
        stop: text that ends an answer, for models without a token for that; None for the others.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self.stop: str | None = None
        source = vocabulary.chat_template
        try:
            self._render = _compile(source, vocabulary) if source else self._fallback()
        except Exception:  # noqa: BLE001 - a template is foreign code and may raise anything
            self._render = self._fallback()

    def _fallback(self) -> Render:
        """Choose a template by the control tokens there are."""
        for opening, source in (("<start_of_turn>", GEMMA), ("<|im_start|>", CHATML)):
            if len(self._vocabulary.tokenize(opening, control=True)) == 1:
                return _compile(source, self._vocabulary)
        self.stop = PLAIN_STOP
        return _compile(PLAIN, self._vocabulary)

    def tokens(self, messages: Sequence[Message]) -> list[int]:
        """Give the tokens of a conversation, up to where the answer begins."""
        pieces: list[_Piece] | None = None
        for shape in (_as_it_is, _system_in_first_turn, _alternating):
            try:
                pieces = _pieces(self._render, shape(messages))
            except Exception:  # noqa: BLE001, S112 - see above; the next shape may do
                continue
            if pieces is not None:
                break
        if pieces is None:  # no shape of the conversation suits the template
            self._render = self._fallback()
            pieces = _pieces(self._render, _alternating(messages))
        return self._tokenize(pieces or [])

    def _tokenize(self, pieces: list[_Piece]) -> list[int]:
        """Tokenise the text between control tokens as a whole, as the model saw it in training."""
        vocabulary = self._vocabulary
        tokens: list[int] = []
        run = ""

        def flush() -> None:
            nonlocal run
            if run:
                tokens.extend(vocabulary.tokenize(run))
            run = ""

        for text, ours in pieces:
            if not ours:
                run += text
                continue
            rest = text
            for token in vocabulary.tokenize(text, control=True):
                written = vocabulary.token_text(token) if vocabulary.is_control(token) else ""
                before, found, after = rest.partition(written) if written else (rest, "", "")
                if found:
                    run += before
                    flush()
                    tokens.append(token)
                    rest = after
            run += rest
        flush()
        bos = vocabulary.bos
        if vocabulary.adds_bos and bos is not None and tokens[:1] != [bos]:
            tokens.insert(0, bos)
        return tokens


_Piece = tuple[str, bool]
"""Text, and whether it is the template's own."""


def _compile(source: str, vocabulary: Vocabulary) -> Render:
    """Compile a template as transformers does (`_compile_jinja_template` there)."""
    from jinja2 import nodes
    from jinja2.exceptions import TemplateError
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

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

    def tojson(value: Any, indent: int | None = None, **_: Any) -> str:
        import json

        return json.dumps(value, ensure_ascii=False, indent=indent)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
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
    return lambda messages: template.render(messages=messages, **constants)


def _pieces(render: Render, messages: list[Message]) -> list[_Piece] | None:
    """Render a conversation and tell the template's text from what people wrote.

    Returns:
        None when the template left a message out, or wrote one twice or in another order.
    """
    mark = secrets.token_hex(8)
    names = [f"x{mark}x{number}x" for number in range(len(messages))]
    rest = render(
        [
            {"role": message.role, "content": f"{PADDING}{name}{PADDING}"}
            for message, name in zip(messages, names, strict=True)
        ]
    )
    pieces: list[_Piece] = []
    for message, name in zip(messages, names, strict=True):
        before, found, rest = rest.partition(name)
        if not found or name in rest:
            return None
        content = message.content if before.endswith(PADDING) else message.content.lstrip()
        content = content if rest.startswith(PADDING) else content.rstrip()
        before, rest = before.removesuffix(PADDING), rest.removeprefix(PADDING)
        pieces += [(before, True), (content, False)]
    return None if mark in rest else [*pieces, (rest, True)]


def _as_it_is(messages: Sequence[Message]) -> list[Message]:
    return list(messages)


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
    turns: list[Message] = []
    for message in _system_in_first_turn(messages):
        if not turns and message.role == "assistant":
            turns.append(Message("user", EARLIER))
        if turns and turns[-1].role == message.role:
            turns[-1] = Message(message.role, f"{turns[-1].content}\n\n{message.content}")
        else:
            turns.append(message)
    return turns
