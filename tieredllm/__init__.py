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
    from tieredllm.engine.ports import Controls
    from tieredllm.errors import (
        FallbackTriggerError,
        NoAnswerError,
        ProfileError,
        TieredLLMError,
        UsageError,
    )
    from tieredllm.kinds import ErrorInfo, ErrorKind
    from tieredllm.types import (
        Answer,
        Answered,
        Attachment,
        Attempt,
        AttemptFailed,
        AttemptStarted,
        CallsMade,
        Document,
        Event,
        FellBack,
        Image,
        LeftOut,
        Message,
        Notice,
        Options,
        OutputSchema,
        ParamOverrides,
        Prompt,
        Retracted,
        RetryScheduled,
        Skip,
        Thought,
        TierSkipped,
        Token,
        ToolCall,
        ToolChoice,
        ToolDeclaration,
        ToolEnded,
        ToolStarted,
        ToolsWanted,
        ToolUse,
        Usage,
    )

_HOMES = {
    "client": ("FallbackManager",),
    "engine.ports": ("Controls",),
    "errors": (
        "FallbackTriggerError",
        "NoAnswerError",
        "ProfileError",
        "TieredLLMError",
        "UsageError",
    ),
    "kinds": (
        "ErrorInfo",
        "ErrorKind",
    ),
    "types": (
        "Answer",
        "Answered",
        "Attachment",
        "Attempt",
        "AttemptFailed",
        "AttemptStarted",
        "CallsMade",
        "Document",
        "Event",
        "FellBack",
        "Image",
        "LeftOut",
        "Message",
        "Notice",
        "Options",
        "OutputSchema",
        "ParamOverrides",
        "Prompt",
        "Retracted",
        "RetryScheduled",
        "Skip",
        "Thought",
        "TierSkipped",
        "Token",
        "ToolCall",
        "ToolChoice",
        "ToolDeclaration",
        "ToolEnded",
        "ToolStarted",
        "ToolUse",
        "ToolsWanted",
        "Usage",
    ),
}
"""Which module has which of the exported names."""

__all__ = [
    "Answer",
    "Answered",
    "Attachment",
    "Attempt",
    "AttemptFailed",
    "AttemptStarted",
    "CallsMade",
    "Controls",
    "Document",
    "ErrorInfo",
    "ErrorKind",
    "Event",
    "FallbackManager",
    "FallbackTriggerError",
    "FellBack",
    "Image",
    "LeftOut",
    "Message",
    "NoAnswerError",
    "Notice",
    "Options",
    "OutputSchema",
    "ParamOverrides",
    "ProfileError",
    "Prompt",
    "Retracted",
    "RetryScheduled",
    "Skip",
    "Thought",
    "TierSkipped",
    "TieredLLMError",
    "Token",
    "ToolCall",
    "ToolChoice",
    "ToolDeclaration",
    "ToolEnded",
    "ToolStarted",
    "ToolUse",
    "ToolsWanted",
    "Usage",
    "UsageError",
    "__version__",
]


if not TYPE_CHECKING:  # or else a name that is not there would have a type: Any

    def __getattr__(name: str) -> Any:
        """Load an exported name from its module on first use (PEP 562)."""
        home = next((module for module, names in _HOMES.items() if name in names), None)
        if home is None:
            message = f"module {__name__!r} has no attribute {name!r}"
            raise AttributeError(message)
        from importlib import import_module

        value = getattr(import_module(f"{__name__}.{home}"), name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        """List what is exported as well as what is loaded, for who completes names."""
        return sorted({*globals(), *__all__})
