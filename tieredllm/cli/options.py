"""Define the options that several commands take."""

from __future__ import annotations

from typing import Annotated

import typer

from tieredllm.cli.context import current

__all__ = ["NoColor", "Profile", "Quiet", "Verbose", "apply"]

Profile = Annotated[
    str | None,
    typer.Option(
        "--profile",
        "-p",
        metavar="NAME|PATH",
        help="The tier profile to use (else TIEREDLLM_PROFILE, else `default`).",
    ),
]
NoColor = Annotated[bool, typer.Option("--no-color", help="No colour (NO_COLOR works too).")]
Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", help="Tell every attempt, wait and skip on stderr.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No remarks on stderr, only errors.")]


def apply(*, profile: str | None, no_color: bool, verbose: bool, quiet: bool) -> None:
    """Take global options over into the session, adding to those given before the command."""
    session = current()
    session.profile_name = profile or session.profile_name
    session.no_color = session.no_color or no_color
    session.verbose = session.verbose or verbose
    session.quiet = session.quiet or quiet
