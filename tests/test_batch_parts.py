"""The decisions of a batch: how many at once, how long to wait, what a line asks."""

from __future__ import annotations

import asyncio
import io
from itertools import chain

import pytest

from tieredllm.batch.concurrency import START, AdaptiveGate, Limit
from tieredllm.batch.lines import BadLineError, Reader, Wording, in_shard
from tieredllm.batch.run import HopelessError, wait_s
from tieredllm.clock import iso
from tieredllm.errors import UsageError
from tieredllm.kinds import ErrorInfo, ErrorKind
from tieredllm.types import Answer, Attempt, Skip

NOW = 1_795_000_000.0


def test_a_limit_doubles_until_there_is_trouble():
    """Every full round of answers doubles the number at once, up to the most."""
    limit = Limit(64)

    for _ in range(START + 2 * START + 4 * START):
        limit.done(0.1, inside=limit.at_once)

    assert limit.at_once == 64


def test_a_limit_halves_once_for_what_was_under_way():
    """Sixteen refusals of the same moment halve it once; it grows by one a round afterwards."""
    limit = Limit(64)
    for _ in range(START):
        limit.done(0.1, inside=limit.at_once)
    assert limit.at_once == 16

    for inside in range(16, 0, -1):
        limit.halve(inside=16)
        limit.done(None, inside=inside)
    halved = limit.at_once
    for _ in range(halved + 1):
        limit.done(0.1, inside=limit.at_once)

    assert (halved, limit.at_once) == (8, 9)


def test_a_limit_halves_when_first_tokens_come_later():
    """Twice the wait for the first token, and half a second more, counts as trouble."""
    limit = Limit(16)
    for _ in range(16 + START):
        limit.done(0.5, inside=limit.at_once)
    before = limit.at_once

    for _ in range(16):
        limit.done(1.6, inside=limit.at_once)

    assert (before, limit.at_once) == (16, 8)


def test_a_limit_that_is_not_used_does_not_grow():
    """Answers that come while fewer are under way than may be prove nothing."""
    limit = Limit(64)

    for _ in range(100):
        limit.done(0.1, inside=1)

    assert limit.at_once == START


def test_the_gate_lets_in_as_many_as_the_limit_says():
    """Who comes first goes first, and one more enters as one leaves."""

    async def scene() -> list[int]:
        gate, order = AdaptiveGate(2), []

        async def visit(number: int) -> None:
            await gate.enter("b")
            order.append(number)
            await asyncio.sleep(0.01)
            gate.leave("b", None)

        async with asyncio.TaskGroup() as group:
            for number in range(5):
                group.create_task(visit(number))
            await asyncio.sleep(0.005)
            assert order == [0, 1]
        return order

    assert asyncio.run(scene()) == [0, 1, 2, 3, 4]


def test_the_gate_stays_shut_as_long_as_the_server_asks():
    """After `Retry-After` nobody else enters before that time."""

    async def scene() -> float:
        gate, loop = AdaptiveGate(8), asyncio.get_running_loop()
        await gate.enter("b")
        began = loop.time()
        gate.failed("b", ErrorInfo(kind=ErrorKind.RATE_LIMIT, message="", retry_after_s=0.2))
        gate.leave("b", None)
        await gate.enter("b")
        return loop.time() - began

    assert 0.19 <= asyncio.run(scene()) < 5


def test_who_is_called_off_at_the_gate_takes_no_place():
    """A waiting request that is cancelled leaves its place to the next."""

    async def scene() -> None:
        gate = AdaptiveGate(1)
        await gate.enter("b")
        waiting = [asyncio.create_task(gate.enter("b")) for _ in range(2)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        await asyncio.sleep(0)
        gate.leave("b", None)
        await asyncio.wait_for(waiting[1], 1)

    asyncio.run(scene())


def failed(*attempts: tuple[str, object]) -> Answer:
    """Make a failed answer; an attempt is a tier with the kind of its error or its skip."""
    made = []
    for level, (tier, why) in enumerate(attempts):
        made.append(
            Attempt(
                tier=tier,
                level=level,
                provider="p",
                model="m",
                outcome="skipped" if isinstance(why, Skip) else "failed",
                error=why if isinstance(why, ErrorInfo) else None,
                skip=why if isinstance(why, Skip) else None,
                started_ms=0,
                duration_ms=0,
            )
        )
    error = ErrorInfo(kind=ErrorKind.UNEXPECTED, message="all failed")
    return Answer(request_id="0" * 32, latency_ms=1, error=error, attempts=tuple(made))


def error(kind: ErrorKind, **more: float) -> ErrorInfo:
    return ErrorInfo(kind=kind, message="no", **more)


def circuit(kind: ErrorKind, in_s: float) -> Skip:
    return Skip(why="circuit_open", cause=kind, retry_at=iso(NOW + in_s, ms=True))


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (failed(("a", circuit(ErrorKind.TIMEOUT, 12))), 12),
        (
            failed(
                ("a", circuit(ErrorKind.TIMEOUT, 12)),
                ("b", circuit(ErrorKind.SERVICE_UNAVAILABLE, 5)),
            ),
            5,
        ),
        (failed(("a", error(ErrorKind.RATE_LIMIT, retry_after_s=33.0))), 33),
        (failed(("a", error(ErrorKind.CONNECTION))), 1),
        (failed(("a", error(ErrorKind.AUTHENTICATION)), ("b", error(ErrorKind.TIMEOUT))), 1),
        (failed(("a", error(ErrorKind.CONTEXT_LENGTH))), None),
        (failed(("a", error(ErrorKind.AUTHENTICATION)), ("b", error(ErrorKind.BAD_REQUEST))), None),
        (failed(("a", Skip(why="capability")), ("b", Skip(why="not_configured"))), None),
        (failed(("a", circuit(ErrorKind.TIMEOUT, 7200))), 600),
    ],
)
def test_how_long_a_failed_line_waits(answer, expected):
    """It waits for the soonest tier that time can cure, and not at all for its own fault."""
    found = wait_s(answer, now=NOW)

    assert found == (expected if expected is None else pytest.approx(expected, abs=0.01))


