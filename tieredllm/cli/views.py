"""Choose how a request is shown: on a terminal, into a pipe, or not at all until it is over."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from tieredllm.cli.context import Session
from tieredllm.render.showing import View
from tieredllm.types import Event, Token

if TYPE_CHECKING:
    from tieredllm.render.spinner import Spinner

__all__ = ["make_view"]


def make_view(
    session: Session,
    *,
    raw: bool,
    stream: bool = False,
    no_stream: bool = False,
    printed_later: bool = False,
    heading: Callable[[str], str | None] | None = None,
) -> tuple[View, bool]:
    """Choose the view, and say whether it needs ticks.

    On a terminal the answer streams and is rendered. Anything else gets one tier's complete answer,
    unless it is asked for as it comes. What is waited for shows on stderr whenever that is a
    terminal.

    Args:
        session: the streams.
        raw: don't render Markdown.
        stream: print the answer as it comes, even into a pipe.
        no_stream: print the answer when it is complete, even on a terminal.
        printed_later: print no answer; whoever asks does, as for `--json` and `--extract`.
        heading: on a terminal, gives the dim line above a tier's text, by the tier's name.
    """
    if session.stdout.isatty() and not printed_later:
        from tieredllm.render.terminal import TerminalAnswer

        view: View = TerminalAnswer(
            stdout_console=session.console(),
            stderr_console=session.console(stderr=True),
            raw=raw,
            quiet=session.quiet,
            verbose=session.verbose,
            stream=not no_stream,
            heading=heading,
        )
        return view, True
    from tieredllm.render.plain import PlainAnswer

    plain: View = PlainAnswer(
        stdout=session.stdout,
        stderr=session.stderr,
        stream=stream,
        show=not printed_later,
        quiet=session.quiet,
        verbose=session.verbose,
    )
    if session.quiet or stream or not session.stderr.isatty():
        return plain, False
    from tieredllm.render.spinner import Spinner

    return _Waited(plain, Spinner(session.console(stderr=True))), True


class _Waited:
    """Show on stderr what a buffered answer waits for."""

    def __init__(self, view: View, spinner: Spinner) -> None:
        self._view = view
        self._spinner = spinner

    def handle(self, event: Event) -> None:
        """Take the next event; an answer that is coming is still being waited for."""
        if isinstance(event, Token):
            return
        self._spinner.clear()
        self._spinner.take(event)
        self._view.handle(event)

    def tick(self) -> None:
        """Move the spinner."""
        self._spinner.tick()

    def pause(self) -> None:
        """Keep the spinner away while something is asked."""
        self._spinner.pause()

    def resume(self) -> None:
        """Let it move again."""
        self._spinner.resume()

    def close(self) -> None:
        """Take the spinner away."""
        self._spinner.stop()
        self._view.close()
