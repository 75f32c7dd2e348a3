"""`batch`: lines in, answers out, and the output is the checkpoint."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import time

import pytest
from batch_support import Vendor, lines, records, serving, text_of, tiers
from cli_support import cli, environment, profile, served, tieredllm, two_clouds
from local_support import smollm2
from wire_support import answers, response

RULES = "name: r\ntiers:\n  - {name: rules, provider: rules}\n"


@pytest.fixture
def rules(tmp_path):
    """A profile whose answers cost nothing."""
    return profile(tmp_path, RULES, "r")


def batch(tmp_path, profile_path, source, *args, **kwargs):
    """Run a batch into out.jsonl."""
    out = tmp_path / "out.jsonl"
    return cli(
        tmp_path, "-p", profile_path, "batch", str(source), "-o", str(out), *args, **kwargs
    ), out


def test_each_line_gets_its_own_answer(tmp_path):
    """An answer stands beside the id of its question, in the input's order, in OpenAI's shape."""
    vendor = Vendor()
    source = lines(tmp_path / "in.jsonl", 50)

    with serving(vendor) as server:
        result, out = batch(tmp_path, tiers(tmp_path, server.url), source)

    found = records(out)
    assert result.returncode == 0, result.stderr
    assert [record["custom_id"] for record in found] == [f"q{n}" for n in range(1, 51)]
    assert [text_of(record) for record in found] == [
        f"you said: question {n}" for n in range(1, 51)
    ]
    assert found[0]["response"]["status_code"] == 200
    assert found[0]["error"] is None
    assert {"tier", "level", "model", "attempts", "latency_ms"} <= set(found[0]["tieredllm"])
    assert b"50 of 50 lines answered (primary 50)" in result.stderr


def test_an_answer_stays_on_one_line_for_every_reader(tmp_path):
    """What a reader may take for the end of a line (`str.splitlines`) is escaped in the output."""
    said = "one\u2028two\x85three"
    with served(answers("openai", said)) as server:
        used = two_clouds(tmp_path, f"{server.url}/v1")
        _, out = batch(tmp_path, used, lines(tmp_path / "in.jsonl", 1))

    (line,) = out.read_text("utf-8").splitlines()
    assert text_of(json.loads(line)) == said


def test_what_is_there_is_not_asked_again(tmp_path):
    """A second run asks only for what is new."""
    vendor = Vendor()
    source = lines(tmp_path / "in.jsonl", 5)

    with serving(vendor) as server:
        used = tiers(tmp_path, server.url)
        batch(tmp_path, used, source)
        lines(source, 7)
        result, out = batch(tmp_path, used, source)

    assert result.returncode == 0
    assert len(records(out)) == 7
    assert sorted(vendor.asked) == [f"question {n}" for n in range(1, 8)]


def test_a_torn_last_line_is_cut_off_and_asked_again(tmp_path):
    """What a killed process left half written is gone, and its line is asked anew."""
    vendor = Vendor()
    source = lines(tmp_path / "in.jsonl", 4)

    with serving(vendor) as server:
        used = tiers(tmp_path, server.url)
        _, out = batch(tmp_path, used, source)
        whole = out.read_bytes()
        out.write_bytes(whole[:-40])
        result, _ = batch(tmp_path, used, source)

    assert result.returncode == 0
    assert [record["custom_id"] for record in records(out)] == ["q1", "q2", "q3", "q4"]
    assert sorted(vendor.asked) == ["question 1", "question 2", "question 3"] + ["question 4"] * 2


def test_a_line_whose_end_alone_was_torn_off_counts(tmp_path):
    """A record that lacks only the end of its line is kept, and the next begins on its own."""
    vendor = Vendor()
    source = lines(tmp_path / "in.jsonl", 2)

    with serving(vendor) as server:
        used = tiers(tmp_path, server.url)
        _, out = batch(tmp_path, used, source)
        out.write_bytes(out.read_bytes().rstrip(b"\n"))
        lines(source, 3)
        batch(tmp_path, used, source)

    assert len(records(out)) == 3
    assert len(vendor.asked) == 3


def test_a_changed_prompt_is_asked_again_and_the_old_answer_is_kept_aside(tmp_path):
    """Another prompt, or profile, makes another question; what was paid for is not lost."""
    vendor = Vendor()
    source = lines(tmp_path / "in.jsonl", 3)

    with serving(vendor) as server:
        used = tiers(tmp_path, server.url)
        _, out = batch(tmp_path, used, source)
        text = source.read_text(encoding="utf-8").replace("question 2", "question two")
        source.write_text(text, encoding="utf-8")
        result, _ = batch(tmp_path, used, source)

    assert [text_of(record) for record in records(out)] == [
        "you said: question 1",
        "you said: question two",
        "you said: question 3",
    ]
    kept = records(tmp_path / "out.jsonl.replaced")
    assert [text_of(record) for record in kept] == ["you said: question 2"]
    assert b"1 answer" in result.stderr
    assert vendor.asked.count("question 1") == 1


def test_an_earlier_versions_output_is_gone_on_from(tmp_path, rules):
    """What decides whether a line is done is hashed to the same bytes from version to version."""
    source = lines(tmp_path / "in.jsonl", 1)

    _, out = batch(tmp_path, rules, source, "--max-tier", "rules")

    assert records(out)[0]["tieredllm"]["hash"] == "835ad08cb210f9a9d87afb87350790d7"


def test_failed_lines_are_asked_again(tmp_path):
    """A failure is written with its kind and makes exit code 1; the next run asks that line."""
    source = lines(tmp_path / "in.jsonl", 3)
    bad = {"error": {"message": "no", "type": "invalid_request_error"}}

    with served(response(400, bad)) as server:
        used = tiers(tmp_path, server.url)
        first, out = batch(tmp_path, used, source)
        failed = records(out)
        vendor = Vendor()
        vendor.server = server
        server._play = vendor.play
        second, _ = batch(tmp_path, used, source)

    assert (first.returncode, second.returncode) == (1, 0)
    assert [record["error"]["code"] for record in failed] == ["bad_request"] * 3
    assert [record["response"] for record in failed] == [None] * 3
    assert [text_of(record) for record in records(out)] == [
        f"you said: question {n}" for n in (1, 2, 3)
    ]


def test_double_ids_are_told_before_anything_is_asked(tmp_path, rules):
    """Two lines of one id are exit 2 with both lines' numbers, and nothing is written."""
    source = tmp_path / "in.jsonl"
    source.write_text('{"id": "a", "prompt": "x"}\n{"id": "b", "prompt": "y"}\n' * 2)

    result, out = batch(tmp_path, rules, source)

    assert result.returncode == 2
    assert b"lines 1 and 3 have the same id 'a'" in result.stderr
    assert not out.exists()


