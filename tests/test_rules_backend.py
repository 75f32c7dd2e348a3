"""The last tier answers whatever happens."""

from __future__ import annotations

import asyncio

import pytest
from rules_support import REQUEST_ID, rule_file

from tieredllm.profile.schema import Params
from tieredllm.providers.base import Backend, Call, Chunk, Delta, Finish
from tieredllm.providers.rules import RulesBackend
from tieredllm.rules import load
from tieredllm.types import Attachment, Prompt

MINE = "default: a\nintents: [{name: a, responses: ['Mine. {x}.']}]\n"


def ask(backend: Backend, question: str = "hello", *attached: str) -> tuple[str, Finish]:
    prompt = Prompt(
        question=question, attachments=tuple(Attachment(text=text) for text in attached)
    )
    call = Call(prompt=prompt, params=Params(), connect_timeout_s=1, request_id=REQUEST_ID)

    async def collect() -> list[Chunk]:
        return [chunk async for chunk in backend.answer(call)]

    chunks = asyncio.run(collect())
    assert [type(chunk) for chunk in chunks] == [Delta, Finish]
    return chunks[0].text, chunks[1]


def test_one_delta_and_one_finish():
    """The whole answer at once, then its intent and reference code."""
    text, finish = ask(RulesBackend())

    assert text.startswith(("Hello!", "Hi there!"))
    assert (finish.reason, finish.intent) == ("stop", "greeting")
    assert finish.ref_code == "REF-1A2B3C4D"
    assert "REF-1A2B3C4D" in text


def test_it_is_no_language_model_and_lacks_nothing():
    """Its names, and that it can always be asked."""
    backend: Backend = RulesBackend()

    assert (backend.provider, backend.model, backend.is_language_model) == ("rules", "rules", False)
    assert backend.missing() is None
    assert asyncio.run(backend.token_counter())("any text") == 0


def test_the_question_counts_before_what_is_attached():
    """Piped text is looked at only when there is no question."""
    assert ask(RulesBackend(), "hello", "an error")[1].intent == "greeting"
    assert ask(RulesBackend(), " \n", "an error", "hello")[1].intent == "troubleshooting"
    assert ask(RulesBackend(), "")[1].intent == "general"


def test_a_megabyte_attached_is_no_trouble():
    """Only its two ends are read."""
    assert ask(RulesBackend(), "", "lorem " * 500_000 + "help")[1].intent == "help"


def test_its_own_file_and_variables(tmp_path):
    """The file of the profile answers, with the profile's variables."""
    path = rule_file(tmp_path, MINE)
    backend = RulesBackend(rules=str(path), variables={"x": "Yes"})

    assert ask(backend)[0].startswith("Mine. Yes.")


@pytest.mark.parametrize(
    "broken",
    [
        None,
        "",
        "intents: [",
        MINE + "colour: red\n",
        MINE.replace("responses", "patterns: ['('], responses"),
    ],
    ids=["gone", "empty", "no yaml", "unknown key", "bad pattern"],
)
def test_a_file_that_broke_leaves_the_builtin_rules(tmp_path, broken):
    """Whatever became of the file since it was checked, the built-in rules answer."""
    path = rule_file(tmp_path, broken or "")
    if broken is None:
        path.unlink()
    text, finish = ask(RulesBackend(rules=str(path)), "help")

    assert finish.intent == "help"
    assert "fallback mode" in text


def test_without_any_rules_there_is_still_a_sentence(monkeypatch, tmp_path):
    """Even when the built-in file cannot be read."""
    load._builtin.cache_clear()
    monkeypatch.setattr(load, "BUILTIN_FILE", tmp_path / "gone.yaml")
    text, finish = ask(RulesBackend(rules=str(tmp_path / "gone too.yaml")))
    load._builtin.cache_clear()

    assert text.startswith("No language model could answer")
    assert text.endswith("Reference code: REF-1A2B3C4D.)")
    assert (finish.reason, finish.intent, finish.ref_code) == ("stop", "general", "REF-1A2B3C4D")


def test_a_probe_names_what_is_wrong_with_the_file(tmp_path):
    """The tier can answer in any case; a broken file is told all the same."""
    path = rule_file(tmp_path, "default: b\nintents: [{name: a, responses: [x]}]\n")
    good = asyncio.run(RulesBackend().probe())
    bad = asyncio.run(RulesBackend(rules=str(path)).probe(deep=True))

    assert (good.ok, good.error) == (True, None)
    assert bad.ok
    assert bad.error.startswith(f"the built-in rules answer: {path}:1:10: the default intent `b`")


def test_rule_files_differ_in_identity(tmp_path):
    """Two files are two backends."""
    assert RulesBackend(rules="/a.yaml").identity != RulesBackend(rules="/b.yaml").identity
