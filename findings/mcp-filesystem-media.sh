#!/bin/sh
# @modelcontextprotocol/server-filesystem 2026.8.31 (run 2026-11), `read_media_file`: the file's base64
# is in the answer twice, once in an image block and once more in `structuredContent`. A client that
# gives models structured content as text, as the specification suggests (and some do in place of the
# blocks), gives them a picture's base64 as words: a 300 kB picture is 400,000 characters. Other
# servers' image tools (server-everything's) send no structured content.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT INT TERM
cd "$folder"
npm install --silent --no-audit --no-fund --prefix "$folder" \
    @modelcontextprotocol/server-filesystem@2026.8.31 >"$folder/log" 2>&1 || { tail -5 "$folder/log"; exit 1; }
cat > "$folder/finding.py" <<'PYTHON'
import base64
import json
import os
import pathlib
import subprocess

picture = b"\x89PNG\r\n\x1a\n" + os.urandom(300_000)
folder = pathlib.Path.cwd().resolve() / "files"
folder.mkdir()
(folder / "p.png").write_bytes(picture)
server = subprocess.Popen(
    ["node_modules/.bin/mcp-server-filesystem", str(folder)],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    stderr=subprocess.DEVNULL,
    text=True,
)


def ask(method, number=None, **params):
    message = {"jsonrpc": "2.0", "method": method, "params": params}
    server.stdin.write(json.dumps(message | ({"id": number} if number else {})) + "\n")
    server.stdin.flush()
    while number:
        answer = json.loads(server.stdout.readline())
        if answer.get("id") == number:
            return answer["result"]


ask(
    "initialize",
    1,
    protocolVersion="2025-11-25",
    capabilities={},
    clientInfo={"name": "finding", "version": "1"},
)
ask("notifications/initialized")
result = ask(
    "tools/call", 2, name="read_media_file", arguments={"path": str(folder / "p.png")}
)
server.kill()
data = base64.b64encode(picture).decode()
seen = {
    "blocks": [block["type"] for block in result["content"]],
    "in the blocks": json.dumps(result["content"]).count(data),
    "in structuredContent": json.dumps(result.get("structuredContent")).count(data),
}
print(seen, f"of {len(data)} characters")
if seen != {"blocks": ["image"], "in the blocks": 1, "in structuredContent": 1}:
    raise SystemExit(f"changed: {seen}")
PYTHON
timeout 120 python3 finding.py
