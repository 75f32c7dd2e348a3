"""Answer a batch: ask what has no answer yet, many lines at once, and append what comes.

A line whose every tier is down waits for the soonest circuit, with all others that start at the
same tier, instead of being turned into a failure; what no waiting cures (a rejected key, an
exhausted quota) ends the batch.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import msgspec

from tieredllm.batch.lines import BadLineError, BatchLine, Reader, in_shard
from tieredllm.batch.output import Index, places_in, prepare, rewrite
from tieredllm.client import FallbackManager
from tieredllm.errors import NoAnswerError, TieredLLMError, UsageError
from tieredllm.kinds import ErrorKind
from tieredllm.types import Answer, Attempt, Options, last_failures

__all__ = [
    "Batch",
    "Checkpoint",
    "HopelessError",
    "Tally",
    "open_checkpoint",
    "wait_s",
]

MAX_ROUNDS = 3
"""How often a line is asked before its failure is written, each time after waiting for a circuit.
Rounds in which nobody could be asked don't count."""
MAX_WAIT_S = 600.0
"""The longest wait for a circuit before somebody is asked again."""
MIN_WAIT_S = 0.05
POLL_S = 1.0
"""The wait while another request is probing, and after a failure that opened no circuit."""
MAX_ASIDE = 8
"""How many lines wait at most while others go on, for each line that may be under way."""
MAX_IN_VAIN = 20
"""After how many lines in a row that no waiting helps a batch ends, whatever tier they name."""
MAX_SHOWN = 10
"""How many mistakes of an input are told."""

HOPELESS = frozenset(
    {
        ErrorKind.AUTHENTICATION,
        ErrorKind.PERMISSION,
        ErrorKind.NOT_FOUND,
        ErrorKind.QUOTA_EXHAUSTED,
        ErrorKind.MODEL_UNAVAILABLE,
    }
)
"""The kinds that waiting does not cure, for any line."""
OWN_FAULT = frozenset(
    {
        ErrorKind.CONTEXT_LENGTH,
        ErrorKind.CONTENT_FILTER,
        ErrorKind.BAD_REQUEST,
        ErrorKind.DEADLINE,
    }
)
"""The kinds that say something about this line alone."""


class HopelessError(TieredLLMError):
    """No tier can answer any line, and waiting would not help.

    Args:
        why: each tier's error.
    """

    def __init__(self, why: str) -> None:
        self.why = why
        super().__init__(f"no tier can answer: {why}")


def wait_s(answer: Answer, *, now: float) -> float | None:
    """Return how long to wait before a failed line is asked again; None when that is no use.

    Args:
        answer: the failed answer.
        now: seconds since the epoch.

    Raises:
        HopelessError: no line could be answered now, however long it waits.
    """
    tiers = [attempt for attempt in last_failures(answer.attempts) if not _is_absent(attempt)]
    waits = [wait for attempt in tiers if (wait := _wait_for(attempt, now)) is not None]
    if waits:
        return min(max(min(waits), 0.0), MAX_WAIT_S)
    own = any(_kind(attempt) in OWN_FAULT or _is_own(attempt) for attempt in tiers)
    if own or any(_kind(attempt) is ErrorKind.UNEXPECTED for attempt in tiers):
        return None
    raise HopelessError(answer.original_error or str(answer.error))


def _kind(attempt: Attempt) -> ErrorKind | None:
    if attempt.error is not None:
        return attempt.error.kind
    return attempt.skip.cause if attempt.skip is not None else None


def _is_absent(attempt: Attempt) -> bool:
    return attempt.skip is not None and attempt.skip.why == "not_configured"


def _is_own(attempt: Attempt) -> bool:
    return attempt.skip is not None and attempt.skip.why in ("context", "capability", "no_time")


def _wait_for(attempt: Attempt, now: float) -> float | None:
    """Return the seconds until a tier may be asked again; None when waiting is no use."""
    kind = _kind(attempt)
    if kind in HOPELESS or kind in OWN_FAULT or kind is ErrorKind.UNEXPECTED or _is_own(attempt):
        return None
    if attempt.skip is not None and attempt.skip.retry_at is not None:
        return datetime.fromisoformat(attempt.skip.retry_at).timestamp() - now
    if attempt.error is not None and attempt.error.retry_after_s is not None:
        return attempt.error.retry_after_s
    return POLL_S


