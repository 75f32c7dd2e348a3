"""Who is let into the gateway, and what is refused at its door."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import json
import time

import pytest
from cli_support import cli
from serve_support import FIRST, ONE, WIRES, serving

from tieredllm.serve import app, exchange, server
from tieredllm.serve.app import is_loopback

CHAT = WIRES["chat"]
ALL_PATHS = [
    ("GET", "/livez"),
    ("GET", "/readyz"),
    ("GET", "/health"),
    ("GET", "/metrics"),
    ("GET", "/v1/models"),
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/messages"),
    ("POST", "/v1/responses"),
    ("HEAD", "/"),
]


@pytest.mark.parametrize(("method", "path"), ALL_PATHS)
def test_a_foreign_host_is_refused_everywhere(method, path, tmp_path):
    """A name that somebody lets point to this machine (DNS rebinding) opens nothing."""
    with serving(ONE, tmp=tmp_path) as served:
        for host in ("evil.example", "127.0.0.1.evil.example:4141", "", "a@127.0.0.1", "["):
            body = CHAT.body if method == "POST" else None
            status, _, _ = served.request(method, path, body, {"host": host})
            assert status in (400, 403), host

        assert served.upstreams[0].requests == []


def test_a_host_of_the_profile_is_known(tmp_path):
    """`serve: {hosts: [...]}` names the gateway."""
    settings = {"serve": {"hosts": ["gw.example.org"]}}
    with serving(ONE, tmp=tmp_path, settings=settings) as served:
        status, _, _ = served.request("GET", "/livez", None, {"host": "gw.example.org:8080"})
        rooted = [
            served.request("GET", "/livez", None, {"host": host})[0]
            for host in ("gw.example.org.:8080", "localhost.:4141", "evil.example.", "localhost..")
        ]

    assert status == 200
    assert rooted == [200, 200, 403, 403]


def test_other_addresses_are_no_names_of_a_loopback_gateway(tmp_path):
    """On loopback another machine's address is foreign; elsewhere an address cannot be rebound."""
    with serving(ONE, tmp=tmp_path) as served:
        assert served.request("GET", "/livez", None, {"host": "192.0.2.7"})[0] == 403
    with serving(ONE, tmp=tmp_path, host="0.0.0.0", keys=["k" * 20]) as served:
        assert served.request("GET", "/livez", None, {"host": "192.0.2.7"})[0] == 200
        assert served.request("GET", "/livez", None, {"host": "evil.example"})[0] == 403


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:1"])
def test_a_foreign_origin_is_refused(origin, tmp_path):
    """A page of another site gets nothing, and no header that would let it read an error."""
    with serving(ONE, tmp=tmp_path) as served:
        status, headers, _ = served.request("POST", CHAT.path, CHAT.body, {"origin": origin})
        preflight, _, _ = served.request("OPTIONS", CHAT.path, None, {"origin": origin})

        assert served.upstreams[0].requests == []
    assert status == preflight == 403
    assert "access-control-allow-origin" not in headers


def test_a_listed_origin_is_let_in(tmp_path):
    """`serve: {origins: [...]}` lets a page ask, with its preflight and for the answer."""
    site = "https://chat.example.org"
    with serving(ONE, tmp=tmp_path, settings={"serve": {"origins": [site]}}) as served:
        asked = {"origin": site, "access-control-request-headers": "authorization"}
        preflight, allowed, _ = served.request("OPTIONS", CHAT.path, None, asked)
        status, headers, _ = served.request("POST", CHAT.path, CHAT.body, {"origin": site})

    assert preflight == 204
    assert allowed["access-control-allow-headers"] == "authorization"
    assert status == 200
    assert headers["access-control-allow-origin"] == site


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_a_body_that_is_not_called_json_is_refused(kind, tmp_path):
    """What a page can post without a preflight is not read."""
    with serving(ONE, tmp=tmp_path) as served:
        status, _, body = served.request("POST", CHAT.path, CHAT.body, {"content-type": kind})

        assert served.upstreams[0].requests == []
    assert status == 415
    assert b"application/json" in body


