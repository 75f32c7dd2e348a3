"""A pipe holds one tier's complete answer, and nothing else."""

from __future__ import annotations

import io

import msgspec
import pytest

from tieredllm.kinds import ErrorInfo, ErrorKind
from tieredllm.render.plain import PlainAnswer
from tieredllm.types import (
    Answer,
    Answered,
    Attempt,
    AttemptFailed,
    AttemptStarted,
    Notice,
    Token,
    Usage,
)

RESET = ErrorInfo(kind=ErrorKind.STREAM_INTERRUPTED, message="connection reset")


def answered(text, tier="secondary"):
    return Answered(
        answer=Answer(
            request_id="r",
            text=text,
            tier=tier,
            fallback_level=1,
            fallback_used=True,
            provider="p",
            model_used="m",
            latency_ms=1,
            first_token_ms=None,
            finish_reason="stop",
            truncated=False,
            usage=Usage(),
            original_error=None,
        )
    )


BROKE = AttemptFailed(
    attempt=Attempt(
        tier="primary",
        level=0,
        provider="p",
        model="m",
        outcome="failed",
        error=RESET,
        started_ms=0,
        duration_ms=100,
    ),
    streamed=True,
)

BROKEN = [
    AttemptStarted(tier="primary", level=0, provider="p", model="m", number=1),
    Token(tier="primary", text="half\n"),
    BROKE,
    Token(tier="secondary", text="who"),
    Token(tier="secondary", text="le\n"),
    Token(tier="secondary", text="\n"),
    answered("whole\n\n"),
]


def play(events, **options):
    stdout, stderr = io.StringIO(), io.StringIO()
    view = PlainAnswer(stdout=stdout, stderr=stderr, **options)
    for event in events:
        view.handle(event)
        view.tick()
    view.close()
    return stdout.getvalue(), stderr.getvalue()


def test_stdout_holds_the_complete_answer_only():
    """What broke off is not in stdout, and stderr is silent."""
    assert play(BROKEN) == ("whole\n", "")


def test_nothing_is_written_before_the_answer_is_complete():
    """A request that is stopped half-way leaves stdout empty."""
    assert play(BROKEN[:-1]) == ("", "")


def test_failed_request_leaves_stdout_empty():
    """When nothing answered, stdout holds nothing, not even a line end."""
    assert play([BROKEN[1], BROKE, answered(None)]) == ("", "")


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("a", "a\n"),
        ("a\n", "a\n"),
        ("a\r\n\r\n", "a\n"),
        ("a  \n b\t\n\n", "a  \n b\t\n"),
        ("\n\na", "\n\na\n"),
        ("**a** \x1b[31mb\x07\r\nc", "**a** \x1b[31mb\x07\r\nc\n"),
        ("a\0b", "ab\n"),
        ("日本語 🎉", "日本語 🎉\n"),
        ("", ""),
    ],
)
def test_text_is_unchanged_but_for_its_end(text, written):
    """The text is as the model wrote it, without NUL, and ends in exactly one line end."""
    assert play([answered(text)])[0] == written
    assert (
        play([*(Token(tier="t", text=c) for c in text), answered(text)], stream=True)[0] == written
    )


def test_answer_that_is_printed_elsewhere():
    """With `show=False` stdout is left to the caller, and what happened is still told."""
    out, err = play(BROKEN, show=False, stream=True, verbose=True)

    assert out == ""
    assert "failed after" in err


def test_streaming_into_a_pipe_writes_at_once():
    """With `--stream` each piece is written as it comes."""
    stdout = io.StringIO()
    view = PlainAnswer(stdout=stdout, stderr=io.StringIO(), stream=True)
    view.handle(Token(tier="primary", text="a b"))

    assert stdout.getvalue() == "a b"


def test_streaming_names_what_broke_off():
    """The next answer starts on a line of its own, and stderr says what is void, even if quiet."""
    assert play(BROKEN, stream=True, quiet=True) == (
        "half\nwhole\n",
        "tieredllm: primary broke off (stream_interrupted); what it has said is void\n",
    )


def test_failure_of_another_tier_does_not_break_the_stream():
    """A tier that lost a race without a token leaves the answer alone."""
    loser = msgspec.structs.replace(BROKE, streamed=False)

    assert play([*BROKEN[3:5], loser, *BROKEN[5:]], stream=True) == ("whole\n", "")


def test_stopped_stream_ends_its_line():
    """An answer that is stopped in the middle of a line leaves a complete line."""
    assert play(BROKEN[:4], stream=True)[0] == "half\nwho\n"


def test_remarks():
    """A notice is told unless quiet; verbose tells the attempts."""
    notice = Notice(tier="primary", message="cut\x1b[2J")

    assert play([notice])[1] == "tieredllm: primary: cut\n"
    assert play([notice], quiet=True)[1] == ""
    assert play(BROKEN[:1], verbose=True)[1] == "tieredllm: asking primary (p m)\n"


def test_encoding_that_lacks_a_character():
    """A stream that cannot encode a character gets a question mark, and the rest."""
    stdout = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    view = PlainAnswer(stdout=stdout, stderr=io.StringIO())
    view.handle(answered("naïve \ud800!"))

    assert stdout.buffer.getvalue() == b"na?ve ?!\n"


def test_reader_that_left_is_reported():
    """`BrokenPipeError` reaches the caller."""

    class Gone(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    view = PlainAnswer(stdout=Gone(), stderr=io.StringIO())
    with pytest.raises(BrokenPipeError):
        view.handle(answered("x"))


def test_remarks_that_wait_are_bounded():
    """Those made while a question stands are shown after it, up to a bound; then that is said."""
    stderr = io.StringIO()
    view = PlainAnswer(stdout=io.StringIO(), stderr=stderr)
    view.pause()
    for number in range(5000):
        view.remark(f"still here {number}")
    view.resume()

    lines = stderr.getvalue().splitlines()
    assert lines[:1000] == [f"tieredllm: still here {number}" for number in range(1000)]
    assert lines[1000:] == ["tieredllm: what was said after that, until now, is left out"]
