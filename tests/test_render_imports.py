"""What a pipe needs does not load what only a terminal needs."""

from __future__ import annotations

import subprocess
import sys

import pytest

CHECK = """
import sys
{code}
print([name for name in {modules} if name in sys.modules])
"""

HEAVY = ["rich", "rich.markdown", "markdown_it", "pygments", "pygments.lexers", "asyncio"]


def loaded(code, modules):
    """Run code in a new interpreter, and give which of the modules it has loaded."""
    script = CHECK.format(code=code, modules=modules)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout.strip()


@pytest.mark.parametrize("module", ["plain", "summary", "extract", "event_messages", "timeline"])
def test_a_pipe_does_not_load_rich(module):
    """Importing what `ask` into a pipe needs loads neither rich nor a Markdown parser."""
    assert loaded(f"import tieredllm.render.{module}", HEAVY) == "[]"


def test_raw_text_on_a_terminal_does_not_load_markdown():
    """A terminal that gets raw text has no use for a parser and a highlighter."""
    code = """
import io
from rich.console import Console
from tieredllm.render.terminal import TerminalAnswer
from tieredllm.types import AttemptStarted, Token
console = Console(file=io.StringIO(), force_terminal=True)
view = TerminalAnswer(
    stdout_console=console, stderr_console=console, raw=True, quiet=False, verbose=True
)
view.handle(AttemptStarted(tier="t", level=0, provider="p", model="m", number=1))
view.tick()
view.handle(Token(tier="t", text="**x**"))
view.close()
"""
    assert loaded(code, ["rich.markdown", "markdown_it", "pygments"]) == "[]"


def test_text_without_a_fence_needs_no_parser():
    """Looking for code in a text that has none loads nothing."""
    code = "from tieredllm.render.extract import first_code_block; first_code_block('x' * 99)"

    assert loaded(code, HEAVY) == "[]"


def test_markdown_is_loaded_while_waiting():
    """The parser and the highlighter are loaded by the first tick, before the first token."""
    code = """
import io
from rich.console import Console
from tieredllm.render.terminal import TerminalAnswer
console = Console(file=io.StringIO(), force_terminal=True, _environ={"TERM": "xterm-256color"})
view = TerminalAnswer(
    stdout_console=console, stderr_console=console, raw=False, quiet=False, verbose=False
)
before = "rich.markdown" in sys.modules
view.tick()
"""
    modules = ["rich.markdown", "markdown_it"]

    assert loaded(code + "\nassert before is False", modules) == "['rich.markdown', 'markdown_it']"
