"""Ask the tiers within a conversation, show what they answer, and keep it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractContextManager, aclosing
from typing import TYPE_CHECKING, Protocol, TextIO

import msgspec

from tieredllm.chat.conversation import Dialogue, Turn, UsageTotals
from tieredllm.chat.tier_status import TierStatus
from tieredllm.clock import Clock, SystemClock
from tieredllm.errors import UsageError
from tieredllm.render.summary import failure_lines, summary_line, usage_line
from tieredllm.render.view import View, show
from tieredllm.store.record import is_turn
from tieredllm.types import (
    Answer,
    Answered,
    Attachment,
    Attempt,
    AttemptFailed,
    AttemptStarted,
    Event,
    MessagePart,
    Prompt,
    TierSkipped,
    Token,
    ToolsWanted,
)

if TYPE_CHECKING:
    from tieredllm.client import FallbackManager
    from tieredllm.engine.plan import TierPlan
    from tieredllm.engine.ports import Controls
    from tieredllm.health.report import HealthReport
    from tieredllm.store.history import History
    from tieredllm.store.record import LoggedRequest
    from tieredllm.types import Options

__all__ = ["Chat", "Environment", "MakeView", "Reader", "Services"]


class Environment(Protocol):
    """What a chat sees of the world."""

    @property
    def env(self) -> Mapping[str, str]:
        """The environment."""
        ...

    @property
    def stdout(self) -> TextIO:
        """Where answers go."""
        ...

    @property
    def quiet(self) -> bool:
        """Whether to keep remarks to oneself."""
        ...


class Reader(Protocol):
    """What gives what the user types."""

    async def read(self, prefill: str = "") -> str:
        """Return the next message or command, as it was typed.

        Args:
            prefill: text to begin with, where it can be edited.

        Raises:
            EOFError: there is no more.
            KeyboardInterrupt: Ctrl-C was pressed and nothing had been typed.
        """
        ...

    def interrupt(self) -> None:
        """Make `read` raise KeyboardInterrupt: SIGINT came."""
        ...

    def between_messages(self) -> AbstractContextManager[None]:
        """Keep what is typed outside `read` for the next one, and off the screen."""
        ...


MakeView = Callable[[Callable[[str], str | None] | None], "tuple[View, bool]"]
"""Make the view of one answer, and say whether it needs ticks; given what heads a tier's text."""


class Services(msgspec.Struct, frozen=True, kw_only=True):
    """What the chat lets the command line do."""

    make_view: MakeView
    show_health: Callable[[HealthReport], None]
    show_request: Callable[[LoggedRequest, str | None], None]
    show_rows: Callable[[list[tuple[str, str]]], None]
    """Print two columns."""
    show_dim: Callable[[str], None]
    """Print a line that does not catch the eye."""
    tell: Callable[[str], None]
    """Print a line that is to be seen."""
    show_gap: Callable[[], None]
    """Set an answer off from the next prompt, on a screen."""
    read_file: Callable[[str], tuple[tuple[Attachment, ...], tuple[MessagePart, ...]]]
    """Read a text, an image or a PDF, by its path or URL; raises UsageError."""
    edit: Callable[[str], str]
    """Let the user edit a text; raises UsageError."""


