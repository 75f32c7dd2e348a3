"""Show, check and edit tier profiles: the command `profile`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tieredllm.cli.environment import Environment, current
from tieredllm.cli.exit_codes import ExitCode
from tieredllm.cli.options import Json, make_app
from tieredllm.cli.output import print_json, print_table
from tieredllm.errors import ProfileError, TieredLLMError, UsageError

if TYPE_CHECKING:
    from tieredllm.profile.load import Found

__all__ = ["app", "write_profile"]

app = make_app("profile", no_args_is_help=True)

Name = Annotated[
    str | None,
    typer.Argument(
        metavar="NAME|PATH",
        help="A profile's name or file; the one in use when not given.",
        show_default=False,
    ),
]

_ORIGINS = {"user": "yours", "shipped": "built in", "file": "file"}


@app.command("list")
def list_profiles(
    *,
    as_json: Json = False,
) -> None:
    """List the profiles; `*` is the one in use."""
    from tieredllm.profile.load import find_profile, known_profiles

    environment = current()
    known = known_profiles(environment.places)
    try:
        used = find_profile(environment.profile_name, environment.places)
    except UsageError as exc:
        environment.warn(str(exc))
        used = None
    if used is not None and used not in known:
        known.insert(0, used)
    abouts = [_about(found) for found in known]
    if as_json:
        rows = [
            {
                "name": found.name,
                "origin": found.origin,
                "description": about,
                "path": str(found.path),
                "in_use": found == used,
            }
            for found, about in zip(known, abouts, strict=True)
        ]
        print_json(rows, environment)
        return
    marks = ["*" if found == used else "" for found in known]
    cells = [
        (mark, found.name, _ORIGINS[found.origin], about or "")
        for mark, found, about in zip(marks, known, abouts, strict=True)
    ]
    print_table(("", "profile", "from", "about"), cells, environment)


@app.command("use")
def use(name: Name = None) -> None:
    """Use a profile wherever none is named, from now on; `default` goes back to that one.

    `-p` and TIEREDLLM_PROFILE win over it. Without a name it says which one is used.
    """
    from tieredllm.profile.load import DEFAULT, find_profile, use_profile

    environment = current()
    if name is None:
        print(
            find_profile(environment.profile_name, environment.places).name,
            file=environment.stdout,
        )
        return
    found = find_profile(name, environment.places)
    if not _report(found, environment):
        raise typer.Exit(ExitCode.USAGE)
    chosen = str(found.path.absolute()) if found.origin == "file" else found.name
    try:
        use_profile(None if chosen == DEFAULT else chosen, environment.places)
    except OSError as exc:
        raise TieredLLMError(f"cannot remember it: {exc.strerror or exc}") from exc
    environment.say(f"{found.name} is used from now on, where no other is named")
    if environment.env.get("TIEREDLLM_PROFILE"):
        environment.say("TIEREDLLM_PROFILE is set, and wins over it")


@app.command()
def show(name: Name = None, *, as_json: Json = False) -> None:
    """Print what is in effect, as YAML.

    Every key is there with its value, defaults and inherited ones included; no secret is shown.
    """
    from tieredllm.profile.dump import dump
    from tieredllm.profile.load import find_profile, load

    environment = current()
    found = find_profile(_named(name, environment), environment.places)
    text = dump(load(found, environment.places).profile, environment.keys.origin)
    if as_json:
        import yaml

        print_json(yaml.safe_load(text), environment)
    else:
        environment.stdout.write(text)


@app.command()
def validate(name: Name = None, *, as_json: Json = False) -> None:
    """Check a profile and tell every mistake.

    Each is one line: file, line, column, what is wrong and what would be right. Ends with exit
    code 2 when there is a mistake. What is legal but likely not meant is a warning, and no mistake.
    """
    from tieredllm.profile.load import find_profile

    environment = current()
    found = find_profile(_named(name, environment), environment.places)
    if not _report(found, environment, as_json=as_json):
        raise typer.Exit(ExitCode.USAGE)


@app.command()
def path(name: Name = None) -> None:
    """Print where a profile's file is."""
    from tieredllm.profile.load import find_profile

    environment = current()
    found = find_profile(_named(name, environment), environment.places)
    environment.print(str(found.path))


@app.command()
def edit(name: Name = None) -> None:
    """Edit a profile, and put it in place once it has no mistakes.

    The editor is $VISUAL, else $EDITOR. Of a built-in profile you edit one of your own that
    inherits from it and takes its place; nothing is made when you change nothing.
    """
    from tieredllm.cli.editor import edit_until_right
    from tieredllm.profile.init_template import inheriting
    from tieredllm.profile.load import Found, find_profile

    environment = current()
    found = find_profile(_named(name, environment), environment.places)
    before = _text_of(found.path)
    if found.origin == "shipped":
        path = environment.places.profiles / found.path.name
        before = inheriting(found.name, before)
        found = Found(name=found.name, path=path, origin="user")
    environment.stdout.flush()

    def is_right(text: str) -> bool:
        is_untouched = text == before and not found.path.exists()
        return is_untouched or _report(found, environment, text)

    text, ok = edit_until_right(before, environment, name=found.path.name, is_right=is_right)
    if not ok:
        if text != before:
            rejected = found.path.with_name(f"{found.path.name}.rejected")
            write_profile(rejected, text)
            environment.warn(f"kept as {rejected}; the profile in use is as it was")
        raise typer.Exit(ExitCode.USAGE)
    if text == before and not found.path.exists():
        environment.say("nothing was changed, and nothing made")
    if text != before:
        write_profile(found.path, text)


