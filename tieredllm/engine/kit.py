"""Tell one attempt about tools: what of them fits its context, and in which form."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from tieredllm.prompts.policies import MESSAGE_TOKENS, Composed, ContextTooSmallError, compose
from tieredllm.providers.base import Finish, ToolDeclaration, ToolRequest, ToolTurn
from tieredllm.types import Attachment, Prompt, Usage

__all__ = ["Fitted", "Kit", "fitted", "summed"]


class Kit(msgspec.Struct, kw_only=True):
    """Hold what one attempt is told about tools, and what it then calls."""

    declared: tuple[ToolDeclaration, ...] = ()
    turns: tuple[ToolTurn, ...] = ()
    may_call: bool = True
    results: str | None = None
    """All results so far as text, for where the turns are no use."""
    request: ToolRequest | None = None
    """What the attempt ended with, when it was calls; nothing of it has run."""
    said: str = ""
    """What the model said before its calls."""
    spent: Usage = Usage()
    """The tokens of the backend's earlier rounds."""

    def total(self, finish: Finish) -> Finish:
        """Give an answer's end with the tokens of all its rounds."""
        return msgspec.structs.replace(finish, usage=summed(self.spent, finish.usage))

    def take(self, request: ToolRequest, *, said: str) -> None:
        """Take note of the calls that the attempt ended with."""
        self.request, self.said = request, said


class Fitted(msgspec.Struct, frozen=True, kw_only=True):
    """Hold an attempt's messages and what of its kit fits beside them."""

    composed: Composed
    declared: tuple[ToolDeclaration, ...] = ()
    turns: tuple[ToolTurn, ...] = ()


def fitted(
    prompt: Prompt, kit: Kit, *, policy: str, budget_tokens: int, count: Callable[[str], int]
) -> Fitted:
    """Compose a prompt beside what a kit takes of the context.

    When the rounds so far do not fit, their results are told as text, which can be cut; when the
    declarations of the tools do not fit either, there are none.

    Args:
        prompt: the request.
        kit: what there is to be told about tools.
        policy: see `compose`.
        budget_tokens: see `compose`.
        count: see `compose`.

    Raises:
        ContextTooSmallError: not even the question fits.
    """
    quoted = prompt
    if kit.results is not None:
        results = Attachment(text=kit.results, name="tool results")
        attachments = (*prompt.attachments, results)
        quoted = msgspec.structs.replace(prompt, attachments=attachments)
    declared_tokens = count(_text_of(kit.declared)) if kit.declared else 0
    if kit.declared:
        # Without turns the results have to be told, if there are any.
        whole, told = (kit.turns, prompt) if kit.turns else ((), quoted)
        tokens = declared_tokens + sum(_tokens(turn, count) for turn in whole)
        for turns, asked, taken in ((whole, told, tokens), ((), quoted, declared_tokens)):
            try:
                composed = compose(
                    asked, policy=policy, budget_tokens=budget_tokens - taken, count=count
                )
            except ContextTooSmallError:
                continue
            return Fitted(composed=composed, declared=kit.declared, turns=turns)
    composed = compose(quoted, policy=policy, budget_tokens=budget_tokens, count=count)
    return Fitted(composed=composed)


def summed(one: Usage, other: Usage) -> Usage:
    """Add up the tokens of two rounds; what neither tells stays unknown."""

    def both(a: int | None, b: int | None) -> int | None:
        return None if a is None and b is None else (a or 0) + (b or 0)

    return Usage(
        prompt_tokens=both(one.prompt_tokens, other.prompt_tokens),
        completion_tokens=both(one.completion_tokens, other.completion_tokens),
    )


def _tokens(turn: ToolTurn, count: Callable[[str], int]) -> int:
    texts = [turn.text, *(call.name + call.arguments for call in turn.calls)]
    texts += [result.for_model for result in turn.results]
    return sum(count(text) + MESSAGE_TOKENS for text in texts)


def _text_of(declared: tuple[ToolDeclaration, ...]) -> str:
    return msgspec.json.encode(declared).decode()
