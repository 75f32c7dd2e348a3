"""Make several answers at once in one context, a token of each in every step.

A step evaluates one token of each answer under way and a piece of the prompts that are still being
read, so that a long prompt does not hold up short answers, nor they it. What a prompt has in common
with another text in the context is evaluated once. Whoever came first is served first: a job that
finds no room waits for it, and those behind it wait, too.

Where each sequence has a buffer of its own, llama.cpp computes in one go what is in neighbouring
ones (`split_equal` of llama-batch.cpp), so answers move together when there are gaps between them
for a while. A text that does not fit into its buffer makes all share one for good.

Two answers computed side by side may part from the same two computed one after the other: the order
in which llama.cpp adds numbers up depends on how many rows a step has.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tieredllm.errors import FallbackTriggerError
from tieredllm.kinds import ErrorKind
from tieredllm.local.contexts import shared_beginning
from tieredllm.local.generate import Job, Writer, read_prompt
from tieredllm.local.llama_bindings import StoppedError
from tieredllm.local.model import BATCH_TOKENS, LoadedModel, NoRoomError, Piece, Sequence

if TYPE_CHECKING:
    from tieredllm.local.sampler import Sampler
    from tieredllm.local.template import ChatFormat

__all__ = ["Scheduler"]

PROMPT_TOKENS = 128
"""How many tokens of prompts a step evaluates beside answers that are being written: some three
times as long as the step would take without."""
GAP_STEPS = 4
"""For how many steps a gap stays before it is closed, which takes about as long as two: mostly, the
next answer fills it."""
WORTH_SHARING = 16
"""The least tokens in common for which a prompt waits until another has been read that far."""


class _Answer:
    """One answer under way."""

    def __init__(self, job: Job, sequence: Sequence, tokens: list[int], writer: Writer) -> None:
        self.job = job
        self.sequence = sequence
        self.prompt = tokens
        self.writer = writer
        self.waits_for: tuple[_Answer, int] | None = None
        """Another answer whose prompt begins alike, and how many tokens of it."""
        self.next_token: int | None = None
        """What the model said last and has not evaluated; None while the prompt is read."""
        self.is_set_back = False
        """Whether it has given up its room until another has ended."""
        self.sampler: Sampler | None = None
        self.lent = contextlib.ExitStack()

    @property
    def unread(self) -> int:
        """How many tokens of the prompt are not evaluated."""
        return len(self.prompt) - len(self.sequence.tokens)

    @property
    def still_needs(self) -> int:
        """How much room it may take yet."""
        return max(0, self.unread) + self.writer.left

    def set_back(self) -> None:
        """Take what was said for a part of the prompt: the cache is about to lose it."""
        if self.next_token is not None:
            self.prompt = [*self.sequence.tokens, self.next_token]
            self.next_token = None
        self.waits_for = None


class Scheduler:
    """The answers that one model is making.

    Args:
        model: what makes them; nobody else may use it meanwhile.
        chat: how conversations are written.
        abortable: told, before each step, the jobs for whose end the step is worth breaking off.
        translate: makes of whatever went wrong what a job is told.
    """

    def __init__(
        self,
        model: LoadedModel,
        chat: ChatFormat,
        *,
        abortable: Callable[[set[Job]], None],
        translate: Callable[[BaseException], BaseException],
    ) -> None:
        self._model = model
        self._chat = chat
        self._abortable = abortable
        self._translate = translate
        self._waiting: deque[tuple[Job, list[int], Writer]] = deque()
        self._answers: list[_Answer] = []
        self._idle = list(model.sequences)
        """Sequences that nobody uses, the longest unused first; they keep what they hold."""
        self._gap_steps = 0

    @property
    def is_busy(self) -> bool:
        """Whether there is anything to do."""
        return bool(self._waiting or self._answers)

    def add(self, job: Job) -> None:
        """Take a job in; it is told when it cannot be done."""
        if job.cancelled:
            return
        try:
            prompt = read_prompt(self._model, self._chat, job)
            writer = Writer(self._model, self._chat, job, prompt)
        except Exception as exc:  # noqa: BLE001 - it goes to whoever waits
            job.post(self._translate(exc))
        else:
            self._waiting.append((job, prompt.tokens, writer))

    def step(self) -> None:
        """Let every answer under way come one step further.

        Raises:
            StoppedError: the model was told to stop, and no job's end was the reason.
            FallbackTriggerError: there is no memory for a context.
        """
        self._model.open()
        self._drop_cancelled()
        self._admit()
        if self._model.own_tokens is not None:
            self._close_gaps()
        pieces = self._pieces()
        if not pieces:
            return
        reading = {answer.job for answer, piece in pieces if answer.next_token is None}
        self._abortable({pieces[0][0].job} if len(pieces) == 1 else reading)
        try:
            rows = self._model.decode([piece for _, piece in pieces])
        except StoppedError:
            if not any(answer.job.cancelled for answer in self._answers):
                raise
            return  # what was computed for the others is computed again
        except NoRoomError:
            self._make_room()
            return
        except Exception as exc:  # noqa: BLE001 - it goes to whoever waits
            for answer, _ in pieces:
                self._end(answer, self._translate(exc))
            return
        finally:
            self._abortable(set())
        for (answer, piece), row in zip(pieces, rows, strict=True):
            self._go_on(answer, piece, row)

    def close(self, error: BaseException) -> None:
        """End every job.

        Args:
            error: what they are told.
        """
        for job, _, _ in self._waiting:
            job.post(error)
        self._waiting.clear()
        for answer in list(self._answers):
            self._end(answer, error)

    def _drop_cancelled(self) -> None:
        for answer in [answer for answer in self._answers if answer.job.cancelled]:
            self._end(answer, None)
        self._waiting = deque(entry for entry in self._waiting if not entry[0].cancelled)

    def _admit(self) -> None:
        """Begin the answers there is room for, in the order they came."""
        while self._waiting and self._idle:
            job, tokens, writer = self._waiting[0]
            own_tokens = self._model.own_tokens
            if own_tokens is not None and len(tokens) + writer.left > own_tokens:
                self._share_room()
            known = tokens[:-1]  # the last is always evaluated: the answer starts from it
            own = max(self._idle, key=lambda idle: shared_beginning(idle.tokens, known))
            source = max(
                self._model.sequences, key=lambda held: shared_beginning(held.tokens, known)
            )
            shared = shared_beginning(source.tokens, known)
            if shared > shared_beginning(own.tokens, known):
                # Whose text is worth least is given up for it.
                own = self._idle[0] if self._idle[0] is not source else self._idle[-1]
            kept = shared_beginning(own.tokens, known)
            promised = sum(answer.still_needs for answer in self._answers)
            need = len(tokens) + writer.left - max(shared, kept)
            if not self._free(promised + need, spare=(own, source)):
                if self._answers:
                    return
                self._free(promised + need, spare=(own,))  # alone it fits: it is at most `n_ctx`
            self._idle.remove(own)
            if shared > kept:
                self._model.copy(source, own, shared)
            else:
                self._model.cut(own, kept)
            self._waiting.popleft()
            answer = _Answer(job, own, tokens, writer)
            answer.waits_for = self._read_by_another(answer)
            self._answers.append(answer)

    def _free(self, wanted: int, *, spare: tuple[Sequence, ...]) -> bool:
        """Forget what idle sequences hold until there is so much room; False when there is not."""
        if self._model.own_tokens is not None:
            return True
        room = self._model.room_tokens
        for idle in self._idle:
            if room - self._model.used_tokens >= wanted:
                break
            if idle not in spare:
                self._model.cut(idle, 0)
        return room - self._model.used_tokens >= wanted

    def _read_by_another(self, answer: _Answer) -> tuple[_Answer, int] | None:
        """Find who is reading what this prompt begins with, and how far they have it in common."""
        known = answer.prompt[:-1]
        best: tuple[_Answer, int] | None = None
        for other in self._answers:
            if other.next_token is not None:
                continue
            shared = shared_beginning(other.prompt, known)
            gain = shared - len(answer.sequence.tokens)
            if gain >= WORTH_SHARING and (best is None or shared > best[1]):
                best = other, shared
        return best

    def _pieces(self) -> list[tuple[_Answer, Piece]]:
        """Return what the next step evaluates."""
        pieces: list[tuple[_Answer, Piece]] = []
        readers: list[_Answer] = []
        for answer in self._answers:
            if answer.next_token is not None:
                piece = Piece(sequence=answer.sequence, tokens=[answer.next_token])
                pieces.append((answer, piece))
            elif not answer.is_set_back and not self._waits(answer):
                readers.append(answer)
        left = min(PROMPT_TOKENS, BATCH_TOKENS - len(pieces)) if pieces else BATCH_TOKENS
        # Those with little left to read take less than their share, which goes to the others.
        for number, answer in enumerate(sorted(readers, key=lambda reader: reader.unread)):
            count = min(answer.unread, max(1, left // (len(readers) - number)), left)
            if not count:
                break
            left -= count
            start = len(answer.sequence.tokens)
            tokens = answer.prompt[start : start + count]
            piece = Piece(sequence=answer.sequence, tokens=tokens, is_read=count == answer.unread)
            pieces.append((answer, piece))
        pieces.sort(key=lambda entry: entry[1].sequence.number)  # neighbours are computed together
        return pieces

    def _close_gaps(self) -> None:
        """Move answers into the first sequences, when there have been gaps for some steps."""
        has_gaps = any(each.sequence.number >= len(self._answers) for each in self._answers)
        self._gap_steps = self._gap_steps + 1 if has_gaps else 0
        if self._gap_steps < GAP_STEPS:
            return
        for answer in self._answers:
            left = answer.sequence
            if left.number >= len(self._answers):
                taken = min(self._idle, key=lambda idle: idle.number)
                self._model.copy(left, taken, len(left.tokens))
                self._idle[self._idle.index(taken)] = left
                answer.sequence = taken

    def _waits(self, answer: _Answer) -> bool:
        """Whether an answer still waits for another to read what both begin with."""
        if answer.waits_for is None:
            return False
        other, shared = answer.waits_for
        if other in self._answers and len(other.sequence.tokens) < shared:
            return True
        answer.waits_for = None
        shared = min(shared, shared_beginning(other.sequence.tokens, answer.prompt[:-1]))
        if shared > len(answer.sequence.tokens):
            self._model.copy(other.sequence, answer.sequence, shared)
        return False

    def _go_on(self, answer: _Answer, piece: Piece, row: int) -> None:
        """Take in what a step has computed for one answer."""
        if answer.next_token is None:
            self._model.evaluated_tokens += len(piece.tokens)
            if not piece.is_read:
                return
        try:
            if answer.sampler is None:
                answer.sampler = answer.lent.enter_context(self._model.sampler(answer.job.params))
            token = self._model.pick(answer.sampler, row)
            if self._model.vocabulary.ends_answer(token) or answer.writer.take(token):
                self._end(answer, answer.writer.end())
            else:
                answer.next_token = token
        except Exception as exc:  # noqa: BLE001 - it goes to whoever waits
            self._end(answer, self._translate(exc))

    def _share_room(self) -> None:
        """Let all sequences share one buffer; what they hold is read again."""
        for answer in self._answers:
            answer.set_back()
        self._model.share_room()
        self._model.open()
        answers, self._answers = self._answers, []
        for answer in answers:
            answer.waits_for = self._read_by_another(answer)
            self._answers.append(answer)

    def _make_room(self) -> None:
        """Forget idle texts, or set the answer that came last back: it is read again later."""
        if self._model.own_tokens is not None:
            self._share_room()
            return
        if any(idle.tokens for idle in self._idle):
            for idle in self._idle:
                self._model.cut(idle, 0)
            return
        last = next(answer for answer in reversed(self._answers) if not answer.is_set_back)
        if len(self._answers) == 1:
            message = "the context has no room for the answer"
            self._end(last, FallbackTriggerError(ErrorKind.MODEL_UNAVAILABLE, message))
            return
        last.set_back()
        last.is_set_back = True
        self._model.cut(last.sequence, 0)

    def _end(self, answer: _Answer, item: Any) -> None:
        """Free an answer's place, and post how it ended."""
        answer.lent.close()
        self._answers.remove(answer)
        for other in self._answers:
            other.is_set_back = False
        self._idle.append(answer.sequence)
        if item is not None:
            answer.job.post(item)
