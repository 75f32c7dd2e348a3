"""Ask language models tier by tier until one answers completely.

Importing this package is cheap: what it exports is loaded when it is first used.

>>> from tieredllm import FallbackManager
>>> FallbackManager("offline").ask("Why do services need a fallback?").text  # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tieredllm.version import __version__

if TYPE_CHECKING:
    from tieredllm.client import FallbackManager
    from tieredllm.errors import (
        FallbackTriggerError,
        NoAnswerError,
        ProfileError,
        TieredLLMError,
        UsageError,
    )
    from tieredllm.kinds import ErrorInfo, ErrorKind
    from tieredllm.types import Answer, Attachment, Attempt, Event, Message, Prompt, Usage

_HOMES = {
    "FallbackManager": "client",
    "ErrorInfo": "kinds",
    "ErrorKind": "kinds",
    "FallbackTriggerError": "errors",
    "NoAnswerError": "errors",
    "ProfileError": "errors",
    "TieredLLMError": "errors",
    "UsageError": "errors",
    "Answer": "types",
    "Attachment": "types",
    "Attempt": "types",
    "Event": "types",
    "Message": "types",
    "Prompt": "types",
    "Usage": "types",
}

__all__ = [
    "Answer",
    "Attachment",
    "Attempt",
    "ErrorInfo",
    "ErrorKind",
    "Event",
    "FallbackManager",
    "FallbackTriggerError",
    "Message",
    "NoAnswerError",
    "ProfileError",
    "Prompt",
    "TieredLLMError",
    "Usage",
    "UsageError",
    "__version__",
]


def __getattr__(name: str) -> Any:
    """Load an exported name from its module on first use (PEP 562)."""
    if name not in _HOMES:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    from importlib import import_module

    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