@pytest.mark.parametrize(
    "body", [b"{", b"[]", b"\xff", b"", b'{"model": "\xe9"}', b"[" * 5000 + b"]" * 5000]
)
def test_a_body_that_is_no_json_object_is_refused(body, tmp_path):
    """Half JSON, another kind of JSON and none are a 400."""
    with serving(ONE, tmp=tmp_path) as served:
        assert served.request("POST", CHAT.path, body)[0] == 400


@pytest.mark.parametrize("announced", [True, False], ids=["announced", "chunked"])
def test_a_body_of_33_megabytes_is_refused(announced, tmp_path):
    """Whether its length is told beforehand or it just goes on."""
    head = f"POST {CHAT.path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    size = 33 * 2**20
    if announced:
        sent = f"{head}Content-Length: {size}\r\n\r\n".encode()
    else:
        block = b"100000\r\n" + b" " * 2**20 + b"\r\n"
        sent = f"{head}Transfer-Encoding: chunked\r\n\r\n".encode() + block * 33
    with serving(ONE, tmp=tmp_path) as served:
        received = served.raw(sent)

        assert served.gateway.running == set()
    assert received.startswith(b"HTTP/1.1 413")


def test_who_is_still_sending_gets_the_refusal(tmp_path):
    """A reset in the middle of a large body would be all that the client learns."""
    key = "k" * 20
    with serving(ONE, tmp=tmp_path, keys=[key]) as served:
        large = b" " * (33 * 2**20)
        found = [
            served.request("POST", CHAT.path, large, {"x-api-key": key})[0],
            served.request("POST", CHAT.path, large)[0],
            served.request("POST", CHAT.path, large, {"x-api-key": key, "content-type": "a/b"})[0],
        ]

    assert found == [413, 401, 415]


def test_a_refusal_took_as_long_as_it_took_to_send(tmp_path):
    """That a body was read on for nobody is no time that the client waited for its answer."""
    lines: list[str] = []
    head = f"POST {CHAT.path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n"
    with serving(ONE, tmp=tmp_path, keys=["k" * 20], tell=lines.append) as served:
        began = time.monotonic()
        assert served.raw(head.encode()).startswith(b"HTTP/1.1 401")
        took_ms = (time.monotonic() - began) * 1000

    assert took_ms >= exchange.LULL_S * 1000
    assert json.loads(lines[0])["ms"] <= took_ms - exchange.LULL_S * 1000 + 10


def test_a_dripping_body_is_given_up(tmp_path, monkeypatch):
    """A body that comes a byte at a time keeps its place for a while and no longer."""
    monkeypatch.setattr(app, "BODY_S", 0.3)
    head = (
        f"POST {CHAT.path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        "Content-Length: 100\r\n\r\n"
    )
    with serving(ONE, tmp=tmp_path) as served, served.connect() as sock:
        sock.sendall(head.encode())
        for _ in range(3):
            sock.sendall(b" ")
            time.sleep(0.05)
        received = sock.recv(65536)

        assert served.gateway.running == set()
    assert received.startswith(b"HTTP/1.1 408")
    assert b"connection: close" in received


@pytest.mark.parametrize("first", [False, True], ids=["a later request", "the first"])
def test_a_dripping_head_is_given_up(first, tmp_path, monkeypatch):
    """A head that comes a byte at a time keeps its connection for a while and no longer."""
    monkeypatch.setattr(server, "HEAD_S", 0.3)
    with serving(ONE, tmp=tmp_path) as served, served.connect() as sock:
        sock.settimeout(5)
        if not first:
            sock.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
            while not sock.recv(65536).endswith(b"}"):
                pass
        received = b""
        until = time.monotonic() + 5
        sock.sendall(b"GET /livez HTTP/1.1\r\nX: ")
        while time.monotonic() < until and not received:
            with contextlib.suppress(TimeoutError):
                sock.settimeout(0.05)
                received = sock.recv(65536)
            with contextlib.suppress(OSError):
                sock.sendall(b"x")

    assert received.startswith(b"HTTP/1.1 408")


