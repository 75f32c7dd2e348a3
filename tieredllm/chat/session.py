"""Run a chat: read, carry out or ask, again and again, until the user leaves."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import traceback
from collections.abc import Iterator

from tieredllm.chat.actions import ACTIONS, LeaveError
from tieredllm.chat.commands import known, unknown
from tieredllm.chat.core import Chat
from tieredllm.chat.interrupts import Interrupts, Meaning
from tieredllm.chat.typed import Ordered, Said, understood
from tieredllm.errors import TieredLLMError, UsageError

__all__ = ["Session"]

BARE_LEAVE = frozenset({"exit", "quit"})
"""What people type to leave other programs; nobody asks a model that."""


class Session:
    """Be the loop of one chat.

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
        self._prefill = ""

    async def run(self) -> None:
        """Go on until the user leaves.

        Raises:
            KeyboardInterrupt: the user left with Ctrl-C.
        """
        with self._catching_interrupts(), self._chat.reader.between_messages():
            while True:
                prefill, self._prefill = self._prefill, ""
                try:
                    text = await self._chat.reader.read(prefill)
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
            void = "; what it said is not part of the conversation"
            self._chat.services.show_dim(f"— stopped{void if self._chat.has_shown_text else ''} —")
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
        self._chat.all_complete = False
        self._chat.services.tell(reason if self._chat.attended else f"tieredllm: {reason}")

    def _unexpected(self, exc: Exception) -> str:
        if self._chat.around.env.get("TIEREDLLM_DEBUG"):
            return "".join(traceback.format_exception(exc)).rstrip()
        return f"unexpected {type(exc).__name__}: {exc} (TIEREDLLM_DEBUG=1 shows where)"

    async def _do(self, text: str) -> None:
        chat = self._chat
        chat.has_asked = chat.has_shown_text = False
        match understood(text):
            case Ordered(name=name, argument=argument):
                await self._order(name, argument)
            case Said(text=question):
                if chat.attended and question.strip().lower() in BARE_LEAVE:
                    raise LeaveError
                await chat.say(question)

    async def _order(self, name: str, argument: str) -> None:
        found = known(name)
        if found is None:
            raise UsageError(unknown(name))
        if found == "edit":
            if not self._chat.attended:
                raise UsageError("/edit needs a terminal")
            self._prefill = self._chat.services.edit(argument)
        else:
            await ACTIONS[found](self._chat, argument)

    @contextlib.contextmanager
    def _catching_interrupts(self) -> Iterator[None]:
        """Let Ctrl-C stop what is going on, not the program, where a person is typing."""
        if not self._chat.attended:
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