class Tally:
    """How far a batch is."""

    def __init__(self, total: int, done: int = 0) -> None:
        self.total = total
        """The lines of the input that are this batch's."""
        self.before = done
        """Those that were answered before."""
        self.answered = 0
        self.cut = 0
        """Answers that ended at a limit."""
        self.failed = 0
        self.tiers: Counter[str] = Counter()
        self.tokens = 0
        self.started_at = time.monotonic()
        self.waits_until: float | None = None
        """Until when every line that is left waits, on the monotonic clock."""

    @property
    def done(self) -> int:
        """How many lines need not be asked any more."""
        return self.before + self.answered + self.failed

    @property
    def rate(self) -> float:
        """Lines per second since the start."""
        elapsed_s = time.monotonic() - self.started_at
        return (self.answered + self.failed) / elapsed_s if elapsed_s > 0 else 0.0

    @property
    def left_s(self) -> float | None:
        """Seconds until the end at this rate; None while nothing can be said."""
        rate = self.rate
        return (self.total - self.done) / rate if rate > 0 else None

    def add(self, answer: Answer) -> None:
        """Count an answer."""
        if answer.error is not None:
            self.failed += 1
            return
        self.answered += 1
        self.cut += answer.truncated
        self.tiers[answer.tier or ""] += 1
        usage = answer.usage
        self.tokens += (usage.prompt_tokens or 0) + (usage.completion_tokens or 0)


@dataclass(slots=True, eq=False)
class _Turn:
    """A line that is asked, or waits."""

    line: BatchLine
    start: str
    """The tier that it starts at."""
    rounds: int = 0
    """In how many rounds somebody was asked."""


class Batch:
    """The lines of one batch on their way.

    Args:
        lines: those that are to be asked; read as they are needed.
        manager: whose tiers answer.
        options: what every line asks for, besides its own parameters, schema and tools.
        write: takes each line with its answer, once.
        at_once: how many lines are under way at the same time.
        tally: counts them.
    """

    def __init__(
        self,
        lines: Iterator[BatchLine],
        manager: FallbackManager,
        options: Options,
        write: Callable[[BatchLine, Answer], None],
        *,
        at_once: int,
        tally: Tally,
    ) -> None:
        self._lines = lines
        self._manager = manager
        self._options = options
        self._write = write
        self._at_once = at_once
        self._tally = tally
        self._trouble: Exception | None = None
        self._first = manager.plans[0].tier.name
        self._pauses: dict[str, float] = {}
        """Until when lines wait, by the tier that they start at, on the monotonic clock."""
        self._aside: defaultdict[str, deque[_Turn]] = defaultdict(deque)
        """The lines that wait, by the tier that they start at."""
        self._under_way = 0
        self._in_vain: list[HopelessError] = []
        """Of the lines since the last answer, why no waiting would have helped."""

    async def run(self) -> None:
        """Ask every line.

        Raises:
            HopelessError: no tier can answer any more.
            OSError: the output cannot be written, or the input read.
        """
        workers = [asyncio.create_task(self._work()) for _ in range(self._at_once)]
        try:
            await asyncio.wait(workers, return_when=asyncio.FIRST_EXCEPTION)
            if self._trouble is not None:
                raise self._trouble
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)

    async def _work(self) -> None:
        try:
            while (turn := await self._next()) is not None:
                self._under_way += 1
                answer = await self._answer(turn)
                self._under_way -= 1
                if answer is None:
                    self._aside[turn.start].append(turn)
                    continue
                self._write(turn.line, answer)
                self._tally.add(answer)
                await asyncio.sleep(0)  # rules answer without ever waiting
        except Exception as exc:
            self._trouble = self._trouble or exc  # what others meet afterwards says less
            raise

    async def _next(self) -> _Turn | None:
        """Return a line that may be asked, as soon as there is one; None when none is left."""
        while True:
            now = time.monotonic()
            self._pauses = {start: at for start, at in self._pauses.items() if at > now}
            for start, turns in self._aside.items():
                if turns and start not in self._pauses:
                    self._tally.waits_until = None
                    return turns.popleft()
            aside = sum(map(len, self._aside.values()))
            # While the first tier is set aside hardly a line can go on: as few are kept as may be.
            room = self._at_once * (1 if self._first in self._pauses else MAX_ASIDE)
            if aside < room and (line := next(self._lines, None)) is not None:
                turn = _Turn(line, self._start(line) or self._first)
                self._aside[turn.start].append(turn)
                if turn.start in self._pauses:
                    await asyncio.sleep(0)  # reading many lines at a time takes long
                continue
            if not aside:
                return None
            soonest = min(self._pauses[start] for start, turns in self._aside.items() if turns)
            if not self._under_way:
                self._tally.waits_until = soonest
            await asyncio.sleep(soonest - now)

    async def _answer(self, turn: _Turn) -> Answer | None:
        """Return a line's answer, complete or failed; None when it is to be asked again later."""
        answer = await self._ask(turn.line)
        if answer.error is None:
            self._in_vain.clear()
            return answer
        try:
            wait = wait_s(answer, now=time.time())
        except HopelessError as exc:
            self._in_vain.append(exc)
            if turn.start == self._first:
                raise
            if len(self._in_vain) >= MAX_IN_VAIN:
                raise self._in_vain[0] from None  # the others were not even asked
            return answer  # other lines start elsewhere
        turn.rounds += any(attempt.outcome == "failed" for attempt in answer.attempts)
        if wait is None or turn.rounds >= MAX_ROUNDS:
            return answer
        now = time.monotonic()
        if self._pauses.get(turn.start, now) <= now:  # else it waits for the same moment
            self._pauses[turn.start] = now + max(wait, MIN_WAIT_S)
        return None

    async def _ask(self, line: BatchLine) -> Answer:
        """Ask the tiers once; return the answer, complete or failed."""
        own, request = line.request.options, line.request
        options = msgspec.structs.replace(
            self._options,
            start=self._start(line),
            params=own.params,
            schema=own.schema,
            caller_tools=own.caller_tools,
            tool_choice=own.tool_choice,
        )
        try:
            return await self._manager.process_with_fallbacks(request.prompt, options=options)
        except NoAnswerError as exc:
            return exc.answer

    def _start(self, line: BatchLine) -> str | None:
        """Return the tier that a line names; None for the first."""
        return self._manager.profile.tier_meant(line.request.model)