def test_a_connection_that_says_nothing_is_closed(tmp_path, monkeypatch):
    """Nobody can keep connections without asking anything."""
    monkeypatch.setattr(server, "HEAD_S", 0.1)
    with serving(ONE, tmp=tmp_path) as served, served.connect() as sock:
        sock.settimeout(5)

        assert sock.recv(65536) == b""


def test_a_long_answer_is_no_slow_head(tmp_path, monkeypatch):
    """The limit is that of the head: a request that has come takes as long as it takes."""
    monkeypatch.setattr(server, "HEAD_S", 0.1)

    async def slowly(connection):
        await asyncio.sleep(0.4)
        await connection.send(ONE)

    with serving(slowly, tmp=tmp_path) as served:
        assert CHAT.ask(served) == FIRST


KEY = "a-key-that-is-long-enough"


def test_with_a_key_nothing_answers_without_it(tmp_path):
    """Both headers are understood; only what watches over the process goes without."""
    with serving(ONE, tmp=tmp_path, keys=[KEY, "another"]) as served:
        for method, path in ALL_PATHS:
            body = CHAT.body if method == "POST" else None
            free = path in ("/livez", "/readyz", "/")
            for given in ({}, {"authorization": "Bearer wrong"}, {"x-api-key": KEY[:-1]}):
                assert served.request(method, path, body, given)[0] == (200 if free else 401)
        assert served.upstreams[0].requests == []
        for given in ({"authorization": f"bearer {KEY}"}, {"x-api-key": "another"}):
            assert served.request("POST", CHAT.path, CHAT.body, given)[0] == 200


def test_the_sdks_send_their_keys(tmp_path):
    """OpenAI's and Anthropic's clients get in with the key, and raise without."""
    with serving(ONE, tmp=tmp_path, keys=[KEY]) as served:
        for wire in WIRES.values():
            with pytest.raises(wire.status_error, match="key"):
                wire.ask(served)
        with served.openai(key=KEY) as client:
            client.responses.create(model="auto", input="Why?")
        with served.anthropic(key=KEY) as claude:
            claude.messages.create(model="auto", max_tokens=9, messages=CHAT.body["messages"])


def test_keys_are_compared_in_constant_time(tmp_path, monkeypatch):
    """Every key is compared, by digest, with the function that is made for it."""
    compared = []

    def compare(shown: bytes, key: bytes) -> bool:
        compared.append((shown, key))
        return hmac.compare_digest(shown, key)

    watched = type("Watched", (), {"compare_digest": staticmethod(compare)})
    monkeypatch.setattr(app, "hmac", watched)
    with serving(ONE, tmp=tmp_path, keys=["first", "second"]) as served:
        assert served.request("GET", "/v1/models", None, {"x-api-key": "first"})[0] == 200

    shown = hashlib.sha256(b"first").digest()
    assert compared == [(shown, shown), (shown, hashlib.sha256(b"second").digest())]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "example.org"])
def test_other_addresses_do_not_start_without_a_key(host, tmp_path):
    """`serve` on what other machines can reach wants a key first: exit code 2 and one line."""
    result = cli(tmp_path, "serve", "--host", host)

    assert result.returncode == 2
    assert "--key NAME" in result.stderr.decode()


def test_a_key_that_is_not_set_does_not_open_the_gateway(tmp_path):
    """An empty key would let everybody in."""
    result = cli(tmp_path, "serve", "--key", "NO_SUCH_GATEWAY_KEY")

    assert result.returncode == 2
    assert "NO_SUCH_GATEWAY_KEY is not set" in result.stderr.decode()


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("api.localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("localhost.evil.example", False),
        ("", False),
    ],
)
def test_what_counts_as_loopback(host, expected):
    """Only what cannot leave this machine."""
    assert is_loopback(host) is expected
