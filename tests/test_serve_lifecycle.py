"""How the gateway waits, lets go and ends: holding back, clients that vanish, draining."""

from __future__ import annotations

import asyncio
import http.client
import json
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from cli_support import environment, profile
from serve_support import (
    FIRST,
    ONE,
    QUESTION,
    SECOND,
    TWO,
    WIRES,
    Served,
    serving,
    wait_until,
)
from wire_support import (
    CHUNKED_END,
    STREAM_HEAD,
    Connection,
    chunk,
    closes,
    ends,
    event,
    opens,
    response,
    says,
    stream,
)

from tieredllm.serve import answering, exchange

HEAD = "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


def request(path: str, body: dict, *, extra: str = "") -> bytes:
    data = json.dumps(body).encode()
    head = HEAD.format(path=path) + f"{extra}Content-Length: {len(data)}\r\n\r\n"
    return head.encode() + data


async def silent(connection: Connection) -> None:
    """Say nothing until the other side goes."""
    await connection.gone()


async def silent_after_words(connection: Connection) -> None:
    """Say two words, and nothing more."""
    head = [*opens("openai"), says("openai", "Half"), says("openai", " of")]
    await connection.send(STREAM_HEAD + b"".join(chunk(item) for item in head))
    await connection.gone()


def slowly(*words: str, pause_s: float):
    """Say words with pauses between, then end properly."""

    async def play(connection: Connection) -> None:
        await connection.send(STREAM_HEAD + b"".join(chunk(item) for item in opens("openai")))
        for word in words:
            await connection.send(chunk(says("openai", word)))
            await asyncio.sleep(pause_s)
        for item in (*ends("openai"), *closes("openai")):
            await connection.send(chunk(item))
        await connection.send(CHUNKED_END)

    return play


