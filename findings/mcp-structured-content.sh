#!/bin/sh
# mcp 2.3.0 (run 2026-11), `ClientSession.call_tool`: when a result's structured content is missing, or
# does not fit the tool's own `outputSchema`, nothing of the result is returned, its text neither, and
# what is raised is a RuntimeError, which its docstring names for something else. The tool has run by
# then. (Such a server breaks a MUST of the specification, which has clients validate, "SHOULD", and
# does not say that the rest is void. A result without `outputSchema` is returned whatever it is.)
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT INT TERM
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check mcp==2.3.0
cat > "$folder/server.py" <<'PYTHON'
import json
import pathlib
import sys

SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
TEXT = {"content": [{"type": "text", "text": "n is 3"}]}
RESULTS = {
    "fitting": {**TEXT, "structuredContent": {"n": 3}},
    "other": {**TEXT, "structuredContent": {"n": "3"}},
    "without": TEXT,
}
ABOUT = {"capabilities": {"tools": {}}, "serverInfo": {"name": "s", "version": "1"}}
for line in sys.stdin:
    asked = json.loads(line)
    if asked["method"] == "initialize":
        result = {"protocolVersion": "2025-11-25", **ABOUT}
    elif asked["method"] == "tools/list":
        tools = [
            {"name": name, "inputSchema": {"type": "object"}, "outputSchema": SCHEMA}
            for name in RESULTS
        ]
        result = {"tools": tools}
    elif asked["method"] == "tools/call":
        name = asked["params"]["name"]
        pathlib.Path(name).touch()
        result = RESULTS[name]
    if "id" in asked:
        print(json.dumps({"jsonrpc": "2.0", "id": asked["id"], "result": result}), flush=True)
PYTHON
cat > "$folder/finding.py" <<'PYTHON'
import asyncio
import pathlib
import sys

from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client


async def main():
    seen = {}
    server = StdioServerParameters(command=sys.executable, args=["server.py"])
    async with stdio_client(server) as streams, ClientSession(*streams) as session:
        await session.initialize()
        await session.list_tools()
        for name in ("fitting", "other", "without"):
            try:
                told = (await session.call_tool(name)).content[0].text
            except Exception as exc:
                told = f"{type(exc).__name__}: {str(exc).splitlines()[0]}"
            seen[name] = (told, pathlib.Path(name).exists())
            print(f"{name}: {seen[name][0]}; it ran: {seen[name][1]}")
    expected = {
        "fitting": ("n is 3", True),
        "other": (
            "RuntimeError: Invalid structured content returned by tool other: "
            "'3' is not of type 'integer'",
            True,
        ),
        "without": (
            "RuntimeError: Tool without has an output schema but did not return structured content",
            True,
        ),
    }
    if seen != expected:
        raise SystemExit(f"changed: {seen}")


asyncio.run(main())
PYTHON
cd "$folder"
timeout 120 "$folder/venv/bin/python" -W ignore finding.py 2>"$folder/log" || { tail -5 "$folder/log"; exit 1; }
