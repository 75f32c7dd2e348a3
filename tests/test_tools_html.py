"""Text is extracted from any HTML, in bounded time."""

from __future__ import annotations

import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tieredllm.tools.builtin.html_text import MAX_S, title_and_text

PAGE = """<!DOCTYPE html>
<html><head><title>A &amp; B</title><style>p { color: red }</style>
<script>if (a < b) { document.write("<p>no</p>") }</script></head>
<body><!-- a comment <p>no</p> -->
<nav><ul><li><a href="/x">One</a></li><li>Two</li></ul></nav>
<h1>Heading</h1><p>First   paragraph,
two lines &lt;3 &#x20AC;5.</p><p>Second<br>line</p>
<table><tr><th>k</th><th>v</th></tr><tr><td>a</td><td>1</td></tr></table>
<pre>  keep
    this</pre>
<noscript>no</noscript><template><p>no</p></template><svg><text>no</text></svg>
<textarea>no</textarea><select><option>no</option></select>
end</body></html>"""


def test_a_page_reads_like_itself():
    """Headings, lists, tables and paragraphs are told apart; what nobody reads is left out."""
    title, text = title_and_text(PAGE)

    assert title == "A & B"
    assert text == (
        "- One\n- Two\n\n# Heading\n\nFirst paragraph, two lines <3 €5.\n\nSecond\nline\n\n"
        "k | v\na | 1\n\n  keep\n    this\n\nend"
    )


@pytest.mark.parametrize(
    ("html", "expected"),
    [
        ("", ""),
        ("plain", "plain"),
        ("a < b and c > d", "a < b and c > d"),
        ("<p>unclosed <b>bold", "unclosed bold"),
        ("<p title='a > b'>quoted</p>", "quoted"),
        ('<p title="unclosed>text</p><p>more', "text\n\nmore"),
        ("text <!-- never closed", "text"),
        ("text <script>never closed", "text"),
        ("text <a href=", "text"),
        ("<SCRIPT>no</SCRIPT >yes", "yes"),
        ("<script>no</scripty></script>yes", "yes"),
        ("<svg><svg>no</svg>no</svg>yes", "yes"),
        ("<![CDATA[no]]>yes", "yes"),
        ("<?php echo 1 ?>yes", "yes"),
        ("a&nbsp;b&copy;&unknown;", "a b©&unknown;"),
        ("</p></div></none>yes", "yes"),
        ("<br/>x<hr/>y", "x\ny"),
        ("<p>a</p>\n\n\n\n<div><div><p>b</p></div></div>", "a\n\nb"),
    ],
)
def test_broken_html(html, expected):
    """What is not well-formed is read as well as can be."""
    assert title_and_text(html)[1] == expected


@given(st.text("<>/!-\"=' abps&;#\n", max_size=300))
@settings(max_examples=1000, deadline=None)
def test_any_text_is_read(html):
    """No input makes it fail."""
    title_and_text(html)


@pytest.mark.parametrize(
    "part",
    [
        "<",
        "<a",
        "<a ",
        '<a "',
        "<a '\"",
        "<a \"'>",
        "<!--",
        "<!-- -",
        "<!",
        "<?",
        "</",
        "<script>",
        "<title>",
        "<pre>",
        "<svg>",
        "<textarea></textare",
        "&",
        "&#",
        "&#x1",
        "&amp",
        "<p>",
        "\n",
        "<td>",
        "<li>x",
        "<a" + " b" * 50,
    ],
)
def test_no_page_takes_long(part):
    """A long run of any broken beginning is read in bounded time."""
    started = time.perf_counter()
    title_and_text((part * (400_000 // len(part) + 1))[:400_000])

    assert time.perf_counter() - started < MAX_S + 1.5


def test_random_pages_do_not_take_long():
    """Nor do pages of random pieces of markup."""
    pieces = ["<", ">", '"', "'", "<a ", "<!--", "-->", "<script>", "</script>", "x ", "=", "&lt"]
    chance = random.Random(1)
    html = "".join(chance.choices(pieces, k=200_000))
    started = time.perf_counter()
    title_and_text(html)

    assert time.perf_counter() - started < MAX_S + 1.5
