"""`tieredllm models`: list, pull, add, show, verify and remove local model files."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from tieredllm.cli.completion import keep_offered, local_models, tiers
from tieredllm.cli.environment import current
from tieredllm.cli.options import Json, make_app
from tieredllm.cli.output import print_json, print_table
from tieredllm.errors import FallbackTriggerError, ModelFileError, TieredLLMError, UsageError
from tieredllm.local.ladder import WORDS, Trial
from tieredllm.redaction import is_address, mask_url
from tieredllm.text import format_bytes

if TYPE_CHECKING:
    from tieredllm.cli.environment import Environment
    from tieredllm.local.library import Library, LocalModel
    from tieredllm.local.progress import Progress
    from tieredllm.local.pull import Pulled

__all__ = ["app"]

NAMES = """Names of models:

\b
  smollm2-135m                  the catalog: `tieredllm models list`
  hf:OWNER/NAME[:QUANT|FILE]    the Hugging Face hub; also hf.co/..., a URL
  ollama:gemma3:4b              what Ollama has pulled
  lmstudio:OWNER/NAME[:QUANT]   what LM Studio has
  llama.cpp:FILE                what llama.cpp has downloaded
  ~/models/my.gguf              any file
"""

app = make_app("models", epilog=NAMES, no_args_is_help=True)

MEMORY_CONTEXT_TOKENS = 4096
"""The context that a model's memory is told for."""
GROUPS = {
    "catalog": "installed", "hub": "installed", "folder": "installed", "added": "installed",
    "other": "elsewhere", "path": "elsewhere",
}  # fmt: skip
"""Whose a file is → the group it is listed in."""

PLAIN_EVERY_S = 5.0
"""How often progress is told where there is no terminal."""
STEPS = {"download": "downloading", "unpack": "unpacking", "verify": "verifying"}

Name = Annotated[
    str,
    typer.Argument(
        metavar="NAME",
        help="A name of `tieredllm models list`, or any form of `tieredllm models --help`.",
        autocompletion=local_models,
    ),
]
MaybeName = Annotated[
    str | None,
    typer.Argument(
        metavar="NAME",
        help="A model, or the path of a .gguf file; without one, all that are installed.",
        autocompletion=local_models,
    ),
]
HEADINGS = ("model", "where", "size", "quant", "context", "fits")


def _library(environment: Environment) -> Library:
    from tieredllm.local.library import Library

    return Library(environment.places, environment.env)


