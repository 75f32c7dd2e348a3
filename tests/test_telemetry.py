"""OpenTelemetry: a span per request, one per attempt below it, in the conventions' names."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import msgspec
import pytest
from cli_support import environment, two_clouds
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from wire_support import answers, raw_server, response

from tieredllm.client import FallbackManager
from tieredllm.errors import NoAnswerError
from tieredllm.files import Places
from tieredllm.telemetry import Telemetry
from tieredllm.types import AttemptStarted

EXPORTER = InMemorySpanExporter()
READER = InMemoryMetricReader()


@pytest.fixture(scope="module", autouse=True)
def sdk():
    """Set the SDK up as a program would; a process can do so once."""
    tracing = TracerProvider()
    tracing.add_span_processor(SimpleSpanProcessor(EXPORTER))
    trace.set_tracer_provider(tracing)
    metering = MeterProvider(metric_readers=[READER])
    metrics.set_meter_provider(metering)  # never shut down: later tests of the process use it, too


@pytest.fixture
def asked(tmp_path):
    """Ask once: the first tier fails, the second answers; give the spans by name."""

    def ask(second):
        EXPORTER.clear()

        async def main():
            failing = response(503, {"error": {"message": "secret words"}})
            async with raw_server(failing) as one, raw_server(second) as two:
                path = two_clouds(tmp_path, f"{one.url}/v1", f"{two.url}/v1")
                env = {"TIEREDLLM_HOME": str(tmp_path)}
                places = Places.from_environment(env)
                async with FallbackManager(path, env=env, places=places) as manager:
                    with trace.get_tracer("program").start_as_current_span("outer"):
                        try:
                            return await manager.process_with_fallbacks("a private question")
                        except NoAnswerError as exc:
                            return exc.answer

        answer = asyncio.run(main())
        return answer, EXPORTER.get_finished_spans()

    return ask


def test_a_request_and_its_attempts_are_spans(asked):
    """The request's span lies in the program's own, the attempts' in the request's."""
    answer, spans = asked(answers("openai", "fine"))

    outer = next(span for span in spans if span.name == "outer")
    request = next(span for span in spans if span.name == "chat tieredllm")
    first, second = sorted(
        (span for span in spans if span.name == "chat m-1"), key=lambda span: span.start_time
    )
    assert request.parent.span_id == outer.context.span_id
    assert first.parent.span_id == second.parent.span_id == request.context.span_id
    assert request.start_time <= first.start_time <= first.end_time <= second.end_time
    assert second.end_time <= request.end_time
    assert first.attributes["error.type"] == "service_unavailable"
    assert not first.status.is_ok
    assert second.kind is trace.SpanKind.CLIENT
    assert dict(second.attributes) | {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "m-1",
        "gen_ai.response.model": "m-1",
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": 12,
        "gen_ai.usage.output_tokens": 3,
        "tieredllm.tier": "secondary",
        "tieredllm.fallback_level": 1,
    } == dict(second.attributes)
    assert request.attributes["gen_ai.response.id"] == answer.request_id


@pytest.mark.parametrize("way", ["cancelled", "closed"])
def test_a_request_that_nobody_waits_for_any_more_is_a_span(tmp_path, way):
    """Cancelled, or its iterator closed, a request and its attempt are told, as no error."""
    EXPORTER.clear()
    asked = asyncio.Event()

    async def silent(connection):
        asked.set()
        await connection.gone()

    async def main():
        async with raw_server(silent) as server:
            path = two_clouds(tmp_path, f"{server.url}/v1")
            env = {"TIEREDLLM_HOME": str(tmp_path)}
            async with FallbackManager(path, env=env) as manager:
                if way == "closed":
                    events = manager.stream("a question")
                    async for event in events:
                        if isinstance(event, AttemptStarted):
                            break
                    await asked.wait()
                    await events.aclose()
                    return
                task = asyncio.create_task(manager.process_with_fallbacks("a question"))
                await asked.wait()
                task.cancel()
                await asyncio.wait([task])

    asyncio.run(main())

    attempt, request = sorted(EXPORTER.get_finished_spans(), key=lambda span: span.name)
    assert (attempt.name, request.name) == ("chat m-1", "chat tieredllm")
    assert attempt.parent.span_id == request.context.span_id
    for span in (attempt, request):
        assert span.attributes["error.type"] == "cancelled"
        assert span.status.status_code is trace.StatusCode.UNSET


def test_an_error_of_ours_is_told_by_its_class(tmp_path, monkeypatch):
    """Who looks for what went wrong finds it, and not among what nobody waited for."""
    manager = FallbackManager(
        two_clouds(tmp_path, "http://127.0.0.1:9/v1"), env={"TIEREDLLM_HOME": str(tmp_path)}
    )
    monkeypatch.setattr(manager._health, "standings", lambda _: {}["gone"])
    EXPORTER.clear()

    with pytest.raises(KeyError):
        manager.ask("a question")
    [span] = EXPORTER.get_finished_spans()
    assert span.attributes["error.type"] == "KeyError"
    assert span.status.status_code is trace.StatusCode.ERROR


def test_rounded_times_keep_an_attempt_inside_its_request(asked):
    """An attempt whose start and duration were both rounded up ends no later than its request."""
    answer, _ = asked(answers("openai", "fine"))
    last = answer.attempts[-1]
    short = msgspec.structs.replace(answer, latency_ms=last.started_ms + last.duration_ms - 0.1)
    EXPORTER.clear()

    with trace.get_tracer("program").start_as_current_span("outer"):
        Telemetry(at=0.0, profile="test").record(short)

    ends = {span.name: span.end_time for span in EXPORTER.get_finished_spans()}
    assert ends["chat m-1"] <= ends["chat tieredllm"]


def test_nothing_private_is_told(asked):
    """Neither the question nor the answer nor a server's words are in any span."""
    _, spans = asked(answers("openai", "an intimate reply"))

    told = " ".join(span.to_json() for span in spans)
    for words in ("private question", "intimate reply", "secret words"):
        assert words not in told


def test_durations_and_tokens_are_measured(asked):
    """The conventions' two histograms have a point for each attempt, and the answer's tokens."""
    asked(answers("openai", "fine"))

    data = READER.get_metrics_data()
    found = {
        metric.name: metric.data.data_points
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }
    durations = found["gen_ai.client.operation.duration"]
    assert {point.attributes.get("error.type") for point in durations} >= {
        "service_unavailable",
        None,
    }
    tokens = {
        point.attributes["gen_ai.token.type"]: point.min
        for point in found["gen_ai.client.token.usage"]
        if point.attributes["gen_ai.provider.name"] == "openai"
    }
    assert tokens == {"input": 12, "output": 3}


def test_where_nobody_has_set_it_up_nothing_is_imported(tmp_path):
    """A program without OpenTelemetry does not get it loaded by us."""
    code = (
        "import sys\n"
        "from tieredllm import FallbackManager\n"
        f"manager = FallbackManager({two_clouds(tmp_path, 'http://127.0.0.1:9/v1')!r})\n"
        "answer = manager.ask('hello')\n"
        "assert answer.tier == 'rules'\n"
        "print([name for name in sys.modules if name.startswith('opentelemetry')])\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(tmp_path),
        capture_output=True,
        check=True,
        timeout=60,
    )

    assert done.stdout.strip() == b"[]"
