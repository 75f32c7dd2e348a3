"""Ask the person at the terminal whether a tool may run."""

from __future__ import annotations

from typing import TYPE_CHECKING, TextIO

from tieredllm.cli.environment import Environment

if TYPE_CHECKING:
    from tieredllm.render.view import View
    from tieredllm.tools.approval import Approver, Question, Reply

__all__ = ["ChatApprover", "beside", "terminal_approver"]

SHOWN_CHARACTERS = 2000
"""How much of a call's arguments is shown; nobody reads more before they answer."""

LINE_BYTES = 4096
"""How long a line is that a terminal takes: MAX_CANON of Linux."""

ABOUT_CHARACTERS = 160
"""How much of a tool's description is shown."""


def terminal_approver(environment: Environment) -> Approver | None:
    """Make the function that asks; None where nobody could answer, or see the question.

    The question is on stderr, the answer comes from stdin, and both have to be a terminal: what is
    piped in is never an answer. Anything but `y` and `yes` means no, apart from what the question
    offers besides.
    """
    stdin, stderr = environment.stdin, environment.stderr
    if stdin is None or not stdin.isatty() or not stderr.isatty():
        return None

    async def ask(question: Question) -> Reply:
        from tieredllm.text import one_line

        tool, arguments = question.tool, question.arguments
        shown = one_line(arguments, SHOWN_CHARACTERS)
        if len(arguments) > SHOWN_CHARACTERS:
            shown += f" ({len(arguments)} characters in all)"
        print(f"{tool.name} {shown}", file=stderr)
        about = one_line(tool.description.strip().partition("\n")[0], ABOUT_CHARACTERS)
        if about:
            print(f"  {about}", file=stderr)
        print(*_prompt(question), sep="\n", end=" ", file=stderr, flush=True)
        answer = ""
        try:
            answer = await _typed_line(stdin)
        finally:
            if not answer.endswith("\n"):
                # Ctrl-D and the end of the time leave the cursor behind the question.
                print(file=stderr, flush=True)
        return _reply(answer.strip().lower(), question)

    return ask


async def _typed_line(stdin: TextIO) -> str:
    """Return the next line of a terminal.

    Who stops waiting takes nothing that is typed from whoever reads next, as a thread that hangs in
    `readline` would.
    """
    import asyncio
    import os

    from tieredllm.aio import in_thread

    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    try:
        loop.add_reader(stdin, ready.set)
    except NotImplementedError:  # on Windows
        return await in_thread(stdin.readline)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(stdin)
    return os.read(stdin.fileno(), LINE_BYTES).decode(errors="replace")


def _prompt(question: Question) -> list[str]:
    if question.destination is not None:
        from tieredllm.text import one_line

        where = one_line(question.destination, ABOUT_CHARACTERS)
        return [f"  Private data was read: this could carry it to {where}.", "Run it? [y/N]"]
    server = question.tool.server
    always = f", s: always all of {server}" if server else ""
    return [f"  y: yes, a: always this tool{always}", "This may change something. Run it? [y/N]"]


def _reply(answer: str, question: Question) -> Reply:
    if question.destination is None:
        if answer in {"a", "always"}:
            return "tool"
        if answer in {"s", "server"} and question.tool.server:
            return "server"
    return "once" if answer in {"y", "yes"} else "no"


def beside(view: View, approver: Approver | None) -> Approver | None:
    """Make what asks keep the view still for as long as the question stands.

    Args:
        view: what shows the request.
        approver: asks; None where nobody could answer.
    """
    if approver is None:
        return None

    async def ask(question: Question) -> Reply:
        view.pause()
        try:
            return await approver(question)
        finally:
            view.resume()

    return ask


class ChatApprover:
    """Ask within a chat, where the view changes with each answer and keys are quiet meanwhile.

    Args:
        environment: the surroundings; its stdin and stderr are terminals.
    """

    def __init__(self, environment: Environment) -> None:
        self.view: View | None = None
        """What shows the answer under way."""
        self._session = environment

    def withheld(self) -> list[str]:
        """Return the remarks that came after the last answer had ended."""
        return self.view.withheld if self.view is not None else []

    async def __call__(self, question: Question) -> Reply:
        """Ask; no where nobody could answer."""
        from tieredllm.render.keys import line_keys

        approver = terminal_approver(self._session)
        if approver is None or self.view is None:
            return "no"
        with line_keys(self._session.stdin):
            asked = beside(self.view, approver)
            return "no" if asked is None else await asked(question)