class Chat:
    """One session.

    Args:
        manager: asks; the same one for the whole session, so that connections and the loaded local
            model are kept.
        dialogue: what was said so far.
        options: what every request asks for; commands may change it.
        environment: the streams.
        services: what the command line does for a chat.
        reader: where messages come from.
        history: where requests are kept; None to keep nothing.
        controls: move a running request on.
        interactive: whether a person is typing; else messages come from a pipe or a file.
        usage: whether to tell tokens and time after each answer.
        attachments: text the first message is about.
        parts: images and documents that it is about.
        clock: the time.
    """

    def __init__(
        self,
        manager: FallbackManager,
        dialogue: Dialogue,
        *,
        options: Options,
        environment: Environment,
        services: Services,
        reader: Reader,
        history: History | None,
        controls: Controls,
        interactive: bool,
        usage: bool = False,
        attachments: tuple[Attachment, ...] = (),
        parts: tuple[MessagePart, ...] = (),
        clock: Clock | None = None,
    ) -> None:
        self.manager = manager
        self.dialogue = dialogue
        self.options = options
        self.environment = environment
        self.services = services
        self.reader = reader
        self.interactive = interactive
        self.totals = UsageTotals()
        names = [plan.tier.name for plan in manager.plans]
        self.status = TierStatus(names, self.usual.tier.name, manager.cooldowns_s)
        self.last_prompt: Prompt | None = None
        """The last question, whatever came of it."""
        self.last_answer: Answer | None = None
        """What came of it, or what there is of a stopped one; None before it ends."""
        self.last_asked_at = 0.0
        """When it was asked, seconds since the epoch."""
        self.saved_to: set[str] = set()
        """The files this session has written."""
        self.has_failed = False
        """Whether a question got no answer, or a command was not carried out."""
        self.gave_less = False
        """Whether an answer was less than a model's whole one."""
        self.draft = ""
        """What the next message begins with: it can still be edited."""
        self.has_asked = False
        """Whether what was typed last made a request."""
        self._history = history
        self._controls = controls
        self._shows_usage = usage
        self.attachments = attachments
        """The texts that the next message is about."""
        self.parts = parts
        """The images and documents that it is about."""
        self._told_trouble = False
        self._clock = clock or SystemClock()

    @property
    def usual(self) -> TierPlan:
        """The tier that is expected to answer: the chosen one, or the first that can be asked."""
        plans = self.manager.plans
        if self.options.start is not None:
            return next(plan for plan in plans if plan.tier.name == self.options.start)
        configured = [plan for plan in plans if any(b.missing() is None for b in plan.backends)]
        return (configured or list(plans))[0]

    async def say(self, question: str) -> None:
        """Ask a new question; attached text comes with it until one was answered."""
        await self._ask(
            Prompt(
                question=question,
                system=self.dialogue.system,
                history=self.dialogue.messages,
                attachments=self.attachments,
                parts=self.parts,
            )
        )

    async def retry(self, start: str | None) -> bool:
        """Ask the last question again; a better answer takes the place of the one it had.

        Args:
            start: the tier to start at, this once.

        Returns:
            Whether there was a question to ask.
        """
        turns = self.dialogue.turns
        replaced: Turn | None = turns[-1] if turns else None
        prompt = self.last_prompt
        if prompt is None:
            if replaced is None:
                return False
            prompt = Prompt(
                question=replaced.asked, attachments=replaced.attachments, parts=replaced.parts
            )
        elif replaced is not None and (
            self.last_answer is None or replaced.request_id != self.last_answer.request_id
        ):
            replaced = None
        messages = self.dialogue.messages
        prompt = msgspec.structs.replace(
            prompt,
            system=self.dialogue.system,
            history=messages[:-2] if replaced is not None else messages,
        )
        await self._ask(prompt, start=start, replaced=replaced)
        return True

    def undo(self) -> Turn | None:
        """Take the last turn back, also for who resumes the conversation later."""
        turn = self.dialogue.take_back()
        if turn is not None:
            self._leave_out(turn)
            self.last_prompt = self.last_answer = None
        return turn

    def now(self) -> float:
        """Return the time, seconds since the epoch."""
        return self._clock.wall()

    def name(self, name: str | None) -> None:
        """Give the conversation a name, or take (None) its name away.

        Raises:
            UsageError: it is not in the log, or cannot have this name.
            DatabaseError: the log could not be written.
        """
        if self._history is None:
            raise UsageError("this session is not logged, so its conversation cannot have a name")
        if self.dialogue.cid is None:
            raise UsageError("nothing of this conversation is in the log yet: ask, then name it")
        self._history.set_name(self.dialogue.cid, name)
        self.dialogue.name = name

    def begin_anew(self, dialogue: Dialogue) -> None:
        """Go on with another conversation."""
        self.dialogue = dialogue
        self.last_prompt = self.last_answer = None

    async def _ask(
        self, prompt: Prompt, *, start: str | None = None, replaced: Turn | None = None
    ) -> None:
        self.last_prompt, self.last_answer = prompt, None
        self.last_asked_at = self._clock.wall()
        self.has_asked = True
        options = self.options
        self.status.begin()
        if start is not None:
            self.status.expect(start)
        is_headed = self.interactive and not self.environment.quiet
        view, animated = self.services.make_view(self.status.heading if is_headed else None)
        if start is not None:
            options = msgspec.structs.replace(options, start=start)
        request_id = os.urandom(16).hex()
        events = self.manager.stream(
            prompt, {"request_id": request_id}, options=options, controls=self._controls
        )
        watch = _Watch(self)
        try:
            answer = await show(watch.followed(events), view, animated=animated)
        except asyncio.CancelledError:
            self._keep_stopped(prompt, watch.stopped(request_id, self.last_asked_at), replaced)
            raise
        finally:
            view.close()
        self._take(prompt, answer, replaced)

    def _keep_stopped(self, prompt: Prompt, answer: Answer, replaced: Turn | None) -> None:
        """Keep what a stopped answer had said, so that the conversation can go on from it."""
        self.last_answer = answer
        if not is_turn(answer):
            return
        if replaced is not None:
            self.dialogue.take_back()
            self._leave_out(replaced)
        self.dialogue.add(prompt, answer)
        self.attachments, self.parts = (), ()
        self._save(prompt, answer)

    def _take(self, prompt: Prompt, answer: Answer, replaced: Turn | None) -> None:
        """Keep an answer, and say what is to be said of it."""
        self.last_answer = answer
        self.totals.add(answer)
        if replaced is not None and is_turn(answer):
            self.dialogue.take_back()
            self._leave_out(replaced)
        self.dialogue.add(prompt, answer)
        if is_turn(answer):
            self.attachments, self.parts = (), ()
        self._save(prompt, answer)
        for line in self._remarks(answer):
            self.services.tell(line)
        if self._shows_usage and answer.error is None:
            self.services.tell(self._worded(usage_line(answer)))
        self.has_failed = self.has_failed or answer.error is not None
        self.gave_less = self.gave_less or answer.is_less

    def _save(self, prompt: Prompt, answer: Answer) -> None:
        if self._history is None:
            return
        self.dialogue.cid = self._history.save(
            prompt,
            answer,
            profile=self.manager.profile.name,
            conversation_id=self.dialogue.cid,
            secrets=self.manager.secrets(),
        )
        self._tell_trouble()

    def _remarks(self, answer: Answer) -> list[str]:
        if answer.error is not None:
            return [self._worded(line) for line in failure_lines(answer)]
        if self.environment.quiet:
            return []
        # Who answers is said above the answer.
        line = summary_line(answer, names_model=not self.interactive, plans=self.manager.plans)
        return [] if line is None else [self._worded(line)]

    def _worded(self, line: str) -> str:
        """Leave the program's name out where it is clear who speaks."""
        return line.removeprefix("tieredllm: ") if self.interactive else line

    def _leave_out(self, turn: Turn) -> None:
        if self._history is not None and turn.request_id is not None:
            self._history.take_back(turn.request_id)

    def _tell_trouble(self) -> None:
        trouble = self.manager.database.problem
        if trouble and not self._told_trouble:
            self._told_trouble = True
            self.services.tell(f"the conversation is not remembered: {trouble}")