def test_half_a_character_keeps_no_line_from_being_asked(tmp_path):
    """A text that was cut by UTF-16 units may end with the half of an emoji."""
    vendor = Vendor()
    source = tmp_path / "in.jsonl"
    source.write_text('{"id": "a", "prompt": "Cut: \\ud83d"}\n')

    with serving(vendor) as server:
        result, _ = batch(tmp_path, tiers(tmp_path, server.url), source)
        sent = server.requests[0].json["messages"]

    assert result.returncode == 0, result.stderr
    assert sent[-1]["content"] == "Cut: \ufffd"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"id": "a", "prompt": "x"}\n{"id": "b"\n', b"line 2: it is no JSON"),
        ('{"id": "a", "text": "x"}\n', b"line 1: it has no `prompt`"),
        ('{"id": "a", "prompt": " "}\n', b"line 1: its prompt is empty"),
        ('{"id": ["a"], "prompt": "x"}\n', b"line 1: its id has to be"),
        ('{"custom_id": "a", "url": "/v1/embeddings", "body": {}}\n', b"only /v1/chat/completions"),
        ('{"custom_id": "a", "body": {"messages": []}}\n', b"line 1: "),
    ],
)
def test_a_line_that_cannot_be_asked_is_told_first(tmp_path, rules, text, said):
    """A mistake in the input is named with its line before anything is asked."""
    source = tmp_path / "in.jsonl"
    source.write_text(text)

    result, out = batch(tmp_path, rules, source)

    assert result.returncode == 2
    assert said in result.stderr
    assert not out.exists()


