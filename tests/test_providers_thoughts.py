"""Tests of what models think, on every wire: told from the answer, and no silence."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from wire_support import (
    answers,
    ask,
    attempt,
    backend,
    call,
    document,
    ends,
    event,
    raw_server,
    response,
    stream,
)

from tieredllm.providers.http import HttpClients
from tieredllm.thoughts import MARKS, ThoughtSplitter, opened_block

DATA = Path(__file__).parent / "data"
TEXTS = yaml.safe_load((DATA / "thoughts.yaml").read_text("utf-8"))
FIELDS = yaml.safe_load((DATA / "thought_fields.yaml").read_text("utf-8"))
VENDORS = ["openai", "responses", "anthropic", "gemini"]


def named(case):
    return case["name"]


def check(case, outcome):
    """Compare what came of a case with what it says."""
    assert case["source"]
    assert outcome.kind == case.get("kind")
    if "text" in case:
        assert outcome.text == case["text"]
        assert outcome.thought == case["thought"]
    else:
        assert outcome.error.info.truncated == case.get("truncated", False)


@pytest.mark.parametrize("vendor", VENDORS)
@pytest.mark.parametrize("case", TEXTS, ids=named)
def test_thoughts_in_a_streamed_text_are_no_answer(vendor, case):
    """A block at the start of the text is what the model thinks; one that comes later is text."""
    outcome, _ = ask(vendor, answers(vendor, *case["pieces"], reason=case.get("reason", "stop")))

    check(case, outcome)


@pytest.mark.parametrize("vendor", VENDORS)
@pytest.mark.parametrize("case", TEXTS, ids=named)
def test_thoughts_in_a_document_are_no_answer(vendor, case):
    """The same where the answer comes whole."""
    body = document(vendor, "".join(case["pieces"]), case.get("reason", "stop"))
    outcome, _ = ask(vendor, response(body=body), call(stream=False))

    check(case, outcome)


@pytest.mark.parametrize("case", FIELDS, ids=named)
def test_thoughts_in_fields_are_told_apart(case):
    """Each house's field is read, once where a gateway sends two versions of it."""
    if "document" in case:
        outcome, _ = ask(case["vendor"], response(body=case["document"]), call(stream=False))
    else:
        outcome, _ = ask(case["vendor"], stream(*map(event, case["events"])))

    assert case["source"]
    assert outcome.text == "Yes."
    assert outcome.thought == "Hm, hm."


TALK = ["Okay, ", "the user asks why.\n", "</think>\n\n", "The sky ", "is blue."]


@pytest.mark.parametrize("vendor", VENDORS)
@pytest.mark.parametrize("case", TEXTS, ids=named)
def test_models_that_are_known_to_begin_with_thoughts(vendor, case):
    """Nothing of their thoughts is passed on as text first; whatever they say, it is the same."""
    reply = answers(vendor, *case["pieces"], reason=case.get("reason", "stop"))
    outcome, _ = ask(vendor, reply, model="deepseek-r1:8b")

    check(case, outcome)
    assert outcome.retracted == 0


@pytest.mark.parametrize("vendor", VENDORS)
def test_a_backend_learns_that_its_answers_begin_with_thoughts(vendor):
    """Only the first answer's thoughts are taken back; the next answer is streamed as it is."""

    async def run():
        http = HttpClients()
        try:
            async with raw_server(answers(vendor, *TALK)) as server:
                model = backend(vendor, server.url, http)
                return [await attempt(model) for _ in range(2)]
        finally:
            await http.aclose()

    first, second = asyncio.run(run())

    assert (first.retracted, second.retracted) == (1, 0)
    assert first.text == second.text == "The sky is blue."
    assert second.texts == ["The sky ", "is blue."]


def test_a_known_model_whose_thoughts_have_a_field_is_streamed():
    """Where a server reads the block, nothing of the answer is held back."""
    pieces = [{"reasoning_content": "Hm."}, {"content": "The sky "}, {"content": "is blue."}]
    events = [event({"choices": [{"index": 0, "delta": piece}]}) for piece in pieces]
    reply = stream(*events, *ends("openai"), event("[DONE]"))
    outcome, _ = ask("openai", reply, model="qwq-32b")

    assert outcome.texts == ["The sky ", "is blue."]


def split(pieces, opened=None):
    """Return the thoughts and the text of an answer in pieces."""
    splitter = ThoughtSplitter(opened)
    thought = text = ""
    for part in [*(splitter.feed(piece) for piece in pieces), splitter.end()]:
        if part.unsaid:
            thought, text = thought + text, ""
        thought, text = thought + part.thought, text + part.text
    return thought, text


@given(st.sampled_from(TEXTS), st.data())
def test_pieces_make_no_difference(case, data):
    """Wherever a text is cut into pieces, its thoughts are the same."""
    whole = "".join(case["pieces"])
    places = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=8)))
    pieces = [whole[a:b] for a, b in zip([0, *places], [*places, len(whole)], strict=True)]

    assert split(pieces) == split([whole])


@given(st.text(alphabet="<>/[]|`\nthinkTHINK ◁▷anlysi", max_size=60), st.integers(1, 5))
def test_nothing_is_lost(text, size):
    """All of a text that has no whole mark in it is text."""
    pieces = [text[at : at + size] for at in range(0, len(text), size)]
    marked = any(mark in text for pair in MARKS.items() for mark in pair)

    assert marked or "analysis" in text or split(pieces) == ("", text)


@pytest.mark.parametrize("mark", MARKS)
def test_a_prompt_may_have_opened_the_block(mark):
    """An answer to a prompt that ends inside a block begins with thoughts."""
    opened = opened_block(f"<|im_start|>assistant\n{mark}\n")

    assert opened == mark
    assert split(["H", "m.", MARKS[mark], "\n\nYes."], opened) == ("Hm.", "Yes.")
    assert opened_block("<|im_start|>assistant\n<think>\n\n</think>\n\n") is None


def test_thoughts_are_passed_on_as_they_come():
    """A thought is there before the answer is: it shows that the model is at work."""
    events = [
        event({"choices": [{"index": 0, "delta": {"reasoning_content": "Hm."}}]}),
        event({"choices": [{"index": 0, "delta": {"content": "<think>"}}]}),
    ]

    async def play(connection):
        await connection.send(stream(*events, end=b""))
        await connection.reset()

    outcome, _ = ask("openai", play)

    assert outcome.thought == "Hm."
    assert outcome.kind == "connection"
