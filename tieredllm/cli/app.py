"""Define the command line: the global options and the commands."""

from __future__ import annotations

from typing import Annotated

import typer

from tieredllm.cli.environment import current
from tieredllm.cli.lazy_group import LazyGroup
from tieredllm.cli.options import GlobalOptions, takes_options

__all__ = ["app"]

app = typer.Typer(
    name="tieredllm",
    cls=LazyGroup,
    rich_markup_mode=None,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Start with `tieredllm 'why is the sky blue?'`, which is short for `tieredllm ask`. "
    "Without any key, a local model or the built-in rules answer.",
)


def _version(wanted: bool) -> None:
    if wanted:
        from tieredllm.version import __version__

        print(f"tieredllm {__version__}", file=current().stdout)
        raise typer.Exit


@app.callback()
@takes_options(GlobalOptions)
def main(
    *,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Ask language models tier by tier until one answers completely.

    The best cloud model first, then another one, then a local model, then plain rules.
    """