@pytest.mark.parametrize("streams", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize("wire", WIRES.values(), ids=WIRES)
def test_a_client_that_goes_stops_the_upstream(wire, streams, tmp_path):
    """Before the first byte, and when no stream was asked for: the upstream's connection closes."""
    closed = threading.Event()

    async def play(connection: Connection) -> None:
        await connection.gone()
        closed.set()

    with serving(play, tmp=tmp_path) as served:
        with served.connect() as sock:
            sock.sendall(request(wire.path, wire.body | {"stream": streams}))
            wait_until(lambda: served.upstreams[0].requests)
            assert len(served.gateway.running) == 1
        gone_at = time.monotonic()
        with served.watching_lag() as late_s:
            assert closed.wait(10)
            took_s = time.monotonic() - gone_at
        wait_until(lambda: not served.gateway.running)

    # What the machine keeps the loop waiting for is not the gateway's.
    assert took_s < 0.1 + 2 * sum(late_s)


def test_a_client_that_goes_in_mid_answer_stops_the_upstream(tmp_path):
    """Words were sent, and the upstream is silent: nobody would notice by writing."""
    with serving(silent_after_words, tmp=tmp_path) as served:
        with served.connect() as sock:
            sock.sendall(request("/v1/chat/completions", WIRES["chat"].body | {"stream": True}))
            while b"of" not in sock.recv(65536):
                pass
        wait_until(lambda: not served.gateway.running)


def test_nothing_is_left_of_a_hundred_clients_that_vanish(tmp_path):
    """No task, socket or place of theirs is there a second later."""
    with serving(silent, tmp=tmp_path, max_requests=100) as served:

        def tasks() -> int:
            return len(served.call(lambda: asyncio.all_tasks(served.loop)))

        def connections() -> int:
            return len(served.server.server_state.connections)

        before = tasks()
        clients = [served.connect() for _ in range(100)]
        for number, sock in enumerate(clients):
            wire = [*WIRES.values()][number % 3]
            sock.sendall(request(wire.path, wire.body | {"stream": number % 2 == 0}))
        wait_until(lambda: len(served.gateway.running) == 100, within_s=20)
        for sock in clients:
            sock.close()
        wait_until(lambda: not served.gateway.running, within_s=5)
        time.sleep(1)

        assert connections() == 0
        # Each upstream connection is a task of the server in the test, which ends with it.
        assert tasks() <= before + 1
        assert b"tieredllm_running_requests 0.0" in served.request("GET", "/metrics")[2]


def test_more_than_so_many_at_once_are_told_to_come_back(tmp_path):
    """503 with `retry-after: 1`, which the SDKs obey; the places are free again afterwards."""
    with serving(silent, tmp=tmp_path, max_requests=2) as served:
        clients = [served.connect() for _ in range(2)]
        for sock in clients:
            sock.sendall(request("/v1/messages", WIRES["messages"].body))
        wait_until(lambda: len(served.gateway.running) == 2)
        status, headers, body = served.request("POST", "/v1/messages", WIRES["messages"].body)
        for sock in clients:
            sock.close()
        wait_until(lambda: not served.gateway.running)

    assert status == 503
    assert headers["retry-after"] == "1"
    assert json.loads(body)["error"]["type"] == "api_error"


@pytest.mark.parametrize(
    ("wire", "sign"),
    [
        (WIRES["chat"], b": keep-alive\n\n"),
        (WIRES["messages"], b": keep-alive\n\n"),
        (WIRES["responses"], b'data: {"type":"ping"}\n\n'),
    ],
    ids=WIRES,
)
def test_a_stream_that_waits_is_opened_and_kept_alive(wire, sign, tmp_path, monkeypatch):
    """After `hold_s` the client hears that somebody is there, and the fallback goes on unseen."""
    monkeypatch.setattr(answering, "KEEP_ALIVE_S", 0.2)
    said: list[str] = []
    settings = {"serve": {"hold_s": 0.2}}
    tier = {"first_token_timeout_s": 1}
    with serving(silent, TWO, tmp=tmp_path, tier=tier, settings=settings) as served:
        status, headers, body = served.request("POST", wire.path, wire.body | {"stream": True})
        wire.stream(served, said)

    assert status == 200
    assert body.count(sign) >= 2
    assert SECOND.encode() in body
    assert "broken" not in headers
    assert "".join(said) == SECOND


def test_until_then_nothing_is_sent(tmp_path):
    """While a tier may still fail, the client has not even a status."""
    tier = {"first_token_timeout_s": 0.6, "timeout_s": 0.6}
    with serving(silent, tmp=tmp_path, tier=tier) as served, served.connect() as sock:
        sock.sendall(request("/v1/chat/completions", WIRES["chat"].body | {"stream": True}))
        sock.settimeout(0.3)
        with pytest.raises(TimeoutError):
            sock.recv(1)
        sock.settimeout(10)
        received = sock.recv(65536)

    assert received.startswith(b"HTTP/1.1 503")


def test_role_chunks_and_comments_are_no_words(tmp_path):
    """An upstream that opens its stream and dies has said nothing: the next tier answers."""
    opened = stream(b": hello\n\n", *opens("openai"), event({"choices": []}))
    said: list[str] = []
    with serving(opened, TWO, tmp=tmp_path) as served:
        WIRES["chat"].stream(served, said)

    assert "".join(said) == SECOND


def thinking(*texts: str) -> list[bytes]:
    return [
        event({"choices": [{"index": 0, "delta": {"reasoning_content": text}}]}) for text in texts
    ]


def test_thoughts_go_to_clients_that_take_them(tmp_path):
    """As each protocol has them; others get the answer alone."""
    play = stream(
        *opens("openai"),
        *thinking("Let me ", "see."),
        says("openai", "Forty-two."),
        *ends("openai"),
        *closes("openai"),
    )
    with serving(play, tmp=tmp_path) as served:
        chat = {"stream": True} | WIRES["chat"].body
        messages = {"stream": True} | WIRES["messages"].body
        responses = {"stream": True} | WIRES["responses"].body
        plain = [
            served.request("POST", wire.path, wire.body | {"stream": True})[2]
            for wire in WIRES.values()
        ]
        told = [
            served.request("POST", "/v1/chat/completions", chat | {"reasoning_effort": "low"})[2],
            served.request("POST", "/v1/messages", messages | {"thinking": {"type": "adaptive"}})[
                2
            ],
            served.request("POST", "/v1/responses", responses | {"reasoning": {"summary": "auto"}})[
                2
            ],
        ]
        with (
            served.anthropic() as claude,
            claude.messages.stream(
                model="auto",
                max_tokens=2000,
                messages=WIRES["chat"].body["messages"],
                thinking={"type": "enabled", "budget_tokens": 1024},
            ) as events,
        ):
            final = events.get_final_message()
        with served.openai() as client:
            whole = client.responses.create(model="auto", input="Why?", reasoning={"effort": "low"})

    assert all(b"Let me" not in body for body in plain)
    assert all(b"Let me" in body and b"Forty-two." in body for body in told)
    assert [block.type for block in final.content] == ["thinking", "text"]
    assert final.content[0].thinking == "Let me see."
    assert [item.type for item in whole.output] == ["reasoning", "message"]


@pytest.mark.parametrize("again", [False, True], ids=["to the end", "and words again"])
def test_thoughts_after_words_leave_no_empty_message(tmp_path, again):
    """Each item of a streamed response has an id of its own, and each message has words."""
    play = stream(
        *opens("openai"),
        says("openai", "Hello."),
        *thinking("That was right."),
        *([says("openai", " Bye.")] if again else []),
        *ends("openai"),
        *closes("openai"),
    )
    with (
        serving(play, tmp=tmp_path) as served,
        served.openai() as client,
        client.responses.stream(model="auto", input="Hi", reasoning={"effort": "low"}) as events,
    ):
        told = list(events)
        output = events.get_final_response().output

    texts = [item.content[0].text for item in output if item.type == "message"]
    assert texts == (["Hello.", " Bye."] if again else ["Hello."])
    assert [item.type for item in output][:2] == ["message", "reasoning"]
    assert len({item.id for item in output}) == len(output)
    added = [one.item.id for one in told if one.type == "response.output_item.added"]
    deltas = [one.item_id for one in told if one.type == "response.output_text.delta"]
    assert added == [item.id for item in output]
    assert deltas == [item.id for item in output if item.type == "message"]


def test_a_reader_that_reads_nothing_is_let_go(tmp_path, monkeypatch):
    """What was sent lies there unread for too long: the upstream is stopped, the place is free."""
    monkeypatch.setattr(exchange, "STALLED_S", 0.3)

    async def endless(connection: Connection) -> None:
        await connection.send(STREAM_HEAD + b"".join(chunk(item) for item in opens("openai")))
        while True:
            await connection.send(chunk(says("openai", "x" * 60_000)))

    with serving(endless, tmp=tmp_path) as served, served.connect() as sock:
        sock.sendall(request("/v1/chat/completions", WIRES["chat"].body | {"stream": True}))
        wait_until(lambda: served.gateway.running)
        wait_until(lambda: not served.gateway.running, within_s=20)


class Drain:
    """Streams that run while the gateway is asked to end."""

    def __init__(self, served: Served, count: int) -> None:
        self.said: list[list[str]] = [[] for _ in range(count)]
        self.errors: list[Exception] = []

        def read(number: int) -> None:
            wire = [*WIRES.values()][number % 3]
            try:
                wire.stream(served, self.said[number])
            except Exception as exc:
                self.errors.append(exc)

        self.threads = [threading.Thread(target=read, args=(n,)) for n in range(count)]
        for thread in self.threads:
            thread.start()
        wait_until(lambda: all("".join(said) for said in self.said), within_s=30)

    def wait(self) -> None:
        for thread in self.threads:
            thread.join(30)
            assert not thread.is_alive()


def test_sigterm_lets_twenty_streams_finish(tmp_path):
    """`/readyz` says no, new requests are refused, and no running answer loses a word."""
    play = slowly("One ", "two ", "three.", pause_s=2)
    with serving(play, tmp=tmp_path, grace_s=30) as served:
        drain = Drain(served, 20)
        served.call(served.server.end, signal.SIGTERM)
        ready, _, _ = served.request("GET", "/readyz")
        alive, _, _ = served.request("GET", "/livez")
        refused, headers, _ = served.request("POST", "/v1/messages", WIRES["messages"].body)
        drain.wait()

    assert (ready, alive, refused) == (503, 200, 503)
    assert headers["retry-after"] == "1"
    assert drain.errors == []
    assert ["".join(said) for said in drain.said] == ["One two three."] * 20


@pytest.mark.parametrize("how", ["grace is over", "second signal", "interrupt"])
def test_what_does_not_finish_gets_an_error(how, tmp_path):
    """After the grace, a second SIGTERM or Ctrl-C each stream ends in its protocol's error."""
    grace_s = 0.2 if how == "grace is over" else 60
    with serving(silent_after_words, tmp=tmp_path, grace_s=grace_s) as served:
        drain = Drain(served, 3)
        first = signal.SIGINT if how == "interrupt" else signal.SIGTERM
        served.call(served.server.end, first)
        if how == "second signal":
            served.call(served.server.end, signal.SIGTERM)
        drain.wait()

    assert len(drain.errors) == 3
    assert any("shutting down" in str(error) for error in drain.errors)


def test_what_has_not_begun_gets_a_503_at_the_end(tmp_path):
    """A request without a word yet is told by its status."""
    answers: list[int] = []
    with serving(silent, tmp=tmp_path, grace_s=0.2) as served:

        def ask() -> None:
            answers.append(served.request("POST", "/v1/messages", WIRES["messages"].body)[0])

        thread = threading.Thread(target=ask)
        thread.start()
        wait_until(lambda: served.upstreams[0].requests)
        served.call(served.server.end, signal.SIGTERM)
        thread.join(20)

    assert answers == [503]


@pytest.mark.parametrize(
    ("sig", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)], ids=["SIGTERM", "Ctrl-C"]
)
def test_the_process_ends_as_it_should(sig, code, tmp_path):
    """The command says where it listens, and its exit code is 0 after SIGTERM, 130 after Ctrl-C."""
    path = profile(tmp_path, "tiers: [{name: rules, provider: rules}]")
    command = [sys.executable, "-m", "tieredllm", "-p", path, "serve", "--port", "0"]
    with subprocess.Popen(
        command, env=environment(tmp_path), stderr=subprocess.PIPE, text=True
    ) as process:
        line = process.stderr.readline()
        process.send_signal(sig)
        rest = process.stderr.read()
        assert process.wait(20) == code

    assert "http://127.0.0.1:" in line
    assert rest == ""


