"""Run a chat: read, carry out or ask, again and again, until the user leaves."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import traceback
from collections.abc import Iterator
from enum import Enum

from tieredllm.chat.commands import LeaveError, find_command, unknown_command
from tieredllm.chat.controller import Chat
from tieredllm.chat.input import SlashCommand, UserMessage, parse_input
from tieredllm.clock import Clock, SystemClock
from tieredllm.errors import TieredLLMError, UsageError

__all__ = ["Interrupts", "Meaning", "Repl"]

STILL_STOPPING_S = 0.7
"""Who has just stopped an answer may press the key once more than needed: that is no new wish."""

TWICE_S = 3.0
"""Two presses within this many seconds are meant together."""


class Meaning(Enum):
    """Say what to do."""

    NOTHING = "nothing"
    HINT = "hint"
    LEAVE = "leave"


class Interrupts:
    """Remember when Ctrl-C was pressed.

    At an empty prompt the first press gets a hint, the second one leaves.

    Args:
        clock: the time.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._stopped_at = float("-inf")
        self._hinted_at = float("-inf")

    def stopped(self) -> None:
        """Note that it stopped something."""
        self._stopped_at = self._clock.monotonic()

    def pressed(self) -> Meaning:
        """Say what one more press at an empty prompt means."""
        now = self._clock.monotonic()
        if now - self._stopped_at < STILL_STOPPING_S:
            return Meaning.NOTHING
        if now - self._hinted_at < TWICE_S:
            return Meaning.LEAVE
        self._hinted_at = now
        return Meaning.HINT


BARE_LEAVE = frozenset({"exit", "quit"})
"""What people type to leave other programs; nobody asks a model that."""


class Repl:
    """The loop of one chat.

    Whatever happens to a request or a command, the loop goes on. It ends at the end of the input,
    with `/exit`, or with Ctrl-C pressed twice at an empty prompt.

    Args:
        chat: asks and answers.
        interrupts: decides what Ctrl-C means.
    """

    def __init__(self, chat: Chat, interrupts: Interrupts | None = None) -> None:
        self._chat = chat
        self._interrupts = interrupts or Interrupts()
        self._working: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Go on until the user leaves.

        Raises:
            KeyboardInterrupt: the user left with Ctrl-C.
        """
        with self._catching_interrupts(), self._chat.reader.between_messages():
            while True:
                draft, self._chat.draft = self._chat.draft, ""
                try:
                    text = await self._chat.reader.read(draft)
                except EOFError:
                    return
                except KeyboardInterrupt:
                    self._hint()
                    continue
                if not await self._went_on(text):
                    return

    def _hint(self) -> None:
        """Say what Ctrl-C does at an empty prompt; the second time, do it."""
        match self._interrupts.pressed():
            case Meaning.LEAVE:
                raise KeyboardInterrupt
            case Meaning.HINT:
                self._chat.services.show_dim("Ctrl-C again or Ctrl-D leaves; /help lists commands")
            case Meaning.NOTHING:
                pass

    async def _went_on(self, text: str) -> bool:
        """Do what was typed; False when it was to leave."""
        self._working = asyncio.create_task(self._do(text))
        try:
            await self._working
        except LeaveError:
            return False
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not self._working.cancelled() or (task is not None and task.cancelling()):
                raise
            self._interrupts.stopped()
            answer = self._chat.last_answer
            kept = answer is not None and answer.text is not None
            how = "; what it said is kept: ask it to go on, or /undo" if kept else ""
            self._chat.services.show_dim(f"— stopped{how} —")
        except BrokenPipeError:
            raise
        except TieredLLMError as exc:
            self._fail(str(exc))
        except Exception as exc:  # noqa: BLE001 - no bug may take the conversation away
            self._fail(self._unexpected(exc))
        finally:
            self._working = None
        if self._chat.has_asked:
            self._chat.services.show_gap()
        return True

    def _fail(self, reason: str) -> None:
        self._chat.has_failed = True
        self._chat.services.tell(reason if self._chat.interactive else f"tieredllm: {reason}")

    def _unexpected(self, exc: Exception) -> str:
        if self._chat.environment.env.get("TIEREDLLM_DEBUG"):
            return "".join(traceback.format_exception(exc)).rstrip()
        return f"unexpected {type(exc).__name__}: {exc} (TIEREDLLM_DEBUG=1 shows where)"

    async def _do(self, text: str) -> None:
        chat = self._chat
        chat.has_asked = False
        match parse_input(text):
            case SlashCommand(name=name, argument=argument):
                await self._order(name, argument)
            case UserMessage(text=question):
                if chat.interactive and question.strip().lower() in BARE_LEAVE:
                    raise LeaveError
                await chat.say(question)

    async def _order(self, name: str, argument: str) -> None:
        command = find_command(name)
        if command is None:
            raise UsageError(unknown_command(name))
        await command.act(self._chat, argument)

    @contextlib.contextmanager
    def _catching_interrupts(self) -> Iterator[None]:
        """Let Ctrl-C stop what is going on, not the program, where a person is typing."""
        if not self._chat.interactive:
            yield
            return
        loop = asyncio.get_running_loop()
        try:
            loop.add_signal_handler(signal.SIGINT, self._interrupt)
        except (NotImplementedError, ValueError, RuntimeError):  # not here, or not on this thread
            yield
            return
        try:
            yield
        finally:
            loop.remove_signal_handler(signal.SIGINT)

    def _interrupt(self) -> None:
        if self._working is not None and not self._working.done():
            self._working.cancel()
        else:
            self._chat.reader.interrupt()
