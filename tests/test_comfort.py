"""What a daily user does in a chat and with the log: attach, set, resume, stop, look back."""

from __future__ import annotations

import json
import re
import shlex
import time

import pexpect
import pytest
from chat_support import PROMPT, talking
from cli_support import (
    Terminal,
    answering,
    cli,
    environment,
    profile,
    served,
    tieredllm,
    two_clouds,
)
from test_chat_terminal import hold
from wire_support import response

from tieredllm.profile.schema import Log
from tieredllm.store.history import MAX_MB, MAX_REQUESTS

PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 20


def sent(server, number=-1):
    """Give what the server was asked."""
    return json.loads(server.requests[number].body)


def chat(home, used, text):
    """Talk through a pipe."""
    return cli(home, "-p", used, "chat", stdin=text.encode())


def test_a_file_is_attached_in_a_chat(tmp_path):
    """`/file` attaches a text or an image to the next message; it stays in the conversation."""
    (tmp_path / "notes.txt").write_text("the code is 4711")
    (tmp_path / "x.png").write_bytes(PNG)
    with served(answering("Seen.")) as server:
        used = two_clouds(tmp_path, server.url, extra=", vision: true")
        done = chat(
            tmp_path,
            used,
            f"/file {tmp_path}/notes.txt\nwhat code?\n/file {tmp_path}/x.png\nand this?\n/file -\n",
        )
        first, second = (sent(server, number)["messages"] for number in (0, 1))

    assert done.returncode == 0, done.stderr
    assert "the code is 4711" in json.dumps(first)
    assert "the code is 4711" in json.dumps(second)
    assert "image/png" in json.dumps(second[-1])
    assert b"nothing is attached" in done.stderr


def test_parameters_are_set_in_a_chat(tmp_path):
    """`/set` holds for every request from then on, until it is left to the tiers."""
    with served(answering("Yes.")) as server:
        used = two_clouds(tmp_path, server.url)
        done = chat(
            tmp_path,
            used,
            "/set temperature 0.1\none\n/set temperature -\ntwo\n/set temprature 1\n",
        )
        temperatures = [sent(server, number).get("temperature") for number in (0, 1)]

    assert temperatures == [0.1, 0.7]
    assert b"no parameter 'temprature': did you mean `temperature`" in done.stderr


def test_a_stored_prompt_is_a_role(tmp_path):
    """`/role` takes a stored prompt's system prompt, options and tier."""
    cli(
        tmp_path, "ask", "-s", "You are a pirate.", "-o", "seed", "7", "-t", "secondary",
        "--save", "pirate",
    )  # fmt: skip
    with served(answering("Arr.")) as server:
        used = two_clouds(tmp_path, server.url, server.url)
        done = chat(tmp_path, used, "/role\n/role pirate\nhello\n/tier\n")
        body = sent(server)

    assert b"pirate\tYou are a pirate." in done.stderr
    assert (body["messages"][0]["content"], body["seed"]) == ("You are a pirate.", 7)
    assert "→ secondary" in done.stderr.decode()


def test_a_conversation_is_listed_and_gone_on_with(tmp_path):
    """`/history` lists conversations, any request's id leads to its own."""
    with served(answering("Fine.")) as server:
        used = two_clouds(tmp_path, server.url)
        chat(tmp_path, used, "first of one\nsecond of one\n/new\nonly of two\n")
        ids = [row["request_id"] for row in json.loads(cli(tmp_path, "log", "--json").stdout)]
        done = chat(tmp_path, used, f"/history\n/history {ids[1][:8]}\nmore\n")
        turns = [message["content"] for message in sent(server)["messages"]]
        cli(tmp_path, "-p", used, "ask", "--cid", ids[1], "even more")
        again = [message["content"] for message in sent(server)["messages"]]

    assert "2 requests: first of one" in done.stderr.decode()
    assert turns == ["first of one", "Fine.", "second of one", "Fine.", "more"]
    assert again[-1] == "even more"
    assert "first of one" in again


