"""Tests of the log: what is kept of a request, what is found again, and what never is."""

from __future__ import annotations

import threading

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from store_support import NOW, Child, FakeClock, answer, attempt

from tieredllm.errors import UsageError
from tieredllm.kinds import ErrorInfo, ErrorKind
from tieredllm.redaction import Redactor
from tieredllm.store.database import Database, DatabaseError
from tieredllm.store.history import CachedAnswer, Conversation, History, Unreadable
from tieredllm.store.record import MAX_TEXT, fingerprint
from tieredllm.store.schema import STEPS
from tieredllm.store.statistics import statistics
from tieredllm.types import Attachment, Image, Message, Prompt, Skip, ToolUse, Usage

FAILED = ErrorInfo(kind=ErrorKind.TIMEOUT, message="no token within 10 s")


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def database(tmp_path):
    with Database(tmp_path / "state" / "state.db") as opened:
        yield opened
        assert opened.problem is None


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


def test_a_picture_is_not_kept_and_that_is_told(history):
    """The log has no pictures; a conversation that goes on says where one was."""
    prompt = Prompt(question="What?", parts=(Image(media_type="image/png", data=b"secret png"),))
    cid = history.save(prompt, answer("a1", "A cat."), "default")

    assert history.find("a1").prompt.parts == (Image(media_type="image/png"),)
    assert history.conversation(cid).messages[0].content == "[image, no longer here]\nWhat?"


