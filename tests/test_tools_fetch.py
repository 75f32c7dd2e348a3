"""`fetch_url` reaches public addresses only, whatever a URL, a name or a redirect says."""

from __future__ import annotations

import asyncio
import gzip
import ipaddress
import socket
import ssl
import time

import pytest
import trustme
from tools_support import HERE, page, redirect, web

from tieredllm.tools.base import ToolFailureError
from tieredllm.tools.builtin.egress import PUBLIC, EgressPolicy, is_public
from tieredllm.tools.builtin.fetch_url import MAX_BYTES, fetch, make_fetch_url


def reach_with(addresses, **more):
    """Make a reach whose resolver gives fixed addresses; the names asked for are noted."""
    asked = []

    async def resolve(host, port):
        asked.append((host, port))
        found = addresses[host] if isinstance(addresses, dict) else addresses
        if isinstance(found, Exception):
            raise found
        return found

    return EgressPolicy(resolve=resolve, **more), asked


def fetched(url, reach=HERE, limit_s=20):
    """Fetch a page as a model would."""

    async def run():
        tool = make_fetch_url(reach)
        async with asyncio.timeout(limit_s):
            return await tool.run(tool.check({"url": url}), 0.0)

    return asyncio.run(run())


def against(pages, path="/", reach=HERE, scheme_url=None):
    """Serve pages and fetch one; give its text and the server."""

    async def run():
        async with web() as site:
            for name, answer in pages.items():
                made = callable(answer) and not asyncio.iscoroutinefunction(answer)
                site.pages[name] = answer(site) if made else answer
            tool = make_fetch_url(reach)
            url = (scheme_url or site.url) + path
            try:
                text = await asyncio.wait_for(tool.run({"url": url}, 0.0), 20)
            except ToolFailureError as exc:
                return exc, site
            return text, site

    return asyncio.run(run())


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.255.255.254",
        "0.0.0.0",
        "10.0.0.1",
        "172.16.0.1",
        "172.31.255.255",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "100.100.100.200",
        "192.0.0.192",
        "192.88.99.1",
        "198.18.0.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "168.63.129.16",
        "203.0.113.5",
        "::",
        "::1",
        "::127.0.0.1",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "::ffff:0:127.0.0.1",
        "64:ff9b::127.0.0.1",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::1",
        "2002:7f00:1::1",
        "2002:c0a8:101::1",
        "2001:0:1::1",
        "2001:db8::1",
        "3fff::1",
        "fc00::1",
        "fd00:ec2::254",
        "fe80::1",
        "fe80::1%eth0",
        "2606:4700::1%eth0",
        "fec0::1",
        "ff02::1",
    ],
)
def test_addresses_that_are_not_public(address):
    """Private, local, reserved and tunnelling addresses are told from public ones."""
    assert is_public(ipaddress.ip_address(address)) is False


@pytest.mark.parametrize(
    "address",
    [
        "1.1.1.1",
        "8.8.8.8",
        "93.184.216.34",
        "172.15.0.1",
        "172.32.0.1",
        "::ffff:8.8.8.8",
        "2606:4700:4700::1111",
        "2a00:1450:4001:800::200e",
        "64:ff9b::808:808",
    ],
)
def test_addresses_that_are_public(address):
    """What anybody on the Internet can reach is public, IPv4 behind NAT64 included."""
    assert is_public(ipaddress.ip_address(address)) is True


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0x7f.1",
        "0177.0.0.1",
        "017700000001",
        "0",
        "0.0.0.0",
        "localhost",
        "LOCALHOST.",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[0:0:0:0:0:ffff:7f00:0001]",
        "[64:ff9b::7f00:1]",
        "169.254.169.254",
        "0xa9fea9fe",
        "2852039166",
        "[::ffff:169.254.169.254]",
        "192.168.0.1",
        "10.1.2.3",
        "\u2460\u2461\u2466.0.0.1",
    ],
)
def test_no_spelling_of_a_private_address_is_connected_to(host, monkeypatch):
    """Decimal, octal, hexadecimal, short, mapped: nothing connects, with the system's resolver."""

    def connect(*args, **more):
        pytest.fail(f"it connected to {args}")

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(asyncio.SelectorEventLoop, "create_connection", connect)
    monkeypatch.setattr(asyncio.SelectorEventLoop, "sock_connect", connect)
    for port in (80, 8080):
        with pytest.raises(ToolFailureError) as caught:
            fetched(f"http://{host}:{port}/latest/meta-data/", PUBLIC)

        assert "out of reach" in str(caught.value) or "not a known name" in str(caught.value)


