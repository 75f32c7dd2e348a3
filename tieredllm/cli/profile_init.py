"""Carry out `profile init`: settle what the profile is to be, write it, and see how it does."""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path

import msgspec

from tieredllm.cli.environment import Environment
from tieredllm.cli.profile_draft import Choice, Vendor, draft, vendors
from tieredllm.cli.profile_questions import Questions
from tieredllm.errors import ModelFileError, ProfileError, TieredLLMError, UsageError
from tieredllm.files import atomic_write
from tieredllm.keys import Keys
from tieredllm.local.pull import Installed, installed

__all__ = ["Wishes", "make_profile"]

NO_MODEL = "none"
"""How `--local` says that no local model is wanted."""

BEST_LOCAL = "gemma-2-2b-it"
"""The local model of the built-in profile."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


class Wishes(msgspec.Struct, frozen=True, kw_only=True):
    """Hold what was said on the command line; None means that it is to be asked."""

    name: str | None
    vendors: tuple[str, ...] | None
    local: str | None
    pull: bool
    asks: bool
    """Whether there may be questions."""
    force: bool


def make_profile(session: Environment, wishes: Wishes) -> None:
    """Make a profile.

    Raises:
        UsageError: there is nobody to ask, or a wish cannot be met.
        TieredLLMError: the user would not have a file replaced; nothing was changed.
    """
    known = vendors(session.places)
    local_models = {
        one.model.name: one
        for one in installed(session.places.models, session.places.config / "models.yaml")
    }
    _check(wishes, known, local_models)
    if wishes.asks and (session.stdin is None or not session.stdin.isatty()):
        raise UsageError("there is no terminal to ask at: add --yes")
    keys = Keys(session.env, session.places.keys_file)
    questions = Questions(session, keys) if wishes.asks else None

    name = wishes.name or (questions.name(_checked_name) if questions else "default")
    path = session.places.profiles / f"{name}.yaml"
    _may_write(path, wishes, questions)
    chosen = _vendors(wishes, known, keys, questions)
    local = _local(wishes, local_models, questions)
    pulls = wishes.pull and local is not None
    if local is not None and questions and not pulls and local_models[local].size_bytes is None:
        pulls = questions.pull(local_models[local].model)

    choice = Choice(name=name, vendors=chosen, local=local, made_on=date.today())  # noqa: DTZ011 - the user's own day
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    atomic_write(path, draft(choice))
    _verify(path, session)
    session.say(f"wrote {path}")
    if pulls and local is not None:
        _pull(local, session)
    _show_health(path, session)
    _say_how_to_go_on(name, session)


def _check(wishes: Wishes, known: dict[str, Vendor], local_models: dict[str, Installed]) -> None:
    """Refuse wishes that cannot be met, before anything is asked."""
    if wishes.name is not None:
        problem = _checked_name(wishes.name)
        if problem is not None:
            raise UsageError(f"--name: {problem}")
    for vendor in wishes.vendors or ():
        if vendor not in known:
            raise UsageError(f"--vendor: no vendor {vendor!r}: there are {', '.join(known)}")
    if wishes.local is not None and wishes.local not in {NO_MODEL, *local_models}:
        names = ", ".join([*local_models, NO_MODEL])
        raise UsageError(f"--local: no model {wishes.local!r}: there are {names}")


def _checked_name(name: str) -> str | None:
    """Say what is wrong with a profile's name; None when nothing is."""
    if _NAME.fullmatch(name):
        return None
    return f"{name!r} is no name: at most 64 letters, digits, `_`, `.` and `-`"


def _may_write(path: Path, wishes: Wishes, questions: Questions | None) -> None:
    """Make sure that a file that is there may be replaced."""
    if not path.exists() or wishes.force:
        return
    if questions is None:
        raise UsageError(f"{path} is there already: add --force to replace it")
    if not questions.replace(path):
        raise TieredLLMError("nothing was changed; --name makes a profile beside it")


def _vendors(
    wishes: Wishes, known: dict[str, Vendor], keys: Keys, questions: Questions | None
) -> tuple[Vendor, ...]:
    """Give the vendors, the best first: those wished for, those chosen, or those with a key."""
    if wishes.vendors is not None:
        return tuple(known[name] for name in dict.fromkeys(wishes.vendors))
    with_key = [vendor for vendor in known.values() if keys.get(vendor.key_variable or "")]
    if questions is not None:
        return questions.vendors(known, with_key)
    # Without any key all are there: whichever key is set later makes its tier work.
    return tuple(with_key or known.values())


def _local(
    wishes: Wishes, local_models: dict[str, Installed], questions: Questions | None
) -> str | None:
    if wishes.local is not None:
        return None if wishes.local == NO_MODEL else wishes.local
    present = [name for name, one in local_models.items() if one.size_bytes is not None]
    usual = BEST_LOCAL if BEST_LOCAL in present or not present else present[0]
    return questions.local(local_models, usual) if questions is not None else usual


def _verify(path: Path, session: Environment) -> None:
    """Read the profile back: what was given for it (an address, a model) may be wrong."""
    from tieredllm.profile.load import load_profile

    try:
        load_profile(str(path), session.places)
    except ProfileError as exc:
        session.warn(f"wrote {path}, but it has to be put right (`tieredllm profile edit`):")
        raise ProfileError(exc.mistakes) from exc


def _pull(name: str, session: Environment) -> None:
    from tieredllm.cli.models import pull_model

    try:
        pull_model(name)
    except ModelFileError as exc:
        session.warn(f"{name} was not pulled: {exc}")


def _show_health(path: Path, session: Environment) -> None:
    from tieredllm.aio import run
    from tieredllm.cli.health import print_report
    from tieredllm.client import FallbackManager
    from tieredllm.health.report import HealthReport

    manager = FallbackManager(path, env=session.env, places=session.places, verbose=session.verbose)

    async def check() -> HealthReport:
        try:
            return await manager.check()
        finally:
            await manager.aclose()

    print_report(run(check()), manager.profile, session)


def _say_how_to_go_on(name: str, session: Environment) -> None:
    option = "" if name == "default" else f" -p {name}"
    session.say(f"try it: tieredllm{option} ask 'why is the sky blue?'")