def test_a_conversation_has_a_name(tmp_path):
    """`/name` names what goes on; `--cid`, `/history` and the log's listings know it by that."""
    with served(answering("Fine.")) as server:
        used = two_clouds(tmp_path, server.url)
        talk = chat(
            tmp_path,
            used,
            "/name early\nfirst\n/name\n/name my trip\n/name\n/log\n/new\nother\n/name my trip\n",
        )
        cli(tmp_path, "-p", used, "ask", "--cid", "my trip", "second")
        asked = [message["content"] for message in sent(server)["messages"]]
        cli(tmp_path, "-p", used, "chat", "--cid", "my trip", stdin=b"third\n")
        resumed = chat(
            tmp_path, used, "/history\n/history my trip\n/name\nfourth\n/name -\n/name\n"
        )
        turns = [message["content"] for message in sent(server)["messages"]]
    said = talk.stderr.decode()

    assert "nothing of this conversation is in the log yet" in said
    assert "no name: /name NAME gives one" in said
    assert "its name is my trip" in said
    assert re.search(r"conversation [0-9a-f]{32} \(my trip\)", said)
    assert re.search(r"conversation [0-9a-f]{8} is named 'my trip' already", said)
    assert asked == ["first", "Fine.", "second"]
    assert turns[::2] == ["first", "second", "third", "fourth"]
    assert "my trip, just now, 3 requests: first" in resumed.stderr.decode()
    assert "going on with my trip: 3 turns" in resumed.stderr.decode()
    assert resumed.stderr.decode().rstrip().endswith("no name: /name NAME gives one")


def test_a_session_that_is_not_logged_has_no_name(tmp_path):
    """With `-n`, and after `log off`, `/name` says why there is none to give."""
    with served(answering("Fine.")) as server:
        used = two_clouds(tmp_path, server.url)
        once = cli(tmp_path, "-p", used, "chat", "-n", stdin=b"one\n/name trip\n")
        cli(tmp_path, "log", "off")
        off = chat(tmp_path, used, "one\n/name trip\n")

    for done in (once, off):
        assert done.returncode == 1
        assert b"this session is not logged, so its conversation cannot have a name" in done.stderr


def test_a_stopped_answer_is_kept(tmp_path):
    """What was said before Ctrl-C is part of the conversation, in the log, and of `/log`."""
    with talking(
        {"tell me": hold("The first half", "."), "go on": answering("the rest.")}
    ) as server:
        terminal = Terminal(tmp_path, "-p", two_clouds(tmp_path, server.url), "chat")
        terminal.until("/help lists commands")
        terminal.type("tell me\r")
        terminal.until("The first half.")
        terminal.type("\x03")
        terminal.until("what it said is kept")
        terminal.type("go on\r")
        terminal.until("the rest.")
        terminal.type("\x04")
        terminal.until("to go on: tieredllm chat -c")
        terminal.run()
        turns = [message["content"] for message in sent(server)["messages"]]
    rows = json.loads(cli(tmp_path, "log", "--json").stdout)

    assert turns == ["tell me", "The first half.", "go on"]
    assert [row["finish_reason"] for row in rows] == ["stop", "stopped"]


def test_a_long_paste_is_folded(tmp_path):
    """A paste of many lines shows as one mark, and is sent whole."""
    with served(answering("Long.")) as server:
        terminal = Terminal(tmp_path, "-p", two_clouds(tmp_path, server.url), "chat")
        terminal.until("/help lists commands")
        terminal.type("look: ")
        terminal.paste("\n".join(f"line {number}" for number in range(200)))
        terminal.until("look: [200 lines pasted, 1]")
        terminal.type("\r")
        terminal.until("Long.")
        terminal.type("\x04")
        terminal.run()
        text = sent(server)["messages"][-1]["content"]
    history = (tmp_path / "state/chat_history").read_text()

    assert text.startswith("look: line 0\nline 1\n")
    assert text.endswith("line 199")
    assert "line 199" in history


@pytest.fixture
def logged(tmp_path):
    """Give a home whose log has three requests."""
    with served(answering("Paris.")) as server:
        used = two_clouds(tmp_path, server.url, server.url)
        cli(tmp_path, "-p", used, "capital of France?")
        cli(tmp_path, "-p", used, "-t", "secondary", "and of Spain?")
        cli(tmp_path, "-p", used, "-c", "really?")
    return tmp_path


