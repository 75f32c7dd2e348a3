"""Play a fault instead of calling a backend, so that an outage can be rehearsed.

Only the network or native call is replaced: composing the prompt, timers, retries, benching and
fallback are the engine's real ones.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from tieredllm.errors import FallbackTriggerError
from tieredllm.kinds import ErrorKind
from tieredllm.prompts.fit import estimate_tokens
from tieredllm.providers.base import (
    Backend,
    Call,
    Capabilities,
    Chunk,
    Delta,
    Missing,
    ProbeResult,
    TokenCounter,
)

__all__ = ["SimulatedBackend"]

STATUSES = {
    ErrorKind.RATE_LIMIT: 429,
    ErrorKind.QUOTA_EXHAUSTED: 429,
    ErrorKind.SERVICE_UNAVAILABLE: 503,
    ErrorKind.AUTHENTICATION: 401,
    ErrorKind.PERMISSION: 403,
    ErrorKind.NOT_FOUND: 404,
    ErrorKind.CONTEXT_LENGTH: 400,
    ErrorKind.BAD_REQUEST: 400,
    ErrorKind.MALFORMED_RESPONSE: 200,
    ErrorKind.EMPTY_RESPONSE: 200,
}
"""The HTTP status a server would have sent with each kind, where it sends one."""

SILENT_S = 86_400.0
"""Longer than any timeout: what a silent server is played with."""


class SimulatedBackend:
    """Stand in for a backend and fail as told.

    Args:
        backend: whose place it takes. Its identity is kept, so that health learns from the fault
            as from a real one, and other commands see it (`health --reset` forgets).
        kind: how every call fails. `timeout` stays silent until the engine's own timer ends
            the wait; `stream_interrupted` breaks off after its first words.
    """

    def __init__(self, backend: Backend, kind: ErrorKind) -> None:
        self.provider = backend.provider
        self.model = backend.model
        self.is_language_model = backend.is_language_model
        self._backend = backend
        self._kind = kind

    @property
    def identity(self) -> str:
        """The real backend's."""
        return self._backend.identity

    @property
    def capabilities(self) -> Capabilities:
        """The real backend's."""
        return self._backend.capabilities

    def missing(self) -> Missing | None:
        """Return None: a rehearsal needs no key."""
        return None

    async def token_counter(self) -> TokenCounter:
        """Estimate, since no model is loaded."""
        return estimate_tokens

    async def answer(self, call: Call) -> AsyncGenerator[Chunk, None]:
        """Raise the fault."""
        call.on_sent()
        if self._kind is ErrorKind.TIMEOUT:
            await asyncio.sleep(SILENT_S)
        if self._kind is ErrorKind.STREAM_INTERRUPTED:
            yield Delta("This answer will break off in the mid")
        raise FallbackTriggerError(self._kind, "simulated", status=STATUSES.get(self._kind))

    def warm_up(self) -> bool:
        """Return False: there is nothing to get ready."""
        return False

    async def probe(self, *, deep: bool = False) -> ProbeResult:  # noqa: ARG002
        """Return the fault as a failed probe."""
        return ProbeResult(ok=False, latency_ms=0.0, error=f"{self._kind}: simulated")

    async def aclose(self) -> None:
        """Free the real backend."""
        await self._backend.aclose()
