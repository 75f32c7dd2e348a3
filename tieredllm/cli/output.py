"""Print rows and JSON values, and choose how a request is shown."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from tieredllm.cli.environment import Environment
from tieredllm.render.view import View
from tieredllm.text import clean, escape_json
from tieredllm.types import Event, Thought, Token

if TYPE_CHECKING:
    from rich.table import Table

    from tieredllm.engine.ports import Controls
    from tieredllm.render.keys import MoveOnKey
    from tieredllm.render.plain import ThoughtView
    from tieredllm.render.spinner import Spinner

__all__ = [
    "fits",
    "make_table",
    "make_view",
    "move_on_key",
    "print_json",
    "print_json_line",
    "print_json_list",
    "print_table",
]

GAP = 3
"""Columns between two cells of a table."""
LAST_COLUMN = 24
"""Columns that the last cell of a row has at least, before the others are broken."""


def print_json(value: Any, environment: Environment) -> None:
    """Print one JSON value."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    print(escape_json(text), file=environment.stdout)


def print_json_line(value: Any, environment: Environment) -> None:
    """Print one JSON value of what msgspec can encode, on one line."""
    text = msgspec.json.encode(value).decode()
    print(escape_json(text), file=environment.stdout, flush=True)


def print_json_list(values: Iterable[Any], environment: Environment) -> None:
    """Print a JSON list as `print_json` does, an element at a time: it may outgrow the memory."""
    start = "["
    for value in values:
        text = textwrap.indent(json.dumps(value, indent=2, ensure_ascii=False), "  ")
        environment.stdout.write(f"{start}\n{escape_json(text)}")
        start = ","
    environment.stdout.write("[]\n" if start == "[" else "\n]\n")


def print_table(
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    environment: Environment,
    *,
    empty: str | None = None,
) -> None:
    """Print rows: a table on a terminal; else a tab between the cells, for `cut` and `awk`.

    Args:
        headings: what stands above the columns on a terminal; into a pipe go the rows alone.
        rows: as many cells each. The last one may be long: it goes on below itself.
        environment: where to.
        empty: what to remark where there are no rows.
    """
    if not rows:
        environment.say(empty or "there are none")
        return
    if not environment.stdout.isatty():
        for row in rows:
            print("\t".join(row), file=environment.stdout)
        return
    from rich.text import Text

    console = environment.console()
    rows = [[clean(cell) for cell in row] for row in rows]
    table = make_table(headings, rows, console.width)
    for row in rows:
        table.add_row(*map(Text, row))
    console.print(table)


