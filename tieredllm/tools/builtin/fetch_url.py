"""Fetch a page of the web as text, within bounds of reach, size and redirects."""

from __future__ import annotations

import codecs
import re
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urljoin, urlsplit

import msgspec
from msgspec import Meta

from tieredllm.aio import in_thread
from tieredllm.text import clean, one_line
from tieredllm.tools.base import CallTime, Tool, ToolFailureError
from tieredllm.tools.builtin.egress import PUBLIC, EgressPolicy
from tieredllm.tools.builtin.html_text import title_and_text
from tieredllm.tools.schema import checker, schema_of

if TYPE_CHECKING:
    import httpx

__all__ = ["MAX_BYTES", "MAX_REDIRECTS", "Page", "fetch", "make_fetch_url", "read_page"]

MAX_BYTES = 1024 * 1024
"""How much of a page is read."""

MAX_REDIRECTS = 5
CONNECT_S = 5.0
READ_S = 10.0
"""The longest silence of a server; the tool's own time bounds the whole."""

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_DEFAULT_PORTS = {"http": 80, "https": 443}
_HEADERS = {
    # Some servers turn away who gives no name.
    "User-Agent": "Mozilla/5.0 (compatible; tieredllm; fetch_url)",
    "Accept": "text/html, text/plain, application/json, application/xml;q=0.9, text/*;q=0.8",
    # What is packed could unpack to anything; a page that is not is read up to its limit.
    "Accept-Encoding": "identity",
    "Connection": "close",
}

_TEXTS = re.compile(
    r"text/|application/(?:[\w.+-]*\+)?(?:json|xml|yaml|javascript|x-ndjson|toml)\b"
)
_PAGES = re.compile(r"text/html|application/xhtml\+xml")
_CHARSET = re.compile(r"""charset\s*=\s*["']?([A-Za-z0-9_.:-]{1,40})""")
_META_CHARSET = re.compile(
    rb"""<meta[^<>]{0,200}?charset\s*=\s*["']?([A-Za-z0-9_.:-]{1,40})""", re.IGNORECASE
)
_SNIFFED_BYTES = 2048
_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# Codecs that decode text in quadratic time, or are no character sets of the web's.
_NO_CHARSETS = frozenset(
    {"idna", "punycode", "unicode_escape", "raw_unicode_escape", "utf-7", "undefined"}
)
_SHOWN_OF_ERRORS = 500


