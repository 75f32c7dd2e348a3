"""Define the options that several commands take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tieredllm.cli import completion
from tieredllm.cli.context import current

__all__ = [
    "ApproveTools",
    "Cid",
    "ContinueLast",
    "Deadline",
    "Files",
    "Models",
    "NoColor",
    "NoFallback",
    "NoLog",
    "Profile",
    "Quiet",
    "Raw",
    "RequireLlm",
    "Simulate",
    "StartTier",
    "System",
    "Usage",
    "Verbose",
    "apply",
]

Profile = Annotated[
    str | None,
    typer.Option(
        "--profile",
        "-p",
        metavar="NAME|PATH",
        autocompletion=completion.profiles,
        help="The tier profile to use (else TIEREDLLM_PROFILE, else `default`).",
    ),
]
NoColor = Annotated[bool, typer.Option("--no-color", help="No colour (NO_COLOR works too).")]
Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", help="Tell every attempt, wait and skip on stderr.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No remarks on stderr, only errors.")]

# What `ask` and `chat` share.

System = Annotated[
    str | None, typer.Option("--system", "-s", help="A system prompt.", metavar="TEXT")
]
Models = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        "-m",
        metavar="TIER=MODEL",
        autocompletion=completion.models,
        help="Another model for a tier (repeatable).",
    ),
]
StartTier = Annotated[
    str | None,
    typer.Option(
        "--tier",
        "-t",
        metavar="NAME",
        autocompletion=completion.tiers,
        help="Start at this tier.",
    ),
]
NoFallback = Annotated[bool, typer.Option("--no-fallback", help="Ask only the first tier.")]
RequireLlm = Annotated[
    bool, typer.Option("--require-llm", help="Take a rule answer for a failure.")
]
Deadline = Annotated[
    float | None,
    typer.Option("--deadline", metavar="SECONDS", help="The whole request, all tiers together."),
]
Raw = Annotated[bool, typer.Option("--raw", "-r", help="Do not render Markdown.")]
Files = Annotated[
    list[Path] | None,
    typer.Option("--file", "-f", metavar="PATH", help="A text file to ask about (repeatable)."),
]
ContinueLast = Annotated[
    bool, typer.Option("--continue", "-c", help="Continue the latest conversation.")
]
Cid = Annotated[str | None, typer.Option("--cid", metavar="ID", help="Continue this conversation.")]
Usage = Annotated[bool, typer.Option("--usage", "-u", help="Print tokens and time on stderr.")]
NoLog = Annotated[bool, typer.Option("--no-log", "-n", help="Keep no record of this.")]
ApproveTools = Annotated[
    bool,
    typer.Option(
        "--approve-tools", help="Let models call tools that may change something, unasked."
    ),
]
Simulate = Annotated[
    list[str] | None,
    typer.Option(
        "--simulate",
        metavar="TIER=FAULT",
        autocompletion=completion.faults,
        help="Play a fault instead of calling a tier, such as primary=rate_limit (repeatable); "
        "health learns from it as from a real one.",
    ),
]


def apply(*, profile: str | None, no_color: bool, verbose: bool, quiet: bool) -> None:
    """Take global options over into the session, adding to those given before the command."""
    session = current()
    session.profile_name = profile or session.profile_name
    session.no_color = session.no_color or no_color
    session.verbose = session.verbose or verbose
    session.quiet = session.quiet or quiet
