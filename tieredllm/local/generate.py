"""Answer one conversation with a loaded model, piece by piece."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import msgspec

from tieredllm.errors import FallbackTriggerError
from tieredllm.kinds import ErrorKind
from tieredllm.profile.schema import Params
from tieredllm.types import Message

if TYPE_CHECKING:
    from tieredllm.local.model import LoadedModel
    from tieredllm.local.template import ChatFormat

__all__ = ["End", "Item", "Job", "answer"]


class End(msgspec.Struct, frozen=True, kw_only=True):
    """End an answer."""

    reason: str
    """`stop`, or `length` at `max_tokens` or the end of the context."""
    prompt_tokens: int
    completion_tokens: int


Item = str | End | BaseException
"""What comes of a job: pieces of text, then how it ended."""


class Job:
    """Hold one answer to be made, and where its pieces go.

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


def answer(model: LoadedModel, chat: ChatFormat, job: Job) -> End:
    """Post the pieces of an answer, and give how it ended.

    Raises:
        StoppedError: the model was told to stop.
        FallbackTriggerError: the conversation does not fit (`context_length`), or llama.cpp failed.
    """
    from tieredllm.local.tokenizer import Detokenizer, is_long

    written = "".join(message.content for message in job.messages)
    if is_long(written) and model.vocabulary.count(written) > 2 * model.n_ctx:
        # Not tokenised in full: that cannot be stopped, and takes a second per megabyte.
        raise FallbackTriggerError(
            ErrorKind.CONTEXT_LENGTH,
            f"the prompt has {len(written)} characters; "
            f"the context has room for {model.n_ctx} tokens",
        )
    prompt = chat.tokens(job.messages)
    model.evaluate(prompt)
    limit = min(job.params.max_tokens, model.n_ctx - len(prompt))
    joiner = Detokenizer(chat.stop)
    count = 0
    for data in model.sample(limit, job.params):
        count += 1
        if text := joiner.feed(data):
            job.post(text)
        if joiner.stopped or job.cancelled:
            break
    if text := joiner.end():
        job.post(text)
    reason = "length" if count >= limit and not joiner.stopped else "stop"
    return End(reason=reason, prompt_tokens=len(prompt), completion_tokens=count)
