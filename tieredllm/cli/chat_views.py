"""Print what a chat says besides answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tieredllm.cli.context import Session
from tieredllm.text import one_line, pluralize

if TYPE_CHECKING:
    from tieredllm.chat.core import Chat

__all__ = ["opening", "print_dim_wrapped", "print_rows"]

SHORT_ID = 8
"""Characters of a conversation's id: as the log's list shows them."""


def opening(chat: Chat, *, resumed: bool, width: int) -> list[str]:
    """Say where the user is: the profile and who answers; and what a resumed chat goes on from.

    Args:
        chat: before it begins.
        resumed: whether it goes on from an earlier conversation.
        width: the columns of the screen.
    """
    plan = chat.usual
    backend = next((b for b in plan.backends if b.missing() is None), plan.backends[0])
    who = " ".join(dict.fromkeys((plan.tier.name, one_line(backend.model))))
    lines = [f"tieredllm chat · {chat.manager.profile.name} · {who} · /help lists commands"]
    if resumed:
        lines += _recap(chat, width)
    return lines


def _recap(chat: Chat, width: int) -> list[str]:
    dialogue = chat.dialogue
    turns = pluralize(len(dialogue.turns), "turn")
    about = f"resuming {(dialogue.cid or '')[:SHORT_ID]}: {turns}"
    if dialogue.system:
        about += f", system prompt: {one_line(dialogue.system, 80)}"
    if not dialogue.turns:
        return [about]
    last = dialogue.turns[-1]
    return [
        about,
        one_line(f"you asked: {last.asked}", width),
        one_line(f"answer: {last.answered}", width),
    ]


def print_dim_wrapped(session: Session, line: str) -> None:
    """Print a dim line; on a terminal a long one is broken between words."""
    import textwrap

    from tieredllm.render.terminal import print_dim

    console = session.console()
    if console.is_terminal:
        line = "\n".join(textwrap.wrap(line, console.width, break_on_hyphens=False)) or line
    print_dim(console, line)


def print_rows(session: Session, rows: list[tuple[str, str]]) -> None:
    """Print two columns: lined up on a terminal, the second one wrapped; else with a tab."""
    if not session.stdout.isatty():
        for left, right in rows:
            print(f"{left}\t{right}".rstrip(), file=session.stdout)
        return
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(overflow="fold")
    table.add_column(overflow="fold", style="dim")
    for left, right in rows:
        table.add_row(Text(left), Text(right))
    session.console().print(table)
