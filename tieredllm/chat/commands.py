"""Know the commands of a chat, and carry them out."""

from __future__ import annotations

import asyncio
import base64
import subprocess
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import IO, Literal

import msgspec

from tieredllm.aio import in_thread
from tieredllm.chat import transcript
from tieredllm.chat.controller import Chat
from tieredllm.chat.conversation import Dialogue
from tieredllm.errors import UsageError
from tieredllm.profile.choose import split_model
from tieredllm.render.plain import write
from tieredllm.store.record import SHORT_ID
from tieredllm.text import clean, one_line, pluralize
from tieredllm.types import Prompt

__all__ = [
    "ALIASES",
    "COMMANDS",
    "KEYS",
    "Command",
    "LeaveError",
    "clipboard_programs",
    "copy_to_clipboard",
    "find_command",
    "help_rows",
    "osc52",
    "unknown_command",
]

SHOWN = 60
"""Characters of a question that is named."""

LISTED = 15
"""Conversations that `/history` lists."""

CLEAR_SCREEN = "\x1b[2J\x1b[H"
"""Erase in display, all of it; cursor to the first row (ECMA-48, 8.3.39 and 8.3.21)."""

SHOW_PROGRESS_AFTER_S = 0.4
"""Seconds of probing before it is said what takes so long."""


class LeaveError(Exception):
    """End the session: the user asked to."""


async def show_help(chat: Chat, _argument: str) -> None:
    """List the commands and keys."""
    chat.services.show_rows(help_rows())


async def tier(chat: Chat, argument: str) -> None:
    """Show the tiers, or start at one of them from now on."""
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
    start = name if name in plans else None
    chat.options = msgspec.structs.replace(chat.options, start=start)
    usual = chat.usual
    chat.status.expect(usual.tier.name)
    missing = [gap for b in usual.backends if (gap := b.missing()) is not None]
    if len(missing) == len(usual.backends):
        chat.services.tell(f"{name} is not configured: {missing[0].what} ({missing[0].fix})")
    else:
        chat.services.show_dim(f"starting at {usual.tier.name} from now on")


async def health(chat: Chat, _argument: str) -> None:
    """Probe and show every tier."""
    probing = asyncio.create_task(chat.manager.check())
    try:
        done, _ = await asyncio.wait({probing}, timeout=SHOW_PROGRESS_AFTER_S)
        if not done:
            chat.services.show_dim("probing every tier: 5 s at most")
        report = await probing
    finally:
        probing.cancel()
    chat.services.show_health(report)


async def model(chat: Chat, argument: str) -> None:
    """Show the models, or ask another one from now on and start at its tier."""
    if not argument:
        chat.services.show_rows(
            [(plan.tier.name, one_line(plan.tier.model or "-")) for plan in chat.manager.plans]
        )
        return
    name, wanted = split_model(argument)
    if not wanted:
        raise UsageError("which model? /model TIER=MODEL")
    moved = await chat.manager.use_model(wanted, name, usual=chat.usual.tier.name)
    if name is None:
        chat.options = msgspec.structs.replace(chat.options, start=moved)
    chat.status.expect(chat.usual.tier.name)
    chat.services.show_dim(f"{moved} asks {one_line(wanted)} from now on")


async def system(chat: Chat, argument: str) -> None:
    """Show, set or (-) drop the system prompt."""
    dialogue = chat.dialogue
    if not argument:
        chat.services.tell(clean(dialogue.system) if dialogue.system else "no system prompt")
        return
    # Blank, not None: who resumes the conversation later is to find none either.
    dialogue.system = "" if argument == "-" else argument
    chat.services.show_dim("system prompt " + ("dropped" if argument == "-" else "set"))


async def retry(chat: Chat, argument: str) -> None:
    """Ask the last question again, at a tier of your choice."""
    if argument and argument not in {plan.tier.name for plan in chat.manager.plans}:
        raise UsageError(f"no tier {argument!r}: /tier lists them")
    if not await chat.retry(argument or None):
        raise UsageError("nothing was asked yet")


async def undo(chat: Chat, _argument: str) -> None:
    """Take the last question and its answer back."""
    turn = chat.undo()
    if turn is None:
        raise UsageError("there is nothing to take back")
    chat.services.show_dim(f"took back: {one_line(turn.said, SHOWN)}")


async def clear(chat: Chat, argument: str) -> None:
    """The same, and clear the screen."""
    if chat.environment.stdout.isatty():
        write(chat.environment.stdout, CLEAR_SCREEN)
    await begin(chat, argument)


