"""Play backends to the engine: each call follows the next line of a script."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator

from tieredllm.clock import SystemClock
from tieredllm.engine.plan import TierPlan
from tieredllm.engine.ports import Controls, NoMemory
from tieredllm.engine.runner import Events, FallbackRun
from tieredllm.engine.tool_loop import ToolLoop
from tieredllm.errors import FallbackTriggerError
from tieredllm.profile.schema import HealthSettings, Profile, Tier
from tieredllm.prompts.fit import estimate_tokens
from tieredllm.providers.base import (
    Call,
    CallPiece,
    Capabilities,
    Chunk,
    Delta,
    Finish,
    Missing,
    ProbeResult,
    Retraction,
    ThoughtDelta,
    ToolRequest,
)
from tieredllm.types import Answer, Answered, Event, Options, Prompt, Usage

Step = str | float | Exception | Finish | CallPiece | ThoughtDelta | Retraction | ToolRequest


PASSED_ON = Finish | CallPiece | ThoughtDelta | Retraction | ToolRequest


class Scripted:
    """A backend that plays a list of steps per call: text, seconds of silence, an error, an end."""

    def __init__(
        self,
        *calls: list[Step],
        name: str = "model",
        missing: str | None = None,
        is_language_model: bool = True,
        provider: str = "openai",
    ) -> None:
        self.calls = list(calls)
        self.seen: list[Call] = []
        self.open_calls = 0
        self.warmed = 0
        self.needs_warmth = False
        self.never_sends = False
        self.provider = provider if is_language_model else "rules"
        self.model = name
        self.identity = name
        self.is_language_model = is_language_model
        self._missing = missing
        able = self.provider not in {"llama_cpp", "cache"}
        self.capabilities = Capabilities(
            tools=able, images=able, documents=able, schema=able and is_language_model
        )

    def missing(self) -> Missing | None:
        return Missing(what=self._missing, fix="set it") if self._missing else None

    async def token_counter(self):
        return estimate_tokens

    async def answer(self, call: Call) -> AsyncGenerator[Chunk, None]:
        self.seen.append(call)
        self.open_calls += 1
        if not self.never_sends:
            call.on_sent()
        steps = self.calls.pop(0) if len(self.calls) > 1 else self.calls[0]
        try:
            for step in steps:
                if isinstance(step, Exception):
                    raise step
                if isinstance(step, PASSED_ON):
                    yield step
                elif isinstance(step, str):
                    yield Delta(step)
                else:
                    await asyncio.sleep(step)
        finally:
            self.open_calls -= 1

    def warm_up(self) -> bool:
        self.warmed += 1
        return self.needs_warmth

    async def probe(self, *, deep: bool = False) -> ProbeResult:
        return ProbeResult(ok=True, latency_ms=0.0)

    async def aclose(self) -> None:
        pass


END = Finish(reason="stop", usage=Usage(prompt_tokens=3, completion_tokens=2))
RULES_TEXT = "limited answer"


def fault(kind: str, **extra) -> FallbackTriggerError:
    return FallbackTriggerError(kind, "played", **extra)


def rules() -> Scripted:
    return Scripted(
        [RULES_TEXT, Finish(reason="stop", intent="general", ref_code="REF-00000000")],
        name="rules",
        is_language_model=False,
    )


def run_engine(
    *backends: Scripted | tuple[Scripted, ...],
    tier: dict | None = None,
    tiers: dict[int, dict] | None = None,
    health=None,
    health_settings: HealthSettings | None = None,
    on_content_filter: str = "stop",
    prompt: Prompt | None = None,
    options: Options | None = None,
    tools: ToolLoop | None = None,
) -> tuple[Answer, list[Event]]:
    """Run one request over scripted tiers; give its answer and its events."""
    run = make_run(
        *backends,
        tier=tier,
        tiers=tiers,
        health=health,
        health_settings=health_settings,
        on_content_filter=on_content_filter,
        prompt=prompt,
        options=options,
        tools=tools,
    )

    async def collect() -> list[Event]:
        events = [event async for event in Events(run)]
        await asyncio.sleep(0)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert left == set()
        return events

    events = asyncio.run(collect())
    assert isinstance(events[-1], Answered)
    for entry in backends:
        for backend in entry if isinstance(entry, tuple) else (entry,):
            assert backend.open_calls == 0
    return events[-1].answer, events


def make_run(
    *backends: Scripted | tuple[Scripted, ...],
    tier: dict | None = None,
    tiers: dict[int, dict] | None = None,
    health=None,
    health_settings: HealthSettings | None = None,
    on_content_filter: str = "stop",
    prompt: Prompt | None = None,
    options: Options | None = None,
    tools: ToolLoop | None = None,
    controls: Controls | None = None,
) -> FallbackRun:
    """Lay out one request over scripted tiers."""
    names = ["primary", "secondary", "minimal", "fourth", "fifth"]
    plans = []
    for level, entry in enumerate(backends):
        group = entry if isinstance(entry, tuple) else (entry,)
        is_model = group[0].is_language_model
        settings = {"backoff": {"base_s": 0.001, "jitter_s": 0.0}} | (tier or {})
        settings |= (tiers or {}).get(level, {})
        import msgspec

        spec = msgspec.convert(
            {
                "name": names[level] if is_model else "rules",
                "provider": group[0].provider,
                "model": group[0].model,
                "alternates": [{"provider": it.provider, "model": it.model} for it in group[1:]],
            }
            | settings,
            Tier,
        )
        plans.append(TierPlan(tier=spec, level=level, backends=group))
    profile = Profile(
        tiers=tuple(plan.tier for plan in plans),
        health=health_settings or HealthSettings(),
        on_content_filter=on_content_filter,
    )
    memory = health or NoMemory()
    return FallbackRun(
        plans=plans,
        profile=profile,
        prompt=prompt or Prompt(question="Why?"),
        options=options or Options(),
        request_id="0123456789abcdef0123456789abcdef",
        health=memory,
        parameters=memory if hasattr(memory, "rejected") else NoMemory(),
        clock=SystemClock(),
        rng=random.Random(7),
        tools=tools,
        controls=controls,
    )
