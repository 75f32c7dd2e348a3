"""Try the gateway with the clients that people use: whole answers, or errors they can see."""

from __future__ import annotations

import asyncio
import json

import anthropic
import openai
import pytest
from error_table import ROWS
from huggingface_hub import InferenceClient
from notify_support import HttpServer
from serve_support import FIRST, ONE, QUESTION, SECOND, TWO, WIRES, serving, wait_until
from wire_support import (
    STREAM_HEAD,
    Connection,
    answers,
    chunk,
    event,
    opens,
    response,
    says,
    stream,
)

from tieredllm.kinds import ErrorKind

FALLS = [kind for kind in ROWS if kind is not ErrorKind.CONTENT_FILTER]
COMPLETE = {"extra_headers": {"x-tieredllm-stream": "complete"}}
QUICK = {"first_token_timeout_s": 1, "idle_timeout_s": 1, "timeout_s": 1}
"""For tiers that are silent; the others have all the time they need."""


def patience(kind: str) -> dict:
    return QUICK if kind in ("timeout", "silence") else {}


@pytest.mark.parametrize("wire", WIRES.values(), ids=WIRES)
def test_a_whole_answer_comes_as_one_object(wire, tmp_path):
    """A request that does not stream gets the first tier's answer."""
    with serving(ONE, tmp=tmp_path) as served:
        assert wire.ask(served) == FIRST


@pytest.mark.parametrize("wire", WIRES.values(), ids=WIRES)
def test_a_stream_brings_the_words_one_by_one(wire, tmp_path):
    """A streamed request gets each word as it comes, through the SDK's own helpers."""
    said: list[str] = []
    with serving(ONE, tmp=tmp_path) as served:
        wire.stream(served, said)

    assert "".join(said) == FIRST
    assert len([piece for piece in said if piece]) == 5


def test_words_with_unicode_line_ends_arrive_whole(tmp_path):
    """A client that takes U+0085, U+2028 and U+2029 for line ends gets each event on one line."""
    words = "one\u2028two\u2029three\x85four"
    with serving(answers("openai", words), tmp=tmp_path) as served:
        client = InferenceClient(base_url=f"{served.url}/v1", api_key="none")
        chunks = client.chat_completion(QUESTION, stream=True)
        said = "".join(piece.choices[0].delta.content or "" for piece in chunks)

    assert said == words


@pytest.mark.parametrize("kind", FALLS)
def test_whatever_fails_before_the_first_word_falls_back_unseen(kind, tmp_path):
    """Every fault of the first tier is invisible to every client, streaming or not."""
    breaks_off = kind is ErrorKind.STREAM_INTERRUPTED
    with serving(ONE, TWO, tmp=tmp_path, simulate={"t1": kind}, tier=patience(kind)) as served:
        for wire in WIRES.values():
            assert wire.ask(served) == SECOND
            said: list[str] = []
            wire.stream(served, said, **(COMPLETE if breaks_off else {}))
            assert "".join(said) == SECOND


@pytest.mark.parametrize("kind", ROWS)
def test_when_everything_fails_every_client_raises(kind, tmp_path):
    """No fault on all tiers leaves a client with anything that looks like an answer."""
    simulate = {"t1": kind, "t2": kind}
    with serving(ONE, TWO, tmp=tmp_path, simulate=simulate, tier=patience(kind)) as served:
        for wire in WIRES.values():
            with pytest.raises(wire.status_error) as raised:
                wire.ask(served)
            own = kind.value in ("context_length", "content_filter", "bad_request")
            assert raised.value.status_code == (400 if own else 503)
            assert "t1: " in str(raised.value)
            for extra in ({}, COMPLETE):
                with pytest.raises(Exception, match=r"t1|closed|Connection"):
                    wire.stream(served, [], **extra)


def died(how: str):
    """Play a stream that says three words and dies."""
    head = [*opens("openai"), *(says("openai", word) for word in ("Half ", "of ", "it"))]
    if how == "cut":
        return stream(*head)
    if how == "error":
        return stream(*head, event({"error": {"message": "overloaded", "code": 503}}))

    async def play(connection: Connection) -> None:
        await connection.send(STREAM_HEAD + b"".join(chunk(item) for item in head))
        if how == "reset":
            await connection.reset()
        elif how == "silence":
            await connection.gone()

    return play