class _Watch:
    """Let the session follow a request while a view shows it."""

    def __init__(self, chat: Chat) -> None:
        self._chat = chat
        self._running: AttemptStarted | None = None
        self._text = ""
        """What the attempt that is running has said."""
        self._attempts: list[Attempt] = []

    def stopped(self, request_id: str, asked_at: float) -> Answer:
        """Return what there is of an answer that the user stopped.

        Args:
            request_id: the request.
            asked_at: when it was asked, seconds since the epoch.
        """
        running, text = self._running, self._text.rstrip()
        took_ms = max(self._chat.now() - asked_at, 0.0) * 1000
        attempts = self._attempts
        if running is not None:
            before_ms = sum(each.duration_ms for each in attempts)
            attempt = Attempt(
                tier=running.tier,
                level=running.level,
                provider=running.provider,
                model=running.model,
                outcome="cancelled",
                reason="you stopped it",
                started_ms=min(before_ms, took_ms),
                duration_ms=max(took_ms - before_ms, 0.0),
            )
            attempts = [*attempts, attempt]
        return Answer(
            request_id=request_id,
            text=text or None,
            tier=running.tier if running and text else None,
            fallback_level=running.level if running and text else None,
            provider=running.provider if running and text else None,
            model_used=running.model if running and text else None,
            latency_ms=took_ms,
            finish_reason="stopped",
            truncated=True,
            attempts=tuple(attempts),
        )

    async def followed(self, events: AsyncGenerator[Event, None]) -> AsyncGenerator[Event, None]:
        """Pass the events on; before each, and after the last, the session takes note."""
        async with aclosing(events):
            async for event in events:
                self._take(event)
                yield event
                if isinstance(event, Answered) and event.answer.tier is not None:
                    self._tell_change(event.answer.tier)

    def _take(self, event: Event) -> None:
        self._chat.status.take(event)
        match event:
            case AttemptStarted():
                self._running, self._text = event, ""
            case ToolsWanted():
                self._text = ""
            case AttemptFailed(attempt=attempt):
                self._attempts.append(attempt)
                self._running, self._text = None, ""
            case TierSkipped(attempt=attempt):
                self._attempts.append(attempt)
            case Token(text=text):
                self._text += text

    def _tell_change(self, tier: str) -> None:
        """Say that another tier has answered, where the view has not headed the answer with it."""
        chat = self._chat
        change = chat.status.change(tier)
        if change is not None and chat.interactive and not chat.environment.quiet:
            chat.services.show_dim(change)