def test_the_log_shows_the_latest_and_its_answer(logged):
    """`log show` without an id is the latest request, `log -r` its answer again."""
    shown = json.loads(cli(logged, "log", "show", "--json").stdout)

    assert shown["question"] == "really?"
    assert cli(logged, "log", "-r").stdout == b"Paris.\n"
    assert json.loads(cli(logged, "log", "-r", "--json").stdout)["text"] == "Paris."


def test_the_log_is_narrowed(logged):
    """By conversation, by tier and by model."""

    def asked(*arguments):
        found = cli(logged, "log", *arguments, "--json").stdout
        return [row["question"] for row in json.loads(found)]

    last = json.loads(cli(logged, "log", "show", "--json").stdout)["request_id"]

    assert asked("--cid", last[:8]) == ["really?", "and of Spain?"]
    assert asked("--tier", "secondary") == ["and of Spain?"]
    assert len(asked("--model", "m-")) == 3
    assert b"no request is like that" in cli(logged, "log", "--model", "gpt").stderr


def test_logging_is_switched_off_for_good(logged):
    """`log off` holds for every later command, until `log on`."""
    cli(logged, "log", "off")
    cli(logged, "--simulate", "primary=timeout", "-t", "rules", "hello there")
    off = json.loads(cli(logged, "log", "--json").stdout)
    cli(logged, "log", "on")
    cli(logged, "-t", "rules", "hello there")
    on = json.loads(cli(logged, "log", "--json").stdout)

    assert (len(off), len(on)) == (3, 4)


def test_a_profile_bounds_the_log(tmp_path):
    """`log: {keep: …}` of the profile says how many requests stay; else a hundred thousand."""
    with served(answering("Yes.")) as server:
        used = profile(tmp_path, PRICED.format(url=server.url) + "log: {keep: 2}\n")
        for question in ("one", "two", "three"):
            cli(tmp_path, "-p", used, question)
        kept = json.loads(cli(tmp_path, "log", "--json").stdout)

    assert [request["question"] for request in kept] == ["three", "two"]
    assert (Log().keep, Log().max_mb) == (MAX_REQUESTS, MAX_MB) == (100_000, 512)


def test_first_contact_says_how_to_begin(tmp_path):
    """With no key and no model three lines say what to do, instead of what is not set."""
    done = cli(tmp_path, "ask", "--allow-rules", "what is a monad?")
    lines = done.stderr.decode().splitlines()

    assert lines == [
        "tieredllm: no model is set up yet: `tieredllm profile init` asks what to use, or",
        "  a key, any one: tieredllm keys set openai | anthropic | gemini",
        "  without a key, also offline: tieredllm models pull smollm2-135m (98 MB)",
    ]


def test_what_is_lacking_is_called_by_its_name(tmp_path):
    """A variable, a header's too, and a file of the user's own choice are what is to be set up."""
    used = profile(
        tmp_path,
        "name: test\ntiers:\n"
        "  - {name: a, provider: openai, model: m, base_url: 'http://127.0.0.1:9/v1',"
        " api_key_env: GROQ_KEY}\n"
        "  - {name: b, provider: openai, model: m, base_url: 'http://127.0.0.1:9/v1',"
        " api_key_env: null, headers_env: {X-Tenant: TENANT}}\n"
        "  - {name: c, provider: llama_cpp, model: /nowhere/own.gguf}\n"
        "  - {name: rules, provider: rules}\n",
    )
    done = cli(tmp_path, "-p", used, "ask", "--allow-rules", "what is a monad?")

    assert done.stderr.decode().splitlines()[1:] == [
        "  a key, any one: tieredllm keys set GROQ_KEY | TENANT",
        "  /nowhere/own.gguf does not exist: check the path",
    ]


@pytest.mark.parametrize("columns", [80, 200])
def test_first_contact_in_a_chat(tmp_path, columns):
    """The chat begins with the same, and no line is broken within a word."""
    terminal = Terminal(tmp_path, "chat", columns=columns)
    terminal.until("tieredllm models pull smollm2-135m")
    terminal.type("\x04")
    terminal.run()

    assert "tieredllm keys set openai | anthropic | gemini" in "\n".join(terminal.lines)