@pytest.mark.parametrize("how", ["cut", "error", "reset", "silence", "closed"])
@pytest.mark.parametrize("wire", WIRES.values(), ids=WIRES)
def test_a_stream_that_dies_after_words_is_an_error(wire, how, tmp_path):
    """A client that has had words of a tier that dies gets an error, never a clean end."""
    said: list[str] = []
    with (
        serving(died(how), TWO, tmp=tmp_path, tier=patience(how)) as served,
        pytest.raises(Exception) as raised,  # noqa: PT011 - Anthropic's lets the transport's out
    ):
        wire.stream(served, said)

    assert "".join(said) == "Half of it"
    assert "Error" in type(raised.value).__name__


THINKS = answers("openai", "Hm, ", "hm.\n", "</think>\n\n", *FIRST.split(" ", 1))


@pytest.mark.parametrize("wire", WIRES.values(), ids=WIRES)
def test_words_that_turn_out_to_be_thoughts_are_an_error_once(wire, tmp_path):
    """Thoughts whose end alone is marked break the first stream; after it the model is known."""
    said: list[str] = []
    with serving(THINKS, tmp=tmp_path) as served:
        with pytest.raises(Exception) as raised:  # noqa: PT011 - as above
            wire.stream(served, [])
        wire.stream(served, said)

    assert "Error" in type(raised.value).__name__
    assert "".join(said) == FIRST.replace(" ", "", 1)


@pytest.mark.parametrize("how", ["cut", "error", "reset", "silence", "closed"])
@pytest.mark.parametrize("wire", WIRES.values(), ids=WIRES)
def test_a_complete_stream_never_shows_a_dead_one(wire, how, tmp_path):
    """With `x-tieredllm-stream: complete` the next tier's whole answer comes instead."""
    said: list[str] = []
    with serving(died(how), TWO, tmp=tmp_path, tier=patience(how)) as served:
        wire.stream(served, said, **COMPLETE)

    assert "".join(said) == SECOND


@pytest.mark.parametrize("waits", [False, True], ids=["refused", "in the stream"])
def test_claude_code_knows_a_full_context_by_its_words(waits, tmp_path):
    """It then offers to compact the conversation (seen with 2.1.197)."""
    error = {"error": {"message": "too many tokens", "code": "context_length_exceeded"}}

    async def full(connection) -> None:
        await asyncio.sleep(0.3 if waits else 0)
        await connection.send(response(400, error))

    body = WIRES["messages"].body | {"stream": True}
    with serving(full, tmp=tmp_path, settings={"serve": {"hold_s": 0.1}}) as served:
        status, _, content = served.request("POST", "/v1/messages", body)

    assert status == (200 if waits else 400)
    assert b'"message":"prompt is too long: no tier answered: t1: context_length' in content


@pytest.mark.parametrize("wire", WIRES.values(), ids=WIRES)
def test_over_http_1_0_a_stream_never_shows_a_dead_one(wire, tmp_path):
    """There the end of a connection is the end of a body: a broken one would look whole."""
    body = json.dumps(wire.body | {"stream": True}).encode()
    head = f"POST {wire.path} HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with serving(died("cut"), TWO, tmp=tmp_path) as served:
        found = served.raw(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)

    assert SECOND.encode() in found
    assert b"Well" not in found


def test_a_raw_responses_stream_that_fails_cannot_be_taken_for_whole(tmp_path):
    """Who reads the events without the helper has the failure as an event and as an exception."""
    kinds: list[str] = []
    with (
        serving(died("cut"), tmp=tmp_path) as served,
        served.openai() as client,
        pytest.raises(openai.APIError, match="t1 broke off"),
        client.responses.create(model="auto", input="Why?", stream=True) as events,
    ):
        kinds.extend(event.type for event in events)

    assert kinds[0] == "response.created"
    assert kinds[-1] == "response.failed"


def test_a_refusal_in_a_stream_is_told_as_one(tmp_path):
    """Whoever asks the gateway must not take it for a fault and route around it."""
    refused = answers("openai", "Well, ", reason="filter")
    body = WIRES["chat"].body | {"stream": True}
    with serving(refused, tmp=tmp_path) as served:
        _, headers, content = served.request("POST", WIRES["chat"].path, body)

    assert b'"code":"content_filter"' in content
    assert "broken" in headers


