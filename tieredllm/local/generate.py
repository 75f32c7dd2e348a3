"""Answer one conversation with a loaded model, piece by piece."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

import msgspec

from tieredllm.errors import FallbackTriggerError
from tieredllm.kinds import ErrorKind
from tieredllm.profile.schema import Params
from tieredllm.thoughts import Split
from tieredllm.types import Message

if TYPE_CHECKING:
    from tieredllm.local.contexts import KeptContexts
    from tieredllm.local.model import LoadedModel
    from tieredllm.local.template import ChatFormat, ChatPrompt

__all__ = ["End", "Item", "Job", "LoopDetector", "Writer", "answer", "read_prompt"]

MAX_ROUND_TOKENS = 256
"""The longest round of a loop that is looked for."""
LOOP_ROUNDS = 4
LOOP_TOKENS = 128
"""A loop is undoubted after so many equal rounds and tokens in all; four times as many tokens where
it is no prose: a matrix of zeros, closing tags. Small models were seen to fill 256 tokens with one
sentence of 10 to 60; what people write ends sooner (`tests/test_local_loops.py`)."""
MARK_TOKENS = 16
"""The most tokens that a mark of thoughts and the blanks around it take."""
PROSE_SHARE = 0.8
"""The least share of letters in prose, spaces aside. English has 0.95, code and tables 0.3-0.7."""


FORESEEN_TOKENS = 512
"""What room is kept for an answer without a limit, or with thoughts before it; it may take more."""

Reason = Literal["stop", "length", "repetition"]


class End(msgspec.Struct, frozen=True, kw_only=True):
    """The end of an answer."""

    reason: Reason
    """`length` at `max_tokens` or the end of the context; `repetition` where it went in circles."""
    prompt_tokens: int
    completion_tokens: int
    notice: str | None = None
    """What the user should know of the model, in words that follow its name; said once."""


Item = str | Split | End | BaseException
"""What comes of a job: pieces of text, or thoughts with or without text, then how it ended. An
empty piece is a token whose text is not certain yet: a sign of life."""


class Job:
    """One answer to be made, and where its pieces go.

    Attributes:
        cancelled: set when nobody waits for it any more.
    """

    def __init__(
        self, messages: Sequence[Message], params: Params, post: Callable[[Item], None]
    ) -> None:
        self.messages = messages
        self.params = params
        self.post = post
        self.cancelled = False


def answer(
    model: LoadedModel, chat: ChatFormat, job: Job, contexts: KeptContexts | None = None
) -> End:
    """Post the pieces of an answer, and return how it ended.

    Args:
        model: what answers.
        chat: how its conversations are written.
        job: the conversation, and where the pieces go.
        contexts: where to look for what an earlier process has read.

    Raises:
        StoppedError: the model was told to stop.
        FallbackTriggerError: the conversation does not fit (`context_length`), or llama.cpp failed.
    """
    prompt = read_prompt(model, chat, job)
    model.evaluate(prompt.tokens, lasting=prompt.lasting, contexts=contexts)
    writer = Writer(model, chat, job, prompt)
    for token in model.sample(writer.room, job.params):
        if writer.take(token):
            break
    return writer.end()


def read_prompt(model: LoadedModel, chat: ChatFormat, job: Job) -> ChatPrompt:
    """Return a job's conversation in the model's tokens.

    Raises:
        FallbackTriggerError: it does not fit (`context_length`).
    """
    from tieredllm.local.tokenizer import is_long

    room = f"the context has room for {model.n_ctx} tokens"
    written = "".join(message.content for message in job.messages)
    if is_long(written) and model.vocabulary.count(written) > 2 * model.n_ctx:
        # Not tokenised in full: that cannot be stopped, and takes a second per megabyte.
        message = f"the prompt has {len(written)} characters; {room}"
        raise FallbackTriggerError(ErrorKind.CONTEXT_LENGTH, message)
    prompt = chat.prompt(job.messages)
    if len(prompt.tokens) >= model.n_ctx:
        message = f"the prompt has {len(prompt.tokens)} tokens; {room}"
        raise FallbackTriggerError(ErrorKind.CONTEXT_LENGTH, message)
    return prompt


class Writer:
    """An answer on its way from tokens to the pieces that are posted.

    The limit of tokens is that of the answer; thoughts before it have the rest of the context.

    Args:
        model: what answers.
        chat: how its conversations are written.
        job: where the pieces go.
        prompt: what is answered.

    Attributes:
        room: the most tokens there is room for.
    """

    def __init__(self, model: LoadedModel, chat: ChatFormat, job: Job, prompt: ChatPrompt) -> None:
        from tieredllm.local.tokenizer import StopFilter, detokenizer
        from tieredllm.thoughts import ThoughtSplitter

        self.room = model.n_ctx - len(prompt.tokens)
        limit = job.params.max_tokens
        self._limit = self.room if limit is None else limit
        self._foreseen = FORESEEN_TOKENS if limit is None or prompt.opened is not None else limit
        self._vocabulary = model.vocabulary
        self._chat = chat
        self._job = job
        self._prompt = prompt
        self._splitter = ThoughtSplitter(prompt.opened)
        self._text_of = detokenizer()
        self._filter = StopFilter((*chat.stop, *job.params.stop))
        self._loop = LoopDetector()
        self._held: list[str] = []
        self._count = self._said = self._waited = 0
        self._repeats = False

    @property
    def left(self) -> int:
        """How many more tokens it will take at most, as far as can be foreseen."""
        return max(0, min(self.room, self._foreseen + MARK_TOKENS) - self._count)

    def take(self, token: int) -> bool:
        """Post what is certain of the text with one more token; True when the answer ends here."""
        self._count += 1
        data, held = self._vocabulary.bytes_of(token), self._held
        held.append(self._text_of(data))
        # The first word of a text has no space before it, the same word later has.
        repeated = self._loop.feed(data.strip(b" ") or data)
        # What repeats what was just said waits until it turns out not to be a loop.
        self._post(self._splitter.feed("".join(held[: len(held) - repeated])))
        del held[: len(held) - repeated]
        self._said += self._splitter.is_answering
        self._waited = self._waited + 1 if self._splitter.is_waiting else 0
        if (
            self._filter.is_met
            or self._job.cancelled
            or self._said >= self._limit
            or self._waited >= self._limit + MARK_TOKENS
        ):
            return True
        self._repeats = self._loop.is_undoubted("".join(held))
        return self._repeats or self._count >= self.room

    def end(self) -> End:
        """Post the rest of the text, without a loop's other rounds, and return how it ended."""
        reason: Reason = "repetition" if self._repeats else "stop"
        if not self._repeats:
            self._post(self._splitter.feed("".join(self._held)))
            self._post(self._splitter.end())
            is_full = max(self._said, self._waited) >= self._limit or self._count >= self.room
            if is_full and not self._filter.is_met:
                reason = "length"
        if rest := self._filter.end():
            self._job.post(rest)
        problem, self._chat.problem = self._chat.problem, None
        return End(
            reason=reason,
            prompt_tokens=len(self._prompt.tokens),
            completion_tokens=self._count,
            notice=problem,
        )

    def _post(self, split: Split) -> None:
        if split.unsaid:  # what may have begun a stop text was thought
            split = split._replace(thought=self._filter.end() + split.thought)
        text = self._filter.feed(split.text)
        self._job.post(split._replace(text=text) if split.thought or split.unsaid else text)


