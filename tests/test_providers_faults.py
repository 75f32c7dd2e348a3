"""Test what becomes of an attempt when the wire misbehaves, byte by byte, for each vendor."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import itertools
import time

import msgspec
import pytest
from wire_support import (
    CHUNKED_END,
    KEY,
    KEY_ENVS,
    STREAM_HEAD,
    answers,
    ask,
    attempt,
    backend,
    call,
    chunk,
    closes,
    document,
    ends,
    event,
    opens,
    raw_server,
    responded,
    response,
    says,
    stream,
)

from tieredllm.providers.base import Delta, ThoughtDelta
from tieredllm.providers.cloud import _joined
from tieredllm.providers.http import HttpClients

VENDORS = ["openai", "responses", "anthropic", "gemini"]
BLOCK = call(stream=False)

every_vendor = pytest.mark.parametrize("vendor", VENDORS)


def plays(*steps):
    """Make a script that sends bytes and, told so, resets the connection."""

    async def play(connection):
        for step in steps:
            if step == "reset":
                await connection.reset()
            else:
                await connection.send(step)

    return play


@every_vendor
@pytest.mark.parametrize("asked", [call(), BLOCK], ids=["stream", "block"])
@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "bad_request"),
        (401, "authentication"),
        (402, "quota_exhausted"),
        (403, "permission"),
        (404, "not_found"),
        (408, "service_unavailable"),
        (409, "service_unavailable"),
        (422, "bad_request"),
        (425, "service_unavailable"),
        (429, "rate_limit"),
        (500, "service_unavailable"),
        (503, "service_unavailable"),
        (529, "service_unavailable"),
    ],
)
def test_each_status_is_its_kind(vendor, asked, status, kind):
    """The status of the response is classified, one request is made, and no text comes."""
    outcome, server = ask(
        vendor, response(status, {"error": {"message": "no"}}, {"Retry-After": "1.5"}), asked
    )

    assert (kind, status) == (outcome.kind, outcome.error.status)
    assert not outcome.texts
    assert len(server.requests) == 1
    if kind in ("rate_limit", "service_unavailable"):
        assert outcome.error.retry_after_s == 1.5


@every_vendor
def test_a_rejected_key_is_named_and_never_shown(vendor):
    """The error names the vendor's variable; the key that the server repeats is masked."""
    outcome, _ = ask(vendor, response(401, {"error": {"message": f"bad key {KEY}"}}))

    assert outcome.error.message.startswith(f"the key in {KEY_ENVS[vendor]} was rejected: ")
    assert KEY not in str(outcome.error)