@pytest.mark.parametrize("wire", WIRES.values(), ids=WIRES)
def test_only_codex_sees_a_failed_stream_end_properly(wire, tmp_path):
    """Everybody else takes a proper end for success.

    Codex takes a broken one for a reason to ask five times more, whatever `response.failed` said
    before it (seen with 0.171.0).
    """
    body = wire.body | {"stream": True}
    with serving(died("cut"), tmp=tmp_path) as served:
        _, plain, content = served.request("POST", wire.path, body)
        _, codex, _ = served.request("POST", wire.path, body, {"originator": "codex_exec"})

    assert b"broke off" in content
    assert "broken" in plain
    assert "broken" not in codex


def test_codex_stops_after_one_failed_request(tmp_path):
    """All tiers failed: no 503, but `response.failed` with a code that it does not repeat."""
    body = {"model": "auto", "input": "Why?", "stream": True}
    with serving(ONE, tmp=tmp_path, simulate={"t1": "context_length"}) as long:
        status, _, content = long.request("POST", "/v1/responses", body)
    with serving(ONE, tmp=tmp_path, simulate={"t1": "connection"}) as down:
        down_status, _, other = down.request("POST", "/v1/responses", body)

    assert (status, down_status) == (200, 200)
    assert b'"type":"response.failed"' in content
    assert b'"code":"context_length_exceeded"' in content
    assert b'"code":"server_is_overloaded"' in other


def test_claude_code_is_not_told_of_an_overload(tmp_path):
    """It repeats an `overloaded_error` in spite of `x-should-retry: false` (seen with 2.1.197)."""
    with serving(ONE, tmp=tmp_path, simulate={"t1": "connection"}) as served:
        status, headers, body = served.request("POST", "/v1/messages", WIRES["messages"].body)

    assert (status, headers["x-should-retry"]) == (503, "false")
    assert b"overloaded" not in body


def test_the_asynchronous_clients_are_served_too(tmp_path):
    """AsyncOpenAI and AsyncAnthropic, whole and streamed."""

    async def both(url: str) -> list[str]:
        found = []
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none") as client:
            answer = await client.chat.completions.create(model="auto", messages=QUESTION)
            found.append(answer.choices[0].message.content or "")
            async with client.chat.completions.stream(model="auto", messages=QUESTION) as events:
                final = await events.get_final_completion()
            found.append(final.choices[0].message.content or "")
        async with anthropic.AsyncAnthropic(base_url=url, api_key="none") as claude:
            message = await claude.messages.create(model="auto", max_tokens=9, messages=QUESTION)
            found.append(message.content[0].text)
            async with claude.messages.stream(
                model="auto", max_tokens=9, messages=QUESTION
            ) as events:
                found.append(await events.get_final_text())
        return found

    with serving(ONE, tmp=tmp_path) as served:
        assert asyncio.run(both(served.url)) == [FIRST] * 4


def test_the_response_says_who_answered(tmp_path):
    """Headers name the tier, its level and the attempts; the model is the one that answered."""
    with (
        serving(ONE, TWO, tmp=tmp_path, simulate={"t1": "service_unavailable"}) as served,
        served.openai() as client,
    ):
        raw = client.chat.completions.with_raw_response.create(model="auto", messages=QUESTION)

    assert raw.headers["x-tieredllm-tier"] == "t2"
    assert raw.headers["x-tieredllm-level"] == "1"
    assert raw.headers["x-tieredllm-attempts"] == "2"
    assert raw.headers["x-request-id"] == raw.headers["request-id"]
    assert raw.parse().model == "m-1"


def test_a_failed_request_costs_one_request(tmp_path):
    """`x-should-retry: false` keeps both SDKs from asking three times."""
    with serving(ONE, tmp=tmp_path, simulate={"t1": "service_unavailable"}) as served:
        with served.openai(max_retries=2) as client, pytest.raises(openai.InternalServerError):
            client.chat.completions.create(model="auto", messages=QUESTION)
        with served.anthropic(max_retries=2) as claude, pytest.raises(anthropic.APIStatusError):
            claude.messages.create(model="auto", max_tokens=9, messages=QUESTION)
        counted = served.request("GET", "/metrics")[2].decode()

    for protocol in ("chat", "messages"):
        line = f'tieredllm_requests_total{{outcome="refused",protocol="{protocol}"}} 1.0'
        assert line in counted