class LoopDetector:
    """What the end of an answer has in common with what was said right before it.

    An answer runs in a loop when its last tokens are the same few tokens over and over. Lists,
    tables and code repeat themselves, too, but seldom to the letter and never for long: see
    `is_undoubted`.
    """

    def __init__(self) -> None:
        self._count = 0
        self._places: dict[bytes, list[int]] = {}
        self._runs: dict[int, int] = {}

    def feed(self, token: bytes) -> int:
        """Take the text of the next token.

        Returns:
            How many of the last tokens are the same as those one round earlier, for the round's
            length for which these are the most: 0 where nothing repeats.
        """
        here = self._count
        self._count += 1
        places = self._places.setdefault(token, [])
        while places and here - places[0] > MAX_ROUND_TOKENS:
            places.pop(0)
        lengths = [here - place for place in places]
        self._runs = {length: self._runs.get(length, 0) + 1 for length in lengths}
        places.append(here)
        return max(self._runs.values(), default=0)

    def is_undoubted(self, repeated_text: str) -> bool:
        """Tell whether the answer goes in circles, beyond what a list, a table or code does.

        Args:
            repeated_text: the text of the tokens `feed` counted last.
        """
        if not self._runs:
            return False
        length, run = max(self._runs.items(), key=lambda item: (item[1], -item[0]))
        rounds = 1 + run // length
        least = LOOP_TOKENS if _is_prose(repeated_text) else 4 * LOOP_TOKENS
        return rounds >= LOOP_ROUNDS and run + length >= least


def _is_prose(text: str) -> bool:
    """Tell prose, in any script, from tables, numbers and code."""
    shown = [char for char in text if not char.isspace()]
    letters = sum(unicodedata.category(char)[0] in "LM" for char in shown)
    return letters >= PROSE_SHARE * len(shown)
