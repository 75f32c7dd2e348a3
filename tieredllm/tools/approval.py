"""Decide whether a tool may run. What the user said counts; nothing a tool or model says does.

Two things are asked about. A tool that is not known to be read-only may change something. And once
private data was read, a call that can carry data away may carry that away, whatever made the model
want it: private data, words of strangers and a way out are safe only as long as they are not all
three together (https://simonwillison.net/2025/Jun/16/the-lethal-trifecta/).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

import msgspec

from tieredllm.files import atomic_write, one_at_a_time
from tieredllm.text import one_line
from tieredllm.tools.base import Policy, Tool

__all__ = [
    "Approval",
    "Approver",
    "Policy",
    "Question",
    "RememberedApprovals",
    "Reply",
    "names_of",
]

Reply = Literal["no", "once", "tool", "server"]
"""What a person says: this call may run; from now on all calls of the tool, or of its server."""


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """What a person is asked about one call."""

    tool: Tool
    arguments: str
    """As JSON."""
    destination: str | None = None
    """Where it could carry private data to; None when the question is whether it may change
    something."""


Approver = Callable[[Question], Awaitable[Reply]]
"""Ask a person about one call."""


class RememberedApprovals:
    """What a person has approved for good; of a server, as long as it is the same.

    Args:
        path: the file; None where there is none, and this process alone remembers.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._unwritten: tuple[str, ...] = ()
        """What could not be kept in the file."""

    def all(self) -> tuple[str, ...]:
        """Return what was approved, in words."""
        if self._path is None:
            return self._unwritten
        try:
            written = msgspec.json.decode(self._path.read_bytes(), type=list[str])
        except (OSError, msgspec.DecodeError, ValueError):
            written = []
        return (*written, *self._unwritten)

    def covers(self, tool: Tool) -> bool:
        """Whether a tool, or all of its server, was approved."""
        kept = self.all()
        return bool(kept) and (_entry(tool) in kept or _entry(tool, whole=True) in kept)

    def add(self, tool: Tool, *, whole: bool) -> None:
        """Keep that a tool, or all of its server, is approved."""
        entry = _entry(tool, whole=whole)
        try:
            self._change(lambda kept: [*dict.fromkeys([*kept, entry])])
        except OSError:
            self._unwritten += (entry,)

    def forget(self, name: str | None = None) -> int:
        """Forget the approvals of a tool or a server, or all; return how many there were.

        Raises:
            OSError: the file cannot be written.
        """
        if not self.all():
            return 0
        return self._change(
            lambda kept: [it for it in kept if name is not None and name not in names_of(it)]
        )

    def _change(self, change: Callable[[Sequence[str]], list[str]]) -> int:
        """Change the file, no other process meanwhile; return how many entries fewer it has.

        Raises:
            OSError: there is none, or it cannot be written.
        """
        if self._path is None:
            raise FileNotFoundError
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with one_at_a_time(self._path):
            kept = self.all()
            changed = change(kept)
            if changed != [*kept]:
                atomic_write(self._path, msgspec.json.encode(changed), private=True)
                self._unwritten = ()
        return len(kept) - len(changed)


def names_of(entry: str) -> list[str]:
    """Return the server and the tool of what is kept; a server's name may have spaces."""
    return entry.rsplit(" ", 2)[:2]


def _entry(tool: Tool, *, whole: bool = False) -> str:
    """Return what is kept: `docs docs__search 1f0c…`, `docs * 1f0c…`."""
    where = tool.server or tool.origin
    return f"{where} {'*' if whole else tool.name} {tool.identity}".rstrip()