def test_csv_fields_fill_the_prompt(tmp_path):
    """A CSV's header names the fields; cells may have line breaks, commas and braces."""
    vendor = Vendor()
    source = tmp_path / "in.csv"
    source.write_text(
        '\ufeffid,text\na,"question one\n, {text}"\nb,question two\n', encoding="utf-8"
    )

    with serving(vendor) as server:
        result, out = batch(
            tmp_path, tiers(tmp_path, server.url), source, "--prompt", 'As {"x": 1}: {text}'
        )
        bodies = [request.json for request in server.requests]

    assert result.returncode == 0, result.stderr
    assert [record["custom_id"] for record in records(out)] == ["a", "b"]
    asked = {body["messages"][-1]["content"] for body in bodies}
    assert asked == {'As {"x": 1}: question one\n, {text}', 'As {"x": 1}: question two'}


def test_openai_lines_keep_their_parameters(tmp_path):
    """A line of OpenAI's batch format is asked with its own messages and parameters."""
    vendor = Vendor()
    source = tmp_path / "in.jsonl"
    body = {
        "model": "gpt-x",
        "temperature": 0.25,
        "messages": [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": "question 1"},
        ],
    }
    line = {"custom_id": "r-1", "method": "POST", "url": "/v1/chat/completions", "body": body}
    source.write_text(json.dumps(line))

    with serving(vendor) as server:
        result, out = batch(tmp_path, tiers(tmp_path, server.url), source)
        sent = server.requests[0].json

    assert result.returncode == 0, result.stderr
    assert records(out)[0]["custom_id"] == "r-1"
    assert sent["temperature"] == 0.25
    assert sent["messages"][0] == {"role": "system", "content": "be brief"}


def test_a_lines_model_starts_at_the_tier_it_means(tmp_path):
    """A tier's name, and what the profile's `serve.models` says of a name, choose the tier."""
    vendor = Vendor()
    source = body_lines(tmp_path / "in.jsonl", "secondary", "gpt-x", "auto")

    with serving(vendor) as server:
        url = f"{server.url}/v1"
        used = two_clouds(tmp_path, url, url, top="serve: {models: {'gpt-*': secondary}}\n")
        result, out = batch(tmp_path, used, source)

    assert result.returncode == 0, result.stderr
    assert {record["custom_id"]: record["tieredllm"]["tier"] for record in records(out)} == {
        "secondary": "secondary",
        "gpt-x": "secondary",
        "auto": "primary",
    }


def body_lines(path, *names):
    """Write a line in OpenAI's form for each model's name, which is its id as well."""
    questions = [{"role": "user", "content": "hello"}]
    path.write_text(
        "".join(
            json.dumps({"custom_id": name, "body": {"model": name, "messages": questions}}) + "\n"
            for name in names
        )
    )
    return path


def test_a_line_may_name_a_tier_below_the_last(tmp_path):
    """It asks that tier alone: the bound is for those that fall."""
    source = body_lines(tmp_path / "in.jsonl", "rules", "secondary", "auto")

    with serving(Vendor()) as server:
        url = f"{server.url}/v1"
        used = two_clouds(tmp_path, url, url)
        result, out = batch(tmp_path, used, source, "--max-tier", "primary")

    assert result.returncode == 0, result.stderr
    assert [record["tieredllm"]["tier"] for record in records(out)] == [
        "rules",
        "secondary",
        "primary",
    ]


def test_a_tier_that_only_some_lines_name_ends_no_batch(tmp_path):
    """Its rejected key is those lines' failure; the others are answered."""
    source = body_lines(tmp_path / "in.jsonl", "secondary", "auto")

    with (
        serving(Vendor()) as good,
        served(response(401, {"error": {"message": "wrong key"}})) as bad,
    ):
        used = two_clouds(tmp_path, f"{good.url}/v1", f"{bad.url}/v1")
        result, out = batch(tmp_path, used, source, "--concurrency", "1")

    failed, answered = records(out)
    assert result.returncode == 1
    assert failed["error"]["code"] == "authentication"
    assert answered["tieredllm"]["tier"] == "primary"


def test_a_tier_that_all_lines_name_ends_the_batch(tmp_path):
    """What waiting does not cure is told after 20 lines, whatever tier it is that they name."""
    source = body_lines(tmp_path / "in.jsonl", *(f"gpt-{number}" for number in range(200)))
    wrong = response(401, {"error": {"message": "wrong key"}})

    with serving(Vendor()) as good, served(wrong) as bad:
        top = "serve: {models: {'gpt-*': secondary}}\n"
        used = two_clouds(tmp_path, f"{good.url}/v1", f"{bad.url}/v1", top=top)
        result, out = batch(tmp_path, used, source)

    assert result.returncode == 1
    assert b"no tier can answer: secondary: authentication (401)" in result.stderr
    assert len(records(out)) < 20


