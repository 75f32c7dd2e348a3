"""Keep what was said so far, and count what it took."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from tieredllm.errors import UsageError
from tieredllm.roles import attached_text, turn_text
from tieredllm.store.record import SHORT_ID, is_turn
from tieredllm.text import pluralize, replace_surrogates
from tieredllm.types import Answer, Attachment, Message, MessagePart, Prompt

if TYPE_CHECKING:
    from tieredllm.store.history import Conversation

__all__ = ["Dialogue", "Turn", "UsageTotals"]


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """One question, with its attached texts, and the complete answer to it."""

    asked: str
    answered: str
    attachments: tuple[Attachment, ...] = ()
    """The text the question is about."""
    parts: tuple[MessagePart, ...] = ()
    """The images and documents that it is about."""
    request_id: str | None = None
    """The request in the log it comes from."""

    @property
    def said(self) -> str:
        """All that the user said, the attached text first."""
        return turn_text(map(attached_text, self.attachments), self.asked)


class Dialogue:
    """One conversation. Failed and rule answers are no part of it.

    Args:
        system: the system prompt.
    """

    def __init__(self, system: str | None = None) -> None:
        self.system = system
        self.cid: str | None = None
        """Its id in the log; None until something of it is there."""
        self.name: str | None = None
        """What the user calls it."""
        self.turns: list[Turn] = []

    @classmethod
    def resumed(cls, earlier: Conversation, system: str | None = None) -> Dialogue:
        """Go on from a conversation of the log.

        Args:
            earlier: the conversation.
            system: another system prompt than it had.
        """
        dialogue = cls(earlier.system if system is None else system)
        dialogue.cid, dialogue.name = earlier.cid, earlier.name
        dialogue.turns = paired(earlier.messages, earlier.request_ids)
        return dialogue

    @property
    def label(self) -> str:
        """What `--cid` finds it by: its name, or the beginning of its id."""
        return self.name or (self.cid or "")[:SHORT_ID]

    @property
    def messages(self) -> tuple[Message, ...]:
        """The turns as messages, oldest first."""
        return tuple(
            message
            for turn in self.turns
            for message in (
                Message("user", turn.asked, attachments=turn.attachments, parts=turn.parts),
                Message("assistant", turn.answered),
            )
        )

    def add(self, prompt: Prompt, answer: Answer) -> None:
        """Take an answer in, if a conversation goes on from it."""
        if is_turn(answer):
            self.turns.append(
                Turn(
                    asked=prompt.question,
                    attachments=prompt.attachments,
                    parts=prompt.parts,
                    # No encoding takes a lone surrogate, nor would the next request.
                    answered=replace_surrogates(answer.text or ""),
                    request_id=answer.request_id,
                )
            )

    def take_back(self) -> Turn | None:
        """Forget the last turn and give it; None when there is none."""
        return self.turns.pop() if self.turns else None


def paired(messages: Sequence[Message], request_ids: Sequence[str] = ()) -> list[Turn]:
    """Make turns out of messages: a question and its answer, again and again.

    Args:
        messages: without the system prompt, oldest first.
        request_ids: where the turns come from, if that is known.

    Raises:
        UsageError: they do not come in pairs.
    """
    turns: list[Turn] = []
    for index in range(0, len(messages), 2):
        pair = messages[index : index + 2]
        roles = [message.role for message in pair]
        if roles != ["user", "assistant"]:
            found = "nothing" if len(roles) < 2 and roles == ["user"] else f"`{roles[-1]}`"
            reason = (
                f"message {index + len(roles)}: a question (`user`) and its answer (`assistant`) "
                f"must take turns, but {found} follows"
            )
            raise UsageError(reason)
        number = index // 2
        request_id = request_ids[number] if number < len(request_ids) else None
        turns.append(
            Turn(
                asked=pair[0].content,
                answered=pair[1].content,
                attachments=pair[0].attachments,
                parts=pair[0].parts,
                request_id=request_id,
            )
        )
    return turns


class UsageTotals:
    """Add up tokens and time."""

    def __init__(self) -> None:
        self._answers: Counter[str] = Counter()
        self._failures = 0
        self._prompt_tokens = 0
        self._completion_tokens = 0
        self._unreported = 0
        self._seconds = 0.0
        self._cost: float | None = None

    def add(self, answer: Answer) -> None:
        """Count an answer, complete or failed."""
        self._seconds += answer.latency_ms / 1000
        if answer.error is not None or answer.tier is None:
            self._failures += 1
            return
        self._answers[answer.tier] += 1
        if answer.cost is not None:
            self._cost = (self._cost or 0.0) + answer.cost
        usage = answer.usage
        if usage.prompt_tokens is None and usage.completion_tokens is None:
            self._unreported += answer.provider != "rules"
        self._prompt_tokens += usage.prompt_tokens or 0
        self._completion_tokens += usage.completion_tokens or 0

    def lines(self) -> list[str]:
        """Word it."""
        total = self._answers.total()
        if not total and not self._failures:
            return ["nothing was asked yet"]
        by_tier = ", ".join(f"{name} {count}" for name, count in self._answers.items())
        counted = pluralize(total, "answer") + (f" ({by_tier})" if by_tier else "")
        if self._failures:
            counted += f", {pluralize(self._failures, 'failure')}"
        tokens = f"{self._prompt_tokens:,} prompt + {self._completion_tokens:,} completion tokens"
        if self._unreported:
            tokens += f"; not reported for {pluralize(self._unreported, 'answer')}"
        if self._cost is not None:
            tokens += f"; cost {self._cost:.6f}".rstrip("0").rstrip(".")
        return [f"{counted}, {self._seconds:.1f} s", tokens]