async def begin(chat: Chat, _argument: str) -> None:
    """Begin a new conversation; the log keeps this one."""
    chat.begin_anew(Dialogue(chat.dialogue.system))
    kept = "; the system prompt stays" if chat.dialogue.system else ""
    chat.services.show_dim(f"a new conversation{kept}")


async def attach(chat: Chat, argument: str) -> None:
    """Attach a text, an image or a PDF to the next message, or (-) drop what is attached."""
    if argument == "-":
        chat.attachments, chat.parts = (), ()
        chat.services.show_dim("nothing is attached")
        return
    if argument:
        texts, parts = await in_thread(lambda: chat.services.read_file(argument))
        chat.attachments, chat.parts = (*chat.attachments, *texts), (*chat.parts, *parts)
    named = [each.name or "piped text" for each in chat.attachments]
    named += [
        getattr(part, "name", None) or part.url or part.media_type or "image" for part in chat.parts
    ]
    about = ", ".join(map(one_line, named))
    chat.services.show_dim(
        f"attached to the next message: {about}" if about else "nothing is attached"
    )


async def set_parameter(chat: Chat, argument: str) -> None:
    """Show or set a parameter (temperature, ...); (-) leaves it to the tiers."""
    from tieredllm.profile.params import read_params, written_params

    pairs = written_params(chat.options.params)
    name, _, value = argument.partition(" ")
    value = value.strip()
    if name and value == "-":
        read_params([(name, "0")] if name not in dict(pairs) else [], "/set")
        pairs = [pair for pair in pairs if pair[0] != name]
    elif name and value:
        pairs = [pair for pair in pairs if pair[0] != name or name == "stop"]
        pairs.append((name, value))
    elif name and name not in dict(pairs):
        raise UsageError(f"/set {name} VALUE sets it for every request from now on")
    chat.options = msgspec.structs.replace(chat.options, params=read_params(pairs, "/set"))
    if not pairs:
        chat.services.show_dim("every parameter is as the tiers have it")
    elif value:
        chat.services.show_dim(", ".join(f"{name} {one_line(value)}" for name, value in pairs))
    else:
        chat.services.show_rows([(name, one_line(value)) for name, value in pairs])


async def role(chat: Chat, argument: str) -> None:
    """Show the stored prompts, or take one's system prompt and options."""
    from tieredllm.profile.params import read_params, written_params
    from tieredllm.prompts.stored import StoredPrompts

    kept = StoredPrompts(chat.manager.places)
    if not argument:
        names = kept.names()
        if not names:
            raise UsageError("no prompt is stored: `tieredllm ask ... --save NAME` makes one")
        rows = [(name, kept.find(name)) for name in names]
        chat.services.show_rows(
            [
                (name, one_line(each.about or each.system or each.prompt or ""))
                for name, each in rows
            ]
        )
        return
    stored = kept.find(argument)
    if stored.system is not None:
        chat.dialogue.system = stored.system
    pairs = dict(written_params(chat.options.params)) | dict(written_params(stored.options))
    chat.options = msgspec.structs.replace(
        chat.options, params=read_params(list(pairs.items()), f"/role {argument}")
    )
    if stored.model is not None:
        await model(chat, stored.model)
    if stored.tier is not None:
        _start_at(chat, stored.tier)
    unused = "; its words are for `ask`, not used here" if stored.prompt is not None else ""
    chat.services.show_dim(f"as {argument} from now on{unused}")


async def history(chat: Chat, argument: str) -> None:
    """List earlier conversations, or go on with one."""
    from tieredllm.store.history import History

    log = History(chat.manager.database)
    if argument:
        earlier = log.conversation(argument)
        if earlier is None:
            raise UsageError("the log has no conversation yet")
        chat.begin_anew(Dialogue.resumed(earlier))
        chat.services.show_dim(f"going on with {chat.dialogue.label}: {_turns(chat.dialogue)}")
        return
    rows = []
    for found in log.conversations(LISTED):
        when, count = _ago(chat.now() - found.last_at), pluralize(found.count, "request")
        about = f"{when}, {count}: {one_line(found.question, SHOWN)}"
        if found.name is not None:
            about = f"{found.name}, {about}"
        rows.append((found.cid[:SHORT_ID], about))
    if not rows:
        raise UsageError("the log has no conversation yet")
    chat.services.show_rows(rows)
    chat.services.show_dim("/history ID or /history NAME goes on with one")