def test_lines_wait_for_the_tier_that_they_start_at_alone(tmp_path):
    """While a tier that some lines name is set aside, the others go on, however they are mixed."""
    seen: list[str] = []

    async def limited(connection) -> None:
        seen.append("secondary")
        told = response(429, headers={"retry-after": "1"})
        await connection.send(told if seen.count("secondary") <= 2 else answers("openai", "fine"))

    async def well(connection) -> None:
        seen.append("primary")
        await connection.send(answers("openai", "fine"))

    waiting = [f"slow-{number}" for number in range(6)]
    names = [*waiting, *(f"gpt-{number}" for number in range(10))]
    source = body_lines(tmp_path / "in.jsonl", *names)
    with served(well) as good, served(limited) as bad:
        top = "health: {cooldown_s: 1, max_cooldown_s: 1}\nserve: {models: {slow-*: secondary}}\n"
        used = two_clouds(tmp_path, f"{good.url}/v1", f"{bad.url}/v1", top=top)
        result, out = batch(tmp_path, used, source, "--concurrency", "2")

    assert result.returncode == 0, result.stderr
    assert [record["tieredllm"]["tier"] for record in records(out)[:6]] == ["secondary"] * 6
    first = seen.index("primary")
    again = seen.index("secondary", first)
    assert seen[:again].count("primary") == 10


def test_a_wait_of_lines_that_name_a_tier_is_told(tmp_path):
    """When nothing is left but lines that wait, the progress says so, whatever tier they name."""
    replies = iter([response(429, headers={"retry-after": "2"})])

    async def limited_once(connection) -> None:
        await connection.send(next(replies, answers("openai", "fine")))

    source = body_lines(tmp_path / "in.jsonl", "secondary")
    with serving(Vendor()) as good, served(limited_once) as bad:
        used = two_clouds(tmp_path, f"{good.url}/v1", f"{bad.url}/v1")
        result, _ = batch(tmp_path, used, source)

    assert result.returncode == 0, result.stderr
    assert b"no tier can answer: waiting 0:0" in result.stderr


def test_plain_lines_from_stdin_to_stdout(tmp_path, rules):
    """Without -o the records go to stdout; plain lines have their number as id."""
    result = cli(tmp_path, "-p", rules, "batch", "-", stdin=b"hello\n\nhelp\n")

    found = [json.loads(line) for line in result.stdout.splitlines()]
    assert result.returncode == 0, result.stderr
    assert sorted(record["custom_id"] for record in found) == ["1", "3"]


def test_a_line_of_5_mb_is_answered_like_any_other(tmp_path, rules):
    """A huge line is read whole and does not disturb its neighbours."""
    source = tmp_path / "in.jsonl"
    huge = json.dumps({"id": "huge", "prompt": "hello " * 900_000})
    source.write_text(
        f'{{"id": "a", "prompt": "hello"}}\n{huge}\n{{"id": "b", "prompt": "help"}}\n'
    )

    result, out = batch(tmp_path, rules, source)

    assert len(huge) > 5_000_000
    assert result.returncode == 0, result.stderr
    assert [record["custom_id"] for record in records(out)] == ["a", "huge", "b"]