@pytest.mark.parametrize(
    "addresses",
    [
        ["127.0.0.1"],
        ["10.0.0.5"],
        ["::1"],
        ["::ffff:10.0.0.5"],
        ["93.184.216.34", "127.0.0.1"],
        ["2606:4700::1", "fd00::1"],
        ["fe80::1%lo"],
        ["not an address"],
        [],
    ],
)
def test_a_name_that_resolves_to_a_private_address_is_refused(addresses):
    """One private address among those of a name is enough to stay away."""
    reach, asked = reach_with(addresses)
    with pytest.raises(ToolFailureError):
        fetched("http://example.com/", reach)

    assert asked == [("example.com", 80)]


def test_the_checked_address_is_the_one_connected_to():
    """A name is resolved once per request: a second answer (DNS rebinding) is never asked for."""

    async def run():
        async with web() as site:
            site.pages["/"] = page("<p>hello")
            answers = [["127.0.0.1"], ["10.0.0.1"]]
            asked = []

            async def resolve(host, port):
                asked.append(host)
                return answers.pop(0)

            reach = EgressPolicy(resolve=resolve, ports=None, allowed=HERE.allowed)
            found = await fetch(f"http://rebinding.example:{site.port}/", reach)
            return found, asked, site

    found, asked, site = asyncio.run(run())
    assert found.body == b"<p>hello"
    assert asked == ["rebinding.example"]
    assert site.requests[0][1]["host"] == f"rebinding.example:{site.port}"


def test_a_connection_that_ends_at_this_machine_is_refused():
    """A machine's own public address leads inside: the two ends of the connection tell."""

    async def run():
        async with web() as site:
            site.pages["/"] = page("inside")

            class Fooled(EgressPolicy, frozen=True, kw_only=True):
                def _within(self, address):
                    return True

            with pytest.raises(ToolFailureError, match="is this machine"):
                await fetch(f"http://127.0.0.1:{site.port}/", Fooled(ports=None))
            return site

    site = asyncio.run(run())
    assert site.requests == []


@pytest.mark.parametrize(
    "target",
    [
        "http://127.0.0.1/",
        "http://127.0.0.1:{port}/",
        "http://intern.example:{port}/",
        "http://169.254.169.254/latest/meta-data/",
        "http://[::1]:8080/",
        "http://2130706433/",
        "//localhost/",
        "http://intern.example/",
        "https://127.0.0.1/",
        "file:///etc/passwd",
        "ftp://example.com/",
        "gopher://127.0.0.1:6379/_INFO",
        "http://user:pass@public.example/",
        "http://public.example:22/",
    ],
)
@pytest.mark.parametrize("status", ["301 x", "302 x", "303 x", "307 x", "308 x"])
def test_redirects_are_checked_like_first_requests(target, status):
    """A public page that redirects inside, elsewhere or with credentials leads nowhere."""

    async def run():
        async with web() as site:
            site.pages["/"] = redirect(target.format(port=site.port), status)

            async def resolve(host, port):
                if host == "public.example":
                    return ["127.0.0.2"]
                found = await asyncio.get_running_loop().getaddrinfo(host, port)
                return [entry[4][0] for entry in found]

            async def play(host, port):
                if host == "intern.example":
                    return ["10.0.0.1"]
                return await resolve(host, port)

            reach = EgressPolicy(
                resolve=play,
                ports=frozenset({80, 443, 8080, site.port}),
                allowed=(ipaddress.ip_network("127.0.0.2/32"),),
            )
            # The server is on 127.0.0.1, which is not allowed; 127.0.0.2 leads to it as well.
            site2 = await asyncio.start_server(site._serve, "127.0.0.2", site.port)
            try:
                with pytest.raises(ToolFailureError) as caught:
                    await fetch(f"http://public.example:{site.port}/", reach)
            finally:
                site2.close()
            return caught.value, site

    exc, site = asyncio.run(run())
    assert len(site.requests) == 1
    reasons = ("out of reach", "only http:// and https://", "user or password")
    assert any(reason in str(exc) for reason in reasons)


