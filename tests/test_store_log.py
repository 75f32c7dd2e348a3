"""Tests of the commands `log` and `stats`, and of the charts they draw."""

from __future__ import annotations

import io
import json
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from store_support import FakeClock, answer, attempt

from tieredllm.cli.environment import Environment
from tieredllm.cli.main import run
from tieredllm.kinds import ErrorKind
from tieredllm.render.timeline import ASCII_BARS, NARROWEST, duration, sparkline, time_line
from tieredllm.store.database import Database
from tieredllm.store.history import History
from tieredllm.types import Prompt

RULE_ID = "ab12cd34" * 4
FULL_ID = "0f" * 16


class Terminal(io.StringIO):
    """Be a terminal as far as anybody asks."""

    encoding = "utf-8"

    def isatty(self):
        return True


@pytest.fixture
def home(tmp_path):
    return tmp_path / "home"


@pytest.fixture
def tieredllm(home):
    """Run a command line; give its code, stdout and stderr."""

    def call(*args, terminal=False, stdin=None):
        out = Terminal() if terminal else io.StringIO()
        err = io.StringIO()
        environment = Environment(
            env={"TIEREDLLM_HOME": str(home)}, stdin=stdin or io.StringIO(), stdout=out, stderr=err
        )
        code = run(args, environment)
        return code, out.getvalue(), err.getvalue()

    return call


@pytest.fixture
def history(home):
    with Database(home / "state" / "state.db") as database:
        yield History(database, FakeClock(time.time()))


@pytest.fixture
def filled(history):
    """Keep one request that fell back, and one that the rules answered."""
    history.save(
        Prompt(question="Why is the\nsky blue?", system="Be kind."),
        answer(
            FULL_ID,
            "Rayleigh \x1b]0;evil\x07scattering.\n",
            tier="secondary",
            level=1,
            latency_ms=1000,
            attempts=[
                attempt(outcome="failed", kind=ErrorKind.SERVICE_UNAVAILABLE, duration_ms=100),
                attempt(outcome="failed", kind=ErrorKind.TIMEOUT, started_ms=400, duration_ms=100),
                attempt("secondary", 1, started_ms=500, duration_ms=500, first_token_ms=250),
            ],
        ),
        "default",
    )
    history.save(
        Prompt(question="Hello"),
        answer(
            RULE_ID,
            "Hi.",
            tier="rules",
            level=3,
            provider="rules",
            ref_code="REF-AB12CD34",
            latency_ms=5,
            attempts=[
                attempt(outcome="skipped", reason="circuit open, next probe in 8 s"),
                attempt("rules", 3, duration_ms=5),
            ],
        ),
        "default",
    )