class Checkpoint:
    """An input, the output beside it, and what of the one is not in the other yet.

    Args:
        reader: the input.
        path: the output; None to begin anew each time.
        index: what is known of both.
        total: how many lines of the input are this batch's.
    """

    def __init__(self, reader: Reader, path: Path | None, index: Index, total: int) -> None:
        self._reader = reader
        self._path = path
        self._index = index
        self.total = total
        self.pending_count = index.count_pending()
        self.replaced = 0
        """How many answers to other prompts, or by another profile, were put aside."""

    def pending(self) -> Iterator[BatchLine]:
        """Yield the lines that are to be asked, in their order."""
        numbers = self._index.pending()
        number = next(numbers, None)

        def is_next(found: int) -> bool:
            nonlocal number
            if found != number:
                return False
            number = next(numbers, None)
            return True

        for line in self._reader.lines(is_next):
            if isinstance(line, BatchLine):
                yield line
            if number is None:
                return

    def tidy(self) -> None:
        """Take out of the output what is to be asked again, so that no id is ever in it twice.

        Answers to other prompts are kept beside it, in a file that ends in `.replaced`.

        Raises:
            OSError: it cannot be rewritten; it is as it was.
        """
        if self._path is None:
            return
        if not self._index.count_stale():
            return
        self.replaced = sum(1 for _ in self._index.replaced())
        with self._path.open("rb") as file:
            if self.replaced:
                aside = self._path.with_name(f"{self._path.name}.replaced")
                with aside.open("ab") as other:
                    for offset, length in self._index.replaced():
                        file.seek(offset)
                        other.write(file.read(length))
            rewrite(((file, *place) for place in self._index.kept()), self._path)

    def put_in_order(self) -> None:
        """Put the output into the input's order, as far as it has come.

        Raises:
            OSError: it cannot be rewritten; it is as it was.
        """
        if self._path is None:
            return
        self._index.forget_records()
        with self._path.open("rb") as file:
            self._index.add_records(places_in(file, self._path.name))
            if not self._index.is_in_order():
                places = ((file, offset, length) for _, offset, length in self._index.best())
                rewrite(places, self._path)


def open_checkpoint(
    reader: Reader,
    path: Path | None,
    index: Index,
    *,
    shard: tuple[int, int] | None = None,
    limit: int | None = None,
) -> Checkpoint:
    """Check all of the input, and find out what of it the output has already.

    Args:
        reader: the input.
        path: the output, made if it is not there; None for none.
        index: an empty one.
        shard: which part of the lines to take; see `in_shard`.
        limit: how many lines to take at most.

    Raises:
        UsageError: the input has mistakes, the first of which are told; or the output is none.
        OSError: a file cannot be read or written.
    """
    mistakes: list[str] = []
    more = 0

    def mine() -> Iterator[BatchLine]:
        nonlocal more
        taken = 0
        for line in reader.lines():
            if isinstance(line, BadLineError):
                more += 1
                if len(mistakes) < MAX_SHOWN:
                    mistakes.append(str(line))
            elif in_shard(line.id, shard):
                yield line
                taken += 1
                if taken == limit:
                    return

    total = index.add_lines(mine())
    mistakes += [
        f"lines {first} and {second} have the same id {identifier!r}"
        for identifier, first, second in index.doubles(MAX_SHOWN)
    ]
    if mistakes:
        if more > MAX_SHOWN:
            mistakes.append(f"and {more - MAX_SHOWN} more")
        raise UsageError("nothing was asked: " + "\n  ".join(mistakes))
    if path is not None:
        prepare(path)
        with path.open("rb") as file:
            index.add_records(places_in(file, path.name))
    return Checkpoint(reader, path, index, total)