@app.command("list")
def list_models(
    *,
    tier: Annotated[
        str | None,
        typer.Option(
            "--tier",
            "-t",
            metavar="NAME",
            autocompletion=tiers,
            help="Ask the vendors and servers of a tier what they offer; `-m` then completes it.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """List the models on this machine, and those of the catalog that can be pulled.

    What Ollama, LM Studio, llama.cpp and the Hugging Face hub's cache keep is used where it lies.
    `fits` tells whether the memory that is free now is enough.
    """
    environment = current()
    if tier is not None:
        _print_offered(tier, environment, as_json=as_json)
        return
    library = _library(environment)
    here = list(library.here())
    models = [*here, *(model for model in library.catalog() if model.size_bytes is None)]
    _print_models(models, environment, as_json=as_json)


def _print_offered(name: str, environment: Environment, *, as_json: bool) -> None:
    """Print what the backends of a tier offer, and keep it for completion.

    Raises:
        UsageError: there is no such tier, or none of its backends has a list.
        TieredLLMError: none of them gave one.
    """
    from tieredllm.aio import run
    from tieredllm.client import FallbackManager
    from tieredllm.providers.cloud import CloudBackend

    manager = FallbackManager(
        environment.profile_name, env=environment.env, places=environment.places
    )
    manager.check_tiers([name])
    plan = next(plan for plan in manager.plans if plan.tier.name == name)
    servers = [each for each in plan.backends if isinstance(each, CloudBackend)]
    if not servers:
        raise UsageError(f"tier {name} asks no server: `tieredllm models list` has local models")
    rows: list[dict[str, str]] = []
    troubles: list[str] = []

    async def ask() -> None:
        try:
            for server in servers:
                missing = server.missing()
                if missing is not None:
                    troubles.append(f"{server.provider}: {missing.what}: {missing.fix}")
                    continue
                try:
                    names = await server.list_models()
                except FallbackTriggerError as exc:
                    troubles.append(f"{server.provider}: {exc.info}")
                    continue
                rows.extend({"model": model, "provider": server.provider} for model in names)
        finally:
            await manager.aclose()

    run(ask())
    if not rows:
        raise TieredLLMError("; ".join(troubles))
    for trouble in troubles:
        environment.say(f"tieredllm: {trouble}")
    keep_offered(name, [row["model"] for row in rows], environment.places)
    if as_json:
        print_json(rows, environment)
    else:
        print_table(
            ("model", "provider"), [(row["model"], row["provider"]) for row in rows], environment
        )


@app.command("find")
def find_models(
    text: Annotated[
        str | None, typer.Argument(metavar="TEXT", help="Only those whose name has this in it.")
    ] = None,
    *,
    as_json: Json = False,
) -> None:
    """List the models that other programs keep on this machine."""
    environment = current()
    models = [
        model
        for model in _library(environment).elsewhere()
        if text is None or text.lower() in model.name.lower()
    ]
    about = f" whose name has {text!r} in it" if text else ""
    empty = f"no model{about} in the stores of Ollama, LM Studio, llama.cpp and the hub's cache"
    _print_models(models, environment, as_json=as_json, empty=empty)


def _print_models(
    models: list[LocalModel], environment: Environment, *, as_json: bool, empty: str | None = None
) -> None:
    facts = [_facts(model) for model in models]
    if as_json:
        print_json(facts, environment)
        return
    rows = [
        (
            row["name"],
            row["where"],
            format_bytes(row["size_bytes"]) if row["size_bytes"] else "-",
            row["quant"] or "-",
            str(row["context_tokens"] or "-"),
            row["trouble"] or {True: "yes", False: "no", None: "-"}[row["fits"]],
        )
        for row in facts
    ]
    print_table(HEADINGS, rows, environment, empty=empty)


def _facts(model: LocalModel) -> dict[str, Any]:
    """Return what is known of a model without loading it."""
    from tieredllm.local.gguf import UnreadableError, read_header
    from tieredllm.local.machine import available_bytes
    from tieredllm.local.validate import needed_bytes, unfit

    size = model.size_bytes
    entry = model.entry
    facts: dict[str, Any] = {
        "name": model.name,
        "group": GROUPS[model.owner] if size is not None else "catalog",
        "where": _where(model),
        "installed": size is not None,
        "path": str(model.path) if size is not None else None,
        "size_bytes": size if size is not None else (entry.size_bytes if entry else 0) or None,
        "quant": model.quant,
        "architecture": None,
        "parameters": None,
        "context_tokens": (entry.context_tokens if entry else 0) or None,
        "has_chat_template": None,
        "memory_bytes": None,
        "fits": None,
        "trouble": None,
        "licence": entry.licence if entry else None,
        "description": entry.description if entry else None,
    }
    if size is None:
        return facts
    try:
        header = read_header(model.path)
    except UnreadableError as exc:
        return facts | {"trouble": exc.reason}
    needed, free = needed_bytes(header, MEMORY_CONTEXT_TOKENS), available_bytes()
    return facts | {
        "architecture": header.architecture,
        "model_name": header.name,
        "context_tokens": header.context_tokens or None,
        "has_chat_template": header.has_chat_template,
        "memory_bytes": needed,
        "fits": None if free is None else needed <= free,
        "trouble": unfit(model.path, header),
    }


def _where(model: LocalModel) -> str:
    if model.size_bytes is None:
        return "to pull" if model.owner == "catalog" else "gone"
    if model.stored is not None:
        return model.stored.owner
    if model.owner == "path":
        return "where its path says"
    return {"folder": "models folder", "added": "added"}.get(model.owner, "installed")


@app.command("show")
def show_model(name: Name, *, as_json: Json = False) -> None:
    """Show what a model is: its file, its size, its context, whether it fits, how fast it is."""
    from tieredllm.local.gguf import read_header
    from tieredllm.local.validate import quick_check
    from tieredllm.local.validation_cache import ValidationCache

    environment = current()
    model = _library(environment).find(name)
    facts = _facts(model)
    if model.size_bytes is None and model.entry is None:
        model.require()
        read_header(model.path)  # tells what is there instead of a file
    verdicts = ValidationCache(environment.places.cache)
    chosen = None
    if model.size_bytes is not None and facts["trouble"] is None:
        with contextlib.suppress(FallbackTriggerError):
            chosen = quick_check(model.path, n_ctx=MEMORY_CONTEXT_TOKENS, verdicts=verdicts).chosen
    facts["speed"] = chosen.describe() if chosen is not None else None
    if as_json:
        print_json(facts, environment)
        return
    memory = f"about {format_bytes(facts['memory_bytes'])}" if facts["memory_bytes"] else None
    fits = {True: "free now", False: "more than is free now", None: None}[facts["fits"]]
    shown = {
        "model": facts["name"],
        "where": facts["where"],
        "file": facts["path"],
        "calls itself": facts.get("model_name"),
        "architecture": facts["architecture"],
        "size": format_bytes(facts["size_bytes"]) if facts["size_bytes"] else None,
        "quantisation": facts["quant"],
        "context": facts["context_tokens"] and f"{facts['context_tokens']:,} tokens",
        "chat template": {True: "yes", False: "none", None: None}[facts["has_chat_template"]],
        "memory": memory and f"{memory} for {MEMORY_CONTEXT_TOKENS:,} tokens, {fits}",
        "speed here": facts["speed"]
        or (f"not tried yet: `tieredllm models verify {name}`" if facts["installed"] else None),
        "cannot be used": facts["trouble"],
        "licence": facts["licence"],
        "about": facts["description"],
        "to get it": None if facts["installed"] else f"tieredllm models pull {name}",
    }
    rows = [(label, str(value)) for label, value in shown.items() if value]
    print_table(("", ""), rows, environment)


@app.command("pull")
def pull_model(name: Name) -> None:
    """Download a model, verify it, and try whether it loads.

    NAME is a name of the catalog, hf:OWNER/NAME[:QUANT|FILE] of the Hugging Face hub (as it is
    pasted, too: hf.co/..., https://...), or the URL of a .gguf file. An interrupted download goes
    on where it stopped. A token for gated models is taken from HF_TOKEN, another hub from
    HF_ENDPOINT.
    """
    from tieredllm.local.pull import measure

    environment = current()
    shown = mask_url(name)
    with _progress(environment, shown) as progress:
        pulled = _pull(name, environment, progress)
    checked = " and verified" if pulled.verified else ""
    if pulled.already:
        environment.say(f"{shown} is already installed{checked}: {pulled.path}")
    else:
        environment.say(f"{shown} is installed{checked}: {pulled.path}")
        environment.say(f"licence: {pulled.licence}")
    try:
        chosen = measure(pulled.path, pulled.sha256, environment.places.cache).chosen
    except FallbackTriggerError as exc:
        environment.warn(f"it cannot be used as things are: {exc.message}")
    else:
        if chosen is not None:
            environment.say(f"it was tried here: {chosen.describe()}")


def _pull(name: str, environment: Environment, progress: Callable[[Progress], None]) -> Pulled:
    """Download a model by any of its names.

    Raises:
        ModelFileError: it did not work, or the name is of nothing that can be pulled.
    """
    from tieredllm.local.library import NotInstalledError
    from tieredllm.local.pull import Pulled, Puller

    puller = Puller(
        environment.places.models,
        env=environment.env,
        progress=progress,
        notice=environment.say,
    )
    library = _library(environment)
    entry = library.entries().get(name)
    if entry is not None:
        return puller.catalog(entry)
    hub = library.hub_name(name)
    if hub is not None:
        return puller.hub(hub)
    if is_address(name):
        return puller.url(name)
    try:
        found = library.find(name)
    except NotInstalledError as exc:
        raise UsageError(str(exc)) from exc
    if found.size_bytes is None:
        raise UsageError(f"{found.path} does not exist, and a path cannot be pulled")
    return Pulled(path=found.path, sha256=None, verified=False, already=True)


@app.command("add")
def add_model(
    file: Annotated[Path, typer.Argument(metavar="PATH", help="A .gguf file.")],
    name: Annotated[
        str | None,
        typer.Option("--name", metavar="NAME", help="What to call it; else its file's name."),
    ] = None,
) -> None:
    """Give a model file a short name; it stays where it is."""
    from tieredllm.local.gguf import SHARD, read_header
    from tieredllm.local.validate import unfit

    environment = current()
    path = file.expanduser().absolute()
    trouble = unfit(path, read_header(path))
    if trouble is not None:
        raise ModelFileError(f"{path} {trouble}")
    part = SHARD.match(path.name)
    chosen = name or (part["stem"] if part else path.stem)
    model = _library(environment).add(path, chosen)
    environment.say(f"{model.name} is {model.path}: `tieredllm ask -m {model.name} ...`")


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
def verify_models(name: MaybeName = None, *, as_json: Json = False) -> None:
    """Check a model's file, or all that are installed: its SHA-256, and how fast it is here.

    Each way to load it that may be the best is tried in a process of its own, so that one that
    crashes on this machine's processor is noticed and left out.
    """
    from tieredllm.local.llama_bindings import AMX_REBUILD
    from tieredllm.local.machine import has_amx
    from tieredllm.local.pull import verify

    session = current()
    library = _library(session)
    if name is None:
        chosen = [model for model in library.here() if model.owner != "other"]
        if not chosen:
            session.say("no model is installed: `tieredllm models pull NAME` gets one")
    else:
        chosen = [library.find(name)]
    rows: list[dict[str, Any]] = []
    for model in chosen:
        row: dict[str, Any] = {"name": model.name, "path": str(model.path)}
        row |= {"sha256": None, "used": None, "trials": [], "error": None}
        rows.append(row)
        try:
            found = verify(model, cache_dir=session.places.cache)
        except ModelFileError as exc:
            row["error"] = str(exc)
            continue
        trials, used = found.validated.trials, found.validated.rung
        row |= {"sha256": found.sha256, "used": used, "trials": msgspec.to_builtins(trials)}
        if as_json:
            continue
        session.print(model.name)
        known = f"SHA-256 {found.sha256}" if found.sha256 else "its SHA-256 is not known"
        session.print(f"  {known}")
        for trial in trials:
            mark = "; used for a short question" if trial.rung == used else ""
            session.print(f"  {_trial(trial)}{mark}", wrap=True)
        if has_amx() and any(trial.rung == "repacked" and trial.fault for trial in trials):
            advice = f"compiled so that its kernels for AMX work, it is faster: `{AMX_REBUILD}`"
            session.print(f"  {advice}", wrap=True)
    if as_json:
        print_json(rows, session)
    failures = [row["error"] for row in rows if row["error"]]
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
    """Remove a model's file, if tieredllm pulled it; of an added one the name alone."""
    from tieredllm.local.pull import remove

    session = current()
    library = _library(session)
    model = library.find(name)
    if model.owner == "added":
        library.forget(model.name)
        session.say(f"{name} is no name any more; {model.path} stays where it is")
        return
    if model.stored is not None:
        raise UsageError(f"{name} is {model.stored.owner}'s: {model.stored.remove}")
    if model.owner == "path":
        raise UsageError(f"tieredllm did not pull {model.path}: remove it yourself")
    if not yes and model.path.exists():
        if session.stdin is None or not session.stdin.isatty():
            raise UsageError(f"add --yes to remove {model.path} without being asked")
        if not typer.confirm(f"Remove {model.path}?", err=True):
            raise typer.Exit(1)
    freed = remove(model, session.places.models)
    session.say(f"{name} is removed; {format_bytes(freed)} are free again")


@app.command("path")
def show_path(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            help="A model; without one, where model files are kept.",
            autocompletion=local_models,
        ),
    ] = None,
    *,
    as_json: Json = False,
) -> None:
    """Print where a model's file is, or where model files are kept."""
    session = current()
    path = session.places.models
    if name is not None:
        model = _library(session).find(name)
        model.require()
        path = model.path
    if as_json:
        print_json({"name": name, "path": str(path)}, session)
    else:
        session.print(str(path))
