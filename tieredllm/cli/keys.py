"""Keep API keys in a file that only its owner can read: the command `keys`."""

from __future__ import annotations

import shlex
from typing import Annotated

import typer

from tieredllm.cli.completion import key_names
from tieredllm.cli.environment import Environment, current
from tieredllm.cli.options import Json, make_app
from tieredllm.cli.output import print_json, print_table
from tieredllm.errors import ProfileError, UsageError
from tieredllm.redaction import HIDDEN, looks_like_key

__all__ = ["app"]

app = make_app("keys", no_args_is_help=True)

Name = Annotated[
    str,
    typer.Argument(
        metavar="NAME",
        help="The key's name, such as OPENAI_API_KEY, or a vendor: openai; not the key.",
        autocompletion=key_names,
    ),
]

_SHOWN_CHARACTERS = 4
_LONG_ENOUGH = 12
"""The shortest key whose end may be shown: what stays hidden must be most of it."""


@app.command("set")
def set_key(name: Name) -> None:
    """Keep a key, typed unseen or piped in.

    For instance `tieredllm keys set OPENAI_API_KEY < key.txt`. An environment variable of the same
    name wins over the key kept here.
    """
    environment = current()
    keys = environment.keys
    if looks_like_key(name):
        raise UsageError("give the key's name, such as OPENAI_API_KEY; the key is asked for then")
    name = _variable(name)
    keys.check_name(name)
    keys.set(name, _read_key(name, environment))
    environment.say(f"kept {name} in {keys.file}")
    if keys.origin(name) == "environment":
        environment.say(f"{name} is set in the environment too, and that wins")
    wanted = _names_in_profile(environment)
    if wanted and name not in wanted:
        asks = f"nothing in the profile in use asks for {name}"
        environment.say(f"{asks}: `tieredllm keys list` shows what")


@app.command("list")
def list_keys(
    *,
    as_json: Json = False,
) -> None:
    """List the keys, without showing them.

    These are the keys that are kept, and those that the profile in use asks for.
    """
    environment = current()
    keys = environment.keys
    keys.tidy()
    for mistake in keys.mistakes:
        environment.warn(str(mistake))
    if keys.exposed:
        environment.warn(f"others can read {keys.file}: `chmod 600` it")
    cells = []
    for name in sorted({*keys.names(), *_names_in_profile(environment)}):
        value = keys.get(name)
        cells.append((name, keys.origin(name), _mask(value) if value else None))
    if as_json:
        fields = ("name", "origin", "masked")
        print_json([dict(zip(fields, row, strict=True)) for row in cells], environment)
        return
    rows = [(name, at or "not set", mask or "") for name, at, mask in cells]
    empty = "no key is kept or asked for: `tieredllm keys set NAME` keeps one"
    print_table(("key", "where", "value"), rows, environment, empty=empty)


@app.command("rm")
def remove_key(name: Name) -> None:
    """Take a key out of the file."""
    environment = current()
    keys = environment.keys
    name = _variable(name)
    keys.check_name(name)
    keys.remove(name)
    environment.say(f"removed {name} from {keys.file}")
    if keys.origin(name) == "environment":
        environment.say(f"{name} is still set in the environment")


def _variable(name: str) -> str:
    """Return the variable of a vendor's key (`openai`: OPENAI_API_KEY); other names as they are."""
    from tieredllm.profile.schema import KEY_VARIABLES

    return KEY_VARIABLES.get(name.lower(), name)


def _read_key(name: str, environment: Environment) -> str:
    """Read a key: at a terminal without showing it, else all of standard input."""
    if environment.stdin is None:
        raise UsageError(f"standard input is closed: pipe the key for {name} into it")
    if not environment.stdin.isatty():
        return environment.stdin.read()
    from getpass import getpass

    try:
        return getpass(f"{name} (not shown): ", stream=environment.stderr)
    except EOFError as exc:
        raise UsageError(f"nothing was given for {name}") from exc


def _names_in_profile(environment: Environment) -> set[str]:
    """Return the names that the profile in use asks for; none, with a remark, when there is none.

    A profile with mistakes has none, and neither has one that does not exist.
    """
    from tieredllm.profile.load import load_profile
    from tieredllm.profile.schema import variables_of

    try:
        return variables_of(load_profile(environment.profile_name, environment.places))
    except ProfileError:
        check = shlex.join(
            ["tieredllm", "profile", "validate", *filter(None, [environment.profile_name])]
        )
        environment.say(f"the profile in use has mistakes: `{check}` tells them")
    except UsageError as exc:
        environment.say(str(exc))
    return set()


def _mask(key: str) -> str:
    return HIDDEN + key[-_SHOWN_CHARACTERS:] if len(key) >= _LONG_ENOUGH else HIDDEN