def test_unconfigured_tiers_are_silent_when_one_answers(tmp_path):
    """Where the first tier that is configured answers there is nothing to say."""
    with served(answering("Yes.")) as server:
        used = profile(
            tmp_path,
            "name: test\ntiers:\n  - {name: first, provider: gemini, model: g}\n"
            f"  - {{name: second, provider: openai, model: m, base_url: '{server.url}/v1',"
            " api_key_env: null}\n",
        )
        done = cli(tmp_path, "-p", used, "really?")

    assert (done.returncode, done.stdout, done.stderr) == (0, b"Yes.\n", b"")


def test_a_profile_is_used_from_now_on(tmp_path):
    """`profile use` holds where none is named; `-p` wins; a broken one is refused."""
    cli(tmp_path, "profile", "use", "offline")
    used = cli(tmp_path, "profile", "use").stdout
    other = json.loads(cli(tmp_path, "-p", "openai", "profile", "show", "--json").stdout)
    (tmp_path / "config/profiles").mkdir()
    (tmp_path / "config/profiles/bad.yaml").write_text("tears: []\n")
    bad = cli(tmp_path, "profile", "use", "bad")
    still = cli(tmp_path, "profile", "use").stdout
    cli(tmp_path, "profile", "use", "default")

    assert (used, still) == (b"offline\n", b"offline\n")
    assert other["name"] == "openai"
    assert bad.returncode == 2
    assert cli(tmp_path, "profile", "use").stdout == b"default\n"
    cli(tmp_path, "profile", "use", "offline")
    (tmp_path / "config/profile-in-use").write_text("gone\n")
    assert b"`tieredllm profile use NAME` chose it" in cli(tmp_path, "ask", "hi").stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["models", "list"], ["models", "find"], ["models", "path"], ["models", "verify"],
        ["models", "show", "gemma-2-2b-it"], ["profile", "list"], ["profile", "show"],
        ["profile", "validate"], ["profile", "schema"], ["prompts", "list"], ["keys", "list"],
        ["rules", "list"], ["rules", "check", "builtin"], ["rules", "test", "hello"], ["log"],
        ["log", "list"], ["stats"], ["tools", "list"], ["tools", "approvals"],
        ["notify", "outbox"], ["drill"],
    ],
)  # fmt: skip
def test_every_listing_has_json(tmp_path, arguments):
    """Each prints one JSON value for programs, with nothing around it."""
    option = [] if arguments == ["profile", "schema"] else ["--json"]
    done = cli(tmp_path, *arguments, *option)

    assert done.returncode == 0, done.stderr
    json.loads(done.stdout)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["models", "find"], "no model in the stores of Ollama"),
        (["-p", "offline", "keys", "list"], "no key"),
        (["tools", "approvals"], "nothing was approved"),
        (["notify", "outbox"], "nothing waits"),
        (["log"], "no request was logged yet"),
        (["prompts", "list"], "no prompt is kept yet"),
    ],
)
def test_an_empty_listing_says_so(tmp_path, arguments, said):
    """Where there is nothing to list a remark says it, and no heading stands over nothing."""
    done = cli(tmp_path, *arguments, HOME=str(tmp_path))

    assert (done.returncode, done.stdout) == (0, b"")
    assert said in done.stderr.decode()


@pytest.mark.parametrize("columns", [80, 200])
@pytest.mark.parametrize(
    "arguments",
    [
        ["models", "list"], ["profile", "list"], ["keys", "list"], ["rules", "list"],
        ["tools", "list"], ["drill"], ["rules", "test", "hello"],
    ],
)  # fmt: skip
def test_no_word_of_a_table_is_broken(tmp_path, arguments, columns):
    """At 80 and at 200 columns every word of a listing stands whole on one line."""
    words = [word.strip(",") for word in cli(tmp_path, *arguments).stdout.decode().split()]
    terminal = Terminal(tmp_path, *arguments, columns=columns, rows=120)
    terminal.run()
    shown = [word.strip(",") for word in "\n".join(terminal.lines).split()]

    assert [word for word in words if word not in shown] == []


