"""Show an answer as plain text: to a pipe or a file, and as it comes to a terminal."""

from __future__ import annotations

from typing import IO, TextIO

from tieredllm.render.event_messages import broke_off, called_tools, only_thought, remark
from tieredllm.render.view import View
from tieredllm.text import TextFilter
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

__all__ = ["PlainAnswer", "PlainStream", "ThoughtView", "write"]


def write(stream: IO[str], text: str) -> None:
    """Write and flush; what the stream's encoding lacks becomes a question mark.

    Raises:
        BrokenPipeError: nobody reads the stream any more.
    """
    if not text:
        return
    try:
        stream.write(text)
    except UnicodeEncodeError:
        encoding = getattr(stream, "encoding", None) or "ascii"
        stream.write(text.encode(encoding, "replace").decode(encoding))
    stream.flush()


class PlainStream:
    """Write one answer; line ends at its end are held back, so that it ends in exactly one.

    Args:
        stream: where it goes.
        to_terminal: whether to clean the text for a terminal. For anything else the text stays as
            it is, but for NUL characters, which cut a text short for most programs that read it.
        dim: whether it is not to catch the eye; for a terminal that has colours.
    """

    def __init__(self, stream: IO[str], *, to_terminal: bool, dim: bool = False) -> None:
        self._stream = stream
        self._dim = dim
        self._filter = TextFilter() if to_terminal else None
        self._line_ends = ""
        self._has_written = False

    def feed(self, text: str) -> None:
        """Write the next piece.

        Raises:
            BrokenPipeError: nobody reads any more.
        """
        text = text.replace("\0", "") if self._filter is None else self._filter.feed(text)
        text = self._line_ends + text
        body = text.rstrip("\r\n")
        self._line_ends = text[len(body) :]
        if body:
            self._has_written = True
            write(self._stream, f"\x1b[2m{body}\x1b[0m" if self._dim else body)

    def tick(self) -> None:
        """Do nothing: all there is has been written."""

    def finish(self) -> None:
        """End the last line."""
        self._line_ends = ""
        if self._has_written:
            self._has_written = False
            write(self._stream, "\n")

    def abandon(self) -> None:
        """End the last line of an answer that broke off."""
        self.finish()


class ThoughtView:
    """Show what a model thinks before it answers, dim, on a terminal and nowhere else.

    Args:
        terminal: where it goes.
        dim: whether the terminal has colours.
    """

    def __init__(self, terminal: IO[str], *, dim: bool) -> None:
        self._terminal = terminal
        self._dim = dim
        self._tier = ""
        self._text: PlainStream | None = None

    def take(self, event: Event) -> None:
        """Take the next event: a thought is shown, and anything else ends what was shown.

        Raises:
            BrokenPipeError: nobody reads the terminal any more.
        """
        if not isinstance(event, Thought):
            self.end()
            return
        if event.tier != self._tier:  # two tiers may be asked at once
            self.end()
            self._tier = event.tier
        text = event.text
        if self._text is None:
            text = text.lstrip()
            if not text:
                return
            self._text = PlainStream(self._terminal, to_terminal=True, dim=self._dim)
        self._text.feed(text)

    def end(self) -> None:
        """End the last line, and set apart what follows."""
        if self._text is not None:
            self._text.finish()
            self._text = None
            write(self._terminal, "\n")


class PlainAnswer(View):
    """Write one tier's complete answer, and nothing else, to stdout.

    The text stays as it is, control characters too (only a terminal has to be protected from them),
    with two exceptions: NUL characters are dropped, and it ends in exactly one line end.

    Args:
        stdout: where the answer goes.
        stderr: where remarks go.
        stream: write the text as it comes. An answer that breaks off then stays in stdout; a line
            on stderr says so, and the next tier's answer begins on a line of its own.
        show: whether the answer is written at all; False where the caller does that, as for JSON.
        allow_rules: whether an answer by rules goes to stdout, where a program may take it for a
            model's; else it goes to stderr.
        quiet: no remarks but that one.
        verbose: a remark for each attempt, retry and tier passed over.
        thoughts: where what the model thinks is shown, a terminal; None for nowhere.
    """

    def __init__(
        self,
        *,
        stdout: TextIO,
        stderr: TextIO,
        stream: bool = False,
        show: bool = True,
        allow_rules: bool = False,
        quiet: bool = False,
        verbose: bool = False,
        thoughts: ThoughtView | None = None,
    ) -> None:
        super().__init__()
        self.answer: Answer | None = None
        """What the request came to, once it has ended."""
        self._stdout = stdout
        self._stderr = stderr
        self._stream = stream and show
        self._show = show
        self._allow_rules = allow_rules
        self._rule_tiers: set[str] = set()
        self.is_broken = False
        """Whether text was written that turned out to be no part of the answer."""
        self._quiet = quiet
        self._verbose = verbose
        self._thoughts = thoughts
        self._text: PlainStream | None = None

    def handle(self, event: Event) -> None:
        """Take the next event of the request.

        Raises:
            BrokenPipeError: nobody reads stdout any more.
        """
        if self._thoughts is not None:
            self._thoughts.take(event)
        line = remark(event) if self._verbose else None
        if line is None and isinstance(event, Notice) and not self._quiet:
            line = remark(event)
        if line is not None:
            self.remark(line)
        match event:
            case AttemptStarted() if event.provider == "rules" and not self._allow_rules:
                self._rule_tiers.add(event.tier)
            case Token() if self._stream and event.tier not in self._rule_tiers:
                if self._text is None:
                    self._text = PlainStream(self._stdout, to_terminal=False)
                self._text.feed(event.text)
            case AttemptFailed() if self._text is not None and event.streamed:
                self._break_off(event)
            case ToolsWanted() if self._text is not None:
                self._abandon()
                line = called_tools(event.tier, event.names)
                write(self._stderr, f"tieredllm: {line}; the answer starts anew after them\n")
            case Retracted() if self._text is not None:
                self._abandon()
                self.is_broken = True
                line = only_thought(event.tier)
                write(self._stderr, f"tieredllm: {line}; the answer starts anew after that\n")
            case Answered():
                self._end(event.answer)

    def close(self) -> None:
        """End the line of an answer that was stopped half-way."""
        self._abandon()
        super().close()

    def _print_remark(self, line: str) -> None:
        write(self._stderr, f"tieredllm: {line}\n")

    def _abandon(self) -> None:
        if self._thoughts is not None:
            self._thoughts.end()
        if self._text is not None:
            self._text.abandon()
            self._text = None

    def _break_off(self, event: AttemptFailed) -> None:
        self._abandon()
        self.is_broken = True
        kind = event.attempt.error.kind if event.attempt.error else event.attempt.outcome
        line = broke_off(event.attempt.tier, str(kind))
        write(self._stderr, f"tieredllm: {line}; what it has said is void\n")

    def _end(self, answer: Answer) -> None:
        self.answer = answer
        if self._text is None and answer.text is not None and self._show:
            stream, is_terminal = self._stdout, False
            if answer.tier in self._rule_tiers:
                stream, is_terminal = self._stderr, self._stderr.isatty()
            self._text = PlainStream(stream, to_terminal=is_terminal)
            self._text.feed(answer.text)
        if self._text is not None:
            self._text.finish()
            self._text = None
