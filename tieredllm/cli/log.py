"""Show recent requests, and how each went: the command `log`."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from textwrap import indent
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from tieredllm.cli.completion import conversations, request_ids
from tieredllm.cli.environment import Environment, current
from tieredllm.cli.options import Json, finite, make_app, takes_options
from tieredllm.cli.output import print_json, print_json_list, print_table
from tieredllm.clock import iso
from tieredllm.errors import TieredLLMError, UsageError
from tieredllm.render.plain import write
from tieredllm.render.timeline import duration, ending, time_line
from tieredllm.store.record import SHORT_ID, LoggedRequest, user_turn
from tieredllm.text import clean, one_line, pluralize

if TYPE_CHECKING:
    from rich.text import Text

    from tieredllm.store.history import History, Unreadable

__all__ = ["app", "show_request"]

app = make_app("log", invoke_without_command=True)

T = TypeVar("T")

DAY_S = 86_400.0


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class Wanted:
    """Which requests are to be listed."""

    number: Annotated[
        int,
        typer.Option(
            "--number", "-n", metavar="N", min=1, help="How many requests, the latest first."
        ),
    ] = 20
    search: Annotated[
        str | None,
        typer.Option(
            "--search",
            metavar="TEXT",
            help="Only requests whose question or answer holds this text.",
        ),
    ] = None
    cid: Annotated[
        str | None,
        typer.Option(
            "--cid",
            metavar="ID|NAME",
            help="Only the conversation of this name or id, or of a request of this id.",
            autocompletion=conversations,
        ),
    ] = None
    tier: Annotated[
        str | None,
        typer.Option("--tier", "-t", metavar="NAME", help="Only what this tier answered."),
    ] = None
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", metavar="TEXT", help="Only models with this in their name."),
    ] = None


@app.callback()
@takes_options(Wanted)
def log(
    ctx: typer.Context,
    *,
    options: Wanted,
    response: Annotated[
        bool, typer.Option("--response", "-r", help="Print the latest answer again, alone.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show recent requests, and how each went.

    Without a subcommand it lists them, the latest first.
    """
    if ctx.invoked_subcommand is not None:
        return
    if response:
        _print_answer(current(), as_json=as_json)
    else:
        _list(current(), options, as_json=as_json)


@app.command("list")
@takes_options(Wanted)
def list_requests(
    *,
    options: Wanted,
    as_json: Json = False,
) -> None:
    """List recent requests: when, id, tier, model, time taken, and what was asked."""
    _list(current(), options, as_json=as_json)


@app.command()
def show(
    wanted: Annotated[
        str | None,
        typer.Argument(
            metavar="[ID|REF-...]",
            help="A request's id, its unique beginning, or the reference code of an answer; "
            "without one, the latest request.",
            autocompletion=request_ids,
            show_default=False,
        ),
    ] = None,
    *,
    as_json: Json = False,
) -> None:
    """Draw one request's attempts as a time line, with what was asked and answered.

    A thin bar is the time to the first token, a thick one the answer coming, dots are waiting.
    """
    environment = current()
    found = _found(environment, wanted)
    names = _from_history(environment, lambda history: history.names())
    if as_json:
        print_json(_with_name(found, names), environment)
    else:
        show_request(environment, found, names.get(found.conversation_id))


@app.command("name")
def name_conversation(
    wanted: Annotated[
        str | None,
        typer.Argument(
            metavar="[ID|NAME]",
            help="The conversation's id or name, or the id of a request in it; without one, all "
            "that have a name are listed.",
            autocompletion=conversations,
            show_default=False,
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME|-]",
            help="What it is called from now on; `-` takes its name away.",
            show_default=False,
        ),
    ] = None,
    *,
    as_json: Json = False,
) -> None:
    """Name a conversation, to go on with it by `--cid NAME`; or list those that have a name.

    A name that another conversation has is refused: take it away there first.
    """
    environment = current()

    def named(history: History) -> dict[str, str]:
        cid = history.conversation_id(wanted) if wanted is not None else None
        if cid is not None and name is not None:
            history.set_name(cid, None if name == "-" else name.strip())
        return {key: value for key, value in history.names().items() if cid in {None, key}}

    rows = list(_from_history(environment, named).items())
    if as_json:
        print_json(
            [{"conversation_id": cid, "conversation_name": it} for cid, it in rows], environment
        )
    elif name == "-":
        environment.say("the conversation has no name now")
    else:
        empty = "the conversation has no name" if wanted else "no conversation has a name yet"
        print_table(["conversation", "name"], rows, environment, empty=empty)


