"""Test that every connection has one owner, and that nothing of one request reaches another."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gc
import gzip
import random
import ssl
import tracemalloc
from pathlib import Path

import httpx
import pytest
import trustme
from wire_support import (
    Connection,
    answers,
    attempt,
    backend,
    call,
    document,
    raw_server,
    response,
    tcp_server,
)

from tieredllm.providers.http import HttpClients, Request
from tieredllm.providers.request_info import RequestInfo

TEXT = response(200, document("openai", "Hi"))
FORGED = response(200, document("openai", "FORGED"))

KEPT = (httpx.Request, httpx.Response, httpx.AsyncHTTPTransport)

needs_proc = pytest.mark.skipif(
    not Path("/proc/self/fd").exists(), reason="sockets are counted in /proc"
)


def sockets() -> int:
    """Count this process's open sockets."""
    count = 0
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            count += str(entry.readlink()).startswith("socket:")
    return count


@pytest.fixture
def own_tls(monkeypatch, tmp_path):
    """Give a server's TLS whose certificate is trusted here."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    return context


async def stream(http, url):
    """Make one request and read what comes."""
    info = RequestInfo(url=url, model="m", key=None, key_env=None, parameters={})
    request = Request(method="POST", url=url, body=b"{}", connect_timeout_s=2)
    async with http.send(request, info) as reply:
        await reply.form()
        async for _ in reply.events():
            pass


async def cancel_many(url, count, at_once):
    """Cancel requests at any moment, some twice; return the sockets before and after."""
    http = HttpClients()
    rng = random.Random(7)
    places = asyncio.Semaphore(at_once)
    before = sockets()

    async def once():
        async with places:
            task = asyncio.create_task(stream(http, url))
            await asyncio.sleep(rng.random() * 0.02)
            task.cancel()
            if rng.random() < 0.3:
                await asyncio.sleep(0)
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    await asyncio.gather(*(once() for _ in range(count)))
    for _ in range(200):
        if sockets() <= before + 20:  # what is kept for the next request
            break
        await asyncio.sleep(0.01)
    kept = sockets() - before
    await http.aclose()
    for _ in range(100):
        if sockets() == before:
            break
        await asyncio.sleep(0.01)
    return before, kept, sockets()


async def drips(reader, writer):
    """Answer each request a little at a time."""
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        while True:
            await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(2)
            for piece in answers("openai", *"Hello").split(b"\n\n"):
                await asyncio.sleep(0.001)
                writer.write(piece + (b"" if piece.endswith(b"0\r\n\r\n") else b"\n\n"))
                await writer.drain()
    writer.close()


@needs_proc
@pytest.mark.parametrize(("count", "at_once"), [(60, 1), (600, 50)])
def test_a_cancelled_request_leaves_no_socket(count, at_once):
    """Wherever it is cancelled, once or twice, its connection is closed or kept for another."""

    async def run():
        async with tcp_server(drips) as port:
            served = sockets()
            before, kept, after = await cancel_many(f"http://127.0.0.1:{port}/", count, at_once)
            return before - served, kept, after - served

    before, kept, after = asyncio.run(run())

    # The server's ends are sockets of this process as well.
    assert before == 0
    assert kept <= 2 * 20
    assert after <= 0


@needs_proc
def test_a_cancelled_handshake_leaves_no_socket(own_tls):
    """Nor does one that is cancelled while TLS is being agreed on."""

    async def run():
        async with tcp_server(drips, own_tls) as port:
            return await cancel_many(f"https://127.0.0.1:{port}/", 120, 20)

    before, kept, after = asyncio.run(run())

    assert kept <= 2 * 20
    assert after == before


@needs_proc
def test_managers_of_many_threads_keep_nothing():
    """Each loop has connections of its own, and closes them."""
    import threading

    http = HttpClients()
    before = sockets()

    async def serve_all():
        async with raw_server(TEXT) as server:

            def ask():
                async def once():
                    outcome = await attempt(backend("openai", server.url, http), call(stream=False))
                    await http.aclose()
                    return outcome.text

                texts.append(asyncio.run(once()))

            texts: list[str] = []
            threads = [threading.Thread(target=ask) for _ in range(8)]
            for thread in threads:
                thread.start()
            while any(thread.is_alive() for thread in threads):
                await asyncio.sleep(0.01)
            return texts

    texts = asyncio.run(serve_all())

    assert texts == ["Hi"] * 8
    assert sockets() == before


def two_answers(play, tls=None):
    """Ask twice over a server that may send more than was asked for; return both texts."""

    async def run():
        http = HttpClients()
        connections = 0

        async def serve(reader, writer):
            nonlocal connections
            connections += 1
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                while True:
                    head = await reader.readuntil(b"\r\n\r\n")
                    length = int(head.lower().partition(b"content-length: ")[2].split(b"\r")[0])
                    await reader.readexactly(length)
                    await play(writer)
            writer.close()

        async with tcp_server(serve, tls) as port:
            url = f"http{'s' if tls else ''}://127.0.0.1:{port}"
            model = backend("openai", url, http)
            outcomes = [await attempt(model, call(stream=False))]
            await asyncio.sleep(0.05)
            outcomes.append(await attempt(model, call(stream=False)))
            await http.aclose()
        return [outcome.text for outcome in outcomes], connections

    return asyncio.run(run())


async def at_once(writer):
    writer.write(TEXT + FORGED)
    await writer.drain()


async def later(writer):
    writer.write(TEXT)
    await writer.drain()
    await asyncio.sleep(0.01)
    writer.write(FORGED)
    await writer.drain()


async def in_records(writer):
    writer.write(TEXT)
    writer.write(FORGED)
    await writer.drain()


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("play", [at_once, later, in_records])
def test_what_follows_an_answer_is_not_the_next_one(play, secure, own_tls):
    """A connection on which anything is left is closed, over TLS as well."""
    texts, connections = two_answers(play, own_tls if secure else None)

    assert texts == ["Hi", "Hi"]
    assert connections == 2


def test_a_connection_over_tls_is_used_again(own_tls):
    """What is clean is kept: the second question needs no handshake."""

    async def clean(writer):
        writer.write(TEXT)
        await writer.drain()

    texts, connections = two_answers(clean, own_tls)

    assert (texts, connections) == (["Hi", "Hi"], 1)


def second_on_a_kept_connection(ending, *, secure=None, endings=1):
    """Ask twice over a server that ends connections as they are used again.

    Args:
        ending: what becomes of the second request, without an answer.
        secure: the server's TLS.
        endings: how many connections end so; later ones answer.
    """

    async def run():
        http = HttpClients()
        served = []

        async def serve(reader, writer):
            connection = Connection(reader, writer)
            number = len(served)
            served.append(0)
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                while True:
                    await connection.request()
                    served[number] += 1
                    if number < endings and (served[number] == 2 or number):
                        await ending(connection)
                        break
                    await connection.send(TEXT)
            writer.close()

        async with tcp_server(serve, secure) as port:
            model = backend("openai", f"http{'s' if secure else ''}://127.0.0.1:{port}", http)
            outcomes = [await attempt(model, call(stream=False)) for _ in range(2)]
            await http.aclose()
        assert outcomes[0].text == "Hi"
        return outcomes[1], served

    return asyncio.run(run())


async def closes(connection):
    connection.writer.close()


async def resets(connection):
    await connection.reset()


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("ending", [closes, resets])
def test_a_connection_closed_as_it_is_used_again_is_replaced(ending, secure, own_tls):
    """The server had done with it before it saw the request: one attempt, on a new connection."""
    outcome, served = second_on_a_kept_connection(ending, secure=own_tls if secure else None)

    assert outcome.text == "Hi"
    assert served == [2, 1]


async def says_a_little(connection):
    await connection.send(b"HTTP/1.1 2")
    connection.writer.close()


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
def test_a_request_that_was_heard_is_not_sent_again(secure, own_tls):
    """A byte of a response says that the server had it: whether to ask again is the engine's."""
    secure = own_tls if secure else None
    outcome, served = second_on_a_kept_connection(says_a_little, secure=secure)

    assert outcome.kind == "connection"
    assert served == [2]