PRICED = """name: test
tiers:
  - name: a
    provider: openai
    model: m-1
    base_url: '{url}/v1'
    api_key_env: null
    price: {{input: 2.5, output: 10}}
"""


def test_what_an_answer_costs_is_told(tmp_path):
    """Where the profile names a model's price, the JSON has the cost, and `-u` says it."""
    with served(answering("Yes.")) as server:
        used = profile(tmp_path, PRICED.format(url=server.url))
        answer = json.loads(cli(tmp_path, "-p", used, "--json", "really?").stdout)
        told = cli(tmp_path, "-p", used, "-u", "really?").stderr.decode()
        other = json.loads(cli(tmp_path, "-p", used, "-m", "m-2", "--json", "really?").stdout)
    usage = answer["usage"]
    expected = (usage["prompt_tokens"] * 2.5 + usage["completion_tokens"] * 10) / 1e6

    assert pytest.approx(expected) == answer["cost"]
    assert f"cost {expected:.6f}".rstrip("0") in told
    assert other["cost"] is None


TWO_HOSTS = """name: test
tiers:
  - name: a
    provider: openai
    model: m-1
    base_url: '{first}/v1'
    api_key_env: null
    retries: 0
    price: {{input: 2.5, output: 10}}
    alternates:
      - provider: openai
        model: m-1
        base_url: '{second}/v1'
        api_key_env: null
        price: {{input: 250, output: 1000}}
"""


def test_two_hosts_of_one_model_are_told_apart(tmp_path):
    """One model at two hosts is two backends: in the remark, the failures and the cost."""
    down, denied = (response(status, {"error": {"message": "no"}}) for status in (500, 403))
    with served(down) as first, served(answering("Yes.")) as second:
        used = profile(tmp_path, TWO_HOSTS.format(first=first.url, second=second.url))
        done = cli(tmp_path, "-p", used, "really?")
        answer = json.loads(cli(tmp_path, "-p", used, "--json", "really?").stdout)
    with served(down) as first, served(denied) as second:
        used = profile(tmp_path, TWO_HOSTS.format(first=first.url, second=second.url))
        failed = cli(tmp_path, "-p", used, "really?").stderr.decode()
    usage = answer["usage"]
    expected = (usage["prompt_tokens"] * 250 + usage["completion_tokens"] * 1000) / 1e6

    assert b"after a (m-1): service_unavailable (500)" in done.stderr
    assert [attempt["alternate"] for attempt in answer["attempts"]] == [0, 1]
    assert answer["cost"] == pytest.approx(expected)
    assert failed.count("a (openai m-1):") == 2


def test_what_a_server_offers_is_listed_and_completed(tmp_path):
    """`models list --tier` asks the server; `-m` completes what it said."""
    listed = response(200, json.dumps({"object": "list", "data": [{"id": "big"}, {"id": "small"}]}))
    with served(listed) as server:
        used = two_clouds(tmp_path, server.url + "/v1")
        done = cli(tmp_path, "-p", used, "models", "list", "--tier", "primary", "--json")
        other = cli(tmp_path, "-p", used, "models", "list", "--tier", "rules")
    completed = cli(
        tmp_path,
        _TIEREDLLM_COMPLETE="complete_zsh",
        _TYPER_COMPLETE_ARGS=f"tieredllm -p {used} ask -m primary=b",
    ).stdout

    assert [row["model"] for row in json.loads(done.stdout)] == ["big", "small"]
    assert other.returncode == 2
    assert b"asks no server" in other.stderr
    assert b"primary=big" in completed


def test_the_spinner_says_who_is_next_and_a_key_asks_it(tmp_path):
    """While nothing comes the line names the tier that follows, and when; Tab asks it now."""
    with talking({"hm": hold()}) as slow, served(answering("From the second.")) as quick:
        used = two_clouds(
            tmp_path, slow.url + "/v1", quick.url + "/v1", extra=", first_token_timeout_s: 60"
        )
        terminal = Terminal(tmp_path, "-p", used, "ask", "hm")
        terminal.until("s → secondary at 60 s")
        terminal.until("(Tab: now)")
        terminal.type("\t")
        code = terminal.run()

    assert code == 0
    assert "From the second." in terminal.lines
    assert any(
        "answered by secondary (m-1) after primary: no token in" in it for it in terminal.lines
    )