def test_redirects_are_followed_and_counted():
    """Relative and absolute redirects are followed, up to five of them."""
    pages = {
        "/": lambda site: redirect("/one?x=1"),
        "/one": lambda site: redirect(f"{site.url}/dir/two"),
        "/dir/two": lambda site: redirect("three#part"),
        "/dir/three": lambda site: page("<title>Here</title><p>arrived"),
    }
    text, site = against(pages)

    assert text == f"URL: {site.url}/dir/three#part\nTitle: Here\n\narrived"
    assert [path for path, _ in site.requests] == ["/", "/one?x=1", "/dir/two", "/dir/three"]
    round_trip, site = against({"/": lambda site: redirect("/")})
    assert "more than 5 redirects" in str(round_trip)
    assert len(site.requests) == 6


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://example.com/x",
        "javascript:alert(1)",
        "data:text/plain,x",
        "//example.com/",
        "example.com",
        "http://",
        "http:///path",
        "http://user@example.com/",
        "http://user:secret@example.com/",
        "http://example.com:99999/",
        "http://example.com:22/",
        "http://example.com:6379/",
        "http://exa mple.com/",
        "http://example.com/\r\nX: y",
        "http://example.com\\@127.0.0.1/",
        "http://[::1/",
        "http://" + "\u00e4" * 300 + ".com/",
        "http://example.com\u2100/",
    ],
)
def test_urls_that_are_not_fetched(url):
    """Other schemes, other ports, credentials and what is no URL at all are refused unasked."""
    reach, asked = reach_with(["93.184.216.34"])
    with pytest.raises(ToolFailureError):
        fetched(url, reach, limit_s=5)

    assert asked == []


def test_nothing_of_ours_goes_along(monkeypatch):
    """No proxy, cookie, referrer or credential is sent, and none kept from one page to the next."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    pages = {
        "/": lambda site: page(
            "", status="302 Found", headers={"Location": "/two", "Set-Cookie": "a=b"}
        ),
        "/two": lambda site: page("plain", "text/plain"),
    }
    text, site = against(pages)

    assert text.endswith("plain")
    for _, headers in site.requests:
        assert set(headers) == {"host", "user-agent", "accept", "accept-encoding", "connection"}


def test_a_page_is_read_up_to_its_limit():
    """Of an endless page 1 MB is read, then the connection is closed."""
    sent = []

    async def endless(writer):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n")
        while not writer.is_closing() and sum(sent) < 50 * MAX_BYTES:
            writer.write(b"y" * 65536)
            await writer.drain()
            sent.append(65536)

    text, _ = against({"/": endless})

    assert "(Only the first 1 MB is here.)" in text
    assert text.partition("\n\n")[2] == "y" * MAX_BYTES
    assert sum(sent) < 20 * MAX_BYTES


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br"])
def test_pages_are_asked_for_unpacked_and_packed_ones_are_refused(encoding):
    """Nothing unpacks to a gigabyte, because nothing is unpacked."""
    sent = {"Content-Encoding": encoding}
    refused, site = against({"/": page(gzip.compress(b"hello"), "text/plain", headers=sent)})
    plain, _ = against({"/": page("hello", "text/plain", headers={"Content-Encoding": "identity"})})

    assert site.requests[0][1]["accept-encoding"] == "identity"
    assert str(refused) == f"the page is encoded as {encoding}, unasked"
    assert plain.endswith("\n\nhello")


def test_another_address_is_tried_when_one_is_dead():
    """Of a name's addresses, all checked, the first that connects is asked."""

    async def run():
        async with web() as site:
            site.pages["/"] = page("here", "text/plain")
            reach, _ = reach_with(["127.0.0.9", "127.0.0.1"], ports=None, allowed=HERE.allowed)
            return await fetch(f"http://two.example:{site.port}/", reach)

    assert asyncio.run(run()).body == b"here"


def test_a_slow_server_is_left_at_the_deadline():
    """A page that drips byte by byte is given up when its time is over, and the connection ends."""
    gone = []

    async def drip(writer):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n")
        try:
            while not writer.is_closing():
                writer.write(b".")
                await writer.drain()
                await asyncio.sleep(0.02)
        finally:
            gone.append(True)

    async def run():
        async with web() as site:
            site.pages["/"] = drip
            tool = make_fetch_url(HERE)
            started = time.perf_counter()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.5):
                    await tool.run({"url": site.url + "/"}, 0.0)
            took = time.perf_counter() - started
            for _ in range(50):
                if gone:
                    break
                await asyncio.sleep(0.02)
            return took

    assert asyncio.run(run()) < 2
    assert gone == [True]


