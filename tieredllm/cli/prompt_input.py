"""Take in what the user gives: words, piped text, files."""

from __future__ import annotations

import stat
from pathlib import Path

from tieredllm.cli.environment import Environment
from tieredllm.errors import UsageError
from tieredllm.types import Attachment

__all__ = ["question_and_attachments", "read_files"]

QUIET_STDIN_S = 2.0
"""After this many seconds without a byte from stdin, the user is told what is being waited for."""


def question_and_attachments(
    environment: Environment, words: list[str], files: list[Path]
) -> tuple[str, tuple[Attachment, ...]]:
    """Join the prompt's parts.

    Piped text comes first, then the files, then the question. `-` as the only word means that the
    question is stdin. A question is empty when only text was given.

    Raises:
        UsageError: a file cannot be read.
    """
    if words == ["-"]:
        return _read_stdin(environment), read_files(environment, files)
    piped = "" if _is_terminal(environment) else _read_stdin(environment)
    attachments = (Attachment(text=piped),) if piped.strip() else ()
    return " ".join(words), attachments + read_files(environment, files)


def _is_terminal(environment: Environment) -> bool:
    return environment.stdin is None or environment.stdin.closed or environment.stdin.isatty()


def _read_stdin(environment: Environment) -> str:
    if environment.stdin is None or environment.stdin.closed:
        return ""
    buffer = getattr(environment.stdin, "buffer", None)
    if buffer is None:
        return environment.stdin.read()
    _tell_if_silent(environment)
    data: bytes = buffer.read()
    return _decoded(environment, data, "stdin")


def _tell_if_silent(environment: Environment) -> None:
    """Say that stdin is being waited for when nothing comes: a script may have left it open."""
    import os
    import select

    if environment.stdin is None:
        return
    try:
        descriptor = environment.stdin.fileno()
        if not stat.S_ISFIFO(os.fstat(descriptor).st_mode):
            return
        ready, _, _ = select.select([descriptor], [], [], QUIET_STDIN_S)
    except (OSError, ValueError):
        return
    if not ready:
        environment.say("tieredllm: waiting for text on stdin (`< /dev/null` does without)")


def read_files(environment: Environment, files: list[Path]) -> tuple[Attachment, ...]:
    """Read the files a question is about.

    Raises:
        UsageError: one cannot be read.
    """
    attachments = []
    for path in files:
        try:
            data = path.expanduser().read_bytes()
        except OSError as exc:
            reason = f"cannot read {path}: {exc.strerror or exc}"
            raise UsageError(reason) from exc
        attachments.append(Attachment(name=str(path), text=_decoded(environment, data, str(path))))
    return tuple(attachments)


def _decoded(environment: Environment, data: bytes, name: str) -> str:
    """Decode UTF-8, a byte order mark left out, with replacement and a warning where it is not."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        text = data.decode("utf-8-sig", errors="replace")
        environment.warn(
            f"tieredllm: {name} is not UTF-8 (byte {exc.start}): "
            f"{text.count(chr(0xFFFD))} characters were replaced"
        )
        return text
