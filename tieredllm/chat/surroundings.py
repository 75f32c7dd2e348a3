"""Define what a chat needs from outside."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol, TextIO

import msgspec

if TYPE_CHECKING:
    from tieredllm.health.report import HealthReport
    from tieredllm.render.showing import View
    from tieredllm.store.record import LoggedRequest

__all__ = ["MakeView", "Reader", "Services", "Surroundings"]


class Surroundings(Protocol):
    """Be what a command sees of the world."""

    @property
    def env(self) -> Mapping[str, str]:
        """The environment."""
        ...

    @property
    def stdin(self) -> TextIO | None:
        """Where questions come from; None when it is closed."""
        ...

    @property
    def stdout(self) -> TextIO:
        """Where answers go."""
        ...

    @property
    def quiet(self) -> bool:
        """Whether to keep remarks to oneself."""
        ...


class Reader(Protocol):
    """Give what the user types."""

    async def read(self, prefill: str = "") -> str:
        """Give the next message or command, as it was typed.

        Args:
            prefill: text to begin with, where it can be edited.

        Raises:
            EOFError: there is no more.
            KeyboardInterrupt: Ctrl-C was pressed and nothing had been typed.
        """
        ...

    def interrupt(self) -> None:
        """Make `read` raise KeyboardInterrupt: SIGINT came."""
        ...

    def between_messages(self) -> AbstractContextManager[None]:
        """Keep what is typed outside `read` for the next one, and off the screen."""
        ...


MakeView = Callable[[Callable[[str], str | None] | None], "tuple[View, bool]"]
"""Make the view of one answer, and say whether it needs ticks; given what heads a tier's text."""


class Services(msgspec.Struct, frozen=True, kw_only=True):
    """Hold what the chat lets the command line do."""

    make_view: MakeView
    show_health: Callable[[HealthReport], None]
    show_request: Callable[[LoggedRequest], None]
    show_rows: Callable[[list[tuple[str, str]]], None]
    """Print two columns."""
    show_dim: Callable[[str], None]
    """Print a line that does not catch the eye."""
    tell: Callable[[str], None]
    """Print a line that is to be seen."""
    show_gap: Callable[[], None]
    """Set an answer off from the next prompt, on a screen."""
    edit: Callable[[str], str]
    """Let the user edit a text; raises UsageError."""