def plain(text):
    """Drop the styles of a terminal's text; anything else is not ours and stays."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def test_without_a_log_nothing_is_listed_or_made(tieredllm, home):
    """A fresh install has an empty log, says so, and makes no file to find out."""
    assert tieredllm("log") == (0, "", "no request was logged yet\n")
    assert tieredllm("log", "list", "--json") == (0, "[]\n", "")
    assert tieredllm("stats", "--days", "1") == (0, "", "no request was logged in the last day\n")
    assert not home.exists()


def test_the_list_is_plain_when_piped(tieredllm, filled):
    """Piped, a request is a line of fields with tabs between: no colour, no padding, whole id."""
    code, out, err = tieredllm("log")
    fields = [line.split("\t") for line in out.splitlines()]

    assert (code, err) == (0, "")
    assert [field[1:] for field in fields] == [
        [RULE_ID, "rules", "gpt", "5", "Hello"],
        [FULL_ID, "secondary", "gpt", "1000", "Why is the"],
    ]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", field[0]) for field in fields)
    assert tieredllm("log", "list") == (code, out, err)


def test_number_and_search_choose(tieredllm, filled):
    """`-n` gives the latest few, `--search` those that hold a text."""
    assert tieredllm("log", "-n", "1")[1].count("\n") == 1
    assert FULL_ID in tieredllm("log", "list", "--search", "SKY")[1]
    assert tieredllm("log", "list", "--search", "nowhere") == (
        0, "", "no request has this text\n"
    )  # fmt: skip


def test_json_is_one_value(tieredllm, filled):
    """`--json` prints one value, which has everything."""
    listed = json.loads(tieredllm("log", "--json")[1])
    shown = json.loads(tieredllm("log", "show", FULL_ID, "--json")[1])

    assert [one["request_id"] for one in listed] == [RULE_ID, FULL_ID]
    assert shown == listed[1]
    assert shown["text"] == "Rayleigh \x1b]0;evil\x07scattering.\n"
    assert [one["outcome"] for one in shown["attempts"]] == ["failed", "failed", "ok"]


@pytest.mark.parametrize("width", [40, 60, 80, 100, 120, 200])
@pytest.mark.parametrize("args", [["log"], ["log", "show", FULL_ID], ["stats", "--days", "1"]])
def test_nothing_is_wider_than_the_terminal(tieredllm, filled, monkeypatch, width, args):
    """From 40 to 200 columns every line fits, and none is cut by the terminal."""
    monkeypatch.setenv("COLUMNS", str(width))
    code, out, err = tieredllm(*args, terminal=True)

    assert (code, err) == (0, "")
    assert max(cell_len(line) for line in plain(out).splitlines()) <= width


def test_a_request_is_drawn_as_a_time_line(tieredllm, filled, monkeypatch):
    """One bar per attempt to scale, waits dotted, and below each why it gave way."""
    monkeypatch.setenv("COLUMNS", "64")
    _, out, _ = tieredllm("log", "show", FULL_ID[:6], terminal=True)
    lines = [line.rstrip() for line in plain(out).splitlines()]
    drawn = lines[lines.index("") + 1 :][:6]

    assert drawn == [
        "primary   ─────                                           100 ms",
        "  openai gpt: failed: service_unavailable: it went wrong",
        "primary        ··············─────                        100 ms",
        "  openai gpt: failed: timeout: it went wrong",
        "secondary                         ───────────━━━━━━━━━━━━ 500 ms",
        "  openai gpt: answered",
    ]


def test_a_code_finds_the_request(tieredllm, filled):
    """`log show REF-...` finds a rule answer, which names its skipped tier and why."""
    code, out, _ = tieredllm("log", "show", "ref-ab12cd34")

    assert code == 0
    assert f"request {RULE_ID}" in out
    assert "primary openai gpt: skipped: circuit open, next probe in 8 s" in out
    assert "reference REF-AB12CD34" in out


@pytest.mark.parametrize("terminal", [False, True])
def test_what_a_model_wrote_cannot_steer_the_terminal(tieredllm, filled, terminal):
    """An answer's escape sequences are gone, and its text is there."""
    _, out, _ = tieredllm("log", "show", FULL_ID, terminal=terminal)

    assert "evil" not in out
    assert "\x1b" not in plain(out)
    assert "\x07" not in out
    assert "Rayleigh scattering." in out


@pytest.mark.parametrize("terminal", [False, True])
def test_no_line_of_a_text_is_taken_for_one_of_ours(tieredllm, history, terminal):
    """What was asked and answered stands behind a margin, whatever its lines look like."""
    lines = "Sure.\n\nanswered by secondary in 2 ms\nanswer\ntieredllm: all is well"
    history.save(Prompt(question="Hi"), answer(FULL_ID, lines, attempts=[attempt()]), "default")
    _, out, _ = tieredllm("log", "show", FULL_ID, terminal=terminal)
    shown = [line.rstrip() for line in plain(out).splitlines()]

    assert shown.count("answer") == 1
    assert [line for line in shown if line.startswith(("answered by", "tieredllm:"))] == [
        "answered by primary (openai gpt) in 250 ms"
    ]
    assert "  tieredllm: all is well" in shown


@pytest.mark.parametrize(
    "args", [["show", "zzzz"], ["show", "REF-00000000"], ["prune", "--older-than", "0"]]
)
def test_mistakes_end_with_code_2(tieredllm, filled, args):
    """An unknown id, and a prune that nobody confirmed, are usage errors in one line."""
    code, out, err = tieredllm("log", *args)

    assert (code, out) == (2, "")
    assert err.startswith("tieredllm: ")
    assert err.count("\n") == 1


def test_prune_drops_what_is_older(tieredllm, history, home):
    """`log prune --older-than DAYS --yes` drops old requests and keeps the others."""
    clock = FakeClock(time.time() - 3 * 86_400)
    with Database(home / "state" / "state.db") as database:
        History(database, clock).save(Prompt(question="Old?"), answer("aa"), "default")
    history.save(Prompt(question="New?"), answer("bb"), "default")
    first = tieredllm("log", "prune", "--older-than", "2", "--yes")
    again = tieredllm("log", "prune", "--older-than", "2")

    assert first == (0, "", "dropped 1 request\n")
    assert again == (0, "", "dropped 0 requests\n")
    assert [line.split("\t")[1] for line in tieredllm("log")[1].splitlines()] == ["bb"]