@every_vendor
def test_an_enormous_error_body_is_read_up_to_its_bound(vendor):
    """A body that never ends costs 64 KiB and no time."""
    sizes = []

    async def play(connection):
        await connection.send(
            b"HTTP/1.1 500 X\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        with contextlib.suppress(ConnectionError):
            for _ in range(10_000):
                await connection.send(chunk(b"all is lost " * 1000))
                sizes.append(12_000)

    start = time.perf_counter()
    outcome, _ = ask(vendor, play)

    assert outcome.kind == "service_unavailable"
    assert len(outcome.error.message) == 300
    assert sum(sizes) < 20_000_000
    assert time.perf_counter() - start < 5


def test_an_error_body_that_stalls_is_classified_by_its_status(monkeypatch):
    """An error whose body never comes is still told, and soon."""
    monkeypatch.setattr("tieredllm.providers.http.ERROR_BODY_S", 0.2)

    async def play(connection):
        await connection.send(b"HTTP/1.1 503 X\r\nContent-Length: 1000\r\n\r\nbus")
        await connection.gone()

    outcome, _ = ask("openai", play)

    assert (outcome.kind, outcome.error.message) == ("service_unavailable", "bus")


@every_vendor
def test_a_redirect_to_another_host_is_not_followed(vendor):
    """The error names the other host; the key never goes there."""

    async def run():
        http = HttpClients()
        async with raw_server(response(200, {})) as other:
            location = {"Location": f"{other.url}/v1/steal?x=secret"}
            async with raw_server(response(307, b"", location)) as server:
                outcome = await attempt(backend(vendor, server.url, http))
                await http.aclose()
                return outcome, other

    outcome, other = asyncio.run(run())

    assert (outcome.kind, outcome.error.status) == ("bad_request", 307)
    assert f"redirects to {other.url.removeprefix('http://')};" in outcome.error.message
    assert not other.requests


@every_vendor
def test_nothing_listening_is_a_connection_that_is_not_tried_again(vendor):
    """A refused connection is told with `again=False`."""

    async def run():
        http = HttpClients()
        async with raw_server(b"") as server:
            url = server.url
        try:
            return await attempt(backend(vendor, url, http))
        finally:
            await http.aclose()

    outcome = asyncio.run(run())

    assert (outcome.kind, outcome.error.again) == ("connection", False)
    assert "nothing listens at 127.0.0.1:" in outcome.error.message


def test_an_unknown_name_is_a_connection_that_is_not_tried_again():
    """A host that does not resolve is told with `again=False`."""

    async def run():
        http = HttpClients()
        try:
            return await attempt(backend("openai", "http://no-such-host.invalid", http))
        finally:
            await http.aclose()

    outcome = asyncio.run(run())

    assert (outcome.kind, outcome.error.again) == ("connection", False)


@pytest.mark.parametrize("url", ["localhost:8080", "ftp://x.example", "http://", "http://h:port"])
def test_an_address_that_is_none_is_a_bad_request(url):
    """A base URL that cannot be used says so."""

    async def run():
        http = HttpClients()
        try:
            return await attempt(backend("openai", url, http))
        finally:
            await http.aclose()

    outcome = asyncio.run(run())

    assert outcome.kind == "bad_request"
    assert "base_url" in outcome.error.message


@every_vendor
@pytest.mark.parametrize(
    "steps",
    [
        ["reset"],
        [],
        [b"HTTP/1.1 200 OK\r\nContent-Ty"],
        [STREAM_HEAD, "reset"],
        [STREAM_HEAD],
    ],
    ids=["reset", "closed", "half a head", "reset after the head", "closed after the head"],
)
def test_a_connection_that_ends_before_the_first_byte_is_tried_again(vendor, steps):
    """Reset or closed before any of the body came: `connection`, with `again=True`."""
    outcome, _ = ask(vendor, plays(*steps))

    assert (outcome.kind, outcome.error.again) == ("connection", True)


@every_vendor
def test_bytes_that_are_no_http_are_a_malformed_response(vendor):
    """A server of another protocol is told as such."""
    outcome, _ = ask(vendor, plays(b"SSH-2.0-OpenSSH_9.6\r\n\r\n"))

    assert outcome.kind == "malformed_response"


@every_vendor
@pytest.mark.parametrize("asked", [call(), BLOCK], ids=["stream", "block"])
@pytest.mark.parametrize("kind", ["text/html; charset=utf-8", "", "text/event-stream"])
@pytest.mark.parametrize("start", [b"<!doctype html><html>", b"\n <HTML>"])
def test_a_web_page_in_a_200_is_a_malformed_response(vendor, asked, kind, start):
    """A captive portal's page is told by its title, whatever type it claims."""
    page = start + b"<title>Hotel Wi-Fi</title></html>"
    outcome, _ = ask(vendor, response(200, page, {"Content-Type": kind}), asked)

    assert outcome.kind == "malformed_response"
    assert "Hotel Wi-Fi" in outcome.error.message


@every_vendor
@pytest.mark.parametrize("streamed", [True, False])
def test_an_answer_that_is_called_a_web_page_is_an_answer(vendor, streamed):
    """The bytes are surer than the type, which is HTML for all that a plain PHP script sends."""
    body = msgspec.json.encode(document(vendor, "Hi"))
    if streamed:
        body = b"".join([*opens(vendor), says(vendor, "Hi"), *ends(vendor), *closes(vendor)])
    outcome, _ = ask(vendor, response(200, body, {"Content-Type": "text/html; charset=UTF-8"}))

    assert outcome.text == "Hi"


@pytest.mark.parametrize("body", ["Access denied", "error: no such user"])
def test_words_that_are_called_a_web_page_are_one(body):
    """They are no answer, and no event either."""
    outcome, _ = ask("openai", response(200, body, {"Content-Type": "text/html"}))

    assert outcome.kind == "malformed_response"
    assert body in outcome.error.message


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ("invalid api key", "authentication"),
        ("error code: 1015", "malformed_response"),
        ("internal trouble", "malformed_response"),
        ("down", "malformed_response"),
    ],
)
def test_words_that_begin_like_an_event_are_none(body, kind):
    """What they say is told, although the first letter is that of a stream's field."""
    outcome, _ = ask("openai", response(200, body))

    assert outcome.kind == kind
    assert body in outcome.error.message