def test_a_body_beside_an_offer_of_http2_is_read(tmp_path):
    """Java's client, which offers HTTP/2 each time, is answered where httptools is installed."""
    path = profile(tmp_path, "tiers: [{name: rules, provider: rules}]")
    (tmp_path / "httptools.py").touch()  # uvicorn takes it once it can be imported
    env = environment(tmp_path) | {"PYTHONPATH": str(tmp_path)}
    headers = {
        "connection": "Upgrade, HTTP2-Settings",
        "upgrade": "h2c",
        "http2-settings": "AAEAAEAA",
        "content-type": "application/json",
    }
    command = [sys.executable, "-m", "tieredllm", "-p", path, "serve", "--port", "0"]
    with subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True) as process:
        try:
            address = re.search(r"http://(\S+?)[ )/]", process.stderr.readline())[1]
            connection = http.client.HTTPConnection(address, timeout=20)
            body = json.dumps(WIRES["chat"].body)
            connection.request("POST", "/v1/chat/completions", body, headers)
            response = connection.getresponse()
            answer = json.loads(response.read())
            connection.close()
        finally:
            process.terminate()

    assert response.status == 200
    assert answer["model"] == "rules"


def test_a_port_that_is_taken_is_told_in_one_line(tmp_path):
    """No traceback, and the address."""
    path = profile(tmp_path, "tiers: [{name: rules, provider: rules}]")
    with serving(ONE, tmp=Path(tmp_path) / "other") as served:
        port = served.url.rpartition(":")[2]
        done = subprocess.run(
            [sys.executable, "-m", "tieredllm", "-p", path, "serve", "--port", port],
            env=environment(tmp_path),
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    assert done.returncode == 1
    assert f"port {port}" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_websocket_is_told_to_post(tmp_path):
    """426: Codex then goes on at once; after 404, 405 or 501 it tries seven times."""
    upgrade = {"upgrade": "websocket", "connection": "upgrade", "sec-websocket-version": "13"}
    with serving(ONE, tmp=tmp_path) as served:
        assert served.request("GET", "/v1/responses", None, upgrade)[0] == 426


def test_it_says_which_models_there_are(tmp_path):
    """OpenAI's shape, or Anthropic's when its version is sent; both SDKs read them."""
    settings = {"serve": {"models": {"gpt-*": "t1", "small": "t1"}}}
    with serving(ONE, tmp=tmp_path, settings=settings) as served:
        with served.openai() as client:
            names = [model.id for model in client.models.list()]
            one = client.models.retrieve("small").id
        with served.anthropic() as claude:
            others = [model.id for model in claude.models.list()]

    assert names == others == ["tieredllm", "t1", "small"]
    assert one == "small"


@pytest.mark.parametrize(
    ("model", "strict", "expected"),
    [
        ("tieredllm", False, FIRST),
        ("auto", True, FIRST),
        ("t2", True, SECOND),
        ("gpt-5-mini", True, SECOND),
        ("gpt-5", False, FIRST),
        ("gpt-5", True, None),
    ],
)
def test_a_models_name_says_where_to_start(model, strict, expected, tmp_path):
    """All tiers, a tier's name, what the profile maps, and what nobody knows."""
    settings = {"serve": {"models": {"*-mini": "t2"}}}
    body = WIRES["chat"].body | {"model": model}
    with serving(ONE, TWO, tmp=tmp_path, settings=settings, strict_models=strict) as served:
        status, _, answer = served.request("POST", "/v1/chat/completions", body)

    if expected is None:
        assert status == 404
        assert json.loads(answer)["error"]["code"] == "model_not_found"
    else:
        assert json.loads(answer)["choices"][0]["message"]["content"] == expected


def test_what_is_not_there_is_a_404_in_the_protocols_words(tmp_path):
    """OpenAI's error object, Anthropic's under its own path or with its version's header."""
    with serving(ONE, tmp=tmp_path) as served:
        status, _, plain = served.request("GET", "/v1/nothing")
        _, _, own = served.request("GET", "/v1/messages/batches")
        _, _, told = served.request("GET", "/x", None, {"anthropic-version": "2023-06-01"})

    assert status == 404
    assert json.loads(plain)["error"]["type"] == "not_found_error"
    assert "served are /v1/chat/completions, /v1/messages, /v1/responses" in plain.decode()
    assert "as their base URL" in told.decode()
    assert json.loads(own)["type"] == json.loads(told)["type"] == "error"


def test_tokens_are_counted_without_a_model(tmp_path):
    """`count_tokens` estimates; nothing is asked."""
    with serving(ONE, tmp=tmp_path) as served, served.anthropic() as claude:
        counted = claude.messages.count_tokens(
            model="auto", messages=[{"role": "user", "content": "word " * 100}]
        )
        begun = claude.messages.count_tokens(
            model="auto",
            messages=[*QUESTION, {"role": "assistant", "content": "word " * 100}],
            tools=[],
        )

        assert served.upstreams[0].requests == []
    assert 90 <= counted.input_tokens <= 250
    assert 90 <= begun.input_tokens <= 250


def test_health_and_metrics_ask_nobody(tmp_path):
    """Neither is a probe; the figures have the profile's names alone."""
    with serving(response(500), ONE, tmp=tmp_path) as served:
        served.request("POST", "/v1/chat/completions", WIRES["chat"].body | {"model": "gpt-77"})
        asked = len(served.upstreams[0].requests)
        health = json.loads(served.request("GET", "/health")[2])
        metrics = served.request("GET", "/metrics")[2].decode()

        assert len(served.upstreams[0].requests) == asked
    assert [tier["name"] for tier in health["tiers"]] == ["t1", "t2"]
    assert 'tieredllm_requests_total{outcome="ok",protocol="chat"} 1.0' in metrics
    assert 'tieredllm_answers_total{model="m2",provider="openai",tier="t2"} 1.0' in metrics
    assert 'kind="service_unavailable",model="m1",outcome="failed"' in metrics
    assert "gpt-77" not in metrics


def test_attempts_of_broken_streams_are_counted(tmp_path):
    """A stream that dies after words has no answer; its attempts are in the figures too."""
    half = stream(*opens("openai"), says("openai", "Half "))
    with serving(response(500), half, tmp=tmp_path) as served:
        body = WIRES["chat"].body | {"stream": True}
        assert "broken" in served.request("POST", "/v1/chat/completions", body)[1]
        metrics = served.request("GET", "/metrics")[2].decode()

    assert 'tieredllm_requests_total{outcome="broken_off",protocol="chat"} 1.0' in metrics
    assert 'kind="service_unavailable",model="m1",outcome="failed"' in metrics
    assert 'kind="stream_interrupted",model="m2",outcome="failed"' in metrics


def test_each_request_can_be_told_of_in_a_line(tmp_path):
    """Who asked, who answered, how long it took, how it ended; nothing of what was said."""
    lines: list[str] = []
    body = WIRES["chat"].body | {"messages": [{"role": "user", "content": "a secret"}]}
    with serving(response(500), ONE, tmp=tmp_path, tell=lines.append) as served:
        agent = {"user-agent": "curl/8 \x1b[31m\x85red"}
        headers = served.request("POST", "/v1/chat/completions", body, agent)[1]
        served.request("POST", "/v1/messages", {"model": "auto"})
        served.request("GET", "/nowhere")
        served.request("GET", "/livez")

    told = [json.loads(line) for line in lines]
    assert told[0].pop("ms") >= 0
    assert told[0] == {
        "id": headers["x-request-id"],
        "request": "chat",
        "outcome": "ok",
        "status": 200,
        "attempts": 2,
        "tier": "t2",
        "model": "m2",
        "prompt_tokens": 12,
        "completion_tokens": 3,
        "client": "curl/8 [31m red",
    }
    shown = [(one["request"], one["outcome"], one["status"]) for one in told[1:]]
    assert shown == [("messages", "refused", 400), ("/nowhere", "refused", 404)]
    assert "secret" not in "".join(lines)
    assert FIRST not in "".join(lines)
