"""Show an answer on a terminal while it comes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from tieredllm.clock import Clock, SystemClock
from tieredllm.render.event_messages import broke_off, called_tools, only_thought, remark
from tieredllm.render.plain import PlainStream, ThoughtView, write
from tieredllm.render.spinner import Spinner
from tieredllm.render.view import View
from tieredllm.types import (
    Answer,
    Answered,
    AttemptFailed,
    AttemptStarted,
    Event,
    Notice,
    Retracted,
    Thought,
    Token,
    ToolsWanted,
)

if TYPE_CHECKING:
    from rich.console import Console

    from tieredllm.render.keys import MoveOnKey
    from tieredllm.render.markdown_stream import MarkdownStream

__all__ = ["TerminalAnswer", "print_dim", "takes_markdown"]


class TerminalAnswer(View):
    """Stream the answer to stdout, and tell on stderr what is waited for.

    A tier's text that breaks off stays on the screen, ended by a dim line that says so; the next
    tier starts afresh below it. Whatever happens, the cursor is left at the start of a line.

    Args:
        stdout_console: for the answer; a terminal.
        stderr_console: for the spinner and remarks; the spinner needs a terminal, too.
        raw: don't render Markdown; nor is it with `TERM=dumb`. Without colours the layout stays.
        quiet: no spinner and no remarks, but the line about an answer that broke off.
        verbose: a dim line on stderr for each attempt, retry and tier passed over.
        stream: False to show nothing of the answer until it is complete.
        reasoning: show what the model thinks before it answers, too, dim.
        heading: gives the dim line above a tier's text, by the tier's name; None for no line.
        key: moves the request on while it is waited for; None where nobody could press it.
        clock: tells the time for the spinner and the redrawing.
    """

    def __init__(
        self,
        *,
        stdout_console: Console,
        stderr_console: Console,
        raw: bool,
        quiet: bool,
        verbose: bool,
        stream: bool = True,
        reasoning: bool = False,
        heading: Callable[[str], str | None] | None = None,
        key: MoveOnKey | None = None,
        clock: Clock | None = None,
    ) -> None:
        super().__init__()
        self.answer: Answer | None = None
        """What the request came to, once it has ended."""
        self._stdout = stdout_console
        self._stderr = stderr_console
        self._markdown = not raw and takes_layout(stdout_console)
        self._quiet = quiet
        self._verbose = verbose
        self._stream = stream
        self._heading = heading
        self._clock = clock or SystemClock()
        self._thoughts: ThoughtView | None = None
        if reasoning and stdout_console.is_terminal:
            dim = takes_markdown(stdout_console)
            self._thoughts = ThoughtView(stdout_console.file, dim=dim)
        self._spinner = Spinner(stderr_console, enabled=not quiet, key=key, clock=self._clock)
        self._text: PlainStream | MarkdownStream | None = None
        self._speaker: str | None = None
        """The tier whose text is on the screen."""
        self._broken: tuple[str, str] | None = None
        """The tier that broke off, and how, until it is said."""
        self._is_warm = False

    def handle(self, event: Event) -> None:
        """Take the next event of the request.

        Raises:
            BrokenPipeError: nobody reads stdout or stderr any more.
        """
        # What a server sends of the thoughts after the answer has begun would stand in it.
        if self._thoughts is not None and (self._text is None or not isinstance(event, Thought)):
            if isinstance(event, Thought):
                self._spinner.stop()
            self._thoughts.take(event)
        match event:
            case Token() if self._stream and event.text:
                self._show(event)
            case AttemptFailed() if event.streamed and self._text is not None:
                error = event.attempt.error
                self._break_off(event.attempt.tier, str(error.kind if error else "cancelled"))
            case AttemptStarted() if self._broken is not None:
                same = event.tier == self._broken[0]
                self._announce(event.model if same else event.tier)
            case ToolsWanted() if self._text is not None:
                self._put_off(called_tools(event.tier, event.names))
            case Retracted() if self._text is not None:
                self._put_off(only_thought(event.tier))
            case Answered():
                self._end(event.answer)
        if isinstance(event, Token):
            if self._stream:
                self._spinner.take(event)
        elif not isinstance(event, Thought) or self._thoughts is None:
            self._spinner.take(event)
        line = self._line(event)
        if line is not None:
            self.remark(line)

    def tick(self) -> None:
        """Move the spinner and draw what is due; to be called about ten times a second."""
        if self._text is not None:
            self._text.tick()
            return
        self._spinner.tick()
        if self._markdown and not self._is_warm:
            # While the first tier thinks, load what takes a tenth of a second to load.
            self._is_warm = True
            import tieredllm.render.markdown_stream  # noqa: F401

    def pause(self) -> None:
        """Take the spinner off the screen while something else is asked there."""
        self._spinner.pause()
        super().pause()

    def resume(self) -> None:
        """Go on after a pause."""
        self._spinner.resume()
        super().resume()

    def close(self) -> None:
        """Leave the terminal as it should be, also after an interruption; may be called again."""
        try:
            self._spinner.stop()
            if self._thoughts is not None:
                self._thoughts.end()
            if self._text is not None:
                self._text.abandon()
            self._text = None
            self._announce(None)
            self._release()
        except BrokenPipeError:
            self._text = None
            self._broken = None
            self.withheld.clear()
        super().close()

    def _show(self, token: Token) -> None:
        if self._text is not None and self._speaker != token.tier:
            self._break_off(self._speaker or "", "cancelled")
        if self._text is None:
            self._spinner.stop()
            self._announce(token.tier)
            self._head(token.tier)
            self._text = self._sink()
            self._speaker = token.tier
        self._text.feed(token.text)

    def _head(self, tier: str) -> None:
        line = self._heading(tier) if self._heading is not None else None
        if line is not None:
            print_dim(self._stdout, line)

    def _sink(self) -> PlainStream | MarkdownStream:
        if not self._markdown:
            return PlainStream(self._stdout.file, to_terminal=True)
        from tieredllm.render.markdown_stream import MarkdownStream

        return MarkdownStream(self._stdout, clock=self._clock)

    def _break_off(self, tier: str, kind: str) -> None:
        if self._text is not None:
            self._text.abandon()
            self._text = None
        self._broken = (tier, kind)

    def _put_off(self, why: str) -> None:
        """End text that turned out to be no answer: what follows starts afresh."""
        if self._text is not None:
            self._text.finish()
            self._text = None
        line = f"— {why} —"
        print_dim(self._stderr, line)
        if not self._stderr.is_terminal:
            print_dim(self._stdout, line)
        write(self._stdout.file, "\n")
        self._release()

    def _announce(self, following: str | None) -> None:
        """Say that a tier broke off, now that it is known what follows; on the answer's screen."""
        if self._broken is None:
            return
        tier, kind = self._broken
        self._broken = None
        line = f"— {broke_off(tier, kind, following)} —"
        self._spinner.clear()
        if not self._stderr.is_terminal:
            print_dim(self._stdout, line)
        print_dim(self._stderr, line)
        if following is not None:
            write(self._stdout.file, "\n")

    def _end(self, answer: Answer) -> None:
        self.answer = answer
        self._spinner.stop()
        self._announce(None)
        if self._text is None and answer.text is not None:
            self._head(answer.tier or "")
            self._text = self._sink()
            self._text.feed(answer.text)
        if self._text is not None:
            self._text.finish()
            self._text = None
        self._release()

    def _line(self, event: Event) -> str | None:
        if self._verbose or (isinstance(event, Notice) and not self._quiet):
            return remark(event)
        return None

    @property
    def _has_screen(self) -> bool:
        return super()._has_screen and self._text is None

    def _print_remark(self, line: str) -> None:
        self._spinner.clear()
        print_dim(self._stderr, f"tieredllm: {line}")


def takes_layout(console: Console) -> bool:
    """Tell whether a console's terminal can show rendered Markdown, be it without colours."""
    return console.is_terminal and not console.is_dumb_terminal


def takes_markdown(console: Console) -> bool:
    """Tell whether a console's terminal can show rendered Markdown with its colours."""
    return takes_layout(console) and not console.no_color and console.color_system is not None


def print_dim(console: Console, line: str) -> None:
    """Print a line that is not to catch the eye."""
    if takes_markdown(console):
        line = f"\x1b[2m{line}\x1b[0m"
    write(console.file, line + "\n")
