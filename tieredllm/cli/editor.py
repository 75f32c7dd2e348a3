"""Open the user's own editor."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from tieredllm.cli.environment import Environment
from tieredllm.errors import UsageError

__all__ = ["edit_text", "edit_until_right"]


def _run_editor(file: str, env: Mapping[str, str]) -> None:
    """Run the user's editor on a file and wait for it.

    It is $VISUAL, else $EDITOR, else one that is usually there.

    Raises:
        UsageError: there is none, it does not start, or it fails.
    """
    import shlex
    import subprocess

    command = env.get("VISUAL") or env.get("EDITOR") or _editor()
    if command is None:
        raise UsageError(f"no editor was found: set EDITOR, or edit {file} yourself")
    try:
        done = subprocess.run([*shlex.split(command), file], check=False)  # noqa: S603 - the user's
    except (OSError, ValueError) as exc:
        raise UsageError(f"the editor `{command}` does not start: {exc}") from exc
    if done.returncode:
        raise UsageError(f"the editor `{command}` ended with code {done.returncode}")


def edit_text(text: str, env: Mapping[str, str], *, name: str = "message.md") -> str:
    """Let the user edit a text, and return it.

    Args:
        text: what the editor shows.
        env: the environment, which names the editor.
        name: what the file is called while it is edited; its ending tells editors the language.

    Raises:
        UsageError: the editor does not start or fails; the text is then as it was.
    """
    from tempfile import TemporaryDirectory

    with TemporaryDirectory(prefix="tieredllm-") as folder:  # readable by its owner only
        file = Path(folder) / name
        file.write_text(text, encoding="utf-8")
        _run_editor(str(file), env)
        try:
            return file.read_text(encoding="utf-8", errors="replace")
        except OSError as exc:
            raise UsageError(f"the edited text cannot be read: {exc.strerror or exc}") from exc


def edit_until_right(
    text: str, environment: Environment, *, name: str, is_right: Callable[[str], bool]
) -> tuple[str, bool]:
    """Let the user edit a text until it is right, or is to stay as it is.

    Args:
        text: what the editor shows.
        environment: the surroundings: the editor, and the terminal to ask at.
        name: see `edit_text`.
        is_right: checks a text, and tells what is wrong with it.

    Returns:
        The text, and whether it is right.

    Raises:
        UsageError: see `edit_text`.
    """
    import typer

    text = edit_text(text, environment.env, name=name)
    while not is_right(text):
        if not environment.is_interactive or not typer.confirm(
            "Edit it again?", default=True, err=True
        ):
            return text, False
        text = edit_text(text, environment.env, name=name)
    return text, True


def _editor() -> str | None:
    """Find an editor for whoever has named none."""
    import shutil

    return next((name for name in ("nano", "vi", "notepad") if shutil.which(name)), None)
