#!/bin/sh
# mcp 2.3.0 (run 2026-11), tools of `MCPServer`: an argument that is declared `str | None` loses texts
# that are JSON. Every text for a parameter whose annotation is not exactly `str` is read as JSON first,
# and what comes out of it as an object, a list or null takes the text's place:
#
# - `{"a": 1}` and `["a"]` are refused ("Input should be a valid string"), though the schema that the
#   server lists says `string`: an optional `content`, `body` or `query` cannot hold JSON;
# - the text `null` arrives as None, without an error.
#
# A parameter declared `str` takes all of them. (Upstream: python-sdk #3055.)
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT INT TERM
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check mcp==2.3.0
cat > "$folder/finding.py" <<'PYTHON'
import asyncio

from mcp import Client
from mcp.server import MCPServer

server = MCPServer("s")


@server.tool()
def plain(text: str) -> str:
    return repr(text)


@server.tool()
def optional(text: str | None = None) -> str:
    return repr(text)


async def main():
    seen = []
    async with Client(server) as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        print("optional's schema:", tools["optional"].input_schema["properties"]["text"])
        for text in ("hello", "12", "true", "null", '["a"]', '{"a": 1}'):
            for name in ("plain", "optional"):
                result = await client.call_tool(name, {"text": text})
                said = "refused" if result.is_error else result.content[0].text
                seen.append(said)
                print(f"{name}({text}): {said}")
    hello, number, true, null, items, members = (
        ["'hello'"] * 2, ["'12'"] * 2, ["'true'"] * 2, ["'null'", "None"],
        ["""'["a"]'""", "refused"], ["""'{"a": 1}'""", "refused"],
    )
    if seen != hello + number + true + null + items + members:
        raise SystemExit("changed")


asyncio.run(main())
PYTHON
cd "$folder"
timeout 60 "$folder/venv/bin/python" -W ignore finding.py 2>"$folder/log" || { tail -5 "$folder/log"; exit 1; }