def _print_answer(environment: Environment, *, as_json: bool) -> None:
    found = _found(environment, None)
    if as_json:
        print_json(found.answer.to_dict(), environment)
        return
    if found.answer.text is None:
        raise TieredLLMError("the latest request was not answered: see `tieredllm log show`")
    text = found.answer.text if not environment.stdout.isatty() else clean(found.answer.text)
    write(environment.stdout, text.rstrip("\n") + "\n")


def _found(environment: Environment, wanted: str | None) -> LoggedRequest:
    """Return a request of the log, the latest unless one is named.

    Raises:
        UsageError: there is none, or several begin so.
        TieredLLMError: the log cannot be read.
    """
    if wanted is not None:
        return _from_history(environment, lambda history: history.find(wanted))
    latest = _from_history(
        environment, lambda history: next(_readable(environment, history.recent(1)), None)
    )
    if latest is None:
        raise UsageError("no request was logged yet")
    return latest


@app.command("off")
def switch_off() -> None:
    """Keep no record of requests from now on, in no command."""
    from tieredllm.store.switch import LogSwitch

    environment = current()
    LogSwitch(environment.places).turn_off()
    environment.say(
        "no request is logged from now on (`tieredllm log on` goes back); what is there stays: "
        "`tieredllm log prune --older-than 0` removes it"
    )


@app.command("on")
def switch_on() -> None:
    """Keep a record of requests again."""
    from tieredllm.store.switch import LogSwitch

    environment = current()
    LogSwitch(environment.places).turn_on()
    environment.say("requests are logged")


@app.command()
def prune(
    *,
    older_than: Annotated[
        float,
        typer.Option(
            "--older-than", metavar="DAYS", min=0, callback=finite, help="Drop what is older."
        ),
    ],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
) -> None:
    """Drop old requests from the log, for good."""
    environment = current()
    before = time.time() - older_than * DAY_S
    count = _from_history(environment, lambda history: history.count(before))
    if count and not yes:
        if environment.stdin is None or not environment.stdin.isatty():
            reason = f"{pluralize(count, 'request')} would be dropped: add --yes"
            raise UsageError(reason)
        typer.confirm(f"Drop {pluralize(count, 'request')} for good?", abort=True, err=True)
    dropped = _from_history(environment, lambda history: history.prune(before)) if count else 0
    if dropped:
        from tieredllm.local.contexts import KeptContexts

        # What a model has read of a conversation holds the text of all its requests.
        KeptContexts(environment.places.cache).clear()
    environment.say(f"dropped {pluralize(dropped, 'request')}")


@app.command()
def path() -> None:
    """Print where the log's file is."""
    environment = current()
    environment.print(str(environment.places.state_db))


def _list(environment: Environment, wanted: Wanted, *, as_json: bool) -> None:
    def show(history: History) -> bool:
        rows = history.recent(
            wanted.number,
            wanted.search,
            cid=history.conversation_id(wanted.cid) if wanted.cid is not None else None,
            tier=wanted.tier,
            model=wanted.model,
        )
        found = _readable(environment, rows)
        if as_json:
            names = history.names()
            print_json_list((_with_name(request, names) for request in found), environment)
            return True
        first = next(found, None)
        if first is not None:
            _show_list(environment, itertools.chain([first], found))
        return first is not None

    if not _from_history(environment, show):
        others = (wanted.cid, wanted.tier, wanted.model)
        if any(each is not None for each in others):
            environment.say("no request is like that")
        else:
            found = "no request has this text" if wanted.search else "no request was logged yet"
            environment.say(found)


