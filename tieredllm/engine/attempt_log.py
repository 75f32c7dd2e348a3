"""Log one request's attempts in order, and make its answer out of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from tieredllm.clock import Clock
from tieredllm.engine.attempt import Completed, ContextSkipError
from tieredllm.engine.plan import TierPlan, cost
from tieredllm.errors import FallbackTriggerError
from tieredllm.kinds import ErrorInfo, ErrorKind
from tieredllm.providers.base import Backend, Finish
from tieredllm.types import Answer, Attempt, Outcome, Skip, ToolUse, last_failures

__all__ = ["AttemptLog", "Winner"]


MOVED_ON = "you moved on"

SHARED = tuple(name for name in Finish.__struct_fields__ if name in Answer.__struct_fields__)
"""What a backend says at its answer's end and the answer passes on as it is."""


class Winner(msgspec.Struct, frozen=True, kw_only=True):
    """The backend that answered, and its answer."""

    plan: TierPlan
    backend: Backend
    completed: Completed


class AttemptLog:
    """What was tried, on the request's own clock.

    Args:
        request_id: 32 hexadecimal digits.
        clock: the time; the request starts now.
        plans: all tiers, with all of their backends.
    """

    def __init__(self, *, request_id: str, clock: Clock, plans: Sequence[TierPlan]) -> None:
        self.request_id = request_id
        self.attempts: list[Attempt] = []
        self._ended: set[int] = set()
        """The backends that have failed or were passed over; two may have the same model."""
        self._alternates = {
            id(backend): place for plan in plans for place, backend in enumerate(plan.backends)
        }
        self._clock = clock
        self._started = clock.monotonic()

    def now(self) -> float:
        """Return the time, to be handed back as `started` or `first`."""
        return self._clock.monotonic()

    def attempt(
        self,
        plan: TierPlan,
        backend: Backend,
        *,
        started: float,
        first: float | None,
        error: FallbackTriggerError | None,
        cancelled: bool,
        called: Sequence[str] = (),
    ) -> Attempt:
        """Record an attempt that has ended; `called` names the tools that it ended with."""
        outcome: Outcome = "ok"
        if error is not None:
            outcome = "skipped" if isinstance(error, ContextSkipError) else "failed"
        elif cancelled:
            outcome = "cancelled"
        reason = f"called {', '.join(dict.fromkeys(called))}"[:200] if called else None
        return self._add(
            plan,
            backend,
            outcome=outcome,
            error=error.info if error else None,
            skip=error.skip if isinstance(error, ContextSkipError) else None,
            reason="stopped before its end" if cancelled else reason,
            started=started,
            first=first,
        )

    def skip(self, plan: TierPlan, backend: Backend, skip: Skip, reason: str) -> Attempt:
        """Record a backend that was passed over."""
        return self._add(
            plan,
            backend,
            outcome="skipped",
            error=None,
            skip=skip,
            reason=reason,
            started=self.now(),
        )

    def move_on(self, plan: TierPlan, backend: Backend) -> Attempt:
        """Return the attempt that the caller has given up, recorded as such."""
        cancelled = self.attempts.pop() if self._is_cancelled(plan, backend) else None
        self._ended.add(id(backend))
        if cancelled is None:
            return self._add(
                plan, backend, outcome="cancelled", error=None, reason=MOVED_ON, started=self.now()
            )
        self.attempts.append(msgspec.structs.replace(cancelled, reason=MOVED_ON))
        return self.attempts[-1]

    def _is_cancelled(self, plan: TierPlan, backend: Backend) -> bool:
        last = self.attempts[-1] if self.attempts else None
        return (
            last is not None
            and last.outcome == "cancelled"
            and (last.tier, last.alternate) == (plan.tier.name, self._alternates[id(backend)])
        )

    def has_ended(self, backend: Backend) -> bool:
        """Whether a backend was tried or passed over, to no avail."""
        return id(backend) in self._ended

    def is_exhausted(self, plan: TierPlan) -> bool:
        """Whether every backend of a tier was tried or passed over, to no avail."""
        return all(self.has_ended(backend) for backend in plan.backends)

    def last_other(self, tier: str) -> Attempt | None:
        """Return the latest attempt that was not this tier's."""
        return next((a for a in reversed(self.attempts) if a.tier != tier), None)

    def answer(self, winner: Winner | None, *, tool_calls: tuple[ToolUse, ...] = ()) -> Answer:
        """Return the answer: complete if an attempt won, else failed."""
        common: dict[str, Any] = {
            "request_id": self.request_id,
            "latency_ms": self._ms(self.now()),
            "original_error": " → ".join(self._last_errors()) or None,
            "attempts": tuple(sorted(self.attempts, key=lambda attempt: attempt.started_ms)),
            "tool_calls": tool_calls,
        }
        if winner is None:
            return Answer(error=self._final_error(), **common)
        completed, finish = winner.completed, winner.completed.finish
        first_token_at = completed.first_token_at
        return Answer(
            text=completed.text,
            tier=winner.plan.tier.name,
            fallback_level=winner.plan.level,
            fallback_used=winner.plan.level > 0,
            provider=winner.backend.provider,
            model_used=finish.model or winner.backend.model,
            first_token_ms=None if first_token_at is None else self._ms(first_token_at),
            finish_reason=finish.reason,
            reasoning=completed.reasoning,
            calls=completed.calls,
            left_out=completed.left_out,
            max_tokens=completed.max_tokens,
            truncated=finish.reason in ("length", "repetition"),
            cost=cost(winner.plan.price_of(self._alternates[id(winner.backend)]), finish.usage),
            **{name: getattr(finish, name) for name in SHARED},
            **common,
        )

    def _add(
        self,
        plan: TierPlan,
        backend: Backend,
        *,
        outcome: Outcome,
        error: ErrorInfo | None,
        reason: str | None,
        started: float,
        first: float | None = None,
        skip: Skip | None = None,
    ) -> Attempt:
        attempt = Attempt(
            tier=plan.tier.name,
            level=plan.level,
            provider=backend.provider,
            model=backend.model,
            alternate=self._alternates[id(backend)],
            outcome=outcome,
            error=error,
            skip=skip,
            reason=reason,
            started_ms=self._ms(started),
            duration_ms=round((self.now() - started) * 1000, 1),
            first_token_ms=None if first is None else round((first - started) * 1000, 1),
        )
        self.attempts.append(attempt)
        if outcome != "cancelled":
            self._ended.add(id(backend))
        return attempt

    def _ms(self, at: float) -> float:
        """Return milliseconds from the request's start, to a tenth."""
        return round((at - self._started) * 1000, 1)

    def _last_errors(self) -> list[str]:
        """Return `tier: why` for each tier that gave way, its last error, the first tier first."""
        return [f"{attempt.tier}: {attempt.why}" for attempt in last_failures(self.attempts)]

    def _final_error(self) -> ErrorInfo:
        """Return the error of a request that nothing answered: the last real one."""
        for attempt in reversed(self.attempts):
            if attempt.error is not None:
                return attempt.error
        why = "; ".join(self._last_errors()) or "none is left that may answer"
        skips = {it.skip.why for it in self.attempts if it.skip is not None}
        kind = ErrorKind.BAD_REQUEST if "capability" in skips else ErrorKind.UNEXPECTED
        kind = ErrorKind.DEADLINE if "no_time" in skips else kind
        return ErrorInfo(kind=kind, message=f"no tier could be asked: {why}")