@every_vendor
@pytest.mark.parametrize("asked", [call(), BLOCK], ids=["stream", "block"])
@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"", "empty_response"),
        (b'{"choices": [{"mess', "malformed_response"),
        (b"[" * 100_000, "malformed_response"),
        (b"null", "malformed_response"),
        (b"[]", "malformed_response"),
        (b"{}", "malformed_response"),
        (b'{"choices": [], "content": 5, "candidates": []}', "malformed_response"),
        (b'{"error": {"message": "overloaded"}}', "service_unavailable"),
        (b'{"error": {"code": 429, "message": "slow"}}', "rate_limit"),
        (b'{"type":"error","error":{"type":"billing_error"}}', "quota_exhausted"),
    ],
)
def test_a_document_that_is_no_answer(vendor, asked, body, kind):
    """Empty, half, deep or odd JSON and an error in a 200, also where a stream was asked for."""
    outcome, _ = ask(vendor, response(200, body, {"Content-Type": "application/json"}), asked)

    assert (kind, 200) == (outcome.kind, outcome.error.status)
    assert not outcome.texts


@every_vendor
@pytest.mark.parametrize("text", [None, "", " \n\t "])
@pytest.mark.parametrize("reason", ["stop", "length", None])
def test_null_and_blank_content_is_an_empty_response(vendor, text, reason):
    """An answer of nothing is none; one that was cut before it began says what to change."""
    outcome, _ = ask(vendor, response(200, document(vendor, text, reason)), BLOCK)

    assert outcome.kind == "empty_response"
    assert (reason == "length") == ("max_tokens" in outcome.error.message)


@every_vendor
def test_a_document_with_a_length_it_does_not_have_is_malformed(vendor):
    """A body that ends before its Content-Length is half an answer."""
    body = response(200, document(vendor, "Hello"))
    outcome, _ = ask(vendor, plays(body[:-20]), BLOCK)

    assert outcome.kind == "malformed_response"
    assert not outcome.texts


@every_vendor
def test_a_document_that_is_reset_halfway_is_malformed(vendor):
    """A reset in the middle of a document is half an answer too."""
    body = response(200, document(vendor, "Hello"))
    outcome, _ = ask(vendor, plays(body[:-20], "reset"), BLOCK)

    assert outcome.kind == "malformed_response"


@every_vendor
@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "gzip, identity"])
def test_a_packed_body_is_refused(vendor, encoding):
    """Bodies are asked for as they are; what is packed all the same is not unpacked."""
    body = gzip.compress(msgspec.json.encode(document(vendor, "Hello")))
    head = {"Content-Encoding": encoding, "Content-Type": "application/json"}
    outcome, server = ask(vendor, response(200, body, head), BLOCK)

    assert outcome.kind == "malformed_response"
    assert f"packed as {encoding}" in outcome.error.message
    assert {got.headers["accept-encoding"] for got in server.requests} == {"identity"}


@every_vendor
@pytest.mark.parametrize("encoding", ["", "none", "utf-8", "aws-chunked", "identity, identity"])
def test_an_encoding_that_packs_nothing_is_no_fault(vendor, encoding):
    """Some servers name a charset, or nothing known, as the encoding of a body as it is."""
    head = {"Content-Encoding": encoding, "Content-Type": "application/json"}
    outcome, _ = ask(vendor, response(200, document(vendor, "Hello"), head), BLOCK)

    assert outcome.text == "Hello"


@every_vendor
def test_a_packed_error_is_known_by_its_status(vendor):
    """What is packed is not shown either."""
    head = {"Content-Encoding": "gzip", "Content-Type": "application/json"}
    outcome, _ = ask(vendor, response(429, gzip.compress(b'{"error": "slow down"}'), head))

    assert outcome.kind == "rate_limit"
    assert "\x1f" not in outcome.error.message
    assert "\ufffd" not in outcome.error.message