def test_an_earlier_conversation_is_named(tieredllm, filled):
    """`log name` names it by id or name, lists the names, shows one and takes one away."""
    none = tieredllm("log", "name")
    given = tieredllm("log", "name", FULL_ID[:6], "sky")
    again = tieredllm("log", "name", "sky", "blue sky")
    listed = tieredllm("log", "name")
    taken = tieredllm("log", "name", RULE_ID[:6], "blue sky")
    only = tieredllm("log", "--cid", "blue sky", "--json")
    shown = tieredllm("log", "show", FULL_ID)
    as_json = json.loads(tieredllm("log", "show", FULL_ID, "--json")[1])
    names = json.loads(tieredllm("log", "name", "--json")[1])
    table = plain(tieredllm("log", "name", terminal=True)[1])
    dropped = tieredllm("log", "name", "blue sky", "-")

    assert none == (0, "", "no conversation has a name yet\n")
    assert given == (0, f"{FULL_ID}\tsky\n", "")
    assert again == listed == (0, f"{FULL_ID}\tblue sky\n", "")
    assert taken[:2] == (2, "")
    assert f"conversation {FULL_ID[:8]} is named 'blue sky' already" in taken[2]
    assert [row["conversation_name"] for row in json.loads(only[1])] == ["blue sky"]
    assert f"conversation {FULL_ID} (blue sky)\n" in shown[1]
    assert as_json["conversation_name"] == "blue sky"
    assert names == [{"conversation_id": FULL_ID, "conversation_name": "blue sky"}]
    assert [line.split() for line in table.splitlines() if FULL_ID in line] == [
        [FULL_ID, "blue", "sky"]
    ]
    assert dropped == (0, "", "the conversation has no name now\n")
    assert tieredllm("log", "name", FULL_ID) == (0, "", "the conversation has no name\n")


def test_path_prints_where_the_file_is(tieredllm, home):
    """`log path` prints the file's place, whether it is there or not."""
    assert tieredllm("log", "path") == (0, f"{home / 'state' / 'state.db'}\n", "")


@pytest.mark.parametrize(
    "args",
    [["log"], ["log", "show", "ab"], ["stats", "--days", "1"], ["ask", "-c", "And then?"]],
)
def test_a_file_that_cannot_be_read_is_said(tieredllm, home, args):
    """A log that cannot be read is not taken for an empty one: exit code 1 and the reason."""
    (home / "state" / "state.db").mkdir(parents=True)
    code, out, err = tieredllm(*args)

    assert (code, out) == (1, "")
    assert "not a regular file" in err


def test_stats_are_plain_when_piped(tieredllm, filled):
    """Piped, the figures are a line per tier, or per model, with tabs between."""
    code, out, err = tieredllm("stats", "--days", "1")
    rows = [line.split("\t") for line in out.splitlines()]
    models = tieredllm("stats", "--days", "1", "--models")[1]

    assert (code, err) == (0, "")
    assert rows == [
        ["primary", "1", "0%", "100%", "-", "-", "-"],
        ["secondary", "1", "100%", "0%", "500 ms", "500 ms", "250 ms"],
        ["rules", "1", "100%", "0%", "5.0 ms", "5.0 ms", "-"],
    ]
    assert [line.split("\t") for line in models.splitlines()] == [
        ["secondary", "gpt", "1", "500 ms", "250 ms", "10", "20", "-"],
        ["rules", "gpt", "1", "5.0 ms", "-", "10", "20", "-"],
    ]


def test_stats_json_is_one_object(tieredllm, filled):
    """`stats --json` has the whole, each tier and each model; its times are as everywhere."""
    found = json.loads(tieredllm("stats", "--json", "--days", "1")[1])

    assert (found["requests"], found["fallback_rate"]) == (2, 1.0)
    assert [tier["name"] for tier in found["tiers"]] == ["primary", "secondary", "rules"]
    assert [model["answers"] for model in found["models"]] == [1, 1]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", found["since"])


