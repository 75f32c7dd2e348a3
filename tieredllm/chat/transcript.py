"""Write a conversation to a file, and read it back.

The file is what chat APIs take: a JSON list of `{"role", "content"}`, the system prompt first. A
file whose name ends in `.md` or `.txt` is a transcript for people, and is not read back.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from tieredllm.chat.conversation import Dialogue, paired
from tieredllm.errors import TieredLLMError, UsageError
from tieredllm.files import atomic_write, read_file
from tieredllm.types import Message

__all__ = ["load", "save"]

FOR_PEOPLE = (".md", ".markdown", ".txt")
MAX_BYTES = 64 * 1024 * 1024
"""The largest file that is read: far more than any model takes."""


def save(dialogue: Dialogue, path: Path) -> None:
    """Write a conversation to a file, in place of what is there.

    Raises:
        TieredLLMError: it cannot be written; what was there is as it was.
    """
    for_people = path.suffix.lower() in FOR_PEOPLE
    text = _for_people(dialogue) if for_people else _as_json(dialogue)
    try:
        atomic_write(path, text)
    except OSError as exc:
        raise TieredLLMError(f"cannot write {path}: {exc.strerror or exc}") from exc


def load(path: Path) -> Dialogue:
    """Read a conversation.

    Raises:
        UsageError: the file cannot be read, or is none that `save` writes.
    """
    try:
        data = read_file(path, max_bytes=MAX_BYTES)
    except OSError as exc:
        raise UsageError(f"cannot read {path}: {exc.strerror or exc}") from exc
    try:
        messages = msgspec.json.decode(data, type=list[Message])
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise UsageError(
            f"{path} is no conversation saved as JSON ({exc}); "
            "`tieredllm chat -f FILE` asks about a file"
        ) from exc
    system = [message.content for message in messages if message.role == "system"]
    dialogue = Dialogue("\n\n".join(system) or None)
    try:
        dialogue.turns = paired([message for message in messages if message.role != "system"])
    except UsageError as exc:
        raise UsageError(f"{path}: {exc}") from exc
    return dialogue


def _as_json(dialogue: Dialogue) -> str:
    import json

    system = [Message("system", dialogue.system)] if dialogue.system else []
    said = [
        message
        for turn in dialogue.turns
        for message in (Message("user", turn.said), Message("assistant", turn.answered))
    ]
    values = msgspec.to_builtins([*system, *said])
    return json.dumps(values, ensure_ascii=False, indent=2) + "\n"


def _for_people(dialogue: Dialogue) -> str:
    parts = [f"*System: {dialogue.system}*"] if dialogue.system else []
    for turn in dialogue.turns:
        quoted = "\n".join(f"> {line}".rstrip() for line in turn.said.split("\n"))
        parts += [quoted, turn.answered.strip("\n")]
    return "\n\n".join(parts) + "\n"
