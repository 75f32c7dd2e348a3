"""Draw the README's picture: real commands on a real (pseudo-)terminal, exported as SVG by rich.

Run by `make picture`. The commands run in directories of their own, with the small local model and
without keys; nothing leaves this machine.
"""

from __future__ import annotations

import io
import os
import shutil
import sys
import tempfile
from pathlib import Path

import pexpect
import pyte
from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).parent.parent
TARGET = ROOT / "docs" / "terminal.svg"
COLUMNS, ROWS = 100, 100
COMMANDS = (
    'tieredllm ask "Why do services need a fallback?" --simulate primary=quota_exhausted',
    "tieredllm log show $(tieredllm log list --json -n 1 | grep -o '[0-9a-f]\\{32\\}' | head -1)",
    "tieredllm health",
)
NAMED = {"brown": "yellow", "brightbrown": "bright_yellow"}
"""Where pyte's names of colours differ from rich's."""


def main() -> None:
    """Run the commands and write the picture."""
    model = Path.home() / ".cache/tieredllm-tests/SmolLM2-135M-Instruct.Q4_1.gguf"
    if not model.exists():
        sys.exit(f"{model} is not there: run `make test` once, which fetches it")
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home) / "data" / "models"
        folder.mkdir(parents=True)
        shutil.copy(model, folder)
        console = Console(record=True, width=COLUMNS, file=io.StringIO())
        for command in COMMANDS:
            console.print(Text.assemble(("$ ", "bold green"), (command, "bold")))
            for line in screen(command, home):
                console.print(line)
            console.print()
        TARGET.parent.mkdir(exist_ok=True)
        TARGET.write_text(console.export_svg(title="tieredllm"), encoding="utf-8")
    print(f"wrote {TARGET.relative_to(ROOT)}")


def screen(command: str, home: str) -> list[Text]:
    """Run a command and give the lines its terminal shows in the end."""
    env = {name: value for name, value in os.environ.items() if not name.endswith("_API_KEY")}
    env |= {
        "TIEREDLLM_HOME": home,
        "TERM": "xterm-256color",
        "COLORTERM": "truecolor",
        "PATH": f"{Path(sys.executable).parent}:{env['PATH']}",
    }
    display = pyte.Screen(COLUMNS, ROWS)
    stream = pyte.ByteStream(display)
    child = pexpect.spawn(
        "/bin/sh", ["-c", command], env=env, cwd=str(ROOT), dimensions=(ROWS, COLUMNS), timeout=120
    )
    while True:
        try:
            stream.feed(child.read_nonblocking(65536, 120))
        except pexpect.EOF:
            break
    lines = [row(display, number) for number in range(ROWS)]
    while lines and not lines[-1].plain.strip():
        lines.pop()
    return lines


def row(display: pyte.Screen, number: int) -> Text:
    """Give one row of the screen with its colours."""
    text = Text()
    for column in range(COLUMNS):
        cell = display.buffer[number][column]
        style = [
            name for name in ("bold", "italics", "underscore", "reverse") if getattr(cell, name)
        ]
        style = [{"italics": "italic", "underscore": "underline"}.get(name, name) for name in style]
        if cell.fg != "default":
            style.append(color(cell.fg))
        if cell.bg != "default":
            style += ["on", color(cell.bg)]
        text.append(cell.data, " ".join(style))
    text.rstrip()
    return text


def color(name: str) -> str:
    """Give pyte's name or six hexadecimal digits as rich has them."""
    if len(name) == 6 and all(digit in "0123456789abcdef" for digit in name):
        return f"#{name}"
    name = NAMED.get(name, name)
    return name.replace("bright", "bright_") if name.startswith("bright") else name


if __name__ == "__main__":
    main()
