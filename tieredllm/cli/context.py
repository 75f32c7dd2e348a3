"""Hold what one command sees of the world: environment, places, streams and global options.

Commands take it from `current()`, so that tests run them against streams and directories of their
own.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.console import Console

    from tieredllm.files import Places

__all__ = ["Session", "current", "use"]


class Session:
    """Be the surroundings of one command.

    Args:
        env: the environment; never written to.
        stdin: where piped text comes from; None when it is closed.
        stdout: where results go.
        stderr: where everything else goes.
        profile_name: the profile asked for by `-p` or `TIEREDLLM_PROFILE`; None for the default.
        quiet: whether to keep remarks to oneself.
        verbose: whether to tell more.
        no_color: whether `--no-color` was given.
    """

    def __init__(
        self,
        *,
        env: Mapping[str, str] | None = None,
        stdin: TextIO | None = None,
        stdout: TextIO | None = None,
        stderr: TextIO | None = None,
        profile_name: str | None = None,
        quiet: bool = False,
        verbose: bool = False,
        no_color: bool = False,
    ) -> None:
        self.env: Mapping[str, str] = os.environ if env is None else env
        self.stdin: TextIO | None = stdin if stdin is not None else sys.stdin
        self.stdout: TextIO = stdout or sys.stdout or _nowhere()
        self.stderr: TextIO = stderr or sys.stderr or _nowhere()
        self.profile_name = profile_name or self.env.get("TIEREDLLM_PROFILE") or None
        self.quiet = quiet
        self.verbose = verbose
        self.no_color = no_color

    @property
    def places(self) -> Places:
        """The user's directories."""
        from tieredllm.files import Places

        return Places.from_environment(self.env)

    def may_color(self, stream: TextIO) -> bool:
        """Whether a stream takes colour: a terminal that nobody asked to keep plain.

        See https://no-color.org: any non-empty `NO_COLOR` counts.
        """
        return (
            not self.no_color
            and not self.env.get("NO_COLOR")
            and self.env.get("TERM") != "dumb"
            and stream.isatty()
        )

    @property
    def color(self) -> bool:
        """Whether stdout takes colour."""
        return self.may_color(self.stdout)

    def console(self, *, stderr: bool = False) -> Console:
        """Make a rich console for stdout, or for stderr."""
        from rich.console import Console

        stream = self.stderr if stderr else self.stdout
        plain = not self.may_color(stream)
        return Console(
            file=stream,
            color_system=None if plain else "auto",  # None: no bold and no dim either
            no_color=plain,
            highlight=False,
            soft_wrap=not stream.isatty(),
        )

    def say(self, text: str) -> None:
        """Print a remark on stderr, unless quiet."""
        if not self.quiet:
            self.warn(text)

    def warn(self, text: str) -> None:
        """Print a line on stderr; on a terminal a long one is broken between words."""
        if self.stderr.isatty():
            import shutil
            import textwrap

            width = shutil.get_terminal_size().columns
            if len(text) > width and "\n" not in text:
                text = textwrap.fill(text, width, subsequent_indent="  ", break_on_hyphens=False)
        print(text, file=self.stderr, flush=True)


def _nowhere() -> TextIO:
    """Stand in for a standard stream that was closed (`>&-`)."""
    return Path(os.devnull).open("w", encoding="utf-8")


_current: ContextVar[Session | None] = ContextVar("tieredllm_session", default=None)


def current() -> Session:
    """Give the session of the running command."""
    session = _current.get()
    if session is None:
        session = Session()
        _current.set(session)
    return session


def use(session: Session) -> None:
    """Make a session the current one."""
    _current.set(session)
