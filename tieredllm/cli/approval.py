"""Ask the person at the terminal whether a tool may run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tieredllm.cli.environment import Environment

if TYPE_CHECKING:
    from tieredllm.render.view import View
    from tieredllm.tools.approval import Approver
    from tieredllm.tools.base import Tool

__all__ = ["ChatApprover", "beside", "terminal_approver"]

SHOWN_CHARACTERS = 2000
"""How much of a call's arguments is shown; nobody reads more before they answer."""


def terminal_approver(environment: Environment) -> Approver | None:
    """Make the function that asks; None where nobody could answer, or see the question.

    The question is on stderr, the answer comes from stdin, and both have to be a terminal: what is
    piped in is never an answer. Anything but `y` or `yes` means no.
    """
    stdin, stderr = environment.stdin, environment.stderr
    if stdin is None or not stdin.isatty() or not stderr.isatty():
        return None

    async def ask(tool: Tool, arguments: str) -> bool:
        from tieredllm.aio import in_thread
        from tieredllm.text import one_line

        shown = one_line(arguments, SHOWN_CHARACTERS)
        if len(arguments) > SHOWN_CHARACTERS:
            shown += f" ({len(arguments)} characters in all)"
        print(f"{tool.name} {shown}", file=stderr)
        print("This may change something. Run it? [y/N] ", end="", file=stderr, flush=True)
        answer = await in_thread(stdin.readline)
        if not answer.endswith("\n"):
            print(file=stderr)  # Ctrl-D leaves the cursor behind the question
        return answer.strip().lower() in {"y", "yes"}

    return ask


def beside(view: View, approver: Approver | None) -> Approver | None:
    """Make what asks keep the view still for as long as the question stands.

    Args:
        view: what shows the request.
        approver: asks; None where nobody could answer.
    """
    if approver is None:
        return None

    async def ask(tool: Tool, arguments: str) -> bool:
        view.pause()
        try:
            return await approver(tool, arguments)
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

    async def __call__(self, tool: Tool, arguments: str) -> bool:
        """Ask; no where nobody could answer."""
        from tieredllm.chat.line_reader import line_keys

        approver = terminal_approver(self._session)
        if approver is None or self.view is None:
            return False
        with line_keys(self._session.stdin):
            asked = beside(self.view, approver)
            return asked is not None and await asked(tool, arguments)