@pytest.mark.parametrize(
    "answer",
    [
        failed(("a", error(ErrorKind.AUTHENTICATION))),
        failed(("a", circuit(ErrorKind.QUOTA_EXHAUSTED, 3600)), ("b", Skip(why="not_configured"))),
        failed(("a", Skip(why="not_configured"))),
    ],
)
def test_what_no_waiting_cures_is_told(answer):
    """When no tier can answer any line, that ends the batch."""
    with pytest.raises(HopelessError):
        wait_s(answer, now=NOW)


def reader(text: str | bytes, name: str = "in", **wording: str) -> Reader:
    data = text.encode() if isinstance(text, str) else text
    return Reader(io.BytesIO(data), name, Wording(**wording))


def asked(text: str | bytes, name: str = "in", **wording: str) -> list[tuple[str, str]]:
    found = list(reader(text, name, **wording).lines())
    return [(line.id, line.request.prompt.question) for line in found]


@pytest.mark.parametrize(
    ("text", "name", "template", "expected"),
    [
        ("one\r\n\r\ntwo", "in.txt", None, [("1", "one"), ("3", "two")]),
        ("one\n", "in", "Say {text}!", [("1", "Say one!")]),
        ("50%\rdone\n", "in", "{text}", [("1", "50%\rdone")]),
        ('{"id": 7, "prompt": "x"}', "in", None, [("7", "x")]),
        ('{"id": 7.5, "prompt": "x"}', "in", None, [("7.5", "x")]),
        ('{"id": "m", "body": "Hi."}', "in", "Mail: {body}", [("m", "Mail: Hi.")]),
        ('{"a": {"b": [1]}}', "in", "{a} {{a}} {}", [("1", '{"b":[1]} {a} {}')]),
        ("id,t\n5,x\n", "-", "{t}?", [("5", "x?")]),
        ("id\tt\n5\tx\n", "in.tsv", "{t}?", [("5", "x?")]),
        ('t\n"a\nb"\nc\n', "in.csv", "{t}", [("2", "a\nb"), ("4", "c")]),
        (b"\xef\xbb\xbfcaf\xe9", "in.txt", None, [("1", "caf\ufffd")]),
        (
            '{"id": "c", "prompt": [{"role": "user", "content": "hi"}]}',
            "in",
            None,
            [("c", "hi")],
        ),
    ],
)
def test_forms_of_input(text, name, template, expected):
    """Plain text, JSON lines, CSV and TSV are told apart and read."""
    wording = {} if template is None else {"template": template}

    assert asked(text, name, **wording) == expected


@pytest.mark.parametrize("identifier", ["true", "[1]", "{}"])
def test_an_id_is_a_text_or_a_number(identifier):
    """Anything else is refused with its line."""
    (found,) = reader(f'{{"id": {identifier}, "prompt": "x"}}').lines()

    assert str(found) == "line 1: its id has to be a text or a number"


def test_a_missing_field_is_named():
    """A template that names what a line lacks says what there is."""
    (found,) = reader('{"id": "a", "body_text": "x"}', template="{text}").lines()

    assert isinstance(found, BadLineError)
    assert str(found) == "line 1: it has no field 'text'; it has id, body_text"


def test_other_encodings_are_refused():
    """UTF-16 is named for what it is, with how to convert it."""
    with pytest.raises(UsageError, match="iconv"):
        reader("hello".encode("utf-16"))


def test_a_hash_tells_lines_prompts_and_contexts_apart():
    """The same line has the same hash; another line, template or profile another one."""

    def digest(text: str, template: str, context: bytes) -> str:
        (line,) = Reader(
            io.BytesIO(text.encode()), "in", Wording(template=template), context
        ).lines()
        return line.digest

    same = digest("x", "{text}", b"p")

    assert digest("x", "{text}", b"p") == same
    others = {
        digest("y", "{text}", b"p"),
        digest("x", "{text}!", b"p"),
        digest("x", "{text}", b"q"),
    }
    assert same not in others
    assert len(others) == 3


def test_shards_take_each_line_once():
    """Every id belongs to exactly one part, and the parts are about equal."""
    parts = [[f"id{n}" for n in range(3000) if in_shard(f"id{n}", (part, 3))] for part in (1, 2, 3)]

    assert sorted(chain.from_iterable(parts)) == sorted(f"id{n}" for n in range(3000))
    assert all(900 < len(part) < 1100 for part in parts)
