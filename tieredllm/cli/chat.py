"""`tieredllm chat`: talk with the tiers, turn by turn."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from typing import TYPE_CHECKING, TextIO

import msgspec
import typer

from tieredllm.cli.environment import Environment, current
from tieredllm.cli.exit_codes import ExitCode
from tieredllm.cli.options import (
    RequestCommand,
    RequestOptions,
    find_conversation,
    make_app,
    make_manager,
    takes_options,
)

if TYPE_CHECKING:
    from tieredllm.chat.controller import Chat, Reader, Services
    from tieredllm.chat.input import Choices
    from tieredllm.cli.approval import ChatApprover
    from tieredllm.client import FallbackManager
    from tieredllm.health.report import HealthReport
    from tieredllm.render.keys import MoveOnKey
    from tieredllm.render.view import View
    from tieredllm.store.record import LoggedRequest
    from tieredllm.types import Attachment, MessagePart

__all__ = ["app"]

app = make_app("chat")

EXAMPLES = """Examples:

\b
  tieredllm chat
  tieredllm chat -c
  tieredllm chat -s "answer in French" -f notes.txt
  echo "why is the sky blue?" | tieredllm chat
"""


HISTORY_FILE = "chat_history"
"""Where what was typed is kept, in the state directory."""

CANNOT_EDIT = frozenset({"dumb", "unknown"})
"""Values of TERM of terminals that only print: the driver's own line editing serves there."""


@app.command(cls=RequestCommand, epilog=EXAMPLES)
@takes_options(RequestOptions)
def chat(*, options: RequestOptions) -> None:
    """Talk with the tiers, turn by turn.

    The conversation goes on whichever tier answers. Type /help in it for the commands and keys;
    Ctrl-C stops an answer, Ctrl-D leaves. Files are attached to the first message. Without a
    terminal each line of stdin is a question: the answers go to stdout, everything else to stderr.
    Exit code then: 0, every question got a model's whole answer; 3, one got less (cut, or by
    rules); 1, one got none.
    """
    from tieredllm.cli.prompt_input import Patience, read_files, read_media

    environment = current()
    options.check()
    options = options.with_switch(environment)
    if options.template is not None:
        from tieredllm.prompts.stored import StoredPrompts

        stored = StoredPrompts(environment.places).find(options.template)
        options = options.with_stored(stored)
        if stored.prompt is not None:
            environment.say(
                f"tieredllm: the words of {options.template} are for `ask`, not used here"
            )
    patience = Patience() if options.deadline_s is None else Patience(total_s=options.deadline_s)
    attachments = read_files(environment, options.file or [], patience=patience)
    parts = read_media(environment, options.attach or [], patience=patience)
    raise typer.Exit(_talk(environment, attachments, parts, options))


def _talk(
    environment: Environment,
    attachments: tuple[Attachment, ...],
    parts: tuple[MessagePart, ...],
    options: RequestOptions,
) -> int:
    """Run a chat to its end, and return the exit code.

    Raises:
        UsageError: the profile, a tier's name, a fault's name or a conversation is wrong.
    """
    from tieredllm.aio import run
    from tieredllm.chat.controller import Chat
    from tieredllm.chat.conversation import Dialogue
    from tieredllm.cli.approval import ChatApprover
    from tieredllm.cli.output import move_on_key
    from tieredllm.engine.ports import Controls
    from tieredllm.store.history import History

    approver = ChatApprover(environment)
    manager = make_manager(environment, options, approver, lambda: approver.view)
    limits = manager.profile.log
    history = History(manager.database, keep=limits.keep, max_mb=limits.max_mb)
    earlier = find_conversation(history, options.conversation)
    system = options.system
    if system is None and (earlier is None or earlier.system is None):
        system = manager.profile.system
    interactive = environment.is_interactive
    aside = _aside(environment, interactive=interactive)
    controls = Controls()
    key = None
    if environment.env.get("TERM") not in CANNOT_EDIT:
        key = move_on_key(environment, controls, keeps_typed=True)
    services = _services(
        environment, aside, manager, approver, options=options, interactive=interactive, key=key
    )
    chat = Chat(
        manager,
        Dialogue.resumed(earlier, system) if earlier else Dialogue(system),
        options=msgspec.structs.replace(options.request(), start=manager.start),
        environment=environment,
        services=services,
        reader=_reader(
            environment,
            aside,
            services,
            manager,
            interactive=interactive,
            log=not options.no_log,
            key=key,
        ),
        controls=controls,
        history=None if options.no_log else history,
        interactive=interactive,
        usage=options.usage,
        attachments=attachments,
        parts=parts,
    )
    if interactive:
        width = aside.columns(aside.stderr)
        for line in _opening(chat, resumed=earlier is not None, width=width):
            services.show_dim(line)
    run(_run(chat))
    for line in approver.withheld():
        services.show_dim(f"tieredllm: {line}")
    if interactive and chat.dialogue.cid is not None and chat.dialogue.turns:
        cid = shlex.quote(chat.dialogue.label)
        services.show_dim(f"to go on: tieredllm chat -c (or --cid {cid})")
    if interactive or not (chat.has_failed or chat.gave_less):
        return ExitCode.OK
    return ExitCode.FAILURE if chat.has_failed else ExitCode.LESS


async def _run(chat: Chat) -> None:
    from tieredllm.chat.repl import Repl

    try:
        await Repl(chat).run()
    finally:
        await chat.manager.aclose()


