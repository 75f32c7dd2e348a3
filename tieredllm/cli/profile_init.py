"""Carry out `profile init`: settle what the profile is to be, write it, and see how it does."""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path

import msgspec

from tieredllm.cli.environment import Environment
from tieredllm.cli.profile_questions import Questions, server_at
from tieredllm.errors import ModelFileError, TieredLLMError, UsageError
from tieredllm.keys import Keys
from tieredllm.local.library import Library, LocalModel
from tieredllm.profile.init_template import VENDORS, Choice, Server, draft
from tieredllm.profile.schema import KEY_VARIABLES
from tieredllm.redaction import is_address

__all__ = ["Wishes", "make_profile"]

NO_MODEL = "none"
"""How `--local` says that no local model is wanted."""

BEST_LOCAL = "gemma-2-2b-it"
"""The local model of the built-in profile."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


class Wishes(msgspec.Struct, frozen=True, kw_only=True):
    """What was said on the command line; None means that it is to be asked."""

    name: str | None
    vendors: tuple[str, ...] | None
    """Names of vendors, and at most one server's address."""
    local: str | None
    pull: bool
    asks: bool
    """Whether there may be questions."""
    force: bool


def make_profile(environment: Environment, wishes: Wishes) -> None:
    """Make a profile.

    Raises:
        UsageError: there is nobody to ask, or a wish cannot be met.
        ProfileError: what would be written has mistakes; nothing was written.
        TieredLLMError: the user would not have a file replaced; nothing was changed.
    """
    library = Library(environment.places, environment.env)
    local_models = {model.name: model for model in library.catalog()}
    local_models |= {model.name: model for model in library.here()}
    _check(wishes, local_models)
    if wishes.asks and (environment.stdin is None or not environment.stdin.isatty()):
        raise UsageError("there is no terminal to ask at: add --yes")
    keys = environment.keys
    questions = Questions(environment, keys) if wishes.asks else None

    name = wishes.name or (questions.name(_name_problem) if questions else "default")
    path = environment.places.profiles / f"{name}.yaml"
    _may_write(path, wishes, questions)
    sources = _sources(wishes, keys, questions)
    local = _local(wishes, local_models, questions)
    pulls = wishes.pull and local in local_models
    entry = local_models[local].entry if local in local_models else None
    if entry is not None and questions and not pulls:
        pulls = local_models[entry.name].size_bytes is None and questions.pull(entry)

    choice = Choice(name=name, sources=sources, local=local, made_on=date.today())  # noqa: DTZ011 - the user's own day
    _write(path, draft(choice), environment)
    environment.say(f"wrote {path}")
    if pulls and local is not None:
        _pull(local, environment)
    _show_health(path, environment)
    option = "" if name == "default" else f" -p {name}"
    environment.say(f"try it: tieredllm{option} ask 'why is the sky blue?'")


def _check(wishes: Wishes, local_models: dict[str, LocalModel]) -> None:
    """Refuse wishes that cannot be met, before anything is asked."""
    if wishes.name is not None:
        problem = _name_problem(wishes.name)
        if problem is not None:
            raise UsageError(f"--name: {problem}")
    for vendor in wishes.vendors or ():
        if vendor not in VENDORS and not is_address(vendor):
            known = ", ".join(VENDORS)
            message = f"no vendor {vendor!r}: there are {known}, or a server's address (http://…)"
            raise UsageError(f"--vendor: {message}")
    if len([vendor for vendor in wishes.vendors or () if is_address(vendor)]) > 1:
        raise UsageError("--vendor: one server's address is enough; add others with an editor")
    wish = wishes.local
    if wish is not None and wish not in {NO_MODEL, *local_models} and not _model_file(wish):
        names = ", ".join([*local_models, NO_MODEL])
        raise UsageError(f"--local: no model {wish!r}: there are {names}, or a .gguf file's path")


def _name_problem(name: str) -> str | None:
    """Return what is wrong with a profile's name; None when nothing is."""
    if _NAME.fullmatch(name):
        return None
    return f"{name!r} is no name: at most 64 letters, digits, `_`, `.` and `-`"


def _model_file(text: str) -> str | None:
    """Return the whole path of a model file; None when it is none."""
    path = Path(text).expanduser()
    return str(path.absolute()) if path.suffix == ".gguf" and path.is_file() else None


def _may_write(path: Path, wishes: Wishes, questions: Questions | None) -> None:
    """Make sure that a file that is there may be replaced."""
    if not path.exists() or wishes.force:
        return
    if questions is None:
        raise UsageError(f"{path} is there already: add --force to replace it")
    if not questions.replace(path):
        raise TieredLLMError("nothing was changed; --name makes a profile beside it")


def _sources(wishes: Wishes, keys: Keys, questions: Questions | None) -> tuple[str | Server, ...]:
    """Return who is asked, the best first: those wished for, those chosen, or those with a key."""
    if wishes.vendors is not None:
        return tuple(
            vendor if vendor in VENDORS else _server(vendor)
            for vendor in dict.fromkeys(wishes.vendors)
        )
    with_key = [vendor for vendor in VENDORS if keys.get(KEY_VARIABLES[vendor])]
    if questions is not None:
        return questions.sources(with_key)
    # Without any key all are there: whichever key is set later makes its tier work.
    return tuple(with_key or VENDORS)


def _server(address: str) -> Server:
    """Return the server at an address, with the first model that it lists.

    Raises:
        UsageError: it does not answer, or lists none.
    """
    found = server_at(address)
    if found.problem is not None or not found.models:
        problem = found.problem or "it lists no model"
        raise UsageError(f"--vendor {found.base_url}: {problem}")
    return Server(base_url=found.base_url, model=found.models[0])


def _local(
    wishes: Wishes, local_models: dict[str, LocalModel], questions: Questions | None
) -> str | None:
    if wishes.local is not None:
        return None if wishes.local == NO_MODEL else _model_file(wishes.local) or wishes.local
    present = [name for name, one in local_models.items() if one.size_bytes is not None]
    usual = BEST_LOCAL if BEST_LOCAL in present or not present else present[0]
    return questions.local(local_models, usual) if questions is not None else usual


def _write(path: Path, text: str, environment: Environment) -> None:
    """Put the profile in place, unless it would have mistakes.

    Raises:
        ProfileError: it would.
        TieredLLMError: it cannot be written.
    """
    from tieredllm.cli.profile import write_profile
    from tieredllm.profile.load import Found, load

    load(Found(name=path.stem, path=path, origin="user"), environment.places, text=text)
    write_profile(path, text)


def _pull(name: str, environment: Environment) -> None:
    from tieredllm.cli.models import pull_model

    try:
        pull_model(name)
    except ModelFileError as exc:
        environment.warn(f"{name} was not pulled: {exc}")


def _show_health(path: Path, environment: Environment) -> None:
    from tieredllm.aio import run
    from tieredllm.cli.health import print_report
    from tieredllm.client import FallbackManager
    from tieredllm.health.report import HealthReport

    manager = FallbackManager(
        path, env=environment.env, places=environment.places, verbose=environment.verbose
    )

    async def check() -> HealthReport:
        try:
            return await manager.check()
        finally:
            await manager.aclose()

    print_report(run(check()), manager, environment)
