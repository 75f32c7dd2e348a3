"""Tell OpenTelemetry of requests and attempts, where the program around us has set it up.

Only its API is used: whoever wants spans and metrics brings an SDK, in the program that imports
tieredllm or by `opentelemetry-instrument tieredllm serve`. Both have imported the API before the
first request; where nobody has, nothing is imported and nothing is told.

The names are those of the GenAI semantic conventions, version 1.37:
https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans/ and …/gen-ai-metrics/. What they
have no name for begins with `tieredllm.`. Prompts, answers and error messages are in none of them.
"""

from __future__ import annotations

import contextlib
import sys
from typing import Any

from tieredllm.types import Answer, Attempt
from tieredllm.version import __version__

__all__ = ["CANCELLED", "Telemetry"]

NAME = "tieredllm"
OPERATION = "gen_ai.operation.name"
PROVIDER = "gen_ai.provider.name"
REQUEST_MODEL = "gen_ai.request.model"
RESPONSE_MODEL = "gen_ai.response.model"
RESPONSE_ID = "gen_ai.response.id"
FINISH_REASONS = "gen_ai.response.finish_reasons"
FIRST_CHUNK_S = "gen_ai.response.time_to_first_chunk"
INPUT_TOKENS = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
TOKEN_TYPE = "gen_ai.token.type"  # noqa: S105 - no password
ERROR_TYPE = "error.type"
CANCELLED = "cancelled"
"""What `error.type` says of what nobody waited for any more; its status stays unset."""
TIER = "tieredllm.tier"
LEVEL = "tieredllm.fallback_level"
PROFILE = "tieredllm.profile"
SKIPPED = "tieredllm.skipped"
WHY = "tieredllm.skipped.why"

DURATION = "gen_ai.client.operation.duration"
TOKEN_USAGE = "gen_ai.client.token.usage"  # noqa: S105 - no password

CHAT = "chat"
PROVIDERS = {"gemini": "gcp.gemini"}
"""Our names of providers in the conventions' words, where those differ."""
NS_PER_MS = 1_000_000


class Telemetry:
    """One request's way to OpenTelemetry: made when it begins, told when it has ended.

    Args:
        at: when the request begins; seconds since the epoch.
        profile: the profile's name.
    """

    def __init__(self, *, at: float, profile: str) -> None:
        self._started_ns = int(at * 1e9)
        self._profile = profile
        self._parent: Any = None
        if self._is_set_up():
            from opentelemetry import context

            self._parent = context.get_current()

    @staticmethod
    def _is_set_up() -> bool:
        return "opentelemetry.trace" in sys.modules or "opentelemetry.metrics" in sys.modules

    def record(self, answer: Answer, *, ended_by: str | None = None) -> None:
        """Tell, once, of a request that has ended: spans for it and its attempts, and figures.

        Args:
            answer: what came of it.
            ended_by: what ended it before it was answered: `CANCELLED`, or an exception's class.
        """
        parent, self._parent = self._parent, None
        if parent is None:
            return
        with contextlib.suppress(Exception):  # no trouble of an exporter reaches an answer
            self._record_spans(answer, parent, ended_by=ended_by)
            self._record_figures(answer)

    def _record_spans(self, answer: Answer, parent: Any, *, ended_by: str | None) -> None:
        from opentelemetry import trace

        tracer = trace.get_tracer(NAME, __version__)
        attributes = {OPERATION: CHAT, PROFILE: self._profile, RESPONSE_ID: answer.request_id}
        request = tracer.start_span(
            f"{CHAT} {NAME}",
            context=parent,
            start_time=self._started_ns,
            attributes=attributes | ({ERROR_TYPE: ended_by} if ended_by else _outcome(answer)),
        )
        if ended_by != CANCELLED and (ended_by or answer.error is not None):
            request.set_status(trace.StatusCode.ERROR)
        inside = trace.set_span_in_context(request, parent)
        ends = self._started_ns + int(answer.latency_ms * NS_PER_MS)
        for attempt in answer.attempts:
            begins = self._started_ns + int(attempt.started_ms * NS_PER_MS)
            if attempt.outcome == "skipped":
                why = {TIER: attempt.tier, WHY: attempt.skip.why if attempt.skip else "unknown"}
                request.add_event(SKIPPED, why, timestamp=begins)
                continue
            span = tracer.start_span(
                f"{CHAT} {attempt.model}",
                context=inside,
                kind=trace.SpanKind.CLIENT,
                start_time=begins,
                attributes=_told(attempt) | (_outcome(answer) if _won(attempt, answer) else {}),
            )
            if attempt.error is not None:
                span.set_status(trace.StatusCode.ERROR)
            ended = begins + int(attempt.duration_ms * NS_PER_MS)
            span.end(ended)
            ends = max(ends, ended)  # times are rounded, so their sum may lie behind the whole
        request.end(ends)

    def _record_figures(self, answer: Answer) -> None:
        from opentelemetry import metrics

        meter = metrics.get_meter(NAME, __version__)
        durations = meter.create_histogram(
            DURATION, unit="s", description="GenAI operation duration."
        )
        tokens = meter.create_histogram(
            TOKEN_USAGE, unit="{token}", description="Number of input and output tokens used."
        )
        for attempt in answer.attempts:
            if attempt.outcome == "skipped":
                continue
            told = _told(attempt)
            told.pop(FIRST_CHUNK_S, None)
            durations.record(attempt.duration_ms / 1000, told)
            if _won(attempt, answer):
                usage = answer.usage
                counts = {"input": usage.prompt_tokens, "output": usage.completion_tokens}
                for kind, count in counts.items():
                    if count is not None:
                        tokens.record(count, told | {TOKEN_TYPE: kind})


def _told(attempt: Attempt) -> dict[str, Any]:
    """Return what is told of an attempt, in values that are bounded by the profile."""
    told: dict[str, Any] = {
        OPERATION: CHAT,
        PROVIDER: PROVIDERS.get(attempt.provider, attempt.provider),
        REQUEST_MODEL: attempt.model,
        TIER: attempt.tier,
        LEVEL: attempt.level,
    }
    if attempt.error is not None:
        told[ERROR_TYPE] = str(attempt.error.kind)
    elif attempt.outcome == "cancelled":
        told[ERROR_TYPE] = CANCELLED
    if attempt.first_token_ms is not None:
        told[FIRST_CHUNK_S] = attempt.first_token_ms / 1000
    return told


def _won(attempt: Attempt, answer: Answer) -> bool:
    """Whether an attempt is the one that the answer came from."""
    last = [each for each in answer.attempts if each.outcome == "ok" and each.tier == answer.tier]
    return bool(last) and attempt is last[-1]


def _outcome(answer: Answer) -> dict[str, Any]:
    """Return what is told of an answer."""
    if answer.error is not None:
        return {ERROR_TYPE: str(answer.error.kind)}
    told = {
        TIER: answer.tier,
        LEVEL: answer.fallback_level,
        RESPONSE_MODEL: answer.model_used,
        INPUT_TOKENS: answer.usage.prompt_tokens,
        OUTPUT_TOKENS: answer.usage.completion_tokens,
    }
    known: dict[str, Any] = {name: value for name, value in told.items() if value is not None}
    if answer.finish_reason is not None:
        known[FINISH_REASONS] = [answer.finish_reason]
    return known