@pytest.mark.parametrize(
    ("raw", "kind", "expected"),
    [
        ("grüße".encode(), "text/plain; charset=utf-8", "grüße"),
        ("grüße".encode("latin-1"), "text/plain; charset=ISO-8859-1", "grüße"),
        ("привет".encode("cp1251"), 'text/plain; charset="windows-1251"', "привет"),
        ("日本".encode("shift_jis"), "text/plain; charset=Shift_JIS", "日本"),
        ("<meta charset=koi8-r><p>" + "да", None, None),
        ("\ufeffmark".encode("utf-16"), "text/plain; charset=latin-1", "mark"),
        ("grüße".encode(), "text/plain; charset=punycode", "grüße"),
        ("grüße".encode(), "text/plain; charset=zlib_codec", "grüße"),
        ("grüße".encode(), "text/plain; charset=nonsense", "grüße"),
        (b'{"a": 1}', "application/json", '{"a": 1}'),
        (b'{"a": 1}', "application/problem+json", '{"a": 1}'),
        (b"<a/>", "application/atom+xml", "<a/>"),
        (b"plain", "", "plain"),
        (b"a\x1b]0;title\x07b\x00c", "text/plain", "abc"),
    ],
)
def test_text_is_decoded(raw, kind, expected):
    """The character set of the header, of the page or of its byte order mark is used."""
    if kind is None:
        raw, kind, expected = raw.encode("koi8-r"), "text/html", "да"
    text, _ = against({"/": page(raw, kind)})

    assert text.partition("\n\n")[2] == expected


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("image/png", b"\x89PNG"),
        ("application/pdf", b"%PDF-1.7"),
        ("application/octet-stream", b"x"),
        ("", b"\0\1\2"),
    ],
)
def test_what_is_no_text_is_refused(kind, body):
    """Images and the like are a failure, not a page of garbage."""
    found, _ = against({"/": page(body, kind)})

    assert isinstance(found, ToolFailureError)
    assert "only text can be read" in str(found)


def test_errors_of_the_server_are_failures():
    """A status other than success is named, with what the page says."""
    found, _ = against({"/": page("<h1>Nothing here</h1>", status="404 Not Found")})
    assert "answered with status 404: # Nothing here" in str(found)

    async def nothing(writer):
        writer.close()

    found, _ = against({"/": nothing})
    assert isinstance(found, ToolFailureError)

    async def garbage(writer):
        writer.write(b"SSH-2.0-OpenSSH\r\n\r\n")
        await writer.drain()

    found, _ = against({"/": garbage})
    assert "no valid HTTP" in str(found)
    refused, _ = against({}, reach=HERE, scheme_url="http://127.0.0.1:9")
    assert "could not be reached" in str(refused)


def test_certificates_are_verified(tmp_path, monkeypatch):
    """HTTPS works with a certificate for the name, and with no other."""
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("good.example").configure_cert(server)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    reach, _ = reach_with(["127.0.0.1"], ports=None, allowed=HERE.allowed)

    async def run(host):
        async with web(server) as site:
            site.pages["/"] = page("secure", "text/plain")
            return await fetch(f"https://{host}:{site.port}/", reach)

    with pytest.raises(ToolFailureError, match="could not be reached"):
        asyncio.run(run("good.example"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    assert asyncio.run(run("good.example")).body == b"secure"
    with pytest.raises(ToolFailureError, match="could not be reached"):
        asyncio.run(run("other.example"))


def test_international_names_and_paths_are_encoded():
    """A URL with other letters in it is sent as ASCII."""
    asked = []

    async def run():
        async with web() as site:
            site.pages["/w%C3%B6rter%20x"] = page("ok", "text/plain")

            async def resolve(host, port):
                asked.append(host)
                return ["127.0.0.1"]

            reach = EgressPolicy(resolve=resolve, ports=None, allowed=HERE.allowed)
            await fetch(f"http://bücher.example:{site.port}/wörter%20x?q=ä", reach)
            return site

    site = asyncio.run(run())
    assert asked == ["xn--bcher-kva.example"]
    assert site.requests[0][0] == "/w%C3%B6rter%20x?q=%C3%A4"


def test_a_profile_cannot_widen_the_reach():
    """The one reach a toolbox makes by itself has no network of its own."""
    assert PUBLIC.allowed == ()
    assert PUBLIC.ports == frozenset({80, 443, 8080, 8443})
