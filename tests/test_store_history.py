"""Tests of the log: what is kept of a request, what is found again, and what never is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from store_support import NOW, FakeClock, answer, attempt

from tieredllm.errors import UsageError
from tieredllm.kinds import ErrorInfo, ErrorKind
from tieredllm.redaction import Redactor
from tieredllm.store.database import Database
from tieredllm.store.history import CachedAnswer, Conversation, History
from tieredllm.store.logged import MAX_TEXT, fingerprint
from tieredllm.types import Attachment, Message, Prompt, Skip, Usage

FAILED = ErrorInfo(kind=ErrorKind.TIMEOUT, message="no token within 10 s")


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def database(tmp_path):
    with Database(tmp_path / "state" / "state.db") as opened:
        yield opened
        assert opened.trouble is None


@pytest.fixture
def history(database, clock):
    return History(database, clock)


def ask(history, request_id, question="What?", text="That.", *, cid=None, **kwargs):
    return history.save(
        Prompt(question=question), answer(request_id, text, **kwargs), "default", cid
    )


def test_what_is_kept_is_found_again_whole(history):
    """A request comes back with its prompt, its answer and every attempt, as it was."""
    attempts = (
        attempt(outcome="failed", kind=ErrorKind.RATE_LIMIT, duration_ms=12.5),
        attempt(
            "secondary",
            1,
            "skipped",
            started_ms=13.0,
            duration_ms=0.0,
            reason="circuit open",
            skip=Skip(why="circuit_open", cause=ErrorKind.TIMEOUT, retry_at="2026-01-01"),
        ),
        attempt("rules", 2, started_ms=14.0, first_token_ms=1.0),
    )
    prompt = Prompt(
        question="Why?",
        system="Be kind.",
        attachments=(Attachment(text="piped"), Attachment(text="code", name="a.py")),
    )
    given_answer = answer(
        "ab12", "Because.", tier="rules", level=2, attempts=attempts, ref_code="REF-AB120000"
    )
    cid = history.save(prompt, given_answer, "work")
    found = history.find("ab12")

    assert found.answer == given_answer
    assert found.prompt == prompt
    assert (found.profile, found.conversation_id) == ("work", cid)
    assert found.asked_at == NOW - 0.25


def test_a_failed_request_is_found_too(history):
    """A request that nothing answered is in the log with its error."""
    failed = answer("ff00", error=FAILED, attempts=[attempt(outcome="failed", kind=FAILED.kind)])
    history.save(Prompt(question="Why?"), failed, "default")

    assert history.find("ff00").answer == failed


def test_the_dictionary_has_the_fields_of_the_answer_and_the_question(history):
    """`log --json` gives what `ask --json` gave, and what was asked, when."""
    history.save(Prompt(question="Why?"), answer("ab12"), "default")
    values = history.find("ab12").to_dict()

    assert values["asked_at"] == "2027-01-15T07:59:59Z"
    assert values["question"] == "Why?"
    assert {name: values[name] for name in answer("ab12").to_dict()} == answer("ab12").to_dict()


@pytest.mark.parametrize(
    "wanted", ["ab12cd", "ab", "AB12", " ab12cd ", "REF-AB12CD00", "ref-ab12cd00"]
)
def test_a_request_is_found_by_id_beginning_and_code(history, wanted):
    """An id, its unique beginning and the code of an answer all find it, in either case."""
    ask(history, "ab12cd", tier="rules", level=3, provider="rules", ref_code="REF-AB12CD00")
    ask(history, "bb00")

    assert history.find(wanted).answer.request_id == "ab12cd"


def test_an_id_that_begins_others_is_found_itself(history):
    """A whole id is no ambiguous beginning of longer ones."""
    for request_id in ("ab", "abc", "abd"):
        ask(history, request_id)

    assert history.find("ab").answer.request_id == "ab"


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("a", "several requests begin with 'a': give more of the id"),
        ("zz", "no logged request begins with 'zz'"),
        ("", "no logged request begins with ''"),
        ("REF-00000000", "no logged request has the code REF-00000000"),
        ("%", "no logged request begins with '%'"),
    ],
)
def test_what_is_not_found_is_said(history, wanted, message):
    """An unknown or ambiguous id is a usage error that says what to do."""
    ask(history, "ab00")
    ask(history, "ac00")
    with pytest.raises(UsageError, match=message):
        history.find(wanted)


def test_a_request_is_kept_once(history):
    """Keeping a request again changes nothing."""
    ask(history, "ab00", text="first", attempts=[attempt()])
    ask(history, "ab00", text="second", attempts=[attempt(), attempt()])

    assert history.find("ab00").answer.text == "first"
    assert len(history.find("ab00").answer.attempts) == 1


def test_a_conversation_goes_on_from_its_turns(history):
    """What was asked and answered comes back in order, with the system prompt."""
    prompt = Prompt(question="One?", system="Be kind.", attachments=(Attachment(text="piped\n"),))
    cid = history.save(prompt, answer("a1", "First."), "default")
    history.save(Prompt(question="Two?"), answer("a2", "Second."), "default", cid)

    assert history.conversation(cid) == Conversation(
        "a1",
        (
            Message("user", "piped\n\nOne?"),
            Message("assistant", "First."),
            Message("user", "Two?"),
            Message("assistant", "Second."),
        ),
        "Be kind.",
        ("a1", "a2"),
    )


def test_rule_answers_and_failures_are_no_turns(history):
    """A model is never shown a rule answer, nor a question without an answer, as a turn."""
    cid = ask(history, "a1", "One?", "First.")
    ask(history, "a2", "Two?", "Limited.", cid=cid, tier="rules", level=3, provider="rules")
    ask(history, "a3", "Three?", error=FAILED, cid=cid)
    ask(history, "a4", "Four?", "Cut", cid=cid, truncated=True)
    found = history.conversation(cid)

    assert found.request_ids == ("a1", "a4")
    assert [message.content for message in found.messages] == ["One?", "First.", "Four?", "Cut"]


def test_a_turn_that_is_taken_back_stays_in_the_log_only(history):
    """A turn taken back is not gone on from; the others and the log still have theirs."""
    cid = ask(history, "a1", "One?", "First.")
    ask(history, "a2", "Two?", "Second.", cid=cid)
    history.take_back("a2")

    assert history.conversation(cid).request_ids == ("a1",)
    assert history.find("a2").answer.text == "Second."


def test_the_latest_conversation_is_the_latest_requests(history):
    """Without an id the conversation of the latest request is meant, whatever came of it."""
    first = ask(history, "a1", "One?", "First.")
    ask(history, "b1", "Other?", "Else.")
    ask(history, "a2", "Two?", error=FAILED, cid=first)

    assert history.conversation().cid == first
    ask(history, "c1", tier="rules", level=3, provider="rules")
    assert history.conversation() == Conversation("c1", (), None)


def test_there_may_be_nothing_to_continue(history, tmp_path):
    """Without any request there is no conversation, and no file is made to find that out."""
    assert history.conversation() is None
    assert not (tmp_path / "state").exists()


def test_a_conversation_is_found_by_the_beginning_of_its_id(history):
    """A unique beginning is enough; an unknown or ambiguous one is a usage error."""
    ask(history, "ab00", cid="talk-1")
    ask(history, "ab01", cid="talk-1")
    ask(history, "ac00", cid="tell")

    assert history.conversation("ta").cid == "talk-1"
    with pytest.raises(UsageError, match="several conversations begin with 't'"):
        history.conversation("t")
    with pytest.raises(UsageError, match="no logged conversation begins with 'zz'"):
        history.conversation("zz")


def test_the_latest_come_first(history):
    """Recent requests come latest first, as many as wanted."""
    for number in range(5):
        ask(history, f"a{number}")

    assert [request.answer.request_id for request in history.recent(3)] == ["a4", "a3", "a2"]


@pytest.mark.parametrize(
    ("search", "found"),
    [
        ("percent", ["a3"]),
        ("100%", ["a3"]),
        ("%", ["a3"]),
        ("a_b", ["a2"]),
        ("_", ["a2"]),
        ("\\", ["a1"]),
        ("ANSWER", ["a3", "a2", "a1"]),
        ("nowhere", []),
        ("Größe", ["a2"]),
    ],
)
def test_a_search_means_what_it_says(history, search, found):
    """A search finds its text in questions and answers; no character of it is a wildcard."""
    ask(history, "a1", "C:\\temp", "An answer")
    ask(history, "a2", "a_b Größe", "An answer")
    ask(history, "a3", "100% percent", "An answer")

    assert [request.answer.request_id for request in history.recent(9, search)] == found


def test_old_requests_are_dropped_for_good(history, clock, tmp_path):
    """What was asked before a time goes, with its attempts and its text in the file."""
    ask(history, "a1", "SECRET " * 500, attempts=[attempt()])
    clock.now += 100
    ask(history, "a2", "young", attempts=[attempt()])
    before = (history.count(), history.count(older_than=clock.now - 50))
    dropped = history.prune(clock.now - 50)
    data = b"".join(p.read_bytes() for p in (tmp_path / "state").iterdir())

    assert (before, dropped) == ((2, 1), 1)
    assert [request.answer.request_id for request in history.recent(9)] == ["a2"]
    assert len(history.find("a2").answer.attempts) == 1
    assert b"SECRET" not in data
    assert b"young" in data


def test_no_secret_is_kept(history, tmp_path):
    """A key that a server echoes, or that was pasted, is in no byte of the file."""
    key = "sk-proj-0123456789abcdef"
    echo = ErrorInfo(kind=ErrorKind.AUTHENTICATION, message=f"bad key {key}")
    failing = attempt(outcome="failed", kind=ErrorKind.AUTHENTICATION, reason=f"with {key}")
    prompt = Prompt(
        question=f"Is {key} a key?",
        system=key,
        attachments=(Attachment(text=f"KEY={key}", name=f"{key}.txt"),),
    )
    history.save(prompt, answer("a1", f"Yes: {key}", attempts=[failing]), "p", secrets=[key, ""])
    history.save(prompt, answer("a2", error=echo), "p", secrets=[key])
    data = b"".join(p.read_bytes() for p in (tmp_path / "state").iterdir())

    assert key.encode() not in data
    assert history.find("a1").answer.text == "Yes: [key]"


def test_long_texts_keep_head_and_tail(history):
    """Of a text over the limit both ends stay, and how much is missing is said."""
    text = "head" + "x" * (2 * MAX_TEXT) + "tail"
    attachments = tuple(Attachment(text=text, name=str(n)) for n in range(10))
    history.save(Prompt(question=text, attachments=attachments), answer("a1", text), "default")
    found = history.find("a1")
    kept = [found.prompt.question, found.answer.text]
    kept += [part.text for part in found.prompt.attachments]

    assert all(one.startswith("head") and one.endswith("tail") for one in kept)
    assert all("characters are not kept" in one for one in kept)
    assert len(kept[0]) <= MAX_TEXT + 100
    assert sum(map(len, kept[2:])) <= MAX_TEXT + 1000


@pytest.mark.parametrize("text", ["a\ud800b", "\x00nul", "emoji 🦊 \u202e", ""])
def test_any_text_can_be_kept(history, text):
    """Lone surrogates, NULs and the like stop nothing; only surrogates are replaced."""
    history.save(Prompt(question=text), answer("a1", text), "default")
    expected = text.replace("\ud800", "?")

    assert history.find("a1").prompt.question == expected
    assert history.find("a1").answer.text == expected


def test_senseless_token_counts_stop_nothing(history):
    """Counts a server made up are kept within bounds."""
    usage = Usage(prompt_tokens=10**30, completion_tokens=-5)
    history.save(Prompt(question="x"), answer("a1", usage=usage), "default")

    assert history.find("a1").answer.usage == Usage(prompt_tokens=10**12, completion_tokens=0)


def test_the_same_request_gets_the_earlier_answer(history, clock):
    """The latest complete answer to the same question is given again, while it is young enough."""
    ask(history, "a1", "What  is it?", "Old.")
    clock.now += 100
    ask(history, "a2", "What is it?", "New.")
    found = history.cached_answer(
        "default", Prompt(question=" What is\nit? "), newer_than=clock.now - 200
    )

    assert found == CachedAnswer(
        text="New.",
        answered_at=clock.now,
        request_id="a2",
        tier="primary",
        provider="openai",
        model="gpt",
    )
    assert (
        history.cached_answer("default", Prompt(question="What is it?"), newer_than=clock.now)
        is None
    )


@pytest.mark.parametrize(
    "kwargs",
    [
        {"provider": "rules", "tier": "rules", "level": 3},
        {"provider": "cache", "tier": "cache", "level": 2},
        {"truncated": True},
        {"error": FAILED},
        {"text": ""},
        {"text": "x" * (MAX_TEXT + 1)},
    ],
)
def test_only_whole_answers_of_models_are_given_again(history, kwargs):
    """Rule answers, cached, cut, failed, empty and shortened ones are never given again."""
    ask(history, "a1", "Q?", **{"text": "T.", **kwargs})

    assert history.cached_answer("default", Prompt(question="Q?"), newer_than=0) is None


@pytest.mark.parametrize(
    "other",
    [
        Prompt(question="q?"),
        Prompt(question="Q?", system="s"),
        Prompt(question="Q?", attachments=(Attachment(text="a"),)),
        Prompt(question="Q?", history=(Message("user", "a"), Message("assistant", "b"))),
    ],
)
def test_another_request_gets_no_earlier_answer(history, other):
    """Another question, system prompt, attachment or course of the talk is another request."""
    ask(history, "a1", "Q?", "T.")

    assert history.cached_answer("default", other, newer_than=0) is None
    assert history.cached_answer("other", Prompt(question="Q?"), newer_than=0) is None
    assert history.cached_answer("default", Prompt(question="Q?"), newer_than=0).text == "T."


@given(parts=st.lists(st.text(max_size=5), min_size=1, max_size=4))
def test_attachments_cannot_be_shifted_into_each_other(parts):
    """The same characters in other attachments are another request."""
    prompts = {
        fingerprint("p", Prompt(question="q", attachments=tuple(map(_attached, cut))))
        for cut in (parts, ["".join(parts)])
    }

    assert len(prompts) == (1 if len(parts) == 1 else 2)


def _attached(text):
    return Attachment(text=text)


@given(text=st.text(max_size=50), secret=st.text("abc012-_", min_size=6, max_size=12))
def test_a_struck_text_holds_no_secret_and_can_be_stored(text, secret):
    """Whatever the text and the secret: nothing of it stays, and SQLite takes the rest."""
    struck = Redactor([secret], limit=MAX_TEXT)(f"{text}{secret}{text}")

    assert secret not in struck
    struck.encode()


def test_lookups_use_an_index(history, database):
    """Nothing that `ask` looks up scans the log."""
    ask(history, "a1")
    statements = []
    database.read(lambda c: c.set_trace_callback(statements.append), None)
    history.conversation()
    history.conversation("a1")
    history.find("a1")
    history.find("REF-0000AAAA") if history.recent(1)[0].answer.ref_code else None
    history.cached_answer("default", Prompt(question="What?"), newer_than=0)
    database.read(lambda c: c.set_trace_callback(None), None)
    plans = [
        row[3]
        for statement in statements
        for row in database.read(
            lambda c, s=statement: c.execute(f"EXPLAIN QUERY PLAN {s}").fetchall(), []
        )
    ]
    scans = {plan for plan in plans if plan.startswith("SCAN")}

    # Without a condition, the latest are read from the end of the table itself.
    assert len(statements) >= 7
    assert scans <= {"SCAN requests", "SCAN r"}
    assert not any("TEMP B-TREE" in plan for plan in plans)
