"""Test the shared connections."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
import sys

import httpx
import msgspec
import pytest
from wire_support import (
    STREAM_HEAD,
    Connection,
    answers,
    attempt,
    backend,
    call,
    chunk,
    document,
    raw_server,
    response,
    says,
    tcp_server,
)

from tieredllm.providers.http import HttpClients

TEXT = response(200, document("openai", "Hi"))


def test_a_connection_is_used_again_after_a_stream_was_read_to_its_end():
    """Three turns, streamed and not, take one connection."""

    async def run():
        http = HttpClients()

        async def play(connection):
            for _ in range(3):
                await connection.send(answers("openai", "Hi"))
                await connection.request()

        async with raw_server(play) as server:
            model = backend("openai", server.url, http)
            outcomes = [await attempt(model) for _ in range(3)]
            await http.aclose()
            return outcomes, server.connections

    outcomes, connections = asyncio.run(run())

    assert [outcome.text for outcome in outcomes] == ["Hi"] * 3
    assert connections == 1


def test_a_connection_the_server_closed_meanwhile_costs_nothing():
    """An idle connection that was closed is not mistaken for a failing server."""

    async def run():
        http = HttpClients()
        async with raw_server(TEXT.replace(b"\r\nContent-Length", b"\r\ncontent-length")) as server:
            model = backend("openai", server.url, http)
            first = await attempt(model, call(stream=False))
            await asyncio.sleep(0.1)
            second = await attempt(model, call(stream=False))
            await http.aclose()
            return first, second, server.connections

    first, second, connections = asyncio.run(run())

    assert (first.text, second.text, connections) == ("Hi", "Hi", 2)


def test_one_manager_serves_one_event_loop_after_another():
    """Clients of a loop that is gone are not used in the next one, closed or not."""
    http = HttpClients()

    async def once(*, close):
        async with raw_server(TEXT) as server:
            outcome = await attempt(backend("openai", server.url, http), call(stream=False))
            if close:
                await http.aclose()
            return outcome.text

    assert asyncio.run(once(close=True)) == "Hi"
    assert asyncio.run(once(close=True)) == "Hi"


def test_closing_before_anything_was_sent_is_fine():
    """A manager that never asked a cloud model has nothing to close."""
    asyncio.run(HttpClients().aclose())


def test_http_urls_build_no_certificate_store(monkeypatch):
    """Loading the certificates is spared until an https:// URL is asked."""
    built = []
    real = httpx.create_ssl_context
    monkeypatch.setattr(httpx, "create_ssl_context", lambda: built.append(1) or real())

    async def run():
        http = HttpClients()
        async with raw_server(TEXT) as server:
            plain = await attempt(backend("openai", server.url, http), call(stream=False))
            before = len(built)
            secure = await attempt(backend("openai", "https://127.0.0.1:1", http))
            await http.aclose()
            return plain, before, secure

    plain, before, secure = asyncio.run(run())

    assert (plain.text, before, secure.kind, len(built)) == ("Hi", 0, "connection", 1)


def test_neither_httpx_nor_its_command_line_is_loaded_early():
    """Importing an adapter loads no httpx; the first request loads it without rich."""
    script = """
import asyncio, sys
from tieredllm.providers.openai import OpenAIBackend
from tieredllm.providers.http import HttpClients
assert "httpx" not in sys.modules and "ssl" not in sys.modules or "httpx" not in sys.modules
async def main():
    clients = HttpClients()
    (await clients._pools.get()).take("http://127.0.0.1")
    await clients.aclose()
asyncio.run(main())
assert "httpx" in sys.modules
assert not {"rich", "pygments", "httpx._main"} & set(sys.modules), "the command line was loaded"
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


async def over_tls(serve, asked=None):
    http = HttpClients()
    async with tcp_server(serve) as port:
        outcome = await attempt(backend("openai", f"https://127.0.0.1:{port}", http), asked)
        await http.aclose()
    return outcome


def test_plain_http_behind_an_https_url_is_a_tls_error():
    """A server that does not speak TLS is told as `tls`, and is not asked again."""

    async def run():
        async def serve(reader, writer):
            await reader.read(10)
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            writer.close()

        return await over_tls(serve)

    assert asyncio.run(run()).kind == "tls"


@pytest.mark.parametrize(("reset", "kind"), [(True, "connection"), (False, "connection")])
def test_a_connection_that_ends_during_the_handshake_is_tried_again(reset, kind):
    """Reset or closed before anything was said is no verdict on certificates."""

    async def run():
        async def serve(reader, writer):
            await reader.read(10)
            connection = Connection(reader, writer)
            await (connection.reset() if reset else connection.send(b""))
            writer.close()

        return await over_tls(serve)

    outcome = asyncio.run(run())

    assert (kind, True) == (outcome.kind, outcome.error.again)


def test_a_handshake_that_never_ends_is_a_timeout():
    """A server that accepts and says nothing is a silent route."""

    async def run():
        async def serve(reader, writer):
            await reader.read()
            writer.close()

        return await over_tls(serve, call(connect_timeout_s=0.2))

    assert asyncio.run(run()).kind == "timeout"


@pytest.fixture(scope="session")
def self_signed(tmp_path_factory):
    """Give a certificate nobody vouches for, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    command += ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=60)
    except FileNotFoundError:
        pytest.skip("openssl is not installed: no certificate can be made")
    return folder / "cert.pem", folder / "key.pem"


