"""Every command has a man page, made of its own help."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest
from test_documents import ROOT

from tieredllm.cli.lazy_group import COMMANDS


@pytest.fixture(scope="module")
def pages():
    sys.path.insert(0, str(ROOT))
    try:
        from scripts.manpages import pages

        return pages()
    finally:
        sys.path.remove(str(ROOT))


def test_every_command_has_a_page(pages):
    """One for the program and one for each command, with its options and exit codes."""
    assert {"tieredllm.1", *(f"tieredllm-{name}.1" for name in COMMANDS)} == set(pages)
    assert r"\-\-require\-llm" in pages["tieredllm-ask.1"]
    assert all('.SH "EXIT STATUS"' in text for text in pages.values())


def test_the_pages_are_well_formed(pages):
    """The formatter has nothing to complain of."""
    groff = shutil.which("groff")
    if groff is None:
        pytest.skip("groff is not installed")
    for name, text in pages.items():
        done = subprocess.run(
            [groff, "-man", "-ww", "-Tutf8", "-z"],
            input=text.encode(),
            capture_output=True,
            check=False,
        )
        assert (name, b"") == (name, done.stderr)