@every_vendor
def test_a_body_that_says_it_is_as_it_is_is_read(vendor):
    """`identity` is no packing."""
    head = {"Content-Encoding": "identity", "Content-Type": "application/json"}
    outcome, _ = ask(vendor, response(200, msgspec.json.encode(document(vendor, "Hello")), head))

    assert outcome.text == "Hello"


@every_vendor
@pytest.mark.parametrize(
    "last",
    [
        [],
        ["reset"],
        [CHUNKED_END],
        [chunk("data: {"), CHUNKED_END],
        [b"5\r\nab"],
        [b"zz\r\n"],
        [chunk(event({"error": {"message": "overloaded"}}))],
        [chunk(event({"type": "error", "error": {"type": "overloaded_error"}}, "error"))],
        [chunk(event("it broke", "error"))],
        [chunk(b"data: " + b"x" * 8_500_000)],
    ],
    ids=[
        "closed",
        "reset",
        "ended",
        "cut in an event",
        "cut in a chunk",
        "bad chunk",
        "error in data",
        "error event",
        "error in words",
        "endless event",
    ],
)
def test_a_stream_that_dies_after_output_began_is_interrupted(vendor, last):
    """Whatever ends it before a finish reason: `stream_interrupted`, after the text that came."""
    outcome, _ = ask(
        vendor, plays(STREAM_HEAD, *map(chunk, opens(vendor)), chunk(says(vendor, "Hel")), *last)
    )

    assert (outcome.kind, outcome.texts) == ("stream_interrupted", ["Hel"])


@every_vendor
@pytest.mark.parametrize(
    ("last", "kind"),
    [
        ([CHUNKED_END], "empty_response"),
        (["reset"], "connection"),
        ([], "connection"),
        ([chunk(": keep-alive\n\n"), CHUNKED_END], "empty_response"),
        ([chunk("data: half {\n\n"), CHUNKED_END], "malformed_response"),
        ([chunk(event({"error": {"message": "overloaded"}}))], "service_unavailable"),
        ([chunk(event({"error": {"code": 429}}))], "rate_limit"),
        ([chunk(event({"error": {"code": "context_length_exceeded"}}))], "context_length"),
        ([chunk(event({"type": "overloaded_error"}, "error"))], "service_unavailable"),
        ([chunk(b"data: " + b"x" * 8_500_000)], "malformed_response"),
    ],
)
def test_a_stream_that_dies_before_output_is_told_by_its_cause(vendor, last, kind):
    """No content is an empty response, an error event speaks for itself, a reset is a reset."""
    outcome, _ = ask(vendor, plays(STREAM_HEAD, *map(chunk, opens(vendor)), *last))

    assert kind == outcome.kind
    assert not outcome.texts


@every_vendor
@pytest.mark.parametrize("blank", ["", " ", "\n\n\t"])
def test_a_stream_of_blanks_is_an_empty_response(vendor, blank):
    """Blanks are no answer alone, and no beginning: what follows them may be tried again."""
    outcome, _ = ask(vendor, answers(vendor, blank, blank))

    assert outcome.kind == "empty_response"


@every_vendor
def test_blanks_before_the_text_belong_to_it(vendor):
    """No blank is lost."""
    outcome, _ = ask(vendor, answers(vendor, "\n", "  ", "Hi", " ", "you"))

    assert outcome.text == "\n  Hi you"


@every_vendor
def test_a_stream_cut_by_max_tokens_before_any_text_says_so(vendor):
    """Thoughts that used up the cap leave an empty response that names `max_tokens`."""
    outcome, _ = ask(vendor, answers(vendor, reason="length"))

    assert outcome.kind == "empty_response"
    assert outcome.error.info.truncated
    assert "max_tokens" in outcome.error.message