def make_table(headings: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> Table:
    """Return an empty table in the one style that all listings have.

    No cell is cut. Where the columns fit beside a last one of `LAST_COLUMN` they are not broken.

    Args:
        headings: what stands above the columns.
        rows: the cells to come, to measure them.
        width: the terminal's.
    """
    from rich import box
    from rich.table import Table

    fitting = fits(headings, rows, width, last_column=LAST_COLUMN)
    table = Table(
        box=box.SIMPLE_HEAD,
        show_edge=False,
        show_header=any(headings),
        pad_edge=False,
        padding=(0, 1),
        header_style="dim",
        border_style="dim",
    )
    for index, heading in enumerate(headings):
        is_last = index == len(headings) - 1
        table.add_column(heading, overflow="fold", no_wrap=fitting and not is_last)
    return table


def fits(
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    width: int,
    *,
    last_column: int | None = None,
) -> bool:
    """Return whether a table needs no line to be broken.

    Args:
        headings: what stands above the columns.
        rows: the cells.
        width: the terminal's.
        last_column: what is enough for the last one, which may be broken; None: all it has.
    """
    from rich.cells import cell_len

    natural = [max(map(cell_len, column)) for column in zip(headings, *rows, strict=True)]
    if natural and last_column is not None:
        natural[-1] = min(natural[-1], last_column)
    return sum(natural) + GAP * (len(natural) - 1) <= width


def make_view(
    environment: Environment,
    *,
    raw: bool,
    stream: bool = False,
    no_stream: bool = False,
    printed_later: bool = False,
    allow_rules: bool = False,
    reasoning: bool = False,
    heading: Callable[[str], str | None] | None = None,
    key: MoveOnKey | None = None,
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
        reasoning: show what the model thinks, on a terminal; the verbose view always does.
        printed_later: print no answer; whoever asks does, as for `--json` and `--extract`.
        allow_rules: whether an answer by rules may go into a pipe.
        heading: on a terminal, gives the dim line above a tier's text, by the tier's name.
        key: on a terminal, moves the request on while it is waited for.
    """
    if environment.stdout.isatty() and not printed_later:
        from tieredllm.render.terminal import TerminalAnswer

        view: View = TerminalAnswer(
            stdout_console=environment.console(layout=True),
            stderr_console=environment.console(stderr=True),
            raw=raw,
            quiet=environment.quiet,
            verbose=environment.verbose,
            stream=not no_stream,
            reasoning=reasoning or environment.verbose,
            heading=heading,
            key=key,
        )
        return view, True
    from tieredllm.render.plain import PlainAnswer

    thoughts = _thoughts(environment) if reasoning or environment.verbose else None
    plain: View = PlainAnswer(
        stdout=environment.stdout,
        stderr=environment.stderr,
        stream=stream,
        show=not printed_later,
        allow_rules=allow_rules,
        quiet=environment.quiet,
        verbose=environment.verbose,
        thoughts=thoughts,
    )
    if environment.quiet or stream or not environment.stderr.isatty():
        return plain, False
    from tieredllm.render.spinner import Spinner

    spinner = Spinner(environment.console(stderr=True))
    return _Waited(plain, spinner, shows_thoughts=thoughts is not None), True


def move_on_key(
    environment: Environment, controls: Controls, *, keeps_typed: bool
) -> MoveOnKey | None:
    """Return the key that moves a request on; None unless stdin and stdout are a terminal.

    Args:
        environment: the streams.
        controls: the request's.
        keeps_typed: see `MoveOnKey`.
    """
    stdin = environment.stdin
    if stdin is None or not environment.is_interactive or not environment.stdout.isatty():
        return None
    from tieredllm.render.keys import MoveOnKey

    return MoveOnKey(stdin, controls.move_on, keeps_typed=keeps_typed)


def _thoughts(environment: Environment) -> ThoughtView | None:
    """Return where thoughts are shown while the answer goes elsewhere."""
    if not environment.stderr.isatty():
        return None
    from tieredllm.render.plain import ThoughtView

    return ThoughtView(environment.stderr, dim=environment.may_color(environment.stderr))


class _Waited(View):
    """Show on stderr what a buffered answer waits for."""

    def __init__(self, view: View, spinner: Spinner, *, shows_thoughts: bool) -> None:
        super().__init__()
        self.withheld = view.withheld
        self._view = view
        self._spinner = spinner
        self._shows_thoughts = shows_thoughts

    def handle(self, event: Event) -> None:
        """Take the next event; an answer that is coming is still being waited for."""
        if isinstance(event, Token):
            return
        if isinstance(event, Thought) and self._shows_thoughts:
            self._spinner.stop()
        else:
            self._spinner.clear()
            self._spinner.take(event)
        self._view.handle(event)

    def tick(self) -> None:
        """Move the spinner."""
        self._spinner.tick()

    def pause(self) -> None:
        """Keep the spinner away while something is asked."""
        self._spinner.pause()
        self._view.pause()

    def resume(self) -> None:
        """Let it move again."""
        self._spinner.resume()
        self._view.resume()

    def close(self) -> None:
        """Take the spinner away."""
        self._spinner.stop()
        self._view.close()

    def _print_remark(self, line: str) -> None:
        self._spinner.clear()
        self._view.remark(line)
