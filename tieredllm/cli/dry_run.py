"""Print what each tier would be sent: `ask --dry-run`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from tieredllm.cli.environment import Environment
from tieredllm.cli.output import print_json

if TYPE_CHECKING:
    from tieredllm.engine.preview import Preview
    from tieredllm.types import Message

__all__ = ["print_previews"]


def print_previews(previews: Sequence[Preview], environment: Environment, *, as_json: bool) -> None:
    """Print previews on stdout, as text for people or as one JSON object."""
    if as_json:
        tiers = [_without_data(preview) for preview in previews]
        print_json({"tiers": msgspec.to_builtins(tiers)}, environment)
        return
    text = "\n".join(_worded(preview) for preview in previews)
    environment.print(text.removesuffix("\n"))


def _without_data(preview: Preview) -> Preview:
    """Leave the bytes of images and documents out."""
    replace = msgspec.structs.replace
    messages = tuple(
        replace(message, parts=tuple(replace(part, data=b"") for part in message.parts))
        for message in preview.messages
    )
    return replace(preview, messages=messages)


def _worded(preview: Preview) -> str:
    model = f" {preview.model}" if preview.model != preview.provider else ""
    lines = [f"=== {preview.tier}: {preview.provider}{model}"]
    if preview.skip is not None:
        lines.append(f"would be passed over: {preview.skip}")
    if preview.params is None:
        lines.append("is sent nothing: no model answers")
    else:
        given = msgspec.to_builtins(preview.params)
        # A temperature and a seed of 0 say something, a penalty of 0 is none.
        params = ", ".join(
            f"{name} {value}"
            for name, value in given.items()
            if value or (value == 0 and not name.endswith("_penalty"))
        )
        lines.append(f"prompt: {preview.policy}; {params}")
    lines += preview.notices
    for message in preview.messages:
        lines += [f"--- {message.role}", _content(message)]
    return "\n".join(lines) + "\n"


def _content(message: Message) -> str:
    kinds = [
        f"[{type(part).__name__.lower()}: {part.url or part.media_type or 'file'}]"
        for part in message.parts
    ]
    return "\n".join([*kinds, message.content])