def _with_name(request: LoggedRequest, names: dict[str, str]) -> dict[str, Any]:
    """Return a request for JSON, with what its conversation is called."""
    return request.to_dict() | {"conversation_name": names.get(request.conversation_id)}


def _readable(
    environment: Environment, found: Iterable[LoggedRequest | Unreadable]
) -> Iterator[LoggedRequest]:
    """Pass on what can be read, and say at the end what could not."""
    bad: list[Unreadable] = []
    for request in found:
        if isinstance(request, LoggedRequest):
            yield request
        else:
            bad.append(request)
    if bad:
        environment.warn(
            f"tieredllm: {pluralize(len(bad), 'request')} in the log cannot be read and left out:"
            f" {bad[0].request_id}: {bad[0].reason}"
        )


def _from_history(environment: Environment, work: Callable[[History], T]) -> T:
    """Return what the log says.

    Raises:
        TieredLLMError: it cannot be read.
    """
    from tieredllm.store.database import Database
    from tieredllm.store.history import History

    with Database(environment.places.state_db) as database:
        try:
            done = work(History(database))
        finally:
            trouble = database.problem
            if trouble is not None:
                raise TieredLLMError(trouble)
    return done


CUTS = {"repetition": "cut where it ran in circles", "stopped": "stopped by you"}
"""What is said of an answer that is not whole, by its finish reason."""

FIRST_LINE = 200
"""Characters of a question in a list that isn't cut to a terminal's width."""

MARGIN = "  "
"""Stands before each line of what was asked and answered: none of them is taken for one of ours."""

STYLES = {"ok": "green", "failed": "red", "cancelled": "yellow", "skipped": "dim"}


def _show_list(environment: Environment, requests: Iterable[LoggedRequest]) -> None:
    """Print one line for each request."""
    if environment.stdout.isatty():
        _print_table(environment, requests)
        return
    for request in requests:
        answer = request.answer
        cells = (
            iso(request.asked_at),
            answer.request_id,
            answer.tier or "-",
            answer.model_used or "-",
            f"{answer.latency_ms:.0f}",
            _asked(request),
        )
        write(environment.stdout, "\t".join(map(one_line, cells)) + "\n")


def show_request(environment: Environment, request: LoggedRequest, name: str | None = None) -> None:
    """Print one request's attempts, what was asked and what was answered.

    Args:
        environment: where to.
        request: the request.
        name: what its conversation is called.
    """
    if environment.stdout.isatty():
        _print_time_line(environment, request, name)
        return
    write(environment.stdout, "\n".join(_plain_lines(request, name)) + "\n")