class Arguments(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `fetch_url` takes."""

    url: Annotated[
        str, Meta(min_length=1, max_length=8192, description="An http:// or https:// URL.")
    ]


def _host(url: str) -> str:
    """Return where a URL leads, in lower case; the URL itself where that cannot be told."""
    try:
        return (urlsplit(url).hostname or url).lower()
    except ValueError:
        return url


def make_fetch_url(policy: EgressPolicy = PUBLIC) -> Tool:
    """Make the tool.

    Args:
        policy: what may be connected to; tests have another one.
    """

    async def run(arguments: dict[str, Any], time: CallTime) -> str:  # noqa: ARG001
        page = await fetch(arguments["url"], policy)
        return await in_thread(lambda: _presented(page))

    return Tool(
        name="fetch_url",
        description=(
            "Fetch a public web page or text file and give its text. "
            "At most 1 MB is read; private addresses are out of reach."
        ),
        parameters=schema_of(Arguments),
        read_only=True,
        destination=lambda arguments: _host(str(arguments.get("url", ""))),
        origin="builtin",
        timeout_s=20.0,
        check=checker(Arguments),
        run=run,
    )


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """What a server sent."""

    url: str
    """Where it was found in the end."""
    status: int
    content_type: str
    """In lower case, parameters included; empty when the server names none."""
    body: bytes
    whole: bool
    """Whether all of it is there."""


class _Target(msgspec.Struct, frozen=True, kw_only=True):
    """A checked URL and its parts."""

    url: str
    scheme: str
    host: str
    port: int
    path: str


async def fetch(url: str, policy: EgressPolicy) -> Page:
    """Get a page; each redirect is a new request with checks of its own.

    Nothing goes along but the request: no proxy of the environment's, no cookies, no credentials.

    Raises:
        ToolFailureError: the address is unusable or out of reach, or the server failed.
    """
    for _ in range(MAX_REDIRECTS + 1):
        target = _target(url)
        found = await _request(target, policy)
        if isinstance(found, Page):
            return found
        url = urljoin(target.url, found)
    raise ToolFailureError(f"there are more than {MAX_REDIRECTS} redirects")


def _target(url: str) -> _Target:
    url = url.strip()
    if re.search(r"[\x00-\x20\x7f\\]", url):
        raise ToolFailureError("the URL has blanks, control characters or backslashes in it")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError as exc:
        raise ToolFailureError(f"the URL cannot be read: {exc}") from exc
    scheme = parts.scheme.lower()
    if scheme not in _DEFAULT_PORTS:
        raise ToolFailureError("only http:// and https:// URLs can be fetched")
    if not host:
        raise ToolFailureError("the URL names no host")
    if parts.username is not None or parts.password is not None:
        raise ToolFailureError("the URL has a user or password in it: leave them out")
    if not host.isascii():
        try:
            host = host.encode("idna").decode("ascii")
        except UnicodeError as exc:
            raise ToolFailureError(f"{host} is no host's name") from exc
    path = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path
    if port is None:
        port = _DEFAULT_PORTS[scheme]
    return _Target(url=url, scheme=scheme, host=host, port=port, path=path)


async def _request(target: _Target, policy: EgressPolicy) -> Page | str:
    """Ask one server; return its page, or where it redirects to."""
    import httpx

    last: httpx.HTTPError | None = None
    for address in await policy.addresses(target.host, target.port):
        try:
            return await _get(target, address, policy)
        except (httpx.ConnectError, httpx.ConnectTimeout) as exc:
            last = exc
        except httpx.NetworkError as exc:
            raise _unreachable(target, exc) from exc
        except httpx.TimeoutException as exc:
            raise ToolFailureError(f"{target.host} did not answer in time") from exc
        except httpx.InvalidURL as exc:
            raise ToolFailureError(f"the URL cannot be read: {one_line(str(exc), 200)}") from exc
        except httpx.HTTPError as exc:
            raise ToolFailureError(f"what {target.host} sent is no valid HTTP") from exc
    if isinstance(last, httpx.ConnectTimeout):
        raise ToolFailureError(f"{target.host} did not answer in time") from last
    raise _unreachable(target, last) from last


def _unreachable(target: _Target, exc: Exception | None) -> ToolFailureError:
    return ToolFailureError(f"{target.host} could not be reached: {one_line(str(exc), 200)}")


async def _get(target: _Target, address: str, policy: EgressPolicy) -> Page | str:
    """Ask the server at one address, by its name: in the header and when TLS begins."""
    import ssl

    import httpx

    async def check_ends(event: str, info: dict[str, Any]) -> None:
        # httpcore's trace: the one place to look at a connection before anything is sent on it.
        if event == "connection.connect_tcp.complete":
            stream = info["return_value"]
            here, there = stream.get_extra_info("client_addr"), stream.get_extra_info("server_addr")
            try:
                policy.check_ends(str(here[0]), str(there[0]), target.host)
            except ToolFailureError:
                await stream.aclose()
                raise

    client = httpx.AsyncClient(
        verify=(
            # The same certificates as for the vendors' servers, some 30 ms; plain HTTP needs none.
            await in_thread(httpx.create_ssl_context)
            if target.scheme == "https"
            else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        ),
        trust_env=False,
        timeout=httpx.Timeout(READ_S, connect=CONNECT_S),
    )
    name, at = (f"[{each}]" if ":" in each else each for each in (target.host, address))
    if target.port != _DEFAULT_PORTS[target.scheme]:
        name = f"{name}:{target.port}"
    async with (
        client,
        client.stream(
            "GET",
            f"{target.scheme}://{at}:{target.port}{target.path}",
            headers={"Host": name, **_HEADERS},
            extensions={"sni_hostname": target.host, "trace": check_ends},
        ) as response,
    ):
        location = response.headers.get("location")
        if response.status_code in _REDIRECTS and location:
            return str(location)
        body, whole = await _body(response)
        return Page(
            url=target.url,
            status=response.status_code,
            content_type=response.headers.get("content-type", "").strip().lower(),
            body=body,
            whole=whole,
        )


async def _body(response: httpx.Response) -> tuple[bytes, bool]:
    """Read a body up to `MAX_BYTES`; say whether that was all."""
    encoding = response.headers.get("content-encoding", "").strip().lower()
    if encoding not in {"", "identity"}:
        raise ToolFailureError(f"the page is encoded as {one_line(encoding, 40)}, unasked")
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) >= MAX_BYTES:
            return bytes(body[:MAX_BYTES]), False
    return bytes(body), True


def read_page(page: Page) -> tuple[str, str]:
    """Return a page's title and text; what is no HTML has no title, and its text as it is.

    Raises:
        ToolFailureError: it is no text, or the server sent it with a status that means failure.
    """
    kind = page.content_type
    is_page = bool(_PAGES.match(kind)) or (not kind and page.body.lstrip()[:1] == b"<")
    if (kind and not _TEXTS.match(kind)) or (not kind and b"\0" in page.body[:_SNIFFED_BYTES]):
        what = one_line(kind.partition(";")[0], 60) or "no text"
        raise ToolFailureError(f"{page.url} is {what}: only text can be read")
    text = _decoded(page, is_page=is_page)
    title = ""
    if is_page:
        title, text = title_and_text(text)
    if not 200 <= page.status < 300:
        said = one_line(title or text, _SHOWN_OF_ERRORS)
        raise ToolFailureError(
            f"{page.url} answered with status {page.status}: {said}".rstrip(": ")
        )
    return title, text


def _presented(page: Page) -> str:
    title, text = read_page(page)
    head = [f"URL: {page.url}"]
    if title:
        head.append(f"Title: {one_line(title, 300)}")
    if not page.whole:
        head.append(f"(Only the first {MAX_BYTES // 1024 // 1024} MB is here.)")
    return "\n".join(head) + "\n\n" + (clean(text).strip() or "(There is no text on this page.)")


def _decoded(page: Page, *, is_page: bool) -> str:
    for bom, encoding in _BOMS:
        if page.body.startswith(bom):
            return page.body.decode(encoding, "replace")
    names = []
    if found := _CHARSET.search(page.content_type):
        names.append(found[1])
    if is_page and (declared := _META_CHARSET.search(page.body[:_SNIFFED_BYTES])):
        names.append(declared[1].decode("ascii"))
    for name in names:
        try:
            codec = codecs.lookup(name)
            if codec.name not in _NO_CHARSETS:
                return page.body.decode(name, "replace")
        except (LookupError, ValueError):
            continue
    return page.body.decode("utf-8", "replace")