def test_a_conversation_goes_on_from_its_turns(history):
    """What was asked and answered comes back in order, with the system prompt."""
    prompt = Prompt(question="One?", system="Be kind.", attachments=(Attachment(text="piped\n"),))
    cid = history.save(prompt, answer("a1", "First."), "default")
    history.save(Prompt(question="Two?"), answer("a2", "Second."), "default", cid)

    assert history.conversation(cid) == Conversation(
        "a1",
        (
            Message("user", "One?", attachments=(Attachment(text="piped\n"),)),
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
    history.find("REF-0000AAAA") if next(history.recent(1)).answer.ref_code else None
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
    assert scans <= {"SCAN log"}
    assert not any("TEMP B-TREE" in plan for plan in plans)


def test_every_field_of_an_answer_comes_back(history):
    """What is kept is the answer itself: no field is left behind, be it a new one."""
    given_answer = msgspec.structs.replace(
        answer("a1", tier="cache", provider="cache", usage=Usage(prompt_tokens=3)),
        cached_at="2026-01-01T00:00:00Z",
        intent="greeting",
        tool_calls=(
            ToolUse(
                tier="primary",
                name="look_up",
                arguments={"order": -7, "deep": [1.5, None, True]},
                outcome="ok",
                result="It is on its way.",
            ),
        ),
    )
    history.save(Prompt(question="Why?"), given_answer, "default")

    assert history.find("a1").answer == given_answer


def test_what_a_tool_was_called_with_holds_no_secret(history, tmp_path):
    """A key in the arguments of a tool's call, be it a name there, is in no byte of the file."""
    key = "sk-proj-0123456789abcdef"
    use = ToolUse(
        tier="primary",
        name="look_up",
        arguments={key: [{"header": f"Bearer {key}"}]},
        outcome="ok",
        result=key,
    )
    history.save(
        Prompt(question="Q?"),
        msgspec.structs.replace(answer("a1"), tool_calls=(use,)),
        "default",
        secrets=[key],
    )

    assert history.find("a1").answer.tool_calls[0].arguments == {
        "[key]": [{"header": "Bearer [key]"}]
    }
    assert key.encode() not in b"".join(p.read_bytes() for p in (tmp_path / "state").iterdir())


@pytest.mark.parametrize("row", ["", "{", '{"asked_at": 1}', "[]", b"\xff\xfe", None])
def test_one_bad_row_does_not_hide_the_others(history, database, row):
    """A row that makes no sense is told by its id and its reason; the others are there."""
    for request_id in ("a1", "a2", "a3"):
        ask(history, request_id, cid="talk")
    spoil = "UPDATE log SET record = CAST(coalesce(?, 7) AS TEXT) WHERE id = 'a2'"
    database.write(lambda c: c.execute(spoil, (row,)), None)
    found = list(history.recent(9))

    assert [one.answer.request_id for one in found[::2]] == ["a3", "a1"]
    assert isinstance(found[1], Unreadable)
    assert found[1].request_id == "a2"
    assert [one.answer.request_id for one in history.recent(9, "what")] == ["a3", "a1"]
    assert history.conversation("talk").request_ids == ("a1", "a3")
    with pytest.raises(UsageError, match="request a2 cannot be read: "):
        history.find("a2")


def test_an_answer_from_the_future_is_not_given_again(history, clock):
    """What was kept while the clock was far ahead would never be too old: it is passed over."""
    clock.now += 10 * 365 * 86_400
    ask(history, "a1", "Q?", "T.")
    clock.now = NOW

    assert history.cached_answer("default", Prompt(question="Q?"), newer_than=NOW - 60) is None


def test_the_log_keeps_the_latest_requests_only(database, clock):
    """Beyond the number it keeps, the oldest go, with what the statistics have of them."""
    history = History(database, clock, keep=10)
    for number in range(15):
        ask(history, f"a{number:02}", attempts=[attempt()])

    assert [one.answer.request_id for one in history.recent(99)] == [
        f"a{number:02}" for number in range(14, 4, -1)
    ]
    count = history._database.read(lambda c: c.execute("SELECT count(*) FROM tier_turns"), None)
    assert count.fetchone() == (10,)


def test_the_log_does_not_outgrow_its_bytes(database, clock):
    """Few requests with long texts go, too, once the file is full; the latest always stays."""
    history = History(database, clock, max_mb=1)
    for number in range(40):
        ask(history, f"a{number:02}", "x" * 100_000)

    ids = [one.answer.request_id for one in history.recent(99)]
    assert ids[0] == "a39"
    assert len(ids) < 10
    ask(history, "b", "x" * 1_000_000)
    assert next(history.recent(1)).answer.request_id == "b"


def test_a_long_log_is_read_a_few_at_a_time(history, monkeypatch):
    """Who stops after the first requests has not read the others, and none is missed or doubled."""
    monkeypatch.setattr("tieredllm.store.history.PAGE", 3)
    for number in range(10):
        ask(history, f"a{number}")
    found = history.recent(8)
    next(found)
    ask(history, "late")

    assert [one.answer.request_id for one in found] == [f"a{n}" for n in range(8, 1, -1)]


def test_a_request_waits_for_the_log_while_others_write(tmp_path):
    """A file that is locked for a while is waited for; the request is in the log afterwards."""
    path = tmp_path / "state" / "state.db"
    with Database(path) as database:
        history = History(database)
        ask(history, "a1")
        with Child(path, LOCKER) as locker:
            locker.line()
            timer = threading.Timer(0.5, locker.go)
            timer.start()
            ask(history, "a2")
            timer.join()
            locker.end()

        assert history.unsaved is None
        assert history.conversation().request_ids == ("a2",)


def test_a_request_that_is_not_kept_is_said(tmp_path, monkeypatch):
    """Whoever has the file locked for too long, or where none can be, the reason is there."""
    monkeypatch.setattr("tieredllm.store.history.SAVE_WAIT_S", 0.2)
    path = tmp_path / "state" / "state.db"
    with Database(path) as database:
        history = History(database)
        ask(history, "a1")
        with Child(path, LOCKER) as locker:
            locker.line()
            ask(history, "a2")
            locked = history.unsaved
            locker.go()
            locker.end()
        ask(history, "a3")
        again = history.unsaved
    nowhere = History(Database(tmp_path / "state" / "state.db" / "state.db"))
    ask(nowhere, "a1")

    assert locked == f"cannot use {path}: another process keeps it locked"
    assert again is None
    assert "Not a directory" in nowhere.unsaved


LOCKER = """
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    say("locked")
    wait()
    connection.execute("COMMIT")
    connection.close()
"""

OLD_ROWS = """
INSERT INTO requests VALUES (7, 'ab12', 1000.5, 'work', 'talk', 1, 'hash', 'Why "now"?', 'Be kind.',
    '[{"text": "piped", "name": null}]', 'Because.' || char(10) || 'é', 'secondary', 1, 'openai',
    'gpt', 250.0, 40.0, 'stop', 0, 10, 20, 'primary: timeout: it went wrong', NULL, NULL, NULL,
    NULL);
INSERT INTO requests VALUES (8, 'ff00', 1001.0, 'work', 'talk', 0, NULL, 'And?', NULL, 'no JSON',
    NULL, NULL, NULL, NULL, NULL, 9.0, NULL, NULL, 0, NULL, NULL, 'rules: deadline: late',
    'REF-00000001', NULL, NULL, '{"kind": "deadline", "message": "late"}');
INSERT INTO attempts (request, position, tier, level, provider, model, outcome, kind, message,
        status, retry_after_s, reason, started_ms, duration_ms, first_token_ms, skip) VALUES
    (7, 1, 'secondary', 1, 'openai', 'gpt', 'ok', NULL, NULL, NULL, NULL, NULL, 100.0, 150.0, 40.0,
        NULL),
    (7, 0, 'primary', 0, 'openai', 'gpt', 'failed', 'timeout', 'it went wrong', 504, 2.0, NULL, 0.0,
        100.0, NULL, NULL),
    (8, 0, 'primary', 0, 'openai', 'gpt', 'skipped', NULL, NULL, NULL, NULL, 'open', 0.0, 0.0, NULL,
        '{"why": "circuit_open", "cause": "timeout"}');
"""


def test_a_log_without_names_gets_them(tmp_path, clock):
    """A log of the version before there were names is there whole, and takes them."""
    path = tmp_path / "state.db"
    with Database(path, steps=STEPS[:5]) as old:
        History(old, clock).save(Prompt(question="Why?"), answer("r1"), "default")
        assert old.problem is None
    with Database(path) as database:
        history = History(database, clock)
        before = history.names()
        history.set_name("r1", "trip")
        conversation = history.conversation("trip")
        assert database.problem is None

    assert before == {}
    assert (conversation.cid, conversation.request_ids) == ("r1", ("r1",))


def test_a_name_comes_before_the_beginning_of_an_id(history):
    """What is exactly a conversation's name is that, whatever ids begin so; other ids are found."""
    for request_id in ("ab" + "0" * 30, "cd" + "0" * 30):
        history.save(Prompt(question="Why?"), answer(request_id), "default")
    history.set_name("cd" + "0" * 30, "ab")

    assert history.conversation_id("ab") == "cd" + "0" * 30
    assert history.conversation_id("ab0") == "ab" + "0" * 30
    assert history.conversation("ab").name == "ab"
    assert [each.name for each in history.conversations(9)] == ["ab", None]


@pytest.mark.parametrize(
    "name",
    ["", " trip", "x" * 65, "two\nlines", "\x1b[1mbold", "\u202egnp", "\udcff", "-x", "0f" * 16],
)
def test_what_is_no_name_is_refused(history, name):
    """A name is short, printable, on one line, and neither an option nor a whole id."""
    history.save(Prompt(question="Why?"), answer("r1"), "default")
    with pytest.raises(UsageError):
        history.set_name("r1", name)

    assert history.names() == {}


def test_a_name_belongs_to_one_conversation(history):
    """Another conversation's name is refused and stays; a second name replaces the first."""
    for request_id in ("r1", "r2"):
        history.save(Prompt(question="Why?"), answer(request_id), "default")
    history.set_name("r1", "trip")
    history.set_name("r2", "work")
    with pytest.raises(UsageError, match="conversation r1 is named 'trip' already"):
        history.set_name("r2", "trip")
    history.set_name("r1", "trip")
    kept = history.names()
    history.set_name("r1", "journey")
    renamed = history.names()
    history.set_name("r1", None)

    assert kept == {"r1": "trip", "r2": "work"}
    assert renamed == {"r1": "journey", "r2": "work"}
    assert history.names() == {"r2": "work"}


def test_a_name_goes_with_the_last_request(history, clock):
    """While one request of a conversation is left it has its name, and then no longer."""
    history.save(Prompt(question="Why?"), answer("r1"), "default")
    history.set_name("r1", "trip")
    clock.now += 100.0
    history.save(Prompt(question="And?"), answer("r2"), "default", "r1")
    history.prune(clock.now - 50.0)
    left = history.names()
    history.prune(clock.now + 1.0)

    assert left == {"r1": "trip"}
    assert history.names() == {}


def test_what_is_not_in_the_log_has_no_name(history, tmp_path, clock):
    """A conversation that is not there, or could not be kept, is not named."""
    with pytest.raises(UsageError, match="not in the log"):
        history.set_name("r1", "trip")
    (tmp_path / "file").touch()
    with Database(tmp_path / "file" / "state.db") as nowhere:
        lost = History(nowhere, clock)
        lost.save(Prompt(question="Why?"), answer("r1"), "default")
        with pytest.raises(DatabaseError, match="cannot use"):
            lost.set_name("r1", "trip")


def test_a_log_of_an_earlier_version_is_read(tmp_path, clock):
    """What was logged in columns of its own is there after the change to records, figures too."""
    path = tmp_path / "state.db"
    with Database(path, steps=STEPS[:3]) as old:
        old.write(
            lambda c: [c.execute(statement) for statement in OLD_ROWS.strip().split(";\n")], None
        )
        assert old.problem is None
    with Database(path) as database:
        history = History(database, clock)
        first, second = history.find("ab12"), history.find("REF-00000001")
        figures = {tier.name: tier for tier in statistics(database, since=0.0, until=2000.0).tiers}
        conversation = history.conversation("talk")
        assert database.problem is None

    assert first.prompt == Prompt(
        question='Why "now"?', system="Be kind.", attachments=(Attachment(text="piped"),)
    )
    assert first.answer == msgspec.structs.replace(
        answer("ab12", "Because.\né", tier="secondary", level=1),
        first_token_ms=40.0,
        original_error="primary: timeout: it went wrong",
        attempts=(
            msgspec.structs.replace(
                attempt(outcome="failed"),
                error=ErrorInfo(
                    kind=ErrorKind.TIMEOUT, message="it went wrong", status=504, retry_after_s=2.0
                ),
            ),
            attempt("secondary", 1, started_ms=100.0, duration_ms=150.0, first_token_ms=40.0),
        ),
    )
    assert second.answer.error == ErrorInfo(kind=ErrorKind.DEADLINE, message="late")
    assert second.answer.attempts[0].skip == Skip(why="circuit_open", cause=ErrorKind.TIMEOUT)
    assert conversation.request_ids == ("ab12",)
    assert conversation.system == "Be kind."
    assert (figures["primary"].requests, figures["primary"].fallback_rate) == (1, 1.0)
    assert (figures["secondary"].success_rate, figures["secondary"].latency_p50_ms) == (1.0, 150.0)
    assert figures["secondary"].completion_tokens == 20