def test_a_full_disk_loses_nothing(tmp_path, rules):
    """When the output cannot grow, whole records stay, the end is said, and a next run goes on."""
    source = lines(tmp_path / "in.jsonl", 400)
    out = tmp_path / "out.jsonl"
    limit = 100_000

    result = subprocess.run(
        tieredllm("-p", rules, "batch", str(source), "-o", str(out)),
        env=environment(tmp_path),
        capture_output=True,
        check=False,
        timeout=60,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    kept = records(out)
    again, _ = batch(tmp_path, rules, source)

    assert result.returncode == 1
    assert b"cannot write out.jsonl: File too large" in result.stderr
    assert b"the same command goes on from there" in result.stderr
    assert out.stat().st_size > limit > 0 < len(kept) < 400
    assert again.returncode == 0
    ids = {record["id"] for record in records(out)}
    assert {record["id"] for record in kept} <= ids
    assert len(ids) == 400


def test_ctrl_c_ends_at_once_and_says_how_to_go_on(tmp_path):
    """Ctrl-C is exit 130 within a second, with what was answered in the file."""

    async def slow(connection):
        await connection.gone()

    source = lines(tmp_path / "in.jsonl", 100)
    out = tmp_path / "out.jsonl"

    with served(slow) as server:
        used = tiers(tmp_path, server.url).replace("0.5", "30")
        process = subprocess.Popen(
            tieredllm("-p", used, "batch", str(source), "-o", str(out)),
            env=environment(tmp_path),
            stderr=subprocess.PIPE,
        )
        while not server.connections:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        started = time.monotonic()
        _, said = process.communicate(timeout=20)
        took_s = time.monotonic() - started

    assert process.returncode == 130
    assert took_s < 1.5
    assert b"stopped" in said
    assert b"the same command goes on from there" in said
    assert b"Traceback" not in said


def test_a_line_falls_no_further_than_it_may(tmp_path):
    """With every language model down, lines wait and fail; rules answer only where they may."""
    source = lines(tmp_path / "in.jsonl", 3)
    down = response(500, {"error": {"message": "down"}})

    with served(down) as server:
        used = tiers(tmp_path, server.url)
        bounded, out = batch(tmp_path, used, source)
        codes = [record["error"]["code"] for record in records(out)]
        free, _ = batch(tmp_path, used, source, "--max-tier", "rules")

    assert bounded.returncode == 1
    assert codes == ["service_unavailable"] * 3
    assert free.returncode == 0
    assert {record["tieredllm"]["tier"] for record in records(out)} == {"rules"}


def test_a_profile_may_take_a_rule_answer_for_none(tmp_path):
    """`require_llm: true` in the profile is heeded, also where lines may fall to the rules."""
    source = lines(tmp_path / "in.jsonl", 2)
    down = response(500, {"error": {"message": "down"}})

    with served(down) as server:
        used = tiers(tmp_path, server.url, extra="require_llm: true\n")
        result, out = batch(tmp_path, used, source, "--max-tier", "rules")

    assert result.returncode == 1
    assert [record["response"] for record in records(out)] == [None, None]


def test_an_outage_is_waited_for(tmp_path):
    """A backend that is down for a while costs time, no failures and no rule answers."""
    vendor, down = Vendor(), time.monotonic() + 2.5

    async def play(connection):
        if time.monotonic() < down:
            await connection.send(response(503, {"error": {"message": "down"}}))
        else:
            await vendor.play(connection)

    source = lines(tmp_path / "in.jsonl", 40)

    with served(play) as server:
        vendor.server = server
        result, out = batch(tmp_path, tiers(tmp_path, server.url), source)

    answered = [record for record in records(out) if record["response"]]
    assert {record["tieredllm"]["tier"] for record in answered} == {"primary"}
    assert len(answered) >= 38, result.stderr  # one prober a cooldown may use its three rounds up


def test_a_rejected_key_ends_the_batch(tmp_path):
    """What waiting does not cure ends the batch with its reason, instead of a file of failures."""
    source = lines(tmp_path / "in.jsonl", 500)

    with served(response(401, {"error": {"message": "wrong key"}})) as server:
        result, out = batch(tmp_path, tiers(tmp_path, server.url), source)
        asked = len(server.requests)

    assert result.returncode == 1
    assert b"no tier can answer: primary: authentication (401)" in result.stderr
    assert records(out) == []
    assert asked <= 20


def test_shards_are_apart_and_merge_in_order(tmp_path, rules):
    """The parts of a batch have no line in common, and together all, in the input's order."""
    source = lines(tmp_path / "in.jsonl", 60)
    parts = [tmp_path / f"part{number}.jsonl" for number in (1, 2, 3)]
    for number, part in enumerate(parts, 1):
        cli(tmp_path, "-p", rules, "batch", str(source), "-o", str(part), "--shard", f"{number}/3")
    sizes = [len(records(part)) for part in parts]

    merged = tmp_path / "all.jsonl"
    result = cli(tmp_path, "batch", "merge", str(merged), *map(str, reversed(parts)))

    assert all(sizes)
    assert sum(sizes) == 60
    assert result.returncode == 0
    assert [record["custom_id"] for record in records(merged)] == [f"q{n}" for n in range(1, 61)]


def test_merging_takes_an_answer_before_a_failure(tmp_path, rules):
    """Of an id in two parts, the record that answers is kept."""
    source = lines(tmp_path / "in.jsonl", 1)
    _, out = batch(tmp_path, rules, source)
    good = records(out)[0]
    bad = good | {"response": None, "error": {"code": "timeout", "message": "no"}}
    other = tmp_path / "other.jsonl"
    other.write_text(json.dumps(bad) + "\n")

    cli(tmp_path, "batch", "merge", str(tmp_path / "all.jsonl"), str(out), str(other))

    assert records(tmp_path / "all.jsonl") == [good]


def test_merging_what_is_not_of_one_input_is_told(tmp_path, rules):
    """Plain lines have their number as id in every file: that answers fall out is said."""
    parts = []
    for name in ("one", "two"):
        source = tmp_path / f"{name}.txt"
        source.write_text(f"first of {name}\nsecond of {name}\n")
        parts.append(tmp_path / f"{name}.jsonl")
        cli(tmp_path, "-p", rules, "batch", str(source), "-o", str(parts[-1]))

    merged = cli(tmp_path, "batch", "merge", str(tmp_path / "all.jsonl"), *map(str, parts))

    assert b"2 ids stood for different lines" in merged.stderr
    assert len(records(tmp_path / "all.jsonl")) == 2


def test_merging_makes_a_file_alone(tmp_path, rules):
    """`-` is no file to make, and what can be none is not told to be `-` instead."""
    _, out = batch(tmp_path, rules, lines(tmp_path / "in.jsonl", 1))

    to_stdout = cli(tmp_path, "batch", "merge", "-", str(out), cwd=tmp_path)
    to_device = cli(tmp_path, "batch", "merge", "/dev/null", str(out))

    assert (to_stdout.returncode, to_device.returncode) == (2, 2)
    assert b"cannot be `-`" in to_stdout.stderr
    assert not (tmp_path / "-").exists()
    assert to_device.stderr.endswith(b"/dev/null is no plain file: name one\n")


def test_status_counts_what_is_there(tmp_path, rules):
    """`status` tells answers per tier and failures by kind, as a table and as JSON."""
    source = lines(tmp_path / "in.jsonl", 3)
    _, out = batch(tmp_path, rules, source)
    with out.open("ab") as file:
        file.write(b'{"id":"batch_req_1')

    table = cli(tmp_path, "batch", "status", str(out))
    found = json.loads(cli(tmp_path, "batch", "status", str(out), "--json").stdout)

    assert b"answered\t3" in table.stdout
    assert b"torn" in table.stderr
    assert (found["answered"], found["failed"], found["tiers"]) == (3, 0, {"rules": 3})
    assert found["torn"] is True


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--shard", "4/3"], b"--shard takes I/N"),
        (["--concurrency", "many"], b"--concurrency takes `auto` or a number"),
        (["--deadline", "0"], b"--deadline must be above 0"),
        (["--max-tier", "nobody"], b"no tier 'nobody'"),
    ],
)
def test_wrong_options_are_refused(tmp_path, rules, args, said):
    """An option that cannot be meant is exit 2 with what would be right."""
    result, _ = batch(tmp_path, rules, lines(tmp_path / "in.jsonl", 1), *args)

    assert result.returncode == 2
    assert said in result.stderr


