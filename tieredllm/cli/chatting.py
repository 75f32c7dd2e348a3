"""Carry out `chat`: put a session together for the streams there are, and run it."""

from __future__ import annotations

from collections.abc import Callable
from shutil import get_terminal_size
from typing import TYPE_CHECKING, TextIO

import msgspec

from tieredllm.aio import run
from tieredllm.chat.core import Chat, Settings
from tieredllm.chat.dialogue import Dialogue
from tieredllm.chat.session import Session as Loop
from tieredllm.chat.surroundings import Reader, Services
from tieredllm.cli.approval import ChatApprover
from tieredllm.cli.chat_views import opening, print_dim_wrapped, print_rows
from tieredllm.cli.context import Session
from tieredllm.cli.exits import ExitCode
from tieredllm.cli.request_options import earlier_turns, manager_for
from tieredllm.client import FallbackManager
from tieredllm.store.history import History
from tieredllm.types import Attachment

if TYPE_CHECKING:
    from tieredllm.chat.completing import Choices
    from tieredllm.health.report import HealthReport
    from tieredllm.render.showing import View
    from tieredllm.store.logged import Logged

__all__ = ["ChatJob", "perform"]

HISTORY_FILE = "chat_history"
"""Where what was typed is kept, in the state directory."""

CANNOT_EDIT = frozenset({"dumb", "unknown"})
"""Values of TERM of terminals that only print: the driver's own line editing serves there."""


class ChatJob(msgspec.Struct, frozen=True, kw_only=True):
    """Hold what one `chat` was told on its command line."""

    system: str | None
    models: dict[str, str]
    """Another model for a tier, by tier name."""
    tier: str | None
    fallback: bool
    require_llm: bool
    deadline_s: float | None
    raw: bool
    attachments: tuple[Attachment, ...]
    conversation: str | None
    """The conversation to continue: its id, `""` for the latest, None for a new one."""
    usage: bool
    log: bool
    approve_tools: bool
    """Whether tools that may change something run without a question."""
    faults: dict[str, str]
    """The faults to play, by tier name."""


def perform(session: Session, job: ChatJob) -> int:
    """Run a chat to its end, and give the exit code.

    Raises:
        UsageError: the profile, a tier's name, a fault's name or a conversation is wrong.
    """
    approver = ChatApprover(session)
    manager = manager_for(
        session,
        models=job.models,
        faults=job.faults,
        approve_tools=job.approve_tools,
        approver=approver,
    )
    manager.check_tiers([job.tier] if job.tier is not None else [])
    history = History(manager.database)
    earlier = earlier_turns(history, job.conversation)
    dialogue = Dialogue.resumed(earlier, job.system) if earlier else Dialogue(job.system)
    attended = session.stdin is not None and not session.stdin.closed and session.stdin.isatty()
    aside = _aside(session, attended=attended)
    services = _services(session, aside, approver, raw=job.raw, attended=attended)
    chat = Chat(
        manager,
        dialogue,
        settings=Settings(
            start=job.tier,
            fallback=job.fallback,
            require_llm=job.require_llm,
            deadline_s=job.deadline_s,
            usage=job.usage,
        ),
        around=session,
        services=services,
        reader=_reader(session, aside, services, manager, attended=attended, log=job.log),
        history=history if job.log else None,
        attended=attended,
        attachments=job.attachments,
    )
    if attended:
        width = get_terminal_size().columns
        for line in opening(chat, resumed=earlier is not None, width=width):
            services.show_dim(line)
    run(_talk(chat))
    return ExitCode.OK if attended or chat.all_complete else ExitCode.FAILURE


async def _talk(chat: Chat) -> None:
    try:
        await Loop(chat).run()
    finally:
        await chat.manager.aclose()


def _aside(session: Session, *, attended: bool) -> Session:
    """Give the surroundings for what is no answer: stderr, or the screen if the user sees that."""
    on_screen = attended and session.stdout.isatty() and not session.stderr.isatty()
    stream = session.stdout if on_screen else session.stderr
    return Session(
        env=session.env,
        stdin=session.stdin,
        stdout=stream,
        stderr=stream,
        profile_name=session.profile_name,
        quiet=session.quiet,
        verbose=session.verbose,
        no_color=session.no_color,
    )


def _services(
    session: Session, aside: Session, approver: ChatApprover, *, raw: bool, attended: bool
) -> Services:
    def view(heading: Callable[[str], str | None] | None) -> tuple[View, bool]:
        from tieredllm.cli.views import make_view

        made, animated = make_view(session, raw=raw, heading=heading)
        approver.view = made
        return made, animated

    def show_health(report: HealthReport) -> None:
        from tieredllm.cli.health import print_report

        print_report(report, aside, as_json=False)

    def show_request(request: Logged) -> None:
        from tieredllm.cli.log_views import show_request

        show_request(aside, request)

    def show_dim(line: str) -> None:
        if not aside.quiet:
            print_dim_wrapped(aside, line)

    def show_gap() -> None:
        if attended and session.stdout.isatty():
            print(file=session.stdout, flush=True)

    def edit(text: str) -> str:
        from tieredllm.chat.quiet_keys import line_keys
        from tieredllm.cli.editor import edited

        with line_keys(session.stdin):
            return edited(text, session.env)

    return Services(
        make_view=view,
        show_health=show_health,
        show_request=show_request,
        show_rows=lambda rows: print_rows(aside, rows),
        show_dim=show_dim,
        tell=aside.warn,
        show_gap=show_gap,
        edit=edit,
    )


def _reader(
    session: Session,
    aside: Session,
    services: Services,
    manager: FallbackManager,
    *,
    attended: bool,
    log: bool,
) -> Reader:
    """Give line editing on a terminal that can do it, else lines as they come."""
    can_edit = attended and session.stdout.isatty() and session.env.get("TERM") not in CANNOT_EDIT
    if can_edit and session.stdin is not None:
        from tieredllm.chat.keyboard import Keyboard

        return Keyboard(
            session.stdin,
            session.stdout,
            choices=_choices(manager),
            history_file=session.places.state / HISTORY_FILE if log else None,
            edit=services.edit,
            tell=services.tell,
            color=session.color,
        )
    from tieredllm.chat.lines import LineReader

    shows_prompt = attended and aside.stderr.isatty()
    return LineReader(
        session.stdin,
        prompt=_prompt(aside.stderr) if shows_prompt else lambda _: None,
        warn=lambda line: session.warn(f"tieredllm: {line}"),
    )


def _prompt(stream: TextIO) -> Callable[[bool], None]:
    def prompt(goes_on: bool) -> None:
        print("... " if goes_on else "> ", end="", file=stream, flush=True)

    return prompt


def _choices(manager: FallbackManager) -> Choices:
    from tieredllm.chat.completing import Choices
    from tieredllm.cli.chat_choices import known_models, tiers

    return Choices(tiers=lambda: tiers(manager), models=lambda: known_models(manager))