@every_vendor
@pytest.mark.parametrize(
    "last",
    [
        closes,
        lambda vendor: [],
        lambda vendor: [event({"error": {"message": "too late"}}), *closes(vendor)],
        lambda vendor: [event("not json"), *closes(vendor)],
    ],
    ids=["proper", "no end marker", "error afterwards", "garbage afterwards"],
)
@pytest.mark.parametrize("end", [CHUNKED_END, b"", b"zz\r\n"], ids=["ended", "cut", "bad chunk"])
def test_a_finish_reason_makes_the_answer_complete(vendor, last, end):
    """What is missing or wrong after the finish reason takes nothing from the answer."""
    outcome, _ = ask(
        vendor,
        plays(stream(*opens(vendor), says(vendor, "Hi"), *ends(vendor), *last(vendor), end=end)),
    )

    assert (outcome.text, outcome.finish.reason) == ("Hi", "stop")
    assert (outcome.finish.usage.prompt_tokens, outcome.finish.usage.completion_tokens) == (12, 3)
    assert outcome.finish.model == "m-1"


@every_vendor
@pytest.mark.parametrize("marker", [True, False])
def test_a_server_that_stays_silent_after_the_finish_reason_is_not_waited_for(vendor, marker):
    """A complete answer ends within a second though the connection stays open."""

    async def play(connection):
        last = closes(vendor) if marker else []
        await connection.send(
            stream(*opens(vendor), says(vendor, "Hi"), *ends(vendor), *last, end=b"")
        )
        await connection.gone()

    start = time.perf_counter()
    outcome, _ = ask(vendor, play)

    assert outcome.finish.reason == "stop"
    assert time.perf_counter() - start < 1.5


@pytest.mark.parametrize(
    "heartbeat",
    [event({"type": "ping"}), event({"choices": []}), *ends("openai")],
    ids=["ping", "no choices", "reason", "usage"],
)
def test_heartbeats_after_the_finish_reason_are_not_waited_for(heartbeat):
    """A complete answer ends as soon as ever, and is not given up for the silence of its tokens."""

    async def play(connection):
        await connection.send(stream(says("openai", "Hi"), *ends("openai"), end=b""))
        for _ in range(20):
            await asyncio.sleep(0.1)
            await connection.send(chunk(heartbeat))

    start = time.perf_counter()
    outcome, _ = ask("openai", play)

    assert (outcome.text, outcome.finish.reason) == ("Hi", "stop")
    assert time.perf_counter() - start < 1.5


def test_a_reason_with_the_last_word_is_waited_on_no_longer_than_a_token():
    """A short idle limit gives up no answer that has ended, and whose connection stays open."""

    async def play(connection):
        last = {"choices": [{"index": 0, "delta": {"content": "Hi"}, "finish_reason": "stop"}]}
        await connection.send(stream(event(last), end=b""))
        await connection.gone()

    start = time.perf_counter()
    outcome, _ = ask("openai", play, call(idle_timeout_s=1.0))

    assert (outcome.text, outcome.finish.reason) == ("Hi", "stop")
    assert time.perf_counter() - start < 1.0


def in_another_form(vendor, form):
    """Ask for an answer one word of which comes in another form."""
    odd = says(vendor, "NOT ").replace(b'"NOT "', msgspec.json.encode(form))
    events = [says(vendor, "Do "), odd, says(vendor, "it."), *ends(vendor), *closes(vendor)]
    return ask(vendor, stream(*opens(vendor), *events))[0]


@pytest.mark.parametrize("vendor", ["openai", "anthropic", "responses"])
@pytest.mark.parametrize("form", [{"text": "NOT "}, ["NOT "]], ids=repr)
def test_words_in_another_form_are_read(vendor, form):
    """A part of a text, and a list of texts, are what their houses' own content may be."""
    assert in_another_form(vendor, form).text == "Do NOT it."


@pytest.mark.parametrize(
    ("vendor", "form"),
    [
        *itertools.product(VENDORS, [42, True, {"value": "NOT "}, [["NOT "]]]),
        # Google's own content is a list of parts already.
        ("gemini", {"text": "NOT "}),
        ("gemini", ["NOT "]),
    ],
    ids=repr,
)
def test_words_that_cannot_be_read_fail_the_answer(vendor, form):
    """None is ever left out of an answer that is called whole."""
    assert in_another_form(vendor, form).kind == "stream_interrupted"