@pytest.mark.parametrize(
    ("out", "said"),
    [
        ("nowhere/out.jsonl", b"there is no directory "),
        ("/dev/null", b"/dev/null is no plain file"),
        (".", b" is a directory"),
    ],
)
def test_what_can_be_no_output_is_said(tmp_path, rules, out, said):
    """It is the output that is named, and not the input: exit 2 before anything is asked."""
    source = lines(tmp_path / "in.jsonl", 1)
    _, part = batch(tmp_path, rules, source)

    asked = cli(tmp_path, "-p", rules, "batch", str(source), "-o", str(tmp_path / out))
    merged = cli(tmp_path, "batch", "merge", str(tmp_path / out), str(part))

    for result in (asked, merged):
        assert result.returncode == 2
        assert said in result.stderr
        assert b"in.jsonl" not in result.stderr


@pytest.mark.parametrize("diary", [b"dear diary\nmore\n", b'{"id":"\xe9"}\n', b"[" * 5000 + b"\n"])
def test_a_file_that_is_no_output_is_left_alone(tmp_path, rules, diary):
    """An OUT that holds something else, be it no text, is refused and not touched."""
    out = tmp_path / "out.jsonl"
    out.write_bytes(diary)

    result, _ = batch(tmp_path, rules, lines(tmp_path / "in.jsonl", 1))

    assert result.returncode == 2
    assert b"is no output of `tieredllm batch`" in result.stderr
    assert out.read_bytes() == diary