async def ask_over_tls(certificate, key):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)

    async def serve(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(TEXT)
        await writer.drain()
        writer.close()

    http = HttpClients()
    async with tcp_server(serve, context) as port:
        outcome = await attempt(
            backend("openai", f"https://127.0.0.1:{port}", http), call(stream=False)
        )
        await http.aclose()
    return outcome


def test_a_certificate_nobody_vouches_for_is_a_tls_error(self_signed):
    """Certificates are verified, and the message says that one could not be."""
    outcome = asyncio.run(ask_over_tls(*self_signed))

    assert outcome.kind == "tls"
    assert "certificate that cannot be verified: self-signed" in outcome.error.message


def test_a_certificate_of_one_s_own_authority_is_trusted(self_signed, monkeypatch):
    """`SSL_CERT_FILE` names the authorities, as everywhere."""
    monkeypatch.setenv("SSL_CERT_FILE", str(self_signed[0]))

    assert asyncio.run(ask_over_tls(*self_signed)).text == "Hi"


BROKEN_PEM = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"


@pytest.mark.parametrize(
    ("content", "why"),
    [(None, "No such file"), ("", "no certificate in it"), (BROKEN_PEM, "in it")],
)
def test_a_certificate_file_that_holds_none_is_a_tls_error(monkeypatch, tmp_path, content, why):
    """A broken `SSL_CERT_FILE` is told as what it is, and no server is blamed for it."""
    file = tmp_path / "authorities.pem"
    if content is not None:
        file.write_text(content)
    monkeypatch.setenv("SSL_CERT_FILE", str(file))

    async def run():
        http = HttpClients()
        try:
            return await attempt(backend("openai", "https://127.0.0.1:1", http))
        finally:
            await http.aclose()

    outcome = asyncio.run(run())

    assert outcome.kind == "tls"
    assert "the certificates (SSL_CERT_FILE?) cannot be read: " in outcome.error.message
    assert why in outcome.error.message


def test_an_authority_of_the_system_s_store_is_trusted(monkeypatch, self_signed):
    """One that certifi does not know is looked for there, once, before anything is sent."""
    loads = []

    def load(context, *_):
        loads.append(context)
        context.load_verify_locations(str(self_signed[0]))

    monkeypatch.setattr(ssl.SSLContext, "load_default_certs", load)
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)

    assert asyncio.run(ask_over_tls(*self_signed)).text == "Hi"
    assert len(loads) == 1


@pytest.mark.parametrize(
    ("variables", "hint"),
    [
        ({}, "SSL_CERT_FILE=its certificate's file"),
        ({"REQUESTS_CA_BUNDLE": "/etc/ca.pem"}, "set SSL_CERT_FILE=/etc/ca.pem"),
        ({"CURL_CA_BUNDLE": "/etc/ca.pem"}, "CURL_CA_BUNDLE is not read here"),
    ],
)
def test_an_unknown_authority_comes_with_the_way_out(monkeypatch, self_signed, variables, hint):
    """The variable that is read, and one that others read."""
    for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    found = asyncio.run(ask_over_tls(*self_signed))

    assert found.kind == "tls"
    assert hint in found.error.message