def test_a_document_of_many_pieces_is_joined_in_linear_time():
    """100,000 of them, which took 2.5 s where each was added to a text, take 0.1 s."""
    said = [Delta("word "), ThoughtDelta("hm ")] + [Delta("word ")] * 100_000

    start = time.perf_counter()
    joined = _joined(said)

    assert time.perf_counter() - start < 0.8
    assert joined == [Delta("word "), ThoughtDelta("hm "), Delta("word " * 100_000)]


def test_a_document_s_texts_are_its_own_whatever_they_begin_with():
    """One block that begins with all of the block before it is no repetition."""
    texts = ["Yes.", "Yes. Paris is."]
    whole = document("anthropic", None) | {
        "content": [{"type": "text", "text": text} for text in texts]
    }
    outcome, _ = ask("anthropic", response(200, whole), call(stream=False))

    assert outcome.text == "Yes.Yes. Paris is."


def test_a_document_s_messages_are_its_own_whatever_they_begin_with():
    """One message that begins with all of the message before it is no repetition."""
    items = [document("responses", text)["output"][0] for text in ("Yes.", "Yes. Paris is.")]
    outcome, _ = ask("responses", response(200, responded(items, None)), call(stream=False))

    assert outcome.text == "Yes.\n\nYes. Paris is."


@every_vendor
def test_an_event_may_be_as_long_as_an_answer(vendor):
    """Encrypted thoughts, pictures and arguments come in one (SamSaffron/term-llm#347)."""
    long = "word " * 500_000
    outcome, _ = ask(vendor, answers(vendor, "Hi ", long))

    assert outcome.text == "Hi " + long


@every_vendor
def test_what_holds_no_words_is_skipped(vendor):
    """Keep-alives of any kind between good events lose only themselves."""
    outcome, _ = ask(
        vendor,
        stream(
            *opens(vendor),
            says(vendor, "Hel"),
            event("ping"),
            event('"\\ud800"'),
            event("5"),
            says(vendor, "lo"),
            *ends(vendor),
            *closes(vendor),
        ),
    )

    assert outcome.texts == ["Hel", "lo"]
    assert outcome.finish.reason == "stop"


@every_vendor
@pytest.mark.parametrize("lost", ['{"choices": [{"delta"', '"content": "not "}}]}', "{NOT}"])
@pytest.mark.parametrize("began", [True, False])
def test_an_event_that_may_have_held_words_is_not_passed_over(vendor, lost, began):
    """With a part of it lost, an answer is not called whole."""
    words = [says(vendor, "Do ")] if began else []
    outcome, _ = ask(
        vendor,
        stream(
            *opens(vendor),
            *words,
            event(lost),
            says(vendor, "delete it."),
            *ends(vendor),
            *closes(vendor),
        ),
    )

    assert outcome.kind == ("stream_interrupted" if began else "malformed_response")


@every_vendor
@pytest.mark.parametrize("size", [1, 2, 3, 7])
@pytest.mark.parametrize("ending", [b"\n", b"\r\n", b"\r"])
def test_any_split_of_the_wire_gives_the_same_answer(vendor, size, ending):
    """UTF-8, line ends and JSON may be cut anywhere, with any of the three line ends."""
    events = b"".join(
        [*opens(vendor), says(vendor, "Grüße, 世界 😀"), *ends(vendor), *closes(vendor)]
    ).replace(b"\n", ending)
    pieces = [events[place : place + size] for place in range(0, len(events), size)]
    outcome, _ = ask(vendor, plays(STREAM_HEAD, b"".join(map(chunk, pieces)) + CHUNKED_END))

    assert outcome.texts == ["Grüße, 世界 😀"]


@every_vendor
def test_a_character_split_between_packets_arrives_whole(vendor):
    """Two packets, cut inside a character, with time between them."""
    data = chunk(says(vendor, "世界"))
    cut = data.index("世".encode()) + 1

    async def play(connection):
        await connection.send(STREAM_HEAD + b"".join(map(chunk, opens(vendor))) + data[:cut])
        await asyncio.sleep(0.05)
        await connection.send(data[cut:])
        await connection.send(b"".join(map(chunk, [*ends(vendor), *closes(vendor)])) + CHUNKED_END)

    outcome, _ = ask(vendor, play)

    assert outcome.texts == ["世界"]


