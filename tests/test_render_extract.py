"""The first fenced code block of an answer is found where CommonMark says it is."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tieredllm.render.extract import CodeBlock, first_code_block


@pytest.mark.parametrize(
    ("markdown", "code"),
    [
        ("text\n```python\nprint(1)\n```\nmore\n```\nsecond\n```", "print(1)\n"),
        ("~~~ sh extra info\nls\n~~~", "ls\n"),
        ("````\n```\ninner\n```\n````", "```\ninner\n```\n"),
        ("```\na\n~~~\nb\n```", "a\n~~~\nb\n"),
        ("   ```\n   a\n     b\n   ```", "a\n  b\n"),
        ("```\na\n\n\nb", "a\n\n\nb"),
        ("```\na\n``\n```` \nafter", "a\n``\n"),
        ("1. step:\n\n   ```py\n   if x:\n       y\n   ```\n2. next", "if x:\n    y\n"),
        ("- a\n  - b\n    ```\n    deep\n    ```", "deep\n"),
        ("> ```\n> quoted\n> ```\nnot", "quoted\n"),
        ("```\n```", ""),
        ("a ``` b\n", None),
        ("``` a`b\ntext", None),
        ("    ```\n    indented code\n    ```", None),
        ("    indented\n\n```\nfenced\n```", "fenced\n"),
        ("para\n```\nx\n```", "x\n"),
        ("```\r\na\r\n```\r\n", "a\n"),
        ("no code at all", None),
        ("", None),
    ],
)
def test_first_fence_is_extracted(markdown, code):
    """Fences, their length, indentation, nesting and end follow CommonMark; other code is none."""
    found = first_code_block(markdown)

    assert code == (found and found.code)


LINES = st.text(st.characters(codec="utf-8", exclude_characters="`~\r\0"), max_size=30).filter(
    lambda line: "\n" not in line
)


@given(st.lists(LINES, min_size=1, max_size=8), st.sampled_from(["```", "~~~", "`````"]))
@settings(max_examples=150, deadline=None)
def test_what_stands_in_a_fence_comes_out_as_it_is(lines, fence):
    """Code without fences of its own is given back to the letter."""
    code = "\n".join(lines) + "\n"

    assert CodeBlock(code, is_closed=True) == first_code_block(
        f"Here:\n\n{fence}py\n{code}{fence}\nDone."
    )


@pytest.mark.parametrize(
    "markdown",
    [
        "```\na",
        "```\na\n",
        "```\n",
        "```",
        "- ```\n  a\n\nafter",
        "> ```\n> a\nafter",
        "````\na\n```",
    ],
)
def test_a_block_without_its_end_is_known(markdown):
    """A block that only its text's or its container's end closes may lack what follows."""
    assert not first_code_block(markdown).is_closed