def test_usage_comes_only_when_asked_for(tmp_path):
    """A chunk with usage and no choices breaks strict clients that did not ask for it."""
    with serving(ONE, tmp=tmp_path) as served, served.openai() as client:
        with client.chat.completions.create(model="auto", messages=QUESTION, stream=True) as events:
            plain = list(events)
        with client.chat.completions.create(
            model="auto",
            messages=QUESTION,
            stream=True,
            stream_options={"include_usage": True},
        ) as events:
            counted = list(events)

    assert all(len(chunk.choices) == 1 for chunk in plain)
    assert counted[-1].choices == []
    assert counted[-1].usage.total_tokens == 15


def test_a_message_begins_with_an_estimate_of_its_prompt(tmp_path):
    """Some clients look for it there alone; those that read on get what the server has counted."""
    question = [{"role": "user", "content": "Why is the sky blue? " * 50}]
    with serving(ONE, tmp=tmp_path) as served, served.anthropic() as claude:
        counted = claude.messages.count_tokens(model="auto", messages=question).input_tokens
        with claude.messages.stream(model="auto", max_tokens=9, messages=question) as events:
            begun = next(one for one in events if one.type == "message_start")
            first = begun.message.usage.input_tokens
            last = events.get_final_message().usage

    assert first == counted > 100
    assert (last.input_tokens, last.output_tokens) == (12, 3)


def test_rules_answer_last_and_say_so(tmp_path):
    """When no model answers, the rules do, named in the header and in the text."""
    with serving(ONE, tmp=tmp_path, rules=True, simulate={"t1": "timeout"}, tier=QUICK) as served:
        status, headers, body = served.request("POST", "/v1/chat/completions", WIRES["chat"].body)

    assert status == 200
    assert headers["x-tieredllm-tier"] == "rules"
    assert b"no language model answered" in body


@pytest.mark.parametrize("streams", [False, True])
def test_who_is_to_be_told_is_told(tmp_path, streams):
    """A fallback notifies, as one of `ask` does; here nobody reads on after the answer."""
    with HttpServer() as hook:
        (tmp_path / "config").mkdir()
        (tmp_path / "config" / "keys.yaml").write_text(f"HOOK: {hook.url}\n")
        with serving(
            ONE,
            tmp=tmp_path,
            rules=True,
            simulate={"t1": "connection"},
            settings={"notifications": {"webhook": {"url_env": "HOOK"}}},
        ) as served:
            body = WIRES["chat"].body | {"stream": streams}
            status, _, _ = served.request("POST", "/v1/chat/completions", body)
            wait_until(lambda: hook.received)

    assert status == 200
    assert [message.json["cause"] for message in hook.received] == ["rules answered"]


def test_with_require_llm_rules_do_not_answer(tmp_path):
    """`--require-llm` makes that a 503."""
    with serving(
        ONE, tmp=tmp_path, rules=True, simulate={"t1": "connection"}, require_llm=True
    ) as served:
        status, headers, _ = served.request("POST", "/v1/chat/completions", WIRES["chat"].body)

    assert status == 503
    assert 1 <= int(headers["retry-after"]) <= 60
    assert headers["x-should-retry"] == "false"


def test_a_profile_may_take_a_rule_answer_for_none(tmp_path):
    """`require_llm: true` in the profile makes that a 503, too."""
    with serving(
        ONE,
        tmp=tmp_path,
        rules=True,
        simulate={"t1": "connection"},
        settings={"require_llm": True},
    ) as served:
        status, _, _ = served.request("POST", "/v1/chat/completions", WIRES["chat"].body)

    assert status == 503


def test_a_cut_answer_says_that_it_is(tmp_path):
    """An answer that ended at its limit says so in each protocol's words."""
    with serving(answers("openai", "Long", reason="length"), tmp=tmp_path) as served:
        with served.openai() as client:
            chat = client.chat.completions.create(model="auto", messages=QUESTION)
            response = client.responses.create(model="auto", input="Why?")
        with served.anthropic() as claude:
            message = claude.messages.create(model="auto", max_tokens=9, messages=QUESTION)

    assert chat.choices[0].finish_reason == "length"
    assert message.stop_reason == "max_tokens"
    assert response.status == "incomplete"
    assert response.incomplete_details.reason == "max_output_tokens"