@every_vendor
@pytest.mark.parametrize("asked", [call(), BLOCK], ids=["stream", "block"])
def test_a_stream_and_a_document_are_told_apart_by_their_bytes(vendor, asked):
    """A server may stream unasked, or answer whole, or leave the content type out."""
    streamed = answers(vendor, "Hi").replace(b"Content-Type: text/event-stream\r\n", b"")
    for body in (streamed, response(200, document(vendor, "Hi"))):
        outcome, _ = ask(vendor, body, asked)

        assert (outcome.text, outcome.finish.reason) == ("Hi", "stop")


@every_vendor
@pytest.mark.parametrize("asked", [call(), BLOCK], ids=["stream", "block"])
def test_a_refusal_is_no_answer(vendor, asked):
    """The vendor's own filter is `content_filter`, whatever was said before."""
    body = (
        answers(vendor, "I", reason="filter")
        if asked.stream
        else response(200, document(vendor, "I", "filter"))
    )
    outcome, _ = ask(vendor, body, asked)

    assert outcome.kind == "content_filter"
    assert bool(outcome.texts) == asked.stream


@pytest.mark.parametrize("vendor", ["openai", "anthropic"])
@pytest.mark.parametrize("asked", [call(), BLOCK], ids=["stream", "block"])
def test_a_text_that_ends_with_the_reason_of_a_call_is_an_answer(vendor, asked):
    """The reason alone is no call: some servers give it to every answer (mudler/LocalAI#6218)."""
    for text, kind in (("The answer is 2.", None), ("", "malformed_response")):
        body = (
            answers(vendor, text, reason="tool")
            if asked.stream
            else response(200, document(vendor, text, "tool"))
        )
        outcome, _ = ask(vendor, body, asked)

        assert outcome.kind == kind
        assert outcome.text == text


@every_vendor
@pytest.mark.parametrize(("reason", "kind"), [("shrugged", None), ("ERROR", "stream_interrupted")])
def test_an_unknown_finish_reason_is_an_end_where_the_protocol_has_ended(vendor, reason, kind):
    """A reason that nobody knows ends a stream as well as any; those that mean a failure do not."""
    outcome, _ = ask(vendor, answers(vendor, "Hi", reason=reason))
    whole, _ = ask(vendor, response(200, document(vendor, "Hi", reason)), BLOCK)

    assert (outcome.kind, outcome.text) == (kind, "Hi")
    assert whole.kind == (kind and "malformed_response")


@every_vendor
def test_closing_the_answer_closes_the_connection_at_once(vendor):
    """A slow drip is left within a moment, and the server sees it."""

    async def run():
        http = HttpClients()

        async def play(connection):
            await connection.send(STREAM_HEAD)
            for data in opens(vendor):
                await connection.send(chunk(data))
            while True:
                await connection.send(chunk(says(vendor, "drip ")))
                await asyncio.sleep(0.01)

        async with raw_server(play) as server:
            parts = backend(vendor, server.url, http).answer(call())
            for _ in range(3):
                await anext(parts)
            start = time.perf_counter()
            await parts.aclose()
            took = time.perf_counter() - start
            async with asyncio.timeout(5):
                await server.closed_by_client.wait()
            await http.aclose()
            return took

    assert asyncio.run(run()) < 0.5


@every_vendor
@pytest.mark.parametrize("sent_before", [b"", STREAM_HEAD, STREAM_HEAD + chunk(": hi\n\n")])
def test_cancelling_the_wait_closes_the_connection(vendor, sent_before):
    """A silent server is left when the engine's timer strikes, whatever phase it is in."""

    async def run():
        http = HttpClients()

        async def play(connection):
            if sent_before:
                await connection.send(sent_before)
            await connection.gone()

        async with raw_server(play) as server:
            parts = backend(vendor, server.url, http).answer(call())
            start = time.perf_counter()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.15):
                    await anext(parts)
            await parts.aclose()
            took = time.perf_counter() - start
            await http.aclose()
            return took

    assert asyncio.run(run()) < 1