def test_proxies_of_the_environment_are_used(monkeypatch):
    """`HTTP_PROXY` sends requests through it, but not those to hosts of `NO_PROXY`."""

    async def run():
        http = HttpClients()
        async with raw_server(TEXT) as proxy, raw_server(TEXT) as server:
            monkeypatch.setenv("HTTP_PROXY", proxy.url)
            monkeypatch.setenv("NO_PROXY", "127.0.0.1")
            far = await attempt(backend("openai", "http://far.example", http), call(stream=False))
            near = await attempt(backend("openai", server.url, http), call(stream=False))
            await http.aclose()
            return far, near, proxy, server

    far, near, proxy, server = asyncio.run(run())

    assert (far.text, near.text) == ("Hi", "Hi")
    assert [received.path for received in proxy.requests] == [
        "http://far.example/v1/chat/completions"
    ]
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("proxy", "kind"),
    [
        ("socks5://127.0.0.1:1", "connection"),
        ("socks://127.0.0.1:1", "connection"),
        ("gopher://127.0.0.1:1", "connection"),
        ("http://", "connection"),
        ("http://127.0.0.1:notaport", "connection"),
    ],
)
def test_a_proxy_that_cannot_be_used_is_told(monkeypatch, proxy, kind):
    """A SOCKS proxy names what to install; an unknown one is no traceback."""
    if proxy.startswith("socks"):
        monkeypatch.setitem(sys.modules, "socksio", None)
    monkeypatch.setenv("ALL_PROXY", proxy)

    async def run():
        http = HttpClients()
        try:
            return await attempt(backend("openai", "http://far.example", http))
        finally:
            await http.aclose()

    outcome = asyncio.run(run())

    assert kind == outcome.kind
    assert "proxy" in outcome.error.message.lower()
    assert "ALL_PROXY" in outcome.error.message


def through(monkeypatch, variables, url, play=None):
    """Ask a server once with some variables of proxies set; `{}` stands for a scripted proxy."""

    async def run():
        http = HttpClients()
        async with raw_server(TEXT if play is None else play) as proxy:
            for name, value in variables.items():
                monkeypatch.setenv(name, value.format(proxy.url.removeprefix("http://")))
            try:
                return await attempt(backend("openai", url, http), call(stream=False)), proxy
            finally:
                await http.aclose()

    return asyncio.run(run())


@pytest.mark.parametrize(
    "no_proxy", ["localhost,[::1]", "::/0,fd00::/8", "[fe80::1]:80, ,10.0.0/x"]
)
def test_ipv6_in_no_proxy_breaks_nothing(monkeypatch, no_proxy):
    """An entry is kept to or passed over, and never blamed on base_url (encode/httpx#3574)."""
    found, proxy = through(
        monkeypatch, {"NO_PROXY": no_proxy, "HTTP_PROXY": "http://{}"}, "http://far.example"
    )

    assert found.text == "Hi"
    assert len(proxy.requests) == 1


@pytest.mark.parametrize("value", ["{}\r", " http://{} ", "http://me:pass-word-1@{}\r\n"])
def test_a_proxy_s_address_may_be_written_loosely(monkeypatch, value):
    """Without its scheme, with blanks, with the line end of another system."""
    found, proxy = through(monkeypatch, {"HTTP_PROXY": value}, "http://far.example")

    assert found.text == "Hi"
    assert len(proxy.requests) == 1


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_this_machine_is_not_asked_through_a_proxy_unless_told_to(monkeypatch, host):
    """A dead proxy is no reason that a local server cannot be reached."""

    async def run(**variables):
        for name, value in {"HTTP_PROXY": "http://127.0.0.1:9", **variables}.items():
            monkeypatch.setenv(name, value)
        http = HttpClients()
        async with raw_server(TEXT) as server:
            url = server.url.replace("127.0.0.1", host)
            try:
                return await attempt(backend("openai", url, http), call(stream=False))
            finally:
                await http.aclose()

    assert asyncio.run(run()).text == "Hi"
    assert "127.0.0.1:9" in asyncio.run(run(TIEREDLLM_PROXY_LOOPBACK="1")).error.message


def test_a_dead_proxy_is_named_and_not_the_server(monkeypatch):
    """With its variable, without its password."""
    found, _ = through(
        monkeypatch, {"HTTPS_PROXY": "http://me:pass-word-1@127.0.0.1:9"}, "https://far.example"
    )

    assert (found.kind, found.error.again) == ("connection", False)
    assert found.error.message == (
        "nothing listens at the proxy 127.0.0.1:9 (HTTPS_PROXY) for far.example"
    )


@pytest.mark.parametrize(
    ("play", "url", "kind", "words"),
    [
        (response(407), "http://far.example", "connection", "wants a user and a password"),
        (response(407), "https://far.example", "connection", "refused the way to far.example"),
        (response(403), "https://far.example", "connection", "403"),
        (
            response(503, "<html><title>Squid</title></html>"),
            "http://far.example",
            "service_unavailable",
            "Squid (through ",
        ),
        (
            response(200, "<html><title>Log in</title></html>"),
            "http://far.example",
            "malformed_response",
            "a web page, not an answer (through ",
        ),
        (b"", "http://far.example", "connection", "without an answer (through "),
    ],
)
def test_an_error_that_came_through_a_proxy_names_it(monkeypatch, play, url, kind, words):
    """And its variable; its password is not shown."""
    value = "http://me:pass-word-1@{}"
    found, _ = through(monkeypatch, {"ALL_PROXY": value}, url, play)

    assert found.kind == kind
    assert words in found.error.message
    assert "(ALL_PROXY)" in found.error.message
    assert "pass-word-1" not in found.error.message