def _print_table(environment: Environment, requests: Iterable[LoggedRequest]) -> None:
    from rich.cells import cell_len
    from rich.text import Text

    from tieredllm.cli.output import GAP, make_table

    console = environment.console()
    width = console.width
    columns = {
        "when": width >= 60,
        "id": True,
        "tier": True,
        "model": width >= 100,
        "time": width >= 80,
    }
    rows = []
    for request in requests:
        answer = request.answer
        style = "red" if answer.tier is None else "yellow" if answer.fallback_used else ""
        cells = {
            "when": Text(_when(request.asked_at, short=width < 100)),
            "id": Text(answer.request_id[:SHORT_ID], style="dim"),
            "tier": Text(one_line(answer.tier or "none"), style=style),
            "model": Text(one_line(answer.model_used or "")),
            "time": Text(duration(answer.latency_ms)),
        }
        for name in ("tier", "model"):
            cells[name].truncate(max(width // 5, 8), overflow="ellipsis")
        asked = Text(_asked(request))
        rows.append([*(cell for name, cell in cells.items() if columns[name]), asked])
    headings = [*(name for name, shown in columns.items() if shown), "asked"]
    before = [max(map(cell_len, column)) for column in _columns(headings, rows)][:-1]
    for row in rows:
        row[-1].truncate(max(width - sum(before) - GAP * len(before), 8), overflow="ellipsis")
    table = make_table(headings, [[cell.plain for cell in row] for row in rows], width)
    for row in rows:
        table.add_row(*row)
    console.print(table)


def _columns(headings: Sequence[str], rows: Sequence[Sequence[Text]]) -> Iterator[tuple[str, ...]]:
    return zip(headings, *([cell.plain for cell in row] for row in rows), strict=True)


def _print_time_line(environment: Environment, request: LoggedRequest, name: str | None) -> None:
    from rich.padding import Padding
    from rich.text import Text

    console = environment.console()
    ascii_only = not console.encoding.lower().startswith("utf")
    for line in _head(request, name):
        console.print(Text(line, style="dim"))
    console.print()
    answer = request.answer
    lanes = time_line(
        answer.attempts,
        latency_ms=answer.latency_ms,
        width=console.width,
        ascii_only=ascii_only,
    )
    for lane in lanes:
        bar = Text.assemble(
            f"{lane.label} ",
            (lane.before, "dim"),
            (lane.bar, STYLES[lane.outcome]),
            f"{lane.after} {lane.length}",
        )
        console.print(bar, no_wrap=True, overflow="crop")
        console.print(Padding(Text(lane.why, style="dim"), (0, 0, 0, 2)))
    for title, text in _texts(request):
        console.print()
        console.print(Text(title, style="bold"))
        console.print(Padding(Text(text), (0, 0, 0, len(MARGIN))))


def _plain_lines(request: LoggedRequest, name: str | None) -> list[str]:
    answer = request.answer
    lines = _head(request, name)
    lines.extend(
        f"{attempt.started_ms:.1f} ms +{attempt.duration_ms:.1f} ms"
        f" {one_line(attempt.tier)} {ending(attempt)}"
        for attempt in answer.attempts
    )
    for title, text in _texts(request):
        lines.extend(("", title, indent(text, MARGIN)))
    return lines


def _head(request: LoggedRequest, name: str | None) -> list[str]:
    """Say which request it was and what came of it."""
    answer = request.answer
    lines = [
        f"request {answer.request_id}",
        f"asked {_when(request.asked_at)}, profile {request.profile}",
        f"conversation {request.conversation_id}" + (f" ({name})" if name else ""),
    ]
    if answer.tier is None:
        lines.append(f"not answered, after {duration(answer.latency_ms)}")
    else:
        model = " ".join(dict.fromkeys(filter(None, (answer.provider, answer.model_used))))
        by = answer.tier if model == answer.tier else f"{answer.tier} ({model})"
        lines.append(f"answered by {by} in {duration(answer.latency_ms)}")
    details = [
        ("first token", answer.first_token_ms and duration(answer.first_token_ms)),
        ("prompt tokens", answer.usage.prompt_tokens),
        ("completion tokens", answer.usage.completion_tokens),
        ("reference", answer.ref_code),
        ("intent", answer.intent),
    ]
    told = [f"{name} {value}" for name, value in details if value is not None]
    if answer.truncated:
        told.append(CUTS.get(answer.finish_reason or "", "cut at max_tokens"))
    if told:
        lines.append(", ".join(told))
    return [one_line(line) for line in lines]


def _texts(request: LoggedRequest) -> list[tuple[str, str]]:
    texts = [
        ("system", request.prompt.system),
        ("asked", user_turn(request.prompt)),
        ("answer", request.answer.text),
    ]
    return [(title, clean(text).strip("\n")) for title, text in texts if text]


def _asked(request: LoggedRequest) -> str:
    """Return the first line of what was asked."""
    text = request.prompt.question.strip() or user_turn(request.prompt).strip()
    return one_line(text.partition("\n")[0], FIRST_LINE)


def _when(at: float, *, short: bool = False) -> str:
    """Return a time as the user's clock shows it."""
    return time.strftime("%m-%d %H:%M" if short else "%Y-%m-%d %H:%M:%S", time.localtime(at))