@every_vendor
def test_keep_alives_and_role_only_chunks_yield_nothing(vendor):
    """Only text is a token: comments, pings, roles, usage and thoughts are not."""
    noise = {
        "openai": [
            event({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}),
            event({"choices": [{"index": 0, "delta": {"content": None, "reasoning": "hm"}}]}),
            event({"choices": [{"index": 0, "delta": {"reasoning_content": "hm"}}]}),
            event({"choices": [], "prompt_filter_results": [{}]}),
            event({"choices": [{"index": 0, "delta": {"content": [{"type": "thinking"}]}}]}),
        ],
        "anthropic": [
            event({"type": "ping"}, "ping"),
            event(
                {
                    "type": "content_block_start",
                    "index": 0,
                    "content_block": {"type": "thinking", "thinking": "hm"},
                }
            ),
            event(
                {
                    "type": "content_block_delta",
                    "delta": {"type": "thinking_delta", "thinking": "hm", "text": "hm"},
                }
            ),
            event({"type": "content_block_delta", "delta": {"type": "signature_delta"}}),
            event({"type": "something_new", "delta": {"text": "hm"}}),
        ],
        "responses": [
            event({"type": "keepalive", "sequence_number": 3}, "keepalive"),
            event({"type": "response.reasoning_summary_part.added", "part": {"text": "hm"}}),
            event({"type": "response.reasoning_summary_text.delta", "delta": "hm"}),
            event({"type": "response.reasoning_text.delta", "delta": "hm"}),
            event({"type": "response.web_search_call.searching", "output_index": 3}),
            event({"type": "response.output_text.annotation.added", "annotation": {"text": "hm"}}),
            event({"type": "response.output_text.done", "text": "hm"}),
            event({"type": "something_new", "delta": "hm"}),
        ],
        "gemini": [
            event({"candidates": [{"content": {"parts": [{"text": "hm", "thought": True}]}}]}),
            event({"candidates": [{"content": {"parts": [{"thoughtSignature": "abc"}]}}]}),
            event({"usageMetadata": {"promptTokenCount": 12, "thoughtsTokenCount": 40}}),
        ],
    }
    outcome, _ = ask(
        vendor,
        stream(
            b": keep-alive\n\n",
            b"\n\n",
            *opens(vendor),
            *noise[vendor],
            says(vendor, "Hi"),
            *noise[vendor],
            *ends(vendor),
            *closes(vendor),
        ),
    )

    assert outcome.texts == ["Hi"]
    assert outcome.finish.reason == "stop"


@pytest.mark.parametrize("asked", [call(), BLOCK], ids=["stream", "block"])
@pytest.mark.parametrize(
    ("body", "kind", "words"),
    [
        # z.ai, KiwiGaze/glm-for-copilot#29
        (
            {"code": 401, "msg": "token expired or incorrect", "success": False},
            "authentication",
            "token expired or incorrect",
        ),
        (
            {"code": 500, "msg": "404 NOT_FOUND", "success": False},
            "service_unavailable",
            "404 NOT_FOUND",
        ),
        # MiniMax, adrianlyjak/obsidian-aloud-tts#114
        (
            {
                "choices": None,
                "base_resp": {"status_code": 1008, "status_msg": "insufficient balance"},
            },
            "quota_exhausted",
            "insufficient balance",
        ),
        (
            {"base_resp": {"status_code": 1000, "status_msg": "unknown error"}},
            "service_unavailable",
            "unknown error",
        ),
    ],
)
def test_an_error_in_another_house_s_envelope_is_one(asked, body, kind, words):
    """A 200 with an error in it is told by its code and in the server's words."""
    outcome, _ = ask("openai", response(200, body), asked)

    assert outcome.kind == kind
    assert words in outcome.error.message


def test_an_error_that_says_nothing_beside_an_answer_is_none():
    """A field that is filled with blanks takes nothing from an answer; nor does a success code."""
    blank = {"error": {"message": "", "type": "", "param": "", "code": None}}
    fine = {"base_resp": {"status_code": 0, "status_msg": "success"}}
    for extra in (blank, fine):
        outcome, _ = ask("openai", response(200, document("openai", "Fine.") | extra), BLOCK)

        assert (outcome.kind, outcome.text) == (None, "Fine.")