@app.command()
def init(
    *,
    name: Annotated[
        str | None,
        typer.Option(
            "--name",
            metavar="NAME",
            help="What the profile is called; `default` is used when you name none.",
            show_default=False,
        ),
    ] = None,
    vendor: Annotated[
        list[str] | None,
        typer.Option(
            "--vendor",
            metavar="NAME",
            help="openai, anthropic, gemini or a server's address, the best first (repeatable).",
        ),
    ] = None,
    local: Annotated[
        str | None,
        typer.Option(
            "--local",
            metavar="MODEL",
            help="A name of `models list`, a .gguf file, or `none`; asked when not given.",
            show_default=False,
        ),
    ] = None,
    pull: Annotated[bool, typer.Option("--pull", help="Download the local model.")] = False,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Ask nothing; nothing is downloaded then.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Replace a profile of that name that is there.")
    ] = False,
) -> None:
    """Make a profile of your own by answering a few questions.

    It looks for keys and for servers on this machine, offers a local model, writes what differs
    from a built-in profile into your configuration directory, and ends by running `health`.
    """
    from tieredllm.cli.profile_init import Wishes, make_profile

    wishes = Wishes(
        name=name,
        vendors=tuple(vendor) if vendor else None,
        local=local,
        pull=pull,
        asks=not yes,
        force=force,
    )
    make_profile(current(), wishes)


@app.command()
def schema() -> None:
    """Print the JSON Schema of profiles.

    Save it and name it in a profile's first line: `# yaml-language-server: $schema=FILE`.
    """
    from tieredllm.profile.schema import profile_schema

    print_json(profile_schema(), current())


def write_profile(path: Path, text: str) -> None:
    """Put a profile's file in place at once.

    Raises:
        TieredLLMError: it cannot be written.
    """
    from tieredllm.files import atomic_write

    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        atomic_write(path, text)
    except OSError as exc:
        raise TieredLLMError(f"cannot write {path}: {exc.strerror or exc}") from exc


def _text_of(path: Path) -> str:
    """Read a profile's file.

    Raises:
        UsageError: it is no text file.
    """
    from tieredllm.files import read_file
    from tieredllm.profile.yaml_reader import MAX_BYTES

    try:
        return read_file(path, max_bytes=MAX_BYTES).decode("utf-8")
    except OSError as exc:
        raise UsageError(f"{path} cannot be read: {exc.strerror or exc}") from exc
    except UnicodeDecodeError as exc:
        raise UsageError(f"{path} cannot be read: {exc}") from exc


def _named(name: str | None, environment: Environment) -> str | None:
    return environment.profile_name if name is None else name


def _report(
    found: Found, environment: Environment, text: str | None = None, *, as_json: bool = False
) -> bool:
    """Check a profile and say what was found.

    Args:
        found: where it is.
        environment: where to say it.
        text: what its file is going to say; None to read it.
        as_json: whether to print one JSON value, and nothing else.

    Returns:
        Whether it has no mistakes.
    """
    from tieredllm.profile.lint import lint
    from tieredllm.profile.load import load
    from tieredllm.profile.schema import rule_files
    from tieredllm.rules.load import check_rules_file

    loaded = None
    try:
        loaded = load(found, environment.places, text=text)
        mistakes = [bad for file in rule_files(loaded.profile) for bad in check_rules_file(file)]
    except ProfileError as exc:
        mistakes = exc.mistakes
    doubts = lint(loaded) if loaded is not None and not mistakes else []
    if as_json:
        import msgspec

        value = {
            "path": str(found.path),
            "ok": not mistakes,
            "mistakes": msgspec.to_builtins(mistakes),
            "warnings": msgspec.to_builtins(doubts),
            "tiers": [tier.name for tier in loaded.profile.tiers] if loaded is not None else [],
        }
        print_json(value, environment)
        return not mistakes
    for mistake in mistakes:
        environment.warn(str(mistake))
    if mistakes or loaded is None:
        return False
    for doubt in doubts:
        environment.say(f"{doubt.file}:{doubt.line}:{doubt.column}: warning: {doubt.message}")
    tiers = ", ".join(tier.name for tier in loaded.profile.tiers)
    environment.print(f"ok: {found.path}: {tiers}")
    return True


def _about(found: Found) -> str | None:
    """Read what a profile says of itself, without checking the rest of it."""
    from tieredllm.profile.load import read_mapping

    try:
        root, _ = read_mapping(found.path)
    except ProfileError:
        return f"has mistakes: see `tieredllm profile validate {found.name}`"
    return root.text("description")