def test_keys_typed_while_an_answer_is_waited_for_are_kept(tmp_path):
    """In a chat Tab moves on at once, and what was typed before it begins the next message."""
    with talking({"hm": hold()}) as slow, talking() as quick:
        used = two_clouds(
            tmp_path, slow.url + "/v1", quick.url + "/v1", extra=", first_token_timeout_s: 60"
        )
        terminal = Terminal(tmp_path, "-p", used, "chat")
        terminal.until(PROMPT)
        terminal.type("hm\r")
        terminal.until("(Tab: now)")
        terminal.type("ähm")
        time.sleep(0.3)
        terminal.type("\t")
        terminal.until("You said: hm")
        terminal.until(f"{PROMPT} ähm")
        terminal.type(" so\r")
        terminal.until("(Tab: now)")
        terminal.type("\t")
        terminal.until("You said: ähm so")
        terminal.type("\x04")
        terminal.run()

    assert "primary is slow, secondary is answering" in terminal.lines


def test_a_chat_says_until_when_another_tier_answers(tmp_path):
    """When a tier is set aside for a while, the notice tells when it is back at the earliest."""
    limited = response(429, {"error": {"message": "slow down"}}, {"Retry-After": "90"})
    with served(limited) as busy, talking() as well:
        used = two_clouds(tmp_path, busy.url + "/v1", well.url + "/v1")
        terminal = Terminal(tmp_path, "-p", used, "chat", columns=120)
        terminal.until(PROMPT)
        terminal.type("hello\r")
        terminal.until("You said: hello")
        terminal.type("\x04")
        terminal.run()

    notice = next(line for line in terminal.lines if "is rate limited" in line)
    assert re.fullmatch(
        r"primary is rate limited \(back in (89|90) s at the earliest\), secondary is answering",
        notice,
    )


MODES = "stty -a | grep -oE -- '-?(icanon|echo) |eol = [^;]*' | tr '\\n' ' '; echo shown"


def shell_in(tmp_path):
    """Start a shell on a terminal of its own."""
    shell = pexpect.spawn(
        "bash", ["--norc", "-i"], env=environment(tmp_path, TERM="xterm", PS1="$ "), timeout=20
    )
    shell.expect(r"\$ ")
    shell.sendline(MODES)
    shell.expect("eol = (.*?)icanon  echo  shown\r\n")
    return shell, shell.match[0]


@pytest.mark.parametrize("key", ["\x03", "\x1a"], ids=["ctrl-c", "ctrl-z"])
def test_the_terminal_is_left_as_it_was(tmp_path, key):
    """Stopped or suspended while it listens for its key, and listening again once it goes on."""
    with talking({"hm": hold()}) as slow, talking() as quick:
        used = two_clouds(
            tmp_path, slow.url + "/v1", quick.url + "/v1", extra=", first_token_timeout_s: 60"
        )
        shell, modes = shell_in(tmp_path)
        shell.sendline(shlex.join(tieredllm("-p", used, "ask", "hm")))
        shell.expect("Tab: now")
        shell.send(key)
        shell.expect(r"\$ ")
        shell.sendline(MODES)
        shell.expect_exact(modes)
        if key == "\x1a":
            shell.sendline("fg")
            shell.expect("Tab: now")
            time.sleep(0.3)
            shell.send("\t")
            shell.expect("You said: hm")
        shell.close(force=True)


def test_what_is_typed_for_the_shell_reaches_it(tmp_path):
    """Outside of a chat a line that is typed while an answer is waited for is the shell's."""
    with talking({"hm": hold()}) as slow, talking() as quick:
        used = two_clouds(
            tmp_path, slow.url + "/v1", quick.url + "/v1", extra=", first_token_timeout_s: 3"
        )
        shell, _ = shell_in(tmp_path)
        shell.sendline(shlex.join(tieredllm("-p", used, "ask", "hm")))
        shell.expect("Tab: now")
        shell.send("echo la''ter\r")
        shell.expect("You said: hm")
        shell.expect(r"later\r\n")
        shell.close(force=True)