def _aside(environment: Environment, *, interactive: bool) -> Environment:
    """Return where what is no answer goes: stderr, or the screen if the user sees that one."""
    on_screen = interactive and environment.stdout.isatty() and not environment.stderr.isatty()
    stream = environment.stdout if on_screen else environment.stderr
    return Environment(
        env=environment.env,
        stdin=environment.stdin,
        stdout=stream,
        stderr=stream,
        profile_name=environment.profile_name,
        quiet=environment.quiet,
        verbose=environment.verbose,
        no_color=environment.no_color,
    )


def _services(
    environment: Environment,
    aside: Environment,
    manager: FallbackManager,
    approver: ChatApprover,
    *,
    options: RequestOptions,
    interactive: bool,
    key: MoveOnKey | None,
) -> Services:
    def view(heading: Callable[[str], str | None] | None) -> tuple[View, bool]:
        from tieredllm.cli.output import make_view

        made, animated = make_view(
            environment,
            raw=options.raw,
            allow_rules=options.allow_rules,
            reasoning=options.show_reasoning,
            heading=heading,
            key=key,
        )
        for line in approver.withheld():
            made.remark(line)
        approver.view = made
        return made, animated

    def show_health(report: HealthReport) -> None:
        from tieredllm.cli.health import print_report

        print_report(report, manager, aside)

    def show_request(request: LoggedRequest, name: str | None) -> None:
        from tieredllm.cli.log import show_request

        show_request(aside, request, name)

    def show_gap() -> None:
        if interactive and environment.stdout.isatty():
            print(file=environment.stdout, flush=True)

    def edit(text: str) -> str:
        from tieredllm.cli.editor import edit_text
        from tieredllm.render.keys import line_keys

        with line_keys(environment.stdin):
            return edit_text(text, environment.env).rstrip("\r\n")

    from tieredllm.chat.controller import Services
    from tieredllm.cli.prompt_input import read_any

    return Services(
        make_view=view,
        show_health=show_health,
        show_request=show_request,
        show_rows=lambda rows: _print_rows(aside, rows),
        show_dim=aside.say,
        tell=aside.warn,
        show_gap=show_gap,
        edit=edit,
        read_file=lambda name: read_any(environment, name),
    )


def _reader(
    environment: Environment,
    aside: Environment,
    services: Services,
    manager: FallbackManager,
    *,
    interactive: bool,
    log: bool,
    key: MoveOnKey | None,
) -> Reader:
    """Return line editing on a terminal that can do it, else lines as they come."""
    if key is not None and environment.stdin is not None:
        from tieredllm.chat.prompt_reader import PromptReader

        return PromptReader(
            environment.stdin,
            environment.stdout,
            choices=_choices(manager),
            history_file=environment.places.state / HISTORY_FILE if log else None,
            edit=services.edit,
            tell=services.tell,
            color=environment.color,
            typed_meanwhile=key.take_typed,
        )
    from tieredllm.chat.line_reader import LineReader

    shows_prompt = interactive and aside.stderr.isatty()
    return LineReader(
        environment.stdin,
        prompt=_prompt(aside.stderr) if shows_prompt else lambda _: None,
        warn=lambda line: environment.warn(f"tieredllm: {line}"),
    )


def _prompt(stream: TextIO) -> Callable[[bool], None]:
    def prompt(goes_on: bool) -> None:
        print("... " if goes_on else "> ", end="", file=stream, flush=True)

    return prompt


def _choices(manager: FallbackManager) -> Choices:
    from tieredllm.chat.input import Choices
    from tieredllm.cli.completion import known_models, known_tiers
    from tieredllm.prompts.stored import StoredPrompts

    profile, places = manager.profile, manager.places
    return Choices(
        tiers=lambda: known_tiers(profile),
        models=lambda: known_models(profile, places),
        prompts=lambda: [(name, "a stored prompt") for name in StoredPrompts(places).names()],
    )


def _opening(chat: Chat, *, resumed: bool, width: int) -> list[str]:
    """Say where the user is: the profile and who answers; and what a resumed chat goes on from.

    Args:
        chat: before it begins.
        resumed: whether it goes on from an earlier conversation.
        width: the columns of the screen.
    """
    from tieredllm.text import one_line

    models = [
        backend
        for plan in chat.manager.plans
        for backend in plan.backends
        if backend.is_language_model
    ]
    lacking = [gap for backend in models if (gap := backend.missing()) is not None]
    if models and len(lacking) == len(models):
        from tieredllm.render.summary import setup_lines

        return setup_lines(lacking)
    plan = chat.usual
    backend = next((b for b in plan.backends if b.missing() is None), plan.backends[0])
    who = " ".join(dict.fromkeys((plan.tier.name, one_line(backend.model))))
    lines = [f"tieredllm chat · {chat.manager.profile.name} · {who} · /help lists commands"]
    if resumed:
        lines += _recap(chat, width)
    return lines


def _recap(chat: Chat, width: int) -> list[str]:
    from tieredllm.text import one_line, pluralize

    dialogue = chat.dialogue
    turns = pluralize(len(dialogue.turns), "turn")
    about = f"resuming {dialogue.label}: {turns}"
    if dialogue.system:
        about += f", system prompt: {one_line(dialogue.system, 80)}"
    if not dialogue.turns:
        return [about]
    last = dialogue.turns[-1]
    return [
        about,
        one_line(f"you asked: {last.said}", width),
        one_line(f"answer: {last.answered}", width),
    ]


def _print_rows(environment: Environment, rows: list[tuple[str, str]]) -> None:
    """Print two columns: lined up on a terminal, the second one wrapped; else with a tab."""
    if not environment.stdout.isatty():
        for left, right in rows:
            print(f"{left}\t{right}".rstrip(), file=environment.stdout)
        return
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(overflow="fold")
    table.add_column(overflow="fold", style="dim")
    for left, right in rows:
        table.add_row(Text(left), Text(right))
    environment.console().print(table)
