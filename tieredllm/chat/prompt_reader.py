"""Let the user edit messages on a terminal, with prompt_toolkit."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TextIO

from prompt_toolkit import PromptSession
from prompt_toolkit.application.run_in_terminal import run_in_terminal
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.completion import (
    CompleteEvent,
    Completer,
    Completion,
    get_common_complete_suffix,
)
from prompt_toolkit.document import Document
from prompt_toolkit.enums import DEFAULT_BUFFER
from prompt_toolkit.filters import Condition, has_focus
from prompt_toolkit.formatted_text import FormattedText
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.input.typeahead import store_typeahead
from prompt_toolkit.input.vt100_parser import Vt100Parser
from prompt_toolkit.key_binding import KeyBindings, KeyPress, KeyPressEvent
from prompt_toolkit.keys import Keys
from prompt_toolkit.output import ColorDepth, Output, create_output
from prompt_toolkit.output.vt100 import Vt100_Output
from prompt_toolkit.styles import Style

from tieredllm.chat.input import Choices, candidates, is_unfinished
from tieredllm.render.keys import quiet_keys

__all__ = ["PromptReader", "open_history"]

STYLE = Style.from_dict(
    {
        "prompt": "ansigreen bold",
        "completion-menu": "noinherit",
        "completion-menu.completion": "noinherit",
        "completion-menu.completion.current": "noinherit reverse",
        "completion-menu.meta.completion": "noinherit ansibrightblack",
        "completion-menu.meta.completion.current": "noinherit ansibrightblack",
        "scrollbar.background": "noinherit",
        "scrollbar.button": "noinherit bg:ansibrightblack",
    }
)
"""The terminal's own colours, so that it can be read on dark and on light ones."""

FOLDED_LINES = 20
"""Lines that a paste may have to be shown whole."""

MENU_ROWS = 8
"""Rows kept below the prompt for the menu while a command is being typed."""


class PromptReader:
    """Read messages with line editing, history and completion.

    Args:
        stdin: the terminal.
        stdout: the terminal, too.
        choices: what arguments are completed from.
        history_file: where to keep what was typed; None to forget it.
        edit: opens the user's editor on a text.
        tell: prints a line; what it says is to be seen.
        color: whether colours are wanted.
        typed_meanwhile: gives the keys that were pressed while an answer was waited for.
    """

    def __init__(
        self,
        stdin: TextIO,
        stdout: TextIO,
        *,
        choices: Choices,
        history_file: Path | None,
        edit: Callable[[str], str],
        tell: Callable[[str], None],
        color: bool,
        typed_meanwhile: Callable[[], bytes],
    ) -> None:
        self._stdin = stdin
        self._typed_meanwhile = typed_meanwhile
        self._folds: dict[str, str] = {}
        """What stands for a long paste → the paste."""
        self._edit = edit
        self._tell = tell
        history = open_history(history_file) if history_file is not None else InMemoryHistory()
        encoding = (getattr(stdout, "encoding", None) or "ascii").lower()
        mark = "\u203a" if encoding.startswith("utf") else ">"
        self._session: PromptSession[str] = PromptSession(
            FormattedText([("class:prompt", f"{mark} ")]),
            multiline=True,
            completer=_Completer(choices),
            complete_while_typing=Condition(self._is_ordering),
            reserve_space_for_menu=MENU_ROWS,
            enable_suspend=True,
            history=_Unfolded(history, self._unfolded),
            style=STYLE,
            color_depth=None if color else ColorDepth.DEPTH_1_BIT,
            key_bindings=self._bindings(),
            output=_output(stdout),
        )

    async def read(self, prefill: str = "") -> str:
        """Return the next message.

        Raises:
            EOFError: Ctrl-D was pressed on an empty line.
            KeyboardInterrupt: Ctrl-C was pressed on an empty line; elsewhere it drops the line.
        """
        keys: list[KeyPress] = []
        parser = Vt100Parser(keys.append)
        parser.feed(self._typed_meanwhile().decode("utf-8", "replace"))
        parser.flush()
        store_typeahead(self._session.app.input, keys)
        text = await self._session.prompt_async(default=prefill, handle_sigint=False)
        return self._unfolded(text)

    def _folded(self, pasted: str) -> str:
        """Return what is shown of a paste: a long one would push everything off the screen."""
        pasted = pasted.replace("\r\n", "\n").replace("\r", "\n")
        lines = pasted.count("\n") + 1
        if lines <= FOLDED_LINES:
            return pasted
        mark = f"[{lines} lines pasted, {len(self._folds) + 1}]"
        self._folds[mark] = pasted
        return mark

    def _unfolded(self, text: str) -> str:
        for mark, pasted in self._folds.items():
            text = text.replace(mark, pasted)
        return text

    def interrupt(self) -> None:
        """Do what Ctrl-C does: SIGINT came from elsewhere."""
        app = self._session.app
        if app.is_running and not app.is_done:
            app.exit(exception=KeyboardInterrupt(), style="class:aborting")

    def between_messages(self) -> AbstractContextManager[None]:
        """Keep what is typed outside `read` for the next one, and off the screen.

        It lasts from the first message to the last. Were it only while an answer comes, a Ctrl-D
        typed between the answer's end and the next prompt would be taken by the terminal's line
        discipline as the end of a line, and the prompt would get a NUL instead.
        """
        return quiet_keys(self._stdin)

    def _is_ordering(self) -> bool:
        """Tell whether a command is being typed, so that the menu opens by itself."""
        document = self._session.default_buffer.document
        return document.text.startswith("/") and not document.text.startswith("//")

    def _bindings(self) -> KeyBindings:
        bindings = KeyBindings()
        in_message = has_focus(DEFAULT_BUFFER)

        @bindings.add("enter", filter=in_message)
        def _send(event: KeyPressEvent) -> None:
            buffer = event.current_buffer
            menu = buffer.complete_state
            if menu is not None and menu.current_completion and buffer.text.endswith("/"):
                buffer.complete_state = None  # a folder was chosen: there is more to choose
                buffer.start_completion()
            elif is_unfinished(buffer.text):
                buffer.newline(copy_margin=False)
            else:
                buffer.validate_and_handle()

        @bindings.add("tab", filter=in_message)
        def _complete(event: KeyPressEvent) -> None:
            _go_on(event.current_buffer)

        @bindings.add("escape", "enter", filter=in_message)
        @bindings.add("escape", "c-j", filter=in_message)
        def _new_line(event: KeyPressEvent) -> None:
            event.current_buffer.newline(copy_margin=False)

        @bindings.add(Keys.BracketedPaste, filter=in_message)
        def _paste(event: KeyPressEvent) -> None:
            event.current_buffer.insert_text(self._folded(event.data))

        @bindings.add("c-c", filter=in_message)
        def _interrupt(event: KeyPressEvent) -> None:
            if event.current_buffer.text:
                event.app.exit(result="", style="class:aborting")
            else:
                self.interrupt()

        @bindings.add("c-o", filter=in_message)
        async def _open_editor(event: KeyPressEvent) -> None:
            buffer = event.current_buffer
            text = await run_in_terminal(lambda: self._edited(self._unfolded(buffer.text)))
            buffer.document = Document(text, len(text))

        return bindings

    def _edited(self, text: str) -> str:
        from tieredllm.errors import UsageError

        try:
            return self._edit(text)
        except UsageError as exc:
            self._tell(str(exc))
            return text


