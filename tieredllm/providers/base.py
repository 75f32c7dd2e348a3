"""Define what the engine asks of a backend, and what a backend answers.

A backend is one provider, model and URL. It makes one attempt per `answer()` call: it never
retries, never waits between tries and never swallows a failure. Everything that can go wrong leaves
it as a `FallbackTriggerError`. The engine owns the timers: silence, keep-alives and role-only
chunks yield nothing here, so waiting for the next `Delta` is waiting for a token.
"""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Callable
from typing import Any, Protocol

import msgspec

from tieredllm.profile.schema import Params
from tieredllm.types import (
    Message,
    OutputSchema,
    Prompt,
    Seal,
    ToolCall,
    ToolChoice,
    ToolDeclaration,
    Usage,
)

__all__ = [
    "DEEP_PROBE_S",
    "PROBE_S",
    "REMOTE",
    "WITH_TOOLS",
    "Backend",
    "Call",
    "CallPiece",
    "Capabilities",
    "Chunk",
    "Delta",
    "Finish",
    "Missing",
    "ProbeResult",
    "Retraction",
    "ThoughtDelta",
    "TokenCounter",
    "ToolRequest",
]

WITH_TOOLS = frozenset({"openai", "anthropic", "gemini"})
"""The providers whose models can call tools; others get what tools gave as text at most."""

PROBE_S = 5.0
"""The longest a probe may take, all tiers being probed at the same time; in seconds (contract,
section 6)."""

DEEP_PROBE_S = 30.0
"""The same for `--deep`, which waits for one real token of a model that may think before it."""

REMOTE = frozenset({"openai", "anthropic", "gemini"})
"""The providers that are asked over a network; they tell when a request has been written."""

TokenCounter = Callable[[str], int]
"""How many tokens a text has, exactly or as a safe estimate."""


def _ignore() -> None:
    """Do nothing."""


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt's input."""

    prompt: Prompt
    """The request as the user made it: what the rule engine and the cache look at."""
    messages: tuple[Message, ...] = ()
    """What a language model is sent, cut to its context; at most one system message, the first.
    Calls of tools and their results are among them only where `tools` has declarations."""
    params: Params
    stream: bool = True
    connect_timeout_s: float
    idle_timeout_s: float = math.inf
    """How long a silence may last once tokens flow."""
    omit: frozenset[str] = frozenset()
    """Wire names of request parameters this model is known to reject."""
    request_id: str
    tools: tuple[ToolDeclaration, ...] = ()
    """What the model may call."""
    tool_choice: ToolChoice = ToolChoice()
    """Whether it may, or is to, call any; with `none` it must answer with what it has."""
    schema: OutputSchema | None = None
    """The shape that the answer has to have."""
    on_sent: Callable[[], None] = _ignore
    """Called by a remote provider when the request has been written: what is waited for from then
    on is the backend, and until then it is this machine or the way there."""

    @property
    def is_streamed(self) -> bool:
        """Whether the answer is asked for piece by piece, and the server can give it so."""
        return self.stream and "stream" not in self.omit


class Delta(msgspec.Struct, frozen=True):
    """Carry a piece of answer text; never empty."""

    text: str
    phase: str | None = None
    """See `Token.phase`."""


class ThoughtDelta(msgspec.Struct, frozen=True):
    """Carry a piece of what a model thinks: progress, but no answer; empty where it is hidden."""

    text: str
    seal: Seal | None = None


class Retraction(msgspec.Struct, frozen=True):
    """Take back all text so far: it has turned out to be thoughts, whose end alone is marked."""


class Finish(msgspec.Struct, frozen=True, kw_only=True):
    """End an answer that is complete, or was cut at `max_tokens`; comes last and exactly once."""

    reason: str
    """`stop`, `length` or `repetition`; refusals are raised as `content_filter` instead. The engine
    says `tool_calls` where calls are the answer."""
    usage: Usage = Usage()
    model: str | None = None
    """The model the server says has answered, where it says so."""
    intent: str | None = None
    ref_code: str | None = None
    cached_at: str | None = None
    notices: tuple[str, ...] = ()
    """What the user should be told of this backend, a sentence each."""


class CallPiece(msgspec.Struct, frozen=True):
    """A piece of a tool call that is being written: a token that is no text."""


class ToolRequest(msgspec.Struct, frozen=True, kw_only=True):
    """End a turn in which the model calls tools instead of answering; nothing has run yet."""

    calls: tuple[ToolCall, ...]
    """Never empty; their ids are unique among them."""
    raw: Any = None
    """See `Message.raw`."""
    usage: Usage = Usage()
    model: str | None = None


Chunk = Delta | ThoughtDelta | Retraction | CallPiece | Finish | ToolRequest


class Capabilities(msgspec.Struct, frozen=True, kw_only=True):
    """What a backend can do besides answering a conversation in text."""

    tools: bool = False
    """Whether it takes declarations of tools and calls them."""
    images: bool = False
    documents: bool = False
    """Whether it reads PDF documents."""
    schema: bool = False
    """Whether its answers can be held to a JSON Schema."""
    at_once: int | None = None
    """How many requests it answers at the same time; None: that is its server's business."""


class Missing(msgspec.Struct, frozen=True, kw_only=True):
    """What a backend lacks before it can be asked."""

    what: str
    """For instance `OPENAI_API_KEY is not set`."""
    fix: str
    """One thing to do about it."""
    variable: str | None = None
    """The variable that is not set, where that is what it lacks."""
    model: str | None = None
    """The model of the catalog that is to be pulled, where that is what it lacks."""


class ProbeResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a probe found."""

    ok: bool
    latency_ms: float
    error: str | None = None
    fix: str | None = None
    """What to do about the error, where the backend knows."""
    note: str | None = None
    """What is worth knowing of a backend that is well, or why that is not sure."""
    sure: bool = True
    """Whether the probe could tell; where not, recent requests do."""


class Backend(Protocol):
    """One place that may answer."""

    @property
    def provider(self) -> str:
        """The provider's name in the profile."""
        ...

    @property
    def model(self) -> str:
        """The model's name in the profile; `rules` and `cache` for those."""
        ...

    @property
    def identity(self) -> str:
        """Tell this backend from others across processes; changes with URL, model, key or file."""
        ...

    @property
    def is_language_model(self) -> bool:
        """Whether a model writes the answers."""
        ...

    @property
    def capabilities(self) -> Capabilities:
        """What it can do; a request that needs more is not sent to it."""
        ...

    def missing(self) -> Missing | None:
        """Return what is not configured; None when the backend can be asked."""
        ...

    async def token_counter(self) -> TokenCounter:
        """Return the means to count tokens; a local model is loaded for it.

        Raises:
            FallbackTriggerError: the model cannot be loaded.
        """
        ...

    def answer(self, call: Call) -> AsyncGenerator[Chunk, None]:
        """Make one attempt: yield deltas, then one finish, or one request for tools.

        Closing the generator ends the attempt and frees its connection or native call at once.

        Raises:
            FallbackTriggerError: for every failure, before or after output began.
        """
        ...

    def warm_up(self) -> bool:
        """Start getting ready in the background; False where there is nothing to do."""
        ...

    async def probe(self, *, deep: bool = False) -> ProbeResult:
        """Find out whether the backend could answer; nothing is billed unless `deep`."""
        ...

    async def aclose(self) -> None:
        """Free what the backend holds."""
        ...
