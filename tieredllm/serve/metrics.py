"""Count what the gateway does, for Prometheus; every label's values come from the profile."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from tieredllm.types import Answer, Attempt

__all__ = ["Metrics"]

SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300)
"""The upper bounds of the histograms: from a cached answer to the longest deadline in use."""


class Metrics:
    """One gateway's figures, in a registry of their own."""

    content_type = CONTENT_TYPE_PLAIN_0_0_4

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "tieredllm_requests",
            "Requests by how they ended.",
            ("protocol", "outcome"),
            registry=self._registry,
        )
        self._answers = Counter(
            "tieredllm_answers",
            "Answers by who gave them.",
            ("tier", "provider", "model"),
            registry=self._registry,
        )
        self._attempts = Counter(
            "tieredllm_attempts",
            "Attempts, skipped ones included.",
            ("tier", "provider", "model", "outcome", "kind"),
            registry=self._registry,
        )
        self._tokens = Counter(
            "tieredllm_tokens",
            "Tokens that servers counted.",
            ("tier", "direction"),
            registry=self._registry,
        )
        self._answer_s = Histogram(
            "tieredllm_answer_seconds",
            "From a request to its whole answer.",
            ("tier",),
            buckets=SECONDS,
            registry=self._registry,
        )
        self._first_token_s = Histogram(
            "tieredllm_first_token_seconds",
            "From a request to the first token of its answer.",
            ("tier",),
            buckets=SECONDS,
            registry=self._registry,
        )
        self.running = Gauge(
            "tieredllm_running_requests", "Requests being answered.", registry=self._registry
        )

    def observe(self, attempts: Iterable[Attempt], answer: Answer | None) -> None:
        """Count a request's attempts, and its answer if there is one."""
        for attempt in attempts:
            kind = str(attempt.error.kind) if attempt.error is not None else ""
            if attempt.skip is not None:
                kind = attempt.skip.why
            self._attempts.labels(
                attempt.tier, attempt.provider, attempt.model, attempt.outcome, kind
            ).inc()
        if answer is None or answer.tier is None:
            return
        last = next(a for a in reversed(answer.attempts) if a.outcome == "ok")
        self._answers.labels(last.tier, last.provider, last.model).inc()
        self._answer_s.labels(answer.tier).observe(answer.latency_ms / 1000)
        if answer.first_token_ms is not None:
            self._first_token_s.labels(answer.tier).observe(answer.first_token_ms / 1000)
        for direction, count in (
            ("prompt", answer.usage.prompt_tokens),
            ("completion", answer.usage.completion_tokens),
        ):
            if count is not None:
                self._tokens.labels(answer.tier, direction).inc(count)

    def text(self) -> bytes:
        """Return everything in Prometheus's text format."""
        return generate_latest(self._registry)