class Approval:
    """Say yes or no to calls.

    Args:
        policy: what the profile says of tools that may change something.
        ask: asks a person; None where there is nobody to ask, and then `ask` means no.
        approved: whether the user has said yes beforehand (`--approve-tools`).
        send_to: where data may go after private data was read; hosts and servers, or patterns.
        remembered: what was approved for good. Like `approved` it answers what would be asked;
            `never` stays never.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        ask: Approver | None = None,
        approved: bool = False,
        send_to: Sequence[str] = (),
        remembered: RememberedApprovals | None = None,
    ) -> None:
        self._policy: Policy = policy
        self._ask = ask
        self._approved = approved
        self._send_to = set(send_to)
        self._remembered = remembered or RememberedApprovals(None)
        self._one_at_a_time = asyncio.Lock()
        self._refused: set[tuple[str, str]] = set()
        self._sources: dict[str, None] = {}

    def begin_request(self) -> None:
        """Forget what was refused in the last request; what private data was read stays known."""
        self._refused.clear()

    def note_result(self, tool: Tool) -> None:
        """Take note that a model was given what a tool found."""
        if tool.private:
            self._sources[tool.name] = None

    async def refusal(
        self, tool: Tool, arguments: str, *, deadline: float, given: dict[str, Any] | None = None
    ) -> str | None:
        """Say why a call may not run; None when it may.

        Args:
            tool: what would run.
            arguments: with what, as JSON.
            deadline: when nobody's answer counts as no, on the event loop's clock.
            given: the arguments.
        """
        policy = tool.approve or self._policy
        if tool.read_only is not True and policy == "never":
            return "this tool may change something, and the profile allows no such tool to run"
        destination = None
        if tool.destination is not None and self._sources:
            destination = tool.destination(given or {})
            if not any(fnmatchcase(destination, it) for it in self._send_to):
                refused = await self._refusal_to_send(tool, arguments, destination, deadline)
                if refused is not None:
                    return refused
        if tool.read_only is True or policy == "always" or self._remembered.covers(tool):
            return None
        if self._approved:
            return None
        if self._ask is None:
            return "this tool may change something, and there is nobody at a terminal to approve it"
        question = Question(tool=tool, arguments=arguments)
        return await self._asked(self._ask, question, deadline, "this tool may change something")

    async def _refusal_to_send(
        self, tool: Tool, arguments: str, destination: str, deadline: float
    ) -> str | None:
        sources = " and ".join(self._sources)
        danger = f"this call could carry private data (of {sources}) to {destination}"
        if self._ask is None:
            return (
                f"{danger}, and there is nobody at a terminal to allow it; the profile's "
                "tools.send_to could name that place"
            )
        question = Question(tool=tool, arguments=arguments, destination=destination)
        refused = await self._asked(self._ask, question, deadline, danger)
        if refused is None:
            self._send_to.add(_literal(destination))
        return refused

    async def _asked(
        self, ask: Approver, question: Question, deadline: float, danger: str
    ) -> str | None:
        try:
            async with asyncio.timeout_at(deadline), self._one_at_a_time:
                approved = await self._approves(ask, question)
        except TimeoutError:
            return "nobody approved this call in time"
        except Exception:  # noqa: BLE001 - a question that cannot be put is not answered with yes
            return f"{danger}, and the user could not be asked"
        return None if approved else "the user did not approve this call"

    async def _approves(self, ask: Approver, question: Question) -> bool:
        """Ask; whoever said no to a call is not asked again by a model that insists."""
        tool = question.tool
        key = (tool.name, question.arguments)
        if key in self._refused:
            return False
        sends = question.destination is not None
        # While this question waited, another one may have been answered for good.
        if not sends and self._remembered.covers(tool):
            return True
        if sends and _literal(question.destination or "") in self._send_to:
            return True
        reply = await ask(question)
        if reply not in ("once", "tool", "server"):  # "no", or what no Approver may say: a bool
            self._refused.add(key)
            return False
        if reply != "once" and not sends:
            self._remembered.add(tool, whole=reply == "server")
        return True


def _literal(text: str) -> str:
    """Return a pattern that matches a text alone."""
    return "".join(f"[{it}]" if it in "*?[" else it for it in one_line(text, 300))
