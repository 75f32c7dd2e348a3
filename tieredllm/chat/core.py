"""Ask the tiers within a conversation, show what they answer, and keep it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from tieredllm.chat.dialogue import Dialogue, Turn
from tieredllm.chat.surroundings import Reader, Services, Surroundings
from tieredllm.chat.tally import Tally
from tieredllm.chat.tier_watch import TierWatch
from tieredllm.clock import Clock, SystemClock
from tieredllm.render.showing import View, show
from tieredllm.render.summary import failure_lines, summary_line, usage_line
from tieredllm.store.logged import is_turn
from tieredllm.types import Answer, Answered, Attachment, Event, Options, Prompt, Token

if TYPE_CHECKING:
    from tieredllm.client import FallbackManager
    from tieredllm.engine.plan import TierPlan
    from tieredllm.store.history import History

__all__ = ["Chat", "Settings"]


class Settings(msgspec.Struct, kw_only=True):
    """Hold what every request of the session asks for; commands may change it."""

    start: str | None = None
    """The tier to start at; None for the first."""
    fallback: bool = True
    """Whether later tiers may answer."""
    require_llm: bool = False
    """Whether a rule answer is a failure."""
    deadline_s: float | None = None
    """Overrides the profile's."""
    usage: bool = False
    """Whether to tell tokens and time after each answer."""


class Chat:
    """Be one session.

    Args:
        manager: asks; the same one for the whole session, so that connections and the loaded local
            model are kept.
        dialogue: what was said so far.
        settings: what every request asks for.
        around: the streams.
        services: what the command line does for a chat.
        reader: where messages come from.
        history: where requests are kept; None to keep nothing.
        attended: whether a person is typing; else messages come from a pipe or a file.
        attachments: text the first message is about.
        clock: the time.
    """

    def __init__(
        self,
        manager: FallbackManager,
        dialogue: Dialogue,
        *,
        settings: Settings,
        around: Surroundings,
        services: Services,
        reader: Reader,
        history: History | None,
        attended: bool,
        attachments: tuple[Attachment, ...] = (),
        clock: Clock | None = None,
    ) -> None:
        self.manager = manager
        self.dialogue = dialogue
        self.settings = settings
        self.around = around
        self.services = services
        self.reader = reader
        self.attended = attended
        self.tally = Tally()
        names = [plan.tier.name for plan in manager.plans]
        self.watch = TierWatch(names, self.usual.tier.name)
        self.last_prompt: Prompt | None = None
        """The last question, whatever came of it."""
        self.last_answer: Answer | None = None
        """What came of it; None when it was stopped."""
        self.last_asked_at = 0.0
        """When it was asked, seconds since the epoch."""
        self.saved_to: set[str] = set()
        """The files this session has written."""
        self.all_complete = True
        """Whether every answer so far was complete, and every command was carried out."""
        self.has_asked = False
        """Whether what was typed last made a request."""
        self.has_shown_text = False
        """Whether some of the answer under way is on the screen."""
        self._history = history
        self._attachments = attachments
        self._told_trouble = False
        self._clock = clock or SystemClock()

    @property
    def usual(self) -> TierPlan:
        """The tier that is expected to answer: the chosen one, or the first that can be asked."""
        plans = self.manager.plans
        if self.settings.start is not None:
            return next(plan for plan in plans if plan.tier.name == self.settings.start)
        configured = [plan for plan in plans if any(b.missing() is None for b in plan.backends)]
        return (configured or list(plans))[0]

    async def say(self, question: str) -> None:
        """Ask a new question; attached text comes with it until one was answered."""
        await self._ask(
            Prompt(
                question=question,
                system=self.dialogue.system,
                history=self.dialogue.messages,
                attachments=self._attachments,
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
            prompt = Prompt(question=replaced.asked)
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

    def begin_anew(self, dialogue: Dialogue) -> None:
        """Go on with another conversation."""
        self.dialogue = dialogue
        self.last_prompt = self.last_answer = None

    async def _ask(
        self, prompt: Prompt, *, start: str | None = None, replaced: Turn | None = None
    ) -> None:
        self.last_prompt, self.last_answer = prompt, None
        self.last_asked_at = self._clock.wall()
        self.has_asked, self.has_shown_text = True, False
        settings = self.settings
        self.watch.begin()
        if start is not None:
            self.watch.expect(start)
        is_headed = self.attended and not self.around.quiet
        view, animated = self.services.make_view(self.watch.heading if is_headed else None)
        events = self.manager.stream(
            prompt,
            options=Options(
                start=start or settings.start,
                fallback=settings.fallback,
                require_llm=settings.require_llm,
                deadline_s=settings.deadline_s,
            ),
        )
        try:
            answer = await show(events, _Watched(view, self), animated=animated)
        finally:
            view.close()
        self._take(prompt, answer, replaced)

    def _take(self, prompt: Prompt, answer: Answer, replaced: Turn | None) -> None:
        """Keep an answer, and say what is to be said of it."""
        self.last_answer = answer
        self.tally.add(answer)
        if replaced is not None and is_turn(answer):
            self.dialogue.take_back()
            self._leave_out(replaced)
        self.dialogue.add(prompt, answer)
        if is_turn(answer):
            self._attachments = ()
        if self._history is not None:
            self.dialogue.cid = self._history.save(
                prompt,
                answer,
                profile=self.manager.profile.name,
                conversation_id=self.dialogue.cid,
                secrets=self.manager.secrets(),
            )
            self._tell_trouble()
        for line in self._remarks(answer):
            self.services.tell(line)
        if self.settings.usage and answer.error is None:
            self.services.tell(self._worded(usage_line(answer)))
        self.all_complete = self.all_complete and answer.error is None

    def _remarks(self, answer: Answer) -> list[str]:
        if answer.error is not None:
            return [self._worded(line) for line in failure_lines(answer)]
        if self.around.quiet:
            return []
        if self.attended:  # the tier was named above the answer
            answer = msgspec.structs.replace(answer, fallback_used=False)
        line = summary_line(answer)
        return [] if line is None else [self._worded(line)]

    def _worded(self, line: str) -> str:
        """Leave the program's name out where it is clear who speaks."""
        return line.removeprefix("tieredllm: ") if self.attended else line

    def _leave_out(self, turn: Turn) -> None:
        if self._history is not None and turn.request_id is not None:
            self._history.take_back(turn.request_id)

    def _tell_trouble(self) -> None:
        trouble = self.manager.database.trouble
        if trouble and not self._told_trouble:
            self._told_trouble = True
            self.services.tell(f"the conversation is not remembered: {trouble}")


class _Watched:
    """Show a request in a view, and let the session follow it."""

    def __init__(self, view: View, chat: Chat) -> None:
        self._view = view
        self._chat = chat

    def handle(self, event: Event) -> None:
        """Take the next event."""
        chat = self._chat
        chat.watch.take(event)
        if isinstance(event, Token):
            chat.has_shown_text = True
        self._view.handle(event)
        if isinstance(event, Answered) and event.answer.tier is not None:
            # Where the view has headed the answer, the watch knows and has nothing more to say.
            change = chat.watch.change(event.answer.tier)
            if change is not None and chat.attended and not chat.around.quiet:
                chat.services.show_dim(change)

    def tick(self) -> None:
        """Bring up to date what is shown while waiting."""
        self._view.tick()

    def pause(self) -> None:
        """Leave the screen to a question."""
        self._view.pause()

    def resume(self) -> None:
        """Go on after a question."""
        self._view.resume()

    def close(self) -> None:
        """Leave the terminal as it should be."""
        self._view.close()