async def name_conversation(chat: Chat, argument: str) -> None:
    """Show, give or (-) take away the name that /history and --cid know this one by."""
    if argument:
        chat.name(None if argument == "-" else argument)
    name = chat.dialogue.name
    if not argument:
        chat.services.tell(name or "no name: /name NAME gives one")
    else:
        chat.services.show_dim(f"its name is {name}" if name else "it has no name now")


def _ago(seconds: float) -> str:
    """Word how long ago something was."""
    for unit, length in (("day", 86_400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            return f"{pluralize(int(seconds // length), unit)} ago"
    return "just now"


async def save(chat: Chat, argument: str) -> None:
    """Save the conversation (.md to read it, else JSON)."""
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
    """Go on from a conversation saved as JSON."""
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
    """Copy the last answer, or its first code block."""
    from tieredllm.render.extract import first_code_block

    if argument not in {"", "code"}:
        raise UsageError(f"/copy takes nothing or `code`, not {argument!r}")
    text = chat.last_answer.text if chat.last_answer is not None else None
    if text is None and chat.dialogue.turns:
        text = chat.dialogue.turns[-1].answered
    if text is None:
        raise UsageError("there is no answer to copy")
    if argument == "code":
        block = first_code_block(text)
        if block is None:
            raise UsageError("the last answer has no code block")
        text = block.code
    terminal = chat.environment.stdout if chat.environment.stdout.isatty() else None
    chat.services.show_dim(copy_to_clipboard(text, chat.environment.env, terminal))


async def log(chat: Chat, _argument: str) -> None:
    """Draw the last request's attempts as a time line."""
    from tieredllm.store.record import LoggedRequest

    if chat.last_prompt is None or chat.last_answer is None:
        raise UsageError("nothing was asked yet; `tieredllm log` has earlier requests")
    answer = chat.last_answer
    chat.services.show_request(
        LoggedRequest(
            asked_at=chat.last_asked_at,
            profile=chat.manager.profile.name,
            conversation_id=chat.dialogue.cid or answer.request_id,
            prompt=Prompt(question=chat.last_prompt.question),
            answer=answer,
        ),
        chat.dialogue.name,
    )


async def usage(chat: Chat, _argument: str) -> None:
    """Count the session's tokens and time."""
    for line in chat.totals.lines():
        chat.services.tell(line)


async def edit(chat: Chat, argument: str) -> None:
    """Write the message in your $EDITOR."""
    if not chat.interactive:
        raise UsageError("/edit needs a terminal")
    chat.draft = chat.services.edit(argument)


async def leave(_chat: Chat, _argument: str) -> None:
    """Leave (Ctrl-D does too)."""
    raise LeaveError


def _turns(dialogue: Dialogue) -> str:
    return pluralize(len(dialogue.turns), "turn")


PROGRAMS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("WAYLAND_DISPLAY", ("wl-copy",)),
    ("DISPLAY", ("xclip", "-selection", "clipboard")),
    ("", ("pbcopy",)),
)
"""What sets the clipboard of this machine's own desktop, and the variable that tells there is one.
They come before OSC 52, for terminals such as GNOME's ignore that without a word."""

TMUX = ("tmux", "load-buffer", "-w", "-")
"""tmux hands the text on to the user's terminal, also over SSH."""

PROGRAM_S = 3.0
"""How long a program may take; one that waits for a display that is not there would hang."""

OSC52_LIMIT = 74_994
"""Bytes that get through everywhere: many terminals take 100,000 of base64, the sequence included
(the limit of hterm's and of vim-oscyank)."""


def copy_to_clipboard(text: str, env: Mapping[str, str], terminal: IO[str] | None) -> str:
    """Copy a text, and say in words what happened.

    Args:
        text: control characters are left out, for it may be pasted into a shell.
        env: tells which desktop there is.
        terminal: where to write an escape sequence (OSC 52); None when there is no terminal.
    """
    text = clean(text).rstrip("\n")
    size = f"{len(text):,} characters" if len(text) != 1 else "1 character"
    for command in clipboard_programs(env):
        if _takes(command, text, env):
            return f"copied {size} with {command[0]}"
    if terminal is None:
        return "not copied: there is no clipboard program and no terminal"
    count = len(text.encode())
    write(terminal, osc52(text))
    said = f"sent {size} to the terminal's clipboard (OSC 52; some terminals do not take it)"
    if count > OSC52_LIMIT:
        said += f"; {count:,} bytes are more than most take"
    return said


def osc52(text: str) -> str:
    """Return the control sequence that asks a terminal to set the clipboard.

    See "Operating System Commands", Ps = 5 2, in xterm's ctlseqs.
    """
    return f"\x1b]52;c;{base64.b64encode(text.encode()).decode()}\x07"


def clipboard_programs(env: Mapping[str, str]) -> list[tuple[str, ...]]:
    """Return the programs to try, the best first.

    Over SSH the desktop of the machine at the other end is not the user's: only tmux, which knows
    the user's terminal, and the terminal itself count.
    """
    is_remote = bool(env.get("SSH_TTY") or env.get("SSH_CONNECTION"))
    found = [
        command
        for variable, command in PROGRAMS
        if not is_remote and (not variable or env.get(variable))
    ]
    return [*found, TMUX] if env.get("TMUX") else found


def _takes(command: tuple[str, ...], text: str, env: Mapping[str, str]) -> bool:
    try:
        done = subprocess.run(  # noqa: S603 - one of a few fixed commands
            command,
            input=text.encode(),
            env=dict(env),
            stdout=subprocess.DEVNULL,  # xclip stays and would hold a pipe open
            stderr=subprocess.DEVNULL,
            timeout=PROGRAM_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


ArgumentKind = Literal["", "tier", "file", "model", "code", "parameter", "prompt"]


class Command(msgspec.Struct, frozen=True):
    """A command: what it does, and what is to know about it."""

    act: Callable[[Chat, str], Awaitable[None]]
    """Carries it out, given what follows the name; its docstring is what `/help` says."""
    argument: str = ""
    """How its argument is written in the help."""
    completes: ArgumentKind = ""
    """What its argument is completed from."""

    @property
    def about(self) -> str:
        """One line."""
        text = " ".join((self.act.__doc__ or "").split()).removesuffix(".")
        return text[:1].lower() + text[1:]


COMMANDS = {
    "help": Command(show_help),
    "tier": Command(tier, "[NAME|auto]", "tier"),
    "health": Command(health),
    "model": Command(model, "[[TIER=]MODEL]", "model"),
    "file": Command(attach, "[FILE|URL|-]", "file"),
    "set": Command(set_parameter, "[NAME VALUE|-]", "parameter"),
    "role": Command(role, "[NAME]", "prompt"),
    "system": Command(system, "[TEXT|-]"),
    "retry": Command(retry, "[TIER]", "tier"),
    "undo": Command(undo),
    "edit": Command(edit, "[TEXT]"),
    "new": Command(begin),
    "clear": Command(clear),
    "history": Command(history, "[ID|NAME]"),
    "name": Command(name_conversation, "[NAME|-]"),
    "save": Command(save, "FILE", "file"),
    "load": Command(load, "FILE", "file"),
    "copy": Command(copy, "[code]", "code"),
    "log": Command(log),
    "usage": Command(usage),
    "exit": Command(leave),
}
"""The commands, in the order of `/help`."""

ALIASES = {
    "quit": "exit", "bye": "exit", "?": "help", "h": "help", "q": "exit", "reset": "new",
    "attach": "file", "f": "file", "parameter": "set", "prompt": "role",
}  # fmt: skip
"""Other names, for people who are used to them."""

KEYS = (
    ("Enter", "send"),
    ("Alt-Enter", "a new line"),
    ('"""', "begin a message of several lines; three more end it"),
    ("Ctrl-O", "write the message in your $EDITOR"),
    ("Ctrl-C", "stop the answer"),
    ("Ctrl-R", "search what was typed before"),
    ("Tab", "complete a command, tier, model or file; while you wait, ask the next model now"),
    ("//", "begin a message that starts with /"),
)
"""What the keys do, for `/help`."""


def find_command(name: str) -> Command | None:
    """Return the command of a name or alias; None when there is no such command."""
    return COMMANDS.get(ALIASES.get(name, name))


def unknown_command(name: str) -> str:
    """Say that there is no such command, and which is near."""
    from difflib import get_close_matches

    near = [each for each in COMMANDS if name and each.startswith(name)]
    near = near or get_close_matches(name, COMMANDS, n=1)
    hint = (
        f"did you mean {' or '.join(f'/{each}' for each in near)}?" if near else "/help lists them"
    )
    return f"no command /{name}: {hint} (// begins a message with a slash)"


def help_rows() -> list[tuple[str, str]]:
    """Return the lines of `/help`: what to type, and what it does."""
    rows = [
        (f"/{name} {command.argument}".rstrip(), command.about)
        for name, command in COMMANDS.items()
    ]
    return [*rows, ("", ""), *KEYS]
