"""Choose how a request is shown: on a terminal, into a pipe, or not at all until it is over."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from tieredllm.cli.context import Session
from tieredllm.types import Event, Token

if TYPE_CHECKING:
    from tieredllm.cli.asking import AskJob
    from tieredllm.render.spinner import Spinner

__all__ = ["View", "make_view"]


class View(Protocol):
    """Show a request while it goes on."""

    def handle(self, event: Event) -> None:
        """Take the next event."""
        ...

    def tick(self) -> None:
        """Bring up to date what is shown while waiting; called some ten times a second."""
        ...

    def close(self) -> None:
        """Leave the terminal as it should be; may be called again."""
        ...


def make_view(session: Session, job: AskJob) -> tuple[View, bool]:
    """Choose the view, and say whether it needs ticks.

    On a terminal the answer streams and is rendered. Anything else gets one tier's complete answer,
    unless `--stream` asks for it as it comes. With `--json` and `--extract` the answer is printed
    afterwards, by whoever asked. What is waited for shows on stderr whenever that is a terminal.
    """
    printed_later = job.as_json or job.extract
    if session.stdout.isatty() and not printed_later:
        from tieredllm.render.terminal import TerminalAnswer

        view: View = TerminalAnswer(
            stdout_console=session.console(),
            stderr_console=session.console(stderr=True),
            raw=job.raw,
            quiet=session.quiet,
            verbose=session.verbose,
            stream=not job.no_stream,
        )
        return view, True
    from tieredllm.render.plain import PlainAnswer

    plain: View = PlainAnswer(
        stdout=session.stdout,
        stderr=session.stderr,
        stream=job.stream,
        show=not printed_later,
        quiet=session.quiet,
        verbose=session.verbose,
    )
    if session.quiet or job.stream or not session.stderr.isatty():
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

    def close(self) -> None:
        """Take the spinner away."""
        self._spinner.stop()
        self._view.close()
