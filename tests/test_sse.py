"""Test the decoder of server-sent events."""

from __future__ import annotations

import re
import time
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tieredllm.providers.sse import MAX_EVENT_BYTES, Decoder, Event, EventTooLongError


def decode(*chunks: bytes, limit: int = MAX_EVENT_BYTES) -> list[Event]:
    decoder = Decoder(limit=limit)
    return [event for chunk in chunks for event in decoder.feed(chunk)]


def reference(stream: bytes) -> list[Event]:
    """Interpret a whole stream as the standard words it, slowly and all at once."""
    text = stream.decode("utf-8", "replace")
    lines = re.split("\r\n|\r|\n", text.removeprefix("\ufeff"))[:-1]
    events, data, name = [], "", ""
    for line in lines:
        if line == "":
            if data:
                events.append(Event(data.removesuffix("\n"), name or "message"))
            data = name = ""
            continue
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "data":
            data += value + "\n"
        elif field == "event":
            name = value
    return events


PIECES = st.sampled_from(
    [
        b"data: ",
        b"data:",
        b"data",
        b"event: e",
        b"event:",
        b": note",
        b"id: 1",
        b"retry: 5",
        b"\n",
        b"\r",
        b"\r\n",
        b"\n\n",
        b"\xef\xbb\xbf",
        b"\xe2\x82\xac",
        b"\xe2\x82",
        b"\xff",
        b"\xf0\x9f\x98\x80",
        b"x",
        b":",
        b" ",
        b"\x00",
        b"\x0b",
        b"\xc2\x85",
        b"\xe2\x80\xa8",
    ]
)
STREAMS = st.one_of(st.lists(PIECES, max_size=60).map(b"".join), st.binary(max_size=200))


@settings(max_examples=400, deadline=None)
@given(stream=STREAMS, cuts=st.lists(st.integers(0, 400), max_size=12))
def test_any_split_of_any_bytes_gives_the_events_of_the_standard(stream, cuts):
    """However a stream's bytes arrive, its events are those of the standard's algorithm."""
    places = sorted({min(cut, len(stream)) for cut in cuts} | {0, len(stream)})
    chunks = [stream[a:b] for a, b in pairwise(places)]

    assert reference(stream) == decode(*chunks)


@settings(max_examples=100, deadline=None)
@given(stream=STREAMS)
def test_byte_by_byte_is_like_all_at_once(stream):
    """One byte at a time gives the events of the whole."""
    assert decode(stream) == decode(*(bytes([byte]) for byte in stream))


@settings(max_examples=200, deadline=None)
@given(stream=STREAMS, cut=st.integers(0, 200))
def test_the_limit_strikes_at_the_same_event_however_the_bytes_are_split(stream, cut):
    """What was yielded before an event that is too long does not depend on the split."""

    def until_too_long(*chunks: bytes) -> tuple[list[Event], bool]:
        decoder, events = Decoder(limit=10), []
        try:
            for chunk in chunks:
                for event in decoder.feed(chunk):
                    events.append(event)
        except EventTooLongError:
            return events, True
        return events, False

    assert until_too_long(stream) == until_too_long(stream[:cut], stream[cut:])


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (b"data: a\n\n", [Event("a")]),
        (b"data:a\r\rdata: b\r\n\r\n", [Event("a"), Event("b")]),
        (b"data: one\ndata: two\n\n", [Event("one\ntwo")]),
        (b"event: error\ndata: {}\n\n", [Event("{}", "error")]),
        (b"event: gone\n\ndata: a\n\n", [Event("a")]),
        (b": keep-alive\n\n: OPENROUTER PROCESSING\n\ndata: a\n\n", [Event("a")]),
        (b"\xef\xbb\xbfdata: a\n\n", [Event("a")]),
        (b"data\n\n", [Event("")]),
        (b"data:  two blanks\n\n", [Event(" two blanks")]),
        (b"data: \xe2\x82\n\n", [Event("\ufffd")]),
        (b"data: a\xe2\x80\xa8b\n\n", [Event("a\u2028b")]),
        (b"data: never ended\n", []),
    ],
)
def test_the_standard_s_cases(stream, expected):
    """Line ends, comments, several data lines, names, the byte order mark and cut ends."""
    assert expected == decode(stream)


def test_a_crlf_split_in_two_ends_one_line():
    """The LF of a CRLF that arrives later ends no second line."""
    assert [Event("a\nb")] == decode(b"data: a\r", b"\ndata: b\r", b"\n\r", b"\n")


def test_an_event_is_given_out_at_its_blank_line():
    """An event does not wait for the next chunk, also after a lone CR."""
    assert [Event("a")] == list(Decoder().feed(b"data: a\r\r"))


@pytest.mark.parametrize(
    "chunks",
    [
        [b"data: " + b"x" * 200 + b"\n\n"],
        [b"data: ", *[b"x"] * 200],
        [b"data: xxxxx\n"] * 40,
        [b":" + b"x" * 200],
    ],
)
def test_a_line_or_event_over_the_limit_is_refused(chunks):
    """Memory is bounded for one long line, for a line that grows, and for many lines."""
    with pytest.raises(EventTooLongError):
        decode(*chunks, limit=100)


def test_events_before_one_that_is_too_long_are_given_out():
    """What was good is not lost to what follows it in the same chunk."""
    events = Decoder(limit=10).feed(b"data: a\n\ndata: " + b"x" * 20 + b"\n\n")

    assert Event("a") == next(events)
    with pytest.raises(EventTooLongError):
        next(events)


def test_time_grows_with_the_length_only():
    """A line of half a megabyte that comes byte by byte, and 20,000 events, take a blink."""
    start = time.perf_counter()
    decoder = Decoder()
    for _ in range(500_000):
        next(decoder.feed(b"x"), None)
    tokens = b'data: {"choices":[{"delta":{"content":"word "}}]}\n\n' * 20_000
    count = len(decode(*(tokens[place : place + 1400] for place in range(0, len(tokens), 1400))))

    assert count == 20_000
    assert time.perf_counter() - start < 3