def test_connecting_ends_at_its_timeout():
    """An address that swallows packets is a silent route: `timeout`."""

    async def run():
        http = HttpClients()
        # A listener whose backlog is full accepts no more connections and refuses none.
        import socket

        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen(0)
            address = listener.getsockname()
            fillers = []
            for _ in range(4):
                filler = socket.socket()
                filler.setblocking(False)
                filler.connect_ex(address)
                fillers.append(filler)
            outcome = await attempt(
                backend("openai", f"http://127.0.0.1:{address[1]}", http),
                call(connect_timeout_s=0.3),
            )
            for filler in fillers:
                filler.close()
        await http.aclose()
        return outcome

    assert asyncio.run(run()).kind == "timeout"


def test_an_answer_over_the_bound_is_refused(monkeypatch):
    """A document that never ends costs bounded memory."""
    monkeypatch.setattr("tieredllm.providers.http.MAX_BODY_BYTES", 100_000)

    async def run():
        http = HttpClients()
        body = response(
            200, b'{"choices": "' + b"x" * 300_000, {"Content-Type": "application/json"}
        )
        async with raw_server(body) as server:
            outcome = await attempt(backend("openai", server.url, http), call(stream=False))
            await http.aclose()
            return outcome

    outcome = asyncio.run(run())

    assert outcome.kind == "malformed_response"
    assert "longer than" in outcome.error.message


def test_a_stream_over_the_bound_is_cut(monkeypatch):
    """A stream that never ends costs bounded memory, and what it said is no answer."""
    monkeypatch.setattr("tieredllm.providers.http.MAX_STREAM_BYTES", 100_000)

    async def run():
        async def play(connection):
            await connection.send(STREAM_HEAD)
            while True:
                await connection.send(chunk(says("openai", "word ")))

        http = HttpClients()
        async with raw_server(play) as server:
            outcome = await attempt(backend("openai", server.url, http))
            await http.aclose()
            return outcome

    outcome = asyncio.run(run())

    assert outcome.kind == "stream_interrupted"
    assert "is longer than 100000 bytes" in outcome.error.message


@pytest.mark.parametrize(("start", "end"), [(b"", b""), (b"data: ", b"\n\n"), (b"data: ", b"")])
def test_a_body_of_too_many_parts_is_not_decoded(start, end):
    """Three bytes of JSON can take 64 of memory: what has more parts than any answer is refused."""

    async def run():
        http = HttpClients()
        body = response(200, start + b"[" + b"{}," * 300_000 + b"0]" + end)
        async with raw_server(body) as server:
            outcome = await attempt(backend("openai", server.url, http), call(stream=False))
            await http.aclose()
            return outcome

    outcome = asyncio.run(run())

    assert outcome.kind == "malformed_response"
    assert "has more than 200000 parts" in outcome.error.message


@pytest.mark.parametrize("vendor", ["openai", "anthropic", "gemini"])
def test_a_backend_tells_when_its_request_is_written(vendor):
    """The signal comes after the whole body has been written, and before any answer."""
    told = []

    async def run():
        http = HttpClients()

        async def play(connection):
            told.append("received")
            await asyncio.sleep(0.05)
            told.append("answering")
            await connection.send(answers(vendor, "Hi"))

        async with raw_server(play) as server:
            asked = msgspec.structs.replace(call(), on_sent=lambda: told.append("sent"))
            outcome = await attempt(backend(vendor, server.url, http), asked)
            await http.aclose()
            [received] = server.requests
            return outcome.text, received.headers

    text, headers = asyncio.run(run())

    assert text == "Hi"
    assert sorted(told[:2]) == ["received", "sent"]
    assert told[2:] == ["answering"]
    assert "transfer-encoding" not in headers


def test_a_request_that_cannot_be_sent_is_not_told_as_sent():
    """Where nobody listens, nothing was written."""
    told = []

    async def run():
        http = HttpClients()
        asked = msgspec.structs.replace(call(), on_sent=lambda: told.append("sent"))
        outcome = await attempt(backend("openai", "http://127.0.0.1:9", http), asked)
        await http.aclose()
        return outcome

    outcome = asyncio.run(run())

    assert outcome.error.kind == "connection"
    assert told == []