class _Unfolded(History):
    """What was typed, kept with the pastes that the screen showed a mark of."""

    def __init__(self, kept: History, unfold: Callable[[str], str]) -> None:
        super().__init__()
        self._kept = kept
        self._unfold = unfold

    def load_history_strings(self) -> Iterable[str]:
        """Return what was typed, the latest first."""
        return self._kept.load_history_strings()

    def store_string(self, string: str) -> None:
        """Add an entry."""
        self._kept.store_string(self._unfold(string))


class _FileHistory(FileHistory):
    """A file of what was typed, that a full disk does not turn into the end of the chat."""

    def store_string(self, string: str) -> None:
        """Add an entry, if that can be done."""
        with contextlib.suppress(OSError):
            super().store_string(string)


def open_history(file: Path) -> History:
    """Return what was typed in earlier sessions, from a file only its owner can read.

    Args:
        file: need not exist; one that cannot be read or written is done without.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        # Made before prompt_toolkit does, which would let everybody read it.
        os.close(os.open(file, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600))
        file.chmod(0o600)
    except OSError:
        return InMemoryHistory()
    return _FileHistory(file)


def _go_on(buffer: Buffer) -> None:
    """Complete as shells do: what is certain at once, then one way after the other."""
    state = buffer.complete_state
    if state is not None and state.current_completion is not None:
        buffer.complete_next()
        return
    asked = CompleteEvent(completion_requested=True)
    found = list(buffer.completer.get_completions(buffer.document, asked))
    if len(found) == 1:
        buffer.delete_before_cursor(-found[0].start_position)
        buffer.insert_text(found[0].text)
    elif suffix := get_common_complete_suffix(buffer.document, found):
        buffer.insert_text(suffix)
    elif state is not None:
        buffer.complete_next()
    elif found:
        buffer.start_completion(select_first=True)


class _Completer(Completer):
    """Hand candidates to prompt_toolkit."""

    def __init__(self, choices: Choices) -> None:
        self._choices = choices

    def get_completions(
        self,
        document: Document,
        complete_event: CompleteEvent,  # noqa: ARG002 - the interface has it
    ) -> Iterable[Completion]:
        """Return the ways to go on."""
        for candidate in candidates(document.text_before_cursor, self._choices):
            yield Completion(
                candidate.text,
                start_position=-candidate.typed,
                display=candidate.display,
                display_meta=candidate.about,
            )


def _output(stdout: TextIO) -> Output:
    """Make the output; it never asks the terminal where the cursor is.

    The reply would come among the keys: over a slow line it ends up in the next message, or is left
    to the shell, and a terminal that never replies would be complained of. Only a toolbar at the
    bottom of the screen needs it.
    """
    output = create_output(stdout)
    if isinstance(output, Vt100_Output):
        output.enable_cpr = False
    return output
