"""`tieredllm prompts`: list, show, edit and remove stored prompts."""

from __future__ import annotations

from typing import Annotated

import typer

from tieredllm.cli.completion import prompts
from tieredllm.cli.environment import current
from tieredllm.cli.options import Json, make_app
from tieredllm.cli.output import print_json, print_table
from tieredllm.errors import ProfileError, UsageError

__all__ = ["app"]

EXAMPLES = """Examples:

\b
  tieredllm ask -s "answer in one line" --save short
  tieredllm ask "translate into {language}: {input}" --save translate
  tieredllm -T translate --var language French "good morning"
"""

app = make_app("prompts", epilog=EXAMPLES, no_args_is_help=True)

Name = Annotated[
    str, typer.Argument(metavar="NAME", help="A stored prompt.", autocompletion=prompts)
]


@app.command("list")
def list_prompts(*, as_json: Json = False) -> None:
    """List the stored prompts. `tieredllm ask ... --save NAME` makes one."""
    import msgspec

    from tieredllm.prompts.stored import StoredPrompts
    from tieredllm.text import one_line

    environment = current()
    kept = StoredPrompts(environment.places)
    found = {}
    for name in kept.names():
        try:
            found[name] = kept.find(name)
        except ProfileError as exc:
            environment.warn(str(exc))
    if as_json:
        rows = [{"name": name, **msgspec.to_builtins(each)} for name, each in found.items()]
        print_json(rows, environment)
        return
    if not found:
        environment.say("no prompt is kept yet: `tieredllm ask ... --save NAME` makes one")
        return
    cells = [
        (
            name,
            ", ".join(each.variables) or "-",
            one_line(each.about or each.prompt or each.system or "", 120),
        )
        for name, each in found.items()
    ]
    print_table(("prompt", "variables", "about"), cells, environment)


@app.command("show")
def show_prompt(name: Name, *, as_json: Json = False) -> None:
    """Print a stored prompt as its file says it."""
    import msgspec

    from tieredllm.prompts.stored import StoredPrompts, written

    environment = current()
    prompt = StoredPrompts(environment.places).find(name)
    if as_json:
        print_json({"name": name, **msgspec.to_builtins(prompt)}, environment)
    else:
        environment.stdout.write(written(prompt))


@app.command("edit")
def edit_prompt(name: Name) -> None:
    """Write a stored prompt in your $EDITOR; a new one is made."""
    from tieredllm.cli.editor import edit_until_right
    from tieredllm.cli.profile import write_profile
    from tieredllm.prompts.stored import StoredPrompt, StoredPrompts, parsed, written

    environment = current()
    path = StoredPrompts(environment.places).path(name)
    before = path.read_text("utf-8") if path.is_file() else written(StoredPrompt())

    def is_right(text: str) -> bool:
        try:
            parsed(text, str(path))
        except ProfileError as exc:
            environment.warn(str(exc))
            return False
        return True

    text, ok = edit_until_right(before, environment, name=path.name, is_right=is_right)
    if not ok:
        raise UsageError(f"{name} was not changed")
    if text != before:
        write_profile(path, text)
        environment.say(f"kept as {path}")


@app.command("rm")
def remove_prompt(name: Name) -> None:
    """Remove a stored prompt."""
    from tieredllm.prompts.stored import StoredPrompts

    environment = current()
    StoredPrompts(environment.places).remove(name)
    environment.say(f"removed {name}")