async def breaks_at_work(connection):
    await asyncio.sleep(0.3)
    connection.writer.close()


def test_a_request_that_was_worked_on_is_not_sent_again(monkeypatch):
    """What breaks a while after it was asked did not close an idle connection."""
    monkeypatch.setattr("tieredllm.providers.connections.STALE_WITHIN_S", 0.1)
    outcome, served = second_on_a_kept_connection(breaks_at_work)

    assert outcome.kind == "connection"
    assert served == [2]


def test_a_new_connection_that_is_closed_is_not_replaced():
    """A server that closes every connection is asked once more, and no oftener."""
    outcome, served = second_on_a_kept_connection(closes, endings=9)

    assert outcome.kind == "connection"
    assert served == [2, 1]


def test_cookies_are_not_kept():
    """What one server sets is sent to nobody, not even to itself."""

    async def run():
        http = HttpClients()
        with_cookie = response(200, document("openai", "Hi"), {"Set-Cookie": "a=1; Path=/"})
        async with raw_server(with_cookie) as server, raw_server(TEXT) as other:
            for url in (server.url, server.url, other.url):
                await attempt(backend("openai", url, http), call(stream=False))
            await http.aclose()
            return [*server.requests, *other.requests]

    requests = asyncio.run(run())

    assert len(requests) == 3
    assert not [got for got in requests if "cookie" in got.headers]


def test_a_request_leaves_nothing_for_the_garbage_collector():
    """What belongs to it is freed when it ends: a gateway's memory stays what it was."""

    async def run():
        http = HttpClients()
        async with raw_server(answers("openai", "Hi")) as server:
            gc.collect()
            gc.disable()
            try:
                for _ in range(5):
                    assert (await attempt(backend("openai", server.url, http))).text == "Hi"
                await http.aclose()
                return sum(isinstance(kept, KEPT) for kept in gc.get_objects())
            finally:
                gc.enable()

    assert asyncio.run(run()) == 0


def test_a_url_may_have_a_user_and_a_password():
    """They are sent as they always are: as Basic authentication, decoded."""

    async def run():
        http = HttpClients()
        async with raw_server(TEXT) as server:
            url = server.url.replace("//", "//ann%40home:s3cret@")
            await attempt(backend("openai", url, http), call(stream=False))
            await http.aclose()
            return server.requests[0].headers

    expected = f"Basic {base64.b64encode(b'ann@home:s3cret').decode()}"
    assert asyncio.run(run())["authorization"] == expected


@pytest.mark.parametrize("status", [200, 500])
def test_a_bomb_is_not_unpacked(status):
    """A body that would unpack to 256 MB takes no memory, as an answer or as an error."""
    bomb = gzip.compress(bytes(256 << 20), 1)

    async def run():
        http = HttpClients()
        head = {"Content-Encoding": "gzip", "Content-Type": "application/json"}
        async with raw_server(response(status, bomb, head)) as server:
            tracemalloc.start()
            try:
                await attempt(backend("openai", server.url, http))
                return tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()
                await http.aclose()

    assert asyncio.run(run()) < 8 << 20
