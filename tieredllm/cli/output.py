"""Print rows and JSON values, and choose how a request is shown."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from tieredllm.cli.environment import Environment
from tieredllm.render.view import View
from tieredllm.types import Event, Token

if TYPE_CHECKING:
    from tieredllm.render.spinner import Spinner

__all__ = ["make_view", "print_json", "print_json_list", "print_table"]


def print_json(value: Any, environment: Environment) -> None:
    """Print one JSON value."""
    print(json.dumps(value, indent=2, ensure_ascii=False), file=environment.stdout)


def print_json_list(values: Iterable[Any], environment: Environment) -> None:
    """Print a JSON list as `print_json` does, an element at a time: it may outgrow the memory."""
    start = "["
    for value in values:
        text = textwrap.indent(json.dumps(value, indent=2, ensure_ascii=False), "  ")
        environment.stdout.write(f"{start}\n{text}")
        start = ","
    environment.stdout.write("[]\n" if start == "[" else "\n]\n")


def print_table(rows: Sequence[Sequence[str]], environment: Environment) -> None:
    """Print rows: lined up on a terminal; else a tab between the cells, for `cut` and `awk`."""
    if not environment.stdout.isatty():
        for row in rows:
            print("\t".join(row), file=environment.stdout)
        return
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    for row in rows:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print(line.rstrip(), file=environment.stdout)


def make_view(
    environment: Environment,
    *,
    raw: bool,
    stream: bool = False,
    no_stream: bool = False,
    printed_later: bool = False,
    allow_rules: bool = False,
    heading: Callable[[str], str | None] | None = None,
) -> tuple[View, bool]:
    """Choose the view, and say whether it needs ticks.

    On a terminal the answer streams and is rendered. Anything else gets one tier's complete answer,
    unless it is asked for as it comes. What is waited for shows on stderr whenever that is a
    terminal.

    Args:
        environment: the streams.
        raw: don't render Markdown.
        stream: print the answer as it comes, even into a pipe.
        no_stream: print the answer when it is complete, even on a terminal.
        printed_later: print no answer; whoever asks does, as for `--json` and `--extract`.
        allow_rules: whether an answer by rules may go into a pipe.
        heading: on a terminal, gives the dim line above a tier's text, by the tier's name.
    """
    if environment.stdout.isatty() and not printed_later:
        from tieredllm.render.terminal import TerminalAnswer

        view: View = TerminalAnswer(
            stdout_console=environment.console(),
            stderr_console=environment.console(stderr=True),
            raw=raw,
            quiet=environment.quiet,
            verbose=environment.verbose,
            stream=not no_stream,
            heading=heading,
        )
        return view, True
    from tieredllm.render.plain import PlainAnswer

    plain: View = PlainAnswer(
        stdout=environment.stdout,
        stderr=environment.stderr,
        stream=stream,
        show=not printed_later,
        allow_rules=allow_rules,
        quiet=environment.quiet,
        verbose=environment.verbose,
    )
    if environment.quiet or stream or not environment.stderr.isatty():
        return plain, False
    from tieredllm.render.spinner import Spinner

    return _Waited(plain, Spinner(environment.console(stderr=True))), True


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
