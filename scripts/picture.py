"""Draw the README's picture: real commands on a real (pseudo-)terminal, exported as SVG by rich.

Run by `make picture`. A server on this machine plays two vendors: the first one's stream dies in
mid-answer. What is shown is what tieredllm makes of that; nothing is drawn by hand, and nothing
leaves this machine.
"""

from __future__ import annotations

import asyncio
import io
import os
import sys
import tempfile
from pathlib import Path

import pexpect
import pyte
from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from cli_support import served  # noqa: E402
from wire_support import (  # noqa: E402
    STREAM_HEAD,
    Connection,
    chunk,
    closes,
    ends,
    opens,
    says,
)

TARGET = ROOT / "docs" / "terminal.svg"
COLUMNS, ROWS = 96, 100
COMMANDS = {'tieredllm "How do I undo my last git commit?"': ROWS, "tieredllm log show": 12}
"""The commands, and how many rows are shown of each: the log repeats question and answer."""
PROFILE = """name: default
tiers:
  - {{name: primary, provider: openai, model: gpt-6.2-sol, base_url: "{url}/v1", api_key_env: null}}
  - {{name: secondary, provider: anthropic, model: claude-sonnet-5-5, base_url: "{url}",
     api_key_env: null}}
  - {{name: minimal, provider: llama_cpp, model: gemma-2-2b-it}}
  - {{name: rules, provider: rules}}
"""
DYING = """Use `git reset`. It has three modes:

1. `--soft` keeps your changes staged
2. `--mixed` keeps them, but"""
GOOD = """Keep the changes and take the commit back:

```sh
git reset --soft HEAD~1
```

If it was **pushed already**, add a commit that undoes it instead:

```sh
git revert HEAD
```
"""
NAMED = {"brown": "yellow", "brightbrown": "bright_yellow"}
"""Where pyte's names of colours differ from rich's."""


async def vendors(connection: Connection) -> None:
    """Play the two vendors, a word at a time; the first one breaks off."""
    is_first = "chat/completions" in connection.received.path
    vendor, model, text = (
        ("openai", b"gpt-6.2-sol", DYING) if is_first else ("anthropic", b"claude-sonnet-5-5", GOOD)
    )
    words = [f"{word} " for word in text.split(" ")]
    after = [] if is_first else [*ends(vendor), *closes(vendor)]
    await asyncio.sleep(0.4)
    await connection.send(STREAM_HEAD)
    for event in (*opens(vendor), *(says(vendor, word) for word in words), *after):
        await connection.send(chunk(event.replace(b"m-1", model)))
        await asyncio.sleep(0.03)
    if is_first:
        connection.writer.transport.abort()
    else:
        await connection.send(b"0\r\n\r\n")


def main() -> None:
    """Run the commands and write the picture."""
    with tempfile.TemporaryDirectory() as home, served(vendors) as server:
        folder = Path(home) / "config" / "profiles"
        folder.mkdir(parents=True)
        (folder / "default.yaml").write_text(PROFILE.format(url=server.url), encoding="utf-8")
        console = Console(record=True, width=COLUMNS, file=io.StringIO())
        for command, rows in COMMANDS.items():
            console.print(Text.assemble(("$ ", "bold green"), (command, "bold")))
            lines = screen(command, home)
            for line in lines[:rows]:
                console.print(line)
            console.print(Text("…" if len(lines) > rows else "", style="dim"))
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