@pytest.mark.parametrize("columns", ["80", "200"])
def test_stats_are_two_tables_on_a_terminal(tieredllm, filled, columns, monkeypatch):
    """The tiers and the models have a table each; charts are where there is room for them."""
    monkeypatch.setenv("COLUMNS", columns)
    _, out, _ = tieredllm("stats", "--days", "1", terminal=True)

    assert "tier        asked   answered   fell back   p50      p95      first token" in plain(out)
    assert "tier        model   answers   p50      first token   tokens in   out   cost" in plain(
        out
    )
    assert ("falls" in out) == (columns == "200")


def test_stats_look_back_over_the_health_window(tieredllm, history):
    """Without `--days` the profile's window is meant: 15 minutes."""
    history._clock.now -= 20 * 60
    history.save(Prompt(question="Old?"), answer("aa", attempts=[attempt()]), "default")

    assert tieredllm("stats") == (0, "", "no request was logged in the last 15 minutes\n")
    assert tieredllm("stats", "--days", "1")[1] != ""


SPAN = st.floats(0, 100_000)
ATTEMPTS = st.lists(
    st.builds(
        attempt,
        st.sampled_from(["primary", "日本語のとても長い名前のティア", "x"]),
        st.integers(0, 3),
        st.sampled_from(["ok", "failed", "skipped", "cancelled"]),
        started_ms=SPAN,
        duration_ms=SPAN,
        first_token_ms=st.none() | SPAN,
        reason=st.just("it was so"),
    ),
    max_size=6,
)


@given(attempts=ATTEMPTS, latency_ms=SPAN, width=st.integers(40, 200), ascii_only=st.booleans())
def test_lanes_are_aligned_and_as_wide_as_the_terminal(attempts, latency_ms, width, ascii_only):
    """Every lane fills the width exactly, has a bar, and what came later starts no earlier."""
    lanes = time_line(attempts, latency_ms=latency_ms, width=width, ascii_only=ascii_only)
    widths = {
        cell_len(f"{lane.label} {lane.before}{lane.bar}{lane.after} {lane.length}")
        for lane in lanes
    }
    starts = [(one.started_ms, len(lane.before)) for one, lane in zip(attempts, lanes, strict=True)]

    assert widths <= {width}
    assert all(lane.bar for lane in lanes)
    assert [start for _, start in sorted(starts)] == sorted(start for _, start in starts)
    if ascii_only:
        assert all((lane.before + lane.bar + lane.after).isascii() for lane in lanes)


def test_a_very_narrow_terminal_still_gets_an_axis():
    """Below the supported width the axis keeps a few columns."""
    [lane] = time_line([attempt()], latency_ms=100, width=5)

    assert len(lane.before + lane.bar + lane.after) >= NARROWEST


@pytest.mark.parametrize(
    ("ms", "words"),
    [
        (0.0, "0.0 ms"), (9.96, "10 ms"), (120.4, "120 ms"), (999.6, "1.00 s"), (1930, "1.93 s"),
        (9999, "10.0 s"), (12_340, "12.3 s"), (99_970, "1 min 40 s"), (125_000, "2 min 5 s"),
    ],
)  # fmt: skip
def test_lengths_of_time_are_short(ms, words):
    """A length of time is worded with three figures at most."""
    assert duration(ms) == words


def test_a_sparkline_has_a_character_per_number():
    """The largest number is as high as can be, 0 as low, and nothing leaves a gap."""
    assert sparkline([0, None, 4, 8]) == "▁ ▅█"
    assert sparkline([0, 0]) == "▁▁"
    assert sparkline([0.5], top=1.0) == "▅"
    assert sparkline([]) == ""
    assert set(sparkline([0, 1, 2, 3], ascii_only=True)) <= set(ASCII_BARS)


def test_a_bad_row_is_told_and_the_others_are_shown(tieredllm, filled, home):
    """One row that makes no sense costs a line on stderr, not the list."""
    with Database(home / "state" / "state.db") as database:
        spoil = "UPDATE log SET record = '{' WHERE id = ?"
        database.write(lambda c: c.execute(spoil, (FULL_ID,)), None)
    code, out, err = tieredllm("log")
    as_json = tieredllm("log", "--json")

    assert code == 0
    assert [line.split("\t")[1] for line in out.splitlines()] == [RULE_ID]
    assert err.startswith(
        f"tieredllm: 1 request in the log cannot be read and left out: {FULL_ID}: "
    )
    assert [one["request_id"] for one in json.loads(as_json[1])] == [RULE_ID]


def test_an_empty_log_is_an_empty_list(tieredllm):
    """`log --json` is JSON also when there is nothing."""
    assert tieredllm("log", "--json") == (0, "[]\n", "")
