"""Complete what only this user's files know: profiles, tiers, models and faults.

A shell asks while somebody types, so a file with mistakes completes to nothing instead of an error.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

import typer

from tieredllm.cli.environment import current

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tieredllm.files import Places
    from tieredllm.profile.schema import BackendSettings, Profile
    from tieredllm.store.history import History, Unreadable
    from tieredllm.store.record import LoggedRequest

__all__ = [
    "conversations",
    "faults",
    "keep_offered",
    "key_names",
    "known_models",
    "known_tiers",
    "local_models",
    "models",
    "params",
    "profiles",
    "prompts",
    "request_ids",
    "tiers",
]


OFFERED = 1000
OFFERED_FILE = "offered-models.json"
"""What servers were said to offer, in the cache directory."""
RECENT = 50
"""Requests whose ids are offered."""


def profiles(incomplete: str) -> list[str]:
    """Return the profiles whose name begins so."""
    from tieredllm.profile.load import known_profiles

    return _beginning([found.name for found in known_profiles(current().places)], incomplete)


def tiers(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the tiers of the profile in use whose name begins so."""
    profile = _profile(ctx)
    return _beginning([tier.name for tier in profile.tiers] if profile else [], incomplete)


def models(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the models that are known of each tier's provider, with and without `TIER=`."""
    profile = _profile(ctx)
    pairs = [pair for pair, _ in known_models(profile, current().places)] if profile else []
    offered = _offered(current().places)
    pairs += [f"{tier}={model}" for tier, names in offered.items() for model in names]
    names = dict.fromkeys(pair.partition("=")[2] for pair in pairs)
    return _beginning([*pairs, *names], incomplete)


def key_names(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the keys that the profile in use asks for or that are kept, and the vendors."""
    from tieredllm.profile.schema import KEY_VARIABLES, variables_of

    profile = _profile(ctx)
    asked = variables_of(profile) if profile else KEY_VARIABLES.values()
    return _beginning([*sorted({*asked, *current().keys.names()}), *KEY_VARIABLES], incomplete)


def prompts(incomplete: str) -> list[str]:
    """Return the stored prompts whose name begins so."""
    from tieredllm.prompts.stored import StoredPrompts

    return _beginning(StoredPrompts(current().places).names(), incomplete)


def request_ids(incomplete: str) -> list[str]:
    """Return the ids of recent requests that begin so."""
    ids = _from_log(lambda history: [_id_of(each) for each in history.recent(RECENT)])
    return _beginning(ids, incomplete)


def conversations(incomplete: str) -> list[str]:
    """Return the names of conversations, and the ids of recent requests, that begin so.

    A name that a shell would cut or expand is left out.
    """
    names = _from_log(lambda history: list(history.names().values()))
    plain = [name for name in names if re.fullmatch(r"[\w@%+=:,./-]+", name)]
    return [*_beginning(plain, incomplete), *request_ids(incomplete)]


def _from_log(look_up: Callable[[History], list[str]]) -> list[str]:
    from tieredllm.errors import TieredLLMError
    from tieredllm.store.database import Database
    from tieredllm.store.history import History

    try:
        with Database(current().places.state_db) as database:
            return look_up(History(database))
    except TieredLLMError:
        return []


def _id_of(request: LoggedRequest | Unreadable) -> str:
    return request.request_id if hasattr(request, "request_id") else request.answer.request_id


def params(incomplete: str) -> list[str]:
    """Return the parameters of a request whose name begins so."""
    from tieredllm.profile.params import param_names

    return _beginning(param_names(), incomplete)


def keep_offered(tier: str, models: list[str], places: Places) -> None:
    """Keep what a tier's servers offer: a shell that completes cannot wait for them."""
    import contextlib
    import json

    from tieredllm.files import atomic_write

    with contextlib.suppress(OSError):
        places.cache.mkdir(parents=True, exist_ok=True)
        text = json.dumps(_offered(places) | {tier: models[:OFFERED]})
        atomic_write(places.cache / OFFERED_FILE, text)


def _offered(places: Places) -> dict[str, list[str]]:
    import json

    try:
        found = json.loads((places.cache / OFFERED_FILE).read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def known_tiers(profile: Profile) -> list[tuple[str, str]]:
    """Return a profile's tiers: the name, and what it asks."""
    return [
        (tier.name, " ".join(dict.fromkeys(filter(None, (tier.provider, tier.model)))))
        for tier in profile.tiers
    ]


def known_models(profile: Profile, places: Places) -> list[tuple[str, str]]:
    """Return `TIER=MODEL` and the provider, for each model that is known of a tier's provider.

    Those are the models the profile names for the provider; of a local tier, the catalog's too.
    """
    found: dict[str, str] = {}
    for tier in profile.tiers:
        if tier.model is None:
            continue
        for model in dict.fromkeys((tier.model, *_models(profile, tier.provider, places))):
            found[f"{tier.name}={model}"] = tier.provider
    return list(found.items())


def _models(profile: Profile, provider: str, places: Places) -> Iterator[str]:
    for tier in profile.tiers:
        backends: tuple[BackendSettings, ...] = (tier, *tier.alternates)
        for backend in backends:
            if backend.provider == provider and backend.model is not None:
                yield backend.model
    if provider == "llama_cpp":
        yield from _local_models(places)


def _local_models(places: Places) -> list[str]:
    from tieredllm.errors import TieredLLMError
    from tieredllm.local.library import Library

    try:
        return Library(places, current().env).names()
    except TieredLLMError:
        return []


def faults(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return `TIER=FAULT` for every fault."""
    from tieredllm.kinds import ErrorKind

    profile = _profile(ctx)
    tiers = profile.tiers if profile else ()
    return _beginning([f"{tier.name}={kind}" for tier in tiers for kind in ErrorKind], incomplete)


def local_models(incomplete: str) -> list[str]:
    """Return the models of the catalog and of this machine whose name begins so."""
    return _beginning(_local_models(current().places), incomplete)


def _profile(ctx: typer.Context) -> Profile | None:
    from tieredllm.errors import TieredLLMError
    from tieredllm.profile.load import load_profile

    environment = current()
    above = ctx.parent.params if ctx.parent is not None else {}
    name = ctx.params.get("profile") or above.get("profile") or environment.profile_name
    try:
        return load_profile(name, environment.places)
    except TieredLLMError:
        return None


def mend_bash() -> None:
    """Let bash complete what stands after `=` and `:`, at which it cuts words (COMP_WORDBREAKS).

    Typer, like click (https://github.com/pallets/click/issues/2847), takes bash's pieces for words:
    `-m minimal=sm` comes as three. They are put together again, and as bash replaces the last piece
    alone, only what follows the last break is given back.
    """
    from typer._click.shell_completion import (
        CompletionItem,
        add_completion_class,
        split_arg_string,
    )
    from typer._completion_classes import BashComplete

    class Bash(BashComplete):
        head = ""
        """What of the word stands before its last piece."""

        def get_completion_args(self) -> tuple[list[str], str]:
            words = split_arg_string(os.environ["COMP_WORDS"])
            at = int(os.environ["COMP_CWORD"])
            pieces = words[: at + 1] if at < len(words) else [*words, ""]
            joined, self.head = join_pieces(pieces)
            return joined[1:-1], joined[-1]

        def format_completion(self, item: CompletionItem) -> str:
            value = str(item.value)
            starts = (at for at in range(len(self.head)) if value.startswith(self.head[at:]))
            start = next(starts, len(self.head))
            return value[len(self.head) - start :]

    add_completion_class(Bash, "bash")


def join_pieces(pieces: list[str]) -> tuple[list[str], str]:
    """Put together the words that bash has cut, each break being a piece of its own.

    Args:
        pieces: the command line up to the piece under the cursor; the program's name comes first.

    Returns:
        The words; and what of the last one bash will leave as it is.
    """
    joined: list[str] = []
    head = ""
    for index, piece in enumerate(pieces):
        is_break = bool(piece) and not piece.strip("=:")
        follows_break = bool(piece) and index > 1 and not pieces[index - 1].strip("=:")
        if index > 1 and (is_break or follows_break) and pieces[index - 1]:
            head = joined[-1] + (piece if is_break else "")
            joined[-1] += piece
        else:
            head = ""
            joined.append(piece)
    return joined, head


def _beginning(names: list[str], incomplete: str) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]