def test_a_quote_that_is_never_closed_swallows_no_lines(tmp_path, rules):
    """In CSV the lines after such a quote would be one cell: the file is refused as no CSV."""
    source = tmp_path / "in.csv"
    source.write_text('text\na\n"b\nc\nd\n')

    result, out = batch(tmp_path, rules, source, "--prompt", "{text}")

    assert result.returncode == 2
    assert b"line 3 of " in result.stderr
    assert b"is no CSV" in result.stderr
    assert not out.exists()


def test_a_single_foreign_line_is_left_alone(tmp_path, rules):
    """One line that is no record is taken for a torn one only if it begins like one."""
    out = tmp_path / "out.jsonl"
    out.write_text("dear diary\n")

    result, _ = batch(tmp_path, rules, lines(tmp_path / "in.jsonl", 1))

    assert result.returncode == 2
    assert out.read_text() == "dear diary\n"


def test_one_output_has_one_writer(tmp_path):
    """A second process for the same output is refused while the first is at work."""

    async def slow(connection):
        await connection.gone()

    source = lines(tmp_path / "in.jsonl", 1)
    out = tmp_path / "out.jsonl"

    with served(slow) as server:
        used = tiers(tmp_path, server.url)
        first = subprocess.Popen(
            tieredllm("-p", used, "batch", str(source), "-o", str(out)),
            env=environment(tmp_path),
            stderr=subprocess.DEVNULL,
        )
        while not server.connections:
            time.sleep(0.02)
        second, _ = batch(tmp_path, used, source)
        first.kill()
        first.wait()

    assert second.returncode == 2
    assert b"another `tieredllm batch` is writing" in second.stderr


def test_reproducible_answers_are_those_of_one_after_the_other(tmp_path):
    """With --reproducible a local model says at temperature 0 what it says to each line alone."""
    questions = [f"Tell a story about the number {number}." for number in range(4)]
    source = tmp_path / "in.txt"
    source.write_text("".join(f"{question}\n" for question in questions))
    used = profile(
        tmp_path,
        f"name: local\ntiers:\n  - {{name: local, provider: llama_cpp, model: {smollm2()},"
        " context_tokens: 512, params: {temperature: 0, max_tokens: 24},"
        " first_token_timeout_s: 60}\n",
    )

    result, out = batch(tmp_path, used, source, "--reproducible")
    alone = [
        json.loads(cli(tmp_path, "-p", used, "ask", "--json", question).stdout)["text"]
        for question in questions
    ]

    assert result.returncode == 0, result.stderr
    assert [text_of(record) for record in records(out)] == alone


def test_memory_does_not_grow_with_the_lines(tmp_path, rules):
    """Twenty times the lines take at most 1.2 times the memory."""
    peaks = []
    for count in (500, 10_000):
        source = lines(tmp_path / "in.jsonl", count)
        out = tmp_path / f"out{count}.jsonl"
        process = subprocess.Popen(
            tieredllm("-q", "-p", rules, "batch", str(source), "-o", str(out)),
            env=environment(tmp_path),
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        peaks.append(usage.ru_maxrss)

    assert process.returncode == 0
    assert len(records(out)) == 10_000
    assert peaks[1] <= 1.2 * peaks[0]


def test_a_schema_holds_for_every_line(tmp_path):
    """With --schema an answer that does not fit is a failure, and one that fits is the JSON."""

    async def play(connection):
        number = len(server.requests) % 2
        await connection.send(answers("openai", '{"age": 3}' if number else "three"))

    source = lines(tmp_path / "in.jsonl", 2)

    with served(play) as server:
        result, out = batch(tmp_path, tiers(tmp_path, server.url), source, "--schema", "age int")
        asked = server.requests[0].json

    found = records(out)
    assert asked["response_format"]["type"] == "json_schema"
    assert {text_of(record) for record in found if record["response"]} == {'{"age": 3}'}
    assert all(record["response"] or record["error"] for record in found), result.stderr
