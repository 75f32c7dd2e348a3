"""Read the options that `ask` and `chat` share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tieredllm.errors import UsageError
from tieredllm.kinds import ErrorKind

if TYPE_CHECKING:
    from tieredllm.cli.context import Session
    from tieredllm.client import FallbackManager
    from tieredllm.profile.schema import Profile
    from tieredllm.store.history import Conversation, History
    from tieredllm.tools.approval import Approver

__all__ = [
    "check_common",
    "earlier_turns",
    "faults_by_tier",
    "manager_for",
    "pairs",
    "with_models",
]

MAX_DEADLINE_S = 86_400
"""The longest deadline that can be asked for: a day, as in a profile."""


def check_common(*, deadline: float | None, cid: str | None, last: bool) -> None:
    """Refuse values that cannot be meant.

    Raises:
        UsageError: `--deadline` is out of range, or a conversation is named twice.
    """
    if deadline is not None and not 0 < deadline <= MAX_DEADLINE_S:
        reason = (
            f"--deadline must be above 0 and at most {MAX_DEADLINE_S} seconds, not {deadline:g}"
        )
        raise UsageError(reason)
    if cid is not None and last:
        reason = "--cid and --continue exclude each other"
        raise UsageError(reason)


def pairs(given: list[str], option: str, shape: str) -> dict[str, str]:
    """Read `NAME=VALUE` options.

    Args:
        given: what was given, once for each time the option was.
        option: its name, for the message.
        shape: what it takes, for the message.

    Raises:
        UsageError: one has not that shape.
    """
    found: dict[str, str] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            reason = f"{option} takes {shape}, not {text!r}"
            raise UsageError(reason)
        found[name] = value
    return found


def manager_for(
    session: Session,
    *,
    models: dict[str, str],
    faults: dict[str, str],
    approve_tools: bool,
    approver: Approver | None,
) -> FallbackManager:
    """Make the manager for the profile in use.

    Args:
        session: the surroundings.
        models: another model for a tier, by tier name.
        faults: the faults to play, by tier name.
        approve_tools: whether tools that may change something run without a question.
        approver: asks about them; None where nobody can be asked.

    Raises:
        UsageError: the profile, a tier's name or a fault's name is wrong.
    """
    from tieredllm.client import FallbackManager
    from tieredllm.profile.load import find_profile, load

    loaded = load(find_profile(session.profile_name, session.places), session.places)
    return FallbackManager(
        with_models(loaded.profile, models),
        env=session.env,
        places=session.places,
        simulate=faults_by_tier(faults),
        verbose=session.verbose,
        approve_tools=approve_tools,
        approver=approver,
        tool_folders=loaded.tool_folders,
    )


def with_models(profile: Profile, models: dict[str, str]) -> Profile:
    """Give the profile with other models in some tiers.

    Raises:
        UsageError: there is no tier of that name, or it has no model.
    """
    known = [tier.name for tier in profile.tiers if tier.model is not None]
    for name in models:
        if name not in known:
            reason = f"--model: no tier {name!r} with a model: there are {', '.join(known)}"
            raise UsageError(reason)
    if not models:
        return profile
    import msgspec

    tiers = tuple(
        msgspec.structs.replace(tier, model=models.get(tier.name, tier.model))
        for tier in profile.tiers
    )
    return msgspec.structs.replace(profile, tiers=tiers)


def faults_by_tier(given: dict[str, str]) -> dict[str, ErrorKind]:
    """Read the faults to play.

    Raises:
        UsageError: there is no such fault.
    """
    faults: dict[str, ErrorKind] = {}
    for tier, name in given.items():
        try:
            faults[tier] = ErrorKind(name)
        except ValueError:
            reason = f"--simulate: no fault {name!r}: there are {', '.join(ErrorKind)}"
            raise UsageError(reason) from None
    return faults


def earlier_turns(history: History | None, conversation: str | None) -> Conversation | None:
    """Give the conversation to continue.

    Args:
        history: the log; None where nothing is kept or continued.
        conversation: its id, `""` for the latest, None for a new one.

    Raises:
        UsageError: there is none of that id, or none at all.
    """
    if history is None or conversation is None:
        return None
    earlier = history.conversation(conversation or None)
    if earlier is None:
        what = f"no conversation {conversation!r}" if conversation else "no conversation yet"
        reason = f"{what} to continue (see `tieredllm log`)"
        raise UsageError(reason)
    return earlier
