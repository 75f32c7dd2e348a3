"""Fetch a page of the web as text."""

from __future__ import annotations

import codecs
import re
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from tieredllm.aio import in_thread
from tieredllm.text import clean, one_line
from tieredllm.tools.base import Tool, ToolFailureError
from tieredllm.tools.builtin.html_text import title_and_text
from tieredllm.tools.builtin.page import MAX_BYTES, Page, fetch
from tieredllm.tools.builtin.reach import PUBLIC, Reach
from tieredllm.tools.schema import checker, schema_of

__all__ = ["make_fetch_url"]

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
    """Hold what `fetch_url` takes."""

    url: Annotated[
        str, Meta(min_length=1, max_length=8192, description="An http:// or https:// URL.")
    ]


def make_fetch_url(reach: Reach = PUBLIC) -> Tool:
    """Make the tool.

    Args:
        reach: what may be connected to; tests have another one.
    """

    async def run(arguments: dict[str, Any], deadline: float) -> str:  # noqa: ARG001
        page = await fetch(arguments["url"], reach)
        return await in_thread(lambda: _presented(page))

    return Tool(
        name="fetch_url",
        description=(
            "Fetch a public web page or text file and give its text. "
            "At most 1 MB is read; private addresses are out of reach."
        ),
        parameters=schema_of(Arguments),
        read_only=True,
        origin="builtin",
        timeout_s=20.0,
        check=checker(Arguments),
        run=run,
    )


def _presented(page: Page) -> str:
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
