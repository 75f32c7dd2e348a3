"""Carry out the commands of a chat."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from tieredllm.chat import transcript
from tieredllm.chat.commands import help_rows
from tieredllm.chat.core import Chat
from tieredllm.chat.dialogue import Dialogue
from tieredllm.errors import UsageError
from tieredllm.text import clean, one_line, pluralize
from tieredllm.types import Prompt

__all__ = ["ACTIONS", "LeaveError"]

SHOWN = 60
"""Characters of a question that is named."""

PATIENCE_S = 0.4
"""Seconds of probing before it is said what takes so long."""


class LeaveError(Exception):
    """End the session: the user asked to."""


async def show_help(chat: Chat, _argument: str) -> None:
    """List the commands and keys."""
    chat.services.show_rows(help_rows())


async def tier(chat: Chat, argument: str) -> None:
    """Show the tiers, or start at one from now on."""
    if argument:
        _start_at(chat, argument)
        return
    usual = chat.usual
    rows = []
    for plan in chat.manager.plans:
        mark = "→" if plan is usual else " "
        backends = [f"{b.provider} {b.model}" for b in plan.backends if b.provider != b.model]
        missing = [gap for b in plan.backends if (gap := b.missing()) is not None]
        about = ", ".join(map(one_line, backends)) or "rules"
        if len(missing) == len(plan.backends):
            about += f" (not configured: {missing[0].what})"
        rows.append((f"{mark} {plan.tier.name}", about))
    chat.services.show_rows(rows)


def _start_at(chat: Chat, name: str) -> None:
    plans = {plan.tier.name: plan for plan in chat.manager.plans}
    if name not in plans and name != "auto":
        raise UsageError(f"no tier {name!r}: there are {', '.join(plans)}; auto is the first")
    chat.settings.start = name if name in plans else None
    usual = chat.usual
    chat.watch.expect(usual.tier.name)
    missing = [gap for b in usual.backends if (gap := b.missing()) is not None]
    if len(missing) == len(usual.backends):
        chat.services.tell(f"{name} is not configured: {missing[0].what} ({missing[0].fix})")
    else:
        chat.services.show_dim(f"starting at {usual.tier.name} from now on")


async def health(chat: Chat, _argument: str) -> None:
    """Probe and show every tier."""
    probing = asyncio.create_task(chat.manager.check())
    try:
        done, _ = await asyncio.wait({probing}, timeout=PATIENCE_S)
        if not done:
            chat.services.show_dim("probing every tier: 5 s at most")
        report = await probing
    finally:
        probing.cancel()
    chat.services.show_health(report)


async def model(chat: Chat, argument: str) -> None:
    """Show the models, or ask another one from now on."""
    if not argument:
        chat.services.show_rows(
            [(plan.tier.name, one_line(plan.tier.model or "-")) for plan in chat.manager.plans]
        )
        return
    name, equals, wanted = argument.partition("=")
    if not equals or name not in {plan.tier.name for plan in chat.manager.plans}:
        if equals:
            raise UsageError(f"no tier {name!r}: /tier lists them")
        name, wanted = chat.usual.tier.name, argument
    if not wanted:
        raise UsageError("which model? /model TIER=MODEL")
    await chat.manager.use_model(name, wanted)
    chat.services.show_dim(f"{name} asks {one_line(wanted)} from now on")


async def system(chat: Chat, argument: str) -> None:
    """Show, set or drop the system prompt."""
    dialogue = chat.dialogue
    if not argument:
        chat.services.tell(clean(dialogue.system) if dialogue.system else "no system prompt")
        return
    # Blank, not None: who resumes the conversation later is to find none either.
    dialogue.system = "" if argument == "-" else argument
    chat.services.show_dim("system prompt " + ("dropped" if argument == "-" else "set"))


async def retry(chat: Chat, argument: str) -> None:
    """Ask the last question again."""
    if argument and argument not in {plan.tier.name for plan in chat.manager.plans}:
        raise UsageError(f"no tier {argument!r}: /tier lists them")
    if not await chat.retry(argument or None):
        raise UsageError("nothing was asked yet")


async def undo(chat: Chat, _argument: str) -> None:
    """Take the last question and its answer back."""
    turn = chat.undo()
    if turn is None:
        raise UsageError("there is nothing to take back")
    chat.services.show_dim(f"took back: {one_line(turn.asked, SHOWN)}")


async def reset(chat: Chat, _argument: str) -> None:
    """Forget the conversation."""
    chat.begin_anew(Dialogue(chat.dialogue.system))
    kept = "; the system prompt stays" if chat.dialogue.system else ""
    chat.services.show_dim(f"a new conversation{kept}")


async def save(chat: Chat, argument: str) -> None:
    """Save the conversation to a file."""
    if not argument:
        raise UsageError("where? /save FILE")
    if not chat.dialogue.turns:
        raise UsageError("there is nothing to save yet")
    replaces, path = _replacing(argument)
    if path.exists() and not replaces and str(path.absolute()) not in chat.saved_to:
        raise UsageError(f"{path} is there already: /save -f {argument} replaces it")
    transcript.save(chat.dialogue, path)
    chat.saved_to.add(str(path.absolute()))
    chat.services.show_dim(f"saved {_turns(chat.dialogue)} to {path}")


def _replacing(argument: str) -> tuple[bool, Path]:
    flag, _, rest = argument.partition(" ")
    if flag == "-f" and rest.strip():
        return True, _path(rest.strip())
    return False, _path(argument)


async def load(chat: Chat, argument: str) -> None:
    """Go on from a saved conversation."""
    if not argument:
        raise UsageError("from where? /load FILE")
    path = _path(argument)
    dialogue = transcript.load(path)
    if dialogue.system is None:
        dialogue.system = chat.dialogue.system
    chat.begin_anew(dialogue)
    chat.services.show_dim(f"loaded {_turns(dialogue)} from {path}")


def _path(text: str) -> Path:
    try:
        return Path(text).expanduser()
    except RuntimeError as exc:
        raise UsageError(f"{text}: {exc}") from exc


async def copy(chat: Chat, argument: str) -> None:
    """Put the last answer on the clipboard."""
    from tieredllm.chat.clipboard import copy as to_clipboard
    from tieredllm.render.extract import first_code_block

    if argument not in {"", "code"}:
        raise UsageError(f"/copy takes nothing or `code`, not {argument!r}")
    text = chat.last_answer.text if chat.last_answer is not None else None
    if text is None and chat.dialogue.turns:
        text = chat.dialogue.turns[-1].answered
    if text is None:
        raise UsageError("there is no answer to copy")
    if argument == "code":
        text = first_code_block(text)
        if text is None:
            raise UsageError("the last answer has no code block")
    terminal = chat.around.stdout if chat.around.stdout.isatty() else None
    chat.services.show_dim(to_clipboard(text, chat.around.env, terminal))


async def log(chat: Chat, _argument: str) -> None:
    """Draw the last request's attempts."""
    from tieredllm.store.logged import Logged

    if chat.last_prompt is None or chat.last_answer is None:
        raise UsageError("no request has ended yet; `tieredllm log` has the earlier ones")
    answer = chat.last_answer
    chat.services.show_request(
        Logged(
            asked_at=chat.last_asked_at,
            profile=chat.manager.profile.name,
            conversation_id=chat.dialogue.cid or answer.request_id,
            prompt=Prompt(question=chat.last_prompt.question),
            answer=answer,
        )
    )


async def usage(chat: Chat, _argument: str) -> None:
    """Count the session's tokens and time."""
    for line in chat.tally.lines():
        chat.services.tell(line)


async def leave(_chat: Chat, _argument: str) -> None:
    """End the session."""
    raise LeaveError


def _turns(dialogue: Dialogue) -> str:
    return pluralize(len(dialogue.turns), "turn")


ACTIONS: dict[str, Callable[[Chat, str], Awaitable[None]]] = {
    "help": show_help,
    "tier": tier,
    "health": health,
    "model": model,
    "system": system,
    "retry": retry,
    "undo": undo,
    "reset": reset,
    "save": save,
    "load": load,
    "copy": copy,
    "log": log,
    "usage": usage,
    "exit": leave,
}
"""What carries out each command; `edit` is the session's own, for it gives the next message."""
