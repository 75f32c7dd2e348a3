"""Define what one command sees of the world: environment, places, streams and global options.

Commands take it from `current()`, so that tests run them against streams and directories of their
own.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, cast

if TYPE_CHECKING:
    from rich.console import Console

    from tieredllm.files import Places
    from tieredllm.keys import Keys

__all__ = ["Environment", "current", "discard", "use"]


class Environment:
    """What one command sees of the world.

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
        self.stderr: TextIO = cast("TextIO", _Remarks(stderr or sys.stderr or _nowhere()))
        usual = self.env.get("TIEREDLLM_PROFILE") or None
        self.profile_name = usual if profile_name is None else profile_name
        self.quiet = quiet
        self.verbose = verbose
        self.no_color = no_color
        self._is_homeless_told = False

    @property
    def places(self) -> Places:
        """The user's directories."""
        from tieredllm.files import Places

        places = Places.from_environment(self.env)
        if places.is_nowhere and not self._is_homeless_told:
            self._is_homeless_told = True
            self.say(
                "tieredllm: this user has no home directory, so nothing is kept: set HOME, "
                "or TIEREDLLM_HOME to a directory"
            )
        return places

    @property
    def keys(self) -> Keys:
        """The user's keys: those of the environment, and those that are kept."""
        from tieredllm.keys import Keys

        return Keys(self.env, self.places.keys_file)

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
    def is_interactive(self) -> bool:
        """Whether a person is typing: stdin is a terminal."""
        return self.stdin is not None and not self.stdin.closed and self.stdin.isatty()

    @property
    def is_piped_into(self) -> bool:
        """Whether text may be piped in: stdin is open, and no terminal."""
        return self.stdin is not None and not self.stdin.closed and not self.stdin.isatty()

    @property
    def has_piped_text(self) -> bool:
        """Whether something is piped in: a pipe, a socket, or a file that is not empty."""
        if self.stdin is None or self.stdin.closed:
            return False
        try:
            found = os.fstat(self.stdin.fileno())
        except (OSError, ValueError):
            return False
        if stat.S_ISREG(found.st_mode):
            return found.st_size > 0
        return stat.S_ISFIFO(found.st_mode) or stat.S_ISSOCK(found.st_mode)

    @property
    def color(self) -> bool:
        """Whether stdout takes colour."""
        return self.may_color(self.stdout)

    def console(self, *, stderr: bool = False, layout: bool = False) -> Console:
        """Make a rich console for stdout, or for stderr.

        Args:
            stderr: for stderr.
            layout: whether bold and the like stay where colours are not wanted.
        """
        from tieredllm.render.console import SafeConsole

        stream = self.stderr if stderr else self.stdout
        plain = not self.may_color(stream)
        keeps = layout and stream.isatty() and self.env.get("TERM") != "dumb"
        return SafeConsole(
            file=stream,
            force_terminal=stream.isatty(),  # FORCE_COLOR would make rich take a pipe for one
            color_system=None if plain and not keeps else "auto",  # None: no bold, no dim either
            no_color=plain,
            highlight=False,
            soft_wrap=not stream.isatty(),
        )

    def columns(self, stream: TextIO) -> int:
        """Return how wide a terminal is: `COLUMNS` wins, and 80 is for one that does not tell.

        `shutil.get_terminal_size` asks about stdout alone, which may be a pipe beside a terminal.
        """
        given = self.env.get("COLUMNS", "")
        if given.isdecimal() and int(given):
            return int(given)
        try:
            return os.get_terminal_size(stream.fileno()).columns or 80
        except (OSError, ValueError):
            return 80

    def print(self, text: str, *, wrap: bool = False) -> None:
        """Print lines on stdout: for a terminal without what would do something else there.

        Args:
            text: the lines.
            wrap: whether a terminal breaks long ones between words; not what is to be copied.
        """
        if self.stdout.isatty():
            from tieredllm.text import clean

            text = clean(text)
            if wrap:
                width = self.columns(self.stdout)
                text = "\n".join(
                    _wrapped(line, width, hang=2 if line.startswith(" ") else 0)
                    for line in text.split("\n")
                )
        print(text, file=self.stdout)

    def say(self, text: str) -> None:
        """Print a remark on stderr, unless quiet: dim, as no model's words are."""
        if not self.quiet:
            self._tell(text, dim=self.may_color(self.stderr))

    def warn(self, text: str) -> None:
        """Print a line on stderr; on a terminal a long one is broken between words."""
        self._tell(text)

    def _tell(self, text: str, *, dim: bool = False) -> None:
        if self.stderr.isatty():
            from tieredllm.text import clean

            text = clean(text)
            if "\n" not in text:
                text = _wrapped(text, self.columns(self.stderr))
        print(f"\x1b[2m{text}\x1b[0m" if dim else text, file=self.stderr, flush=True)


class _Remarks:
    """Stderr, which takes no answer along when its reader is gone or its disk is full."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write, or give up on this and all that follows."""
        try:
            return self._stream.write(text)
        except OSError:
            discard(self._stream)
            return len(text)

    def flush(self) -> None:
        """Flush, or give up on what is waiting and all that follows."""
        try:
            self._stream.flush()
        except OSError:
            discard(self._stream)


def discard(stream: TextIO) -> None:
    """Point a stream nowhere, so that the interpreter's own last flush has nothing to fail on."""
    try:
        descriptor = stream.fileno()
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), descriptor)
    except (OSError, ValueError, AttributeError) as exc:
        if getattr(exc, "errno", None) not in {errno.EBADF, None}:
            raise


def _wrapped(line: str, width: int, *, hang: int = 2) -> str:
    """Break a line that is too long between words; a long word stays whole, to be copied."""
    if len(line) <= width:
        return line
    import textwrap

    indent = " " * (len(line) - len(line.lstrip()) + hang)
    return textwrap.fill(
        line, width, subsequent_indent=indent, break_on_hyphens=False, break_long_words=False
    )


def _nowhere() -> TextIO:
    """Stand in for a standard stream that was closed (`>&-`)."""
    return Path(os.devnull).open("w", encoding="utf-8")


_current: ContextVar[Environment | None] = ContextVar("tieredllm_environment", default=None)


def current() -> Environment:
    """Return the environment of the running command."""
    environment = _current.get()
    if environment is None:
        environment = Environment()
        _current.set(environment)
    return environment


def use(environment: Environment) -> None:
    """Make an environment the current one."""
    _current.set(environment)
